"""General ability of a taught stack, as routed and with a domain always on, beside the untouched base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crma.bench.general import TASKS, evaluate_general
from crma.bench.lm_eval_model import ModelAnswerer
from crma.bench.receipt import write_receipt
from crma.continual import ContinualModel
from crma.errors import ConfigError

__all__ = ["measure_general"]

_PART = "general-part"  # what no report reads


def measure_general(
    model: ContinualModel,
    data: Path,
    receipt: Path,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    limit: int | None = None,
    shots: Mapping[str, int] | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Ask three views the same rows, and write the receipt: base, routed, and the last domain's adapter always on.

    A row that the router leaves to the base is answered by it bit for bit, so the routed view can differ from the base
    only where a question was taken for a domain's. What is measured of a task is kept beside the receipt until all are:
    a killed run goes on with the next task.

    Args:
        data: the folder of benchmarks; limit, shots, seed: see `crma.bench.general.evaluate_general`.

    Returns:
        {"base": …, "routed": …, "always": …, "domains": […]}, each as `evaluate_general` returns it.

    Raises:
        ConfigError: there is such a receipt already.
    """
    if receipt.exists():
        raise ConfigError(
            "this receipt is there already",
            where=str(receipt),
            expected="a place where no file is",
            got="a file",
            next_step="move it away, or choose another --receipt; no receipt is overwritten",
        )
    names = [d.name for d in model.stack.manifest.domains]
    answerer = ModelAnswerer(model.base.model, model.head, model.tokenizer, activate=model.serving)
    asked = {
        "kind": "general",
        "domains": names,
        "base_model": model.stack.manifest.base.model_dump(mode="json"),
        "stack_sha256": _content_of(model),
        "limit": limit,
        "shots": dict(shots or {}),
        "seed": seed,
    }
    part = receipt.with_suffix(".part.json")
    views = _already(part, asked)
    for number, task in enumerate(tasks, start=1):
        if any(task in of["tasks"] for of in views.values()):
            continue
        say(f"[{number}/{len(tasks)}] {task}")

        def ask(task: str = task, **options: Any) -> dict[str, Any]:
            return evaluate_general(answerer, data, tasks=(task,), limit=limit, shots=shots, seed=seed, **options)

        with answerer.serving(None):
            found = {"base": ask()}
        found["routed"] = ask(route=lambda texts: [r.domain for r in model.route(texts)])
        if names:
            with answerer.serving(names[-1]):
                found["always"] = ask()
        for view, told in found.items():
            before = views.get(view, {"tasks": {}})["tasks"]
            views[view] = told | {"tasks": before | told["tasks"]}
        write_receipt(part, {**asked, "kind": _PART, "views": views})
    whole = {**asked, **{view: told | {"tasks": {t: told["tasks"][t] for t in tasks}} for view, told in views.items()}}
    write_receipt(receipt, whole)
    part.unlink(missing_ok=True)
    return whole


def _content_of(model: ContinualModel) -> str:
    """Of all the stack's files: the same adapters, backbones and router."""
    told = {path: record.sha256 for path, record in sorted(model.stack.manifest.files.items())}
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _already(part: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier call measured of the same stack in the same way, by view."""
    if not part.is_file():
        return {}
    content = json.loads(part.read_text(encoding="utf-8"))
    return content["views"] if {key: content.get(key) for key in asked} == {**asked, "kind": _PART} else {}
