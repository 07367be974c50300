"""What a check says: which rows, how bad, why it matters, what to do; and the verdict over all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["CHECKS", "Check", "Finding", "Repair", "Report", "Severity", "Verdict", "check_named"]

Severity = Literal["error", "warning", "info"]
Verdict = Literal["fail", "warn", "pass"]
Repair = Literal["drop", "edit", "look"]  # "look": a person has to decide

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that may be wrong with a row. `repaired`: `crma data clean` does so unless told otherwise."""

    name: str
    title: str
    severity: Severity
    why: str
    advice: str
    repair: Repair = "look"
    repaired: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found in one file. `examples` are masked: no personal data, no secrets, no control characters."""

    check: str
    severity: Severity
    count: int  # rows, one each however often it has the fault
    lines: tuple[int, ...]  # of these rows, ascending, from 1 (in Parquet and Arrow the rows' numbers)
    file: str
    examples: tuple[Mapping[str, Any], ...] = ()  # {"line": …, "text": …} and, where there is more to say, "note"
    note: str = ""  # what these rows in particular are about

    def to_json(self) -> dict[str, Any]:
        check = check_named(self.check)
        return {
            "check": self.check,
            "title": check.title,
            "severity": self.severity,
            "count": self.count,
            "file": self.file,
            "lines": list(self.lines),
            "note": self.note,
            "why": check.why,
            "advice": check.advice,
            "repair": check.repair,
            "repaired": check.repaired,
            "examples": [dict(example) for example in self.examples],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that was found.

    `files` has for each file its name, bytes and rows; `facts` what was measured besides (lengths, languages, tokens,
    time and memory of training), by name; `skipped` which checks were not made, and why.
    """

    files: tuple[Mapping[str, Any], ...]
    rows: int  # good ones: those that could be read
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """`fail` where a finding is an error, `warn` where one is a warning, else `pass`."""
        found = {finding.severity for finding in self.findings}
        return "fail" if "error" in found else "warn" if "warning" in found else "pass"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "rows": self.rows,
            "files": [dict(file) for file in self.files],
            "findings": [finding.to_json() for finding in self.findings],
            "facts": dict(self.facts),
            "skipped": dict(self.skipped),
            "seconds": round(self.seconds, 3),
        }


def _check(name: str, title: str, severity: Severity, why: str, advice: str, *repair: Any) -> tuple[str, Check]:
    how: Repair = repair[0] if repair else "look"
    return name, Check(
        name=name, title=title, severity=severity, why=why, advice=advice, repair=how, repaired=how != "look"
    )


