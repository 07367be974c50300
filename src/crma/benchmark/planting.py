"""A file of clean rows with defects planted in it, and the truth: which line was given which defect.

Every defect gets rows of its own. A copy stands after what it is a copy of, so it is the copy that is to be told.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crma.benchmark import planting_texts as texts
from crma.benchmark.planting_personal import DECOYS, PERSONAL, SECRETS
from crma.benchmark.planting_pool import (
    Plain,
    clean_rows,
    similarity,
    vocabulary,
    words_of,
)
from crma.errors import ConfigError
from crma.types import Example

__all__ = ["EDITS", "RESERVED", "TABLE", "TEST", "TRAIN", "Line", "Planted", "plant"]

TRAIN, TEST, TABLE, RESERVED = "train.jsonl", "test.jsonl", "table.csv", "rows that are kept"
EDITS = (0.01, 0.02, 0.05, 0.10, 0.20, 0.30)
ALIKE = 0.8  # the similarity from which a row counts as nearly the same
_NONE: frozenset[str] = frozenset()
_PERSONAL = frozenset({"secret", *(name.split("/")[0] for name in PERSONAL)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of the file to train on.

    Attributes:
        kind: what was done to it, such as "near_duplicate/5 %"; "clean" where nothing was.
        planted: checks that must tell it.
        allowed: checks that may tell it, since it has that fault as well by accident of what was planted.
        decoy: checks that it tempts and that must not tell it.
        similarity: of an edited copy, to what it was made of.
    """

    raw: bytes
    kind: str
    planted: frozenset[str] = _NONE
    allowed: frozenset[str] = _NONE
    decoy: frozenset[str] = _NONE
    similarity: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """`lines[i]` is line i + 1 of `train`, `cells[i]` row i + 1 of `table`."""

    train: Path
    test: Path
    table: Path
    reserved: Mapping[str, Sequence[Example]]
    lines: tuple[Line, ...]
    cells: tuple[Line, ...]

    def lines_of(self, check: str) -> frozenset[int]:
        """The truth: numbers of the lines that this check must tell."""
        return frozenset(n for n, line in enumerate(self.lines, start=1) if check in line.planted)


def plant(folder: Path, data: Path, *, seed: int, each: int = 40, clean: int = 600) -> Planted:
    """Write `train.jsonl`, `test.jsonl` and `table.csv` to `folder`.

    Args:
        data: with domains/ and benchmarks/.
        each: rows of a kind of defect (of a kind with many sub-kinds a few more or less).
        clean: rows of each of four domains that are drawn; what no defect takes stays as it is.

    Raises:
        ConfigError: the clean rows do not suffice.
    """
    planter = _Planter(data, seed, each, clean)
    for step in (
        planter.copies,
        planter.contradictions,
        planter.leaks,
        planter.benchmark_questions,
        planter.personal,
        planter.damage,
        planter.answers,
        planter.others,
        planter.formulas,
    ):
        step()
    return planter.written(folder)


