"""Verified promotion: how far the shared backbone may move without any earlier domain being worse.

It decides, and computes nothing itself: losses come from a callable, so a table is its test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["SHARES", "Trial", "Verdict", "verify_proposal"]

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
    tolerance: float = 0.0,
) -> Verdict:
    """The largest share of the way to the proposed backbone under which no domain's validation loss is worse.

    Args:
        references: each earlier domain's validation loss with what it is served with now.
        loss_of: (domain, share) -> its validation loss with the backbone moved by that share.
        shares: tried in this order; 0 is the backbone as it was. It is accepted unmeasured, since it changes nothing,
            and so it promotes no domain: one that is pinned to an older snapshot may well be worse on it.
        tolerance: relative loss that is not called worse.
    """
    trials: list[Trial] = []
    for share in shares:
        if share == 0.0:
            break
        losses: dict[str, float] = {}
        refused, excess = None, None
        for domain, reference in references.items():
            losses[domain] = loss_of(domain, share)
            if not losses[domain] <= reference * (1.0 + tolerance):
                refused, excess = domain, 100.0 * (losses[domain] / reference - 1.0) if reference > 0 else None
                break
        trials.append(Trial(share=share, losses=losses, refused_by=refused, excess_pct=excess))
        if refused is None:
            return Verdict(share=share, losses=losses, trials=tuple(trials))
    return Verdict(share=0.0, losses={}, trials=tuple(trials))
