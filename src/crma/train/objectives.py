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
from torch import Tensor, nn

from crma.data.batches import evaluation_batches
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
        model: the causal LM, wrapped by DDP or FSDP or not.
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
    model: nn.Module, head: nn.Module, rows: Sequence[Row], *, pad_id: int, max_tokens: int = 2048
) -> Score:
    """The mean loss a supervised token over `rows`, and each row's own mean, in the order given."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    per_row = [0.0] * len(rows)
    total, count = 0.0, 0
    try:
        for indices in evaluation_batches([len(r.input_ids) for r in rows], max_tokens=max_tokens):
            batch = collate([rows[i] for i in indices], pad_id=pad_id, device=device)
            losses = answer_losses(model, head, batch).double()
            sums = torch.zeros(len(indices), dtype=torch.float64).index_add_(0, batch.row_N.cpu(), losses.cpu())
            counts = torch.bincount(batch.row_N.cpu(), minlength=len(indices))
            for index, value in zip(indices, (sums / counts.clamp(min=1)).tolist(), strict=True):
                per_row[index] = value
            total += sums.sum().item()
            count += int(counts.sum())
    finally:
        model.train(was_training)
    return Score(loss=total / max(count, 1), tokens=count, losses=tuple(per_row))
