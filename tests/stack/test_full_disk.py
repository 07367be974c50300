"""A disk that refuses a write, at every point, in pretence and for real: a clear error, and nothing changed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from crma.errors import StackWriteError
from crma.stack.stack import Stack

GROWING = ("open", "write", "fsync", "replace", "mkdir")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("stays_full", [True, False])
def test_a_write_refused_at_every_point(disk, stack, teach, contents, tree, intercept, monkeypatch, code, stays_full):
    old, before, point, refusals = contents(stack.root), tree(stack.root), 0, 0
    while True:
        root = disk / "tried"
        shutil.copytree(stack.root, root)
        calls = 0

        def act(name, real, arguments, point=point):
            nonlocal calls
            creating = name != "open" or (len(arguments) > 1 and arguments[1] & os.O_CREAT)
            if name in GROWING and creating:
                calls += 1
                if calls == point + 1 or (stays_full and calls > point):
                    if name == "write":
                        real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                    raise OSError(code, os.strerror(code))
            return real(*arguments)

        error = None
        with monkeypatch.context() as seam:
            intercept(seam, act)
            try:
                teach(Stack.open(root), "law")
            except StackWriteError as raised:
                error = raised
        refused, found = calls > point, contents(root)
        learnt = len(found["manifest"].domains) == 2
        if error is None:
            assert learnt
        elif learnt:  # only the folder's last fsync: the rename was done, its durability is not known
            assert "the change was made" in str(error)
            assert (root / "router/v0001.json").exists()  # so nothing the old manifest needs is deleted
        else:
            assert "nothing was changed" in str(error)
            assert errno.errorcode[code] in str(error)
            assert found == old
            assert tree(root) == before
        reopened = Stack.open(root)
        if not learnt:
            teach(reopened, "law")
        with reopened.transaction():
            pass
        assert reopened.verify_files() == []
        shutil.rmtree(root)
        if not refused:
            break
        point, refusals = point + 1, refusals + (error is not None)
    assert refusals > 25


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode != 0:
        pytest.skip(f"this process may not mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _fill(path: Path, free: int) -> None:
    """Leave `free` bytes on the disk."""
    with open(path, "wb") as file:
        file.write(b"x" * max(0, shutil.disk_usage(path.parent).free - free))


def test_a_disk_that_is_really_full(small_disk, base, teach, contents, tree):
    stack = Stack.create(small_disk / "stack", base=base)
    teach(stack, "medicine")
    refusals = 0
    for pages in range(0, 24):
        _fill(stack.work("law") / "filler", pages * os.sysconf("SC_PAGE_SIZE"))
        old, before = contents(stack.root), tree(stack.root)
        name = f"law{pages}"
        error = None
        try:
            teach(stack, name, size=700)  # 11 kB
        except StackWriteError as raised:
            error = raised
        if error is None:
            break
        refusals += 1
        assert "nothing was changed" in str(error)
        assert contents(stack.root) == old
        assert tree(stack.root) == before
        assert stack.verify_files() == []
    else:
        pytest.fail("never enough room")
    assert refusals > 5
    stack.clear_work("law")
    assert [domain.name for domain in stack.refresh().domains] == ["medicine", name]
    with stack.transaction():
        pass
    assert stack.verify_files() == []


def test_an_adapter_larger_than_the_disk(small_disk, base, teach):
    stack = Stack.create(small_disk / "stack", base=base)
    teach(stack, "medicine")
    with pytest.raises(StackWriteError) as caught:
        teach(stack, "law", size=100_000)
    for part in ("adapter_model.safetensors", "bytes needed", "bytes free", "ENOSPC", "free that much"):
        assert part in str(caught.value)
    teach(stack, "law")
    assert stack.verify_files() == []


def test_a_disk_mounted_for_reading(small_disk, base, teach, contents):
    stack = Stack.create(small_disk / "stack", base=base)
    teach(stack, "medicine")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = contents(stack.root)
    with pytest.raises(StackWriteError, match="EROFS"):
        teach(stack, "law")
    with pytest.raises(StackWriteError, match="EROFS"):
        Stack.create(small_disk / "other", base=base)
    assert contents(stack.root) == before
    assert stack.verify_files() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a forked process")
def test_a_limit_on_the_size_of_files(stack, teach, tree):
    import resource

    before, child = tree(stack.root), os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            teach(stack, "law", size=2000)
        except StackWriteError as error:
            os._exit(7 if "EFBIG" in str(error) and "ulimit" in str(error) else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert tree(stack.root) == before


def test_what_cannot_be_deleted_is_told_and_deleted_by_the_next_writer(stack, forget, monkeypatch):
    real = os.unlink

    def refuse(path, *rest, **named):
        if str(path).endswith("medicine.jsonl"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.warns(RuntimeWarning, match=r"rows/medicine\.jsonl"):
        forget(stack, "medicine")
    assert [(problem.kind, problem.path) for problem in stack.verify_files()] == [
        ("unreferenced", "rows/medicine.jsonl")
    ]
    monkeypatch.undo()
    with stack.transaction():
        pass
    assert stack.verify_files() == []
