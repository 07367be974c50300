"""How long rows are, in the base's own tokens, what languages they are in, and which are unlike the others."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from crma.data.quality.row import Hit, Kept, Row, RowCheck, letters_of
from crma.data.render import ensure_chat_template, render
from crma.errors import CrmaError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FormulaCheck", "LanguageCheck", "LengthCheck", "OutlierCheck", "histogram"]

# A name or a bracket after the sign, an expression after "=" (none begins with an operator that needs something before
# it, so "=> next" is text), a call or another program's cell ("-2+3+cmd|' /C calc'!A0").
_FORMULA = re.compile(
    r"\s*(?:=\s?[^\s=<>*/^&%,;:)\]}]|[+\-@]\s?[A-Za-z(]|[+\-@][^\n]{0,40}\|[^\n]{0,80}!|[+\-][\d.+\-*/]{1,20}[A-Z]{2,12}\()"
)
_ENGLISH = (
    *(" the ", "The ", " and ", " of ", " to ", " that ", " are ", " with ", " which ", " this ", " from ", " is "),
    *(" for ", " by ", " was ", " an "),
)
_ENGLISH_ALONE = _ENGLISH[:3]  # the others are words of one more language or another
_NEAR_THE_LIMIT = 16  # tokens: templates differ by a few from row to row, so rows this near are rendered in full


class LengthCheck(RowCheck):
    """`too_long`, and the lengths of all rows in tokens.

    Args:
        tokenizer: the base's.
        max_length: tokens a row that training takes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, base: str) -> None:
        ensure_chat_template(tokenizer)
        self._tokenizer, self._max_length, self._base = tokenizer, max_length, base
        self._contexts, self._answers = array("I"), array("I")
        self._overhead = 0
        self._cut = 0
        self._refused = 0

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        contexts = self._count([row.context for row in rows])
        answers = self._count([row.answer for row in rows])
        if not self._contexts and rows:
            self._overhead = self._of_template(rows[0], contexts[0] + answers[0])
        self._contexts.extend(contexts)
        self._answers.extend(answers)
        for row, context, answer in zip(rows, contexts, answers, strict=True):
            turns = len(row.example.messages) / 2
            if context + answer + turns * self._overhead + _NEAR_THE_LIMIT < self._max_length:
                continue
            try:
                rendered = render(row.example, self._tokenizer, max_length=self._max_length)
            except CrmaError:
                self._refused += 1
                continue
            if rendered.cut:
                self._cut += rendered.cut
                total = len(rendered.input_ids) + rendered.cut
                what = "answer" if not any(rendered.supervised) or answer >= self._max_length else "context"
                yield Hit(row.number, "too_long", f"{total} tokens of at most {self._max_length}: {what} is cut")

    def facts(self) -> Mapping[str, Any]:
        if not self._contexts:
            return {}
        contexts, answers = np.array(self._contexts, np.int64), np.array(self._answers, np.int64)
        return {
            "lengths": {"unit": "tokens", "prompt": histogram(contexts), "answer": histogram(answers)},
            "tokens": {
                "total": int(contexts.sum() + answers.sum() + self._overhead * len(contexts)),
                "supervised": int(answers.sum() + len(answers)),
                "cut": self._cut,
                "max_length": self._max_length,
                "base": self._base,
            },
        }

    def _count(self, texts: Sequence[str]) -> list[int]:
        if self._tokenizer.is_fast:  # without lists of ids and masks: a third of the time
            backend: Any = self._tokenizer.backend_tokenizer
            return [len(found) for found in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        return [len(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def _of_template(self, row: Row, plain: int) -> int:
        """Tokens that the chat template adds to a row of two turns; the first row stands for all: none is cut by it."""
        try:
            whole = render(row.example, self._tokenizer, max_length=1 << 30)
        except CrmaError:
            return 0
        return max(0, round((len(whole.input_ids) - plain) / (len(row.example.messages) / 2)))


class OutlierCheck(RowCheck):
    """`outlier`: much longer or shorter than the others (in the logarithm, by the median deviation), or no letters."""

    LEAST = 50  # rows below which there is no telling what is usual

    def __init__(self, deviations: float = 6.0) -> None:
        self._deviations = deviations
        self._lengths = array("I")  # characters of context and answer
        self._letters = array("f")
        self._first = 0  # row seen

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        if not self._letters:
            self._first = rows[0].number
        for row in rows:
            self._lengths.extend((len(row.context), len(row.answer)))
            self._letters.append(letters_of(row.text) / max(1, len(row.text)))
        return ()

    def finish(self, kept: Kept) -> Iterable[Hit]:
        if len(self._letters) < self.LEAST:
            return
        lengths = np.log1p(np.array(self._lengths, np.float64).reshape(-1, 2))
        middle = np.median(lengths, axis=0)
        spread = np.maximum(
            1.4826 * np.median(np.abs(lengths - middle), axis=0), 0.25
        )  # a quarter: e^(6/4) = 4.5 times
        away = (lengths - middle) / spread
        letters = np.array(self._letters)
        usual = float(np.median(letters))
        for row in np.flatnonzero((np.abs(away) > self._deviations).any(axis=1) | (letters < 0.4 * usual)):
            notes = [
                f"{name} {'longer' if value > 0 else 'shorter'} than the others by far"
                for name, value in zip(("question", "answer"), away[row], strict=True)
                if abs(value) > self._deviations
            ]
            if letters[row] < 0.4 * usual:
                notes.append(f"{letters[row]:.0%} letters, where half of the rows have {usual:.0%} or more")
            yield Hit(int(row) + self._first, "outlier", "; ".join(notes))

    def facts(self) -> Mapping[str, Any]:
        if not self._lengths:
            return {}
        lengths = np.array(self._lengths, np.int64).reshape(-1, 2)
        return {
            "lengths": {"unit": "characters", "prompt": histogram(lengths[:, 0]), "answer": histogram(lengths[:, 1])}
        }


class LanguageCheck(RowCheck):
    """`language`: rows that are surely in another language than seven tenths of the rows."""

    LEAST_LETTERS = 60  # fewer say too little; bytes are counted, so of Chinese a third of that
    CHARACTERS = 240  # of an answer, or else of the whole row, are looked at: 0.1 ms a row instead of 2

    def __init__(self, confidence: float = 0.99) -> None:
        self._confidence = confidence
        self._ids: dict[str, int] = {}
        # Rows of which none is sure, and which three are likeliest: few threes, maybe many rows.
        self._threes: dict[tuple[str, ...], int] = {}
        self._unsure = array("Q")
        self._unsure_three = array("H")
        self._found = array("h")  # per row; -1 where it cannot be told
        self._first = 0  # row seen

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        if not self._found:
            self._first = rows[0].number
        for place, row in enumerate(rows, start=len(self._found)):
            self._found.append(self._of(row, place))
        return ()

    def _of(self, row: Row, place: int) -> int:
        piece = (row.answer if len(row.answer) >= 120 else row.text)[: self.CHARACTERS]
        letters = letters_of(piece)
        if letters < self.LEAST_LETTERS or letters < 0.6 * len(piece.strip()):
            return -1
        if piece.isascii() and any(word in piece for word in _ENGLISH_ALONE) and sum(map(piece.count, _ENGLISH)) >= 5:
            language = "en"  # six rows of ten in English data, at a fiftieth of the time (LOG.md: with no other result)
        else:
            likeliest = _identifier().rank(piece)[:3]
            language, probability = likeliest[0]
            # Beyond ASCII the letters tell much by themselves; Chinese seldom comes above 0.98.
            least = self._confidence if piece.isascii() else 0.9
            if language == "zxx":  # nothing that is language: a key, a checksum
                return -1
            if probability < least:  # Norwegian or Danish; but surely not a third
                if sum(p for _, p in likeliest) >= least:
                    three = tuple(name for name, _ in likeliest)
                    self._unsure.append(place)
                    self._unsure_three.append(self._threes.setdefault(three, len(self._threes)))
                return -1
        return self._ids.setdefault(language, len(self._ids))

    def finish(self, kept: Kept) -> Iterable[Hit]:
        counts, names = Counter(self._found), {i: name for name, i in self._ids.items()}
        told = sum(count for i, count in counts.items() if i >= 0)
        if not told:
            return
        main, most = max(((i, c) for i, c in counts.items() if i >= 0), key=lambda item: item[1])
        if most < 0.7 * told:
            return
        for row, found in enumerate(self._found, start=self._first):
            if found not in (-1, main):
                yield Hit(row, "language", f"{names[found]}, where most rows are {names[main]}")
        threes = list(self._threes)
        for place, number in zip(self._unsure, self._unsure_three, strict=True):
            if names[main] not in (likeliest := threes[number]):
                what = f"{' or '.join(likeliest[:2])}, where most rows are {names[main]}"
                yield Hit(place + self._first, "language", what)

    def facts(self) -> Mapping[str, Any]:
        counts, names = Counter(self._found), {i: name for name, i in self._ids.items()}
        told = {names[i]: count for i, count in counts.most_common() if i >= 0}
        return {"languages": told} if told else {}


class FormulaCheck(RowCheck):
    """`formula`, in rows of a CSV or TSV file.

    Args:
        delimited: numbers of the sources that are such files.
    """

    def __init__(self, delimited: frozenset[int]) -> None:
        self._delimited = delimited

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        for row in rows:
            if row.source in self._delimited:
                for text, at in ((row.context, 0), (row.answer, len(row.context) + 1)):
                    if _FORMULA.match(text) and not text.lstrip().startswith(("- ", "+ ")):
                        yield Hit(row.number, "formula", at=at)
                        break


@cache
def _identifier() -> Any:
    """Half a second to load, so only where a row is not plainly English."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def histogram(values: np.ndarray, bins: int = 24) -> dict[str, Any]:
    """Counts between edges that grow geometrically: lengths spread over orders of magnitude."""
    top = max(2.0, float(values.max()))
    edges = np.unique(np.round(np.concatenate([[0], np.geomspace(1, top + 1, bins)])))
    counts, edges = np.histogram(values, bins=edges)
    return {
        "edges": [int(edge) for edge in edges],
        "counts": [int(count) for count in counts],
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": int(values.max()),
    }
