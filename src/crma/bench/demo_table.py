"""The demo's table and its sentence: the text in README.md must equal what these return (a test holds it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["demo_sentence", "demo_table"]


def demo_table(result: Mapping[str, Any]) -> str:
    """Exact answers to wordings that were never trained, after all domains, a method a row."""
    domains = result["domains"]
    lines = [f"| after all {len(domains)} | {' | '.join(domains)} |", "|---" * (len(domains) + 1) + "|"]
    base = next(iter(result["methods"].values()))["exact"][0]
    rows = {"untouched base": base, **{m["label"]: m["exact"][-1] for m in result["methods"].values()}}
    for label, exact in rows.items():
        lines.append(f"| {label} | {' | '.join(f'{x:.0%}' for x in exact)} |")
    return "\n".join(lines)


def demo_sentence(result: Mapping[str, Any]) -> str:
    """What CRMA's earlier domains have lost since each was learnt, in answers and in test loss (nats a token)."""
    earlier = result["domains"][:-1]
    exact, loss = result["methods"]["crma"]["exact"], result["methods"]["crma"]["loss"]
    fewer = [name for i, name in enumerate(earlier) if exact[-1][i] < exact[i + 1][i]]
    moved = [f"{name} {loss[i + 1][i]:.4f} → {loss[-1][i]:.4f}" for i, name in enumerate(earlier)]
    answers = f"{' and '.join(fewer)} answered fewer" if fewer else "no domain answered fewer"
    return f"Since its own lesson {answers}; test loss in nats: {', '.join(moved)}."
