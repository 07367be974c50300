"""The data check's tables, as Markdown, by name: "quality/checks", "quality/edits" and so on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from crma.bench.cells import markdown_table
from crma.bench.quality import (
    MECHANICAL,
    Blind,
    Count,
    OfModel,
    Planted,
    Quality,
    Scale,
    Training,
    Version,
    below,
    pooled,
    relative_difference,
)
from crma.bench.resampling import Bootstrap
from crma.bench.statistics import wilson

__all__ = ["QUALITY_TITLES", "quality_made", "quality_tables"]

QUALITY_TITLES: Mapping[str, tuple[str, str]] = {
    "quality/checks": (
        "Planted defects",
        "Clean rows of medicine, code, science and finance, chosen without the checker; each defect is planted in rows "
        "of its own, each seed draws rows and defects anew. *False*: told by a check whose defect they were not given. "
        "*Decoys*: rows that resemble the defect (wrong check digits, ISBNs, hashes, `a < b && c`, accents) and how "
        "many were told all the same. Precision counts both. [Brackets]: Wilson, 95 %, over rows of all seeds. A near "
        "duplicate is a copy of similarity 0.8 and more; those below it count as ordinary rows. Not blind: "
        "after a look at the first seeds rules of `markup`, `language` and `leak_benchmark` were mended, and planted "
        "rows changed whose truth was open (LOG.md); rows that people spoilt are harder than these.",
    ),
    "quality/blind": (
        "Rows that others wrote",
        "Every row by hand, by authors who were given the names of the checks and one sentence on each, and had seen "
        "neither rules nor the rows above; put among clean rows. They are harder than planted ones: real formats of "
        "many countries, half-finished sentences, decoys as near as they could be made. After the first "
        "round rules were mended; rows that the authors handed in later were then measured before anybody had looked "
        "at them. Columns as above.",
    ),
    "quality/blind-errors": (
        "What the blind test found wrong with the check",
        "By the authors' own notes, of the first round, before any rule was mended.",
    ),
    "quality/edits": (
        "Edited copies",
        "*Similarity*: Jaccard of the two rows' sets of word pairs, counted exactly and apart from the checker. Of "
        "copies below 0.8 none should be told.",
    ),
    "quality/kinds": (
        "What was missed, and which decoys were told",
        "Every kind of defect of which a row was missed, every kind of decoy of which one was told, and what else was "
        "told falsely. Kinds that are not here were told in full, or left alone in full.",
    ),
    "quality/cleaning": (
        "Cleaned, taken back, checked again",
        "The same file through `crma data clean` with its defaults. *Left*: rows of the repaired file that the check "
        "still tells, by checks that repair and, apart, by those that only tell (a person has to look).",
    ),
    "quality/model": (
        "Checks that ask a model",
        "On rows made for them, by seed. `hard`: a fifth of a domain's clean rows are given one another's answers, the "
        "mildest mislabel there is; `easy`: answers that copy themselves, put among them. AUROC is of what the check "
        "goes by (for `hard` how much likelier the own question makes the answer; for `easy` the loss), in brackets "
        "of the loss alone. `overlap`: the router has learnt two domains, the file is of a third and, by the share "
        "named, of unseen rows of the first. What is told are rows that stay with the old domain even once half of the "
        "file is learnt as a new one, where they are a tenth of it: small shares are not.",
    ),
    "quality/scale": (
        "A large file",
        "Sentences of the five domains put together anew; tokens are counted by the base's own tokenizer, no weights "
        "are loaded. Copies and personal data were planted; what else is told was there or comes of mixing.",
    ),
    "quality/training": (
        "Is it worth it?",
        "One LoRA without a backbone, learnt from clean rows, from as many with defects, and from what `clean` makes "
        "of these with its defaults; the loss of the same clean test rows, in nats a token. It leaves rows out, so "
        "there are fewer steps; the last line has epochs enough for as many. [Brackets]: 95 %, paired bootstrap over "
        "test documents; seeds are averaged, not drawn again.",
    ),
}
_VERSIONS: Mapping[Version, str] = {
    "base": "nothing (the untouched base)",
    "clean": "clean rows",
    "dirty": "rows with defects",
    "cleaned": "these, cleaned",
    "cleaned-steps": "these, cleaned, for as many steps",
}


def quality_tables(quality: Quality) -> dict[str, str]:
    """Every table that the receipts there are enough for."""
    made: dict[str, str | None] = {}
    if planted := quality.planted:
        made |= {
            "quality/checks": _checks(planted),
            "quality/edits": _edits(planted),
            "quality/kinds": _kinds(planted),
            "quality/cleaning": _cleaning(planted),
        }
    if blind := quality.blind:
        made |= {"quality/blind": _blind(blind), "quality/blind-errors": _blind_errors(blind)}
    if quality.model:
        made["quality/model"] = _model(quality.model)
    if quality.scale:
        made["quality/scale"] = _scale(quality.scale)
    if quality.training:
        made["quality/training"] = _training(quality.training)
    return {name: table for name, table in made.items() if table is not None}


def quality_made(quality: Quality) -> str:
    """What the section rests on."""
    said = ["`crma bench quality`: the check of rows against defects that were planted."]
    if planted := quality.planted:
        every = pooled(planted, MECHANICAL)
        count = sum(every.values(), Count())
        short = below(every)
        said.append(
            f"Seeds {', '.join(str(s.seed) for s in planted.seeds)}, {sum(s.rows for s in planted.seeds):,} rows. Over "
            f"the {len(every)} checks of which a rule says what is right: precision {_percent(count.precision)}, "
            f"recall {_percent(count.recall)}"
            + (f"; below 95 % in one of the two: {', '.join(short)}." if short else ", none below 95 %.")
        )
        said.append(f"It rests on {', '.join(f'{name} {v}' for name, v in planted.packages.items())}.")
    return " ".join(said)


_COUNTED = ("check (* a matter of degree)", "planted", "found", "false", "decoys told", "precision", "recall")


def _counted(name: str, count: Count) -> list[str]:
    """A row of a table with the columns _COUNTED."""
    return [
        name + ("" if name in MECHANICAL else " *"),
        str(count.planted),
        str(count.found),
        str(count.false),
        f"{count.tempted} of {count.decoys}" if count.decoys else "-",
        _share(count.found, count.told),
        _share(count.found, count.planted),
    ]


def _checks(planted: Planted) -> str:
    return markdown_table(list(_COUNTED), [_counted(name, count) for name, count in pooled(planted).items()])


def _blind(blind: Blind) -> str:
    first = blind.rounds[0]
    later = [round for round in blind.rounds[1:] if round.blind]
    mended = next((round for round in reversed(blind.rounds) if not round.blind), None)
    head = [*_COUNTED]
    head += ["later rows, blind, after mending"] if later else []
    head += ["all rows, after mending (not blind)"] if mended else []
    rows = []
    for name, count in first.checks.items():
        row = _counted(name, count)
        if later:
            after = sum((round.checks[name] for round in later if name in round.checks), Count())
            row.append(_found_of(after) if after.planted else "-")
        if mended:
            row.append(_found_of(mended.checks[name]))
        rows.append(row)
    return markdown_table(head, rows)


def _found_of(count: Count) -> str:
    wrong = count.false + count.tempted
    return f"{count.found} of {count.planted}" + (f", {wrong} told falsely" if wrong else "")


def _blind_errors(blind: Blind) -> str | None:
    first = blind.rounds[0]
    lines = []
    for name in first.checks:
        for kind, of in (("missed", first.missed), ("decoy told", first.tempted), ("told falsely", first.false)):
            if notes := of.get(name):
                lines.append([name, kind, str(len(notes)), "; ".join(_plain(note) for note in notes)])
    return markdown_table(["check", "error", "rows", "what they are"], lines) if lines else None


def _plain(note: str) -> str:
    """For a cell of a table: a clean row that was told is data, so only that it was one is said."""
    return "a clean row" if note.startswith("clean: ") else note.replace("|", "/").replace("\n", " ")


def _edits(planted: Planted) -> str | None:
    kinds: dict[str, list[tuple[float, bool]]] = {}
    for seed in planted.seeds:
        for kind, similarity, told in seed.edits:
            kinds.setdefault(kind, []).append((similarity, told))
    rows = [
        [kind, str(len(of)), f"{_mean([s for s, _ in of]):.3f}", f"{min(s for s, _ in of):.3f}", *_by_similarity(of)]
        for kind, of in sorted(kinds.items(), key=lambda item: -_mean([s for s, _ in item[1]]))
    ]
    every = [pair for of in kinds.values() for pair in of]
    for low, high in pairwise((0.0, 0.5, 0.7, 0.8, 0.9, 1.01)):
        of = [(s, told) for s, told in every if low <= s < high]
        if of:
            name = f"all of similarity {low:.1f} to {min(high, 1):.1f}"
            least = f"{min(s for s, _ in of):.3f}"
            rows.append([name, str(len(of)), f"{_mean([s for s, _ in of]):.3f}", least, *_by_similarity(of)])
    head = ["edit", "copies", "mean similarity", "least", "told, from 0.8 on", "told, below"]
    return markdown_table(head, rows) if every else None


def _by_similarity(of: list[tuple[float, bool]]) -> list[str]:
    parts = [[told for s, told in of if s >= 0.8], [told for s, told in of if s < 0.8]]
    return [f"{sum(told)} of {len(told)}" if told else "-" for told in parts]


def _kinds(planted: Planted) -> str | None:
    counts: dict[str, list[int]] = {}
    false: dict[tuple[str, str], int] = {}
    for seed in planted.seeds:
        for kind, (rows, told) in seed.kinds.items():
            entry = counts.setdefault(kind, [0, 0])
            entry[0] += rows
            entry[1] += told
        for check, by_kind in seed.false.items():
            for kind, n in by_kind.items():
                false[check, kind] = false.get((check, kind), 0) + n
    lines = []
    for kind, (rows, told) in counts.items():
        decoy = kind.startswith("decoy/")
        if told != (0 if decoy else rows):
            lines.append([kind, str(rows), f"{told} told" if decoy else f"{rows - told} missed"])
    lines += [[kind, "-", f"{n} told as {check}"] for (check, kind), n in sorted(false.items())]
    return markdown_table(["what was planted", "rows", "error"], lines) if lines else None


def _cleaning(planted: Planted) -> str:
    def told(left: Mapping[str, int], *, repaired: bool) -> str:
        found = {name: n for name, n in left.items() if (name in MECHANICAL and name != "contradiction") == repaired}
        return ", ".join(f"{name} {n}" for name, n in found.items()) or "none"

    rows = [
        [
            str(seed.seed),
            f"{(done := seed.cleaning).rows:,}",
            f"{done.kept:,}",
            f"{done.edited:,}",
            f"{done.dropped:,}",
            "yes, byte by byte" if done.restored else "NO",
            told(done.left, repaired=True),
            told(done.left, repaired=False),
        ]
        for seed in planted.seeds
    ]
    head = ["seed", "lines", "as they were", "edited", "left out", "undone", "left to repair", "left to look at"]
    return markdown_table(head, rows)


def _model(of: OfModel) -> str:
    rows = []
    for check, case in dict.fromkeys((c.check, c.case) for c in of.cases):
        cases = [c for c in of.cases if (c.check, c.case) == (check, case)]
        count = sum((c.count for c in cases), Count())
        areas = [c.auroc for c in cases if c.auroc is not None]
        alone = [c.auroc_loss for c in cases if c.auroc_loss is not None]
        rows.append(
            [
                check,
                case,
                f"{count.found} of {count.planted}" if count.planted else "-",
                f"{count.false + count.tempted} of {sum(c.rows for c in cases) - count.planted}",
                (f"{_mean(areas):.3f}" if areas else "-") + (f" ({_mean(alone):.3f})" if alone else ""),
                str(len({c.seed for c in cases})),
            ]
        )
    return markdown_table(["check", "file", "found of planted", "told of the others", "AUROC", "seeds"], rows)


def _scale(scale: Scale) -> str:
    peak = f"{scale.peak_mb / 1024:.2f} GB" if scale.peak_mb else "not known here"
    planted = ", ".join(f"{name} {n:,}" for name, n in scale.planted.items())
    told = ", ".join(f"{name} {n:,}" for name, n in sorted(scale.told.items(), key=lambda item: -item[1]))
    rows = [
        ["rows", f"{scale.rows:,}"],
        ["file", f"{scale.bytes / 1e6:,.0f} MB, {scale.bytes / scale.rows:,.0f} bytes a row"],
        ["time of the check", f"{_duration(scale.seconds)}, {scale.rows_per_second:,.0f} rows/s"],
        ["of it on the processor, all cores together", _duration(scale.cpu_seconds)],
        ["time of the process, with its start", _duration(scale.whole_seconds)],
        [
            "most memory held",
            f"{peak}" + (f", {scale.peak_mb * 2**20 / scale.rows:,.0f} bytes a row" if scale.peak_mb else ""),
        ],
        ["cores", str(scale.machine.get("cores", "not named"))],
        ["planted", planted],
        ["told", told],
    ]
    return markdown_table(["", "measured"], rows)


def _training(training: Training) -> str | None:
    rows = []
    for version, name in _VERSIONS.items():
        runs = [r for r in training.runs if r.version == version]
        if not runs:
            continue
        against = [
            _difference(relative_difference(training, version, other)) if other != version else "-"
            for other in ("clean", "dirty")
        ]
        trained = f"{_mean([r.rows for r in runs]):.0f}" if version != "base" else "-"
        tokens = f"{_mean([r.tokens for r in runs]):,.0f}" if version != "base" else "-"
        rows.append([name, trained, tokens, f"{_mean([r.loss for r in runs]):.4f}", *against, str(len(runs))])
    head = ["learnt from", "rows", "tokens", "loss", "against clean rows", "against rows with defects", "seeds"]
    return markdown_table(head, rows) if rows else None


def _difference(found: Bootstrap | None) -> str:
    return "-" if found is None else f"{found.estimate:+.2f} % [{found.low:+.2f}, {found.high:+.2f}]"


def _share(part: int, whole: int) -> str:
    if not whole:
        return "-"
    found = wilson(part, whole)
    return f"{part / whole:.1%} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
