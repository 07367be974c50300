"""RESULTS.md, made from receipts: every table has a name and stands between markers, so that `numbers` can check it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crma.bench.ahead_table import AHEAD
from crma.bench.arriving_table import ARRIVING
from crma.bench.cells import called, count
from crma.bench.figures import draw_figures, figure_plans
from crma.bench.general_tables import GENERAL, General, general_made, read_general
from crma.bench.headline import Run, group_runs, headline
from crma.bench.quality import Quality, read_quality
from crma.bench.quality_tables import QUALITY_TITLES, quality_made
from crma.bench.receipt import Receipt, read_receipts
from crma.bench.result_tables import result_tables, streams_of
from crma.bench.routing import RoutingReceipt, read_routing
from crma.bench.routing_tables import TITLES
from crma.bench.studies import whole
from crma.errors import DataError
from crma.stack import files

__all__ = ["COMMAND", "figures_link", "marked", "results_markdown", "write_report"]

COMMAND = "crma bench report"
_FIGURES = "figures"

_WORDS = (
    "A loss is in nats a supervised token of test rows, the mean over domains weighing the same. *Drift*: 100 (at the "
    "end − just after) / just after, over the domains before the last; positive is forgotten. *Advantage*: 100 (frozen "
    "− method) / frozen at the end, always between runs of the same recipe, stream, seed, order and rows; positive is "
    "better. [Brackets]: 95 %, paired bootstrap over the documents of the test rows, drawn once for all seeds, which "
    "are averaged like the orders and not drawn again. Means are over the orders of a seed, then over seeds, then over "
    "streams. What knows no order (base, joint, frozen, reset) was run once a seed and stands in each. *Trained*, "
    "*stored*: numbers that learn at a time, and that are kept to serve all domains. *Routed*: as the stack serves it, "
    "pinned, with each question going where the router sends it. Losses of rows with other numbers of runs are not to "
    "be compared; advantages are."
)
_SAID = {"ahead": AHEAD, "arriving": ARRIVING}  # what stands above a table of a stream

_STUDIES = (
    (
        "growth",
        "With the number of domains",
        "Advantage over frozen after so many domains, each adapter under the backbone of that day: over all domains "
        "learnt so far, and of the newest alone, which is what it gains from the earlier ones (and from being learnt "
        "with a backbone: see the first).",
    ),
    ("rows", "With the number of rows", "At the end; every size with the rates of its recipe."),
    ("rates", "Learning rates", "Validation loss just after learning, by which a rate is chosen; mean over domains."),
)


def results_markdown(
    receipts: Iterable[Receipt],
    figures_folder: Path | str,
    routing: Iterable[RoutingReceipt] = (),
    quality: Quality | None = None,
    general: General | None = None,
) -> str:
    """The text of RESULTS.md: headline, streams one by one, cost, the bound, what was not run. It holds no date.

    `figures_folder` is where `draw_figures` put these receipts' figures, as a link from the document.
    """
    receipts, routing, quality = list(receipts), list(routing), quality or Quality()
    tables = result_tables(receipts, routing, quality, general)
    shown = whole(receipts)
    streams = streams_of(group_runs(shown))
    chosen = _headline_streams(headline(shown), streams)
    plans = figure_plans(shown)
    made = count(len(receipts) + len(routing) + len(quality) + (general is not None), "receipt")
    parts = [
        "# Results",
        f"Made by `{COMMAND}` from {made}; nothing here is typed by hand. " + _WORDS + _routed_by(receipts),
        "## Headline",
        marked("headline", tables["headline"]),
    ]
    for key in chosen:
        parts += [f"**{called(key)}**: {_of_what(streams[key])}", marked(f"{key}/methods", tables[f"{key}/methods"])]
    parts += ["### What there was to share", marked("captured", tables["captured"])]
    for name, title, said in _STUDIES:
        if name in tables:
            parts += [f"### {title}", said, marked(name, tables[name])]
    for key, runs in streams.items():
        parts += [f"## {called(key)}", f"{_of_what(runs)}.", _orders(runs)]
        for name, title in (
            ("methods", "Methods"),
            ("ablations", "Ablations of the backbone"),
            ("domains", "Each domain, at the end"),
            ("seeds", "Each seed, at the end"),
            ("runs", "Each run, at the end"),
            ("shares", "Share of each proposed backbone that was accepted"),
            ("routers", "Routers, at the end"),
            ("ahead", "Each domain's questions before it is learnt"),
            ("arriving", "Rows in two halves, or without their domain's name"),
            ("answers", "Questions with one right answer, at the end"),
            ("compared", "Who answers which of them"),
        ):
            if f"{key}/{name}" in tables and not (name == "methods" and key in chosen):
                said = [_SAID[name]] if name in _SAID else []
                parts += [f"### {title}", *said, marked(f"{key}/{name}", tables[f"{key}/{name}"])]
        folder = Path(figures_folder).as_posix()
        parts += [f"![{p.caption}]({folder}/{p.file})" for p in plans if f"{p.recipe}/{p.stream}" == key]
    if general is not None:
        parts += ["## General ability", general_made(general), marked(GENERAL, tables[GENERAL])]
    if any(name in tables for name in TITLES):
        parts.append("## The router")
        parts.append(_of_routers(routing))
    for name, (title, said) in TITLES.items():
        if name in tables:
            parts += [f"### {title}", said, marked(name, tables[name])]
    if len(quality):
        parts += ["## The data check", quality_made(quality)]
    for name, (title, said) in QUALITY_TITLES.items():
        if name in tables:
            parts += [f"### {title}", said, marked(name, tables[name])]
    parts += [
        "## Cost",
        f"Means over runs. {_machines(receipts)}",
        marked("cost", tables["cost"]),
        "## The bound",
        "The worst of every logged step of every run. *Gap*: the certificate sqrt(max row sum · max column sum) − 1 of "
        "M, in float64, an upper bound on ‖M‖₂ − 1. Ablations that give the bound up are here to be compared.",
        marked("bound", tables["bound"]),
        "## What was not run",
        marked("missing", tables["missing"]),
        "## Make it again",
        f"```\ncrma bench run RECIPE   # each run's receipt, resumable\n{COMMAND}   # this document, its figures\n```",
    ]
    return "\n\n".join(parts) + "\n"


def write_report(results: Path, out: Path) -> Path:
    """Draw the figures into `results/figures` and write RESULTS.md to `out`; equal receipts give equal bytes.

    Raises:
        DataError: there is no receipt of format 2 under `results`, or some cannot be compared.
        ConfigError: matplotlib is not installed.
    """
    receipts, routing = read_receipts(results), read_routing(results)
    if not receipts:
        raise DataError(
            "there is nothing to report",
            where=str(results),
            expected="receipts",
            got="none of format 2",
            next_step="make some with `crma bench run small`",
        )
    draw_figures(whole(receipts), results / _FIGURES)
    link = figures_link(results, out)
    text = results_markdown(receipts, link, routing, read_quality(results), read_general(results))
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes_atomic(out, text.encode("utf-8"))
    return out


def figures_link(results: Path, out: Path) -> Path:
    """Where a document at `out` finds the figures of `results`."""
    return Path(os.path.relpath(results / _FIGURES, out.parent))


def _routed_by(receipts: Sequence[Receipt]) -> str:
    """Where training receipts were routed by another router than the one that `The router` measures."""
    routed = [r for r in receipts if any(m.view == "routed" for m in r.measurements)]
    blind = sum(not r.router.get("words") for r in routed)
    return f" {blind} of {len(routed)} routed runs had a router that did not look at words yet." if blind else ""


def _of_routers(receipts: Sequence[RoutingReceipt]) -> str:
    made = receipts[0].router["features"]
    sets = dict.fromkeys(r.name for r in receipts)
    seeds = sorted({r.seed for r in receipts})
    return (
        "`crma bench router`: no training, one router a set of domains and split. It reads the mean hidden state of "
        f"the prompt after {made['depth']:.0%} of the base's blocks, of at most {made['tokens']} tokens"
        + (f", and its words in {made['words']:,} buckets" if made.get("words") else "")
        + ". "
        f"Sets: {', '.join(sets)} (all sub-domains together); seeds {', '.join(map(str, seeds))}."
    )


def marked(name: str, table: str) -> str:
    """The table between the markers by which `numbers.check_document` finds it."""
    return f"<!-- results:{name} -->\n{table}\n<!-- /results -->"


def _headline_streams(numbers: Mapping[str, Any], streams: Mapping[str, Sequence[Run]]) -> list[str]:
    wanted = [(kind, numbers[kind]["recipe"]) for kind in ("far", "near")]
    return [key for pair in wanted for key, runs in streams.items() if (runs[0].kind, runs[0].recipe) == pair]


def _of_what(runs: Sequence[Run]) -> str:
    receipt = next(iter(runs[0].receipts.values()))
    rows = [r.rows for run in runs for r in run.receipts.values()]
    sizes = []
    for split in ("train", "validation", "test"):
        numbers = sorted({n for of in rows for splits in of.values() if (n := splits.get(split)) is not None})
        if numbers:
            span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
            sizes.append(f"{span} {split}")
    seeds = sorted({r.seed for r in runs})
    orders = len({r.order for r in runs})
    return (
        f"{count(len(runs[0].order), 'domain')}, rows a domain: {', '.join(sizes)}; "
        f"base {receipt.base.get('name', 'unknown')}; seeds {', '.join(map(str, seeds))}; {count(orders, 'order')}"
    )


def _orders(runs: Sequence[Run]) -> str:
    orders = sorted({r.order for r in runs})
    return "\n".join(f"- order {k}: {' → '.join(order)}" for k, order in enumerate(orders, start=1))


def _machines(receipts: Sequence[Receipt]) -> str:
    kinds: dict[str, int] = {}
    for receipt in receipts:
        m = receipt.machine
        packages = m.get("packages", {})
        where = m.get("accelerator") or (f"{m['cores']} cores" if m.get("cores") else None)
        said = ", ".join(x for x in (where, m.get("architecture"), *_versions(packages)) if x)
        kinds[said or "a machine that is not named"] = kinds.get(said or "a machine that is not named", 0) + 1
    return "Made on " + "; ".join(f"{said} ({count(n, 'receipt')})" for said, n in sorted(kinds.items())) + "."


def _versions(packages: Mapping[str, str]) -> list[str]:
    return [f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages]
