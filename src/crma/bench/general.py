"""General ability, before and after: lm-evaluation-harness on local files, with no network.

Prompts, choices, filters and scores are those of the task definitions that come with the harness; only the rows come
from `data`. So a number differs from a published one by what the rows are (a seeded sample), by GSM8K's examples (five
held-out rows of its test file: no train split is here) and by HellaSwag's context (see `_hellaswag`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crma.bench.lm_eval_model import QUERY, Answerer, Routing, harness_model
from crma.errors import ConfigError, DataError

__all__ = ["TASKS", "evaluate_general"]

_Row = dict[str, Any]
_ROW = "crma_row"  # the column that holds a row's position in its file, from 0
_PACKAGES = ("lm-eval", "datasets", "torch", "transformers")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    file: str  # under the folder of benchmarks
    definition: str  # under the harness's own folder of tasks; {part} is the row's part
    query: Callable[[_Row], str]  # what a person would ask: all a router sees
    metrics: tuple[str, ...]  # "metric" or "metric,filter", as the harness names them
    part: str | None = None  # the column that cuts a task into the harness's own smaller tasks
    shots: int = 0
    examples: str | None = None  # the file of worked examples; "held-out": rows of `file` itself, never scored
    prepare: Callable[[_Row], _Row] = dict


def _hellaswag(row: _Row) -> _Row:
    """The two halves the harness joins (it capitalises the second). The file has them joined as they were.

    ActivityNet's rows break off in a sentence, WikiHow's do not: 3,241 of the file's 10,042 rows break off.
    """
    text = row["ctx"].strip()
    broken = None if re.search(r"[.!?\"')\]]$", text) else re.search(r"^(.*[.!?\"')\]]) ([^.!?]+)$", text, re.DOTALL)
    first, second = broken.groups() if broken else (text, "")
    return {**row, "ctx_a": first, "ctx_b": second}


TASKS: Mapping[str, _Task] = {
    "hellaswag": _Task(
        file="hellaswag/validation.jsonl",
        definition="hellaswag/hellaswag.yaml",
        query=lambda row: f"{row['activity_label']}: {row['ctx']}",
        metrics=("acc", "acc_norm"),
        prepare=_hellaswag,
    ),
    "arc_challenge": _Task(
        file="arc_challenge/test.jsonl",
        definition="arc/arc_challenge.yaml",
        query=lambda row: row["question"],
        metrics=("acc", "acc_norm"),
    ),
    # mc2's choices hold mc1's: an answerer that remembers pays once for both.
    "truthfulqa_mc2": _Task(
        file="truthfulqa/validation.jsonl",
        definition="truthfulqa/truthfulqa_mc2.yaml",
        query=lambda row: row["question"],
        metrics=("acc",),
    ),
    "truthfulqa_mc1": _Task(
        file="truthfulqa/validation.jsonl",
        definition="truthfulqa/truthfulqa_mc1.yaml",
        query=lambda row: row["question"],
        metrics=("acc",),
    ),
    "winogrande": _Task(
        file="winogrande/validation.jsonl",
        definition="winogrande/default.yaml",
        query=lambda row: row["sentence"],
        metrics=("acc",),
    ),
    "mmlu": _Task(
        file="mmlu/test.jsonl",
        definition="mmlu/default/mmlu_{part}.yaml",
        query=lambda row: row["question"],
        metrics=("acc",),
        part="subject",
        shots=5,
        examples="mmlu/dev.jsonl",
    ),
    "gsm8k": _Task(
        file="gsm8k/test.jsonl",
        definition="gsm8k/gsm8k.yaml",
        query=lambda row: row["question"],
        metrics=("exact_match,strict-match", "exact_match,flexible-extract"),
        shots=5,
        examples="held-out",
    ),
    "wikitext": _Task(
        file="wikitext2_raw/test_articles.jsonl",
        definition="wikitext/wikitext.yaml",
        query=lambda row: row["page"],
        metrics=("word_perplexity",),
    ),
}


def evaluate_general(
    answerer: Answerer,
    data: Path,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    limit: int | Mapping[str, int] | None = None,
    shots: Mapping[str, int] | None = None,
    seed: int = 0,
    route: Routing | None = None,
) -> dict[str, Any]:
    """Ask `answerer` each task's rows; JSON-ready numbers, with what is needed to compare two runs row by row.

    The base alone: `with answerer.serving(None): evaluate_general(answerer, data)`. One domain always on:
    `serving("law")`. Routed: `route=lambda texts: [r.domain for r in model.route(texts)]`, outside any `serving`.

    Args:
        data: the folder that holds hellaswag/, arc_challenge/, …
        limit: rows a task (articles, of wikitext), or rows of each task named; None and tasks not named: all. The rows
            of a smaller limit are among those of a larger one.
        shots: worked examples in the prompt, where not MMLU 5, GSM8K 5, others 0.
        seed: of the rows that are drawn.
        route: see `harness_model`; a router is shown the bare question, without examples and instructions.

    Returns:
        settings, versions and, a task, `n`, `available`, `rows` (positions in the file, from 0), `rows_sha256` (of
        their JSON list), `file_sha256`, `shots`, `version` (the harness's, of the task), `seconds`, `routes` (where
        each row went, None for the base; absent without `route`), `metrics` and `items`.
        metrics: name -> `value`, `stderr` (None for one row), `higher_is_better`. Means: sd / √n with n − 1 in the sd.
        word_perplexity W = exp(−Σ ll_i / Σ w_i): the ratio's stderr by linearisation (Cochran 1977, eq. 6.13) times W.
        items: name -> a value a row, in the order of `rows`; wikitext's are `loglikelihood` (nats) and `words`.

    Raises:
        ConfigError: an unknown task, or lm-eval is not installed.
        DataError: a task's file is missing.
    """
    _check(data, tasks)
    measured = {}
    for name in tasks:
        count = limit.get(name) if isinstance(limit, Mapping) else limit
        given = (shots or {}).get(name, TASKS[name].shots)
        measured[name] = _evaluate(answerer, data, name, limit=count, shots=given, seed=seed, route=route)
    return {
        "harness": "lm-evaluation-harness",
        "seed": seed,
        "routed": route is not None,
        "max_length": getattr(answerer, "max_length", None),
        "tasks": measured,
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
    }


def _check(data: Path, tasks: Sequence[str]) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "general ability is measured with lm-eval", next_step="from CRMA's folder: pip install -e '.[bench]'"
        )
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        raise ConfigError("unknown tasks", expected=", ".join(TASKS), got=", ".join(unknown))
    files = {TASKS[name].file for name in tasks} | {e for name in tasks if (e := TASKS[name].examples)} - {"held-out"}
    missing = sorted(file for file in files if not (data / file).is_file())
    if missing:
        raise DataError(
            "benchmark files are missing",
            where=str(data),
            expected="a folder of benchmarks as JSON lines",
            got=f"no {', '.join(missing)}",
            next_step="name the folder, or leave these tasks out",
        )


def _evaluate(
    answerer: Answerer, data: Path, name: str, *, limit: int | None, shots: int, seed: int, route: Routing | None
) -> dict[str, Any]:
    task = TASKS[name]
    rows = _read(data / task.file)
    examples, pool = _examples(task, data, rows, shots)
    chosen = _drawn(pool, limit, f"{seed}:{task.file}")
    with _quiet():
        from lm_eval.evaluator import evaluate  # pyright: ignore[reportMissingImports]

        parts = _parts(name, task, [rows[i] for i in chosen], examples, shots)
        model = harness_model(answerer, route=route)
        began = time.perf_counter()
        told = evaluate(model, {"tasks": parts}, bootstrap_iters=0)
        seconds = time.perf_counter() - began
    logged = (told or {}).get("samples", {})
    samples = [sample for part in parts for sample in logged[part]]
    items, metrics = {}, {}
    for metric in task.metrics:
        key, _, filtered = metric.partition(",")
        values = {s["doc"][_ROW]: s[key] for s in samples if s["filter"] == (filtered or "none")}
        found, summary = (
            _perplexity(metric, values, chosen) if key == "word_perplexity" else _mean(metric, values, chosen)
        )
        items |= found
        metrics[metric] = summary
    result = {
        "n": len(chosen),
        "available": len(pool),
        "rows": chosen,
        "rows_sha256": hashlib.sha256(json.dumps(chosen).encode()).hexdigest(),
        "file_sha256": hashlib.sha256((data / task.file).read_bytes()).hexdigest(),
        "shots": shots,
        "version": next(iter(parts.values())).VERSION,
        "seconds": seconds,
        "metrics": metrics,
        "items": items,
    }
    if route is not None:
        went = [model.routes[task.query(rows[i])] for i in chosen]
        result |= {"routes": went, "routed_to": dict(Counter("base" if d is None else d for d in went))}
    return result


def _read(file: Path) -> list[_Row]:
    lines = file.read_text(encoding="utf-8").split("\n")  # a text may hold the other line ends
    return [json.loads(line) | {_ROW: position} for position, line in enumerate(filter(str.strip, lines))]


def _examples(task: _Task, data: Path, rows: Sequence[_Row], shots: int) -> tuple[list[_Row], list[int]]:
    """(the worked examples to take the first of, the rows that may be scored)."""
    everything = list(range(len(rows)))
    if task.examples is None or not shots:
        return [], everything
    if task.examples != "held-out":
        return [task.prepare(row) for row in _read(data / task.examples)], everything
    held = _drawn(everything, shots, f"examples:{task.file}")  # of no seed: the prompt is the same in every run
    return [task.prepare(rows[i]) for i in held], [i for i in everything if i not in held]


def _drawn(pool: Sequence[int], limit: int | None, seed: str) -> list[int]:
    """`limit` of the pool, in the file's order; those of a smaller limit are among them."""
    order = list(pool)
    random.Random(seed).shuffle(order)
    return sorted(order[:limit])


