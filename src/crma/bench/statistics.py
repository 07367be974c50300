"""How sure a number is: intervals, tests and calibration. Pure functions, each with its formula and source.

Distributions and enumerations are SciPy's. All tests are two-sided. What varies must be said beside a number: Welch's
and the permutation tests speak of seeds or orders, the bootstrap only of the test items of the runs it was handed.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from crma.errors import ConfigError

__all__ = [
    "Bootstrap",
    "Interval",
    "McNemar",
    "MeanSd",
    "Permutation",
    "Welch",
    "adjusted_rand",
    "auroc",
    "clopper_pearson",
    "expected_calibration_error",
    "holm",
    "macro_f1",
    "mcnemar",
    "mcnemar_exact",
    "mean_sd",
    "newcombe",
    "paired_bootstrap",
    "paired_relative_advantage",
    "permutation_test",
    "sign_flip_test",
    "welch",
    "welch_from_moments",
    "wilson",
]

Numbers: TypeAlias = Sequence[float] | NDArray[Any]
Answers: TypeAlias = Sequence[bool] | Sequence[int] | NDArray[Any]  # true and false, or 1 and 0
DomainLosses: TypeAlias = Mapping[str, tuple[Numbers, Numbers]]  # domain -> (mean loss, tokens) of each test item

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    estimate: float  # of the items as they are, not the resamples' mean
    low: float
    high: float
    p_two_sided: float  # twice the share of resamples on the wrong side of zero (at zero included), see `_bootstrap`
    resamples: int


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
    b, c = _count("b", b), _count("c", c)
    return float(stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def mcnemar(first: Answers, second: Answers) -> McNemar:
    """`mcnemar_exact` of which items each of two methods answered rightly, in the same order.

    Raises:
        ConfigError: empty, of two lengths, or anything but true and false.
    """
    x, y = _answers("first", first), _answers("second", second)
    _same_length("first", x, "second", y)
    b, c = int((x & ~y).sum()), int((~x & y).sum())
    return McNemar(b=b, c=c, p=mcnemar_exact(b, c))


def welch(a: Numbers, b: Numbers) -> Welch:
    """`welch_from_moments` of two samples' own means and sample standard deviations.

    Raises:
        ConfigError: fewer than two values on a side, a value that is not finite, or no spread on either side.
    """
    x, y = _numbers("a", a, least=2), _numbers("b", b, least=2)
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
    mean_a, mean_b = _finite("mean_a", mean_a), _finite("mean_b", mean_b)
    v_a = _finite("sd_a", sd_a, least=0.0) ** 2 / _count("n_a", n_a, least=2)
    v_b = _finite("sd_b", sd_b, least=0.0) ** 2 / _count("n_b", n_b, least=2)
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
    x, y = _numbers("a", a, least=2), _numbers("b", b, least=2)
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
    d = _numbers("differences", differences, least=2)
    scale = float(np.abs(d).max()) or 1.0

    def mean(d: NDArray[Any], axis: int = 0) -> NDArray[Any]:
        return _snap(d.mean(axis=axis))

    observed = float(d.mean())
    return _arrangements(
        (d / scale,), mean, "samples", splits=2 ** len(d), observed=observed, resamples=resamples, seed=seed
    )


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
    d = _numbers("differences", differences)
    w = np.ones_like(d) if weights is None else _positive("weights", weights)
    _same_length("differences", d, "weights", w)
    strata: dict[Hashable, list[int]] = {}
    if groups is None:
        strata[None] = list(range(len(d)))
    else:
        _same_length("differences", d, "groups", groups)
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
        us, tokens = _losses(f"ours[{domain!r}]", ours[domain])
        them, their_tokens = _losses(f"theirs[{domain!r}]", theirs[domain])
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
            _same_length("ours", us, f"documents[{domain!r}]", documents[domain])
    estimate = _advantage([table.sum(axis=1) for table in tables.values()])
    together = list(tables.values()) if documents is None else _by_document(tables, documents)
    # Three rows a domain, whatever was drawn together.
    sums = np.concatenate(list(_resampled(together, resamples, seed))).reshape(len(tables), 3, -1)
    sums = sums[:, :, (sums[:, 2] > 0).all(axis=0)]
    if not sums.size:
        raise ConfigError("too few documents to draw from", expected="several a domain", got="no draw with all domains")
    return _bootstrap(float(estimate), _advantage(list(sums)), confidence)


def holm(pvalues: Numbers) -> tuple[float, ...]:
    """Adjusted p in the order given: max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎); reject what is under the wanted level.

    Holds the chance of any false rejection among m tests, whatever their dependence.
    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".

    Raises:
        ConfigError: empty, or a value outside [0, 1].
    """
    p = _within("pvalues", pvalues)
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
    x = _numbers("values", values)
    return MeanSd(mean=float(x.mean()), sd=float(x.std(ddof=1)) if len(x) > 1 else None)


def expected_calibration_error(confidences: Numbers, correct: Answers, bins: int = 15) -> float:
    """Σ_m |B_m|/n · |accuracy(B_m) − mean confidence(B_m)|, B_m the confidences in ((m − 1)/M, m/M]; in [0, 1].

    A confidence of 0 belongs to the first bin. The number depends on `bins` and is biased upwards on few rows.
    Source: Guo et al. (2017), "On calibration of modern neural networks", eq. 3 (M = 15 there).

    Raises:
        ConfigError: empty, of two lengths, a confidence outside [0, 1], or bins below 1.
    """
    conf, right = _within("confidences", confidences), _answers("correct", correct)
    _same_length("confidences", conf, "correct", right)
    m = _count("bins", bins, least=1)
    # Compared with the edges themselves: conf × bins would put 0.7 of 10 bins into the eighth (7.000000000000001).
    which = np.searchsorted(np.arange(1, m) / m, conf, side="left")
    gaps = np.bincount(which, weights=right - conf, minlength=m)
    return float(np.abs(gaps).sum() / len(conf))


def auroc(scores_positive: Numbers, scores_negative: Numbers) -> float:
    """P(positive > negative) + ½ P(tie) over all pairs: U / (n₊ n₋), from ranks.

    Source: Mann and Whitney (1947) for U; Hanley and McNeil (1982) for the area under the ROC curve.

    Raises:
        ConfigError: an empty side, or a score that is not finite.
    """
    up, down = _numbers("scores_positive", scores_positive), _numbers("scores_negative", scores_negative)
    ranks = stats.rankdata(np.concatenate([up, down]))  # ties get their mean rank
    u = float(ranks[: len(up)].sum()) - len(up) * (len(up) + 1) / 2
    return u / (len(up) * len(down))


def adjusted_rand(found: Sequence[str], right: Sequence[str]) -> float:
    """How far two partitions of the same rows agree, corrected for chance: 1 for equal ones, about 0 for unrelated.

    (Σ C(n_ij, 2) − E) / (½ (Σ C(a_i, 2) + Σ C(b_j, 2)) − E) with E = Σ C(a_i, 2) Σ C(b_j, 2) / C(n, 2)
    (Hubert and Arabie 1985, eq. 5).
    """
    _same_length("found", found, "right", right)
    cells, rows, columns = Counter(zip(found, right, strict=True)), Counter(found), Counter(right)
    together, own, theirs = (sum(math.comb(n, 2) for n in counts.values()) for counts in (cells, rows, columns))
    every = math.comb(len(found), 2)
    expected = own * theirs / every if every else 0.0
    most = (own + theirs) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def macro_f1(
    true: Sequence[Hashable], predicted: Sequence[Hashable], *, classes: Collection[Hashable] | None = None
) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN); in [0, 1].

    Without `classes` they are all that appear on either side, so a label that is only predicted (a router's None, where
    it abstains) counts as a class with F1 = 0.
    Source: van Rijsbergen (1979) for F; Opitz and Burst (2019), "Macro F1 and macro F1", for this of the two averages.

    Raises:
        ConfigError: empty, of two lengths, or none of `classes` appears.
    """
    if len(true) == 0:
        raise ConfigError("macro F1 needs answers", expected="at least one label", got="none")
    _same_length("true", true, "predicted", predicted)
    hits: dict[Hashable, int] = {}
    seen: dict[Hashable, int] = {}  # 2 TP + FP + FN
    for t, p in zip(true, predicted, strict=True):
        hits[t] = hits.get(t, 0) + (t == p)
        seen[t] = seen.get(t, 0) + 1
        seen[p] = seen.get(p, 0) + 1
    counted = {label: n for label, n in seen.items() if classes is None or label in classes}
    if not counted:
        raise ConfigError("macro F1 needs classes that appear", expected="one of the labels", got=list(classes or ()))
    return sum(2.0 * hits.get(label, 0) / n for label, n in counted.items()) / len(counted)


