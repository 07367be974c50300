"""One domain in training on a stack: its session on disk, a phase of steps, and what rows lose; each step resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from crma.data.batches import Plan
from crma.data.domains import split_hashes
from crma.data.render import Rendered
from crma.model.adapters import AdapterConfig, Weights, peft_config, rank_of, to_file
from crma.model.backbone import State
from crma.served import UNSAVED, WEIGHTS, ServedStack
from crma.session import Session
from crma.stack.layout import ROWS
from crma.stack.transaction import Transaction
from crma.train.config import LearnConfig, derived_seed
from crma.train.loop import Checkpoint, Group, StepReport, fit
from crma.train.promotion import Held
from crma.types import Split

__all__ = ["DomainTraining", "Listener", "data_hash", "rows_to_keep"]

Listener = Callable[[str, Mapping[str, Any]], None]


class DomainTraining:
    """What learning a new domain and extending one have in common. The caller holds the stack's lock."""

    def __init__(self, served: ServedStack, domain: str, config: LearnConfig, on_event: Listener) -> None:
        self.served, self.domain, self.config = served, domain, config
        self.on_event: Listener = on_event if served.is_main else lambda _kind, _value: None
        self.began = time.perf_counter()

    def _session(self, fingerprint: Mapping[str, Any]) -> Session:
        """Opened by the main process, which may clear it, before the others read it and before anyone goes on."""
        work = self.served.stack.work
        if self.served.is_main:
            session = Session(work(self.domain), fingerprint)
            self.served.wait()
        else:
            self.served.wait()
            session = Session(work(self.domain), fingerprint, writes=False)
        self.served.wait()
        return session

    def _held(self, rows: Sequence[Rendered], **told: str) -> Held:
        """What each row loses; with `told` it goes to a listener as well, so that a benchmark need not repeat it."""
        losses = self.served.score_rows(rows, shared=True).losses
        if told:
            self.on_event("measured", {**told, "losses": losses})
        return Held(losses=losses, tokens=tuple(sum(r.supervised[1:]) for r in rows))

    def _loss(self, rows: Sequence[Rendered], **told: str) -> float:
        return self._held(rows, **told).loss

    def _phase(
        self,
        phase: Literal["propose", "commit"],
        rows: Sequence[Rendered],
        whole: Plan,
        part: range,
        session: Session,
        *,
        anew: bool = False,
    ) -> None:
        """Run the steps `part` of the `whole` plan. The checkpoint at the last of them is the phase's result.

        The LoRA's schedule and Adam's moments go on from one phase to the next; the backbone's end with the proposal.
        `anew`: the LoRA is no longer what the moments belong to, so they begin anew; the schedule goes on.
        """
        plan = whole.cut(part.start, part.stop)
        self.served.wait()  # the main process may still be writing the checkpoint that is read here
        self.served.adapters.activate(self.domain)
        groups = [
            Group(
                name="adapter",
                side="adapter",
                lr=self.config.lr,
                parameters=self.served.adapters.parameters(self.domain),
                steps_before=part.start,
                steps_in_all=len(whole),
            ),
        ]
        if phase == "propose" and self.served.backbone is not None:
            frames, mixing = self.served.backbone.trained()
            layers = self.served.backbone.layers()
            gates = {"gate": mixing.pop("gate")} if "gate" in mixing else {}
            for name, lr, parameters in (
                ("frames", self.config.lr_backbone, frames),
                ("mixing", self.config.lr_mixing, mixing),
                ("gates", self.config.lr_gate, gates),
            ):
                if parameters:
                    groups.append(Group(name=name, side="backbone", lr=lr, parameters=parameters, layers=layers))
        start = session.load(phase)
        if start is None and phase == "commit" and not anew and (before := session.load("propose")) is not None:
            start = replace(before, step=0)  # the LoRA as the proposal left it
        session.rewind_metrics(phase, start.step if start is not None else 0)
        if start is not None and start.step >= len(plan):
            self._take(start)
            if phase == "propose" and self.served.backbone is not None:
                self.served.backbone.load({**self.served.backbone.state(), **_backbone_part(start)})
            return
        self.on_event("phase", {"phase": phase, "domain": self.domain, "steps": len(plan)})

        def on_step(report: StepReport) -> None:
            if not self.served.is_main:
                return
            line = {"phase": phase, "domain": self.domain, **asdict(report)}
            line["tokens_per_s"] = report.tokens / report.seconds
            if self.served.backbone is not None and phase == "propose":
                line["sites"] = [asdict(s) for s in self.served.backbone.report()]
                if report.step % 5 == 1 or report.step == report.steps:
                    line["certificate"] = {
                        **asdict(self.served.backbone.certificate()),
                        "worst_operator_norm": float(self.served.backbone.operator_norms().max()),
                    }
            session.log(line)
            self.on_event("step", line)

        backbone = self.served.backbone
        self.served.snapshot_in = UNSAVED
        fit(
            self.served.model,
            self.served.head,
            rows,
            plan,
            groups,
            config=self.config.loop.model_copy(
                update={"seed": derived_seed(self.config.seed, f"{self.domain}/{phase}")}
            ),
            accelerator=self.served.accelerator,
            pad_id=self.served.pad_id,
            on_step=on_step,
            after_update=backbone.retract_ if backbone is not None and phase == "propose" else lambda: None,
            checkpoint_due=lambda step: step % self.config.checkpoint_every == 0 or step == len(plan),
            on_checkpoint=lambda checkpoint: session.save(phase, checkpoint),
            start=start,
        )

    def _take(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint's LoRA into the model."""
        prefix, suffix = "adapter/", ".lora_A/value"
        targets = [
            k.removeprefix(prefix).removesuffix(suffix)
            for k in checkpoint.tensors
            if k.startswith(prefix) and k.endswith(suffix)
        ]
        pair = checkpoint.tensors
        weights = {t: (pair[f"{prefix}{t}.lora_A/value"], pair[f"{prefix}{t}.lora_B/value"]) for t in targets}
        self.served.adapters.load(self.domain, self.served.adapters.configs[self.domain], weights)

    def _write_adapter(self, tx: Transaction, domain: str, weights: Weights, shape: AdapterConfig) -> str:
        """A domain's LoRA under a new path, in PEFT's format; `shape`, at whatever rank, says its scaling."""
        folder = tx.fresh_path(f"adapters/{domain}")
        of = shape.of_rank(rank_of(weights))
        tx.write_tensors(f"{folder}/{WEIGHTS}", to_file(weights), {"format": "pt"})
        base, targets = self.served.stack.manifest.base.name, self.served.adapters.targets
        tx.write_json(
            f"{folder}/adapter_config.json",
            peft_config(rank=of.rank, alpha=of.alpha, targets=targets, base_name=base),
        )
        return folder

    def _write_rows(self, tx: Transaction, split: Split) -> str:
        """What judges the domain from now on, under a new path."""
        folder = tx.fresh_path(f"rows/{self.domain}")
        tx.write_lines(f"{folder}/{ROWS}", rows_to_keep(split))
        return folder


def data_hash(split: Split) -> str:
    """SHA-256 of what a domain learns from and is judged by: 64 hexadecimal digits, whatever the order of rows."""
    return hashlib.sha256(json.dumps(split_hashes(split), sort_keys=True).encode()).hexdigest()


def rows_to_keep(split: Split) -> Iterator[dict[str, Any]]:
    """The lines of a domain's file of rows: what judges it from now on."""
    for name, rows in (("validation", split.validation), ("test", split.test)):
        for row in rows:
            line = {"split": name, "messages": [{"role": m.role, "content": m.content} for m in row.messages]}
            yield line if row.group is None else {**line, "group": row.group}


def _backbone_part(checkpoint: Checkpoint) -> State:
    """A checkpoint's backbone parameters under their own names."""
    found = {}
    for key, value in checkpoint.tensors.items():
        group, name, kind = key.split("/")
        if group in ("frames", "mixing", "gates") and kind == "value":
            found[name] = value
    return found
