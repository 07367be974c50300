"""kill -9 before every system call that changes the disk, and in the middle of every write.

Each point is a forked process that really dies. What the system's memory holds outlives a process, not a power cut:
for that, the last test checks the order of what is forced to the disk.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crma.errors import StackError, StackLockedError
from crma.stack.stack import Stack

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


@pytest.mark.parametrize("half", [False, True], ids=["before each call", "halfway through each write"])
@pytest.mark.parametrize("start", ["clean", "after a killed writer"])
def test_learning_a_domain_survives_a_kill_at_every_point(disk, stack, teach, contents, tree, kill_at, start, half):
    if start != "clean":
        _leave_the_leftovers_of_a_killed_writer(stack.root)
    old = contents(stack.root)
    point, kills, seen = 0, 0, set()
    while True:
        root = disk / "tried"
        shutil.copytree(stack.root, root)
        killed = kill_at(point, lambda root=root: teach(Stack.open(root), "law"), half=half)
        found = contents(root)  # whole, whichever it is
        learnt = [domain.name for domain in found["manifest"].domains]
        assert learnt in (["medicine"], ["medicine", "law"])
        if learnt == ["medicine"]:
            assert found == old
        reopened = Stack.open(root)
        with reopened.transaction():
            pass  # the next writer cleans up
        assert reopened.verify_files() == []
        assert (root / "ledger.jsonl").stat().st_size == reopened.manifest.ledger.size
        assert set(tree(root)) == {*reopened.manifest.files, "manifest.json", "manifest.copy.json", "ledger.jsonl"}
        if learnt == ["medicine"]:
            teach(reopened, "law")  # the retry
            assert reopened.verify_files() == []
        after = contents(root)
        assert all(after[path] == old[path] for path in old if path.startswith(("adapters/", "snapshots/", "rows/")))
        assert [entry["kind"] for entry in after["ledger"]] == ["create", "learn", "learn"]
        seen.add(tuple(learnt))
        shutil.rmtree(root)
        if not killed:
            break
        point, kills = point + 1, kills + 1
    assert len(seen) == 2  # kills fell on both sides of the commit point
    assert kills > (8 if half else 60)


def _leave_the_leftovers_of_a_killed_writer(root: Path) -> None:
    (root / ".writing-manifest.json-0a1b2c3d").write_text("{")
    (root / "adapters/law").mkdir()
    (root / "adapters/law/adapter_config.json").write_text("{}")
    (root / "adapters/law/.writing-adapter_model.safetensors-00").write_bytes(b"half")
    (root / "snapshots/v0002/deep/er").mkdir(parents=True)
    (root / "manifest.copy.json").unlink()
    with open(root / "ledger.jsonl", "ab") as file:
        file.write(b'{"entry": 3, "transaction": 2}\n{"ent')


def test_forgetting_a_domain_survives_a_kill_at_every_point(disk, stack, teach, forget, contents, kill_at):
    teach(stack, "law")
    law = {path: value for path, value in contents(stack.root).items() if path.startswith("adapters/law")}
    assert law
    point, killed = 0, True
    while killed:
        root = disk / "tried"
        shutil.copytree(stack.root, root)
        killed = kill_at(point, lambda root=root: forget(Stack.open(root), "medicine"), half=False)
        found = contents(root)
        if "medicine" in [domain.name for domain in found["manifest"].domains]:
            forget(Stack.open(root), "medicine")
        with Stack.open(root).transaction():
            pass
        assert Stack.open(root).verify_files() == []
        assert not (root / "adapters/medicine").exists()
        assert law.items() <= contents(root).items()
        shutil.rmtree(root)
        point += 1


@pytest.mark.parametrize("half", [False, True])
def test_creating_a_stack_survives_a_kill_at_every_point(disk, base, kill_at, half):
    point, killed, outcomes = 0, True, set()
    while killed:
        root = disk / "new"
        killed = kill_at(point, lambda root=root: Stack.create(root, base=base), half=half)
        there = Stack.exists(root)
        stack = Stack.open(root) if there else Stack.create(root, base=base)
        with stack.transaction():
            pass
        assert stack.verify_files() == []
        assert [entry["kind"] for entry in stack.read_ledger()] == ["create"]
        outcomes.add(there)
        shutil.rmtree(root, ignore_errors=True)
        point += 1
    assert outcomes == {False, True}


def test_an_interrupt_after_every_call_leaves_the_old_state_or_the_new(disk, stack, teach, contents, intercept):
    old, point, interrupted, outcomes = contents(stack.root), 0, True, []
    while interrupted:
        root = disk / "tried"
        shutil.copytree(stack.root, root)
        calls, interrupted = 0, False

        def act(name, real, arguments, point=point):
            nonlocal calls
            result = real(*arguments)
            calls += 1
            if calls == point + 1:
                raise KeyboardInterrupt
            return result

        with Stack.open(root).lock() as held:
            with pytest.MonkeyPatch.context() as seam:
                intercept(seam, act)
                try:
                    teach(held, "law")
                except KeyboardInterrupt:
                    interrupted = True
            found = contents(root)
            outcomes.append(len(found["manifest"].domains))
            assert held.manifest == found["manifest"]
            assert found == old or outcomes[-1] == 2
            if outcomes[-1] == 1:
                teach(held, "law")
            with held.transaction():
                pass
            assert held.verify_files() == []
        shutil.rmtree(root)
        point += 1
    assert outcomes == sorted(outcomes)  # old before the commit point, new after it
    assert set(outcomes) == {1, 2}


HOLD = """
import sys, time
from crma.stack.stack import Stack
with Stack.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_is_named_while_it_lives_and_frees_the_lock_when_it_dies(stack, teach):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(stack.root)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StackLockedError) as caught:
            teach(stack, "law")
        assert f"process {holder.pid} on " in str(caught.value)
        assert "since 20" in str(caught.value)
        assert Stack.open(stack.root).read_json("adapters/medicine/adapter_config.json")["r"] == 8
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (stack.root / ".lock.json").exists()  # a dead holder's note hinders nobody
    teach(stack, "law")
    assert not (stack.root / ".lock.json").exists()


