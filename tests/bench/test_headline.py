"""The headline is arithmetic on receipts, and refuses to compare what is not of the same rows."""

from __future__ import annotations

from typing import Any

import pytest
from toy_receipts import toy_receipt, toy_suite

from crma.bench.headline import average, group_runs, headline, interval, nested_mean, preferred_recipe
from crma.errors import DataError

KEYS = {
    "recipe",
    "advantage_pct",
    "advantage_pinned_pct",
    "advantage_routed_pct",
    "captured_share",
    "joint_gain_pct",
    "drift_floating_pct",
    "drift_pinned_pct",
    "naive_forgetting_pct",
    "naive_copies_vs_pinned_pct",
    "runs",
    "orders",
}


def test_the_numbers_worked_by_hand():
    far = headline(toy_suite())["far"]
    assert set(far) == KEYS
    assert far["recipe"] == "small"
    assert (far["runs"], far["orders"]) == (1, 1)
    assert far["advantage_pct"]["mean"] == pytest.approx(10.0)  # 100 (2.0 − 1.8) / 2.0
    assert far["advantage_pct"]["per_seed"] == {"0": pytest.approx(10.0)}
    assert far["advantage_pct"]["sd"] is None  # of one seed there is none
    assert far["advantage_pinned_pct"] == pytest.approx(5.0)  # 100 (2.0 − 1.9) / 2.0
    assert far["advantage_routed_pct"] == pytest.approx(5.0)
    assert far["captured_share"] == pytest.approx(0.5)  # (2.0 − 1.8) / (2.0 − 1.6)
    assert far["joint_gain_pct"] == pytest.approx(20.0)
    # Only law can drift: with code, the last, whose 0 % is no merit, the mean would be -5.
    assert far["drift_floating_pct"] == {"mean": pytest.approx(-10.0), "worst": pytest.approx(-10.0)}
    assert far["drift_pinned_pct"] == {"mean": pytest.approx(0.0), "worst": pytest.approx(0.0)}
    assert far["naive_forgetting_pct"] == pytest.approx(150.0)  # 1.0 -> 2.5
    assert far["naive_copies_vs_pinned_pct"] == pytest.approx(5.0)  # copies (1.0 + 3.0) / 2 against 1.9


def test_a_loss_weighs_tokens_and_then_domains_the_same():
    """Rows of 1 and 3 tokens: the plain mean of their losses would be 0.25 higher and the advantage another."""
    run = group_runs([toy_receipt("frozen", [[1.0, None], [None, 3.0]], holds=True, spread=0.25)])[0]
    assert run.loss("frozen") == pytest.approx(2.0)


def test_what_has_no_receipt_is_none():
    without_joint = [r for r in toy_suite() if r.condition not in ("joint", "naive")]
    far = headline(without_joint)["far"]
    assert far["captured_share"] is None
    assert far["joint_gain_pct"] is None
    assert far["naive_forgetting_pct"] is None
    assert far["naive_copies_vs_pinned_pct"] is None
    assert far["advantage_pct"]["mean"] == pytest.approx(10.0)
    near = headline(without_joint)["near"]
    assert near["streams"] == {}
    assert near["recipe"] is None
    assert near["advantage_pct"] == {"mean": None, "sd": None, "per_seed": {}, "interval": None}
    assert near["drift_pinned_pct"] == {"mean": None, "worst": None}
    assert near["runs"] == 0


def test_nothing_is_captured_where_joint_is_no_better():
    suite = [r for r in toy_suite() if r.condition != "joint"]
    far = headline([*suite, toy_receipt("joint", [[None, None], [1.5, 2.7]])])["far"]
    assert far["captured_share"] is None
    assert far["joint_gain_pct"] == pytest.approx(-5.0)


def test_means_go_over_orders_then_seeds():
    """Seed 0: 10 and 20 in two orders; seed 1: 30 in one. The mean is (15 + 30) / 2, not 20; sd of 15 and 30."""

    def pair(seed: int, order: tuple[str, str], ours: float):
        frozen = toy_receipt("frozen", [[2.0, None], [None, 2.0]], holds=True, seed=seed, order=order)
        return [frozen, toy_receipt("crma", [[ours, None], [ours, ours]], seed=seed, order=order)]

    receipts = [*pair(0, ("law", "code"), 1.8), *pair(0, ("code", "law"), 1.6), *pair(1, ("law", "code"), 1.4)]
    found = headline(receipts)["far"]
    assert found["advantage_pct"]["mean"] == pytest.approx(22.5)
    assert found["advantage_pct"]["per_seed"] == {"0": pytest.approx(15.0), "1": pytest.approx(30.0)}
    assert found["advantage_pct"]["sd"] == pytest.approx(112.5**0.5)
    assert (found["runs"], found["orders"]) == (3, 2)


