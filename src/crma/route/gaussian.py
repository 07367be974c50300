"""Features become directions, and directions a Gaussian: what a router keeps of a domain, and how it scores.

Dimension key: N rows, D features, R axes, K background rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ISOTROPY", "Gaussian", "Lens"]

_AXES = 32  # 64 and all 576 measured alike, 0 lost 1 to 6 points of accuracy
ISOTROPY = 3.0  # trace of the isotropic part; a scatter has at most 1; from 1 to 10: within 3 points of accuracy
# What the typing moves, as a part of the scatter. Measured before slips were added: hasty prompts of nine medical
# sources went right 7 points more often, tidy ones .2 less; with 1 in its place 8 and .9 (LOG.md).
_TYPING = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian:
    """Directions' mean and covariance = axes^T diag(spread) axes + rest I, to which ISOTROPY / D is added where it
    scores: no D x D matrix is ever made. Arrays are float32."""

    count: int
    mean: np.ndarray  # [D]
    axes: np.ndarray  # [R, D], orthonormal rows
    spread: np.ndarray  # [R], the variance along each axis beyond `rest`
    rest: float  # the variance in every direction that the axes leave out

    @classmethod
    def of(cls, directions_ND: np.ndarray, moved_KD: np.ndarray | None = None) -> Gaussian:
        """Of a sample. Moved: how far, in which direction, some of its prompts move when they are typed in haste; that
        is scatter then, and tells little between domains."""
        count = len(directions_ND)
        mean_D = directions_ND.mean(0)
        scaled_RD = (directions_ND - mean_D) / np.sqrt(count)
        if moved_KD is not None:
            scaled_RD = np.concatenate([scaled_RD, moved_KD * np.sqrt(_TYPING / len(moved_KD))])
        _, singular, axes = np.linalg.svd(scaled_RD, full_matrices=False)
        return cls._cut(count, mean_D, axes, singular**2, rest=0.0, rows=len(scaled_RD))

    def pooled(self, other: Gaussian) -> Gaussian:
        """Of both samples together: the law of total variance, cut to the first axes of what results."""
        count = self.count + other.count
        mine, theirs = self.count / count, other.count / count
        mean_D = mine * self.mean.astype(np.float64) + theirs * other.mean
        apart_D = self.mean.astype(np.float64) - other.mean
        scaled_RD = np.concatenate(
            [
                self.axes * np.sqrt(mine * self.spread)[:, None],
                other.axes * np.sqrt(theirs * other.spread)[:, None],
                np.sqrt(mine * theirs) * apart_D[None],
            ]
        )
        _, singular, axes = np.linalg.svd(scaled_RD, full_matrices=False)
        return self._cut(count, mean_D, axes, singular**2, rest=mine * self.rest + theirs * other.rest, rows=count)

    @classmethod
    def _cut(
        cls, count: int, mean_D: np.ndarray, axes: np.ndarray, variances: np.ndarray, *, rest: float, rows: int
    ) -> Gaussian:
        """The first axes of a scatter; the variance along the others is spread over all directions, as `rest` is."""
        # A quarter of the rows at most: with few rows more axes would nearly spell the rows themselves.
        rank = min(_AXES, rows // 4, len(variances))
        return cls(
            count=count,
            mean=mean_D.astype(np.float32),
            axes=axes[:rank].astype(np.float32),
            spread=variances[:rank].astype(np.float32),
            rest=rest + float(variances[rank:].sum()) / mean_D.shape[0],
        )

    def log_density(self, directions_ND: np.ndarray) -> np.ndarray:
        """Up to the constant that every Gaussian of one dimension shares."""
        dimension = self.mean.shape[0]
        floor = self.rest + ISOTROPY / dimension
        spread_R = self.spread.astype(np.float64)
        offset_ND = directions_ND - self.mean
        along_NR = offset_ND @ self.axes.T.astype(np.float64)
        distance_N = (offset_ND**2).sum(1) / floor + along_NR**2 @ (1 / (spread_R + floor) - 1 / floor)
        log_determinant = float(np.log(spread_R + floor).sum()) + (dimension - len(spread_R)) * float(np.log(floor))
        return -(distance_N + log_determinant) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Lens:
    """Turns features into directions: centre, divide by each feature's deviation, whiten, scale to length one."""

    centre: np.ndarray  # [D]
    deviation: np.ndarray  # [D]
    axes: np.ndarray  # [R, D]
    stretch: np.ndarray  # [R], along each axis, relative to everywhere else

    @classmethod
    def of(cls, background_KD: np.ndarray) -> Lens:
        centre_D = background_KD.mean(0)
        deviation_D = background_KD.std(0)
        # A feature that hardly moves in the background must not drown the others once it moves.
        deviation_D = np.maximum(deviation_D, 0.1 * np.median(deviation_D))
        deviation_D = np.where(deviation_D > 0, deviation_D, deviation_D.max())
        count, dimension = background_KD.shape
        _, singular, axes = np.linalg.svd((background_KD - centre_D) / deviation_D, full_matrices=False)
        variances = singular**2 / count
        shrinkage = _oas_shrinkage(variances, count=count, dimension=dimension)
        floor = shrinkage * variances.sum() / dimension
        # No shrinkage happens only where rows far outnumber features; then no direction is left outside the axes.
        floor = max(floor, 1e-6 * float(variances.max()))
        stretch_R = np.sqrt(floor / ((1 - shrinkage) * variances + floor))
        return cls(centre=centre_D, deviation=deviation_D, axes=axes, stretch=stretch_R)

    def directions(self, features_ND: np.ndarray) -> np.ndarray:
        scaled_ND = (features_ND - self.centre) / self.deviation
        largest_N1 = np.abs(scaled_ND).max(1, keepdims=True)
        scaled_ND = scaled_ND / np.where(largest_N1 > 0, largest_N1, 1.0)  # or squares of huge features overflow
        white_ND = scaled_ND + (scaled_ND @ self.axes.T * (self.stretch - 1)) @ self.axes
        length_N1 = np.linalg.norm(white_ND, axis=1, keepdims=True)
        return white_ND / np.where(length_N1 > 0, length_N1, 1.0)


def _oas_shrinkage(variances: np.ndarray, *, count: int, dimension: int) -> float:
    """How far to shrink a sample covariance to a multiple of I: oracle approximating shrinkage, eq. 23 of Chen et al.
    2010 (arXiv 0907.4698), from the sample's eigenvalues."""
    trace, trace_of_square = float(variances.sum()), float((variances**2).sum())
    above = (1 - 2 / dimension) * trace_of_square + trace**2
    below = (count + 1 - 2 / dimension) * (trace_of_square - trace**2 / dimension)
    return 1.0 if below <= 0 else min(1.0, above / below)
