"""A data set before it is trained on: what its rows say by themselves, what the base says of them, and the stack."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from crma.data.quality.check import Progress, Settings, Surveyed, survey
from crma.data.quality.findings import Report, check_named
from crma.data.quality.row import RowCheck
from crma.errors import DataError
from crma.model.base import load_base, load_tokenizer
from crma.probe import OverlapCheck, RowScores, TrainingCost
from crma.served import ServedStack, kept_rows
from crma.stack.stack import Stack
from crma.train.config import LearnConfig
from crma.types import Example

__all__ = ["DEFAULT_BASE", "check_data", "prepare", "refuse_failing"]

DEFAULT_BASE = "smollm2-135m"
_JUDGING = ("validation", "test")  # splits that a stack keeps of a domain


def check_data(
    paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    stack: str | os.PathLike[str] | None = None,
    base: str | None = None,
    benchmarks: str | os.PathLike[str] | None = None,
    presidio: str | None = None,
    config: LearnConfig | None = None,
    use_model: bool = True,
    score: int = 0,
    skip: Collection[str] = (),
    progress: Progress | None = None,
) -> Report:
    """What is wrong with files of rows, why it matters and what to do.

    Args:
        paths: files or folders. With several, those named for a held-out split must share nothing with the others.
        stack: the stack that is to learn them: its rows must not be among them, and its router says which domains they
            overlap.
        base: whose tokenizer counts, and whose weights measure time; None is the stack's, else `DEFAULT_BASE`.
        benchmarks: a folder of public benchmarks whose questions must not be among the rows.
        presidio: a spaCy pipeline (its name or folder), or presidio's own configuration (YAML): it is asked for names
            and other personal data as well (`pii_other`).
        config: how they would be learnt (length, epochs, batch, rank).
        use_model: load the weights, for the time and memory of training and, with a stack, for the overlap.
        score: this many rows are scored by the base's own loss (`hard`, `easy`).
        skip: checks that are not made.

    Raises:
        DataError: a file cannot be read at all.
        BaseModelError, StackError: what was asked about cannot be opened.
    """
    return prepare(
        paths,
        stack=stack,
        base=base,
        benchmarks=benchmarks,
        presidio=presidio,
        config=config,
        use_model=use_model,
        score=score,
        skip=skip,
        progress=progress,
    ).report


def prepare(
    paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    stack: str | os.PathLike[str] | None = None,
    base: str | None = None,
    benchmarks: str | os.PathLike[str] | None = None,
    presidio: str | None = None,
    config: LearnConfig | None = None,
    use_model: bool = False,
    score: int = 0,
    skip: Collection[str] = (),
    held_out: Sequence[str | os.PathLike[str]] = (),
    extends: str | None = None,
    progress: Progress | None = None,
) -> Surveyed:
    """`check_data` with the rows it is about, for `crma.data.quality.clean.clean`.

    Args:
        held_out: files that `paths` must share nothing with, whatever their names.
        extends: the domain that is to learn on from these rows, and leaves out of itself those that judge it.
    """
    files = [Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    config = config or LearnConfig()
    found = Stack.open(stack) if stack is not None else None
    name = base or (found.manifest.base.name if found else DEFAULT_BASE)
    more: list[RowCheck] = []
    unmade: dict[str, str] = {}
    reserved: dict[str, list[Example]] = {}
    if found is not None:
        judging = [(d.name, split) for d in found.manifest.domains if d.name != extends for split in _JUDGING]
        kept = {f"{split} rows of '{name}'": kept_rows(found, name, split) for name, split in judging}
        reserved = {name: rows for name, rows in kept.items() if rows}
    tokenizer = None
    if use_model or score:
        served = ServedStack.from_pretrained(stack, base=base) if stack is not None else None
        loaded = served.base if served else load_base(name)
        tokenizer = loaded.tokenizer
        if use_model and served is not None:
            more.append(OverlapCheck(served))
        if use_model:
            more.append(TrainingCost(loaded, config, served))
        if score:
            more.append(RowScores(loaded, served, rows=score))
    else:
        tokenizer = load_tokenizer(name)
    if stack is None:
        unmade["overlap"] = "no stack"
    if not use_model:
        unmade |= {"overlap": "the model was not loaded", "training": "the model was not loaded"}
    if not score:
        unmade |= dict.fromkeys(("hard", "easy"), "no rows were to be scored by the base")
    settings = Settings(
        tokenizer=tokenizer,
        base=name,
        max_length=config.max_length,
        reserved=reserved,
        benchmarks=Path(benchmarks) if benchmarks is not None else None,
        presidio=presidio,
        skip=frozenset(skip),
        more=more,
        unmade=unmade,
    )
    return survey(files, settings, held_out=[Path(p) for p in held_out], progress=progress)


def refuse_failing(
    data: str | os.PathLike[str],
    *,
    stack: str | os.PathLike[str] | None = None,
    base: str | None = None,
    config: LearnConfig | None = None,
    extends: str | None = None,
) -> Report:
    """The gate before learning: the report, where nothing in it is an error. No weights are loaded.

    Raises:
        DataError: the verdict is `fail`; its faults are the lines, each with what is wrong with it.
    """
    report = prepare(data, stack=stack, base=base, config=config, extends=extends).report
    # The same settings, or what failed here would pass there.
    given = {"--stack": stack, "--base": base}
    same = "".join(f" {option} {os.fspath(value)}" for option, value in given.items() if value is not None)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if errors:
        raise DataError(
            "these rows are not ready to be learnt",
            where=os.fspath(data),
            got=", ".join(f"{check_named(f.check).title}: {f.count}" for f in errors),
            next_step=f"crma data check {os.fspath(data)}{same} tells more; "
            f"crma data clean {os.fspath(data)} -o OUT{same} repairs",
            faults=sorted((line, check_named(f.check).title) for f in errors for line in f.lines),
        )
    return report
