"""A file becomes records: JSON Lines, a JSON list, CSV and TSV here, Parquet and Arrow in `columnar`.

The format is read off the content first, then the ending. However large a file and whatever stands in it, no more than
a few rows of it are in memory at once; what cannot be read of it becomes a Fault in the row's place.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from crma.data.columnar import read_arrow, read_parquet
from crma.data.rows import (
    FIELDS,
    Fault,
    Record,
    may_be_doubled,
    not_utf8,
    parse_again,
    parse_json,
    record_of,
    schema_of,
    shown_text,
    unknown_schema,
)
from crma.errors import DataError

__all__ = ["MAX_ROW_BYTES", "records_of"]

# Far beyond what any model reads of one row (a context of a million tokens is about 4 MB of text), and little enough
# to be held some ten times over, as parsing does.
MAX_ROW_BYTES = 16 * 2**20

_HEAD_BYTES = 65536
_BLOCK = 2**20
_CSV_FIELD_LIMIT = 2**31 - 1  # the largest a C long holds everywhere; rows are limited before the csv module sees them
_PACKED = ((b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip or xlsx"), (b"\x28\xb5\x2f\xfd", "zstandard"))


def records_of(file: Path) -> Iterator[Record]:
    """Every row, good or faulty.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    try:
        yield from _open(file)
    except OSError as error:
        raise DataError(
            "this file cannot be read",
            where=file,
            got=error.strerror or str(error),
            next_step="check the file and its permissions",
        ) from error
    except MemoryError as error:
        raise DataError(
            "this file needs more memory than there is", where=file, next_step="save it as JSON Lines"
        ) from error


def _open(file: Path) -> Iterator[Record]:
    with _binary(file) as handle:
        head = handle.read(_HEAD_BYTES)
    ending = file.suffix.lower()
    if head.startswith(b"PAR1"):
        return read_parquet(file, MAX_ROW_BYTES)
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return read_arrow(file, MAX_ROW_BYTES, stream=not head.startswith(b"ARROW1"))
    for magic, name in _PACKED:
        if head.startswith(magic):
            raise DataError(
                "this file is packed", where=file, got=name, next_step="unpack it, or save it as CSV, first"
            )
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("this file is UTF-16", where=file, expected="UTF-8", next_step="save it as UTF-8")
    if ending in {".parquet", ".arrow"}:
        raise DataError(
            f"this is no {ending[1:]} file",
            where=file,
            got="nothing" if not head else f"opens with {head[:8]!r}",
            next_step="write it again, or give it the ending of what it is",
        )
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"["):
        return _json_list(file)
    if text.startswith(b"{") or ending in {".jsonl", ".ndjson", ".json"}:
        _refuse_one_object(file, text)
        return _json_lines(file)
    return _delimited(file)


def _binary(file: Path) -> io.BufferedReader:
    """Not blocking, and only a file: what a name stands for may have become a pipe, which would wait for a writer."""
    handle = os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise DataError(
            "this is no file", where=file, got="a folder, a pipe or a device", next_step="name a file of rows"
        )
    return handle


@contextmanager
def _read_text(file: Path, *, newline: str) -> Iterator[tuple[IO[str], Callable[[], int]]]:
    """The text, and how many bytes of it were read so far."""
    with _binary(file) as raw, io.TextIOWrapper(raw, "utf-8-sig", "surrogateescape", newline) as text:
        yield text, raw.tell


def _too_long(size: int, what: str = "this row") -> Fault:
    return Fault(
        "size",
        f"{what} is {size:,} bytes long; at most {MAX_ROW_BYTES:,} are read; split it into several rows, or delete it",
    )


# --- JSON ---


