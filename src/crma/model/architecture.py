"""The projections of a decoder that are adapted, by the names its family uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

from crma.errors import BaseModelError

__all__ = ["Site", "Where", "backbone_sites", "decoder_of", "linear_shape", "lora_targets"]

Where = Literal["lora-targets", "residual-writes"]

# One write of the attention and one of the MLP a block. Llama, Mistral, Gemma, Qwen, Phi-3: o_proj and down_proj;
# GPT-NeoX, Falcon: dense and dense_4h_to_h; OPT, Phi-2: out_proj or dense, and fc2; GPT-2: c_proj twice.
_WRITES = ("o_proj", "out_proj", "dense", "down_proj", "dense_4h_to_h", "fc2", "c_proj")
# What a LoRA adds to beside the writes: queries and values, as Hu et al. (2021, section 7.1) chose; fused where the
# family fuses them.
_READS = ("q_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_OTHER_TOWERS = ("vision", "audio", "visual", "image", "crma_backbone", "lora_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One projection that the backbone adds to: z [.., d_out] = W x, x [.., d_in]."""

    name: str  # the module's qualified name in the base model
    layer: int
    d_in: int
    d_out: int


def decoder_of(model: nn.Module) -> nn.Module:
    """The part of a causal LM that maps token ids to hidden states (everything but the head)."""
    decoder = getattr(model, "get_decoder", lambda: None)()
    if decoder is None or decoder is model:
        decoder = getattr(model, getattr(model, "base_model_prefix", "model"), None)
    if not isinstance(decoder, nn.Module):
        raise BaseModelError(
            "this model has no decoder to adapt",
            expected="a Hugging Face causal LM",
            got=type(model).__name__,
        )
    return decoder


def _in_blocks(model: nn.Module, suffixes: tuple[str, ...]) -> list[tuple[str, int, nn.Module]]:
    found = []
    for name, module in model.named_modules():
        block = _BLOCK.search(name)
        if block is None or name.rsplit(".", 1)[-1] not in suffixes or any(t in name for t in _OTHER_TOWERS):
            continue
        if linear_shape(module) is not None:
            found.append((name, int(block.group(1)), module))
    return found


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(d_in, d_out) of a linear map: nn.Linear, a quantised one (both have the two attributes), or GPT-2's Conv1D."""
    d_in, d_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if d_in is None and hasattr(module, "nx") and hasattr(module, "nf"):
        d_in, d_out = module.nx, module.nf
    return (int(d_in), int(d_out)) if isinstance(d_in, int) and isinstance(d_out, int) else None


def backbone_sites(model: nn.Module, where: Where = "lora-targets") -> tuple[Site, ...]:
    """The sites of `model`, in the order of its blocks: all that a domain's LoRA is put on, or of these the ones that
    write to the residual stream.

    Raises:
        BaseModelError: none was found, or a mixture of experts (whose experts are not single projections).
    """
    if any(name.rsplit(".", 1)[-1] == "experts" for name, _ in model.named_modules()):
        raise BaseModelError(
            "a mixture of experts is not supported",
            where=type(model).__name__,
            expected="a dense decoder: one projection of each MLP writes to the residual stream",
            next_step="choose a dense model of the same family",
        )
    if not _in_blocks(model, _WRITES):
        raise BaseModelError(
            "no projection that writes to the residual stream was found",
            where=type(model).__name__,
            expected=f"decoder blocks with linear layers named one of {', '.join(_WRITES)}",
            next_step="use a dense decoder of a known family, or add its names to crma/model/architecture.py",
        )
    sites = []
    for name, layer, module in _in_blocks(model, _READS + _WRITES if where == "lora-targets" else _WRITES):
        shape = linear_shape(module)
        assert shape is not None
        sites.append(Site(name=name, layer=layer, d_in=shape[0], d_out=shape[1]))
    return tuple(sites)


def lora_targets(model: nn.Module) -> tuple[str, ...]:
    """The qualified names a domain's LoRA is put on: queries, values and both writes of each block."""
    return tuple(name for name, _, _ in _in_blocks(model, _READS + _WRITES))
