"""The one training loop, on Accelerate: read it aloud. It writes no file; what it learns goes to callables.

Every process computes the same plan and takes its share of each step's rows. The loss is a sum over tokens divided by
the step's tokens over all processes, so one process, DDP and FSDP 2 give the same curve however the rows fall.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from crma.data.batches import Plan
from crma.errors import TrainingDivergedError
from crma.train.objectives import Row, answer_losses, collate

__all__ = ["Checkpoint", "Group", "LoopConfig", "StepReport", "fit", "learning_rate_share"]


class LoopConfig(BaseModel):
    """How a phase of training steps; the rows and their order come from a Plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    micro_batch_size: int = Field(default=8, ge=1, description="rows a forward, on each process")
    warmup: float = Field(default=0.06, ge=0, le=1, description="share of the steps with a rising learning rate")
    clip: float = Field(default=1.0, gt=0, description="gradient norm, of the adapter and of the backbone apart")
    weight_decay: float = Field(default=0.0, ge=0)
    seed: int = 0
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Parameters with one learning rate. `side` is what a user wants apart in the logs: adapter or backbone."""

    name: str
    side: str
    lr: float
    parameters: Mapping[str, nn.Parameter]
    # For parameters batched over sites: the layer of each entry of the first dimension.
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    step: int  # 1-based
    steps: int
    epoch: float
    loss: float  # nats a supervised token, over all processes
    tokens: int
    supervised: int
    seconds: float
    lr: Mapping[str, float]
    grad_norm: Mapping[str, float]  # a side
    grad_norm_layers: Mapping[str, Mapping[str, float]]  # side -> layer -> norm


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """All that a run needs to go on after `step` steps: parameters and Adam's moments, whole (not sharded)."""

    step: int
    tensors: dict[str, np.ndarray] = field(repr=False)


def learning_rate_share(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then a half cosine to zero (Loshchilov and Hutter, 2017, eq. 5 without restarts); step from 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def fit(
    model: nn.Module,
    head: nn.Module,
    rows: Sequence[Row],
    plan: Plan,
    groups: Sequence[Group],
    *,
    config: LoopConfig,
    accelerator: Accelerator,
    pad_id: int,
    on_step: Callable[[StepReport], None] = lambda _report: None,
    after_update: Callable[[], None] = lambda: None,
    checkpoint_due: Callable[[int], bool] = lambda _step: False,
    on_checkpoint: Callable[[Checkpoint], None] = lambda _checkpoint: None,
    start: Checkpoint | None = None,
) -> None:
    """Train exactly the parameters of `groups`, through all steps of `plan` that `start` has not done.

    Raises:
        TrainingDivergedError: a loss or a gradient is not finite; the parameters are those before the step.
    """
    sharded = any(hasattr(p, "full_tensor") for p in model.parameters())
    if not sharded:  # FSDP 2 fixes what needs a gradient when it shards; afterwards the optimiser's list alone decides
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for group in groups:
            for parameter in group.parameters.values():
                parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [{"params": list(g.parameters.values()), "lr": g.lr, "name": g.name} for g in groups],
        weight_decay=config.weight_decay,
    )
    wrapped, optimizer = _prepare(accelerator, model, optimizer)
    names = [(g, name) for g in groups for name in g.parameters]
    # Read back from the optimiser: FSDP 2 replaces every parameter by its shard when it prepares a model.
    live: list[tuple[Group, str, Any]] = [
        (g, name, p)
        for (g, name), p in zip(names, (p for pg in optimizer.param_groups for p in pg["params"]), strict=True)
    ]
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    if start is not None:
        _restore(start, live, optimizer)
    supervised = [sum(r.supervised[1:]) for r in rows]
    model.train()
    for step in range(start.step if start else 0, len(plan)):
        began = time.perf_counter()
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout resumes as it would have gone on
        share = learning_rate_share(step, len(plan), config.warmup)
        for param_group, group in zip(optimizer.param_groups, groups, strict=True):
            param_group["lr"] = group.lr * share
        indices = plan.steps[step]
        count = sum(supervised[i] for i in indices)
        total, tokens = 0.0, 0
        micro = _micro_batches(indices, accelerator, config.micro_batch_size)
        for k, part in enumerate(micro):
            batch = collate([rows[i] for i in part or indices[:1]], pad_id=pad_id, device=accelerator.device)
            with accelerator.no_sync(wrapped) if k + 1 < len(micro) else _nothing():
                loss = answer_losses(wrapped, head, batch).sum() * (1.0 if part else 0.0)
                # DDP and FSDP average over processes: undo it, the sum is what is wanted.
                accelerator.backward(loss * (accelerator.num_processes / count))
            total += loss.item()
            tokens += batch.tokens if part else 0
        total, tokens = _over_processes(accelerator, total, tokens)
        norms, layers = _clip(live, accelerator, config.clip)
        if not math.isfinite(total) or not all(math.isfinite(n) for n in norms.values()):
            raise TrainingDivergedError(
                "training diverged",
                where=f"step {step + 1} of {len(plan)}",
                expected="a finite loss and finite gradients",
                got=f"loss {total / count:.4g}, gradient norms {norms}",
                next_step="lower the learning rate; the stack holds what it held before",
            )
        optimizer.step()
        model.zero_grad()
        after_update()
        on_step(
            StepReport(
                step=step + 1,
                steps=len(plan),
                epoch=(step + 1) / plan.steps_per_epoch,
                loss=total / count,
                tokens=int(tokens),
                supervised=count,
                seconds=time.perf_counter() - began,
                lr={g.name: g.lr * share for g in groups},
                grad_norm=norms,
                grad_norm_layers=layers,
            )
        )
        if checkpoint_due(step + 1):
            on_checkpoint(_checkpoint(step + 1, live, optimizer))
    model.eval()
    if not any(hasattr(p, "full_tensor") for p in model.parameters()):
        for parameter in model.parameters():
            parameter.requires_grad_(False)