def _json_lines(file: Path) -> Iterator[Record]:
    """Lines end with b"\\n" alone: U+2028 and a lone carriage return may stand in a JSON text."""
    end = 0
    most = MAX_ROW_BYTES
    with _binary(file) as handle:
        number = 0
        while line := handle.readline(most + 3):  # a row of the most, "\r\n", and one byte to know it is longer
            number += 1
            end += len(line)
            raw = line[:-1] if line.endswith(b"\n") else line
            if len(raw) > most and len(raw.rstrip(b"\r")) > most:
                size = len(raw)
                while not line.endswith(b"\n") and (line := handle.readline(_BLOCK)):
                    end += len(line)
                    size += len(line) - line.endswith(b"\n")
                yield record_of(file, number, _too_long(size, "this line"), end)
                continue
            try:
                text = (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode()
            except UnicodeDecodeError:
                text = raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode("utf-8", "surrogateescape")
                yield record_of(file, number, not_utf8(text), end, raw)
                continue
            if text and not text.isspace():
                yield record_of(file, number, parse_json(text), end, raw)


def _refuse_one_object(file: Path, head: bytes) -> None:
    """One object spread over lines (such as {"data": [...]}) would read as hundreds of broken lines: say what it is."""
    first, *lines = head.split(b"\n")
    if file.suffix.lower() != ".json" or not lines or not isinstance(_parsed(first), Fault):
        return
    found = "an object"
    with _binary(file) as handle:
        whole = handle.read(MAX_ROW_BYTES + 1)
    if len(whole) > MAX_ROW_BYTES:
        # Too large to be parsed whole. Lines of an object that is spread over them end with commas and brackets; one
        # line that is an object by itself makes it JSON Lines whose first line is broken.
        if any(isinstance(_parsed(line), dict) for line in lines[:-1]):
            return
    else:
        value = _parsed(whole)
        if not isinstance(value, dict):
            return
        names = ", ".join(shown_text(name) for name in sorted(value)[:8])
        found = f"an object with {names or 'no fields'}"
    raise DataError(
        "this file is one JSON object",
        where=file,
        expected="a list of rows, or one row a line",
        got=found,
        next_step="save the list of rows alone",
    )


def _parsed(line: bytes) -> object:
    return parse_json(line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"))


_SPACE = re.compile(r"[ \t\r\n]*")
# A number that goes on behind the window reads as a shorter one: "1e" as 1. This many characters tell.
_NUMBERS_TAIL = 4


class _Window:
    """A part of a text file, from the row that is read now on, that grows as far as the row needs."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self.text, self.position, self.at_end = "", 0, False
        self.line, self.column = 1, 1  # of `position`

    def grow(self) -> None:
        """Drop what was read, and add as much as is left over (a block at least), so that a long row costs few tries.

        Never much beyond the longest row: 16 MiB of "{}," are 400 MB of objects.
        """
        rest = self.text[self.position :]
        block = self._handle.read(min(max(_BLOCK, len(rest)), max(MAX_ROW_BYTES + _BLOCK - len(rest), 1)))
        self.text, self.position, self.at_end = rest + block, 0, not block

    def place(self, position: int) -> tuple[int, int]:
        """Line and column of a position at or behind the present one."""
        lines = self.text.count("\n", self.position, position)
        if not lines:
            return self.line, self.column + position - self.position
        return self.line + lines, position - self.text.rfind("\n", self.position, position)

    def move(self, position: int) -> None:
        self.line, self.column = self.place(position)
        self.position = position

    def skip_space(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.position)
            self.move(match.end() if match else self.position)
            if self.position < len(self.text) or self.at_end:
                return self.text[self.position : self.position + 1]
            self.grow()

    def take(self, decoder: json.JSONDecoder) -> tuple[object, str]:
        """The value here, and its text. Fault: there is none, or it is too long."""
        while True:
            short = len(self.text) - self.position <= MAX_ROW_BYTES and not self.at_end
            try:
                value, end = decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                if short:
                    self.grow()
                    continue
                if not self.at_end:
                    raise Fault(
                        "size",
                        f"broken JSON, or a row of more than {MAX_ROW_BYTES:,} bytes (the most that is read); "
                        "save the list as JSON Lines, one row a line; the rest was not read",
                    ) from error
                line, column = self.place(error.pos)
                raise _AtLine(line, f"broken JSON: {error.msg} at column {column}; the rest was not read") from error
            except (ValueError, RecursionError) as error:
                raise Fault("json", f"broken JSON: {error}; the rest was not read") from error
            if end > len(self.text) - _NUMBERS_TAIL and not self.at_end:
                self.grow()
                continue
            return value, self.text[self.position : end]


class _AtLine(Fault):
    """Broken JSON further down than the row's first line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__("json", reason)
        self.line = line


def _json_list(file: Path) -> Iterator[Record]:
    """Element by element, so that each has its line. After broken JSON the rest cannot be told apart: reading ends."""
    decoder = json.JSONDecoder()
    with _read_text(file, newline="\n") as (handle, tell):
        window = _Window(handle)

        def record(line: int, row: object) -> Record:
            return record_of(file, line, row, tell())

        window.skip_space()
        window.move(window.position + 1)  # past "["
        more = window.skip_space() != "]"
        while more:
            line = window.line
            try:
                row, text = window.take(decoder)
            except _AtLine as fault:
                yield record(fault.line, fault)
                return
            except Fault as fault:
                yield record(line, fault)
                return
            yield record(*_checked(row, text, line))
            window.move(window.position + len(text))
            row = text = None  # or two long rows would be held
            more = window.skip_space() == ","
            if more:
                window.move(window.position + 1)
                window.skip_space()
        if window.skip_space() != "]":
            fault = Fault("json", "broken JSON: ',' or ']' expected after this row; the rest was not read")
            yield record(window.line, fault)
            return
        window.move(window.position + 1)
        if window.skip_space():
            fault = Fault("json", "broken JSON: more follows after the list's ']'; the rest was not read")
            yield record(window.line, fault)


def _checked(row: object, text: str, line: int) -> tuple[int, object]:
    """The row and its line, or what is wrong with its text, and where."""
    if (size := _bytes(text)) > MAX_ROW_BYTES:
        return line, _too_long(size)
    if not text.isascii() and not_utf8(text):
        for number, part in enumerate(text.split("\n"), start=line):
            if fault := not_utf8(part):
                return number, fault
    try:
        return line, parse_again(text) if may_be_doubled(row, text) else row
    except (ValueError, RecursionError) as error:
        return line, Fault("json", f"broken JSON: {error}")


def _bytes(text: str) -> int:
    """A text's bytes in UTF-8, counted only where they could matter."""
    if text.isascii() or len(text) * 4 <= MAX_ROW_BYTES:
        return len(text)
    return len(text.encode("utf-8", "surrogateescape"))


# --- CSV and TSV ---


def _delimited(file: Path) -> Iterator[Record]:
    known = file.suffix.lower() in {".csv", ".tsv"}
    found: list[str] = []
    broken: tuple[int, Fault] | None = None
    for delimiter in "\t,;" if file.suffix.lower() == ".tsv" else ",\t;":
        with _read_text(file, newline="") as (handle, _):
            line, header = next(_cells(handle, delimiter), (1, []))
        if isinstance(header, Fault):
            broken = broken or (line, header)
            if header.kind == "size":  # with another delimiter it is no shorter
                break
            continue
        names = [name.strip().casefold() for name in header]
        if schema_of(names):
            return _delimited_rows(file, delimiter, names)
        if any(names) and len(names) > len(found):
            found = names
    if broken and not found:
        return iter([record_of(file, broken[0], broken[1], _size(file))])
    if not found:
        return iter([])
    if known:
        return iter([record_of(file, 1, unknown_schema(found), _size(file))])
    raise DataError(
        "the format of this file cannot be told",
        where=file,
        expected="JSON Lines, a JSON list, CSV or TSV with a header, Parquet or Arrow",
        got=f"a text file opening with {', '.join(found)[:80]!r}",
        next_step="save its rows as JSON Lines, or name the columns in a header",
    )


def _size(file: Path) -> int:
    return file.stat().st_size


def _delimited_rows(file: Path, delimiter: str, names: list[str]) -> Iterator[Record]:
    twice = sorted({name for name in names if name in FIELDS and names.count(name) > 1})
    if twice:
        yield record_of(file, 1, Fault("schema", f"columns named twice: {', '.join(twice)}"), _size(file))
        return
    with _read_text(file, newline="") as (handle, tell):
        header_seen = False
        for line, cells in _cells(handle, delimiter):
            if isinstance(cells, Fault):
                row: object = cells
            elif not header_seen:
                header_seen = True
                continue
            elif len(cells) != len(names):
                row = Fault("format", f"{len(names)} columns expected, got {len(cells)}")
            else:
                row = dict(zip(names, cells, strict=True))
            yield record_of(file, line, row, tell())


class _Lines:
    """Lines for a csv reader: it may ask for the next after one was too long, so this is no generator."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self.count = 0
        self.row_bytes = 0  # since the row opened
        self.bad: list[tuple[int, Fault]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._handle.readline(MAX_ROW_BYTES + 3)  # the most, what ends it, and one more to know it is longer
        if not line:
            raise StopIteration
        self.count += 1
        self.row_bytes += _bytes(line)
        if self.row_bytes > MAX_ROW_BYTES + 2:  # but for what ends it
            while not line.endswith(("\n", "\r")) and (line := self._handle.readline(_BLOCK)):
                self.row_bytes += len(line)
            raise _too_long(self.row_bytes)
        if fault := not_utf8(line):
            self.bad.append((self.count, fault))
        return line


def _cells(handle: IO[str], delimiter: str) -> Iterator[tuple[int, list[str] | Fault]]:
    """Rows with the line each opens on. `strict`: else a quote never closed would swallow the rest unsaid.

    A row that is too long ends where it became so, and the next line is read as a row of its own: so of a file with
    such a quote no more than MAX_ROW_BYTES are lost.
    """
    lines = _Lines(handle)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        opened, lines.row_bytes = lines.count + 1, 0
        row: list[str] | Fault | None
        limit = csv.field_size_limit(_CSV_FIELD_LIMIT)  # module-wide, so put back before anyone else runs
        try:
            row = next(reader, None)
        except csv.Error as error:
            row = Fault("format", f"broken CSV: {error}")
        except Fault as fault:
            row = fault
        finally:
            csv.field_size_limit(limit)
        if isinstance(row, Fault) and row.kind == "size":
            lines.bad.clear()
            yield opened, row
        elif lines.bad:
            yield from lines.bad
            lines.bad.clear()
        elif row:
            yield opened, row
        if row is None:
            return
