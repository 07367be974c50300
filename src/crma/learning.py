"""Learning one domain: propose, follow, verify, commit (after METHOD section 3), each step resumable.

Propose: the domain's LoRA and the backbone learn together. Follow and verify: each earlier domain goes towards its LoRA
on the moved backbone as far as its validation rows gain by it, its served LoRA fitted to that, or else stays as it is,
alone. Where that is not allowed, the backbone moves as far as no domain loses more than a budget, and the new LoRA
takes over what it may not keep. Commit: with `propose` below 1 that LoRA learns on with the backbone held; all is
published at once.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from crma.data.batches import plan_batches
from crma.data.domains import prepare_domain, split_hashes
from crma.data.render import Rendered, RenderedSplit, render_all
from crma.data.sources import read_examples
from crma.errors import ConfigError, DataError, TrainingDivergedError
from crma.forgetting import write_router
from crma.model.adapters import Weights, rank_of
from crma.model.backbone import State, distance
from crma.model.fold import Factors, absorb
from crma.overlap import Overlap, overlaps_of
from crma.route.centroid import Router
from crma.session import Session, session_data
from crma.stack.layout import WORK, DomainRecord, Fit, SnapshotRecord, timestamp
from crma.stack.transaction import Transaction
from crma.train.config import LearnConfig, derived_seed
from crma.train.processes import on_main
from crma.train.promotion import Held, Verdict, furthest_follow, verify_proposal
from crma.training import DomainTraining, data_hash
from crma.types import Example, Split

__all__ = ["RULE", "Data", "Learning", "Learnt", "split_of"]

# Which rule of following a run was made by: raised when equal settings come to learn otherwise, so that neither a
# half-done run nor a receipt of the other rule is taken for this one. 1: a share of each movement of the backbone.
# 2: of the way to the LoRA as learnt; whom its own rank cannot keep gets a larger one beside the backbone.
# 3: that larger one stands alone, so that staying is exact; and a gain must be larger than its standard error.
RULE = 3

_WARM_ROWS = 32  # training rows that say which earlier LoRA is nearest
Data = str | os.PathLike[str] | Sequence[Example] | Split


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
    overlaps: tuple[Overlap, ...] = ()  # with earlier domains, where there are any to speak of


class Learning(DomainTraining):
    """One domain being learnt on a stack whose lock the caller holds."""

    def run(self, data: Data) -> Learnt:
        self.served.stack.refresh()
        manifest = self.served.stack.manifest
        split, counts = split_of(self.domain, data, self.config)
        content = data_hash(split)
        if any(d.name == self.domain for d in manifest.domains):
            return self._learnt_before(content)
        _refuse_likeness(self.domain, [d.name for d in manifest.domains])
        rendered = {
            name: render_all(rows, self.served.tokenizer, self.config.max_length)
            for name, rows in (("train", split.train), ("validation", split.validation), ("test", split.test))
        }
        cut = {n: {"rows": r.cut_rows, "tokens": r.cut_tokens} for n, r in rendered.items() if r.cut_rows}
        if cut:
            self.on_event("note", {"text": f"rows longer than {self.config.max_length} tokens were cut: {cut}"})
        train_rows = rendered["train"].rows
        fingerprint = {
            "data": content,
            "config": self.config.model_dump(exclude={"checkpoint_every"}),
            "head": manifest.head,
            "domains": [[d.name, d.data_sha256, d.adapter, d.snapshot_pinned] for d in manifest.domains],
            "base": manifest.base.weights_sha256,
            "rule": RULE,
        }
        session = self._session(fingerprint)
        if session.discarded:
            self.on_event("note", {"text": "an unfinished run with other data or settings was discarded"})
        if session.resumed:
            self.on_event("note", {"text": "an unfinished run goes on from its last checkpoint"})

        loss_base = session.get("loss_base")
        if loss_base is None and rendered["test"].rows:
            self.on_event("phase", {"phase": "measure the base", "domain": self.domain})
            with self.served.untouched():
                loss_base = self._loss(rendered["test"].rows, domain=self.domain, view="base", split="test")
            session.remember(loss_base=loss_base)

        # Before any training: what it may raise must not cost a trained domain. It needs the base and the prompts only.
        router = self.served.router_with(self.domain, split)
        overlaps = overlaps_of(self.served, self.domain, router, split)
        for overlap in overlaps:
            self.on_event("overlap", asdict(overlap))
            self.on_event("note", {"text": str(overlap)})
        seed = derived_seed(self.config.seed, self.domain)
        self.served.adapters.remove(self.domain)
        self.served.adapters.add(self.domain, self.config.adapter, seed=seed)
        plan = plan_batches(
            [len(r.input_ids) for r in train_rows],
            batch_size=self.config.batch_size,
            epochs=self.config.epochs,
            seed=seed,
        )
        proposing = round(self.config.propose * len(plan)) if self.served.backbone is not None else 0
        if self.config.warm_start and manifest.domains:
            self._warm_start(train_rows, session)
        old = self.served.load_snapshot(manifest.head)
        verdict: Verdict | None = None
        new, reached, refused = old, {}, False
        if self.served.backbone is not None and old is not None:
            if proposing:
                self._phase("propose", train_rows, plan, range(proposing), session)
            self.served.backbone.cut_()  # or a share of the way would be taken between numbers that do nothing
            proposed = self.served.backbone.state()
            verdict = self._verify(old, proposed, session)
            refused = self.config.absorb and verdict.share < 1.0
            if refused:
                self.served.settle(old, proposed, 1.0)
                reached = self.served.factors_now()
            new = self.served.settle(old, proposed, verdict.share)
            if refused:
                self._absorb_refused(reached)
        if proposing < len(plan):
            self._phase("commit", train_rows, plan, range(proposing, len(plan)), session, anew=refused)
        return replace(self._publish(split, counts, rendered, session, verdict, new, router), overlaps=tuple(overlaps))

    def _warm_start(self, rows: Sequence[Rendered], session: Session) -> None:
        """Begin as the earlier domain's LoRA under which the new rows lose least; those of another rank or scaling are
        passed by, also where it was a fit that grew.

        A copy: the earlier domain keeps its own. Chosen on training rows, since validation rows judge what comes of it.
        """
        nearest = session.get("warm_from")
        if nearest is None:
            losses = {}
            for record in self.served.stack.manifest.domains:
                with self._beside_head(record):
                    there, wanted = self.served.adapters.configs[record.name], self.config.adapter
                    if (there.rank, there.alpha) == (wanted.rank, wanted.alpha):
                        losses[record.name] = self._loss(rows[:_WARM_ROWS])
            if not losses:
                return
            nearest = min(losses, key=lambda name: losses[name])
            session.remember(warm_from=nearest)
            self.on_event("note", {"text": f"the LoRA begins as that of {nearest}"})
        with self._beside_head(self.served.stack.manifest.domain(nearest)):
            weights = self.served.adapters.weights(nearest)
        self.served.adapters.load(self.domain, self.config.adapter, weights)

    @contextmanager
    def _beside_head(self, record: DomainRecord) -> Iterator[None]:
        """The model with an earlier domain's LoRA and the head; one that stands alone holds a backbone already, so it
        is taken as it was learnt."""
        head = self.served.stack.manifest.head
        if not record.standalone:
            with self.served.serving(record.name, snapshot=head):
                yield
            return
        self.served.load_snapshot(head)
        self.served.place(record.name, self.served.weights_learnt(record.name))
        yield

    def _learnt_before(self, content: str) -> Learnt:
        """What a run that was killed between its commit and its end would have returned; any other is refused."""
        stack = self.served.stack
        record = stack.manifest.domain(self.domain)
        # As the fingerprint of an unfinished run has it: how often it saves changes nothing.
        saves = {"checkpoint_every": self.config.checkpoint_every}
        same = record.data_sha256 == content and LearnConfig(**{**record.config, **saves}) == self.config
        unfinished = session_data(stack.root / WORK / self.domain) == content
        self.served.wait()
        if not (same and unfinished):
            raise ConfigError(
                f"the stack has learnt '{self.domain}' already",
                where=str(stack.root),
                next_step=f"choose another name, or `crma forget {stack.root.name} {self.domain}` first",
            )
        self.on_event("note", {"text": "it was committed before the run was killed"})
        if self.served.is_main:
            stack.clear_work(self.domain)
        self.served.wait()
        made = next((s.alpha for s in reversed(stack.manifest.snapshots) if s.domain == self.domain), 0.0)
        return Learnt(
            domain=self.domain,
            snapshot=record.snapshot_learnt,
            share=made if self.served.backbone is not None else None,
            loss_base=record.loss_base,
            loss_after=record.loss_after,
            rows=record.rows,
            seconds=time.perf_counter() - self.began,
            losses={d.name: d.loss_now for d in stack.manifest.domains},
        )

    def _verify(
        self,
        old: State,
        proposed: State,
        session: Session,
    ) -> Verdict:
        """How far the backbone may go: METHOD section 3, verify. Decided once; a resumed run keeps the decision."""
        known = session.get("verdict")
        if known is not None:
            return Verdict(share=known["share"], losses=known["losses"], trials=())
        references = {
            d.name: d.validation_loss
            for d in self.served.stack.manifest.domains
            if d.validation_loss is not None and d.rows_kept is not None
        }
        self.on_event("phase", {"phase": "verify", "domain": self.domain, "earlier": sorted(references)})

        fits: dict[str, Fit] = {}
        held: dict[str, Held] = {}
        moved: float | None = None  # the share that is in the model: all domains are asked about one before the next
        now: Factors = {}

        def loss_of(earlier: str, share: float) -> float:
            """What it comes to by following the backbone as far as that helps."""
            nonlocal moved, now
            if moved != share:
                self.served.settle(old, proposed, share)
                moved, now = share, self.served.factors_now()
            fits[earlier], held[earlier] = self._fit(earlier, now)
            return held[earlier].loss

        if self.config.verify:
            verdict = verify_proposal(references, loss_of, budget=max(self.config.budget, self.config.tolerance))
        else:
            verdict = Verdict(share=1.0, losses={d: loss_of(d, 1.0) for d in references}, trials=())
        session.remember(
            verdict={
                "share": verdict.share,
                "losses": dict(verdict.losses),
                "trials": [_finite(asdict(t)) for t in verdict.trials],
                "fits": {d: fits[d].model_dump() for d in verdict.losses if d in fits},
            },
            held={d: list(held[d].losses) for d in verdict.losses if math.isfinite(held[d].loss)},
        )
        self.on_event("note", {"text": f"the backbone goes {verdict.share:.0%} of the proposed way"})
        return verdict

    def _fit(self, earlier: str, now: Factors) -> tuple[Fit, Held]:
        """How an earlier domain is best served once the backbone stands as it does `now`, and what its validation rows
        lose then: beside the backbone as far as it gains by following; else alone so; else it stays, alone.

        Alone, staying is exact, so no domain needs to lose by a move.
        """
        rows = self.served.kept(earlier, "validation")
        before = self._as_served(earlier, rows)
        may_stand_alone = self._may_stand_alone(earlier)

        def under(standalone: bool, follow: float) -> Held:
            if standalone and follow == 0.0:  # exact, but for the rounding of a sum in the base's precision
                return before
            self.served.place(earlier, self.served.absorbed(earlier, self._fit_of(earlier, follow, standalone), now))
            with self.served.without_backbone() if standalone else nullcontext():
                return self._held(rows)

        for standalone in (False, True)[: 1 + may_stand_alone]:
            shares = [share for share in self.config.follow if share < 1.0 or not standalone]
            found = furthest_follow(shares, before, partial(under, standalone))
            if found is not None:
                return self._fit_of(earlier, found[0], standalone), found[1]
        least = min(self.config.follow)
        return self._fit_of(earlier, least, may_stand_alone), under(may_stand_alone, least)

    def _fit_of(self, earlier: str, follow: float, standalone: bool) -> Fit:
        return Fit(follow=follow, rank=self.served.rank(earlier, standalone=standalone), standalone=standalone)

    def _as_served(self, earlier: str, rows: Sequence[Rendered]) -> Held:
        """What an earlier domain's validation rows lose as it is served: known since it was last verified."""
        record = self.served.stack.manifest.domain(earlier)
        if len(record.validation_rows) == len(rows):
            return Held(losses=record.validation_rows, tokens=tuple(sum(r.supervised[1:]) for r in rows))
        name, state = self.served.snapshot_in, self.served.backbone.state() if self.served.backbone else None
        with self.served.serving(earlier):
            found = self._held(rows)
        if self.served.backbone is not None and state is not None:
            self.served.backbone.load(state)
            self.served.snapshot_in = name
        return found

    def _absorb_refused(self, reached: Factors) -> None:
        """The new LoRA takes over the part of the proposal (`reached`) that the backbone, as it now stands, lacks."""
        own = self.served.adapters.weights(self.domain)
        taken = absorb(own, self.config.adapter.scaling, reached, self.served.factors_now())
        self.served.adapters.load(self.domain, self.config.adapter, taken)

    def _publish(
        self,
        split: Split,
        counts: Mapping[str, int],
        rendered: Mapping[str, RenderedSplit],
        session: Session,
        verdict: Verdict | None,
        new: State | None,
        router: Router,
    ) -> Learnt:
        """Measure every domain with what it is to be served with, then commit all of it at once."""
        self.on_event("phase", {"phase": "measure", "domain": self.domain})
        manifest = self.served.stack.manifest
        loss_base = session.get("loss_base")
        content = data_hash(split)
        self.served.adapters.activate(self.domain)
        own = {"domain": self.domain, "view": "floating"}
        held_out, tests = rendered["validation"].rows, rendered["test"].rows
        held = self._held(held_out, **own, split="validation") if held_out else None
        validation = held.loss if held is not None else None
        loss_after = self._loss(tests, **own, split="test") if tests else None
        if not all(math.isfinite(loss) for loss in (validation, loss_after) if loss is not None):
            raise TrainingDivergedError(  # in its last step: the loop sees a step's harm in the next one
                "what was learnt gives no finite loss",
                where=self.domain,
                got=f"validation {validation}, test {loss_after}",
                next_step="lower the learning rate; the stack holds what it held before",
            )
        moved = verdict is not None and (verdict.share > 0 or manifest.head is None)
        snapshot = manifest.next_snapshot_id if moved else manifest.head
        moved_by = self._moved_by(manifest.head, new) if moved else None
        fits = self._fits(session) if verdict is not None and verdict.share > 0 else {}
        now = self.served.factors_now() if any(fit.follow < 1.0 for fit in fits.values()) else None
        fitted = {d: self.served.absorbed(d, f, now) for d, f in fits.items()}
        known = session.get("held") or {}
        records = [self._remeasure(d, snapshot, verdict, fits, fitted, known) for d in manifest.domains]
        weights = self.served.adapters.weights(self.domain)
        losses = {r.name: r.loss_now for r in records} | {self.domain: loss_after}
        floating = {r.name: r.loss_floating for r in records} | {self.domain: loss_after}
        self.served.wait()

        def commit() -> None:
            with self.served.stack.transaction() as tx:
                folder = self._write_adapter(tx, self.domain, weights, self.config.adapter)
                tx.write_lines(f"{folder}/metrics.jsonl", session.metrics())
                changes: dict[str, Any] = {}
                if moved and new is not None and snapshot is not None and verdict is not None:
                    place = tx.fresh_path(f"snapshots/{snapshot}")
                    tx.write_tensors(f"{place}/backbone.safetensors", new)
                    tx.write_json(f"{place}/config.json", manifest.backbone)
                    made = SnapshotRecord(
                        id=snapshot,
                        domain=self.domain,
                        parent=manifest.head,
                        alpha=verdict.share,
                        folder=place,
                        created=timestamp(),
                        distance_mean=None if moved_by is None else float(moved_by.mean()),
                        distance_max=None if moved_by is None else float(moved_by.max()),
                    )
                    changes |= {"head": snapshot, "snapshots": (*manifest.snapshots, made)}
                kept = None
                if self.config.keep_rows and (split.validation or split.test):
                    kept = self._write_rows(tx, split)
                version = write_router(self.served.stack, tx, router)
                record = DomainRecord(
                    name=self.domain,
                    adapter=folder,
                    snapshot_learnt=snapshot,
                    snapshot_pinned=snapshot,
                    learnt=timestamp(),
                    data_sha256=content,
                    split_sha256=split_hashes(split),
                    rows=dict(counts),
                    config=self.config.model_dump(),
                    rows_kept=kept,
                    validation_loss=validation,
                    validation_rows=held.losses if held is not None and kept is not None else (),
                    loss_base=loss_base,
                    loss_after=loss_after,
                    loss_now=loss_after,
                    loss_floating=loss_after,
                    router_version=version,
                )
                fitted_records = [
                    self._write_fitted(tx, r, fits[r.name], fitted[r.name])
                    if r.name in fits and r.floating is None
                    else r
                    for r in records
                ]
                tx.update(domains=(*fitted_records, record), router=version, **changes)
                tx.log(
                    {
                        "kind": "learn",
                        "domain": self.domain,
                        "data_sha256": content,
                        "rows": dict(counts),
                        "config": self.config.model_dump(),
                        "snapshot": snapshot,
                        "verdict": session.get("verdict"),
                        "loss_base": loss_base,
                        "test_loss_pinned": losses,
                        "test_loss_floating": floating,
                        "pins": {r.name: r.snapshot_pinned for r in (*fitted_records, record)},
                        "alone": [r.name for r in fitted_records if r.standalone],
                    }
                )
            self.served.stack.clear_work(self.domain)

        on_main(self.served.accelerator, commit)
        self.served.stack.refresh()
        self.served.snapshot_in = snapshot
        return Learnt(
            domain=self.domain,
            snapshot=snapshot,
            share=verdict.share if verdict else None,
            loss_base=loss_base,
            loss_after=loss_after,
            rows=counts,
            seconds=time.perf_counter() - self.began,
            losses=losses,
        )

    def _moved_by(self, head: str | None, new: State | None) -> np.ndarray | None:
        """δ of the step from the snapshot before to `new`, a site (METHOD section 3): it needs no data."""
        before = self.served.snapshot_state(head) if head else self.served.initial
        if self.served.backbone is None or before is None or new is None:
            return None
        return distance(self.served.backbone, before, new)

    def _fits(self, session: Session) -> dict[str, Fit]:
        """How each earlier domain that can be measured stands under the backbone as it is now."""
        chosen = {d: Fit(**fit) for d, fit in session.get("verdict")["fits"].items()}
        names = [d.name for d in self.served.stack.manifest.domains if d.rows_kept]
        # Without validation rows it was not asked, and stays as near as it can.
        least = min(self.config.follow)
        return {n: chosen.get(n) or self._fit_of(n, least, self._may_stand_alone(n)) for n in names}

    def _no_worse(self, loss: float, reference: float) -> bool:
        return loss <= reference * (1.0 + self.config.tolerance)

    def _may_stand_alone(self, earlier: str) -> bool:
        # Who can only go all the way is not fitted at all; who stands alone already need not come back.
        already = self.served.stack.manifest.domain(earlier).standalone
        return (self.config.widen or already) and min(self.config.follow) < 1.0

    def _write_fitted(self, tx: Transaction, record: DomainRecord, fit: Fit, weights: Weights) -> DomainRecord:
        """Its LoRA as it was learnt stays beside the one it is served with, where that is another."""
        before = tx.manifest.domain(record.name)
        if before.standalone and fit.standalone and fit.follow == 0.0:
            return record  # the file that is there
        learnt = record.adapter_learnt or record.adapter
        if record.adapter != learnt:
            tx.remove(record.adapter)
        if fit.follow == 1.0:
            return record.model_copy(update={"adapter": learnt, "adapter_learnt": None, "rank": None})
        own, rank = LearnConfig(**record.config).adapter, rank_of(weights)
        folder = self._write_adapter(tx, record.name, weights, own)
        grown = rank if rank != own.rank else None
        return record.model_copy(update={"adapter": folder, "adapter_learnt": learnt, "rank": grown})

    def _remeasure(
        self,
        record: DomainRecord,
        snapshot: str | None,
        verdict: Verdict | None,
        fits: Mapping[str, Fit],
        fitted: Mapping[str, Weights],
        held: Mapping[str, Sequence[float]],
    ) -> DomainRecord:
        """An earlier domain under the snapshot to come: promoted where its validation loss is no worse, else pinned."""
        if verdict is None or verdict.share == 0.0:
            return record  # nothing moved under it
        if record.rows_kept is None:  # what it comes to under the moved backbone nobody can say
            return record if record.standalone else record.model_copy(update={"loss_floating": None})
        fit = fits[record.name]
        changes: dict[str, Any] = {"floating": fit}
        test = self.served.kept(record.name, "test")
        self.served.place(record.name, fitted[record.name])
        with self.served.without_backbone() if fit.standalone else nullcontext():
            if test:
                changes["loss_floating"] = self._loss(test, domain=record.name, view="floating", split="test")
        loss = verdict.losses.get(record.name)
        reference = record.validation_loss
        if loss is not None and reference is not None and self._no_worse(loss, reference):
            changes |= {"floating": None, "standalone": fit.standalone}
            changes["snapshot_pinned"] = None if fit.standalone else snapshot
            if fit.follow > 0.0:  # all the way is its own LoRA again
                changes["followed"] = snapshot if fit.follow < 1.0 else None
            changes |= {"validation_loss": loss, "validation_rows": tuple(held.get(record.name, ()))}
            changes["loss_now"] = changes.get("loss_floating", record.loss_now)
        return record.model_copy(update=changes)


def _refuse_likeness(domain: str, known: Sequence[str]) -> None:
    """Two names that differ by case alone would share a folder on some disks: said before any training."""
    for name in known:
        if name.casefold() == domain.casefold():
            raise ConfigError(
                "a domain's name has to differ from the others by more than case",
                expected=f"another name than {', '.join(known)}",
                got=domain,
                next_step=f"choose another, or extend '{name}' with `--extend`",
            )


def split_of(domain: str, data: Data, config: LearnConfig) -> tuple[Split, dict[str, int]]:
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
        raise DataError(
            "there is nothing to learn from",
            where=domain,
            expected="training rows",
            got="none",
            next_step="put rows into the split's train",
        )
    counts = {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)}
    return split, counts


def _finite(value: Any) -> Any:
    """`value` for a JSON file, which has no infinity: a loss that is no number becomes null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
