"""The ledger: what was done to the stack and when, one JSON object a line, each bound to the line before by its hash.

An entry carries `entry` (1, 2, ...), `previous` (SHA-256 of the line before without its newline, zeros for the
first), `time` and `transaction` (how many entries were committed when its writer began). The manifest's LedgerHead
marks the committed part. What lies beyond it was left by a killed writer: readers ignore it, the next writer cuts it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crma.errors import StackCorruptError
from crma.stack.files import encode_json, read_bytes, sync_folder, write_all, write_refused
from crma.stack.layout import LedgerHead

__all__ = ["EMPTY", "append", "check_entry", "check_tail", "cut_tail", "encode_entries", "read_ledger"]

EMPTY = LedgerHead(entries=0, size=0, sha256="0" * 64)

_OURS = frozenset({"entry", "previous", "time", "transaction"})


def check_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `entry` as JSON keeps it; ValueError or TypeError where it could not be written."""
    if not isinstance(entry.get("kind"), str):
        raise ValueError("a ledger entry needs a kind, such as {'kind': 'learn'}")
    if clash := sorted(_OURS & entry.keys()):
        raise ValueError(f"the ledger itself fills in {', '.join(clash)}")
    return json.loads(encode_json(dict(entry)))


def encode_entries(head: LedgerHead, entries: Iterable[Mapping[str, Any]], *, time: str) -> tuple[bytes, LedgerHead]:
    """The lines that follow `head`, and the head they lead to."""
    data = b""
    number, size, sha256 = head.entries, head.size, head.sha256
    for entry in entries:
        number += 1
        ours = {"entry": number, "previous": sha256, "time": time, "transaction": head.entries}
        line = encode_json(ours | dict(entry), indent=None)
        sha256 = hashlib.sha256(line).hexdigest()
        size += len(line) + 1
        data += line + b"\n"
    return data, LedgerHead(entries=number, size=size, sha256=sha256)


def append(path: Path, head: LedgerHead, data: bytes) -> None:
    """Write `data` durably behind the committed part, over whatever tail is there."""
    try:
        new = not path.exists()
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
        try:
            os.ftruncate(descriptor, head.size)
            os.lseek(descriptor, head.size, os.SEEK_SET)
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(path.parent)
    except OSError as error:
        raise write_refused(path, error, needed=len(data)) from error


def cut_tail(path: Path, head: LedgerHead) -> None:
    """Drop what lies beyond the committed part."""
    try:
        if path.stat().st_size > head.size:
            os.truncate(path, head.size)
    except OSError as error:
        raise write_refused(path, error) from error


def read_ledger(path: Path, head: LedgerHead) -> tuple[dict[str, Any], ...]:
    """The committed entries, oldest first; StackCorruptError where one was cut, edited, moved or removed."""
    data = read_bytes(path)
    if len(data) < head.size:
        raise _corrupt(path, f"at least {head.size} bytes", f"{len(data)} bytes")
    lines = data[: head.size].split(b"\n")
    if lines.pop() != b"" or len(lines) != head.entries:
        raise _corrupt(path, f"{head.entries} lines in {head.size} bytes", f"{len(lines)} whole lines")
    entries: list[dict[str, Any]] = []
    previous = EMPTY.sha256
    for number, line in enumerate(lines, start=1):
        entry = _parse(line)
        if entry is None or entry.get("entry") != number or entry.get("previous") != previous:
            raise _corrupt(path, f"line {number} to be entry {number}, bound to {previous}", line[:200])
        entries.append(entry)
        previous = hashlib.sha256(line).hexdigest()
    if previous != head.sha256:
        raise _corrupt(path, f"a last line of SHA-256 {head.sha256}", f"SHA-256 {previous}")
    return tuple(entries)


def check_tail(path: Path, head: LedgerHead) -> None:
    """Raise StackCorruptError where the tail is more than one killed writer could leave.

    Each writer cuts the tail before it begins, so a tail's entries all began at this head. Others were once
    committed: then the manifest is the older one, and cleaning by it would delete what was learnt since.
    """
    for line in read_bytes(path)[head.size :].split(b"\n")[:-1]:
        entry = _parse(line)
        if entry is not None and entry.get("transaction") != head.entries:
            raise StackCorruptError(
                "the manifest is older than the ledger: to write now would delete what was learnt since",
                where=path,
                expected=f"no committed entry after the {head.entries} the manifest knows",
                got=f"entry {entry.get('entry')} ({entry.get('kind')}) of {entry.get('time')}",
                next_step="restore the newest manifest.json, or the whole folder from one backup",
            )


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _corrupt(path: Path, expected: str, got: object) -> StackCorruptError:
    return StackCorruptError(
        "the ledger was cut or edited",
        where=path,
        expected=expected,
        got=got,
        next_step="restore ledger.jsonl from a backup; the adapters themselves can still be read",
    )
