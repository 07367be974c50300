"""The data check's page: one HTML file made from `Report.to_json()`, with nothing to fetch and nothing to run.

The report may have come from a file that anybody wrote: whatever it lacks is left out, and what has another type than
it should counts as missing. Characters that nobody sees are written as their codes, as in the examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from crma.web.bars import BAR_STYLE, Bar, Histogram, amount, bar_chart, histogram_chart, range_of
from crma.web.page import (
    Section,
    Tile,
    cell,
    joined,
    mapping_of,
    number_of,
    render_page,
    sequence_of,
    table_of,
    variables,
    words_cell,
)
from crma.web.quality_reading import (
    KEPT_LINES,
    SAMPLED,
    SEVERITIES,
    SHOWN_TEXT,
    Found,
    Part,
    Reading,
    Severity,
    kept,
    name_of,
    natural,
    positive,
    read_report,
    shown,
)
from crma.web.svg import escape, percent

__all__ = ["SEVERITY_DARK", "SEVERITY_LIGHT", "render_quality"]

# As text and as bars: 4.5 : 1 on every ground of the page, and apart for colour-blind readers; tests compute it.
SEVERITY_LIGHT: Mapping[str, str] = {"error": "#8f0b24", "warning": "#8a6000", "info": "#0b5cad"}
SEVERITY_DARK: Mapping[str, str] = {"error": "#ff7f8d", "warning": "#f7c948", "info": "#74b5ff"}

_MARKS = {"error": "✗", "warning": "▲", "info": "●"}
_NOUNS = {"error": "error", "warning": "warning", "info": "remark"}
_SHOWN_LINES = 30
_SHOWN_EXAMPLES = 8  # of one check in one file
_SHOWN_PARTS = 12  # files of one check
_SHOWN_FILES = 100
_SHOWN_LANGUAGES = 12
_MOST_RANGES = 200  # of a histogram
_NEEDS = {  # what clean must be told to find these again
    "leak_split": "--held-out HELD-OUT-FILE",
    "leak_stack": "--stack STACK",
    "leak_benchmark": "--benchmarks FOLDER",
}
_NUMBERED = (".parquet", ".arrow", ".feather")  # files whose rows have numbers, not lines
_LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "ca": "Catalan",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "la": "Latin",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "nb": "Norwegian",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sr": "Serbian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}


def render_quality(report: Mapping[str, Any]) -> str:
    """The whole page as one string."""
    read = read_report(mapping_of(report))
    headline, detail = _summary(read)
    names = [name_of(file.get("name")) for file in read.files]
    told = " · ".join(name for name in names[:2] if name) + (f" · {len(names) - 2} more" if len(names) > 2 else "")
    sections = [
        Section(key="found", title="What was found", body=_overview(read)),
        Section(key="repair", title="What to do", body=_repair(read)),
    ]
    if read.found:
        sections.append(Section(key="findings", title="Each finding", body=_cards(read)))
    if measured := _measured(read):
        sections.append(Section(key="measured", title="The rows, measured", body=measured))
    sections += [
        Section(key="skipped", title="What was not checked", body=_skipped(read)),
        Section(key="files", title="The files", body=_files(read)),
        Section(key="data", title="The numbers themselves", body=_data(read)),
    ]
    return render_page(
        title=f"{headline} (data check)",
        eyebrow="Data check" + (f" · {told}" if told else ""),
        headline=headline,
        detail=detail,
        tiles=_tiles(read),
        sections=sections,
        footer="Made by <code>crma data check</code>. Examples are masked: personal data and secrets are replaced "
        "by marks. No check knows whether an answer is true.",
        result=kept(mapping_of(report)),
        style=_STYLE,
    )


# --- the verdict in words --------------------------------------------------------------------------------------------


def _summary(read: Reading) -> tuple[str, str]:
    """The verdict with what it rests on, and what else there is to know."""
    errors, warnings, remarks = (read.of(severity) for severity in SEVERITIES)
    if read.verdict == "fail":
        headline = "Not ready to train on"
        if errors:
            kinds = "1 kind of error" if len(errors) == 1 else f"{amount(len(errors))} kinds of errors"
            headline += f": {kinds} in {_affected(errors, read.total)}"
    elif read.verdict == "warn":
        headline = "Ready, with " + (_counted(len(warnings), "warning") if warnings else "warnings")
    elif remarks:
        headline = f"Ready, with {_counted(len(remarks), 'remark')}"
    else:
        headline = "Nothing found" if read.total else "Nothing was checked"
    said = []
    if read.total is not None:
        said.append(f"Checked: {_counted(read.total, 'row')}")
        if read.files:
            said[-1] += f" in {_counted(len(read.files), 'file')}"
        if read.seconds is not None:
            said[-1] += f", in {_time(read.seconds)}"
    if warnings:
        where = _affected(warnings, read.total)
        besides = f"Besides, {_counted(len(warnings), 'warning')} in {where}" if errors else f"Warnings: in {where}"
        said.append(besides)
    if remarks:
        said.append(f"{_counted(len(remarks), 'remark')}, to look at")
    if read.skipped:
        many = len(read.skipped)
        said.append(f"{_counted(many, 'thing')} {'was' if many == 1 else 'were'} not checked or measured")
    if not errors:
        said.append("Whether an answer is true, no check knows")
    return headline, ". ".join(said) + "."


def _affected(found: Sequence[Found], total: int | None) -> str:
    """How many rows: a row with two faults is one row, as far as the lines that are told say which it was."""
    parts: dict[str, list[Part]] = {}
    for one in found:
        for part in one.parts:
            parts.setdefault(part.file, []).append(part)
    rows, sure = 0, True
    for here in parts.values():
        rows += max(len(set().union(*(part.lines for part in here))), *(part.count for part in here))
        sure = sure and (len(here) == 1 or all(part.whole for part in here))
    least = "" if sure else "at least "
    if total is None or total < rows:
        return least + _counted(rows, "row")
    return f"{least}{_whole(rows)} of {_counted(total, 'row')}"


def _tiles(read: Reading) -> list[Tile]:
    total = sum(natural(file.get("bytes")) or 0 for file in read.files)
    rows = f"{_whole(read.faulty)} of them cannot be read" if read.faulty else "all of them could be read"
    tiles = [
        Tile(name="Rows", value=amount(read.total) if read.total is not None else None, note=rows),
        Tile(name="Files", value=amount(len(read.files)), note=_bytes(total) if total else "of unknown size"),
    ]
    for name, found in (("Kinds of errors", read.of("error")), ("Kinds of warnings", read.of("warning"))):
        note = f"in {_affected(found, None)}" if found else "none found"
        tiles.append(Tile(name=name, value=amount(len(found)), note=note))
    tokens, training = mapping_of(read.facts.get("tokens")), mapping_of(read.facts.get("training"))
    if (count := natural(tokens.get("total"))) is not None:
        learnt = natural(tokens.get("supervised"))
        note = f"{amount(learnt)} of them to be learnt" if learnt is not None else "in all rows"
        tiles.append(Tile(name="Tokens", value=amount(count), note=note))
    if (seconds := positive(training.get("seconds"))) is not None:
        steps = natural(training.get("steps"))
        note = f"estimated, {_counted(steps, 'step')}" if steps is not None else "estimated"
        if device := name_of(training.get("device")):
            note += f" on {device}"
        tiles.append(Tile(name="Training time", value=_time(seconds), note=note))
    return tiles


# --- sections --------------------------------------------------------------------------------------------------------


def _overview(read: Reading) -> str:
    if not read.found:
        if not read.total:
            return "<p>There were no rows to check.</p>"
        return f"<p>None of the checks that were made found anything in {escape(_counted(read.total, 'row'))}.</p>"
    intro = (
        "<p><strong>Errors</strong> stop training, make its numbers false, or put a secret into the model. "
        "<strong>Warnings</strong> and <strong>remarks</strong> are yours to weigh.</p>"
    )
    bars = []
    rows: list[tuple[str, tuple[str, ...]]] = []
    for index, found in enumerate(read.found):
        share = _share(found.count, read.asked(found))
        text = _counted(found.count, "row") + (f" · {share}" if share else "")
        title = _sentence(found.title, stop=False)
        group = f"{_MARKS[found.severity]} {_NOUNS[found.severity].capitalize()}s"
        bars.append(Bar(name=title, value=found.count, text=text, style=f"q-{found.severity}", group=group))
        name = f'<a href="#finding-{index}">{escape(title)}</a>'
        cells = (_badge_cell(found.severity), cell(_whole(found.count)), cell(share or "of a sample"))
        rows.append((name, cells))
    caption = "Rows with each fault"
    chart = bar_chart(bars, key="found-chart", title=caption, unit="rows with each fault")
    sampled = any(found.check in SAMPLED for found in read.found)
    remark = "<p>Checks that ask the model look at a sample of the rows, and their share is of that sample.</p>"
    return (
        f'{intro}<div class="grid"><figure><figcaption>{caption}, by severity</figcaption>{chart}</figure>'
        f"<div>{table_of('The same in numbers', ['fault', 'severity', 'rows', 'share'], rows)}</div></div>"
        + (remark if sampled else "")
    )


def _cards(read: Reading) -> str:
    return "".join(_card(read, found, index) for index, found in enumerate(read.found))


def _card(read: Reading, found: Found, index: int) -> str:
    asked = read.asked(found)
    if found.check in SAMPLED:
        of = f" of the {_whole(asked)} that were drawn" if asked else " of a sample"
    else:
        share = _share(found.count, asked)
        of = f", {share} of {_whole(asked)}" if share and asked else ""
    told = [
        ("Why it matters", _sentence(found.why)),
        ("What to do", _sentence(found.advice)),
        ("crma data clean", _sentence(_what_clean_does(found))),
    ]
    lines = "".join(
        f'<div><dt>{escape(name)}</dt><dd dir="auto">{escape(text)}</dd></div>' for name, text in told if text
    )
    parts = "".join(_part(part) for part in found.parts[:_SHOWN_PARTS])
    if len(found.parts) > _SHOWN_PARTS:
        left = found.parts[_SHOWN_PARTS:]
        rows = _counted(sum(part.count for part in left), "row")
        parts += f'<p class="more">and {rows} in {_counted(len(left), "more file")}</p>'
    title = escape(_sentence(found.title, stop=False))
    return (
        f'<article class="card found q-edge-{found.severity}" id="finding-{index}" aria-labelledby="finding-{index}-h">'
        f'<p class="kind">{_badge(found.severity)} <code dir="auto">{escape(name_of(found.check))}</code></p>'
        f'<h3 id="finding-{index}-h" dir="auto">{title}</h3>'
        f'<p class="size"><strong>{_counted(found.count, "row")}</strong>{of}</p><dl class="told">{lines}</dl>{parts}'
        "</article>"
    )


def _part(part: Part) -> str:
    note = f': <span dir="auto">{escape(part.note)}</span>' if part.note else ""
    file = f'<bdi class="file">{escape(part.file)}</bdi>' if part.file else "One file"
    said = f"<p>{file}, {_counted(part.count, 'row')}{note}</p>"
    if part.lines:
        noun = "Row" if part.file.lower().endswith(_NUMBERED) else "Line"
        numbers = ", ".join(f"{line}" if line < 1e12 else amount(line) for line in part.lines[:_SHOWN_LINES])
        left = max(part.count, len(part.lines)) - min(len(part.lines), _SHOWN_LINES)
        more = f" and {_whole(left)} more" if left > 0 else ""
        said += f'<p class="lines">{noun}{"" if len(part.lines) == 1 and not more else "s"} {numbers}{more}</p>'
    examples = part.examples[:_SHOWN_EXAMPLES]
    if examples:
        said += f'<ul class="examples">{"".join(_example(one) for one in examples)}</ul>'
    left = len(part.examples) - len(examples)
    if left:
        said += f'<p class="more">{_counted(left, "more example")} in the JSON of this page</p>'
    return f'<div class="part">{said}</div>'


def _example(example: Mapping[str, Any]) -> str:
    line = natural(example.get("line"))
    note = shown(example.get("note"), SHOWN_TEXT)
    at = f"line {line}" if line is not None and line < 1e12 else ""
    if note:
        at += f'{": " if at else ""}<span dir="auto">{escape(note)}</span>'
    text = shown(example.get("text"), SHOWN_TEXT)
    quoted = f'<p class="quoted" dir="auto">{escape(text)}</p>' if text else '<p class="missing">(an empty text)</p>'
    return f"<li>{f'<p>{at}</p>' if at else ''}{quoted}</li>"


def _what_clean_does(found: Found) -> str:
    if found.repair == "drop":
        does = "leaves these rows out"
    elif found.repair == "edit":
        does = "edits these rows"
    else:
        return "leaves them as they are: a person has to decide" if found.repair == "look" else ""
    if not found.repaired:
        return f"{does} where --only names {found.check}"
    return does + (f", given {_NEEDS[found.check]}" if found.check in _NEEDS else "")


def _repair(read: Reading) -> str:
    if not read.found:
        return "<p>There is nothing to repair.</p>"
    mended = [found for found in read.found if found.repaired and found.repair in ("drop", "edit")]
    others = [found for found in read.found if found not in mended]
    told = ""
    if mended:
        needs = " ".join(_NEEDS[name] for name in _NEEDS if any(found.check == name for found in mended))
        words = f"crma data clean FILE -o OUT {needs}".split()
        command = " ".join(f'<span class="whole">{word}</span>' for word in words)
        files = " for each of the files" if len(read.files) > 1 else ""
        told += (
            f"<p>This writes a repaired copy{files}; FILE itself is never written to:</p>"
            f'<p class="command"><code>{command}</code></p>'
            + _mended("Rows it leaves out", read, [found for found in mended if found.repair == "drop"])
            + _mended("Rows it edits", read, [found for found in mended if found.repair == "edit"])
            + "<p>Beside OUT stands OUT.changes, the list of what was done. It holds what was taken out, secrets as "
            "well, so keep it to yourself; <code>crma data undo OUT -o RESTORED</code> takes the changes back. Then "
            "look again: <code>crma data check OUT</code>.</p>"
        )
    else:
        told += "<p>Nothing here is repaired by itself.</p>"
    if others:
        told += _mended("Left to you", read, others)
    return told


def _mended(title: str, read: Reading, several: Sequence[Found]) -> str:
    if not several:
        return ""
    items = ""
    for found in several:
        name = f"<bdi>{escape(_sentence(found.title, stop=False))}</bdi>"
        rows = _counted(found.count, "row")
        items += f'<li><a href="#finding-{read.found.index(found)}">{name}</a>: {rows}</li>'
    return f"<h3>{title}</h3><ul>{items}</ul>"


def _measured(read: Reading) -> str:
    facts = read.facts
    parts = [
        _lengths(mapping_of(facts.get("lengths"))),
        _languages(mapping_of(facts.get("languages"))),
        _overlap(mapping_of(facts.get("overlap"))),
        _training(mapping_of(facts.get("tokens")), mapping_of(facts.get("training"))),
        _duplicates(mapping_of(facts.get("duplicates"))),
    ]
    known = ("lengths", "languages", "overlap", "tokens", "training", "duplicates")
    other = _leaves({key: value for key, value in facts.items() if key not in known})
    rows = [(escape(name), [words_cell(value)]) for name, value in other[:60]]
    parts.append(table_of("Measured besides", ["", "value"], rows, words=True) if rows else "")
    return "".join(parts)


def _lengths(lengths: Mapping[str, Any]) -> str:
    unit = name_of(lengths.get("unit")) or "length"
    figures = []
    for key, name in (("prompt", "Questions"), ("answer", "Answers")):
        raw = mapping_of(lengths.get(key))
        histogram = _histogram(raw)
        if histogram is None:
            continue
        caption = f"{name}: how long they are"
        chart = histogram_chart(histogram, key=f"length-{key}", title=caption, unit=unit)
        rows = [
            (escape(range_of(histogram.edges, i)), [cell(_whole(count))]) for i, count in enumerate(histogram.counts)
        ]
        most = positive(raw.get("max"))
        facts = [f"{label} {amount(value)}" for label, value in histogram.marks]
        facts += [f"longest {amount(most)}"] if most is not None else []
        table = table_of(f"{name}, {unit}", [unit, "rows"], rows)
        figures.append(
            f"<figure><figcaption>{caption}</figcaption>{chart}"
            f'<p class="note">{escape("; ".join(facts))}</p>'
            f"<details><summary>The same in numbers</summary>{table}</details></figure>"
        )
    if not figures:
        return ""
    intro = "<p>Each bar is a range of lengths; where the ranges grow to the right, so does what a bar spans.</p>"
    return f'<h3>Lengths, in {escape(unit)}</h3>{intro}<div class="grid">{"".join(figures)}</div>'


def _histogram(raw: Mapping[str, Any]) -> Histogram | None:
    edges = [number_of(edge) for edge in sequence_of(raw.get("edges"))]
    counts = [natural(count) for count in sequence_of(raw.get("counts"))]
    sound = [float(edge) for edge in edges if edge is not None]
    whole = [float(count) for count in counts if count is not None]
    if len(sound) != len(edges) or len(whole) != len(counts) or len(edges) != len(counts) + 1:
        return None
    if not 0 < len(counts) <= _MOST_RANGES or any(low >= high for low, high in pairwise(sound)):
        return None
    marks = [(label, number_of(raw.get(key))) for label, key in (("median", "median"), ("95 % up to", "p95"))]
    return Histogram(
        edges=tuple(sound),
        counts=tuple(whole),
        marks=tuple((label, float(value)) for label, value in marks if value is not None),
    )


def _languages(languages: Mapping[str, Any]) -> str:
    counted = sorted(
        ((name, count) for key, value in languages.items() if (name := name_of(key)) and (count := natural(value))),
        key=lambda item: -item[1],
    )
    if not counted:
        return ""
    total = sum(count for _, count in counted)
    first, rest = counted[:_SHOWN_LANGUAGES], counted[_SHOWN_LANGUAGES:]
    shown = [(f"{_LANGUAGES[name]} ({name})" if name in _LANGUAGES else name, count) for name, count in first]
    if rest:
        shown.append((_counted(len(rest), "more language"), sum(count for _, count in rest)))
    return _bars("Languages", "languages", "rows whose language is sure, by language", "rows", shown, total)


def _overlap(overlap: Mapping[str, Any]) -> str:
    shares = [
        (name, share)
        for key, value in overlap.items()
        if (name := name_of(key)) and (share := number_of(value)) is not None and 0 <= share <= 1
    ]
    shares.sort(key=lambda item: -item[1])
    if not shares:
        return ""
    first = shares[:_SHOWN_LANGUAGES]
    bars = [Bar(name=name, value=share, text=percent(share)) for name, share in first]
    caption = "Rows of a sample that the router takes for a domain already learnt"
    chart = bar_chart(bars, key="overlap-chart", title=caption, unit="share of the rows drawn, by domain")
    rows = [(escape(name), [cell(percent(share))]) for name, share in first]
    table = table_of("The same in numbers", ["domain", "share"], rows)
    left = len(shares) - len(first)
    more = f'<p class="note">and {_counted(left, "more domain")}</p>' if left else ""
    return (
        f'<h3>Domains that are there</h3><div class="grid"><figure><figcaption>{caption}</figcaption>{chart}{more}'
        f"</figure><div>{table}</div></div>"
    )


def _bars(title: str, key: str, unit: str, noun: str, counted: Sequence[tuple[str, int]], total: int) -> str:
    bars, rows = [], []
    for name, count in counted:
        share = percent(count / total)
        bars.append(Bar(name=name, value=count, text=f"{_whole(count)} · {share}"))
        rows.append((escape(name), [cell(_whole(count)), cell(share)]))
    chart = bar_chart(bars, key=f"{key}-chart", title=title, unit=unit)
    table = table_of("The same in numbers", ["", noun, "share"], rows)
    caption = _sentence(unit, stop=False)
    return (
        f'<h3>{title}</h3><div class="grid"><figure><figcaption>{caption}</figcaption>{chart}</figure>'
        f"<div>{table}</div></div>"
    )


def _training(tokens: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    def told(raw: Mapping[str, Any], key: str, after: str = "") -> str | None:
        value = positive(raw.get(key))
        if value is None:
            return None
        return (_whole(value) if value == round(value) else amount(value)) + after

    seconds, peak = positive(training.get("seconds")), natural(training.get("peak_bytes"))
    known = [
        ("base model whose tokens are counted", name_of(tokens.get("base")) or None),
        ("tokens in all", told(tokens, "total")),
        ("tokens to be learnt, those of answers", told(tokens, "supervised")),
        ("tokens that training would cut off", told(tokens, "cut")),
        ("tokens a row that training takes", told(tokens, "max_length")),
        ("training takes about", _time(seconds) if seconds is not None else None),
        ("steps", told(training, "steps")),
        ("epochs", told(training, "epochs")),
        ("rows a step", told(training, "batch_size")),
        ("peak memory", _bytes(peak) if peak else None),
        ("speed", told(training, "tokens_per_second", " tokens/s")),
        ("device", name_of(training.get("device")) or None),
        ("rows it was measured on", told(training, "measured_rows")),
    ]
    rows = [(escape(name), [words_cell(value)]) for name, value in known if value is not None]
    if not rows:
        return ""
    remark = (
        "<p>The time is an estimate from a few steps on this machine, without verifying earlier domains.</p>"
        if seconds is not None
        else ""
    )
    title = "Tokens and training" if training else "Tokens"
    return f"<h3>{title}</h3>{remark}{table_of(f'{title}, in numbers', ['', 'value'], rows, words=True)}"


def _duplicates(duplicates: Mapping[str, Any]) -> str:
    threshold = number_of(duplicates.get("threshold"))
    like = f" (at least {percent(threshold)} alike)" if threshold is not None and 0 <= threshold <= 1 else ""
    known = [
        ("rows that are another's copy", natural(duplicates.get("exact"))),
        (f"rows nearly the same as another{like}", natural(duplicates.get("near"))),
        ("groups of such rows", natural(duplicates.get("clusters"))),
    ]
    rows = [(escape(name), [cell(_whole(value))]) for name, value in known if value is not None]
    return f"<h3>Copies</h3>{table_of('Copies among the rows', ['', 'rows'], rows)}" if rows else ""


def _skipped(read: Reading) -> str:
    if not read.skipped:
        return "<p>Every check was made.</p>"
    rows = [(f"<code>{escape(name)}</code>", [words_cell(why or "no reason given")]) for name, why in read.skipped]
    return table_of("Not checked or measured, and why", ["check", "why"], rows, words=True)


def _files(read: Reading) -> str:
    if not read.files:
        return "<p>No file is named.</p>"
    rows: list[tuple[str, list[str | None]]] = []
    roles = any(name_of(file.get("role")) for file in read.files)
    for file in read.files[:_SHOWN_FILES]:
        size, good, bad = (natural(file.get(key)) for key in ("bytes", "rows", "faulty"))
        cells = [
            cell(_bytes(size)) if size is not None else None,
            cell(_whole(good)) if good is not None else None,
            cell(_whole(bad or 0), classes="q-error" if bad else ""),
        ]
        if roles:
            cells.append(words_cell(name_of(file.get("role")) or "–"))
        rows.append((escape(name_of(file.get("name")) or "(no name)"), cells))
    head = ["file", "size", "rows", "cannot be read", *(["taken as"] if roles else [])]
    left = len(read.files) - _SHOWN_FILES
    more = f"<p>and {_counted(left, 'more file')}</p>" if left > 0 else ""
    return table_of("Files", head, rows) + more


def _data(read: Reading) -> str:
    cut = any(len(part.lines) > KEPT_LINES for found in read.found for part in found.parts)
    less = (
        f" Of each finding it has the first {KEPT_LINES:,} line numbers; <code>crma data check --json</code> has all."
        if cut
        else ""
    )
    return (
        "<p>The report this page was made from is inside it, as JSON, in the element <code>#result</code>. In the "
        "browser’s console: <code>JSON.parse(document.getElementById('result').textContent)</code>."
        f"{less}</p>"
    )


# --- pieces ----------------------------------------------------------------------------------------------------------


def _badge(severity: Severity) -> str:
    return f'<span class="badge q-{severity}">{_MARKS[severity]} {_NOUNS[severity]}</span>'


def _badge_cell(severity: Severity) -> str:
    return f'<td class="q-left">{_badge(severity)}</td>'


def _share(count: int, of: int | None) -> str | None:
    return percent(count / of) if of and count <= of else None


# --- numbers and words -----------------------------------------------------------------------------------------------


def _whole(count: float) -> str:
    return f"{count:,.0f}" if count < 1e12 else amount(count)


def _counted(count: float, noun: str) -> str:
    return f"{_whole(count)} {noun}{'' if count == 1 else 's'}"


def _sentence(text: str, *, stop: bool = True) -> str:
    """With a capital in front and, unless it ends otherwise, a full stop."""
    whole = text[:1].upper() + text[1:]
    return whole + "." if stop and whole and whole[-1] not in ".!?…" else whole


def _leaves(value: Mapping[str, Any], prefix: str = "", depth: int = 4) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for key, inner in value.items():
        name = f"{prefix}{name_of(key)}"
        if isinstance(inner, Mapping) and depth:
            found += _leaves(inner, name + ".", depth - 1)
        elif isinstance(inner, list | tuple):
            found.append((name, joined([name_of(one) for one in inner[:20] if name_of(one)]) or None))
        elif isinstance(inner, bool):
            found.append((name, "yes" if inner else "no"))
        else:
            found.append((name, name_of(inner) or None))
    return found


def _time(seconds: float) -> str:
    """As an estimate deserves: 0.4 s, 48 s, 12 min, 3 h 20 min, 2.5 days."""
    if seconds < 119.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 7170:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_770:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{amount(seconds / 86_400) if seconds >= 8_640_000 else f'{seconds / 86_400:.1f}'} days"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1023.5 or unit == "GiB":
            shown = f"{size:.1f}" if unit != "bytes" and size < 99.95 else amount(round(size))
            return f"{shown} {unit}" if unit != "bytes" or size != 1 else "1 byte"
        size /= 1024
    raise AssertionError


def _rules(names: Iterable[str]) -> str:
    return "".join(
        f".q-{name}{{color:var(--q-{name});fill:var(--q-{name})}}.q-edge-{name}{{border-inline-start-color:"
        f"var(--q-{name})}}"
        for name in names
    )


_STYLE = (
    f":root{{{variables({f'q-{name}': colour for name, colour in SEVERITY_LIGHT.items()})}}}"
    "@media screen and (prefers-color-scheme:dark){:root{"
    f"{variables({f'q-{name}': colour for name, colour in SEVERITY_DARK.items()})}}}}}"
    + BAR_STYLE
    + _rules(SEVERITY_LIGHT)
    + """
