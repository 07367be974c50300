"""Running a recipe: each run to its receipt, resumable after every domain, several processes sharing the work."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from crma.bench.receipt import Receipt, read_receipts, write_receipt
from crma.benchmark.conditions import condition_named
from crma.benchmark.learners import learn
from crma.benchmark.memory import forget_peak_memory, peak_memory_mb
from crma.benchmark.recipes import Recipe
from crma.benchmark.run import Listener, Run
from crma.benchmark.streams import STREAMS, load_stream
from crma.benchmark.toy import toy_base
from crma.data.domains import document_hashes, leaks, split_hashes
from crma.data.render import ensure_chat_template
from crma.errors import ConfigError, DataError
from crma.learning import RULE
from crma.model.backbone import BackboneConfig
from crma.model.base import load_tokenizer
from crma.stack import files
from crma.train.config import OF_THE_BACKBONE, LearnConfig

__all__ = ["run_recipe"]


def run_recipe(
    recipe: Recipe,
    results: Path,
    work: Path,
    *,
    stream: str | None = None,
    condition: str | None = None,
    seed: int | None = None,
    order: int | None = None,
    data: Path | None = None,
    keep: bool = False,
    say: Callable[[str], None] = lambda _text: None,
    on_event: Listener = lambda _kind, _value: None,
) -> list[Path]:
    """Make every receipt of `recipe` that is not there yet (or those of one stream, condition, seed or order).

    A receipt made with these settings is kept as it is. Kill it at any time: the same call goes on after the last
    domain that was finished, the stack's conditions even inside it. Two processes with the same call share the runs.

    Args:
        results: receipts go to `results/<recipe>/<stream>/<condition>-seed<seed>-order<order>.json`.
        work: scratch; a run's folder is removed when its receipt is written, but for `keep`.

    Raises:
        ConfigError: nothing of the recipe fits the choice, or a receipt there was made with other settings.
    """
    wanted = {"stream": stream, "condition": condition, "seed": seed, "order": order}
    chosen = [r for r in recipe.runs() if all(w is None or w == v for w, v in zip(wanted.values(), r, strict=True))]
    if not chosen:
        raise ConfigError(
            f"the recipe '{recipe.name}' has no such run",
            expected=f"one of {len(recipe.runs())} runs: conditions {', '.join(recipe.conditions)}",
            got={k: v for k, v in wanted.items() if v is not None},
        )
    base = str(toy_base()) if recipe.base == "toy" else recipe.base
    clock = _Clock(len(chosen), say)
    written = []
    for number, (name, which, at, ordering) in enumerate(chosen):
        path = results / recipe.name / name / f"{which}-seed{at}-order{ordering}.json"
        clock.begin(number, f"{name} · {which} · seed {at} · order {ordering}")
        made = _one(recipe, base, (name, which, at, ordering), path, work, data, clock, on_event, keep=keep)
        if made:
            written.append(path)
    return written


def _one(
    recipe: Recipe,
    base: str,
    which: tuple[str, str, int, int],
    path: Path,
    work: Path,
    data: Path | None,
    clock: _Clock,
    on_event: Listener,
    *,
    keep: bool,
) -> bool:
    stream_name, condition_name, seed, order = which
    stream, plan, condition = STREAMS[stream_name], recipe.streams[stream_name], condition_named(condition_name)
    config, shape = condition.config(plan, seed), condition.shape(plan, seed)
    settings = {"learn": config.model_dump(), "backbone": shape.model_dump() if shape else None}
    rule = {"rule": RULE} if shape or condition.learner == "copies" else {}  # of following
    settings["condition"] = {"learner": condition.learner, "says": condition.says, **rule}
    if path.is_file():
        _refuse_other_settings(path, settings)
        clock.skip("its receipt is there")
        return False
    digest = hashlib.sha256(json.dumps([settings, recipe.base], sort_keys=True).encode()).hexdigest()[:8]
    folder = work / recipe.name / stream_name / f"{condition_name}-seed{seed}-order{order}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=0):
            if path.is_file():  # while this process loaded, another one finished it
                clock.skip("its receipt is there")
                return False
            tokenizer = load_tokenizer(base)
            ensure_chat_template(tokenizer)
            splits = load_stream(stream, plan.sizes, tokenizer, seed=seed, data=data)
            leaking = {d: found for d, split in splits.items() if (found := leaks(split))}
            if leaking:
                raise DataError(
                    "a question stands in two splits",
                    where=stream_name,
                    expected="every row and document in one split",
                    got=str(leaking)[:200],
                    next_step="give the rows of one document the same `group`",
                )
            domains = {d: splits[d] for d in stream.orders[order]}
            elapsed = folder / "elapsed.json"
            before = files.read_json(elapsed)["seconds"] if elapsed.is_file() else 0.0
            began = time.perf_counter()
            forget_peak_memory()

            def heard(kind: str, value: Mapping[str, Any]) -> None:
                if kind == "domain":
                    files.write_json(elapsed, {"seconds": before + time.perf_counter() - began})
                    clock.tell(value)
                on_event(kind, value)

            outcome = learn(
                Run(
                    condition=condition,
                    plan=plan,
                    domains=domains,
                    folder=folder,
                    base=base,
                    seed=seed,
                    # As many more evaluations of all test rows as there are domains: once a stream.
                    rivals=condition_name == "crma" and (seed, order) == (recipe.seeds[0], plan.orders[0]),
                    on_event=heard,
                )
            )
            found = {f.name: getattr(outcome, f.name) for f in fields(outcome)}
            content = Receipt(
                recipe=recipe.name,
                stream=stream_name,
                kind=stream.kind,
                condition=condition_name,
                seed=seed,
                order=stream.orders[order],
                config=settings,
                data={d: split_hashes(s) for d, s in splits.items()},
                rows={
                    d: {"train": len(s.train), "validation": len(s.validation), "test": len(s.test)}
                    for d, s in splits.items()
                },
                documents={d: document_hashes(s.test) for d, s in splits.items()},
                seconds=before + time.perf_counter() - began,
                peak_memory_mb=peak_memory_mb(),
                **{**found, "base": {**outcome.base, "name": recipe.base}},
            )
            write_receipt(path, content.model_dump())
    except Timeout:
        clock.skip("another process is running it")
        return False
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    clock.end()
    return True


def _refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    there = read_receipts(path)
    if not there or _normal(there[0].config) != _normal(settings):
        raise ConfigError(
            "the receipt there was made with other settings",
            where=str(path),
            expected="the recipe's present settings",
            next_step="move it away, or run with another --results folder; no receipt is overwritten",
        )


_GONE = frozenset({"absorb_always"})  # a setting of the backbone that receipts still name


def _normal(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that came after a receipt was written count as it ran: at their defaults. What only a backbone heeds
    says nothing about a run without one."""
    shape = settings["backbone"]
    learn = {"reads": "uniform", "widen": False, **settings["learn"]}  # what it was before it was said
    copies = settings["condition"]["learner"] == "copies"
    if shape is None:
        heeded = {"follow"} if copies else set()
        learn = {k: v for k, v in learn.items() if k not in (OF_THE_BACKBONE | _GONE) - heeded}
    return {
        "learn": LearnConfig(**learn) if learn.keys() <= LearnConfig.model_fields.keys() else learn,
        "backbone": BackboneConfig.stored(shape) if shape else None,
        "condition": {**({"rule": 1} if shape or copies else {}), **settings["condition"]},
    }


