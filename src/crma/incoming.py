"""Rows without a domain's name: sorted into known domains and new ones, and learnt, in small increments.

What is read is kept in the stack's scratch folder until it is learnt, written before anything else is done with it;
what is being learnt is named there too. So a killed run goes on: no row is lost, none is learnt twice. Within the
context the caller is the stack's only writer.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from crma.continual import ContinualModel
from crma.data.lines import follow
from crma.data.openings import openings
from crma.data.sources import read_examples, read_line
from crma.errors import ConfigError, CrmaError, DataError
from crma.extending import Extended
from crma.learning import Learnt, split_of
from crma.route.background import BACKGROUND_PROMPTS
from crma.route.sorting import Sorter, validation_share
from crma.stack import files
from crma.train.config import LearnConfig
from crma.training import Listener, data_hash
from crma.types import Example, Message

__all__ = ["Incoming", "Planned", "check_settings", "named_after"]

_STATE = "state.json"
_PART = 1000  # rows between two words of how far reading is
_FEW = 20  # rows of a known domain that are worth extending it by, once all have come
_WORD = re.compile(r"[a-z]{5,}")  # shorter ones are mostly of no subject
_NAME_WORDS = 2


def check_settings(least: int, increment: int, false_alarms: float) -> None:
    """Raises ConfigError where rows cannot be sorted so."""
    if least < 10 or increment < 1 or not 0.0 < false_alarms < 1.0:
        raise ConfigError(
            "these settings cannot sort rows",
            expected="least at least 10, increment at least 1, false alarms between 0 and 1",
            got=f"least {least}, increment {increment}, false alarms {false_alarms}",
            next_step="leave them out: the defaults suit a few hundred rows and more",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """What would be learnt: a new domain, or more rows for one that is there; or rows that wait (`domain` None)."""

    domain: str | None
    new: bool
    rows: int
    samples: tuple[str, ...]  # a few prompts


class Incoming:
    """A context manager; see the module."""

    def __init__(
        self,
        model: ContinualModel,
        config: LearnConfig | None = None,
        *,
        source: str,
        least: int = 50,
        increment: int = 100,
        false_alarms: float = 1e-4,
        on_event: Listener = lambda _kind, _value: None,
    ) -> None:
        """
        Args:
            source: where rows come from: each is read on from where it was left. Rows of another one that still wait
                are sorted together with these.
            least: rows that make a new domain.
            increment: rows by which a known domain is extended, before the end.
            false_alarms: of the test for novelty (`crma.route.novelty`).
        """
        if model.accelerator.num_processes > 1:
            raise ConfigError(
                "rows are sorted by one process",
                expected=1,
                got=model.accelerator.num_processes,
                next_step="run without `accelerate launch`, or name the domains yourself and learn them one by one",
            )
        check_settings(least, increment, false_alarms)
        self.model, self.config, self.source = model, config or LearnConfig(), source
        self.increment, self.on_event = increment, on_event
        self._least, self._false_alarms = least, false_alarms
        self._rows: dict[int, Example] = {}
        self._asked: dict[int, str] = {}  # what the router reads of each, decided once, with the rows it came with
        self._begun: dict[str, Any] | None = None
        self._held = ExitStack()
        self._positions: dict[str, int] = {}

    @property
    def position(self) -> int:
        """Where in the source to go on: rows of a file, bytes of a stream."""
        return self._positions.get(self.source, 0)

    def __enter__(self) -> Incoming:
        self._held.enter_context(self.model.stack.lock())
        try:
            self._open()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _open(self) -> None:
        self.sorter = Sorter(self.model.router_or_empty(), least=self._least, false_alarms=self._false_alarms)
        path = self.model.stack.incoming / _STATE
        if not path.is_file():
            return
        state = files.parse_json(path, files.read_bytes(path))
        self._positions = state["positions"]
        rows = [_example(line) for line in state["rows"]]
        self._take(rows, openings(rows))
        same = state["source"] == self.source
        if same:
            self.sorter.resume(**state["novelty"])
        if rows:
            # Also those of another source: too few by themselves, they may be enough with the rows that come now.
            came = "" if same else f", from {state['source']},"
            self.on_event("note", {"text": f"{len(rows)} rows that were read before{came} wait to be learnt"})
        if state["begun"] is not None:
            numbers = list(self._rows)
            begun = {**state["begun"], "rows": [numbers[i] for i in state["begun"]["rows"]]}
            # Of a domain that was forgotten meanwhile the rows are sorted like any others.
            if begun["kind"] == "learn" or begun["domain"] in self._names():
                self._begun = begun

    def take(self, rows: Sequence[Example], position: int, *, keep: bool = True) -> None:
        """Sort rows, and keep them; `position` is where in the source to go on after them."""
        usable = [(row, text) for row, text in zip(rows, openings(rows), strict=True) if text.strip()]
        if len(usable) < len(rows):
            self.on_event("note", {"text": f"{len(rows) - len(usable)} rows ask nothing and are left out"})
        for start in range(0, len(usable), _PART):
            part = usable[start : start + _PART]
            self._take([row for row, _ in part], [text for _, text in part])
            if len(usable) > _PART:
                read = min(start + _PART, len(usable))
                self.on_event("note", {"text": f"{read:,} of {len(usable):,} rows read"})
        self._positions[self.source] = position
        if keep:
            self._save()

    def _take(self, rows: Sequence[Example], asked: Sequence[str]) -> None:
        if not rows:
            return
        features = self.model.features(asked)
        sound = np.asarray(np.isfinite(features).all(axis=1))
        if not sound.all():
            self.on_event("note", {"text": f"{int((~sound).sum())} rows have no finite features and are left out"})
        kept = np.flatnonzero(sound).tolist()
        if kept:
            numbers = self.sorter.take(features[sound])
            self._rows |= {number: rows[i] for number, i in zip(numbers, kept, strict=True)}
            self._asked |= {number: asked[i] for number, i in zip(numbers, kept, strict=True)}

    def read_file(self, path: str | os.PathLike[str], *, keep: bool = True) -> None:
        """Take what is new of a file or folder since it was last read.

        Raises:
            DataError: it cannot be read, or has fewer rows than were read of it.
        """
        rows = read_examples(path)
        if len(rows) < self.position:
            raise DataError(
                "the file has fewer rows than were read of it before",
                where=str(path),
                expected=f"at least {self.position}",
                got=len(rows),
                next_step="give other rows as another file",
            )
        self.take(rows[self.position :], len(rows), keep=keep)

    def read_stream(self, source: str, *, idle: float | None = None) -> Iterator[Learnt | Extended]:
        """Take and learn rows as they arrive (`crma.data.lines.follow`), and all that can be learnt once they end.

        A line that is no row is told, and passed by.
        """
        begin = 0 if source == "-" else self.position
        number = 0
        for lines, position in follow(source, begin, idle=idle):
            rows = []
            for line in lines:
                number += 1
                try:
                    rows += [read_line(line, number)] if line.strip() else []
                except DataError as error:
                    since = f" (counted from byte {begin})" if begin else ""
                    self.on_event("note", {"text": f"passed by{since}: {error}"})
            self.take(rows, position)
            yield from self.work()
        yield from self.finish()

    def work(self) -> list[Learnt | Extended]:
        """Learn what is ready, while more rows may come; first what a killed run had begun."""
        done: list[Learnt | Extended] = []
        if self._begun is not None:
            done += self._do(self._begun["kind"], self._begun["domain"], self._begun["rows"], self._begun["data"])
        # All that one look found, as it found it: sorted anew in between, rows of the next would go to the first.
        while new := self.sorter.new_domains():
            for name, rows in self._named(new):
                done += self._do("learn", name, rows)
        for domain in list(self.sorter.known):
            rows = self.sorter.known.get(domain, ())
            if len(rows) >= self.increment:
                done += self._do("extend", domain, rows)
        return done

    def finish(self) -> list[Learnt | Extended]:
        """Learn all that can be learnt, now that no more rows come; the rest goes on waiting."""
        done = self.work()
        while new := self.sorter.new_domains(at_the_end=True):
            for name, rows in self._named(new):
                done += self._do("learn", name, rows)
        for domain, rows in self.sorter.at_the_end().items():
            if len(rows) >= _FEW:
                done += self._do("extend", domain, rows)
        if self._rows:
            text = f"{len(self._rows)} rows wait: too few for a domain they belong to, or to make one"
            self.on_event("note", {"text": text})
        return done

    def plan(self) -> list[Planned]:
        """What `finish` would learn, as far as can be said before the first of it is learnt; nothing is changed."""
        found, left = [], set(self._rows)
        for name, rows in self._named(self.sorter.new_domains(at_the_end=True)):
            found.append(self._planned(name, rows, new=True))
            left -= set(rows)
        for domain, rows in self.sorter.at_the_end().items():
            mine = tuple(n for n in rows if n in left)
            if len(mine) >= _FEW:
                found.append(self._planned(domain, mine, new=False))
                left -= set(mine)
        return [*found, self._planned(None, tuple(sorted(left)), new=False)] if left else found

    def _planned(self, domain: str | None, rows: Sequence[int], *, new: bool) -> Planned:
        samples = tuple(self._asked[n] for n in rows[:: max(1, len(rows) // 3)][:3])
        return Planned(domain=domain, new=new, rows=len(rows), samples=samples)

    def _do(self, kind: str, domain: str, numbers: Sequence[int], begun: str | None = None) -> list[Learnt | Extended]:
        """Learn or extend `domain` by rows, once: what is begun is written down before, that it is done after.

        Args:
            begun: the hash of the data, where a killed run had begun with them; they may be committed.
        """
        rows = [self._rows[n] for n in numbers]
        done: list[Learnt | Extended] = []
        try:
            config = self._config_of(kind, domain, rows)
            content = begun or data_hash(split_of(domain, rows, config)[0])
            if begun is None or not self._is_committed(domain, content):
                self._begun = {"kind": kind, "domain": domain, "rows": list(numbers), "data": content}
                self._save()
                self.on_event("note", {"text": f"{kind} '{domain}' by {len(rows)} rows"})
                call = self.model.learn if kind == "learn" else self.model.extend
                done.append(call(domain, rows, config, on_event=self.on_event))
        except (DataError, ConfigError) as error:
            # Rows of one document cannot be split, a domain without kept rows cannot be extended: no reason to stop for
            # all the others, who would wait for ever.
            self.on_event("note", {"text": f"these rows are passed by: {error}"})
        except CrmaError:
            self._begun = None  # or the same fault would meet whoever opens the stack for sorting again
            self._save()
            raise
        self.sorter.remove(numbers)
        for number in numbers:
            del self._rows[number], self._asked[number]
        self.sorter.knows(self.model.router_or_empty())
        self._begun = None
        self._save()
        return done

    def _config_of(self, kind: str, domain: str, rows: Sequence[Example]) -> LearnConfig:
        """A new domain gets enough validation rows to say what is typical of it; one that is there keeps its shape."""
        share = self.config.validation
        if kind == "learn":
            enough = validation_share(len(rows), share) if isinstance(share, float) else share
            return self.config.model_copy(update={"validation": enough})
        own = LearnConfig(**self.model.stack.manifest.domain(domain).config)
        return self.config.model_copy(update={k: getattr(own, k) for k in ("rank", "alpha", "max_length")})

    def _is_committed(self, domain: str, content: str) -> bool:
        record = next((d for d in self.model.stack.manifest.domains if d.name == domain), None)
        return record is not None and content in {record.data_sha256, *(e.data_sha256 for e in record.extensions)}

    def _named(self, groups: Sequence[tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
        """Each group with a name, after the words that tell its rows from all others here and from everyday prompts.

        All of one look at once: so a plan's names are those that are learnt.
        """
        taken, found = {name.casefold() for name in self._names()}, []
        for rows in groups:
            mine = set(rows)
            own = [self._asked[n] for n in rows]
            rest = [text for n, text in self._asked.items() if n not in mine]
            found.append((named_after(own, (*rest, *BACKGROUND_PROMPTS), taken.__contains__), rows))
            taken.add(found[-1][0])
        return found

    def _names(self) -> set[str]:
        return {d.name for d in self.model.stack.manifest.domains}

    def _save(self) -> None:
        test, order = self.sorter.novelty, {number: i for i, number in enumerate(self._rows)}
        state = {
            "source": self.source,
            "positions": self._positions,
            "novelty": {"sums": test.sums, "seen": test.seen, "untypical": test.untypical},
            "begun": self._begun and {**self._begun, "rows": [order[n] for n in self._begun["rows"]]},
            "rows": [_line(row) for row in self._rows.values()],
        }
        files.write_json(self.model.stack.incoming / _STATE, state)


def named_after(own: Sequence[str], others: Sequence[str], taken: Callable[[str], bool]) -> str:
    """A domain's name, in lower case, from the words that stand in many of its prompts and in few others."""
    inside, outside = _documents_with(own), _documents_with(others)
    weight = {
        word: (count / len(own)) * np.log((count + 0.5) / (len(own) + 1) / ((outside[word] + 0.5) / (len(others) + 1)))
        for word, count in inside.items()
    }
    words = sorted(weight, key=lambda w: (-weight[w], w))[:_NAME_WORDS]
    name = "-".join(words)[:50] or "domain"
    names = (name if i == 1 else f"{name}-{i}" for i in itertools.count(1))
    return next(n for n in names if n != "base" and not taken(n))


def _documents_with(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in set(_WORD.findall(text.lower())))


def _line(row: Example) -> dict[str, Any]:
    return {"messages": [[m.role, m.content] for m in row.messages], "group": row.group, "id": row.id}


def _example(line: Mapping[str, Any]) -> Example:
    messages = tuple(Message(role=role, content=content) for role, content in line["messages"])
    return Example(messages=messages, group=line["group"], id=line["id"])
