"""What the commands say once they are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from crma.cli.common import out, print_json

__all__ = [
    "number",
    "percent",
    "tell_extended",
    "tell_learnt",
    "tell_plan",
    "tell_route",
    "tell_sorted",
    "tell_written",
]


def tell_written(written: Sequence[Path], where: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"written": [str(path) for path in written]})
    else:
        out.print(f"{len(written)} receipts written under {where}", highlight=False)


def tell_learnt(stack: Path, learnt: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(learnt))
        return
    table = Table("domain", "test loss now", "", title=f"{stack}: {learnt.domain} learnt in {learnt.seconds:.0f} s")
    for name, loss in learnt.losses.items():
        table.add_row(name, number(loss), "new" if name == learnt.domain else "")
    out.print(table)


def tell_sorted(done: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"done": [asdict(d) for d in done]})
        return
    for d in done:
        what = f"extended, {d.share:.0%} of the way" if hasattr(d, "left_out") else "new"
        out.print(f"{d.domain}: {what}; rows {dict(d.rows)}", highlight=False, markup=False)


def tell_plan(found: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"plan": [asdict(p) for p in found]})
        return
    for planned in found:
        what = "new" if planned.new else "extended" if planned.domain else "these rows wait"
        out.print(f"{planned.domain or '-'}: {what}, {planned.rows} rows", highlight=False, markup=False)
        for sample in planned.samples:
            out.print(f"    {' '.join(sample.split())[:100]}", highlight=False, markup=False)


def tell_extended(stack: Path, extended: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(extended))
        return
    text = f"{stack}: '{extended.domain}' went {extended.share:.0%} of the way to what the new rows taught"
    if extended.loss_before is not None:
        text += f"; their test loss {extended.loss_before:.4f} to {extended.loss_after:.4f}"
    out.print(text if extended.share else f"{text}: nothing is changed", highlight=False, markup=False)


def tell_route(reply: Any) -> None:
    route = reply.route
    out.print(f"→ {route.domain or 'the untouched base'}: {_why(route)}", markup=False, highlight=False)
    if len(reply.shares) > 1:
        told = ", ".join(f"{name} {share:.0%}" for name, share in reply.shares.items())
        out.print(f"  answered together: {told}", markup=False, highlight=False)
    if not route.scores:
        return
    meaning = "score: log-odds against everyday prompts, and how usual the words are"
    table = Table("domain", "score", "accepts from", "probability", title=meaning)
    for name in sorted(route.scores, key=lambda n: -route.probabilities[n]):
        score, bar = route.scores[name], route.thresholds[name]
        accepts = f"{bar:.1f}{' (accepts)' if score >= bar else ''}"
        table.add_row(name, f"{score:.1f}", accepts, f"{route.probabilities[name]:.2f}")
    out.print(table)


def _why(route: Any) -> str:
    if not route.scores:
        return "chosen by the caller" if route.confidence == 1.0 else "there was no domain to ask, or nothing to read"
    if route.carried:
        return "so the conversation goes; this turn alone would have gone elsewhere"
    score, bar = route.scores[route.nearest], route.thresholds[route.nearest]
    if route.abstained:
        return f"no domain takes it; {route.nearest} is nearest, accepts from {bar:.1f} on, and this scores {score:.1f}"
    more = sum(s >= route.thresholds[d] for d, s in route.scores.items()) - 1
    nearest = f", and it is the nearest of {more + 1} that do" if more else ", and no other does"
    return f"it accepts this (score {score:.1f}, from {bar:.1f} on){nearest}; confidence {route.confidence:.2f}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f} %"
