"""Damage to the characters of a text: decoded wrongly, invisible, remains of web pages. Found, and undone."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

import ftfy
from ftfy.badness import is_bad

from crma.data.quality.row import Hit, Row, RowCheck

__all__ = ["DamageCheck", "mend_control", "mend_encoding", "mend_markup"]

# Soft hyphens, byte order marks, invisible operators and bidirectional controls that embed or override are of no use
# anywhere. Joiners (200C, 200D) belong in Persian, Indic scripts and emoji, so between two Latin letters they do not;
# direction marks (200E, 200F) in texts with right-to-left letters; tags (E0020 to E007F) after a black flag.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u180e\u200b\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u206f\ufff9-\ufffb]"
    "|(?<=[A-Za-z])[\u200c\u200d]+(?=[A-Za-z])"
    "|(?<![\U0001f3f4\U000e0020-\U000e007e])[\U000e0000-\U000e007f]+"
)
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # of these the above; a set alone is fifty times faster
_MARKS = re.compile("[\u200e\u200f]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]")
_REPLACEMENT = "\ufffd"

# Tags of prose; a text about HTML or one that is code has others as well, or says so, and is left alone.
_TAGS = (
    "p|br|div|span|a|li|ul|ol|td|tr|th|thead|table|tbody|b|i|u|em|strong|font|h[1-6]|img|sup|sub|blockquote|center|hr"
    "|iframe|figure|figcaption|section|article|header|footer|nav|button|small|[ovw]:\\w+"
)
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]{{0,2000}})?/?>", re.IGNORECASE)
# One of these alone is enough: nobody means it.
_ALONE = re.compile(r"<(?:img|a)\s(?=[^<>]{0,2000}>)[^<>=]{0,40}(?:src|href|alt|class|id)=", re.IGNORECASE)
# What begins a part of a page that is not text, and ends it: scripts, styles, comments (of editors, too).
_UNSEEN = re.compile(r"<(script|style|noscript)\b[^<>]{0,2000}>|<!--", re.IGNORECASE)
_UNSEEN_ENDS = {name: re.compile(rf"</{name}\s{{0,9}}>", re.IGNORECASE) for name in ("script", "style", "noscript")} | {
    "": re.compile("-->")
}
_SPELT = re.compile(rf"&lt;(/?(?:{_TAGS})(?:\s(?:(?!&[lg]t;).){{0,2000}})?/?)&gt;", re.IGNORECASE)
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


# UTF-8 read as code page 437: é, — and the like. Box-drawing that is followed by more of it is drawing.
_CONSOLE = re.compile("(?:Γ[Çäéåë][^\x00-\x7f]|[├┬][^\x00-\x7f\u2500-\u25ff])")


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
            if found := _control_at(mended):  # halves of mojibake are no control characters
                yield Hit(row.number, "control", f"U+{ord(found[0][0]):04X}", found.start())
            if (at := _markup_at(text)) >= 0:
                yield Hit(row.number, "markup", at=at)


def mend_encoding(text: str) -> str:
    """UTF-8 that was read as something else becomes what it was, in parts of the text where only these are damaged.

    What was lost (U+FFFD) stays lost.
    """
    if text.isascii() or not _SUSPECT.search(text):
        return text
    if "Γ" in text or "├" in text or "┬" in text:  # which ftfy does not look for
        text = _CONSOLE.sub(_of_console, text)
    if not is_bad(text):  # no good text is touched
        return text
    # Line by line: where one is sound and has letters of its own, ftfy could not read the whole as anything else.
    fixed = "\n".join(ftfy.fix_encoding(line) if is_bad(line) else line for line in text.split("\n"))
    return fixed if "\ufeff" in text else fixed.replace("\ufeff", "")  # a byte order mark is what it was


def _of_console(found: re.Match[str]) -> str:
    try:
        return found[0].encode("cp437").decode("utf-8")
    except UnicodeError:
        return found[0]


def mend_control(text: str) -> str:
    text = _CONTROL.sub("", text)
    return text if text.isascii() or _RIGHT_TO_LEFT.search(text) else _MARKS.sub("", text)


def _control_at(text: str) -> re.Match[str] | None:
    if text.isascii():
        return _ASCII_CONTROL.search(text)
    found = _CONTROL.search(text)
    if found or not (mark := _MARKS.search(text)):
        return found
    return None if _RIGHT_TO_LEFT.search(text) else mark


def mend_markup(text: str) -> str:
    """Tags of prose go, those that end a line leave one; entities become their characters, unless they spell a tag."""
    if _markup_at(text) < 0:
        return text
    text = _SPELT.sub(lambda found: f"<{found[1]}>", _without(text, _unseen(text)))
    text = _TAG.sub("", _BLOCK.sub("\n", text))
    text = _ENTITY.sub(lambda found: html.unescape(found[0]), text).replace("\xa0", " ")
    return re.sub(r"[ \t]*\n(?:[ \t]*\n){2,}", "\n\n", text).strip()


def _markup_at(text: str) -> int:
    """Where the first remains stand, -1 for none. Two tags, an image, link, script or comment, a break or end of a
    block, or one entity: a single `<b>` may be meant."""
    if "<" not in text and "&" not in text:
        return -1
    entity = _ENTITY.search(text)
    tags = [found.start() for _, found in zip(range(2), _TAG.finditer(text), strict=False)]
    unseen = _unseen(text)
    if not (entity or len(tags) >= 2 or unseen or _BLOCK.search(text) or _ALONE.search(text)):
        return -1
    prose = _TAG.sub(" ", _SPELT.sub(" ", _without(text, unseen)))
    if _ABOUT_MARKUP.search(prose) or _CODE.search(text):  # href="page.html" is not about HTML
        return -1
    return min([*tags, *([entity.start()] if entity else []), *(start for start, _ in unseen[:1])])


def _unseen(text: str) -> list[tuple[int, int]]:
    """Start and end of each part that is not text. One that does not end is none: its end is looked for once."""
    found: list[tuple[int, int]] = []
    endless: set[str] = set()
    place = 0
    while (opened := _UNSEEN.search(text, place)) is not None:
        place, name = opened.end(), (opened[1] or "").lower()
        if name not in endless:
            if closed := _UNSEEN_ENDS[name].search(text, place):
                found.append((opened.start(), closed.end()))
                place = closed.end()
            else:
                endless.add(name)
    return found


def _without(text: str, parts: Sequence[tuple[int, int]]) -> str:
    starts = [0, *(end for _, end in parts)]
    return "".join(text[a:b] for a, b in zip(starts, [*(start for start, _ in parts), len(text)], strict=True))


def _first_difference(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
