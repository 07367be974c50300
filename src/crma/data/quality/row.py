"""What checks see of a row, what they say of it, and what each of them offers."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from crma.types import Example

__all__ = ["Hit", "Kept", "Row", "RowCheck", "key_of", "letters_of", "normalised", "row_of", "word_hashes"]

_WORD = re.compile(r"\w+")
# Scripts that do not part words by spaces: each character is a word, or a whole sentence would be one.
_UNSPACED = re.compile(r"[฀-๿぀-ヿ㐀-鿿豈-﫿가-힣]|[^\W฀-๿぀-ヿ㐀-鿿豈-﫿가-힣]+")

_LETTER_BYTES = bytes(b for b in range(256) if b >= 0x80 or chr(b).isalpha())


class Hit(NamedTuple):
    """One row has what a check looks for. `at`: where in `Row.text`, to show it; -1 is from its beginning. `hidden`:
    parts of it, in order, that are shown as their mark: (start, end, mark)."""

    row: int
    check: str
    note: str = ""
    at: int = -1
    hidden: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    number: int  # among all good rows of all sources, from 0
    source: int
    line: int
    example: Example
    context: str  # all that stands before the last answer
    answer: str
    text: str  # context, a line end, answer
    words: np.ndarray  # [words] uint64, a hash each, case folded, of context and answer
    context_words: int


class Kept(Protocol):
    """The rows seen so far, on disk."""

    def __len__(self) -> int: ...

    def context(self, number: int) -> str: ...

    def answer(self, number: int) -> str: ...

    def line(self, number: int) -> int: ...


class RowCheck:
    """One or more checks that share a look at each row. What they keep must fit in memory for millions of rows."""

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        """A chunk of rows, in order."""
        return ()

    def finish(self, kept: Kept) -> Iterable[Hit]:
        """What can only be said once all rows were seen."""
        return ()

    def facts(self) -> Mapping[str, Any]:
        return {}

    def skipped(self) -> Mapping[str, str]:
        """Of its checks those that were not made, and why."""
        return {}


def row_of(example: Example, *, number: int, source: int, line: int) -> Row:
    context = "\n".join(m.content for m in example.messages[:-1])
    answer = example.completion
    before, after = word_hashes(context), word_hashes(answer)
    return Row(
        number=number,
        source=source,
        line=line,
        example=example,
        context=context,
        answer=answer,
        text=f"{context}\n{answer}",
        words=np.array(before + after, dtype=np.uint64),
        context_words=len(before),
    )


def word_hashes(text: str) -> list[int]:
    """CRC-32 of each word. Two words in four billion are one: for counting overlap that is enough."""
    pattern = _WORD if text.isascii() else _UNSPACED
    return [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in pattern.findall(text.casefold())]


def normalised(text: str) -> str:
    """Case, spacing and what stands between words make no difference."""
    return " ".join(_WORD.findall(text.casefold()))


def key_of(content: str | np.ndarray) -> int:
    """64 bits of a text or of hashes of words; among a million two are one with a chance of 3e-8."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content.tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def letters_of(text: str) -> int:
    """Letters, as near as bytes tell: outside ASCII each byte counts for one, so only shares of a text are meant."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data) - len(data.translate(None, _LETTER_BYTES))
