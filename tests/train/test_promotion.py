"""The largest share that makes no earlier domain worse, decided on tables."""

from __future__ import annotations

import math

import pytest

from crma.train.promotion import ON_AVERAGE, SHARES, furthest_follow, verify_proposal

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


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ({0.25: 0.9, 0.5: 0.8, 1.0: 0.7}, (1.0, 0.7)),  # the whole way
        ({0.25: 0.9, 0.5: 0.8, 1.0: 0.85}, (0.5, 0.8)),  # as long as it falls
        ({0.25: 0.9, 0.5: 0.95, 1.0: 0.1}, (0.25, 0.9)),  # and no further: what lies behind a rise is not asked for
        ({0.25: 1.1, 0.0: 1.02}, (0.0, 1.02)),  # harm at the first share: it stays, at what staying costs
        ({0.25: 1.02, 0.0: 1.1}, (0.25, 1.02)),  # unless staying costs more
        ({0.25: math.nan, 0.0: 1.0}, (0.0, 1.0)),
        ({0.25: 1.1, 0.0: math.nan}, (0.25, 1.1)),
    ],
)
def test_a_domain_follows_as_long_as_that_helps(losses: dict[float, float], chosen: tuple[float, float]):
    assert furthest_follow((0.0, 0.25, 0.5, 1.0), 1.0, lambda share: losses[share]) == chosen


def test_with_one_share_there_is_nothing_to_choose():
    assert furthest_follow((1.0,), 1.0, lambda _share: 3.0) == (1.0, 3.0)
    assert furthest_follow((0.0,), 1.0, lambda _share: 3.0) == (0.0, 3.0)
