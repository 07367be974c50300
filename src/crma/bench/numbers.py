"""Do the numbers of a document say what the receipts say? What is marked is checked, and can be filled in.

A table stands between `<!-- results:NAME -->` and `<!-- /results -->`, NAME being one that `result_tables` gives; a
number in a sentence is `<!-- n:KEY:FORMAT -->1.23<!-- /n -->`, KEY a dotted path into `headline.headline` (such as
near.advantage_pct.mean or far.advantage_pct.interval.0), FORMAT Python's format specification (such as +.2f).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from crma.bench.general_tables import General
from crma.bench.headline import headline
from crma.bench.quality import Quality
from crma.bench.receipt import Receipt
from crma.bench.result_tables import result_tables
from crma.bench.routing import RoutingReceipt
from crma.errors import DataError
from crma.stack import files

__all__ = ["Mismatch", "check_document", "check_whole", "fill_document"]

_MARKER = re.compile(r"<!-- (?:(?P<open>results|n):(?P<what>[^\n]*?)|/(?P<close>results|n)) -->")
_SHOWN = 160  # characters of a value in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """One place where a document does not say what the receipts say, or cannot be read."""

    file: str
    line: int  # 1-based: the line of the marker, in a table the first line that differs
    marker: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.marker}: expected {_short(self.expected)}, got {_short(self.got)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slot:
    kind: str  # "results" or "n"
    what: str  # a table's name, or KEY:FORMAT
    start: int  # of the text between the markers
    end: int
    line: int


class _Source:
    """What the receipts say, computed when first asked for."""

    def __init__(
        self,
        receipts: Iterable[Receipt],
        routing: Iterable[RoutingReceipt],
        quality: Quality | None,
        general: General | None,
    ) -> None:
        self.receipts, self.routing, self.quality, self.general = list(receipts), list(routing), quality, general

    @cached_property
    def tables(self) -> Mapping[str, str]:
        return result_tables(self.receipts, self.routing, self.quality, self.general)

    @cached_property
    def headline(self) -> Mapping[str, Any]:
        return headline(self.receipts, self.routing, quality=self.quality)

    def text(self, slot: _Slot) -> str:
        """What must stand in the slot.

        Raises:
            LookupError: nothing can; the message says what could have been asked for.
        """
        if slot.kind == "results":
            if slot.what not in self.tables:
                raise LookupError(f"a table that the receipts give: {', '.join(self.tables)}")
            return f"\n{self.tables[slot.what]}\n"
        key, _, form = slot.what.partition(":")
        value = self._value(key)
        try:
            return format(value, form)
        except ValueError as error:
            raise LookupError(f"a format of {type(value).__name__} ({error})") from error

    def _value(self, key: str) -> float | str:
        value: Any = self.headline
        for part in key.split("."):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdecimal():
                if int(part) >= len(value):
                    raise LookupError(f"a number from 0 to {len(value) - 1} for {part!r}")
                value = value[int(part)]
            elif value is None:
                raise LookupError("receipts that give this number: some are missing")
            else:
                known = ", ".join(value) if isinstance(value, Mapping) and value else "nothing below it"
                raise LookupError(f"a key of the headline; for {part!r}: {known}")
        if value is None:
            raise LookupError("receipts that give this number: some are missing")
        if not isinstance(value, int | float | str):
            raise LookupError(f"a key that ends at a number, not at {type(value).__name__}")
        return value


def check_document(
    path: Path,
    receipts: Iterable[Receipt],
    routing: Iterable[RoutingReceipt] = (),
    quality: Quality | None = None,
    general: General | None = None,
) -> tuple[Mismatch, ...]:
    """Every marked table and number that differs from the receipts, is unknown or has no receipt; none when all agree.

    Raises:
        DataError: the receipts cannot be compared with each other.
    """
    text = _read(path)
    slots, found = _slots(path, text)
    source = _Source(receipts, routing, quality, general)
    for slot in slots:
        got = text[slot.start : slot.end]
        try:
            expected = source.text(slot)
        except LookupError as error:
            found.append(_mismatch(path, slot, str(error.args[0]), got.strip()))
            continue
        if got != expected:
            found.append(_difference(path, slot, expected, got))
    return tuple(sorted(found, key=lambda m: m.line))


def check_whole(path: Path, expected: str) -> tuple[Mismatch, ...]:
    """The first line in which a document that is made of receipts alone differs from what they make, if any."""
    wanted, there = expected.split("\n"), _read(path).split("\n")
    for number in range(max(len(wanted), len(there))):
        a, b = (lines[number] if number < len(lines) else "the end of the document" for lines in (wanted, there))
        if a != b:
            return (Mismatch(file=str(path), line=number + 1, marker="the whole document", expected=a, got=b),)
    return ()


def fill_document(
    path: Path,
    receipts: Iterable[Receipt],
    routing: Iterable[RoutingReceipt] = (),
    quality: Quality | None = None,
    general: General | None = None,
) -> int:
    """Write what the receipts say into every marked place, all or nothing; returns how many places changed.

    Raises:
        DataError: a marker is broken, unknown or without receipts (all of them are listed; the file is as it was).
    """
    text = _read(path)
    slots, faults = _slots(path, text)
    source = _Source(receipts, routing, quality, general)
    changed = 0
    for slot in reversed(slots):  # from the end, so that earlier places keep their positions
        got = text[slot.start : slot.end]
        try:
            expected = source.text(slot)
        except LookupError as error:
            faults.append(_mismatch(path, slot, str(error.args[0]), got.strip()))
            continue
        if got != expected:
            text = text[: slot.start] + expected + text[slot.end :]
            changed += 1
    if faults:
        raise DataError(
            "some marked numbers cannot be filled in, so none was",
            where=str(path),
            got="\n    ".join(str(m) for m in sorted(faults, key=lambda m: m.line)),
            next_step="mend the markers, or make the missing receipts with `crma bench run`",
        )
    if changed:
        files.write_bytes_atomic(path, text.encode("utf-8"))
    return changed


def _slots(path: Path, text: str) -> tuple[list[_Slot], list[Mismatch]]:
    """The marked places, in order, and the markers that do not pair up."""
    slots: list[_Slot] = []
    faults: list[Mismatch] = []

    def fault(marker: re.Match[str], expected: str, got: str) -> None:
        line = text.count("\n", 0, marker.start()) + 1
        faults.append(Mismatch(file=str(path), line=line, marker=marker[0], expected=expected, got=got))

    opened: re.Match[str] | None = None
    for marker in _MARKER.finditer(text):
        if marker["open"]:
            if opened is not None:
                fault(opened, f"<!-- /{opened['open']} -->", marker[0])
            opened = marker
        elif opened is None or opened["open"] != marker["close"]:
            fault(marker, f"<!-- {marker['close']}:... --> before it", "none" if opened is None else opened[0])
            opened = None
        else:
            line = text.count("\n", 0, opened.start()) + 1
            slots.append(
                _Slot(kind=opened["open"], what=opened["what"], start=opened.end(), end=marker.start(), line=line)
            )
            opened = None
    if opened is not None:
        fault(opened, f"<!-- /{opened['open']} -->", "the end of the document")
    return slots, faults


def _difference(path: Path, slot: _Slot, expected: str, got: str) -> Mismatch:
    if slot.kind == "n":
        return _mismatch(path, slot, expected, got)
    wanted, there = expected.split("\n"), got.split("\n")
    longest = max(len(wanted), len(there))
    wanted += ["the end of the table"] * (longest - len(wanted))
    there += ["the end of the table"] * (longest - len(there))
    at = next(i for i, (a, b) in enumerate(zip(wanted, there, strict=True)) if a != b)
    return _mismatch(path, slot, wanted[at], there[at], line=slot.line + at)


def _mismatch(path: Path, slot: _Slot, expected: str, got: str, *, line: int | None = None) -> Mismatch:
    marker = f"<!-- {slot.kind}:{slot.what} -->"
    return Mismatch(file=str(path), line=line or slot.line, marker=marker, expected=expected, got=got)


def _read(path: Path) -> str:
    if not path.is_file():
        raise DataError("there is no such document", where=str(path), next_step="write it with `crma bench report`")
    return path.read_bytes().decode("utf-8")  # line ends as they are


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")
