"""ContinualModel: teach one domain after another on a frozen base, answer, measure, forget. The protocol read aloud."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from crma.bench.metrics import Matrix, drift_pct
from crma.data.batches import plan_batches
from crma.data.domains import prepare_domain, split_hashes
from crma.data.render import Rendered, end_of_turn_ids, ensure_chat_template, render_all, render_prompt
from crma.data.sources import read_examples
from crma.errors import BaseMismatchError, ConfigError, DataError
from crma.generate.engine import generate
from crma.model.adapters import Adapters, from_file, peft_config, to_file
from crma.model.backbone import BackboneConfig, State, attach_backbone, distance, interpolate
from crma.model.base import Base, Precision, load_base
from crma.model.features import prompt_features
from crma.route.background import BACKGROUND_PROMPTS
from crma.route.centroid import Router
from crma.session import Session
from crma.stack.layout import BaseReference, DomainRecord, SnapshotRecord
from crma.stack.stack import Stack, Transaction
from crma.train.config import LearnConfig, derived_seed
from crma.train.loop import Checkpoint, Group, StepReport, fit
from crma.train.objectives import evaluate_rows
from crma.train.promotion import Verdict, verify_proposal
from crma.types import Example, Message, Reply, Route, Score, Split, check_domain_name

__all__ = ["ContinualModel", "Evaluation", "Forgotten", "LearnConfig", "Learnt"]

Data = str | os.PathLike[str] | Sequence[Example] | Split
Listener = Callable[[str, Mapping[str, Any]], None]

# The share of layers whose output the router sees. Measured on the five domains and CLINC150 strangers: LOG.md.
ROUTER_DEPTH = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Learnt:
    """What learning a domain came to; losses on its test rows, in nats a supervised token."""

    domain: str
    snapshot: str | None
    share: float | None  # of the proposed backbone that was accepted; None for a stack without a backbone
    loss_base: float | None
    loss_after: float | None
    rows: Mapping[str, int]
    seconds: float
    losses: Mapping[str, float | None]  # every domain's test loss, each with what it is served with now


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    domain: str
    trained_after: tuple[str, ...]  # later snapshots, which still carry what they learnt from it
    snapshot_before: str | None
    rewound: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Test losses: `floating` is R[t][i] with adapter i under the snapshot of domain t, `pinned` as served."""

    floating: Matrix
    pinned: tuple[float, ...]
    routed: tuple[float, ...]  # the router picks the adapter, row by row
    routing_accuracy: tuple[float, ...]
    drift_pinned_pct: tuple[float, ...]
    drift_floating_pct: tuple[float, ...]


