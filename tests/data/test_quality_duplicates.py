"""Rows that stand there twice, nearly twice, with other answers, or in a split where they must not."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_rows import WORDS, hits_of, prose, rows_of, told

from crma.data.quality.duplicates import THRESHOLD, DuplicateCheck, Part, word_pairs
from crma.data.quality.row import row_of, word_hashes
from crma.data.quality.spool import Spool
from crma.types import Example

TRAIN = [Part(name="rows.jsonl")]


def edited(text: str, share: float, seed: int = 0) -> str:
    draw = random.Random(seed)
    words = text.split()
    for place in draw.sample(range(len(words)), round(share * len(words))):
        words[place] = draw.choice(WORDS) + "x"
    return " ".join(words)


def test_the_first_of_equal_rows_stays() -> None:
    rows = [(prose(1), prose(2)), (prose(3), prose(4)), (prose(1), prose(2)), (prose(1), prose(2))]
    assert told(DuplicateCheck(TRAIN), rows) == {"duplicate": [2, 3]}


def test_case_spacing_and_marks_make_nearly_the_same_row() -> None:
    rows = [(prose(1), prose(2)), (prose(1).upper(), prose(2).replace(". ", " !\n"))]
    assert told(DuplicateCheck(TRAIN), rows) == {"near_duplicate": [1]}


@pytest.mark.parametrize("share", [0.02, 0.05])
def test_few_other_words_make_nearly_the_same_row(share: float) -> None:
    original = (prose(1, 80), prose(2, 80))
    rows = [original, (prose(5), prose(6)), (edited(original[0], share), edited(original[1], share, 1))]
    assert told(DuplicateCheck(TRAIN), rows) == {"near_duplicate": [2]}


def test_rows_of_other_words_are_other_rows() -> None:
    original = (prose(1, 80), prose(2, 80))
    rows = [original, (edited(original[0], 0.4), edited(original[1], 0.4, 1))]
    assert told(DuplicateCheck(TRAIN), rows) == {}


def test_two_questions_about_one_document_are_two_rows() -> None:
    document = "\n".join(prose(i, 40) for i in range(8))
    rows = [
        (f"{document}\nWhat was the revenue of the year 2019?", "About 41 million"),
        (f"{document}\nWho chairs the committee for audits?", "A former treasurer"),
        (f"{document}\nWho chairs the committee for audits now?", "A former treasurer"),
    ]
    assert told(DuplicateCheck(TRAIN), rows) == {"near_duplicate": [2]}


def test_one_document_and_question_with_another_short_answer_is_no_near_duplicate() -> None:
    document = prose(1, 200)
    assert told(DuplicateCheck(TRAIN), [(f"{document} In 2019?", "Five"), (f"{document} In 2018?", "Four")]) == {}


def test_a_row_goes_only_where_one_it_is_like_stays() -> None:
    """A chain: the third is like the second, not like the first. Without the second it is a row of its own."""
    first = (prose(1, 100), prose(2, 100))
    second = (edited(first[0], 0.045, 1), edited(first[1], 0.045, 2))
    third = (edited(second[0], 0.045, 3), edited(second[1], 0.045, 4))
    pairs = [frozenset(word_pairs(row.words).tolist()) for row in rows_of([first, second, third])]
    ends = len(pairs[0] & pairs[2]) / len(pairs[0] | pairs[2])
    assert ends < THRESHOLD < len(pairs[1] & pairs[2]) / len(pairs[1] | pairs[2])
    assert told(DuplicateCheck(TRAIN), [first, second, third]) == {"near_duplicate": [1]}


def test_one_question_with_different_answers_is_told_of_all_its_rows() -> None:
    rows = [(prose(1), prose(2)), (prose(3), prose(4)), (prose(1).lower(), prose(5)), (prose(1), prose(6))]
    assert told(DuplicateCheck(TRAIN), rows) == {"contradiction": [0, 2, 3]}


def test_the_same_answer_in_other_words_order_of_case_is_no_contradiction() -> None:
    assert "contradiction" not in told(DuplicateCheck(TRAIN), [(prose(1), "Yes."), (prose(1), "yes")])


@pytest.mark.parametrize("role", ["held-out", "reserved"])
def test_rows_of_another_split_leak(role: str) -> None:
    parts = [Part(name="test.jsonl", role=role), Part(name="train.jsonl")]  # pyright: ignore[reportArgumentType]
    held = rows_of([(prose(1), prose(2)), (prose(3), prose(4)), (prose(5), prose(6))])
    train = rows_of(
        [
            (prose(1), prose(2)),
            (edited(prose(3), 0.05), prose(4)),
            (prose(5).upper(), prose(7)),
            (prose(8), prose(9)),
        ],
        source=1,
        first=3,
    )
    found = hits_of(DuplicateCheck(parts), [*held, *train])
    check = "leak_split" if role == "held-out" else "leak_stack"
    assert sorted({hit.row for hit in found if hit.check == check}) == [3, 4, 5]
    assert {hit.check for hit in found} == {check}


def test_a_document_of_another_split_leaks() -> None:
    parts = [Part(name="test.jsonl", role="held-out"), Part(name="train.jsonl")]
    examples = [Example.of(prose(i), prose(i + 50), group=group) for i, group in enumerate(["a", "b", "a", "c"])]
    rows = [row_of(e, number=i, source=int(i >= 2), line=i + 1) for i, e in enumerate(examples)]
    assert [(hit.check, hit.row) for hit in hits_of(DuplicateCheck(parts), rows)] == [("leak_split", 2)]


def test_reserved_rows_are_never_told_themselves() -> None:
    parts = [Part(name="a", role="reserved"), Part(name="b", role="reserved")]
    rows = [*rows_of([(prose(1), prose(2))]), *rows_of([(prose(1), prose(2))], source=1, first=1)]
    assert hits_of(DuplicateCheck(parts), rows) == []


def test_chunks_make_no_difference() -> None:
    pairs = [(prose(i % 9), prose(i % 7)) for i in range(40)]
    found = [sorted(hits_of(DuplicateCheck(TRAIN), rows_of(pairs), chunk=n)) for n in (1, 3, 40)]
    assert found[0] == found[1] == found[2] != []


def test_short_rows_are_only_compared_exactly() -> None:
    assert told(DuplicateCheck(TRAIN), [("Two?", "Two"), ("Two!", "two"), ("Two?", "Two")]) == {"duplicate": [2]}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.integers(0, 2**16))
def test_against_all_pairs_compared_by_their_words(kinds: list[int], seed: int) -> None:
    """Every row that goes is like an earlier one by an independent count of pairs of words, and of two rows that stay
    none is a copy of another."""
    texts = [
        (edited(prose(k, 60), 0.03, seed + i), edited(prose(k + 50, 60), 0.03, seed - i)) for i, k in enumerate(kinds)
    ]
    found = told(DuplicateCheck(TRAIN), texts)
    gone = set(found.get("near_duplicate", [])) | set(found.get("duplicate", []))

    def pairs(i: int) -> set[tuple[str, str]]:
        words = f"{texts[i][0]} {texts[i][1]}".lower().replace(".", "").split()
        return set(pairwise(words))

    def like(i: int, j: int) -> float:
        return len(pairs(i) & pairs(j)) / len(pairs(i) | pairs(j))

    staying = [i for i in range(len(texts)) if i not in gone]
    assert all(any(like(i, j) >= THRESHOLD for j in staying if j < i) for i in gone)
    assert all(like(i, j) < 0.95 for i in staying for j in staying if j < i)


def test_word_pairs_tell_order() -> None:
    ab, ba = (word_pairs(np.array(word_hashes(t), np.uint64)) for t in ("alpha beta", "beta alpha"))
    assert len(ab) == len(ba) == 1
    assert ab[0] != ba[0]


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert len(word_hashes("今天天气很好")) == 6
    assert len(word_hashes("naïve Straße, größer")) == 3
    assert word_hashes("ÄPFEL") == word_hashes("äpfel")


def test_the_spool_gives_texts_back() -> None:
    with Spool() as spool:
        pairs = [("a", "b"), ("ü\n", "\u2028"), ("x" * 100_000, "y")]
        spool.extend(rows_of(pairs[:2]))
        spool.extend(rows_of(pairs[2:], first=2))
        assert [(spool.context(i), spool.answer(i)) for i in (2, 0, 1)] == [pairs[2], pairs[0], pairs[1]]
        assert len(spool) == 3
        assert list(spool.lines) == [1, 2, 1]


@pytest.mark.parametrize("change", [str.upper, lambda text: text.replace(" ", "  "), lambda text: f" {text}\r\n"])
def test_a_copy_in_other_case_or_spacing_is_the_same_row(change: Callable[[str], str]) -> None:
    question, answer = prose(1), prose(2)
    rows = rows_of([(question, answer), (change(question), answer), (question, change(answer))])
    found = hits_of(DuplicateCheck([Part(name="rows.jsonl")]), rows)
    assert [(hit.row, hit.check) for hit in found] == [(1, "duplicate"), (2, "duplicate")]
