"""What the commands share: the console, how errors are told, options that several have."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from crma.errors import ConfigError, CrmaError

__all__ = [
    "AsJson",
    "BaseOption",
    "StackArg",
    "err",
    "opened",
    "out",
    "print_json",
    "quiet_libraries",
    "refuse_folder",
    "reports_errors",
    "use_threads",
]

StackArg = Annotated[Path, typer.Argument(metavar="STACK", help="The stack's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
BaseOption = Annotated[str | None, typer.Option(help="Base model: hub id, folder, .gguf file, or alias.")]

out, err = Console(), Console(stderr=True)
P = ParamSpec("P")
R = TypeVar("R")


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Our own errors are messages, not tracebacks: exit code 1; with --json an object on standard output."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (CrmaError, ValidationError) as raised:
            error = _told(raised) if isinstance(raised, ValidationError) else raised
            kind = type(error).__name__
            if kwargs.get("as_json"):
                print_json({"error": {"type": kind, "message": str(error)}})
            err.print(f"[red]error[/red] ({kind}): ", end="")
            err.print(str(error), markup=False, highlight=False, soft_wrap=True)  # paths stay whole
            raise typer.Exit(1) from raised

    return run


def _told(error: ValidationError) -> ConfigError:
    """What pydantic says of settings, in the words of an option: without its links and its class names."""
    faults = [
        (" ".join(f"--{part}".replace("_", "-") if i == 0 else str(part) for i, part in enumerate(f["loc"])), f)
        for f in error.errors()
    ]
    return ConfigError(
        "a setting cannot be used" if len(faults) == 1 else f"{len(faults)} settings cannot be used",
        where=", ".join(name for name, _ in faults if name) or None,
        expected="; ".join(f["msg"].removeprefix("Value error, ") for _, f in faults),
        got="; ".join(repr(f["input"]) for name, f in faults if name) or None,
        next_step="change it; --help of the command lists the options",
    )


def refuse_folder(report: Path) -> None:
    """ConfigError, before hours of work, where no report could be written to this path at their end."""
    if report.is_dir() or not report.absolute().parent.is_dir():
        raise ConfigError(
            "a report cannot be written there",
            where=str(report),
            expected="a file in a folder that is there",
            got="a folder" if report.is_dir() else f"no folder {report.absolute().parent}",
            next_step="make the folder, or name another file",
        )


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def quiet_libraries() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def opened(stack: Path, base: str | None = None, **options: Any) -> Any:
    from crma.continual import ContinualModel

    quiet_libraries()
    return ContinualModel.from_pretrained(stack, base=base, **options)


def use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
