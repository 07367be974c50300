"""RESULTS.md says what the receipts say, what they do not say, and the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_receipts import toy_receipt, toy_suite

from crma.bench.ahead_table import AHEAD
from crma.bench.arriving_table import ARRIVING
from crma.bench.receipt import NOWHERE, Answers, write_receipt
from crma.bench.report import COMMAND, results_markdown, write_report
from crma.bench.result_tables import result_tables
from crma.errors import DataError


def _rows(table: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_a_method_is_a_row_and_the_derived_ones_too():
    table = result_tables(toy_suite())["small/far/methods"]
    rows = _rows(table)
    crma = rows["**CRMA**, all adapters under the last backbone"]
    # just after (1.0 + 2.7) / 2, at the end 1.8, drift of law 1.0 -> 0.9, 10 % better than frozen
    assert crma[:7] == ["1.00 M", "2.00 M", "1.8500", "1.8000", "-", "-10.00 %", "-10.00 %"]
    assert crma[7].startswith("+10.00 % [")
    assert crma[8] == "1"
    pinned = rows["CRMA, each adapter under its own snapshot (pinned)"]
    assert pinned[1:5] == ["-", "1.8500", "1.9000", "1.9000"]
    copies = rows["naive, a copy kept after each domain (naive-copies)"]
    assert copies[1:4] == ["4.00 M", "2.0000", "2.0000"]  # two domains, so two copies
    assert rows["untouched base"][:4] == ["-", "-", "-", "5.0000"]
    assert rows["one LoRA, all domains at once (joint)"][2] == "-"  # it has no "just after"
    assert rows["a LoRA a domain, CRMA's size (**frozen**, the control)"][7] == "-"


def test_every_condition_that_is_missing_is_named():
    said = result_tables(toy_suite())["missing"]
    assert "no stream of the kind *near*" in said
    assert "1 seed of the protocol's 3" in said
    assert (
        "never: base, naive-low-lr, copies-follow, frozen-small, frozen-uniform, frozen-warm, crma-warm, as-it-is, stay"
        in said
    )
    assert "routers not measured: tfidf, single, random" in said
    uneven = [*toy_suite(), *(r for r in toy_suite(seed=1) if r.condition != "joint")]
    assert "joint in 1 of 2 runs" in result_tables(uneven)["missing"]


def test_the_captured_share_is_nothing_to_win_where_joint_is_worse():
    assert "| 0.50 |" in result_tables(toy_suite())["captured"]
    suite = [r for r in toy_suite() if r.condition != "joint"]
    worse = [*suite, toy_receipt("joint", [[None, None], [1.5, 2.7]])]
    assert "| -5.00 % | nothing to win |" in result_tables(worse)["captured"]


def test_the_bound_is_the_worst_of_every_step_of_every_run():
    loud = {"domain": "law", "step": 1, "gap": 7e-8, "worst_operator_norm": 0.5, "relative_change": 0.25}
    receipts = [*toy_suite(), toy_receipt("crma", [[1.0, None], [0.9, 2.7]], seed=1, spectral=(loud,))]
    assert "| far (small) | crma | 2 | 3 | 7.0e-08 | 1.0000000 | 0.2500 |" in result_tables(receipts)["bound"]


def test_domains_seeds_shares_routes_and_answers():
    answers = (Answers(domain="law", view="served", correct=(True, True, False, True)),)
    suite = [r for r in toy_suite() if r.condition != "naive"]
    tables = result_tables([*suite, toy_receipt("naive", [[1.0, None], [2.5, 3.0]], answers=answers)])
    law, code = (_rows(tables["small/far/domains"])[d] for d in ("law", "code"))
    assert law[-1] == code[-1] == "1 of 1"
    assert law[-2].startswith("+10.00 %")
    assert code[-3] == "2.7000"
    assert _rows(tables["small/far/seeds"])["0"][:6] == ["1", "2.7500", "1.6000", "2.0000", "1.9000", "1.8000"]
    assert "| law 1 → code 0.25 | - | - |" in tables["small/far/shares"]
    assert "7 of 8 (87.5%)" in tables["small/far/routers"]
    assert "| naive | served | 3 of 4 | 75.0% |" in tables["small/far/answers"]
    assert "small/far/ablations" not in tables


def test_how_far_earlier_domains_followed_stands_beside_the_shares():
    def fit(follow: float, rank: int) -> dict[str, float]:
        return {"follow": follow, "rank": rank, "standalone": float(rank > 8)}

    suite = [
        r.model_copy(
            update={
                "fits": {"law": {}, "code": {"law": fit(0.25, 18)}},
                "config": {"learn": {"rank": 8}},
            }
        )
        for r in toy_suite()
        if r.condition == "crma"
    ]
    assert "| law 1 → code 0.25 | 25% | 1 of 1 |" in result_tables(suite)["small/far/shares"]


def test_ablations_stand_beside_what_they_ablate():
    other_seed = toy_receipt("crma", [[1.0, None], [1.0, 5.0]], seed=1)
    receipts = [*toy_suite(), other_seed, toy_receipt("no-mixing", [[1.0, None], [1.0, 2.6]])]
    table = result_tables(receipts)["small/far/ablations"]
    assert "| M = I (no-mixing) | 1.00 M | 2.00 M | 1.8000 | 1.8000 |" in table
    # Over the seed that was ablated, not over both.
    assert "| **CRMA**, all adapters under the last backbone | 1.00 M | 2.00 M | 1.8500 | 1.8000 |" in table


def test_what_stands_in_several_runs_is_counted_once():
    """crma in two orders; frozen, reset and their costs once. reset does not say that the second order was ablated."""
    swapped = ("code", "law")
    receipts = [
        *toy_suite(),
        toy_receipt("crma", [[2.6, None], [2.6, 0.8]], order=swapped),
        toy_receipt("no-mixing", [[1.0, None], [1.0, 2.6]]),
        toy_receipt("reset", [[1.0, None], [None, 3.2]], holds=True),
    ]
    tables = result_tables(receipts)
    assert (
        "| **CRMA**, all adapters under the last backbone | 1.00 M | 2.00 M | 1.8500 | 1.8000 |"
        in (tables["small/far/ablations"])
    )
    costs = {line.split(" | ")[1]: line.split(" | ")[-1] for line in tables["cost"].splitlines()[2:]}
    assert costs == {"naive": "1 |", "joint": "1 |", "frozen": "1 |", "crma": "2 |", "no-mixing": "1 |", "reset": "1 |"}


def test_the_headline_table_has_a_column_a_near_stream_where_there_are_several():
    receipts = toy_suite() + toy_suite(stream="near-a") + toy_suite(stream="near-b")
    head = result_tables(receipts)["headline"].splitlines()[0]
    assert head == "|  | far | near | near-a | near-b |"
    assert result_tables(toy_suite(stream="near-a"))["headline"].startswith("|  | far | near (near-a) |")


def test_the_document_holds_every_table_once_and_how_to_make_it():
    receipts = toy_suite()
    text = results_markdown(receipts, "results/figures")
    for name in result_tables(receipts):
        assert text.count(f"<!-- results:{name} -->") == 1, name
    assert COMMAND in text
    assert "(results/figures/small-far-forgetting.svg)" in text


def test_no_number_is_a_negative_zero():
    receipts = [
        toy_receipt("frozen", [[1.0, None], [None, 1.0]], holds=True),
        toy_receipt("crma", [[1.0, None], [0.99999999, 1.00000002]]),
    ]
    assert "-0.00" not in results_markdown(receipts, "figures")


def test_the_same_receipts_give_the_same_bytes(tmp_path: Path):
    pytest.importorskip("matplotlib")
    results = tmp_path / "results"
    for receipt in toy_suite()[2:]:  # naive and joint: two figures are enough to see it
        write_receipt(results / "small" / "far" / f"{receipt.condition}.json", receipt.model_dump())
    out = tmp_path / "RESULTS.md"

    def written() -> dict[str, bytes]:
        write_report(results, out)
        return {p.name: p.read_bytes() for p in [out, *(results / "figures").iterdir()]}

    first = written()
    assert len(first) == 3
    for line in out.read_text(encoding="utf-8").splitlines():
        if line.startswith("!["):
            assert (out.parent / line.rsplit("(", 1)[1].rstrip(")")).is_file()
    assert written() == first


def test_an_empty_folder_makes_no_report(tmp_path: Path):
    with pytest.raises(DataError, match="nothing to report"):
        write_report(tmp_path, tmp_path / "RESULTS.md")
    assert not (tmp_path / "RESULTS.md").exists()


def test_it_says_which_routed_runs_had_an_older_router():
    of_words = [r.model_copy(update={"router": {"words": 4096}}) for r in toy_suite()]
    assert "2 of 2 routed runs had a router that did not look at words yet." in results_markdown(toy_suite(), "figures")
    mixed = [of_words[0], *toy_suite()[1:]]
    assert "1 of 2 routed runs had a router that did not look at words yet." in results_markdown(mixed, "figures")
    assert "did not look at words" not in results_markdown(of_words, "figures")


def test_what_became_of_a_domain_before_it_was_learnt():
    (crma,) = [r for r in toy_suite() if r.condition == "crma"]
    ahead = crma.measurements[0].model_copy(
        update={"after": 1, "domain": "code", "view": "routed", "losses": (4.5, 5.5)}
    )
    told = crma.model_copy(
        update={"measurements": (*crma.measurements, ahead), "routes_ahead": {"code": {"law": 1, NOWHERE: 1}}}
    )
    assert "small/far/ahead" not in result_tables([crma])
    tables = result_tables([told])
    # base 6.0, as routed (1 · 4.5 + 3 · 5.5) / 4 = 5.25: 12.5 % better
    (row,) = list(_rows(tables["small/far/ahead"]).items())[2:]
    assert row[0] == "code"
    assert row[1][:3] == ["1 of 2 (50%)", "6.0000", "5.2500"]
    assert row[1][3].startswith("+12.50 % [")
    assert result_tables([told])["small/far/methods"] == result_tables([crma])["small/far/methods"]
    assert AHEAD in results_markdown([told], "figures")
    assert AHEAD not in results_markdown([crma], "figures")


def test_what_it_costs_that_rows_come_otherwise_than_named_and_at_once():
    halves = toy_receipt("halves", views={"routed": [1.5, 3.1]}, routes={"law": {"law": 4}, "code": {"code": 4}})
    second = [
        m.model_copy(update={"after": 4, "losses": tuple(x - 0.2 for x in m.losses)}) for m in halves.measurements
    ]
    halves = halves.model_copy(update={"measurements": (*halves.measurements, *second)})
    auto = toy_receipt(
        "auto",
        views={"routed": [1.0, 2.42]},
        routes={"law": {"statute": 3, NOWHERE: 1}, "code": {"loop": 4}},
        tokens=900,
    )
    assert "small/far/arriving" not in result_tables(toy_suite())
    text = results_markdown([*toy_suite(), halves, auto], "figures")
    assert ARRIVING in text
    rows = _rows(result_tables([*toy_suite(), halves, auto])["small/far/arriving"])
    # crma as routed (1.0 + 2.8) / 2 = 1.9
    assert rows["named, at once (crma)"][3:] == ["1.9000", "-", "1"]
    half = rows["named, the first half of each domain (halves)"]
    assert half[:4] == ["-", "-", "-", "2.3000"]
    assert half[4].startswith("-21.05 % [")
    then = rows["named, the second half by `--extend` (halves)"]
    assert then[:4] == ["1,000", "2", "0 of 8 (0.0%)", "2.1000"]
    assert then[4].startswith("-10.53 % [")
    unnamed = rows["without names, one shuffled file, `--auto` (auto)"]
    assert unnamed[:4] == ["900", "2", "1 of 8 (12.5%)", "1.7100"]
    assert unnamed[4].startswith("+10.00 % [")
    # No other table takes them for methods with adapters of their own.
    assert "halves" not in result_tables([*toy_suite(), halves, auto])["small/far/methods"]
