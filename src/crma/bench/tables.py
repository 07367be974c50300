"""Tables of a document, made from receipts: the text in README.md must equal what this returns (a test holds it)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["condition_table", "demo_table", "matrix_table", "read_receipts"]

_LABELS = {
    "naive": "one LoRA, trained on (naive)",
    "frozen": "a LoRA a domain, no backbone (frozen)",
    "crma": "**CRMA**",
}


def read_receipts(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def condition_table(receipts: Mapping[str, Mapping[str, Any]]) -> str:
    """Conditions in rows: trained numbers, loss just after each domain, at the end, at the end as routed, drifts."""
    lines = [
        "| method | numbers trained | test loss just after | at the end | the same, routed | drift, mean | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, receipt in receipts.items():
        s = receipt["summary"]
        routed = receipt["evaluation"]["routed"] if "evaluation" in receipt else None  # one model needs no router
        lines.append(
            f"| {_LABELS[name]} | {receipt['trained_parameters'] / 1e6:.2f} M | {s['learning_loss']:.4f} | "
            f"{s['average_loss']:.4f} | {f'{sum(routed) / len(routed):.4f}' if routed else '-'} | "
            f"{s['drift_mean_pct']:+.2f} % | {s['drift_worst_pct']:+.2f} % |"
        )
    return "\n".join(lines)


def matrix_table(receipt: Mapping[str, Any]) -> str:
    """R with the base model's row: test loss of each domain (columns) after each domain was learnt (rows)."""
    matrix = receipt["matrix"]
    lines = [f"| after | {' | '.join(matrix['domains'])} |", "|---" * (len(matrix["domains"]) + 1) + "|"]
    for name, row in [("base", matrix["base"]), *zip(matrix["domains"], matrix["rows"], strict=True)]:
        lines.append(f"| {name} | {' | '.join('' if x is None else f'{x:.4f}' for x in row)} |")
    return "\n".join(lines)


def demo_table(result: Mapping[str, Any]) -> str:
    """Exact answers to wordings that were never trained, after all domains, a method a row."""
    domains = result["domains"]
    lines = [f"| after all {len(domains)} | {' | '.join(domains)} |", "|---" * (len(domains) + 1) + "|"]
    base = next(iter(result["methods"].values()))["exact"][0]
    rows = {"untouched base": base, **{m["label"]: m["exact"][-1] for m in result["methods"].values()}}
    for label, exact in rows.items():
        lines.append(f"| {label} | {' | '.join(f'{x:.0%}' for x in exact)} |")
    return "\n".join(lines)
