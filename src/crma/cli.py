"""The command line: thin commands in the order of the journey. The stack's folder comes first."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from crma.errors import CrmaError

__all__ = ["app", "main"]

app = typer.Typer(
    name="crma",
    help="Teach one language model domain after domain without losing the earlier ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StackArg = Annotated[Path, typer.Argument(metavar="STACK", help="The stack's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
BaseOption = Annotated[str | None, typer.Option(help="Base model: hub id, folder, .gguf file, or alias.")]

out, err = Console(), Console(stderr=True)
P = ParamSpec("P")
R = TypeVar("R")


def _reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Our own errors are messages, not tracebacks: exit code 1; with --json an object on standard output."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (CrmaError, ValidationError) as error:
            kind = type(error).__name__ if isinstance(error, CrmaError) else "ConfigError"
            if kwargs.get("as_json"):
                _print_json({"error": {"type": kind, "message": str(error)}})
            err.print(f"[red]error[/red] ({kind}): ", end="")
            err.print(str(error), markup=False, highlight=False)
            raise typer.Exit(1) from error

    return run


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _quiet_libraries() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _open(stack: Path, base: str | None = None, **options: Any) -> Any:
    from crma.continual import ContinualModel

    _quiet_libraries()
    return ContinualModel.from_pretrained(stack, base=base, **options)


bench_app = typer.Typer(help="The benchmark: run its recipes, and report from its receipts.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


@bench_app.command("run")
@_reports_errors
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

    _quiet_libraries()
    _use_threads(threads)
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
    _tell_written(written, results / chosen.name, as_json=as_json)


@bench_app.command("general")
@_reports_errors
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

    model = _open(stack, base)
    found = measure_general(
        model, shared_data() / "benchmarks", receipt, tasks=tuple(task or TASKS), limit=limit, seed=seed
    )
    if as_json:
        _print_json(found)
        return
    table = Table("task", "metric", "rows", "base", "routed", "last domain always on")
    for name, measured in found["base"]["tasks"].items():
        for metric, value in measured["metrics"].items():
            others = (found[v]["tasks"][name]["metrics"][metric]["value"] for v in ("routed", "always") if v in found)
            table.add_row(name, metric, str(measured["n"]), *(f"{x:.4f}" for x in (value["value"], *others)))
    out.print(table)


@bench_app.command("router")
@_reports_errors
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

    _quiet_libraries()
    _use_threads(threads)
    written = measure_routing(
        shared_data(),
        results,
        work,
        names=tuple(only or SETS),
        base=base,
        say=lambda text: err.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    _tell_written(written, results, as_json=as_json)


@bench_app.command("report")
@_reports_errors
def bench_report(
    results: Annotated[Path, typer.Option(help="The folder of receipts.")] = Path("results"),
    document: Annotated[Path, typer.Option("--out", help="The document to write.")] = Path("RESULTS.md"),
    also: Annotated[list[Path] | None, typer.Option(help="Other documents with marked numbers.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing: exit 1 where a number differs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write RESULTS.md and its figures from the receipts; with --check, hold it and README.md to them."""
    from crma.bench.headline import headline
    from crma.bench.numbers import check_document, check_whole, fill_document
    from crma.bench.receipt import read_receipts
    from crma.bench.report import figures_link, results_markdown, write_report
    from crma.bench.routing import read_routing

    receipts, routing = read_receipts(results), read_routing(results)
    others = also if also is not None else [p for p in (Path("README.md"),) if p.is_file()]
    if check:
        whole = results_markdown(receipts, figures_link(results, document), routing)
        found = [*check_whole(document, whole), *(m for p in others for m in check_document(p, receipts, routing))]
        if as_json:
            _print_json({"differences": [str(m) for m in found]})
        for mismatch in found:
            err.print(str(mismatch), markup=False, highlight=False, soft_wrap=True)
        if found:
            raise typer.Exit(1)
        return
    if as_json:
        _print_json({"headline": headline(receipts, routing)})
        return
    write_report(results, document)
    for path in others:
        fill_document(path, receipts, routing)
    out.print(f"{document} written from {len(receipts) + len(routing)} receipts", highlight=False)


