"""Lines of a file that may still grow, or of a pipe, in batches, each with where to go on after it."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from crma.errors import DataError

__all__ = ["Lines", "follow"]

Lines = tuple[list[str], int]  # whole lines without what ends them, and the byte (of a pipe: the line) after them

_POLL_SECONDS = 0.5
_PIPE_BYTES = 65536


def follow(
    source: str,
    position: int = 0,
    *,
    batch: int = 50,
    idle: float | None = None,
    wait: Callable[[float], None] = time.sleep,
    pipe: IO[Any] | None = None,
) -> Iterator[Lines]:
    """Batches of whole lines from `position` on; the last line of a file counts once it is ended, or at the end.

    Args:
        source: a file's path, or "-" for standard input (or `pipe`), which is read from its beginning.
        batch: lines at most; fewer where no more have come yet.
        idle: seconds without a new line after which the file is at its end; None waits for ever. A pipe ends by itself.

    Raises:
        DataError: there is no such file, or it is shorter than `position`.
    """
    if source == "-":
        yield from _of_pipe(pipe or sys.stdin, batch)
        return
    path = Path(source)
    if not path.is_file():
        raise DataError("there is no such file", where=source, next_step="give a file of JSON Lines, or - for a pipe")
    waited = 0.0
    with path.open("rb") as stream:
        while True:
            if path.stat().st_size < position:
                raise _shorter(path, position)
            lines, at_end = _whole_lines(stream, batch, position, rest=idle is not None and waited >= idle)
            if lines:
                lines[0] = lines[0].removeprefix(codecs.BOM_UTF8) if position == 0 else lines[0]
                position, waited = stream.tell(), 0.0
                yield [line.decode("utf-8", "surrogateescape") for line in lines], position
            elif at_end and idle is not None and waited >= idle:
                return
            else:
                wait(_POLL_SECONDS)
                waited += _POLL_SECONDS


def _whole_lines(stream: IO[bytes], batch: int, position: int, *, rest: bool) -> tuple[list[bytes], bool]:
    """Up to `batch` lines from `position` on, the stream left after them; an unfinished last one only as the `rest`."""
    stream.seek(position)
    lines: list[bytes] = []
    while len(lines) < batch:
        start = stream.tell()
        line = stream.readline()
        if not line.endswith(b"\n") and not (rest and line):
            stream.seek(start)
            return lines, True
        lines.append(line.rstrip(b"\r\n"))
    return lines, False


def _of_pipe(pipe: IO[Any], batch: int) -> Iterator[Lines]:
    """As many lines as have come, however slowly they do."""
    raw: Any = getattr(pipe, "buffer", pipe)  # bytes, whatever the locale
    read = getattr(raw, "read1", raw.read)
    number, rest = 0, b""
    while chunk := read(_PIPE_BYTES):
        *whole, rest = (rest + (chunk.encode() if isinstance(chunk, str) else chunk)).split(b"\n")
        for start in range(0, len(whole), batch):
            part = whole[start : start + batch]
            number += len(part)
            yield [_text(line) for line in part], number
    if rest:
        yield [_text(rest)], number + 1


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "surrogateescape")


def _shorter(path: Path, position: int) -> DataError:
    return DataError(
        "the file has become shorter than what was read of it",
        where=str(path),
        expected=f"at least {position} bytes",
        got=path.stat().st_size,
        next_step="a log that begins anew is another source: give it another name",
    )
