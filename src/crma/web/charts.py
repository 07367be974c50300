"""Charts as SVG text, from numbers alone: forgetting curves, lines over training steps, the README's picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crma.errors import ConfigError
from crma.web.svg import (
    DARK,
    FONT,
    LIGHT,
    SERIES,
    chart_style,
    escape,
    line,
    percent,
    polyline,
    rect,
    rounded,
    shorten,
    svg,
    text_at,
    text_width,
)

__all__ = ["Band", "Curve", "Panel", "Trace", "forgetting_chart", "picture", "spread", "steps_chart"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One domain's share at each stage; stage 0 is the untouched base, None was not measured."""

    name: str
    values: tuple[float | None, ...]
    learnt: int  # the stage at which it was taught


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    title: str
    curves: tuple[Curve, ...]
    stages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """A quantity at each training step, None where it has none."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Steps `start` to `stop` (exclusive, from 0) that belong together."""

    name: str
    start: int
    stop: int
    shaded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Area:
    left: float
    top: float
    right: float
    bottom: float


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places for labels: at least `gap` apart, within [low, high], in order, and as near `wanted` as that allows.

    Least squares: with z_i = y_i − i·gap over the sorted places the gap is z_i ≤ z_{i+1}, an isotonic regression
    (pool adjacent violators), and clamping its solution to the bounds keeps it the best one.

    Raises:
        ConfigError: that many labels do not fit.
    """
    room = high - low - gap * (len(wanted) - 1)
    if room < -1e-9:
        raise ConfigError("labels do not fit", expected=f"{gap * (len(wanted) - 1)} or more", got=high - low)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    pools: list[tuple[float, int]] = []  # (mean, size)
    for rank, i in enumerate(order):
        mean, size = wanted[i] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    places = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        places[i] = min(max(flat[rank], low), low + max(room, 0.0)) + rank * gap
    return places


def forgetting_chart(panel: Panel, *, key: str, width: float = 400) -> str:
    """One method's curves: x is what was learnt last, y the share answered exactly, a line a domain."""
    height = max(300.0, 92.0 + _LABEL_GAP * 1.25 * len(panel.curves))
    said = "; ".join(_said(c, panel.stages) for c in panel.curves) or "nothing was measured"
    body = _curves(panel, _Area(left=0, top=6, right=width, bottom=height), size=13.0)
    return svg(body, width, height, key=key, title=f"Exact answers, {panel.title}", description=said)