class _Clock:
    """Says which run is on, and how long the rest will take by those that are done."""

    def __init__(self, runs: int, say: Callable[[str], None]) -> None:
        self.runs, self.say = runs, say
        self.done: list[float] = []
        self.number, self.learnt, self.text, self.began = 0, 0, "", time.perf_counter()

    def begin(self, number: int, text: str) -> None:
        self.number, self.began, self.text, self.learnt = number, time.perf_counter(), text, 0

    def skip(self, reason: str) -> None:
        self.say(f"[{self.number + 1}/{self.runs}] {self.text}: {reason}")

    def tell(self, domain: Mapping[str, Any]) -> None:
        if domain["before"]:  # of a run that goes on: it took no time now
            return
        self.learnt += 1
        spent = time.perf_counter() - self.began
        left = spent / self.learnt * (domain["of"] - domain["number"])
        mean = sum(self.done) / len(self.done) if self.done else spent + left
        rest = left + mean * (self.runs - self.number - 1)
        self.say(
            f"[{self.number + 1}/{self.runs}] {self.text}: {domain['domain']} ({domain['number']} of {domain['of']}); "
            f"this run about {left / 60:.0f} min more, all at most {rest / 60:.0f}"
        )

    def end(self) -> None:
        self.done.append(time.perf_counter() - self.began)
