"""Durable reads and writes: a file is whole and on the disk, or it is as it was before."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from crma.errors import StackCorruptError, StackError, StackWriteError
from crma.stack.layout import TEMPORARY, FileRecord

__all__ = [
    "check_bytes",
    "encode_json",
    "encode_lines",
    "encode_tensors",
    "make_folder",
    "parse_json",
    "parse_lines",
    "parse_tensors",
    "read_bytes",
    "read_json",
    "read_tensors",
    "record_of",
    "sha256_of",
    "sync_folder",
    "write_all",
    "write_bytes_atomic",
    "write_json",
    "write_refused",
    "write_temporary",
    "write_tensors",
]

# Those that safetensors reads back with numpy alone.
_DTYPES = frozenset(
    {"bool", "float16", "float32", "float64"}
    | {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
)

_NEXT_STEP = {
    errno.ENOSPC: "free that much on this disk, or move the stack to another, then run the same command again",
    errno.EDQUOT: "free some of your quota on this disk, or move the stack, then run the same command again",
    errno.EFBIG: "raise the limit on a file's size (ulimit -f), or use another file system",
    errno.EACCES: "give this user the right to write there, then run the same command again",
    errno.EPERM: "give this user the right to write there, then run the same command again",
    errno.EROFS: "mount this disk for writing, or copy the stack to one that can be written",
}


def write_refused(path: Path, error: OSError, *, needed: int | None = None) -> StackWriteError:
    """The StackWriteError that tells what the system refused."""
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
    sizes = [f"{needed} bytes needed"] if needed is not None else []
    sizes += [f"{free} bytes free"] if free is not None else []
    return StackWriteError(
        "a write was refused; nothing was changed",
        where=path,
        expected="; ".join(sizes) or None,
        got=f"{error.strerror or error} [{errno.errorcode.get(error.errno or 0, error.errno)}]",
        next_step=_NEXT_STEP.get(error.errno or 0, "check the disk, then run the same command again"),
    )


# Writing


def write_bytes_atomic(path: Path, data: bytes) -> FileRecord:
    """Write `path` whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    temporary = write_temporary(path, data)
    try:
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_refused(path, error, needed=len(data)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return record_of(data)


def write_temporary(path: Path, data: bytes) -> Path:
    """Put `data` durably in a new file beside `path`, to be renamed to it."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise write_refused(path, error, needed=len(data)) from error
        raise
    return temporary


def write_all(descriptor: int, data: bytes) -> None:
    """os.write may take less than it was given, as it does when a disk fills."""
    rest = memoryview(data)
    while rest:
        written = os.write(descriptor, rest)
        if written == 0:
            raise OSError(errno.EIO, "the system took no bytes")
        rest = rest[written:]


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    if os.name == "nt":  # Windows opens no folders, and journals renames itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, durably."""
    missing = []
    while not folder.is_dir():
        if folder.exists():
            raise StackError(
                "a folder cannot be made here",
                where=folder,
                expected="a folder, or a name that is free",
                got="a file",
                next_step="name another folder, or move the file away",
            )
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(each)
            sync_folder(each.parent)
        except OSError as error:
            raise write_refused(each, error) from error


def encode_json(value: Any, *, indent: int | None = 2) -> bytes:
    """UTF-8 with sorted keys; NaN and infinities are refused (ValueError), since JSON has none."""
    options: dict[str, Any] = {"indent": indent, "sort_keys": True, "allow_nan": False}
    try:
        return json.dumps(value, ensure_ascii=False, **options).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can hold
        return json.dumps(value, ensure_ascii=True, **options).encode("ascii")


def encode_lines(values: Iterable[Any]) -> bytes:
    return b"".join(encode_json(value, indent=None) + b"\n" for value in values)


def encode_tensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Safetensors bytes that depend on names, shapes, types, values and metadata alone."""
    # safetensors takes the memory of an array as it lies: a transposed one would silently be written wrong.
    arrays = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    foreign = {name: str(array.dtype) for name, array in arrays.items() if array.dtype.name not in _DTYPES}
    if foreign:
        raise TypeError(f"tensors of these types cannot be read back with numpy; cast them first: {foreign}")
    data = safetensors.numpy.save(arrays, dict(metadata) if metadata else None)
    # Its header keeps metadata in the order of a randomly seeded hash map: two equal saves would differ.
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def write_json(path: Path, value: Any) -> FileRecord:
    return write_bytes_atomic(path, encode_json(value) + b"\n")


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> FileRecord:
    return write_bytes_atomic(path, encode_tensors(tensors, metadata))


# Reading


def record_of(data: bytes) -> FileRecord:
    return FileRecord(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, 64 hexadecimal digits."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> StackError:
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return StackCorruptError(
            "a file of the stack is missing", where=path, got=error.strerror, next_step="restore it from a backup"
        )
    return StackError(
        "a file of the stack cannot be read",
        where=path,
        got=error.strerror or error,
        next_step="check the disk and the rights of this user, then run the same command again",
    )


def check_bytes(path: Path, data: bytes, record: FileRecord, *, verify: bool = True) -> None:
    """Raise StackCorruptError unless `data` has the size and, where `verify`, the SHA-256 of `record`."""
    if len(data) != record.size:
        raise _corrupt(path, f"{record.size} bytes", f"{len(data)} bytes")
    if verify and (found := hashlib.sha256(data).hexdigest()) != record.sha256:
        raise _corrupt(path, f"SHA-256 {record.sha256}", f"SHA-256 {found}")


def parse_json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, "JSON in UTF-8", f"{len(data)} bytes that are not: {error}") from error


def parse_lines(path: Path, data: bytes) -> list[Any]:
    if data and not data.endswith(b"\n"):
        raise _corrupt(path, "whole lines", "a last line that is cut")
    return [parse_json(path, line) for line in data.split(b"\n")[:-1]]


def parse_tensors(path: Path, data: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _corrupt(path, "whole safetensors", f"{len(data)} bytes that are not: {error}") from error


def _corrupt(path: Path, expected: str, got: str) -> StackCorruptError:
    return StackCorruptError(
        "a file of the stack was cut or changed after it was written",
        where=path,
        expected=expected,
        got=got,
        next_step="restore it from a backup",
    )


def read_json(path: Path) -> Any:
    return parse_json(path, read_bytes(path))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    return parse_tensors(path, read_bytes(path))
