"""One made-up report of a data check, as `Report.to_json()` gives them; no number in it was measured."""

from __future__ import annotations

import random
from typing import Any

from crma.data.quality.findings import CHECKS, Finding, Report

TRAIN, TEST = "train.jsonl", "test.jsonl"


def _finding(
    check: str, lines: list[int], *examples: tuple[int, str, str], file: str = TRAIN, note: str = ""
) -> Finding:
    lines = sorted({*lines, *(at for at, _, _ in examples)})
    return Finding(
        check=check,
        severity=CHECKS[check].severity,
        count=len(lines),
        lines=tuple(lines),
        file=file,
        note=note,
        examples=tuple({"line": at, "text": text, **({"note": why} if why else {})} for at, text, why in examples),
    )


def quality_report() -> dict[str, Any]:
    """Nine findings of eight checks in 482 rows."""
    draw = random.Random(0)

    def some(count: int) -> list[int]:
        return sorted(draw.sample(range(1, 421), count))

    findings = (
        _finding("schema", [77, 301], (77, "no known fields: 'titel', 'texte'", ""), note="fields 1, JSON 1"),
        _finding("secret", [17, 203], (17, "…set OPENAI_API_KEY=[secret] before you call the service…", "API key")),
        _finding(
            "leak_split",
            [12, 40, 41, 118, 250],
            (
                12,
                "What does Article 12 of the Halden Act require? ⏎ A written notice of 30 days.",
                "the same row: line 3",
            ),
            (40, "Which court hears the appeal?", "all but the same row: line 9 of test.jsonl"),
        ),
        _finding("pii_email", some(9), (31, "…please write to [e-mail address] and ask for a form…", "")),
        _finding("pii_email", [4], (4, "…or to [e-mail address]…", ""), file=TEST),
        _finding(
            "near_duplicate",
            some(63),
            (88, "How long is the notice under the Halden Act?", "nearly the same as line 12"),
            (91, "ما هي مدة الإشعار بموجب القانون؟", "nearly the same as line 90"),
        ),
        _finding("encoding", some(21), (44, "Le cafÃ© est fermÃ© le dimanche.", "")),
        _finding("language", some(12), (120, "Wie lange dauert die Frist?", "surely 'de'")),
        _finding(
            "hard", some(6), (9, "The Ostrava treaty.", "3.10 nats a token after its question, 2.94 after another's")
        ),
    )
    edges = [0, 1, 2, 3, 4, 6, 8, 11, 15, 21, 28, 38, 52, 71, 97, 132, 180, 246, 335, 457]
    report = Report(
        files=(
            {"name": TRAIN, "bytes": 318_442, "rows": 418, "faulty": 2, "role": "train"},
            {"name": TEST, "bytes": 47_100, "rows": 62, "faulty": 0, "role": "held-out"},
        ),
        rows=480,
        findings=findings,
        facts={
            "lengths": {
                "unit": "tokens",
                "prompt": {
                    "edges": edges[:-4],
                    "counts": [0, 0, 0, 1, 6, 14, 49, 96, 121, 94, 61, 25, 9, 3, 1],
                    "median": 17.0,
                    "p95": 44.0,
                    "max": 118,
                },
                "answer": {
                    "edges": edges,
                    "counts": [0, 0, 2, 3, 8, 11, 24, 39, 58, 77, 90, 71, 48, 26, 12, 6, 3, 1, 1],
                    "median": 29.5,
                    "p95": 101.0,
                    "max": 402,
                },
            },
            "languages": {"en": 431, "de": 12, "fr": 21, "ar": 9, "xx": 2},
            "tokens": {"total": 31_204, "supervised": 17_950, "cut": 0, "max_length": 512, "base": "smollm2-135m"},
            "training": {
                "seconds": 1390.0,
                "steps": 156,
                "epochs": 3.0,
                "batch_size": 8,
                "rows": 418,
                "tokens_per_second": 67.3,
                "peak_bytes": 1_932_735_283,
                "measured_rows": 32,
                "device": "cpu",
            },
            "duplicates": {"exact": 0, "near": 63, "clusters": 19, "threshold": 0.8},
            "overlap": {"law": 0.34375, "finance": 0.03125},
            "scores": {"rows": 128, "loss": {"median": 2.31, "p95": 3.9}, "gain": {"median": 0.61, "p5": -0.02}},
        },
        skipped={"leak_benchmark": "no folder of benchmarks", "leak_stack": "no stack, or it keeps no rows"},
        seconds=3.42,
    )
    return report.to_json()
