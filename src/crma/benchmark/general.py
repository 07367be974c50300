"""General ability of a taught stack, as routed and with a domain always on, beside the untouched base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crma.bench.general import TASKS, evaluate_general
from crma.bench.lm_eval_model import ModelAnswerer
from crma.bench.receipt import write_receipt
from crma.continual import ContinualModel

__all__ = ["measure_general"]


def measure_general(
    model: ContinualModel,
    data: Path,
    receipt: Path,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    limit: int | Mapping[str, int] | None = None,
    shots: Mapping[str, int] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask three views the same rows, and write the receipt: base, routed, and the last domain's adapter always on.

    A row that the router leaves to the base is answered by it bit for bit, so the routed view can differ from the base
    only where a question was taken for a domain's.

    Args:
        data: the folder of benchmarks; limit, shots, seed: see `crma.bench.general.evaluate_general`.

    Returns:
        {"base": …, "routed": …, "always": …, "domains": […]}, each as `evaluate_general` returns it.
    """
    names = [d.name for d in model.stack.manifest.domains]
    answerer = ModelAnswerer(model.base.model, model.head, model.tokenizer, activate=model.serving)

    def ask(**options: Any) -> dict[str, Any]:
        return evaluate_general(answerer, data, tasks=tasks, limit=limit, shots=shots, seed=seed, **options)

    found: dict[str, Any] = {"kind": "general", "domains": names, "base_model": model.stack.manifest.base.model_dump()}
    with answerer.serving(None):
        found["base"] = ask()
    found["routed"] = ask(route=lambda texts: [r.domain for r in model.route(texts)])
    if names:
        with answerer.serving(names[-1]):
            found["always"] = ask()
    write_receipt(receipt, found)
    return found
