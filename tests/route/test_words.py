"""Words beside the hidden state: what is packed comes back, and the scores are those of a unigram model by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.route.words import WordCounts, WordEvidence, Words, columns, is_number_of_buckets, packed, unpacked

BUCKETS = 64
SETS = st.lists(st.sets(st.integers(0, 49_151), max_size=80), min_size=1, max_size=12)


def prompts(*ids: list[int]) -> np.ndarray:
    return unpacked(packed(ids, BUCKETS))


def random_prompts(seed: int, rows: int, first: int = 0, last: int = BUCKETS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return prompts(*[rng.integers(first, last, rng.integers(3, 20)).tolist() for _ in range(rows)])


@given(SETS, st.sampled_from([16, 64, 4096]))
def test_what_is_packed_comes_back_through_float32(ids: list[set[int]], buckets: int) -> None:
    rows = packed([sorted(own) for own in ids], buckets)
    assert rows.shape == (len(ids), columns(buckets))
    assert rows.dtype == np.float32
    found = unpacked(rows.astype(np.float64))  # as a router's checked rows are
    assert [set(np.flatnonzero(row)) for row in found] == [{i % buckets for i in own} for own in ids]


def test_only_whole_columns_are_a_number_of_buckets() -> None:
    assert [n for n in (-16, 0, 8, 16, 40, 4096) if is_number_of_buckets(n)] == [0, 16, 4096]


def test_the_score_is_that_of_the_unigram_model_by_hand() -> None:
    rows = prompts([1, 2, 3], [1, 2], [1, 5])
    held = WordCounts.of(rows)
    assert (held.prompts, held.counts[[1, 2, 3, 5]].tolist(), held.counts.sum()) == (3, [3, 2, 1, 1], 7)

    def ratio(count: float, total: float) -> float:
        return math.log((count + 100 / BUCKETS) / (total + 100) * BUCKETS)

    without_itself = [
        (ratio(2, 4) + ratio(1, 4) + ratio(0, 4)) / 3,
        (ratio(2, 5) + ratio(1, 5)) / 2,
        (ratio(2, 5) + ratio(0, 5)) / 2,
    ]
    assert held.middle == pytest.approx(float(np.median(without_itself)), abs=1e-6)
    asked = prompts([1, 9])
    usual, evidence = Words([held]).usual(asked), WordEvidence([held.counts]).of(asked)
    mean = (ratio(3, 7) + ratio(0, 7)) / 2
    deviation = math.sqrt(held.variance + held.variance_of_one / 2)
    assert usual[0, 0] == pytest.approx((mean - held.middle) / deviation * 2 / 42, abs=1e-5)
    assert evidence[0, 0] == pytest.approx(mean * math.sqrt(2), abs=1e-5)


@given(st.integers(0, 50), st.integers(2, 15))
@settings(max_examples=25)
def test_each_training_prompt_is_judged_by_counts_without_it(seed: int, rows: int) -> None:
    own = random_prompts(seed, rows)
    by_hand = []
    for i in range(rows):
        others = WordCounts.of(np.delete(own, i, axis=0))
        by_hand.append(WordEvidence([others.counts]).of(own[i : i + 1])[0, 0] / math.sqrt(own[i].sum()))
    assert WordCounts.of(own).middle == pytest.approx(float(np.median(by_hand)), abs=1e-5)


def test_own_words_are_usual_and_others_are_not() -> None:
    held = WordCounts.of(random_prompts(0, 200, last=BUCKETS // 2))
    own = Words([held]).usual(random_prompts(1, 200, last=BUCKETS // 2))
    others = Words([held]).usual(random_prompts(2, 200, first=BUCKETS // 2))
    assert abs(float(np.median(own))) < 0.1
    assert np.quantile(others, 0.9) < np.quantile(own, 0.1)


def test_the_unit_is_the_standard_deviation_of_prompts_that_are_new() -> None:
    """Some words are frequent and some are rare, as words are."""
    rng = np.random.default_rng(0)

    def draw(rows: int) -> np.ndarray:
        return prompts(*[np.minimum(rng.geometric(0.1, n), BUCKETS - 1).tolist() for n in rng.integers(2, 25, rows)])

    asked = draw(400)
    own = Words([WordCounts.of(draw(400))]).usual(asked)
    distance = own[:, 0] * (1 + 40 / asked.sum(1))
    assert abs(float(np.median(distance))) < 0.2
    assert 0.7 < distance.std() < 1.4


def test_few_words_count_less() -> None:
    held = WordCounts.of(prompts(*[[1, 2, 3, 4, 5, 6]] * 5))
    usual = Words([held]).usual(prompts([40], [40, 41, 42], list(range(40, 60))))
    assert 0 > usual[0, 0] > usual[1, 0] > usual[2, 0]


def test_short_prompts_are_allowed_to_be_odder() -> None:
    """Half of the words are the domain's, half anybody's: the mean of a few of them varies more than that of many."""
    rng = np.random.default_rng(0)

    def draw(words: int) -> list[int]:
        own = rng.integers(0, 8, words)
        return np.where(rng.random(words) < 0.5, own, rng.integers(0, BUCKETS, words)).tolist()

    held = WordCounts.of(prompts(*[draw(int(n)) for n in rng.integers(2, 30, 400)]))
    assert held.variance_of_one > 0.1
    asked = prompts([40], [40, 41, 42, 43, 44, 45, 46])
    distance = Words([held]).usual(asked)[:, 0] * (1 + 40 / asked.sum(1))
    assert distance[1] < distance[0] < 0


def test_a_prompt_without_words_says_nothing() -> None:
    held = WordCounts.of(random_prompts(0, 20))
    assert Words([held]).usual(prompts([])).tolist() == WordEvidence([held.counts]).of(prompts([])).tolist() == [[0.0]]


@pytest.mark.parametrize("rows", [[[]], [[3]], [[3, 4]] * 5, [[], [1], []]])
def test_few_or_equal_prompts_leave_finite_numbers(rows: list[list[int]]) -> None:
    held = WordCounts.of(prompts(*rows))
    assert held.variance > 0
    assert held.variance_of_one >= 0
    asked = prompts([3], [], list(range(60)))
    assert np.isfinite(Words([held]).usual(asked)).all()
    assert np.isfinite(WordEvidence([held.counts]).of(asked)).all()


@given(st.integers(0, 50), st.integers(3, 12), st.integers(1, 12))
@settings(max_examples=25)
def test_pooled_counts_are_those_of_all_prompts(seed: int, rows: int, more: int) -> None:
    first, second = random_prompts(seed, rows), random_prompts(seed + 1, more)
    pooled, whole = WordCounts.of(first).pooled(second), WordCounts.of(np.concatenate([first, second]))
    np.testing.assert_array_equal(pooled.counts, whole.counts)
    assert pooled.prompts == whole.prompts == rows + more
    assert pooled.variance > 0
    assert pooled.variance_of_one >= 0


def test_pooling_like_prompts_changes_little() -> None:
    first, second = random_prompts(0, 300, last=20), random_prompts(1, 300, last=20)
    pooled, whole = WordCounts.of(first).pooled(second), WordCounts.of(np.concatenate([first, second]))
    asked = np.concatenate([random_prompts(2, 50, last=20), random_prompts(3, 50)])
    np.testing.assert_allclose(Words([pooled]).usual(asked), Words([whole]).usual(asked), atol=0.35)


def test_domains_in_one_piece_score_as_alone() -> None:
    kept = [WordCounts.of(random_prompts(seed, 30)) for seed in range(3)]
    asked = random_prompts(9, 40)
    usual, evidence = Words(kept).usual(asked), WordEvidence([held.counts for held in kept]).of(asked)
    for t, held in enumerate(kept):
        np.testing.assert_array_equal(usual[:, t], Words([held]).usual(asked)[:, 0])
        np.testing.assert_array_equal(evidence[:, t], WordEvidence([held.counts]).of(asked)[:, 0])


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_who_is_not_asked_scores_nothing_and_changes_nothing(seed: int) -> None:
    words = Words([WordCounts.of(random_prompts(seed + i, 10)) for i in range(4)])
    asked = random_prompts(seed + 9, 6)
    which = np.random.default_rng(seed).random((6, 4)) < 0.5
    np.testing.assert_array_equal(words.usual(asked, which), np.where(which, words.usual(asked), 0.0))
