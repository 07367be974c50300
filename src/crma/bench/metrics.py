"""What a T × T matrix of losses says: drift, transfer, forgetting. Pure functions, each with its formula and source.

R[t][i] is the test loss on domain i after domain t was learnt (t, i from 0), None where it was not measured; base[i] is
the untouched base model's. Losses: lower is better, so signs are turned against the papers', which use accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crma.errors import ConfigError
from crma.types import Matrix

__all__ = ["Summary", "advantage_pct", "captured_share", "drift_pct", "intransigence", "summarise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    average_loss: float  # mean_i R[T-1][i]
    learning_loss: float  # mean_i R[i][i]: how well each domain was learnt, just after (intransigence is its excess)
    drift_pct: tuple[float, ...]  # a domain
    drift_mean_pct: float  # over the domains before the last, which alone can drift
    drift_worst_pct: float
    backward_transfer: float  # −mean_{i<T-1} (R[T-1][i] − R[i][i]): positive means earlier domains got better
    forgetting: float  # mean_{i<T-1} max(0, R[T-1][i] − min_{i≤t<T-1} R[t][i])
    forward_transfer: float | None  # mean_{i>0} base[i] − R[i-1][i], where that was measured


def drift_pct(after: float, now: float) -> float:
    """100 (now − after) / after: loss-relative, positive means forgotten (PROTOCOL rule 4)."""
    return 100.0 * (now - after) / after


def advantage_pct(*, theirs: float, ours: float) -> float:
    """100 (theirs − ours) / theirs: the loss saved relative to another method's, positive means ours is better.

    Raises:
        ConfigError: a loss that is negative or not finite, or theirs zero.
    """
    _check_losses(theirs=theirs, ours=ours)
    if theirs == 0.0:
        raise ConfigError("an advantage is relative to their loss", expected="a positive loss of theirs", got=theirs)
    return 100.0 * (theirs - ours) / theirs


def captured_share(*, frozen: float, ours: float, joint: float) -> float | None:
    """(L_frozen − L_ours) / (L_frozen − L_joint): of what sharing can win, the share that was won (PROTOCOL rule 3).

    1 is all that training on everything at once wins, above 1 more than that, negative a loss by sharing. None where
    joint is not better than frozen: there is nothing to win. Nothing is clipped, and a joint that is hardly better
    makes any share: read it only where `advantage_pct(theirs=frozen, ours=joint)` is well above noise.

    Raises:
        ConfigError: a loss that is negative or not finite.
    """
    _check_losses(frozen=frozen, ours=ours, joint=joint)
    return (frozen - ours) / (frozen - joint) if joint < frozen else None


def intransigence(matrix: Matrix, reference: Sequence[float]) -> tuple[float, ...]:
    """R[k][k] − L*_k a domain, in nats a token: what a reference learns and the method does not. Lower is better.

    L*_k is the loss on domain k of a reference trained on domains 0 to k together. Where only one reference on all
    domains was trained, say so: it has then also seen what came after k. Negative: learnt better than the reference.
    Source: Chaudhry et al. (2018), "Riemannian walk for incremental learning", the intransigence measure
    I_k = a*_k − a_{k,k}, sign turned for losses.

    Raises:
        ConfigError: a hole in the diagonal, or not one usable reference loss a domain.
    """
    if len(reference) != len(matrix.domains):
        raise ConfigError("one reference loss a domain", expected=f"{len(matrix.domains)} losses", got=len(reference))
    _check_losses(**{f"the reference on {d}": x for d, x in zip(matrix.domains, reference, strict=True)})
    found = []
    for k, (domain, best) in enumerate(zip(matrix.domains, reference, strict=True)):
        learnt = matrix.rows[k][k]
        if learnt is None:
            raise ConfigError("intransigence needs the diagonal", where=domain, expected=f"R[{k}][{k}]", got="None")
        found.append(learnt - best)
    return tuple(found)


def summarise(matrix: Matrix) -> Summary:
    """Transfers: Lopez-Paz and Ranzato (2017), eq. 3 and 4; forgetting: Chaudhry et al. (2018), eq. 3.

    Raises:
        ValueError: the diagonal or the last row has a hole.
    """
    last = len(matrix.domains) - 1
    after, now = [], []
    for i in range(last + 1):
        a, n = matrix.rows[i][i], matrix.rows[last][i]
        if a is None or n is None:
            raise ValueError(f"R[{i}][{i}] and R[{last}][{i}] are needed, got {a} and {n}")
        after.append(a)
        now.append(n)
    drifts = [drift_pct(a, n) for a, n in zip(after, now, strict=True)]
    forgotten, forward = [], []
    for i in range(last):
        seen = [r for t in range(i, last) if (r := matrix.rows[t][i]) is not None]
        forgotten.append(max(0.0, now[i] - min(seen)))
    for i in range(1, last + 1):
        before, untouched = matrix.rows[i - 1][i], matrix.base[i]
        if before is not None and untouched is not None:
            forward.append(untouched - before)
    return Summary(
        average_loss=_mean(now),
        learning_loss=_mean(after),
        drift_pct=tuple(drifts),
        drift_mean_pct=_mean(drifts[:last]),
        drift_worst_pct=max(drifts[:last], default=0.0),
        backward_transfer=-_mean([n - a for n, a in zip(now[:last], after[:last], strict=True)]),
        forgetting=_mean(forgotten),
        forward_transfer=_mean(forward) if forward else None,
    )


def _check_losses(**losses: float) -> None:
    faulty = {name: x for name, x in losses.items() if not (math.isfinite(x) and x >= 0.0)}
    if faulty:
        raise ConfigError("this is no loss", expected="finite numbers of at least 0", got=faulty)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