def test_what_knows_no_order_is_run_once_a_seed_and_stands_in_all():
    """crma in two orders, frozen (law 1, code 3) and joint in one: 10 % and 20 % over L = 2."""
    swapped = ("code", "law")
    other = toy_receipt("crma", [[2.4, None], [2.3, 0.9]], order=swapped)
    found = headline([*toy_suite(), other])["far"]
    assert (found["runs"], found["orders"]) == (2, 2)
    assert found["advantage_pct"]["mean"] == pytest.approx(15.0)
    assert found["captured_share"] == pytest.approx(0.3 / 0.4)
    run = group_runs([*toy_suite(), other])[0]
    assert run.order == swapped
    after, now = run.just_after("frozen"), run.at_end("frozen")
    assert after == now
    assert now is not None
    assert now["law"].loss == pytest.approx(1.0)
    assert "naive" not in run.receipts  # it has an order of its own
    with pytest.raises(DataError, match="another order"):
        toy_suite()[1].in_order(swapped)
    with pytest.raises(DataError, match="another order"):
        toy_suite()[0].in_order(("law", "science"))


def test_near_is_the_mean_of_its_streams():
    receipts = [
        *toy_suite(stream="near-law"),
        toy_receipt("frozen", [[2.0, None], [None, 2.0]], stream="near-code", holds=True),
        toy_receipt("crma", [[2.0, None], [2.0, 2.0]], stream="near-code"),
    ]
    near = headline(receipts)["near"]
    assert near["streams"]["near-law"]["advantage_pct"]["mean"] == pytest.approx(10.0)
    assert near["streams"]["near-code"]["advantage_pct"]["mean"] == pytest.approx(0.0)
    assert near["advantage_pct"]["mean"] == pytest.approx(5.0)
    assert near["runs"] == 2
    assert headline(receipts)["far"]["advantage_pct"]["mean"] is None


def test_the_worst_drift_is_of_any_domain_in_any_run():
    quiet = toy_receipt("naive", [[1.0, None], [1.0, 1.0]])
    loud = toy_receipt("naive", [[1.0, None], [1.3, 1.0]], seed=1)
    crma = [toy_receipt("crma", r.matrix().rows, seed=r.seed) for r in (quiet, loud)]
    drift = headline([quiet, loud, *crma, toy_receipt("frozen", [[1.0, None], [None, 1.0]], holds=True)])["far"]
    assert drift["drift_floating_pct"] == {"mean": pytest.approx(15.0), "worst": pytest.approx(30.0)}


def test_receipts_of_other_rows_are_not_compared():
    frozen, crma = toy_suite()[0], toy_receipt("crma", [[1.0, None], [0.9, 2.7]], data="other rows")
    with pytest.raises(DataError, match="not of the same rows") as caught:
        headline([frozen, crma])
    assert "law/test" in str(caught.value)


def test_receipts_of_another_base_are_not_compared():
    crma = toy_receipt("crma", [[1.0, None], [0.9, 2.7]], base={"weights_sha256": "1" * 64})
    with pytest.raises(DataError, match="not of the same base model"):
        headline([toy_suite()[0], crma])


def test_two_receipts_of_one_run_are_refused():
    with pytest.raises(DataError, match="the same run"):
        group_runs([toy_suite()[0], toy_suite()[0]])


def test_another_seed_stream_or_recipe_makes_no_pair():
    crma = toy_suite()[1]
    others: list[dict[str, Any]] = [{"seed": 1}, {"stream": "b", "kind": "far"}]
    for changes in [*others, {"recipe": "paper"}]:
        frozen = toy_receipt("frozen", [[1.0, None], [None, 1.0]], holds=True, **changes)
        assert headline([crma, frozen])["far"]["runs"] == 0


def test_a_receipt_that_lacks_a_domain_is_refused():
    with pytest.raises(DataError, match="a domain was not measured"):
        headline([toy_suite()[0], toy_receipt("crma", [[1.0, None], [None, 2.0]])])


