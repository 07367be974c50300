"""A stack in numbers, read from its manifest alone: no model is loaded."""

from __future__ import annotations

from typing import Any

from crma.bench.metrics import drift_pct
from crma.stack.stack import Stack

__all__ = ["status_of"]


def status_of(stack: Stack) -> dict[str, Any]:
    """Domains with their losses and drift, snapshots with their distances, sizes; as of the last commit."""
    manifest = stack.manifest
    return {
        "base": manifest.base.model_dump(),
        "backbone": manifest.backbone,
        "head": manifest.head,
        "domains": [
            {
                "name": d.name,
                "learnt": d.learnt,
                "rows": d.rows,
                "rank": d.rank or d.config.get("rank"),  # of the LoRA as it is served
                "snapshot_learnt": d.snapshot_learnt,
                "snapshot_pinned": d.snapshot_pinned,
                "standalone": d.standalone,
                "loss_base": d.loss_base,
                "loss_after": d.loss_after,
                "loss_now": d.loss_now,
                "drift_pinned_pct": _drift(d.loss_after, d.loss_now),
                "drift_floating_pct": _drift(d.loss_after, d.loss_floating),
            }
            for d in manifest.domains
        ],
        "snapshots": [
            {
                "id": s.id,
                "domain": s.domain,
                "share": s.alpha,
                "distance_to_parent": {"mean": s.distance_mean, "max": s.distance_max},
            }
            for s in manifest.snapshots
        ],
        "sizes": stack.sizes(),
    }


def _drift(after: float | None, now: float | None) -> float | None:
    return drift_pct(after, now) if after is not None and now is not None else None
