"""Backbone and domain LoRA folded into one LoRA on the plain base: nothing of ours is needed where it is served.

Shape legend: r = the domain's rank, n = directions, i = d_in, d = d_out.
At a site W' = W + L R + s B A = W + [L, s B] [R; A]: rank n + r, exact. Targets that are no site are padded with zeros,
so that one rank holds for every module; the scaling is in B, so lora_alpha = r. Engines mis-scale anything else
(SGLang, LoRAX and llama.cpp on rank patterns, without an error).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from crma.model.adapters import Weights
from crma.model.backbone import Backbone, dense_weight

__all__ = ["fold", "folded_rank"]


def folded_rank(backbone: Backbone | None, rank: int) -> int:
    return rank + (backbone.config.directions if backbone is not None else 0)


@torch.no_grad()
def fold(model: nn.Module, backbone: Backbone | None, weights: Weights, scaling: float) -> Weights:
    """One LoRA (scaling 1) that equals the backbone as it stands now together with `weights`.

    Args:
        model: the model the backbone is attached to (the light form folds through its W).
        weights: a domain's LoRA; its targets include every site.
    """
    sites = {}
    if backbone is not None:
        operators = backbone()
        modules = dict(model.named_modules())
        for site, left, right in zip(backbone.sites, operators.left, operators.right, strict=True):
            if backbone.config.frames == "light":
                inner = modules.get(f"{site.name}.base_layer", modules[site.name])  # under a LoRA or not
                reads = right @ dense_weight(inner, site)  # Uᵀ W
            else:
                reads = right
            sites[site.name] = (left.float().cpu().numpy(), reads.float().cpu().numpy())
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
