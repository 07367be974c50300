"""Every check over files of rows, in one pass and what can only be said after it, holding no row in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crma.data.quality.answers import AnswerCheck, BoilerplateCheck
from crma.data.quality.benchmarks import BenchmarkCheck
from crma.data.quality.damage import DamageCheck
from crma.data.quality.duplicates import DuplicateCheck, Part
from crma.data.quality.findings import Finding, Report, by_severity, check_named
from crma.data.quality.hits import Hits, shown
from crma.data.quality.personal import find_personal
from crma.data.quality.presidio import PresidioCheck
from crma.data.quality.row import Hit, Row, RowCheck, row_of
from crma.data.quality.shape import FormulaCheck, LanguageCheck, LengthCheck, OutlierCheck
from crma.data.quality.spool import Spool
from crma.data.sources import files_of, is_held_out, read_records
from crma.errors import DataError
from crma.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Progress", "Settings", "Surveyed", "stamp_of", "survey"]

_CHUNK = 1000
_SHOWN_FAULTS = 5

Progress = Callable[[int, int, int], None]  # bytes read, bytes in all, rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the checks need to know besides the rows.

    Attributes:
        tokenizer: the base's; without it lengths are told in characters, and none is too long.
        reserved: rows that judge the domains of a stack, by a name to tell them by.
        benchmarks: a folder of public benchmarks.
        presidio: a spaCy pipeline, or presidio's configuration, by which `pii_other` is told.
        skip: checks that are not made.
        more: further checks, of those who know a model; of rows that are to be learnt.
        unmade: checks that the caller could not prepare, and why.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    base: str = ""
    max_length: int = 512
    reserved: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    benchmarks: Path | None = None
    presidio: str | None = None
    skip: frozenset[str] = frozenset()
    more: Sequence[RowCheck] = ()
    unmade: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """The report, and which rows it is about: `hits` counts good rows of all sources from 0, `first_row` where each
    file's begin; `stamps` is what each file was when it was opened."""

    report: Report
    hits: Hits
    first_row: Mapping[Path, int]
    stamps: Mapping[Path, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class _Source:
    path: Path
    part: Part


class PersonalCheck(RowCheck):
    """`secret` and the checks of personal data."""

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        for row in rows:
            told: set[str] = set()
            for span in find_personal(row.text):
                if span.check not in told:
                    told.add(span.check)
                    yield Hit(row.number, span.check, span.kind, span.start)


def survey(
    paths: Sequence[Path], settings: Settings, *, held_out: Sequence[Path] = (), progress: Progress | None = None
) -> Surveyed:
    """Check files or folders.

    With several, those named for a held-out split (test, validation, dev and so on) must share nothing with the others;
    `held_out` must not, whatever their names.

    Raises:
        DataError: a file cannot be read at all, or holds nothing.
        ConfigError: `skip` names a check that is none.
    """
    started = time.monotonic()
    for name in settings.skip:
        check_named(name)
    sources = _sources(paths, held_out)
    names = [*settings.reserved, *(source.part.name for source in sources)]
    parts = [*(Part(name=name, role="reserved") for name in settings.reserved), *(source.part for source in sources)]
    checks = _checks(settings, parts, sources)
    hits, files, first_row = Hits(), [], {}
    faulty: list[Finding] = []
    total, done = sum(_size(source.path) for source in sources), 0
    stamps = {source.path: stamp_of(source.path) for source in sources}

    with Spool() as spool:

        def told(at: int, rows: int) -> None:
            if progress is not None:
                progress(done + at, total, rows)

        def see(rows: Iterator[Row], looking: Sequence[RowCheck]) -> None:
            while chunk := tuple(islice(rows, _CHUNK)):
                spool.extend(chunk)
                for check in looking:
                    hits.add((hit for hit in check.see(chunk) if hit.check not in settings.skip), chunk, spool)

        for number, rows in enumerate(settings.reserved.values()):
            see(_reserved(rows, number, spool), checks[:1])
        reserved = len(spool)
        for number, source in enumerate(sources, start=len(settings.reserved)):
            before = len(spool)
            first_row[source.path] = before
            faults = _Faults()
            size = _size(source.path)
            learnt = source.part.role == "train"  # of held-out rows no time of training, and no overlap
            see(_rows(source, number, before, faults, told), [*checks, *settings.more] if learnt else checks)
            done += size
            files.append(
                {
                    "name": source.part.name,
                    "bytes": size,
                    "rows": len(spool) - before,
                    "faulty": faults.count,
                    "role": source.part.role,
                }
            )
            if faults.count and "schema" not in settings.skip:
                faulty.append(faults.finding(source.part.name))
        if len(spool) == reserved and not faulty:
            raise DataError(
                "there are no rows to check",
                where=", ".join(str(path) for path in paths),
                next_step="name a file that holds rows",
            )
        facts: dict[str, Any] = {}
        unmade = {**settings.unmade, **_off(settings)}
        for check in (*checks, *settings.more):
            found = check.finish(spool)
            hits.add((hit for hit in found if hit.check not in settings.skip and hit.row >= reserved), (), spool)
            facts |= check.facts()
            unmade |= check.skipped()
        findings = by_severity([*faulty, *hits.findings(spool, names)])
        rows = len(spool) - reserved
    report = Report(
        files=tuple(files),
        rows=rows,
        findings=findings,
        facts=facts,
        skipped=unmade,
        seconds=time.monotonic() - started,
    )
    return Surveyed(report=report, hits=hits, first_row=first_row, stamps=stamps)


def _checks(settings: Settings, parts: Sequence[Part], sources: Sequence[_Source]) -> list[RowCheck]:
    """Of the rows alone. Duplicates first: they also look at reserved rows."""
    delimited = frozenset(
        number
        for number, source in enumerate(sources, start=len(settings.reserved))
        if source.path.suffix.lower() in {".csv", ".tsv"}
    )
    checks: list[RowCheck] = [
        DuplicateCheck(parts),
        DamageCheck(),
        AnswerCheck(),
        BoilerplateCheck(),
        OutlierCheck(),
        PersonalCheck(),
        LanguageCheck(),
    ]
    if delimited:
        checks.append(FormulaCheck(delimited))
    if settings.tokenizer is not None:
        checks.append(LengthCheck(settings.tokenizer, settings.max_length, settings.base))
    if settings.benchmarks is not None and "leak_benchmark" not in settings.skip:
        checks.append(BenchmarkCheck(settings.benchmarks))
    if settings.presidio is not None and "pii_other" not in settings.skip:
        checks.append(PresidioCheck(settings.presidio))
    return checks


def _off(settings: Settings) -> dict[str, str]:
    off = dict.fromkeys(settings.skip, "switched off")
    if settings.tokenizer is None:
        off.setdefault("too_long", "no base model to count tokens with")
    if settings.benchmarks is None:
        off.setdefault("leak_benchmark", "no folder of benchmarks")
    if settings.presidio is None:
        off.setdefault("pii_other", "presidio was not asked")
    if not settings.reserved:
        off.setdefault("leak_stack", "no stack, or it keeps no rows")
    return off


def _sources(paths: Sequence[Path], held_out: Sequence[Path]) -> list[_Source]:
    """Held-out files first: rows of the others are told when they are among theirs."""
    files: list[tuple[Path, str, bool]] = []
    for path, apart in [*((p, False) for p in paths), *((p, True) for p in held_out)]:
        for file in files_of(path, held_out=True):
            files.append((file, file.name if path.is_file() else str(file.relative_to(path)), apart))
    seen: set[Path] = set()
    for file, _, _ in files:
        if (real := file.resolve()) in seen:
            raise DataError("this file is given twice", where=file, next_step="name it once")
        seen.add(real)
    names = [name for _, name, _ in files]
    by_name = [is_held_out(name) for name in names]
    if all(by_name) or held_out:
        by_name = [False] * len(files)
    sources = [
        _Source(
            path=file,
            part=Part(
                name=name if names.count(name) == 1 else str(file), role="held-out" if apart or named else "train"
            ),
        )
        for (file, name, apart), named in zip(files, by_name, strict=True)
    ]
    return sorted(sources, key=lambda source: source.part.role != "held-out")


class _Faults:
    """Rows that could not be read."""

    def __init__(self) -> None:
        self.lines: list[int] = []
        self.examples: list[dict[str, Any]] = []
        self.kinds: dict[str, int] = {}

    @property
    def count(self) -> int:
        return len(self.lines)

    def add(self, line: int, kind: str, fault: str) -> None:
        self.lines.append(line)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if len(self.examples) < _SHOWN_FAULTS:
            self.examples.append({"line": line, "text": shown(fault, 0, around=200)})

    def finding(self, file: str) -> Finding:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items(), key=lambda i: -i[1]))
        lines, examples = tuple(self.lines), tuple(self.examples)
        return Finding(
            check="schema", severity="error", count=len(lines), lines=lines, file=file, examples=examples, note=kinds
        )


def _rows(source: _Source, number: int, first: int, faults: _Faults, at: Callable[[int, int], Any]) -> Iterator[Row]:
    row = first
    for record in read_records(source.path):
        if record.example is None:
            faults.add(record.line, record.kind, record.fault or "")
            continue
        yield row_of(record.example, number=row, source=number, line=record.line)
        row += 1
        if row % _CHUNK == 0:
            at(record.end, row)
    at(_size(source.path), row)


def _reserved(rows: Sequence[Example], source: int, spool: Spool) -> Iterator[Row]:
    first = len(spool)
    for place, example in enumerate(rows):
        yield row_of(example, number=first + place, source=source, line=example.line or place + 1)


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change: other rows in equal number are not what was checked."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
