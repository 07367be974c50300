from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from crma.route.centroid import Router
from crma.route.novelty import Novelty, untypical_rate
from crma.route.sorting import Sorter

DIMENSION = 24


def background(seed: int = 0, rows: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, DIMENSION)).astype(np.float32)


def cloud(seed: int, rows: int = 80, *, draw: int = 2) -> np.ndarray:
    """A Gaussian some way off, in a direction of the seed's own."""
    centre = np.random.default_rng([seed, 1]).normal(size=DIMENSION)
    noise = np.random.default_rng([seed, draw]).normal(size=(rows, DIMENSION))
    return (8 * centre / np.linalg.norm(centre) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def router() -> Router:
    return Router.empty(background()).with_domain("law", cloud(1, 300)).with_domain("code", cloud(2, 300))


def share(found: Sequence[int], wanted: range) -> float:
    assert set(found) <= set(wanted)
    return len(found) / len(wanted)


# --- what is known ---------------------------------------------------------------------------------------------------


def test_rows_of_known_domains_go_there(router: Router):
    sorter = Sorter(router)
    law, code = sorter.take(cloud(1, 40, draw=3)), sorter.take(cloud(2, 60, draw=3))
    assert (law, code) == (range(40), range(40, 100))
    assert list(sorter.known) == ["code", "law"]  # the one with most of them first
    assert share(sorter.known["law"], law) >= 0.8
    assert share(sorter.known["code"], code) >= 0.8
    everyone = [*sorter.known["law"], *sorter.known["code"], *sorter.waiting]
    assert sorted(everyone) == list(range(100))


def test_rows_of_known_domains_alone_raise_no_alarm(router: Router):
    sorter = Sorter(router)
    for draw in range(10, 25):
        sorter.take(np.concatenate([cloud(1, 20, draw=draw), cloud(2, 20, draw=draw)]))
        assert not sorter.alarm
        assert sorter.new_domains() == []
    assert sorter.novelty.seen == 600
    assert not sorter.doubtful
    assert sorter.new_domains(at_the_end=True) == []


def test_a_domains_odd_rows_wait_and_it_would_let_them_in(router: Router):
    sorter = Sorter(router)
    sorter.take(cloud(1, 200, draw=3))
    let_in = sorter.let_in
    assert set(let_in) == {"law"}
    assert 0 < len(let_in["law"]) <= len(sorter.waiting) < 30
    assert set(let_in["law"]) <= set(sorter.waiting)
    assert not set(let_in["law"]) & set(sorter.known["law"])


def test_where_two_domains_know_a_row_it_is_the_nearest():
    router = Router.empty(background()).with_domain("law", cloud(1, 300)).with_domain("lore", cloud(1, 300, draw=5))
    sorter = Sorter(router)
    sorter.take(cloud(1, 60, draw=7))
    routes = router.route(cloud(1, 60, draw=7))
    assert set(sorter.known) == {"law", "lore"}
    for name, numbers in sorter.known.items():
        for number in numbers:
            chances = routes[number].probabilities
            other = {"law": "lore", "lore": "law"}[name]
            typical = routes[number].scores[other] >= router.statistics[other].calibration.typical
            assert chances[name] >= chances[other] or not typical


# --- what is new -----------------------------------------------------------------------------------------------------


def test_a_new_cloud_raises_the_alarm_and_becomes_a_domain(router: Router):
    sorter = Sorter(router, least=50)
    sorter.take(cloud(1, 100, draw=3))
    assert not sorter.alarm
    new = sorter.take(cloud(5, 30))
    assert sorter.alarm
    assert sorter.new_domains() == []  # there are too few of them yet
    more = sorter.take(cloud(5, 40, draw=4))
    (group,) = sorter.new_domains()
    wanted = range(new.start, more.stop)
    assert np.mean([n in group for n in wanted]) >= 0.9
    assert set(group) <= set(wanted)
    assert set(group) <= set(sorter.waiting)


def test_two_new_clouds_are_two_domains_the_largest_first(router: Router):
    sorter = Sorter(router, least=50)
    small, large = sorter.take(cloud(5, 70)), sorter.take(cloud(6, 100))
    found = sorter.new_domains()
    assert len(found) == 2
    assert share(found[0], large) >= 0.9
    assert share(found[1], small) >= 0.9


def test_without_domains_everything_is_new_but_the_first_look_waits():
    sorter = Sorter(Router.empty(background()), least=50)
    assert sorter.alarm
    assert sorter.novelty.rate == 1.0
    sorter.take(np.concatenate([cloud(1, 150), cloud(2, 149)]))
    assert sorter.waiting == tuple(range(299))
    assert sorter.new_domains() == []
    assert len(sorter.new_domains(at_the_end=True)) == 2
    sorter.take(cloud(1, 1, draw=3))
    assert len(sorter.new_domains()) == 2  # of 300, six times as many as make a domain


def test_at_the_end_the_least_is_enough():
    sorter = Sorter(Router.empty(background()), least=50)
    sorter.take(cloud(1, 49))
    assert sorter.new_domains(at_the_end=True) == []
    sorter.take(cloud(1, 12, draw=3))
    (group,) = sorter.new_domains(at_the_end=True)
    assert len(group) >= 50


def test_having_found_nothing_it_waits_for_a_fifth_more(router: Router):
    """Scattered rows, of which no group is large enough."""
    scattered = np.concatenate([cloud(seed, 12) for seed in range(20, 30)])
    sorter = Sorter(router, least=100)
    sorter.take(scattered)
    assert sorter.alarm
    assert len(sorter.waiting) >= 100
    assert sorter.new_domains() == []
    sorter.take(cloud(5, 10))
    assert sorter.new_domains() == []
    sorter.take(cloud(5, 200, draw=4))
    assert len(sorter.new_domains()) == 1


def test_a_look_that_found_nothing_is_not_taken_again_at_once(router: Router, monkeypatch: pytest.MonkeyPatch):
    looks: list[int] = []

    def nothing(_router: Router, features: np.ndarray, *, least: int = 0) -> np.ndarray:
        looks.append(len(features))
        return np.full(len(features), -1)

    monkeypatch.setattr("crma.route.sorting.grouped", nothing)
    sorter = Sorter(router, least=50)
    sorter.take(cloud(5, 100))
    for draw in (3, 4, 5, 6):
        assert sorter.new_domains() == []
        sorter.take(cloud(5, 6, draw=draw))
    assert sorter.new_domains() == []
    assert looks == [100, 124]
    assert sorter.new_domains(at_the_end=True) == []
    assert looks == [100, 124, 124]
    sorter.knows(router)  # which may have learnt since
    assert sorter.new_domains() == []
    assert looks == [100, 124, 124, 124]


def test_small_groups_get_time_to_grow_and_are_joined_at_the_end(router: Router):
    sorter = Sorter(router, least=50)
    sorter.take(np.concatenate([cloud(seed, 40) for seed in (5, 6, 7)]))
    assert sorter.new_domains() == []
    found = sorter.new_domains(at_the_end=True)
    assert found
    assert all(len(group) >= 50 for group in found)


def test_an_alarm_needs_a_rate(router: Router):
    """A domain that held nothing out says nothing about how often its rows are untypical."""
    sorter = Sorter(Router.empty(background()).with_domain("one", cloud(1, 4)))
    sorter.take(cloud(5, 40))
    assert sorter.novelty.rate == 1.0
    assert not sorter.alarm
    assert sorter.new_domains() == []


# --- the router changes ----------------------------------------------------------------------------------------------


def test_with_the_same_domains_the_evidence_is_kept(router: Router):
    sorter = Sorter(router)
    sorter.take(cloud(5, 5))
    before = sorter.novelty
    assert max(before.sums) > 0.0
    more = router.with_more("law", cloud(1, 200, draw=8), cloud(1, 150, draw=9))
    sorter.knows(more)
    after = sorter.novelty
    assert (after.sums, after.seen, after.untypical) == (before.sums, before.seen, before.untypical)
    assert after.rate == untypical_rate(s.calibration for s in more.statistics.values()) != before.rate


def test_with_another_domain_it_begins_anew(router: Router):
    sorter = Sorter(router, false_alarms=1e-3)
    sorter.take(np.concatenate([cloud(1, 30, draw=3), cloud(5, 60)]))
    assert sorter.alarm
    later = router.with_domain("herbs", cloud(5, 300, draw=4))
    sorter.knows(later)
    assert sorter.novelty == Novelty(
        rate=untypical_rate(s.calibration for s in later.statistics.values()), false_alarms=1e-3
    )
    assert not sorter.alarm
    assert share(sorter.known["herbs"], range(30, 90)) >= 0.8  # rows that waited are sorted anew
    sorter.knows(router)
    assert set(sorter.known) == {"law"}


def test_nothing_waits_for_a_router_that_changes(router: Router):
    sorter = Sorter(router)
    sorter.knows(router.with_domain("herbs", cloud(5)))
    assert (sorter.waiting, sorter.known, sorter.let_in) == ((), {}, {})


def test_removed_rows_are_gone_and_numbers_are_not_given_twice(router: Router):
    sorter = Sorter(router)
    sorter.take(cloud(1, 10, draw=3))
    sorter.remove(range(0, 8))
    sorter.remove([3])  # once is enough
    assert {*sorter.waiting, *sorter.known.get("law", ())} == {8, 9}
    assert sorter.take(cloud(5, 2)) == range(10, 12)
    assert sorter.novelty.seen == 12  # what was seen was seen


# --- the end, and after a kill ---------------------------------------------------------------------------------------


def test_doubt_at_the_end_needs_less_than_an_alarm(router: Router):
    sorter = Sorter(router, least=50, false_alarms=1e-30)
    sorter.take(cloud(1, 30, draw=3))
    assert not sorter.doubtful
    sorter.take(cloud(5, 14))
    assert not sorter.alarm
    assert sorter.novelty.doubtful
    assert sorter.doubtful


def test_enough_refused_rows_are_a_domain_at_the_end_without_an_alarm():
    """A domain that held nothing out: chance cannot be judged, but nobody would answer these."""
    sorter = Sorter(Router.empty(background()).with_domain("one", cloud(1, 4)), least=50)
    sorter.take(cloud(5, 45))
    assert (sorter.alarm, sorter.doubtful) == (False, False)
    sorter.take(cloud(5, 15, draw=4))
    assert (sorter.alarm, sorter.doubtful) == (False, True)
    assert sorter.new_domains() == []
    assert len(sorter.new_domains(at_the_end=True)) == 1


def test_it_goes_on_where_it_stood(router: Router):
    rows = [cloud(1, 50, draw=3), cloud(5, 6), cloud(5, 20, draw=4)]
    whole = Sorter(router)
    for each in rows:
        whole.take(each)
    first = Sorter(router)
    first.take(rows[0])
    first.take(rows[1])
    gone = first.known["law"]
    first.remove(gone)
    kept = [n for n in range(56) if n not in gone]
    again = Sorter(router)
    again.take(np.concatenate(rows[:2])[kept])
    state = first.novelty
    again.resume(list(state.sums), state.seen, state.untypical)
    assert again.novelty == first.novelty
    again.take(rows[2])
    assert again.novelty == whole.novelty
