"""The live terminal view of learning: loss, gradients of adapter and backbone apart, the bound, the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

__all__ = ["Watch"]

_BARS = "▁▂▃▄▅▆▇█"


class Watch:
    """A listener for `ContinualModel.learn(on_event=…)`; use it as a context manager.

    On a terminal one panel is redrawn; elsewhere (a log file, CI) a line is printed every `every` steps.
    """

    def __init__(self, console: Console | None = None, *, every: int = 10) -> None:
        self.console = console or Console(stderr=True)
        self.every = every
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self._began = time.monotonic()

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def __call__(self, kind: str, value: Mapping[str, Any]) -> None:
        if kind == "note":
            self.console.print(f"  {value['text']}")
        elif kind == "phase":
            self._losses, self._seconds = [], []
            self.console.print(f"[bold]{value.get('domain', '')}[/bold] {value['phase']}")
        elif kind == "step":
            self._losses.append(value["loss"])
            self._seconds.append(value["seconds"])
            if self.console.is_terminal:
                self._live.update(self._table(value))
            elif value["step"] % self.every == 0 or value["step"] == value["steps"]:
                self.console.print(self._line(value))

    def _line(self, v: Mapping[str, Any]) -> str:
        norms = " ".join(f"|g| {side} {norm:.3f}" for side, norm in v["grad_norm"].items())
        return (
            f"  step {v['step']}/{v['steps']}  loss {v['loss']:.4f}  {norms}  "
            f"{v['tokens'] / v['seconds']:.0f} tokens/s  {self._left(v)} left"
        )

    def _left(self, v: Mapping[str, Any]) -> str:
        recent = self._seconds[-10:]
        seconds = (v["steps"] - v["step"]) * sum(recent) / len(recent)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _table(self, v: Mapping[str, Any]) -> Table:
        table = Table(title=f"{v['domain']} · {v['phase']}", show_header=False, expand=False)
        table.add_row(
            "step", f"{v['step']} of {v['steps']}, epoch {v['epoch']:.2f}, {self._left(v)} left in this phase"
        )
        table.add_row("loss", f"{v['loss']:.4f}  {_spark(self._losses)}")
        table.add_row("learning rate", "  ".join(f"{k} {x:.2e}" for k, x in v["lr"].items()))
        for side, norm in v["grad_norm"].items():
            layers = v["grad_norm_layers"][side]
            ordered = [layers[k] for k in sorted(layers, key=lambda k: (not k.isdigit(), int(k) if k.isdigit() else 0))]
            table.add_row(f"gradient, {side}", f"{norm:.4f}  by layer {_spark(ordered)}")
        table.add_row("speed", f"{v['tokens'] / v['seconds']:.0f} tokens/s")
        if sites := v.get("sites"):
            table.add_row("σ₂(M) by site", _spark([s["sigma2"] for s in sites]))
            table.add_row("open, by site", _spark([abs(s["gate"]) for s in sites]))
            changes = [s["relative_change"] for s in sites]
            table.add_row("‖ΔW‖₂/‖W‖₂", f"max {max(changes):.4f}  {_spark(changes)}")
        return table


def _spark(values: list[float], width: int = 40) -> str:
    """A line of bars, the last `width` values, from the least to the greatest of them."""
    shown = values[-width:]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    span = (high - low) or 1.0
    return "".join(_BARS[int((v - low) / span * (len(_BARS) - 1))] for v in shown)
