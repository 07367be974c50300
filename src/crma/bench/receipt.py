"""A receipt: the JSON file a number is computed from, with all that is needed to get it again (PROTOCOL rule 10)."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crma.errors import DataError
from crma.stack import files
from crma.types import Matrix

__all__ = [
    "KNOWS_NO_ORDER",
    "NOWHERE",
    "Answers",
    "Measurement",
    "Receipt",
    "View",
    "machine",
    "read_receipts",
    "validated",
    "write_receipt",
]

# Conditions in which no domain touches another, or all are learnt at once: the order changes nothing but a shuffle.
KNOWS_NO_ORDER = frozenset({"base", "joint", "frozen", "frozen-small", "frozen-uniform", "reset"})
R = TypeVar("R", bound=BaseModel)
_PACKAGES = ("crma", "torch", "transformers", "peft", "accelerate", "numpy", "safetensors")

NOWHERE = "None"  # what `Receipt.routes` calls the untouched base

# Under what a domain's rows were scored. base: the untouched base. floating: what the method ends with after `after`
# domains (one adapter, or the domain's adapter under the last backbone). pinned: the domain's adapter under the
# snapshot it is verified on. routed, random, single, tfidf: what serves it when that router chooses, at the end;
# "routed" also of each domain just before it is learnt.
View = Literal["base", "floating", "pinned", "routed", "random", "single", "tfidf"]


class Measurement(BaseModel):
    """One domain's rows under one view: each row's own mean loss, in nats a supervised token, and its tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: int = Field(ge=0, description="lessons learnt before, mostly one a domain; 0 is the base")
    domain: str
    view: View
    split: Literal["test", "validation"] = "test"
    losses: tuple[float, ...]
    tokens: tuple[int, ...]

    @model_validator(mode="after")
    def _fits(self) -> Measurement:
        if len(self.losses) != len(self.tokens) or not self.losses:
            raise ValueError(f"{len(self.losses)} losses and {len(self.tokens)} token counts")
        return self

    @property
    def loss(self) -> float:
        """The mean over supervised tokens: what training minimises."""
        return sum(x * n for x, n in zip(self.losses, self.tokens, strict=True)) / sum(self.tokens)


