"""How large a LoRA must be to train as many numbers as CRMA does: the control that a claim needs."""

from __future__ import annotations

import math

from torch import nn

from crma.model.architecture import backbone_sites, linear_shape, lora_targets

__all__ = ["matched_rank"]


def matched_rank(model: nn.Module, *, rank: int, directions: int) -> int:
    """The smallest rank at which a LoRA alone trains no fewer numbers than a LoRA of `rank` with the backbone.

    Backbone, a contraction: at each site n (d_in + d_out) for A and B, and (2n)² logits. The last partial rank is given
    to the control.
    """
    shapes = [linear_shape(model.get_submodule(target)) or (0, 0) for target in lora_targets(model)]
    a_rank = sum(d_in + d_out for d_in, d_out in shapes)
    shared = sum(directions * (s.d_in + s.d_out) + (2 * directions) ** 2 for s in backbone_sites(model))
    return math.ceil((rank * a_rank + shared) / a_rank)
