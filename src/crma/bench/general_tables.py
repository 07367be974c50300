"""General ability in RESULTS.md: what `crma bench general` measured of a stack, beside the untouched base."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from crma.bench.receipt import validated
from crma.bench.resampling import paired_bootstrap
from crma.errors import DataError

__all__ = ["GENERAL", "General", "general_made", "general_tables", "read_general"]

COMMAND = "crma bench general"
GENERAL = "general"
_NAMES: Mapping[str, str] = {
    "hellaswag": "HellaSwag",
    "arc_challenge": "ARC-Challenge",
    "truthfulqa_mc1": "TruthfulQA, one right",
    "truthfulqa_mc2": "TruthfulQA, several right",
    "winogrande": "WinoGrande",
    "mmlu": "MMLU",
    "gsm8k": "GSM8K",
    "wikitext": "WikiText-2",
}
_METRICS: Mapping[str, str] = {
    "acc": "accuracy",
    "acc_norm": "accuracy, by length",
    "exact_match,strict-match": "exact, strict",
    "exact_match,flexible-extract": "exact, flexible",
    "word_perplexity": "perplexity a word",
}


class Versions(BaseModel):
    lm_eval: str = Field(alias="lm-eval")


class Metric(BaseModel):
    value: float


class Task(BaseModel):
    n: int
    shots: int
    metrics: dict[str, Metric]
    items: dict[str, list[float]]
    routed_to: dict[str, int] | None = None


class View(BaseModel):
    """As `crma.bench.general.evaluate_general` returns it, of which the tables read this much."""

    harness: str
    versions: Versions
    tasks: dict[str, Task]


class General(BaseModel):
    """A receipt of `crma bench general`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    domains: tuple[str, ...]
    base_model: dict[str, Any]
    stack_sha256: str
    limit: int | None
    shots: dict[str, int]
    seed: int
    base: View
    routed: View
    always: View | None = None  # the last domain's adapter; a stack without a domain has none
    made: str
    machine: dict[str, Any]


def read_general(folder: Path) -> General | None:
    """The receipt under `folder`, if there is one.

    Raises:
        DataError: a file that calls itself one and is not, or two of them.
    """
    found: General | None = None
    for file in [folder] if folder.is_file() else sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("kind") != "general":
            continue
        if found is not None:
            raise DataError(
                "two receipts are of the same",
                where=str(file),
                expected="one receipt of general ability",
                got="a second one",
                next_step="move one of them away",
            )
        found = validated(General, content, file, COMMAND)
    return found


def general_made(receipt: General) -> str:
    """What the table is of, in words."""
    told = receipt.base
    shots = {_NAMES.get(task, task): of.shots for task, of in told.tasks.items() if of.shots}
    examples = [f"{name} {number}" for name, number in shots.items()]
    if len(shots) < len(told.tasks):
        examples.append("others none" if shots else "none")
    return (
        f"`{COMMAND}` on a stack that learnt {', '.join(receipt.domains)}: {told.harness} "
        f"{told.versions.lm_eval} on local files, at most {receipt.limit or 'all'} rows a benchmark, drawn with "
        f"seed {receipt.seed}; worked examples in the prompt: {', '.join(examples)}. "
        "*Routed*: each question goes where the router sends it, and what it leaves to the base is answered by it bit "
        "for bit; *sent to a domain* counts the others. *Difference*: routed less base, in points, paired bootstrap "
        "over the rows, 95 %; of a perplexity in per cent of it. *Always on*: the adapter of the domain that was "
        "learnt last answers all."
    )


def general_tables(receipt: General | None) -> dict[str, str]:
    if receipt is None:
        return {}
    lines = [
        "| benchmark | measure | rows | base | routed | difference | sent to a domain | "
        f"{receipt.domains[-1] if receipt.domains else 'no domain'} always on |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, base in receipt.base.tasks.items():
        routed = receipt.routed.tasks[task]
        always = receipt.always.tasks[task] if receipt.always else None
        sent = base.n - (routed.routed_to or {}).get("base", 0)
        for metric, of in base.metrics.items():
            cells = (
                str(_NAMES.get(task, task)),
                str(_METRICS.get(metric, metric)),
                f"{base.n}",
                _value(metric, of.value),
                _value(metric, routed.metrics[metric].value),
                _difference(metric, base.items, routed.items),
                f"{100 * sent / base.n:.0f}%",
                _value(metric, always.metrics[metric].value) if always else "-",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return {GENERAL: "\n".join(lines)}


def _value(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric == "word_perplexity" else f"{100 * value:.1f}%"


def _difference(metric: str, base: Mapping[str, list[float]], routed: Mapping[str, list[float]]) -> str:
    if metric != "word_perplexity":
        told = paired_bootstrap([100 * (b - a) for a, b in zip(base[metric], routed[metric], strict=True)])
        return f"{told.estimate:+.1f} [{told.low:+.1f}, {told.high:+.1f}]"
    words = base["words"]
    nats = [(a - b) / w for a, b, w in zip(base["loglikelihood"], routed["loglikelihood"], words, strict=True)]
    told = paired_bootstrap(nats, words)
    per_cent = [100 * math.expm1(x) for x in (told.estimate, told.low, told.high)]
    return f"{per_cent[0]:+.2f} % [{per_cent[1]:+.2f}, {per_cent[2]:+.2f}]"
