"""Killed at any moment, the same command again ends where an uninterrupted one ends, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crma.errors import ConfigError
from crma.stack.stack import Stack

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parent / "train" / "killed_learner.py"
STEPS = 6  # a phase

Learn = Callable[..., tuple[int, list[list[Any]]]]


@pytest.fixture(scope="module")
def learn(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learn]:
    """learn(stack, domain, kill) -> how the process ended, the steps it ran."""
    scratch = tmp_path_factory.mktemp("learner")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CRMA_CACHE": str(scratch / "cache"),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    with (scratch / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(stack: Path, domain: str = "stones", kill: dict[str, Any] | None = None, following: bool = False):
            told = scratch / "told.json"
            told.write_text("[]")
            order = {"stack": str(stack), "base": str(toy_base), "domain": domain, "kill": kill, "told": str(told)}
            order["following"] = following
            print(json.dumps(order), file=process.stdin, flush=True)
            answer = process.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
            assert answer, Path(errors.name).read_text()[-4000:]
            if int(answer) == 1:
                pytest.fail(Path(errors.name).read_text()[-4000:])
            return int(answer), json.loads(told.read_text())

        try:
            yield ask
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=20)
            finally:
                process.kill()
                process.stdout.close()


@pytest.fixture(scope="module")
def first(learn: Learn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack that knows one domain."""
    root = tmp_path_factory.mktemp("first") / "stack"
    assert learn(root, "fruit")[0] == 0
    return root