def test_a_forked_child_does_not_hold_its_parents_lock(stack, teach):
    with stack.lock():
        child = os.fork()
        if child == 0:
            try:
                teach(stack, "law")
            except StackLockedError:
                os._exit(7)
            except StackError:
                os._exit(8)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        with pytest.raises(StackLockedError):
            teach(Stack.open(stack.root), "code")  # the child's end did not free the lock
        teach(stack, "law")
    assert [domain.name for domain in stack.manifest.domains] == ["medicine", "law"]


LEARN_ON = """
import sys
import numpy as np
from crma.stack.stack import Stack
stack, number = Stack.open(sys.argv[1]), 0
while True:
    with stack.transaction(timeout=60) as tx:
        old, new = tx.manifest.router, f"router/r{len(stack.read_ledger())}"
        for part in "abc":
            tx.write_tensors(f"{new}/{part}.safetensors", {"x": np.full(5000, len(stack.read_ledger()))})
        tx.remove(old)
        tx.update(router=new)
        tx.log({"kind": "route"})
"""


def test_kills_at_random_moments(stack, contents):
    for wait in (0.25, 0.31, 0.37):
        with subprocess.Popen([sys.executable, "-c", LEARN_ON, str(stack.root)]) as writer:
            start = time.monotonic()
            while stack.refresh().router == "router/v0001.json" and time.monotonic() - start < 30:
                time.sleep(0.01)
            time.sleep(wait)
            writer.kill()
        contents(stack.root)
        with stack.transaction():
            pass
        assert stack.verify_files() == []


def test_each_step_is_on_the_disk_before_the_next(stack, teach, intercept, monkeypatch):
    root, opened, events = str(stack.root), {}, []

    def act(name, real, arguments):
        result = real(*arguments)
        where = str(arguments[0])
        if name == "open":
            opened[result] = where
        elif name in ("write", "fsync", "ftruncate"):
            events.append((name, opened.get(arguments[0], "?")))
        elif name == "replace":
            events.append((name, str(arguments[1])))
            events.append(("named", str(arguments[0])))
        else:
            events.append((name, where))
        return result

    intercept(monkeypatch, act)
    teach(stack, "law")
    monkeypatch.undo()

    commit = events.index(("replace", f"{root}/manifest.json"))
    before, after = events[:commit], events[commit + 2 :]
    added = [path for path in stack.manifest.files if "law" in path or "v0002" in path]
    assert len(added) == 5
    for path in added:
        placed = before.index(("replace", f"{root}/{path}"))
        temporary = before[placed + 1][1]
        writes = [at for at, event in enumerate(before) if event == ("write", temporary)]
        forced = before.index(("fsync", temporary))
        assert max(writes) < forced < placed
        folder = Path(root, path).parent
        assert ("fsync", str(folder)) in before[placed:]  # its name is forced too, and so is each new folder's
        while str(folder) != root:
            if ("mkdir", str(folder)) in before:
                assert ("fsync", str(folder.parent)) in before[before.index(("mkdir", str(folder))) :]
            folder = folder.parent
    ledger = f"{root}/ledger.jsonl"
    written, forced = before.index(("write", ledger)), max(i for i, e in enumerate(before) if e == ("fsync", ledger))
    assert max(before.index(("replace", f"{root}/{path}")) for path in added) < written < forced
    assert ("fsync", events[commit + 1][1]) in before  # the manifest's bytes before its name
    assert after[0] == ("fsync", root)
    assert ("unlink", f"{root}/router/v0001.json") in after
    assert ("unlink", f"{root}/router/v0001.json") not in before
