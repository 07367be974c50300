from __future__ import annotations

from dataclasses import FrozenInstanceError
from functools import reduce
from math import isfinite

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, norm

from crma.route.calibration import Calibration, calibrate
from crma.route.novelty import Novelty, untypical_rate

RATES = st.floats(0.001, 0.95)


def calibration(rank: int, count: int) -> Calibration:
    return Calibration(threshold=0.0, guarantee=0.5, count=count, slope=1.0, middle=0.0, typical=0.0, typical_rank=rank)


def started(rate: float = 0.1, false_alarms: float = 1 / 200) -> Novelty:
    return Novelty(rate=rate, false_alarms=false_alarms)


def rows_to_the_alarm(rng: np.random.Generator, chance: float, test: Novelty, *, at_most: int = 20_000) -> int:
    for number in range(1, at_most + 1):
        test = test.after(bool(rng.random() < chance))
        if test.alarm:
            return number
    return at_most


def after_all(test: Novelty, bits: list[bool]) -> Novelty:
    return reduce(Novelty.after, bits, test)


# --- false alarms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chance", "rate"), [(0.1, 0.1), (0.4, 0.4), (0.05, 0.1)])
def test_without_a_change_it_takes_on_average_1_in_a_rows_to_an_alarm(chance: float, rate: float):
    """Of 300 runs: their mean has a standard error of about 6 % (run lengths are nearly exponential), so two of these
    are allowed below. That the mean is not far above 200 at the rate itself says that the bound is no idle one."""
    rng = np.random.default_rng(0)
    lengths = [rows_to_the_alarm(rng, chance, started(rate), at_most=2000) for _ in range(300)]
    assert np.mean(lengths) >= 200 * (1 - 2 / np.sqrt(300))
    if chance == rate:
        assert np.mean(lengths) < 5 * 200


@settings(max_examples=100, deadline=None)
@given(rate=RATES, share=st.floats(0.0, 1.0), before=st.lists(st.booleans(), max_size=12))
def test_no_bet_gains_on_average_while_nothing_is_new(rate: float, share: float, before: list[bool]):
    """Exactly: the mean of (sum + 1) times the next likelihood ratio is at most sum + 1, at any rate up to p0."""
    chance = share * rate
    test = after_all(started(rate), before)
    for total, if_untypical, if_typical in zip(test.sums, test.after(True).sums, test.after(False).sums, strict=True):
        mean = chance * if_untypical + (1 - chance) * if_typical
        assert mean <= (total + 1.0) * (1 + 1e-12)
        if share == 1.0:
            assert mean == pytest.approx(total + 1.0)


@given(bits=st.lists(st.booleans(), max_size=300))
def test_at_a_rate_of_one_there_is_never_an_alarm(bits: list[bool]):
    test = after_all(started(1.0), bits)
    assert (test.alarm, test.doubtful) == (False, False)
    assert (test.seen, test.untypical) == (len(bits), sum(bits))


# --- what is new -----------------------------------------------------------------------------------------------------


def test_soon_after_a_change_there_is_an_alarm():
    """Also after a thousand rows of what is known: they do not use up what later rows say."""
    rng = np.random.default_rng(1)
    delays = []
    for _ in range(30):
        test = after_all(started(0.1, 1e-4), (rng.random(1000) < 0.05).tolist())
        assert not test.alarm
        delays.append(rows_to_the_alarm(rng, 0.9, test))
    assert max(delays) <= 15
    assert np.mean(delays) <= 8


def test_a_small_change_is_found_too():
    rng = np.random.default_rng(2)
    assert np.mean([rows_to_the_alarm(rng, 0.4, started(0.1, 1e-3)) for _ in range(30)]) < 60


@settings(max_examples=100, deadline=None)
@given(rate=RATES, bits=st.lists(st.booleans(), max_size=20))
def test_one_more_untypical_row_never_speaks_against_something_new(rate: float, bits: list[bool]):
    test = after_all(started(rate), bits)
    assert all(u > t for u, t in zip(test.after(True).sums, test.after(False).sums, strict=True))


def test_the_sums_are_those_of_the_likelihood_ratios_of_all_starting_times():
    bits, rate = [False, True, True, False, True], 0.2
    test = after_all(started(rate), bits)
    for share, total in zip((0.1, 0.25, 0.5, 0.75), test.sums, strict=True):
        p1 = rate + share * (1 - rate)
        ratios = [p1 / rate if bit else (1 - p1) / (1 - rate) for bit in bits]
        assert total == pytest.approx(sum(np.prod(ratios[start:]) for start in range(len(bits))))


@pytest.mark.parametrize(("enough", "alarm"), [(199.0, False), (201.0, True)])
def test_the_alarm_is_at_1_in_a_on_average(enough: float, alarm: bool):
    sums = (2 * enough, 0.0, enough, enough)
    assert Novelty(rate=0.1, false_alarms=1 / 200, sums=sums).alarm is alarm