def _prepare(accelerator: Accelerator, model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
    """DDP wraps anew each phase (its buckets hold the trainable parameters of the moment); FSDP 2 shards once."""
    if accelerator.num_processes == 1:
        return model, optimizer
    if any(hasattr(p, "full_tensor") for p in model.parameters()):  # sharded by an earlier phase
        return model, optimizer
    return accelerator.prepare(model, optimizer)


def _micro_batches(indices: Sequence[int], accelerator: Accelerator, size: int) -> list[Sequence[int]]:
    """This process's rows of a step, cut to `size`; as many parts on every process, the missing ones empty."""
    mine = indices[accelerator.process_index :: accelerator.num_processes]
    most = -(-len(indices) // accelerator.num_processes)
    return [mine[k : k + size] for k in range(0, most, size)]


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def _over_processes(accelerator: Accelerator, *values: float) -> tuple[float, ...]:
    if accelerator.num_processes == 1:
        return values
    summed = accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=accelerator.device), "sum")
    return tuple(summed.tolist())  # pyright: ignore[reportAttributeAccessIssue]


def _clip(
    live: Sequence[tuple[Group, str, Any]], accelerator: Accelerator, limit: float
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scale each side's gradients to norm ≤ `limit`; the norms before that, a side and a layer."""
    sides: dict[str, float] = defaultdict(float)
    layers: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    plain = [(g, name, p) for g, name, p in live if name not in g.layers]
    if plain:
        squared = torch.stack([_local(p.grad).float().square().sum() for _, _, p in plain]).double()
        if any(hasattr(p, "full_tensor") for _, _, p in plain):  # shards: a sum over processes makes them whole
            squared = accelerator.reduce(squared, "sum")
        for (group, name, _), value in zip(plain, squared.tolist(), strict=True):  # pyright: ignore[reportAttributeAccessIssue]
            sides[group.side] += value
            layers[group.side][_layer_of(name)] += value
    for group, name, parameter in live:
        if name in group.layers:
            per_site = _whole(parameter.grad).double().square().reshape(parameter.shape[0], -1).sum(dim=1).tolist()
            for layer, value in zip(group.layers[name], per_site, strict=True):
                sides[group.side] += value
                layers[group.side][str(layer)] += value
    for group, _, parameter in live:
        _local(parameter.grad).mul_(min(1.0, limit / (math.sqrt(sides[group.side]) + 1e-12)))
    root = {side: math.sqrt(v) for side, v in sides.items()}
    return root, {side: {k: math.sqrt(v) for k, v in found.items()} for side, found in layers.items()}


def _layer_of(name: str) -> str:
    found = re.search(r"\.(\d+)\.", name)
    return found.group(1) if found else name


def _checkpoint(step: int, live: Sequence[tuple[Group, str, Any]], optimizer: Any) -> Checkpoint:
    tensors: dict[str, np.ndarray] = {}
    for group, name, parameter in live:
        state = optimizer.state[parameter]
        for kind, value in (("value", parameter), ("exp_avg", state["exp_avg"]), ("exp_avg_sq", state["exp_avg_sq"])):
            tensors[f"{group.name}/{name}/{kind}"] = _whole(value).float().cpu().numpy().copy()
    return Checkpoint(step=step, tensors=tensors)


@torch.no_grad()
def _restore(start: Checkpoint, live: Sequence[tuple[Group, str, Any]], optimizer: Any) -> None:
    for group, name, parameter in live:
        value, first, second = (
            _as(parameter, start.tensors[f"{group.name}/{name}/{kind}"]) for kind in ("value", "exp_avg", "exp_avg_sq")
        )
        parameter.copy_(value)
        optimizer.state[parameter] = {"step": torch.tensor(float(start.step)), "exp_avg": first, "exp_avg_sq": second}


def _as(parameter: Any, array: np.ndarray) -> Tensor:
    """`array` with the dtype, device and sharding of `parameter`."""
    value = torch.from_numpy(np.array(array)).to(parameter.dtype).to(parameter.device)
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def _local(value: Any) -> Tensor:
    return value.to_local() if hasattr(value, "to_local") else value


def _whole(value: Any) -> Tensor:
    data = value.detach()
    return data.full_tensor() if hasattr(data, "full_tensor") else data