class Answers(BaseModel):
    """Questions of one domain that were answered in text, and whether each answer matched exactly.

    Views: base; served (the domain's adapter under its snapshot); backbone-off (the same weights, the backbone
    bypassed); routed (what the router picks); tfidf (what that router picks); single (the one adapter that answers most
    of all questions right).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str
    view: Literal["base", "served", "backbone-off", "routed", "tfidf", "single"]
    correct: tuple[bool, ...]


class Receipt(BaseModel):
    """One run: one condition, one stream of domains, one seed, one order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    made: str = ""
    machine: Mapping[str, Any] = Field(default_factory=dict)
    recipe: str
    stream: str  # "far", "near-medical", …
    kind: Literal["far", "near"]
    condition: str
    seed: int
    order: tuple[str, ...]  # the domains as they were learnt
    config: Mapping[str, Any]
    base: Mapping[str, Any]
    data: Mapping[str, Mapping[str, str]]  # domain -> split -> SHA-256 of its rows
    rows: Mapping[str, Mapping[str, int]]
    # domain -> the document of each test row (a short hash): rows of one are not independent. Of before this was
    # written down: empty, or filled in later from the same rows.
    documents: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    trained_parameters: int  # that learn at a time
    stored_parameters: int  # that must be kept to serve all domains
    tokens: int  # trained on
    seconds: float
    peak_memory_mb: float | None = None
    # True where nothing that was learnt is touched again, so that R[t][i] = R[i][i] need not be measured for t > i.
    holds: bool = False
    measurements: tuple[Measurement, ...]
    answers: tuple[Answers, ...] = ()  # at the end, where the stream's questions have one right answer
    routes: Mapping[str, Mapping[str, int]] = Field(default_factory=dict)  # domain -> where its test rows went -> rows
    routes_ahead: Mapping[str, Mapping[str, int]] = Field(default_factory=dict)  # the same just before it was learnt
    # What the router is made of that "routed" was measured with; empty: of before this was written down, when it was
    # hidden states alone.
    router: Mapping[str, Any] = Field(default_factory=dict)
    shares: Mapping[str, float] = Field(default_factory=dict)  # domain -> share of its proposed backbone accepted
    # domain -> who refused which share of its proposal, and by how many per cent of its validation loss
    refusals: Mapping[str, tuple[Mapping[str, Any], ...]] = Field(default_factory=dict)
    # domain -> for each earlier one, how far it followed the backbone and the rank of its fitted LoRA
    fits: Mapping[str, Mapping[str, Mapping[str, float]]] = Field(default_factory=dict)
    spectral: tuple[Mapping[str, Any], ...] = ()  # a line each logged step: see `crma.benchmark.conditions`
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.recipe}/{self.stream}/{self.condition}, seed {self.seed}, {' '.join(self.order)}"

    def find(self, view: View, after: int, domain: str, *, split: str = "test") -> Measurement | None:
        for m in self.measurements:
            if (m.view, m.after, m.domain, m.split) == (view, after, domain, split):
                return m
        if self.holds and view == "floating" and after > (learnt := self.order.index(domain) + 1):
            return self.find(view, learnt, domain, split=split)
        return None

    def loss(self, view: View, after: int, domain: str, *, split: str = "test") -> float | None:
        found = self.find(view, after, domain, split=split)
        return None if found is None else found.loss

    def matrix(self, view: View = "floating") -> Matrix:
        """R[t][i] of the test losses under `view`, with the base model's row (0 where that was not measured)."""
        return Matrix(
            domains=self.order,
            base=tuple(self.loss("base", 0, d) or 0.0 for d in self.order),
            rows=tuple(tuple(self.loss(view, t + 1, d) for d in self.order) for t in range(len(self.order))),
        )

    def in_order(self, order: tuple[str, ...]) -> Receipt:
        """The same run told as one of another order, for a condition of KNOWS_NO_ORDER.

        What was measured after the i-th domain was measured on that domain alone, and moves with it; what was measured
        at the end stays at the end; how a domain was routed before it was learnt depends on the order and is left out.

        Raises:
            DataError: the condition depends on the order, or these are other domains.
        """
        if self.condition not in KNOWS_NO_ORDER or sorted(order) != sorted(self.order):
            raise DataError(
                "this run cannot be told in another order",
                where=self.name,
                expected=f"its own domains, and one of {', '.join(sorted(KNOWS_NO_ORDER))}",
                got=f"{self.condition}: {' '.join(order)}",
                next_step="run it in that order: `crma bench run --order`",
            )
        at_once = self.condition in ("base", "joint")
        moved = [
            m if at_once or m.view != "floating" else m.model_copy(update={"after": order.index(m.domain) + 1})
            for m in self.measurements
            if m.view != "routed" or m.after == len(self.order)
        ]
        return self.model_copy(update={"order": order, "measurements": tuple(moved), "routes_ahead": {}})

    def just_after(self) -> dict[str, float]:
        """R[i][i] a domain; for what learns all at once, its end."""
        last = len(self.order)
        found = {d: self.loss("floating", i + 1, d) for i, d in enumerate(self.order)}
        return {d: x if x is not None else self._must(d, last) for d, x in found.items()}

    def at_end(self, view: View = "floating") -> dict[str, float]:
        """R[T][i] a domain, in the order of learning."""
        return {d: self._must(d, len(self.order), view) for d in self.order}

    def _must(self, domain: str, after: int, view: View = "floating") -> float:
        loss = self.loss(view, after, domain)
        if loss is None:
            raise DataError("this receipt lacks a measurement", where=self.name, expected=f"{view} {domain} {after}")
        return loss


def machine() -> dict[str, Any]:
    """What the numbers were made on, without its name or paths."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def write_receipt(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` with the time and the machine, whole or not at all.

    Raises:
        StackWriteError: the system refused the write; TypeError, ValueError: `content` is not JSON.
    """
    full = {**content, "made": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    data = files.encode_json(full, indent=None) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes_atomic(path, data)


def read_receipts(places: Iterable[Path] | Path) -> list[Receipt]:
    """Every receipt of format 2 under the folders (or files) given, in the order of their paths.

    Raises:
        DataError: a file that calls itself one and is not.
    """
    roots: Sequence[Path] = [places] if isinstance(places, Path) else list(places)
    files = sorted({f for root in roots for f in ([root] if root.is_file() else root.rglob("*.json"))})
    found = []
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != 2:
            continue
        found.append(validated(Receipt, content, file, "crma bench run"))
    return found


def validated(model: type[R], content: Mapping[str, Any], file: Path, command: str) -> R:
    """The receipt in `content`, which `command` writes.

    Raises:
        DataError: it is none.
    """
    try:
        return model(**content)
    except ValidationError as error:
        raise DataError(
            "this receipt cannot be read",
            where=str(file),
            expected=f"what `{command}` writes",
            got=str(error.errors()[0]),
            next_step=f"make it again with `{command}`",
        ) from error
