"""Receipts with toy numbers, for the tests of what is computed from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from crma.bench.receipt import Measurement, Receipt, View

__all__ = ["toy_receipt", "toy_suite"]

TOKENS = (1, 3)


def toy_receipt(
    condition: str,
    rows: Sequence[Sequence[float | None]] = (),
    *,
    views: Mapping[View, Sequence[float]] | None = None,
    order: Sequence[str] = ("law", "code"),
    stream: str = "far",
    recipe: str = "small",
    seed: int = 0,
    spread: float = 0.25,
    data: str = "data",
    **more: Any,
) -> Receipt:
    """A receipt whose floating test losses are `rows` [t][i] and whose other views, at the end, are `views`.

    Each domain has two test rows of 1 and 3 tokens that lose x + 3·spread and x − spread: over tokens exactly x.
    """

    def measurement(after: int, domain: str, view: View, x: float) -> Measurement:
        return Measurement(after=after, domain=domain, view=view, losses=(x + 3 * spread, x - spread), tokens=TOKENS)

    measurements = [
        measurement(t + 1, d, "floating", x)
        for t, row in enumerate(rows)
        for d, x in zip(order, row, strict=True)
        if x is not None
    ]
    for view, losses in (views or {}).items():
        after = 0 if view == "base" else len(order)
        measurements += [measurement(after, d, view, x) for d, x in zip(order, losses, strict=True)]
    splits = ("train", "validation", "test")
    return Receipt(
        **{
            "recipe": recipe,
            "stream": stream,
            "kind": "far" if stream == "far" else "near",
            "condition": condition,
            "seed": seed,
            "order": tuple(order),
            "config": {},
            "base": {"name": "toy", "weights_sha256": "0" * 64},
            "data": {d: {s: hashlib.sha256(f"{data}/{d}/{s}".encode()).hexdigest() for s in splits} for d in order},
            "rows": {d: dict.fromkeys(splits, 2) for d in order},
            "trained_parameters": 1_000_000,
            "stored_parameters": 2_000_000,
            "tokens": 1000,
            "seconds": 60.0,
            "measurements": tuple(measurements),
            **more,
        }
    )


def toy_suite(**more: Any) -> list[Receipt]:
    """Two domains under every method of the headline, in numbers that can be worked by hand.

    L: frozen 2.0; crma 1.8 under its last backbone, 1.9 pinned; joint 1.6; naive 2.75 at the end, 2.0 just after.
    """
    return [
        toy_receipt("frozen", [[1.0, None], [None, 3.0]], holds=True, views={"routed": [1.0, 3.0]}, **more),
        toy_receipt(
            "crma",
            [[1.0, None], [0.9, 2.7]],
            views={"base": [4.0, 6.0], "pinned": [1.0, 2.8], "routed": [1.0, 2.8]},
            routes={"law": {"law": 3, "code": 1}, "code": {"code": 4}},
            shares={"law": 1.0, "code": 0.25},
            spectral=(
                {"domain": "law", "step": 1, "gap": 1e-8, "worst_operator_norm": 0.9, "gate": 0.1, "sigma2": 0.5},
                {"domain": "code", "step": 2, "gap": 3e-8, "worst_operator_norm": 1.0, "gate": 0.2, "sigma2": 0.4},
            ),
            **more,
        ),
        toy_receipt("naive", [[1.0, None], [2.5, 3.0]], **more),
        toy_receipt("joint", [[None, None], [1.2, 2.0]], **more),
    ]
