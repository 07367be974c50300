"""What a run of the benchmark has measured so far, kept in its folder so that nothing is measured twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from crma.bench.receipt import Answers, Measurement, View
from crma.data.render import Rendered
from crma.stack import files
from crma.types import Score

__all__ = ["Notebook"]


class Notebook:
    """Opened on a run's folder; every change is written at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "measured.json"
        known = files.parse_json(self.path, files.read_bytes(self.path)) if self.path.is_file() else {}
        self.measurements = [Measurement(**m) for m in known.get("measurements", ())]
        self.answers = [Answers(**a) for a in known.get("answers", ())]
        self.tokens: dict[str, int] = known.get("tokens", {})  # lesson -> trained on
        # domain -> where its test rows went before it was learnt -> rows
        self.routes_ahead: dict[str, dict[str, int]] = known.get("routes_ahead", {})

    def has(self, after: int, view: View) -> bool:
        return any((m.after, m.view, m.split) == (after, view, "test") for m in self.measurements)

    def find(self, after: int, view: View, domain: str) -> Measurement | None:
        wanted = (after, view, domain, "test")
        return next((m for m in self.measurements if (m.after, m.view, m.domain, m.split) == wanted), None)

    def take(
        self,
        after: int,
        view: View,
        scores: Mapping[str, Score],
        rows: Mapping[str, Sequence[Rendered]],
        *,
        split: Literal["test", "validation"] = "test",
    ) -> None:
        def known(m: Measurement) -> bool:  # by a run that was killed before it came to the rest
            return (m.after, m.view, m.split, m.domain in scores) == (after, view, split, True)

        self.measurements = [m for m in self.measurements if not known(m)]
        for domain, score in scores.items():
            tokens = tuple(sum(r.supervised[1:]) for r in rows[domain])
            losses = tuple(round(x, 6) for x in score.losses)
            self.measurements.append(
                Measurement(after=after, domain=domain, view=view, split=split, losses=losses, tokens=tokens)
            )
        self.save()

    def save(self) -> None:
        made = {"measurements": self.measurements, "answers": self.answers}
        content = {name: [value.model_dump() for value in values] for name, values in made.items()}
        files.write_json(self.path, {**content, "tokens": self.tokens, "routes_ahead": self.routes_ahead})
