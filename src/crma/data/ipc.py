"""The messages of an Arrow file or stream: how much each decodes to, before any of it is decoded.

Bodies may be compressed, each buffer opening with its length when decoded; and a batch's number of rows need not be
matched by its bytes. (FlatBuffers; https://arrow.apache.org/docs/format/Columnar.html, "Serialization and IPC".)
"""

from __future__ import annotations

import struct
from typing import IO

__all__ = ["MAX_BATCH_BYTES", "check_messages"]

# A batch is in memory whole. `datasets` writes 1,000 rows in one, Feather 65,536.
MAX_BATCH_BYTES = 512 * 2**20
_MAX_METADATA_BYTES = 64 * 2**20
_CONTINUES = 0xFFFFFFFF
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def check_messages(handle: IO[bytes], start: int, size: int) -> int:
    """Bytes of the first batch that decodes to more than MAX_BATCH_BYTES (or all dictionaries together); 0: none does.

    Raises:
        ValueError, struct.error: this is no sequence of messages.
    """
    position, dictionaries = start, 0
    while True:
        handle.seek(position)
        prefix = handle.read(8)
        if len(prefix) < 4:
            return 0  # a stream need not be ended by a mark
        length, at = struct.unpack_from("<I", prefix)[0], 4
        if length == _CONTINUES:  # as Arrow writes since 0.15
            length, at = struct.unpack_from("<I", prefix, 4)[0], 8
        if length == 0:
            return 0
        if length > min(_MAX_METADATA_BYTES, size):
            raise ValueError("a message's header is longer than the file, or than any header")
        handle.seek(position + at)
        metadata = _Table.root(handle.read(length))
        body = position + at + length
        kept = metadata.number(3, "<q")
        if kept < 0 or body + kept > size:
            raise ValueError("a message's body is longer than the file")
        kind, header = metadata.number(1, "<B"), metadata.table(2)
        if header is not None and kind in (_DICTIONARY_BATCH, _RECORD_BATCH):
            batch = header.table(1) if kind == _DICTIONARY_BATCH else header
            decoded = kept if batch is None or batch.table(3) is None else _decoded(handle, body, batch)
            if batch is not None and batch.number(0, "<q") > 8 * decoded + 8:  # a truth value is a bit
                raise ValueError("a batch claims more rows than it has bytes for")
            dictionaries += decoded if kind == _DICTIONARY_BATCH else 0
            if max(decoded, dictionaries) > MAX_BATCH_BYTES:
                return max(decoded, dictionaries)
        position = body + kept


def _decoded(handle: IO[bytes], body: int, batch: _Table) -> int:
    total = 0
    for offset, length in batch.pairs(2):
        if length >= 8:
            handle.seek(body + offset)
            (decoded,) = struct.unpack("<q", handle.read(8))
            total += length - 8 if decoded == -1 else decoded
            if decoded < -1:
                raise ValueError("a buffer of less than no bytes")
    return total


class _Table:
    """A FlatBuffers table: where its fields are stands in its vtable. struct.error where it leads outside."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._vtable = at - self._unpack("<i", at)
        self._vtable_bytes = self._unpack("<H", self._vtable)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _unpack(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("a table leads outside of its message")
        return struct.unpack_from(form, self._data, at)[0]

    def _field(self, index: int) -> int:
        """Where field `index` is; 0: it is not given."""
        entry = 4 + 2 * index
        offset = self._unpack("<H", self._vtable + entry) if entry < self._vtable_bytes else 0
        return self._at + offset if offset else 0

    def number(self, index: int, form: str) -> int:
        at = self._field(index)
        return self._unpack(form, at) if at else 0

    def table(self, index: int) -> _Table | None:
        at = self._field(index)
        return _Table(self._data, at + self._unpack("<I", at)) if at else None

    def pairs(self, index: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit numbers."""
        at = self._field(index)
        if not at:
            return []
        at += self._unpack("<I", at)
        count = self._unpack("<I", at)
        if at + 4 + 16 * count > len(self._data):
            raise ValueError("a vector is longer than its message")
        return [struct.unpack_from("<qq", self._data, at + 4 + 16 * i) for i in range(count)]
