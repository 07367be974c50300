"""README.md and RESULTS.md hold the receipts' numbers and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crma.bench.demo_table import demo_sentence, demo_table
from crma.bench.general_tables import read_general
from crma.bench.numbers import check_document, check_whole
from crma.bench.quality import read_quality
from crma.bench.receipt import read_receipts
from crma.bench.report import results_markdown
from crma.bench.routing import read_routing
from crma.errors import DataError

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_what_the_demo_came_to():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = json.loads((ROOT / "results" / "demo.json").read_text())
    assert demo_table(shown) in readme
    assert demo_sentence(shown) in " ".join(readme.split())


def test_the_demo_says_which_domain_answers_fewer():
    after = {"exact": [[0, 0, 0], [1, 0, 0], [0.5, 1, 0], [0.5, 1, 1]], "loss": [[3] * 3, [0.1, 3, 3], [0.2, 0.3, 3]]}
    after["loss"].append([0.4, 0.3, 0.2])
    shown = {"domains": ["a", "b", "c"], "methods": {"crma": after}}
    told = "Since its own lesson a answered fewer; test loss in nats: a 0.1000 → 0.4000, b 0.3000 → 0.3000."
    assert demo_sentence(shown) == told
    after["exact"][-1] = [1, 1, 1]
    assert demo_sentence(shown).startswith("Since its own lesson no domain answered fewer;")


def test_the_documents_hold_the_numbers_of_the_receipts():
    receipts, routing = read_receipts(ROOT / "results"), read_routing(ROOT / "results")
    quality, general = read_quality(ROOT / "results"), read_general(ROOT / "results")
    assert receipts
    assert routing
    assert len(quality)
    assert check_document(ROOT / "README.md", receipts, routing, quality, general) == ()
    told = results_markdown(receipts, Path("results/figures"), routing, quality, general)
    assert check_whole(ROOT / "RESULTS.md", told) == ()


def test_a_document_that_says_more_or_less_than_the_receipts_is_found(tmp_path: Path):
    document = tmp_path / "RESULTS.md"
    document.write_text("# Results\n\nso", encoding="utf-8")
    assert check_whole(document, "# Results\n\nso") == ()
    (mismatch,) = check_whole(document, "# Results\n\nso\n")
    assert (mismatch.line, mismatch.got) == (4, "the end of the document")
    (mismatch,) = check_whole(document, "# Results\n\nelse")
    assert (mismatch.line, mismatch.expected, mismatch.got) == (3, "else", "so")
    with pytest.raises(DataError, match="no such document"):
        check_whole(tmp_path / "none.md", "")