def test_sums_do_not_overflow():
    test = started(1e-6, 1e-9)
    for _ in range(100_000):
        test = test.after(True)
    assert all(isfinite(total) for total in test.sums)
    assert isfinite(sum(test.sums))
    assert test.alarm
    assert (test.seen, test.untypical) == (100_000, 100_000)


def test_it_is_a_value():
    test = started()
    assert test.after(True).after(False) == test.after(True).after(False)
    assert (test.seen, test.sums) == (0, (0.0,) * 4)
    with pytest.raises(FrozenInstanceError):
        test.seen = 1  # pyright: ignore[reportAttributeAccessIssue]


# --- the rate --------------------------------------------------------------------------------------------------------


def test_the_rate_of_one_domain_is_a_quantile_of_a_beta():
    assert untypical_rate([calibration(3, 99)]) == pytest.approx(beta.ppf(0.95, 3, 97), rel=1e-12)
    # The first of n: the share below it is less than x with a probability of 1 - (1 - x)^n.
    assert untypical_rate([calibration(1, 20)]) == pytest.approx(1 - 0.05 ** (1 / 20), rel=1e-9)


def test_all_domains_share_the_five_percent_and_the_worst_counts():
    several = [calibration(3, 99), calibration(1, 20), calibration(10, 100)]
    wanted = [beta.ppf(1 - 0.05 / 3, k, n + 1 - k) for k, n in ((3, 99), (1, 20), (10, 100))]
    assert untypical_rate(several) == pytest.approx(max(wanted), rel=1e-12)
    assert untypical_rate(iter(several)) == untypical_rate(several[::-1])


def test_where_nothing_was_held_out_nothing_is_known():
    assert untypical_rate([]) == 1.0
    assert untypical_rate([calibration(0, 0)]) == 1.0
    assert untypical_rate([calibration(3, 99), calibration(0, 0)]) == 1.0


@pytest.mark.parametrize(("rank", "count"), [(1, 20), (3, 40), (20, 200)])
def test_the_rate_is_not_exceeded_in_95_of_100_draws(rank: int, count: int):
    """4000 draws of n uniform scores: the share of further ones below the k-th smallest is that score itself. The
    margin is four standard deviations of a binomial share."""
    bars = np.sort(np.random.default_rng(3).random((4000, count)), axis=1)[:, rank - 1]
    covered = np.mean(bars <= untypical_rate([calibration(rank, count)]))
    assert abs(covered - 0.95) <= 4 * np.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.parametrize("count", [12, 20, 50, 100])
def test_it_is_not_exceeded_where_the_scores_themselves_say_what_is_typical(count: int):
    """The rank is chosen by the same scores, which the theorem does not allow for: for normal ones it holds."""
    rng, strangers = np.random.default_rng(count), np.random.default_rng(1).normal(-9, 1, 50)
    found = [calibrate(rng.normal(size=count), strangers, error_rate=0.01) for _ in range(1500)]
    covered = np.mean([norm.cdf(c.typical) <= untypical_rate([c]) for c in found])
    assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 1500)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_what_is_typical_has_its_rank_among_the_scores(count: int, seed: int):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=count)
    found = calibrate(scores, rng.normal(-9, 1, 20), error_rate=0.01)
    ordered = np.sort(scores)
    assert 1 <= found.typical_rank <= count
    assert ordered[found.typical_rank - 1] >= found.typical
    assert found.typical_rank == 1 or ordered[found.typical_rank - 2] < found.typical
    spread = np.median(np.abs(scores - np.median(scores)))
    assert found.typical == pytest.approx(np.median(scores) - 1.645 * 1.4826 * spread)
    assert calibrate(scores, rng.normal(-9, 1, 20), error_rate=0.01, held_out=False).typical_rank == 0


# --- once all rows have come -----------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(rate=st.floats(0.01, 0.9), seen=st.integers(0, 60), share=st.floats(0, 1))
def test_doubt_is_a_binomial_test(rate: float, seen: int, share: float):
    untypical = round(share * seen)
    chance = sum(binom.pmf(k, seen, rate) for k in range(untypical, seen + 1))  # of so many, or more
    assume(abs(chance - 0.05) > 1e-9)
    test = Novelty(rate=rate, false_alarms=1e-4, seen=seen, untypical=untypical)
    assert test.doubtful == bool(chance < 0.05)


def test_doubt_by_hand():
    """Of five at one half: all five have a chance of 1/32, four or more of 6/32."""
    assert Novelty(rate=0.5, false_alarms=1e-4, seen=5, untypical=5).doubtful
    assert not Novelty(rate=0.5, false_alarms=1e-4, seen=5, untypical=4).doubtful
    assert not started().doubtful
