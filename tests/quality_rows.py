"""Rows for tests of the data check, as checks see them."""

from __future__ import annotations

from collections.abc import Sequence

from crma.data.quality.row import Hit, Row, RowCheck, row_of
from crma.data.quality.spool import Spool
from crma.types import Example

Pair = tuple[str, str]

WORDS = (
    *("river", "stone", "bridge", "winter", "letter", "garden", "copper", "window", "station", "market", "silver"),
    *("morning", "teacher", "island", "harbour", "engine", "forest", "candle", "valley", "museum", "pencil"),
    *("summer", "ladder", "orange", "planet", "ticket", "button", "cotton", "doctor", "mirror", "butter", "finger"),
)


def prose(seed: int, words: int = 40) -> str:
    """Sentences that share hardly a pair of words with those of another seed."""
    import random

    draw = random.Random(seed)
    chosen = [draw.choice(WORDS) + draw.choice(("", "s", "ed", "ing", "ly")) for _ in range(words)]
    sentences = [" ".join(chosen[i : i + 10]).capitalize() + "." for i in range(0, words, 10)]
    return " ".join(sentences)


def rows_of(pairs: Sequence[Pair], *, source: int = 0, first: int = 0) -> list[Row]:
    return [
        row_of(Example.of(prompt, completion), number=first + i, source=source, line=i + 1)
        for i, (prompt, completion) in enumerate(pairs)
    ]


def hits_of(check: RowCheck, rows: Sequence[Row], *, chunk: int = 7) -> list[Hit]:
    """All that a check says of rows that come in chunks."""
    with Spool() as spool:
        found: list[Hit] = []
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            spool.extend(part)
            found += check.see(part)
        return found + list(check.finish(spool))


def told(check: RowCheck, pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Rows by check."""
    found: dict[str, list[int]] = {}
    for hit in hits_of(check, rows_of(pairs)):
        found.setdefault(hit.check, []).append(hit.row)
    return {name: sorted(rows) for name, rows in found.items()}
