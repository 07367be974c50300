"""Answers that are none: empty words, refusals, broken off, looping; and phrases that stand in too many of them."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from crma.data.quality.row import Hit, Kept, Row, RowCheck, key_of, normalised

__all__ = ["AnswerCheck", "BoilerplateCheck"]

# "None", "no" and "unknown" are not among them: they are right answers to some questions.
_NOTHING = frozenset({"n a", "na", "null", "nan", "todo", "tbd", "undefined", "deleted", "removed", "lorem ipsum"})
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:['’]m| am) (?:just |only )?an? (?:ai|large language model|language model)\b"
    r"|\b(?:sorry|afraid),? (?:but )?(?:that )?(?:i )?(?:can['’]?t|cannot|am (?:not able|unable) to|won['’]?t)\b"
    r"|\bi (?:cannot|can['’]t|won['’]t|am (?:not able|unable) to|['’]m (?:not able|unable) to) "
    r"(?:assist|help|fulfil|fulfill|comply|provide|answer|browse|access|create|generate|engage|support|do that)\b"
    r"|\bi(?:['’]m| am) (?:not able|unable) to (?:assist|help|provide|answer|browse|access|generate|create)\b"
    r"|\bmy (?:last )?(?:knowledge|training) (?:cutoff|cut-off|data)\b"
    r"|\bi do(?:n['’]t| not) have (?:personal (?:opinions|experiences|feelings)|real-time)"
    r"|\bi do(?:n['’]t| not) have access to (?:real|current|the internet)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s)\s+|\n+")
_LAST_CHARACTERS = 300  # a longer sentence is no phrase
_REFUSAL_CHARACTERS = 400  # a refusal says so at once
_REFUSAL_SIGNS = (
    "language model",
    "an ai",
    "an artificial",
    "sorry",
    "afraid",
    "unable",
    "not able",
    "cannot",
    "can't",
    "can’t",
    "won't",
    "won’t",
    "cutoff",
    "cut-off",
    "training data",
    "knowledge data",
    "not have",
    "n't have",
    "n’t have",
)
_ENDS = frozenset(".!?…。！？।\"'”’»)]}>:;*_|`~=-–—/\\")
_CODE = re.compile(
    r"```|[{}]|=>|==|\w\(\w*\)|^\s*(?:def|class|return|import|from|for|if|while|var|let|const)\b", re.MULTILINE
)
# Words after which a sentence goes on.
_BROKEN_WORDS = frozenset(
    (
        "a",
        "an",
        "the",
        "and",
        "or",
        "but",
        "of",
        "to",
        "in",
        "on",
        "at",
        "for",
        "with",
        "by",
        "from",
        "that",
        "which",
        "who",
        "is",
        "are",
        "was",
        "were",
        "as",
        "if",
        "than",
    )
)


class AnswerCheck(RowCheck):
    """`empty_answer`, `refusal`, `repetition` and `truncated_answer`.

    Whether an answer without a full stop was cut off depends on the others: where a tenth of the long answers end so,
    it is how they are written.
    """

    def __init__(self) -> None:
        self._open: list[tuple[int, int, bool]] = []  # row, where, whether by its last word it surely breaks off
        self._long = 0

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        for row in rows:
            answer, start = row.answer.strip(), len(row.context) + 1
            words = row.words[row.context_words :]
            if nothing := _says_nothing(row, answer):
                yield Hit(row.number, "empty_answer", nothing, start)
                continue
            head = answer[:_REFUSAL_CHARACTERS]
            lower = head.lower()
            if any(sign in lower for sign in _REFUSAL_SIGNS) and (found := _REFUSAL.search(head)):
                yield Hit(row.number, "refusal", at=start + found.start())
            if (share := _repeated(words)) > 0.5:
                yield Hit(row.number, "repetition", f"{share:.0%} of its four-word phrases stand there before", start)
            if answer.count("```") % 2:
                yield Hit(row.number, "truncated_answer", "a code block is not closed", start + answer.rfind("```"))
            elif len(words) >= 8 and not _CODE.search(answer):
                self._long += 1
                if answer[-1] not in _ENDS:
                    last = answer.rsplit(maxsplit=1)[-1].casefold()
                    sure = answer[-1] == "," or last in _BROKEN_WORDS
                    self._open.append((row.number, start + max(0, len(answer) - 60), sure))

    def finish(self, kept: Kept) -> Iterable[Hit]:
        customary = len(self._open) > 0.1 * self._long
        for row, at, sure in self._open:
            if sure or not customary:
                note = "ends in the middle of a sentence" if sure else "ends without a full stop, as few others do"
                yield Hit(row, "truncated_answer", note, at)


class BoilerplateCheck(RowCheck):
    """`boilerplate`: first and last sentences that stand in a twentieth of all answers, and in twenty at least."""

    def __init__(self, share: float = 0.05, least: int = 20) -> None:
        self._share, self._least = share, least
        self._keys = array("Q")  # of first and last sentence, row by row; 0 where there is none to speak of
        self._first = 0  # row seen

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        if not self._keys:
            self._first = rows[0].number
        for row in rows:
            self._keys.extend(key_of(s) if s else 0 for s in _edges(row.answer))
        return ()

    def finish(self, kept: Kept) -> Iterator[Hit]:
        keys = np.frombuffer(self._keys, dtype=np.uint64).reshape(-1, 2) if self._keys else np.zeros((0, 2), np.uint64)
        found, counts = np.unique(keys[keys != 0], return_counts=True)
        common = found[counts >= max(self._least, self._share * len(keys))]
        for row in (np.flatnonzero(np.isin(keys, common).any(axis=1)) + self._first).tolist():
            first, last = _edges(kept.answer(row))
            said = first if key_of(first) in common else last
            yield Hit(row, "boilerplate", f"“{said[:80]}”", len(kept.context(row)) + 1)


def _says_nothing(row: Row, answer: str) -> str:
    words = normalised(answer) if len(answer) < 40 else "?"
    if not words and not (len(answer) == 1 and answer in "+-*/%^&|!?#@~=<>"):  # as an answer to "which operator?"
        symbols = any(unicodedata.category(character).startswith("S") for character in answer)
        return "" if symbols else "holds no letter and no digit"
    if words in _NOTHING:
        return "says nothing"
    if len(answer) < len(row.context) + 40 and len(answer) >= 12 and normalised(answer) == normalised(row.context):
        return "repeats its question"
    return ""


def _repeated(words: np.ndarray) -> float:
    """The share of four-word phrases that stand there before (as in Rae et al., 2021, Gopher, table A1), from 40 words
    on: in shorter answers a list repeats more than that."""
    if len(words) < 40:
        return 0.0
    phrases = words[:-3] * np.uint64(1_000_003) ** np.uint64(3)
    for place, factor in ((1, 1_000_003**2), (2, 1_000_003), (3, 1)):
        phrases = phrases + words[place : len(words) - 3 + place] * np.uint64(factor)
    return 1 - len(np.unique(phrases)) / len(phrases)


def _edges(answer: str) -> tuple[str, str]:
    """First and last sentence, without case and marks, where an answer has more than one and these have four words."""
    answer = answer.strip()
    end = _SENTENCE_END.search(answer)
    if end is None:
        return "", ""
    last_start = end.end()
    for found in _SENTENCE_END.finditer(answer, max(end.end(), len(answer) - _LAST_CHARACTERS)):
        last_start = found.end()
    head, tail = answer[: end.start() + 1][:_LAST_CHARACTERS], answer[last_start:]
    if len(tail) > _LAST_CHARACTERS:
        tail = ""
    first, last = normalised(head), normalised(tail)
    return (first if first.count(" ") >= 3 else ""), (last if last.count(" ") >= 3 else "")
