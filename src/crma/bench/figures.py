"""The benchmark's figures, drawn from receipts as SVG files whose bytes depend on nothing else.

Needs matplotlib (the extra `bench`), imported where it is used; its global state and backend are left as they are.
Colours are Okabe and Ito's (2008), told apart with any colour vision; markers differ too, so colour is never alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crma.bench.headline import Run, average, group_runs, interval
from crma.bench.metrics import drift_pct
from crma.bench.receipt import Receipt
from crma.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Plan",
    "SpectralStep",
    "advantage_figure",
    "draw_figures",
    "figure_plans",
    "forgetting_figure",
    "matrix_figure",
    "save_figure",
    "snapshots_figure",
    "spectral_figure",
    "spectral_steps",
]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D", "#8B5A2B")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_GREY, _INK = "#8a8a8a", "#222222"
_DIVERGING = "RdBu_r"  # blue: better than just after; red: forgotten. Safe for colour-blind eyes.
_PANELS = {
    "naive": "one LoRA, trained on and on",
    "naive-low-lr": "the same, low learning rate",
    "crma": "CRMA, floating",
}
_TOLERANCE = 1.2e-7  # `crma.model.birkhoff.Certificate.TOLERANCE`, the paper's largest gap; torch need not be loaded
_STYLE: Mapping[str, Any] = {
    "svg.hashsalt": "crma",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": False,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "path.simplify": True,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralStep:
    """What one logged step says of the bound and of the backbone; None where it was not logged."""

    domain: str
    gap: float | None  # sqrt(max row sum · max column sum) − 1 ≥ ‖M‖₂ − 1, in float64, the worst site's
    worst_operator_norm: float | None  # ‖B K A‖₂
    gate: float | None  # how far open the sites are, mean: |g|, or ‖ΔW‖₂ / (ρ ‖W‖₂)
    sigma2: float | None  # mean σ₂(M) over sites
    relative_change: float | None  # ‖ΔW‖₂ / ‖W‖₂, the largest


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A figure to be: its file name, what it shows, and how it is drawn."""

    file: str
    caption: str
    recipe: str
    stream: str
    draw: Callable[[], Figure]


def spectral_steps(receipt: Receipt) -> tuple[SpectralStep, ...]:
    """The receipt's spectral log, in the order of training (written by `crma.benchmark.conditions`)."""
    numbers = ("gap", "worst_operator_norm", "gate", "sigma2", "relative_change")
    return tuple(
        SpectralStep(domain=str(line.get("domain", "")), **{n: line.get(n) for n in numbers})
        for line in receipt.spectral
    )


def figure_plans(receipts: Iterable[Receipt]) -> tuple[Plan, ...]:
    """The figures these receipts are enough for, ordered by recipe and stream; nothing is drawn yet."""
    streams: dict[tuple[str, str], list[Run]] = {}
    for run in group_runs(receipts):
        streams.setdefault((run.recipe, run.stream), []).append(run)
    plans = []
    for (recipe, stream), runs in streams.items():
        for name, enough, caption, draw in (
            (
                "forgetting",
                any(_panels(r) for r in runs),
                "how much worse each earlier domain's test loss gets as later domains are learnt",
                forgetting_figure,
            ),
            (
                "matrix",
                any(_panels(r) for r in runs),
                "test loss of every domain after every domain, with the base model's row",
                matrix_figure,
            ),
            (
                "advantage",
                any(r.advantage("crma", "frozen") is not None for r in runs),
                "CRMA (last backbone) against frozen, a domain and seed, with 95 % intervals over documents",
                advantage_figure,
            ),
            (
                "snapshots",
                any("crma" in _panels(r) for r in runs),
                "drift of every adapter under every later backbone",
                snapshots_figure,
            ),
            (
                "spectrum",
                any("crma" in r.receipts and r.receipts["crma"].spectral for r in runs),
                "the bound while training: both norms, how far the sites are open, and the second singular value",
                spectral_figure,
            ),
        ):
            if enough:
                plans.append(
                    Plan(
                        file=f"{recipe}-{stream}-{name}.svg",
                        caption=f"{stream} ({recipe}): {caption}",
                        recipe=recipe,
                        stream=stream,
                        draw=lambda draw=draw, runs=tuple(runs): draw(runs),
                    )
                )
    return tuple(plans)


