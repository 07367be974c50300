"""Verified promotion: how far an earlier domain follows a moved backbone, and how far the backbone may move.

What a domain is *served* with never gets worse on its validation rows: one that loses anything stays as it is. The
budget bounds what it would lose if it were moved all the same (floating), where it may not stand alone.

Nothing is computed here but the decision: losses come from a callable, so a table is its test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["ON_AVERAGE", "SHARES", "Held", "Trial", "Verdict", "furthest_follow", "gain", "verify_proposal"]

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What held-out rows lose: each row's mean over its supervised tokens, and how many these are."""

    losses: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def loss(self) -> float:
        return sum(x * n for x, n in zip(self.losses, self.tokens, strict=True)) / sum(self.tokens)


def gain(new: Held, old: Held) -> tuple[float, float]:
    """(by how much the loss fell from `old` to `new`, its standard error), both in nats a token.

    The same rows under both, so it is the error of a paired ratio estimator (Cochran, Sampling Techniques, 1977,
    section 6.4): rows are drawn, each with its tokens. Of a single row it is infinite.
    """
    n = len(old.losses)
    total = sum(old.tokens)
    falls = [t * (b - a) for a, b, t in zip(new.losses, old.losses, old.tokens, strict=True)]
    fall = sum(falls) / total
    if n < 2:
        return fall, math.inf
    squares = sum((x - fall * t) ** 2 for x, t in zip(falls, old.tokens, strict=True))
    return fall, math.sqrt(squares * n / (n - 1)) / total


def furthest_follow(
    shares: Sequence[float], reference: Held, held_of: Callable[[float], Held]
) -> tuple[float, Held] | None:
    """How far an earlier domain follows the backbone: (share, what its validation rows lose there); None if nowhere.

    Walks up the shares above 0 while each step gains by more than the standard error of the gain (after Breiman et al.
    1984, the one-standard-error rule), and asks no further: the loss along the way is close to convex. A few validation
    rows prefer one of several points by chance, and at every move again; this passes by chance in one case of six only.

    Args:
        reference: what its validation rows lose with what it is served with now.
        held_of: share -> what they lose there.
    """
    best: tuple[float, Held] | None = None
    for share in sorted(shares):
        if share > 0.0:
            there = held_of(share)
            fall, error = gain(there, reference if best is None else best[1])
            if not fall > error:  # also where one of them is no number
                break
            best = (share, there)
    return best
