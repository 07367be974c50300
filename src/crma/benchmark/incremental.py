"""Conditions in which rows come bit by bit: each domain in two halves, the second learnt by `--extend`; or without
their domains' names, as `--auto` and `--stream` learn them, in one file or one after the other. Every test row is
measured as routed: what such a stack calls its domains is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from crma.benchmark.notebook import Notebook
from crma.benchmark.run import Listener, Outcome, Run
from crma.benchmark.stacks import counted, opened, routed, score_served, shared_numbers, stored_numbers
from crma.continual import ContinualModel
from crma.data.render import Rendered, render_all
from crma.incoming import Incoming
from crma.model.matching import trained_numbers
from crma.training import data_hash
from crma.types import Example, Split

__all__ = ["in_halves", "unnamed"]

_LEAST = 50  # rows that make a new domain: the default of `crma learn --auto`
_CHUNK = 50  # rows, as a stream is read


def in_halves(run: Run) -> Outcome:
    """Each domain's first half as a domain; when all are learnt, the second halves by `extend`, in the same order.

    Measured after T lessons and after 2 T.
    """
    notebook, names = Notebook(run.folder), tuple(run.domains)
    model = opened(run.folder / "stack", run.base, run.shape)
    _measure_base(run, model, notebook)
    for t, (name, split) in enumerate(run.domains.items(), start=1):
        before = any(d.name == name for d in model.stack.manifest.domains)
        if not before:
            model.learn(name, _half(split, 0), run.config, on_event=_counting(run, model, notebook))
        run.tell(name, t, before=before)
    _measure(run, model, notebook, len(names))
    for t, (name, split) in enumerate(run.domains.items(), start=1):
        more, record = _half(split, 1), model.stack.manifest.domain(name)
        before = data_hash(more) in {e.data_sha256 for e in record.extensions}
        if not before:
            model.extend(name, more, on_event=_counting(run, model, notebook))
        run.tell(name, t, before=before)
    return _outcome(run, model, notebook, 2 * len(names))


def unnamed(run: Run) -> Outcome:
    """All rows but the test rows, shuffled into one file, or as a stream of one domain after the other.

    As it does for users, each domain that is found holds out test rows and validation rows of its own.
    """
    notebook, names = Notebook(run.folder), tuple(run.domains)
    model = opened(run.folder / "stack", run.base, run.shape)
    _measure_base(run, model, notebook)
    rows = [row for split in run.domains.values() for row in (*split.train, *split.validation)]
    least = min(_LEAST, max(10, len(rows) // len(names) // 2))  # smaller recipes have smaller domains
    streamed = run.condition.stream
    if not streamed:
        rows = [rows[i] for i in np.random.default_rng(run.seed).permutation(len(rows))]
    listener = _counting(run, model, notebook)
    with Incoming(model, run.config, source="benchmark", least=least, on_event=listener) as incoming:
        step = _CHUNK if streamed else len(rows)
        for start in range(incoming.position, len(rows), step):
            incoming.take(rows[start : start + step], min(start + step, len(rows)))
            if streamed:
                incoming.work()
        incoming.finish()
    run.tell(names[-1], len(names), before=False)
    return _outcome(run, model, notebook, len(names))


def _counting(run: Run, model: ContinualModel, notebook: Notebook) -> Listener:
    """Also writes down how many tokens each step of each lesson had, once, however often it was killed: of what a
    domain learnt before it was extended, or of an extension that was not taken, the stack keeps no steps."""

    def heard(kind: str, value: Mapping[str, Any]) -> None:
        if kind == "step":
            domains = model.stack.manifest.domains
            lessons = len(domains) + sum(len(d.extensions) for d in domains)
            notebook.tokens[f"{lessons} {value['domain']} {value['phase']} {value['step']}"] = value["tokens"]
            notebook.save()
        run.on_event(kind, value)

    return heard


def _half(split: Split, which: int) -> Split:
    """Half of what is learnt and half of what judges it; test rows stand in the first."""

    def part(rows: Sequence[Example]) -> tuple[Example, ...]:
        middle = (len(rows) + 1) // 2
        return tuple(rows[middle:] if which else rows[:middle])

    return Split(train=part(split.train), validation=part(split.validation), test=() if which else split.test)


def _tests(run: Run, model: ContinualModel) -> dict[str, tuple[Rendered, ...]]:
    return {d: render_all(s.test, model.tokenizer, run.config.max_length).rows for d, s in run.domains.items()}


def _measure_base(run: Run, model: ContinualModel, notebook: Notebook) -> None:
    if not notebook.has(0, "base"):
        tests = _tests(run, model)
        notebook.take(0, "base", {d: score_served(model, None, rows) for d, rows in tests.items()}, tests)


def _measure(run: Run, model: ContinualModel, notebook: Notebook, after: int) -> dict[str, list[str | None]]:
    """Every test row as the router has it served; returns where it went."""
    chosen = {d: [r.domain for r in model.route([e.prompt for e in s.test])] for d, s in run.domains.items()}
    if not notebook.has(after, "routed"):
        tests = _tests(run, model)
        notebook.take(after, "routed", {d: routed(model, tests[d], chosen[d]) for d in tests}, tests)
    return chosen


def _outcome(run: Run, model: ContinualModel, notebook: Notebook, after: int) -> Outcome:
    chosen = _measure(run, model, notebook, after)
    learnt, router = [d.name for d in model.stack.manifest.domains], model.router()
    directions = run.shape.directions if run.shape is not None else 0
    return Outcome(
        measurements=notebook.measurements,
        base=model.stack.manifest.base.model_dump(),
        trained_parameters=trained_numbers(model.model, rank=run.config.rank, directions=directions),
        stored_parameters=sum(stored_numbers(model, d) for d in learnt) + shared_numbers(model),
        tokens=sum(notebook.tokens.values()),
        routes={d: counted(to) for d, to in chosen.items()},
        router=asdict(router.features) if router is not None else {},
    )
