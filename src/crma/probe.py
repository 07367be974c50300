"""What a model says of rows before they are learnt: what learning them will take here, which of them its stack knows,
which answers do not follow from their questions. Each looks at a sample."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from crma.data.batches import plan_batches
from crma.data.openings import openings
from crma.data.quality.row import Hit, Kept
from crma.data.quality.sampled import Sampled
from crma.data.render import Rendered, ensure_chat_template, render
from crma.errors import CrmaError
from crma.model.adapters import Adapters
from crma.model.backbone import Backbone, BackboneConfig, attach_backbone
from crma.model.base import Base
from crma.overlap import is_much
from crma.route.centroid import Router
from crma.served import ServedStack
from crma.train.config import LearnConfig
from crma.train.loop import Group, StepReport, fit
from crma.train.objectives import evaluate_rows
from crma.types import Example, Route

__all__ = ["OverlapCheck", "RowScores", "Scored", "TrainingCost", "row_scores"]

_DRAWN = 64  # rows from which the probe's steps are made
_ASKED = 300  # rows that the router is asked about: a share of a tenth is known within three hundredths and a half
_HALVED = 40  # rows from which on half of them are enough to make a domain of
_STEPS = 2  # the first of them is warm-up, and not counted
_NAME = "crma-probe"


class TrainingCost(Sampled):
    """No check, a fact: seconds and memory of learning these rows here, from a few steps of the real loop at rate 0.

    Counted are the steps of training. Verifying earlier domains comes on top, and grows with their validation rows.
    """

    def __init__(self, base: Base, config: LearnConfig, served: ServedStack | None) -> None:
        super().__init__(_DRAWN)
        self._base, self._config, self._served = base, config, served
        self._found: dict[str, Any] = {}
        self._unmade = ""

    def finish(self, kept: Kept) -> Iterable[Hit]:
        rows = list(_rendered(self._base, (example for _, example in self.drawn), self._config.max_length))
        if not rows:
            self._unmade = "no row could be rendered"
            return ()
        try:
            reports = self._steps(rows)
        except (CrmaError, torch.OutOfMemoryError) as error:
            self._unmade = f"the probe failed: {str(error).splitlines()[0]}"
            return ()
        counted = reports[1:] or reports
        a_token = sum(r.seconds for r in counted) / max(1, sum(r.tokens for r in counted))
        learnt = min(self.seen, self._config.limit or self.seen)
        tokens = learnt * float(np.mean([len(row.input_ids) for row in rows]))
        self._found = {
            "seconds": a_token * tokens * self._config.epochs,
            "steps": max(1, round(self._config.epochs * math.ceil(learnt / self._config.batch_size))),
            "epochs": self._config.epochs,
            "batch_size": self._config.batch_size,
            "rows": learnt,
            "tokens_per_second": 1 / a_token if a_token else 0.0,
            "peak_bytes": _peak_bytes(self._base),
            "measured_rows": sum(len(step) for step in self._plan(rows).steps),
            "device": str(next(self._base.model.parameters()).device),
        }
        return ()

    def facts(self) -> Mapping[str, Any]:
        return {"training": self._found} if self._found else {}

    def skipped(self) -> Mapping[str, str]:
        return {"training": self._unmade} if self._unmade else {}

    def _plan(self, rows: list[Rendered]) -> Any:
        lengths = [len(row.input_ids) for row in rows]
        epochs = _STEPS / math.ceil(len(rows) / self._config.batch_size)
        return plan_batches(lengths, batch_size=self._config.batch_size, epochs=epochs, seed=0)

    def _steps(self, rows: list[Rendered]) -> list[StepReport]:
        reports: list[StepReport] = []
        with _learnable(self._base, self._served, self._config) as groups:
            fit(
                self._base.model,
                _head(self._base),
                rows,
                self._plan(rows),
                groups,
                config=self._config.loop,
                accelerator=self._served.accelerator if self._served else Accelerator(),
                pad_id=_pad_id(self._base),
                on_step=reports.append,
            )
        return reports


class Routing(Protocol):
    """What knows the domains that are there: a `ServedStack`, say."""

    def router(self) -> Router | None: ...

    def features(self, texts: Sequence[str], /) -> np.ndarray: ...


class OverlapCheck(Sampled):
    """`overlap`: of a sample of rows, those whose question the stack's router would send to a domain that is there even
    when these rows are learnt.

    Each half of the sample is asked of a router that knows the other half as a domain. Without that nearly every row of
    law counts as finance where law is not learnt yet: what nobody else claims the likest domain takes (RESULTS.md).
    """

    def __init__(self, served: Routing) -> None:
        super().__init__(_ASKED)
        self._served = served
        self._shares: dict[str, float] = {}

    def finish(self, kept: Kept) -> Iterable[Hit]:
        router = self._served.router()
        if router is None:
            return
        drawn = openings([example for _, example in self.drawn])
        asked = [(number, text) for (number, _), text in zip(self.drawn, drawn, strict=True) if text.strip()]
        if not asked:
            return
        features = self._served.features([prompt for _, prompt in asked])
        sound = np.atleast_1d(np.isfinite(features).all(axis=1))
        routes = _with_the_others_learnt(router, features[sound])
        taken = Counter(to for route in routes if (to := route.domain) is not None and to in router.domains)
        self._shares = {domain: count / len(routes) for domain, count in taken.most_common()}
        numbers = [number for (number, _), good in zip(asked, sound.tolist(), strict=True) if good]
        for number, route in zip(numbers, routes, strict=True):
            if (to := route.domain) is not None and is_much(taken[to], len(routes)):
                yield Hit(number, "overlap", f"goes to '{to}', as do {taken[to]} of {len(routes)} rows drawn")

    def facts(self) -> Mapping[str, Any]:
        return {"overlap": self._shares} if self._shares else {}

    def skipped(self) -> Mapping[str, str]:
        return {} if self._served.router() is not None else {"overlap": "the stack has learnt no domain yet"}


def _with_the_others_learnt(router: Router, features_ND: np.ndarray) -> list[Route]:
    """Of each row, where it goes; with fewer than `_HALVED` rows by the router as it is, which tells too many."""
    if len(features_ND) < _HALVED:
        return router.route(features_ND)
    odd = np.arange(len(features_ND)) % 2 == 1
    found: list[Route | None] = [None] * len(features_ND)
    for asked in (odd, ~odd):
        knowing = router.with_domain(_NAME, features_ND[~asked])
        for place, route in zip(np.flatnonzero(asked), knowing.route(features_ND[asked]), strict=True):
            found[place] = route
    return [route for route in found if route is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Rows by number; of each its answer's loss, in nats a token, after its own question and after a strange one."""

    numbers: Sequence[int] = ()
    given: np.ndarray = field(default_factory=lambda: np.zeros(0))
    strange: np.ndarray = field(default_factory=lambda: np.zeros(0))


