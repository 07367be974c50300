"""The data check against planted defects: what it finds of them, what it tells falsely, and what cleaning leaves."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from crma.bench.quality import COMMAND, Cleaning, Count, Planted, PlantedSeed, read_quality
from crma.bench.receipt import write_receipt
from crma.benchmark.planting import TEST, TRAIN, Line, plant
from crma.benchmark.planting import Planted as Truth
from crma.benchmark.rivals import require_scikit_learn
from crma.data.quality.check import Settings, survey
from crma.data.quality.clean import changes_of, clean, undo
from crma.data.quality.findings import CHECKS, Report
from crma.data.render import ensure_chat_template
from crma.errors import ConfigError
from crma.model.base import load_tokenizer

__all__ = ["SEEDS", "count_told", "measure_planted", "versions"]

SEEDS = (0, 42, 1234)
_EACH, _CLEAN = 40, 600
_RESTS_ON = ("ftfy", "phonenumbers", "python-stdnum", "datasketch", "py3langid", "scikit-learn")


def measure_planted(
    data: Path,
    results: Path,
    work: Path,
    *,
    seeds: Sequence[int] = SEEDS,
    base: str = "smollm2-135m",
    each: int = _EACH,
    clean_each: int = _CLEAN,
    say: Callable[[str], None] = lambda _text: None,
) -> Path | None:
    """Write `results/planted.json`, or add the seeds that it lacks; None where it has them all.

    Raises:
        ConfigError: the receipt there is of another base or size, or scikit-learn is not installed.
    """
    require_scikit_learn()
    path = results / "planted.json"
    there = read_quality(path).planted if path.is_file() else None
    if there is not None and (there.base, there.each) != (base, each):
        raise ConfigError(
            "a receipt there is of another base or size",
            where=path,
            expected=f"{base}, {each} rows of a kind",
            got=f"{there.base}, {there.each}",
            next_step="move it away, or choose another --results folder; no receipt is overwritten",
        )
    done = {seed.seed: seed for seed in there.seeds} if there is not None else {}
    todo = [seed for seed in seeds if seed not in done]
    for seed in todo:
        say(f"planted defects, seed {seed}")
        truth = plant(work / f"planted-{seed}", data, seed=seed, each=each, clean=clean_each)
        done[seed] = _measured(truth, seed, data / "benchmarks", base)
        receipt = Planted(
            command=f"{COMMAND} {' '.join(f'--seeds {s}' for s in sorted(done))}",
            packages=versions(),
            base=base,
            each=each,
            seeds=tuple(done[s] for s in sorted(done)),
        )
        write_receipt(path, receipt.model_dump(exclude={"made", "machine"}))
    return path if todo else None


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _RESTS_ON}


def _measured(truth: Truth, seed: int, benchmarks: Path, base: str) -> PlantedSeed:
    tokenizer = load_tokenizer(base)
    settings = Settings(tokenizer=tokenizer, base=base, reserved=truth.reserved, benchmarks=benchmarks)
    lines = with_lengths(truth.lines, tokenizer, settings.max_length)
    found = survey([truth.train, truth.test], settings)
    told = told_lines(found.report)
    checks, kinds, false = count_told(lines, told[TRAIN], {n: len(t) for n, t in told[TEST].items()})
    table = survey([truth.table], Settings()).hits.rows_of("formula").tolist()
    of_table = count_told(truth.cells, {"formula": frozenset(row + 1 for row in table)}, {})
    checks, kinds, false = checks | of_table[0], kinds | of_table[1], false | of_table[2]
    near = told[TRAIN].get("near_duplicate", frozenset())
    edits = [
        (line.kind.split("/")[1], line.similarity, number in near)
        for number, line in enumerate(truth.lines, start=1)
        if line.kind.startswith("near_duplicate/") and line.similarity is not None
    ]
    output, restored = (truth.train.with_name(name) for name in ("cleaned.jsonl", "restored.jsonl"))
    for old in (output, changes_of(output), restored):
        old.unlink(missing_ok=True)
    done = clean(truth.train, output, found)
    undo(output, restored)
    again = told_lines(survey([output, truth.test], settings).report)[output.name]
    return PlantedSeed(
        seed=seed,
        rows=len(truth.lines),
        data={
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (truth.train, truth.test, truth.table)
        },
        seconds=found.report.seconds,
        checks=checks,
        kinds=kinds,
        edits=tuple(edits),
        false=false,
        cleaning=Cleaning(
            rows=done.rows,
            kept=done.kept,
            edited=done.edited,
            dropped=done.dropped,
            by_check=done.by_check,
            restored=restored.read_bytes() == truth.train.read_bytes(),
            left={name: len(lines) for name, lines in again.items()},
        ),
    )


def with_lengths(lines: Sequence[Line], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Line]:
    """The truth of `too_long`: what the chat template makes of a row, counted whole, by the tokenizer alone. Rows that
    are too long by accident (loops, tables of numbers) are neither planted nor false."""
    ensure_chat_template(tokenizer)
    found = []
    for line in lines:
        if "schema" not in line.planted and len(line.raw) > max_length:  # a token has one byte at least
            row = json.loads(line.raw)
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
            whole = tokenizer.apply_chat_template(turns, tokenize=False)
            if len(tokenizer(str(whole), add_special_tokens=False)["input_ids"]) > max_length:  # pyright: ignore[reportArgumentType]
                found.append(replace(line, allowed=line.allowed | ({"too_long"} - line.planted)))
                continue
        found.append(line)
    return found


def told_lines(report: Report) -> dict[str, dict[str, frozenset[int]]]:
    """file -> check -> lines."""
    found: dict[str, dict[str, frozenset[int]]] = {str(file["name"]): {} for file in report.files}
    for finding in report.findings:
        found[finding.file][finding.check] = frozenset(finding.lines)
    return found


def count_told(
    lines: Sequence[Line], told: Mapping[str, frozenset[int]], elsewhere: Mapping[str, int]
) -> tuple[dict[str, Count], dict[str, tuple[int, int]], dict[str, dict[str, int]]]:
    """Counts by check, (rows, told) by kind, and false rows by check and kind, of those that were planted or tempted.

    Args:
        lines: the truth, of lines 1, 2, …
        told: by check.
        elsewhere: rows that a check told in a file in which nothing was planted.
    """
    checks: dict[str, Count] = {}
    false: dict[str, dict[str, int]] = {}
    kinds: dict[str, list[int]] = {}
    wanted = {check for line in lines for check in line.planted | line.decoy}
    for check in (name for name in CHECKS if name in wanted):
        numbers = told.get(check, frozenset())
        counts = {"planted": 0, "found": 0, "false": elsewhere.get(check, 0), "decoys": 0, "tempted": 0}
        if counts["false"]:
            false.setdefault(check, {})["another file"] = counts["false"]
        for number, line in enumerate(lines, start=1):
            if check in line.planted:
                counts["planted"] += 1
                counts["found"] += number in numbers
            elif check in line.decoy:
                counts["decoys"] += 1
                counts["tempted"] += number in numbers
            elif number in numbers and check not in line.allowed:
                counts["false"] += 1
                by_kind = false.setdefault(check, {})
                by_kind[line.kind] = by_kind.get(line.kind, 0) + 1
        checks[check] = Count(**counts)
    for number, line in enumerate(lines, start=1):
        if about := line.planted | line.decoy:
            entry = kinds.setdefault(line.kind, [0, 0])
            entry[0] += 1
            entry[1] += any(number in told.get(check, ()) for check in about)
    return checks, {kind: (n[0], n[1]) for kind, n in sorted(kinds.items())}, false