def draw_figures(receipts: Iterable[Receipt], folder: Path) -> tuple[Path, ...]:
    """Write every figure of `figure_plans` into `folder`; the same receipts give the same bytes.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    return tuple(save_figure(plan.draw(), folder / plan.file) for plan in figure_plans(receipts))


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure, whole or not at all: SVG without date, or what the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    with _style():
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(partial, format=path.suffix[1:], metadata=metadata)
    os.replace(partial, path)
    return path


def forgetting_figure(runs: Sequence[Run]) -> Figure:
    """Drift (%) of each domain after each later one, a panel a method: mean over the seeds of one order, and range."""
    shown = _one_order(runs)
    order = shown[0].order
    methods = _common_panels(shown)
    with _style():
        figure = _figure(width=1.2 + 3.9 * len(methods), height=4.6)
        panels = _axes(figure, columns=len(methods))
        for axes, method in zip(panels, methods, strict=True):
            for i, domain in enumerate(order[:-1]):
                curves = [[_drift(r.receipts[method], t, i) for t in range(i, len(order))] for r in shown]
                points = [(t, [c[t - i] for c in curves]) for t in range(i, len(order))]
                known = [(t, [x for x in xs if x is not None]) for t, xs in points]
                known = [(t, xs) for t, xs in known if xs]
                steps = [t for t, _ in known]
                colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
                means = [sum(xs) / len(xs) for _, xs in known]
                axes.plot(steps, means, color=colour, marker=marker, markersize=5.5, linewidth=1.8, label=domain)
                if len(shown) > 1:
                    low, high = [min(xs) for _, xs in known], [max(xs) for _, xs in known]
                    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.axhline(0.0, color=_GREY, linewidth=0.9, zorder=0)
            axes.set_title(_PANELS[method], loc="left")
            axes.set_xlim(-0.25, len(order) - 0.75)
            _name_ticks(axes.xaxis, order)
            axes.set_xlabel("after learning")
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.sharey(panels[0])
            if axes is not panels[0]:
                axes.tick_params(axis="y", labelleft=False)
        panels[0].set_ylabel("rise of test loss since just after (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), title="drift of")
        figure.suptitle(_title(shown, "Forgetting", band=len(shown) > 1), x=0.01, ha="left")
    return figure


def matrix_figure(runs: Sequence[Run]) -> Figure:
    """R with the base model's row (test loss, nats a token), coloured by drift, a panel a method."""
    shown = _one_order(runs)
    order = shown[0].order
    methods = _common_panels(shown)
    cells, drifts = {}, {}
    for method in methods:
        of = [r.receipts[method] for r in shown]
        base = [_mean([m[d].loss for r in shown if (m := r.at_end("base")) is not None]) for d in order]
        rows = [
            [_mean([x for r in of if (x := r.loss("floating", t + 1, d)) is not None]) for d in order]
            for t in range(len(order))
        ]
        cells[method] = [base, *rows]
        drifts[method] = [
            [None] * len(order),
            *(
                [
                    _mean([x for r in of if (x := _drift(r, t, i)) is not None]) if t >= i else None
                    for i in range(len(order))
                ]
                for t in range(len(order))
            ),
        ]
    limit = max([1.0, *(abs(x) for m in methods for row in drifts[m] for x in row if x is not None)])
    size = max(0.78 * len(order), 3.2)
    with _style():
        figure = _figure(width=2.4 + (size + 0.5) * len(methods), height=1.9 + 0.52 * (len(order) + 1))
        panels = _axes(figure, columns=len(methods))
        image = None
        for axes, method in zip(panels, methods, strict=True):
            texts = [["" if x is None else f"{x:.3f}" for x in row] for row in cells[method]]
            image = _heat(axes, drifts[method], texts, limit)
            _name_ticks(axes.xaxis, order)
            axes.set_yticks(range(len(order) + 1), ["base", *order] if axes is panels[0] else [""] * (len(order) + 1))
            axes.set_xlabel("test loss on")
            axes.set_title(_PANELS[method], loc="left")
        panels[0].set_ylabel("after learning")
        assert image is not None
        figure.colorbar(image, ax=panels, label="drift since just after (%)", shrink=0.9, pad=0.02)
        figure.suptitle(_title(shown, "Test loss, nats a token"), x=0.01, ha="left")
    return figure


