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
import hashlib
import importlib.metadata
import os
import shutil
import socket
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
from pydantic import ValidationError

from crma.errors import (
    BaseMismatchError,
    StackCorruptError,
    StackError,
    StackLockedError,
    StackVersionError,
    StackWriteError,
)
from crma.stack import files, ledger
from crma.stack.layout import (
    FORMAT_VERSION,
    HOLDER,
    LEDGER,
    LOCK,
    MANIFEST,
    MANIFEST_COPY,
    OWNED,
    TEMPORARY,
    WORK,
    BaseReference,
    FileRecord,
    LedgerHead,
    Manifest,
    check_path,
)
from crma.types import check_domain_name

__all__ = ["Problem", "Stack", "Transaction"]

_INCOMING = "_incoming"
_CHANGEABLE = frozenset({"base", "backbone", "head", "snapshots", "domains", "router"})
_FIRST = b'{"base": '  # how a ledger begins


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A difference between what the manifest says and what the disk holds."""

    kind: Literal["missing", "size", "hash", "link", "unreadable", "unreferenced", "ledger", "copy"]
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


class Stack:
    """A stack that is there; `create` or `open` one."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self._manifest = manifest
        self._writer = _WriterLock(root)
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
        writer = _WriterLock(root)
        writer.acquire(timeout=0.0)
        try:
            _check_vacant(root)
            time = _now()
            entry = ledger.check_entry({"kind": "create", "base": base.name, "weights_sha256": base.weights_sha256})
            lines, head = ledger.encode_entries(ledger.EMPTY, [entry], time=time)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                crma_version=_crma_version(),
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
            data = _encode_manifest(manifest)
            _publish(root, data, ledger.EMPTY, lines)
            _write_copy(root, data)
        finally:
            writer.release()
        return cls.open(root)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Stack:
        root = Path(path).resolve()
        return cls(root, _read_manifest(root)[0])

    @property
    def manifest(self) -> Manifest:
        """The state this object sees, until it refreshes or writes."""
        return self._manifest

    def refresh(self) -> Manifest:
        """See what other writers have committed since."""
        self._manifest = _read_manifest(self.root)[0]
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
                _inside(self.root, each)
        return self.root / relpath

    def read_ledger(self) -> tuple[dict[str, Any], ...]:
        """Every committed entry, oldest first, its chain of hashes checked."""
        return ledger.read_ledger(self.root / LEDGER, self.manifest.ledger)

    def _read(self, relpath: str, *, verify: bool = True) -> bytes:
        path = _inside(self.root, relpath)
        record = self.manifest.files.get(relpath)
        if record is None:
            raise self._unknown(relpath)
        try:
            data = files.read_bytes(path)
            files.check_bytes(path, data, record, verify=verify)
        except StackCorruptError as error:
            if _read_manifest(self.root)[0].files.get(relpath) != record:
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
        manifest, data = _read_manifest(self.root)
        problems = []
        for relpath, record in sorted(manifest.files.items()):
            problems += _check_file(self.root, relpath, record)
        problems += [
            Problem(kind="unreferenced", path=path.relative_to(self.root).as_posix(), detail="not in the manifest")
            for path in sorted(_leftovers(self.root, manifest))
        ]
        try:
            ledger.read_ledger(self.root / LEDGER, manifest.ledger)
            ledger.check_tail(self.root / LEDGER, manifest.ledger)
        except StackError as error:
            problems.append(Problem(kind="ledger", path=LEDGER, detail=str(error)))
        if _read_copy(self.root) != data:
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
        _refuse_links(self.root, folder)
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
        _refuse_links(self.root, folder)
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
                manifest, data = _read_manifest(self.root)
                _clean(self.root, manifest, data)
                tx = Transaction(self.root, manifest, data)
                try:
                    yield tx
                    tx._commit()
                except BaseException:
                    tx._roll_back()
                    with contextlib.suppress(StackError):
                        self.refresh()
                    raise
                finally:
                    tx._close()
                self.refresh()
                tx._finish()
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


