"""The few numbers a reader asks for first, computed from receipts alone: advantage, captured share, drift.

Words used here. A *run* is one recipe, stream, seed and order: what conditions are compared within, and only within. A
*method* is a way of answering after the last domain: a condition, or one of two that need no run of their own:
"naive-copies" (naive with a copy kept after each domain: the diagonal of its matrix) and "crma-pinned" (every adapter
under the snapshot it was verified on; "crma" is every adapter under the last one). L is the unweighted mean over the
domains of a run of the test loss, itself the mean over supervised tokens, in nats a token. Means over runs are taken
over the orders of a seed, then over the seeds of a stream, then over the streams of a kind. What was not measured is
None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from crma.bench.metrics import advantage_pct, captured_share, drift_pct
from crma.bench.quality import Quality, quality_numbers
from crma.bench.receipt import KNOWS_NO_ORDER, Measurement, Receipt, View
from crma.bench.resampling import paired_relative_advantage
from crma.bench.routing import RoutingReceipt, routing_numbers
from crma.bench.statistics import mean_sd
from crma.errors import DataError

__all__ = [
    "RECIPES",
    "Run",
    "average",
    "group_runs",
    "headline",
    "interval",
    "mean_loss",
    "nested_mean",
    "paired_interval",
    "preferred_recipe",
]

RECIPES = ("paper", "small")  # the first that is complete is shown
_PINNED = "-pinned"
_COPIES = "naive-copies"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The receipts of one recipe, stream, seed and order, by condition: all on the same rows of the same base."""

    recipe: str
    stream: str
    kind: Literal["far", "near"]
    seed: int
    order: tuple[str, ...]
    receipts: Mapping[str, Receipt]

    @property
    def name(self) -> str:
        return f"{self.recipe}/{self.stream}, seed {self.seed}, {' '.join(self.order)}"

    def receipt(self, method: str) -> Receipt | None:
        """The receipt that `method` is read from."""
        return self.receipts.get("naive" if method == _COPIES else method.removesuffix(_PINNED))

    def at_end(self, method: str, view: View | None = None) -> dict[str, Measurement] | None:
        """What each domain's test rows lose when all domains are learnt, or None where that was not measured.

        `view`: another than the method's own, such as "routed".

        Raises:
            DataError: measured on some domains and not on others.
        """
        receipt = self.receipt(method)
        if method == "base":
            # It learns nothing, so whichever receipt of the same rows scored it on all of them will do.
            for candidate in self.receipts.values():
                found = {d: m for d in self.order if (m := candidate.find("base", 0, d)) is not None}
                if len(found) == len(self.order):
                    return found
            return None
        if receipt is None:
            return None
        if method == _COPIES:
            return self.just_after(method)
        own: View = "pinned" if method.endswith(_PINNED) else "floating"
        return self._measured(receipt, view or own, {d: len(self.order) for d in self.order})

    def just_after(self, method: str) -> dict[str, Measurement] | None:
        """R[i][i] of each domain; None for what does not learn domain by domain."""
        receipt = self.receipt(method)
        if receipt is None or method in ("base", "joint"):
            return None
        return self._measured(receipt, "floating", {d: i + 1 for i, d in enumerate(self.order)})

    def documents(self, domain: str) -> tuple[str, ...]:
        """That each test row of a domain came from; empty where no receipt says it."""
        return next((found for r in self.receipts.values() if (found := r.documents.get(domain))), ())

    def ahead(self, method: str) -> tuple[dict[str, Measurement], dict[str, Measurement]] | None:
        """(as routed by what had been learnt before it, under the base) of each domain but the first."""
        receipt = self.receipt(method)
        if receipt is None:
            return None
        routed = {d: m for i, d in enumerate(self.order) if i and (m := receipt.find("routed", i, d)) is not None}
        base = {d: m for d in routed if (m := receipt.find("base", 0, d)) is not None}
        return (routed, base) if routed and len(base) == len(routed) else None

    def loss(self, method: str, view: View | None = None) -> float | None:
        """L at the end."""
        measured = self.at_end(method, view)
        return None if measured is None else mean_loss(measured)

    def learning_loss(self, method: str) -> float | None:
        """L just after each domain."""
        measured = self.just_after(method)
        return None if measured is None else mean_loss(measured)

    def drifts(self, method: str) -> dict[str, float] | None:
        """100 (R[T][i] − R[i][i]) / R[i][i] of each domain before the last, which alone can drift (PROTOCOL rule 4)."""
        now, after = self.at_end(method), self.just_after(method)
        if now is None or after is None:
            return None
        return {d: drift_pct(after[d].loss, now[d].loss) for d in self.order[:-1]}

    def advantage(self, ours: str, theirs: str, *, view: View | None = None, domain: str | None = None) -> float | None:
        """100 (L_theirs − L_ours) / L_theirs at the end, of one domain if named: positive means ours is better."""
        us, them = self.at_end(ours, view), self.at_end(theirs, view)
        if us is None or them is None:
            return None
        if domain is not None:
            us, them = {domain: us[domain]}, {domain: them[domain]}
        return advantage_pct(theirs=mean_loss(them), ours=mean_loss(us))

    def _measured(self, receipt: Receipt, view: View, after: Mapping[str, int]) -> dict[str, Measurement] | None:
        found = {d: receipt.find(view, t, d) for d, t in after.items()}
        missing = [d for d, m in found.items() if m is None]
        if len(missing) == len(found):
            return None
        if missing:
            raise DataError(
                "a domain was not measured where the others were",
                where=receipt.name,
                expected=f"{view} test rows of every domain",
                got=f"none of {', '.join(missing)}",
                next_step="let the run finish with `crma bench run`",
            )
        return cast("dict[str, Measurement]", found)


