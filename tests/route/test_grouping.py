from __future__ import annotations

import numpy as np
import pytest

from crma.route.centroid import Router
from crma.route.grouping import grouped
from crma.route.seen import FeatureKind
from crma.route.words import packed

DIMENSION = 24


def background(seed: int = 0, rows: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, DIMENSION)).astype(np.float32)


def cloud(seed: int, rows: int = 80, *, draw: int = 2, away: float = 8.0) -> np.ndarray:
    """A Gaussian some way off, in a direction of the seed's own."""
    centre = np.random.default_rng([seed, 1]).normal(size=DIMENSION)
    noise = np.random.default_rng([seed, draw]).normal(size=(rows, DIMENSION))
    return (away * centre / np.linalg.norm(centre) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def router() -> Router:
    return Router.empty(background())


def parts(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == g).tolist()) for g in set(labels.tolist()) - {-1}}


def agree(found: np.ndarray, wanted: np.ndarray) -> float:
    """The share of rows that are in a group with the rows they belong to."""
    return sum(max(int(np.sum(wanted[list(p)] == w)) for w in set(wanted.tolist())) for p in parts(found)) / len(wanted)


def test_groups_are_found_and_numbered_by_size(router: Router):
    rows = np.concatenate([cloud(1, 60), cloud(2, 120), cloud(3, 90)])
    wanted = np.repeat([2, 0, 1], [60, 120, 90])
    labels = grouped(router, rows)
    assert set(labels.tolist()) - {-1} == {0, 1, 2}
    assert np.mean(labels == wanted) >= 0.95
    assert np.all((labels == wanted) | (labels == -1))  # who is not at home is nowhere


def test_groups_are_those_of_the_hidden_states_whatever_the_words(router: Router):
    rows = np.concatenate([cloud(1, 60), cloud(2, 120), cloud(3, 90)])
    rng = np.random.default_rng(0)

    def with_words(hidden: np.ndarray) -> np.ndarray:
        return np.concatenate([hidden, packed(rng.integers(0, 64, (len(hidden), 9)).tolist(), 64)], axis=1)

    wordy = Router.empty(with_words(background()), features=FeatureKind(words=64))
    np.testing.assert_array_equal(grouped(wordy, with_words(rows)), grouped(router, rows))


def test_the_order_of_the_rows_does_not_matter(router: Router):
    rows = np.concatenate([cloud(1, 60), cloud(2, 120), cloud(3, 90)])
    wanted = np.repeat([2, 0, 1], [60, 120, 90])
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(rows))
        labels = grouped(router, rows[order])
        assert len(parts(labels)) == 3
        assert np.mean(labels == wanted[order]) >= 0.95
        assert agree(labels, wanted[order]) >= 0.95


def test_the_same_rows_give_the_same_groups(router: Router):
    rows = np.concatenate([cloud(1, 60), cloud(2, 70)])
    assert np.array_equal(grouped(router, rows), grouped(router, rows))


@pytest.mark.parametrize("count", [10, 35, 60, 300])
def test_one_cloud_is_one_group(router: Router, count: int):
    labels = grouped(router, cloud(1, count))
    assert len(parts(labels)) == 1
    assert np.mean(labels == 0) >= 0.9


@pytest.mark.parametrize(("own", "strange"), [(80, 5), (33, 4)], ids=["a leaf of their own", "in the only leaf"])
def test_a_few_strays_are_of_no_group(router: Router, own: int, strange: int):
    """Of the opposite side: one that calibrated would open the group to all of its kind."""
    rows = np.concatenate([cloud(1, own), -cloud(1, strange, draw=9)])
    order = np.random.default_rng(0).permutation(len(rows))
    labels = grouped(router, rows[order])
    assert np.all(labels[order >= own] == -1)
    assert np.mean(labels[order < own] == 0) >= 0.9


@pytest.mark.parametrize("count", [0, 1, 9])
def test_of_too_few_rows_there_are_no_groups(router: Router, count: int):
    labels = grouped(router, cloud(1, count))
    assert labels.tolist() == [-1] * count


def test_the_domains_of_the_router_play_no_part(router: Router):
    rows = np.concatenate([cloud(1, 60), cloud(2, 70)])
    knowing = router.with_domain("first", cloud(1, 90, draw=5)).with_domain("second", cloud(2, 90, draw=5))
    assert np.array_equal(grouped(knowing, rows), grouped(router, rows))
    assert knowing.domains == ("first", "second")


def test_groups_that_are_too_small_are_joined(router: Router):
    rows = np.concatenate([cloud(1, 200), cloud(2, 40), cloud(3, 40)])
    wanted = np.repeat([0, 1, 2], [200, 40, 40])
    apart, joined = grouped(router, rows), grouped(router, rows, least=60)
    assert len(parts(apart)) == 3
    assert len(parts(joined)) == 2
    assert np.mean(joined[wanted == 0] == 0) >= 0.95  # large enough: it stays what it was
    assert not np.any(joined[wanted == 0] == 1)
    small = np.concatenate([joined[wanted == 1], joined[wanted == 2]])
    assert np.mean(small == 1) >= 0.9
    assert not np.any(small == 0)


def test_one_small_group_has_none_to_be_joined_to(router: Router):
    rows = np.concatenate([cloud(1, 200), cloud(2, 40)])
    assert np.array_equal(grouped(router, rows, least=60), grouped(router, rows))


def test_all_too_small_together_are_one(router: Router):
    rows = np.concatenate([cloud(seed, 30) for seed in (1, 2, 3, 4)])
    assert len(parts(grouped(router, rows))) == 4
    assert len(parts(grouped(router, rows, least=1000))) == 1


def test_two_clouds_that_routers_mix_up_are_one_group(router: Router):
    rows = np.concatenate([cloud(1, 80), cloud(1, 80, draw=3)])
    assert len(parts(grouped(router, rows))) == 1
