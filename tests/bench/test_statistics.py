"""Intervals and tests against SciPy, enumeration by hand, and the numbers the CRMA paper prints."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crma.bench.classification import auroc, expected_calibration_error, macro_f1
from crma.bench.resampling import paired_bootstrap, paired_relative_advantage
from crma.bench.statistics import (
    clopper_pearson,
    holm,
    mcnemar,
    mcnemar_exact,
    mean_sd,
    newcombe,
    permutation_test,
    sign_flip_test,
    welch,
    welch_from_moments,
    wilson,
)
from crma.errors import ConfigError

# The paper's drift in %, seeds 0, 42 and 1234 (PROTOCOL.md).
MODULAR = (-0.03, -0.10, -0.36)
NAIVE = (38.1, 41.7, 49.0)

quick = settings(max_examples=30, deadline=None)
small_ints = st.lists(st.integers(-5, 5), min_size=2, max_size=5)
scores = st.lists(st.floats(-10, 10).map(lambda x: round(x, 1)), min_size=1, max_size=20)


def percents(interval):
    return pytest.approx((100 * interval.low, 100 * interval.high), abs=0.005)


# Intervals of a proportion


def test_the_papers_intervals_are_wilsons_save_one():
    assert percents(wilson(98, 100)) == (93.00, 99.45)  # printed: 93.0 to 99.5
    assert percents(wilson(38, 100)) == (29.10, 47.79)  # printed: 29.0 to 47.8; 29.098 rounds to 29.1
    assert percents(wilson(18, 18)) == (82.41, 100.0)
    assert percents(clopper_pearson(18, 18)) == (81.47, 100.0)  # printed: 81.5 to 100, so of the other method
    assert percents(clopper_pearson(98, 100)) == (92.96, 99.76)  # which does not give the printed 99.5
    assert percents(clopper_pearson(38, 100)) == (28.48, 48.25)  # nor 29.0 to 47.8


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090), ((6, 7, 2, 7), 0.0582, 0.8062)],
)
def test_a_difference_of_shares_has_newcombes_own_intervals(counts: tuple[int, int, int, int], low: float, high: float):
    """Table II of the paper, method 10."""
    found = newcombe(*counts)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    turned = newcombe(*counts[2:], *counts[:2])
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_intervals_equal_their_formulas():
    z, p, n = stats.norm.ppf(0.95), 7 / 20, 20
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson(7, 20, confidence=0.9)
    assert (found.low, found.high) == pytest.approx(tuple((centre + s * half) / (1 + z * z / n) for s in (-1, 1)))
    exact = clopper_pearson(7, 20, confidence=0.9)
    assert stats.binom.sf(6, 20, exact.low) == pytest.approx(0.05)
    assert stats.binom.cdf(7, 20, exact.high) == pytest.approx(0.05)


@quick
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_an_interval_holds_the_estimate_and_mirrors(counts, confidence):
    k, n = counts
    for method in (wilson, clopper_pearson):
        found, mirror = method(k, n, confidence), method(n - k, n, confidence)
        assert 0 <= found.low <= k / n <= found.high <= 1
        assert (found.low, found.high) == pytest.approx((1 - mirror.high, 1 - mirror.low), abs=1e-9)


# McNemar


def test_the_papers_bound_is_the_worst_split_its_marginals_allow():
    # 98 right with the backbone, 38 without, of 100: b - c = 60 and c is at most the two the backbone got wrong.
    assert mcnemar_exact(60, 0) == pytest.approx(2 * 0.5**60)  # 1.7e-18
    assert mcnemar_exact(61, 1) == pytest.approx(2 * (1 + 62) * 0.5**62)  # 2.7e-17
    assert mcnemar_exact(62, 2) == pytest.approx(2 * (1 + 64 + 64 * 63 / 2) * 0.5**64)  # 2.3e-16: "p <~ 2e-16" holds
    assert mcnemar_exact(62, 2) == pytest.approx(2.26e-16, rel=0.01)
    assert mcnemar_exact(63, 3) > 1e-15  # for which there would have to be three


def test_mcnemar_counts_what_only_one_got():
    found = mcnemar([True, True, True, False, False], [True, False, False, True, False])
    assert (found.b, found.c) == (2, 1)
    assert found.p == 1.0
    assert mcnemar(np.array([1, 1, 1, 1, 1]), np.zeros(5, bool)).p == pytest.approx(2 / 32)
    assert mcnemar([True, False], [True, False]).p == 1.0  # nothing discordant says nothing


@quick
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_symmetric_and_a_doubled_tail(b, c):
    p = mcnemar_exact(b, c)
    assert p == mcnemar_exact(c, b)
    assert p == pytest.approx(min(1.0, 2 * stats.binom.cdf(min(b, c), b + c, 0.5)))
    assert 0 < p <= 1


# Welch


def test_the_papers_t():
    found = welch(NAIVE, MODULAR)
    assert found.t == pytest.approx(13.43, abs=0.005)  # printed: 13.6
    assert found.degrees_of_freedom == pytest.approx(2.004, abs=0.0005)
    assert found.p == pytest.approx(0.00545, abs=0.000005)
    # The printed means and standard deviations (-0.17 +- 0.17 and 42.96 +- 5.5) do give it: 5.55 was cut to 5.5.
    assert welch_from_moments(42.96, 5.5, 3, -0.17, 0.17, 3).t == pytest.approx(13.58, abs=0.005)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 9), st.floats(-9, 3))
def test_welch_is_scipys_and_turns_its_sign(seed, n, m, magnitude):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(1.0, 1.0, n) * 10**magnitude, rng.normal(0.0, 3.0, m) * 10**magnitude
    found = welch(a, b)
    theirs: Any = stats.ttest_ind(a, b, equal_var=False)
    assert (found.t, found.degrees_of_freedom, found.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
    turned = welch(b, a)
    assert (turned.t, turned.p) == pytest.approx((-found.t, found.p))


def test_one_side_without_spread_is_a_measurement_and_two_are_none():
    found = welch((0.0, 0.0, 0.0), NAIVE)  # a drift that is zero by construction
    assert found.degrees_of_freedom == pytest.approx(2.0)
    against_zero: Any = stats.ttest_1samp(NAIVE, 0.0)
    assert found.t == pytest.approx(-against_zero.statistic)
    with pytest.raises(ConfigError, match="neither sample varies"):
        welch([0.1] * 3, [0.2] * 3)  # whose computed spread is 1e-17


# Permutations


def by_hand(arranged):
    """Twice the smaller tail over `arranged`: every statistic, exact, the observed one first."""
    observed, n = arranged[0], len(arranged)
    tails = (sum(x <= observed for x in arranged), sum(x >= observed for x in arranged))
    return min(1.0, 2 * min(tails) / n)


def splits(a, b):
    pooled = [Fraction(str(x)) for x in (*a, *b)]
    for picked in itertools.combinations(range(len(pooled)), len(a)):
        x = [pooled[i] for i in picked]
        yield sum(x) / len(a) - (sum(pooled) - sum(x)) / len(b)


@quick
@given(small_ints, small_ints)
def test_the_permutation_test_counts_every_split(a, b):
    a, b = [x / 10 for x in a], [x / 10 for x in b]  # tenths tie in truth, not in floating point
    found = permutation_test(a, b)
    assert found.exact
    assert found.arrangements == math.comb(len(a) + len(b), len(a))
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert found.p == pytest.approx(by_hand(list(splits(a, b))))
    assert found.p == pytest.approx(permutation_test(b, a).p)


def test_the_permutation_test_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 4), rng.normal(0, 1, 6)
    theirs = stats.permutation_test((a, b), lambda x, y: x.mean() - y.mean(), n_resamples=1000)
    assert permutation_test(a, b).p == pytest.approx(theirs.pvalue)
    assert permutation_test(NAIVE, MODULAR).p == pytest.approx(0.1)  # the least that three against three can reach


def test_many_splits_are_drawn_from_a_seed():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.6, 1, 30), rng.normal(0, 1, 30)
    found = permutation_test(a, b, resamples=4000, seed=3)
    assert not found.exact
    assert found.arrangements == 4000
    assert found == permutation_test(a, b, resamples=4000, seed=3)
    assert found != permutation_test(a, b, resamples=4000, seed=4)
    assert found.p == pytest.approx(stats.ttest_ind(a, b)[1], abs=0.01)
    assert permutation_test(a + 9, b, resamples=999).p == pytest.approx(2 / 1000)  # never zero


@quick
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=8))
def test_the_sign_flip_test_counts_every_pattern(whole):
    d = [x / 10 for x in whole]
    patterns = itertools.product((1, -1), repeat=len(d))  # the observed one first
    arranged = [sum(s * x for s, x in zip(signs, whole, strict=True)) for signs in patterns]
    found = sign_flip_test(d)
    assert found.p == pytest.approx(by_hand(arranged))
    assert found.exact
    assert found.p == pytest.approx(sign_flip_test([-x for x in d]).p)


def test_ties_in_truth_are_ties():
    # No difference at all, which additions in floating point see as 1e-17 or so: p would be 0.9 and 0.875.
    assert permutation_test([0.3, 0.2, -0.5], [0.4, 0.1, -0.5]).p == 1.0
    assert sign_flip_test([-0.1, -0.3, 0.3, 0.1]).p == 1.0


def test_the_sign_flip_test_draws_beyond_its_limit():
    d = np.random.default_rng(2).normal(0.3, 1, 40)
    found = sign_flip_test(d, resamples=4000)
    assert not found.exact
    assert found.p == pytest.approx(stats.ttest_1samp(d, 0.0)[1], abs=0.015)
    assert sign_flip_test([1.0, 2.0, 3.0]).p == 0.25


# Bootstrap


def test_the_bootstrap_weighs_by_tokens_and_keeps_its_seed():
    found = paired_bootstrap([1.0, -1.0], [30, 10], resamples=500)
    assert found.estimate == pytest.approx(0.5)
    assert (found.low, found.high) == (-1.0, 1.0)
    d = np.random.default_rng(0).normal(0.1, 1, 80)
    assert paired_bootstrap(d, resamples=500, seed=1) == paired_bootstrap(d, resamples=500, seed=1)
    assert paired_bootstrap(d, resamples=500, seed=1) != paired_bootstrap(d, resamples=500, seed=2)


def test_the_bootstrap_is_scipys():
    rng = np.random.default_rng(5)
    d = rng.exponential(1.0, 60) - 0.7
    found = paired_bootstrap(d)
    theirs = stats.bootstrap((d,), np.mean, method="percentile", n_resamples=10_000, rng=rng).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


@quick
@given(st.floats(-3, 3), st.lists(st.integers(1, 500), min_size=1, max_size=12), st.data())
def test_constant_differences_leave_no_doubt(constant, tokens, data):
    labels = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=len(tokens), max_size=len(tokens)))
    found = paired_bootstrap([constant] * len(tokens), tokens, labels, resamples=99)
    assert (found.low, found.estimate, found.high) == pytest.approx((constant,) * 3, abs=1e-12)
    assert found.p_two_sided == (1.0 if constant == 0 else 0.02)


def test_strata_keep_their_sizes():
    # Two domains that differ and do not vary: drawn within them nothing moves, drawn across them the mean does.
    d, label = [0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10
    within, across = paired_bootstrap(d, groups=label, resamples=300), paired_bootstrap(d, resamples=300)
    assert (within.low, within.high) == pytest.approx((0.5, 0.5))
    assert across.low < 0.4
    assert across.high > 0.6


def test_the_interval_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    covered = 0
    for seed in range(300):
        tokens = rng.integers(5, 60, 60)
        d = 0.3 + rng.exponential(1.0, 60) - 1.0  # independent of the tokens, so 0.3 in truth; skewed
        found = paired_bootstrap(d, tokens, resamples=400, seed=seed)
        covered += found.low <= 0.3 <= found.high
    # Percentiles are known to fall a little short on 60 skewed items; three standard errors of 300 draws are 0.04.
    assert 0.88 < covered / 300 < 0.98


def test_under_no_difference_p_is_about_uniform():
    rng = np.random.default_rng(12)
    p = [paired_bootstrap(rng.normal(0, 1, 50), resamples=199, seed=s).p_two_sided for s in range(300)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_the_advantage_is_worked_by_hand():
    # Theirs: (2 x 10 + 4 x 30) / 40 = 3.5 and 1.5, mean 2.5. Ours: (2 x 10 + 3 x 30) / 40 = 2.75 and 1.75, mean 2.25.
    theirs = {"law": ([2.0, 4.0], [10, 30]), "code": ([1.5], [7])}
    ours = {"code": ([1.75], [7]), "law": ([2.0, 3.0], [10, 30])}
    found = paired_relative_advantage(ours, theirs, resamples=400)
    assert found.estimate == pytest.approx(10.0)
    # Law draws two of two items: both the first (2 against 2), one of each, or both the second (3 against 4).
    assert found.low == pytest.approx(100 * ((2 + 1.5) - (2 + 1.75)) / (2 + 1.5))
    assert found.high == pytest.approx(100 * ((4 + 1.5) - (3 + 1.75)) / (4 + 1.5))


def test_the_order_of_a_mapping_changes_nothing():
    rng = np.random.default_rng(4)
    theirs = {d: (rng.uniform(0.5, 3.5, n), rng.integers(10, 200, n)) for d, n in (("b", 20), ("a", 30))}
    ours = {d: (x + rng.normal(0, 0.1, len(x)), n) for d, (x, n) in theirs.items()}
    turned = dict(reversed(ours.items()))
    assert paired_relative_advantage(ours, theirs, resamples=50) == paired_relative_advantage(
        turned, theirs, resamples=50
    )


def test_pairing_sees_what_the_items_spread_would_hide():
    rng = np.random.default_rng(3)
    losses, tokens = rng.uniform(0.5, 3.5, 200), rng.integers(10, 200, 200)
    theirs = {"a": (losses, tokens), "b": (losses[::-1], tokens)}
    ours = {d: (0.99 * x, n) for d, (x, n) in theirs.items()}
    found = paired_relative_advantage(ours, theirs)
    assert (found.low, found.estimate, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert found.p_two_sided == pytest.approx(2 / 10_001)
    noisy = {d: (x + rng.normal(0, 0.3, 200).clip(-0.4, 0.4), n) for d, (x, n) in theirs.items()}
    assert paired_relative_advantage(noisy, theirs).p_two_sided > 0.05
    same = paired_relative_advantage(theirs, theirs, resamples=50)
    assert (same.estimate, same.low, same.high, same.p_two_sided) == (0.0, 0.0, 0.0, 1.0)


def test_rows_of_one_document_are_drawn_together():
    """Each item four times over says no more than once: drawn by document the interval is the items' own."""
    rng = np.random.default_rng(4)
    losses, tokens = rng.uniform(0.5, 3.5, 60), rng.integers(10, 200, 60)
    theirs, ours = {"a": (losses, tokens)}, {"a": (losses + rng.normal(0, 0.3, 60).clip(-0.4, 0.4), tokens)}
    once = paired_relative_advantage(ours, theirs, {"a": range(60)})
    assert once == paired_relative_advantage(ours, theirs)
    us, them = ({d: (np.tile(x, 4), np.tile(n, 4)) for d, (x, n) in side.items()} for side in (ours, theirs))
    told = paired_relative_advantage(us, them, {"a": [*range(60)] * 4})
    assert (told.estimate, told.low, told.high) == pytest.approx((once.estimate, once.low, once.high))
    naive = paired_relative_advantage(us, them)
    assert 0.4 < (naive.high - naive.low) / (once.high - once.low) < 0.6  # as if there were four times the documents