class _Planter:
    def __init__(self, data: Path, seed: int, each: int, clean: int) -> None:
        self.data, self.each = data, each
        self.draw = random.Random(f"plant {seed}")
        self.pool = clean_rows(data, seed=seed, each=clean)
        self.words = vocabulary(self.pool)
        # Other rows' answers and long texts are of a fifth domain, so that none of them stands in the file by itself.
        self.donors = clean_rows(data, seed=seed, each=2 * clean, domains=("legal",))
        self.placed: list[tuple[float, Line]] = []
        self.cells: list[tuple[Plain, Line]] = []
        self.test: list[Plain] = []
        self.reserved: list[Plain] = []

    # --- what all share ---

    def take(self, count: int, fits: Callable[[Plain], bool] = lambda row: True) -> list[Plain]:
        found = [row for row in self.pool if fits(row)][:count]
        if len(found) < count:
            raise ConfigError("too few clean rows for what is to be planted", expected=count, got=len(found))
        taken = {id(row) for row in found}
        self.pool = [row for row in self.pool if id(row) not in taken]
        return found

    def donor(self) -> Plain:
        if not self.donors:
            raise ConfigError("too few rows whose answers others are given", next_step="draw more clean rows")
        return self.donors.pop()

    def put(
        self,
        row: Plain | bytes,
        kind: str,
        *planted: str,
        after: float = 0.0,
        allowed: frozenset[str] = _NONE,
        decoy: frozenset[str] = _NONE,
        similarity: float | None = None,
    ) -> float:
        """Returns where the row stands, in [0, 1)."""
        place = self.draw.uniform(after, 1.0)
        if isinstance(row, Plain):
            # What was put at the end of an answer, or is no sentence, may have taken its end away.
            if kind not in ("clean", "copied") and row.completion.rstrip()[-1:] not in tuple(".!?"):
                allowed |= {"truncated_answer"}
            row = row.line()
        line = Line(
            raw=row,
            kind=kind,
            planted=frozenset(planted),
            allowed=allowed - {*planted},
            decoy=decoy,
            similarity=similarity,
        )
        self.placed.append((place, line))
        return place

    def written(self, folder: Path) -> Planted:
        for row in self.pool:
            self.put(row, "clean")
        folder.mkdir(parents=True, exist_ok=True)
        self.placed.sort(key=lambda placed: placed[0])
        lines = tuple(line for _, line in self.placed)
        self.draw.shuffle(self.test)
        (folder / TRAIN).write_bytes(b"".join(line.raw + b"\n" for line in lines))
        (folder / TEST).write_bytes(b"".join(row.line() + b"\n" for row in self.test))
        with (folder / TABLE).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerows([("prompt", "completion"), *((row.prompt, row.completion) for row, _ in self.cells)])
        kept = tuple(Example.of(row.prompt, row.completion) for row in self.reserved)
        return Planted(
            train=folder / TRAIN,
            test=folder / TEST,
            table=folder / TABLE,
            reserved={RESERVED: kept},
            lines=lines,
            cells=tuple(line for _, line in self.cells),
        )

    # --- rows that are another's ---

    def copies(self) -> None:
        for row in self.take(self.each):
            self.put(row, "duplicate", "duplicate", after=self.put(row, "copied"))
        for share in EDITS:
            for row in self.take(self.each, _is_long):
                self.near(row, texts.edited(row, share, self.words, self.draw), f"{share:.0%} of the words")
        for row in self.take(self.each // 2, _is_long):
            self.near(row, self.restyled(row), "case, marks and spaces")
        for row in self.take(self.each // 2, lambda r: _is_long(r) and r.completion.count(". ") >= 3):
            shorter = row.saying(row.completion[: row.completion.rindex(". ") + 1])
            self.near(row, shorter, "last sentence dropped")
        for row in self.take(self.each // 2, lambda r: _is_long(r) and r.domain != "code"):
            sentence = self.draw.choice(texts.ORDINARY["refusal"])
            self.near(row, row.saying(f"{row.completion} {sentence}"), "a sentence added")

    def near(self, row: Plain, other: Plain, kind: str) -> None:
        """A row that asks the same in the same words may be told as a contradiction, both of them."""
        alike = similarity(row.text, other.text)
        asks = frozenset({"contradiction"}) if words_of(row.prompt) == words_of(other.prompt) else _NONE
        if row == other:
            raise AssertionError("an edit that edits nothing")
        at = self.put(row, "copied", allowed=asks)
        if row.text.casefold().split() == other.text.casefold().split():
            self.put(other, "duplicate/case and spaces", "duplicate", after=at)
            return
        planted = ("near_duplicate",) if alike >= ALIKE else ()
        self.put(other, f"near_duplicate/{kind}", *planted, after=at, allowed=asks, similarity=alike)

    def restyled(self, row: Plain) -> Plain:
        prompt = self.draw.choice((str.upper, str.lower, str.title))(row.prompt)
        answer = row.completion.replace(". ", self.draw.choice((" !  ", ".\n", " ... ")))
        return row.asking(prompt.replace(",", " -")).saying(f" {answer.replace(', ', ' , ')}\n".upper())

    def contradictions(self) -> None:
        for row in self.take(self.each):
            styled = self.draw.choice((str.upper, str.lower, lambda p: p.replace(" ", "  "), lambda p: p))
            at = self.put(row, "contradiction", "contradiction")
            other = row.asking(styled(row.prompt)).saying(self.donor().completion)
            self.put(other, "contradiction", "contradiction", after=at)

    def leaks(self) -> None:
        self.test += self.take(self.each)
        for kept, check in ((self.test, "leak_split"), (self.reserved, "leak_stack")):
            for row in self.take(self.each):
                kept.append(row)
                self.put(row, f"{check}/copy", check)
            for share in (0.02, 0.05):
                for row in self.take(self.each // 2, _is_long):
                    kept.append(row)
                    other = texts.edited(row, share, self.words, self.draw)
                    alike = similarity(row.text, other.text)
                    told = alike >= ALIKE or words_of(row.prompt) == words_of(other.prompt)
                    self.put(other, f"{check}/{share:.0%} of the words", *([check] if told else []), similarity=alike)
            for row in self.take(self.each):
                kept.append(row)
                self.put(row.saying(self.donor().completion), f"{check}/the same question", check)

    def benchmark_questions(self) -> None:
        check, questions = "leak_benchmark", texts.questions(self.data / "benchmarks", self.draw)

        def question() -> str:
            return next(questions)

        for row in self.take(self.each):
            self.put(row.asking(f"{row.prompt}\n\n{question()}"), f"{check}/in a prompt", check)
        for row in self.take(self.each):
            self.put(row.saying(question()), f"{check}/as an answer", check)
        for row in self.take(self.each // 2):
            restyled = question().upper().replace(",", " ;").replace(". ", "\n")
            self.put(row.asking(restyled), f"{check}/case and marks", check)
        for row in self.take(self.each):
            asked = Plain(prompt=question(), completion="")
            share = 1 / len(words_of(asked.prompt))
            other = texts.edited(asked, share, self.words, self.draw).prompt
            # As of copies: from a similarity of 0.8 on, that is from nineteen words on. Of a short question one with
            # another word may be another question.
            alike = similarity(asked.prompt, other)
            if alike >= ALIKE:
                self.put(row.asking(other), f"{check}/a word replaced", check, similarity=alike)
            else:
                kind = f"{check}/a word of a short question replaced"
                self.put(row.asking(other), kind, allowed=frozenset({check}), similarity=alike)

    # --- what stands in a row ---

    def personal(self) -> None:
        for name, make in PERSONAL.items():
            check = name.split("/")[0]
            for row in self.take(self.each // (6 if "/" in name else 1) + 1, _is_prose):
                self.put(texts.in_places(row, make(self.draw), self.draw), name, check)
        for name, make in SECRETS.items():
            for row in self.take(self.each // 8 + 1):
                self.put(texts.in_places(row, make(self.draw), self.draw), f"secret/{name}", "secret")
        for name, make in DECOYS.items():
            for row in self.take(self.each // 8 + 1, _is_prose):
                self.put(texts.in_places(row, make(self.draw), self.draw), f"decoy/{name}", decoy=_PERSONAL)

    def damage(self) -> None:
        draw = self.draw
        for codec in ("latin-1", "cp1252"):
            for times in (1, 2):
                for row in self.take(self.each // 2, _is_prose):
                    broken = texts.misread(texts.sound_accents(draw), codec, times)
                    kind = f"encoding/{codec}, {'once' if times == 1 else 'twice'}"
                    self.put(texts.in_places(row, broken, draw), kind, "encoding")
        for row in self.take(self.each, _is_prose):
            character = draw.choice(texts.INVISIBLE)
            at = draw.randrange(1, len(row.completion))
            broken = row.completion[:at] + character + row.completion[at:]
            self.put(row.saying(broken), f"control/U+{ord(character):04X}", "control")
        for row in self.take(self.each, _is_long_prose):
            self.put(texts.web_remains(row, draw), "markup", "markup")
        for check, sentences in texts.ORDINARY.items():
            for row in self.take(self.each // 2, _is_prose):
                decoy = row.saying(f"{draw.choice(sentences)} {row.completion}")
                self.put(decoy, f"decoy/{check}", decoy=frozenset({check}))

    def answers(self) -> None:
        draw = self.draw
        for row in self.take(self.each, lambda r: _is_long_prose(r) and len(r.completion.split()) >= 16):
            self.put(texts.truncated(row, draw), "truncated_answer", "truncated_answer")
        for row in self.take(self.each, _is_long_prose):
            self.put(texts.looping(row, draw), "repetition", "repetition")
        for row in self.take(self.each):
            refusal = draw.choice(texts.REFUSALS)
            rest = f" {row.completion}" if draw.random() < 0.3 else ""
            self.put(row.saying(refusal + rest), "refusal", "refusal")
        for row in self.take(self.each):
            self.put(row.saying(draw.choice(texts.EMPTY)), "empty_answer/no words", "empty_answer")
        for row in self.take(self.each // 2):
            self.put(row.saying(row.prompt), "empty_answer/the question", "empty_answer")
        for row in self.take(max(24, len(self.placed) // 12), _is_prose):  # from a twentieth of all on it is told
            self.put(
                row.saying(f"{row.completion} I hope that this answers your question."), "boilerplate", "boilerplate"
            )

    def others(self) -> None:
        draw = self.draw
        for language in texts.FOREIGN:
            for row in texts.foreign_rows(language, max(1, self.each // 5), draw):
                self.put(row, f"language/{language}", "language")
        for row, broken in zip(self.take(self.each), texts.broken(draw), strict=False):
            kind, raw = broken(row)
            self.put(raw, f"schema/{kind}", "schema")
        unusual = frozenset({"outlier"})
        for i, row in enumerate(self.take(self.each // 2, _is_prose)):
            # No text here has six characters a token: 3,500 of them are over 512 tokens in any case.
            long = ""
            while len(long) < 3500:
                long += f"{self.donor().text}\n\n"
            made = row.asking(long + row.prompt) if i % 2 else row.saying(row.completion + "\n\n" + long.rstrip())
            self.put(made, f"too_long/{'prompt' if i % 2 else 'answer'}", "too_long", allowed=unusual)
        for row in self.take(self.each // 4, lambda r: _is_prose(r) and len(r.prompt) <= 120):
            cells = " ".join(f"{draw.uniform(0, 9):.2f} |" for _ in range(80))
            self.put(row.saying(f"{cells} 0.5."), "outlier/numbers alone", "outlier")

    def formulas(self) -> None:
        """A table of their own: only a spreadsheet runs them."""
        check = frozenset({"formula"})
        for i, row in enumerate(self.take(2 * self.each, _is_prose)):
            is_decoy = i < self.each
            cell = texts.no_formula(self.draw) if is_decoy else texts.formula(self.draw)
            made = row.asking(f"{cell} {row.prompt}") if i % 2 else row.saying(f"{cell} {row.completion}")
            line = Line(
                raw=made.line(),
                kind="decoy/formula" if is_decoy else "formula",
                planted=_NONE if is_decoy else check,
                decoy=check if is_decoy else _NONE,
            )
            self.cells.append((made, line))
        self.draw.shuffle(self.cells)


def _is_prose(row: Plain) -> bool:
    return row.domain != "code"


def _is_long(row: Plain) -> bool:
    """Where an edit of a word is no other answer: twelve words of it and forty in all."""
    return len(row.completion.split()) >= 12 and len(row.text.split()) >= 40


def _is_long_prose(row: Plain) -> bool:
    return _is_prose(row) and _is_long(row)
