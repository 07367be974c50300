"""How sure a number is: intervals of shares, tests, moments. Pure functions, each with its formula and source.

Distributions and enumerations are SciPy's. All tests are two-sided. What varies must be said beside a number: Welch's
and the permutation tests speak of seeds or orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crma.bench.checked import (
    Answers,
    Numbers,
    confidence_level,
    finite_number,
    numbers,
    right_or_wrong,
    same_length,
    shares,
    whole_number,
)
from crma.errors import ConfigError

__all__ = [
    "Interval",
    "McNemar",
    "MeanSd",
    "Permutation",
    "Welch",
    "clopper_pearson",
    "holm",
    "mcnemar",
    "mcnemar_exact",
    "mean_sd",
    "newcombe",
    "permutation_test",
    "sign_flip_test",
    "welch",
    "welch_from_moments",
    "wilson",
]


_CELLS = 2_000_000  # drawn at a time: 16 MB an array, and a seed gives one stream whatever the memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    b: int  # right only by the first
    c: int  # right only by the second
    p: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Welch:
    t: float  # positive where a's mean is the greater
    degrees_of_freedom: float
    p: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Permutation:
    difference: float  # what was observed: mean(a) − mean(b), or the mean difference of the pairs
    p: float
    exact: bool  # every arrangement was counted
    arrangements: int  # that were counted, or drawn


class MeanSd(NamedTuple):
    mean: float
    sd: float | None  # None of one value: its spread is unknown, not zero


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """(p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n): covers about `confidence` on average over p.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Raises:
        ConfigError: not 0 ≤ successes ≤ n with n ≥ 1, or a confidence outside (0, 1).
    """
    return _proportion(successes, n, confidence, "wilson")


def newcombe(successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = 0.95) -> Interval:
    """δ = p_a − p_b of independent samples, from the Wilson intervals [l, u] of each: from
    δ − √((p_a − l_a)² + (u_b − p_b)²) to δ + √((u_a − p_a)² + (p_b − l_b)²).

    Source: Newcombe (1998), "Interval estimation for the difference between independent proportions", method 10.

    Raises:
        ConfigError: as `wilson`.
    """
    a, b = wilson(successes_a, n_a, confidence), wilson(successes_b, n_b, confidence)
    p_a, p_b = successes_a / n_a, successes_b / n_b
    return Interval(
        low=p_a - p_b - math.hypot(p_a - a.low, b.high - p_b),
        high=p_a - p_b + math.hypot(a.high - p_a, p_b - b.low),
    )


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """All p whose binomial tails hold at least (1 − confidence)/2 each: covers at least `confidence`, so it is wider.

    Quantiles of Beta(k, n − k + 1) and Beta(k + 1, n − k). The CRMA paper mixes the two methods: its 98/100 (93.0 to
    99.5 %) is Wilson's, its 18/18 (81.5 to 100 %) is this one; Wilson's would be 82.4 to 100 %.
    Source: Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of the
    binomial".

    Raises:
        ConfigError: as `wilson`.
    """
    return _proportion(successes, n, confidence, "exact")


def mcnemar_exact(b: int, c: int) -> float:
    """P(|X − (b + c)/2| ≥ |b − c|/2), X ~ Binomial(b + c, ½): b and c count the items only one of two methods got.

    1 where no item is discordant. With the marginals alone (98 and 38 of 100) b − c = 60 and c ≤ 2 are known, so p lies
    between 1.7e-18 (b = 60, c = 0) and 2.3e-16 (62, 2): the CRMA paper's p ≲ 2e-16 is the worst of the three cases.
    Source: McNemar (1947), "Note on the sampling error of the difference between correlated proportions"; the exact
    form is the sign test on the discordant items.

    Raises:
        ConfigError: a negative or fractional count.
    """
    b, c = whole_number("b", b), whole_number("c", c)
    return float(stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def mcnemar(first: Answers, second: Answers) -> McNemar:
    """`mcnemar_exact` of which items each of two methods answered rightly, in the same order.

    Raises:
        ConfigError: empty, of two lengths, or anything but true and false.
    """
    x, y = right_or_wrong("first", first), right_or_wrong("second", second)
    same_length("first", x, "second", y)
    b, c = int((x & ~y).sum()), int((~x & y).sum())
    return McNemar(b=b, c=c, p=mcnemar_exact(b, c))


def welch(a: Numbers, b: Numbers) -> Welch:
    """`welch_from_moments` of two samples' own means and sample standard deviations.

    Raises:
        ConfigError: fewer than two values on a side, a value that is not finite, or no spread on either side.
    """
    x, y = numbers("a", a, least=2), numbers("b", b, least=2)
    return welch_from_moments(
        float(x.mean()), float(x.std(ddof=1)), len(x), float(y.mean()), float(y.std(ddof=1)), len(y)
    )


def welch_from_moments(mean_a: float, sd_a: float, n_a: int, mean_b: float, sd_b: float, n_b: int) -> Welch:
    """t = (m_a − m_b) / √(v_a + v_b), v = sd²/n; ν = (v_a + v_b)² / (v_a²/(n_a − 1) + v_b²/(n_b − 1)).

    `sd` is the sample's (n − 1 in the denominator); p is twice Student's tail beyond |t| at ν degrees of freedom.
    Source: Welch (1947), "The generalization of 'Student's' problem when several different population variances are
    involved"; ν is Satterthwaite's (1946).

    Raises:
        ConfigError: n below 2, a negative or non-finite number, or no spread on either side, where t has no meaning.
    """
    mean_a, mean_b = finite_number("mean_a", mean_a), finite_number("mean_b", mean_b)
    v_a = finite_number("sd_a", sd_a, least=0.0) ** 2 / whole_number("n_a", n_a, least=2)
    v_b = finite_number("sd_b", sd_b, least=0.0) ** 2 / whole_number("n_b", n_b, least=2)
    error = math.sqrt(v_a + v_b)
    # Equal values get a standard deviation of some rounding, 1e-17, not of zero.
    if error <= 1e-14 * max(abs(mean_a), abs(mean_b)) or error == 0.0:
        raise ConfigError(
            "Welch's t has no meaning where neither sample varies",
            expected="a positive standard deviation on at least one side",
            got=f"sd_a = {sd_a}, sd_b = {sd_b}",
            next_step="report the values themselves, or measure more seeds",
        )
    # Shares of the variance, so that squares of tiny variances do not underflow.
    share_a, share_b = v_a / (v_a + v_b), v_b / (v_a + v_b)
    df = 1.0 / (share_a**2 / (n_a - 1) + share_b**2 / (n_b - 1))
    t = (mean_a - mean_b) / error
    return Welch(t=t, degrees_of_freedom=df, p=float(min(1.0, 2.0 * stats.t.sf(abs(t), df))))


def permutation_test(a: Numbers, b: Numbers, *, resamples: int = 20_000, seed: int = 0) -> Permutation:
    """Twice the smaller share of splits whose mean(a) − mean(b) is as far to one side as the observed one.

    Every split of the pooled values is counted where there are at most `resamples`; else that many are drawn and the
    observed one is counted among them, so that p is never 0. With n against m values p cannot be under 1 / C(n + m, n)
    (twice that where n = m): 3 seeds against 3 reach 0.1 and no less.
    Source: Fisher (1935), "The design of experiments"; Phipson and Smyth (2010) for the drawn form.

    Raises:
        ConfigError: fewer than two values on a side, a value that is not finite, or resamples below 1.
    """
    x, y = numbers("a", a, least=2), numbers("b", b, least=2)
    pooled = np.concatenate([x, y])
    centre = float(np.median(pooled))
    scale = float(np.abs(pooled - centre).max()) or 1.0

    def difference(x: NDArray[Any], y: NDArray[Any], axis: int = 0) -> NDArray[Any]:
        return _snap(x.mean(axis=axis) - y.mean(axis=axis))

    return _arrangements(
        ((x - centre) / scale, (y - centre) / scale),
        difference,
        "independent",
        splits=math.comb(len(pooled), len(x)),
        observed=float(x.mean() - y.mean()),
        resamples=resamples,
        seed=seed,
    )


def sign_flip_test(differences: Numbers, *, resamples: int = 20_000, seed: int = 0) -> Permutation:
    """Twice the smaller share of the 2ⁿ sign patterns whose mean of ±dᵢ is as far to one side as the observed mean.

    The paired counterpart of `permutation_test`, counted whole up to `resamples` patterns (n ≤ 14 by default), else
    drawn. p cannot be under 2 / 2ⁿ: 3 pairs reach 0.25 and no less.
    Source: Fisher (1935), "The design of experiments", on Darwin's pairs.

    Raises:
        ConfigError: fewer than two differences, one that is not finite, or resamples below 1.
    """
    d = numbers("differences", differences, least=2)
    scale = float(np.abs(d).max()) or 1.0

    def mean(d: NDArray[Any], axis: int = 0) -> NDArray[Any]:
        return _snap(d.mean(axis=axis))

    observed = float(d.mean())
    return _arrangements(
        (d / scale,), mean, "samples", splits=2 ** len(d), observed=observed, resamples=resamples, seed=seed
    )


def holm(pvalues: Numbers) -> tuple[float, ...]:
    """Adjusted p in the order given: max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎); reject what is under the wanted level.

    Holds the chance of any false rejection among m tests, whatever their dependence.
    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".

    Raises:
        ConfigError: empty, or a value outside [0, 1].
    """
    p = shares("pvalues", pvalues)
    order = np.argsort(p, kind="stable")
    steps = np.arange(len(p), 0, -1) * p[order]
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return tuple(adjusted.tolist())


def mean_sd(values: Numbers) -> MeanSd:
    """Mean and sample standard deviation √(Σ (x − x̄)² / (n − 1)); of one value the latter is None.

    Raises:
        ConfigError: empty, or a value that is not finite.
    """
    x = numbers("values", values)
    return MeanSd(mean=float(x.mean()), sd=float(x.std(ddof=1)) if len(x) > 1 else None)


def _proportion(successes: int, n: int, confidence: float, method: str) -> Interval:
    n = whole_number("n", n, least=1)
    k = whole_number("successes", successes)
    if k > n:
        raise ConfigError("more successes than trials", expected=f"successes of at most n = {n}", got=k)
    found = stats.binomtest(k, n).proportion_ci(confidence_level(confidence), method=method)  # pyright: ignore[reportArgumentType]
    return Interval(low=float(found.low), high=float(found.high))


def _snap(values: NDArray[Any]) -> NDArray[Any]:
    # Values stand within [−1, 1]: arrangements that tie in truth must tie here, or p depends on the order of addition.
    return np.round(values, 12)


def _arrangements(
    data: tuple[NDArray[Any], ...],
    statistic: Callable[..., NDArray[Any]],
    kind: str,
    *,
    splits: int,
    observed: float,
    resamples: int,
    seed: int,
) -> Permutation:
    resamples = whole_number("resamples", resamples, least=1)
    exact = splits <= resamples
    found = stats.permutation_test(
        data,
        statistic,
        permutation_type=kind,  # pyright: ignore[reportArgumentType]
        vectorized=True,
        n_resamples=resamples,  # SciPy enumerates where that many suffice, by the same rule as `exact`
        batch=max(1, _CELLS // sum(map(len, data))),
        rng=np.random.default_rng(seed),
    )
    return Permutation(difference=observed, p=float(found.pvalue), exact=exact, arrangements=min(splits, resamples))