@pytest.fixture(scope="module")
def whole(learn: Learn, first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second domain learnt without a kill."""
    root = tmp_path_factory.mktemp("whole") / "stack"
    shutil.copytree(first, root)
    assert learn(root) == (0, [[phase, s] for phase in ("propose", "commit") for s in range(1, STEPS + 1)])
    return root


@pytest.fixture
def stack(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "stack"))


def contents(root: Path) -> dict[str, str]:
    """Every file that holds what was learnt, by its hash; metrics hold times, so they are left out."""
    files = Stack.open(root).manifest.files
    return {path: record.sha256 for path, record in files.items() if not path.endswith("metrics.jsonl")}


def records(root: Path) -> list[dict[str, Any]]:
    return [d.model_dump(exclude={"learnt"}) for d in Stack.open(root).manifest.domains]


def check_sound(root: Path, first: Path) -> None:
    """What a kill leaves: the old stack or the new one, whole; at most leftovers beside it."""
    stack = Stack.open(root)
    assert {problem.kind for problem in stack.verify_files()} <= {"unreferenced", "ledger", "copy"}
    fruit = {path: sha for path, sha in contents(first).items() if path.startswith(("adapters/", "snapshots/"))}
    assert fruit.items() <= contents(root).items()


def check_finished(root: Path, whole: Path) -> None:
    stack = Stack.open(root)
    assert stack.verify_files() == []
    assert contents(root) == contents(whole)
    assert records(root) == records(whole)
    assert [s.alpha for s in stack.manifest.snapshots] == [s.alpha for s in Stack.open(whole).manifest.snapshots]
    assert [e["kind"] for e in stack.read_ledger()] == ["create", "learn", "learn"]
    metrics, expected = (Stack.open(r).read_lines("adapters/stones/metrics.jsonl") for r in (root, whole))
    assert [(m["phase"], m["step"], m["loss"]) for m in metrics] == [
        (m["phase"], m["step"], m["loss"]) for m in expected
    ]
    assert len(metrics) == 2 * STEPS
    assert not (root / "work" / "stones").exists()


# Each moment, and what the next run still has to do: (steps of propose, steps of commit).
MOMENTS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "before the first checkpoint": ({"event": "step", "phase": "propose", "step": 1}, (6, 6)),
    "in the middle of propose": ({"event": "step", "phase": "propose", "step": 3}, (4, 6)),
    "while the checkpoint is written": ({"audit": "os.rename", "ends": "propose.safetensors"}, (6, 6)),
    "right after propose's last checkpoint": ({"event": "phase", "phase": "verify"}, (0, 6)),
    "between verify and commit": ({"event": "phase", "phase": "commit"}, (0, 6)),
    "in the middle of commit": ({"event": "step", "phase": "commit", "step": 5}, (0, 2)),
    "before publishing": ({"event": "phase", "phase": "measure"}, (0, 0)),
    "at the commit point": ({"audit": "os.rename", "ends": "manifest.json"}, (0, 0)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_same_command_again_finishes_as_if_nothing_had_happened(moment, learn, first, whole, stack):
    kill, left = MOMENTS[moment]
    ended, _ = learn(stack, kill=kill)
    assert ended == -signal.SIGKILL
    check_sound(stack, first)
    assert [d.name for d in Stack.open(stack).manifest.domains] == ["fruit"]
    ended, ran = learn(stack)
    assert ended == 0
    assert tuple(sum(phase == p for phase, _ in ran) for p in ("propose", "commit")) == left
    check_finished(stack, whole)


def test_killed_at_every_moment_in_turn(learn, first, whole, stack):
    for kill, _ in sorted(MOMENTS.values(), key=lambda m: -sum(m[1])):
        assert learn(stack, kill=kill)[0] == -signal.SIGKILL
        check_sound(stack, first)
    assert learn(stack)[0] == 0
    check_finished(stack, whole)


def test_an_earlier_domain_that_follows_ends_byte_for_byte_the_same(learn, first, stack, tmp_path):
    whole = Path(shutil.copytree(first, tmp_path / "whole"))
    assert learn(whole, following=True)[0] == 0
    fruit = Stack.open(whole).manifest.domain("fruit")
    assert fruit.adapter_learnt not in (None, fruit.adapter)  # or nothing was fitted
    kills: tuple[dict[str, Any], ...] = (
        {"event": "phase", "phase": "verify"},
        {"event": "phase", "phase": "measure"},
        {"audit": "os.rename", "ends": "manifest.json"},
    )
    for kill in kills:
        assert learn(stack, kill=kill, following=True)[0] == -signal.SIGKILL
        check_sound(stack, first)
    assert learn(stack, following=True) == (0, [])  # every step was done before the first kill
    assert contents(stack) == contents(whole)
    assert records(stack) == records(whole)


def test_killed_between_the_commit_and_the_end(learn, first, whole, stack):
    kill = {"audit": "shutil.rmtree", "ends": "stones"}
    assert learn(stack, kill=kill)[0] == -signal.SIGKILL
    check_sound(stack, first)
    assert (stack / "work" / "stones").exists()
    assert contents(stack) == contents(whole)
    assert learn(stack) == (0, [])  # it says what it had learnt, and clears up
    check_finished(stack, whole)


def test_other_settings_start_anew(learn, stack, toy_base, monkeypatch, tmp_path):
    from crma.continual import ContinualModel
    from crma.train.config import LearnConfig
    from crma.types import Example

    monkeypatch.setenv("CRMA_CACHE", str(tmp_path / "cache"))
    learn(stack, kill={"event": "step", "phase": "propose", "step": 5})
    model = ContinualModel.from_pretrained(stack, base=str(toy_base))
    notes = []
    rows = [Example.of(f"Which {i}?", "This one.") for i in range(8)]
    config = LearnConfig(epochs=1, rank=2, max_length=64, propose=0.5)  # of one step: none
    learnt = model.learn("stones", rows, config, on_event=lambda k, v: notes.append(v["text"]) if k == "note" else None)
    assert any("discarded" in note for note in notes)
    metrics = model.stack.read_lines("adapters/stones/metrics.jsonl")
    assert [(m["phase"], m["step"]) for m in metrics] == [("commit", 1)]  # none of the five steps before
    assert learnt.rows["train"] < 8
    with pytest.raises(ConfigError, match="already"):
        model.learn("stones", rows, config)
