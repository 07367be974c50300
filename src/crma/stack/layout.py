"""What a stack's folder holds: file names, the format version, and the values of the manifest.

    manifest.json        written last, atomically: what it does not name is not part of the stack
    manifest.copy.json   the same bytes, written after the commit, to restore a damaged manifest from
    ledger.jsonl         what was done and when, append-only, hash-chained (ledger.py)
    snapshots/v0001/     a backbone version
    adapters/medicine/   a domain's LoRA, in PEFT's format
    router/ rows/        the router; the validation and test rows a user allowed to keep
    work/medicine/       resumable training state: outside the manifest, never cleaned
    .lock .lock.json     the writer's lock, and who holds it

Files that the manifest names are immutable: a change is a new path and a new manifest.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from crma.errors import StackError, UnknownDomainError
from crma.types import check_domain_name

__all__ = [
    "FORMAT_VERSION",
    "HOLDER",
    "LEDGER",
    "LOCK",
    "MANIFEST",
    "MANIFEST_COPY",
    "OWNED",
    "ROWS",
    "TEMPORARY",
    "WORK",
    "BaseReference",
    "DomainRecord",
    "Extension",
    "FileRecord",
    "Fit",
    "LedgerHead",
    "Manifest",
    "SnapshotRecord",
    "check_path",
    "crma_version",
    "path_fault",
    "timestamp",
]

FORMAT_VERSION = 1

MANIFEST = "manifest.json"
MANIFEST_COPY = "manifest.copy.json"
LEDGER = "ledger.jsonl"
LOCK = ".lock"
HOLDER = ".lock.json"
OWNED = ("adapters", "router", "rows", "snapshots")  # every file here is named by the manifest, or is a leftover
WORK = "work"
ROWS = "rows.jsonl"  # under the folder of a domain's kept rows
TEMPORARY = ".writing-"  # no path of a stack opens with a dot, so a temporary file never meets one

# The letters that every file system and archive keeps as they are.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SNAPSHOT_ID = r"v\d{4,}"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def path_fault(relpath: str) -> str | None:
    """Why `relpath` cannot lie in a stack, or None."""
    parts = relpath.split("/")
    if parts[0] not in OWNED:
        return f"it does not open with one of {', '.join(f'{folder}/' for folder in OWNED)}"
    if len(parts) < 2:
        return "it names no file inside that folder"
    bad = next((part for part in parts if not _PART.fullmatch(part) or len(part) > 200), None)
    return None if bad is None else f"the part {bad!r} is empty, too long, or holds other than letters, digits, '._-'"


def check_path(relpath: str) -> str:
    """Return `relpath`, or raise StackError where it could leave the stack's own folders."""
    fault = path_fault(relpath)
    if fault is not None:
        raise StackError(
            "this path does not belong in a stack",
            where=repr(relpath),
            expected="a relative path such as 'adapters/medicine/adapter_config.json'",
            got=fault,
        )
    return relpath


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Value):
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class BaseReference(_Value):
    name: str  # what the user typed
    source: str  # where it was found
    weights_sha256: str
    architecture: str
    parameters: int
    precision: str = "auto"  # what its weights are held in, where nothing else is asked for


class SnapshotRecord(_Value):
    id: Annotated[str, Field(pattern=rf"^{_SNAPSHOT_ID}$")]
    domain: str  # which was learnt when it was made; that domain may be forgotten since
    parent: str | None = None  # what it was learnt from; where that was removed, the nearest before it that stayed
    alpha: Finite
    folder: str
    created: str
    distance_mean: Finite | None = None  # δ = ‖ΔW − ΔW of what it was learnt from‖₂ / ‖W‖₂, over the sites
    distance_max: Finite | None = None


class Fit(_Value):
    """How a LoRA was fitted to a backbone that had moved on (`crma.model.fold.absorb`)."""

    follow: Annotated[float, Field(ge=0, le=1)]
    rank: Annotated[int, Field(ge=1)]
    standalone: bool = False  # it holds what the backbone added as well, and is served without the backbone


class Extension(_Value):
    """That a domain learnt on from more rows; losses on the test rows among these, in nats a supervised token."""

    learnt: str
    data_sha256: str
    rows: dict[str, int]
    left_out: int = 0  # rows that stand among those that judge the domain, or belong beside one of these
    share: Annotated[float, Field(ge=0, le=1)]  # of the way from what was served to what was learnt
    loss_before: Finite | None = None
    loss_after: Finite | None = None


class DomainRecord(_Value):
    """A domain that was learnt. `validation_loss` is on its validation rows, the other losses on its test rows, in
    nats a supervised token."""

    name: str
    adapter: str  # the folder of its LoRA, as it is served under `snapshot_pinned`
    adapter_learnt: str | None = None  # its LoRA as it was learnt, under `snapshot_learnt`; None: it is served so
    snapshot_learnt: str | None = None  # history: it may have been removed since
    snapshot_pinned: str | None = None  # what it is served with
    rank: int | None = None  # of the LoRA it is served with, where that is not the one it was learnt with
    standalone: bool = False  # its LoRA holds all that is added to the base: no backbone, pinned to no snapshot
    followed: str | None = None  # the last snapshot that its LoRA went towards, and so holds something of
    floating: Fit | None = None  # under the head, where that is not what it is served with; it is made when asked for
    learnt: str
    data_sha256: str
    split_sha256: dict[str, str]
    extensions: tuple[Extension, ...] = ()  # what it learnt since, oldest first; `rows` counts these as well
    rows: dict[str, int]
    config: dict[str, Any]
    rows_kept: str | None = None  # the file or folder of its kept validation and test rows
    validation_loss: Finite | None = None  # what the verified promotion compares with
    validation_rows: tuple[Finite, ...] = ()  # of each validation row; their mean over tokens is `validation_loss`
    loss_base: Finite | None = None
    loss_after: Finite | None = None
    loss_now: Finite | None = None
    loss_floating: Finite | None = None
    router_version: str

    @field_validator("name")
    @classmethod
    def _names_a_domain(cls, name: str) -> str:
        return check_domain_name(name)


