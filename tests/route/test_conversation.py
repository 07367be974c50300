"""A conversation stays with its subject through short turns, and follows when the subject changes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crma.route.conversation import is_settled, route_conversation
from crma.types import Route


def route(accepting: tuple[str, ...] | None = None, **probabilities: float) -> Route:
    """By default a domain accepts from a half on."""
    takes = accepting if accepting is not None else tuple(d for d, p in probabilities.items() if p > 0.5)
    best = max(probabilities, key=lambda d: (d in takes, probabilities[d]), default=None)
    return Route(
        domain=best if best in takes else None,
        confidence=probabilities[best] if best else 0.0,
        nearest=best,
        abstained=best not in takes,
        scores={d: 1.0 if d in takes else -1.0 for d in probabilities},
        thresholds=dict.fromkeys(probabilities, 0.0),
        probabilities=probabilities,
    )


MEDICINE, LAW = route(medicine=0.95, law=0.02), route(medicine=0.02, law=0.95)
NEITHER = route(medicine=0.05, law=0.05)


def test_one_turn_goes_where_it_goes_alone():
    assert route_conversation([NEITHER], [4]) is NEITHER
    assert route_conversation([MEDICINE], [1]) is MEDICINE


@pytest.mark.parametrize("follow_ups", [1, 2, 5, 12])
def test_short_turns_that_say_nothing_stay_with_the_subject_however_many(follow_ups: int):
    found = route_conversation([MEDICINE, *[NEITHER] * follow_ups], [20, *[3] * follow_ups])
    assert (found.domain, found.nearest, found.abstained, found.carried) == ("medicine", "medicine", False, True)
    assert 0.5 < found.confidence <= 1.0


def test_a_whole_question_of_another_subject_is_followed_at_once():
    assert route_conversation([MEDICINE, MEDICINE, LAW], [20, 20, 20]) is LAW  # as it is: nothing was carried
    assert route_conversation([MEDICINE, MEDICINE, NEITHER], [20, 20, 30]).domain is None
    back = route_conversation([MEDICINE, NEITHER, NEITHER], [20, 30, 3])
    assert (back.domain, back.carried) == (None, False)  # small talk has no subject to go back to


def test_between_domains_that_both_accept_the_conversation_decides():
    both = route(("medicine", "law"), medicine=0.4, law=0.55)
    assert both.domain == "law"
    assert not is_settled(both)
    assert not is_settled(NEITHER)
    found = route_conversation([MEDICINE, MEDICINE, both], [20, 20, 8])
    assert (found.domain, found.runner_up, found.carried) == ("medicine", "law", True)


@given(st.lists(st.sampled_from([MEDICINE, NEITHER]), min_size=1, max_size=5), st.integers(0, 40))
def test_what_only_one_domain_accepts_is_never_taken_from_it(before: list[Route], length: int):
    """So that a conversation abstains no oftener from a domain's own questions than a single query does."""
    for last in (LAW, route(medicine=0.2, law=0.51)):
        assert is_settled(last)
        assert route_conversation([*before, last], [20] * len(before) + [length]) is last


def test_repeating_a_question_changes_nothing():
    doubtful = route(("law",), medicine=0.2, law=0.3)
    assert route_conversation([doubtful, doubtful, doubtful], [9, 9, 9]) is doubtful


def test_a_turn_without_any_domain_is_borne():
    nowhere = Route(domain=None, confidence=0.0, abstained=True)
    assert route_conversation([nowhere, nowhere], [0, 0]) is nowhere
    assert route_conversation([LAW, nowhere], [20, 0]).domain == "law"


probabilities = st.floats(0, 1).flatmap(lambda a: st.floats(0, 1 - a).map(lambda b: {"medicine": a, "law": b}))


@given(st.lists(probabilities, min_size=1, max_size=6), st.data())
def test_it_is_always_a_route_and_no_surer_than_certain(turns: list[dict[str, float]], data: st.DataObject):
    lengths = data.draw(st.lists(st.integers(0, 300), min_size=len(turns), max_size=len(turns)))
    found = route_conversation([route(None, **p) for p in turns], lengths)
    assert found.abstained == (found.domain is None)
    assert 0.0 <= found.confidence <= 1.0 + 1e-9
    assert not math.isnan(found.confidence)