def test_documents_that_two_domains_share_are_drawn_once_for_both():
    """One domain asked in two seeds on the same rows, with opposite errors: what one wins the other loses."""
    rng = np.random.default_rng(5)
    errors, tokens = rng.uniform(-0.4, 0.4, 50), np.full(50, 10)
    theirs = {seed: (np.full(50, 2.0), tokens) for seed in ("one", "two")}
    ours = {"one": (2.0 + errors, tokens), "two": (2.0 - errors, tokens)}
    same = {seed: [f"row {i}" for i in range(50)] for seed in theirs}
    told = paired_relative_advantage(ours, theirs, same)
    assert (told.estimate, told.low, told.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    apart = paired_relative_advantage(ours, theirs, {seed: [(seed, i) for i in range(50)] for seed in theirs})
    assert apart.high - apart.low > 1.0
    chained = {"one": range(50), "two": range(49, 99)}  # one document is enough to draw them together
    assert paired_relative_advantage(ours, theirs, chained).resamples == 10_000


def test_a_draw_without_any_item_of_a_domain_is_left_out():
    theirs = {"a": ([2.0, 3.0], [5, 5]), "b": ([1.0] * 3, [5] * 3)}
    ours = {"a": ([1.8, 2.7], [5, 5]), "b": ([0.9] * 3, [5] * 3)}
    told = paired_relative_advantage(ours, theirs, {"a": [0, 1], "b": [1, 2, 3]})
    assert 8_000 < told.resamples < 9_900  # of a's two documents among four, one in sixteen draws has neither
    assert (told.low, told.high) == pytest.approx((10.0, 10.0))


# Many tests, spreads, the router's numbers


def test_holm_is_worked_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))  # 3 x .01, 2 x .03, max(1 x .04, .06)
    assert holm([0.9, 0.6]) == (1.0, 1.0)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10), st.randoms())
