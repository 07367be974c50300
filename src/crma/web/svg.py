"""SVG as text: its colours, its texts and shapes, and how much room a text takes.

Drawing refers to colours by class; `chart_style` gives the rules, with CSS variables (in a page) or plain colours (in
a file of its own). Lengths are in the units of the viewBox. Every text carries its own font-size, so that a test can
tell how much room it takes.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping, Sequence

__all__ = [
    "DARK",
    "FONT",
    "LIGHT",
    "SERIES",
    "chart_style",
    "escape",
    "line",
    "percent",
    "polyline",
    "rect",
    "rounded",
    "shorten",
    "svg",
    "text_at",
    "text_width",
]

SERIES = 6  # colours before they repeat; line ends are labelled and markers differ, so colour is never alone

# Every colour that bears text or a line keeps 4.5 : 1 on `page` and on `card` (WCAG 2.2, 1.4.3); a test computes it.
LIGHT: Mapping[str, str] = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#171b22",
    "muted": "#525a66",
    "rule": "#8a93a0",
    "grid": "#e3e6eb",
    "shade": "#eceff4",
    "accent": "#0b5cad",
    "good": "#0a6b48",
    "bad": "#a83208",
    "s0": "#0b5cad",
    "s1": "#b04a00",
    "s2": "#0a7a63",
    "s3": "#8b102f",
    "s4": "#5c4203",
    "s5": "#4f5974",
}
DARK: Mapping[str, str] = {
    "page": "#0f1217",
    "card": "#171b22",
    "ink": "#eef1f5",
    "muted": "#a9b2bf",
    "rule": "#6d7786",
    "grid": "#2a303a",
    "shade": "#212730",
    "accent": "#74b5ff",
    "good": "#5fd3a3",
    "bad": "#ff9d76",
    "s0": "#74b5ff",
    "s1": "#ffa65c",
    "s2": "#4fd6b8",
    "s3": "#eb53c1",
    "s4": "#f7b81e",
    "s5": "#91949c",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_XMLNS = "http://www.w3.org/2000/svg"
# Widths in em, read from DejaVu Sans; its bold is 1.11 times as wide on the average letter, 1.21 at most.
_WIDTHS = (
    (0.30, "iIjl'"),
    (0.37, " .,:;-|/\\f"),
    (0.42, "rt()[]!"),
    (0.59, "cszkvxyLFPJ?*_`"),
    (0.65, "abdeghnopqu0123456789ES${}"),
    (0.83, "w"),
    (1.02, "mMW%@#<>=+^~…→·"),
)
# What XML 1.0 (production 2) refuses, the two noncharacters included; lone surrogates cannot be written as UTF-8.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def escape(value: object) -> str:
    """`value` as text that HTML and XML can hold anywhere, quoted attributes included."""
    return html.escape(_UNWRITABLE.sub("\ufffd", str(value)), quote=True)


def percent(share: float) -> str:
    """0.9583 → "95.8 %". Never "100 %" or "0 %" by rounding: those words are a claim."""
    value = 100 * share
    if 99.95 <= value < 100:
        return "> 99.9 %"
    if 0 < value < 0.05:
        return "< 0.1 %"
    return f"{value:.1f}".removesuffix(".0") + " %"


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """No less than the text is wide in the usual sans-serif fonts (DejaVu Sans is the widest of them)."""
    ems = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            ems += 1.05
        else:
            ems += next((width for width, members in _WIDTHS if character in members), 0.80)
    return ems * size * (1.13 if bold else 1.0)


def chart_style(colours: Mapping[str, str] | None = None) -> str:
    """The rules every chart needs: with `colours` as they are, or, without, with CSS variables of the same names."""

    def of(name: str) -> str:
        return colours[name] if colours is not None else f"var(--{name})"

    rules = [
        f".c-ink{{fill:{of('ink')}}}.c-muted{{fill:{of('muted')}}}.c-shade{{fill:{of('shade')}}}",
        f".c-card{{fill:{of('card')};stroke:{of('grid')}}}",
        f".c-grid{{stroke:{of('grid')};stroke-width:1}}.c-axis{{stroke:{of('rule')};stroke-width:1}}",
        ".c-line{fill:none;stroke-width:3;stroke-linecap:round;stroke-linejoin:round}",
        ".c-thin{fill:none;stroke-width:1.6;stroke-linejoin:round}",
        ".c-before{fill:none;stroke-width:1.4;stroke-dasharray:1 4;stroke-linecap:round;opacity:.8}",
        ".c-lead{fill:none;stroke-width:1;stroke-dasharray:1 3}",
        f".c-mark{{stroke-width:2;stroke:{of('card')}}}.c-hollow{{stroke-width:1.6;fill:{of('card')}}}",
    ]
    for i in range(SERIES):
        rules.append(f".c-l{i}{{stroke:{of(f's{i}')}}}.c-f{i}{{fill:{of(f's{i}')}}}")
    return "".join(rules)


def shorten(text: str, room: float, size: float, *, bold: bool = False) -> str:
    if text_width(text, size, bold=bold) <= room:
        return text
    while text and text_width(text + "…", size, bold=bold) > room:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def rounded(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def text_at(
    x: float,
    y: float,
    text: str,
    size: float,
    classes: str,
    *,
    anchor: str = "start",
    bold: bool = False,
    title: str | None = None,
) -> str:
    if not text:
        return ""
    weight = ' font-weight="600"' if bold else ""
    tip = f"<title>{escape(title)}</title>" if title is not None and title != text else ""
    place = f'x="{rounded(x)}" y="{rounded(y)}" font-size="{rounded(size)}" text-anchor="{anchor}"'
    return f'<text class="{classes}" {place}{weight}>{tip}{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    return f'<line class="{classes}" x1="{rounded(x1)}" y1="{rounded(y1)}" x2="{rounded(x2)}" y2="{rounded(y2)}"/>'


def rect(x: float, y: float, width: float, height: float, classes: str, title: str) -> str:
    size = f'width="{rounded(width)}" height="{rounded(height)}"'
    return f'<rect class="{classes}" x="{rounded(x)}" y="{rounded(y)}" {size}><title>{escape(title)}</title></rect>'


def polyline(points: Sequence[tuple[float, float]], classes: str) -> str:
    return f'<polyline class="{classes}" points="{" ".join(f"{rounded(x)},{rounded(y)}" for x, y in points)}"/>'


def svg(
    body: Sequence[str], width: float, height: float, *, key: str, title: str, description: str, alone: bool = False
) -> str:
    size = f' width="{rounded(width)}" height="{rounded(height)}"' if alone else ""
    return (
        f'<svg xmlns="{_XMLNS}" viewBox="0 0 {rounded(width)} {rounded(height)}"{size} role="img" '
        f'aria-labelledby="{key}-t {key}-d"><title id="{key}-t">{escape(title)}</title>'
        f'<desc id="{key}-d">{escape(description)}</desc>{"".join(body)}</svg>'
    )
