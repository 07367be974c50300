from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.data.worlds import strangers
from crma.errors import ConfigError, UnknownDomainError
from crma.route.arrays import router_of
from crma.route.background import BACKGROUND_PROMPTS
from crma.route.centroid import Router
from crma.route.seen import FeatureKind
from crma.route.words import packed

DIMENSION = 24


def background(seed: int = 0, rows: int = 60, dimension: int = DIMENSION) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def domain(seed: int, rows: int = 80, dimension: int = DIMENSION) -> np.ndarray:
    """A Gaussian some way off, in a direction of the seed's own."""
    centre = np.random.default_rng([seed, 1]).normal(size=dimension)
    away = 8 * centre / np.linalg.norm(centre)
    return (away + np.random.default_rng([seed, 2]).normal(size=(rows, dimension))).astype(np.float32)


def three_domains() -> Router:
    return (
        Router.empty(background())
        .with_domain("law", domain(1))
        .with_domain("code", domain(2))
        .with_domain("herbs", domain(3))
    )


def test_queries_go_home_and_strangers_to_the_base() -> None:
    router = three_domains()
    for seed, name in ((1, "law"), (2, "code"), (3, "herbs")):
        routes = router.route(domain(seed, rows=200)[100:])
        assert np.mean([route.domain == name for route in routes]) >= 0.9
        assert np.mean([route.confidence for route in routes if route.domain == name]) > 0.9
    strangers = router.route(background(seed=9, rows=200))
    assert np.mean([route.abstained and route.domain is None for route in strangers]) >= 0.9
    assert np.mean([route.confidence for route in strangers]) < 0.1


def test_a_route_says_what_it_weighed() -> None:
    route = three_domains().route(domain(2, rows=1)[0])[0]
    assert route.domain == "code"
    assert route.runner_up in {"law", "herbs"}
    assert set(route.scores) == {"code", "herbs", "law"}
    assert max(route.scores, key=lambda name: route.scores[name]) == "code"


def test_no_domain_means_the_base() -> None:
    route = Router.empty(background()).route(domain(1)[0])[0]
    assert (route.domain, route.abstained, route.confidence, route.runner_up) == (None, True, 0.0, None)


def test_the_order_of_adding_does_not_matter() -> None:
    rows = {"law": domain(1), "code": domain(2), "herbs": domain(3)}
    routers = []
    for order in permutations(rows):
        router = Router.empty(background())
        for name in order:
            router = router.with_domain(name, rows[name], domain(7, rows=20))
        routers.append(router)
    assert all(router == routers[0] for router in routers)
    assert all(router.route(domain(2)) == routers[0].route(domain(2)) for router in routers)


def test_a_removed_domain_was_never_there() -> None:
    router = three_domains()
    assert router.without_domain("code") == Router.empty(background()).with_domain("herbs", domain(3)).with_domain(
        "law", domain(1)
    )
    assert router.without_domain("code") != router


def test_a_new_domain_leaves_the_others_scores_untouched() -> None:
    before = Router.empty(background()).with_domain("law", domain(1))
    after = before.with_domain("code", domain(2))
    queries = np.concatenate([domain(1), background(5)])
    assert [route.scores["law"] for route in before.route(queries)] == [
        route.scores["law"] for route in after.route(queries)
    ]
    assert before.domains == ("law",)  # the old value is still what it was


def test_no_row_is_kept() -> None:
    """Neither as it came nor as the direction it was turned into; and far fewer vectors than rows."""
    rows = domain(1, rows=40)
    router = Router.empty(background()).with_domain("law", rows, domain(1, rows=5))
    arrays = router.to_arrays()
    held = np.concatenate([arrays["domain/law/axes"], arrays["domain/law/mean"][None]])
    assert len(held) <= 1 + len(rows) // 4
    seen = np.concatenate([rows, router._lens.directions(rows.astype(np.float64))])
    cosines = seen @ held.T / np.linalg.norm(seen, axis=1)[:, None] / np.linalg.norm(held, axis=1)
    assert np.abs(cosines).max() < 0.99


