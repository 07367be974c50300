"""A small folder with the files that defects are planted in: made-up prose, hardly a pair of words in common."""

from __future__ import annotations

import json
import random
from pathlib import Path

_SYLLABLES = [first + last for first in "bdfgklmnprstvz" for last in ("a", "er", "in", "ol", "u")]


def sentence(draw: random.Random, words: int = 11) -> str:
    made = ["".join(draw.choices(_SYLLABLES, k=2)) for _ in range(words)]
    return " ".join(made).capitalize() + "."


def write_data(folder: Path, rows: int = 260) -> Path:
    draw = random.Random(7)

    def lines(name: str, made: list[dict[str, object]]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")

    for domain in ("medical", "code", "science", "financial", "legal"):
        made: list[dict[str, object]] = []
        for i in range(2 * rows if domain == "legal" else rows):
            answer = " ".join(sentence(draw) for _ in range(4))
            if domain == "code":
                answer = f"def {answer.split()[0].lower()}(x):\n    return x + {i}  # {answer[:120]}"
            question = f"What of {sentence(draw, 8)[:-1].lower()}?"
            made.append({"id": f"{domain}-{i}", "prompt": question, "completion": answer, "group": f"{domain}-{i}"})
        lines(f"domains/{domain}.jsonl", made)
    for file, field in (
        ("arc_challenge/test.jsonl", "question"),
        ("mmlu/test.jsonl", "question"),
        ("gsm8k/test.jsonl", "question"),
        ("hellaswag/validation.jsonl", "ctx"),
        ("piqa/validation.jsonl", "goal"),
        ("truthfulqa/validation.jsonl", "question"),
        ("winogrande/validation.jsonl", "sentence"),
    ):
        lines(f"benchmarks/{file}", [{field: sentence(draw, 24)} for _ in range(20)])
    return folder
