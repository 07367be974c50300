"""The conditions that are compared (PROTOCOL rule 1, METHOD section 5), each by the settings in which it differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crma.benchmark.recipes import Plan
from crma.errors import ConfigError
from crma.model.backbone import BackboneConfig
from crma.train.config import LearnConfig

__all__ = ["CONDITIONS", "Condition", "condition_named"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What it is, in settings. `rank` says whose: crma's LoRA alone, or raised to crma's number of trained numbers."""

    name: str
    says: str
    learner: Literal["base", "one", "copies", "joint", "stack", "reset", "halves", "unnamed"]
    stream: bool = False  # rows without names are learnt as they come, not as one file
    rank: Literal["adapter", "matched"] = "matched"
    lr_factor: float = 1.0
    backbone: Mapping[str, Any] | None = None  # changes to BackboneConfig; None: no backbone
    learn: Mapping[str, Any] = field(default_factory=dict)  # changes to LearnConfig

    def config(self, plan: Plan, seed: int) -> LearnConfig:
        factor = self.lr_factor * plan.rates.get(self.name, 1.0)
        changes: dict[str, Any] = {"seed": seed, "lr": plan.learn.lr * factor, **self.learn}
        if self.rank == "matched":
            changes["rank"] = plan.matched_rank
        return plan.learn.model_copy(update=changes)

    def shape(self, plan: Plan, seed: int) -> BackboneConfig | None:
        if self.backbone is None:
            return None
        return BackboneConfig(**{"directions": plan.directions, "seed": seed, **self.backbone})


def _crma(name: str, says: str, *, learn: Mapping[str, Any] | None = None, **backbone: Any) -> Condition:
    return Condition(name=name, says=says, learner="stack", rank="adapter", backbone=backbone, learn=learn or {})


CONDITIONS: Mapping[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition(name="base", says="the untouched base", learner="base"),
        Condition(name="naive", says="one LoRA, trained on and on", learner="one"),
        Condition(
            name="naive-low-lr", says="one LoRA, trained on at a tenth of the rate", learner="one", lr_factor=0.1
        ),
        Condition(
            name="copies-follow",
            says="naive's copies, each drawn after the later ones as crma's domains are: merging without a backbone",
            learner="copies",
        ),
        Condition(name="joint", says="one LoRA, all domains at once", learner="joint"),
        Condition(name="frozen-small", says="a LoRA a domain, of crma's rank", learner="stack", rank="adapter"),
        Condition(name="frozen", says="a LoRA a domain, as many trained numbers as crma", learner="stack"),
        Condition(
            name="frozen-uniform",
            says="frozen, each LoRA's A begun as PEFT has it, not with orthonormal rows",
            learner="stack",
            learn={"reads": "uniform"},
        ),
        Condition(
            name="frozen-warm",
            says="frozen, each LoRA begun as the nearest earlier one: a warm start without a backbone",
            learner="stack",
            learn={"warm_start": True},
        ),
        _crma("crma", "shared bounded backbone, a LoRA a domain, verified promotion"),
        _crma("as-it-is", "crma, earlier LoRAs left as they are when the backbone moves", learn={"follow": (1.0,)}),
        _crma("stay", "crma, earlier domains take no part in the backbone's movement", learn={"follow": (0.0,)}),
        _crma(
            "gated",
            "the first form of the backbone: orthonormal writes behind a gate that starts at 0",
            frames="learnt",
        ),
        _crma("shared-lora", "an ordinary shared LoRA in the backbone's place", frames="lora"),
        _crma("free-mixing", "any K in place of a doubly stochastic mixing", mixing="free"),
        _crma("row-stochastic", "rows of M sum to 1, columns need not", mixing="row-stochastic"),
        _crma("no-mixing", "M = I", mixing="none"),
        _crma(
            "light",
            "fixed frames at the residual writes: only mixing and gates learn",
            frames="light",
            where="residual-writes",
            directions=32,
        ),
        _crma("crma-warm", "crma, each LoRA begun as the nearest earlier one", learn={"warm_start": True}),
        Condition(
            name="halves",
            says="crma, each domain's second half learnt by `extend` when all are learnt",
            learner="halves",
            rank="adapter",
            backbone={},
        ),
        Condition(
            name="auto",
            says="crma, all rows in one shuffled file, without their domains",
            learner="unnamed",
            rank="adapter",
            backbone={},
        ),
        Condition(
            name="auto-stream",
            says="crma, rows without their domains, one domain's after the other's",
            learner="unnamed",
            stream=True,
            rank="adapter",
            backbone={},
        ),
        Condition(
            name="reset",
            says="crma with a new backbone at each domain: its capacity without its transfer",
            learner="reset",
            rank="adapter",
            backbone={},
        ),
    )
}


def condition_named(name: str) -> Condition:
    if name not in CONDITIONS:
        raise ConfigError("there is no such condition", expected=", ".join(CONDITIONS), got=name)
    return CONDITIONS[name]
