"""Token ids in, token ids out: greedy decoding of a batch under whatever adapter is active."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

__all__ = ["generate"]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    max_tokens: int = 4096,
) -> list[list[int]]:
    """Continue each prompt until a stop id (left out of the answer) or `max_new_tokens`; deterministic.

    Prompts are padded on the left and taken longest first, as many a batch as `max_tokens` padded tokens hold.
    """
    device = next(model.parameters()).device
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    stops = set(stop_ids)
    while order:
        longest = len(prompts[order[0]])
        part = order[: max(1, max_tokens // (longest + max_new_tokens))]
        del order[: len(part)]
        ids = torch.full((len(part), longest), pad_id, dtype=torch.long)
        mask = torch.zeros((len(part), longest), dtype=torch.long)
        for row, index in enumerate(part):
            ids[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, longest - len(prompts[index]) :] = 1
        output = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=sorted(stops),
            pad_token_id=pad_id,
        )
        for row, index in enumerate(part):
            new = output[row, longest:].tolist()
            end = next((k for k, token in enumerate(new) if token in stops), len(new))
            answers[index] = new[:end]
    return answers
