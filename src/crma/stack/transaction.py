"""A change of a stack, all of it or none; `crma.stack.stack` has the order of a commit."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from crma.errors import BaseMismatchError, StackError, StackLockedError, StackWriteError
from crma.stack import files, ledger
from crma.stack.folder import inside, remove_empty_folders
from crma.stack.layout import LEDGER, LOCK, MANIFEST, FileRecord, Manifest, check_path, crma_version, timestamp
from crma.stack.manifest import decode_manifest, encode_manifest, faults_of, publish, write_copy

__all__ = ["Transaction"]

_CHANGEABLE = frozenset({"base", "backbone", "head", "snapshots", "domains", "router"})


class Transaction:
    """What one writer adds and removes; made, and committed or undone, by Stack.transaction()."""

    def __init__(self, root: Path, manifest: Manifest, data: bytes) -> None:
        self.manifest = manifest  # as it is on disk now, under the lock: build updates from this one
        self._root = root
        self._before = data
        self._after: bytes | None = None
        self._written: dict[str, FileRecord] = {}
        self._touched: list[Path] = []
        self._removed: dict[str, FileRecord] = {}
        self._changes: dict[str, Any] = {}
        self._entries: list[dict[str, Any]] = []
        self._open = True

    def write_tensors(
        self, relpath: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
    ) -> FileRecord:
        return self._write(relpath, files.encode_tensors(tensors, metadata))

    def write_json(self, relpath: str, value: Any) -> FileRecord:
        return self._write(relpath, files.encode_json(value) + b"\n")

    def write_lines(self, relpath: str, values: Iterable[Any]) -> FileRecord:
        return self._write(relpath, files.encode_lines(values))

    def fresh_path(self, relpath: str) -> str:
        """`relpath`, or `relpath.2`, `.3`, ... where the manifest or this transaction has used it."""
        used = {"/".join(path.casefold().split("/")[: relpath.count("/") + 1]) for path in self._known()}
        candidate, number = check_path(relpath), 1
        while candidate.casefold() in used:
            number += 1
            candidate = f"{relpath}.{number}"
        return candidate

    def remove(self, relpath: str) -> None:
        """Take a file or folder out of the manifest; the disk gives it up once that is committed."""
        self._check_open()
        named = self.manifest.files_in(check_path(relpath))
        if not named:
            raise StackError("the stack's manifest names no such file or folder", where=self._root, got=repr(relpath))
        self._removed |= named

    def update(self, **changes: Any) -> None:
        """Set fields of the manifest: base, backbone, head, snapshots, domains, router."""
        self._check_open()
        if foreign := sorted(changes.keys() - _CHANGEABLE):
            raise TypeError(f"{', '.join(foreign)}: only {', '.join(sorted(_CHANGEABLE))} can be updated")
        base = changes.get("base", self.manifest.base)
        if base.weights_sha256 != self.manifest.base.weights_sha256:
            raise BaseMismatchError(
                "a stack keeps the base it was taught on",
                where=self._root,
                expected=f"weights of SHA-256 {self.manifest.base.weights_sha256}",
                got=base.weights_sha256,
                next_step="create another stack for the other base",
            )
        self._changes |= changes

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append to the ledger, at the commit: {'kind': 'learn', 'domain': ..., ...}."""
        self._check_open()
        self._entries.append(ledger.check_entry(entry))

    def _known(self) -> set[str]:
        return self.manifest.files.keys() | self._written.keys()

    def _check_open(self) -> None:
        if not self._open:
            raise StackError("this transaction has ended", where=self._root, next_step="begin another")

    def _write(self, relpath: str, data: bytes) -> FileRecord:
        self._check_open()
        path = inside(self._root, relpath)
        if relpath.casefold() in {known.casefold() for known in self._known()}:
            raise StackError(
                "a file of the stack never changes",
                where=path,
                expected="a path that is not taken",
                next_step=f"write to another, such as {self.fresh_path(relpath)!r}, and remove() this one",
            )
        self._touched.append(path)
        files.make_folder(path.parent)
        record = files.write_bytes_atomic(path, data)
        self._written[relpath] = record
        return record

    def commit(self) -> None:
        if not (self._written or self._removed or self._changes or self._entries):
            return
        time = timestamp()
        # At least one entry a commit: the ledger's length then tells which of two manifests is the older.
        entries = self._entries or [{"kind": "change", "written": [*self._written], "removed": [*self._removed]}]
        lines, head = ledger.encode_entries(self.manifest.ledger, entries, time=time)
        kept = {path: record for path, record in self.manifest.files.items() if path not in self._removed}
        fields = dict(self.manifest) | self._changes
        fields |= {"files": kept | self._written, "ledger": head, "changed": time, "crma_version": crma_version()}
        try:
            data = encode_manifest(Manifest.model_validate(fields))
            decode_manifest(self._root / MANIFEST, data)  # what a reader could not read is not committed
        except ValidationError as error:
            raise StackError(
                "this change would leave a stack that does not hold together; nothing was changed",
                where=self._root,
                got=faults_of(error),
                next_step="update() the records together with the files they refer to",
            ) from error
        if files.read_bytes(self._root / MANIFEST) != self._before:
            raise StackLockedError(
                "another process changed the stack under our lock; nothing of ours was changed",
                where=self._root,
                next_step=f"let nobody delete {LOCK} while a writer runs, then run the same command again",
            )
        self._after = data
        publish(self._root, data, self.manifest.ledger, lines)

    def roll_back(self) -> None:
        """Undo, unless the commit point was passed: then the manifest names our files, and they stay."""
        try:
            on_disk = (self._root / MANIFEST).read_bytes()
        except OSError:
            return  # which state holds is not known: the next writer sees, and cleans
        if on_disk != self._before:
            return
        for path in self._touched:
            with contextlib.suppress(OSError):
                os.unlink(path)
        remove_empty_folders(self._root)
        with contextlib.suppress(StackWriteError):
            ledger.cut_tail(self._root / LEDGER, self.manifest.ledger)

    def close(self) -> None:
        self._open = False

    def finish(self) -> None:
        """Delete what the committed manifest no longer names. The next writer completes what fails here."""
        if self._after is None:
            return
        remaining = []
        for relpath in self._removed:
            try:
                os.unlink(inside(self._root, relpath))
            except FileNotFoundError:
                pass
            except (OSError, StackError) as error:
                remaining.append(f"{relpath}: {error}")
        remove_empty_folders(self._root)
        write_copy(self._root, self._after)
        if remaining:
            warnings.warn(
                f"removed from the stack, but still on the disk until the next writer: {'; '.join(remaining)}",
                RuntimeWarning,
                stacklevel=4,
            )
