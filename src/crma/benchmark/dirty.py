"""Is it worth it? One LoRA learnt from clean rows, from these with defects, and from what `clean` makes of the latter.

The loss that counts is that of clean test rows, which are the same for the three. What cannot be repaired by rule alone
(broken-off answers, refusals, another row's answer) stays in the cleaned rows: `clean` is run with its defaults.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crma.bench.quality import COMMAND, Training, TrainingRun, Version, read_quality
from crma.bench.receipt import write_receipt
from crma.benchmark import planting_texts as texts
from crma.benchmark.planting_pool import Plain, vocabulary
from crma.benchmark.quality import SEEDS, versions
from crma.benchmark.recipes import RECIPES, Plan
from crma.benchmark.streams import STREAMS, Stream, load_stream
from crma.data.domains import documents_of, split_hashes
from crma.data.quality.check import Settings, survey
from crma.data.quality.clean import changes_of, clean
from crma.data.sources import read_examples
from crma.errors import ConfigError
from crma.model.base import Base, load_base
from crma.train.config import LearnConfig
from crma.train.methods.naive import OneLora
from crma.types import Example, Split

__all__ = ["SHARES", "dirtied", "measure_training"]

DOMAIN = "medical"
VERSIONS: tuple[Version, ...] = ("base", "clean", "dirty", "cleaned", "cleaned-steps")
_COPIED = 4  # rows whose copies the duplicates are
# Of the training rows; the rest stays as it is.
SHARES: Mapping[str, float] = {
    "exact duplicates of four rows": 0.15,
    "near duplicates (two words of a hundred)": 0.10,
    "mojibake": 0.10,
    "remains of web pages": 0.10,
    "broken-off answers": 0.08,
    "refusals": 0.05,
    "N/A": 0.05,
    "other rows' answers": 0.05,
}


def plan() -> Plan:
    """The `small` recipe's far stream, with a hundred test rows."""
    far = RECIPES["small"].streams["far"]
    return replace(far, sizes=replace(far.sizes, test=100))