def test_wrong_abstentions_stay_within_their_binomial_interval() -> None:
    """Averaged over many splits; a domain that overlaps the background, so that no gap helps."""
    centre = np.zeros(DIMENSION)
    centre[0] = 2.0
    wrong, asked, rng = 0, 0, np.random.default_rng(0)
    for _ in range(60):
        rows = centre + rng.normal(size=(40 + 39 + 50, DIMENSION))
        router = Router.empty(background(), error_rate=0.1).with_domain("near", rows[:40], rows[40:79])
        assert router.statistics["near"].calibration.guarantee == pytest.approx(0.1)
        wrong += sum(route.abstained for route in router.route(rows[79:]))
        asked += 50
    # Rows of one split share a threshold, which is Beta distributed: that spread dominates the binomial one.
    spread = 5 * np.sqrt(0.1 * 0.9 / 41 / 60 + 0.1 * 0.9 / asked)
    assert 0.1 - spread <= wrong / asked <= 0.1 + spread


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    dimension=st.integers(2, 40),
    scale=st.sampled_from([1e-20, 1.0, 1e15]),
)
def test_arrays_give_the_same_router_back(seed: int, rows: int, dimension: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    router = Router.empty(background(seed, 12, dimension), error_rate=0.03)
    router = router.with_domain("a", (scale * rng.normal(size=(rows, dimension))).astype(np.float32))
    router = router.with_domain("b-2", rng.normal(size=(rows, dimension)), rng.normal(size=(3, dimension)))
    queries = rng.normal(size=(5, dimension)).astype(np.float32)
    again = router_of(router.to_arrays())
    assert again == router
    assert again.route(queries) == router.route(queries)
    assert all(
        0 <= route.confidence <= 1 and np.isfinite(list(route.scores.values())).all() for route in router.route(queries)
    )


def test_arrays_of_something_else_are_refused() -> None:
    arrays = three_domains().to_arrays()
    del arrays["domain/law/axes"]
    with pytest.raises(ConfigError, match="not a whole router"):
        router_of(arrays)
    with pytest.raises(ConfigError, match="not a whole router"):
        router_of({})


def test_one_row_makes_a_domain_without_a_guarantee() -> None:
    row = domain(1, rows=1)
    router = Router.empty(background()).with_domain("law", row)
    assert router.statistics["law"].calibration.guarantee == 1.0
    assert router.route(row)[0].domain == "law"


def test_rows_all_alike_make_a_domain() -> None:
    rows = np.repeat(domain(1, rows=1), 30, axis=0)
    router = Router.empty(background()).with_domain("law", rows)
    assert router.route(rows[0])[0].domain == "law"
    assert router.route(background(5, rows=50))[0].abstained


def test_a_giant_feature_does_not_drown_the_others() -> None:
    """Language models hold single features hundreds of times larger than the rest ("massive activations")."""

    def with_giant(rows: np.ndarray, seed: int) -> np.ndarray:
        giant = 3000 + 300 * np.random.default_rng(seed).normal(size=(len(rows), 1))
        return np.concatenate([giant, rows], axis=1).astype(np.float32)

    router = Router.empty(with_giant(background(), 1))
    router = router.with_domain("law", with_giant(domain(1), 2)).with_domain("code", with_giant(domain(2), 3))
    assert np.mean([r.domain == "law" for r in router.route(with_giant(domain(1, rows=200)[100:], 4))]) >= 0.9
    assert np.mean([r.abstained for r in router.route(with_giant(background(9, rows=200), 5))]) >= 0.9


def test_without_calibration_rows_whole_documents_are_held_out() -> None:
    rows = domain(1, rows=40)
    documents = [f"page {row // 4}" for row in range(40)]  # ten of four rows each: the fifth and the tenth are held out
    held = np.isin(np.arange(40) // 4, (4, 9))
    by_hand = Router.empty(background()).with_domain(
        "law", rows[~held], rows[held], documents=[d for d, out in zip(documents, held, strict=True) if out]
    )
    assert Router.empty(background()).with_domain("law", rows, documents=documents) == by_hand
    assert by_hand.statistics["law"].calibration.count == 2


def test_a_router_goes_on_with_the_features_it_was_made_of() -> None:
    arrays = three_domains().to_arrays()
    older = router_of({name: values for name, values in arrays.items() if name != "features"})
    assert older.features == FeatureKind(depth=1 / 6, tokens=192)  # of before a file said so
    other = router_of({**arrays, "features": np.array([1.0, 0.5, 64.0])})
    assert other.features == FeatureKind(depth=0.5, tokens=64)
    assert other.with_domain("more", domain(7)).without_domain("law").features == other.features
    assert other != three_domains()


def test_a_router_of_unknown_features_or_of_broken_numbers_is_not_opened() -> None:
    arrays = three_domains().to_arrays()
    for unknown in ((2.0, 0.25, 192.0), (1.0, 0.0, 192.0), (1.0, 1.5, 192.0), (1.0, 0.25, 1.0)):
        with pytest.raises(ConfigError, match="not known here"):
            router_of({**arrays, "features": np.array(unknown)})
    for name, broken in (
        ("domain/law/mean", np.full(DIMENSION, np.nan)),
        ("domain/law/mean", np.zeros(DIMENSION + 1)),
        ("domain/law/axes", arrays["domain/law/axes"][1:]),
    ):
        with pytest.raises(ConfigError, match="not a whole router"):
            router_of({**arrays, name: broken})


def test_a_feature_that_is_constant_in_the_background_is_borne() -> None:
    still = background()
    still[:, 3] = 5.0
    router = Router.empty(still).with_domain("law", domain(1))
    assert np.mean([route.domain == "law" for route in router.route(domain(1))]) >= 0.9


def test_features_of_another_model_are_refused_with_both_sizes() -> None:
    router = three_domains()
    for use in (router.route, lambda rows: router.with_domain("new", rows)):
        with pytest.raises(ConfigError, match="wrong shape") as caught:
            use(domain(1, dimension=DIMENSION + 1))
        assert str(DIMENSION) in str(caught.value.expected)
        assert str(DIMENSION + 1) in str(caught.value.got)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_with_its_row(poison: float) -> None:
    rows = domain(1)
    rows[4, 2] = poison
    for use in (three_domains().route, lambda bad: three_domains().with_domain("new", bad), Router.empty):
        with pytest.raises(ConfigError, match="row 4"):
            use(rows)


def test_names_are_checked_on_the_way_in_and_out() -> None:
    router = three_domains()
    with pytest.raises(ConfigError, match="holds this domain already"):
        router.with_domain("law", domain(1))
    with pytest.raises(ConfigError, match="cannot name a domain"):
        router.with_domain("../law", domain(1))
    with pytest.raises(UnknownDomainError, match="code, herbs, law"):
        router.without_domain("medicine")


def test_a_background_too_small_or_all_alike_is_refused() -> None:
    with pytest.raises(ConfigError, match="9 rows"):
        Router.empty(background(rows=9))
    huge = background().astype(float)
    huge[3, 2] = 1e300  # a number, but none that float32 holds
    with pytest.raises(ConfigError, match="row 3"):
        Router.empty(huge)
    with pytest.raises(ConfigError, match="all alike"):
        Router.empty(np.ones((20, DIMENSION)))


def test_a_router_cannot_be_changed_through_the_callers_array() -> None:
    rows = background()
    router = Router.empty(rows).with_domain("law", domain(1))
    before = router.route(domain(1))
    rows[:] = 0.0
    assert router.route(domain(1)) == before
    with pytest.raises(ValueError, match="read-only"):
        router.background[0, 0] = 1.0


def test_no_query_no_route() -> None:
    assert three_domains().route(np.empty((0, DIMENSION))) == []


def test_the_background_prompts_are_many_and_distinct() -> None:
    assert len(BACKGROUND_PROMPTS) >= 120
    assert len({prompt.lower() for prompt in BACKGROUND_PROMPTS}) == len(BACKGROUND_PROMPTS)
    assert all(prompt.strip() == prompt and prompt for prompt in BACKGROUND_PROMPTS)


def test_the_strangers_of_the_demo_are_not_among_the_background_prompts() -> None:
    """Or "strangers go to the base" would be measured on what the router was made from."""

    def words(prompt: str) -> set[str]:
        return {word.strip(".,?!").lower() for word in prompt.split()}

    for stranger in strangers():
        for prompt in BACKGROUND_PROMPTS:
            shared, either = words(stranger) & words(prompt), words(stranger) | words(prompt)
            assert len(shared) / len(either) < 0.6, (stranger, prompt)


# --- which of the domains ------------------------------------------------------------------------------------------


def siblings(seed: int, side: float, rows: int = 120) -> np.ndarray:
    """Two domains of one vertical: the same subject, told apart by a little in a direction in which neither varies."""
    rng = np.random.default_rng([seed, 3])
    shared = np.random.default_rng(11).normal(size=(4, DIMENSION)) * 3
    rows_ND = 12 * shared[0] + rng.normal(size=(rows, 4)) @ shared + 0.3 * rng.normal(size=(rows, DIMENSION))
    apart = np.random.default_rng(12).normal(size=DIMENSION)
    return (rows_ND + side * 2.0 * apart / np.linalg.norm(apart)).astype(np.float32)


def test_siblings_are_told_apart_where_their_own_densities_are_of_little_help() -> None:
    router = Router.empty(background()).with_domain("left", siblings(1, -1)).with_domain("right", siblings(2, +1))
    right = total = by_density = 0
    for name, side in (("left", -1.0), ("right", +1.0)):
        for route in router.route(siblings(5, side, rows=300)):
            total += 1
            right += route.domain == name
            by_density += max(route.scores, key=lambda n: route.scores[n]) == name
    assert right / total >= 0.97
    assert by_density / total <= 0.7


@settings(max_examples=20, deadline=None, derandomize=True)
@given(domains=st.integers(1, 6), rows=st.integers(1, 40), seed=st.integers(0, 999))
def test_the_discriminant_is_that_of_the_pooled_covariance(domains: int, rows: int, seed: int) -> None:
    """Hastie et al. eq. 4.10 with the matrix written out, on both sides of Woodbury's identity."""
    router = Router.empty(background())
    for d in range(domains):
        router = router.with_domain(f"d{d}", domain(seed + d, rows=rows + 7 * d), domain(seed + d, rows=3))
    kept = [held.whole for held in router.statistics.values()]
    total = sum(held.count for held in kept)
    own = [held.axes.T * held.spread @ held.axes + held.rest * np.eye(DIMENSION) for held in kept]
    pooled = np.sum([held.count / total * matrix for held, matrix in zip(kept, own, strict=True)], axis=0)
    rest = sum(held.count / total * held.rest for held in kept)
    more = max(0.3 * np.trace(pooled) / DIMENSION, 1e-2 / DIMENSION - rest)
    sample, pooled = pooled, pooled + more * np.eye(DIMENSION)
    means = np.stack([held.mean for held in kept]).astype(float)
    weights, bias = router._discriminant
    expected = np.linalg.solve(pooled, means.T)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6 * float(np.abs(expected).max()))
    longer = np.trace(np.linalg.solve(pooled, sample)) / np.array([held.count for held in kept])
    np.testing.assert_allclose(bias, 0.5 * (longer - np.einsum("td,dt->t", means, expected)), rtol=1e-5, atol=1e-6)


def test_a_domain_of_few_rows_is_chosen_as_often_as_one_of_many() -> None:
    """Its mean is longer by chance alone; uncorrected it kept half of its own queries here."""
    rng = np.random.default_rng(0)
    wide, centre = 128, np.random.default_rng(1).normal(size=128)
    apart = rng.normal(size=(2, wide))

    def rows(which: int, count: int) -> np.ndarray:
        return (3 * centre + 0.5 * apart[which] + rng.normal(size=(count, wide))).astype(np.float32)

    router = Router.empty(background(rows=300, dimension=wide))
    router = router.with_domain("few", rows(0, 8), rows(0, 40)).with_domain("many", rows(1, 300), rows(1, 40))
    kept = [
        np.mean([r.nearest == name for r in router.route(rows(which, 400))])
        for which, name in ((0, "few"), (1, "many"))
    ]
    assert min(kept) >= 0.75
    assert abs(kept[0] - kept[1]) <= 0.15


def test_of_many_domains_the_nearest_are_asked_and_its_own_is_among_them() -> None:
    router = Router.empty(background(dimension=64))
    for d in range(60):
        router = router.with_domain(f"d{d}", domain(d, rows=24, dimension=64))
    for d in (0, 17, 59):
        for route in router.route(domain(d, rows=60, dimension=64)[30:]):
            assert f"d{d}" in route.scores
            assert route.domain in (f"d{d}", None)
            assert len(route.scores) == (60 if route.abstained else 32)  # before all refuse, all are asked
    assert np.mean([r.domain is not None for r in router.route(domain(17, rows=60, dimension=64)[30:])]) >= 0.8


def test_asked_all_at_once_they_score_as_one_by_one() -> None:
    router = Router.empty(background(dimension=64))
    for d in range(9):  # of one and two rows too: those have no axes
        router = router.with_domain(
            f"d{d}", domain(d, rows=1 + 5 * (d % 4), dimension=64), domain(d, rows=2, dimension=64)
        )
    queries = np.concatenate([domain(3, rows=5, dimension=64), background(3, rows=5, dimension=64)])
    directions = router._lens.directions(queries.astype(float))
    expected = np.array([list(route.scores.values()) for route in router.route(queries)])
    background_N = router._background_gaussian.log_density(directions)
    np.testing.assert_allclose(
        router._densities_of_all(directions) - background_N[:, None], expected, rtol=1e-4, atol=1e-3
    )


def test_equal_rows_leave_finite_weights() -> None:
    router = Router.empty(background())
    for name in ("one", "two"):
        router = router.with_domain(name, np.repeat(domain(len(name) + ord(name[0]), rows=1), 12, axis=0))
    weights, bias = router._discriminant
    assert np.abs(weights).max() < 1e6
    assert np.isfinite(bias).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(scale=st.floats(-6, 6), seed=st.integers(0, 99))
def test_a_confidence_is_a_probability_however_odd_the_query(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for route in three_domains().route((rng.normal(size=(4, DIMENSION)) * 10.0**scale).astype(np.float32)):
        assert 0.0 <= route.confidence <= 1.0


# --- more rows of a domain -----------------------------------------------------------------------------------------


def widened(seed: int, rows: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """A domain's rows and as many that came later, of the same subject but shifted."""
    found = domain(seed, rows=2 * rows, dimension=dimension)
    return found[:rows], found[rows:] + 2 * np.random.default_rng([seed, 9]).normal(size=dimension)


def covariance(router: Router, name: str) -> np.ndarray:
    held = router.statistics[name].own
    axes = held.axes.astype(float)
    return axes.T * held.spread @ axes + held.rest * np.eye(router.dimension)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 200),
    more=st.integers(1, 200),
    dimension=st.integers(2, 48),
    repeat=st.booleans(),
)
def test_pooled_rows_have_the_mean_and_the_scatter_of_all_rows(
    seed: int, rows: int, more: int, dimension: int, repeat: bool
) -> None:
    """The trace of the scatter whatever is cut off, since what the axes leave out is kept as `rest`."""
    first, then = domain(seed, rows, dimension), background(seed, more, dimension) + 1
    then = np.repeat(then[:1], more, axis=0) if repeat else then
    router = Router.empty(background(dimension=dimension)).with_domain("law", first, first).with_more("law", then, then)
    directions = router._lens.directions(np.concatenate([first, then]).astype(float))
    held = router.statistics["law"].own
    assert held.count == rows + more
    np.testing.assert_allclose(held.mean, directions.mean(0), atol=2e-7)
    trace = float(((directions - directions.mean(0)) ** 2).sum()) / (rows + more)
    assert float(held.spread.sum()) + dimension * held.rest == pytest.approx(trace, rel=1e-5, abs=1e-7)
    assert len(held.axes) == len(held.spread) <= min(32, (rows + more) // 4, dimension)
    np.testing.assert_allclose(held.axes @ held.axes.T, np.eye(len(held.axes)), atol=1e-5)
    assert {held.mean.dtype, held.axes.dtype, held.spread.dtype} == {np.dtype(np.float32)}
    assert router_of(router.to_arrays()) == router  # finite, and nothing below 0


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), rows=st.integers(32, 90), more=st.integers(32, 90), dimension=st.integers(2, 8))
def test_where_no_axis_is_left_out_pooling_is_exact(seed: int, rows: int, more: int, dimension: int) -> None:
    empty = Router.empty(background(dimension=dimension))
    first, then = domain(seed, rows, dimension), domain(seed + 1, more, dimension)
    pooled = empty.with_domain("law", first, first).with_more("law", then, then)
    whole = empty.with_domain("law", np.concatenate([first, then]), first)
    assert pooled.statistics["law"].own.rest == whole.statistics["law"].own.rest == 0.0
    np.testing.assert_allclose(covariance(pooled, "law"), covariance(whole, "law"), atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "dimension", "part"), [(80, 24, 0.05), (80, 64, 0.1), (30, 64, 0.2), (200, 300, 0.05)]
)
def test_two_halves_pooled_are_nearly_all_rows_at_once(rows: int, dimension: int, part: float) -> None:
    """How far its scores are from those of a domain made of all rows: a small part of how far the first half's are."""
    empty = Router.empty(background(dimension=dimension))
    for seed in range(3):
        first, then = widened(seed, rows, dimension)
        judges = np.concatenate([first[::7], then[::7]])
        half = empty.with_domain("law", first, judges)
        pooled, whole = (
            half.with_more("law", then, judges),
            empty.with_domain("law", np.concatenate([first, then]), judges),
        )
        queries = np.concatenate([*widened(seed + 50, 20, dimension), judges, background(5, dimension=dimension)])
        scores = [np.array([q.scores["law"] for q in router.route(queries)]) for router in (half, pooled, whole)]
        assert np.abs(scores[1] - scores[2]).mean() <= part * np.abs(scores[0] - scores[2]).mean()
        own, expected = pooled.statistics["law"].calibration, whole.statistics["law"].calibration
        assert own.count == expected.count == len(judges)
        assert own.guarantee == expected.guarantee


