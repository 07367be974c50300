"""What the advantage depends on: how many domains were learnt, how many rows each has, at which rate; from receipts.

Runs at another number of rows or another rate stand beside their recipe, as "small-rows25" and "small-lr0.001".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from crma.bench.headline import Run, average, group_runs, interval, mean_loss
from crma.bench.metrics import advantage_pct
from crma.bench.receipt import Receipt

__all__ = ["Growth", "RatePoint", "RowsPoint", "growth", "rates", "rows_study", "whole"]

_VARIANT = re.compile(r"^(?P<of>.+?)-(?:rows(?P<rows>\d+)|lr(?P<lr>[0-9.e-]+))$")

# (all domains so far, the one just learnt): advantage over frozen in per cent, after each number of domains
Growth = list[tuple[float, float]]
# (rows a domain, runs, frozen's loss, crma's, the advantage, its interval)
RowsPoint = tuple[int, int, float, float, float, list[float] | None]
# (recipe/stream, condition, seed, order, {rate: validation loss just after learning})
RatePoint = tuple[str, str, int, tuple[str, ...], dict[float, float]]


def whole(receipts: Iterable[Receipt]) -> list[Receipt]:
    """Those to be shown as a benchmark: not another one's stream over again at other rows or another rate. Where a
    stream was only run as points of a rate grid, it is the point at which the control, frozen, loses least on
    validation rows: at any other an advantage over it may be its bad rate alone."""
    receipts = list(receipts)
    there = {(r.recipe, r.stream) for r in receipts}
    control = {key: min(losses, key=lambda rate: losses[rate]) for key, losses in _control_by_rate(receipts).items()}

    def shown(receipt: Receipt) -> bool:
        match = _VARIANT.match(receipt.recipe)
        if match is None:
            return True
        best = control.get(f"{match['of']}/{receipt.stream}")
        at_best = not match["lr"] or best is None or receipt.config.get("learn", {}).get("lr") == best
        return at_best and (match["of"], receipt.stream) not in there

    return [r for r in receipts if shown(r)]


def _control_by_rate(receipts: Iterable[Receipt]) -> dict[str, dict[float, float]]:
    """ "recipe/stream" -> {rate: frozen's validation loss, mean over the seeds and orders that have the rate}."""
    found: dict[str, dict[float, list[float]]] = {}
    for key, condition, _seed, _order, losses in rates(receipts):
        for rate, loss in losses.items() if condition == "frozen" else ():
            found.setdefault(key, {}).setdefault(rate, []).append(loss)
    return {key: {rate: sum(x) / len(x) for rate, x in by_rate.items()} for key, by_rate in found.items()}


def growth(runs: Sequence[Run]) -> Growth | None:
    """100 (L_frozen − L_crma) / L_frozen after 1, 2, … T domains, crma under the backbone of that day, L the mean over
    the domains learnt so far; and the same of the newest domain alone. Means over runs as everywhere.

    None where no run has both with the whole matrix.
    """
    pairs = [r for r in runs if {"crma", "frozen"} <= set(r.receipts) and _after(r, len(r.order)) is not None]
    if not pairs:
        return None
    found: Growth = []
    for t in range(1, len(pairs[0].order) + 1):
        so_far = average(pairs, lambda r, t=t: _after(r, t))
        newest = average(pairs, lambda r, t=t: _after(r, t, only_newest=True))
        if so_far is None or newest is None:
            return None
        found.append((so_far, newest))
    return found


def _after(run: Run, t: int, *, only_newest: bool = False) -> float | None:
    domains = run.order[t - 1 : t] if only_newest else run.order[:t]
    losses = {}
    for condition in ("crma", "frozen"):
        measured = {d: m for d in domains if (m := run.receipts[condition].find("floating", t, d)) is not None}
        if len(measured) < len(domains):
            return None
        losses[condition] = mean_loss(measured)
    return advantage_pct(theirs=losses["frozen"], ours=losses["crma"])


def rows_study(receipts: Iterable[Receipt]) -> dict[str, list[RowsPoint]]:
    """By "recipe/stream", for each number of training rows at which crma and frozen were both run: see RowsPoint.

    A stream is in it where it was run at another number than its recipe's.
    """
    by_size: dict[str, dict[int, list[Run]]] = {}
    varied = set()
    for run in group_runs(receipts):
        match = _VARIANT.match(run.recipe)
        if run.advantage("crma", "frozen") is None or (match and match["lr"]):
            continue
        key = f"{match['of'] if match else run.recipe}/{run.stream}"
        if match:
            varied.add(key)
        size = max(rows.get("train", 0) for rows in run.receipts["crma"].rows.values())
        by_size.setdefault(key, {}).setdefault(size, []).append(run)
    return {key: [_point(size, runs) for size, runs in sorted(by_size[key].items())] for key in sorted(varied)}


def _point(size: int, runs: Sequence[Run]) -> RowsPoint:
    frozen, crma = (average(runs, lambda r, m=m: r.loss(m)) for m in ("frozen", "crma"))
    gain = average(runs, lambda r: r.advantage("crma", "frozen"))
    assert frozen is not None
    assert crma is not None
    assert gain is not None
    return size, len(runs), frozen, crma, gain, interval(runs, "crma", "frozen")


def rates(receipts: Iterable[Receipt]) -> list[RatePoint]:
    """Validation losses just after learning (what a rate is chosen by), wherever a condition was run at several."""
    found: dict[tuple[str, str, int, tuple[str, ...]], dict[float, float]] = {}
    for receipt in receipts:
        match = _VARIANT.match(receipt.recipe)
        losses = []
        for t, domain in enumerate(receipt.order, start=1):
            # What learns all at once was measured on all of them after it.
            one = receipt.find("floating", t, domain, split="validation")
            measured = one or receipt.find("floating", len(receipt.order), domain, split="validation")
            losses += [measured.loss] if measured else []
        rate = receipt.config.get("learn", {}).get("lr")
        if rate is None or len(losses) < len(receipt.order):
            continue
        key = f"{match['of'] if match and match['lr'] else receipt.recipe}/{receipt.stream}"
        of = found.setdefault((key, receipt.condition, receipt.seed, receipt.order), {})
        of[rate] = sum(losses) / len(losses)
    return [(*key, points) for key, points in sorted(found.items()) if len(points) > 1]
