"""Which words a prompt has, beside what the base makes of them: a second thing a router sees.

A prompt's words are the tokens of its text in lower case and without punctuation, so that the typing does not show;
each token falls into one of B buckets (the hashing trick, Weinberger et al. 2009, arXiv 0902.2206), and a prompt is the
set of its buckets. A domain keeps how many of its training prompts have each bucket, nothing else: no text, no order,
and a bucket stands for a dozen tokens.

Two things follow from these counts. *How a prompt's words compare* is the mean over its buckets of log p(bucket |
domain) / p(bucket), with p uniform and the domain's smoothed towards it (a unigram model with a Dirichlet prior; Zhai
and Lafferty 2001). *How usual that is*: the same of the domain's own training prompts, each by counts without it, has
a middle and a variance, which is larger for short prompts; a prompt's score is its distance from the middle in standard
deviations, and counts the more the longer the prompt is.

Dimension key: N prompts, B buckets, T domains, P = B / 16 packed columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "BUCKETS",
    "WordCounts",
    "WordEvidence",
    "Words",
    "columns",
    "is_number_of_buckets",
    "is_packed",
    "packed",
    "unpacked",
]

BUCKETS = 4096  # 2048 and all 49,152 tokens of SmolLM2 measured nearly alike (LOG.md)
_BITS = 16  # buckets in a column: float32 holds integers up to 2^24 exactly
_SMOOTHING = 100.0  # pseudo-counts, shared by all buckets; 30 and 300 measured alike
# Of so many distinct buckets a prompt's score counts half: few words say little. Without this the bar for short prompts
# is set by chance, and more short strangers get in (LOG.md).
_HALF_LENGTH = 40.0
_LEAST_VARIANCE = 0.02  # nats²; of very few or equal prompts it would be 0


def packed(ids: Sequence[Sequence[int]], buckets: int = BUCKETS) -> np.ndarray:
    """Each prompt's set of buckets, from its words' token ids: float32 [N, P], sixteen buckets a column."""
    bits_NB = np.zeros((len(ids), buckets), dtype=np.uint8)
    for row, own in enumerate(ids):
        bits_NB[row, np.asarray(own, dtype=np.int64) % buckets] = 1
    halves = np.packbits(bits_NB, axis=1, bitorder="little").reshape(len(ids), buckets // _BITS, 2)
    return (halves[..., 0] + 256.0 * halves[..., 1]).astype(np.float32)


def unpacked(columns_NP: np.ndarray) -> np.ndarray:
    """What `packed` was given: float32 [N, B], 1 where a prompt has the bucket."""
    whole = np.asarray(columns_NP).astype(np.uint32)
    halves = np.stack([whole & 255, whole >> 8], axis=-1).astype(np.uint8).reshape(len(whole), -1)
    return np.unpackbits(halves, axis=1, bitorder="little").astype(np.float32)


def is_packed(columns_NP: np.ndarray) -> bool:
    """Whether numbers may be what `packed` gives: integers of sixteen bits."""
    return bool(((columns_NP >= 0) & (columns_NP < 2**_BITS) & (columns_NP == np.floor(columns_NP))).all())


def columns(buckets: int) -> int:
    """How many numbers of a row hold so many buckets."""
    return buckets // _BITS


def is_number_of_buckets(number: int) -> bool:
    return number >= 0 and number % _BITS == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class WordCounts:
    """What a domain keeps of its prompts' words."""

    counts: np.ndarray  # [B] float32: the training prompts that have the bucket
    prompts: int
    middle: float  # of the training prompts' mean log-ratios, each by counts without it; nats
    variance: float  # of these around the middle: this, and
    variance_of_one: float  # this divided by the number of buckets in the prompt

    @classmethod
    def of(cls, prompts_NB: np.ndarray) -> WordCounts:
        counts_B = prompts_NB.sum(0)
        ratios_N = _ratios_without_oneself(counts_B, prompts_NB)
        return cls._spread(counts_B, len(prompts_NB), ratios_N, prompts_NB.sum(1))

    def pooled(self, more_NB: np.ndarray) -> WordCounts:
        """With more prompts. The counts are those of all; middle and variances weigh the old ones, which are not there
        any more, as they were, and the new ones by the counts of all."""
        counts_B = self.counts + more_NB.sum(0)
        new = self._spread(counts_B, len(more_NB), _ratios_without_oneself(counts_B, more_NB), more_NB.sum(1))
        total = self.prompts + new.prompts
        mine, theirs = self.prompts / total, new.prompts / total
        middle = mine * self.middle + theirs * new.middle
        return WordCounts(
            counts=counts_B,
            prompts=total,
            middle=middle,
            variance=mine * self.variance + theirs * new.variance + mine * theirs * (self.middle - new.middle) ** 2,
            variance_of_one=mine * self.variance_of_one + theirs * new.variance_of_one,
        )

    @classmethod
    def _spread(cls, counts_B: np.ndarray, prompts: int, ratios_N: np.ndarray, lengths_N: np.ndarray) -> WordCounts:
        """Squared distances from the middle as a constant and a part of one over the length, neither of them negative:
        least squares."""
        middle = float(np.median(ratios_N))
        squares_N = (ratios_N - middle) ** 2
        shorter_N = 1.0 / np.maximum(lengths_N, 1)
        both, *_ = np.linalg.lstsq(np.stack([np.ones_like(shorter_N), shorter_N], 1), squares_N, rcond=None)
        constant, of_one = float(both[0]), float(both[1])
        if of_one < 0.0:
            constant, of_one = float(squares_N.mean()), 0.0
        elif constant < 0.0:
            constant, of_one = 0.0, float((squares_N * shorter_N).sum() / (shorter_N**2).sum())
        return cls(
            counts=counts_B.astype(np.float32),
            prompts=prompts,
            middle=middle,
            variance=constant + _LEAST_VARIANCE,
            variance_of_one=of_one,
        )