def steps_chart(
    traces: Sequence[Trace],
    bands: Sequence[Band] = (),
    *,
    key: str,
    title: str,
    unit: str,
    log: bool = False,
    width: float = 400,
    height: float = 300,
) -> str:
    """Lines over training steps, on a logarithmic axis where `log` says so; a point at 0 is then left out."""
    size = 13.0
    kept = [Trace(name=t.name, values=tuple(_drawable(v, log) for v in t.values)) for t in traces]
    numbers = [v for t in kept for v in t.values if v is not None]
    count = max((len(t.values) for t in kept), default=0)
    measured = ", ".join(f"{t.name} {_range(t)}" for t in kept) or "nothing"
    description = f"{unit} over {count} training steps: {measured}"
    if not numbers:
        body = [text_at(width / 2, height / 2, "not measured", size, "c-muted", anchor="middle")]
        return svg(body, width, height, key=key, title=title, description=description)
    ticks = _log_ticks(min(numbers), max(numbers)) if log else _ticks(0.0, max(numbers))
    label_room = 20.0 + min(max(text_width(t.name, size, bold=True) for t in kept), width * 0.4)
    if len(kept) == 1:  # the title names it
        label_room = 12.0
    tick_room = max(text_width(f"{t:g}", size - 1) for t in ticks)
    area = _Area(left=tick_room + 14, top=44, right=width - label_room, bottom=height - 40)
    scale = math.log10 if log else float
    low, high = scale(ticks[0]), scale(ticks[-1])

    def x(step: float) -> float:
        return area.left + (area.right - area.left) * (step / max(1, count - 1))

    def y(value: float) -> float:
        return area.bottom - (area.bottom - area.top) * (scale(value) - low) / (high - low)

    body = [text_at(0, 14, unit, size - 1, "c-muted")]
    for band in bands:
        left, right = x(max(0.0, band.start - 0.5)), x(min(count - 1.0, band.stop - 0.5))
        if band.shaded:
            body.append(rect(left, area.top, max(0.0, right - left), area.bottom - area.top, "c-shade", band.name))
        elif band.name:
            body.append(line(left, area.top - 12, left, area.bottom, "c-axis"))
            name = shorten(band.name, right - left - 6, size - 1)
            body.append(text_at(left + 4, area.top - 4, name, size - 1, "c-muted", title=band.name))
    for tick in ticks:
        body.append(line(area.left, y(tick), area.right, y(tick), "c-grid"))
        body.append(text_at(area.left - 6, y(tick) + 4, f"{tick:g}", size - 1, "c-muted", anchor="end"))
    body.append(line(area.left, area.bottom, area.right, area.bottom, "c-axis"))
    for step in sorted({0, (count - 1) // 2, count - 1}):
        anchor = "middle" if 0 < step < count - 1 or count == 1 else "end" if step else "start"
        body.append(text_at(x(step), area.bottom + 16, f"{step + 1}", size - 1, "c-muted", anchor=anchor))
    middle = (area.left + area.right) / 2
    body.append(text_at(middle, area.bottom + 33, "training step", size - 1, "c-muted", anchor="middle"))
    ends: list[tuple[int, float, float]] = []
    for i, trace in enumerate(kept):
        points = [(x(step), y(value)) for step, value in enumerate(trace.values) if value is not None]
        runs = _runs([None if v is None else (x(s), y(v)) for s, v in enumerate(trace.values)])
        body.extend(polyline(_thin(run), f"c-thin c-l{i % SERIES}") for run in runs)
        body.extend(_mark(i, *run[0], 2.5, "c-mark c-f", trace.name) for run in runs if len(run) == 1)
        if points and len(kept) > 1:
            ends.append((i, *points[-1]))
    places = spread([e[2] for e in ends], gap=_LABEL_GAP, low=area.top + 4, high=area.bottom - 4)
    for (i, end_x, end_y), place in zip(ends, places, strict=True):
        label_x = area.right + 12
        name = shorten(kept[i].name, width - label_x - 2, size, bold=True)
        body.append(line(end_x, end_y, label_x - 3, place, f"c-lead c-l{i % SERIES}"))
        body.append(text_at(label_x, place + 4.5, name, size, f"c-f{i % SERIES}", bold=True, title=kept[i].name))
    return svg(body, width, height, key=key, title=title, description=description)


def picture(panels: Sequence[Panel], *, title: str, subtitle: str, footer: str) -> str:
    """A file of its own, 900 wide and about 420 high, with its own ground in light and in dark."""
    width, top = 900.0, 92.0
    most = max((len(p.curves) for p in panels), default=0)
    height = max(420.0, top + 150.0 + _LABEL_GAP * 1.25 * most)
    rules = chart_style(LIGHT) + f"@media (prefers-color-scheme:dark){{{chart_style(DARK)}}}"
    body = [
        f"<style>text{{font-family:{FONT}}}{rules}</style>",
        f'<rect class="c-card" x="0.5" y="0.5" width="{rounded(width - 1)}" height="{rounded(height - 1)}" rx="14"/>',
        text_at(28, 42, shorten(title, width - 56, 22, bold=True), 22, "c-ink", bold=True, title=title),
        text_at(28, 68, shorten(subtitle, width - 56, 15), 15, "c-muted", title=subtitle),
        text_at(28, height - 20, shorten(footer, width - 56, 13), 13, "c-muted", title=footer),
    ]
    if not panels:
        body.append(text_at(width / 2, height / 2, "not measured", 16, "c-muted", anchor="middle"))
    each = (width - 40 - 16) / max(1, len(panels))
    for i, panel in enumerate(panels):
        left = 28 + i * each
        area = _Area(left=left, top=top, right=left + each - 18, bottom=height - 46)
        body.append(text_at(left, top + 14, shorten(panel.title, each - 20, 15, bold=True), 15, "c-ink", bold=True))
        body.extend(_curves(panel, _Area(left=left, top=top + 26, right=area.right, bottom=area.bottom), size=13.5))
    said = ". ".join(f"{p.title}: " + "; ".join(_said(c, p.stages) for c in p.curves) for p in panels)
    return svg(body, width, height, key="picture", title=title, description=said or "not measured", alone=True)


_LABEL_GAP = 17.0


def _curves(panel: Panel, area: _Area, *, size: float) -> list[str]:
    stages, curves = panel.stages, panel.curves
    measured = [c for c in curves if any(v is not None for v in c.values)]
    if not measured or len(stages) < 1:
        middle_x, middle_y = (area.left + area.right) / 2, (area.top + area.bottom) / 2
        return [text_at(middle_x, middle_y, "not measured", size, "c-muted", anchor="middle")]
    tick = size - 1
    labels = [f" {percent(v)}" if (v := c.values[-1]) is not None else ": not measured" for c in curves]
    widest = max(text_width(c.name + label, size, bold=True) for c, label in zip(curves, labels, strict=True))
    room = min(widest, (area.right - area.left) * 0.45)
    plot = _Area(
        left=area.left + text_width("100 %", tick) + 8,
        top=area.top + 8,
        right=area.right - room - 18,
        bottom=area.bottom - 42,
    )
    step = (plot.right - plot.left) / max(1, len(stages) - 1)
    staggered = any(text_width(s, tick) > step - 6 for s in stages)
    if staggered:
        plot = replace(plot, bottom=plot.bottom - 15)

    def x(stage: int) -> float:
        return plot.left + stage * step

    def y(share: float) -> float:
        return plot.bottom - (plot.bottom - plot.top) * min(max(share, 0.0), 1.0)

    body: list[str] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(line(plot.left, y(share), plot.right, y(share), "c-grid" if share else "c-axis"))
        body.append(text_at(plot.left - 8, y(share) + 4, percent(share), tick, "c-muted", anchor="end"))
    allowed = (2 * step if staggered else step) - 6
    for stage, name in enumerate(stages):
        shown = shorten(name, min(allowed, 2 * (area.right - x(stage)), 2 * (x(stage) - area.left)), tick)
        below = plot.bottom + 18 + (15 if staggered and stage % 2 else 0)
        body.append(line(x(stage), plot.bottom, x(stage), plot.bottom + 4, "c-axis"))
        body.append(text_at(x(stage), below, shown, tick, "c-muted", anchor="middle", title=name))
    middle = (plot.left + plot.right) / 2
    body.append(text_at(middle, area.bottom - 4, "domain learnt last", tick - 1, "c-muted", anchor="middle"))
    ends: list[tuple[float, float] | None] = []
    for i, curve in enumerate(curves):
        points = [None if v is None else (x(s), y(v)) for s, v in enumerate(curve.values)]
        before = [p if s <= curve.learnt else None for s, p in enumerate(points)]
        since = [p if s >= curve.learnt else None for s, p in enumerate(points)]
        body.extend(polyline(run, f"c-before c-l{i % SERIES}") for run in _runs(before) if len(run) > 1)
        body.extend(polyline(run, f"c-line c-l{i % SERIES}") for run in _runs(since) if len(run) > 1)
        ends.append(next((p for p in reversed(points) if p is not None), None))
    for i, curve in enumerate(curves):
        for stage, value in enumerate(curve.values):
            if value is None:
                continue
            tip = f"{curve.name}, {_when(stage, stages)}: {percent(value)}"
            if stage < curve.learnt:
                body.append(_mark(i, x(stage), y(value), 2.6, "c-hollow c-l", tip))
            else:
                body.append(_mark(i, x(stage), y(value), 5.0, "c-mark c-f", tip))
    wanted = [end[1] if end is not None else plot.bottom for end in ends]
    places = spread(wanted, gap=_LABEL_GAP, low=plot.top, high=plot.bottom)
    for i, (curve, label, end, place) in enumerate(zip(curves, labels, ends, places, strict=True)):
        label_x = plot.right + 18
        if end is not None:
            body.append(line(end[0] + 6, end[1], label_x - 4, place, f"c-lead c-l{i % SERIES}"))
        name = shorten(curve.name, area.right - label_x - text_width(label, size, bold=True), size, bold=True)
        whole = curve.name + label
        body.append(text_at(label_x, place + 4.5, name + label, size, f"c-f{i % SERIES}", bold=True, title=whole))
    return body


def _when(stage: int, stages: Sequence[str]) -> str:
    return "before any lesson" if stage == 0 else f"after {stages[stage]}"


def _said(curve: Curve, stages: Sequence[str]) -> str:
    parts = [
        f"{_when(s, stages)} {'not measured' if v is None else percent(v)}"
        for s, v in enumerate(curve.values)
        if s >= curve.learnt
    ]
    return f"{curve.name}: " + (", ".join(parts) or "not measured")


def _range(trace: Trace) -> str:
    values = [v for v in trace.values if v is not None]
    return f"from {min(values):.3g} to {max(values):.3g}" if values else "not measured"


# Less than this is drawn as 0: no loss or gradient norm means anything there, and no decade of ticks would hold it.
_LEAST = 1e-12


def _drawable(value: float | None, log: bool) -> float | None:
    if value is None or not math.isfinite(value) or value < 0 or (log and value < _LEAST):
        return None
    return value if value >= _LEAST else 0.0


def _ticks(low: float, high: float) -> list[float]:
    """From `low` to at or above `high` in four to six round steps."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= span / 5 * 0.999)
    return [low + i * step for i in range(math.ceil(span / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade, around [low, high]; only powers of ten (or fewer) once that would be many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    ticks = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
    below = [t for t in ticks if t <= low * (1 + 1e-9)]
    above = [t for t in ticks if t >= high * (1 - 1e-9)]
    inner = [t for t in ticks if below[-1] <= t <= above[0]]
    if len(inner) < 2:
        inner = [inner[0], next(t for t in ticks if t > inner[0])]
    if len(inner) <= 8:
        return inner
    stride = math.ceil((last - first) / 7)
    stop = first + stride * math.ceil((last - first) / stride)
    return [10.0**e for e in range(first, stop + 1, stride)]


def _runs(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """The unbroken stretches: a gap in the measurements is a gap in the line."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is not None:
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [r for r in runs if r]


def _thin(points: Sequence[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    """At most about `most` points: each bucket's lowest and highest, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    bucket = math.ceil(2 * len(points) / most)
    kept: list[tuple[float, float]] = [points[0]]
    for start in range(0, len(points), bucket):
        part = points[start : start + bucket]
        kept.extend(sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}))
    return [*kept, points[-1]]


def _mark(index: int, x: float, y: float, r: float, classes: str, tip: str) -> str:
    """A disc, square, triangle or diamond, by index: a second sign beside the colour."""
    shapes = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.25), (1.15, 0.8), (-1.15, 0.8)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }
    title, classes = f"<title>{escape(tip)}</title>", f"{classes}{index % SERIES}"
    if (corners := shapes.get(index % 4)) is None:
        return f'<circle class="{classes}" cx="{rounded(x)}" cy="{rounded(y)}" r="{rounded(r)}">{title}</circle>'
    points = " ".join(f"{rounded(x + r * dx)},{rounded(y + r * dy)}" for dx, dy in corners)
    return f'<polygon class="{classes}" points="{points}">{title}</polygon>'