def mean_loss(measured: Mapping[str, Measurement]) -> float:
    """L: the unweighted mean over domains of each one's mean over its supervised tokens, in nats a token."""
    return sum(m.loss for m in measured.values()) / len(measured)


def group_runs(receipts: Iterable[Receipt]) -> tuple[Run, ...]:
    """Receipts that may be compared, together; ordered by recipe, stream, seed and order.

    One receipt of a condition that knows no order stands in every order that was run of its seed.

    Raises:
        DataError: two receipts of one run disagree on the rows or the base, or are of the same condition; or those of
            a condition were made by different rules.
    """
    groups: dict[tuple[str, str, int, tuple[str, ...]], dict[str, Receipt]] = {}
    rules: dict[tuple[str, str, str], Receipt] = {}
    for receipt in receipts:
        _check_rule(rules.setdefault((receipt.recipe, receipt.stream, receipt.condition), receipt), receipt)
        group = groups.setdefault((receipt.recipe, receipt.stream, receipt.seed, receipt.order), {})
        if receipt.condition in group:
            raise DataError(
                "two receipts say they are the same run",
                where=receipt.name,
                expected="one receipt a recipe, stream, condition, seed and order",
                next_step="keep the one you trust and move the other away",
            )
        if group:
            _check_pair(next(iter(group.values())), receipt)
        group[receipt.condition] = receipt
    _fill_orders(groups)
    runs = []
    for (recipe, stream, seed, order), group in sorted(groups.items()):
        kind = next(iter(group.values())).kind
        runs.append(Run(recipe=recipe, stream=stream, kind=kind, seed=seed, order=order, receipts=group))
    return tuple(runs)


def _fill_orders(groups: Mapping[tuple[str, str, int, tuple[str, ...]], dict[str, Receipt]]) -> None:
    for (*where, order), group in groups.items():
        for (*there, _), others in groups.items():
            for condition in KNOWS_NO_ORDER & others.keys() - group.keys() if there == where else ():
                _check_pair(next(iter(group.values())), others[condition])
                group[condition] = others[condition].in_order(order)


