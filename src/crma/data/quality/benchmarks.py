"""Questions of public benchmarks among the rows: found by what of their eight-word phrases a row holds.

Of those that share a phrase with a row, the nearest are looked at again by their pairs of words: one word replaced
takes eight phrases away, more than half of what a question of twenty words has, but only two pairs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from crma.data.quality.duplicates import word_pairs
from crma.data.quality.row import Hit, Row, RowCheck, word_hashes
from crma.data.sources import read_records
from crma.errors import DataError

__all__ = ["BenchmarkCheck"]

WORDS = 8  # of a phrase: PaLM's and GPT-3's audits took 8 and 13; half of the questions here have under 20 words
SHARE = 0.8  # of a question's phrases, or of its pairs of words, that a row has to hold
_LOOKED_AT = 3  # questions of a row whose pairs are compared
_LEAST_PAIRS = 12  # "Which of the following is an example of imprinting?" and "… of devolution?" are two questions
_ENDINGS = frozenset({".jsonl", ".json", ".csv", ".tsv", ".parquet"})
_FILTER_BITS = 24
_BASE = np.uint64(0x100000001B3)


class BenchmarkCheck(RowCheck):
    """`leak_benchmark`.

    Args:
        folder: files of rows in any schema, a folder each benchmark; every text in them of eight words or more is a
            question (or an answer: these must not be learnt either).
    """

    def __init__(self, folder: Path) -> None:
        self._names: list[str] = []
        hashes: list[np.ndarray] = []
        pairs: list[np.ndarray] = []
        totals, names = array("I"), array("H")
        if not folder.is_dir():
            raise DataError("there is no such folder of benchmarks", where=folder, next_step="check --benchmarks")
        files = (path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.is_file())
        for file in sorted(path for path in files if "train" not in path.stem.lower()):  # what may be trained on
            self._names.append(file.parent.name if file.parent != folder else file.stem)
            for text in _texts(file):
                words = np.array(word_hashes(text), np.uint64)
                phrases = np.unique(_phrases(words))
                if len(phrases):
                    hashes.append(phrases)
                    pairs.append(np.unique(word_pairs(words)))
                    totals.append(len(phrases))
                    names.append(len(self._names) - 1)
        items = np.repeat(np.arange(len(totals), dtype=np.uint32), totals)
        phrases = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        order = np.argsort(phrases, kind="stable")
        self._phrases, self._items = phrases[order], items[order]
        self._totals, self._of = np.array(totals), names
        self._pairs = np.concatenate(pairs) if pairs else np.zeros(0, np.uint64)
        self._ends = np.cumsum([0, *map(len, pairs)])
        self._filter = np.zeros(1 << _FILTER_BITS, bool)  # most phrases of most rows are in no benchmark
        self._filter[self._phrases >> np.uint64(64 - _FILTER_BITS)] = True

    def __len__(self) -> int:
        return len(self._totals)

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        for row in rows:
            phrases = _phrases(row.words)
            phrases = np.unique(phrases[self._filter[phrases >> np.uint64(64 - _FILTER_BITS)]])
            if not len(phrases):
                continue
            low = np.searchsorted(self._phrases, phrases, side="left")
            high = np.searchsorted(self._phrases, phrases, side="right")
            spans = [self._items[a:b] for a, b in zip(low, high, strict=True) if b > a]
            if not spans:
                continue
            items, counts = np.unique(np.concatenate(spans), return_counts=True)
            shares = counts / self._totals[items]
            best = int(np.argmax(shares))
            item, share = int(items[best]), float(shares[best])
            if share < SHARE:
                nearest = items[np.argsort(-shares, kind="stable")[:_LOOKED_AT]].tolist()
                held = set(word_pairs(row.words).tolist())
                share, item = max((self._held(i, held), i) for i in nearest)
            if share >= SHARE:
                name = self._names[self._of[item]]
                yield Hit(row.number, "leak_benchmark", f"{name}: {share:.0%} of a question of it")

    def _held(self, item: int, held: set[int]) -> float:
        """The share of a question's pairs of words that stand in `held`; none of one of a few words."""
        pairs = self._pairs[self._ends[item] : self._ends[item + 1]].tolist()
        if len(pairs) < _LEAST_PAIRS:
            return 0.0
        return sum(pair in held for pair in pairs) / len(pairs)


def _phrases(words: np.ndarray) -> np.ndarray:
    """Hashes of all runs of WORDS words."""
    if len(words) < WORDS:
        return np.zeros(0, np.uint64)
    found = np.zeros(len(words) - WORDS + 1, np.uint64)
    for place in range(WORDS):
        found = (found ^ words[place : len(words) - WORDS + 1 + place]) * _BASE
        found ^= found >> np.uint64(31)
    return found * np.uint64(0x9E3779B97F4A7C15)  # the filter looks at the highest bits


def _texts(file: Path) -> Iterator[str]:
    for record in read_records(file):
        for value in (record.fields or {}).values():
            if isinstance(value, str):
                yield from (part for part in value.split("\n\n") if part)
