"""`crma data`: what is wrong with rows before they are trained on, and a repaired file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from crma.cli.common import AsJson, BaseOption, err, out, print_json, quiet_libraries, refuse_folder, reports_errors

__all__ = ["data_app"]

data_app = typer.Typer(help="Look at rows before you train on them, and repair them.", no_args_is_help=True)

Stack = Annotated[Path | None, typer.Option(metavar="STACK", help="The stack that is to learn these rows.")]
Benchmarks = Annotated[
    Path | None, typer.Option(help="A folder of public benchmarks whose questions must not be among the rows.")
]
MaxLength = Annotated[int | None, typer.Option(min=8, help="Tokens a row, as learning will take them.")]
Skip = Annotated[list[str] | None, typer.Option(help="A check not to make; may be given several times.")]
_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}
_LINES = 8  # line numbers of a finding that the table shows


@data_app.command("check")
@reports_errors
def data_check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="JSONL, CSV, Parquet, or folders of these.")],
    stack: Stack = None,
    base: BaseOption = None,
    benchmarks: Benchmarks = None,
    max_length: MaxLength = None,
    epochs: Annotated[float | None, typer.Option(help="As learning will take them, for its time.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="As learning will take it, for its time.")] = None,
    presidio: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Ask presidio for names too, with this spaCy pipeline or YAML.")
    ] = None,
    score: Annotated[int, typer.Option(min=0, help="Let the base score this many rows by its own loss.")] = 0,
    model: Annotated[bool, typer.Option(help="Load the base's weights: the time of training, overlap.")] = True,
    skip: Skip = None,
    fail_on: Annotated[
        Literal["error", "warning", "never"], typer.Option(help="Exit code 1 where there is a finding this bad.")
    ] = "error",
    html: Annotated[Path | None, typer.Option(help="Write a page of its own as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """What is wrong with rows, why it matters, and what to do.

    Given several files, those named for a held-out split (test, validation, dev) must share nothing with the others.
    """
    from crma.checking import check_data
    from crma.errors import DataError
    from crma.train.config import LearnConfig
    from crma.web.quality_page import render_quality

    quiet_libraries()
    if html is not None:
        refuse_folder(html)
    asked = {"max_length": max_length, "epochs": epochs, "batch_size": batch_size}
    config = LearnConfig(**{name: value for name, value in asked.items() if value is not None})
    with _progress() as progress:
        report = check_data(
            files,
            stack=stack,
            base=base,
            benchmarks=benchmarks,
            presidio=presidio,
            config=config,
            use_model=model,
            score=score,
            skip=skip or (),
            progress=progress,
        )
    found = report.to_json()
    if html is not None:
        try:
            html.write_text(render_quality(found), encoding="utf-8")
        except OSError as error:
            raise DataError(
                "the report cannot be written", where=html, got=error.strerror, next_step="name another file"
            ) from error
    if as_json:
        print_json(found)
    else:
        _tell(found)
        if html is not None:
            out.print(f"report: {html}", markup=False, highlight=False)
    severities = {finding["severity"] for finding in found["findings"]}
    if ("error" in severities and fail_on != "never") or ("warning" in severities and fail_on == "warning"):
        raise typer.Exit(1)


@data_app.command("clean")
@reports_errors
def data_clean(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL, CSV, TSV, JSON, Parquet or Arrow.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The JSON Lines file to write.")],
    stack: Stack = None,
    base: BaseOption = None,
    benchmarks: Benchmarks = None,
    held_out: Annotated[
        list[Path] | None, typer.Option(help="Rows that must not be among these; may be given several times.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Repair this alone; may be given several times.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this as it is; may be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """A repaired copy, and beside it OUT.changes: what was done, by which `crma data undo` takes it back.

    Fields that training does not read stay as they are; of Parquet and Arrow they are left out.
    """
    from crma.checking import prepare
    from crma.data.quality.clean import REPAIRED, clean, refuse_output
    from crma.data.quality.findings import check_named

    quiet_libraries()
    for name in (*(only or ()), *(skip or ())):
        check_named(name)  # a mistyped one would repair what was to be left
    refuse_output(file, output)
    with _progress() as progress:
        surveyed = prepare(
            [file], held_out=held_out or (), stack=stack, base=base, benchmarks=benchmarks, progress=progress
        )
    done = clean(file, output, surveyed, (set(only) if only else REPAIRED) - set(skip or ()))
    told = {
        "rows": done.rows,
        "kept": done.kept,
        "edited": done.edited,
        "dropped": done.dropped,
        "by_check": dict(done.by_check),
        "gone": list(done.gone),
        "output": str(done.output),
        "changes": str(done.changes),
    }
    if as_json:
        print_json(told)
        return
    out.print(f"{done.rows} rows: {done.kept} as they were, {done.edited} edited, {done.dropped} left out")
    for check, count in done.by_check.items():
        out.print(f"  {check}: {count}", highlight=False)
    _tell_gone(done.gone)
    left = [f for f in surveyed.report.findings if f.check not in done.by_check and f.severity != "info"]
    for finding in left:
        out.print(f"  left as it is: {finding.check}, {finding.count} rows in {finding.file}", markup=False)
    out.print(f"wrote {done.output} and {done.changes} (holds what was taken out; keep it to yourself)", markup=False)


@data_app.command("undo")
@reports_errors
def data_undo(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="What `crma data clean` wrote, its list beside it.")],
    restored: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    only: Annotated[list[str] | None, typer.Option(help="Take back what this check alone changed.")] = None,
    as_json: AsJson = False,
) -> None:
    """The rows as they were before cleaning, as JSON Lines."""
    from crma.data.quality.clean import undo

    done = undo(output, restored, only or None)
    if as_json:
        print_json({"output": str(restored), "taken_back": done.taken_back, "gone": list(done.gone)})
    else:
        out.print(f"took back {done.taken_back} changes; wrote {restored}", markup=False, highlight=False)
        _tell_gone(done.gone)


def _tell_gone(lines: Sequence[int]) -> None:
    if lines:
        named = f"{', '.join(map(str, lines[:20]))}{', …' if len(lines) > 20 else ''}"
        out.print(
            f"  cannot be had back, since no text of it could be kept: line {named} of the file that was cleaned; keep "
            "that file",
            highlight=False,
        )


@contextmanager
def _progress() -> Iterator[Any]:
    """Bytes read and the time left, on standard error; nothing where that is no terminal."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=err
    )
    if not err.is_terminal:
        yield _lines_of_progress()
        return
    with bar:
        task = bar.add_task("reading", total=None)

        def show(done: int, total: int, rows: int) -> None:
            what = f"{rows:,} rows" if done < total else f"{rows:,} rows; comparing"
            bar.update(task, completed=done, total=total, description=what)

        yield show