def _check_rule(one: Receipt, other: Receipt) -> None:
    """Means over seeds and orders are of one method: see `crma.learning.RULE`."""
    a, b = (r.config.get("condition", {}).get("rule", 1) for r in (one, other))
    if a != b:
        raise DataError(
            "receipts of one condition were made by different rules of following",
            where=f"{one.name}\n         and {other.name}",
            expected=f"rule {a}",
            got=f"rule {b}",
            next_step="make the older ones again with `crma bench run`, or move them away",
        )


def _check_pair(one: Receipt, other: Receipt) -> None:
    for what, a, b in (
        ("rows", one.data, other.data),
        ("kind of stream", one.kind, other.kind),
        ("base model", one.base.get("weights_sha256"), other.base.get("weights_sha256")),
    ):
        if a != b:
            raise DataError(
                f"these two receipts are not of the same {what}, so no number may compare them",
                where=f"{one.name}\n         and {other.name}",
                expected=_difference(a, b),
                got=_difference(b, a),
                next_step="make both again with `crma bench run` from one set of data and one base",
            )


def _difference(a: object, b: object) -> str:
    """Of two mappings of hashes only the parts of `a` that differ; else `a` itself."""
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return str(a)
    parts = []
    for domain in sorted({*a, *b}):
        x, y = a.get(domain, {}), b.get(domain, {})
        parts += [f"{domain}/{s} {str(x.get(s))[:12]}" for s in sorted({*x, *y}) if x.get(s) != y.get(s)]
    return ", ".join(parts)


def average(runs: Sequence[Run], value: Callable[[Run], float | None]) -> float | None:
    """The mean over the orders of a seed, then over a stream's seeds, then over streams; None where none has it."""
    return nested_mean({(r.stream, r.seed, r.order): x for r in runs if (x := value(r)) is not None})


def nested_mean(values: Mapping[tuple[Any, ...], float]) -> float | None:
    """The mean over the last part of the keys within equal earlier parts, then over the part before, and so on."""
    if not values:
        return None
    level = dict(values)
    while (depth := len(next(iter(level)))) > 0:
        inner: dict[tuple[Any, ...], list[float]] = {}
        for key, x in level.items():
            inner.setdefault(key[: depth - 1], []).append(x)
        level = {key: sum(xs) / len(xs) for key, xs in inner.items()}
    return level[()]


def interval(
    runs: Sequence[Run], ours: str, theirs: str, *, view: View | None = None, domain: str | None = None
) -> list[float] | None:
    """[low, high], 95 %, of the mean advantage (%) of `ours` over `theirs`: a paired bootstrap over the test rows'
    documents, drawn once for all seeds.

    A row that several runs were tested on is one item: its losses, each over its run's L_theirs, are averaged over
    those runs as `average` does, so that the estimate is exactly the mean of the runs' advantages. Seeds and orders are
    averaged and not drawn again: the interval speaks of these runs on other documents, of one domain if named. Rows
    whose documents no receipt of their run names count as documents of their own.
    """
    pairs = [(r, a, b) for r in runs if (a := r.at_end(ours, view)) and (b := r.at_end(theirs, view))]
    if domain is not None:
        pairs = [(r, {domain: a[domain]}, {domain: b[domain]}) for r, a, b in pairs]
    return paired_interval(pairs)


