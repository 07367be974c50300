"""The demo's table and its sentence: the text in README.md must equal what these return (a test holds it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crma.bench.cells import count

__all__ = ["demo_sentence", "demo_table"]


def demo_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Exact answers to wordings that were never trained, after all domains, a method a row: means over the runs."""
    domains = results[0]["domains"]
    lines = [f"| after all {len(domains)} | {' | '.join(domains)} |", "|---" * (len(domains) + 1) + "|"]
    for label, exact in _at_end(results).items():
        lines.append(f"| {label} | {' | '.join(f'{sum(of) / len(of):.0%}' for of in zip(*exact, strict=True))} |")
    return "\n".join(lines)


def demo_sentence(results: Sequence[Mapping[str, Any]]) -> str:
    """What CRMA's earlier domains have lost since each was learnt, and what each run ended with."""
    lost = earlier = 0
    drifts = []
    for result in results:
        exact, loss = result["methods"]["crma"]["exact"], result["methods"]["crma"]["loss"]
        for i in range(len(result["domains"]) - 1):
            earlier += 1
            lost += exact[-1][i] < exact[i + 1][i]
            drifts.append(loss[-1][i] - loss[i + 1][i])
    ends = [
        f"seed {r['config']['seed']} {_shares(r['methods']['crma'])} and {_shares(r['methods']['naive'])}"
        for r in results
    ]
    return (
        f"Of {count(earlier, 'earlier domain')} {lost} answered fewer at the end than just after its own lesson; their "
        f"test losses moved by {min(drifts):+.4f} to {max(drifts):+.4f} nats. CRMA and the one LoRA at the end: "
        f"{', '.join(ends)}."
    )


def _at_end(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Sequence[float]]]:
    found: dict[str, list[Sequence[float]]] = {}
    for result in results:
        found.setdefault("untouched base", []).append(next(iter(result["methods"].values()))["exact"][0])
        for method in result["methods"].values():
            found.setdefault(method["label"], []).append(method["exact"][-1])
    return found


def _shares(method: Mapping[str, Any]) -> str:
    return "/".join(f"{100 * x:.0f}" for x in method["exact"][-1]) + " %"
