"""Toys: a stack that has learnt one domain, and what it takes to teach it another."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crma.stack.layout import OWNED, BaseReference, DomainRecord, SnapshotRecord
from crma.stack.stack import Stack

BASE = BaseReference(name="toy", source="/toys/toy", weights_sha256="0" * 64, architecture="Toy", parameters=12)
PRIMITIVES = ("open", "write", "fsync", "replace", "unlink", "mkdir", "rmdir", "ftruncate", "truncate")


def _teach(stack: Stack, name: str, *, size: int = 40, timeout: float = 0.0) -> None:
    """One domain as learning publishes it: adapter, snapshot and kept rows are added, the router is replaced."""
    with stack.transaction(timeout=timeout) as tx:
        adapter = tx.fresh_path(f"adapters/{name}")
        tx.write_tensors(f"{adapter}/adapter_model.safetensors", {"a": _weights(name, size), "b": np.array(len(name))})
        tx.write_json(f"{adapter}/adapter_config.json", {"r": 8, "peft_type": "LORA", "domain": name})
        id = tx.manifest.next_snapshot_id
        tx.write_tensors(f"snapshots/{id}/backbone.safetensors", {"p": _weights(id, 10)}, {"n": "16", "form": "learnt"})
        rows = tx.fresh_path(f"rows/{name}.jsonl")
        tx.write_lines(rows, ({"prompt": f"{name} {i}?", "completion": "né\u2028 文"} for i in range(3)))
        router = f"router/{id}.json"
        tx.write_json(router, {"centroids": [*(d.name for d in tx.manifest.domains), name]})
        if tx.manifest.router is not None:
            tx.remove(tx.manifest.router)
        record = DomainRecord(
            name=name,
            adapter=adapter,
            snapshot_learnt=id,
            snapshot_pinned=id,
            learnt="2024-01-01T00:00:00+00:00",
            data_sha256="1" * 64,
            split_sha256={"train": "2" * 64},
            rows={"train": 80},
            config={"learning_rate": 1e-3, "by_step": {10: "x", 9: "y"}},
            rows_kept=rows,
            loss_after=1.25,
            router_version=id,
        )
        snapshot = SnapshotRecord(
            id=id, domain=name, parent=tx.manifest.head, alpha=0.5, folder=f"snapshots/{id}", created=record.learnt
        )
        tx.update(
            domains=(*tx.manifest.domains, record),
            snapshots=(*tx.manifest.snapshots, snapshot),
            head=id,
            router=router,
        )
        tx.log({"kind": "learn", "domain": name, "scores": {"loss": 1.25}})


def _weights(seed: str, size: int) -> np.ndarray:
    return np.random.default_rng([*seed.encode()]).normal(size=(size, 4)).astype(np.float32)


def _forget(stack: Stack, name: str, *, timeout: float = 0.0) -> None:
    with stack.transaction(timeout=timeout) as tx:
        record = tx.manifest.domain(name)
        tx.remove(record.adapter)
        if record.rows_kept is not None:
            tx.remove(record.rows_kept)
        tx.update(domains=tuple(each for each in tx.manifest.domains if each.name != name))
        tx.log({"kind": "forget", "domain": name})


def _contents(root: Path) -> dict[str, Any]:
    """Everything a reader can learn from a stack, as comparable values."""
    stack = Stack.open(root)
    seen: dict[str, Any] = {"manifest": stack.manifest, "ledger": stack.read_ledger()}
    for path in stack.manifest.files:
        if path.endswith(".safetensors"):
            seen[path] = {name: (a.dtype, a.shape, a.tobytes()) for name, a in stack.read_tensors(path).items()}
        else:
            seen[path] = stack.read_json(path) if path.endswith(".json") else stack.read_lines(path)
    return seen


def _tree(root: Path) -> dict[str, bytes]:
    """Every file of the folder but the lock's, byte by byte."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


def _intercept(seam: Any, act: Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]) -> None:
    """Let `act(name, real, arguments)` stand in for each system call that changes a disk."""
    for name in PRIMITIVES:
        real = getattr(os, name)

        def stand_in(*arguments: Any, _name: str = name, _real: Callable[..., Any] = real, **rest: Any) -> Any:
            return act(_name, lambda *given: _real(*given, **rest), arguments)

        seam.setattr(os, name, stand_in)


class _Bare:
    """monkeypatch's setattr for a forked child, which needs no undoing."""

    setattr = staticmethod(setattr)


def _kill_at(point: int, story: Callable[[], None], *, half: bool) -> bool:
    """Run `story` in a forked process and kill -9 it before its `point`-th system call; False where it got through.

    With `half` only writes count, and the one that is killed has put half of its bytes.
    """
    child = os.fork()
    if child == 0:
        calls = 0

        def act(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
            nonlocal calls
            calls += name == "write" or not half
            if calls > point:
                if half:
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        try:
            _intercept(_Bare, act)
            story()
        except BaseException as error:  # noqa: BLE001 - a forked child must not run pytest's own story
            os._exit(_complain(error))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the story raised in the child: see stderr"
    return False


def _complain(error: BaseException) -> int:
    print(repr(error), error, flush=True)
    return 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: an fsync there costs nothing, and its order stays the same."""
    import shutil
    import tempfile

    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="stack-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def base() -> BaseReference:
    return BASE


@pytest.fixture
def teach() -> Callable[..., None]:
    return _teach


@pytest.fixture
def forget() -> Callable[..., None]:
    return _forget


@pytest.fixture
def contents() -> Callable[[Path], dict[str, Any]]:
    return _contents


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    return _tree


@pytest.fixture
def intercept() -> Callable[..., None]:
    return _intercept


@pytest.fixture
def kill_at() -> Callable[..., bool]:
    return _kill_at


@pytest.fixture
def stack(disk: Path) -> Stack:
    """A stack that has learnt `medicine`."""
    made = Stack.create(disk / "stack", base=BASE, backbone={"frames": 16})
    _teach(made, "medicine")
    assert {path.split("/")[0] for path in made.manifest.files} == set(OWNED)
    return made