def paired_interval(
    pairs: Sequence[tuple[Run, Mapping[str, Measurement], Mapping[str, Measurement]]],
) -> list[float] | None:
    """`interval` of any two measurements of the same domains in each run: (run, ours, theirs)."""
    weights = _weights([r for r, _, _ in pairs])
    # A stratum is a domain's test rows; where a seed has rows of its own, they are a stratum of their own.
    strata: dict[str, list[tuple[float, Measurement, Measurement]]] = {}
    documents: dict[str, list[str]] = {}
    for (run, us, them), weight in zip(pairs, weights, strict=True):
        scale = weight / len(them) / mean_loss(them)
        for d in them:
            rows = next(iter(run.receipts.values())).data.get(d, {}).get("test", run.name)
            name = f"{run.stream}/{d}/{rows}"
            strata.setdefault(name, []).append((scale, us[d], them[d]))
            known = run.documents(d) or [f"{rows}/{i}" for i in range(len(us[d].losses))]
            documents[name] = [f"{run.stream}/{d}/{document}" for document in known]
    if not strata:
        return None
    sides: tuple[dict[str, tuple[Any, Any]], ...] = ({}, {})
    for name, entries in strata.items():
        tokens = entries[0][1].tokens
        for side, measured in zip(
            sides, ([(s, a) for s, a, _ in entries], [(s, b) for s, _, b in entries]), strict=True
        ):
            if any(m.tokens != tokens for _, m in measured):
                raise DataError(
                    "runs on the same test rows count other tokens",
                    where=f"{pairs[0][0].recipe}/{name}",
                    expected=f"{sum(tokens)} tokens in {len(tokens)} rows everywhere",
                    got=sorted({f"{sum(m.tokens)} in {len(m.tokens)}" for _, m in measured}),
                    next_step="score every run with the same tokeniser and length",
                )
            side[name] = (sum(scale * np.array(m.losses) for scale, m in measured), np.array(tokens))
    found = paired_relative_advantage(*sides, documents)
    return [found.low, found.high]


def _weights(runs: Sequence[Run]) -> list[float]:
    """What each run's value counts for in `average`; they add up to 1."""
    streams = {r.stream for r in runs}
    weights = []
    for run in runs:
        seeds = {r.seed for r in runs if r.stream == run.stream}
        orders = [r for r in runs if (r.stream, r.seed) == (run.stream, run.seed)]
        weights.append(1.0 / (len(streams) * len(seeds) * len(orders)))
    return weights


def preferred_recipe(runs: Sequence[Run]) -> str | None:
    """The first of RECIPES that is complete, else the first that compares anything; None where none does.

    Complete: crma and frozen can be compared in every stream and seed in which any of RECIPES has a receipt of crma.
    """
    runs = [r for r in runs if r.recipe in RECIPES]
    wanted = {(r.stream, r.seed) for r in runs if "crma" in r.receipts}
    compared = {
        recipe: {(r.stream, r.seed) for r in runs if r.recipe == recipe and {"crma", "frozen"} <= set(r.receipts)}
        for recipe in RECIPES
    }
    complete = [r for r in RECIPES if wanted and compared[r] >= wanted]
    # An unfinished paper-sized benchmark yields to a smaller one that is done, or at least compares more.
    return next(iter(complete or sorted((r for r in RECIPES if compared[r]), key=lambda r: -len(compared[r]))), None)


def headline(
    receipts: Iterable[Receipt],
    routing: Iterable[RoutingReceipt] = (),
    *,
    quality: Quality | None = None,
    recipe: str | None = None,
) -> dict[str, Any]:
    """For "far" and "near" the numbers below, None where a receipt is missing; for "near" also a stream, in "streams".
    Under "router" those of `routing_numbers`, and `routed_vs_oracle_pct`: 100 (L_routed − L_pinned) / L_pinned, the
    mean over the far and the near runs shown here. Under "quality" those of `quality_numbers`.

    recipe: which it is; `recipe` if given, else `preferred_recipe` of the kind's runs
    advantage_pct: of crma over frozen, 100 (L_frozen − L_crma) / L_frozen at the end, crma under its last backbone:
        `mean`, `sd` and `per_seed` (a seed that every stream has), `interval` (see `interval`)
    advantage_pinned_pct, advantage_routed_pct: the same with crma pinned; with both as the router serves
        them (crma pinned)
    captured_share: (L_frozen − L_crma) / (L_frozen − L_joint) of L averaged over the runs that have all three; None
        also where joint is no better than frozen and there is nothing to capture (then `joint_gain_pct` ≤ 0)
    joint_gain_pct: 100 (L_frozen − L_joint) / L_frozen
    drift_floating_pct, drift_pinned_pct: 100 (R[T][i] − R[i][i]) / R[i][i] over domains before the last; `mean`, and
        `worst` of any domain in any run
    naive_forgetting_pct: the mean drift of one LoRA trained on and on
    naive_copies_vs_pinned_pct: 100 (L_copies − L_pinned) / L_copies: positive means crma pinned is better
    runs, orders: pairs of crma and frozen; distinct orders among them, in the stream that has fewest

    Raises:
        DataError: receipts of one run are not of the same rows, or one is incomplete.
    """
    runs = group_runs(receipts)
    result: dict[str, Any] = {}
    shown: list[Run] = []
    for kind in ("far", "near"):
        of_kind = [r for r in runs if r.kind == kind]
        chosen = recipe or preferred_recipe(of_kind)
        of_kind = [r for r in of_kind if r.recipe == chosen]
        result[kind] = {"recipe": chosen, **_numbers(of_kind)}
        if kind == "near":
            streams = sorted({r.stream for r in of_kind})
            result[kind]["streams"] = {
                s: {"recipe": chosen, **_numbers([r for r in of_kind if r.stream == s])} for s in streams
            }
        shown += of_kind
    result["router"] = {**routing_numbers(list(routing)), "routed_vs_oracle_pct": average(shown, _routed_excess)}
    result["quality"] = quality_numbers(quality or Quality())
    return result