h1{text-wrap:balance}
.tiles{grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr))}
.tiles>div{justify-content:flex-start}
.grid>div{min-width:0}
td:not(.words),.whole{white-space:nowrap}
tbody th{overflow-wrap:anywhere;min-width:7em}
table.words td{white-space:normal}
#found th:nth-child(2),#files th:nth-child(5){text-align:start}
.grid{align-items:start}
.grid>div>.scroll{margin-top:0}
.badge{font-weight:650;font-size:14px;white-space:nowrap}
td.q-left{text-align:start}
.found{border-inline-start-width:5px;margin-top:18px;scroll-margin-top:16px}
.found h3{margin:2px 0 4px;font-size:20px}
.kind,.size,.part p{margin:0}
.told{margin:14px 0 0;display:grid;gap:8px 24px;grid-template-columns:repeat(auto-fit,minmax(min(100%,250px),1fr))}
.told dt{font-size:14px;color:var(--muted)}
.told dd{margin:2px 0 0;line-height:1.45}
.part{margin-top:14px;padding-top:12px;border-top:1px solid var(--grid);font-size:15.5px}
.part .file{font-weight:600}
.part .lines,.part .more,.found>.more{margin-top:4px;color:var(--muted);font-size:15px}
.examples{list-style:none;margin:10px 0 0;padding:0;display:grid;gap:8px}
.examples li{background:var(--shade);border-radius:8px;padding:8px 12px;min-width:0}
.examples li>p:first-child:not(:last-child){color:var(--muted);font-size:14px}
.quoted{font:14.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre-wrap}
.command code{display:inline-block;padding:8px 12px;border-radius:8px;font-size:16px}
.note{margin:8px 0 0;color:var(--muted);font-size:14.5px}
figure details{margin-top:10px}
@media print{
:root{color-scheme:light}
#found .grid{grid-template-columns:1fr}
article.found{break-inside:auto}
figure details{display:none}
.found h3,.kind,.size{break-after:avoid}
.examples li{break-inside:avoid;border:1px solid var(--grid)}
}
"""
)