class Transaction:
    """What one writer adds and removes; made by Stack.transaction()."""

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
        path = _inside(self._root, relpath)
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

    def _commit(self) -> None:
        if not (self._written or self._removed or self._changes or self._entries):
            return
        time = _now()
        # At least one entry a commit: the ledger's length then tells which of two manifests is the older.
        entries = self._entries or [{"kind": "change", "written": [*self._written], "removed": [*self._removed]}]
        lines, head = ledger.encode_entries(self.manifest.ledger, entries, time=time)
        kept = {path: record for path, record in self.manifest.files.items() if path not in self._removed}
        fields = dict(self.manifest) | self._changes
        fields |= {"files": kept | self._written, "ledger": head, "changed": time, "crma_version": _crma_version()}
        try:
            data = _encode_manifest(Manifest.model_validate(fields))
            _decode_manifest(self._root / MANIFEST, data)  # what a reader could not read is not committed
        except ValidationError as error:
            raise StackError(
                "this change would leave a stack that does not hold together; nothing was changed",
                where=self._root,
                got=_faults(error),
                next_step="update() the records together with the files they refer to",
            ) from error
        if files.read_bytes(self._root / MANIFEST) != self._before:
            raise StackLockedError(
                "another process changed the stack under our lock; nothing of ours was changed",
                where=self._root,
                next_step=f"let nobody delete {LOCK} while a writer runs, then run the same command again",
            )
        self._after = data
        _publish(self._root, data, self.manifest.ledger, lines)

    def _roll_back(self) -> None:
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
        _remove_empty_folders(self._root)
        with contextlib.suppress(StackWriteError):
            ledger.cut_tail(self._root / LEDGER, self.manifest.ledger)

    def _close(self) -> None:
        self._open = False

    def _finish(self) -> None:
        """Delete what the committed manifest no longer names. The next writer completes what fails here."""
        if self._after is None:
            return
        remaining = []
        for relpath in self._removed:
            try:
                os.unlink(_inside(self._root, relpath))
            except FileNotFoundError:
                pass
            except (OSError, StackError) as error:
                remaining.append(f"{relpath}: {error}")
        _remove_empty_folders(self._root)
        _write_copy(self._root, self._after)
        if remaining:
            warnings.warn(
                f"removed from the stack, but still on the disk until the next writer: {'; '.join(remaining)}",
                RuntimeWarning,
                stacklevel=4,
            )


