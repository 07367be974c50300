"""Several processes that teach one model: the base may lie in shards, what is trained is whole on each.

What is trained is a few megabytes (a LoRA, a backbone), so every process keeps it whole and its gradients are summed
once a step: data parallelism without a wrapper. FSDP 2 shards the frozen base alone. So no trained tensor is ever a
DTensor, a base in bfloat16 and trained parameters in float32 never meet in one FSDP group (which must be of one type),
and a domain's new LoRA can be put into a model that was sharded before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast, broadcast_object_list, fsdp2_prepare_model
from torch import Tensor, nn

from crma.errors import ConfigError

__all__ = ["agree_", "forget_cut_forward", "on_main", "shard_base", "sum_gradients_", "summed"]

T = TypeVar("T")

_PLAIN = {
    getattr(DistributedType, name)
    for name in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "MULTI_MLU", "MULTI_HPU", "MULTI_MUSA")
    if hasattr(DistributedType, name)
}


def shard_base(model: nn.Module, accelerator: Accelerator, *, whole: Sequence[str] = ()) -> None:
    """Under FSDP 2, cut the base's weights over the processes, in place; otherwise leave the model as it is.

    Args:
        whole: the model's own submodules that stay whole on every process: what will be trained. They are made equal to
            the main process's, which alone may have read the weights they come from (cpu_ram_efficient_loading).

    Raises:
        ConfigError: the launcher asks for a kind of distribution that is not supported.
    """
    if not getattr(accelerator, "is_fsdp2", False):
        if accelerator.distributed_type not in _PLAIN:
            raise ConfigError(
                "this kind of distributed training is not supported",
                expected="plain data parallelism (accelerate's MULTI_GPU or MULTI_CPU), or FSDP with fsdp_version: 2",
                got=str(accelerator.distributed_type),
                next_step="run `accelerate config` again, or give --fsdp_version 2",
            )
        return
    kept: dict[str, nn.Module] = {name: getattr(model, name) for name in whole}
    for name in kept:  # out of sight of fully_shard, which takes every parameter it finds
        delattr(model, name)
    accelerator.state.fsdp_plugin.set_auto_wrap_policy(model)  # pyright: ignore[reportOptionalMemberAccess]
    fsdp2_prepare_model(accelerator, model)
    for name, module in kept.items():
        model.add_module(name, module)
        agree_([*module.parameters(), *module.buffers()], accelerator)
    # FSDP 2 takes the first module that runs for its root: let it be the whole model, before anyone calls a part of it.
    with torch.no_grad():
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=accelerator.device), use_cache=False)


def forget_cut_forward(model: nn.Module) -> None:
    """Make a sharded model whole again after a forward that was cut short on purpose; others need nothing."""
    reset = getattr(model, "reset_iter_state", None)  # FSDPModule's, of torch 2.13
    if reset is not None:
        reset()


@torch.no_grad()
def agree_(tensors: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Give every process the main one's numbers: they are drawn alike, but perhaps on unlike machines."""
    if accelerator.num_processes > 1 and tensors:
        flat = torch.cat([t.detach().float().reshape(-1) for t in tensors]).to(accelerator.device)
        _spread(broadcast(flat, from_process=0), tensors)


def on_main(accelerator: Accelerator, act: Callable[[], T]) -> T:
    """The main process acts, alone; each gets what that returns, or raises what it raised. All have to call."""
    if accelerator.num_processes == 1:
        return act()
    told: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            told[0] = act()
        except Exception as fault:  # noqa: BLE001 - the others wait for an answer, whatever it is
            told[1] = fault
    broadcast_object_list(told, from_process=0)
    if told[1] is not None:
        raise told[1]
    return told[0]


@torch.no_grad()
def sum_gradients_(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Each parameter's gradient becomes the sum over processes; one that the loss does not reach counts as zero."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if accelerator.num_processes > 1:
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        _spread(_sum(accelerator, flat), gradients)


def summed(accelerator: Accelerator | None, values: Tensor) -> Tensor:
    """`values` [N] in float64 on the CPU, added up over processes."""
    if accelerator is None or accelerator.num_processes == 1:
        return values
    return _sum(accelerator, values.to(accelerator.device)).cpu()


def _sum(accelerator: Accelerator, values: Tensor) -> Any:
    return accelerator.reduce(values, reduction="sum")


def _spread(flat: Tensor, into: Sequence[Tensor]) -> None:
    for target, part in zip(into, flat.split([t.numel() for t in into]), strict=True):
        target.copy_(part.reshape(target.shape))
