"""Which rows have which faults, with a few of them to show: masked, and cut to where the fault is."""

from __future__ import annotations

import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from crma.data.quality.findings import CHECKS, Finding, by_severity
from crma.data.quality.personal import mask
from crma.data.quality.row import Hit, Row
from crma.data.quality.spool import Spool

__all__ = ["Hits", "shown"]

_EXAMPLES = 5
_AROUND = 90  # characters either side of the place
_LOOKED_AT = 400  # characters either side that are masked before they are cut, so that no half of a number is left


class Hits:
    """Rows by check. A row that a check names twice counts once."""

    def __init__(self) -> None:
        self._rows: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._examples: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)

    def add(self, hits: Iterable[Hit], rows: Sequence[Row], spool: Spool) -> None:
        """`rows`: the chunk these hits are of; empty at the end, when the rows are read from the spool."""
        first = rows[0].number if rows else 0
        for hit in hits:
            known = self._rows[hit.check]
            if known and known[-1] == hit.row:
                continue
            known.append(hit.row)
            source = rows[hit.row - first].source if rows else int(spool.sources[hit.row])
            examples = self._examples[hit.check, source]
            if len(examples) < _EXAMPLES:
                row = rows[hit.row - first] if rows else None
                line = row.line if row else int(spool.lines[hit.row])
                text = row.text if row else spool.text(hit.row)
                for start, end, mark in reversed(hit.hidden):
                    text = text[:start] + mark + text[end:]
                example = {"line": line, "text": shown(text, hit.at)}
                examples.append({**example, "note": shown(hit.note, 0, around=200)} if hit.note else example)

    def rows_of(self, check: str) -> np.ndarray:
        """[rows] ascending."""
        return np.unique(np.array(self._rows.get(check, ()), np.uint64))

    def findings(self, spool: Spool, names: Sequence[str]) -> tuple[Finding, ...]:
        """One a check and source; `names` are the sources'."""
        sources, lines = np.array(spool.sources, np.int64), np.array(spool.lines, np.int64)
        found = []
        for check in self._rows:
            rows = self.rows_of(check).astype(np.int64)
            for source in np.unique(sources[rows]):
                here = rows[sources[rows] == source]
                found.append(
                    Finding(
                        check=check,
                        severity=CHECKS[check].severity,
                        count=len(here),
                        lines=tuple(int(line) for line in lines[here]),
                        file=names[int(source)],
                        examples=tuple(self._examples[check, int(source)]),
                    )
                )
        return by_severity(found)


def shown(text: str, at: int, *, around: int = _AROUND) -> str:
    """The part of a text around a place, with nothing personal and nothing that a terminal would act on."""
    at = max(0, min(at, len(text)))
    before = mask(text[max(0, at - _LOOKED_AT) : at])
    after = mask(text[at : at + _LOOKED_AT])
    start, whole = ("…" if at > around else ""), mask(before[-around:] + after)
    cut = len(before[-around:]) + around
    piece = start + whole[:cut] + ("…" if len(whole) > cut or len(text) > at + _LOOKED_AT else "")
    return "".join(_visible(character) for character in piece)


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " " if character != "\n" else " ⏎ "
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"}:
        return f"\\u{ord(character):04x}"
    return character
