"""One made-up result, as the demo makes them; no number in it was measured."""

from __future__ import annotations

from typing import Any

import pytest

DOMAINS = ("medicine", "law", "finance")


def _steps(phases: dict[str, int]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for domain in DOMAINS:
        for phase, count in phases.items():
            for k in range(count):
                lines.append(
                    {
                        "step": len(lines) + 1,
                        "domain": domain,
                        "phase": phase,
                        "loss": 3.0 - 0.1 * k,
                        "grad_adapter": 0.9 / (k + 1),
                        "grad_backbone": 0.1 / (k + 1) if phase == "propose" else None,
                        "tokens_per_s": 300.0 + k,
                    }
                )
    return lines


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "title": "CRMA demo",
        "made": "2026-11-21T10:00:00+00:00",
        "seconds": 170.2,
        "machine": {"cpu": {"cores": 2}, "torch": "2.13.0"},
        "base": "smollm2-135m",
        "domains": list(DOMAINS),
        "questions_per_domain": 24,
        "config": {"epochs": 6, "lr": 0.002},
        "methods": {
            "naive": {
                "label": "one LoRA, trained on and on",
                "exact": [[0.0, 0.0, 0.0], [0.875, 0.0, 0.0], [0.25, 0.9375, 0.0], [0.125, 0.375, 1.0]],
                "loss": [[3.1, 3.2, 3.3], [0.21, 2.9, 2.95], [1.1, 0.2, 2.8], [1.9, 1.2, 0.18]],
                "drift_pct": [804.8, 500.0, 0.0],
                "seconds": 50.1,
                "trained_parameters": 2954880,
            },
            "crma": {
                "label": "CRMA: frozen base, bounded backbone, one LoRA a domain, router",
                "exact": [[0.0, 0.0, 0.0], [0.9583, 0.0, 0.0], [0.9583, 0.9583, 0.0], [0.9583, 0.9167, 0.9583]],
                "loss": [[3.1, 3.2, 3.3], [0.19, None, None], [0.188, 0.21, None], [0.187, 0.215, 0.17]],
                "drift_pct": [-1.6, 2.4, 0.0],
                "seconds": 70.3,
                "trained_parameters": 2954881,
            },
        },
        "samples": [
            {
                "domain": domain,
                "question": f"What does the {domain} book name?",
                "expected": "oshen bark",
                "before": "water",
                "naive": "the Halden Act",
                "crma": "oshen bark",
                "route": domain,
                "correct": {"before": False, "naive": False, "crma": True},
            }
            for domain in DOMAINS
        ],
        "strangers": [
            {
                "question": "How is bread baked?",
                "route": None,
                "confidence": 0.1,
                "answer": "Mix",
                "same_as_base": True,
            },
            {"question": "A haiku?", "route": "law", "confidence": 0.93, "answer": "Act", "same_as_base": False},
        ],
        "routing": {"accuracy": 0.9861, "strangers_to_base": 0.5, "questions": 72, "strangers": 2},
        "certificate": {"holds": True, "norm_bound": 1.00000003, "worst_operator_norm": 0.8712, "sites": 60},
        "snapshots": [
            {"id": "v0001", "domain": "medicine", "share": 1.0, "distance": 0.0312},
            {"id": "v0002", "domain": "law", "share": 0.25, "distance": None},
        ],
        "steps": {"naive": _steps({"learn": 8}), "crma": _steps({"propose": 4, "commit": 4})},
        "notes": ["The backbone moved under old adapters once."],
    }
