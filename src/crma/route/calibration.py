"""From scores to decisions: when a query is no domain's business, and how sure a route is.

A domain's threshold is split conformal prediction (Papadopoulos et al. 2002; Vovk, Gammerman and Shafer 2005): of n
held-out scores the k-th smallest, k = floor(error_rate * (n + 1)), at least 1. A further query of the same kind scores
below it with a probability of at most k / (n + 1), whatever the distribution, as long as held-out rows and queries are
exchangeable; where several rows come from one document, n counts documents. So 1 % needs 99 of them; with 12 the
guarantee is 1/13, and `Calibration.guarantee` says so. Where strangers leave a gap below that threshold, it is lowered
into the gap, which can only lower the error. A second bar, higher, says what is *typical* of a domain: for whether a
stream of rows still is what the domains were learnt from (`crma.route.novelty`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from crma.errors import ConfigError

__all__ = ["Calibration", "calibrate", "conformal_rank", "median_deviation"]

# What is typical of a domain lies no further below the middle of its scores, in median absolute deviations: 95 % of a
# normal. By the middle, not by the lowest: a few strangers among the rows of a domain must not open it to their kind.
TYPICAL_DEVIATIONS = 1.645 * 1.4826

# Where between the strangers' ceiling (0) and the conformal threshold (1) the bar is laid. Why: LOG.md, on the router.
GAP_SHARE = 0.5
# The strangers' ceiling is their mean plus so many standard deviations: the 99 % point of a normal.
CEILING_DEVIATIONS = 2.326


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What a domain's score means: accepted from `threshold` on; log-odds against strangers `slope * (s - middle)`."""

    threshold: float
    guarantee: float  # the largest probability of a wrong abstention, k / (n + 1); 1.0 where nothing was held out
    count: int  # held-out documents, n (rows, where each stands alone)
    slope: float
    middle: float
    typical: float  # what is typical of the domain scores so much, or more
    typical_rank: int  # the first of the n scores, from the smallest, that does; 0 where nothing was held out


def conformal_rank(count: int, error_rate: float) -> int:
    """k: which of `count` held-out scores, from the smallest, is the threshold at `error_rate`."""
    if not 0.0 < error_rate < 1.0:
        raise ConfigError(
            "this is no rate of wrong abstentions",
            expected="a number between 0 and 1, both excluded",
            got=error_rate,
            next_step="0.01 sends at most 1 % of a domain's own queries to the base",
        )
    # The tiny addend: 0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996.
    return min(max(1, math.floor(error_rate * (count + 1) + 1e-9)), max(1, count))


def calibrate(
    own_scores: np.ndarray,
    stranger_scores: np.ndarray,
    *,
    error_rate: float,
    held_out: bool = True,
    documents: Sequence[Hashable] | None = None,
) -> Calibration:
    """Threshold and log-odds from scores of held-out rows of the domain [n >= 1] and of strangers [m >= 2].

    Args:
        held_out: False where the own scores are those of rows the domain was fitted on: nothing is guaranteed then.
        documents: what each own row came from; None where each stands alone. Rows of one document are not exchangeable
            with a query on another, so a document counts once, with its lowest score: no query scores lower than the
            lowest of its own document, for which the guarantee holds.
    """
    lowest = _lowest_of_each(own_scores, documents) if documents is not None else own_scores
    rank = conformal_rank(len(lowest), error_rate)
    threshold = float(np.sort(lowest)[rank - 1])
    ceiling = float(stranger_scores.mean() + CEILING_DEVIATIONS * stranger_scores.std())
    if ceiling < threshold:
        threshold = ceiling + GAP_SHARE * (threshold - ceiling)
    middle = float(np.median(lowest))
    typical = middle - TYPICAL_DEVIATIONS * median_deviation(lowest)
    # Two normals of one variance make the log-odds a straight line. Unlike a fitted logistic curve the line stays
    # finite where the two kinds are separable; equal priors.
    own_mean, stranger_mean = float(own_scores.mean()), float(stranger_scores.mean())
    variance = (float(own_scores.var()) + float(stranger_scores.var())) / 2
    distance = max(own_mean - stranger_mean, 0.0)
    slope = distance / variance if variance > 0 else 0.0
    return Calibration(
        threshold=threshold,
        guarantee=rank / (len(lowest) + 1) if held_out else 1.0,
        count=len(lowest) if held_out else 0,
        slope=slope,
        middle=(own_mean + stranger_mean) / 2,
        typical=typical,
        typical_rank=min(int((lowest < typical).sum()) + 1, len(lowest)) if held_out else 0,
    )


def median_deviation(scores: np.ndarray) -> float:
    """The median absolute deviation from the median; their mean where half of the scores are one and the same."""
    away = np.abs(scores - np.median(scores))
    return float(np.median(away)) or float(away.mean())


def _lowest_of_each(scores: np.ndarray, documents: Sequence[Hashable]) -> np.ndarray:
    if len(documents) != len(scores):
        raise ConfigError(
            "calibration rows and their documents differ in number",
            expected=len(scores),
            got=len(documents),
            next_step="name a document for each row, or none at all",
        )
    lowest: dict[Hashable, float] = {}
    for score, document in zip(scores, documents, strict=True):
        lowest[document] = min(float(score), lowest.get(document, math.inf))
    return np.array(list(lowest.values()))
