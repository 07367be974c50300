"""Planted defects: the same each time, and the truth is what another count finds."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from stdnum import iban, luhn
from stdnum.br import cpf
from stdnum.de import idnr
from stdnum.es import dni
from stdnum.fr import nir
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.us import ssn

from crma.benchmark.planting import RESERVED, Planted, plant
from crma.benchmark.planting_personal import DECOYS, NATIONAL, PERSONAL, SECRETS
from crma.benchmark.planting_pool import Plain, apart, clean_rows, similarities, similarity
from crma.benchmark.planting_texts import ACCENTED, edited, looping, misread, truncated, web_remains
from crma.data.sources import read_line
from crma.errors import ConfigError, DataError

from .rows_to_plant import write_data

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def planted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"), data, seed=0, each=6, clean=220)


def rows_of(planted: Planted) -> dict[int, tuple[str, str]]:
    return {
        n: (row["prompt"], row["completion"])
        for n, line in enumerate(planted.lines, start=1)
        if "schema" not in line.planted
        for row in [json.loads(line.raw)]
    }


def test_the_same_seed_plants_the_same_and_another_does_not(data: Path, planted: Planted, tmp_path: Path) -> None:
    again = plant(tmp_path / "again", data, seed=0, each=6, clean=220)
    other = plant(tmp_path / "other", data, seed=1, each=6, clean=220)
    assert again.train.read_bytes() == planted.train.read_bytes() != other.train.read_bytes()
    assert again.test.read_bytes() == planted.test.read_bytes()
    assert again.lines == planted.lines
    assert planted.train.read_bytes() == b"".join(line.raw + b"\n" for line in planted.lines)


def test_duplicates_are_the_lines_that_stand_there_before(planted: Planted) -> None:
    """In whatever case and spacing."""
    seen: set[tuple[str, ...]] = set()
    found = set()
    for number, row in rows_of(planted).items():
        content = tuple(" ".join(text.casefold().split()) for text in row)
        if content in seen:
            found.add(number)
        seen.add(content)
    assert found == planted.lines_of("duplicate")
    assert len(found) >= 6


def test_near_duplicates_are_those_whose_pairs_say_so(planted: Planted) -> None:
    """By all pairs, with the sparse products that nothing of the planter but the clean rows rests on."""
    rows = {n: "\n".join(row) for n, row in rows_of(planted).items()}
    numbers = list(rows)
    alike = {numbers[later] for _, later, _ in similarities(list(rows.values()), 0.8)}
    wanted = planted.lines_of("near_duplicate") | planted.lines_of("duplicate")
    assert wanted <= alike
    edits = {n for n, line in enumerate(planted.lines, start=1) if line.kind.startswith("near_duplicate/")}
    assert not (alike - wanted) & edits
    for number in edits:
        line = planted.lines[number - 1]
        assert line.similarity is not None
        assert ("near_duplicate" in line.planted) == (line.similarity >= 0.8)


def test_contradictions_ask_the_same_and_leaks_stand_elsewhere(planted: Planted) -> None:
    rows = rows_of(planted)

    def asked(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.casefold()))

    questions = Counter(asked(prompt) for prompt, _ in rows.values())
    assert all(questions[asked(rows[n][0])] == 2 for n in planted.lines_of("contradiction"))
    test = [json.loads(line) for line in planted.test.read_text().splitlines()]
    kept = {
        "leak_split": [(row["prompt"], row["completion"]) for row in test],
        "leak_stack": [(e.prompt, e.completion) for e in planted.reserved[RESERVED]],
    }
    for check, elsewhere in kept.items():
        there = {asked(prompt) for prompt, _ in elsewhere}
        for number, row in rows.items():
            told = asked(row[0]) in there or any(
                similarity("\n".join(row), "\n".join(other)) >= 0.8 for other in elsewhere
            )
            assert told == (check in planted.lines[number - 1].planted), (check, planted.lines[number - 1].kind)


def test_broken_lines_are_those_that_cannot_be_read(planted: Planted) -> None:
    found = set()
    for number, line in enumerate(planted.lines, start=1):
        try:
            read_line(line.raw.decode("utf-8", "surrogateescape"), number)
        except DataError:
            found.add(number)
    assert found == planted.lines_of("schema")


def test_every_kind_is_there_and_no_row_has_two_defects(planted: Planted) -> None:
    kinds = {line.kind.split("/")[0] for line in planted.lines}
    assert {"clean", "copied", "duplicate", "decoy", "secret", "schema", "language", "markup"} <= kinds
    assert all(len(line.planted) <= 1 and not line.planted & line.allowed for line in planted.lines)
    assert all(not line.planted for line in planted.lines if line.decoy)
    assert sum(line.kind.startswith("secret/") for line in planted.lines) == len(SECRETS)
    with pytest.raises(ConfigError, match="too few clean rows"):
        plant(planted.train.parent / "few", planted.train.parents[1] / "data0", seed=0, each=90, clean=20)


def test_made_up_numbers_are_valid_by_another_library() -> None:
    draw = random.Random(3)
    judges = {
        "US social security": ssn,
        "German tax": idnr,
        "Dutch BSN": bsn,
        "Spanish DNI": dni,
        "French NIR": nir,
        "Polish PESEL": pesel,
        "Brazilian CPF": cpf,
    }
    for _ in range(200):
        assert iban.is_valid(_in(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}\b", PERSONAL["pii_iban"](draw)))
        assert luhn.is_valid(re.sub(r"\D", "", PERSONAL["pii_card"](draw)))
        assert not luhn.is_valid(re.sub(r"\D", "", DECOYS["card with a wrong check digit"](draw)))
        wrong = _in(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}\b", DECOYS["IBAN with wrong check digits"](draw))
        assert not iban.is_valid(wrong)
        for name, judge in judges.items():
            made = re.sub(r"^\D*?(?=\d)", "", NATIONAL[name](draw))
            assert judge.is_valid(made), (name, made)


def _in(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[0]


def test_damage_is_what_it_says() -> None:
    draw = random.Random(5)
    for text in ACCENTED:
        once = misread(text, "latin-1")
        assert once != text
        assert once.encode("latin-1").decode() == text
        assert misread(once, "latin-1") == misread(text, "latin-1", 2)
    row = Plain(
        prompt="What is it?", completion="It is one thing. It is also two other things of the same kind, or so. End."
    )
    cut = truncated(row, draw)
    assert row.completion.startswith(cut.completion)
    assert cut.completion[-1].isalnum()
    looped = looping(row, draw).completion.split()
    fours = list(zip(*(looped[i:] for i in range(4)), strict=False))
    assert len(set(fours)) < 0.5 * len(fours)
    assert all(re.search(r"<\w+|&\w+;|&#", web_remains(row, draw).completion) for _ in range(40))
    words = row.text.split()
    changed = [a != b for a, b in zip(words, edited(row, 0.2, ["xenon"], draw).text.split(), strict=True)]
    assert sum(changed) == round(0.2 * len(re.findall(r"\w+", row.text)))


def test_rows_that_are_alike_or_ask_the_same_are_left_out() -> None:
    one = Plain(prompt="What is the colour of the sky over the sea?", completion="It is blue, as a rule.")
    rows = [
        one,
        one.saying("Grey."),
        one.asking("What is the colour of the sky over the lake?"),
        Plain(prompt="a b", completion="c"),
    ]
    assert apart(rows, 0.6) == [one, rows[3]]
    assert [(a, b) for a, b, _ in similarities([r.text for r in rows], 0.6)] == [(0, 2)]


def test_clean_rows_of_the_real_files_hold_nothing_that_is_planted(shared_data: Path) -> None:
    rows = clean_rows(shared_data, seed=0, each=40)
    assert Counter(row.domain for row in rows).keys() == {"medical", "code", "science", "financial"}
    assert len(rows) > 150
    for row in rows:
        assert row.text.isascii()
        assert "@" not in row.text
        assert not re.search(r"\d[\d .\-/()]{5,}\d\d", row.text) or not re.search(r"(?:\d[ .\-/()]?){7}", row.text)
    assert list(similarities([row.text for row in rows], 0.6)) == []


def test_the_table_holds_formulas_and_what_only_looks_like_one(planted: Planted) -> None:
    with planted.table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(planted.cells) == 12
    for row, line in zip(rows, planted.cells, strict=True):
        assert json.loads(line.raw) == row
        assert bool(line.planted) != bool(line.decoy)
        runs = any(re.match(r"\s*(=[\dA-Zc]|[+@-](SUM|\d+\+\d))| =DDE", row[cell]) for cell in ("prompt", "completion"))
        assert runs == ("formula" in line.planted)
    assert {line.kind for line in planted.cells} == {"formula", "decoy/formula"}
