"""The demo: three fictional domains learnt in sequence, by one naive LoRA and by CRMA, and what each remembers.

About five minutes on two cores. The facts are invented (data/worlds.py), so the base cannot know them, and
the questions asked are paraphrases that were never trained.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crma.bench.metrics import drift_pct
from crma.bench.receipt import machine, write_receipt
from crma.continual import ContinualModel
from crma.data.render import end_of_turn_ids, render_prompt
from crma.data.worlds import is_exact_match, make_world, strangers
from crma.errors import ConfigError
from crma.generate.engine import generate
from crma.model.backbone import BackboneConfig
from crma.model.base import Base, load_base
from crma.model.matching import matched_rank, trained_numbers
from crma.stack.stack import Stack
from crma.train.config import LearnConfig
from crma.train.methods.naive import learn_naively
from crma.types import Example, Matrix, Message, Split
from crma.web.report import render_picture, render_report

__all__ = ["run_demo"]

DOMAINS = ("medicine", "law", "finance")
# Six facts a domain, each taught in four wordings and asked in another one.
WORLD = {"entities": 2, "attributes": 3, "train_paraphrases": 4}
ANSWER_TOKENS = 8
STRANGERS = 8
_MARK = "made-by-crma-demo.txt"
_ASKING = 12.0  # answering every question once, in training steps (measured)

Say = Callable[[str], None]


class _Clock:
    """Says what happens, how long it has taken, and how long it will take, from the share of the work that is done."""

    def __init__(self, say: Say, work: float) -> None:
        self.say, self.work, self.done = say, work, 0.0
        self.began = self.working_since = time.perf_counter()

    def ready(self) -> None:
        """What came before (loading, converting once, the base's answers) says nothing about the pace of learning."""
        self.working_since = time.perf_counter()

    def __call__(self, text: str, work: float = 0.0) -> None:
        self.done += work
        spent = time.perf_counter() - self.began
        pace = (time.perf_counter() - self.working_since) / self.done if self.done else 0.0
        left = f", about {pace * (self.work - self.done):.0f} s left" if self.done else ""
        self.say(f"[{spent:4.0f} s{left}] {text}")

    def step(self, work: float = 1.0) -> None:
        self.done += work

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began


def run_demo(folder: Path, report: Path, *, base: str = "smollm2-135m", seed: int = 0, say: Say) -> dict[str, Any]:
    """Run it, write `report` (HTML) with `report`.json and .svg beside it, and return what the report shows.

    Raises:
        ConfigError: `folder` holds something that no demo made.
    """
    _refuse_others(folder)
    worlds = {name: make_world(name, seed=seed, **WORLD).split for name in DOMAINS}
    # As the defaults are, but for what so few and so short rows need: more and smaller batches at a higher rate.
    config = LearnConfig(epochs=7, lr=4e-3, lr_backbone=4e-3, lr_mixing=4e-3, batch_size=3, max_length=128, seed=seed)
    asked = [(name, e) for name in DOMAINS for e in worlds[name].test]
    steps = round(config.epochs * -(-len(worlds[DOMAINS[0]].train) // config.batch_size))
    clock = _Clock(say, work=2 * len(DOMAINS) * steps + _ASKING * (2 * len(DOMAINS) + 1))

    clock(f"the base model: {base} (the first time it is converted, half a minute)")
    naive_base = load_base(base)  # before anything is removed: a mistyped one must cost nothing
    _clear(folder)
    model = ContinualModel.create(folder, base=base, backbone=BackboneConfig(seed=seed))
    untouched = [
        r.text for r in model.ask_many([e.prompt for _, e in asked], domain="base", max_new_tokens=ANSWER_TOKENS)
    ]
    base_exact = _exact(asked, untouched)
    clock.ready()
    clock(f"asked {len(asked)} questions about invented facts, the base knows {_share(base_exact)}")

    crma = _learn_with_crma(model, worlds, config, asked, base_exact, clock)
    # The naive adapter gets as many trained parameters as LoRA and backbone have together.
    matched = matched_rank(model.base.model, rank=config.rank, directions=_directions(model))
    naive = _learn_naively(naive_base, worlds, config.model_copy(update={"rank": matched}), asked, base_exact, clock)

    clock("questions of no domain")
    everyday = list(strangers()[:STRANGERS])
    replies = model.ask_many(everyday, max_new_tokens=ANSWER_TOKENS)
    plain = model.ask_many(everyday, domain="base", max_new_tokens=ANSWER_TOKENS)
    clock.step(_ASKING)
    audit = model.verify()
    last = next(reversed(audit["snapshots"].values()))
    status = model.status()
    answers, routes = crma.pop("answers"), crma.pop("routes")
    result = {
        "title": "CRMA demo",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": clock.seconds,
        "machine": machine(),
        "base": base,
        "base_source": model.base.source,
        "domains": list(DOMAINS),
        "questions_per_domain": len(worlds[DOMAINS[0]].test),
        "config": config.model_dump(),
        "methods": {"naive": naive, "crma": crma},
        "samples": _samples(asked, untouched, naive.pop("answers"), answers, routes),
        "strangers": [
            {
                "question": question,
                "route": reply.route.domain,
                "confidence": reply.route.confidence,
                "answer": reply.text,
                "same_as_base": reply.text == untouched_reply.text,
            }
            for question, reply, untouched_reply in zip(everyday, replies, plain, strict=True)
        ],
        "routing": {
            "accuracy": sum(r == d for (d, _), r in zip(asked, routes, strict=True)) / len(asked),
            "strangers_to_base": sum(r.route.domain is None for r in replies) / len(replies),
            "questions": len(asked),
            "strangers": len(replies),
        },
        "certificate": {
            "holds": audit["ok"],
            "norm_bound": last["certificate"]["norm_bound"],
            "worst_operator_norm": last["worst_operator_norm"],
            "sites": len(last["sites"]),
        },
        "snapshots": [
            {
                "id": s["id"],
                "domain": s["domain"],
                "share": s["share"],
                "distance": s["distance_to_parent"]["max"],
            }
            for s in status["snapshots"]
        ],
        "steps": {"naive": naive.pop("steps"), "crma": crma.pop("steps")},
        "notes": [],
    }
    report.write_text(render_report(result), encoding="utf-8")
    report.with_suffix(".svg").write_text(render_picture(result), encoding="utf-8")
    write_receipt(report.with_suffix(".json"), result)
    _tell(result, say)
    say(f'\n{report} shows it all; ask on: crma ask {folder} "{asked[0][1].prompt}" --show-route')
    return result


def _learn_with_crma(
    model: ContinualModel,
    worlds: Mapping[str, Split],
    config: LearnConfig,
    asked: Sequence[tuple[str, Example]],
    base_exact: Sequence[float],
    clock: _Clock,
) -> dict[str, Any]:
    began = time.perf_counter()
    steps: list[dict[str, Any]] = []
    exact = [list(base_exact)]
    answers: list[str] = []
    routes: list[str | None] = []

    def listen(kind: str, value: Mapping[str, Any]) -> None:
        if kind == "step":
            clock.step()
            steps.append(_step_line(value, len(steps)))
        elif kind == "note":
            clock(f"  {value['text']}")

    for name, split in worlds.items():
        clock(f"CRMA learns {name}")
        model.learn(name, split, config, on_event=listen)
        replies = model.ask_many([e.prompt for _, e in asked], max_new_tokens=ANSWER_TOKENS)
        clock.step(_ASKING)
        answers, routes = [r.text for r in replies], [r.route.domain for r in replies]
        exact.append(_exact(asked, answers))
        clock(f"  answers right now: {_share(exact[-1])}")
    learnt = [e for e in model.stack.read_ledger() if e["kind"] == "learn"]
    losses = [[e["test_loss_floating"].get(d) for d in worlds] for e in learnt]
    untouched = [e["loss_base"] for e in learnt]
    return {
        "label": "CRMA: frozen base, bounded backbone, one LoRA a domain, router",
        "exact": exact,
        "loss": [untouched, *losses],
        "drift_pct": [drift_pct(losses[i][i], losses[-1][i]) for i in range(len(worlds))],
        "seconds": time.perf_counter() - began,
        "rank": config.rank,
        "trained_parameters": trained_numbers(model.base.model, rank=config.rank, directions=_directions(model)),
        "answers": answers,
        "routes": routes,
        "steps": steps,
    }


def _learn_naively(
    base: Base,
    worlds: Mapping[str, Split],
    config: LearnConfig,
    asked: Sequence[tuple[str, Example]],
    base_exact: Sequence[float],
    clock: _Clock,
) -> dict[str, Any]:
    began = time.perf_counter()
    steps: list[dict[str, Any]] = []
    exact = [list(base_exact)]
    answers: list[str] = []

    def listen(kind: str, value: Mapping[str, Any]) -> None:
        if kind == "step":
            clock.step()
            steps.append(_step_line(value, len(steps)))
        elif kind == "phase":
            clock(f"one LoRA, trained on, learns {value['domain']}")

    def after(_domain: str) -> None:
        answers[:] = _answers(base, [e for _, e in asked])
        clock.step(_ASKING)
        exact.append(_exact(asked, answers))
        clock(f"  answers right now: {_share(exact[-1])}")

    adapters, matrix = learn_naively(base, worlds, config, on_event=listen, after_domain=after)
    return {
        "label": "one LoRA, trained on and on",
        "exact": exact,
        "loss": [list(matrix.base), *(list(row) for row in matrix.rows)],
        "drift_pct": _drifts(matrix),
        "seconds": time.perf_counter() - began,
        "rank": config.rank,
        "trained_parameters": sum(p.numel() for p in adapters.parameters("naive").values()),
        "answers": list(answers),
        "steps": steps,
    }


def _answers(base: Base, examples: Sequence[Example]) -> list[str]:
    prompts = [render_prompt((Message(role="user", content=e.prompt),), base.tokenizer) for e in examples]
    pad = base.tokenizer.pad_token_id
    assert isinstance(pad, int)
    stop = end_of_turn_ids(base.tokenizer)
    ids = generate(base.model, prompts, stop_ids=stop, pad_id=pad, max_new_tokens=ANSWER_TOKENS)
    return [str(base.tokenizer.decode(i, skip_special_tokens=True)).strip() for i in ids]


def _exact(asked: Sequence[tuple[str, Example]], answers: Sequence[str]) -> list[float]:
    """Share of exact matches a domain."""
    right: dict[str, list[bool]] = {name: [] for name in DOMAINS}
    for (name, example), answer in zip(asked, answers, strict=True):
        right[name].append(is_exact_match(answer, example.completion))
    return [sum(found) / len(found) for found in right.values()]


def _samples(
    asked: Sequence[tuple[str, Example]],
    before: Sequence[str],
    naive: Sequence[str],
    crma: Sequence[str],
    routes: Sequence[str | None],
    each: int = 3,
) -> list[dict[str, Any]]:
    """The first `each` questions a domain, whatever came out."""
    chosen: list[dict[str, Any]] = []
    for index, (name, example) in enumerate(asked):
        if sum(s["domain"] == name for s in chosen) < each:
            said = {"before": before[index], "naive": naive[index], "crma": crma[index]}
            correct = {who: is_exact_match(text, example.completion) for who, text in said.items()}
            chosen.append(
                {"domain": name, "question": example.prompt, "expected": example.completion, **said}
                | {"route": routes[index], "correct": correct}
            )
    return chosen


def _step_line(value: Mapping[str, Any], before: int) -> dict[str, Any]:
    return {
        "step": before + 1,
        "domain": value["domain"],
        "phase": value["phase"],
        "loss": value["loss"],
        "grad_adapter": value["grad_norm"].get("adapter"),
        "grad_backbone": value["grad_norm"].get("backbone"),
        "tokens_per_s": value["tokens"] / value["seconds"],
    }


def _directions(model: ContinualModel) -> int:
    assert model.backbone is not None  # the demo's stack is made with one
    return model.backbone.config.directions


def _drifts(matrix: Matrix) -> list[float | None]:
    found: list[float | None] = []
    for i in range(len(matrix.domains)):
        after, now = matrix.rows[i][i], matrix.rows[-1][i]
        found.append(drift_pct(after, now) if after is not None and now is not None else None)
    return found


def _share(exact: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:.0%}" for name, value in zip(DOMAINS, exact, strict=True))


def _tell(result: Mapping[str, Any], say: Say) -> None:
    say("\nExact answers to unseen wordings, after all three domains:")
    for key, method in result["methods"].items():
        drift = ", ".join("-" if d is None else f"{d:+.1f} %" for d in method["drift_pct"])
        say(f"  {key:6} {_share(method['exact'][-1])}   (drift of the test loss: {drift})")
    routing = result["routing"]
    say(f"Routed right: {routing['accuracy']:.0%}; strangers sent to the base: {routing['strangers_to_base']:.0%}")
    say(f"Bound on every site: {'holds' if result['certificate']['holds'] else 'DOES NOT HOLD'}")


def _refuse_others(folder: Path) -> None:
    """Only what a demo has made is ever removed: a user's own stack may be of the same three domains."""
    if folder.exists() and not (folder / _MARK).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(
            "this folder is not the demo's",
            where=str(folder),
            expected=f"a new or empty folder, or one that a demo made ({_MARK} is in it)",
            got="a folder with other files" if folder.is_dir() else "a file",
            next_step="give another one with --folder",
        )


def _clear(folder: Path) -> None:
    """Remove an earlier demo's stack, while nobody writes to it."""
    if (folder / _MARK).is_file():
        with Stack.open(folder).lock() if Stack.exists(folder) else nullcontext():
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).write_text("Made by `crma demo`, which removes this folder when it runs again.\n")
