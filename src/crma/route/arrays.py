"""A router from what `Router.to_arrays` made of it: checked, since a file may be of another version, or damaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple

import numpy as np

from crma.errors import ConfigError
from crma.route.calibration import Calibration
from crma.route.centroid import MEAN, DomainStatistics, Router
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
    mean, axes, spread = (np.array(arrays[f"domain/{name}/{part}"]) for part in ("mean", "axes", "spread"))
    if mean.shape != (width - kind.columns,) or axes.shape != (*spread.shape, *mean.shape):
        raise ValueError(f"{name}: mean {mean.shape}, axes {axes.shape}, spread {spread.shape}")
    finite = all(np.isfinite(part).all() for part in (mean, axes, spread, numbers))
    if not finite or count < 1 or rest < 0 or (spread < 0).any():
        raise ValueError(f"{name}: numbers that are none")
    return DomainStatistics(
        count=int(count),
        mean=mean,
        axes=axes,
        spread=spread,
        rest=rest,
        calibration=Calibration(
            threshold=threshold,
            guarantee=guarantee,
            count=int(held_out),
            slope=slope,
            middle=middle,
            typical=typical,
            typical_rank=int(typical_rank),
        ),
        words=_words(name, arrays, kind.words) if kind.words else None,
    )


def _words(name: str, arrays: Mapping[str, np.ndarray], buckets: int) -> WordCounts:
    counts, numbers = np.array(arrays[f"domain/{name}/words"]), arrays[f"domain/{name}/words_numbers"]
    prompts, middle, variance, of_one = numbers.tolist()
    finite = np.isfinite(counts).all() and np.isfinite(numbers).all()
    if counts.shape != (buckets,) or not finite or (counts < 0).any() or prompts < 1 or variance <= 0 or of_one < 0:
        raise ValueError(f"{name}: counts of words that are none")
    return WordCounts(counts=counts, prompts=int(prompts), middle=middle, variance=variance, variance_of_one=of_one)
