"""Which of a row's user turns a router reads: the one with which its conversation comes to its subject."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from crma.types import Example

__all__ = ["openings"]

_SHORT = 2  # times shorter than the next turns: then the first ones greet, and the next ones ask


def openings(rows: Sequence[Example], *, like: Sequence[Example] | None = None) -> list[str]:
    """The first user turn of each row; the second, where it has one, if the first ones are greetings on the whole.

    Of all rows together, not of each by its own length: one follow-up taken for a question among the rows that lay a
    domain's threshold lets everyday questions in (LOG.md, 2026-11-24, on rows of several turns). The last turn would be
    the worst choice: "and for children?" names nothing, and a router made of such refuses the domain's own questions.

    Args:
        like: the rows that decide, where these are to be read as others were: None for these themselves.
    """
    turns = [_user_turns(row) for row in rows]
    decide = turns if like is None else [_user_turns(row) for row in like]
    several = [t for t in decide if len(t) > 1]
    greet = several and _SHORT * median(_size(t[0]) for t in several) < median(_size(t[1]) for t in several)
    at = 1 if greet else 0
    return [t[min(at, len(t) - 1)] if t else "" for t in turns]


def _user_turns(row: Example) -> list[str]:
    return [message.content for message in row.messages if message.role == "user"]


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