@pytest.mark.parametrize("seed", range(3))
def test_strangers_are_scored_as_by_a_router_that_has_not_seen_them(seed: int) -> None:
    """Scored by one that has, they fall lower, and the bar with them (by a fifth, here)."""
    empty, (first, then) = Router.empty(background(dimension=64)), widened(seed, 80, 64)
    judges = np.concatenate([first[::7], then[::7]])
    own = empty.with_domain("law", first, judges).with_more("law", then, judges).statistics["law"].calibration
    expected = empty.with_domain("law", np.concatenate([first, then]), judges).statistics["law"].calibration
    assert own.threshold == pytest.approx(expected.threshold, rel=0.06)
    assert own.middle == pytest.approx(expected.middle, rel=0.06)


def test_what_is_pooled_in_goes_home_and_the_rest_as_before() -> None:
    router = three_domains()
    new, old = domain(11, rows=160), domain(1, rows=200)[100:]
    assert np.mean([route.domain == "law" for route in router.route(new[80:])]) <= 0.1
    after = router.with_more("law", new[:60], np.concatenate([old[:20], new[60:80]]))
    for rows, name in ((new[80:], "law"), (old[20:], "law"), (domain(2, rows=200)[100:], "code")):
        assert np.mean([route.domain == name for route in after.route(rows)]) >= 0.9
    assert np.mean([route.abstained for route in after.route(background(seed=9, rows=200))]) >= 0.9


