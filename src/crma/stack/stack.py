"""A stack: the folder that keeps what was learnt, through kills, full disks, damaged files and second writers.

    with stack.transaction() as tx:
        tx.write_tensors("adapters/medicine/adapter_model.safetensors", tensors)
        tx.update(domains=(*tx.manifest.domains, record))
        tx.log({"kind": "learn", "domain": "medicine"})

Order of a commit: files, ledger, manifest (a rename: the commit point), deletions, copy of the manifest. Each step is
on the disk before the next begins, so a kill at any moment leaves the old state or the new one, whole, and leftovers
that the next writer removes. Readers take no lock: they hold one manifest, and the files it names never change.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crma.errors import StackCorruptError, StackError, StackLockedError
from crma.stack import files, ledger
from crma.stack.folder import Problem, check_file, check_vacant, clean, inside, leftovers, refuse_links
from crma.stack.layout import (
    FORMAT_VERSION,
    LEDGER,
    MANIFEST,
    MANIFEST_COPY,
    OWNED,
    WORK,
    BaseReference,
    Manifest,
    check_path,
    crma_version,
    timestamp,
)
from crma.stack.manifest import encode_manifest, publish, read_copy, read_manifest, write_copy
from crma.stack.transaction import Transaction
from crma.stack.writer_lock import WriterLock
from crma.types import check_domain_name

__all__ = ["Stack"]

_INCOMING = "_incoming"


class Stack:
    """A stack that is there; `create` or `open` one."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self._manifest = manifest
        self._writer = WriterLock(root)
        self._turn = threading.Lock()  # of the one transaction this object has open at a time
        self._turn_of: int | None = None  # thread

    # Opening

    @classmethod
    def exists(cls, path: str | os.PathLike[str]) -> bool:
        return (Path(path) / MANIFEST).is_file()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, base: BaseReference, backbone: dict[str, Any] | None = None
    ) -> Stack:
        """Make an empty stack at `path`, a folder that is new or holds nothing a stack would touch."""
        files.make_folder(Path(path).absolute())
        root = Path(path).resolve()
        writer = WriterLock(root)
        writer.acquire(timeout=0.0)
        try:
            check_vacant(root)
            time = timestamp()
            entry = ledger.check_entry({"kind": "create", "base": base.name, "weights_sha256": base.weights_sha256})
            lines, head = ledger.encode_entries(ledger.EMPTY, [entry], time=time)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                crma_version=crma_version(),
                created=time,
                changed=time,
                base=base,
                backbone=backbone,
                head=None,
                snapshots=(),
                domains=(),
                router=None,
                files={},
                ledger=head,
            )
            data = encode_manifest(manifest)
            publish(root, data, ledger.EMPTY, lines)
            write_copy(root, data)
        finally:
            writer.release()
        return cls.open(root)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Stack:
        root = Path(path).resolve()
        return cls(root, read_manifest(root)[0])

    @property
    def manifest(self) -> Manifest:
        """The state this object sees, until it refreshes or writes."""
        return self._manifest

    def refresh(self) -> Manifest:
        """See what other writers have committed since."""
        self._manifest = read_manifest(self.root)[0]
        return self._manifest

    # Reading

    def read_tensors(self, relpath: str, *, verify: bool = True) -> dict[str, np.ndarray]:
        return files.parse_tensors(self.root / relpath, self._read(relpath, verify=verify))

    def read_json(self, relpath: str, *, verify: bool = True) -> Any:
        return files.parse_json(self.root / relpath, self._read(relpath, verify=verify))

    def read_lines(self, relpath: str, *, verify: bool = True) -> list[Any]:
        return files.parse_lines(self.root / relpath, self._read(relpath, verify=verify))

    def path_of(self, relpath: str, *, verify: bool = True) -> Path:
        """Where a file or folder lies, for a library that reads it itself; `verify` checks every file in it first."""
        named = self.manifest.files_in(check_path(relpath))
        if not named:
            raise self._unknown(relpath)
        for each in named:
            if verify:
                self._read(each)
            else:
                inside(self.root, each)
        return self.root / relpath

    def read_ledger(self) -> tuple[dict[str, Any], ...]:
        """Every committed entry, oldest first, its chain of hashes checked."""
        return ledger.read_ledger(self.root / LEDGER, self.manifest.ledger)

    def _read(self, relpath: str, *, verify: bool = True) -> bytes:
        path = inside(self.root, relpath)
        record = self.manifest.files.get(relpath)
        if record is None:
            raise self._unknown(relpath)
        try:
            data = files.read_bytes(path)
            files.check_bytes(path, data, record, verify=verify)
        except StackCorruptError as error:
            if read_manifest(self.root)[0].files.get(relpath) != record:
                raise StackError(
                    "this file was removed from the stack since it was opened",
                    where=path,
                    next_step="refresh() the stack, or open it again",
                ) from error
            raise
        return data

    def _unknown(self, relpath: str) -> StackError:
        beside = sorted(path for path in self.manifest.files if path.split("/")[:2] == relpath.split("/")[:2])
        return StackError(
            "the stack's manifest names no such file",
            where=self.root,
            expected=", ".join(beside) or None,
            got=repr(relpath),
            next_step="refresh() the stack if another process wrote it",
        )

    def verify_files(self) -> list[Problem]:
        """Compare every file with the manifest on disk now. A writer at work shows up as unreferenced files."""
        manifest, data = read_manifest(self.root)
        problems = []
        for relpath, record in sorted(manifest.files.items()):
            problems += check_file(self.root, relpath, record)
        problems += [
            Problem(kind="unreferenced", path=path.relative_to(self.root).as_posix(), detail="not in the manifest")
            for path in sorted(leftovers(self.root, manifest))
        ]
        try:
            ledger.read_ledger(self.root / LEDGER, manifest.ledger)
            ledger.check_tail(self.root / LEDGER, manifest.ledger)
        except StackError as error:
            problems.append(Problem(kind="ledger", path=LEDGER, detail=str(error)))
        if read_copy(self.root) != data:
            problems.append(
                Problem(kind="copy", path=MANIFEST_COPY, detail="not the manifest; the next writer mends it")
            )
        return problems

    def sizes(self) -> dict[str, int]:
        """Bytes by kind: each owned folder, what describes them, and the scratch space."""
        manifest = self.manifest
        sizes = {top: sum(record.size for record in manifest.files_in(top).values()) for top in OWNED}
        sizes["ledger"] = manifest.ledger.size
        sizes["manifest"] = sum(_size(self.root / name) for name in (MANIFEST, MANIFEST_COPY))
        sizes["work"] = sum(
            _size(Path(folder, name)) for folder, _, names in os.walk(self.root / WORK) for name in names
        )
        return sizes

    # Scratch space

    def work(self, domain: str) -> Path:
        """The folder for a domain's resumable training state: no transaction publishes or cleans it."""
        folder = self._work(domain)
        files.make_folder(folder)
        return folder

    @property
    def incoming(self) -> Path:
        """The folder for rows that wait to be sorted into domains; no domain can be called so."""
        folder = self.root / WORK / _INCOMING
        refuse_links(self.root, folder)
        files.make_folder(folder)
        return folder

    def clear_work(self, domain: str) -> None:
        folder = self._work(domain)
        if folder.exists():
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise files.write_refused(folder, error) from error

    def _work(self, domain: str) -> Path:
        folder = self.root / WORK / check_domain_name(domain)
        refuse_links(self.root, folder)
        return folder

    # Writing

    @contextlib.contextmanager
    def lock(self, *, timeout: float = 0.0) -> Iterator[Stack]:
        """Be the only writer, for as long as learning takes; transactions of this object still run inside.

        Another writer is waited for `timeout` seconds (for ever where negative), then StackLockedError names it.
        """
        self._writer.acquire(timeout=timeout)
        try:
            self.refresh()
            yield self
        finally:
            self._writer.release()

    @contextlib.contextmanager
    def transaction(self, *, timeout: float = 0.0) -> Iterator[Transaction]:
        """One change, all of it or none: committed at the block's end, undone where the block raises."""
        with self.lock(timeout=timeout):
            self._take_turn(timeout)
            try:
                manifest, data = read_manifest(self.root)
                clean(self.root, manifest, data)
                tx = Transaction(self.root, manifest, data)
                try:
                    yield tx
                    tx.commit()
                except BaseException:
                    tx.roll_back()
                    with contextlib.suppress(StackError):
                        self.refresh()
                    raise
                finally:
                    tx.close()
                self.refresh()
                tx.finish()
            finally:
                self._turn_of = None
                self._turn.release()

    def _take_turn(self, timeout: float) -> None:
        nested = self._turn_of == threading.get_ident()
        if nested or not (self._turn.acquire(timeout=-1 if timeout < 0 else timeout)):
            raise StackLockedError(
                "this stack object has a transaction open already",
                where=self.root,
                got="the same thread" if nested else "another thread of this process",
                next_step="end that one first; a transaction holds no other",
            )
        self._turn_of = threading.get_ident()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
