"""A router from what `Router.to_arrays` made of it: checked, since a file may be of another version, or damaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple

import numpy as np

from crma.errors import ConfigError
from crma.route.calibration import Calibration
from crma.route.centroid import MEAN, DomainStatistics, Router
from crma.route.gaussian import Gaussian
from crma.route.seen import FEATURES, FeatureKind
from crma.route.words import WordCounts, is_number_of_buckets

__all__ = ["router_of"]

_BEFORE_IT_WAS_SAID = FeatureKind(depth=1 / 6)


def router_of(arrays: Mapping[str, np.ndarray]) -> Router:
    """The router that `arrays` are.

    Raises:
        ConfigError: arrays that are not a whole router, or one of features that are not known here.
    """
    try:
        names = sorted(key.split("/")[1] for key in arrays if key.startswith("domain/") and key.endswith("/mean"))
        background, error_rate = arrays["background"], float(arrays["error_rate"][0])
        said = np.array([MEAN, *astuple(_BEFORE_IT_WAS_SAID)])
        pooling, depth, tokens, *words = arrays.get("features", said).tolist()  # three numbers: of before words
        kind = FeatureKind(depth=depth, tokens=int(tokens), words=int(words[0]) if words else 0)
        known = pooling == MEAN and 0.0 < depth <= 1.0 and tokens >= 2 and is_number_of_buckets(kind.words)
        statistics = {n: _statistics(n, arrays, kind, background.shape[1]) for n in names} if known else {}
    except (KeyError, IndexError, ValueError, OverflowError) as fault:
        raise ConfigError(
            "these arrays are not a whole router",
            expected="the names Router.to_arrays() gives",
            got=f"{', '.join(sorted(arrays)) or 'nothing'}; {fault!r}",
            next_step="learn the router again, or restore its file",
        ) from fault
    if not known:
        raise ConfigError(
            "this router was made from features of a prompt that are not known here",
            expected=f"(pooling, share of the blocks, tokens, buckets) such as {(MEAN, *astuple(FEATURES))}",
            got=(pooling, depth, tokens, *words),
            next_step="use the crma it was made with, or learn the domains again: features cannot be converted",
        )
    return Router(background=background, statistics=statistics, error_rate=error_rate, features=kind)


def _statistics(name: str, arrays: Mapping[str, np.ndarray], kind: FeatureKind, width: int) -> DomainStatistics:
    numbers = arrays[f"domain/{name}/numbers"].tolist()
    count, rest, threshold, guarantee, held_out, slope, middle = numbers[:7]
    # A file of before there was a bar for what is typical: the threshold at its own rate is one, if a wider one.
    typical, typical_rank = numbers[7:] or (threshold, round(guarantee * (held_out + 1)) if held_out else 0)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name}: numbers that are none")
    own = _gaussian(f"{name}/", arrays, count, rest, width - kind.columns)
    words = _words(name, arrays, kind.words) if kind.words else None
    whole, whole_words = own, words.counts if words is not None else None
    if f"domain/{name}/whole_numbers" in arrays:  # a file of before has only the rows that do not calibrate
        count, rest = arrays[f"domain/{name}/whole_numbers"].tolist()
        whole = _gaussian(f"{name}/whole_", arrays, count, rest, width - kind.columns)
        whole_words = _counts(f"{name}/whole_words", arrays, kind.words) if kind.words else None
    return DomainStatistics(
        own=own,
        words=words,
        calibration=Calibration(
            threshold=threshold,
            guarantee=guarantee,
            count=int(held_out),
            slope=slope,
            middle=middle,
            typical=typical,
            typical_rank=int(typical_rank),
        ),
        whole=whole,
        whole_words=whole_words,
    )


def _gaussian(prefix: str, arrays: Mapping[str, np.ndarray], count: float, rest: float, dimension: int) -> Gaussian:
    mean, axes, spread = (np.array(arrays[f"domain/{prefix}{part}"]) for part in ("mean", "axes", "spread"))
    if mean.shape != (dimension,) or axes.shape != (*spread.shape, *mean.shape):
        raise ValueError(f"{prefix}: mean {mean.shape}, axes {axes.shape}, spread {spread.shape}")
    finite = all(np.isfinite(part).all() for part in (mean, axes, spread, count, rest))
    if not finite or count < 1 or rest < 0 or (spread < 0).any():
        raise ValueError(f"{prefix}: numbers that are none")
    return Gaussian(count=int(count), mean=mean, axes=axes, spread=spread, rest=rest)


def _words(name: str, arrays: Mapping[str, np.ndarray], buckets: int) -> WordCounts:
    counts, numbers = _counts(f"{name}/words", arrays, buckets), arrays[f"domain/{name}/words_numbers"]
    prompts, middle, variance, of_one = numbers.tolist()
    if not np.isfinite(numbers).all() or prompts < 1 or variance <= 0 or of_one < 0:
        raise ValueError(f"{name}: counts of words that are none")
    return WordCounts(counts=counts, prompts=int(prompts), middle=middle, variance=variance, variance_of_one=of_one)


def _counts(place: str, arrays: Mapping[str, np.ndarray], buckets: int) -> np.ndarray:
    counts = np.array(arrays[f"domain/{place}"])
    if counts.shape != (buckets,) or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError(f"{place}: counts of words that are none")
    return counts
