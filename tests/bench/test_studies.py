"""How the advantage depends on domains, rows and rates, against values worked by hand."""

from __future__ import annotations

import pytest
from toy_receipts import toy_receipt, toy_suite

from crma.bench.headline import group_runs
from crma.bench.receipt import Measurement, Receipt
from crma.bench.report import results_markdown
from crma.bench.result_tables import result_tables
from crma.bench.studies import growth, rates, rows_study, whole


def test_the_advantage_grows_with_the_domains():
    """Law alone: 1.0 of both. Then law 0.9 and code 2.7 against 1.0 and 3.0: 10 % in all, and 10 % of code."""
    found = growth(group_runs(toy_suite()))
    assert found == [pytest.approx((0.0, 0.0)), pytest.approx((10.0, 10.0))]
    other = [  # another seed, in which nothing is won
        toy_receipt("frozen", [[1.0, None], [None, 3.0]], holds=True, seed=1),
        toy_receipt("crma", [[1.0, None], [1.0, 3.0]], seed=1),
    ]
    assert growth(group_runs([*toy_suite(), *other])) == [pytest.approx((0.0, 0.0)), pytest.approx((5.0, 5.0))]


def test_without_a_whole_matrix_of_both_there_is_no_growth():
    assert growth(group_runs([r for r in toy_suite() if r.condition != "frozen"])) is None
    assert growth(()) is None


def test_another_number_of_rows_stands_beside_its_recipe():
    def few(rows: int, crma: float) -> list[Receipt]:
        of = {d: {"train": rows, "validation": 2, "test": 2} for d in ("law", "code")}
        recipe = f"small-rows{rows}"
        made = (
            toy_receipt("frozen", [[4.0, None], [None, 4.0]], holds=True, recipe=recipe),
            toy_receipt("crma", [[crma, None], [crma, crma]], recipe=recipe),
        )
        return [receipt.model_copy(update={"rows": of}) for receipt in made]

    [(key, points)] = rows_study([*toy_suite(), *few(25, 3.0), *few(100, 3.8)]).items()
    assert key == "small/far"
    assert [(size, runs) for size, runs, *_ in points] == [(2, 1), (25, 1), (100, 1)]
    assert [p[2] for p in points] == pytest.approx([2.0, 4.0, 4.0])
    assert [p[4] for p in points] == pytest.approx([10.0, 25.0, 5.0])
    assert rows_study(toy_suite()) == {}


def at_rate(recipe: str, lr: float, validation: tuple[float, float], **more) -> Receipt:
    receipt = toy_receipt("frozen", [[1.0, None], [None, 3.0]], holds=True, recipe=recipe, **more)
    held_out = tuple(
        Measurement(after=t, domain=d, view="floating", split="validation", losses=(x,), tokens=(1,))
        for t, (d, x) in enumerate(zip(receipt.order, validation, strict=True), start=1)
    )
    return receipt.model_copy(
        update={"measurements": (*receipt.measurements, *held_out), "config": {"learn": {"lr": lr}}}
    )


def test_rates_are_compared_on_validation_rows_just_after_learning():
    receipts = [
        at_rate("small", 2e-3, (1.0, 2.0)),
        at_rate("small-lr0.001", 1e-3, (1.0, 4.0)),
        at_rate("small-rows25", 5e-3, (0.0, 0.0)),  # other rows: a grid of its own
        at_rate("small-rows25-lr0.001", 1e-3, (0.0, 1.0)),
        at_rate("small", 2e-3, (1.0, 2.0), seed=1),  # alone: nothing to compare
    ]
    run = ("frozen", 0, ("law", "code"))
    assert rates(receipts) == [
        ("small-rows25/far", *run, {5e-3: 0.0, 1e-3: 0.5}),
        ("small/far", *run, {2e-3: 1.5, 1e-3: 2.5}),
    ]
    assert rates(toy_suite()) == []  # without validation rows there is nothing to choose by


def test_the_report_shows_studies_once_and_variants_nowhere_else():
    variant = at_rate("small-lr0.001", 1e-3, (1.0, 4.0))
    receipts = [*toy_suite(), variant]
    tables = result_tables(receipts)
    assert "rows" not in tables
    assert "| far (small) | all so far | +0.00 % | +10.00 % |" in tables["growth"]
    assert not any("lr0.001" in key for key in tables)
    both = [r for r in toy_suite() if r.condition != "frozen"] + [at_rate("small", 2e-3, (1.0, 2.0)), variant]
    text = results_markdown(both, "figures")
    assert "| far (small) | frozen | 0 | law | 2.5000 | 1.5000 |" in text
    assert "## far (small-lr0.001)" not in text
    assert whole(both) == both[:-1]
    # A rate that was chosen for a base, and is all there is of it, is its benchmark.
    alone = [r.model_copy(update={"recipe": "paper-big-lr0.0003"}) for r in toy_suite()]
    assert whole(alone) == alone
    assert "paper-big-lr0.0003/far/methods" in result_tables(alone)


def test_of_a_rate_grid_alone_the_controls_best_point_is_shown():
    """An advantage at a rate that is bad for the control is none."""
    grid = [at_rate("small-lr0.001", 1e-3, (1.0, 2.0)), at_rate("small-lr0.004", 4e-3, (1.0, 4.0))]
    ours = [r.model_copy(update={"condition": "crma", "config": r.config}) for r in grid]
    receipts = [*grid, *ours]
    assert whole(receipts) == [grid[0], ours[0]]
    assert whole([*receipts, at_rate("small", 2e-3, (1.0, 9.0))])[-1].recipe == "small"
    assert {r.recipe for r in whole([*receipts, at_rate("small", 2e-3, (1.0, 9.0))])} == {"small"}
