"""Figures show the receipts' numbers, are the same bytes each time and leave matplotlib as they found it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_receipts import toy_receipt, toy_suite

from crma.bench.figures import (
    advantage_figure,
    draw_figures,
    figure_plans,
    forgetting_figure,
    matrix_figure,
    save_figure,
    snapshots_figure,
    spectral_figure,
    spectral_steps,
)
from crma.bench.headline import group_runs

matplotlib = pytest.importorskip("matplotlib")
agg = pytest.importorskip("matplotlib.backends.backend_agg")


def _xs(line) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def _ys(line) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def _texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_same_receipts_give_the_same_bytes_without_a_date(tmp_path: Path):
    first = {p.name: p.read_bytes() for p in draw_figures(toy_suite(), tmp_path / "one")}
    again = {p.name: p.read_bytes() for p in draw_figures(toy_suite(), tmp_path / "two")}
    assert first == again
    assert len(first) == 5
    for content in first.values():
        assert b"<dc:date>" not in content
        assert content.startswith(b"<?xml")


def test_drawing_leaves_the_global_settings_alone(tmp_path: Path):
    with matplotlib.rc_context({"font.size": 31, "svg.hashsalt": "mine", "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        ours = [p.read_bytes() for p in draw_figures(toy_suite()[2:], tmp_path / "one")]
        assert dict(matplotlib.rcParams) == before
    # Nor does somebody's matplotlibrc reach the figures.
    assert ours == [p.read_bytes() for p in draw_figures(toy_suite()[2:], tmp_path / "two")]


def test_only_what_the_receipts_are_enough_for_is_planned():
    assert [p.file for p in figure_plans([])] == []
    frozen, crma, naive, _ = toy_suite()
    assert [p.file for p in figure_plans([frozen])] == []
    assert [p.file for p in figure_plans([naive])] == ["small-far-forgetting.svg", "small-far-matrix.svg"]
    assert [p.file for p in figure_plans([frozen, crma])] == [
        f"small-far-{name}.svg" for name in ("forgetting", "matrix", "advantage", "snapshots", "spectrum")
    ]


def test_forgetting_is_drift_since_just_after():
    naive, crma = forgetting_figure(group_runs(toy_suite())).axes
    assert [_ys(line) for line in naive.lines[:1]] == [[0.0, pytest.approx(150.0)]]
    assert _ys(crma.lines[0]) == [0.0, pytest.approx(-10.0)]
    assert "%" in naive.get_ylabel()


def test_seeds_are_averaged_and_their_range_is_a_band():
    other = toy_receipt("naive", [[1.0, None], [1.5, 3.0]], seed=1)
    naive = toy_suite()[2]
    axes = forgetting_figure(group_runs([naive, other])).axes[0]
    assert _ys(axes.lines[0]) == [0.0, pytest.approx(100.0)]
    assert len(axes.collections) == 1


def test_the_matrix_writes_every_loss_and_leaves_holes():
    naive, crma = matrix_figure(group_runs(toy_suite())).axes[:2]
    # The base's row is crma's receipt's; it is the same rows, so it stands in both.
    assert _texts(naive) == ["4.000", "6.000", "1.000", "", "2.500", "3.000"]
    assert _texts(crma) == ["4.000", "6.000", "1.000", "", "0.900", "2.700"]


def test_every_adapter_stands_under_every_later_snapshot():
    axes = snapshots_figure(group_runs(toy_suite())).axes[0]
    assert _texts(axes) == ["0", "-10.00"]
    several = [*toy_suite(), toy_receipt("crma", [[1.0, None], [1.2, 2.7]], seed=1)]
    assert _texts(snapshots_figure(group_runs(several)).axes[0]) == ["0", "+5.00\n[+20.00]"]


def test_advantage_has_a_row_a_domain_and_one_for_all():
    axes = advantage_figure(group_runs(toy_suite())).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["law", "code", "all domains"]
    points = [_xs(line)[0] for line in axes.lines if line.get_marker() != "None"]
    assert points == [pytest.approx(10.0)] * 3


def test_the_spectral_log_is_read_as_it_was_written():
    steps = spectral_steps(toy_suite()[1])
    assert [(s.domain, s.gap, s.worst_operator_norm) for s in steps] == [("law", 1e-8, 0.9), ("code", 3e-8, 1.0)]
    assert steps[0].relative_change is None
    gap, norm, *_ = spectral_figure(group_runs(toy_suite())).axes
    assert _ys(gap.lines[0]) == pytest.approx([1.0, 3.0])  # in units of 1e-8
    assert _ys(norm.lines[0]) == [0.9, 1.0]


def test_a_spectral_log_with_holes_is_drawn(tmp_path: Path):
    crma = toy_receipt("crma", [[1.0, None], [0.9, 2.7]], spectral=({"domain": "law"}, {"domain": "law", "gap": 0.0}))
    path = save_figure(spectral_figure(group_runs([crma])), tmp_path / "holes.svg")
    assert path.stat().st_size > 1000


def test_texts_do_not_overlap():
    """With six long names, three seeds and both panels: no two texts of one figure share a place."""
    names = ("cardiology", "neurosurgery", "oncology", "paediatrics", "psychiatry", "surgery")
    rows = [[2.0 + 0.1 * t if i <= t else None for i in range(6)] for t in range(6)]
    suite = [
        toy_receipt(c, rows, seed=s, order=names, stream="near-medical", holds=c == "frozen")
        for c in ("naive", "naive-low-lr", "crma", "frozen")
        for s in (0, 42, 1234)
    ]
    runs = group_runs(suite)
    for draw in (forgetting_figure, matrix_figure, snapshots_figure, advantage_figure):
        figure = draw(runs)
        canvas = agg.FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        boxes = [
            (label.get_text(), label.get_window_extent(renderer))
            for axes in figure.axes
            for label in [*axes.get_xticklabels(), axes.xaxis.label, axes.title, *axes.texts]
            if label.get_text() and label.get_rotation() == 0
        ]
        for k, (text, box) in enumerate(boxes):
            for other, there in boxes[k + 1 :]:
                assert not box.overlaps(there), (draw.__name__, text, other)
