"""Tables are the receipts' numbers and nothing else; the README's are these."""

from __future__ import annotations

import json
from pathlib import Path

from crma.bench.numbers import check_document
from crma.bench.receipt import read_receipts as read_all
from crma.bench.tables import condition_table, demo_table, matrix_table, read_receipts

ROOT = Path(__file__).parents[2]

SUMMARY = {"learning_loss": 1.0, "average_loss": 1.25, "drift_mean_pct": 25.0, "drift_worst_pct": 50.0}


def test_a_condition_is_a_row():
    table = condition_table({"naive": {"summary": SUMMARY, "trained_parameters": 2_950_000}})
    assert table.splitlines()[-1] == (
        "| one LoRA, trained on (naive) | 2.95 M | 1.0000 | 1.2500 | - | +25.00 % | +50.00 % |"
    )


def test_the_routed_loss_is_the_mean_over_domains():
    receipt = {"summary": SUMMARY, "trained_parameters": 1_000_000, "evaluation": {"routed": [1.0, 2.0]}}
    assert "| 1.2500 | 1.5000 | +25.00 % |" in condition_table({"crma": receipt})


def test_a_hole_in_the_matrix_stays_a_hole():
    matrix = {"domains": ["a", "b"], "base": [3.0, 4.0], "rows": [[1.0, None], [1.5, 2.0]]}
    assert matrix_table({"matrix": matrix}).splitlines()[2:] == [
        "| base | 3.0000 | 4.0000 |",
        "| a | 1.0000 |  |",
        "| b | 1.5000 | 2.0000 |",
    ]


def test_the_readme_shows_what_the_receipts_say():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = ROOT / "results"
    assert demo_table(json.loads((results / "demo.json").read_text())) in readme
    far = read_receipts(results / "far-160", ["naive", "frozen", "crma"])
    assert condition_table(far) in readme
    assert matrix_table(far["crma"]) in readme


def test_the_documents_hold_the_numbers_of_the_receipts():
    receipts = read_all(ROOT / "results")
    assert receipts
    for document in ("README.md", "RESULTS.md"):
        assert check_document(ROOT / document, receipts) == ()
