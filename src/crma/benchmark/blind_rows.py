"""The data check against rows written by hand by those who had not seen its rules: the blind test.

The rows are in `blind/*.jsonl`, one an object: `prompt` and `completion`, or `raw`, a line that need not be JSON; which
checks must tell it (`planted`), may (`allowed`), or are tempted and must not (`decoy`); `group` where rows keep their
order; `note` says what it is. Their authors were given the checks' names and explanations, nothing else. Where a row
holds what looks like a key, a U+241F stands in the middle of it, for scanners of repositories, and is taken out here.

A file's first round is blind; whoever mends a rule after it has seen its rows. So a new file is measured alone first,
and then all of them together.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from crma.bench.quality import COMMAND, Blind, BlindRound, Count, read_quality
from crma.bench.receipt import write_receipt
from crma.benchmark.planting import TRAIN, Line
from crma.benchmark.planting_pool import clean_rows
from crma.benchmark.quality import count_told, told_lines, versions, with_lengths
from crma.benchmark.rivals import require_scikit_learn
from crma.data.quality.check import Settings, survey
from crma.data.quality.findings import check_named
from crma.errors import ConfigError
from crma.model.base import load_tokenizer

__all__ = ["BlindRow", "blind_rows", "measure_blind"]

_SPLIT = "\u241f"
_OF_TABLES = "formula"  # a check of spreadsheets' files alone
_CLEAN = 250  # rows of each of four domains among which the others stand


@dataclass(frozen=True, kw_only=True, slots=True)
class BlindRow:
    """`raw` is its line; `fields` is None where that is no row of prompt and completion."""

    raw: str
    fields: Mapping[str, str] | None
    note: str
    planted: frozenset[str]
    decoy: frozenset[str]
    allowed: frozenset[str]
    group: str | None

    def line(self) -> Line:
        about = "/".join(sorted(self.planted or self.decoy)) or "neither"
        return Line(
            raw=self.raw.encode("utf-8", "surrogatepass"),
            kind=f"{about}: {self.note}",
            planted=self.planted,
            decoy=self.decoy,
            allowed=self.allowed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    checks: dict[str, Count] = field(default_factory=dict)
    missed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tempted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    false: dict[str, tuple[str, ...]] = field(default_factory=dict)


def blind_rows(only: Collection[str] | None = None) -> list[BlindRow]:
    """Those of these files, or all of them; in the order of files."""
    found = []
    for name, text in _files().items():
        if only is not None and name not in only:
            continue
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                found.append(_row(json.loads(line.replace(_SPLIT, "").replace("\\u241f", "")), f"{name}, {number}"))
    return found


def measure_blind(
    data: Path,
    results: Path,
    work: Path,
    *,
    base: str = "smollm2-135m",
    say: Callable[[str], None] = lambda _text: None,
) -> Path | None:
    """Write `results/blind.json`, or add a round to it: of the files that it has not seen, or else of all. None where
    the last one of all came to the same.

    Raises:
        ConfigError: the receipt there is of other rows or another base.
    """
    require_scikit_learn()
    path = results / "blind.json"
    there = read_quality(path).blind if path.is_file() else None
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in _files().items()}
    if there is not None and (there.base != base or not there.data.items() <= hashes.items()):
        raise ConfigError(
            "the receipt there is of other rows, or of another base",
            where=path,
            next_step="move it away, or choose another --results folder; no receipt is overwritten",
        )
    new = tuple(name for name in hashes if there is None or name not in there.data)
    asked = new or tuple(hashes)
    rows = blind_rows(asked)
    say(f"the blind test: {len(rows)} rows by hand among clean ones")
    told = _measured(rows, data, work, base)
    last = there.rounds[-1] if there is not None else None
    if not new and last is not None and not last.blind and last.checks == told.checks:
        return None
    made = BlindRound(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        blind=bool(new),
        files=asked,
        checks=told.checks,
        missed=told.missed,
        tempted=told.tempted,
        false=told.false,
    )
    receipt = Blind(
        command=f"{COMMAND} --blind",
        packages=versions(),
        base=base,
        data=hashes,
        rows=len(blind_rows()),
        rounds=(*(there.rounds if there is not None else ()), made),
    )
    write_receipt(path, receipt.model_dump(exclude={"made", "machine"}))
    return path


def _files() -> dict[str, str]:
    folder = files("crma.benchmark") / "blind"
    return {p.name: p.read_text(encoding="utf-8") for p in sorted(folder.iterdir(), key=lambda p: p.name)}


def _row(told: dict[str, Any], where: str) -> BlindRow:
    sets = {name: frozenset(told.get(name, ())) for name in ("planted", "decoy", "allowed")}
    for name in frozenset.union(*sets.values()):
        check_named(name)
    if sum(len(of) for of in sets.values()) != len(frozenset.union(*sets.values())):
        raise ValueError(f"{where}: one check is told two ways")
    fields = None if "raw" in told else {name: told[name] for name in ("prompt", "completion")}
    raw = told["raw"] if fields is None else json.dumps(fields)
    return BlindRow(raw=raw, fields=fields, note=told["note"], group=told.get("group"), **sets)


def _measured(rows: Sequence[BlindRow], data: Path, work: Path, base: str) -> _Told:
    work.mkdir(parents=True, exist_ok=True)
    clean = [Line(raw=row.line(), kind="clean") for row in clean_rows(data, seed=0, each=_CLEAN)]
    tokenizer = load_tokenizer(base)
    settings = Settings(tokenizer=tokenizer, base=base, benchmarks=data / "benchmarks")
    lines = with_lengths(_among(rows, clean), tokenizer, settings.max_length)
    train = work / TRAIN
    train.write_bytes(b"".join(line.raw + b"\n" for line in lines))
    told = _Told()
    _count(told, lines, told_lines(survey([train], settings).report)[TRAIN], without=_OF_TABLES)

    table = work / "train.csv"
    of_table = [row for row in rows if row.fields is not None and all(text.strip() for text in row.fields.values())]
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(row.fields or {} for row in of_table)
    of_file = survey([table], Settings())
    assert of_file.report.rows == len(of_table)  # or the numbers of its rows would be others'
    numbers = of_file.hits.rows_of(_OF_TABLES).tolist()
    _count(told, [row.line() for row in of_table], {_OF_TABLES: frozenset(n + 1 for n in numbers)}, only=_OF_TABLES)
    return told


def _among(rows: Sequence[BlindRow], clean: Sequence[Line]) -> list[Line]:
    """All in one random order, but that a group's rows keep theirs."""
    draw = random.Random("blind")
    placed = [(draw.random(), line) for line in clean]
    places: dict[str, list[float]] = {}
    for row in rows:
        if row.group is not None:
            places.setdefault(row.group, []).append(draw.random())
    waiting = {group: iter(sorted(of)) for group, of in places.items()}
    for row in rows:
        placed.append((draw.random() if row.group is None else next(waiting[row.group]), row.line()))
    return [line for _, line in sorted(placed, key=lambda item: item[0])]


def _count(
    told: _Told, lines: Sequence[Line], found: Mapping[str, frozenset[int]], *, without: str = "", only: str = ""
) -> None:
    """Add the counts of these lines to what is told, and the rows that were errors."""
    checks, _, _ = count_told(lines, found, {})
    for name, counts in checks.items():
        if name == without or (only and name != only):
            continue
        told.checks[name] = counts
        kinds = [(line, number in found.get(name, ())) for number, line in enumerate(lines, start=1)]
        told.missed[name] = tuple(_noted(line) for line, is_told in kinds if name in line.planted and not is_told)
        told.tempted[name] = tuple(_noted(line) for line, is_told in kinds if name in line.decoy and is_told)
        known = [(line, is_told) for line, is_told in kinds if name not in line.planted | line.decoy | line.allowed]
        told.false[name] = tuple(_noted(line) for line, is_told in known if is_told)


def _noted(line: Line) -> str:
    """What a row is; of a clean one, which is not of this project, its hash."""
    if line.kind == "clean":
        return f"clean: {hashlib.sha256(line.raw).hexdigest()[:12]}"
    return line.kind.split(": ", 1)[1]
