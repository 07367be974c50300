"""The footer of a Parquet file and the headers of its pages: how much each decodes to, before any of it is decoded.

A file's footer names each column's size too, but not of its largest page, and a decoder does not ask it: what it takes
memory for stands in the page's own header (Thrift's compact protocol; https://parquet.apache.org/docs/file-format/ and
parquet.thrift there, whose numbers the fields have here).

Why not pyarrow's `metadata.row_group(i).column(j)`: of a damaged footer it ends the process (pyarrow 26, "terminate
called after throwing an instance of 'parquet::ParquetException'").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

__all__ = ["Column", "Group", "Page", "groups_of", "pages_of"]

_HEADER_BYTES = 2**13
_MAX_HEADER_BYTES = 16 * 2**20  # Arrow's own limit: a header may hold the page's least and greatest value
_MAX_FOOTER_BYTES = 64 * 2**20  # some 500,000 columns of row groups
_MAX_DEPTH = 16
_DICTIONARY_PAGE = 2
_BYTE_ARRAY = 6
_DICTIONARY_ENCODINGS = {2, 8}
_DELTA_BYTE_ARRAY = 7

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One in one row group.

    Attributes:
        path: names from the table down, joined by dots.
        named: its texts are (partly) kept once, in a dictionary.
        repeats: its texts are kept without what they begin with as the one before does.
    """

    path: str
    values: int
    start: int
    size: int
    named: bool
    repeats: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    rows: int
    size: int
    columns: tuple[Column, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    decoded: int
    values: int
    is_dictionary: bool


def groups_of(handle: IO[bytes], size: int) -> list[Group]:
    """The row groups of a file of `size` bytes.

    Raises:
        ValueError, IndexError, struct.error: the footer is damaged.
    """
    handle.seek(max(0, size - 8))
    length, magic = struct.unpack("<I4s", handle.read(8))
    if magic != b"PAR1" or length > min(size - 8, _MAX_FOOTER_BYTES):
        raise ValueError("no footer where one should be, or a footer of many megabytes")
    handle.seek(size - 8 - length)
    footer = _Compact(handle.read(length)).struct()
    return [
        Group(
            rows=_number(group, 3),
            columns=(columns := tuple(_column(_part(chunk, 3)) for chunk in _parts(group, 1))),
            size=sum(column.size for column in columns),
        )
        for group in _parts(footer, 4)
    ]


def _column(meta: Any) -> Column:
    encodings = _parts(meta, 2)
    named, start = _number(meta, 11, 0), _number(meta, 9)
    path = b".".join(name for name in _parts(meta, 3) if isinstance(name, bytes)).decode()
    return Column(
        path=path,
        values=_number(meta, 5),
        start=min((x for x in (start, named) if x > 0), default=0),  # 0 says that there is no such page
        size=_number(meta, 7),
        named=_number(meta, 1) == _BYTE_ARRAY and any(e in _DICTIONARY_ENCODINGS for e in encodings),
        repeats=_DELTA_BYTE_ARRAY in encodings,
    )


def pages_of(handle: IO[bytes], column: Column) -> Iterator[Page]:
    """Raises ValueError where there is no header where one should be."""
    position, end = column.start, column.start + column.size
    while position < end:
        header, length = _header(handle, position)
        decoded, kept = _number(header, 2), _number(header, 3)
        if decoded < 0 or kept < 0:
            raise ValueError("a page of less than no bytes")
        # Of the page's kind: data, dictionary, data in the second form; each counts its values first.
        of_kind = next((header[i] for i in (5, 7, 8) if isinstance(header.get(i), dict)), {})
        yield Page(decoded=decoded, values=_number(of_kind, 1, 0), is_dictionary=header.get(1) == _DICTIONARY_PAGE)
        position += length + kept


def _part(struct_: Any, field: int) -> dict[int, Any]:
    value = struct_.get(field) if isinstance(struct_, dict) else None
    if not isinstance(value, dict):
        raise ValueError("the footer lacks a part")
    return value


def _parts(struct_: Any, field: int) -> list[Any]:
    value = struct_.get(field) if isinstance(struct_, dict) else None
    if not isinstance(value, list):
        raise ValueError("the footer lacks a part")
    return value


def _number(struct_: Any, field: int, default: int | None = None) -> int:
    value = struct_.get(field, default) if isinstance(struct_, dict) else None
    if not isinstance(value, int):
        raise ValueError("the footer or a page's header lacks a number")
    return value


def _header(handle: IO[bytes], position: int) -> tuple[dict[int, Any], int]:
    size = _HEADER_BYTES
    while True:
        handle.seek(position)
        data = handle.read(size)
        try:
            reader = _Compact(data)
            return reader.struct(), reader.at
        except IndexError as error:
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise ValueError("a page's header is cut short") from error
            size *= 16


class _Compact:
    """Thrift's compact protocol; IndexError where the bytes end too soon."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.depth = data, 0, 0

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number that is too long")

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def take(self, length: int) -> bytes:
        start = self.at
        self.at += length
        if self.at > len(self.data):
            raise IndexError("the bytes end too soon")
        return self.data[start : self.at]

    def struct(self) -> dict[int, Any]:
        """Fields by number."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        found: dict[int, Any] = {}
        field = 0
        while (head := self.byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self.zigzag()
            kind = head & 0x0F
            found[field] = None if kind in (_TRUE, _FALSE) else self.value(kind)
        self.depth -= 1
        return found

    def value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self.zigzag()
        if kind == _BINARY:
            return self.take(self.varint())
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            head = self.byte()
            count = self.varint() if head >> 4 == 15 else head >> 4
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise ValueError("nested too deep")
            values = [self.value(head & 0x0F) for _ in range(count)]
            self.depth -= 1
            return values
        if kind == _DOUBLE:
            self.take(8)
        elif kind in (_TRUE, _FALSE, _BYTE):  # an element of a list; a field's truth stands in its kind
            self.take(1)
        else:
            raise ValueError("a kind of value that no footer and no page's header holds")
        return None
