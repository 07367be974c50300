"""The settings of learning one domain, the same for every method."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from crma.model.adapters import AdapterConfig
from crma.train.loop import LoopConfig

__all__ = ["OF_THE_BACKBONE", "LearnConfig", "derived_seed"]

# Settings that do nothing where there is no backbone.
OF_THE_BACKBONE = frozenset(
    {"lr_backbone", "lr_mixing", "lr_gate", "propose", "verify", "budget", "follow", "widen", "absorb", "tolerance"}
)


class LearnConfig(BaseModel):
    """How one domain is learnt. What is not asked for is derived and shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(default=3.0, gt=0)
    lr: float = Field(default=1e-3, gt=0, le=1e3, description="of the domain's LoRA")
    lr_backbone: float = Field(default=1e-3, gt=0, le=1e3, description="of the backbone's frames")
    lr_mixing: float = Field(default=1e-3, gt=0, le=1e3, description="of the backbone's mixing logits")
    lr_gate: float = Field(
        default=1e-2,
        gt=0,
        le=1e3,
        description="of the gates of a gated backbone, which have to come from 0 towards 1 in a domain's few steps",
    )
    batch_size: int = Field(default=8, ge=1)
    rank: int = Field(default=8, ge=1, le=512)
    alpha: float | None = Field(default=None, gt=0, description="LoRA's alpha; None is 2 × rank")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    reads: Literal["orthonormal", "uniform"] = Field(
        default="orthonormal", description="how a LoRA's A begins: orthonormal rows, or as PEFT has it"
    )
    max_length: int = Field(default=512, ge=8, description="tokens a row; longer ones lose context on the left")
    seed: int = 0
    limit: int | None = Field(default=None, ge=1, description="training rows taken")
    validation: float | int = Field(default=0.1, ge=0)
    test: float | int = Field(default=0.1, ge=0)
    warm_start: bool = Field(
        default=False, description="the LoRA begins as the earlier one that fits the new rows best"
    )
    propose: float = Field(default=1.0, ge=0, le=1, description="share of the steps in which the backbone learns too")
    verify: bool = Field(default=True, description="move the backbone only as far as `budget` allows")
    budget: float = Field(
        default=0.005,
        ge=0,
        description="relative validation loss a domain may lose under the newest backbone, all of them on average a "
        "fifth of it; one that loses any stays pinned to the backbone it was verified on",
    )
    follow: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        default=(0.0, 0.25, 0.5, 1.0),
        min_length=1,
        description="how far an earlier domain may follow a moved backbone, tried on its validation rows: 1 all the "
        "way, to its LoRA as it was learnt on the new backbone; 0 stays with what it is served with; below 1 its LoRA "
        "is fitted to that, data-free",
    )
    widen: bool = Field(
        default=True,
        description="where a fit of an earlier LoRA's own rank cannot keep what the domain had, it may stand alone: a "
        "LoRA that holds what the backbone added as well, with as many ranks more as the backbone has directions",
    )
    absorb: bool = Field(default=True, description="the new LoRA takes over what the backbone was refused, data-free")
    tolerance: float = Field(default=0.0, ge=0, description="relative validation loss that is not called worse")
    keep_rows: bool = Field(default=True, description="keep validation and test rows; without them it stays pinned")
    checkpoint_every: int = Field(default=20, ge=1, description="steps between two checkpoints")
    loop: LoopConfig = LoopConfig()

    @model_validator(mode="before")
    @classmethod
    def _as_once_written(cls, settings: Any) -> Any:
        """Stacks of before `follow` say in two switches whether earlier LoRAs were fitted."""
        if isinstance(settings, dict) and "absorb_always" in settings:
            settings = dict(settings)
            always = settings.pop("absorb_always")
            fitted = (0.0,) if always else (0.0, 1.0)
            settings.setdefault("follow", fitted if settings.get("absorb", True) else (1.0,))
        return settings

    @field_validator("follow")
    @classmethod
    def _in_order(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(shares)))

    @property
    def adapter(self) -> AdapterConfig:
        return AdapterConfig(
            rank=self.rank, alpha=self.alpha or 2.0 * self.rank, dropout=self.dropout, reads=self.reads
        )


def derived_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each domain and purpose, from the name's bytes: the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:4], "big")
