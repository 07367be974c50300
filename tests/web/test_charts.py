from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crma.errors import ConfigError
from crma.web.charts import (
    Band,
    Curve,
    Panel,
    Trace,
    forgetting_chart,
    picture,
    spread,
    steps_chart,
)
from crma.web.svg import DARK, LIGHT, percent, text_width

Box = tuple[float, float, float, float]
NAMES = st.text(alphabet="aimwMW-_ 0", min_size=1, max_size=64).filter(str.strip)
SHARES = st.none() | st.floats(0, 1)


@st.composite
def panels(draw: st.DrawFn) -> Panel:
    names = draw(st.lists(NAMES, min_size=1, max_size=12))
    curves = tuple(
        Curve(name=n, values=tuple(draw(SHARES) for _ in range(len(names) + 1)), learnt=i + 1)
        for i, n in enumerate(names)
    )
    return Panel(title=draw(NAMES), curves=curves, stages=("base", *names))


def text_boxes(svg: str) -> tuple[Box, list[tuple[str, Box]]]:
    """The viewBox, and every text with the box its estimated width takes."""
    root = ET.fromstring(svg)
    boxes = []
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        title = element.find("{http://www.w3.org/2000/svg}title")
        text = (title.tail if title is not None else element.text) or ""
        size, x, y = (float(element.attrib[k]) for k in ("font-size", "x", "y"))
        width = text_width(text, size, bold="font-weight" in element.attrib)
        left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[element.attrib["text-anchor"]]
        boxes.append((text, (left, y - 0.76 * size, left + width, y + 0.24 * size)))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    return (0.0, 0.0, width, height), boxes


def assert_readable(svg: str) -> None:
    frame, boxes = text_boxes(svg)
    assert boxes
    for text, box in boxes:
        assert box[0] >= frame[0] - 0.1, text
        assert box[1] >= frame[1] - 0.1, text
        assert box[2] <= frame[2] + 0.1, text
        assert box[3] <= frame[3] + 0.1, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart = a[2] <= b[0] + 0.1 or b[2] <= a[0] + 0.1 or a[3] <= b[1] + 0.1 or b[3] <= a[1] + 0.1
        assert apart, f"{one!r} covers {other!r}"


@settings(deadline=None, max_examples=60)
@given(panels())
@example(Panel(title="m", curves=(Curve(name="m" * 64, values=(None, 1.0), learnt=1),), stages=("base", "m" * 64)))
def test_every_label_of_a_forgetting_chart_has_its_own_room(panel: Panel) -> None:
    assert_readable(forgetting_chart(panel, key="k"))


@settings(deadline=None, max_examples=40)
@given(st.lists(panels(), max_size=2), NAMES, NAMES)
def test_every_label_of_the_picture_has_its_own_room(several: list[Panel], title: str, footer: str) -> None:
    assert_readable(picture(several, title=title, subtitle="of " * 90, footer=footer))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.none() | st.floats(0, 1e5), min_size=1, max_size=30), min_size=1, max_size=3),
    st.booleans(),
    st.integers(1, 9),
)
@example([[5e-324]], True, 1)
@example([[5e-324]], False, 1)
@example([[1e-12, 1e5]], True, 1)
def test_every_label_of_a_steps_chart_has_its_own_room(columns: list[list[float | None]], log: bool, by: int) -> None:
    count = max(map(len, columns))
    bands = [Band(name="medicine", start=s, stop=min(count, s + by)) for s in range(0, count, by)]
    traces = [Trace(name=f"trace {i}", values=tuple(c)) for i, c in enumerate(columns)]
    assert_readable(steps_chart(traces, bands, key="k", title="a title", unit="loss", log=log))


def test_a_plain_chart_shortens_no_name() -> None:
    names = ("medicine", "law", "finance")
    curves = tuple(Curve(name=n, values=(0.0, 0.9, 0.9, 0.958), learnt=1) for n in names)
    _, boxes = text_boxes(forgetting_chart(Panel(title="x", curves=curves, stages=("base", *names)), key="k"))
    assert {"medicine 95.8 %", "law 95.8 %", "finance 95.8 %", "medicine", "finance"} <= {text for text, _ in boxes}