class Words:
    """How usual a prompt's words are in each of several domains."""

    def __init__(self, kept: Sequence[WordCounts]) -> None:
        self.log_ratios_BT = _exact_log_ratios([held.counts for held in kept])
        self.middle_T = np.array([held.middle for held in kept])
        self.variance_T = np.array([held.variance for held in kept])
        self.of_one_T = np.array([held.variance_of_one for held in kept])

    def usual(self, prompts_NB: np.ndarray, asked_NT: np.ndarray | None = None) -> np.ndarray:
        """[N, T] in standard deviations, times n / (n + 40) for a prompt of n buckets; a prompt without words scores 0.

        Args:
            asked_NT: booleans; where a domain is not asked it is 0. None: all are.
        """
        lengths_N1 = prompts_NB.sum(1, keepdims=True).astype(np.float64)
        least_N1 = np.maximum(lengths_N1, 1.0)
        usual_NT = np.zeros((len(prompts_NB), len(self.middle_T)))
        for n, prompt_B in enumerate(prompts_NB):
            asked = slice(None) if asked_NT is None else np.flatnonzero(asked_NT[n])
            ratio_T = self.log_ratios_BT[np.flatnonzero(prompt_B)][:, asked].sum(0) / least_N1[n]
            error_T = np.sqrt(self.variance_T[asked] + self.of_one_T[asked] / least_N1[n])
            usual_NT[n, asked] = (ratio_T - self.middle_T[asked]) / error_T
        return usual_NT * lengths_N1 / (lengths_N1 + _HALF_LENGTH)


class WordEvidence:
    """For which of several domains a prompt's words speak, by their counts [B]."""

    def __init__(self, counts: Sequence[np.ndarray]) -> None:
        self.log_ratios_BT = _exact_log_ratios(counts)

    def of(self, prompts_NB: np.ndarray) -> np.ndarray:
        """[N, T], the mean log-ratio times the root of the prompt's length: words of a prompt come together, so their
        log-ratios do not add up as independent ones would (on held-out prompts no worse than their sum)."""
        lengths_N1 = np.maximum(prompts_NB.sum(1, keepdims=True), 1.0).astype(np.float64)
        sums_NT = np.stack([self.log_ratios_BT[np.flatnonzero(prompt_B)].sum(0) for prompt_B in prompts_NB])
        return sums_NT / np.sqrt(lengths_N1)


def _exact_log_ratios(counts: Sequence[np.ndarray]) -> np.ndarray:
    """[B, T] in multiples of 2^-20: sums of 4096 of them are exact in float64, in any order, so a domain's scores are
    bit for bit the same whatever other domains stand beside it."""
    counts_TB = np.stack(counts).astype(np.float64)
    exact_TB = _log_ratios(counts_TB, counts_TB.sum(1, keepdims=True))
    return np.ascontiguousarray((np.round(exact_TB * 2.0**20) / 2.0**20).T)


def _log_ratios(counts: np.ndarray, total: np.ndarray | float) -> np.ndarray:
    """log p(bucket | domain) / p(bucket), p(bucket) = 1 / B."""
    uniform = _SMOOTHING / counts.shape[-1]
    return np.log((counts + uniform) / (total + _SMOOTHING) * counts.shape[-1])


def _ratios_without_oneself(counts_B: np.ndarray, prompts_NB: np.ndarray) -> np.ndarray:
    """Each prompt's mean log-ratio [N] by the counts of all others: those that it is part of are one too many."""
    lengths_N = prompts_NB.sum(1)
    uniform = _SMOOTHING / len(counts_B)
    of_all_B = np.log(np.maximum(counts_B - 1.0, 0.0) + uniform)
    totals_N = counts_B.sum() - lengths_N + _SMOOTHING
    inside_N = (prompts_NB @ of_all_B.astype(np.float64)) / np.maximum(lengths_N, 1)
    return inside_N - np.log(totals_N) + np.log(len(counts_B))
