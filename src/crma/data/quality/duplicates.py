"""Rows that stand there twice, nearly twice, with another answer, or in a split where they must not.

Near duplicates: MinHash (Broder, 1997) of each row's pairs of neighbouring words, 20 bands of 6, so that two rows of
Jaccard similarity 0.8 meet in a band with probability 0.998, of 0.5 with 0.27; rows that meet are compared exactly.
The bands are sorted, not held in a table of buckets: 160 bytes a row, where datasketch's MinHashLSH takes thousands.

Two questions about one long document are no near duplicates, though nine tenths of their words are the same: so besides
the whole, the lines of the question that the other does not have must be alike, and so must the answers.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from datasketch import MinHash

from crma.data.quality.row import Hit, Kept, Row, RowCheck, key_of, word_hashes

__all__ = ["DuplicateCheck", "Part", "word_pairs"]

THRESHOLD = 0.8  # of pairs of words, over the whole row
_PARTS = 0.5  # of words, of the lines that differ and of the answers
_BANDS, _ROWS_A_BAND = 20, 6
_LEAST_WORDS = 6  # of shorter rows a pair of words is a fifth and more: only exact duplicates count
_COMPARED = 12  # rows of a bucket that a further one is compared with: its first ones and its latest
_MIX = np.uint64(0x9E3779B97F4A7C15)

Role = Literal["train", "held-out", "reserved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A source of rows. `held-out` files must share nothing with `train`; `reserved` rows are a stack's, not judged."""

    name: str
    role: Role = "train"


