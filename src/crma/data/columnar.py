"""Parquet and Arrow: a table becomes records, a slice of a few megabytes at a time.

A small file can decode to far more than there is memory: a string that is kept once and named by every row, zeros that
compress to nothing. So nothing is decoded before it is known how much it will be (from the headers of Parquet's pages
and of Arrow's messages, which say what the decoder will ask for), dictionaries are kept as such, and rows become Python
objects only in slices, by their decoded sizes. What an honest writer leaves undone, tables beyond these bounds, is
refused with how to write them anew.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crma.data.ipc import check_messages
from crma.data.pages import Group, groups_of, pages_of
from crma.data.rows import FIELDS, Fault, Record, record_of, schema_of, unknown_schema
from crma.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["read_arrow", "read_parquet"]

# A page is in memory whole, and its longest values once more. Polars writes pages of 1 MB, DuckDB of up to 100 MB, and
# pyarrow of 1 MB or 1024 values, whichever is more.
_MAX_PAGE_BYTES = 256 * 2**20
_MAX_PAGE_VALUES = 2**26
_MAX_DICTIONARY_VALUES = 2**25  # looked up in one batch: 8 bytes each
_MAX_FIXED_BYTES = 4096  # of a column of fixed width, in which a null is as wide as a value
_BATCH_BYTES = 32 * 2**20
_BATCH_ROWS = 16384
_SLICE_ROWS = 1024
_BUFFER = 2**20

_REWRITE = "save it as JSON Lines, or with less in one page or batch (pyarrow: write_batch_size, max_chunksize)"


def read_parquet(file: Path, most: int) -> Iterator[Record]:
    """`most`: bytes of one row; a longer one is a fault."""
    import pyarrow.parquet as pq

    size = file.stat().st_size
    with _damage(file), file.open("rb") as handle:
        with pq.ParquetFile(file) as table:
            names, metadata = table.schema_arrow.names, table.metadata
            leaves = [table.schema.column(i) for i in range(len(table.schema))]
        groups = groups_of(handle, size)
        wanted = [i for i, leaf in enumerate(leaves) if leaf.path.split(".")[0] in FIELDS]  # of messages several
        if any(len(group.columns) != len(leaves) for group in groups):
            raise ValueError("a row group lacks columns")
        for i in wanted:
            if leaves[i].length > _MAX_FIXED_BYTES:
                raise _too_large(file, f"column {leaves[i].path}", leaves[i].length)
        if schema_of(names) is None:
            yield record_of(file, 1, unknown_schema(names), size)
            return
        columns = [name for name in FIELDS if name in names]
        named = sorted({leaves[i].path for group in groups for i in wanted if group.columns[i].named})
        number = end = 0
        # Without pre_buffer and with a buffer: else the whole row group is in memory, which may be the whole file.
        with pq.ParquetFile(
            file, metadata=metadata, read_dictionary=named, pre_buffer=False, buffer_size=_BUFFER
        ) as table:
            for index, group in enumerate(groups):
                end += group.size
                rows = _rows_at_once(file, handle, group, wanted)
                for batch in table.iter_batches(rows, row_groups=[index], columns=columns, use_threads=False):
                    for row in _rows_of(batch, most):
                        number += 1
                        yield record_of(file, number, row, min(end, size))


def _rows_at_once(file: Path, handle: IO[bytes], group: Group, wanted: list[int]) -> int:
    """How many rows of a row group may be decoded together, by the page whose values are longest."""
    least = _BATCH_ROWS
    for column in (group.columns[i] for i in wanted):
        per_row = max(1.0, column.values / max(1, group.rows))  # a list has several values a row
        for page in pages_of(handle, column):
            if page.decoded > _MAX_PAGE_BYTES:
                raise _too_large(file, f"a page of column {column.path}", page.decoded)
            if page.values > _MAX_PAGE_VALUES:
                raise _too_large(file, f"a page of column {column.path}", page.values, "values")
            if not page.is_dictionary:
                # Where a text is kept without what it begins with as the one before, each may be as long as the page.
                values = 1 if column.repeats else max(1, page.values)
                least = min(least, int(_BATCH_BYTES / max(1.0, page.decoded / values * per_row)))
    return max(1, least)


def read_arrow(file: Path, most: int, *, stream: bool) -> Iterator[Record]:
    """`most`: bytes of one row; a longer one is a fault."""
    import pyarrow as pa

    size = file.stat().st_size
    with _damage(file):
        with file.open("rb") as handle:
            too_large = check_messages(handle, 0 if stream else 8, size)
        if too_large:
            raise _too_large(file, "a batch of rows", too_large)
        # Read, not mapped: a mapped file that another process cuts short kills this one (SIGBUS).
        with pa.OSFile(str(file)) as source:
            batches = None if stream else pa.ipc.open_file(source).num_record_batches
            # As a stream, whose messages were checked: a file's table of contents may name others.
            source.seek(0 if stream else 8)
            reader = pa.ipc.open_stream(source)
            names = reader.schema.names
            if schema_of(names) is None:
                yield record_of(file, 1, unknown_schema(names), size)
                return
            number = seen = 0
            for batch in reader:
                seen += 1
                end = source.tell()
                batch.validate()
                for row in _rows_of(batch.select([name for name in FIELDS if name in names]), most):
                    number += 1
                    yield record_of(file, number, row, min(end, size))
            if batches is not None and seen != batches:
                raise ValueError(f"{seen} of {batches} batches found")


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """What pyarrow raises of a file that is damaged, or was written by an enemy."""
    import pyarrow as pa

    try:
        yield
    except DataError:
        raise
    except OSError as error:
        if error.errno:  # the system's; those without a number are pyarrow's
            raise
        raise _unreadable(file, error) from error
    except MemoryError as error:
        raise DataError(
            "this file is damaged, or needs more memory than there is", where=file, got=str(error), next_step=_REWRITE
        ) from error
    except (
        pa.ArrowException,
        ArithmeticError,
        AttributeError,
        LookupError,
        NotImplementedError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(
        "this file is damaged", where=file, got=str(error)[:500] or repr(error), next_step="fetch or write it again"
    )


def _too_large(file: Path, what: str, size: int, unit: str = "bytes") -> DataError:
    return DataError(
        "this file decodes to more than can be held",
        where=file,
        got=f"{what} with {size:,} {unit}",
        next_step=_REWRITE,
    )


# --- rows of a batch ---


def _rows_of(batch: pa.RecordBatch, most: int) -> Iterator[object]:
    """Rows as mappings, converted in slices that are no longer than one row may be."""
    import numpy as np

    if not batch.num_rows:
        return
    ends = np.zeros(batch.num_rows + 1, np.int64)
    for column in batch.columns:
        at = _cumulative(column)(np.arange(batch.num_rows + 1, dtype=np.int64))
        ends += np.minimum.accumulate(np.minimum(at, 2**60)[::-1])[::-1]
    long = np.flatnonzero(np.diff(ends) > most)
    start = 0
    while start < batch.num_rows:
        next_long = int(long[np.searchsorted(long, start)]) if len(long) and long[-1] >= start else batch.num_rows
        if start == next_long:
            yield Fault(
                "size",
                f"this row is {int(ends[start + 1] - ends[start]):,} bytes long; at most {most:,} are read; "
                "split it into several rows, or delete it",
            )
            start += 1
            continue
        within = int(np.searchsorted(ends, ends[start] + most, "right")) - 1
        stop = min(max(start + 1, within), start + _SLICE_ROWS, next_long)
        yield from _objects(batch.slice(start, stop - start))
        start = stop


def _objects(piece: pa.RecordBatch) -> Iterator[object]:
    try:
        rows = _rows(piece)
    except (UnicodeDecodeError, OverflowError, RecursionError, ValueError):
        rows = (_row_or_fault(piece.slice(i, 1)) for i in range(piece.num_rows))
    yield from rows


def _rows(piece: pa.RecordBatch) -> list[dict[str, Any]]:
    names = piece.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*map(_values, piece.columns), strict=True)]


def _values(array: Any) -> list[Any]:
    """What `to_pylist` gives, but each value of a dictionary is decoded once: of a chat of four messages in
    Parquet that saves 8 of 25 µs."""
    import numpy as np
    import pyarrow as pa

    if isinstance(array, pa.DictionaryArray):
        given = array.indices.drop_null().to_numpy(zero_copy_only=False)
        used, place = np.unique(given, return_inverse=True)
        decoded = _values(array.dictionary.take(pa.array(used)))
        found = iter([decoded[i] for i in place.tolist()])
        return [next(found) if valid else None for valid in array.indices.is_valid().to_pylist()]
    if isinstance(array, pa.StructArray):
        names = [field.name for field in array.type]
        if not names or len(set(names)) < len(names):
            return array.to_pylist()
        children = [_values(array.field(i)) for i in range(len(names))]
        rows: list[Any] = [dict(zip(names, row, strict=True)) for row in zip(*children, strict=True)]
    elif isinstance(array, pa.ListArray | pa.LargeListArray):
        ends = array.offsets.to_pylist()
        first = ends[0]
        below = _values(array.values.slice(first, ends[-1] - first))
        rows = [below[start - first : end - first] for start, end in pairwise(ends)]
    else:
        return array.to_pylist()
    if not array.null_count:
        return rows
    return [row if valid else None for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)]


def _row_or_fault(piece: pa.RecordBatch) -> object:
    try:
        return _rows(piece)[0]
    except UnicodeDecodeError as error:
        return Fault("encoding", f"not UTF-8: {error.reason}")
    except (OverflowError, RecursionError, ValueError) as error:  # a time beyond Python's, lists in lists in lists
        return Fault("format", f"a value that cannot be read: {str(error)[:200]}")


# --- sizes ---

_Cumulative = Callable[["np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"]


def _cumulative(array: Any) -> _Cumulative:
    """Decoded bytes of the elements before each of the given positions, without decoding one.

    A function of positions, since a list of a billion booleans is 128 MB, and a size for each would be 8 GB. Each
    element of a list counts 8 bytes more: its Python object takes room however short it is. Offsets are checked, for
    pyarrow follows them unchecked.

    Raises:
        ValueError: offsets lead outside of the array, or the type is one whose sizes cannot be told.
    """
    import numpy as np
    import pyarrow as pa

    kind = array.type
    is_of = pa.types
    if isinstance(array, pa.ExtensionArray):
        return _cumulative(array.storage)
    if is_of.is_dictionary(kind):
        return _of_dictionary(array)
    if is_of.is_string(kind) or is_of.is_binary(kind) or is_of.is_large_string(kind) or is_of.is_large_binary(kind):
        data = array.buffers()[2]
        wide = is_of.is_large_string(kind) or is_of.is_large_binary(kind)
        offsets = _offsets(array, wide, data.size if data is not None else 0)
        return lambda at: offsets[at].astype(np.int64) - int(offsets[0])
    if is_of.is_string_view(kind) or is_of.is_binary_view(kind):
        array.validate(full=True)
        views = np.frombuffer(array.buffers()[1] or b"", np.int32)[::4]
        ends = _ends(np.maximum(views[array.offset : array.offset + len(array)], 0))
        return lambda at: ends[at]
    if is_of.is_list(kind) or is_of.is_large_list(kind):
        offsets = _offsets(array, is_of.is_large_list(kind), len(array.values))
        below = _cumulative(array.values)
        return lambda at: (
            below(offsets[at].astype(np.int64)) - below(offsets[:1].astype(np.int64)) + 8 * (offsets[at] - offsets[0])
        )
    if is_of.is_fixed_size_list(kind):
        below, each, first = _cumulative(array.values), kind.list_size, array.offset
        return lambda at: below((at + first) * each) - below(np.array([first * each], np.int64)) + 8 * each * at
    if is_of.is_struct(kind):
        fields = [_cumulative(array.field(i)) for i in range(kind.num_fields)]
        return lambda at: sum((field(at) for field in fields), np.zeros(len(at), np.int64))
    if is_of.is_primitive(kind) or is_of.is_null(kind) or is_of.is_decimal(kind) or is_of.is_fixed_size_binary(kind):
        width = kind.byte_width if is_of.is_fixed_size_binary(kind) else 8
        return lambda at: at * width
    raise ValueError(f"a column of type {kind}, which no row is made of")


def _of_dictionary(array: Any) -> _Cumulative:
    import numpy as np

    if len(array) > _MAX_DICTIONARY_VALUES:
        raise ValueError(f"{len(array):,} values named by a dictionary in one batch; {_REWRITE}")
    named = np.asarray(array.indices.fill_null(0).to_numpy(zero_copy_only=False)).astype(np.int64)
    valid = np.asarray(array.indices.is_valid().to_numpy(zero_copy_only=False), bool)
    values = array.dictionary
    if (((named < 0) | (named >= len(values))) & valid).any():
        raise ValueError("a dictionary has no value that a row names")
    sizes = np.diff(_cumulative(values)(np.arange(len(values) + 1, dtype=np.int64)))
    ends = _ends(np.where(valid, sizes[named], 0) if len(values) else np.zeros(len(named), np.int64))
    return lambda at: ends[at]


def _ends(sizes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    ends = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    return ends


def _offsets(array: Any, wide: bool, end: int) -> np.ndarray[Any, Any]:
    """The offsets of a slice, which rise and stay within what they lead into."""
    import numpy as np

    buffer = array.buffers()[1]
    if buffer is None or not buffer.size:  # as an empty array may be written
        if len(array):
            raise ValueError("an array without offsets")
        return np.zeros(1, np.int64)
    offsets = np.frombuffer(buffer, np.int64 if wide else np.int32)[array.offset : array.offset + len(array) + 1]
    if len(offsets) != len(array) + 1 or offsets[0] < 0 or offsets[-1] > end or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("offsets of an array lead outside of it")
    return offsets
