"""Extending a domain with more rows of its subject: its LoRA learns on, and is taken only where nothing is lost.

The backbone is held, so no other domain changes. The LoRA goes from what is served towards what the new rows taught, as
far as serves the new validation rows best among the points where the validation rows of before lose nothing; where no
point gains more than its standard error, the domain stays as it is. Its test rows stay those of its first day, so that
its losses remain comparable; the new rows' test part is measured before and after, and no later call trains on it as
long as rows are split by shares (a row's place follows from its content).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crma.data.batches import plan_batches
from crma.data.domains import apart_from, documents_of
from crma.data.openings import openings
from crma.data.render import Rendered, render_all
from crma.errors import ConfigError, DataError
from crma.forgetting import write_router
from crma.learning import Data, split_of
from crma.model.adapters import Weights, rank_of
from crma.model.fold import blend
from crma.route.centroid import Router
from crma.route.retyping import retyped_of
from crma.session import Session, session_data
from crma.stack.layout import WORK, DomainRecord, Extension, timestamp
from crma.train.config import LearnConfig, derived_seed
from crma.train.processes import on_main
from crma.train.promotion import Held, gain
from crma.training import DomainTraining, data_hash
from crma.types import Example, Split

__all__ = ["Extended", "Extending", "check_extendable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Extended:
    """What extending a domain came to; losses on the test rows among the new ones, in nats a supervised token."""

    domain: str
    share: float  # of the way from what was served to what was learnt; 0: nothing was taken, the domain is as it was
    loss_before: float | None
    loss_after: float | None
    rows: Mapping[str, int]
    left_out: int  # rows that stand among the kept validation or test rows, or belong beside one of them
    seconds: float


def check_extendable(record: DomainRecord, config: LearnConfig | None) -> LearnConfig:
    """The settings to extend a domain with.

    Raises:
        ConfigError: its LoRA has another shape than these say, or it keeps no rows that could judge what it loses.
    """
    own = LearnConfig(**record.config)
    if not record.rows_kept or record.validation_loss is None:
        raise ConfigError(
            f"'{record.name}' keeps no validation rows, so that nobody could say what it would lose",
            expected="a domain learnt with keep_rows and a validation split",
            got="no kept rows" if not record.rows_kept else "no validation rows",
            next_step="learn the new rows as a domain of their own",
        )
    if config is None:
        return own
    for setting, expected, got in (
        ("rank", own.rank, config.rank),
        ("alpha", own.adapter.alpha, config.adapter.alpha),  # None stands for twice the rank
        ("max_length", own.max_length, config.max_length),
    ):
        if expected != got:
            raise ConfigError(
                f"'{record.name}' was learnt with another {setting}",
                expected=expected,
                got=got,
                next_step="leave it out: the domain's own is taken",
            )
    return config


class Extending(DomainTraining):
    """A learnt domain being extended, on a stack whose lock the caller holds."""

    def run(self, data: Data) -> Extended:
        self.served.stack.refresh()
        record = self.served.stack.manifest.domain(self.domain)
        split, given = split_of(self.domain, data, self.config)
        content = data_hash(split)
        if content in {record.data_sha256, *(e.data_sha256 for e in record.extensions)}:
            return self._extended_before(record, content)
        kept = {name: tuple(self.served.kept_examples(self.domain, name)) for name in ("validation", "test")}
        split, left_out = apart_from(split, Split(train=(), **kept))
        if left_out:
            self.on_event(
                "note", {"text": f"{left_out} rows are left out: they belong with rows that judge the domain"}
            )
        if not split.train or not split.validation:
            raise DataError(
                "too few new rows to learn from and to judge by",
                where=self.domain,
                expected="at least one training and one validation row that the domain does not hold yet",
                got=f"{len(split.train)} and {len(split.validation)}, {left_out} left out",
                next_step="collect more rows first",
            )
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        counts = {**given, **{name: len(rows) for name, rows in parts.items()}}
        if "unused" in counts:
            counts["unused"] += left_out
        router = self._router(split, kept["validation"])  # before training: what it may raise must not cost that
        rendered = {
            name: render_all(rows, self.served.tokenizer, self.config.max_length).rows for name, rows in parts.items()
        }
        session = self._session(
            {
                "extends": self.domain,
                "data": content,
                "config": self.config.model_dump(exclude={"checkpoint_every"}),
                "domain": [record.data_sha256, record.adapter, record.snapshot_pinned],
                "base": self.served.stack.manifest.base.weights_sha256,
            }
        )
        judges = {"before": self.served.kept(self.domain, "validation"), "new": rendered["validation"]}
        with self.served.serving(self.domain):
            served = self.served.adapters.weights(self.domain)
            old = {name: self._held(rows) for name, rows in judges.items()}
            loss_before = self._test_loss(rendered["test"])
            self._train(rendered["train"], session, len(record.extensions))
            learnt = self.served.adapters.weights(self.domain)
            chosen, held = self._chosen(record, session, served, learnt, judges, old)
            self.served.place(self.domain, self._at(served, learnt, chosen))
            loss_after = self._test_loss(rendered["test"]) if chosen else loss_before
            kept_tests = self.served.kept(self.domain, "test")
            loss_now = self._loss(kept_tests) if chosen and kept_tests else record.loss_now
        found = Extended(
            domain=self.domain,
            share=chosen,
            loss_before=loss_before,
            loss_after=loss_after,
            rows=counts,
            left_out=left_out,
            seconds=time.perf_counter() - self.began,
        )
        self.on_event("note", {"text": f"'{self.domain}' goes {chosen:.0%} of the way to what the new rows taught"})
        if chosen:
            weights = self._at(served, learnt, chosen)
            merged = Split(train=split.train, validation=(*kept["validation"], *split.validation), test=kept["test"])
            self._publish(record, merged, content, found, weights, held, loss_now, router)
        else:
            self._clear()
        return found

    def _train(self, rows: Sequence[Rendered], session: Session, number: int) -> None:
        plan = plan_batches(
            [len(r.input_ids) for r in rows],
            batch_size=self.config.batch_size,
            epochs=self.config.epochs,
            seed=derived_seed(self.config.seed, f"{self.domain}+{number + 1}"),
        )
        adapters = self.served.adapters
        weights = adapters.weights(self.domain)
        adapters.load(self.domain, self.config.adapter.of_rank(rank_of(weights)), weights)  # with its own dropout
        adapters.activate(self.domain)
        self._phase("commit", rows, plan, range(len(plan)), session, anew=True)

    def _test_loss(self, rows: Sequence[Rendered]) -> float | None:
        return self._loss(rows) if rows else None

    @staticmethod
    def _at(served: Weights, learnt: Weights, share: float) -> Weights:
        if share in (0.0, 1.0):
            return learnt if share else served
        return blend(served, learnt, share)

    def _chosen(
        self,
        record: DomainRecord,
        session: Session,
        served: Weights,
        learnt: Weights,
        judges: Mapping[str, Sequence[Rendered]],
        old: Mapping[str, Held],
    ) -> tuple[float, Held]:
        """How far to go, and what all validation rows lose there. Decided once; a resumed run keeps the decision."""

        def under(share: float) -> dict[str, Held]:
            self.served.place(self.domain, self._at(served, learnt, share))
            return {name: self._held(rows) for name, rows in judges.items()}

        def both(held: Mapping[str, Held]) -> Held:
            return Held(
                losses=(*held["before"].losses, *held["new"].losses),
                tokens=(*held["before"].tokens, *held["new"].tokens),
            )

        known = session.get("share")
        if known is not None:
            return known, both(under(known) if known else old)
        self.on_event("phase", {"phase": "verify", "domain": self.domain, "earlier": [self.domain]})
        reference = old["before"].loss if record.validation_loss is None else record.validation_loss
        best, best_held = 0.0, dict(old)
        for share in sorted({s for s in self.config.follow if s > 0.0} | {1.0}):
            there = under(share)
            harmless = there["before"].loss <= reference * (1.0 + self.config.tolerance)
            fall, error = gain(there["new"], old["new"])
            # Of one validation row there is no standard error: it has to gain, and that is all that can be asked.
            enough = fall > (error if math.isfinite(error) else 0.0)
            if harmless and enough and there["new"].loss < best_held["new"].loss:
                best, best_held = share, there
        session.remember(share=best)
        return best, both(best_held)

    def _publish(
        self,
        record: DomainRecord,
        merged: Split,
        content: str,
        found: Extended,
        weights: Weights,
        held: Held,
        loss_now: float | None,
        router: Router | None,
    ) -> None:
        # One that does not stand under the head is fitted to it when it is asked for there; nothing is known of that.
        head = self.served.stack.manifest.head
        loss_floating = loss_now if record.standalone or record.snapshot_pinned == head else None
        self.served.wait()

        def commit() -> None:
            with self.served.stack.transaction() as tx:
                folder = self._write_adapter(tx, self.domain, weights, LearnConfig(**record.config).adapter)
                session = Session(self.served.stack.work(self.domain), {}, writes=False)
                tx.write_lines(f"{folder}/metrics.jsonl", session.metrics())
                # What stands alone holds a backbone: it is not what was learnt under one, which stays beside it.
                alone = record.standalone
                for stale in {record.adapter} if alone else {record.adapter, record.adapter_learnt or record.adapter}:
                    tx.remove(stale)
                kept = self._write_rows(tx, merged)
                assert record.rows_kept is not None
                tx.remove(record.rows_kept)
                changes: dict[str, Any] = {
                    "adapter": folder,
                    "adapter_learnt": record.adapter_learnt if alone else None,
                    "snapshot_learnt": record.snapshot_learnt if alone else record.snapshot_pinned,
                    "rows_kept": kept,
                    "rows": {k: record.rows.get(k, 0) + found.rows.get(k, 0) for k in {*record.rows, *found.rows}},
                    "validation_loss": held.loss,
                    "validation_rows": held.losses,
                    "loss_now": loss_now,
                    "loss_floating": loss_floating,
                    "extensions": (
                        *record.extensions,
                        Extension(
                            learnt=timestamp(),
                            data_sha256=content,
                            rows=dict(found.rows),
                            left_out=found.left_out,
                            share=found.share,
                            loss_before=found.loss_before,
                            loss_after=found.loss_after,
                        ),
                    ),
                }
                domains = self.served.stack.manifest.domains
                losses = {d.name: d.loss_now for d in domains} | {self.domain: loss_now}
                version = write_router(self.served.stack, tx, router) if router is not None else None
                changes |= {"router_version": version} if version is not None else {}
                own = record.model_copy(update=changes)
                tx.update(
                    domains=tuple(own if d.name == self.domain else d for d in domains),
                    **({"router": version} if version is not None else {}),
                )
                tx.log(
                    {
                        "kind": "extend",
                        "domain": self.domain,
                        "data_sha256": content,
                        "rows": dict(found.rows),
                        "config": self.config.model_dump(),
                        "share": found.share,
                        "new_test_loss": [found.loss_before, found.loss_after],
                        "test_loss_pinned": losses,
                    }
                )

        on_main(self.served.accelerator, commit)
        self._clear()

    def _clear(self) -> None:
        self.served.wait()
        if self.served.is_main:
            self.served.stack.clear_work(self.domain)
        self.served.wait()
        self.served.stack.refresh()

    def _router(self, new: Split, judged_by: Sequence[Example]) -> Router | None:
        """The router after the new training prompts, judged by all validation prompts, old and new."""
        router = self.served.router()
        if router is None:
            return None
        prompts = openings(new.train)
        own = self.served.features(prompts)
        return router.with_more(
            self.domain,
            own,
            # Each by its own kind: the old rows may be conversations that begin with a greeting, and these may not.
            self.served.features([*openings(judged_by), *openings(new.validation, like=new.train)]),
            documents=documents_of((*judged_by, *new.validation)),
            retyped=retyped_of(prompts, own, self.served.features),
        )

    def _extended_before(self, record: DomainRecord, content: str) -> Extended:
        """What a run that was killed between its commit and its end would have returned; any other is refused."""
        stack = self.served.stack
        unfinished = content != record.data_sha256 and session_data(stack.root / WORK / self.domain) == content
        self.served.wait()
        if not unfinished:
            raise ConfigError(
                f"'{self.domain}' has learnt these rows already",
                where=str(stack.root),
                expected="rows it has not seen",
                got="the rows of its first day" if content == record.data_sha256 else "those of an extension",
                next_step="nothing is to be done",
            )
        self.on_event("note", {"text": "it was committed before the run was killed"})
        self._clear()
        made = next(e for e in record.extensions if e.data_sha256 == content)
        return Extended(
            domain=self.domain,
            share=made.share,
            loss_before=made.loss_before,
            loss_after=made.loss_after,
            rows=made.rows,
            left_out=made.left_out,
            seconds=time.perf_counter() - self.began,
        )
