"""What it costs that rows come in two halves, or without their domain's name: the test rows' loss as routed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crma.bench.cells import NONE, bounded, markdown_table, nats
from crma.bench.headline import Run, mean_loss, nested_mean, paired_interval
from crma.bench.metrics import advantage_pct
from crma.bench.receipt import NOWHERE, Measurement, Receipt

__all__ = ["ARRIVING", "arriving_table"]

ARRIVING = (
    "The same rows are handed over, and every test row is answered by what the stack's own router picks. Without names "
    "fewer of them are trained on (*tokens*): each domain that is found holds out test rows of its own, and more rows "
    "for validation. *Domains*: those that any test row went to. *To the base*: test rows that the router left to it. "
    "*Against named, at once*: positive where this way ends better than CRMA with every row named, [95 %, as above]."
)

_NAMED = "crma"
_Measured = Mapping[str, Measurement]

# (condition, what it is called, lessons a domain when it was measured, lessons a domain in all)
_WAYS: Sequence[tuple[str, str, int, int]] = (
    (_NAMED, "named, at once (crma)", 1, 1),
    ("halves", "named, the first half of each domain (halves)", 1, 2),
    ("halves", "named, the second half by `--extend` (halves)", 2, 2),
    ("auto", "without names, one shuffled file, `--auto` (auto)", 1, 1),
    ("auto-stream", "without names, a domain after the other, `--stream` (auto-stream)", 1, 1),
)


def arriving_table(runs: Sequence[Run]) -> str | None:
    """None where all rows came named and at once."""
    rows, ways = [], {condition for condition, *_ in _WAYS} - {_NAMED}
    runs = [r for r in runs if ways & r.receipts.keys()]  # like stands beside like
    for condition, label, lessons, of in _WAYS:
        having = [(r, us) for r in runs if (us := _routed(r, condition, lessons * len(r.order))) is not None]
        if not having:
            continue
        against = [
            (r, us, them)
            for r, us in having
            if condition != _NAMED and (them := _routed(r, _NAMED, len(r.order))) is not None
        ]
        gain = _mean([(r, advantage_pct(theirs=mean_loss(them), ours=mean_loss(us))) for r, us, them in against])
        rows.append(
            [
                label,
                # A receipt says these of the end.
                *(_at_the_end([r.receipts[condition] for r, _ in having]) if lessons == of else (NONE, NONE, NONE)),
                nats(_mean([(r, mean_loss(us)) for r, us in having])),
                bounded(gain, paired_interval(against)),
                str(len(having)),
            ]
        )
    head = ["rows come", "tokens", "domains", "to the base", "loss, routed", "against named, at once", "runs"]
    return markdown_table(head, rows) if len(rows) > 1 else None


def _routed(run: Run, condition: str, after: int) -> _Measured | None:
    receipt = run.receipts.get(condition)
    if receipt is None:
        return None
    found = {d: m for d in run.order if (m := receipt.find("routed", after, d)) is not None}
    return found if len(found) == len(run.order) else None


def _at_the_end(receipts: Sequence[Receipt]) -> tuple[str, str, str]:
    """Tokens trained on, a run; how many domains answered, and how many rows none did."""
    tokens, ways = sum(r.tokens for r in receipts) / len(receipts), [r.routes for r in receipts]
    domains = sorted({len({to for went in of.values() for to in went} - {NOWHERE}) for of in ways})
    rows = [(to, n) for of in ways for went in of.values() for to, n in went.items()]
    base, total = sum(n for to, n in rows if to == NOWHERE), sum(n for _, n in rows)
    answered = " to ".join(map(str, dict.fromkeys((domains[0], domains[-1]))))
    return f"{tokens:,.0f}", answered, f"{base} of {total} ({base / total:.1%})"


def _mean(values: Sequence[tuple[Run, float]]) -> float | None:
    return nested_mean({(r.stream, r.seed, r.order): value for r, value in values})
