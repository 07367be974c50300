"""A router that has read some prompts as typed in haste: it chooses better, and accepts as before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.errors import ConfigError
from crma.route.arrays import router_of
from crma.route.centroid import Router
from crma.route.gaussian import Gaussian
from crma.route.retyping import RETYPED, as_typed, in_haste, retyped_of, with_slips

DIMENSION = 24
APART = np.eye(DIMENSION)[0]  # two siblings differ along this axis, and so does the typing


def background() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, DIMENSION)).astype(np.float32)


def sibling(side: int, seed: int, rows: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as they are, and in haste: that moves them towards the other sibling, by chance far or less far."""
    random = np.random.default_rng([seed, side + 1])
    away = 8 * np.eye(DIMENSION)[5] + side * (2.0 * APART + 4.0 * np.eye(DIMENSION)[1])
    tidy = away + random.normal(size=(rows, DIMENSION))
    moved = 9.0 * random.uniform(0.5, 1.5, size=(rows, 1)) * APART
    return tidy.astype(np.float32), (tidy + moved).astype(np.float32)


def siblings(*, reread: bool) -> Router:
    router = Router.empty(background())
    for name, side in (("left", -1), ("right", 1)):
        tidy, hasty = sibling(side, seed=1)
        router = router.with_domain(name, tidy, retyped=(tidy, hasty) if reread else None)
    return router


def nearest(router: Router, rows: np.ndarray, name: str) -> float:
    return float(np.mean([route.nearest == name for route in router.route(rows)]))


def test_the_typing_counts_less_where_domains_are_told_apart():
    tidy, hasty = sibling(-1, seed=2)
    plain, reread = siblings(reread=False), siblings(reread=True)
    assert nearest(plain, hasty, "left") < 0.8
    assert nearest(reread, hasty, "left") > 0.9
    assert nearest(reread, tidy, "left") > 0.98
    assert nearest(reread, sibling(1, seed=2)[0], "right") > 0.98


def test_whether_a_query_is_taken_does_not_depend_on_it():
    plain, reread = siblings(reread=False), siblings(reread=True)
    tidy, hasty = sibling(1, seed=3)
    for name in plain.domains:
        assert plain.statistics[name].calibration == reread.statistics[name].calibration
    for rows in (tidy, hasty, background()):
        one, other = plain.route(rows), reread.route(rows)
        assert [r.scores for r in one] == [r.scores for r in other]
        assert [r.abstained for r in one] == [r.abstained for r in other]


def test_more_of_a_domain_brings_its_own_typing():
    tidy, hasty = sibling(-1, seed=1)
    judges = sibling(-1, seed=5, rows=50)[0]
    plain = siblings(reread=False).with_more("left", tidy, judges)
    reread = siblings(reread=False).with_more("left", tidy, judges, retyped=(tidy, hasty))
    left = sibling(-1, seed=2)[1]
    assert nearest(reread, left, "left") > nearest(plain, left, "left") + 0.1
    assert plain.statistics["left"].calibration == reread.statistics["left"].calibration


def test_a_file_keeps_it():
    router = siblings(reread=True)
    assert router_of(router.to_arrays()) == router


@pytest.mark.parametrize("rows", [0, 7])
def test_each_prompt_must_be_there_twice(rows: int):
    tidy, hasty = sibling(1, seed=1)
    with pytest.raises(ConfigError) as told:
        Router.empty(background()).with_domain("law", tidy, retyped=(tidy, hasty[:rows]))
    assert "law" in str(told.value)


def test_features_of_another_width_are_refused():
    tidy, hasty = sibling(1, seed=1)
    with pytest.raises(ConfigError, match="wrong shape"):
        Router.empty(background()).with_domain("law", tidy, retyped=(tidy, hasty[:, 1:]))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 90), st.integers(1, 90), st.integers(0, 2**16))
def test_the_scatter_is_that_of_the_prompts_and_three_tenths_of_the_typing(rows: int, reread: int, seed: int):
    random = np.random.default_rng(seed)
    sample, moved = random.normal(size=(rows, 7)), random.normal(size=(reread, 7))
    made = Gaussian.of(sample, moved)
    whole = made.axes.T.astype(np.float64) * made.spread @ made.axes + made.rest * np.eye(7)
    expected = np.cov(sample.T, bias=True) + 0.3 * moved.T @ moved / reread
    assert made.count == rows
    np.testing.assert_allclose(np.trace(whole), np.trace(expected), rtol=1e-5)
    np.testing.assert_allclose(made.mean, sample.mean(0), atol=1e-6)
    if rows + reread >= 28:  # a quarter of them are seven axes: nothing is left out
        np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_some_prompts_are_read_once_more_from_the_first_to_the_last():
    prompts = [f"Prompt {i}?" for i in range(3 * RETYPED)]
    asked: list[str] = []

    def features(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[float(text.split()[1])] for text in texts])

    tidy, hasty = retyped_of(prompts, np.arange(len(prompts), dtype=float)[:, None], features)
    assert len(tidy) == len(hasty) == RETYPED
    assert (tidy == hasty).all()
    assert tidy[0, 0] == 0
    assert tidy[-1, 0] == len(prompts) - 1
    assert len(np.unique(tidy)) == RETYPED
    assert asked[0] == as_typed("Prompt 0?") == in_haste(with_slips("Prompt 0?"))
    assert all(text == text.lower() for text in asked)
    assert any("prompt" not in text for text in asked)


@pytest.mark.parametrize("count", [1, 2, RETYPED, RETYPED + 1])
def test_a_prompt_is_read_once_more_at_most_once(count: int):
    tidy, hasty = retyped_of(["a"] * count, np.arange(count)[:, None], lambda texts: np.zeros((len(texts), 1)))
    assert len(hasty) == len(tidy) == len(np.unique(tidy)) == min(count, RETYPED)


@pytest.mark.parametrize(
    ("prompt", "typed"),
    [
        ("What is gout?", "what is gout"),
        ("  Hello. ", "  hello"),
        ("?", "?"),
        ("", ""),
        ("E.g. this: A", "e.g. this: a"),
    ],
)
def test_in_haste(prompt: str, typed: str):
    assert in_haste(prompt) == typed


@given(st.text(alphabet="abcdefg ,.1", max_size=80))
def test_slips_move_letters_within_words_alone(prompt: str):
    typed = with_slips(prompt)
    assert typed == with_slips(prompt)
    assert len(typed) == len(prompt)
    for one, other in zip(prompt.split(" "), typed.split(" "), strict=True):
        assert sorted(one) == sorted(other)
        assert one[:1] == other[:1]


def test_every_fifth_longer_word_has_a_slip():
    words = [f"word{'abcdefgh'[i % 8]}{'ijklmnop'[i // 8 % 8]}" for i in range(2000)]
    typed = with_slips(" ".join(words)).split()
    assert 0.17 < np.mean([one != other for one, other in zip(words, typed, strict=True)]) < 0.23
    assert with_slips("a to the end") == "a to the end"
