"""Recipes: what is run, how large, with which rates; each is data, and changing a number here makes other receipts.

Rates are to be chosen on validation rows from one grid for every method (`recipe_named(lr=…)` makes its points; LOG.md
has what was tried, which is not yet the whole grid at these sizes); they are the same for all conditions but where a
condition's point is another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from crma.benchmark.streams import Sizes
from crma.errors import ConfigError
from crma.model.base import load_skeleton
from crma.model.matching import matched_rank
from crma.train.config import LearnConfig

__all__ = ["RECIPES", "Plan", "Recipe", "recipe_named"]

SEEDS = (0, 42, 1234)  # the paper's

CLAIM = ("naive", "joint", "frozen", "crma")  # the four runs that carry the claim
CONTROLS = (
    "base",
    "naive-low-lr",
    "copies-follow",
    "frozen-small",
    "frozen-uniform",
    "frozen-warm",
    "as-it-is",
    "stay",
    "gated",
    "crma-warm",
    "shared-lora",
    "free-mixing",
    "row-stochastic",
    "no-mixing",
    "reset",
    "light",
    "halves",
    "auto",
    "auto-stream",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a recipe runs one stream."""

    sizes: Sizes
    learn: LearnConfig  # of crma; the others' differ as `crma.benchmark.conditions` says
    matched_rank: int  # a LoRA alone of this rank trains as many numbers as crma's LoRA with its backbone
    directions: int = 10
    orders: tuple[int, ...] = (0,)
    rates: Mapping[str, float] = field(default_factory=dict)  # condition -> its rate in units of `learn.lr`


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    name: str
    base: str
    streams: Mapping[str, Plan]
    conditions: tuple[str, ...]
    seeds: tuple[int, ...] = SEEDS
    # Conditions that run in all of a plan's orders; the others in its first. Of the claim's four, frozen and joint know
    # no order (KNOWS_NO_ORDER in crma.bench.receipt): their receipts stand in each.
    in_every_order: tuple[str, ...] = ("naive", "crma")

    def runs(self) -> list[tuple[str, str, int, int]]:
        """(stream, condition, seed, order), in the order to run them: what carries the claim first."""
        ranked = [c for c in CLAIM if c in self.conditions] + [c for c in self.conditions if c not in CLAIM]
        found = []
        for seed in self.seeds:
            for condition in ranked:
                for stream, plan in self.streams.items():
                    orders = plan.orders if condition in self.in_every_order else plan.orders[:1]
                    found += [(stream, condition, seed, order) for order in orders]
        return sorted(found, key=lambda run: (run[3], SEEDS.index(run[2]) if run[2] in SEEDS else run[2]))


# Eight rows are two steps an epoch: as few as a domain can have, since there is the more to share the fewer there are.
_NEAR = Plan(
    sizes=Sizes(train=8, validation=16, test=24, max_tokens=224),
    learn=LearnConfig(epochs=3, lr=2e-3, lr_backbone=2e-3, lr_mixing=2e-3, batch_size=4, rank=8, max_length=224),
    matched_rank=19,
    orders=(0, 1, 2),
    rates={"joint": 0.5},  # eight domains at once are eight times the steps
)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="smoke",
            base="toy",
            streams={
                "worlds": Plan(
                    sizes=Sizes(train=16, validation=4, test=4, max_tokens=128),
                    learn=LearnConfig(
                        epochs=2, lr=1e-2, lr_backbone=1e-2, lr_mixing=1e-2, batch_size=4, rank=2, max_length=128
                    ),
                    matched_rank=4,
                    directions=2,
                    orders=(0, 1),
                )
            },
            conditions=CLAIM + CONTROLS,
            seeds=(0,),
        ),
        Recipe(
            name="inference",
            base="smollm2-135m",
            streams={
                "worlds-five": Plan(
                    sizes=Sizes(train=80, validation=20, test=20, max_tokens=128),
                    learn=LearnConfig(
                        epochs=4, lr=4e-3, lr_backbone=4e-3, lr_mixing=4e-3, batch_size=4, rank=8, max_length=128
                    ),
                    matched_rank=19,
                )
            },
            conditions=("frozen-small", "frozen", "crma"),
        ),
        Recipe(
            name="small",
            base="smollm2-135m",
            streams={
                "near-medical": _NEAR,
                "far": Plan(
                    sizes=Sizes(train=160, validation=40, test=48, max_tokens=128),
                    learn=LearnConfig(
                        epochs=2, lr=2e-3, lr_backbone=2e-3, lr_mixing=2e-3, batch_size=8, rank=8, max_length=128
                    ),
                    matched_rank=19,
                    orders=(0, 1),
                ),
            },
            conditions=CLAIM + CONTROLS,
        ),
        # The near stream has one size, and its runs are among those of `small`.
        Recipe(
            name="paper",
            base="smollm2-135m",
            streams={
                "far": Plan(
                    sizes=Sizes(train=500, validation=100, test=200, max_tokens=256),
                    learn=LearnConfig(
                        epochs=2, lr=2e-3, lr_backbone=2e-3, lr_mixing=2e-3, batch_size=8, rank=8, max_length=256
                    ),
                    matched_rank=19,
                    orders=(0, 1, 2),
                ),
            },
            conditions=CLAIM,
        ),
    )
}


def recipe_named(name: str, *, lr: float | None = None, base: str | None = None, rows: int | None = None) -> Recipe:
    """A recipe, or the same with one thing changed and receipts of its own.

    Args:
        lr: another learning rate of the LoRA, the backbone's rates scaled alike, for every condition: a point of the
            grid that rates are chosen from ("small-lr0.001").
        rows: another number of training rows a domain, at the recipe's rates ("small-rows25").
        base: another base model ("small-gemma3-270m"); the rank of the control is matched to its shapes.
    """
    if name not in RECIPES:
        raise ConfigError("there is no such recipe", expected=", ".join(RECIPES), got=name)
    recipe = RECIPES[name]
    if base is not None and base != recipe.base:
        skeleton = load_skeleton(base)
        streams = {
            stream: replace(plan, matched_rank=matched_rank(skeleton, rank=plan.learn.rank, directions=plan.directions))
            for stream, plan in recipe.streams.items()
        }
        short = re.sub(r"[^A-Za-z0-9.-]+", "-", base.rstrip("/").rsplit("/", 1)[-1])
        recipe = replace(recipe, name=f"{recipe.name}-{short}", base=base, streams=streams)
    if rows is not None:
        streams = {
            stream: replace(plan, sizes=replace(plan.sizes, train=rows)) for stream, plan in recipe.streams.items()
        }
        recipe = replace(recipe, name=f"{recipe.name}-rows{rows}", streams=streams)
    if lr is not None:
        streams = {
            stream: replace(plan, learn=_at_rate(plan.learn, lr), rates={}) for stream, plan in recipe.streams.items()
        }
        recipe = replace(recipe, name=f"{recipe.name}-lr{lr:g}", streams=streams)
    return recipe


def _at_rate(learn: LearnConfig, lr: float) -> LearnConfig:
    factor = lr / learn.lr
    rates = {name: getattr(learn, name) * factor for name in ("lr", "lr_backbone", "lr_mixing", "lr_gate")}
    return LearnConfig(**{**learn.model_dump(), **rates})
