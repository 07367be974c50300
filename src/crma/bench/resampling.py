"""Intervals by drawing test items again: the bootstrap, paired and by document; each function names its source."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crma.bench.checked import (
    Numbers,
    confidence_level,
    losses_and_tokens,
    numbers,
    positive_numbers,
    same_length,
    whole_number,
)
from crma.errors import ConfigError

__all__ = [
    "Bootstrap",
    "paired_bootstrap",
    "paired_relative_advantage",
]

DomainLosses: TypeAlias = Mapping[str, tuple[Numbers, Numbers]]  # domain -> (mean loss, tokens) of each test item

_CELLS = 2_000_000  # drawn at a time: 16 MB an array, and a seed gives one stream whatever the memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    estimate: float  # of the items as they are, not the resamples' mean
    low: float
    high: float
    p_two_sided: float  # twice the share of resamples on the wrong side of zero (at zero included), see `_bootstrap`
    resamples: int


def paired_bootstrap(
    differences: Numbers,
    weights: Numbers | None = None,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """Σ wᵢdᵢ / Σ wᵢ over test items, with the percentile interval of the same over items drawn with replacement.

    `differences` are the items' losses under one method less those under the other, `weights` their tokens (1 where
    None). `groups` are strata, such as domains: each keeps its number of items in every resample. Rows of one document
    are not independent: put them together first (their tokens added, their difference token-weighted) and one
    resample draws whole documents. Seeds are not resampled: the interval speaks of these runs on other test items.
    Source: Koehn (2004), "Statistical significance tests for machine translation evaluation"; Efron and
    Tibshirani (1993), "An introduction to the bootstrap", chapter 13 (percentiles).

    Raises:
        ConfigError: empty, of two lengths, a value that is not finite, a weight that is not positive, resamples below
            1, or a confidence outside (0, 1).
    """
    d = numbers("differences", differences)
    w = np.ones_like(d) if weights is None else positive_numbers("weights", weights)
    same_length("differences", d, "weights", w)
    strata: dict[Hashable, list[int]] = {}
    if groups is None:
        strata[None] = list(range(len(d)))
    else:
        same_length("differences", d, "groups", groups)
        for i, label in enumerate(groups):
            strata.setdefault(label, []).append(i)
    columns = np.stack([w * d, w])
    drawn = np.sum(list(_resampled([columns[:, rows] for rows in strata.values()], resamples, seed)), axis=0)
    total = columns.sum(axis=1)
    return _bootstrap(float(total[0] / total[1]), drawn[0] / drawn[1], confidence)


def paired_relative_advantage(
    ours: DomainLosses,
    theirs: DomainLosses,
    documents: Mapping[str, Sequence[Hashable]] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """100 (L_theirs − L_ours) / L_theirs in %, positive where ours is better, with its percentile interval.

    L = mean over domains of Σ loss·tokens / Σ tokens, domains weighing the same. Each side maps a domain to the mean
    loss and the tokens of each test item; a resample draws items within each domain, the same for both sides.
    `documents` names the one that each item belongs to: then whole documents are drawn, since their items are not
    independent, and domains that share documents (one domain's test rows of several seeds) are drawn together. The few
    draws that leave a domain without any item are left out.
    Source: as `paired_bootstrap`; for the documents Davison and Hinkley (1997), "Bootstrap methods and their
    application", section 3.8 (clusters).

    Raises:
        ConfigError: other domains or token counts on one side than on the other, a loss that is negative or not finite,
            all of theirs zero, or as `paired_bootstrap`.
    """
    if not ours or set(ours) != set(theirs):
        raise ConfigError(
            "two methods are paired domain by domain",
            expected=f"the domains of ours, at least one: {sorted(ours)}",
            got=f"theirs: {sorted(theirs)}",
        )
    tables: dict[str, NDArray[Any]] = {}
    for domain in sorted(ours):  # so that the draw does not depend on the order of a mapping
        us, tokens = losses_and_tokens(f"ours[{domain!r}]", ours[domain])
        them, their_tokens = losses_and_tokens(f"theirs[{domain!r}]", theirs[domain])
        if not np.array_equal(tokens, their_tokens):
            raise ConfigError(
                "two methods are paired item by item",
                where=f"domain {domain!r}",
                expected=f"the same tokens an item, {len(tokens)} items with {tokens.sum():g} tokens",
                got=f"{len(their_tokens)} items with {their_tokens.sum():g} tokens of theirs, or other ones",
                next_step="score both methods on the same rows with the same tokeniser",
            )
        tables[domain] = np.stack([us * tokens, them * tokens, tokens])
        if documents is not None:
            same_length("ours", us, f"documents[{domain!r}]", documents[domain])
    estimate = _advantage([table.sum(axis=1) for table in tables.values()])
    together = list(tables.values()) if documents is None else _by_document(tables, documents)
    # Three rows a domain, whatever was drawn together.
    sums = np.concatenate(list(_resampled(together, resamples, seed))).reshape(len(tables), 3, -1)
    sums = sums[:, :, (sums[:, 2] > 0).all(axis=0)]
    if not sums.size:
        raise ConfigError("too few documents to draw from", expected="several a domain", got="no draw with all domains")
    return _bootstrap(float(estimate), _advantage(list(sums)), confidence)


def _resampled(tables: Sequence[NDArray[Any]], resamples: int, seed: int) -> Iterator[NDArray[Any]]:
    """For each table (columns, items): the sums of its columns over items drawn with replacement, (columns, resamples).

    One index draws all columns of an item, which is what makes the comparison paired.
    """
    resamples = whole_number("resamples", resamples, least=1)
    rng = np.random.default_rng(seed)
    for table in tables:
        n = table.shape[1]
        sums = np.empty((len(table), resamples))
        step = max(1, _CELLS // n)
        for start in range(0, resamples, step):
            picked = rng.integers(n, size=(min(step, resamples - start), n))
            for column, out in zip(table, sums, strict=True):
                out[start : start + step] = column[picked].sum(axis=1)
        yield sums


def _by_document(tables: Mapping[str, NDArray[Any]], documents: Mapping[str, Sequence[Hashable]]) -> list[NDArray[Any]]:
    """Domains' tables (3, items) as tables (3 · domains, documents) of those that share any document, summed."""
    families: list[tuple[list[str], set[Hashable]]] = []
    for domain in tables:
        own: tuple[list[str], set[Hashable]] = ([domain], set(documents[domain]))
        for family in [f for f in families if f[1] & own[1]]:
            families.remove(family)
            own = (family[0] + own[0], family[1] | own[1])
        families.append(own)
    found = []
    for domains, _ in families:
        place = {d: i for i, d in enumerate(dict.fromkeys(x for domain in domains for x in documents[domain]))}
        table = np.zeros((3 * len(domains), len(place)))
        for k, domain in enumerate(domains):
            columns = [place[d] for d in documents[domain]]
            for row, values in enumerate(tables[domain]):
                table[3 * k + row] = np.bincount(columns, weights=values, minlength=len(place))
        found.append(table)
    return found


def _advantage(sums: Sequence[NDArray[Any]]) -> NDArray[Any]:
    ours = np.mean([s[0] / s[2] for s in sums], axis=0)
    theirs = np.mean([s[1] / s[2] for s in sums], axis=0)
    if not np.all(theirs > 0):
        raise ConfigError("an advantage is relative to their loss", expected="positive losses of theirs", got="zero")
    return 100.0 * (theirs - ours) / theirs


def _bootstrap(estimate: float, drawn: NDArray[Any], confidence: float) -> Bootstrap:
    """p = min(1, 2 (1 + min(#{≤ 0}, #{≥ 0})) / (B + 1)): the level at which the percentile interval just meets zero.

    Efron and Tibshirani (1993), ch. 15; the one that is added keeps p from 0 (Davison and Hinkley, 1997, ch. 4).
    """
    tail = (1.0 - confidence_level(confidence)) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    beyond = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Bootstrap(
        estimate=estimate,
        low=float(low),
        high=float(high),
        p_two_sided=min(1.0, 2.0 * beyond / (len(drawn) + 1)),
        resamples=len(drawn),
    )
