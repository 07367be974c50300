"""Rows that are clean by means of their own: none of what `crma.data.quality` uses decides it.

What a row must be: ASCII alone (so that no character is damaged; it costs a third of the reports, for their dashes), no
'@' nor "(at)" and no run of seven digits however spaced (so that nothing can be an address, a telephone, card, account
or national number), no link, no word for a key or password, no '<', '>' or entity but in code, 60 to 1,400 characters
and at most 330 words, digits and marks (so that none is cut at 512 tokens), an end of a sentence but in code, an answer
that zlib does not press to a quarter, no word of refusals, a question no other row asks, no run of thirteen words that
stands in a benchmark; and of every pair of rows with a Jaccard similarity of word pairs of 0.6 and more the later one
is gone: counted exactly, for all pairs.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from crma.errors import DataError

__all__ = ["DOMAINS", "Plain", "clean_rows", "read_plain", "similarities", "similarity", "words_of"]

DOMAINS = ("medical", "code", "science", "financial")
APART = 0.6
_RUN = 13  # words, as in GPT-3's audit (Brown et al., 2020, appendix C)
_DIGITS = re.compile(r"\d(?:[ .\-/()]?\d){6,}")
_HIDDEN_AT = re.compile(r"[\[({]\s?at\s?[\])}]", re.IGNORECASE)
_LINK = re.compile(r"https?:|www\.", re.IGNORECASE)
_MARKS = re.compile(r"[<>]|&#?\w+;")
_REFUSAL = re.compile(r"\bI(?:'m| am) (?:sorry|unable)|\bI can(?:no|')t|language model|\bAI\b", re.IGNORECASE)
_KEY = re.compile(r"passw|secret|token|api.?key|credential", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"[A-Za-z]+|[^A-Za-z\s]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    prompt: str
    completion: str
    domain: str = ""

    @property
    def text(self) -> str:
        return f"{self.prompt}\n{self.completion}"

    def saying(self, completion: str) -> Plain:
        return replace(self, completion=completion)

    def asking(self, prompt: str) -> Plain:
        return replace(self, prompt=prompt)

    def line(self) -> bytes:
        return json.dumps({"prompt": self.prompt, "completion": self.completion}, ensure_ascii=False).encode()


def read_plain(file: Path, domain: str) -> Iterator[Plain]:
    """
    Raises:
        DataError: the file is not there.
    """
    if not file.is_file():
        raise DataError("the rows to plant in are not here", where=file, next_step="set CRMA_SHARED")
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Plain(prompt=row["prompt"], completion=row["completion"], domain=domain)


def clean_rows(data: Path, *, seed: int, each: int, domains: Sequence[str] = DOMAINS) -> list[Plain]:
    """Up to `each` rows of every domain, drawn and shuffled with the seed."""
    draw = random.Random(f"clean {seed}")
    found: list[Plain] = []
    for domain in domains:
        rows = [row for row in read_plain(data / "domains" / f"{domain}.jsonl", domain) if _is_clean(row)]
        draw.shuffle(rows)
        # Reports and court rules ask many questions of one table: more are drawn than are wanted, for those that fall.
        found += apart(rows[: 3 * each], APART)[:each]
    found = apart(found, APART)
    known = _shared_runs(found, data / "benchmarks")
    found = [row for i, row in enumerate(found) if i not in known]
    draw.shuffle(found)
    return found


def _shared_runs(rows: Sequence[Plain], benchmarks: Path) -> set[int]:
    """Rows that share a run of thirteen words with a benchmark that may not be trained on."""
    runs: dict[tuple[str, ...], set[int]] = {}
    for i, row in enumerate(rows):
        for run in _runs(row.text):
            runs.setdefault(run, set()).add(i)
    found: set[int] = set()
    for file in sorted(benchmarks.glob("*/*.jsonl")):
        if file.stem == "train":
            continue
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                for text in json.loads(line).values():
                    for run in _runs(text) if isinstance(text, str) else ():
                        found |= runs.get(run, set())
    return found


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = words_of(text)
    return zip(*(words[i:] for i in range(_RUN)), strict=False)


def apart(rows: Sequence[Plain], bound: float) -> list[Plain]:
    """The rows but those that ask what an earlier one asks, or whose similarity to a row before is `bound` and more."""
    first: dict[str, Plain] = {}
    for row in rows:
        first.setdefault(" ".join(_WORD.findall(row.prompt.casefold())), row)
    kept = list(first.values())
    gone = {later for _, later, _ in similarities([row.text for row in kept], bound)}
    return [row for i, row in enumerate(kept) if i not in gone]


def similarities(texts: Sequence[str], bound: float) -> Iterator[tuple[int, int, float]]:
    """(earlier, later, Jaccard similarity of sets of word pairs) of every two texts from `bound` on."""
    from sklearn.feature_extraction.text import CountVectorizer

    if not texts:
        return
    pairs = CountVectorizer(ngram_range=(2, 2), token_pattern=r"\w+", binary=True)
    matrix: Any = pairs.fit_transform(texts)
    sizes = np.asarray(matrix.sum(axis=1)).ravel()
    for start in range(0, len(texts), 500):
        both = (matrix[start : start + 500] @ matrix.T).tocoo()
        rows = both.row + start
        share = both.data / (sizes[rows] + sizes[both.col] - both.data)
        for i in np.flatnonzero((both.col < rows) & (share >= bound)):
            yield int(both.col[i]), int(rows[i]), float(share[i])


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of two texts' sets of word pairs, by plain sets."""
    a, b = ({*pairwise(w)} for w in (words_of(one), words_of(other)))
    return len(a & b) / len(a | b) if a | b else 1.0


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def vocabulary(rows: Iterable[Plain]) -> list[str]:
    """Words of four letters and more in prose: what edited words are replaced by."""
    return sorted({w for r in rows if r.domain != "code" for w in words_of(r.text) if w.isalpha() and len(w) > 3})


def _is_clean(row: Plain) -> bool:
    text, answer = row.text, row.completion.rstrip()
    code = row.domain == "code"
    return (
        text.isascii()
        and 60 <= len(text) <= 1400
        and len(_PIECE.findall(text)) <= 330
        and bool(row.prompt.strip() and answer)
        and "@" not in text
        and not any(pattern.search(text) for pattern in (_DIGITS, _HIDDEN_AT, _LINK, _REFUSAL, _KEY))
        and (code or (answer[-1] in ".!?" and not _MARKS.search(text)))
        and (len(answer) <= 200 or len(zlib.compress(answer.encode())) >= 0.25 * len(answer))
    )
