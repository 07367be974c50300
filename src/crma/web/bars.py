"""Bars as SVG text: amounts by name, in groups, and how often lengths occur."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from crma.web.svg import escape, line, rounded, shorten, svg, text_at, text_width

__all__ = ["BAR_STYLE", "Bar", "Histogram", "amount", "bar_chart", "histogram_chart", "range_of"]

BAR_STYLE = (  # besides chart_style's
    ".b-mark{stroke:var(--ink);stroke-width:1.4;stroke-dasharray:4 3}"
    ".b-told{fill:var(--ink);stroke:var(--card);stroke-width:5;paint-order:stroke;stroke-linejoin:round}"
)

_SIZE = 13.0
_ROW, _HEAD, _THICK = 38.0, 30.0, 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    name: str
    value: float
    text: str  # the value in words, beside the name
    style: str = "c-f0"  # class of its fill
    group: str = ""  # a heading over neighbouring bars of the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How many fall into each of the ranges between `edges`; `marks` are values to point out, by name."""

    edges: tuple[float, ...]  # [n + 1] ascending
    counts: tuple[float, ...]  # [n]
    marks: tuple[tuple[str, float], ...] = ()


def amount(value: float) -> str:
    """A number as short as a label needs it: 12,345, then 12.3 M, 12.3 B, then 1.2e+15."""
    size = abs(value)
    if size < 999_950:
        return f"{value:,.0f}" if value == round(value) or size >= 100 else f"{value:.3g}"
    if size < 999.95e6:
        return f"{value / 1e6:.1f} M"
    return f"{value / 1e9:,.1f} B" if size < 1e14 else f"{value:.3g}"


def bar_chart(bars: Sequence[Bar], *, key: str, title: str, unit: str, width: float = 400) -> str:
    """Bars lying beneath their names, all to one scale from 0; each with its number."""
    groups = [(name, list(members)) for name, members in itertools.groupby(bars, key=lambda bar: bar.group)]
    height = 8 + _ROW * len(bars) + _HEAD * sum(1 for name, _ in groups if name)
    description = f"{unit}: " + ("; ".join(_said(bar) for bar in bars) or "nothing")
    if not bars:
        height = 60.0
        empty = [text_at(width / 2, height / 2, "nothing", _SIZE, "c-muted", anchor="middle")]
        return svg(empty, width, height, key=key, title=title, description=description)
    most = max(*(bar.value for bar in bars), 1e-300)
    body: list[str] = []
    y = 4.0
    for name, members in groups:
        if name:
            shown = shorten(name, width, _SIZE, bold=True)
            body.append(text_at(0, y + 18, shown, _SIZE, "c-ink", bold=True, title=name))
            y += _HEAD
        for bar in members:
            room = width - text_width(bar.text, _SIZE) - 12
            body.append(text_at(0, y + 14, shorten(bar.name, room, _SIZE), _SIZE, "c-ink", title=bar.name))
            body.append(text_at(width, y + 14, bar.text, _SIZE, "c-muted", anchor="end"))
            body.append(_lying(0, y + 20, width, "c-shade", ""))
            if bar.value > 0:
                body.append(_lying(0, y + 20, max(3.0, width * (bar.value / most)), bar.style, _said(bar)))
            y += _ROW
    return svg(body, width, height, key=key, title=title, description=description)


