from __future__ import annotations

from dataclasses import replace

import pytest

from crma.route.blending import shares_of
from crma.types import Route

ROUTE = Route(
    domain="law",
    confidence=0.5,
    nearest="law",
    runner_up="code",
    scores={"code": 3.0, "herbs": -9.0, "law": 2.0, "tax": 1.0},
    thresholds={"code": 0.0, "herbs": 0.0, "law": 0.0, "tax": 0.0},
    probabilities={"law": 0.5, "code": 0.3, "herbs": 0.15, "tax": 0.05},
)


def test_the_likeliest_that_accept_by_their_probabilities() -> None:
    assert shares_of(ROUTE, 1) == {"law": 1.0}
    assert shares_of(ROUTE, 2) == {"law": pytest.approx(0.625), "code": pytest.approx(0.375)}
    three = {"law": pytest.approx(0.5 / 0.85), "code": pytest.approx(0.3 / 0.85), "tax": pytest.approx(0.05 / 0.85)}
    assert shares_of(ROUTE, 3) == three  # herbs refused it
    assert shares_of(ROUTE, 9) == three


def test_a_query_of_the_base_stays_the_bases() -> None:
    assert shares_of(replace(ROUTE, domain=None, abstained=True), 3) == {}


def test_what_was_chosen_or_carried_is_one_domain() -> None:
    assert shares_of(Route(domain="law", confidence=1.0, nearest="law"), 3) == {"law": 1.0}
    assert shares_of(replace(ROUTE, carried=True), 3) == {"law": 1.0}
    assert shares_of(replace(ROUTE, domain="herbs"), 3) == {"herbs": 1.0}


def test_probabilities_of_nought_leave_the_route() -> None:
    assert shares_of(replace(ROUTE, probabilities=dict.fromkeys(ROUTE.probabilities, 0.0)), 2) == {"law": 1.0}