class DuplicateCheck(RowCheck):
    """`duplicate`, `near_duplicate`, `contradiction`, `leak_split` and `leak_stack`.

    A row is compared with those before it; the first stays. Between a file to train on and one held out, or reserved
    rows, it is the row to train on that is told, wherever it stands: so the parts are to be read held-out first.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._exact: dict[bytes, int] = {}  # hash of the content, to the first row that has it
        self._copies: dict[int, int] = {}  # row to the earlier one it equals
        self._groups: dict[tuple[str, str], int] = {}  # a held-out document to a row of it
        self._same_document: dict[int, int] = {}
        self._questions, self._answers = array("Q"), array("Q")
        self._bands: list[np.ndarray] = []
        self._source = array("I")
        self._near: dict[int, int] = {}
        self._clusters = 0

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        pairs: list[list[int]] = []
        for row in rows:
            self._source.append(row.source)
            digest = _content_of(row)
            first = self._exact.setdefault(digest, row.number)
            if first != row.number:
                self._copies[row.number] = first
            self._note_document(row)
            question, answer = row.words[: row.context_words], row.words[row.context_words :]
            self._questions.append(key_of(question) if len(question) else 0)
            self._answers.append(key_of(answer))
            pairs.append(word_pairs(row.words).tolist() if len(row.words) >= _LEAST_WORDS else [row.number])
        if rows:
            self._bands.append(_bands_of(pairs))
        return ()

    def _note_document(self, row: Row) -> None:
        group = row.example.group
        if group is None:
            return
        role = self._parts[row.source].role
        if role != "train":
            self._groups.setdefault((role, group), row.number)
        else:
            for other in ("held-out", "reserved"):
                if (known := self._groups.get((other, group))) is not None:
                    self._same_document.setdefault(row.number, known)

    def finish(self, kept: Kept) -> Iterator[Hit]:
        for row, first in self._copies.items():
            yield from self._told(row, first, "the same row", "duplicate", kept)
        for row, first in self._same_document.items():
            if row not in self._copies:
                yield from self._told(row, first, "a row of the same document (group)", None, kept)
        yield from self._same_questions(kept)
        yield from self._nearly_same(kept)

    def facts(self) -> Mapping[str, Any]:
        return {
            "duplicates": {
                "exact": len(self._copies),
                "near": len(self._near),
                "clusters": len(set(self._near.values())),
                "threshold": THRESHOLD,
            }
        }

    def _told(self, row: int, first: int, what: str, within: str | None, kept: Kept) -> Iterator[Hit]:
        """`within`: the check that it is where both rows are of one side; None: then it is nothing."""
        ours, theirs = self._parts[self._source[row]], self._parts[self._source[first]]
        if ours.role == "reserved":
            return
        where = f"line {kept.line(first)}" + ("" if theirs is ours else f" of {theirs.name}")
        if ours.role == theirs.role:
            if within is not None:
                yield Hit(row, within, f"{what} as {where}" if what.startswith("the same") else f"{what}: {where}")
        elif theirs.role == "reserved":
            if ours.role == "train":
                yield Hit(row, "leak_stack", f"{what}: {theirs.name}")
        elif ours.role == "train":
            yield Hit(row, "leak_split", f"{what}: {where}")

    def _same_questions(self, kept: Kept) -> Iterator[Hit]:
        """Rows that ask the same: with another answer a contradiction, of another split a leak."""
        questions, answers = np.array(self._questions, np.uint64), np.array(self._answers, np.uint64)
        order = np.argsort(questions, kind="stable")
        borders = np.flatnonzero(np.diff(questions[order])) + 1
        sizes = np.diff(np.concatenate([[0], borders, [len(order)]]))
        starts = np.concatenate([[0], borders])
        for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
            members = [int(i) for i in order[start : start + size]]
            if questions[members[0]] == 0:
                continue
            by_role: dict[str, int] = {}
            for row in members:
                role = self._parts[self._source[row]].role
                for other in ("held-out", "reserved"):
                    if role == "train" and other in by_role and row not in self._copies:
                        yield from self._told(row, by_role[other], "the same question", None, kept)
                by_role.setdefault(role, row)
            yield from self._other_answers([r for r in members if r not in self._copies], answers, kept)

    def _other_answers(self, members: list[int], answers: np.ndarray, kept: Kept) -> Iterator[Hit]:
        asked = [row for row in members if self._parts[self._source[row]].role == "train"]
        if len({int(answers[row]) for row in asked}) < 2:
            return
        first = asked[0]
        said = frozenset(word_hashes(kept.answer(first)))
        others = [row for row in asked if answers[row] != answers[first]]
        apart = [row for row in others if _jaccard(said, frozenset(word_hashes(kept.answer(row)))) < THRESHOLD]
        for row in [first, *apart] if apart else []:
            note = f"the same question as line {kept.line(first if row != first else apart[0])}"
            yield Hit(row, "contradiction", note, len(kept.context(row)) + 1)

    def _nearly_same(self, kept: Kept) -> Iterator[Hit]:
        bands = np.concatenate(self._bands) if self._bands else np.zeros((0, _BANDS), np.uint64)
        self._bands.clear()

        @lru_cache(maxsize=20_000)
        def text_of(row: int) -> _Text:
            return _Text.of(kept.context(row), kept.answer(row))

        partners: dict[int, list[int]] = {}
        compared: set[tuple[int, int]] = set()
        for band in range(bands.shape[1] if len(bands) else 0):
            for bucket in _buckets(bands[:, band]):
                alone: list[int] = []
                for row in bucket:
                    if row in self._copies:
                        continue
                    like = None
                    for other in _some(alone):
                        if (other, row) in compared:
                            if other in partners.get(row, ()):
                                like = other
                            continue
                        compared.add((other, row))
                        if text_of(other).is_nearly(text_of(row)):
                            partners.setdefault(row, []).append(other)
                            like = other
                    if like is None:
                        alone.append(row)
        dropped: set[int] = set()
        for row in sorted(partners):  # a row goes only where one it is like stays
            staying = [other for other in partners[row] if other not in dropped]
            if not staying:
                continue
            across = [o for o in staying if self._parts[self._source[o]].role != self._parts[self._source[row]].role]
            other = (across or staying)[0]
            hits = list(self._told(row, other, "nearly the same row", "near_duplicate", kept))
            if hits:
                dropped.add(row)
                self._near[row] = other
            yield from hits


@dataclass(frozen=True, slots=True)
class _Text:
    pairs: frozenset[int]
    lines: frozenset[str]  # of the context
    answer: frozenset[int]

    @classmethod
    def of(cls, context: str, answer: str) -> _Text:
        said = word_hashes(answer)
        words = np.array(word_hashes(context) + said, np.uint64)
        return cls(frozenset(word_pairs(words).tolist()), frozenset(context.splitlines()), frozenset(said))

    def is_nearly(self, other: _Text) -> bool:
        if _jaccard(self.pairs, other.pairs) < THRESHOLD or _jaccard(self.answer, other.answer) < _PARTS:
            return False
        mine, theirs = (
            frozenset(word for line in lines for word in word_hashes(line))
            for lines in (self.lines - other.lines, other.lines - self.lines)
        )
        return not (mine or theirs) or _jaccard(mine, theirs) >= _PARTS


def _content_of(row: Row) -> bytes:
    """16 bytes of roles and texts; neither case nor spacing makes a difference."""
    said = "\0".join(f"{m.role} {' '.join(m.content.casefold().split())}" for m in row.example.messages)
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def word_pairs(words: np.ndarray) -> np.ndarray:
    """[words] hashes to [words - 1] hashes of neighbouring pairs, mixed so that their order counts."""
    pairs = words[:-1] * _MIX + words[1:]
    return pairs ^ (pairs >> np.uint64(29))


def _bands_of(pairs: Sequence[list[int]]) -> np.ndarray:
    """[rows, bands] uint64: equal where all minima of a band are."""
    found = MinHash.generator(pairs, num_perm=_BANDS * _ROWS_A_BAND, hashfunc=int, scheme="affine64")
    minima = np.stack([minhash.hashvalues for minhash in found]).reshape(len(pairs), _BANDS, _ROWS_A_BAND)
    mixed = np.zeros(minima.shape[:2], np.uint64)
    for place in range(_ROWS_A_BAND):
        mixed = (mixed ^ minima[:, :, place]) * _MIX
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _buckets(band: np.ndarray) -> Iterator[list[int]]:
    """Rows that share a value of the band, in order, where there are two or more."""
    order = np.argsort(band, kind="stable")
    borders = np.concatenate([[0], np.flatnonzero(np.diff(band[order])) + 1, [len(order)]])
    sizes = np.diff(borders)
    for start, size in zip(borders[:-1][sizes > 1], sizes[sizes > 1], strict=True):
        yield [int(i) for i in order[start : start + size]]


def _some(rows: list[int]) -> list[int]:
    """Of a crowded bucket the first and the latest: comparing all with all would take days on a million templates."""
    return rows if len(rows) <= _COMPARED else rows[: _COMPARED // 2] + rows[-_COMPARED // 2 :]


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    both = len(a & b)
    union = len(a) + len(b) - both
    return both / union if union else 1.0
