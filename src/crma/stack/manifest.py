"""The manifest's file: its fields, and the SHA-256 of them as sorted JSON, so that it vouches for itself; its copy; and
the moment it takes effect."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crma.errors import StackCorruptError, StackError, StackVersionError, StackWriteError
from crma.stack import files, ledger
from crma.stack.layout import FORMAT_VERSION, LEDGER, MANIFEST, MANIFEST_COPY, LedgerHead, Manifest

__all__ = [
    "decode_manifest",
    "encode_manifest",
    "faults_of",
    "how_to_mend",
    "publish",
    "read_copy",
    "read_manifest",
    "write_copy",
]


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(files.encode_json(fields, indent=None)).hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    fields = manifest.model_dump(mode="json")
    return files.encode_json(fields | {"sha256": _checksum(fields)}) + b"\n"


def read_manifest(root: Path) -> tuple[Manifest, bytes]:
    path = root / MANIFEST
    if not path.exists():
        if (root / MANIFEST_COPY).exists():
            raise StackCorruptError("the stack's manifest is missing", where=path, next_step=how_to_mend(root))
        raise StackError(
            "there is no stack here",
            where=root,
            expected=f"a folder with a {MANIFEST}",
            got="a folder without one" if root.is_dir() else "a file" if root.exists() else "no such folder",
            next_step="check the path, or create a stack there by learning a first domain",
        )
    data = files.read_bytes(path)
    try:
        return decode_manifest(path, data), data
    except StackCorruptError as error:
        error.next_step = how_to_mend(root)
        raise


def decode_manifest(path: Path, data: bytes) -> Manifest:
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
        raise StackCorruptError("the manifest does not hold together", where=path, got=faults_of(error)) from error


def how_to_mend(root: Path) -> str:
    copy = read_copy(root)
    with contextlib.suppress(StackError):
        if copy is not None:
            decode_manifest(root / MANIFEST_COPY, copy)
            return f"put {MANIFEST_COPY}, which is whole, in the place of {MANIFEST}"
    return "restore the folder from a backup"


def faults_of(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'manifest'}: {fault['msg']}" for fault in error.errors())


def publish(root: Path, data: bytes, head: LedgerHead, lines: bytes) -> None:
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


def write_copy(root: Path, data: bytes) -> None:
    with contextlib.suppress(StackWriteError):  # committed already: the next writer catches up
        files.write_bytes_atomic(root / MANIFEST_COPY, data)


def read_copy(root: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return (root / MANIFEST_COPY).read_bytes()
    return None
