"""The data check on a large file: how long it takes and how much memory, in a process of its own.

python -m crma.benchmark.scale FILE BASE
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crma.bench.quality import COMMAND, Scale, read_quality
from crma.bench.receipt import write_receipt
from crma.benchmark.planting_personal import PERSONAL
from crma.benchmark.planting_pool import Plain, read_plain, vocabulary
from crma.benchmark.planting_texts import edited
from crma.benchmark.quality import versions
from crma.errors import CrmaError

__all__ = ["DOMAINS", "measure_scale", "write_rows"]

DOMAINS = ("medical", "legal", "financial", "code", "science")
_SEED = 0
_CHARACTERS = 700  # of an answer; with question and JSON a row is about 1 KB
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_SHARES = {"duplicate": 0.02, "near_duplicate": 0.01, "pii_email": 0.005, "pii_phone": 0.005, "pii_iban": 0.002}
_REMEMBERED = 1000  # earlier rows that a copy may be of


def measure_scale(
    data: Path,
    results: Path,
    work: Path,
    rows: int,
    *,
    base: str = "smollm2-135m",
    say: Callable[[str], None] = lambda _text: None,
) -> Path | None:
    """Write `results/scale.json`; None where there is one of as many rows.

    Raises:
        CrmaError: the process that checks has failed.
    """
    path = results / "scale.json"
    if path.is_file() and (there := read_quality(path).scale) is not None and there.rows == rows:
        return None
    file = work / f"scale-{rows}.jsonl"
    say(f"writing {rows:,} rows")
    planted = write_rows(file, data, rows, seed=_SEED)
    say(f"checking {file.stat().st_size / 2**20:,.0f} MB")
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "crma.benchmark.scale", str(file), base],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    whole = time.perf_counter() - began
    if done.returncode:
        raise CrmaError("the check of the large file failed", where=file, got=f"exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    receipt = Scale(
        command=f"{COMMAND} --scale {rows}",
        packages=versions(),
        seed=_SEED,
        bytes=file.stat().st_size,
        data={file.name: digest},
        planted=planted,
        whole_seconds=whole,
        **found,
    )
    write_receipt(path, receipt.model_dump(exclude={"made", "machine"}))
    file.unlink()
    return path


def write_rows(file: Path, data: Path, rows: int, *, seed: int) -> dict[str, int]:
    """Rows that are made of sentences of one domain each, a tenth of their words replaced, under a question of which a
    third is; and a few copies and pieces of personal data. Returns how many of these were planted."""
    draw = random.Random(f"scale {seed}")
    sources = [[*read_plain(data / "domains" / f"{domain}.jsonl", domain)] for domain in DOMAINS]
    sentences = [[s for row in of for s in _SENTENCE.split(row.completion) if 20 <= len(s) <= 400] for of in sources]
    words = vocabulary(row for of in sources for row in of)
    planted: Counter[str] = Counter()
    earlier: list[Plain] = []
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        for _ in range(rows):
            kind = draw.choices((*_SHARES, ""), (*_SHARES.values(), 1 - sum(_SHARES.values())))[0]
            if kind in ("duplicate", "near_duplicate") and earlier:
                row = draw.choice(earlier)
                row = row if kind == "duplicate" else edited(row, 0.02, words, draw)
            else:
                of = draw.randrange(len(DOMAINS))
                row = _made(draw.choice(sources[of]).prompt[:300], sentences[of], words, draw)
                if kind in PERSONAL:
                    row = row.saying(f"{row.completion} {PERSONAL[kind](draw)}")
                if len(earlier) < _REMEMBERED:
                    earlier.append(row)
                else:
                    earlier[draw.randrange(_REMEMBERED)] = row
            planted[kind] += 1
            stream.write(row.line() + b"\n")
    return {name: planted[name] for name in _SHARES}


def _made(question: str, sentences: list[str], words: list[str], draw: random.Random) -> Plain:
    answer: list[str] = []
    length = 0
    wanted = draw.randint(_CHARACTERS // 2, 3 * _CHARACTERS // 2)
    while length < wanted:
        answer.append(draw.choice(sentences))
        length += len(answer[-1])
    return Plain(prompt=_mixed(question, 3, words, draw), completion=_mixed(" ".join(answer), 10, words, draw))


def _mixed(text: str, one_in: int, words: list[str], draw: random.Random) -> str:
    """One word in so many replaced, and one more at its end: questions of two words are to differ as well."""
    parts = text.split(" ")
    for place in draw.sample(range(len(parts)), len(parts) // one_in):
        parts[place] = draw.choice(words)
    return " ".join([*parts, draw.choice(words) + "."])


def _check(file: Path, base: str) -> dict[str, Any]:
    from crma.benchmark.memory import peak_memory_mb
    from crma.checking import check_data

    began = time.process_time()
    report = check_data(file, base=base, use_model=False)
    cpu = time.process_time() - began
    told: Counter[str] = Counter()
    for finding in report.findings:
        told[finding.check] += finding.count
    return {
        "rows": report.rows,
        "seconds": report.seconds,
        "cpu_seconds": cpu,
        "peak_mb": peak_memory_mb(),
        "told": dict(told),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_check(Path(sys.argv[1]), sys.argv[2])))