def _routed_excess(run: Run) -> float | None:
    routed, oracle = run.loss("crma", "routed"), run.loss("crma", "pinned")
    return None if routed is None or oracle is None else drift_pct(oracle, routed)


def _numbers(runs: Sequence[Run]) -> dict[str, Any]:
    pairs = [r for r in runs if r.advantage("crma", "frozen") is not None]
    streams = {r.stream for r in pairs}
    seeds = [s for s in sorted({r.seed for r in pairs}) if {r.stream for r in pairs if r.seed == s} == streams]
    per_seed = {
        str(s): average([r for r in pairs if r.seed == s], lambda r: r.advantage("crma", "frozen")) for s in seeds
    }
    of_seeds = [x for x in per_seed.values() if x is not None]
    with_joint = [r for r in pairs if r.loss("joint") is not None]
    return {
        "advantage_pct": {
            "mean": average(pairs, lambda r: r.advantage("crma", "frozen")),
            "sd": mean_sd(of_seeds).sd if of_seeds else None,
            "per_seed": per_seed,
            "interval": interval(pairs, "crma", "frozen"),
        },
        "advantage_pinned_pct": average(runs, lambda r: r.advantage("crma-pinned", "frozen")),
        "advantage_routed_pct": average(runs, lambda r: r.advantage("crma", "frozen", view="routed")),
        "captured_share": _captured(with_joint),
        "joint_gain_pct": average(runs, lambda r: r.advantage("joint", "frozen")),
        "drift_floating_pct": _drift(runs, "crma"),
        "drift_pinned_pct": _drift(runs, "crma-pinned"),
        "naive_forgetting_pct": _drift(runs, "naive")["mean"],
        "naive_copies_vs_pinned_pct": average(runs, lambda r: r.advantage("crma-pinned", "naive-copies")),
        "runs": len(pairs),
        "orders": min((len({r.order for r in pairs if r.stream == s}) for s in streams), default=0),
    }


def _captured(runs: Sequence[Run]) -> float | None:
    ours, frozen, joint = (average(runs, lambda r, m=m: r.loss(m)) for m in ("crma", "frozen", "joint"))
    return (
        None
        if ours is None or frozen is None or joint is None
        else captured_share(frozen=frozen, ours=ours, joint=joint)
    )


def _drift(runs: Sequence[Run], method: str) -> dict[str, float | None]:
    def mean(run: Run) -> float | None:
        drifts = run.drifts(method)
        return sum(drifts.values()) / len(drifts) if drifts else None

    worst = [x for r in runs for x in (r.drifts(method) or {}).values()]
    return {"mean": average(runs, mean), "worst": max(worst, default=None)}
