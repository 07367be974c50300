"""The one training loop, on Accelerate: read it aloud. It writes no file; what it learns goes to callables.

Every process computes the same plan and takes its share of each step's rows. The loss is a sum over tokens divided by
the step's tokens over all processes, so one process, several, and FSDP 2 give the same curve however the rows fall.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from crma.data.batches import Plan
from crma.errors import TrainingDivergedError
from crma.train.objectives import Row, answer_losses, collate
from crma.train.processes import agree_, sum_gradients_, summed

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
    # One schedule over several phases: the steps it took before this one, and in all (None: this phase's plan).
    steps_before: int = 0
    steps_in_all: int | None = None

    def lr_at(self, step: int, steps: int, warmup: float) -> float:
        """The learning rate of this phase's step `step` (from 0) of `steps`."""
        return self.lr * learning_rate_share(self.steps_before + step, self.steps_in_all or steps, warmup)


_LONGEST_PLAIN = 512  # tokens; 8 rows of them and 9 heads keep 75 MB a block in float32

_Live = tuple[Group, str, nn.Parameter]


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
    """All that a run needs to go on after `step` steps: parameters and Adam's moments."""

    step: int
    tensors: dict[str, np.ndarray] = field(repr=False)
    updates: int | None = None  # Adam's own count, where its moments are older than this phase; None: `step`


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
        TrainingDivergedError: a loss or a gradient is not finite; the parameters are those before the step. Or
            `after_update` found a parameter that is not.
    """
    live = [(group, name, parameter) for group in groups for name, parameter in group.parameters.items()]
    trained = [parameter for _, _, parameter in live]
    _require_gradients_of(model, trained)
    agree_(trained, accelerator)
    optimizer = torch.optim.AdamW(
        [{"params": list(g.parameters.values()), "lr": g.lr} for g in groups], weight_decay=config.weight_decay
    )
    if start is not None:
        _restore(start, live, optimizer)
    device = next(model.parameters()).device
    supervised = [sum(r.supervised[1:]) for r in rows]
    model.train()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    switched = _plain_attention(model, device, max((len(r.input_ids) for r in rows), default=0))
    try:
        for step in range(start.step if start else 0, len(plan)):
            began = time.perf_counter()
            torch.manual_seed(config.seed * 1_000_003 + step)  # dropout resumes as it would have gone on
            rates = {g.name: g.lr_at(step, len(plan), config.warmup) for g in groups}
            for param_group, group in zip(optimizer.param_groups, groups, strict=True):
                param_group["lr"] = rates[group.name]
            indices = plan.steps[step]
            count = sum(supervised[i] for i in indices)
            loss, tokens = 0.0, 0
            for part in _micro_batches(indices, accelerator, config.micro_batch_size):
                batch = collate([rows[i] for i in part or indices[:1]], pad_id=pad_id, device=device)
                part_loss = answer_losses(model, head, batch).sum() * ((1.0 if part else 0.0) / max(count, 1))
                part_loss.backward()
                loss += part_loss.item()
                tokens += batch.tokens if part else 0
            loss, tokens = summed(accelerator, torch.tensor([loss, tokens], dtype=torch.float64)).tolist()
            sum_gradients_(trained, accelerator)
            norms, layers = _norms(live)
            if not math.isfinite(loss) or not all(math.isfinite(n) for n in norms.values()):
                raise TrainingDivergedError(
                    "training diverged",
                    where=f"step {step + 1} of {len(plan)}",
                    expected="a finite loss and finite gradients",
                    got=f"loss {loss:.4g}, gradient norms {norms}",
                    next_step="lower the learning rate; the stack holds what it held before",
                )
            _clip_(live, norms, config.clip)
            optimizer.step()
            optimizer.zero_grad()
            after_update()
            on_step(
                StepReport(
                    step=step + 1,
                    steps=len(plan),
                    epoch=(step + 1) / plan.steps_per_epoch,
                    loss=loss,
                    tokens=int(tokens),
                    supervised=count,
                    seconds=time.perf_counter() - began,
                    lr=rates,
                    grad_norm=norms,
                    grad_norm_layers=layers,
                )
            )
            if checkpoint_due(step + 1):
                on_checkpoint(_checkpoint(step + 1, live, optimizer))
    finally:
        optimizer.zero_grad()
        model.eval()
        if switched is not None:
            model.set_attn_implementation(switched)  # pyright: ignore[reportCallIssue]
        if config.gradient_checkpointing:
            model.gradient_checkpointing_disable()  # pyright: ignore[reportCallIssue]
        _require_gradients_of(model, ())


def _require_gradients_of(model: nn.Module, trained: Sequence[nn.Parameter]) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def _plain_attention(model: nn.Module, device: torch.device, longest: int) -> str | None:
    """Switch to attention as plain matrix products where that trains faster; returns what it was.

    On a CPU the backward of torch's fused attention is slow in bfloat16: 216 against 170 tokens/s at 8 rows of 100
    tokens. Plain attention keeps L² numbers a head, so long rows keep the fused one.
    """
    config = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if device.type != "cpu" or before != "sdpa" or longest > _LONGEST_PLAIN:
        return None
    model.set_attn_implementation("eager")  # pyright: ignore[reportCallIssue]
    return before


def _micro_batches(indices: Sequence[int], accelerator: Accelerator, size: int) -> list[Sequence[int]]:
    """This process's rows of a step, cut to `size`; as many parts on every process, the missing ones empty."""
    mine = indices[accelerator.process_index :: accelerator.num_processes]
    most = -(-len(indices) // accelerator.num_processes)
    return [mine[k : k + size] for k in range(0, most, size)]


def _norms(live: Sequence[_Live]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The gradients' norms: a side, and a side's layers. One transfer from the device."""
    parts = [
        p.grad.float().square().reshape(p.shape[0] if name in group.layers else 1, -1).sum(dim=1)
        for group, name, p in live
        if p.grad is not None
    ]
    owners = [
        (group.side, str(layer)) for group, name, _ in live for layer in group.layers.get(name, (_layer_of(name),))
    ]
    sides: dict[str, float] = defaultdict(float)
    layers: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (side, layer), value in zip(owners, torch.cat(parts).tolist(), strict=True):
        sides[side] += value
        layers[side][layer] += value
    root = {side: math.sqrt(v) for side, v in sides.items()}
    return root, {side: {k: math.sqrt(v) for k, v in found.items()} for side, found in layers.items()}


@torch.no_grad()
def _clip_(live: Sequence[_Live], norms: Mapping[str, float], limit: float) -> None:
    for group, _, parameter in live:
        if parameter.grad is not None:
            parameter.grad.mul_(min(1.0, limit / (norms[group.side] + 1e-12)))


def _layer_of(name: str) -> str:
    found = re.search(r"\.(\d+)\.", name)
    return found.group(1) if found else name


def _checkpoint(step: int, live: Sequence[_Live], optimizer: torch.optim.Optimizer) -> Checkpoint:
    tensors: dict[str, np.ndarray] = {}
    for group, name, parameter in live:
        state = optimizer.state[parameter]
        for kind, value in (("value", parameter), ("exp_avg", state["exp_avg"]), ("exp_avg_sq", state["exp_avg_sq"])):
            tensors[f"{group.name}/{name}/{kind}"] = value.detach().float().cpu().numpy().copy()
    return Checkpoint(step=step, tensors=tensors, updates=int(optimizer.state[live[0][2]]["step"].item()))


@torch.no_grad()
def _restore(start: Checkpoint, live: Sequence[_Live], optimizer: torch.optim.Optimizer) -> None:
    updates = torch.tensor(float(start.step if start.updates is None else start.updates))
    for group, name, parameter in live:
        value, first, second = (
            torch.from_numpy(np.array(start.tensors[f"{group.name}/{name}/{kind}"])).to(parameter)
            for kind in ("value", "exp_avg", "exp_avg_sq")
        )
        parameter.copy_(value)
        optimizer.state[parameter] = {"step": updates.clone(), "exp_avg": first, "exp_avg_sq": second}