def _parts(name: str, task: _Task, rows: Sequence[_Row], examples: Sequence[_Row], shots: int) -> dict[str, Any]:
    """The harness's tasks over these rows: one, or one for each part that has rows."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row[task.part] if task.part else "", []).append(row)
    parts = {}
    for part, own in groups.items():
        label = f"{name}_{part}" if part else name
        shown = [e for e in examples if not task.part or e[task.part] == part]
        parts[label] = _harness_task(label, task, own, shown, shots=shots, part=part)
    return parts


def _harness_task(
    label: str, task: _Task, rows: Sequence[_Row], examples: Sequence[_Row], *, shots: int, part: str
) -> Any:
    import lm_eval.tasks  # pyright: ignore[reportMissingImports]
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from lm_eval.api.task import ConfigurableTask  # pyright: ignore[reportMissingImports]

    # No public call reads a definition without loading the data set it names.
    from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

    class QuietTask(ConfigurableTask):
        def build_all_requests(self, **options: Any) -> None:
            with redirect_stderr(io.StringIO()):  # a progress bar that nothing else turns off
                super().build_all_requests(**options)

    home = Path(next(iter(lm_eval.tasks.__path__)))
    config = load_yaml(home / task.definition.format(part=part))
    with redirect_stderr(io.StringIO()):
        docs = Dataset.from_list([task.prepare(row) | {QUERY: task.query(row)} for row in rows])
        if process := config.pop("process_docs", None):
            docs = process(docs)
    config |= {
        "task": label,
        "custom_dataset": lambda **_metadata: {"test": docs},
        "training_split": None,
        "validation_split": None,
        "fewshot_split": None,
        "test_split": "test",
        "num_fewshot": shots,
        # The stock sampler draws anew for each row, from a generator that nothing seeds here.
        "fewshot_config": {"sampler": "first_n", "samples": list(examples)},
    }
    return QuietTask(config=config)


def _mean(metric: str, values: Mapping[int, float], rows: Sequence[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    own = [float(values[row]) for row in rows]
    n = len(own)
    mean = math.fsum(own) / n
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in own) / (n - 1)) if n > 1 else None
    stderr = None if spread is None else spread / math.sqrt(n)
    return {metric: own}, {"value": mean, "stderr": stderr, "higher_is_better": True}


def _perplexity(
    metric: str, values: Mapping[int, tuple[float, int]], rows: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    scores, words = [values[row][0] for row in rows], [values[row][1] for row in rows]
    n, total = len(rows), sum(words)
    nats = -math.fsum(scores) / total
    residuals = math.fsum((-score - nats * w) ** 2 for score, w in zip(scores, words, strict=True))
    stderr = math.exp(nats) * math.sqrt(residuals * n / (n - 1)) / total if n > 1 else None
    return (
        {"loglikelihood": scores, "words": words},
        {"value": math.exp(nats), "stderr": stderr, "higher_is_better": False},
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness warns of everything done on purpose here: local data, fixed examples, prompts without a template."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
