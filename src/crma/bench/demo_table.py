"""The demo's table: the text in README.md must equal what this returns (a test holds it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["demo_table"]


def demo_table(result: Mapping[str, Any]) -> str:
    """Exact answers to wordings that were never trained, after all domains, a method a row."""
    domains = result["domains"]
    lines = [f"| after all {len(domains)} | {' | '.join(domains)} |", "|---" * (len(domains) + 1) + "|"]
    base = next(iter(result["methods"].values()))["exact"][0]
    rows = {"untouched base": base, **{m["label"]: m["exact"][-1] for m in result["methods"].values()}}
    for label, exact in rows.items():
        lines.append(f"| {label} | {' | '.join(f'{x:.0%}' for x in exact)} |")
    return "\n".join(lines)
