"""What the data check comes to: receipts of planted defects, of a large file, and of training on what was cleaned.

Words used here. A row is *planted* with a check's defect; it is *found* where the check tells it. A row that the check
tells and that was not planted with its defect is *false*; where it was made to tempt the check it is a *tempted* decoy
instead. Precision counts both against the check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from crma.bench.receipt import validated
from crma.bench.resampling import Bootstrap, paired_bootstrap
from crma.errors import DataError

__all__ = [
    "MECHANICAL",
    "Blind",
    "BlindRound",
    "Cleaning",
    "Count",
    "ModelCase",
    "OfModel",
    "Planted",
    "PlantedSeed",
    "Quality",
    "Scale",
    "Training",
    "TrainingRun",
    "pooled",
    "quality_numbers",
    "read_quality",
    "relative_difference",
]

COMMAND = "crma bench quality"
# Checks of which a rule says what is right; the others are a matter of degree. (Near duplicates: from 0.8 on.)
MECHANICAL = (
    "schema",
    "empty_answer",
    "secret",
    "pii_card",
    "pii_iban",
    "pii_national_number",
    "pii_email",
    "pii_phone",
    "leak_split",
    "leak_stack",
    "leak_benchmark",
    "duplicate",
    "near_duplicate",
    "contradiction",
    "encoding",
    "control",
    "markup",
    "formula",
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Count(_Model):
    """Of one check and seed, in rows."""

    planted: int = 0
    found: int = 0
    false: int = 0
    decoys: int = 0  # rows that tempt it
    tempted: int = 0  # of these, told

    def __add__(self, other: Count) -> Count:
        return Count(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})

    @property
    def told(self) -> int:
        return self.found + self.false + self.tempted

    @property
    def precision(self) -> float | None:
        return self.found / self.told if self.told else None

    @property
    def recall(self) -> float | None:
        return self.found / self.planted if self.planted else None


class Cleaning(_Model):
    """What `clean` did with its defaults, whether `undo` gave all bytes back, and what a second check says."""

    rows: int
    kept: int
    edited: int
    dropped: int
    by_check: Mapping[str, int]
    restored: bool
    left: Mapping[str, int]  # check -> rows of the cleaned file that it tells


class PlantedSeed(_Model):
    seed: int
    rows: int  # lines of the file
    data: Mapping[str, str]  # file -> SHA-256
    seconds: float  # of the check
    checks: Mapping[str, Count]
    kinds: Mapping[str, tuple[int, int]]  # of what was planted, or tempts: rows, and how many were told by its check
    edits: tuple[tuple[str, float, bool], ...]  # copies that were edited: how, similarity to the original, told
    false: Mapping[str, Mapping[str, int]] = Field(default_factory=dict)  # check -> what was planted instead -> rows
    cleaning: Cleaning


class _Receipt(_Model):
    made: str = ""
    machine: Mapping[str, Any] = Field(default_factory=dict)
    command: str
    packages: Mapping[str, str]  # what the checks rest on, and their versions


class Planted(_Receipt):
    kind: Literal["quality-planted"] = "quality-planted"
    base: str  # whose tokenizer counted
    each: int  # rows of a kind of defect
    seeds: tuple[PlantedSeed, ...]


class Scale(_Receipt):
    """A large file through the check, in a process of its own, without weights and without benchmarks."""

    kind: Literal["quality-scale"] = "quality-scale"
    seed: int
    rows: int
    bytes: int
    data: Mapping[str, str]
    planted: Mapping[str, int]  # check -> rows
    told: Mapping[str, int]
    seconds: float  # of the check alone
    cpu_seconds: float  # of it, on all cores together: on a machine that does other things, the better number
    whole_seconds: float  # of the process, with its start
    peak_mb: float | None

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds


Version = Literal["base", "clean", "dirty", "cleaned", "cleaned-steps"]


class TrainingRun(_Model):
    """One LoRA, learnt from one version of the rows: the mean loss of each clean test row, in nats a token."""

    version: Version  # base: nothing was learnt; cleaned-steps: so many epochs that the steps are as many as dirty's
    seed: int
    rows: int  # to train on
    tokens: int  # trained on
    data: str  # SHA-256 of the rows
    seconds: float
    losses: tuple[float, ...]
    tokens_of_rows: tuple[int, ...]
    documents: tuple[int, ...]  # of each test row, numbered

    @model_validator(mode="after")
    def _fits(self) -> TrainingRun:
        if not self.losses or len({len(self.losses), len(self.tokens_of_rows), len(self.documents)}) != 1:
            raise ValueError("losses, tokens and documents of other numbers of rows")
        return self

    @property
    def loss(self) -> float:
        return float(np.average(self.losses, weights=self.tokens_of_rows))


class Training(_Receipt):
    kind: Literal["quality-training"] = "quality-training"
    base: Mapping[str, Any]
    domain: str
    config: Mapping[str, Any]
    test: Mapping[int, str]  # seed -> SHA-256 of the test rows
    shares: Mapping[str, float]  # of the dirty rows, by kind of defect
    cleaned: Mapping[int, Mapping[str, int]]  # seed -> check -> rows that `clean` edited or left out for it
    runs: tuple[TrainingRun, ...]

    def run(self, version: Version, seed: int) -> TrainingRun | None:
        return next((r for r in self.runs if (r.version, r.seed) == (version, seed)), None)

    def seeds(self, *versions: Version) -> list[int]:
        """Seeds that have all of these."""
        return sorted({r.seed for r in self.runs if all(self.run(v, r.seed) for v in versions)})


class BlindRound(_Model):
    """Once through rows that others wrote. `blind`: no rule was mended by these rows before."""

    made: str
    blind: bool
    files: tuple[str, ...]  # of the receipt's
    checks: Mapping[str, Count]
    missed: Mapping[str, tuple[str, ...]]  # check -> what these rows are
    tempted: Mapping[str, tuple[str, ...]]
    false: Mapping[str, tuple[str, ...]]


class Blind(_Receipt):
    """Rows by hand, by authors who knew the names of the checks and not their rules."""

    kind: Literal["quality-blind"] = "quality-blind"
    base: str
    data: Mapping[str, str]  # file of rows -> SHA-256
    rows: int
    rounds: tuple[BlindRound, ...] = Field(min_length=1)


class ModelCase(_Model):
    """Of one check, seed and file. `case`: a domain, or for `overlap` the share of rows of a domain already learnt."""

    seed: int
    check: str
    case: str
    rows: int
    count: Count
    auroc: float | None = None  # of what the check goes by, its rows against clean ones
    auroc_loss: float | None = None  # of the loss alone, for comparison


class OfModel(_Receipt):
    """The checks that ask a model, on rows made for them."""

    kind: Literal["quality-model"] = "quality-model"
    base: Mapping[str, Any]
    cases: tuple[ModelCase, ...] = Field(min_length=1)


class Quality(_Model):
    """The receipts that are there, one of a kind."""

    planted: Planted | None = None
    blind: Blind | None = None
    model: OfModel | None = None
    scale: Scale | None = None
    training: Training | None = None

    def __len__(self) -> int:
        return sum(part is not None for part in (self.planted, self.blind, self.model, self.scale, self.training))


def read_quality(folder: Path) -> Quality:
    """The receipts of the data check under `folder`.

    Raises:
        DataError: a file that calls itself one and is not, or two of a kind.
    """
    kinds: dict[str, type[Planted | Blind | OfModel | Scale | Training]] = {
        "quality-planted": Planted,
        "quality-blind": Blind,
        "quality-model": OfModel,
        "quality-scale": Scale,
        "quality-training": Training,
    }
    found: dict[str, Any] = {}
    for file in [folder] if folder.is_file() else sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind not in kinds:
            continue
        name = kind.removeprefix("quality-")
        if name in found:
            raise DataError("two receipts are of the same", where=file, got=kind, next_step="move one of them away")
        found[name] = validated(kinds[kind], content, file, COMMAND)
    return Quality(**found)


def pooled(receipt: Planted, checks: Iterable[str] | None = None) -> dict[str, Count]:
    """Counts by check, over the seeds, of checks that were planted or tempted."""
    names = dict.fromkeys(name for seed in receipt.seeds for name in seed.checks)
    total = {name: sum((s.checks[name] for s in receipt.seeds if name in s.checks), Count()) for name in names}
    return {name: total[name] for name in (checks or total) if name in total}


def relative_difference(training: Training, of: Version, to: Version) -> Bootstrap | None:
    """100 (L_of − L_to) / L_to in %, over the seeds that have both, with a paired bootstrap over test documents.

    A document's rows are one item: its losses weighted by tokens. Rows of two seeds are other rows of other splits, a
    stratum each; seeds are averaged over tokens and not drawn again.
    """
    differences: list[float] = []
    weights: list[float] = []
    strata: list[int] = []
    base = total = 0.0
    for seed in training.seeds(of, to):
        one, other = training.run(of, seed), training.run(to, seed)
        assert one is not None
        assert other is not None
        if (one.tokens_of_rows, one.documents) != (other.tokens_of_rows, other.documents):
            raise DataError("runs of one seed were tested on other rows", where=f"seed {seed}: {of} and {to}")
        tokens, places = np.array(one.tokens_of_rows, float), np.array(one.documents)
        apart = (np.array(one.losses) - np.array(other.losses)) * tokens
        for document in np.unique(places):
            rows = places == document
            weights.append(float(tokens[rows].sum()))
            differences.append(float(apart[rows].sum() / tokens[rows].sum()))
            strata.append(seed)
        base += other.loss * float(tokens.sum())
        total += float(tokens.sum())
    if not total:
        return None
    # The denominator is what was measured, and is not drawn again: it varies by a thousandth of itself.
    scale = 100.0 * total / base
    return paired_bootstrap([scale * x for x in differences], weights, strata)


def quality_numbers(quality: Quality) -> dict[str, Any]:
    """For the headline; None where a receipt is missing.

    precision, recall: over all rows of the checks in MECHANICAL together; `mechanical_below`: those of them that are
    below 0.95 in one of the two
    blind: the same of the blind test's first round, of the checks in MECHANICAL and (`precision_others`,
    `recall_others`) of the others; `later`: precision and recall of later blind rounds, of rows that came after
    the rules were mended
    rows_per_second, peak_gb: of the large file
    dirty_loss_pct, cleaned_loss_pct: 100 (L − L_clean) / L_clean of the clean test rows, `interval` 95 %
    """
    checks = pooled(quality.planted, MECHANICAL) if quality.planted else {}
    every = sum(checks.values(), Count())
    scale, training = quality.scale, quality.training

    def against(version: Version) -> dict[str, Any] | None:
        found = relative_difference(training, version, "clean") if training else None
        return None if found is None else {"mean": found.estimate, "interval": [found.low, found.high]}

    return {
        "precision": every.precision,
        "recall": every.recall,
        "mechanical_below": below(checks),
        "blind": _blind_numbers(quality.blind),
        "rows": scale.rows if scale else None,
        "rows_per_second": scale.rows_per_second if scale else None,
        "peak_gb": scale.peak_mb / 1024 if scale and scale.peak_mb else None,
        "dirty_loss_pct": against("dirty"),
        "cleaned_loss_pct": against("cleaned"),
    }


def _blind_numbers(blind: Blind | None) -> dict[str, Any] | None:
    if blind is None:
        return None
    checks = blind.rounds[0].checks
    ours = {name: count for name, count in checks.items() if name in MECHANICAL}
    every = sum(ours.values(), Count())
    others = sum((count for name, count in checks.items() if name not in MECHANICAL), Count())
    later = sum((count for round in blind.rounds[1:] if round.blind for count in round.checks.values()), Count())
    return {
        "rows": blind.rows,
        "precision": every.precision,
        "recall": every.recall,
        "mechanical_below": below(ours),
        "precision_others": others.precision,
        "recall_others": others.recall,
        "later": {"precision": later.precision, "recall": later.recall},
    }


def below(checks: Mapping[str, Count], goal: float = 0.95) -> list[str]:
    def short(values: Sequence[float | None]) -> bool:
        return any(value is not None and value < goal for value in values)

    return [name for name, count in checks.items() if short((count.precision, count.recall))]