def test_holm_raises_p_up_to_bonferroni_and_keeps_the_order(p, random):
    adjusted = holm(p)
    assert all(raw <= a <= min(1.0, len(p) * raw) + 1e-12 for raw, a in zip(p, adjusted, strict=True))
    assert [a for _, a in sorted(zip(p, adjusted, strict=True))] == sorted(adjusted)
    order = list(range(len(p)))
    random.shuffle(order)
    assert holm([p[i] for i in order]) == tuple(adjusted[i] for i in order)


def test_the_spread_is_the_samples():
    mean, sd = mean_sd([1.46, 1.97, 2.54])  # printed in the paper: 1.99 +- 0.54
    assert (mean, sd) == pytest.approx((1.99, 0.5403), abs=0.0001)
    assert mean_sd([3.0]).sd is None


def test_calibration_error_is_worked_by_hand():
    # Bins (0, .5] and (.5, 1]: 2/4 |0.5 - 0.4| + 2/4 |1 - 0.9| = 0.1
    assert expected_calibration_error([0.3, 0.5, 0.8, 1.0], [0, 1, 1, 1], bins=2) == pytest.approx(0.1)
    assert expected_calibration_error([0.0, 1.0, 1.0], [False, True, True]) == 0.0
    # An upper edge belongs to its bin: with 0.65 in (.6, .7], not with 0.75 in the next. Right, wrong and right:
    # |(1 - .7) + (0 - .65)| / 3 + |1 - .75| / 3
    edge = expected_calibration_error([0.7, 0.65, 0.75], [1, 0, 1], bins=10)
    assert edge == pytest.approx((0.35 + 0.25) / 3)


