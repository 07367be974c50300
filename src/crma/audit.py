"""`crma verify`: is the stack whole, is the base the right one, does the bound hold at every site of every snapshot?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from crma.errors import StackError
from crma.model.backbone import dense_weight
from crma.served import ServedStack

__all__ = ["audit"]

OPERATOR_TOLERANCE = 1e-6  # ‖B K A‖₂ ≤ 1 + this, with float32 factors


def audit(served: ServedStack) -> dict[str, Any]:
    """Check everything anew; `ok` is False where one check fails. The identity of the base was checked by opening it.

    The bounds are recomputed from the snapshot's numbers and the base's weights in float64: nothing recorded while
    learning is trusted.
    """
    stack = served.stack
    problems = [str(p) for p in stack.verify_files()]
    entries = None
    with suppress(StackError):  # what is wrong with it stands among the problems
        entries = len(stack.read_ledger())
    report: dict[str, Any] = {
        "base": stack.manifest.base.model_dump(),
        "files": {"checked": len(stack.manifest.files), "problems": problems},
        "ledger": {"entries": entries},
        "snapshots": {},
    }
    ok = not problems
    if served.backbone is not None:
        true_norms = _spectral_norms(served)
        for record in stack.manifest.snapshots:
            try:
                served.load_snapshot(record.id)
            except StackError as error:
                ok = False
                report["snapshots"][record.id] = {"domain": record.domain, "holds": {}, "unreadable": str(error)}
                continue
            certificate = served.backbone.certificate()
            operators = served.backbone.operator_norms()
            reports = served.backbone.report()
            additive = served.backbone.config.frames in ("contraction", "learnt")
            # ‖ΔW‖₂ / ‖W‖₂ with ‖W‖₂ from an SVD of the base, not from the snapshot.
            allowed = served.backbone.allowed().detach().double().cpu().numpy()
            change = operators * allowed / true_norms if additive else None
            limit = served.backbone.config.strength
            holds = {
                "mixing": certificate.holds and served.backbone.config.bounded,
                "operator": bool(operators.max() <= 1.0 + OPERATOR_TOLERANCE),
                "change": bool(change is None or change.max() <= limit * (1.0 + OPERATOR_TOLERANCE)),
            }
            ok = ok and all(holds.values())
            report["snapshots"][record.id] = {
                "domain": record.domain,
                "holds": holds,
                "certificate": asdict(certificate),
                "worst_operator_norm": float(operators.max()),
                "worst_relative_change": None if change is None else float(change.max()),
                "allowed_relative_change": limit if additive else None,
                "sites": [
                    {"name": r.name, "operator_norm": float(o), "gate": r.gate, "sigma2": r.sigma2}
                    for r, o in zip(reports, operators, strict=True)
                ],
            }
    report["ok"] = ok
    return report


@torch.no_grad()
def _spectral_norms(served: ServedStack) -> np.ndarray:
    """‖W‖₂ of every site, float64, as the largest eigenvalue of the smaller Gram matrix."""
    norms = []
    modules = dict(served.model.named_modules())
    assert served.backbone is not None
    for site in served.backbone.sites:
        inner = modules.get(f"{site.name}.base_layer", modules[site.name])  # under a LoRA or not
        w = dense_weight(inner, site).double().cpu()
        gram = w @ w.mT if w.shape[0] <= w.shape[1] else w.mT @ w
        norms.append(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt().item())
    return np.array(norms)