class _WriterLock:
    """One writer a stack: an operating system's lock, which dies with its holder, and a note of who that is."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._begin()

    def _begin(self) -> None:
        self._guard = threading.Lock()
        self._pid = os.getpid()
        self._depth = 0
        self._lock: filelock.BaseFileLock | None = None

    def acquire(self, *, timeout: float) -> None:
        if self._pid != os.getpid():  # a forked child does not hold what its parent holds
            self._begin()
        with self._guard:
            if self._depth == 0:
                self._take(timeout)
            self._depth += 1

    def release(self) -> None:
        with self._guard:
            self._depth -= 1
            if self._depth == 0 and self._lock is not None and self._pid == os.getpid():
                with contextlib.suppress(OSError):
                    os.unlink(self._root / HOLDER)
                self._lock.release()
                self._lock = None

    def _take(self, timeout: float) -> None:
        lock = filelock.FileLock(self._root / LOCK, thread_local=False)
        try:
            # Negative means for ever to us; filelock takes that for a sure deadlock where this process is the holder.
            lock.acquire(timeout=timeout if timeout >= 0 else threading.TIMEOUT_MAX)
        except filelock.Timeout:
            raise self._locked(timeout) from None
        except OSError as error:
            raise files.write_refused(self._root / LOCK, error) from error
        self._lock = lock
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        with contextlib.suppress(StackWriteError):  # a courtesy to others: not worth failing for on a full disk
            files.write_json(self._root / HOLDER, holder)

    def _locked(self, timeout: float) -> StackLockedError:
        try:
            holder = files.read_json(self._root / HOLDER)
            who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
            if holder["pid"] == os.getpid() and holder["host"] == socket.gethostname():
                who += " (this process, through another Stack object)"
        except (StackError, KeyError, TypeError):
            who = "a process that has not said which"
        return StackLockedError(
            "another writer has this stack" + (f"; waited {timeout:g} s" if timeout > 0 else ""),
            where=self._root,
            got=who,
            next_step="wait for it, or end that process: its lock goes with it",
        )


# The folder


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _crma_version() -> str:
    try:
        return importlib.metadata.version("crma")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _refuse_links(root: Path, path: Path) -> None:
    for each in (path, *path.parents):
        if each == root:
            return
        if each.is_symlink():
            raise StackError(
                "a link stands where the stack keeps its own; it is not followed",
                where=each,
                expected="a file or folder",
                got=f"a link to {os.readlink(each)}",
                next_step="put what it leads to in its place, or move the whole stack and link to its folder",
            )


def _inside(root: Path, relpath: str) -> Path:
    path = root / check_path(relpath)
    _refuse_links(root, path)
    return path


def _check_vacant(root: Path) -> None:
    """Refuse a folder where a stack is, was, or would take another's files for its leftovers."""
    if (root / MANIFEST).exists():
        raise StackError(
            "there is a stack already", where=root, next_step="open it, or create the new one in another folder"
        )
    taken = [name for name in (*OWNED, WORK, MANIFEST_COPY) if os.path.lexists(root / name)]
    if os.path.lexists(root / LEDGER):
        data = files.read_bytes(root / LEDGER)
        started = data.count(b"\n") <= 1 and (data[: len(_FIRST)] == _FIRST[: len(data)])
        if not started:  # what a killed create leaves: its first entry, or the start of it
            taken.append(LEDGER)
    if taken:
        raise StackError(
            "this folder holds files that a new stack would take for its own",
            where=root,
            expected="a new or empty folder",
            got=", ".join(taken),
            next_step=_mend(root) if MANIFEST_COPY in taken else "choose another folder",
        )