def test_a_gap_in_the_measurements_is_a_gap_in_the_line() -> None:
    curve = Curve(name="law", values=(None, 0.5, 0.5, None, 0.5, 0.5), learnt=1)
    stages = ("base", "a", "b", "c", "d", "e")
    svg = forgetting_chart(Panel(title="x", curves=(curve,), stages=stages), key="k")
    assert svg.count('class="c-line c-l0"') == 2
    assert "law, after d: 50 %" in svg
    assert "law, after c" not in svg


def test_an_end_that_was_not_measured_says_so() -> None:
    curve = Curve(name="law", values=(0.0, 0.5, None), learnt=1)
    _, boxes = text_boxes(forgetting_chart(Panel(title="x", curves=(curve,), stages=("base", "law", "art")), key="k"))
    assert any(text.endswith(": not measured") for text, _ in boxes)


def test_a_point_stands_at_its_share() -> None:
    curve = Curve(name="law", values=(0.0, 0.25, 1.0), learnt=1)
    root = ET.fromstring(forgetting_chart(Panel(title="x", curves=(curve,), stages=("base", "law", "art")), key="k"))
    line = next(e for e in root.iter() if e.get("class") == "c-line c-l0")
    (_, y_quarter), (_, y_whole) = (tuple(map(float, p.split(","))) for p in line.attrib["points"].split())
    axis = float(next(e for e in root.iter() if e.get("class") == "c-axis").attrib["y1"])
    assert (axis - y_quarter) / (axis - y_whole) == pytest.approx(0.25, abs=1e-3)


@given(
    st.lists(st.floats(-50, 400), max_size=12),
    st.floats(1, 20),
)
def test_spread_labels_keep_their_order_gap_and_bounds(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap=gap, low=0.0, high=300.0)
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    for above, below in itertools.pairwise(order):
        assert places[below] - places[above] >= gap - 1e-6
    assert all(-1e-6 <= p <= 300 + 1e-6 for p in places)
    if all(0 <= w <= 300 for w in wanted) and all(wanted[b] - wanted[a] >= gap for a, b in itertools.pairwise(order)):
        assert places == pytest.approx(wanted)


def test_spread_moves_labels_as_little_as_it_can() -> None:
    assert spread([100.0, 100.0, 100.0, 10.0], gap=10, low=0, high=200) == pytest.approx([90, 100, 110, 10])
    assert spread([0.0, 0.0], gap=10, low=0, high=200) == pytest.approx([0, 10])


def test_labels_that_cannot_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        spread([1.0, 2.0, 3.0], gap=10, low=0, high=15)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.9583, "95.8 %"), (0.9999, "> 99.9 %"), (0.0001, "< 0.1 %"), (0.5, "50 %")],
)
def test_a_percentage_never_rounds_into_a_claim(share: float, text: str) -> None:
    assert percent(share) == text


def luminance(colour: str) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour))


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_keep_wcag_contrast(colours: Mapping[str, str]) -> None:
    worn = ["ink", "muted", "accent", "good", "bad", *(f"s{i}" for i in range(6))]
    for ground in ("page", "card", "shade"):
        for name in worn:
            high, low = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{name} on {ground}"


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
PROTAN = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
DEUTAN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("sight", [np.eye(3), PROTAN, DEUTAN], ids=["all cones", "protan", "deutan"])
def test_lines_differ_to_colour_blind_readers(colours: Mapping[str, str], sight: np.ndarray) -> None:
    seen = [lab(sight @ linear(colours[f"s{i}"])) for i in range(6)]
    for a, b in itertools.combinations(range(6), 2):
        least = 20 if max(a, b) < 4 else 12  # CIE76; 2.3 is just noticeable
        assert np.linalg.norm(seen[a] - seen[b]) >= least, f"s{a} and s{b}"