@app.command()
@_reports_errors
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's stack is made (an old one is replaced).")] = Path(
        "demo-stack"
    ),
    report: Annotated[Path, typer.Option(help="The report to write.")] = Path("demo-report.html"),
    base: Annotated[str, typer.Option(help="Base model.")] = "smollm2-135m",
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Learn three fictional domains in sequence, by one naive LoRA and by CRMA, and show what each remembers."""
    from crma.demo import run_demo

    _quiet_libraries()
    result = run_demo(
        folder,
        report,
        base=base,
        seed=seed,
        say=lambda text: err.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    if as_json:
        _print_json(result)


@app.command()
@_reports_errors
def learn(
    stack: StackArg,
    domain: Annotated[str | None, typer.Argument(metavar="[DOMAIN]", help="The new domain's name.")] = None,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="JSONL, CSV, Parquet, or a Hugging Face dataset folder.")
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="DOMAIN is there: learn on from more of its rows.")] = False,
    auto: Annotated[
        Path | None, typer.Option(help="Rows without a domain: sort them into known and new ones, and learn these.")
    ] = None,
    stream: Annotated[
        str | None, typer.Option(help="The same for rows that arrive: a growing JSONL file, or - for standard input.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="With --auto: say what would be learnt, and change nothing.")] = (
        False
    ),
    least: Annotated[int, typer.Option(help="With --auto or --stream: rows that make a new domain.")] = 50,
    increment: Annotated[int, typer.Option(help="With --stream: rows by which a known domain is extended.")] = 100,
    false_alarms: Annotated[
        float, typer.Option(help="With --auto or --stream: false alarms of something new, a row, on average.")
    ] = 1e-4,
    idle: Annotated[
        float | None, typer.Option(help="With --stream FILE: seconds without a new line that end it; else never.")
    ] = None,
    base: BaseOption = None,
    epochs: float | None = None,
    lr: float | None = None,
    lr_backbone: float | None = None,
    lr_mixing: float | None = None,
    lr_gate: float | None = None,
    batch_size: int | None = None,
    rank: int | None = None,
    max_length: int | None = None,
    limit: Annotated[int | None, typer.Option(help="Training rows taken.")] = None,
    seed: int | None = None,
    frames: Annotated[
        Literal["contraction", "learnt", "light", "none"] | None,
        typer.Option(help="The backbone of a new stack: a contraction, gated learnt frames, fixed ones, or none."),
    ] = None,
    directions: Annotated[int | None, typer.Option(help="Directions a site, of a new stack's backbone.")] = None,
    precision: Annotated[
        Literal["auto", "bfloat16", "float32", "4bit"] | None,
        typer.Option(help="What a new stack holds its base in; 4bit needs bitsandbytes."),
    ] = None,
    keep_rows: Annotated[bool, typer.Option(help="Keep validation and test rows in the stack.")] = True,
    verify: Annotated[bool, typer.Option(help="Move the backbone only as far as earlier domains allow.")] = True,
    as_json: AsJson = False,
) -> None:
    """Learn one more domain. A new stack is made where there is none; a killed run goes on when called again.

    With --auto or --stream instead of DOMAIN and DATA the rows say themselves which domains they are.
    """
    from accelerate import Accelerator

    from crma.continual import ContinualModel
    from crma.errors import ConfigError, DataError
    from crma.model.backbone import BackboneConfig
    from crma.stack.stack import Stack
    from crma.train.config import LearnConfig
    from crma.watch import Watch

    _quiet_libraries()
    if (auto is not None) + (stream is not None) + (domain is not None) != 1 or (domain is None) != (data is None):
        raise ConfigError(
            "what is to be learnt is not clear",
            expected="DOMAIN and DATA, or --auto DATA, or --stream FILE",
            got=f"DOMAIN {domain}, DATA {data}, --auto {auto}, --stream {stream}",
            next_step="name the domain and its rows, or let --auto or --stream sort rows",
        )
    if domain is None:  # before a stack is made for them
        from crma.incoming import check_settings

        check_settings(least, increment, false_alarms)
        source = auto or (Path(stream) if stream not in (None, "-") else None)
        if source is not None and not source.exists():
            raise DataError("there is no such file", where=str(source), next_step="give a file of rows")
    if (plan and auto is None) or (extend and domain is None):
        raise ConfigError(
            "these options do not go together",
            expected="--plan with --auto, --extend with DOMAIN and DATA",
            got=" ".join(f"--{name}" for name, on in (("plan", plan), ("extend", extend)) if on),
            next_step="leave it out",
        )
    given = {
        "epochs": epochs,
        "lr": lr,
        "lr_backbone": lr_backbone,
        "lr_mixing": lr_mixing,
        "lr_gate": lr_gate,
        "batch_size": batch_size,
        "rank": rank,
        "max_length": max_length,
        "limit": limit,
        "seed": seed,
        "keep_rows": keep_rows,
        "verify": verify,
    }
    chosen = {k: v for k, v in given.items() if v is not None}
    config = LearnConfig(**chosen)
    accelerator = Accelerator()
    scratch = None
    if Stack.exists(stack) or extend:
        if frames is not None or directions is not None:
            have = Stack.open(stack).manifest.backbone
            wanted = {k: v for k, v in (("frames", frames), ("directions", directions)) if v is not None}
            if wanted != {k: (have or {"frames": "none"}).get(k) for k in wanted}:
                raise ConfigError(
                    "a stack keeps the backbone it was made with", where=str(stack), expected=have or "none", got=wanted
                )
        model = ContinualModel.from_pretrained(stack, base=base, precision=precision, accelerator=accelerator)
    else:
        if plan:
            scratch = tempfile.TemporaryDirectory(prefix="crma-plan-")  # the one asked for is not to be made
            stack = Path(scratch.name) / "stack"
        shape = {"frames": frames, "directions": directions, "seed": config.seed}
        backbone = None if frames == "none" else BackboneConfig(**{k: v for k, v in shape.items() if v is not None})
        model = ContinualModel.create(
            stack,
            base=base or "smollm2-135m",
            backbone=backbone,
            precision=precision or "auto",
            accelerator=accelerator,
        )
    with Watch(err) as watch, scratch or nullcontext():
        listener = watch if accelerator.is_main_process else lambda _k, _v: None
        if domain is None or data is None:
            from crma.incoming import Incoming

            rows = Incoming(
                model,
                config,
                source=f"file {auto.resolve()}" if auto is not None else f"stream {stream}",
                least=least,
                increment=increment,
                false_alarms=false_alarms,
                on_event=listener,
            )
            tell = _sorted(rows, auto, stream, idle=idle, plan=plan)
        elif extend:
            own = LearnConfig(**model.stack.manifest.domain(domain).config)
            extended = model.extend(domain, data, own.model_copy(update=chosen), on_event=listener)
            tell = partial(_tell_extended, stack, extended)
        else:
            tell = partial(_tell_learnt, stack, model.learn(domain, data, config, on_event=listener))
    if accelerator.is_main_process:
        tell(as_json=as_json)


@app.command()
@_reports_errors
def ask(
    stack: StackArg,
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    domain: Annotated[str | None, typer.Option(help="Override the router; 'base' is the untouched base.")] = None,
    backbone: Annotated[bool, typer.Option("--backbone/--no-backbone", help="Answer with the backbone.")] = True,
    show_route: Annotated[bool, typer.Option("--show-route", help="Tell where the question went, and why.")] = False,
    top_k: Annotated[int, typer.Option(help="So many of the domains that accept it answer together.", min=1)] = 1,
    max_new_tokens: int = 128,
    base: BaseOption = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question; the router picks the domain, or the untouched base."""
    model = _open(stack, base)
    reply = model.ask(text, domain=domain, max_new_tokens=max_new_tokens, use_backbone=backbone, top_k=top_k)
    if as_json:
        _print_json({"text": reply.text, "route": {**asdict(reply.route), "scores": dict(reply.route.scores)}})
        return
    out.print(reply.text, markup=False, highlight=False)
    if show_route:
        _show_route(reply.route)


