"""The loss: negative log-likelihood of the answer tokens, with logits computed for those positions only.

Shape legend: B = rows, L = padded length, N = supervised tokens of the batch, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from crma.data.batches import evaluation_batches
from crma.train.processes import summed
from crma.types import Score

__all__ = ["Batch", "Row", "answer_losses", "collate", "evaluate_rows"]


class Row(Protocol):
    """Token ids and, for each, whether it is an answer token (data/render.py makes them)."""

    @property
    def input_ids(self) -> Sequence[int]: ...
    @property
    def supervised(self) -> Sequence[bool]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    ids_BL: Tensor
    attention_BL: Tensor
    keep_BL: Tensor  # bool: position t predicts a supervised token t + 1
    targets_N: Tensor
    row_N: Tensor  # which row each supervised token belongs to

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.attention_BL.sum())


def collate(rows: Sequence[Row], *, pad_id: int, device: torch.device) -> Batch:
    """Pad `rows` on the right. What is supervised goes by position, never by the pad id: it may be the end of turn."""
    length = max(len(r.input_ids) for r in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    attention = torch.zeros((len(rows), length), dtype=torch.long)
    keep = torch.zeros((len(rows), length), dtype=torch.bool)
    for b, row in enumerate(rows):
        n = len(row.input_ids)
        ids[b, :n] = torch.tensor(row.input_ids)
        attention[b, :n] = 1
        keep[b, : n - 1] = torch.tensor(row.supervised[1:], dtype=torch.bool)
    following = torch.roll(ids, shifts=-1, dims=1)
    return Batch(
        ids_BL=ids.to(device),
        attention_BL=attention.to(device),
        keep_BL=keep.to(device),
        targets_N=following[keep].to(device),
        row_N=keep.nonzero()[:, 0].to(device),
    )


def answer_losses(model: nn.Module, head: nn.Module, batch: Batch) -> Tensor:
    """Negative log-likelihood [N] in nats of each supervised token, float32.

    Args:
        model: the causal LM, sharded or not.
        head: its output embedding (`get_output_embeddings()`), which sees the supervised positions only: at 49,152
            tokens of vocabulary the head is a fifth of the work.
    """
    with _only(head, batch.keep_BL):
        logits = model(input_ids=batch.ids_BL, attention_mask=batch.attention_BL, use_cache=False).logits
    return F.cross_entropy(logits.float(), batch.targets_N, reduction="none")


@contextmanager
def _only(head: nn.Module, keep: Tensor) -> Iterator[None]:
    handle = head.register_forward_pre_hook(lambda _module, args: (args[0][keep],))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def evaluate_rows(
    model: nn.Module,
    head: nn.Module,
    rows: Sequence[Row],
    *,
    pad_id: int,
    max_tokens: int = 2048,
    accelerator: Accelerator | None = None,
) -> Score:
    """The mean loss a supervised token over `rows`, and each row's own mean, in the order given.

    Args:
        accelerator: given, its processes share the batches and all get the result, the same to the last bit as one
            process alone would compute; all of them must call. None: this process computes it alone.
    """
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    sums, counts = torch.zeros((2, len(rows)), dtype=torch.float64)
    try:
        batches = evaluation_batches([len(r.input_ids) for r in rows], max_tokens=max_tokens)
        for first in range(0, len(batches), processes):
            # A process without a batch of its own runs along and counts nothing: FSDP 2 gathers weights in step.
            own = first + rank < len(batches)
            indices = batches[first + rank] if own else batches[first]
            batch = collate([rows[i] for i in indices], pad_id=pad_id, device=device)
            losses = answer_losses(model, head, batch).cpu().double()
            if own:
                row_N = torch.tensor(indices)[batch.row_N.cpu()]
                sums.index_add_(0, row_N, losses)
                counts += torch.bincount(row_N, minlength=len(rows))
    finally:
        model.train(was_training)
    sums, counts = summed(accelerator, torch.cat([sums, counts])).chunk(2)
    tokens = int(counts.sum())
    return Score(
        loss=sums.sum().item() / max(tokens, 1), tokens=tokens, losses=tuple((sums / counts.clamp(min=1)).tolist())
    )
