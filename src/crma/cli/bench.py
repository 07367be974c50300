"""`crma bench`: run its recipes, and report from its receipts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from crma.cli.common import (
    AsJson,
    BaseOption,
    StackArg,
    err,
    opened,
    out,
    print_json,
    quiet_libraries,
    reports_errors,
    use_threads,
)
from crma.cli.told import tell_written

__all__ = ["bench_app"]

bench_app = typer.Typer(help="The benchmark: run its recipes, and report from its receipts.", no_args_is_help=True)


@bench_app.command("run")
@reports_errors
def bench_run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="smoke, inference, small or paper.")],
    stream: Annotated[str | None, typer.Option(help="Only this stream of domains.")] = None,
    condition: Annotated[str | None, typer.Option(help="Only this condition.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only this seed.")] = None,
    order: Annotated[int | None, typer.Option(help="Only this order of the domains.")] = None,
    lr: Annotated[float | None, typer.Option(help="Another learning rate: a point of the grid, kept apart.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Another number of training rows a domain, kept apart.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Another base model, its receipts kept apart.")] = None,
    results: Annotated[Path, typer.Option(help="Where the receipts go.")] = Path("results"),
    work: Annotated[Path, typer.Option(help="Scratch: what a killed run goes on from.")] = Path(".bench"),
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of this process.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stacks of finished runs in the scratch.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the receipts of a recipe that are not there yet. Kill it at any time; two at once share the work."""
    from crma.benchmark.recipes import recipe_named
    from crma.benchmark.runner import run_recipe

    quiet_libraries()
    use_threads(threads)
    chosen = recipe_named(recipe, lr=lr, base=base, rows=rows)
    written = run_recipe(
        chosen,
        results,
        work,
        stream=stream,
        condition=condition,
        seed=seed,
        order=order,
        keep=keep,
        say=lambda text: err.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    tell_written(written, results / chosen.name, as_json=as_json)


@bench_app.command("general")
@reports_errors
def bench_general(
    stack: StackArg,
    receipt: Annotated[Path, typer.Option(help="The file to write.")] = Path("results/general.json"),
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given several times.")] = None,
    limit: Annotated[int | None, typer.Option(help="Rows a task, drawn with the seed.")] = 200,
    seed: int = 0,
    base: BaseOption = None,
    as_json: AsJson = False,
) -> None:
    """General benchmarks on local files (lm-evaluation-harness): the base, the stack as routed, one domain on."""
    from crma.bench.general import TASKS
    from crma.benchmark.general import measure_general
    from crma.benchmark.streams import shared_data

    model = opened(stack, base)
    found = measure_general(
        model,
        shared_data() / "benchmarks",
        receipt,
        tasks=tuple(task or TASKS),
        limit=limit,
        seed=seed,
        say=lambda text: err.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    if as_json:
        print_json(found)
        return
    table = Table("task", "metric", "rows", "base", "routed", "last domain always on")
    for name, measured in found["base"]["tasks"].items():
        for metric, value in measured["metrics"].items():
            others = (found[v]["tasks"][name]["metrics"][metric]["value"] for v in ("routed", "always") if v in found)
            table.add_row(name, metric, str(measured["n"]), *(f"{x:.4f}" for x in (value["value"], *others)))
    out.print(table)


@bench_app.command("router")
@reports_errors
def bench_router(
    only: Annotated[list[str] | None, typer.Option("--set", help="Only this set of domains; may be repeated.")] = None,
    base: Annotated[str, typer.Option(help="Base model.")] = "smollm2-135m",
    results: Annotated[Path, typer.Option(help="Where the receipts go.")] = Path("results/router"),
    work: Annotated[Path, typer.Option(help="Scratch: features that are computed once.")] = Path(".bench/router"),
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of this process.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the router's receipts that are not there yet: far domains, verticals, strangers. Trains nothing."""
    from crma.benchmark.routing import SETS, measure_routing
    from crma.benchmark.streams import shared_data

    quiet_libraries()
    use_threads(threads)
    written = measure_routing(
        shared_data(),
        results,
        work,
        names=tuple(only or SETS),
        base=base,
        say=lambda text: err.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    tell_written(written, results, as_json=as_json)


@bench_app.command("quality")
@reports_errors
def bench_quality(
    seeds: Annotated[list[int] | None, typer.Option("--seeds", help="Only this seed; may be repeated.")] = None,
    scale: Annotated[int | None, typer.Option(min=100, help="Check a file of so many rows, and nothing else.")] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Learn from clean, dirty and cleaned rows, and nothing else.")
    ] = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="Check the rows that others wrote by hand, and nothing else.")
    ] = False,
    model: Annotated[
        bool, typer.Option("--model", help="The checks that ask the base or a router, and nothing else.")
    ] = False,
    base: Annotated[str, typer.Option(help="Base model.")] = "smollm2-135m",
    results: Annotated[Path, typer.Option(help="Where the receipts go.")] = Path("results/quality"),
    work: Annotated[Path, typer.Option(help="Scratch: the files with defects.")] = Path(".bench/quality"),
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of this process.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plant defects in clean rows and count what the data check finds; what is there is not made again."""
    from crma.benchmark.blind_rows import measure_blind
    from crma.benchmark.dirty import measure_training
    from crma.benchmark.quality import SEEDS, measure_planted
    from crma.benchmark.quality_model import measure_model
    from crma.benchmark.scale import measure_scale
    from crma.benchmark.streams import shared_data

    quiet_libraries()
    use_threads(threads)

    def say(text: str) -> None:
        err.print(text, highlight=False, markup=False, soft_wrap=True)

    data, chosen = shared_data(), tuple(seeds or SEEDS)
    made: list[Path | None] = []
    if scale is not None:
        made.append(measure_scale(data, results, work, scale, base=base, say=say))
    if train:
        made.append(measure_training(data, results, work, seeds=chosen, base=base, say=say))
    if blind:
        made.append(measure_blind(data, results, work, base=base, say=say))
    if model:
        made.append(measure_model(data, results, work, seeds=chosen, base=base, say=say))
    if scale is None and not (train or blind or model):
        made.append(measure_planted(data, results, work, seeds=chosen, base=base, say=say))
    tell_written([path for path in made if path is not None], results, as_json=as_json)


@bench_app.command("report")
@reports_errors
def bench_report(
    results: Annotated[Path, typer.Option(help="The folder of receipts.")] = Path("results"),
    document: Annotated[Path, typer.Option("--out", help="The document to write.")] = Path("RESULTS.md"),
    also: Annotated[list[Path] | None, typer.Option(help="Other documents with marked numbers.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing: exit 1 where a number differs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write RESULTS.md and its figures from the receipts; with --check, hold it and README.md to them."""
    from crma.bench.general_tables import read_general
    from crma.bench.headline import headline
    from crma.bench.numbers import check_document, check_whole, fill_document
    from crma.bench.quality import read_quality
    from crma.bench.receipt import read_receipts
    from crma.bench.report import figures_link, results_markdown, write_report
    from crma.bench.routing import read_routing

    receipts, routing, quality = read_receipts(results), read_routing(results), read_quality(results)
    general = read_general(results)
    others = also if also is not None else [p for p in (Path("README.md"),) if p.is_file()]
    if check:
        whole = results_markdown(receipts, figures_link(results, document), routing, quality, general)
        apart = (m for path in others for m in check_document(path, receipts, routing, quality, general))
        found = [*check_whole(document, whole), *apart]
        if as_json:
            print_json({"differences": [str(m) for m in found]})
        for mismatch in found:
            err.print(str(mismatch), markup=False, highlight=False, soft_wrap=True)
        if found:
            raise typer.Exit(1)
        return
    if as_json:
        print_json({"headline": headline(receipts, routing, quality=quality)})
        return
    write_report(results, document)
    for path in others:
        fill_document(path, receipts, routing, quality, general)
    number = len(receipts) + len(routing) + len(quality) + (general is not None)
    out.print(f"{document} written from {number} receipts", highlight=False)
