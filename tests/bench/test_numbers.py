"""A number in a document that is not the receipts' is found, with its place; filling puts the right one there."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_receipts import toy_receipt, toy_suite

from crma.bench.numbers import check_document, fill_document
from crma.bench.report import marked, results_markdown
from crma.bench.result_tables import result_tables
from crma.errors import DataError


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def document(tmp_path: Path) -> Path:
    table = marked("captured", result_tables(toy_suite())["captured"])
    return _write(
        tmp_path / "README.md",
        "# Toy\n\nIt is <!-- n:far.advantage_pct.mean:+.2f -->+10.00<!-- /n --> % better in "
        "<!-- n:far.runs: -->1<!-- /n --> run of the recipe <!-- n:far.recipe: -->small<!-- /n -->.\n\n"
        f"{table}\n\nEnd.\n",
    )


def test_what_is_right_passes(document: Path):
    assert check_document(document, toy_suite()) == ()


def test_a_number_broken_in_a_sentence_is_found(document: Path):
    _write(document, document.read_text(encoding="utf-8").replace("+10.00<!-- /n -->", "+10.01<!-- /n -->"))
    (found,) = check_document(document, toy_suite())
    assert (found.line, found.expected, found.got) == (3, "+10.00", "+10.01")
    assert str(found) == f"{document}:3: <!-- n:far.advantage_pct.mean:+.2f -->: expected '+10.00', got '+10.01'"


def test_a_number_broken_in_a_table_is_found_at_its_line(document: Path):
    text = document.read_text(encoding="utf-8")
    line = next(k for k, row in enumerate(text.splitlines(), start=1) if "| naive-copies |" in row)
    _write(document, text.replace("| naive-copies | 2.0000 |", "| naive-copies | 2.0001 |"))
    (found,) = check_document(document, toy_suite())
    assert found.line == line
    assert "2.0000" in found.expected
    assert "2.0001" in found.got


def test_a_row_left_out_of_a_table_is_found(document: Path):
    text = document.read_text(encoding="utf-8")
    _write(document, "".join(row for row in text.splitlines(keepends=True) if "| naive-copies |" not in row))
    assert len(check_document(document, toy_suite())) == 1


def test_receipts_that_change_make_the_document_wrong(document: Path):
    suite = [r for r in toy_suite() if r.condition != "crma"]
    changed = [*suite, toy_receipt("crma", [[1.0, None], [0.9, 2.6]], views={"pinned": [1.0, 2.8]})]
    assert {m.marker for m in check_document(document, changed)} == {
        "<!-- n:far.advantage_pct.mean:+.2f -->",
        "<!-- results:captured -->",
    }


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("<!-- n:far.advantage:.2f -->1<!-- /n -->", "a key of the headline; for 'advantage': recipe, advantage_pct"),
        ("<!-- n:near.captured_share:.2f -->1<!-- /n -->", "receipts that give this number"),
        ("<!-- n:near.advantage_pct.interval.0:.2f -->1<!-- /n -->", "receipts that give this number"),
        ("<!-- n:far.advantage_pct.interval.2:.2f -->1<!-- /n -->", "a number from 0 to 1"),
        ("<!-- n:far.advantage_pct:.2f -->1<!-- /n -->", "a key that ends at a number, not at dict"),
        ("<!-- n:far.recipe:.2f -->1<!-- /n -->", "a format of str"),
        ("<!-- results:small/far/nothing -->1<!-- /results -->", "a table that the receipts give: headline"),
        ("<!-- n:far.runs: -->1", "<!-- /n -->"),
        ("<!-- /results -->", "<!-- results:... --> before it"),
        ("<!-- n:far.runs: --><!-- results:captured -->", "<!-- /n -->"),
        ("<!-- n:far.runs: -->1<!-- /results -->", "<!-- results:... --> before it"),
    ],
)
def test_what_cannot_be_right_is_reported_and_never_filled(document: Path, marker: str, said: str):
    text = document.read_text(encoding="utf-8").replace("+10.00", "+99.00") + marker + "\n"
    _write(document, text)
    found = check_document(document, toy_suite())
    assert found[0].line == 3  # the wrong number is found all the same
    assert any(said in m.expected for m in found[1:])
    assert found[-1].line == len(text.splitlines())
    with pytest.raises(DataError, match="cannot be filled in"):
        fill_document(document, toy_suite())
    assert document.read_text(encoding="utf-8") == text


def test_filling_puts_the_receipts_numbers_in(tmp_path: Path):
    path = _write(
        tmp_path / "README.md",
        "It is <!-- n:far.advantage_pct.mean:.1f --><!-- /n --> %, at least\n"
        "<!-- n:far.advantage_pct.per_seed.0:.0f -->?<!-- /n -->.\n<!-- results:captured -->\n<!-- /results -->\n",
    )
    assert fill_document(path, toy_suite()) == 3
    text = path.read_text(encoding="utf-8")
    assert "It is <!-- n:far.advantage_pct.mean:.1f -->10.0<!-- /n --> %, at least" in text
    assert marked("captured", result_tables(toy_suite())["captured"]) in text
    assert check_document(path, toy_suite()) == ()
    assert fill_document(path, toy_suite()) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_the_report_passes_its_own_check(tmp_path: Path):
    path = _write(tmp_path / "RESULTS.md", results_markdown(toy_suite(), "figures"))
    assert check_document(path, toy_suite()) == ()
    _write(path, path.read_text(encoding="utf-8").replace("1.8500", "1.8400", 1))
    (found,) = check_document(path, toy_suite())
    assert "1.8500" in found.expected
