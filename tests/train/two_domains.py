"""Teach a toy base two domains under whatever launcher started this; each process tells what it saw in a file.

    accelerate launch ... two_domains.py OUT BASE PRECISION

A CPU counts as no accelerator for accelerate's FSDP 2: with CPU_FSDP=1 this says otherwise (tests only).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from crma.continual import ContinualModel
from crma.model.backbone import BackboneConfig
from crma.train.config import LearnConfig
from crma.train.loop import LoopConfig
from crma.types import Example, Split

COLOURS = ("red", "green", "blue", "black")

CONFIG = LearnConfig(
    epochs=2, batch_size=6, rank=2, lr=5e-3, lr_backbone=5e-3, lr_mixing=1e-2, max_length=96, checkpoint_every=4,
    tolerance=0.02, loop=LoopConfig(micro_batch_size=2),
)  # fmt: skip


def questions(subject: str, count: int, shift: int) -> Split:
    """Rows of unlike lengths; 15 rows in steps of 6 leave a last step of 3, an odd number for two processes."""
    rows = [
        Example.of(f"What is the colour of {subject} {'very ' * (i % 4)}{i}?", f"It is {COLOURS[(i + shift) % 4]}.")
        for i in range(count)
    ]
    return Split(train=tuple(rows[: count - 10]), validation=tuple(rows[-10:-5]), test=tuple(rows[-5:]))


def main(out: Path, base: str, precision: str) -> None:
    torch.set_num_threads(1)
    if os.environ.get("CPU_FSDP"):
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

        def gloo(self, cpu=False, sagemaker_dp=False, backend=None):
            return "gloo", DistributedType.MULTI_GPU

        PartialState._prepare_backend = gloo
    accelerator = Accelerator()
    lines: list[dict[str, object]] = []
    model = ContinualModel.create(
        out / "stack",
        base=base,
        precision=precision,  # pyright: ignore[reportArgumentType]
        backbone=BackboneConfig(directions=4),
        accelerator=accelerator,
    )
    learnt = [
        asdict(
            model.learn(
                name,
                questions(subject, 25, shift),
                CONFIG,
                on_event=lambda kind, value: lines.append(dict(value)) if kind == "step" else None,
            )
        )
        for name, subject, shift in (("fruit", "fruit", 0), ("stones", "stone", 2))
    ]
    evaluation = asdict(model.evaluate())
    routes = [r.domain for r in model.route(["What is the colour of fruit 1?", "What is the colour of stone 1?"])]
    replies = [model.ask("What is the colour of fruit 1?", domain=d, max_new_tokens=4).text for d in ("fruit", "base")]
    first = next(p for n, p in model.model.named_parameters() if n.endswith("down_proj.base_layer.weight"))
    seen = {
        "processes": accelerator.num_processes,
        "fsdp2": accelerator.is_fsdp2,
        "sharded": hasattr(first, "full_tensor"),
        "main": accelerator.is_main_process,
        "dtype": str(first.dtype),
        "lines": lines,
        "learnt": learnt,
        "evaluation": evaluation,
        "routes": routes,
        "replies": replies,
    }
    (out / f"process{accelerator.process_index}.json").write_text(json.dumps(seen))
    if accelerator.num_processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
