"""A check that looks at a fair sample of rows, for what costs too much to do with all."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from crma.data.quality.row import Hit, Row, RowCheck
from crma.types import Example

__all__ = ["Sampled"]


class Sampled(RowCheck):
    """Keeps `size` of the rows seen, each as likely as any other (Vitter, 1985, algorithm R); a seed of its own."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._draw = random.Random(0)
        self._drawn: list[tuple[int, Example]] = []
        self.seen = 0

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        for row in rows:
            self.seen += 1
            if len(self._drawn) < self._size:
                self._drawn.append((row.number, row.example))
            elif (place := self._draw.randrange(self.seen)) < self._size:
                self._drawn[place] = (row.number, row.example)
        return ()

    @property
    def drawn(self) -> list[tuple[int, Example]]:
        """Numbers of rows, ascending, and the rows."""
        return sorted(self._drawn, key=lambda item: item[0])