def _lines_of_progress() -> Any:
    """A line every half a minute: in a log, a run of minutes must not look as if it hung."""
    began = last = time.monotonic()

    def show(done: int, total: int, rows: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 30 and 0 < done < total:
            last = now
            left = (now - began) * (total - done) / done
            err.print(f"{done / total:.0%} read, {rows:,} rows, about {left:.0f} s more", highlight=False)

    return show


def _tell(found: dict[str, Any]) -> None:
    verdict = {"fail": "not ready to train on", "warn": "ready, with warnings", "pass": "nothing found"}
    table = Table("", "check", "rows", "file", "lines", "what to do", show_lines=False)
    for finding in found["findings"]:
        lines = ", ".join(str(line) for line in finding["lines"][:_LINES])
        more = ", …" if finding["count"] > _LINES else ""
        severity = finding["severity"]
        table.add_row(
            f"[{_COLOURS[severity]}]{severity}[/]",
            f"{finding['check']}: {finding['title']}",
            str(finding["count"]),
            _plain(finding["file"]),
            lines + more,
            finding["advice"],
        )
    if found["findings"]:
        out.print(table)
        for finding in found["findings"]:
            for example in finding["examples"][:1]:
                note = f" ({example['note']})" if example.get("note") else ""
                out.print(
                    f"{finding['check']}, line {example['line']}{note}: {example['text']}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
    facts = found["facts"]
    if tokens := facts.get("tokens"):
        out.print(f"{tokens['total']:,} tokens by {tokens['base']}, {tokens['supervised']:,} of them to be learnt")
    if training := facts.get("training"):
        out.print(
            f"training here: about {_duration(training['seconds'])} for {training['epochs']:g} epochs "
            f"({training['steps']:,} steps, {training['tokens_per_second']:.0f} tokens/s measured), "
            f"{training['peak_bytes'] / 2**30:.1f} GB",
            highlight=False,
        )
    for name, why in found["skipped"].items():
        out.print(f"not checked: {name} ({why})", style="dim", markup=False, highlight=False)
    rows = f"{found['rows']:,} rows in {found['seconds']:.1f} s"
    out.print(f"[bold]{verdict[found['verdict']]}[/bold] · {rows}", highlight=False)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
