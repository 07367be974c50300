"""One run of the benchmark: what is to be learnt how, and what it leaves for its receipt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crma.bench.receipt import Answers, Measurement
from crma.benchmark.conditions import Condition
from crma.benchmark.recipes import Plan
from crma.model.backbone import BackboneConfig
from crma.train.config import LearnConfig
from crma.types import Split

__all__ = ["Listener", "Outcome", "Run"]

Listener = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One condition on one stream, in the order of `domains`, with everything resumable kept in `folder`."""

    condition: Condition
    plan: Plan
    domains: Mapping[str, Split]
    folder: Path
    base: str
    seed: int
    rivals: bool = False  # other routers than ours are measured too, at the end
    on_event: Listener = lambda _kind, _value: None

    @property
    def config(self) -> LearnConfig:
        return self.condition.config(self.plan, self.seed)

    @property
    def shape(self) -> BackboneConfig | None:
        return self.condition.shape(self.plan, self.seed)

    def tell(self, domain: str, number: int, *, before: bool) -> None:
        """A domain is done; `before`: by a process that was killed since."""
        self.on_event("domain", {"domain": domain, "number": number, "of": len(self.domains), "before": before})


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a run leaves for its receipt, by the receipt's own names."""

    measurements: Sequence[Measurement]
    base: Mapping[str, Any]
    trained_parameters: int
    stored_parameters: int
    tokens: int
    holds: bool = False
    answers: Sequence[Answers] = ()
    routes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    routes_ahead: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    router: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    refusals: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    fits: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    spectral: Sequence[Mapping[str, Any]] = ()