class LedgerHead(_Value):
    """The committed part of the ledger: what lies beyond `size` bytes was left by a killed writer."""

    entries: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256  # of the last committed line, zeros before the first


class Manifest(_Value):
    format_version: int
    crma_version: str
    created: str
    changed: str
    base: BaseReference
    backbone: dict[str, Any] | None  # the configuration of its frames
    head: str | None  # the last snapshot
    snapshots: tuple[SnapshotRecord, ...]
    domains: tuple[DomainRecord, ...]
    router: str | None
    files: dict[str, FileRecord]
    ledger: LedgerHead

    def domain(self, name: str) -> DomainRecord:
        for record in self.domains:
            if record.name == name:
                return record
        raise UnknownDomainError(
            "the stack holds no such domain",
            expected=", ".join(record.name for record in self.domains) or "nothing: no domain was learnt yet",
            got=repr(name),
            next_step="choose one of these, or learn it first",
        )

    def snapshot(self, id: str) -> SnapshotRecord:
        for record in self.snapshots:
            if record.id == id:
                return record
        raise StackError(
            "the stack holds no such snapshot",
            expected=", ".join(record.id for record in self.snapshots) or "nothing: no snapshot was made yet",
            got=repr(id),
            next_step="choose one of these",
        )

    def files_in(self, relpath: str) -> dict[str, FileRecord]:
        """The file `relpath`, or the files of the folder `relpath`."""
        inside = relpath + "/"
        return {path: record for path, record in self.files.items() if path == relpath or path.startswith(inside)}

    @property
    def next_snapshot_id(self) -> str:
        """An id that no snapshot has or, as far as records tell, ever had."""
        ids = {
            *(record.id for record in self.snapshots),
            *(record.parent for record in self.snapshots),
            *(id for record in self.domains for id in (record.snapshot_learnt, record.followed)),
        }
        return f"v{1 + max((int(id[1:]) for id in ids if id is not None), default=0):04d}"

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        faults = [f"{path!r}: {fault}" for path in files if (fault := path_fault(path)) is not None]
        faults += [f"{path!r} differs from another path only by case" for path in _repeated(files)]
        if faults:
            raise ValueError("; ".join(faults))
        return files

    @model_validator(mode="after")
    def _hold_together(self) -> Manifest:
        """Every record's files are there, and every file belongs to a record: nothing can be dropped by accident."""
        faults = [f"two domains are called {name!r}" for name in _repeated(record.name for record in self.domains)]
        faults += [f"two snapshots are called {id!r}" for id in _repeated(record.id for record in self.snapshots)]
        snapshots = {record.id for record in self.snapshots}
        if self.head is not None and self.head not in snapshots:
            faults.append(f"the head {self.head} is not among the snapshots")
        faults += [
            f"domain {record.name!r} is pinned to the snapshot {record.snapshot_pinned}, which is not there"
            for record in self.domains
            if record.snapshot_pinned is not None and record.snapshot_pinned not in snapshots
        ]
        faults += [
            f"domain {d.name!r} stands alone, yet is pinned, or has no LoRA as it was learnt, or no backbone"
            for d in self.domains
            if d.standalone and (d.snapshot_pinned or d.adapter_learnt is None or self.backbone is None)
        ]
        referred = [(f"snapshot {record.id}", record.folder) for record in self.snapshots]
        referred += [(f"domain {record.name!r}", record.adapter) for record in self.domains]
        referred += [(f"domain {d.name!r}", d.adapter_learnt) for d in self.domains if d.adapter_learnt is not None]
        referred += [(f"domain {r.name!r}", r.rows_kept) for r in self.domains if r.rows_kept is not None]
        referred += [("the router", self.router)] if self.router is not None else []
        inside: dict[str, set[str]] = {}  # each file and folder below the owned ones: its files
        for path in self.files:
            parts = path.split("/")
            for depth in range(2, len(parts) + 1):
                inside.setdefault("/".join(parts[:depth]), set()).add(path)
        held: set[str] = set()
        for owner, path in referred:
            held |= inside.get(path, set())
            if path not in inside:
                faults.append(f"{owner} refers to {path!r}, where no file is")
        faults += [f"no record refers to the file {path!r}" for path in self.files if path not in held]
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _repeated(names: Iterable[str]) -> list[str]:
    """Those that differ from an earlier one by nothing, or by case, which some file systems do not keep apart."""
    seen: set[str] = set()
    repeated = []
    for name in names:
        if name.casefold() in seen:
            repeated.append(name)
        seen.add(name.casefold())
    return repeated


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def crma_version() -> str:
    try:
        return importlib.metadata.version("crma")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