class ContinualModel:
    """A stack on disk with its base in memory. `create` or `from_pretrained` one."""

    def __init__(self, stack: Stack, base: Base, *, accelerator: Accelerator | None = None) -> None:
        self.stack = stack
        self.model: nn.Module = base.model
        self.tokenizer: PreTrainedTokenizerBase = base.tokenizer
        self.base = base
        ensure_chat_template(self.tokenizer)
        head = base.model.get_output_embeddings()
        assert head is not None
        self._head: nn.Module = head
        config = stack.manifest.backbone
        self.backbone = attach_backbone(base.model, BackboneConfig(**config)) if config is not None else None
        self._initial: State | None = self.backbone.state() if self.backbone else None
        self.adapters = Adapters(base.model)
        self._accelerator = accelerator
        self._snapshot_in: str | None = None  # whose numbers the backbone holds
        self._rows: dict[tuple[str, str], tuple[Rendered, ...]] = {}

    # --- opening -----------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        base: str = "smollm2-135m",
        backbone: BackboneConfig | None = BackboneConfig(),  # noqa: B008 - frozen
        precision: Precision = "auto",
        device: str | None = None,
        accelerator: Accelerator | None = None,
    ) -> ContinualModel:
        """A new stack at `path`. `backbone` None learns with per-domain LoRAs alone."""
        loaded = load_base(base, precision=precision, device=_device(device, accelerator))
        reference = BaseReference(
            name=base,
            source=loaded.source,
            weights_sha256=loaded.weights_sha256,
            architecture=loaded.architecture,
            parameters=loaded.parameters,
        )
        if accelerator is None or accelerator.is_main_process:
            Stack.create(path, base=reference, backbone=backbone.model_dump() if backbone else None)
        if accelerator is not None:
            accelerator.wait_for_everyone()
        return cls(Stack.open(path), loaded, accelerator=accelerator)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        base: str | None = None,
        precision: Precision = "auto",
        device: str | None = None,
        accelerator: Accelerator | None = None,
    ) -> ContinualModel:
        """Open the stack at `path`; `base` overrides where the base is looked for, not what it must be.

        Raises:
            BaseMismatchError: the base's weights are not those the stack was taught on.
        """
        stack = Stack.open(path)
        loaded = load_base(base or stack.manifest.base.name, precision=precision, device=_device(device, accelerator))
        if loaded.weights_sha256 != stack.manifest.base.weights_sha256:
            raise BaseMismatchError(
                "this is not the base model the stack was taught on",
                where=str(stack.root),
                expected=f"{stack.manifest.base.name}, weights SHA-256 {stack.manifest.base.weights_sha256}",
                got=f"{loaded.name} from {loaded.source}, weights SHA-256 {loaded.weights_sha256}",
                next_step="give the original base with --base; adapters mean nothing on another one",
            )
        return cls(stack, loaded, accelerator=accelerator)

    # --- learning ----------------------------------------------------------------------------------------------

    def learn(
        self, domain: str, data: Data, config: LearnConfig | None = None, *, on_event: Listener = lambda _k, _v: None
    ) -> Learnt:
        """Learn `domain` from `data` and commit it to the stack; the same call after a kill goes on where it stopped.

        Args:
            data: a file or folder that `read_examples` takes, examples to split, or a Split to take as it is.
            on_event: told ("step", the line of metrics.jsonl), ("phase", …), ("note", …), for a live view.

        Raises:
            DataError, ConfigError, StackLockedError, TrainingDivergedError: the stack is as it was.
        """
        config = config or LearnConfig()
        check_domain_name(domain)
        main = self._is_main
        if not main:
            return self._learn(domain, data, config, on_event)
        with self.stack.lock():
            return self._learn(domain, data, config, on_event)

    def _learn(self, domain: str, data: Data, config: LearnConfig, on_event: Listener) -> Learnt:
        began = time.perf_counter()
        self.stack.refresh()
        manifest = self.stack.manifest
        if any(d.name == domain for d in manifest.domains):
            raise ConfigError(
                f"the stack has learnt '{domain}' already",
                where=str(self.stack.root),
                next_step=f"choose another name, or `crma forget {self.stack.root.name} {domain}` first",
            )
        split, counts = _split_of(domain, data, config)
        data_hash = _data_hash(split)
        rendered = {
            name: render_all(rows, self.tokenizer, config.max_length)
            for name, rows in (("train", split.train), ("validation", split.validation), ("test", split.test))
        }
        cut = {n: {"rows": r.cut_rows, "tokens": r.cut_tokens} for n, r in rendered.items() if r.cut_rows}
        if cut:
            on_event("note", {"text": f"rows longer than {config.max_length} tokens were cut: {cut}"})
        train_rows = rendered["train"].rows
        fingerprint = {
            "data": data_hash,
            "config": config.model_dump(exclude={"checkpoint_every"}),
            "head": manifest.head,
            "domains": [d.name for d in manifest.domains],
            "base": manifest.base.weights_sha256,
        }
        self._wait()
        session = Session(self.stack.work(domain), fingerprint, writes=self._is_main)
        self._wait()
        if session.discarded:
            on_event("note", {"text": "an unfinished run with other data or settings was discarded"})
        if session.resumed:
            on_event("note", {"text": "an unfinished run goes on from its last checkpoint"})

        loss_base = session.get("loss_base")
        if loss_base is None and rendered["test"].rows:
            on_event("phase", {"phase": "measure the base", "domain": domain})
            with self._untouched():
                loss_base = self._score(rendered["test"].rows).loss
            session.remember(loss_base=loss_base)

        seed = derived_seed(config.seed, domain)
        self.adapters.remove(domain)
        self.adapters.add(domain, config.adapter, seed=seed)
        plan = plan_batches(
            [len(r.input_ids) for r in train_rows], batch_size=config.batch_size, epochs=config.epochs, seed=seed
        )
        proposing = round(config.propose * len(plan)) if self.backbone is not None else 0
        old = self._load_snapshot(manifest.head)
        verdict: Verdict | None = None
        new = old
        if self.backbone is not None and old is not None:
            if proposing:
                self._phase("propose", domain, train_rows, plan.cut(0, proposing), config, session, on_event)
            proposed = self.backbone.state()
            verdict = self._verify(domain, old, proposed, config, session, on_event)
            new = self._settle(interpolate(old, proposed, verdict.share))
        if proposing < len(plan):
            self._phase("commit", domain, train_rows, plan.cut(proposing, len(plan)), config, session, on_event)
        return self._publish(
            domain, split, counts, rendered, config, session, verdict, new, loss_base, data_hash, on_event, began
        )

    def _phase(
        self,
        phase: Literal["propose", "commit"],
        domain: str,
        rows: Sequence[Rendered],
        plan: Any,
        config: LearnConfig,
        session: Session,
        on_event: Listener,
    ) -> None:
        """One run of the loop. Its last checkpoint, at the last step, is its result: a resumed run loads it whole."""
        self.adapters.activate(domain)
        groups = [
            Group(name="adapter", side="adapter", lr=config.lr, parameters=self.adapters.parameters(domain)),
        ]
        if phase == "propose" and self.backbone is not None:
            frames, mixing = self.backbone.trained()
            layers = self.backbone.layers()
            for name, lr, parameters in (("frames", config.lr_backbone, frames), ("mixing", config.lr_mixing, mixing)):
                if parameters:
                    groups.append(Group(name=name, side="backbone", lr=lr, parameters=parameters, layers=layers))
        start = session.load(phase)
        if start is None and phase == "commit" and (before := session.load("propose")) is not None:
            self._take(domain, before)  # the LoRA as the proposal left it
        if start is not None:
            session.rewind_metrics(phase, start.step)
            if start.step >= len(plan):
                self._take(domain, start)
                if phase == "propose" and self.backbone is not None:
                    self._settle({**self.backbone.state(), **_backbone_part(start)})
                return
        on_event("phase", {"phase": phase, "domain": domain, "steps": len(plan)})

        def on_step(report: StepReport) -> None:
            line = {"phase": phase, "domain": domain, **asdict(report)}
            line["tokens_per_s"] = report.tokens / report.seconds
            if self.backbone is not None and phase == "propose":
                line["sites"] = [asdict(s) for s in self.backbone.report()]
                if report.step % 5 == 1 or report.step == report.steps:
                    line["certificate"] = {
                        **asdict(self.backbone.certificate()),
                        "worst_operator_norm": float(self.backbone.operator_norms().max()),
                    }
            session.log(line)
            on_event("step", line)

        backbone = self.backbone
        self._snapshot_in = None
        fit(
            self.model,
            self._head,
            rows,
            plan,
            groups,
            config=config.loop.model_copy(update={"seed": derived_seed(config.seed, f"{domain}/{phase}")}),
            accelerator=self._accelerator or _single(),
            pad_id=self._pad_id,
            on_step=on_step,
            after_update=backbone.retract_ if backbone is not None and phase == "propose" else lambda: None,
            checkpoint_due=lambda step: step % config.checkpoint_every == 0 or step == len(plan),
            on_checkpoint=lambda checkpoint: session.save(phase, checkpoint),
            start=start,
        )

    def _take(self, domain: str, checkpoint: Checkpoint) -> None:
        """Put a checkpoint's LoRA into the model."""
        prefix, suffix = "adapter/", ".lora_A/value"
        targets = [
            k.removeprefix(prefix).removesuffix(suffix)
            for k in checkpoint.tensors
            if k.startswith(prefix) and k.endswith(suffix)
        ]
        pair = checkpoint.tensors
        weights = {t: (pair[f"{prefix}{t}.lora_A/value"], pair[f"{prefix}{t}.lora_B/value"]) for t in targets}
        self.adapters.load(domain, self.adapters.configs[domain], weights)

    def _verify(
        self,
        domain: str,
        old: State,
        proposed: State,
        config: LearnConfig,
        session: Session,
        on_event: Listener,
    ) -> Verdict:
        """How far the backbone may go: METHOD section 3, verify. Decided once; a resumed run keeps the decision."""
        known = session.get("verdict")
        if known is not None:
            return Verdict(share=known["share"], losses=known["losses"], trials=())
        references = {
            d.name: d.validation_loss
            for d in self.stack.manifest.domains
            if d.validation_loss is not None and d.rows_kept is not None
        }
        on_event("phase", {"phase": "verify", "domain": domain, "earlier": sorted(references)})

        def loss_of(earlier: str, share: float) -> float:
            self._settle(interpolate(old, proposed, share))
            self._activate(earlier)
            return self._score(self._kept(earlier, "validation")).loss

        if config.verify:
            verdict = verify_proposal(references, loss_of, tolerance=config.tolerance)
        else:
            verdict = Verdict(share=1.0, losses={d: loss_of(d, 1.0) for d in references}, trials=())
        session.remember(
            verdict={
                "share": verdict.share,
                "losses": dict(verdict.losses),
                "trials": [asdict(t) for t in verdict.trials],
            }
        )
        on_event("note", {"text": f"the backbone goes {verdict.share:.0%} of the proposed way"})
        return verdict

    def _publish(
        self,
        domain: str,
        split: Split,
        counts: Mapping[str, int],
        rendered: Mapping[str, Any],
        config: LearnConfig,
        session: Session,
        verdict: Verdict | None,
        new: State | None,
        loss_base: float | None,
        data_hash: str,
        on_event: Listener,
        began: float,
    ) -> Learnt:
        """Measure every domain with what it is to be served with, then commit all of it at once."""
        on_event("phase", {"phase": "measure", "domain": domain})
        manifest = self.stack.manifest
        keeps = config.keep_rows
        self.adapters.activate(domain)
        validation = self._score(rendered["validation"].rows).loss if rendered["validation"].rows else None
        loss_after = self._score(rendered["test"].rows).loss if rendered["test"].rows else None
        moved = verdict is not None and (verdict.share > 0 or manifest.head is None)
        snapshot = manifest.next_snapshot_id if moved else manifest.head
        records = [self._remeasure(d, snapshot, verdict, config) for d in manifest.domains]
        router = self._router_with(domain, split)
        weights = self.adapters.weights(domain)
        peft = peft_config(
            rank=config.rank,
            alpha=config.adapter.alpha,
            targets=self.adapters.targets,
            base_name=manifest.base.name,
        )
        losses = {r.name: r.loss_now for r in records} | {domain: loss_after}
        floating = {r.name: r.loss_floating for r in records} | {domain: loss_after}
        self._wait()
        if self._is_main:
            with self.stack.transaction() as tx:
                folder = tx.fresh_path(f"adapters/{domain}")
                tx.write_tensors(f"{folder}/adapter_model.safetensors", to_file(weights), {"format": "pt"})
                tx.write_json(f"{folder}/adapter_config.json", peft)
                tx.write_lines(f"{folder}/metrics.jsonl", session.metrics())
                changes: dict[str, Any] = {}
                if moved and new is not None and snapshot is not None and verdict is not None:
                    place = tx.fresh_path(f"snapshots/{snapshot}")
                    tx.write_tensors(f"{place}/backbone.safetensors", new)
                    tx.write_json(f"{place}/config.json", manifest.backbone)
                    made = SnapshotRecord(
                        id=snapshot,
                        domain=domain,
                        parent=manifest.head,
                        alpha=verdict.share,
                        folder=place,
                        created=_now(),
                    )
                    changes |= {"head": snapshot, "snapshots": (*manifest.snapshots, made)}
                kept = None
                if keeps and (split.validation or split.test):
                    kept = tx.fresh_path(f"rows/{domain}.jsonl")
                    tx.write_lines(kept, _rows_to_keep(split))
                version = self._write_router(tx, router)
                record = DomainRecord(
                    name=domain,
                    adapter=folder,
                    snapshot_learnt=snapshot,
                    snapshot_pinned=snapshot,
                    learnt=_now(),
                    data_sha256=data_hash,
                    split_sha256=split_hashes(split),
                    rows=dict(counts),
                    config=config.model_dump(),
                    rows_kept=kept,
                    validation_loss=validation,
                    loss_base=loss_base,
                    loss_after=loss_after,
                    loss_now=loss_after,
                    loss_floating=loss_after,
                    router_version=version,
                )
                tx.update(domains=(*records, record), router=version, **changes)
                tx.log(
                    {
                        "kind": "learn",
                        "domain": domain,
                        "data_sha256": data_hash,
                        "rows": dict(counts),
                        "config": config.model_dump(),
                        "snapshot": snapshot,
                        "verdict": session.get("verdict"),
                        "loss_base": loss_base,
                        "test_loss_pinned": losses,
                        "test_loss_floating": floating,
                        "pins": {r.name: r.snapshot_pinned for r in (*records, record)},
                    }
                )
            self.stack.clear_work(domain)
        self._wait()
        self.stack.refresh()
        self._snapshot_in = snapshot
        return Learnt(
            domain=domain,
            snapshot=snapshot,
            share=verdict.share if verdict else None,
            loss_base=loss_base,
            loss_after=loss_after,
            rows=counts,
            seconds=time.perf_counter() - began,
            losses=losses,
        )

    def _remeasure(
        self, record: DomainRecord, snapshot: str | None, verdict: Verdict | None, config: LearnConfig
    ) -> DomainRecord:
        """An earlier domain under the snapshot to come: promoted where its validation loss is no worse, else pinned."""
        if verdict is None or record.rows_kept is None:
            return record
        changes: dict[str, Any] = {}
        test = self._kept(record.name, "test")
        self._activate(record.name)
        if test:
            changes["loss_floating"] = self._score(test).loss
        loss = verdict.losses.get(record.name)
        reference = record.validation_loss
        if loss is not None and reference is not None and loss <= reference * (1.0 + config.tolerance):
            changes["snapshot_pinned"] = snapshot
            changes["validation_loss"] = loss
            changes["loss_now"] = changes.get("loss_floating", record.loss_now)
        return record.model_copy(update=changes)

    # --- answering ---------------------------------------------------------------------------------------------

    def route(self, texts: Sequence[str]) -> list[Route]:
        """Which domain each text belongs to, or none; nothing is generated."""
        router = self._router()
        if router is None:
            return [Route(domain=None, confidence=0.0, abstained=True) for _ in texts]
        return router.route(self._features(texts))

    def ask(
        self,
        text: str | Sequence[Message],
        *,
        domain: str | None = None,
        max_new_tokens: int = 128,
        use_backbone: bool = True,
    ) -> Reply:
        """Answer a question, or go on with a conversation. `domain` overrides the router; "base" asks the base."""
        return self.ask_many([text], domain=domain, max_new_tokens=max_new_tokens, use_backbone=use_backbone)[0]

    def ask_many(
        self,
        texts: Sequence[str | Sequence[Message]],
        *,
        domain: str | None = None,
        max_new_tokens: int = 128,
        use_backbone: bool = True,
    ) -> list[Reply]:
        """Answer several, those of one route together."""
        conversations = [(Message(role="user", content=t),) if isinstance(t, str) else tuple(t) for t in texts]
        if domain is not None:
            chosen = None if domain == "base" else self.stack.manifest.domain(domain).name
            routes = [Route(domain=chosen, confidence=1.0) for _ in texts]
        else:
            routes = self.route([Example(messages=c).prompt for c in conversations])
        replies: list[Reply | None] = [None] * len(texts)
        for name in dict.fromkeys(r.domain for r in routes):
            indices = [i for i, r in enumerate(routes) if r.domain == name]
            prompts = [render_prompt(conversations[i], self.tokenizer) for i in indices]
            with self._serving(name, use_backbone=use_backbone):
                answers = generate(
                    self.base.model,
                    prompts,
                    stop_ids=end_of_turn_ids(self.tokenizer),
                    pad_id=self._pad_id,
                    max_new_tokens=max_new_tokens,
                )
            for index, ids in zip(indices, answers, strict=True):
                answer = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
                replies[index] = Reply(text=answer, route=routes[index])
        return [r for r in replies if r is not None]

    @contextmanager
    def without_backbone(self) -> Iterator[None]:
        """The model with the backbone bypassed while the context is open."""
        if self.backbone is None:
            yield
            return
        with self.backbone.bypass():
            yield

    # --- measuring ---------------------------------------------------------------------------------------------

    def evaluate(self) -> Evaluation:
        """Every adapter under every later snapshot, as served, and as routed, on the kept test rows, computed anew.

        Raises:
            DataError: a domain was learnt without keeping its rows.
        """
        records = self.stack.manifest.domains
        bare = [r.name for r in records if not self._kept(r.name, "test")]
        if bare:
            raise DataError(
                "these domains keep no test rows",
                where=", ".join(bare),
                next_step="learn them with keep_rows, or read the losses of that day: `crma status`",
            )
        base, pinned, routed, accuracy = [], [], [], []
        for record in records:
            rows = self._kept(record.name, "test")
            with self._untouched():
                base.append(self._score(rows).loss)
            with self._serving(record.name):
                own = self._score(rows)
            pinned.append(own.loss)
            routes = self.route([e.prompt for e in self._kept_examples(record.name, "test")])
            routed.append(self._routed_loss(record.name, rows, own, routes))
            accuracy.append(sum(r.domain == record.name for r in routes) / len(routes))
        floating = []
        for t, later in enumerate(records):
            row: list[float | None] = [None] * len(records)
            for i, record in enumerate(records[: t + 1]):
                with self._serving(record.name, snapshot=later.snapshot_learnt or record.snapshot_pinned):
                    row[i] = self._score(self._kept(record.name, "test")).loss
            floating.append(tuple(row))
        after = [floating[i][i] or 0.0 for i in range(len(records))]
        last = floating[-1] if floating else ()
        return Evaluation(
            floating=Matrix(domains=tuple(r.name for r in records), base=tuple(base), rows=tuple(floating)),
            pinned=tuple(pinned),
            routed=tuple(routed),
            routing_accuracy=tuple(accuracy),
            drift_pinned_pct=tuple(drift_pct(a, p) for a, p in zip(after, pinned, strict=True)),
            drift_floating_pct=tuple(drift_pct(a, f or 0.0) for a, f in zip(after, last, strict=True)),
        )

    def _routed_loss(self, own_name: str, rows: Sequence[Rendered], own: Score, routes: Sequence[Route]) -> float:
        """Each row's loss under the adapter the router picked for it, over all supervised tokens."""
        tokens = [sum(r.supervised[1:]) for r in rows]
        losses = list(own.losses)
        for name in {r.domain for r in routes} - {own_name}:
            strays = [i for i, r in enumerate(routes) if r.domain == name]
            with self._serving(name):
                scored = self._score([rows[i] for i in strays])
            for index, loss in zip(strays, scored.losses, strict=True):
                losses[index] = loss
        return sum(loss * n for loss, n in zip(losses, tokens, strict=True)) / sum(tokens)

    def score(self, examples: Sequence[Example], *, domain: str | None, max_length: int = 512) -> Score:
        """The loss of `examples` as `domain` is served, or of the untouched base for None."""
        rows = render_all(examples, self.tokenizer, max_length).rows
        with self._serving(domain):
            return self._score(rows)

    def status(self) -> dict[str, Any]:
        """The stack in numbers, for a person or a program; measured when the last domain was committed."""
        manifest = self.stack.manifest
        return {
            "base": manifest.base.model_dump(),
            "backbone": manifest.backbone,
            "head": manifest.head,
            "domains": [
                {
                    "name": d.name,
                    "learnt": d.learnt,
                    "rows": d.rows,
                    "snapshot_learnt": d.snapshot_learnt,
                    "snapshot_pinned": d.snapshot_pinned,
                    "loss_base": d.loss_base,
                    "loss_after": d.loss_after,
                    "loss_now": d.loss_now,
                    "drift_pinned_pct": _drift(d.loss_after, d.loss_now),
                    "drift_floating_pct": _drift(d.loss_after, d.loss_floating),
                }
                for d in manifest.domains
            ],
            "snapshots": [
                {"id": s.id, "domain": s.domain, "share": s.alpha, "distance_to_parent": self.snapshot_distance(s)}
                for s in manifest.snapshots
            ],
            "sizes": self.stack.sizes(),
        }

    def snapshot_distance(self, snapshot: SnapshotRecord) -> dict[str, float] | None:
        """δ of the step from its parent, over the sites: {"mean", "max"}; None for a parent that is gone."""
        known = {s.id for s in self.stack.manifest.snapshots}
        if self.backbone is None or self._initial is None or (snapshot.parent and snapshot.parent not in known):
            return None
        before = self._snapshot_state(snapshot.parent) if snapshot.parent else self._initial
        moved = distance(self.backbone, before, self._snapshot_state(snapshot.id))
        return {"mean": float(moved.mean()), "max": float(moved.max())}

    # --- forgetting --------------------------------------------------------------------------------------------

    def forget(self, domain: str, *, rewind: bool = False) -> Forgotten:
        """Remove a domain: its LoRA, its rows, its part of the router. Snapshots trained after it stay, and are named.

        Args:
            rewind: also make the snapshot before it the head, so that what is learnt from now on does not build on it.
                Domains learnt since stay pinned to the snapshots they need.
        """
        with self.stack.lock():
            manifest = self.stack.manifest
            record = manifest.domain(domain)
            order = [s.id for s in manifest.snapshots]
            own = next((s for s in manifest.snapshots if s.domain == domain), None)
            after = tuple(order[order.index(own.id) :]) if own else ()
            before = own.parent if own else manifest.head
            router = self._router()
            with self.stack.transaction() as tx:
                rest = tuple(d for d in manifest.domains if d.name != domain)
                changes: dict[str, Any] = {"domains": rest}
                tx.remove(record.adapter)
                if record.rows_kept:
                    tx.remove(record.rows_kept)
                if router is not None:
                    changes["router"] = self._write_router(tx, router.without_domain(domain)) if rest else None
                    if not rest and manifest.router:
                        tx.remove(manifest.router)
                if rewind and own is not None:
                    changes["head"] = before
                head = changes.get("head", manifest.head)
                needed = {head, *(d.snapshot_pinned for d in rest), *(d.snapshot_learnt for d in rest)}
                stays = tuple(s for s in manifest.snapshots if s.id in needed or not rewind)
                for snapshot in manifest.snapshots:
                    if snapshot not in stays:
                        tx.remove(snapshot.folder)
                changes["snapshots"] = stays
                tx.update(**changes)
                tx.log({"kind": "forget", "domain": domain, "rewound": rewind, "trained_after": list(after)})
        self.adapters.remove(domain)
        self._rows = {key: rows for key, rows in self._rows.items() if key[0] != domain}
        return Forgotten(domain=domain, trained_after=after, snapshot_before=before, rewound=rewind)

    # --- what is in the model ----------------------------------------------------------------------------------

    @contextmanager
    def _serving(self, domain: str | None, *, snapshot: str | None = None, use_backbone: bool = True) -> Iterator[None]:
        """The model as `domain` is answered: its LoRA and the snapshot it is pinned to (or `snapshot`)."""
        if domain is None:
            with self._untouched():
                yield
            return
        record = self.stack.manifest.domain(domain)
        self._activate(domain)
        chosen = snapshot or record.snapshot_pinned
        if self.backbone is not None and chosen is not None:
            self._load_snapshot(chosen)
        if use_backbone:
            yield
            return
        with self.without_backbone():
            yield

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """The base, bit for bit."""
        with self.without_backbone(), self.adapters.using(None):
            yield

    def _activate(self, domain: str) -> None:
        """Make a committed domain's LoRA the active one, reading it where it is not in the model."""
        if domain not in self.adapters.configs:
            record = self.stack.manifest.domain(domain)
            tensors = self.stack.read_tensors(f"{record.adapter}/adapter_model.safetensors")
            config = LearnConfig(**record.config).adapter
            self.adapters.load(domain, config, from_file(tensors))
        self.adapters.activate(domain)

    def _load_snapshot(self, snapshot: str | None) -> State | None:
        """Put a snapshot's numbers into the backbone (None: those it began with)."""
        if self.backbone is None:
            return None
        state = self._snapshot_state(snapshot) if snapshot else self._initial
        assert state is not None
        if snapshot is None or self._snapshot_in != snapshot:
            self.backbone.load(state)
            self._snapshot_in = snapshot
        return state

    def _snapshot_state(self, snapshot: str) -> State:
        record = self.stack.manifest.snapshot(snapshot)
        return self.stack.read_tensors(f"{record.folder}/backbone.safetensors")

    def _settle(self, state: State) -> State:
        """Load a state that is no snapshot yet, put it on its manifold, and return what it is then."""
        assert self.backbone is not None
        self.backbone.load(state)
        self.backbone.retract_()
        self._snapshot_in = None
        return self.backbone.state()

    def _score(self, rows: Sequence[Rendered]) -> Score:
        return evaluate_rows(self.model, self._head, rows, pad_id=self._pad_id)

    def _kept_examples(self, domain: str, split: str) -> list[Example]:
        record = self.stack.manifest.domain(domain)
        if record.rows_kept is None:
            return []
        return [
            Example(messages=tuple(Message(role=m["role"], content=m["content"]) for m in row["messages"]))
            for row in self.stack.read_lines(record.rows_kept)
            if row["split"] == split
        ]

    def _kept(self, domain: str, split: str) -> tuple[Rendered, ...]:
        if (domain, split) not in self._rows:
            length = LearnConfig(**self.stack.manifest.domain(domain).config).max_length
            examples = self._kept_examples(domain, split)
            self._rows[domain, split] = render_all(examples, self.tokenizer, length).rows if examples else ()
        return self._rows[domain, split]

    # --- routing -----------------------------------------------------------------------------------------------

    def _features(self, texts: Sequence[str]) -> np.ndarray:
        with self._untouched():
            return prompt_features(self.model, self.tokenizer, texts, depth=ROUTER_DEPTH)

    def _router(self) -> Router | None:
        path = self.stack.manifest.router
        return Router.from_arrays(self.stack.read_tensors(path)) if path else None

    def _router_with(self, domain: str, split: Split) -> Router:
        router = self._router() or Router.empty(self._features(BACKGROUND_PROMPTS))
        own = self._features([e.prompt for e in split.train])
        held_out = self._features([e.prompt for e in split.validation]) if split.validation else None
        return router.with_domain(domain, own, held_out)

    def _write_router(self, tx: Transaction, router: Router) -> str:
        path = tx.fresh_path("router/router.safetensors")
        tx.write_tensors(path, router.to_arrays())
        if self.stack.manifest.router:
            tx.remove(self.stack.manifest.router)
        return path

    # --- processes ---------------------------------------------------------------------------------------------

    @property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else 0

    @property
    def _is_main(self) -> bool:
        return self._accelerator is None or self._accelerator.is_main_process

    def _wait(self) -> None:
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def _split_of(domain: str, data: Data, config: LearnConfig) -> tuple[Split, dict[str, int]]:
    if not isinstance(data, Split):
        examples = read_examples(data) if isinstance(data, str | os.PathLike) else tuple(data)
        prepared = prepare_domain(
            domain,
            examples,
            seed=config.seed,
            validation=config.validation,
            test=config.test,
            limit=config.limit,
        )
        report = asdict(prepared.report)
        return prepared.split, {k: int(v) for k, v in report.items()}
    split = replace(data, train=data.train[: config.limit])
    if not split.train:
        raise DataError("there is nothing to learn from", where=domain, expected="training rows", got="none")
    counts = {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)}
    return split, counts


def _data_hash(split: Split) -> str:
    return hashlib.sha256(json.dumps(split_hashes(split), sort_keys=True).encode()).hexdigest()


def _rows_to_keep(split: Split) -> Iterator[dict[str, Any]]:
    for name, rows in (("validation", split.validation), ("test", split.test)):
        for row in rows:
            yield {"split": name, "messages": [{"role": m.role, "content": m.content} for m in row.messages]}


def _backbone_part(checkpoint: Checkpoint) -> State:
    """A checkpoint's backbone parameters under their own names."""
    found = {}
    for key, value in checkpoint.tensors.items():
        group, name, kind = key.split("/")
        if group in ("frames", "mixing") and kind == "value":
            found[name] = value
    return found


def _drift(after: float | None, now: float | None) -> float | None:
    return drift_pct(after, now) if after is not None and now is not None else None


def _device(device: str | None, accelerator: Accelerator | None) -> str | None:
    return str(accelerator.device) if accelerator is not None and device is None else device


def _single() -> Accelerator:
    return Accelerator()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