@app.command()
@_reports_errors
def chat(
    stack: StackArg,
    domain: Annotated[str | None, typer.Option(help="Override the router.")] = None,
    max_new_tokens: int = 256,
    base: BaseOption = None,
) -> None:
    """Talk; each turn is routed. An empty line or Ctrl-D ends it."""
    from crma.types import Message

    model = _open(stack, base)
    turns: list[Message] = []
    while True:
        try:
            text = input("you> ")
        except EOFError:
            break
        if not text.strip():
            break
        turns.append(Message(role="user", content=text))
        reply = model.ask(turns, domain=domain, max_new_tokens=max_new_tokens)
        turns.append(Message(role="assistant", content=reply.text))
        out.print(f"{reply.route.domain or 'base'}> {reply.text}", markup=False, highlight=False)


@app.command()
@_reports_errors
def evaluate(
    stack: StackArg,
    matrix: Annotated[bool, typer.Option("--matrix", help="Show every domain after every later one.")] = False,
    base: BaseOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure every domain anew on its kept test rows: pinned, floating and routed."""
    model = _open(stack, base)
    began = time.monotonic()
    found = model.evaluate()
    if as_json:
        _print_json({**asdict(found), "seconds": time.monotonic() - began})
        return
    names = found.floating.domains
    table = Table("domain", "base", "just after", "pinned", "routed", "routed right", "drift pinned", "drift floating")
    for i, name in enumerate(names):
        table.add_row(
            name,
            _number(found.floating.base[i]),
            _number(found.floating.rows[i][i]),
            _number(found.pinned[i]),
            _number(found.routed[i]),
            f"{found.routing_accuracy[i]:.1%}",
            f"{found.drift_pinned_pct[i]:+.2f} %",
            f"{found.drift_floating_pct[i]:+.2f} %",
        )
    out.print(table)
    if matrix:
        grid = Table("after", *names, title="test loss, every adapter under the backbone of that day")
        grid.add_row("base", *(_number(x) for x in found.floating.base))
        for name, row in zip(names, found.floating.rows, strict=True):
            grid.add_row(name, *(_number(x) for x in row))
        out.print(grid)


@app.command()
@_reports_errors
def status(stack: StackArg, as_json: AsJson = False) -> None:
    """What the stack holds: domains with their losses and drift, snapshots and how far they moved, sizes."""
    from crma.stack.stack import Stack
    from crma.status import status_of

    found = status_of(Stack.open(stack))
    if as_json:
        _print_json(found)
        return
    table = Table("domain", "base", "after", "now", "drift pinned", "drift floating", "snapshot", "rank")
    for d in found["domains"]:
        table.add_row(
            d["name"],
            _number(d["loss_base"]),
            _number(d["loss_after"]),
            _number(d["loss_now"]),
            _percent(d["drift_pinned_pct"]),
            _percent(d["drift_floating_pct"]),
            "alone" if d["standalone"] else d["snapshot_pinned"] or "none",
            str(d["rank"]),
        )
    out.print(table)
    for s in found["snapshots"]:
        moved = s["distance_to_parent"]
        far = f", moved δ mean {moved['mean']:.4f}, max {moved['max']:.4f}" if moved["max"] is not None else ""
        out.print(f"snapshot {s['id']} ({s['domain']}): {s['share']:.0%} of the proposal{far}")
    out.print(", ".join(f"{k} {v / 1e6:.2f} MB" for k, v in found["sizes"].items()))


@app.command()
@_reports_errors
def forget(
    stack: StackArg,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN")],
    rewind: Annotated[bool, typer.Option("--rewind", help="Also go back to the snapshot before it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a domain exactly: its LoRA, its rows, its part of the router."""
    from crma.forgetting import forget_domain
    from crma.stack.stack import Stack

    found = forget_domain(Stack.open(stack), domain, rewind=rewind)
    if as_json:
        _print_json(asdict(found))
        return
    out.print(f"'{domain}' is forgotten: its LoRA, its kept rows and its router statistics are gone.")
    if found.trained_after and not rewind:
        out.print(
            f"The backbone was trained on it in {', '.join(found.trained_after)}; what those snapshots learnt stays.\n"
            f"To build on the snapshot before it ({found.snapshot_before or 'the untrained backbone'}) from now on: "
            "learn the later domains anew after `crma forget --rewind`."
        )
    if found.carried_by:
        out.print(
            f"The LoRAs of {', '.join(found.carried_by)} have gone towards these snapshots, and hold a part of what "
            "they learnt. To be rid of that too, forget and learn them anew."
        )


@app.command()
@_reports_errors
def verify(stack: StackArg, base: BaseOption = None, as_json: AsJson = False) -> None:
    """Check checksums, ledger, the base's identity and the bounds of every site. Exit code 0 or 1."""
    found = _open(stack, base).verify()
    if as_json:
        _print_json(found)
    else:
        out.print(f"base {found['base']['name']}: the weights are those the stack was taught on")
        out.print(f"files: {found['files']['checked']} checked, {len(found['files']['problems'])} problems")
        for problem in found["files"]["problems"]:
            out.print(f"  {problem}", markup=False)
        out.print(f"ledger: {found['ledger']['entries']} entries, chain of hashes whole")
        for name, s in found["snapshots"].items():
            bound = s["certificate"]["norm_bound"] - 1.0
            out.print(
                f"{name} ({s['domain']}): ‖M‖₂ − 1 ≤ {bound:.1e}, worst ‖BKA‖₂ {s['worst_operator_norm']:.6f} over "
                f"{len(s['sites'])} sites, {'holds' if all(s['holds'].values()) else 'DOES NOT HOLD'}"
            )
        out.print("ok" if found["ok"] else "NOT ok")
    if not found["ok"]:
        raise typer.Exit(1)


@app.command()
@_reports_errors
def export(
    stack: StackArg,
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder; one PEFT LoRA a domain goes there.")],
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain; may be repeated.")] = None,
    base: BaseOption = None,
    as_json: AsJson = False,
) -> None:
    """Fold each domain with its backbone into one ordinary LoRA, and check it against the stack."""
    found = _open(stack, base, precision="float32").export(folder, domain)
    if as_json:
        _print_json(found)
        return
    for name, d in found["domains"].items():
        out.print(
            f"{folder / name}: rank {d['rank']}, {d['bytes'] / 1e6:.1f} MB, largest logit difference "
            f"{d['max_logit_difference']:.1e} (the domain changes the base's by {d['max_change_of_the_base']:.1f})"
        )


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _tell_written(written: Sequence[Path], where: Path, *, as_json: bool) -> None:
    if as_json:
        _print_json({"written": [str(path) for path in written]})
    else:
        out.print(f"{len(written)} receipts written under {where}", highlight=False)


def _tell_learnt(stack: Path, learnt: Any, *, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(learnt))
        return
    table = Table("domain", "test loss now", "", title=f"{stack}: {learnt.domain} learnt in {learnt.seconds:.0f} s")
    for name, loss in learnt.losses.items():
        table.add_row(name, _number(loss), "new" if name == learnt.domain else "")
    out.print(table)


def _sorted(rows: Any, auto: Path | None, stream: str | None, *, idle: float | None, plan: bool) -> Callable[..., None]:
    """Through a whole source; of a stream that is interrupted what was read waits in the stack. What is to be told."""
    done: list[Any] = []
    with rows as incoming:
        if auto is not None:
            incoming.read_file(auto, keep=not plan)
            if plan:
                return partial(_tell_plan, incoming.plan())
            done = incoming.finish()
        else:
            try:
                for learnt in incoming.read_stream(str(stream), idle=idle):
                    done.append(learnt)
            except KeyboardInterrupt:
                err.print("interrupted: what was read and not learnt yet waits in the stack", highlight=False)
    return partial(_tell_sorted, done)


def _tell_sorted(done: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        _print_json({"done": [asdict(d) for d in done]})
        return
    for d in done:
        what = f"extended, {d.share:.0%} of the way" if hasattr(d, "left_out") else "new"
        out.print(f"{d.domain}: {what}; rows {dict(d.rows)}", highlight=False, markup=False)


def _tell_plan(found: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        _print_json({"plan": [asdict(p) for p in found]})
        return
    for planned in found:
        what = "new" if planned.new else "extended" if planned.domain else "these rows wait"
        out.print(f"{planned.domain or '-'}: {what}, {planned.rows} rows", highlight=False, markup=False)
        for sample in planned.samples:
            out.print(f"    {' '.join(sample.split())[:100]}", highlight=False, markup=False)


def _tell_extended(stack: Path, extended: Any, *, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(extended))
        return
    text = f"{stack}: '{extended.domain}' went {extended.share:.0%} of the way to what the new rows taught"
    if extended.loss_before is not None:
        text += f"; their test loss {extended.loss_before:.4f} to {extended.loss_after:.4f}"
    out.print(text if extended.share else f"{text}: nothing is changed", highlight=False, markup=False)


def _show_route(route: Any) -> None:
    out.print(f"→ {route.domain or 'the untouched base'}: {_why(route)}", markup=False, highlight=False)
    if not route.scores:
        return
    table = Table("domain", "score", "accepts from", "probability", title="score: log-odds against everyday prompts")
    for name in sorted(route.scores, key=lambda n: -route.probabilities[n]):
        score, bar = route.scores[name], route.thresholds[name]
        accepts = f"{bar:.1f}{' (accepts)' if score >= bar else ''}"
        table.add_row(name, f"{score:.1f}", accepts, f"{route.probabilities[name]:.2f}")
    out.print(table)


def _why(route: Any) -> str:
    if not route.scores:
        return "chosen by the caller" if route.confidence == 1.0 else "there was no domain to ask, or nothing to read"
    if route.carried:
        return "so the conversation goes; this turn alone would have gone elsewhere"
    score, bar = route.scores[route.nearest], route.thresholds[route.nearest]
    if route.abstained:
        return f"no domain takes it; {route.nearest} is nearest, accepts from {bar:.1f} on, and this scores {score:.1f}"
    more = sum(s >= route.thresholds[d] for d, s in route.scores.items()) - 1
    nearest = f", and it is the nearest of {more + 1} that do" if more else ", and no other does"
    return f"it accepts this (score {score:.1f}, from {bar:.1f} on){nearest}; confidence {route.confidence:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f} %"


def main() -> None:
    app()


if __name__ == "__main__":
    main()
