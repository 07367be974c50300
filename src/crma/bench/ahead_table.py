"""What a domain's questions get before the domain is learnt: the adapters of others, or the untouched base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crma.bench.cells import bounded, markdown_table, nats
from crma.bench.headline import Run, mean_loss, nested_mean, paired_interval
from crma.bench.metrics import advantage_pct
from crma.bench.receipt import NOWHERE, Measurement

__all__ = ["AHEAD", "ahead_table"]

AHEAD = (
    "*To the base*: the domain's test rows that the router left to it when only the domains before had been learnt. "
    "*Better by*: the loss of all its rows as routed against the base's, positive where other domains' adapters help "
    "(forward transfer as a user meets it; Lopez-Paz and Ranzato 2017, eq. 4, in per cent), [95 %, as above]."
)


_Pair = tuple[Run, Mapping[str, Measurement], Mapping[str, Measurement]]  # as routed, and under the base


def ahead_table(runs: Sequence[Run]) -> str | None:
    """None where no run of crma was measured so."""
    pairs = [(run, *sides) for run in runs if (sides := run.ahead("crma")) is not None]
    domains = dict.fromkeys(d for run, routed, _ in pairs for d in run.order if d in routed)
    rows = [_row(d, [(r, {d: us[d]}, {d: them[d]}) for r, us, them in pairs if d in us]) for d in domains]
    rows += [_row("all, equally weighed", pairs)] if len(domains) > 1 else []
    head = ["domain", "to the base", "loss of the base", "as routed", "better by", "runs"]
    return markdown_table(head, rows) if rows else None


def _row(name: str, pairs: Sequence[_Pair]) -> list[str]:
    went = [to for run, us, _ in pairs for d in us for to in run.receipts["crma"].routes_ahead[d].items()]
    stayed, n = sum(k for to, k in went if to == NOWHERE), sum(k for _, k in went)
    of_base, routed = _mean(pairs, lambda p: mean_loss(p[2])), _mean(pairs, lambda p: mean_loss(p[1]))
    gain = _mean(pairs, lambda p: advantage_pct(theirs=mean_loss(p[2]), ours=mean_loss(p[1])))
    told = f"{stayed} of {n} ({stayed / n:.0%})"
    return [name, told, nats(of_base), nats(routed), bounded(gain, paired_interval(pairs)), str(len(pairs))]


def _mean(pairs: Sequence[_Pair], value: Callable[[_Pair], float]) -> float | None:
    return nested_mean({(p[0].stream, p[0].seed, p[0].order): value(p) for p in pairs})