def test_more_of_one_domain_leaves_the_others_untouched_bit_for_bit() -> None:
    before = three_domains()
    kept = three_domains()
    after = before.with_more("code", domain(12), domain(12, rows=20))
    assert before == kept  # an immutable value
    assert after != before
    assert after.without_domain("code") == before.without_domain("code")
    assert after.domains == before.domains
    queries = np.concatenate([domain(1), domain(12), background(5)])
    for name in ("law", "herbs"):
        assert [r.scores[name] for r in after.route(queries)] == [r.scores[name] for r in before.route(queries)]


def test_the_order_of_extending_two_domains_does_not_matter() -> None:
    more = {"law": (domain(11), domain(11, rows=30)), "code": (domain(12), domain(12, rows=30))}
    one = three_domains().with_more("law", *more["law"]).with_more("code", *more["code"])
    assert one == three_domains().with_more("code", *more["code"]).with_more("law", *more["law"])


def test_all_rows_that_calibrate_set_the_bar_anew() -> None:
    """With fewer than 99 of them none may be refused."""
    judges = np.concatenate([domain(1, rows=90)[70:], domain(11, rows=90)[70:]])
    router = three_domains().with_more("law", domain(11, rows=60), judges)
    calibration = router.statistics["law"].calibration
    assert (calibration.count, calibration.guarantee) == (40, 1 / 41)
    assert min(route.scores["law"] for route in router.route(judges)) >= calibration.threshold
    of_pages = three_domains().with_more("law", domain(11, rows=60), judges, documents=[i // 4 for i in range(40)])
    assert (of_pages.statistics["law"].calibration.count, of_pages.statistics["law"].calibration.guarantee) == (
        10,
        1 / 11,
    )


def test_no_row_is_kept_of_what_was_pooled_in() -> None:
    first, then = domain(1, rows=40), domain(1, rows=80)[40:]
    router = Router.empty(background()).with_domain("law", first, first[:5]).with_more("law", then, then[:5])
    arrays = router.to_arrays()
    held = np.concatenate([arrays["domain/law/axes"], arrays["domain/law/mean"][None]])
    rows = np.concatenate([first, then])
    seen = np.concatenate([rows, router._lens.directions(rows.astype(float))])
    cosines = seen @ held.T / np.linalg.norm(seen, axis=1)[:, None] / np.linalg.norm(held, axis=1)
    assert np.abs(cosines).max() < 0.99


def test_more_of_what_is_not_there_or_does_not_fit_is_refused() -> None:
    router, rows = three_domains(), domain(1)
    with pytest.raises(UnknownDomainError, match="code, herbs, law"):
        router.with_more("medicine", rows, rows)
    with pytest.raises(UnknownDomainError, match="does not hold"):
        Router.empty(background()).with_more("law", rows, rows)
    for features, judges in ((domain(1, dimension=DIMENSION + 1), rows), (rows, domain(1, dimension=DIMENSION + 1))):
        with pytest.raises(ConfigError, match="wrong shape") as caught:
            router.with_more("law", features, judges)
        assert str(DIMENSION) in str(caught.value.expected)
        assert str(DIMENSION + 1) in str(caught.value.got)
    for features, judges in ((rows[:0], rows), (rows, rows[:0]), (rows[0], rows)):
        with pytest.raises(ConfigError, match="wrong shape"):
            router.with_more("law", features, judges)
    broken = rows.copy()
    broken[4, 2] = np.nan
    for features, judges in ((broken, rows), (rows, broken)):
        with pytest.raises(ConfigError, match="row 4"):
            router.with_more("law", features, judges)
    with pytest.raises(ConfigError, match="documents differ in number"):
        router.with_more("law", rows, rows, documents=["page"])


# --- words beside the hidden state ---------------------------------------------------------------------------------

WORDY = FeatureKind(words=64)


def with_words(hidden: np.ndarray, seed: int, first: int, last: int) -> np.ndarray:
    """Rows of features whose prompts have twelve words each, drawn from buckets first to last."""
    rng = np.random.default_rng([seed, 3])
    return np.concatenate([hidden, packed(rng.integers(first, last, (len(hidden), 12)).tolist(), 64)], axis=1)


def wordy(seed: int, rows: int = 80, *, words: int | None = None) -> np.ndarray:
    """Rows of `domain(seed)`, with words of that domain, or of another."""
    first = 16 * (seed if words is None else words) % 64
    return with_words(domain(seed, rows=rows), seed, first, first + 16)


def wordy_router(*seeds: int) -> Router:
    router = Router.empty(with_words(background(), 0, 0, 64), features=WORDY)
    for seed in seeds:
        router = router.with_domain(f"d{seed}", wordy(seed), wordy(seed, 120)[80:])
    return router


def test_where_the_hidden_state_says_yes_the_words_may_still_say_no() -> None:
    router = wordy_router(1, 2)
    assert (router.width, router.dimension) == (DIMENSION + 4, DIMENSION)
    own, strange = wordy(1, 300)[120:], wordy(1, 300, words=3)[120:]
    assert np.mean([r.domain == "d1" for r in router.route(own)]) >= 0.95
    for mine, other in zip(router.route(own), router.route(strange), strict=True):
        assert other.scores["d1"] < mine.scores["d1"] - 5
    blind = Router.empty(background()).with_domain("d1", domain(1), domain(1, rows=120)[80:])
    assert blind.route(own[:, :DIMENSION])[0].scores == blind.route(strange[:, :DIMENSION])[0].scores


def test_words_tell_apart_what_the_hidden_state_cannot() -> None:
    """Two domains of one Gaussian."""
    empty = Router.empty(with_words(background(), 0, 0, 64), features=WORDY)
    halves = [with_words(domain(1, rows=300)[i::2], i, 32 * i, 32 * i + 32) for i in (0, 1)]
    router = empty
    for i, rows in enumerate(halves):
        router = router.with_domain(f"half-{i}", rows[:80], rows[80:110])
    for i, rows in enumerate(halves):
        assert np.mean([r.nearest == f"half-{i}" for r in router.route(rows[110:])]) >= 0.95


def test_with_words_too_nothing_depends_on_the_order_or_on_others() -> None:
    router = wordy_router(1, 2, 3)
    assert router == wordy_router(3, 1, 2)
    queries = np.concatenate([wordy(1), wordy(2, words=0)])
    alone = wordy_router(2)
    assert [r.scores["d2"] for r in router.route(queries)] == [r.scores["d2"] for r in alone.route(queries)]
    assert router.without_domain("d1").without_domain("d3") == alone
    more = router.with_more("d1", wordy(11, words=1), wordy(1, 120)[80:])
    assert more.without_domain("d1") == router.without_domain("d1")
    held, was = more.statistics["d1"].words, router.statistics["d1"].words
    assert held is not None
    assert was is not None
    assert (was.prompts, held.prompts) == (80, 160)
    assert held.counts.sum() > was.counts.sum()


def test_the_stated_error_holds_with_words() -> None:
    """Of the rows that calibrated, by construction."""
    judges = wordy(1, 300)[80:]
    router = Router.empty(with_words(background(), 0, 0, 64), features=WORDY).with_domain("d1", wordy(1), judges)
    calibration = router.statistics["d1"].calibration
    assert calibration.guarantee == 2 / 221
    assert sum(r.abstained for r in router.route(judges)) <= 1


def test_a_file_keeps_the_words_and_what_is_not_whole_is_refused() -> None:
    router = wordy_router(1, 2)
    arrays = router.to_arrays()
    again = router_of(arrays)
    assert again == router
    assert again.features == WORDY
    assert again.route(wordy(1)) == router.route(wordy(1))
    assert again.with_more("d2", wordy(12), wordy(2)) == router.with_more("d2", wordy(12), wordy(2))
    broken = {
        "domain/d1/words": arrays["domain/d1/words"][:-16],
        "domain/d1/words_numbers": np.array([0.0, 0.0, 1.0, 0.0]),
        "domain/d2/words": np.full(64, np.nan, np.float32),
    }
    for name, values in broken.items():
        with pytest.raises(ConfigError, match="not a whole router"):
            router_of({**arrays, name: values})
    with pytest.raises(ConfigError, match="not a whole router"):
        router_of({name: values for name, values in arrays.items() if name != "domain/d2/words"})
    with pytest.raises(ConfigError, match="not known here"):
        router_of({**arrays, "features": np.array([1.0, 0.24, 192.0, 40.0])})
    with pytest.raises(ConfigError, match="not a whole router"):
        router_of({**arrays, "features": np.array([1.0, 0.24, 192.0, np.inf])})


@pytest.mark.parametrize("rows", [background(), background(dimension=3), np.full((60, 24), 0.5)])
def test_a_background_without_words_is_refused(rows: np.ndarray) -> None:
    """Hidden states alone, or fewer numbers than the words would take."""
    with pytest.raises(ConfigError, match="without their words"):
        Router.empty(rows, features=WORDY)


def test_rows_without_their_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="wrong shape"):
        wordy_router(1).route(domain(1))
    for hidden in (domain(1, dimension=DIMENSION + 4), 70_000 * np.ones((2, DIMENSION + 4))):
        with pytest.raises(ConfigError, match="without their words"):
            wordy_router(1).route(hidden)


# --- which domain: by all rows; whether any: by those that did not calibrate ---------------------------------------


def test_rows_that_calibrate_help_to_choose_but_not_to_accept() -> None:
    empty = Router.empty(background())
    few, judges = domain(1, rows=4), domain(1, rows=90)[30:]
    alone = empty.with_domain("law", few, judges)
    held = alone.statistics["law"]
    assert (held.own.count, held.whole.count) == (4, 64)
    np.testing.assert_allclose(held.whole.mean, alone.directions(np.concatenate([few, judges])).mean(0), atol=1e-6)
    again = empty.with_domain("law", few, judges[:1])
    queries = np.concatenate([domain(1, rows=120)[100:], background(7, rows=20)])
    for mine, other in zip(alone.route(queries), again.route(queries), strict=True):
        assert mine.scores == other.scores  # the threshold moves with the judges, what is held against it does not


def test_siblings_of_few_training_rows_are_told_apart_by_their_held_out_rows() -> None:
    kept = {"left": (1, -0.5), "right": (2, +0.5)}
    router = Router.empty(background())
    for name, (seed, side) in kept.items():
        router = router.with_domain(name, siblings(seed, side, rows=6), siblings(seed + 20, side, rows=60))

    def right(of: Router) -> float:
        routes = [(r, n) for n, (_, side) in kept.items() for r in of.route(siblings(5, side, rows=300))]
        return float(np.mean([r.nearest == n for r, n in routes]))

    by_training_rows = {
        n: replace(held, whole=held.own, whole_words=held.words and held.words.counts)
        for n, held in router.statistics.items()
    }
    assert right(router) >= right(replace(router, statistics=by_training_rows)) + 0.05


def test_more_rows_of_a_domain_are_counted_once_among_all() -> None:
    empty = Router.empty(background())
    first, then, judges, later = (domain(s, rows=n) for s, n in ((1, 40), (2, 30), (3, 10), (4, 7)))
    more = empty.with_domain("law", first, judges).with_more("law", then, np.concatenate([judges, later]))
    assert more.statistics["law"].own.count == 70
    assert more.statistics["law"].whole.count == 80  # the later judges only judge
    exact = empty.with_domain("law", np.concatenate([first, then]), judges).statistics["law"].whole
    np.testing.assert_allclose(more.statistics["law"].whole.mean, exact.mean, atol=1e-6)


def test_a_file_of_before_chooses_by_the_rows_it_has() -> None:
    router = three_domains()
    older = {name: values for name, values in router.to_arrays().items() if "/whole_" not in name}
    found = router_of(older)
    assert all(held.whole == held.own for held in found.statistics.values())
    queries = np.concatenate([domain(s, rows=90)[80:] for s in (1, 2, 3)])
    assert [r.scores for r in found.route(queries)] == [r.scores for r in router.route(queries)]


@pytest.mark.parametrize("name", ["whole_mean", "whole_axes", "whole_spread", "whole_numbers"])
def test_broken_numbers_of_all_rows_are_not_opened(name: str) -> None:
    arrays = three_domains().to_arrays()
    for broken in (arrays[f"domain/law/{name}"][:-1], arrays[f"domain/law/{name}"] * np.nan):
        if broken.size:
            with pytest.raises(ConfigError, match="not a whole router"):
                router_of({**arrays, f"domain/law/{name}": broken})
