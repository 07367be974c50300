"""Verified promotion: how far the shared backbone may move at the price of a small budget of validation loss.

What a domain is *served* with never gets worse: one that loses anything under the moved backbone stays pinned to the
backbone it was verified on. The budget bounds what it would lose if it were moved all the same (floating).

Nothing is computed here but the decision: losses come from a callable, so a table is its test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ON_AVERAGE", "SHARES", "Trial", "Verdict", "furthest_follow", "verify_proposal"]

ON_AVERAGE = "all on average"  # no domain can be called so: there are spaces in it
_MEAN_SHARE = 0.2  # chosen, not measured: noise of single domains cancels in their mean, a drift does not
SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One share that was tried; the search stops at the first domain that is worse, so the rest may be unmeasured."""

    share: float
    losses: Mapping[str, float]
    refused_by: str | None
    excess_pct: float | None = None  # by how much that domain's loss was above its reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    share: float
    losses: Mapping[str, float]  # validation loss of each earlier domain under what was accepted, if it was measured
    trials: tuple[Trial, ...]


def verify_proposal(
    references: Mapping[str, float],
    loss_of: Callable[[str, float], float],
    *,
    shares: Sequence[float] = SHARES,
    budget: float = 0.0,
) -> Verdict:
    """The largest share of the way to the proposed backbone under which no domain's validation loss is above its
    reference by more than `budget`, and their mean by no more than a fifth of it.

    References are losses as served, which (with no tolerance) never rise: so the budget bounds what all moves together
    may cost.

    Args:
        references: each earlier domain's validation loss with what it is served with now.
        loss_of: (domain, share) -> its validation loss with the backbone moved by that share.
        shares: tried in this order; 0 is the backbone as it was. It is accepted unmeasured, since it changes nothing,
            and so it promotes no domain: one that is pinned to an older snapshot may well be worse on it.
        budget: relative loss; 0 refuses every move that any domain loses by.
    """
    trials: list[Trial] = []
    for share in shares:
        if share == 0.0:
            break
        losses: dict[str, float] = {}
        refused, excess = None, None
        for domain, reference in references.items():
            losses[domain] = loss_of(domain, share)
            if not losses[domain] <= reference * (1.0 + budget):
                refused, excess = domain, 100.0 * (losses[domain] / reference - 1.0) if reference > 0 else None
                break
        mean = sum(losses[d] / references[d] - 1.0 for d in losses if references[d] > 0) / max(1, len(losses))
        if refused is None and not mean <= budget * _MEAN_SHARE:
            refused, excess = ON_AVERAGE, 100.0 * mean
        trials.append(Trial(share=share, losses=losses, refused_by=refused, excess_pct=excess))
        if refused is None:
            return Verdict(share=share, losses=losses, trials=tuple(trials))
    return Verdict(share=0.0, losses={}, trials=tuple(trials))


def furthest_follow(
    shares: Sequence[float], reference: float, loss_of: Callable[[float], float]
) -> tuple[float, float]:
    """How far an earlier domain follows the backbone: (share, its validation loss there).

    Walks up the shares above 0 while the loss falls below what it was, at first `reference`, and asks no further: the
    loss along the way is close to convex. Where the first of them already does harm, the lowest share of all (with 0,
    what changes the domain least) is asked too, and the better one taken.

    Args:
        reference: its validation loss with what it is served with now.
        loss_of: share -> its validation loss.
    """
    best: tuple[float, float] | None = None
    tried: dict[float, float] = {}
    for share in sorted(shares):
        if share > 0.0:
            tried[share] = loss_of(share)
            if not tried[share] < (reference if best is None else best[1]):
                break
            best = (share, tried[share])
    if best is None:
        lowest = min(shares)
        if lowest not in tried:
            tried[lowest] = loss_of(lowest)
        best = min(sorted(tried.items()), key=lambda found: math.inf if math.isnan(found[1]) else found[1])
    return best
