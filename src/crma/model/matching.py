"""How many numbers a method trains, and the LoRA that trains as many as CRMA: the control that a claim needs."""

from __future__ import annotations

import math

from torch import nn

from crma.model.architecture import backbone_sites, linear_shape, lora_targets

__all__ = ["matched_rank", "trained_numbers"]


def trained_numbers(model: nn.Module, *, rank: int, directions: int = 0) -> int:
    """Of a LoRA of `rank` while it is trained (one that is served may have become larger, to stand alone), and of a
    contraction with `directions` at each site, 0 for none: n (d_in + d_out) for A and B, and (2n)² logits.
    """
    shared = sum(directions * (s.d_in + s.d_out) + (2 * directions) ** 2 for s in backbone_sites(model))
    return rank * _numbers_a_rank(model) + shared


def matched_rank(model: nn.Module, *, rank: int, directions: int) -> int:
    """The smallest rank at which a LoRA alone trains no fewer numbers than a LoRA of `rank` with the backbone.

    The last partial rank is given to the control.
    """
    return math.ceil(trained_numbers(model, rank=rank, directions=directions) / _numbers_a_rank(model))


def _numbers_a_rank(model: nn.Module) -> int:
    shapes = [linear_shape(model.get_submodule(target)) or (0, 0) for target in lora_targets(model)]
    return sum(d_in + d_out for d_in, d_out in shapes)
