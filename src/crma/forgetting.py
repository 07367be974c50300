"""Forgetting a domain: what is removed, what stays, and which snapshots still carry it. No model is loaded."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from crma.route.arrays import router_of
from crma.route.centroid import Router
from crma.stack.layout import DomainRecord, Manifest, SnapshotRecord
from crma.stack.stack import Stack
from crma.stack.transaction import Transaction

__all__ = ["Forgotten", "forget_domain", "read_router", "write_router"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    domain: str
    trained_after: tuple[str, ...]  # its own snapshot and later ones, which still carry what they learnt from it
    carried_by: tuple[str, ...]  # domains whose LoRAs went towards one of these since, and carry a part of it
    snapshot_before: str | None
    rewound: bool  # False also where the head did not build on it


def forget_domain(stack: Stack, domain: str, *, rewind: bool = False) -> Forgotten:
    """Remove a domain's LoRA, kept rows and part of the router; see `ContinualModel.forget`."""
    with stack.transaction() as tx:
        manifest = tx.manifest
        # The newest, where a domain of this name was learnt and forgotten before.
        own = next((s for s in reversed(manifest.snapshots) if s.domain == domain), None)
        # One that is forgotten already may still be rewound.
        forgotten = rewind and own is not None and all(d.name != domain for d in manifest.domains)
        record = None if forgotten else manifest.domain(domain)
        # First, under the lock: an extension that was cut short has learnt from the rows too, and were this process
        # killed after the commit, nobody could ask for the domain to be forgotten again.
        stack.clear_work(domain)
        after = _descendants(manifest, own.id) if own else ()
        rest = tuple(d for d in manifest.domains if d.name != domain)
        carried = tuple(d.name for d in rest if d.followed in after)
        # Where the head does not build on it, an earlier rewind has left it behind already.
        rewound = rewind and manifest.head in after
        # Stacks of before may name a parent that is gone.
        before = own.parent if own and any(s.id == own.parent for s in manifest.snapshots) else None
        changes: dict[str, Any] = {"domains": rest}
        if record is not None:
            changes |= _without(stack, tx, record, rest)
            rest = changes["domains"]
        if rewind:
            head = changes["head"] = before if rewound else manifest.head
            needed = {head, *(d.snapshot_pinned for d in rest), *(d.snapshot_learnt for d in rest)}
            for snapshot in manifest.snapshots:
                if snapshot.id not in needed:
                    tx.remove(snapshot.folder)
            changes["snapshots"] = _without_the_others(manifest, needed)
        if rewound:
            # What floats under another head than it was measured under is not known, unless it is pinned to that one.
            changes["domains"] = tuple(
                d.model_copy(
                    update={
                        "floating": None,
                        "loss_floating": d.loss_now if d.standalone or d.snapshot_pinned == before else None,
                    }
                )
                for d in rest
            )
        tx.update(**changes)
        tx.log(
            {
                "kind": "forget",
                "domain": domain,
                "rewound": rewound,
                "trained_after": list(after),
                "carried_by": list(carried),
            }
        )
    return Forgotten(
        domain=domain,
        trained_after=after,
        carried_by=carried,
        snapshot_before=before,
        rewound=rewound,
    )


def _without(stack: Stack, tx: Transaction, record: DomainRecord, rest: tuple[DomainRecord, ...]) -> dict[str, Any]:
    """Take a domain's own files and its part of the router away; what becomes of the manifest."""
    for adapter in {record.adapter, record.adapter_learnt or record.adapter}:
        tx.remove(adapter)
    if record.rows_kept:
        tx.remove(record.rows_kept)
    router = read_router(stack)
    if router is not None and rest:
        version = write_router(stack, tx, router.without_domain(record.name))
        renewed = tuple(d.model_copy(update={"router_version": version}) for d in rest)
        return {"domains": renewed, "router": version}
    if tx.manifest.router:
        tx.remove(tx.manifest.router)
    return {"domains": rest, "router": None}


def _descendants(manifest: Manifest, snapshot: str) -> tuple[str, ...]:
    """`snapshot` and all that were learnt from it, oldest first."""
    found = [snapshot]
    for later in manifest.snapshots:  # a parent stands before its children
        if later.parent in found:
            found.append(later.id)
    return tuple(found)


def _without_the_others(manifest: Manifest, needed: Set[str | None]) -> tuple[SnapshotRecord, ...]:
    """The snapshots that are needed; one whose parent goes is put under the nearest earlier one that stays."""
    parents = {s.id: s.parent for s in manifest.snapshots}

    def staying(parent: str | None) -> str | None:
        while parent is not None and parent not in needed:
            parent = parents.get(parent)
        return parent

    return tuple(s.model_copy(update={"parent": staying(s.parent)}) for s in manifest.snapshots if s.id in needed)


def read_router(stack: Stack) -> Router | None:
    path = stack.manifest.router
    return router_of(stack.read_tensors(f"{path}/router.safetensors")) if path else None


def write_router(stack: Stack, tx: Transaction, router: Router) -> str:
    """Write a router under a new path, in place of the one there is; the path is what the manifest is to name."""
    path = tx.fresh_path("router/router")
    tx.write_tensors(f"{path}/router.safetensors", router.to_arrays())
    if stack.manifest.router:
        tx.remove(stack.manifest.router)
    return path