class RowScores(Sampled):
    """`hard` and `easy`: the base's loss on an answer after its own question, and after another row's.

    An answer that is no likelier after its own question than after a strange one does not follow from it: the pointwise
    mutual information of question and answer, a token, is then at most 0. RESULTS.md has what it is worth. `scored`
    holds the numbers themselves once it has finished.
    """

    EASY = 0.1  # nats a token: nine of ten tokens are certain

    def __init__(self, base: Base, served: ServedStack | None, rows: int, max_length: int = 512) -> None:
        super().__init__(rows)
        self._base, self._served, self._max_length = base, served, max_length
        self._scores: dict[str, Any] = {}
        self.scored = Scored()

    def finish(self, kept: Kept) -> Iterable[Hit]:
        numbers, given, strange = row_scores(self._base, self._served, self.drawn, self._max_length)
        if not numbers:
            return
        self.scored = Scored(numbers=numbers, given=given, strange=strange)
        self._scores = {
            "rows": len(numbers),
            "loss": {"median": float(np.median(given)), "p95": float(np.percentile(given, 95))},
            "gain": {"median": float(np.median(strange - given)), "p5": float(np.percentile(strange - given, 5))},
        }
        for number, own, other in zip(numbers, given, strange, strict=True):
            if other - own <= 0:
                yield Hit(number, "hard", f"{own:.2f} nats a token after its question, {other:.2f} after another's")
            elif own < self.EASY:
                yield Hit(number, "easy", f"{own:.2f} nats a token")

    def facts(self) -> Mapping[str, Any]:
        return {"scores": self._scores} if self._scores else {}


def row_scores(
    base: Base, served: ServedStack | None, rows: list[tuple[int, Example]], max_length: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Numbers of the rows that could be rendered, and of each the loss in nats a token of its last answer after its
    own question and after the question of the next row, the last's being the first's."""
    pairs = []
    for (number, own), (_, other) in zip(rows, rows[1:] + rows[:1], strict=True):
        both = (Example.of(own.prompt, own.completion), Example.of(other.prompt, own.completion))
        if len(rendered := list(_rendered(base, both, max_length))) == 2:
            pairs.append((number, *rendered))
    if not pairs:
        return [], np.zeros(0), np.zeros(0)
    with served.untouched() if served else nullcontext():
        given, strange = (
            np.array(evaluate_rows(base.model, _head(base), [p[side] for p in pairs], pad_id=_pad_id(base)).losses)
            for side in (1, 2)
        )
    return [number for number, _, _ in pairs], given, strange


def _rendered(base: Base, examples: Iterable[Example], max_length: int) -> Iterator[Rendered]:
    """Those rows that the template takes."""
    ensure_chat_template(base.tokenizer)
    for example in examples:
        try:
            row = render(example, base.tokenizer, max_length=max_length)
        except CrmaError:
            continue
        if any(row.supervised[1:]):
            yield row


@contextmanager
def _learnable(base: Base, served: ServedStack | None, config: LearnConfig) -> Iterator[list[Group]]:
    """A LoRA and the backbone as a new domain would train them, at rate 0: the numbers stay what they are."""
    adapters = served.adapters if served else Adapters(base.model)
    attached = served is None and getattr(base.model, "crma_backbone", None) is None
    backbone: Backbone | None = attach_backbone(base.model, BackboneConfig()) if attached else None
    backbone = served.backbone if served else backbone
    adapters.add(_NAME, config.adapter)
    try:
        adapters.activate(_NAME)
        groups = [Group(name="adapter", side="adapter", lr=0.0, parameters=adapters.parameters(_NAME))]
        if backbone is not None:
            frames, mixing = backbone.trained()
            for name, parameters in (("frames", frames), ("mixing", mixing)):
                groups.append(
                    Group(name=name, side="backbone", lr=0.0, parameters=parameters, layers=backbone.layers())
                )
        yield groups
    finally:
        adapters.remove(_NAME)


def _head(base: Base) -> nn.Module:
    head = base.model.get_output_embeddings()
    assert head is not None
    return head


def _pad_id(base: Base) -> int:
    pad = base.tokenizer.pad_token_id
    return pad if isinstance(pad, int) else 0


def _peak_bytes(base: Base) -> int:
    """The most that was held so far: of an accelerator's memory, else of this process."""
    device = next(base.model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
