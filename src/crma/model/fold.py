"""Backbone and domain LoRA folded into one LoRA on the plain base: nothing of ours is needed where it is served.

Shape legend: r = the domain's rank, n = directions, i = d_in, d = d_out.
At a site W' = W + L R + s B A = W + [L, s B] [R; A]: rank n + r, exact. Targets that are no site are padded with zeros,
so that one rank holds for every module; the scaling is in B, so lora_alpha = r. Engines mis-scale anything else
(SGLang, LoRAX and llama.cpp on rank patterns, without an error).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from crma.model.adapters import Weights
from crma.model.backbone import Backbone, dense_weight

__all__ = ["Factors", "absorb", "blend", "factors", "fold", "folded_rank", "weighted_sum"]

# A backbone as ordinary linear maps: site name -> (left [d, n], reads [n, i]), ΔW = left @ reads, float32.
Factors = dict[str, tuple[np.ndarray, np.ndarray]]


def folded_rank(backbone: Backbone | None, rank: int) -> int:
    return rank + (backbone.config.directions if backbone is not None else 0)


@torch.no_grad()
def factors(model: nn.Module, backbone: Backbone) -> Factors:
    """What the backbone adds to every site's W as it stands now. `model` is the one it is attached to: the light form
    reads W's output, and so goes through W."""
    operators = backbone()
    modules = dict(model.named_modules())
    found: Factors = {}
    for site, left, right in zip(backbone.sites, operators.left, operators.right, strict=True):
        reads = right
        if backbone.config.frames == "light":
            inner = modules.get(f"{site.name}.base_layer", modules[site.name])  # under a LoRA or not
            reads = right @ dense_weight(inner, site)  # Uᵀ W
        found[site.name] = (left.float().cpu().numpy(), reads.float().cpu().numpy())
    return found


def fold(model: nn.Module, backbone: Backbone | None, weights: Weights, scaling: float) -> Weights:
    """One LoRA (scaling 1) that equals the backbone as it stands now together with `weights`.

    Args:
        weights: a domain's LoRA; its targets include every site.
    """
    sites = factors(model, backbone) if backbone is not None else {}
    missing = set(sites) - set(weights)
    assert not missing, f"sites without a LoRA: {sorted(missing)[:3]}"
    folded: Weights = {}
    for target, (a, b) in weights.items():
        n = backbone.config.directions if backbone is not None else 0
        left, right = sites.get(target, (np.zeros((b.shape[0], n)), np.zeros((n, a.shape[1]))))
        folded[target] = (
            np.ascontiguousarray(np.concatenate([right, a], axis=0), dtype=np.float32),
            np.ascontiguousarray(np.concatenate([left, scaling * b], axis=1), dtype=np.float32),
        )
    return folded


def weighted_sum(parts: Sequence[tuple[float, Weights]]) -> Weights:
    """One LoRA (scaling 1) that adds the sum of share x what each of `parts` (scaling 1, of the same targets) adds;
    exact, of the sum of their ranks."""
    return {
        target: (
            np.concatenate([weights[target][0] for _, weights in parts], axis=0),
            np.concatenate([share * weights[target][1] for share, weights in parts], axis=1).astype(np.float32),
        )
        for target in parts[0][1]
    }


def absorb(
    weights: Weights,
    scaling: float,
    gone: Factors,
    come: Factors,
    *,
    follow: float = 0.0,
    learnt: Weights | None = None,
    rank: int | None = None,
    standalone: bool = False,
) -> Weights:
    """The LoRA of `rank` that under the backbone `come` answers most nearly as the point `follow` of the way from
    (`weights` under `gone`) to (`learnt` under `come`): 0 answers as before the move, 1 as it was learnt, backbone new.

    At each site the best approximation, in the Frobenius norm, of (1 − follow)(scaling·B A + gone) + follow ·
    (scaling·B_learnt A_learnt + come) − come by a matrix of that rank: its leading singular triplets, found from the
    triangular factors, never forming a d × i matrix. Where what is needed has no higher rank, the answer is exact. No
    data needed.

    Args:
        weights: what the domain is served with.
        gone: what the backbone adds under which they are served; empty for weights that are served without it.
        learnt: its LoRA as it was learnt, of the same scaling; None where `weights` are that.
        rank: of the LoRA that is made, on every target; None is that of `weights`.
        standalone: make one that answers so without a backbone: `come` is then not taken off. Staying (follow 0) is
            exact at the rank of `weights` and the directions of `gone` together.
    """
    made: Weights = {}
    for target, (a, b) in weights.items():
        wanted = a.shape[0] if rank is None else rank
        if learnt is None or follow == 0.0:  # both ends hold it whole, or the far one does not count
            left, right = [scaling * b], [a]
        else:
            own_a, own_b = learnt[target]
            left, right = [(1.0 - follow) * scaling * b, follow * scaling * own_b], [a, own_a]
        if target in gone:
            left += [(1.0 - follow) * gone[target][0]]
            right += [gone[target][1]]
        share = follow if standalone else follow - 1.0
        if target in come and share:
            left += [share * come[target][0]]
            right += [come[target][1]]
        if len(left) == 1 and wanted == a.shape[0]:
            made[target] = (a, b)
        else:
            made[target] = _nearest(np.concatenate(left, axis=1), np.concatenate(right, axis=0), wanted, scaling)
    return made


def blend(weights: Weights, towards: Weights, share: float) -> Weights:
    """The LoRA of the rank of `weights` nearest, in the Frobenius norm, to the point `share` of the way to another of
    the same scaling: an average of what they add to the base, not of their factors."""
    made: Weights = {}
    for target, (a, b) in weights.items():
        other_a, other_b = towards[target]
        left = np.concatenate([(1.0 - share) * b, share * other_b], axis=1)
        made[target] = _nearest(left, np.concatenate([a, other_a], axis=0), a.shape[0], 1.0)
    return made


def _nearest(left: np.ndarray, right: np.ndarray, rank: int, scaling: float) -> tuple[np.ndarray, np.ndarray]:
    """(A [rank, i], B [d, rank]) with scaling·B A nearest to left [d, k] @ right [k, i] (Eckart and Young, 1936)."""
    q_left, r_left = np.linalg.qr(left.astype(np.float64))
    q_right, r_right = np.linalg.qr(right.T.astype(np.float64))
    u, s, v = np.linalg.svd(r_left @ r_right.T)
    k = min(rank, len(s))  # what has a lower rank leaves the other directions empty
    root = np.sqrt(s[:k])  # shared between both sides, as training keeps them of one size
    a = np.zeros((rank, right.shape[1]), dtype=np.float32)
    b = np.zeros((left.shape[0], rank), dtype=np.float32)
    a[:k] = (v[:k] * root[:, None]) @ q_right.T
    b[:, :k] = q_left @ (u[:, :k] * root) / scaling
    return a, b
