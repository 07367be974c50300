"""The largest share that makes no earlier domain worse, decided on tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crma.train.promotion import ON_AVERAGE, SHARES, Held, furthest_follow, gain, verify_proposal

REFERENCES = {"law": 2.0, "code": 1.0}


def decide(table, **options):
    asked = []

    def loss_of(domain, share):
        asked.append((domain, share))
        return table[domain][share]

    return verify_proposal(REFERENCES, loss_of, **options), asked


def test_the_whole_way_where_nobody_is_worse():
    verdict, asked = decide({"law": {1.0: 1.9}, "code": {1.0: 1.0}})
    assert (verdict.share, verdict.losses) == (1.0, {"law": 1.9, "code": 1.0})
    assert asked == [("law", 1.0), ("code", 1.0)]


def test_the_largest_share_wins_even_where_a_smaller_one_is_better():
    table = {"law": {1.0: 2.1, 0.5: 2.0, 0.25: 1.5}, "code": {1.0: 0.9, 0.5: 0.9, 0.25: 0.5}}
    verdict, _ = decide(table)
    assert (verdict.share, verdict.losses) == (0.5, {"law": 2.0, "code": 0.9})


def test_the_first_refusal_ends_a_share():
    table = {"law": {1.0: 2.1, 0.5: 1.0}, "code": {0.5: 1.1, 0.25: 0.9}}
    table["law"][0.25] = 1.0
    verdict, asked = decide(table)
    assert asked == [("law", 1.0), ("law", 0.5), ("code", 0.5), ("law", 0.25), ("code", 0.25)]
    assert [(t.share, t.refused_by) for t in verdict.trials] == [(1.0, "law"), (0.5, "code"), (0.25, None)]
    assert verdict.trials[0].losses == {"law": 2.1}  # code was not measured there


def test_no_share_is_left_and_nothing_is_promoted_unmeasured():
    verdict, asked = decide({"law": dict.fromkeys(SHARES, 2.1), "code": {}})
    assert (verdict.share, verdict.losses) == (0.0, {})
    assert [share for _, share in asked] == [1.0, 0.5, 0.25, 0.1]  # 0 changes nothing: it needs no measurement
    assert len(verdict.trials) == 4


@pytest.mark.parametrize(("loss", "share"), [(2.02, 1.0), (2.021, 0.0), (2.0, 1.0)])
def test_the_budget_is_relative_and_met_exactly(loss, share):
    table = {"law": dict.fromkeys(SHARES, loss), "code": dict.fromkeys(SHARES, 0.9)}
    assert decide(table, budget=0.01)[0].share == share


def test_what_single_domains_may_lose_all_of_them_together_may_not():
    table = {"law": dict.fromkeys(SHARES, 2.01), "code": dict.fromkeys(SHARES, 1.0)}  # the mean loses 0.25 %
    verdict, _ = decide(table, budget=0.01)
    assert verdict.share == 0.0
    assert {t.refused_by for t in verdict.trials} == {ON_AVERAGE}
    assert verdict.trials[0].excess_pct == pytest.approx(0.25)
    assert decide(table, budget=0.0125)[0].share == 1.0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_refuses(loss):
    table = {"law": {1.0: loss, 0.5: 1.0}, "code": {0.5: 1.0}}
    assert decide(table)[0].share == 0.5


def test_without_an_earlier_domain_the_whole_way_unmeasured():
    verdict = verify_proposal({}, lambda _d, _s: pytest.fail("nobody to measure"))
    assert (verdict.share, verdict.losses) == (1.0, {})


def test_the_shares_may_be_others():
    table = {"law": {0.75: 2.5, 0.3: 1.9}, "code": {0.3: 0.9}}
    assert decide(table, shares=(0.75, 0.3))[0].share == 0.3
    table = {"law": {0.75: 2.5}}
    assert decide(table, shares=(0.75,))[0].share == 0.0


def held(*losses: float, tokens: tuple[int, ...] = ()) -> Held:
    return Held(losses=losses, tokens=tokens or (10,) * len(losses))


def test_a_gain_is_of_the_tokens_and_its_error_that_of_a_paired_ratio():
    fall, error = gain(held(1.0, 2.0, tokens=(1, 3)), held(2.0, 2.0, tokens=(1, 3)))
    assert fall == pytest.approx(0.25)  # 1 nat of one token of four
    # (1·1 − 0.25·1, 0 − 0.25·3) = (0.75, −0.75): √(2·1.125 / 1) / 4
    assert error == pytest.approx(math.sqrt(2 * (0.75**2 + 0.75**2)) / 4)


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)), min_size=2, max_size=20))
def test_with_rows_of_one_length_the_error_is_the_usual_one_of_a_mean_difference(pairs):
    old, new = zip(*pairs, strict=True)
    fall, error = gain(held(*new), held(*old))
    differences = np.array(old) - np.array(new)
    assert fall == pytest.approx(differences.mean(), abs=1e-9)
    assert error == pytest.approx(differences.std(ddof=1) / math.sqrt(len(pairs)), abs=1e-9)


def test_one_row_tells_nothing():
    assert gain(held(1.0), held(9.0)) == (8.0, math.inf)
    assert furthest_follow((0.5, 1.0), held(9.0), lambda _share: held(1.0)) is None


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ({0.25: 0.9, 0.5: 0.8, 1.0: 0.7}, 1.0),  # the whole way
        ({0.25: 0.9, 0.5: 0.8, 1.0: 0.85}, 0.5),  # as long as it falls
        ({0.25: 0.9, 0.5: 0.95, 1.0: 0.1}, 0.25),  # and no further: what lies behind a rise is not asked for
        ({0.25: 1.0}, None),
        ({0.25: 1.1}, None),
        ({0.25: math.nan}, None),
        ({0.25: math.inf}, None),
    ],
)
def test_a_domain_follows_as_long_as_that_helps(losses: dict[float, float], chosen: float | None):
    def at(loss: float) -> Held:
        return held(loss, loss + 1.0)

    found = furthest_follow((0.0, 1.0, 0.5, 0.25), at(1.0), lambda share: at(losses[share]))
    assert found == (None if chosen is None else (chosen, at(losses[chosen])))


def test_a_gain_that_may_be_chance_is_left():
    """Three rows gain 0.2, 0.1 and −0.2 nats: 0.033 on average, with an error of 0.12."""
    before = held(1.0, 1.0, 1.0)
    assert furthest_follow((0.5,), before, lambda _share: held(0.8, 0.9, 1.2)) is None
    assert furthest_follow((0.5,), before, lambda _share: held(0.8, 0.9, 1.0)) == (0.5, held(0.8, 0.9, 1.0))


def test_of_staying_alone_there_is_nothing_to_ask():
    def never(share: float) -> Held:
        raise AssertionError(share)

    assert furthest_follow((0.0,), held(1.0, 1.0), never) is None