def advantage_figure(runs: Sequence[Run]) -> Figure:
    """Advantage of crma over frozen (%) a domain and seed, mean over orders, with 95 % intervals over documents."""
    pairs = [r for r in runs if r.advantage("crma", "frozen") is not None]
    seeds = sorted({r.seed for r in pairs})
    domains = list(pairs[0].order)
    places = [*domains, "all domains"]
    with _style():
        figure = _figure(width=8.0, height=1.9 + len(places) * (0.34 + 0.2 * len(seeds)))
        (axes,) = _axes(figure, columns=1)
        for k, seed in enumerate(seeds):
            of = [r for r in pairs if r.seed == seed]
            offset = (k - (len(seeds) - 1) / 2) * 0.66 / max(1, len(seeds))
            for row, place in enumerate(places):
                only = None if place == "all domains" else place
                mean = average(of, lambda r, only=only: r.advantage("crma", "frozen", domain=only))
                bounds = interval(of, "crma", "frozen", domain=only)
                if mean is None:
                    continue
                colour, y = _COLOURS[k % len(_COLOURS)], row + offset
                if bounds is not None:
                    axes.plot(bounds, [y, y], color=colour, linewidth=2.0, solid_capstyle="butt")
                axes.plot(
                    [mean],
                    [y],
                    color=colour,
                    marker=_MARKERS[k % len(_MARKERS)],
                    markersize=6.5,
                    linestyle="none",
                    label=f"seed {seed}" if row == 0 else None,
                )
        axes.axvline(0.0, color=_INK, linewidth=1.0)
        axes.axhline(len(domains) - 0.5, color=_GREY, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(places)), places)
        axes.set_ylim(len(places) - 0.45, -0.55)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -0.12 * (high - low)), max(high, 0.12 * (high - low)))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("← frozen better     test loss of CRMA below that of frozen (%)     CRMA better →")
        if len(seeds) > 1:
            figure.legend(loc="outside lower center", ncols=len(seeds))
        orders = len({r.order for r in pairs})
        figure.suptitle(
            f"Advantage over frozen at the end: {pairs[0].stream} ({pairs[0].recipe}), "
            f"{_count(len(seeds), 'seed')}, {_count(orders, 'order')}",
            x=0.01,
            ha="left",
        )
    return figure


def snapshots_figure(runs: Sequence[Run]) -> Figure:
    """Drift (%) of every adapter but the last under every later backbone of crma; below it the worst seed."""
    shown = _one_order(runs, "crma")
    order = shown[0].order
    values: list[list[float | None]] = []
    texts: list[list[str]] = []
    for i in range(len(order) - 1):
        found = [[x for r in shown if (x := _drift(r.receipts["crma"], t, i)) is not None] for t in range(len(order))]
        values.append([_mean(xs) if t >= i else None for t, xs in enumerate(found)])
        texts.append([_cell(xs) if t > i and xs else ("0" if t == i else "") for t, xs in enumerate(found)])
    limit = max([1.0, *(abs(x) for row in values for x in row if x is not None)])
    with _style():
        figure = _figure(width=max(3.2 + 1.0 * len(order), 6.4), height=1.9 + 0.62 * (len(order) - 1))
        (axes,) = _axes(figure, columns=1)
        image = _heat(axes, values, texts, limit)
        _name_ticks(axes.xaxis, order)
        axes.set_yticks(range(len(order) - 1), order[:-1])
        axes.set_xlabel("under the backbone after")
        axes.set_ylabel("adapter of")
        figure.colorbar(image, ax=axes, label="drift (%)", shrink=0.95, pad=0.02)
        figure.suptitle(
            _title(shown, "Adapters × snapshots", worst=len(shown) > 1),
            x=0.01,
            ha="left",
        )
    return figure


