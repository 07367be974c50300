"""A conversation stays with its subject through short turns, and follows when the subject changes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crma.route.conversation import route_conversation
from crma.types import Route


def route(**probabilities: float) -> Route:
    best = max(probabilities, key=lambda d: probabilities[d], default=None)
    accepted = best is not None and probabilities[best] > 0.5
    return Route(
        domain=best if accepted else None,
        confidence=probabilities[best] if best else 0.0,
        nearest=best,
        abstained=not accepted,
        probabilities=probabilities,
    )


MEDICINE, LAW = route(medicine=0.95, law=0.02), route(medicine=0.02, law=0.95)
NEITHER = route(medicine=0.05, law=0.05)


def test_one_turn_goes_where_it_goes_alone():
    assert route_conversation([NEITHER], [4]) is NEITHER
    assert route_conversation([MEDICINE], [1]) is MEDICINE


def test_a_short_turn_that_says_nothing_stays_with_the_subject():
    found = route_conversation([MEDICINE, NEITHER], [20, 3])
    assert (found.domain, found.nearest, found.abstained, found.carried) == ("medicine", "medicine", False, True)
    assert 0.5 < found.confidence <= 1.0
    again = route_conversation([MEDICINE, NEITHER, NEITHER], [20, 3, 3])
    assert again.domain == "medicine"


def test_a_whole_question_of_another_subject_is_followed_at_once():
    found = route_conversation([MEDICINE, MEDICINE, LAW], [20, 20, 20])
    assert found is LAW  # as it is: nothing was carried
    assert route_conversation([MEDICINE, MEDICINE, NEITHER], [20, 20, 30]).domain is None


def test_one_doubtful_turn_does_not_make_it_flap():
    doubtful = route(medicine=0.35, law=0.6)
    assert doubtful.domain == "law"
    found = route_conversation([MEDICINE, MEDICINE, doubtful], [20, 20, 8])
    assert (found.domain, found.runner_up) == ("medicine", "law")


def test_in_small_talk_a_doubtful_domain_turn_is_not_believed_at_once():
    found = route_conversation([NEITHER, NEITHER, route(law=0.55)], [20, 20, 2])
    assert (found.domain, found.abstained, found.carried) == (None, True, True)
    assert found.confidence < 0.5
    assert route_conversation([NEITHER, NEITHER, LAW], [20, 20, 8]) is LAW  # a sure one is


def test_a_turn_without_any_domain_is_borne():
    nowhere = Route(domain=None, confidence=0.0, abstained=True)
    assert route_conversation([nowhere, nowhere], [0, 0]) is nowhere
    assert route_conversation([LAW, nowhere], [20, 0]).domain == "law"


@pytest.mark.parametrize("lengths", [(20, 20), (20, 1)])
def test_repeating_a_turn_changes_nothing(lengths: tuple[int, int]):
    assert route_conversation([LAW, LAW], lengths) is LAW


probabilities = st.floats(0, 1).flatmap(lambda a: st.floats(0, 1 - a).map(lambda b: {"medicine": a, "law": b}))


@given(st.lists(probabilities, min_size=1, max_size=6), st.data())
def test_it_is_always_a_route_and_no_surer_than_certain(turns: list[dict[str, float]], data: st.DataObject):
    lengths = data.draw(st.lists(st.integers(0, 300), min_size=len(turns), max_size=len(turns)))
    found = route_conversation([route(**p) for p in turns], lengths)
    assert found.abstained == (found.domain is None)
    assert 0.0 <= found.confidence <= 1.0 + 1e-9
    assert not math.isnan(found.confidence)