@quick
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(1, 20))
def test_calibration_error_is_a_share_and_at_least_the_overall_gap(rows, bins):
    conf, right = [c for c, _ in rows], [r for _, r in rows]
    error = expected_calibration_error(conf, right, bins)
    assert abs(np.mean(conf) - np.mean(right)) - 1e-12 <= error <= 1.0
    assert expected_calibration_error(conf, right, 1) == pytest.approx(abs(np.mean(conf) - np.mean(right)))


@quick
@given(scores, scores)
def test_auroc_counts_pairs_and_mirrors(up, down):
    pairs = [(p > n) + 0.5 * (p == n) for p in up for n in down]
    assert auroc(up, down) == pytest.approx(np.mean(pairs))
    assert auroc(up, down) + auroc(down, up) == pytest.approx(1.0)
    assert auroc(up, down) == pytest.approx(stats.mannwhitneyu(up, down, method="asymptotic").statistic / len(pairs))


def test_macro_f1_is_worked_by_hand():
    # law: 2 TP, 1 FN: 4/5. code: 1 TP, 1 FP: 2/3.
    assert macro_f1(["law", "law", "law", "code"], ["law", "law", "code", "code"]) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert macro_f1(["law", "law"], ["law", None]) == pytest.approx((2 / 3 + 0) / 2)  # abstaining is a class
    assert macro_f1([1, 2, 3], [1, 2, 3]) == 1.0


