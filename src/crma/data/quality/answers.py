"""Answers that are none: empty words, refusals, broken off, looping; and phrases that stand in too many of them."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from crma.data.quality.row import Hit, Kept, Row, RowCheck, key_of, normalised, word_hashes

__all__ = ["AnswerCheck", "BoilerplateCheck"]

# "None", "no", "same" and "unknown" are not among them: they are right answers to some questions.
_NOTHING_SAID = """
    n a/na/null/nan/todo/to do/tbd/tba/undefined/deleted/removed/placeholder/xxx/xxxx/test/asdf
    not available/not applicable/not provided/not given/no answer/no response/no reply/no answer given
    no answer provided/no response given/no response provided/answer missing
    missing answer/answer not available/to be added/to be added later/to be done/to be determined/to be announced
    to be completed/to be filled in/to follow/coming soon/see above/see below/see previous/same as above
    same as before/as above/insert answer/insert answer here/insert text here/your answer here/answer here
    answer goes here/type your answer here/enter your answer here/click here to enter text
"""
_NOTHING = frozenset(said for line in _NOTHING_SAID.split("\n") for said in line.strip().split("/") if said)
# A whole answer in brackets is a slot that nobody filled, where it names what should have stood there.
_SLOT = re.compile(
    r"[\[{(<]{1,3}[^\[\](){}<>\n]{0,40}\b(?:answer|response|reply|completion|output|insert|placeholder|text here|todo|"
    r"tbd|deleted|removed|redacted|no content|blank)\b[^\[\](){}<>\n]{0,40}[\])}>]{1,3}",
    re.IGNORECASE,
)
_FILLER = re.compile(r"lorem ipsum\b", re.IGNORECASE)
_ASKS_FOR_FILLER = re.compile(r"lorem|ipsum|filler|dummy|placeholder|latin", re.IGNORECASE)
_OPERATORS = frozenset("+*/%^&|=<>~")  # a dash or a question mark is what one types who has nothing to say
_PAUSES = ("…", "..", "--", "??")  # of no sign in particular
_ASKS_FOR_A_SIGN = re.compile(
    r"operator|symbol|sign\b|mark\b|character|punctuat|bracket|wildcard|glob|regex|expression|key\b|notation|letter",
    re.IGNORECASE,
)
_NOT = r"(?:not able|unable|not allowed|not permitted|not in a position|not programmed|not designed)"
_CANNOT = r"(?:cannot|can ?not|can['’]?t|won['’]?t|will not|could not|couldn['’]?t)"
_DOING = (
    "assist|help|fulfil|fulfill|comply|provide|answer|browse|access|create|generate|engage|support|do that|offer"
    "|discuss|write (?:that|this|it)|continue with|recommend|see or|view or|give (?:you )?(?:\\w+ )?advice"
)
_MODEL = r"(?:ai|artificial intelligence|language model|chatbot|virtual assistant|chatgpt)\b"
_A_MODEL = (
    rf"an? (?:(?:large|text|voice|computer|machine|digital|neural|virtual)(?:[- ](?:based|only))?,? ){{0,2}}{_MODEL}"
)
# "As an AI engineer" is somebody.
_SOMEBODY = r"(?! (?:researcher|engineer|scientist|student|developer|expert|enthusiast|specialist|compan|lab|start))"
_REFUSAL = re.compile(
    rf"\bas {_A_MODEL}{_SOMEBODY}"
    rf"|\bi(?:['’]m| am) (?:just |only |merely )?(?:{_A_MODEL}{_SOMEBODY}|chatgpt\b)"
    rf"|\b(?:sorry|afraid|apologi[sz]e|apologies|regret),? (?:but |that )*(?:i )?(?:{_CANNOT}|(?:am |['’]m ){_NOT} to)"
    rf"|\b(?:sorry|afraid|apologies),? (?:but |that )*i(?:['’]m| am) (?:not comfortable|{_NOT})\b"
    rf"|\bi (?:therefore |also )?(?:cannot|can ?not|can['’]?t|won['’]?t|will not) (?:be able to )?(?:{_DOING})\b"
    rf"|\bi(?:['’]m| am) {_NOT} to (?:{_DOING})\b"
    r"|\bi(?:['’]m| am)(?: simply)? not comfortable (?:\w+ing|with)\b"
    r"|\bi (?:must|have to|will have to|need to) (?:respectfully |politely )?(?:decline|refuse)\b"
    r"|\b(?:against|violates?|breach(?:es)?|not in line with|contrary to) (?:my|our) (?:\w+ ){0,2}"
    r"(?:guidelines|programming|polic(?:y|ies)|terms of (?:use|service))\b"
    r"|\bwould(?: not|n['’]t) be (?:appropriate|right|ethical|responsible) for me to\b"
    r"|\bmy (?:last )?(?:knowledge|training) (?:cutoff|cut-off|data)\b"
    r"|\bi do(?:n['’]t| not) have (?:personal (?:opinions|experiences|feelings|preferences)|feelings|real-time)"
    r"|\bi do(?:n['’]t| not) have access to (?:real|current|the internet)",
    re.IGNORECASE,
)
_REFUSAL_CHARACTERS = 400  # a refusal says so at once
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s)\s+|\n+")
_LAST_CHARACTERS = 300  # a longer sentence is no phrase
# One of them stands in whatever the pattern matches; each costs a tenth of it.
_REFUSAL_SIGNS = (
    *("language model", " ai", "artificial intelligence", "chatbot", "virtual assistant", "chatgpt", "cutoff"),
    *("sorry", "afraid", "apolog", "regret", "decline", "refuse", "comfortable", "guideline", "programming", "polic"),
    *("terms of ", "unable", "not able", "not allowed", "not permitted", "not in a position", "not programmed"),
    *("not designed", "i cannot", "i can not", "i can't", "i can’t", "i cant", "i won", "i will not", "cut-off"),
    *("i therefore", "i also", "be appropriate", "be right for me", "be ethical", "be responsible"),
    *("training data", "knowledge data", "not have", "n't have", "n’t have"),
)
_ENDS = frozenset(".!?…。！？।\"'”’»)]}>;*_|`~=-–—/\\")
# An answer ends with none of these: what was to follow was cut off.
_OPEN_ENDS = (",", ":")
_OPEN_CODE = frozenset("([{,=+&")
_EMPTY_ITEM = re.compile(r"[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]*\Z")
# Lines that need no full stop: items of lists, cells of tables, headings; names and titles, most words of them capital.
_LISTED = re.compile(r"[ \t]*(?:[-*•·◦‣–+|#>]|\d{1,3}[.)]|[A-Za-z][.)] )")
_FORMULA_END = re.compile(r"[=≈≤≥<>±√²³^].{0,40}\Z")
_CODE = re.compile(
    r"```|[{}]|=>|==|\w\(\w*\)|^\s*(?:def|class|return|import|from|for|if|while|var|let|const)\b", re.MULTILINE
)
# Words after which a sentence goes on.
_BROKEN_WORDS = frozenset(
    (
        *("a", "an", "the", "and", "or", "but", "of", "to", "in", "on", "at", "for", "with", "by", "from", "that"),
        *("which", "who", "is", "are", "was", "were", "as", "if", "than"),
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
            if any(sign in lower for sign in _REFUSAL_SIGNS) and (found := _refusal(head)):
                yield Hit(row.number, "refusal", at=start + found.start())
            if note := _repetition(answer, words):
                yield Hit(row.number, "repetition", note, start)
            if answer.count("```") % 2:
                yield Hit(row.number, "truncated_answer", "a code block is not closed", start + answer.rfind("```"))
            elif len(words) >= 8:
                self._note_end(row.number, answer, start)

    def _note_end(self, number: int, answer: str, start: int) -> None:
        at = start + max(0, len(answer) - 60)
        if _CODE.search(answer):
            if answer[-1] in _OPEN_CODE:
                self._open.append((number, at, True))
            return
        self._long += 1
        if _EMPTY_ITEM.match(answer, answer.rfind("\n") + 1):
            self._open.append((number, at, True))
        elif answer[-1] not in _ENDS:
            sure = answer[-1] in _OPEN_ENDS or answer.rsplit(maxsplit=1)[-1].casefold() in _BROKEN_WORDS
            if sure or not _needs_no_stop(answer):
                self._open.append((number, at, sure))

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
    if not words:
        asked = _ASKS_FOR_A_SIGN.search(row.context)
        symbols = any(unicodedata.category(character).startswith("S") for character in answer)
        if (symbols and not answer.isascii()) or answer in _OPERATORS:  # an emoji, an operator
            return ""
        if asked and len(answer) <= 2 and answer not in _PAUSES:
            return ""
        return "holds no letter and no digit"
    if words in _NOTHING:
        return "says nothing"
    if len(answer) <= 90 and answer[0] in "[{(<" and _SLOT.fullmatch(answer):
        return "is a place that was not filled"
    if _FILLER.match(answer) and not _ASKS_FOR_FILLER.search(row.context):
        return "is filler text"
    if len(answer) < len(row.context) + 40 and len(answer) >= 12 and normalised(answer) == normalised(row.context):
        return "repeats its question"
    return ""


def _needs_no_stop(answer: str) -> bool:
    """Whether the last line is an item, a heading, a name, a title, a formula, or ends in an emoji."""
    last = answer[answer.rfind("\n") + 1 :].strip()
    if _LISTED.match(last) or _FORMULA_END.search(last) or unicodedata.category(last[-1]) in {"So", "Sk", "Mn", "Cf"}:
        return True
    words = [word for word in last.split() if word[0].isalpha() and len(word) > 3]
    alone = "\n" in answer or not any(mark in answer for mark in (". ", "! ", "? "))
    return alone and sum(word[0].isupper() for word in words) >= 0.7 * max(1, len(words))


def _refusal(head: str) -> re.Match[str] | None:
    """The first refusal that is the answer's own: one in quotes is somebody's."""
    for found in _REFUSAL.finditer(head):
        before = head[: found.start()]
        quoted = before.count('"') % 2 or before.count("“") > before.count("”")
        if not quoted:
            return found
    return None


_LOOP_WORDS = 30  # the longest phrase that is looked for
_LETTERS_LOOP = re.compile(r"([^\W\d_]{1,8}?)\1{14,}")
_NUMBERED = re.compile(r"^[ \t]*\d{1,3}[.)][ \t]+", re.MULTILINE)


def _repetition(answer: str, words: np.ndarray) -> str:
    """What is said again and again; "" for nothing.

    Half of the four-word phrases (as in Rae et al., 2021, Gopher, table A1), from 40 words on: in shorter answers a
    list repeats more than that. Or a loop, wherever it stands.
    """
    if len(words) >= 12:
        if answer.count("\n") >= 3 and len(_NUMBERED.findall(answer)) >= 4:  # the numbers would hide it
            words = np.array(word_hashes(_NUMBERED.sub("", answer)), np.uint64)
        again = _phrases_again(words)
        if len(words) >= 40 and again > 0.5 * (len(words) - 3):
            return f"{again / (len(words) - 3):.0%} of its four-word phrases stand there before"
        if again >= _LEAST_AGAIN and not _CODE.search(answer) and (said := _loop(words)):  # code says much again
            return said
    if len(answer) >= 30 and any(len(word) >= 30 and _LETTERS_LOOP.search(word) for word in answer.split()):
        return "a few letters over and over"
    return ""


def _phrases_again(words: np.ndarray) -> int:
    """How many four-word phrases stand there before."""
    if len(words) < 4:
        return 0
    phrases = words[:-3] * np.uint64(1_000_003) ** np.uint64(3)
    for place, factor in ((1, 1_000_003**2), (2, 1_000_003), (3, 1)):
        phrases = phrases + words[place : len(words) - 3 + place] * np.uint64(factor)
    return len(phrases) - len(np.unique(phrases))


_LOOP_TOTAL, _LOOP_TIMES, _WORD_TIMES = 12, 4, 8
_LEAST_AGAIN = _LOOP_TOTAL - 3 - _LOOP_TOTAL // _LOOP_TIMES  # phrases that the shortest loop says again


def _loop(words: np.ndarray) -> str:
    """A phrase that is said so often in a row that nobody means it: one word eight times, longer ones four times, from
    twelve words on."""
    for length in range(1, min(_LOOP_WORDS, len(words) // _LOOP_TIMES) + 1):
        breaks = np.flatnonzero(words[length:] != words[:-length])
        borders = np.concatenate([[-1], breaks, [len(words) - length]])
        run = int(np.diff(borders).max()) - 1 + length  # words of the longest stretch that repeats itself
        times = run // length
        if run >= _LOOP_TOTAL and times >= (_WORD_TIMES if length == 1 else _LOOP_TIMES):
            return f"{'a word' if length == 1 else f'{length} words'} {times} times in a row"
    return ""


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
