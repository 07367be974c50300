"""How numbers are written in the tables of RESULTS.md, and the tables themselves."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NONE", "bounded", "called", "count", "markdown_table", "nats", "percent", "plain", "size"]

NONE = "-"  # what was not measured


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "No receipt has it."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bounded(mean: float | None, bounds: Sequence[float] | None) -> str:
    """A percentage with its interval, where it has one."""
    if mean is None or bounds is None:
        return percent(mean)
    return f"{mean:+z.2f} % [{bounds[0]:+z.2f}, {bounds[1]:+z.2f}]"


def percent(x: float | None) -> str:
    return plain(x, "+z.2f", " %")


def nats(x: float | None) -> str:
    return plain(x, ".4f")


def size(n: float) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n:,.0f}"


def plain(x: float | None, form: str, unit: str = "") -> str:
    return NONE if x is None else f"{x:{form}}{unit}"


def count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def called(key: str) -> str:
    """A stream by its "recipe/stream", as a title has it."""
    recipe, stream = key.split("/", 1)
    return f"{stream} ({recipe})"