# Refusals

ONE = {"a": ([1.0, 2.0], [3, 4])}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: wilson(5, 4), "more successes than trials"),
        (lambda: wilson(-1, 4), "successes is a count"),
        (lambda: wilson(0, 0), "n is a count"),
        (lambda: wilson(True, 4), "got: True"),
        (lambda: wilson(1, 4, confidence=95), "no confidence"),
        (lambda: clopper_pearson(0.5, 4), "got: 0.5"),  # pyright: ignore[reportArgumentType]
        (lambda: mcnemar_exact(-1, 2), "b is a count"),
        (lambda: mcnemar([True], [True, False]), "expected: 1 second\n  got: 2"),
        (lambda: mcnemar([2, 1], [0, 1]), "right or wrong"),
        (lambda: welch([1.0], [1.0, 2.0]), "at least 2"),
        (lambda: welch([1.0, math.nan], [1.0, 2.0]), "1 of 2, the first at 1: nan"),
        (lambda: welch_from_moments(1.0, -1.0, 3, 0.0, 1.0, 3), "sd_a"),
        (lambda: welch_from_moments(1.0, 1.0, 1, 0.0, 1.0, 3), "n_a is a count"),
        (lambda: welch_from_moments(math.inf, 1.0, 3, 0.0, 1.0, 3), "mean_a"),
        (lambda: permutation_test([1.0], [1.0, 2.0]), "a cannot be used"),
        (lambda: permutation_test([1.0, 2.0], [1.0, 2.0], resamples=0), "resamples is a count"),
        (lambda: sign_flip_test([[1.0, 2.0]]), "shape"),  # pyright: ignore[reportArgumentType]
        (lambda: sign_flip_test(["x"]), "must be numbers"),  # pyright: ignore[reportArgumentType]
        (lambda: paired_bootstrap([]), "differences cannot be used"),
        (lambda: paired_bootstrap([1.0], [0.0]), "positive numbers"),
        (lambda: paired_bootstrap([1.0], [1.0, 1.0]), "item by item"),
        (lambda: paired_bootstrap([1.0], groups=["a", "b"]), "item by item"),
        (lambda: paired_bootstrap([1.0], confidence=1.0), "no confidence"),
        (lambda: paired_relative_advantage({}, {}), "domain by domain"),
        (lambda: paired_relative_advantage(ONE, {"b": ONE["a"]}), "domain by domain"),
        (lambda: paired_relative_advantage(ONE, {"a": ([1.0, 2.0], [4, 3])}), "same tokens an item"),
        (lambda: paired_relative_advantage(ONE, {"a": ([1.0], [3])}), "same tokens an item"),
        (lambda: paired_relative_advantage(ONE, ONE, {"a": ["x"]}), "item by item"),
        (lambda: paired_relative_advantage(ONE, {"a": ([-1.0, 2.0], [3, 4])}), "at least 0"),
        (lambda: paired_relative_advantage(ONE, {"a": ([0.0, 0.0], [3, 4])}), "relative to their loss"),
        (lambda: holm([0.5, 1.5]), r"in \[0, 1\]"),
        (lambda: holm([]), "pvalues"),
        (lambda: mean_sd([]), "values"),
        (lambda: expected_calibration_error([1.1], [True]), "confidences are shares"),
        (lambda: expected_calibration_error([0.5], [True], bins=0), "bins is a count"),
        (lambda: auroc([], [1.0]), "scores_positive"),
        (lambda: auroc([math.nan], [1.0]), "not finite"),
        (lambda: macro_f1([], []), "at least one label"),
        (lambda: macro_f1(["a"], []), "item by item"),
    ],
)
def test_bad_input_is_refused_with_what_was_wrong(call, says):
    with pytest.raises(ConfigError, match=says):
        call()
