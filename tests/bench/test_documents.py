"""README.md and RESULTS.md hold the receipts' numbers and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    runs = [json.loads((ROOT / "results" / "demo" / f"seed{seed}.json").read_text()) for seed in (0, 42, 1234)]
    assert [run["config"]["seed"] for run in runs] == [0, 42, 1234]
    assert demo_table(runs) in readme
    assert demo_sentence(runs) in " ".join(readme.split())


def test_the_demos_means_and_what_was_lost():
    def run(seed: int, exact: list[float], loss: list[float]) -> dict[str, Any]:
        crma = {"label": "ours", "exact": [[0, 0], [0.75, 0], exact], "loss": [[9, 9], [0.25, None], loss]}
        naive = {"label": "one", "exact": [[0, 0], [1, 0], [0, 1]], "loss": []}
        return {"domains": ["a", "b"], "config": {"seed": seed}, "methods": {"crma": crma, "naive": naive}}

    runs = [run(0, [0.5, 1.0], [0.5, 0.25]), run(1, [0.75, 0.5], [0.125, 0.25])]
    assert demo_table(runs).splitlines()[2:] == [
        "| untouched base | 0% | 0% |",
        "| ours | 62% | 75% |",
        "| one | 0% | 100% |",
    ]
    assert demo_sentence(runs) == (
        "Of 2 earlier domains 1 answered fewer at the end than just after its own lesson; their test losses moved by "
        "-0.1250 to +0.2500 nats. CRMA and the one LoRA at the end: "
        "seed 0 50/100 % and 0/100 %, seed 1 75/50 % and 0/100 %."
    )


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
