"""Teach a toy base two domains under whatever launcher started this; each process tells what it saw in a file.

    accelerate launch ... two_domains.py OUT BASE PRECISION...

A CPU counts as no accelerator for accelerate's FSDP 2: with CPU_FSDP=1 this says otherwise (tests only).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from crma.continual import ContinualModel
from crma.errors import StackLockedError, UnknownDomainError
from crma.model.backbone import BackboneConfig
from crma.model.base import Precision
from crma.stack.stack import Stack
from crma.train.config import LearnConfig
from crma.train.loop import LoopConfig
from crma.types import Example, Split

# Rates at which the second domain's proposal makes the first one worse until it is cut to a half.
# Nobody follows and nothing may be lost, so that a part of the second proposal is refused.
CONFIG = LearnConfig(
    follow=(1.0,),
    absorb=False,
    budget=0.0,
    propose=0.5,
    epochs=4, batch_size=6, rank=2, lr=5e-3, lr_backbone=2.5e-3, lr_mixing=5e-2, max_length=96, checkpoint_every=4,
    loop=LoopConfig(micro_batch_size=2),
)  # fmt: skip
# As users have it: the first domain follows the second one, its LoRA fitted to the rest.
FOLLOWING = CONFIG.model_copy(update={"follow": LearnConfig().follow, "tolerance": 0.05, "propose": 1.0})
BACKBONE = BackboneConfig(directions=4, strength=4.0)


def questions(subject: str, *answers: str) -> Split:
    """Rows of unlike lengths; 13 train rows in steps of 6 leave a last step of 1: a second process has no row then."""
    rows = [
        Example.of(f"What is the colour of {subject} {'very ' * (i % 4)}{i}?", answers[i % len(answers)])
        for i in range(23)
    ]
    return Split(train=tuple(rows[:13]), validation=tuple(rows[13:18]), test=tuple(rows[18:]))


DOMAINS = {
    "fruit": questions("fruit", "It is red.", "It is green."),
    "stones": questions("stone", "0110 100", "1100 010"),
}


def writes_below(folder: Path) -> list[str]:
    """What this process opens for writing, makes, renames or removes in `folder` from now on."""
    found: list[str] = []

    def listen(event: str, args: tuple[object, ...]) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        if event == "open" and isinstance(args[2], int):
            changes = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and isinstance(args[0], str | Path) and Path(args[0]).is_relative_to(folder):
            found.append(Path(args[0]).name)

    sys.addaudithook(listen)
    return found


def forget(model: ContinualModel, out: Path) -> dict[str, object]:
    """In a copy of the stack: a domain that is there, and one that is not."""
    copy = out / "copy"
    if model.is_main:
        shutil.copytree(out / "stack", copy)
    model.wait()
    other = ContinualModel.from_pretrained(
        copy, base=model.base.name, precision="float32", accelerator=model.accelerator
    )
    told: dict[str, object] = {"before": [d.name for d in other.stack.manifest.domains]}
    try:
        other.forget("herbs")
    except UnknownDomainError as error:
        told["unknown"] = error.got
    with Stack.open(copy).lock() if model.is_main else nullcontext():  # a fault of the main process alone
        try:
            other.learn("herbs", DOMAINS["stones"], FOLLOWING)
        except StackLockedError as error:
            told["locked"] = error.what
    told["first"] = asdict(other.forget("fruit"))
    told["after"] = [d.name for d in other.stack.manifest.domains]
    told["routed"] = [r.nearest for r in other.route(["What is the colour of fruit 1?"])]
    return told


def teach(
    out: Path, base: str, precision: Precision, accelerator: Accelerator, config: LearnConfig = CONFIG
) -> dict[str, object]:
    lines: list[dict[str, object]] = []
    model = ContinualModel.create(
        out / "stack",
        base=base,
        precision=precision,
        backbone=BACKBONE,
        accelerator=accelerator,
    )
    learnt = [
        model.learn(
            name, split, config, on_event=lambda kind, value: lines.append(dict(value)) if kind == "step" else None
        )
        for name, split in DOMAINS.items()
    ]
    forgot = forget(model, out) if config is FOLLOWING else None
    weight = next(p for n, p in model.model.named_parameters() if n.endswith("down_proj.base_layer.weight"))
    return {
        "processes": accelerator.num_processes,
        "fsdp2": accelerator.is_fsdp2,
        "sharded": hasattr(weight, "full_tensor"),
        "dtype": str(weight.dtype),
        "lines": lines,
        "learnt": [asdict(one) for one in learnt],
        "evaluation": asdict(model.evaluate()),
        "routes": [r.domain for r in model.route([f"What is the colour of {s} 1?" for s in ("fruit", "stone")])],
        "fits": [e["verdict"]["fits"] for e in model.stack.read_ledger() if e["kind"] == "learn"],
        "forgot": forgot,
        "replies": [model.ask("The colour?", domain=d, max_new_tokens=4).text for d in ("fruit", "base")],
    }


def main(out: Path, base: str, runs: Sequence[str]) -> None:
    """Each run a precision of the base, or "following"."""
    torch.set_num_threads(1)
    if os.environ.get("CPU_FSDP"):
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

        def gloo(self, cpu=False, sagemaker_dp=False, backend=None):
            return "gloo", DistributedType.MULTI_GPU

        PartialState._prepare_backend = gloo
    accelerator = Accelerator()
    wrote = writes_below(out) if accelerator.num_processes > 1 else []  # a hook cannot be taken away again
    for run in runs:
        following = run == "following"
        precision = cast(Precision, "float32" if following else run)
        seen = teach(out / run, base, precision, accelerator, FOLLOWING if following else CONFIG)
        name = f"process{accelerator.process_index}.json"
        (out / run / name).write_text(json.dumps({**seen, "wrote": [w for w in wrote if w != name]}))
    if accelerator.num_processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
