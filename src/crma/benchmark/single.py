"""Conditions with one LoRA for everything, and the base alone: the LoRA is kept after each lesson, to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from crma.benchmark.notebook import Notebook
from crma.benchmark.run import Outcome, Run
from crma.data.render import Rendered
from crma.model.adapters import Weights, from_file, to_file
from crma.model.base import load_base
from crma.model.fold import blend
from crma.stack import files
from crma.train.methods.naive import OneLora
from crma.train.promotion import Held, furthest_follow

__all__ = ["only_measure", "with_copies", "with_one"]

_ONE = "one"  # the name of the only LoRA
_ALL = "all"  # the lesson that holds every domain


def with_one(run: Run) -> Outcome:
    notebook = Notebook(run.folder)
    one, base, tests = _one_lora(run)
    _measure_base(notebook, one, tests)
    for t, lesson, rows in _lessons(run, one):
        place = run.folder / f"{t}.safetensors"
        before = place.is_file()
        if before:
            one.load(from_file(files.read_tensors(place)))
        else:
            notebook.tokens[lesson] = one.learn(lesson, rows, on_event=run.on_event)
            notebook.save()
            files.write_tensors(place, to_file(one.adapters.weights(_ONE)))
        if not notebook.has(t, "floating"):
            # Just after learning, on the rows that rates are chosen on.
            own = {d: one.render(run.domains[d].validation) for d in (run.domains if lesson == _ALL else [lesson])}
            notebook.take(t, "floating", {d: one.score(rows) for d, rows in own.items()}, own, split="validation")
            # The learnt ones, and the next: forward transfer needs no more.
            seen = {d: rows for i, (d, rows) in enumerate(tests.items()) if i <= t}
            notebook.take(t, "floating", {d: one.score(rows) for d, rows in seen.items()}, seen)
        run.tell(lesson, t, before=before)
    return _outcome(notebook, one, base)


def with_copies(run: Run) -> Outcome:
    """One LoRA trained on and on, a copy kept after each domain; every copy is then drawn after the newest one as far
    as its validation rows want; crma's domains go towards their own LoRA on the newest backbone in the same steps."""
    notebook, names = Notebook(run.folder), tuple(run.domains)
    one, base, tests = _one_lora(run)
    _measure_base(notebook, one, tests)
    held_out = {d: one.render(s.validation) for d, s in run.domains.items()}
    for t, lesson, rows in _lessons(run, one):
        places = {d: run.folder / f"{t}-{d}.safetensors" for d in names[:t]}
        newest = run.folder / f"{t}.safetensors"
        before = newest.is_file()
        if not before:
            if t > 1:
                one.load(from_file(files.read_tensors(run.folder / f"{t - 1}.safetensors")))
            notebook.tokens[lesson] = one.learn(lesson, rows, on_event=run.on_event)
            notebook.save()
            files.write_tensors(newest, to_file(one.adapters.weights(_ONE)))
        last = from_file(files.read_tensors(newest))
        for domain in names[:t]:
            if places[domain].is_file():
                continue
            copy = last
            if domain != lesson:
                own = from_file(files.read_tensors(run.folder / f"{t - 1}-{domain}.safetensors"))
                one.load(own)
                kept, under = _held(one, held_out[domain]), partial(_blended, one, held_out[domain], own, last)
                found = furthest_follow(run.config.follow, kept, under)
                copy = own if found is None else blend(own, last, found[0])
            files.write_tensors(places[domain], to_file(copy))
        if not notebook.has(t, "floating"):
            scores = {}
            for domain in names[:t]:
                one.load(from_file(files.read_tensors(places[domain])))
                scores[domain] = one.score(tests[domain])
            one.load(last)
            own_rows = {lesson: held_out[lesson]}
            notebook.take(t, "floating", {lesson: one.score(held_out[lesson])}, own_rows, split="validation")
            notebook.take(t, "floating", scores, {d: tests[d] for d in scores})
        run.tell(lesson, t, before=before)
    return _outcome(notebook, one, base, kept=len(names))


def _outcome(notebook: Notebook, one: OneLora, base: Mapping[str, Any], *, kept: int = 1) -> Outcome:
    """Kept: LoRAs at the end."""
    size = sum(p.numel() for p in one.adapters.parameters(_ONE).values())
    return Outcome(
        measurements=notebook.measurements,
        base=base,
        trained_parameters=size,
        stored_parameters=size * kept,
        tokens=sum(notebook.tokens.values()),
    )


def _measure_base(notebook: Notebook, one: OneLora, tests: Mapping[str, Sequence[Rendered]]) -> None:
    if not notebook.has(0, "base"):
        notebook.take(0, "base", {d: one.score(rows, untouched=True) for d, rows in tests.items()}, tests)


def _blended(one: OneLora, rows: Sequence[Rendered], own: Weights, towards: Weights, share: float) -> Held:
    one.load(blend(own, towards, share))
    return _held(one, rows)


def _held(one: OneLora, rows: Sequence[Rendered]) -> Held:
    return Held(losses=one.score(rows).losses, tokens=tuple(sum(r.supervised[1:]) for r in rows))


def _lessons(run: Run, one: OneLora) -> Iterator[tuple[int, str, tuple[Rendered, ...]]]:
    """(domains learnt after it, its name, its rows): a domain at a time, or all of them at once."""
    train = {d: one.render(s.train) for d, s in run.domains.items()}
    if run.condition.learner == "joint":
        yield len(train), _ALL, tuple(row for rows in train.values() for row in rows)
        return
    for t, (name, rows) in enumerate(train.items(), start=1):
        yield t, name, rows


def only_measure(run: Run) -> Outcome:
    notebook = Notebook(run.folder)
    one, base, tests = _one_lora(run)
    last = len(run.domains)
    if not notebook.has(last, "floating"):
        scores = {d: one.score(rows, untouched=True) for d, rows in tests.items()}
        notebook.take(0, "base", scores, tests)
        notebook.take(last, "floating", scores, tests)
    return Outcome(measurements=notebook.measurements, base=base, trained_parameters=0, stored_parameters=0, tokens=0)


def _one_lora(run: Run) -> tuple[OneLora, dict[str, Any], dict[str, tuple[Rendered, ...]]]:
    """(a base with one LoRA, the base's identity, each domain's test rows)."""
    base = load_base(run.base)
    one = OneLora(base, run.config, name=_ONE)
    identity = {"name": run.base, "source": base.source, "weights_sha256": base.weights_sha256}
    return one, identity, {d: one.render(s.test) for d, s in run.domains.items()}
