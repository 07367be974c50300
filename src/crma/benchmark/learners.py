"""Running a condition: the same rows, steps and evaluation for all of them, resumable after every domain."""

from __future__ import annotations

from crma.benchmark.incremental import in_halves, unnamed
from crma.benchmark.run import Outcome, Run
from crma.benchmark.single import only_measure, with_copies, with_one
from crma.benchmark.stacks import apart, on_a_stack

__all__ = ["learn"]

_LEARNERS = {
    "base": only_measure,
    "one": with_one,
    "copies": with_copies,
    "joint": with_one,
    "stack": on_a_stack,
    "reset": apart,
    "halves": in_halves,
    "unnamed": unnamed,
}


def learn(run: Run) -> Outcome:
    """Learn all domains as the condition says; called again after a kill, go on."""
    run.folder.mkdir(parents=True, exist_ok=True)
    return _LEARNERS[run.condition.learner](run)