# In the order in which a report tells them. Which severities are errors: what stops training, or makes its numbers
# false, or puts a secret into a model. All else is the user's to weigh.
CHECKS: Mapping[str, Check] = dict(
    (
        _check(
            "schema",
            "rows that cannot be read",
            "error",
            "training refuses a file with a row that has no known fields, no text, or turns out of order",
            "mend the line, or let clean leave it out",
            "drop",
        ),
        _check(
            "empty_answer",
            "answers that say nothing",
            "warning",
            'an answer such as "N/A" or "..." teaches the model to give it',
            "leave the row out, or write the answer",
            "drop",
        ),
        _check(
            "secret",
            "keys and passwords",
            "error",
            "a model repeats what it was trained on: whoever can ask it can read the key",
            "replace it, and revoke the key: the file has been copied before",
            "edit",
        ),
        _check(
            "pii_card",
            "card numbers",
            "error",
            "payment data with a valid check digit; a model may repeat it",
            "replace it by a mark",
            "edit",
        ),
        _check(
            "pii_iban",
            "bank account numbers",
            "error",
            "an IBAN with valid check digits; a model may repeat it",
            "replace it by a mark",
            "edit",
        ),
        _check(
            "pii_national_number",
            "national and tax numbers",
            "error",
            "a number that names one person; a model may repeat it",
            "replace it by a mark",
            "edit",
        ),
        _check(
            "pii_email",
            "e-mail addresses",
            "warning",
            "a model may repeat an address, or learn to invent one where it belongs",
            "replace it by a mark; keep those of institutions that an answer is about",
            "edit",
        ),
        _check(
            "pii_phone",
            "telephone numbers",
            "warning",
            "a model may repeat a number, or invent one that belongs to somebody",
            "replace it by a mark; keep those of institutions that an answer is about",
            "edit",
        ),
        _check(
            "pii_other",
            "names and other personal data, as presidio sees them",
            "warning",
            "a model may repeat who it was told about; what names a person is guessed, so some of these are none",
            "look at them; people an answer is about may stay",
        ),
        _check(
            "leak_split",
            "rows that stand in another split too",
            "error",
            "a test on rows that were trained on measures memory, not what was learnt",
            "leave them out of the training file",
            "drop",
        ),
        _check(
            "leak_stack",
            "rows that judge a domain of this stack",
            "error",
            "training on another domain's validation or test rows makes its drift look better than it is",
            "leave them out",
            "drop",
        ),
        _check(
            "leak_benchmark",
            "questions of a public benchmark",
            "error",
            "a benchmark that was trained on no longer measures general ability",
            "leave them out",
            "drop",
        ),
        _check(
            "duplicate",
            "rows that stand there twice",
            "warning",
            "a row seen twice an epoch is learnt by heart, and its copies may stand in two splits",
            "keep the first; neither case nor spacing makes another row",
            "drop",
        ),
        _check(
            "near_duplicate",
            "rows that are nearly the same",
            "warning",
            "all but copies weigh twice, and may stand on both sides of a split",
            "keep the first",
            "drop",
        ),
        _check(
            "contradiction",
            "one question, different answers",
            "warning",
            "the model is drawn to both answers and learns neither",
            "keep the right one; if both are, say in the question what tells them apart",
        ),
        _check(
            "encoding",
            "text that was decoded wrongly",
            "warning",
            "mojibake (such as Ã© for é) is learnt as if it were spelling",
            "let clean undo it",
            "edit",
        ),
        _check(
            "control",
            "characters that nobody sees",
            "warning",
            "control and zero-width characters split words into tokens the model never sees otherwise",
            "let clean take them out",
            "edit",
        ),
        _check(
            "markup",
            "remains of web pages",
            "warning",
            "tags and entities in prose are learnt as part of the answer",
            "let clean take them out",
            "edit",
        ),
        _check(
            "truncated_answer",
            "answers that break off",
            "warning",
            "the model learns to stop in the middle of a sentence",
            "end them, or leave them out",
        ),
        _check(
            "repetition",
            "answers that repeat themselves",
            "warning",
            "loops are learnt as easily as sentences",
            "shorten them, or leave them out",
        ),
        _check(
            "refusal",
            "answers that refuse",
            "warning",
            "refusals and talk of being a language model spread to questions that should be answered",
            "leave them out unless the refusal is the point",
        ),
        _check(
            "boilerplate",
            "the same sentence in many answers",
            "info",
            "a phrase that many answers share will be in most answers of the model",
            "cut it unless it belongs there",
        ),
        _check(
            "too_long",
            "rows longer than training takes",
            "warning",
            "context is cut from the left, and of a long answer the end",
            "split them, or raise max_length",
        ),
        _check(
            "language",
            "rows in another language",
            "info",
            "a few rows in another language are seldom meant",
            "leave them out unless they are",
        ),
        _check(
            "outlier",
            "rows unlike the others",
            "info",
            "much longer or shorter rows, or rows of hardly any letters, are often conversion errors",
            "look at them",
        ),
        _check(
            "overlap",
            "rows of a domain already learnt",
            "info",
            "the router will send these questions to the domain that is there",
            "learn them with --extend of that domain, or as one domain with it",
        ),
        _check(
            "formula",
            "cells that a spreadsheet would run",
            "info",
            "a cell that begins with =, +, - or @ is a formula once the file is opened in a spreadsheet",
            "do not open the file there",
        ),
        _check(
            "hard",
            "answers the base finds no likelier for their question",
            "info",
            "an answer that does not follow from its question is often another row's",
            "look at them",
        ),
        _check(
            "easy",
            "answers the base knows by heart",
            "info",
            "they cost time and teach little",
            "leave them out where time is short",
        ),
    )
)


def check_named(name: str) -> Check:
    from crma.errors import ConfigError

    if name not in CHECKS:
        raise ConfigError("there is no such check", expected=", ".join(CHECKS), got=name, next_step="name one of these")
    return CHECKS[name]


def by_severity(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings; within these in the order of CHECKS."""
    places = {name: place for place, name in enumerate(CHECKS)}
    return tuple(sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), places[f.check], f.file)))