def histogram_chart(
    histogram: Histogram, *, key: str, title: str, unit: str, of: str = "rows", width: float = 400, height: float = 260
) -> str:
    """A bar a range, all of one width, however wide their ranges: so ranges that grow make a logarithmic axis."""
    edges, counts = histogram.edges, histogram.counts
    marks = "".join(f", {name} {amount(value)}" for name, value in histogram.marks)
    total = sum(counts)
    description = f"{amount(total)} {of} by {unit}{marks}"
    if not total:
        empty = [text_at(width / 2, height / 2, "nothing", _SIZE, "c-muted", anchor="middle")]
        return svg(empty, width, height, key=key, title=title, description=description)
    small = _SIZE - 1
    ticks = _count_ticks(max(counts))
    left = max(text_width(amount(tick), small) for tick in ticks) + 10
    top = 26.0 + 16 * len(histogram.marks)
    right, bottom = width - 4.0, height - 40.0
    each = (right - left) / len(counts)

    def y(count: float) -> float:
        return bottom - (bottom - top) * (count / ticks[-1])

    body = [text_at(0, 13, of, small, "c-muted")]
    for tick in ticks:
        body.append(line(left, y(tick), right, y(tick), "c-grid" if tick else "c-axis"))
        body.append(text_at(left - 6, y(tick) + 4, amount(tick), small, "c-muted", anchor="end"))
    for i, count in enumerate(counts):
        if count > 0:
            tip = f"{range_of(edges, i)} {unit}: {amount(count)} {of}"
            body.append(_standing(left + i * each, y(count), each, bottom, tip))
    free = -math.inf
    last = left + len(counts) * each - text_width(amount(edges[-1]), small) / 2
    for i, edge in enumerate(edges):
        label = amount(edge)
        half = text_width(label, small) / 2
        at = min(max(left + i * each, half), width - half)
        end = i == len(edges) - 1
        if at - half < free or (not end and at + half + 10 > min(last, width - 2 * half)):
            continue
        free = at + half + 10
        body.append(line(left + i * each, bottom, left + i * each, bottom + 4, "c-axis"))
        body.append(text_at(at, bottom + 17, label, small, "c-muted", anchor="middle"))
    under = shorten(unit, right - left, small)
    body.append(text_at((left + right) / 2, height - 5, under, small, "c-muted", anchor="middle", title=unit))
    # The highest on top, so that no label lies on the line of a lower one; labels to the left of their lines.
    placed = sorted(
        ((left + each * _place(edges, value), name, value) for name, value in histogram.marks), reverse=True
    )
    levels = [26.0 + 16 * rank for rank in range(len(placed))]
    body += [line(x, level - 9, x, bottom, "b-mark") for (x, _, _), level in zip(placed, levels, strict=True)]
    for (x, name, value), level in zip(placed, levels, strict=True):
        label = f"{name} {amount(value)}"
        before = x - 6 - text_width(label, small) >= 0
        body.append(
            text_at(x + (-6 if before else 6), level, label, small, "b-told", anchor="end" if before else "start")
        )
    return svg(body, width, height, key=key, title=title, description=description)


def _said(bar: Bar) -> str:
    return f"{bar.name}: {bar.text}"


def _place(edges: Sequence[float], value: float) -> float:
    """Where a value lies, counted in ranges from the left."""
    if value <= edges[0]:
        return 0.0
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        if value < high:
            return i + (value - low) / (high - low)
    return float(len(edges) - 1)


def range_of(edges: Sequence[float], i: int) -> str:
    """The range as whole numbers where its edges are: 4 up to but without 8 is 4–7. The last one holds its end too."""
    low, high = edges[i], edges[i + 1]
    if low != round(low) or high != round(high):
        return f"{amount(low)}–{amount(high)}"
    high = high if i == len(edges) - 2 else high - 1
    return amount(low) if low == high else f"{amount(low)}–{amount(high)}"


def _count_ticks(most: float) -> list[float]:
    """0 and up, to at or above `most`, in two to five whole steps."""
    power = 10.0 ** math.floor(math.log10(max(most, 1) / 4)) if most > 4 else 1.0
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= most / 5 * 0.999 and m * power >= 1)
    return [i * step for i in range(max(1, math.ceil(most / step - 1e-9)) + 1)]


def _lying(x: float, y: float, width: float, classes: str, tip: str) -> str:
    size = f'width="{rounded(width)}" height="{rounded(_THICK)}" rx="2"'
    told = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<rect class="{classes}" x="{rounded(x)}" y="{rounded(y)}" {size}>{told}</rect>'


def _standing(x: float, y: float, width: float, bottom: float, tip: str) -> str:
    gap = min(2.0, width * 0.2)
    size = f'width="{rounded(width - gap)}" height="{rounded(max(1.5, bottom - y))}"'
    place = f'x="{rounded(x + gap / 2)}" y="{rounded(min(y, bottom - 1.5))}"'
    return f'<rect class="c-f0" {place} {size}><title>{escape(tip)}</title></rect>'
