"""The checks that ask a model: `hard` and `easy` (the base's loss) and `overlap` (the router), on rows whose truth is
known because it was made.

hard: of a domain's clean rows a fifth are given one another's answers, the mildest mislabel there is. easy: rows whose
answer copies itself are put among them. overlap: two domains are learnt by a router; the file to check is of a third
one, and of rows of the first that the router has not seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from crma.bench.classification import auroc
from crma.bench.quality import COMMAND, ModelCase, OfModel, read_quality
from crma.bench.receipt import write_receipt
from crma.benchmark.planting import Line
from crma.benchmark.planting_pool import Plain, clean_rows
from crma.benchmark.quality import SEEDS, count_told, told_lines, versions
from crma.benchmark.rivals import require_scikit_learn
from crma.benchmark.streams import STREAMS, Sizes, load_stream
from crma.data.domains import documents_of
from crma.data.quality.check import Settings, survey
from crma.data.quality.row import RowCheck
from crma.errors import ConfigError, DataError
from crma.model.base import Base, load_base
from crma.probe import OverlapCheck, RowScores
from crma.route.background import BACKGROUND_PROMPTS
from crma.route.centroid import Router
from crma.route.seen import FEATURES, seen_of
from crma.types import Example

__all__ = ["measure_model"]

_FAR = STREAMS["far"]
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.5)
_LEARNT, _NEW = ("medical", "financial"), "legal"
_SIZES = Sizes(train=200, validation=50, test=150, max_tokens=512)


def measure_model(
    data: Path,
    results: Path,
    work: Path,
    *,
    seeds: Sequence[int] = SEEDS,
    base: str = "smollm2-135m",
    each: int = 100,
    asked: int = 300,
    domains: Sequence[str] = _FAR.domains,
    sizes: Sizes = _SIZES,
    say: Callable[[str], None] = lambda _text: None,
) -> Path | None:
    """Write `results/model.json`, or add the seeds that it lacks; None where it has them all.

    Args:
        each: clean rows a domain, or as many as there are, of which a fifth are exchanged.
        asked: rows of the file whose overlap is told.

    Raises:
        ConfigError: the receipt there is of another base.
        DataError: the domains have too few rows.
    """
    require_scikit_learn()
    path = results / "model.json"
    there = read_quality(path).model if path.is_file() else None
    if there is not None and there.base.get("name") != base:
        raise ConfigError(
            "a receipt there is of another base",
            where=path,
            expected=base,
            got=there.base.get("name"),
            next_step="move it away, or choose another --results folder; no receipt is overwritten",
        )
    cases = list(there.cases) if there is not None else []
    todo = [seed for seed in seeds if seed not in {case.seed for case in cases}]
    if not todo:
        return None
    loaded = load_base(base)
    work.mkdir(parents=True, exist_ok=True)
    for seed in todo:
        for domain in domains:
            say(f"the base's loss, seed {seed}, {domain}")
            cases += _scored(loaded, data, work, domain, seed=seed, each=each)
        say(f"the router, seed {seed}")
        cases += _overlapping(loaded, data, work, seed=seed, asked=asked, sizes=sizes)
        receipt = OfModel(
            command=f"{COMMAND} --model",
            packages=versions(),
            base={"name": base, "weights_sha256": loaded.weights_sha256},
            cases=tuple(cases),
        )
        write_receipt(path, receipt.model_dump(exclude={"made", "machine"}))
    return path


def _scored(base: Base, data: Path, work: Path, domain: str, *, seed: int, each: int) -> list[ModelCase]:
    draw = random.Random(f"scored {seed} {domain}")
    rows = clean_rows(data, seed=seed, each=each, domains=(domain,))
    if 2 * len(rows) < each:
        raise DataError("too few clean rows", where=domain, expected=f"at least {each // 2}", got=len(rows))
    count = max(2, len(rows) // 5)
    exchanged, sound = rows[:count], rows[count:]
    mislabelled = [
        row.saying(other.completion) for row, other in zip(exchanged, exchanged[1:] + exchanged[:1], strict=True)
    ]
    lines = [
        *(_line(row, "another row's answer", "hard") for row in mislabelled),
        *(_line(row, "clean") for row in sound),
        *(_line(row, kind, "easy") for kind, row in _by_heart(draw, count)),
    ]
    draw.shuffle(lines)
    scores = RowScores(base, None, rows=len(lines))
    told = _told(lines, scores, work / "scored.jsonl")
    gains = dict(zip(scores.scored.numbers, scores.scored.strange - scores.scored.given, strict=True))
    losses = dict(zip(scores.scored.numbers, scores.scored.given, strict=True))
    return [
        ModelCase(
            seed=seed,
            check=check,
            case=domain,
            rows=len(lines),
            count=count_told(lines, told, {})[0][check],
            auroc=_area(lines, check, ((n, -x) for n, x in values.items())),
            auroc_loss=_area(lines, check, losses.items()) if check == "hard" else None,
        )
        for check, values in (("hard", gains), ("easy", losses))
    ]


def _by_heart(draw: random.Random, count: int) -> Iterable[tuple[str, Plain]]:
    """Rows whose answer, but for its first words, nobody could get wrong."""
    for i in range(count):
        first = draw.randrange(2, 40)
        if i % 2:
            numbers = ", ".join(str(n) for n in range(first, first + 60))
            yield "counting", Plain(prompt=f"Count from {first} to {first + 59}.", completion=f"{numbers}.")
        else:
            line = f"Row {first} of the form is left empty."
            yield (
                "one line again and again",
                Plain(prompt=f"Write this line forty times: {line}", completion="\n".join([line] * 40)),
            )


class _Known:
    """What OverlapCheck asks of a stack: a router, and features, which are computed once."""

    def __init__(self, base: Base) -> None:
        self._base, self._router = base, None
        self._features: dict[str, np.ndarray] = {}

    def learn(self, splits: Mapping[str, tuple[Sequence[Example], Sequence[Example]]]) -> None:
        router = Router.empty(self.features(BACKGROUND_PROMPTS), features=FEATURES)
        for domain, (own, held_out) in splits.items():
            router = router.with_domain(
                domain,
                self.features([e.prompt for e in own]),
                self.features([e.prompt for e in held_out]),
                documents=documents_of(held_out),
            )
        self._router = router

    def router(self) -> Router | None:
        return self._router

    def features(self, texts: Sequence[str]) -> np.ndarray:
        missing = [text for text in dict.fromkeys(texts) if text not in self._features]
        if missing:
            found = seen_of(self._base.model, self._base.tokenizer, missing, FEATURES)
            self._features |= dict(zip(missing, found, strict=True))
        return np.stack([self._features[text] for text in texts])


def _overlapping(base: Base, data: Path, work: Path, *, seed: int, asked: int, sizes: Sizes) -> list[ModelCase]:
    splits = load_stream(_FAR, sizes, base.tokenizer, seed=seed, data=data)
    known = _Known(base)
    known.learn({domain: (splits[domain].train, splits[domain].validation) for domain in _LEARNT})
    inside = [_plain(e) for e in splits[_LEARNT[0]].test]
    outside = [_plain(e) for part in ("train", "validation", "test") for e in getattr(splits[_NEW], part)]
    cases = []
    for share in _SHARES:
        of_known = round(asked * share)
        if of_known > len(inside) or asked - of_known > len(outside):
            raise DataError("too few rows for a file of this overlap", expected=asked, got=len(inside) + len(outside))
        lines = [
            *(_line(row, f"of {_LEARNT[0]}", "overlap") for row in inside[:of_known]),
            *(_line(row, f"of {_NEW}", decoy="overlap") for row in outside[: asked - of_known]),
        ]
        random.Random(f"overlap {seed} {share}").shuffle(lines)
        told = _told(lines, OverlapCheck(known), work / "overlap.jsonl")
        cases.append(
            ModelCase(
                seed=seed,
                check="overlap",
                case=f"{share:.0%}",
                rows=len(lines),
                count=count_told(lines, told, {})[0]["overlap"],
            )
        )
    return cases


def _told(lines: Sequence[Line], check: RowCheck, file: Path) -> Mapping[str, frozenset[int]]:
    file.write_bytes(b"".join(line.raw + b"\n" for line in lines))
    return told_lines(survey([file], Settings(more=[check])).report)[file.name]


def _line(row: Plain, kind: str, planted: str | None = None, decoy: str | None = None) -> Line:
    return Line(
        raw=row.line(),
        kind=kind,
        planted=frozenset({planted} if planted else ()),
        decoy=frozenset({decoy} if decoy else ()),
    )


def _plain(example: Example) -> Plain:
    return Plain(prompt=example.prompt, completion=example.completion)


def _area(lines: Sequence[Line], check: str, scores: Iterable[tuple[int, float]]) -> float:
    """How well a score, high where the check is to tell, parts its rows from clean ones; numbers of rows from 0."""
    of = {True: [], False: []}
    for number, score in scores:
        line = lines[number]
        if check in line.planted or not line.planted:
            of[check in line.planted].append(float(score))
    return auroc(of[True], of[False])
