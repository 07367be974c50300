"""The commands, in the order of the journey. The stack's folder comes first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from crma.cli.bench import bench_app
from crma.cli.common import (
    AsJson,
    BaseOption,
    StackArg,
    err,
    opened,
    out,
    print_json,
    quiet_libraries,
    refuse_folder,
    reports_errors,
)
from crma.cli.data import data_app
from crma.cli.told import number, percent, tell_extended, tell_learnt, tell_plan, tell_route, tell_sorted
from crma.cli.ways import refuse_misplaced, way_of

__all__ = ["app"]

app = typer.Typer(
    name="crma",
    help="Teach one language model domain after domain without losing the earlier ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")


def _tell_version(asked: bool) -> None:
    if asked:
        from crma.stack.layout import crma_version

        out.print(f"crma {crma_version()}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """Teach one language model domain after domain without losing the earlier ones."""


@app.command()
@reports_errors
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

    quiet_libraries()
    refuse_folder(report)
    result = run_demo(
        folder,
        report,
        base=base,
        seed=seed,
        say=lambda text: err.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    if as_json:
        print_json(result)


@app.command()
@reports_errors
def learn(
    context: typer.Context,
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
    check: Annotated[
        bool, typer.Option("--check", help="First look at the rows, as `crma data check` does; refuse on an error.")
    ] = False,
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
    from crma.data.sources import read_examples, read_rows
    from crma.errors import ConfigError
    from crma.incoming import Incoming, check_settings
    from crma.learning import split_of
    from crma.model.backbone import BackboneConfig
    from crma.stack.stack import Stack
    from crma.train.config import LearnConfig
    from crma.types import Example, check_domain_name
    from crma.watch import Watch

    quiet_libraries()
    way = way_of(domain, data, auto, stream)
    refuse_misplaced(way, context)
    if domain is None:  # before a stack is made for them
        check_settings(least, increment, false_alarms)
        if auto is not None and not Stack.exists(stack):
            for _ in read_rows(auto):  # faulty ones are told at the end
                pass
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
    if check and (rows_there := data or auto) is not None:  # before a stack is made for them
        from crma.checking import refuse_failing

        known = stack if Stack.exists(stack) else None
        refuse_failing(rows_there, stack=known, base=base, config=config, extends=domain if extend else None)
    rows: tuple[Example, ...] = ()
    if domain is not None and data is not None:  # a mistyped path or name must leave no stack behind
        check_domain_name(domain)
        rows = tuple(read_examples(data))
        if not extend and not Stack.exists(stack):  # nor must rows that are too few
            split_of(domain, rows, config)
    accelerator = Accelerator()
    scratch = None
    if Stack.exists(stack) or extend:
        if frames is not None or directions is not None:
            have = Stack.open(stack).manifest.backbone
            wanted = {k: v for k, v in (("frames", frames), ("directions", directions)) if v is not None}
            if wanted != {k: (have or {"frames": "none"}).get(k) for k in wanted}:
                raise ConfigError(
                    "a stack keeps the backbone it was made with",
                    where=str(stack),
                    expected=have or "none",
                    got=wanted,
                    next_step="leave the option out, or make another stack",
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
            incoming = Incoming(
                model,
                config,
                source=f"file {auto.resolve()}" if auto is not None else f"stream {stream}",
                least=least,
                increment=increment,
                false_alarms=false_alarms,
                on_event=listener,
            )
            tell = _sorted(incoming, auto, stream, idle=idle, plan=plan)
        elif extend:
            own = LearnConfig(**model.stack.manifest.domain(domain).config)
            extended = model.extend(domain, rows, own.model_copy(update=chosen), on_event=listener)
            tell = partial(tell_extended, stack, extended)
        else:
            tell = partial(tell_learnt, stack, model.learn(domain, rows, config, on_event=listener))
    if accelerator.is_main_process:
        tell(as_json=as_json)


@app.command()
@reports_errors
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
    model = opened(stack, base)
    reply = model.ask(text, domain=domain, max_new_tokens=max_new_tokens, use_backbone=backbone, top_k=top_k)
    if as_json:
        print_json(asdict(reply))
        return
    out.print(reply.text, markup=False, highlight=False, soft_wrap=True)
    if show_route:
        tell_route(reply)


@app.command()
@reports_errors
def chat(
    stack: StackArg,
    domain: Annotated[str | None, typer.Option(help="Override the router.")] = None,
    max_new_tokens: int = 256,
    base: BaseOption = None,
) -> None:
    """Talk; each turn is routed. An empty line or Ctrl-D ends it."""
    from crma.types import Message

    model = opened(stack, base)
    if domain is not None and domain != "base":
        model.stack.manifest.domain(domain)  # before anybody has typed a question
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
        out.print(f"{reply.route.domain or 'base'}> {reply.text}", markup=False, highlight=False, soft_wrap=True)


@app.command()
@reports_errors
def evaluate(
    stack: StackArg,
    matrix: Annotated[bool, typer.Option("--matrix", help="Show every domain after every later one.")] = False,
    base: BaseOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure every domain anew on its kept test rows: pinned, floating and routed."""
    model = opened(stack, base)
    began = time.monotonic()
    found = model.evaluate()
    if as_json:
        print_json({**asdict(found), "seconds": time.monotonic() - began})
        return
    names = found.floating.domains
    table = Table("domain", "base", "just after", "pinned", "routed", "routed right", "drift pinned", "drift floating")
    for i, name in enumerate(names):
        table.add_row(
            name,
            number(found.floating.base[i]),
            number(found.floating.rows[i][i]),
            number(found.pinned[i]),
            number(found.routed[i]),
            "-" if (right := found.routing_accuracy[i]) is None else f"{right:.1%}",
            percent(found.drift_pinned_pct[i]),
            percent(found.drift_floating_pct[i]),
        )
    out.print(table)
    if bare := [name for name, loss in zip(names, found.pinned, strict=True) if loss is None]:
        out.print(f"no test rows are kept of {', '.join(bare)}; `crma status` has the losses of that day", markup=False)
    if matrix:
        grid = Table("after", *names, title="test loss, every adapter under the backbone of that day")
        grid.add_row("base", *(number(x) for x in found.floating.base))
        for name, row in zip(names, found.floating.rows, strict=True):
            grid.add_row(name, *(number(x) for x in row))
        out.print(grid)


