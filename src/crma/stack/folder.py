"""What lies in a stack's folder beside the manifest: nothing through a link, nothing that killed writers left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crma.errors import StackCorruptError, StackError, StackVersionError
from crma.stack import files, ledger
from crma.stack.layout import (
    LEDGER,
    MANIFEST,
    MANIFEST_COPY,
    OWNED,
    TEMPORARY,
    WORK,
    FileRecord,
    Manifest,
    check_path,
)
from crma.stack.manifest import decode_manifest, how_to_mend, read_copy, write_copy

__all__ = [
    "Problem",
    "check_file",
    "check_vacant",
    "clean",
    "inside",
    "leftovers",
    "refuse_links",
    "remove_empty_folders",
]

_FIRST = b'{"base": '  # how a ledger begins


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A difference between what the manifest says and what the disk holds."""

    kind: Literal["missing", "size", "hash", "link", "unreadable", "unreferenced", "ledger", "copy"]
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


def refuse_links(root: Path, path: Path) -> None:
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


def inside(root: Path, relpath: str) -> Path:
    path = root / check_path(relpath)
    refuse_links(root, path)
    return path


def check_vacant(root: Path) -> None:
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
            next_step=how_to_mend(root) if MANIFEST_COPY in taken else "choose another folder",
        )


def leftovers(root: Path, manifest: Manifest) -> Iterator[Path]:
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


def remove_empty_folders(root: Path) -> None:
    for top in OWNED:
        if (root / top).is_symlink():
            continue
        for folder, _, _ in os.walk(root / top, topdown=False):
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)


def clean(root: Path, manifest: Manifest, data: bytes) -> None:
    """Make the disk what the manifest says, after making sure that the manifest is the newest there was."""
    ledger.read_ledger(root / LEDGER, manifest.ledger)
    ledger.check_tail(root / LEDGER, manifest.ledger)
    copy = read_copy(root)
    if copy is not None and copy != data:
        with contextlib.suppress(StackCorruptError, StackVersionError):
            newer = decode_manifest(root / MANIFEST_COPY, copy).ledger.entries
            if newer > manifest.ledger.entries:
                raise StackError(
                    "the manifest is older than its copy: to write now would delete what was learnt since",
                    where=root / MANIFEST,
                    expected=f"{newer} entries in the ledger",
                    got=f"{manifest.ledger.entries}",
                    next_step=how_to_mend(root),
                )
    for path in list(leftovers(root, manifest)):
        with contextlib.suppress(OSError):
            os.unlink(path)
    remove_empty_folders(root)
    ledger.cut_tail(root / LEDGER, manifest.ledger)
    if copy != data:
        write_copy(root, data)


def check_file(root: Path, relpath: str, record: FileRecord) -> list[Problem]:
    try:
        path = inside(root, relpath)
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