def test_the_base_is_read_from_whichever_receipt_scored_it():
    run = group_runs(toy_suite())[0]
    assert "base" not in run.receipts
    assert run.loss("base") == pytest.approx(5.0)


def test_paper_is_shown_once_it_is_complete():
    small = toy_suite() + toy_suite(seed=1)
    half = small + toy_suite(recipe="paper")
    assert preferred_recipe(group_runs(half)) == "small"
    assert headline(half)["far"]["recipe"] == "small"
    assert headline(half, recipe="paper")["far"]["runs"] == 1
    assert headline(half + toy_suite(recipe="paper", seed=1))["far"]["recipe"] == "paper"
    assert preferred_recipe(group_runs(toy_suite(recipe="smoke"))) is None


def test_the_interval_holds_the_mean_and_the_rows_own_uncertainty():
    runs = group_runs(toy_suite())
    low, high = interval(runs, "crma", "frozen") or (0.0, 0.0)
    assert low < 10.0 < high
    # Every row 10 % better: whatever rows are drawn, the advantage is 10 %.
    frozen = toy_receipt("frozen", [[1.0, None], [None, 3.0]], holds=True, spread=0.0)
    crma = toy_receipt("crma", [[0.9, None], [0.9, 2.7]], spread=0.0)
    assert interval(group_runs([frozen, crma]), "crma", "frozen") == pytest.approx([10.0, 10.0])
    assert interval(runs, "light", "frozen") is None


def test_the_interval_draws_documents_where_a_receipt_names_them():
    receipts = [
        toy_receipt("frozen", [[1.0]], order=["law"], holds=True),
        toy_receipt("crma", [[0.9]], order=["law"], spread=0.5),
    ]
    by_row = interval(group_runs(receipts), "crma", "frozen") or [0.0, 0.0]
    assert by_row[0] < by_row[1]
    named = [receipts[0].model_copy(update={"documents": {"law": ("same", "same")}}), receipts[1]]
    # Both rows are of one document: nothing is left to draw.
    assert interval(group_runs(named), "crma", "frozen") == pytest.approx([10.0, 10.0])


def test_the_interval_weighs_runs_as_the_mean_does():
    """Rows that all lose the same leave nothing to chance: the interval shrinks onto (15 + 30) / 2."""
    receipts = []
    for seed, order, ours in ((0, ("law", "code"), 1.8), (0, ("code", "law"), 3.2), (1, ("law", "code"), 1.4)):
        theirs = 4.0 if ours == 3.2 else 2.0
        rows = [[theirs, None], [None, theirs]]
        receipts.append(toy_receipt("frozen", rows, holds=True, spread=0.0, seed=seed, order=order))
        receipts.append(toy_receipt("crma", [[ours, None], [ours, ours]], spread=0.0, seed=seed, order=order))
    runs = group_runs(receipts)
    assert average(runs, lambda r: r.advantage("crma", "frozen")) == pytest.approx(22.5)
    assert interval(runs, "crma", "frozen") == pytest.approx([22.5, 22.5])


def test_a_seed_with_rows_of_its_own_is_a_stratum_of_its_own():
    receipts = [
        receipt
        for seed, ours in ((0, 1.8), (1, 1.6))
        for receipt in (
            toy_receipt("frozen", [[2.0, None], [None, 2.0]], holds=True, spread=0.0, seed=seed, data=f"of {seed}"),
            toy_receipt("crma", [[ours, None], [ours, ours]], spread=0.0, seed=seed, data=f"of {seed}"),
        )
    ]
    assert interval(group_runs(receipts), "crma", "frozen") == pytest.approx([15.0, 15.0])


def test_a_nested_mean_of_nothing_is_nothing():
    assert nested_mean({}) is None
    assert nested_mean({("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 8.0}) == pytest.approx(5.0)


def test_runs_of_different_rules_of_following_are_not_averaged():
    def run(seed: int, rule: int | None):
        said = {} if rule is None else {"rule": rule}
        return toy_receipt("crma", seed=seed).model_copy(update={"config": {"condition": said}})

    assert len(group_runs([run(0, 3), run(1, 3)])) == 2
    assert len(group_runs([run(0, 1), run(1, None)])) == 2  # of before it was said
    with pytest.raises(DataError, match="different rules"):
        group_runs([run(0, 3), run(1, 2)])
