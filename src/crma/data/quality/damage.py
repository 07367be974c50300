"""Damage to the characters of a text: decoded wrongly, invisible, remains of web pages. Found, and undone."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import ftfy
from ftfy.badness import is_bad

from crma.data.quality.row import Hit, Row, RowCheck

__all__ = ["DamageCheck", "mend_control", "mend_encoding", "mend_markup"]

# Of the bidirectional controls only those that embed and override: marks (200E, 200F) belong in right-to-left text, as
# joiners (200C, 200D) do in Persian, Indic scripts and emoji. Soft hyphens and byte order marks are of no use anywhere.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
_REPLACEMENT = "\ufffd"

# Tags of prose; a text about HTML or one that is code has others as well, or says so, and is left alone.
_TAGS = "p|br|div|span|a|li|ul|ol|td|tr|th|table|tbody|b|i|u|em|strong|font|h[1-6]|img|sup|sub|blockquote|center|hr"
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]{{0,2000}})?/?>", re.IGNORECASE)
_BLOCK = re.compile(r"<(?:br|hr)\s{0,9}/?>|</(?:p|div|li|tr|h[1-6]|blockquote|table)>", re.IGNORECASE)
_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|ndash|mdash|[lr][sd]quo|hellip|copy|reg|trade|#\d{2,6}|#x[0-9a-f]{2,5});"
)
_ABOUT_MARKUP = re.compile(
    r"```|<\?xml|<!DOCTYPE|\b(?:html|xml|svg|jsx|css|markup|markdown|javascript|php|django|tags?|entit(?:y|ies))\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"[{};]\s*\n|^\s*(?:def |class |import |#include|function |var |const |return )", re.MULTILINE)


# Quotes, dashes and the like by themselves are never mojibake; its first character is a letter or another sign.
_SUSPECT = re.compile("[^\x00-\x7f\u2010-\u2026\u20ac\u2122§©®°·é]")


class DamageCheck(RowCheck):
    """`encoding`, `control` and `markup`."""

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        for row in rows:
            text = mended = row.text
            if not text.isascii():
                if (at := text.find(_REPLACEMENT)) >= 0:
                    yield Hit(row.number, "encoding", "holds characters that were lost (U+FFFD)", at)
                elif (mended := mend_encoding(text)) != text:
                    yield Hit(row.number, "encoding", at=_first_difference(text, mended))
            if found := _CONTROL.search(mended):  # halves of mojibake are no control characters
                yield Hit(row.number, "control", f"U+{ord(found[0]):04X}", found.start())
            if (at := _markup_at(text)) >= 0:
                yield Hit(row.number, "markup", at=at)


def mend_encoding(text: str) -> str:
    """UTF-8 that was read as something else becomes what it was, in parts of the text where only these are damaged.

    What was lost (U+FFFD) stays lost.
    """
    if text.isascii() or not _SUSPECT.search(text) or not is_bad(text):  # cheapest first; no good text is touched
        return text
    return ftfy.fix_encoding(text)


def mend_control(text: str) -> str:
    return _CONTROL.sub("", text)


def mend_markup(text: str) -> str:
    """Tags of prose go, those that end a line leave one; entities become their characters."""
    if _markup_at(text) < 0:
        return text
    text = _TAG.sub("", _BLOCK.sub("\n", text))
    text = _ENTITY.sub(lambda found: html.unescape(found[0]), text).replace("\xa0", " ")
    return re.sub(r"[ \t]*\n(?:[ \t]*\n){2,}", "\n\n", text).strip()


def _markup_at(text: str) -> int:
    """Where the first remains stand, -1 for none. Two tags, a break or end of a block, or one entity: a single `<b>`
    may be meant."""
    if "<" not in text and "&" not in text:
        return -1
    entity = _ENTITY.search(text)
    tags = [found.start() for _, found in zip(range(2), _TAG.finditer(text), strict=False)]
    if entity is None and len(tags) < 2 and not _BLOCK.search(text):
        return -1
    if _ABOUT_MARKUP.search(_TAG.sub(" ", text)) or _CODE.search(text):  # href="page.html" is not about HTML
        return -1
    return min([*tags, *([entity.start()] if entity else [])])


def _first_difference(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