def _proportion(successes: int, n: int, confidence: float, method: str) -> Interval:
    n = _count("n", n, least=1)
    k = _count("successes", successes)
    if k > n:
        raise ConfigError("more successes than trials", expected=f"successes of at most n = {n}", got=k)
    found = stats.binomtest(k, n).proportion_ci(_confidence(confidence), method=method)  # pyright: ignore[reportArgumentType]
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
    resamples = _count("resamples", resamples, least=1)
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


def _resampled(tables: Sequence[NDArray[Any]], resamples: int, seed: int) -> Iterator[NDArray[Any]]:
    """For each table (columns, items): the sums of its columns over items drawn with replacement, (columns, resamples).

    One index draws all columns of an item, which is what makes the comparison paired.
    """
    resamples = _count("resamples", resamples, least=1)
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
    tail = (1.0 - _confidence(confidence)) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    beyond = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Bootstrap(
        estimate=estimate,
        low=float(low),
        high=float(high),
        p_two_sided=min(1.0, 2.0 * beyond / (len(drawn) + 1)),
        resamples=len(drawn),
    )


def _count(name: str, value: int, least: int = 0) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        whole = None
    if whole is None or isinstance(value, (bool, np.bool_)) or whole < least:
        raise ConfigError(f"{name} is a count", expected=f"a whole number of at least {least}", got=repr(value))
    return whole