def spectral_figure(runs: Sequence[Run]) -> Figure:
    """Gap, worst ‖B K A‖₂, how far open, and σ₂ at each logged step of one run of crma; the largest of all dashed."""
    having = [r for r in runs if "crma" in r.receipts and r.receipts["crma"].spectral]
    logs = [spectral_steps(r.receipts["crma"]) for r in having]
    steps = logs[0]
    with _style():
        figure = _figure(width=9.0, height=6.4)
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (field, label, unit, limit) in zip(
            grid.flat,
            (
                ("gap", "bound on ‖M‖₂, minus 1 (10⁻⁸)", 1e8, _TOLERANCE),
                ("worst_operator_norm", "largest ‖B K A‖₂", 1.0, 1.0),
                ("gate", "share of the allowed ‖ΔW‖₂ in use, mean over sites", 1.0, None),
                ("sigma2", "σ₂(M), mean over sites", 1.0, None),
            ),
            strict=True,
        ):
            values = [(k, x * unit) for k, s in enumerate(steps) if (x := getattr(s, field)) is not None]
            every = [x * unit for log in logs for s in log if (x := getattr(s, field)) is not None]
            axes.plot([k for k, _ in values], [x for _, x in values], color=_COLOURS[0], linewidth=1.4)
            axes.set_title(label, loc="left", fontsize=11)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            if every and len(logs) > 1:
                axes.axhline(max(every), color=_COLOURS[0], linewidth=1.0, linestyle="--", label="largest of all runs")
            if limit is not None:
                axes.axhline(limit * unit, color=_COLOURS[1], linewidth=1.6, label="limit")
            if field == "worst_operator_norm":
                axes.set_ylim(min([0.9, *every]) - 0.005, max([1.0, *every]) + 0.015)
            elif every:
                top = max([*every, (limit or 0.0) * unit, 1e-9])
                axes.set_ylim(min(0.0, min(every) * 1.08), top * 1.12)
        for axes in grid.flat:
            _shade_domains(axes, steps)
        for axes in grid[1]:
            axes.set_xlabel("logged step")
        handles = {label: h for a in grid.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside lower right", ncols=2)
        run = having[0]
        names = " → ".join(dict.fromkeys(s.domain for s in steps if s.domain))
        figure.suptitle(
            f"The bound while training: {run.stream} ({run.recipe}), seed {run.seed}; one of {_count(len(logs), 'run')}"
            + (f"\nshaded by domain: {names}" if names else ""),
            x=0.01,
            ha="left",
            fontsize=12,
        )
    return figure


def _panels(run: Run) -> list[str]:
    return [m for m in _PANELS if m in run.receipts]


def _common_panels(runs: Sequence[Run]) -> list[str]:
    return [m for m in _PANELS if all(m in r.receipts for r in runs)]


def _one_order(runs: Sequence[Run], *conditions: str) -> list[Run]:
    """The runs of the order that has most, of those with both main panels if any: lines are named in one order."""
    runs = [r for r in runs if all(c in r.receipts for c in conditions) and _panels(r)]
    both = [r for r in runs if {"naive", "crma"} <= set(r.receipts)]
    kept: dict[tuple[str, ...], list[Run]] = {}
    for run in runs if conditions or not both else both:
        kept.setdefault(run.order, []).append(run)
    best = max(kept.values(), key=lambda group: (len(group), len(_common_panels(group))))
    # Runs that are not finished may have nothing in common: then the fullest of them.
    return best if _common_panels(best) else [max(best, key=lambda run: len(_panels(run)))]


def _drift(receipt: Receipt, t: int, i: int) -> float | None:
    """100 (R[t][i] − R[i][i]) / R[i][i]."""
    domain = receipt.order[i]
    after, now = receipt.loss("floating", i + 1, domain), receipt.loss("floating", t + 1, domain)
    return None if after is None or now is None else drift_pct(after, now)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _cell(values: Sequence[float]) -> str:
    mean = f"{sum(values) / len(values):+z.2f}"
    return f"{mean}\n[{max(values):+z.2f}]" if len(values) > 1 else mean


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _title(runs: Sequence[Run], what: str, *, band: bool = False, worst: bool = False) -> str:
    seeds = [r.seed for r in runs]
    said = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"
    more = ", band: their range" if band else ", [the worst]" if worst else ""
    return f"{what}: {runs[0].stream} ({runs[0].recipe}), {said}{more}"


def _name_ticks(axis: Any, names: Sequence[str]) -> None:
    long = max(len(n) for n in names) > 9 or len(names) > 6
    axis.set_ticks(range(len(names)), names)
    for label in axis.get_ticklabels():
        label.set(
            rotation=30 if long else 0, ha="right" if long else "center", rotation_mode="anchor" if long else None
        )


def _heat(axes: Axes, values: Sequence[Sequence[float | None]], texts: Sequence[Sequence[str]], limit: float) -> Any:
    """Cells coloured by value on ±limit (grey-white where there is none), with their texts in legible ink."""
    import numpy as np
    from matplotlib import colormaps

    grid = np.array([[np.nan if x is None else x for x in row] for row in values], dtype=float)
    colours = colormaps[_DIVERGING].with_extremes(bad="#f4f4f4")
    image = axes.imshow(np.ma.masked_invalid(grid), cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    for y, row in enumerate(texts):
        for x, text in enumerate(row):
            dark = np.isfinite(grid[y, x]) and abs(grid[y, x]) > 0.62 * limit
            axes.text(x, y, text, ha="center", va="center", fontsize=10, color="white" if dark else _INK)
    axes.set_xticks(np.arange(-0.5, grid.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, grid.shape[0]), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _shade_domains(axes: Axes, steps: Sequence[SpectralStep]) -> None:
    start, shaded = 0, False
    for k in range(1, len(steps) + 1):
        if k == len(steps) or steps[k].domain != steps[start].domain:
            if shaded:
                axes.axvspan(start - 0.5, k - 0.5, color="#f0f2f5", zorder=0, linewidth=0)
            start, shaded = k, not shaded
    axes.set_xlim(-0.5, len(steps) - 0.5)


def _figure(*, width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _axes(figure: Figure, *, columns: int) -> list[Axes]:
    return list(figure.subplots(1, columns, squeeze=False)[0])


def _style() -> AbstractContextManager[None]:
    try:
        from matplotlib import rc_context, rcParamsDefault
    except ImportError as error:
        raise ConfigError(
            "figures need matplotlib",
            expected="matplotlib",
            got=str(error),
            next_step="pip install matplotlib",
        ) from error
    # Whoever runs this may have a matplotlibrc of their own: start from the defaults, keep only the backend.
    defaults = {k: v for k, v in rcParamsDefault.items() if not k.startswith(("backend", "_"))}
    settings: Any = {**defaults, **_STYLE}
    return rc_context(settings)
