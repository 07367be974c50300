"""Forgetting a domain: what is removed, what stays, and which snapshots still carry it. No model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crma.route.arrays import router_of
from crma.route.centroid import Router
from crma.stack.stack import Stack
from crma.stack.transaction import Transaction

__all__ = ["Forgotten", "forget_domain", "read_router", "write_router"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    domain: str
    trained_after: tuple[str, ...]  # its own snapshot and later ones, which still carry what they learnt from it
    carried_by: tuple[str, ...]  # domains whose LoRAs went towards one of these since, and carry a part of it
    snapshot_before: str | None
    rewound: bool


def forget_domain(stack: Stack, domain: str, *, rewind: bool = False) -> Forgotten:
    """Remove a domain's LoRA, kept rows and part of the router; see `ContinualModel.forget`."""
    with stack.transaction() as tx:
        manifest = tx.manifest
        record = manifest.domain(domain)
        order = [s.id for s in manifest.snapshots]
        own = next((s for s in manifest.snapshots if s.domain == domain), None)
        after = tuple(order[order.index(own.id) :]) if own else ()
        before = own.parent if own and own.parent in order else None
        rest = tuple(d for d in manifest.domains if d.name != domain)
        carried = tuple(d.name for d in rest if d.followed in after)
        changes: dict[str, Any] = {"domains": rest}
        for adapter in {record.adapter, record.adapter_learnt or record.adapter}:
            tx.remove(adapter)
        if record.rows_kept:
            tx.remove(record.rows_kept)
        router = read_router(stack)
        if router is not None and rest:
            version = write_router(stack, tx, router.without_domain(domain))
            changes["router"] = version
            changes["domains"] = rest = tuple(d.model_copy(update={"router_version": version}) for d in rest)
        elif manifest.router:
            tx.remove(manifest.router)
            changes["router"] = None
        if rewind and own is not None:
            changes["head"] = before
            needed = {before, *(d.snapshot_pinned for d in rest), *(d.snapshot_learnt for d in rest)}
            for snapshot in manifest.snapshots:
                if snapshot.id not in needed:
                    tx.remove(snapshot.folder)
            changes["snapshots"] = tuple(s for s in manifest.snapshots if s.id in needed)
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
                "rewound": rewind,
                "trained_after": list(after),
                "carried_by": list(carried),
            }
        )
    stack.clear_work(domain)  # an extension that was cut short has learnt from its rows as well
    return Forgotten(domain=domain, trained_after=after, carried_by=carried, snapshot_before=before, rewound=rewind)


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
