"""Which rows stand together in a step: shuffled by a seed, rows of similar length side by side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Plan", "evaluation_batches", "plan_batches"]

# Rows are sorted by length within windows of this many batches: little padding, and still a shuffle.
_WINDOW = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`steps[s]` holds the row indices of optimiser step s, over all epochs; the same on every process."""

    steps: tuple[tuple[int, ...], ...]
    steps_per_epoch: int

    def __len__(self) -> int:
        return len(self.steps)

    def cut(self, start: int, stop: int) -> Plan:
        return Plan(steps=self.steps[start:stop], steps_per_epoch=self.steps_per_epoch)


def plan_batches(lengths: Sequence[int], *, batch_size: int, epochs: float, seed: int) -> Plan:
    """Lay out `epochs` passes over rows of `lengths` in steps of `batch_size` rows (an epoch's last may be smaller).

    A fraction of an epoch is that share of its steps, at least one step in all.
    """
    per_epoch = -(-len(lengths) // batch_size)
    wanted = max(1, round(epochs * per_epoch))
    steps: list[tuple[int, ...]] = []
    epoch = 0
    while len(steps) < wanted:
        rng = random.Random(f"{seed}:{epoch}")
        order = list(range(len(lengths)))
        rng.shuffle(order)
        batches = []
        for start in range(0, len(order), _WINDOW * batch_size):
            window = sorted(order[start : start + _WINDOW * batch_size], key=lambda i: (lengths[i], i))
            batches += [tuple(window[k : k + batch_size]) for k in range(0, len(window), batch_size)]
        rng.shuffle(batches)
        steps += batches
        epoch += 1
    return Plan(steps=tuple(steps[:wanted]), steps_per_epoch=per_epoch)


def evaluation_batches(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Every row once, by length, as many a batch as `max_tokens` padded tokens hold (at least one)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