def _publish(root: Path, data: bytes, head: LedgerHead, lines: bytes) -> None:
    """The ledger, then the manifest: its rename commits everything that was written before."""
    path = root / MANIFEST
    temporary = files.write_temporary(path, data)
    try:
        if lines:
            ledger.append(root / LEDGER, head, lines)
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise files.write_refused(path, error, needed=len(data)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    try:
        files.sync_folder(root)
    except OSError as error:
        raise StackWriteError(
            "the change was made, but the disk did not confirm that it would outlive a power cut",
            where=path,
            got=error.strerror,
            next_step="check the disk; the files this change removes are still there",
        ) from error


def _write_copy(root: Path, data: bytes) -> None:
    with contextlib.suppress(StackWriteError):  # committed already: the next writer catches up
        files.write_bytes_atomic(root / MANIFEST_COPY, data)


def _read_copy(root: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return (root / MANIFEST_COPY).read_bytes()
    return None


def _leftovers(root: Path, manifest: Manifest) -> Iterator[Path]:
    """What killed writers left. A link in place of what the manifest names is somebody's, so it is none."""
    with os.scandir(root) as entries:
        yield from [root / entry.name for entry in entries if entry.name.startswith(TEMPORARY)]
    for top in OWNED:
        if (root / top).is_symlink():
            continue
        for folder, folders, names in os.walk(root / top):
            for name in (*names, *(each for each in folders if Path(folder, each).is_symlink())):
                path = Path(folder, name)
                relpath = path.relative_to(root).as_posix()
                if relpath not in manifest.files and not (path.is_symlink() and manifest.files_in(relpath)):
                    yield path


def _remove_empty_folders(root: Path) -> None:
    for top in OWNED:
        if (root / top).is_symlink():
            continue
        for folder, _, _ in os.walk(root / top, topdown=False):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)


def _clean(root: Path, manifest: Manifest, data: bytes) -> None:
    """Make the disk what the manifest says, after making sure that the manifest is the newest there was."""
    ledger.read_ledger(root / LEDGER, manifest.ledger)
    ledger.check_tail(root / LEDGER, manifest.ledger)
    copy = _read_copy(root)
    if copy is not None and copy != data:
        with contextlib.suppress(StackCorruptError, StackVersionError):
            newer = _decode_manifest(root / MANIFEST_COPY, copy).ledger.entries
            if newer > manifest.ledger.entries:
                raise StackError(
                    "the manifest is older than its copy: to write now would delete what was learnt since",
                    where=root / MANIFEST,
                    expected=f"{newer} entries in the ledger",
                    got=f"{manifest.ledger.entries}",
                    next_step=_mend(root),
                )
    for path in list(_leftovers(root, manifest)):
        with contextlib.suppress(OSError):
            os.unlink(path)
    _remove_empty_folders(root)
    ledger.cut_tail(root / LEDGER, manifest.ledger)
    if copy != data:
        _write_copy(root, data)


def _check_file(root: Path, relpath: str, record: FileRecord) -> list[Problem]:
    try:
        path = _inside(root, relpath)
    except StackError as error:
        return [Problem(kind="link", path=relpath, detail=error.what)]
    try:
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            return [Problem(kind="missing", path=relpath, detail=f"expected {record.size} bytes")]
        if size != record.size:
            return [Problem(kind="size", path=relpath, detail=f"expected {record.size} bytes, got {size}")]
        sha256 = files.sha256_of(path)
    except (OSError, StackError) as error:
        return [Problem(kind="unreadable", path=relpath, detail=str(error))]
    if sha256 != record.sha256:
        return [Problem(kind="hash", path=relpath, detail=f"expected SHA-256 {record.sha256}, got {sha256}")]
    return []


# The manifest's file: its fields, and the SHA-256 of them as sorted JSON, so that it vouches for itself


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(files.encode_json(fields, indent=None)).hexdigest()


def _encode_manifest(manifest: Manifest) -> bytes:
    fields = manifest.model_dump(mode="json")
    return files.encode_json(fields | {"sha256": _checksum(fields)}) + b"\n"


def _read_manifest(root: Path) -> tuple[Manifest, bytes]:
    path = root / MANIFEST
    if not path.exists():
        if (root / MANIFEST_COPY).exists():
            raise StackCorruptError("the stack's manifest is missing", where=path, next_step=_mend(root))
        raise StackError(
            "there is no stack here",
            where=root,
            expected=f"a folder with a {MANIFEST}",
            got="a folder without one" if root.is_dir() else "no such folder",
            next_step="check the path, or create a stack there by learning a first domain",
        )
    data = files.read_bytes(path)
    try:
        return _decode_manifest(path, data), data
    except StackCorruptError as error:
        error.next_step = _mend(root)
        raise


def _decode_manifest(path: Path, data: bytes) -> Manifest:
    fields = files.parse_json(path, data)
    version = fields.get("format_version") if isinstance(fields, dict) else None
    if type(version) is not int:
        raise StackCorruptError("the manifest is not one", where=path, expected="a format_version", got=version)
    if version != FORMAT_VERSION:
        raise StackVersionError(
            "this stack was written in a format that this version of CRMA does not know",
            where=path,
            expected=f"format {FORMAT_VERSION}",
            got=f"format {version}, written by CRMA {fields.get('crma_version')}",
            next_step="install that version of CRMA or a newer one",
        )
    said, found = fields.pop("sha256", None), _checksum(fields)
    if said != found:
        raise StackCorruptError(
            "the manifest was changed after it was written",
            where=path,
            expected=f"SHA-256 {said}",
            got=f"SHA-256 {found}",
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise StackCorruptError("the manifest does not hold together", where=path, got=_faults(error)) from error


def _mend(root: Path) -> str:
    copy = _read_copy(root)
    with contextlib.suppress(StackError):
        if copy is not None:
            _decode_manifest(root / MANIFEST_COPY, copy)
            return f"put {MANIFEST_COPY}, which is whole, in the place of {MANIFEST}"
    return "restore the folder from a backup"


def _faults(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'manifest'}: {fault['msg']}" for fault in error.errors())
