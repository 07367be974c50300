"""The resumable state of learning one domain: what a killed run needs to go on as if it had not been killed.

It lives in the stack's scratch folder, `work/<domain>/`, and goes when the domain is committed:
`session.json` (the fingerprint of data and settings, and each decision once made), one safetensors a phase with the
last checkpoint, `metrics.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crma.stack import files
from crma.train.loop import Checkpoint

__all__ = ["Session", "session_data"]

_STATE = "session.json"
_METRICS = "metrics.jsonl"
_STEP = "step"


def session_data(folder: Path) -> str | None:
    """The data whose unfinished learning a folder holds, by their hash; None where there is none."""
    state = folder / _STATE
    known = files.parse_json(state, files.read_bytes(state)) if state.is_file() else {}
    return known.get("fingerprint", {}).get("data")


class Session:
    """Opened with the fingerprint of what is to be learnt; another fingerprint starts anew."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], *, writes: bool = True) -> None:
        """`writes`: False on all processes but the main one, which read what that one wrote."""
        self.folder, self._writes = folder, writes
        state = folder / _STATE
        known = files.parse_json(state, files.read_bytes(state)) if state.is_file() else {}
        self.resumed = known.get("fingerprint") == json.loads(json.dumps(fingerprint))
        self.discarded = bool(known) and not self.resumed
        self._facts: dict[str, Any] = known.get("facts", {}) if self.resumed else {}
        self._fingerprint = dict(fingerprint)
        if not self.resumed and writes:
            for stale in folder.iterdir():
                stale.unlink()
            self._save()

    def get(self, fact: str) -> Any:
        """What was remembered, or None."""
        return self._facts.get(fact)

    def remember(self, **facts: Any) -> None:
        """Keep decisions and measurements, durably, so that a resumed run neither repeats nor changes them."""
        self._facts.update(json.loads(json.dumps(facts)))
        self._save()

    def _save(self) -> None:
        if self._writes:
            files.write_json(self.folder / _STATE, {"fingerprint": self._fingerprint, "facts": self._facts})

    def save(self, phase: str, checkpoint: Checkpoint) -> None:
        if self._writes:
            updates = checkpoint.step if checkpoint.updates is None else checkpoint.updates
            tensors = {**checkpoint.tensors, _STEP: np.array([checkpoint.step, updates])}
            files.write_tensors(self.folder / f"{phase}.safetensors", tensors)

    def load(self, phase: str) -> Checkpoint | None:
        path = self.folder / f"{phase}.safetensors"
        if not path.is_file():
            return None
        tensors = files.parse_tensors(path, files.read_bytes(path))
        step, updates = tensors.pop(_STEP).tolist()
        return Checkpoint(step=step, tensors=tensors, updates=updates)

    def log(self, line: Mapping[str, Any]) -> None:
        if self._writes:
            path = self.folder / _METRICS
            try:
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")
            except OSError as error:
                raise files.write_refused(path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The lines so far; a line that a kill cut short is left out."""
        path = self.folder / _METRICS
        lines = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def rewind_metrics(self, phase: str, step: int) -> None:
        """Drop the lines of `phase` after `step`: those steps run again."""
        if self._writes:
            kept = [m for m in self.metrics() if m.get("phase") != phase or m.get("step", 0) <= step]
            data = "".join(json.dumps(m) + "\n" for m in kept).encode()
            files.write_bytes_atomic(self.folder / _METRICS, data)
