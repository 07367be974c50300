"""README.md and RESULTS.md hold the receipts' numbers and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from crma.bench.demo_table import demo_table
from crma.bench.numbers import check_document
from crma.bench.receipt import read_receipts

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_what_the_demo_came_to():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert demo_table(json.loads((ROOT / "results" / "demo.json").read_text())) in readme


def test_the_documents_hold_the_numbers_of_the_receipts():
    receipts = read_receipts(ROOT / "results")
    assert receipts
    for document in ("README.md", "RESULTS.md"):
        assert check_document(ROOT / document, receipts) == ()
