"""What a router sees of a prompt: the mean hidden state of the untouched base at one middle layer, and its words.

Shape legend: N = prompts, H = hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from crma.model.architecture import decoder_of

__all__ = ["prompt_features", "prompt_words"]


class _Enough(Exception):
    pass


@torch.no_grad()
def prompt_features(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    depth: float,
    max_length: int = 192,
    max_tokens: int = 2048,
) -> np.ndarray:
    """[N, H] float32, averaged over the tokens of each bare text (no chat template: it is the same for all).

    Args:
        model: the base with adapters off and the backbone bypassed, so that learning never moves a feature.
        depth: the share of layers that run; the ones above are not computed.
        max_length: tokens kept of a longer text: its first and last halves, where instructions and questions stand.
    """
    decoder = decoder_of(model)
    layers = next(m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) > 0)
    layer = layers[max(0, min(len(layers) - 1, round(depth * len(layers)) - 1))]
    ids = [_ends(tokenizer(text or " ", add_special_tokens=False).input_ids, max_length) or [0] for text in texts]
    device = next(model.parameters()).device
    result = np.zeros((len(ids), model.config.get_text_config().hidden_size), dtype=np.float32)  # pyright: ignore
    caught: list[torch.Tensor] = []

    def stop(_module: nn.Module, _args: object, output: object) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)  # pyright: ignore[reportArgumentType]
        raise _Enough

    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    while order:
        longest = len(ids[order[-1]])
        part = order[-max(1, max_tokens // longest) :]
        del order[-len(part) :]
        padded = torch.zeros((len(part), longest), dtype=torch.long)
        mask = torch.zeros((len(part), longest), dtype=torch.long)
        for row, index in enumerate(part):
            padded[row, : len(ids[index])] = torch.tensor(ids[index])
            mask[row, : len(ids[index])] = 1
        handle = layer.register_forward_hook(stop)
        try:
            decoder(input_ids=padded.to(device), attention_mask=mask.to(device), use_cache=False)
        except _Enough:
            pass
        finally:
            handle.remove()
        hidden = caught.pop().float().cpu()
        weight = mask.float().unsqueeze(-1)
        result[part] = ((hidden * weight).sum(dim=1) / weight.sum(dim=1)).numpy()
    return result


def prompt_words(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int = 192) -> list[list[int]]:
    """The token ids of each text's words: in lower case, and without what is neither a letter, a digit nor `_`."""
    plain = [" ".join(re.findall(r"\w+", text.lower())) for text in texts]
    # The blank in front: to most tokenizers a word at the beginning of a text is another token than one within it.
    return [
        _ends(tokenizer(f" {text}", add_special_tokens=False).input_ids, max_length) if text else [] for text in plain
    ]


def _ends(ids: list[int], max_length: int) -> list[int]:
    half = max_length // 2
    return ids if len(ids) <= max_length else ids[:half] + ids[-half:]
