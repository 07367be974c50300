"""A file that was cut or changed on the disk is reported, and never read as if it were whole."""

from __future__ import annotations

import random

import pytest

from crma.errors import StackCorruptError, StackError, StackVersionError
from crma.stack.stack import Stack


def _check(root, path, whole, contents, before):
    """Reading gives the very values that were written, or a clear error; and the damage does not go unseen."""
    problems = error = None
    try:
        problems = Stack.open(root).verify_files()
        assert contents(root) == before
    except (StackCorruptError, StackVersionError) as raised:
        error = raised
    assert problems is None or problems, "damage that verify_files did not see"
    if error is None:  # nothing that a reader reads
        assert path.name in ("manifest.copy.json", "manifest.json")
    else:
        assert path.name in str(error)
        assert error.next_step
    path.write_bytes(whole)


def test_every_file_cut_at_every_kind_of_length(stack, teach, contents):
    teach(stack, "law")
    before = contents(stack.root)
    paths = [path for path in sorted(stack.root.rglob("*")) if path.is_file() and not path.name.startswith(".lock")]
    assert len(paths) == 3 + len(stack.manifest.files)
    for path in paths:
        whole = path.read_bytes()
        size = len(whole)
        for length in sorted({0, 1, 7, 8, 9, size // 3, size // 2, size - 2, size - 1} & set(range(size))):
            path.write_bytes(whole[:length])
            _check(stack.root, path, whole, contents, before)
        for tail in (b"\0", whole):  # and longer than it was
            path.write_bytes(whole + tail)
            if path.name != "ledger.jsonl":  # a ledger's tail is a killed writer's
                _check(stack.root, path, whole, contents, before)
            path.write_bytes(whole)
        path.unlink()
        _check(stack.root, path, whole, contents, before)
    assert Stack.open(stack.root).verify_files() == []
    assert contents(stack.root) == before


def test_flipped_bits(stack, contents):
    before, dice = contents(stack.root), random.Random(7)
    for path in sorted(stack.root.rglob("*")):
        if not path.is_file() or path.name.startswith(".lock"):
            continue
        whole = path.read_bytes()
        for at in {*range(min(12, len(whole))), *(dice.randrange(len(whole)) for _ in range(40))}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
            _check(stack.root, path, whole, contents, before)
    assert contents(stack.root) == before


def test_two_files_that_changed_places(stack, teach):
    teach(stack, "code")
    one, other = (stack.root / f"adapters/{name}/adapter_model.safetensors" for name in ("medicine", "code"))
    assert one.stat().st_size == other.stat().st_size
    bytes_of_one = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(bytes_of_one)
    for name in ("medicine", "code"):
        with pytest.raises(StackCorruptError, match="SHA-256"):
            stack.read_tensors(f"adapters/{name}/adapter_model.safetensors")
    assert [problem.kind for problem in stack.verify_files()] == ["hash", "hash"]


def test_without_verification_a_cut_file_is_still_refused(stack):
    path = stack.root / "adapters/medicine/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StackCorruptError, match="bytes"):
        stack.read_tensors("adapters/medicine/adapter_model.safetensors", verify=False)


def test_damage_to_one_domain_leaves_the_others_readable_and_writable(stack, teach):
    teach(stack, "law")
    (stack.root / "adapters/medicine/adapter_model.safetensors").unlink()
    reopened = Stack.open(stack.root)
    assert reopened.read_tensors("adapters/law/adapter_model.safetensors")
    teach(reopened, "code")
    assert [(problem.kind, problem.path) for problem in reopened.verify_files()] == [
        ("missing", "adapters/medicine/adapter_model.safetensors")
    ]
    with pytest.raises(StackError, match="missing"):
        reopened.read_tensors("adapters/medicine/adapter_model.safetensors")


def test_verify_files_names_each_kind_of_problem(stack):
    root = stack.root
    (root / "adapters/stray.txt").write_text("x")
    (root / ".writing-manifest.json-1").write_text("x")
    config = root / "adapters/medicine/adapter_config.json"
    config.write_bytes(config.read_bytes().replace(b"8", b"9"))
    (root / "rows/medicine.jsonl").write_text("")
    (root / "router/v0001.json").unlink()
    (root / "manifest.copy.json").unlink()
    problems = stack.verify_files()
    assert {(problem.kind, problem.path) for problem in problems} == {
        ("hash", "adapters/medicine/adapter_config.json"),
        ("size", "rows/medicine.jsonl"),
        ("missing", "router/v0001.json"),
        ("unreferenced", "adapters/stray.txt"),
        ("unreferenced", ".writing-manifest.json-1"),
        ("copy", "manifest.copy.json"),
    }
    assert all(problem.path in str(problem) for problem in problems)
