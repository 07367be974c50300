"""The table of general ability: from a receipt's rows to what stands in RESULTS.md."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from crma.bench.general_tables import GENERAL, General, general_made, general_tables, read_general
from crma.errors import DataError


def view(acc: list[float], logs: list[float], **more: Any) -> dict[str, Any]:
    words = [10] * len(logs)
    perplexity = math.exp(-sum(logs) / sum(words))
    return {
        "harness": "lm-evaluation-harness",
        "versions": {"lm-eval": "0.4.9"},
        "tasks": {
            "arc_challenge": {
                "n": len(acc),
                "shots": 5,
                "metrics": {"acc": {"value": sum(acc) / len(acc), "stderr": None, "higher_is_better": True}},
                "items": {"acc": acc},
                **more,
            },
            "wikitext": {
                "n": len(logs),
                "shots": 0,
                "metrics": {"word_perplexity": {"value": perplexity, "stderr": None, "higher_is_better": False}},
                "items": {"loglikelihood": logs, "words": words},
                **({"routed_to": {"base": len(logs)}} if more else {}),
            },
        },
    }


def receipt(**changes: Any) -> dict[str, Any]:
    told = {
        "kind": "general",
        "domains": ["law", "finance"],
        "base_model": {"name": "toy"},
        "stack_sha256": "0" * 64,
        "limit": 100,
        "shots": {},
        "seed": 3,
        "base": view([1.0, 0.0, 1.0, 0.0], [-20.0, -22.0]),
        "routed": view([1.0, 1.0, 1.0, 0.0], [-21.0, -22.5], routed_to={"base": 3, "law": 1}),
        "always": view([0.0, 0.0, 0.0, 0.0], [-30.0, -30.0]),
        "made": "2026-11-23T00:00:00+00:00",
        "machine": {},
    }
    return told | changes


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")]


def test_a_row_for_each_measure():
    header, _, arc, wiki = rows(general_tables(General(**receipt()))[GENERAL])
    assert header[-1] == "finance always on"
    assert arc[:5] == ["ARC-Challenge", "accuracy", "4", "50.0%", "75.0%"]
    assert arc[5].startswith("+25.0 [+0.0, +75")
    assert arc[6:] == ["25%", "0.0%"]
    base, routed = math.exp(42 / 20), math.exp(43.5 / 20)
    assert wiki[:5] == ["WikiText-2", "perplexity a word", "2", f"{base:.2f}", f"{routed:.2f}"]
    assert wiki[5].startswith(f"{100 * (routed / base - 1):+.2f} % [")
    assert wiki[6:] == ["0%", f"{math.exp(3):.2f}"]


def test_worse_has_a_minus():
    worse = receipt(routed=view([0.0, 0.0, 0.0, 0.0], [-20.0, -22.0], routed_to={"law": 4}))
    _, _, arc, wiki = rows(general_tables(General(**worse))[GENERAL])
    assert arc[5] == "-50.0 [-100.0, +0.0]"
    assert arc[6] == "100%"
    assert wiki[5] == "+0.00 % [+0.00, +0.00]"


def test_a_stack_without_a_domain_has_nothing_always_on():
    header, _, arc, _ = rows(general_tables(General(**receipt(domains=[], always=None)))[GENERAL])
    assert header[-1] == "no domain always on"
    assert arc[-1] == "-"


def test_the_words_say_which_stack_and_rows():
    said = general_made(General(**receipt()))
    assert "law, finance" in said
    assert "lm-evaluation-harness 0.4.9" in said
    assert "at most 100 rows" in said
    assert "seed 3" in said
    assert "in the prompt: ARC-Challenge 5, others none." in said


@pytest.mark.parametrize(("shots", "said"), [((0, 0), "prompt: none."), ((5, 2), "ARC-Challenge 5, WikiText-2 2.")])
def test_the_words_say_how_many_worked_examples(shots: tuple[int, int], said: str):
    told = receipt()
    told["base"]["tasks"]["arc_challenge"]["shots"], told["base"]["tasks"]["wikitext"]["shots"] = shots
    assert said in general_made(General(**told))


def test_no_receipt_no_table(tmp_path: Path):
    assert read_general(tmp_path) is None
    assert general_tables(None) == {}


def test_it_is_found_and_a_part_of_a_run_is_not(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "general.json").write_text(json.dumps(receipt()))
    (tmp_path / "general.part.json").write_text(json.dumps(receipt(kind="general-part")))
    found = read_general(tmp_path)
    assert found is not None
    assert found.seed == 3
    (tmp_path / "b.json").write_text(json.dumps(receipt()))
    with pytest.raises(DataError, match="two receipts"):
        read_general(tmp_path)


@pytest.mark.parametrize("broken", [{"seed": "three"}, {"base": {**receipt()["base"], "versions": {"lm_eval": "1"}}}])
def test_one_that_is_broken_is_named(tmp_path: Path, broken: dict[str, Any]):
    (tmp_path / "general.json").write_text(json.dumps(receipt(**broken)))
    with pytest.raises(DataError) as told:
        read_general(tmp_path)
    assert "general.json" in str(told.value)
    assert "crma bench general" in str(told.value)