def _finite(name: str, value: float, least: float = -math.inf) -> float:
    if not math.isfinite(value) or value < least:
        raise ConfigError(f"{name} cannot be used", expected=f"a finite number of at least {least}", got=repr(value))
    return float(value)


def _confidence(value: float) -> float:
    if not 0.0 < value < 1.0:
        raise ConfigError("this is no confidence", expected="a share between 0 and 1, such as 0.95", got=repr(value))
    return value


def _numbers(name: str, values: Numbers, least: int = 1) -> NDArray[np.float64]:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be numbers", expected="a flat sequence of numbers", got=str(error)) from error
    if found.ndim != 1 or len(found) < least:
        raise ConfigError(
            f"{name} cannot be used", expected=f"a flat sequence of at least {least}", got=f"shape {found.shape}"
        )
    faulty = np.flatnonzero(~np.isfinite(found))
    if len(faulty):
        where = f"{len(faulty)} of {len(found)}, the first at {faulty[0]}: {found[faulty[0]]}"
        raise ConfigError(f"{name} hold what is not finite", expected="finite numbers", got=where)
    return found


def _positive(name: str, values: Numbers) -> NDArray[np.float64]:
    found = _numbers(name, values)
    if found.min() <= 0.0:
        raise ConfigError(f"{name} weigh the items", expected="positive numbers", got=f"{found.min():g}")
    return found


def _within(name: str, values: Numbers) -> NDArray[np.float64]:
    found = _numbers(name, values)
    if found.min() < 0.0 or found.max() > 1.0:
        raise ConfigError(f"{name} are shares", expected="numbers in [0, 1]", got=f"{found.min():g} to {found.max():g}")
    return found


def _losses(name: str, item: tuple[Numbers, Numbers]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    losses, tokens = _numbers(f"losses of {name}", item[0]), _positive(f"tokens of {name}", item[1])
    _same_length(f"losses of {name}", losses, f"tokens of {name}", tokens)
    if losses.min() < 0.0:
        raise ConfigError(f"losses of {name} cannot be used", expected="losses of at least 0", got=f"{losses.min():g}")
    return losses, tokens


def _answers(name: str, values: Answers) -> NDArray[np.bool_]:
    found = _numbers(name, values)
    if not np.isin(found, (0.0, 1.0)).all():
        raise ConfigError(f"{name} are right or wrong", expected="true and false", got=sorted(set(found.tolist()))[:5])
    return found.astype(np.bool_)


def _same_length(left: str, a: Sequence[Any] | NDArray[Any], right: str, b: Sequence[Any] | NDArray[Any]) -> None:
    if len(a) != len(b):
        raise ConfigError(f"{left} and {right} go item by item", expected=f"{len(a)} {right}", got=len(b))