@app.command()
@reports_errors
def status(stack: StackArg, as_json: AsJson = False) -> None:
    """What the stack holds: domains with their losses and drift, snapshots and how far they moved, sizes."""
    from crma.stack.stack import Stack
    from crma.status import status_of

    found = status_of(Stack.open(stack))
    if as_json:
        print_json(found)
        return
    table = Table("domain", "base", "after", "now", "drift pinned", "drift floating", "snapshot", "rank")
    for d in found["domains"]:
        table.add_row(
            d["name"],
            number(d["loss_base"]),
            number(d["loss_after"]),
            number(d["loss_now"]),
            percent(d["drift_pinned_pct"]),
            percent(d["drift_floating_pct"]),
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
@reports_errors
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
        print_json(asdict(found))
        return
    out.print(f"'{domain}' is forgotten: its LoRA, its kept rows and its router statistics are gone.")
    if rewind and not found.rewound:
        out.print("The backbone does not build on it, so there is nothing to go back to.")
    if found.trained_after and not found.rewound:
        out.print(
            f"The backbone was trained on it in {', '.join(found.trained_after)}; what those snapshots learnt stays.\n"
            f"To build on the snapshot before it ({found.snapshot_before or 'the untrained backbone'}) from now on: "
            f"`crma forget {stack} {domain} --rewind`."
        )
    if found.carried_by:
        out.print(
            f"The LoRAs of {', '.join(found.carried_by)} have gone towards these snapshots, and hold a part of what "
            "they learnt. To be rid of that too, forget and learn them anew."
        )


@app.command()
@reports_errors
def verify(stack: StackArg, base: BaseOption = None, as_json: AsJson = False) -> None:
    """Check checksums, ledger, the base's identity and the bounds of every site. Exit code 0 or 1."""
    found = opened(stack, base).verify()
    if as_json:
        print_json(found)
    else:
        out.print(f"base {found['base']['name']}: the weights are those the stack was taught on")
        out.print(f"files: {found['files']['checked']} checked, {len(found['files']['problems'])} problems")
        for problem in found["files"]["problems"]:
            out.print(f"  {problem}", markup=False)
        entries = found["ledger"]["entries"]
        out.print("ledger: cannot be read" if entries is None else f"ledger: {entries} entries, chain of hashes whole")
        for name, s in found["snapshots"].items():
            if "unreadable" in s:
                out.print(f"{name} ({s['domain']}): cannot be read, so nothing can be said of its bound")
                continue
            bound = s["certificate"]["norm_bound"] - 1.0
            out.print(
                f"{name} ({s['domain']}): ‖M‖₂ − 1 ≤ {bound:.1e}, worst ‖BKA‖₂ {s['worst_operator_norm']:.6f} over "
                f"{len(s['sites'])} sites, {'holds' if all(s['holds'].values()) else 'DOES NOT HOLD'}"
            )
        out.print("ok" if found["ok"] else "NOT ok")
    if not found["ok"]:
        raise typer.Exit(1)


@app.command()
@reports_errors
def export(
    stack: StackArg,
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder; one PEFT LoRA a domain goes there.")],
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain; may be repeated.")] = None,
    base: BaseOption = None,
    as_json: AsJson = False,
) -> None:
    """Fold each domain with its backbone into one ordinary LoRA, and check it against the stack."""
    found = opened(stack, base, precision="float32").export(folder, domain)
    if as_json:
        print_json(found)
        return
    for name, d in found["domains"].items():
        out.print(
            f"{folder / name}: rank {d['rank']}, {d['bytes'] / 1e6:.1f} MB, largest logit difference "
            f"{d['max_logit_difference']:.1e} (the domain changes the base's by {d['max_change_of_the_base']:.1f})"
        )


def _sorted(rows: Any, auto: Path | None, stream: str | None, *, idle: float | None, plan: bool) -> Callable[..., None]:
    """Through a whole source; of a stream that is interrupted what was read waits in the stack. What is to be told."""
    done: list[Any] = []
    with rows as incoming:
        if auto is not None:
            incoming.read_file(auto, keep=not plan)
            if plan:
                return partial(tell_plan, incoming.plan())
            done = incoming.finish()
        else:
            try:
                for learnt in incoming.read_stream(str(stream), idle=idle):
                    done.append(learnt)
            except KeyboardInterrupt:
                err.print("interrupted: what was read and not learnt yet waits in the stack", highlight=False)
    return partial(tell_sorted, done)