def measure_training(
    data: Path,
    results: Path,
    work: Path,
    *,
    seeds: Sequence[int] = SEEDS,
    base: str = "smollm2-135m",
    how: Plan | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Path | None:
    """Write to `results/training.json` the runs that it lacks, one by one; None where it has them all.

    Raises:
        ConfigError: the receipt there is of another base or of other settings.
    """
    how = how or plan()
    path = results / "training.json"
    told = {
        "command": f"{COMMAND} --train",
        "packages": versions(),
        "domain": DOMAIN,
        "config": {
            "learn": _config(how, seed=0).model_dump(mode="json", exclude={"seed"}),
            "sizes": {n: getattr(how.sizes, n) for n in ("train", "validation", "test", "max_tokens")},
        },
        "shares": dict(SHARES),
    }
    there = read_quality(path).training if path.is_file() else None
    if there is not None and (there.base.get("name"), there.config) != (base, told["config"]):
        raise ConfigError(
            "a receipt there is of another base or of other settings",
            where=path,
            next_step="move it away, or choose another --results folder; no receipt is overwritten",
        )
    runs = list(there.runs) if there else []
    test, cleaned = (dict(there.test), dict(there.cleaned)) if there else ({}, {})
    done = {(r.seed, r.version) for r in runs}
    todo: list[tuple[int, Version]] = [(s, v) for s in seeds for v in VERSIONS if (s, v) not in done]
    for number, (seed, version) in enumerate(todo, start=1):
        say(f"[{number}/{len(todo)}] {version} rows, seed {seed}")
        loaded = load_base(base)  # anew: a LoRA leaves its layers in the model
        split = _split(how, loaded, seed, data)
        rows: dict[Version, Sequence[Example]] = {"base": (), "clean": split.train}
        config = _config(how, seed=seed)
        if version not in rows:
            rows["dirty"], rows["cleaned"], cleaned[seed] = _versions(split, seed, loaded, how, work)
            rows["cleaned-steps"] = rows["cleaned"]
        if version == "cleaned-steps":
            epochs = config.epochs * len(rows["dirty"]) / len(rows["cleaned"])
            config = config.model_copy(update={"epochs": epochs})
        test[seed] = split_hashes(split)["test"]
        runs.append(_run(version, seed, rows[version], split, loaded, config))
        receipt = Training(
            **told,
            base={"name": base, "source": loaded.source, "weights_sha256": loaded.weights_sha256},
            test=test,
            cleaned=cleaned,
            runs=tuple(sorted(runs, key=lambda r: (r.seed, VERSIONS.index(r.version)))),
        )
        write_receipt(path, receipt.model_dump(mode="json", exclude={"made", "machine"}))
    return path if todo else None


def dirtied(rows: Sequence[Example], seed: int) -> list[Plain]:
    """As many rows, in another order, with defects at the SHARES."""
    draw = random.Random(f"dirty {seed}")
    plain = [Plain(prompt=row.prompt, completion=row.completion, domain=DOMAIN) for row in rows]
    words = vocabulary(plain)
    draw.shuffle(plain)
    counts = {name: round(share * len(plain)) for name, share in SHARES.items()}
    spoilt: list[Plain] = []
    for name in list(SHARES)[2:]:
        of = [r for r in plain if name != "broken-off answers" or len(r.completion.split()) >= 12][: counts[name]]
        plain = [row for row in plain if row not in of]
        spoilt += _spoilt(name, of, draw)
    exact, near = list(counts.values())[:2]
    # The copies take the place of rows that are gone, so that all versions but the cleaned one have as many.
    gone, kept = plain[: exact + near], plain[exact + near :]
    copied = [kept[i % _COPIED] for i in range(exact)]
    edited = [texts.edited(row, 0.02, words, draw) for row in kept[_COPIED : _COPIED + near]]
    found = [*kept, *copied, *edited, *spoilt]
    if len(gone) != exact + near or len(edited) != near or len(found) != len(rows):
        raise ConfigError("too few rows for these defects", expected=len(rows), got=len(found))
    draw.shuffle(found)
    return found


def _spoilt(name: str, rows: Sequence[Plain], draw: random.Random) -> list[Plain]:
    if name == "other rows' answers":
        return [row.saying(rows[i - 1].completion) for i, row in enumerate(rows)]
    spoil: dict[str, Callable[[Plain], Plain]] = {
        "mojibake": lambda r: r.asking(_misread(r.prompt)).saying(_misread(r.completion)),
        "remains of web pages": lambda r: texts.web_remains(r, draw),
        "broken-off answers": lambda r: texts.truncated(r, draw),
        "refusals": lambda r: r.saying(draw.choice(texts.REFUSALS)),
        "N/A": lambda r: r.saying("N/A"),
    }
    return [spoil[name](row) for row in rows]


def _misread(text: str) -> str:
    return texts.misread(texts.typeset(text), "cp1252")


def _split(how: Plan, base: Base, seed: int, data: Path) -> Split:
    far = STREAMS["far"]
    alone = Stream(name=DOMAIN, kind="far", orders=((DOMAIN,),), sources={DOMAIN: far.sources[DOMAIN]})
    return load_stream(alone, how.sizes, base.tokenizer, seed=seed, data=data)[DOMAIN]


def _versions(
    split: Split, seed: int, base: Base, how: Plan, work: Path
) -> tuple[Sequence[Example], Sequence[Example], dict[str, int]]:
    """(dirty rows, what `clean` makes of them with its defaults, rows it changed by check)."""
    work.mkdir(parents=True, exist_ok=True)
    dirty, cleaned = work / f"dirty-{seed}.jsonl", work / f"cleaned-{seed}.jsonl"
    for old in (dirty, cleaned, changes_of(cleaned)):
        old.unlink(missing_ok=True)
    dirty.write_bytes(b"".join(row.line() + b"\n" for row in dirtied(split.train, seed)))
    settings = Settings(tokenizer=base.tokenizer, base=base.source, max_length=how.sizes.max_tokens)
    done = clean(dirty, cleaned, survey([dirty], settings))
    return read_examples(dirty), read_examples(cleaned), dict(done.by_check)


def _config(how: Plan, *, seed: int) -> LearnConfig:
    """One LoRA without a backbone, of the size that the benchmark's conditions without one have."""
    return how.learn.model_copy(update={"rank": how.matched_rank, "seed": seed})


def _run(
    version: Version, seed: int, rows: Sequence[Example], split: Split, base: Base, config: LearnConfig
) -> TrainingRun:
    began = time.perf_counter()
    one = OneLora(base, config)
    tokens = one.learn(DOMAIN, one.render(rows)) if rows else 0
    tests = one.render(split.test)
    score = one.score(tests, untouched=not rows)
    documents: dict[Any, int] = {}
    return TrainingRun(
        version=version,
        seed=seed,
        rows=len(rows),
        tokens=tokens,
        data=hashlib.sha256("\n".join(row.content_hash for row in rows).encode()).hexdigest(),
        seconds=time.perf_counter() - began,
        losses=score.losses,
        tokens_of_rows=tuple(sum(row.supervised[1:]) for row in tests),
        documents=tuple(documents.setdefault(d, len(documents)) for d in documents_of(split.test)),
    )
