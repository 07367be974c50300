"""The texts of all rows on disk while they are checked, each to be read again by its number."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from crma.data.quality.row import Row
from crma.errors import DataError

__all__ = ["Spool"]


class Spool:
    """A file without a name: it is gone with the process, however that ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="crma-check-")  # noqa: SIM115 - closed by __exit__
        self._ends = array("Q", [0])  # context, answer, context, …
        self.sources = array("I")
        self.lines = array("Q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.lines)

    def extend(self, rows: Sequence[Row]) -> None:
        """
        Raises:
            DataError: the disk is full.
        """
        parts: list[bytes] = []
        end = self._ends[-1]
        for row in rows:
            for text in (row.context, row.answer):
                part = text.encode("utf-8", "surrogatepass")
                parts.append(part)
                end += len(part)
                self._ends.append(end)
            self.sources.append(row.source)
            self.lines.append(row.line)
        try:
            self._file.seek(0, 2)
            self._file.write(b"".join(parts))
        except OSError as error:
            raise DataError(
                "the rows cannot be held on disk while they are checked",
                where=tempfile.gettempdir(),
                expected="as much free space as the file has",
                got=error.strerror,
                next_step="make room there, or name another folder in TMPDIR",
            ) from error

    def context(self, number: int) -> str:
        return self._read(2 * number)

    def answer(self, number: int) -> str:
        return self._read(2 * number + 1)

    def line(self, number: int) -> int:
        return self.lines[number]

    def text(self, number: int) -> str:
        return f"{self.context(number)}\n{self.answer(number)}"

    def _read(self, part: int) -> str:
        start, end = self._ends[part], self._ends[part + 1]
        self._file.seek(start)
        return self._file.read(end - start).decode("utf-8", "surrogatepass")
