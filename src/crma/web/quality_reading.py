"""What the data check's page reads of a report, which may have come from a file that anybody wrote."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crma.web.bars import amount
from crma.web.page import mapping_of, number_of, sequence_of

__all__ = [
    "KEPT_LINES",
    "SAMPLED",
    "SEVERITIES",
    "SHOWN_TEXT",
    "Found",
    "Part",
    "Reading",
    "Severity",
    "kept",
    "name_of",
    "natural",
    "positive",
    "read_report",
    "shown",
]

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
SHOWN_TEXT = 600  # characters of an example
_SHOWN_NAME = 120
KEPT_LINES = 2000  # line numbers of a finding in the embedded JSON
SAMPLED = frozenset({"hard", "easy", "overlap"})  # checks that look at some rows only


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one check found in one file."""

    file: str
    count: int
    lines: tuple[int, ...]
    note: str
    examples: tuple[Mapping[str, Any], ...]

    @property
    def whole(self) -> bool:
        return len(self.lines) >= self.count


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one check found, in all files."""

    check: str
    severity: Severity
    title: str
    why: str
    advice: str
    repair: str  # "drop", "edit" or "look"; "" where unknown
    repaired: bool
    parts: list[Part] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    verdict: Literal["fail", "warn", "pass"]
    rows: int | None  # that could be read
    faulty: int  # that could not
    files: tuple[Mapping[str, Any], ...]
    found: tuple[Found, ...]
    facts: Mapping[str, Any]
    skipped: tuple[tuple[str, str], ...]
    seconds: float | None

    @property
    def total(self) -> int | None:
        return self.rows + self.faulty if self.rows is not None else None

    def of(self, severity: Severity) -> tuple[Found, ...]:
        return tuple(found for found in self.found if found.severity == severity)

    def asked(self, found: Found) -> int | None:
        """Of how many rows `found` is the count; None where that is not known."""
        if found.check in SAMPLED:
            return natural(mapping_of(self.facts.get("scores")).get("rows")) if found.check != "overlap" else None
        return self.total


def read_report(report: Mapping[str, Any]) -> Reading:
    files = tuple(mapping_of(file) for file in sequence_of(report.get("files")))
    found: dict[tuple[int, str], Found] = {}
    for raw in map(mapping_of, sequence_of(report.get("findings"))):
        if not raw:
            continue
        severity = _severity(raw.get("severity"))
        check = name_of(raw.get("check")) or "(no name)"
        repair = raw.get("repair")
        one = found.setdefault(
            (SEVERITIES.index(severity), check),
            Found(
                check=check,
                severity=severity,
                title=shown(raw.get("title"), _SHOWN_NAME) or check,
                why=shown(raw.get("why"), SHOWN_TEXT),
                advice=shown(raw.get("advice"), SHOWN_TEXT),
                repair=repair if repair in ("drop", "edit", "look") else "",
                repaired=raw.get("repaired") is True,
            ),
        )
        lines = tuple(n for line in sequence_of(raw.get("lines")) if (n := natural(line)) is not None)
        count = natural(raw.get("count"))
        one.parts.append(
            Part(
                file=name_of(raw.get("file")),
                count=count if count is not None else len(lines),
                lines=lines,
                note=shown(raw.get("note"), SHOWN_TEXT),
                examples=tuple(e for e in map(mapping_of, sequence_of(raw.get("examples"))) if e),
            )
        )
    ordered = tuple(one for (_, _), one in sorted(found.items(), key=lambda item: item[0][0]))
    faulty = sum(natural(file.get("faulty")) or 0 for file in files)
    unread = sum(one.count for one in ordered if one.check == "schema")
    severities = {one.severity for one in ordered}
    said = report.get("verdict")
    verdict: Literal["fail", "warn", "pass"] = (
        "fail"
        if "error" in severities or said == "fail"
        else "warn"
        if "warning" in severities or said == "warn"
        else "pass"
    )
    skipped = mapping_of(report.get("skipped"))
    return Reading(
        verdict=verdict,
        rows=natural(report.get("rows")),
        faulty=max(faulty, unread),
        files=files,
        found=ordered,
        facts=mapping_of(report.get("facts")),
        skipped=tuple((name_of(key), shown(why, SHOWN_TEXT)) for key, why in skipped.items()),
        seconds=positive(report.get("seconds")),
    )


def _severity(value: object) -> Severity:
    for severity in SEVERITIES:
        if value == severity:
            return severity
    return "warning"


def kept(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """`report` for the page's JSON: a million line numbers would make a page of megabytes that says no more."""
    findings = report.get("findings")
    if not isinstance(findings, list | tuple):
        return report
    findings_kept = []
    for finding in findings:
        lines = sequence_of(mapping_of(finding).get("lines"))
        findings_kept.append({**finding, "lines": list(lines[:KEPT_LINES])} if len(lines) > KEPT_LINES else finding)
    return {**report, "findings": findings_kept}


def natural(value: object) -> int | None:
    number = number_of(value)
    return round(number) if number is not None and number >= 0 else None


def positive(value: object) -> float | None:
    number = number_of(value)
    return number if number is not None and number >= 0 else None


def shown(value: object, most: int) -> str:
    """A text as one line of at most so many characters, those that nobody sees written as their codes; else ""."""
    if not isinstance(value, str):
        number = number_of(value)
        return amount(number) if number is not None else ""
    text = value.strip()
    cut = f"… ({amount(len(text))} characters)" if len(text) > most else ""
    return "".join(_visible(character) for character in text[:most]) + cut


def name_of(value: object) -> str:
    return shown(value, _SHOWN_NAME)


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " ⏎ " if character == "\n" else " "
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return f"\\u{ord(character):04x}"
    return character
