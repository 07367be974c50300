"""Rows without a domain's name find their domain or make one; killed at any moment, each row is learnt exactly once."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crma import BackboneConfig, ContinualModel, LearnConfig
from crma.cli import app
from crma.data.domains import _place
from crma.errors import ConfigError, StackLockedError, TrainingDivergedError
from crma.extending import Extended
from crma.incoming import Incoming, Planned, named_after
from crma.learning import Learnt
from crma.route.seen import HIDDEN_STATES
from crma.served import ServedStack
from crma.stack.stack import Stack
from crma.types import Example, Message, check_domain_name

CONFIG = LearnConfig(epochs=1, rank=4, max_length=64, lr=1e-2)
SMALL = BackboneConfig(directions=3)
DIMENSION = 24
REAL_FEATURES = ServedStack.features


def feature(text: str) -> np.ndarray:
    """A Gaussian for each first word of one letter, some way off; everything else is everyday."""
    first = (text.split() or [""])[0]
    centre = np.random.default_rng(zlib.crc32(first.encode())).normal(size=DIMENSION)
    away = 8.0 * centre / np.linalg.norm(centre) if len(first) == 1 and first.isalpha() else 0.0
    return (away + np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _features_by_the_first_word():
    """A random toy's own features tell no subjects apart reliably; where they have to, a test takes REAL_FEATURES."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ServedStack, "features", lambda _self, texts, kind=None: np.stack([feature(t) for t in texts]))
        patched.setattr("crma.served.FEATURES", HIDDEN_STATES)
        yield


def about(word: str, count: int, *, start: int = 0, kind: str | None = None) -> list[Example]:
    """Rows of one subject: their first letter is what their features are made from, `word` what names are."""
    return [
        Example.of(f"{kind or word[0]} {word} {i}?", "It is in the book.", id=f"{word} {i}")
        for i in range(start, start + count)
    ]


def fresh(path: Path, base: Path) -> ContinualModel:
    return ContinualModel.create(path, base=str(base), backbone=SMALL)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, toy_base: Path) -> Path:
    return fresh(tmp_path_factory.mktemp("empty") / "stack", toy_base).stack.root


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, toy_base: Path) -> Path:
    """A stack that knows dragons."""
    model = fresh(tmp_path_factory.mktemp("taught") / "stack", toy_base)
    model.learn("dragons", about("dragons", 120), CONFIG.model_copy(update={"validation": 0.3}))
    return model.stack.root


def copy(root: Path, path: Path) -> ContinualModel:
    return ContinualModel.from_pretrained(shutil.copytree(root, path / "stack"))


Events = list[tuple[str, Mapping[str, Any]]]


def incoming(model: ContinualModel, config: LearnConfig = CONFIG, *, events: Events | None = None, **more: Any):
    told: Events = [] if events is None else events
    more = {"source": "rows", "on_event": lambda kind, value: told.append((kind, value)), **more}
    return Incoming(model, config, **more)


def notes(events: Events) -> list[str]:
    return [value["text"] for kind, value in events if kind == "note"]


def at(root: Path) -> int:
    """Where in the last source to go on."""
    state = state_of(root)
    return state["positions"][state["source"]]


def state_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "work" / "_incoming" / "state.json").read_text())


def waiting(root: Path) -> list[str]:
    return [messages["messages"][0][1] for messages in state_of(root)["rows"]]


def learnt_rows(root: Path) -> dict[str, int]:
    """Of each domain, how many rows made it."""
    records = Stack.open(root).manifest.domains
    return {r.name: sum(r.rows[name] for name in ("train", "validation", "test")) for r in records}


def done_in(root: Path) -> list[tuple[str, str]]:
    entries = Stack.open(root).read_ledger()
    return [(e["kind"], e["domain"]) for e in entries if e["kind"] in ("learn", "extend")]


def on_disk(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# --- the journey -----------------------------------------------------------------------------------------------------


def test_rows_make_domains_and_later_rows_find_them(empty: Path, tmp_path: Path):
    model, events = copy(empty, tmp_path), []
    with incoming(model, events=events, least=40, increment=50) as rows:
        rows.take(about("dragons", 150), 150)
        assert rows.work() == []  # nothing is known yet: more are waited for
        rows.take(about("dragons", 100, start=150), 250)
        (first,) = rows.work()
        assert isinstance(first, Learnt)
        assert first.domain == "dragons"
        rows.take(about("dragons", 70, start=250), 320)
        (second,) = [d for d in rows.work() if d.domain == "dragons"]
        assert isinstance(second, Extended)
        assert second.share > 0.0
        rows.take(about("glaciers", 90), 410)
        found = rows.work()
        assert [(type(d), d.domain) for d in found] == [(Learnt, "glaciers")]
        rows.finish()
    root = model.stack.root
    assert set(learnt_rows(root)) == {"dragons", "glaciers"}
    assert learnt_rows(root)["dragons"] > 290
    assert learnt_rows(root)["glaciers"] > 80
    assert sum(learnt_rows(root).values()) + len(waiting(root)) == 410
    assert model.stack.verify_files() == []
    assert any(note.startswith("learn 'glaciers'") for note in notes(events))
    routes = model.route(["d dragons 999?", "g glaciers 999?"])
    assert [r.domain for r in routes] == ["dragons", "glaciers"]


def test_a_new_domain_has_rows_enough_to_say_what_is_typical_of_it(empty: Path, tmp_path: Path):
    model = copy(empty, tmp_path)
    with incoming(model) as rows:
        rows.take(about("dragons", 80), 80)
        (learnt,) = [d for d in rows.finish() if isinstance(d, Learnt)]
    assert learnt.rows["validation"] >= 12  # a quarter of them, not a tenth
    router = model.router()
    assert router is not None
    assert router.statistics["dragons"].calibration.count == learnt.rows["validation"]


def test_too_few_rows_wait_for_the_next_time(taught: Path, tmp_path: Path):
    model, events = copy(taught, tmp_path), []
    with incoming(model, events=events) as rows:
        rows.take([*about("dragons", 10, start=500), *about("glaciers", 30)], 40)
        assert rows.finish() == []
    assert len(waiting(model.stack.root)) == 40
    assert any(note.startswith("40 rows wait") for note in notes(events))
    again = ContinualModel.from_pretrained(model.stack.root)
    with incoming(again) as rows:
        assert rows.position == 40
        rows.take(about("glaciers", 40, start=30), 80)
        assert [d.domain for d in rows.finish()] == ["glaciers"]
    assert learnt_rows(model.stack.root)["dragons"] == 120
    assert sum(learnt_rows(model.stack.root).values()) + len(waiting(model.stack.root)) == 120 + 80


def test_the_evidence_of_before_counts_on(taught: Path, tmp_path: Path):
    model = copy(taught, tmp_path)
    with incoming(model) as rows:
        rows.take([*about("dragons", 5, start=500), *about("glaciers", 4)], 9)
        before = rows.sorter.novelty
        assert max(before.sums) > 1.0
    with incoming(ContinualModel.from_pretrained(model.stack.root)) as rows:
        assert rows.sorter.novelty == before
        assert (before.seen, before.untypical >= 4) == (9, True)


def test_documents_and_names_of_rows_survive_the_wait(taught: Path, tmp_path: Path):
    model = copy(taught, tmp_path)
    row = Example.of("g glaciers 1?", "Ice — ‘old’.", group="report 7", id="x")
    with incoming(model) as rows:
        rows.take([row], 1)
    with incoming(model) as rows:
        assert list(rows._rows.values()) == [row]


def test_the_toys_own_features_tell_digits_from_letters(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ServedStack, "features", REAL_FEATURES)
    rng = np.random.default_rng(0)

    def rows(letters: str, count: int) -> list[Example]:
        texts = ["".join(rng.choice(list(letters), 40)) for _ in range(count)]
        return [Example.of(text, "Yes.") for text in texts]

    model = copy(empty, tmp_path)
    with incoming(model, least=40) as taken:
        taken.take([*rows("0123456789", 60), *rows("abcdefg", 70)], 130)
        planned = [p for p in taken.plan() if p.domain is not None]
    assert len(planned) == 2
    assert [{s[0].isdigit() for s in p.samples} for p in planned] == [{False}, {True}]


# --- what is left out or passed by -----------------------------------------------------------------------------------


def test_rows_that_ask_nothing_are_left_out(taught: Path, tmp_path: Path):
    model, events = copy(taught, tmp_path), []
    with incoming(model, events=events) as rows:
        rows.take([Example.of("", "A."), Example.of(" \n", "B."), *about("glaciers", 3)], 5)
        rows.take([Example.of("", "A.")], 6)
    assert waiting(model.stack.root) == ["g glaciers 0?", "g glaciers 1?", "g glaciers 2?"]
    assert at(model.stack.root) == 6
    assert [n for n in notes(events) if "ask nothing" in n] == [
        "2 rows ask nothing and are left out",
        "1 rows ask nothing and are left out",
    ]


def test_rows_without_finite_features_are_left_out(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, events = copy(taught, tmp_path), []
    sick = np.full(DIMENSION, np.inf, np.float32)
    monkeypatch.setattr(
        ServedStack,
        "features",
        lambda _s, texts, kind=None: np.stack([sick if "1?" in t else feature(t) for t in texts]),
    )
    with incoming(model, events=events) as rows:
        rows.take(about("glaciers", 3), 3)
    assert waiting(model.stack.root) == ["g glaciers 0?", "g glaciers 2?"]
    assert "1 rows have no finite features and are left out" in notes(events)


def test_a_domain_without_kept_rows_is_passed_by(empty: Path, tmp_path: Path):
    model, events = copy(empty, tmp_path), []
    model.learn("dragons", about("dragons", 60), CONFIG.model_copy(update={"keep_rows": False, "validation": 0.3}))
    with incoming(model, events=events) as rows:
        rows.take([*about("dragons", 40, start=100), *about("glaciers", 70)], 110)
        assert [d.domain for d in rows.finish()] == ["glaciers"]  # the others do not wait for ever
    (passed,) = [n for n in notes(events) if n.startswith("these rows are passed by")]
    assert "keeps no validation rows" in passed
    assert len(waiting(model.stack.root)) < 40
    assert state_of(model.stack.root)["begun"] is None
    assert done_in(model.stack.root) == [("learn", "dragons"), ("learn", "glaciers")]


def test_rows_of_one_document_are_passed_by(taught: Path, tmp_path: Path):
    model, events = copy(taught, tmp_path), []
    one = [Example(messages=row.messages, group="one report") for row in about("glaciers", 60)]
    with incoming(model, CONFIG.model_copy(update={"validation": 20}), events=events) as rows:
        rows.take(one, 60)
        assert rows.finish() == []
    assert [n for n in notes(events) if n.startswith("these rows are passed by")]
    assert done_in(model.stack.root) == [("learn", "dragons")]


# --- a plan ----------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_would_be_done_and_changes_nothing(taught: Path, tmp_path: Path):
    model = copy(taught, tmp_path)
    data = [*about("dragons", 30, start=500), *about("glaciers", 80), *about("kites", 60), *about("owls", 9)]
    before = on_disk(model.stack.root)
    with incoming(model) as rows:
        rows.take(data, len(data), keep=False)
        found = rows.plan()
    after = {path: content for path, content in on_disk(model.stack.root).items() if not path.startswith(".lock")}
    assert after == {path: content for path, content in before.items() if not path.startswith(".lock")}
    named = {p.domain: p for p in found}
    assert [p.domain for p in found] == ["glaciers", "kites", "dragons", None]
    assert [p.new for p in found] == [True, True, False, False]
    assert sum(p.rows for p in found) == len(data)
    assert named["glaciers"].rows >= 70
    assert named["dragons"].rows >= 20
    assert all(sample.startswith("g glaciers") for sample in named["glaciers"].samples)
    assert all(1 <= len(p.samples) <= 3 for p in found)
    with incoming(model) as rows:
        assert rows.position == 0
        rows.take(data, len(data))
        done = rows.finish()
    assert [d.domain for d in done][:2] == ["glaciers", "kites"]


def test_of_nothing_the_plan_is_empty(taught: Path, tmp_path: Path):
    with incoming(copy(taught, tmp_path)) as rows:
        assert rows.plan() == []
        rows.take([], 0)
        assert rows.plan() == []
        assert rows.finish() == []


# --- killed ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed_at(kind: str, begins: str = "") -> Callable[[str, Mapping[str, Any]], None]:
    def on_event(told: str, value: Mapping[str, Any]) -> None:
        if told == kind and str(value.get("text", "")).startswith(begins):
            raise Killed

    return on_event


def after_the_commit(patched: pytest.MonkeyPatch, method: str) -> None:
    whole = getattr(ContinualModel, method)

    def then_killed(*args: Any, **kwargs: Any) -> None:
        whole(*args, **kwargs)
        raise Killed

    patched.setattr(ContinualModel, method, then_killed)


def before_the_end(patched: pytest.MonkeyPatch, _method: str) -> None:
    def clear_work(_self: Stack, _domain: str) -> None:
        raise Killed

    patched.setattr(Stack, "clear_work", clear_work)


def interrupted(patched: pytest.MonkeyPatch, method: str) -> None:
    def never(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    patched.setattr(ContinualModel, method, never)


Moment = tuple[Callable[[str, Mapping[str, Any]], None] | None, Callable[[pytest.MonkeyPatch, str], None] | None]
MOMENTS: dict[str, Moment] = {
    "after it was taken": (None, None),
    "before the training": (None, interrupted),
    "in training": (killed_at("step"), None),
    "between the commit and its end": (None, before_the_end),
    "between the commit and the state": (None, after_the_commit),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["learn", "extend"])
def test_killed_each_row_is_learnt_exactly_once(
    kind: str, moment: str, empty: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = copy(empty if kind == "learn" else taught, tmp_path)
    root, known = model.stack.root, 0 if kind == "learn" else 120
    data = about("dragons", 60, start=200)
    on_event, patch = MOMENTS[moment]
    with monkeypatch.context() as patched:
        if patch is not None:
            patch(patched, kind)
        killed = pytest.raises((Killed, KeyboardInterrupt))
        with killed, incoming(model, on_event=on_event or (lambda _kind, _value: None)) as rows:
            rows.take(data, len(data))
            if moment == "after it was taken":
                raise Killed
            rows.finish()
    committed = moment.startswith("between")
    assert (state_of(root)["begun"] is None) == (moment == "after it was taken")
    assert len(waiting(root)) == 60  # also what was committed is still named there
    assert done_in(root)[known > 0 :] == ([(kind, "dragons")] if committed else [])

    again, events = ContinualModel.from_pretrained(root), []
    with incoming(again, events=events) as rows:
        assert rows.position == len(data)
        rows.finish()
    assert [value["step"] for k, value in events if k == "step"][:1] == ([] if committed else [1])
    assert not [n for n in notes(events) if "passed by" in n]
    assert done_in(root)[known > 0 :] == [(kind, "dragons")]
    assert learnt_rows(root)["dragons"] + len(waiting(root)) == known + 60
    assert len(waiting(root)) < 20
    assert state_of(root)["begun"] is None
    assert again.stack.verify_files() == []
    assert not (root / "work" / "dragons").exists() or moment == "between the commit and its end"

    with incoming(again) as rows:  # and once more: nothing is left to be done
        assert rows.finish() == []
    assert done_in(root)[known > 0 :] == [(kind, "dragons")]


def test_killed_in_training_rows_that_come_later_do_not_mix_in(empty: Path, tmp_path: Path):
    model = copy(empty, tmp_path)
    killed = pytest.raises(Killed)
    with killed, incoming(model, on_event=killed_at("step")) as rows:
        rows.take(about("dragons", 60), 60)
        rows.finish()
    begun = state_of(model.stack.root)["begun"]
    assert (begun["kind"], begun["domain"]) == ("learn", "dragons")
    again = ContinualModel.from_pretrained(model.stack.root)
    with incoming(again) as rows:
        assert [learnt.domain for learnt in rows.work()] == ["dragons"]  # before anything else
        assert learnt_rows(again.stack.root) == {"dragons": len(begun["rows"])}
        rows.take([*about("glaciers", 70), *about("dragons", 40, start=60)], 170)
        rows.finish()
    assert done_in(again.stack.root) == [("learn", "dragons"), ("learn", "glaciers"), ("extend", "dragons")]
    assert sum(learnt_rows(again.stack.root).values()) + len(waiting(again.stack.root)) == 170


def test_what_waits_of_one_source_is_learnt_with_the_next(taught: Path, tmp_path: Path):
    model, told = copy(taught, tmp_path), []
    with incoming(model, source="monday") as rows:
        rows.take(about("glaciers", 35), 35)
        assert rows.finish() == []  # too few
    with incoming(model, source="tuesday", events=told) as rows:
        assert notes(told) == ["35 rows that were read before, from monday, wait to be learnt"]
        assert rows.position == 0
        rows.take(about("glaciers", 35, start=35), 35)
        assert [learnt.domain for learnt in rows.finish()] == ["glaciers"]
    learnt = learnt_rows(model.stack.root)["glaciers"]
    assert learnt > 50  # more than either had
    assert learnt + len(waiting(model.stack.root)) == 70  # and none is lost
    with incoming(model, source="monday") as rows:
        assert rows.position == 35  # its rows are not read again


def test_of_conversations_the_question_is_sorted_and_named_after(taught: Path, tmp_path: Path):
    model = copy(taught, tmp_path)
    hello = (Message(role="user", content="hi"), Message(role="assistant", content="Hello."))
    thanks = (Message(role="user", content="and then"), Message(role="assistant", content="No."))
    talks = [Example(messages=(*hello, *row.messages, *thanks)) for row in about("glaciers", 60)]
    with incoming(model) as rows:
        rows.take([*talks, *about("dragons", 40, start=200)], 100)
        plan = {planned.domain: planned for planned in rows.plan()}
    assert set(plan) - {None} == {"glaciers", "dragons"}  # a few may wait
    assert all("glaciers" in text for text in plan["glaciers"].samples)
    with incoming(model) as rows:  # as they were, when they are read from the stack again
        assert {planned.domain for planned in rows.plan()} - {None} == {"glaciers", "dragons"}


def test_where_nothing_waits_another_source_begins_at_its_beginning(taught: Path, tmp_path: Path):
    model = copy(taught, tmp_path)
    with incoming(model, source="monday") as rows:
        rows.take([], 700)
    with incoming(model, source="monday") as rows:
        assert rows.position == 700
    with incoming(model, source="tuesday") as rows:
        assert rows.position == 0
        rows.take([], 3)
    with incoming(model, source="monday") as rows:
        assert rows.position == 700  # what was read of it is not read again


def test_while_rows_come_the_stack_is_locked(taught: Path, tmp_path: Path):
    model = copy(taught, tmp_path)
    other = ContinualModel.from_pretrained(model.stack.root)
    with incoming(model) as rows:
        rows.take(about("glaciers", 5), 5)
        with pytest.raises(StackLockedError):
            other.learn("kites", about("kites", 20), CONFIG)
        with pytest.raises(StackLockedError), incoming(other):
            pass
    with incoming(other) as rows:
        assert rows.position == 5


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"least": 9}, {"increment": 0}, {"false_alarms": 0.0}, {"false_alarms": 1.0}, {"false_alarms": float("nan")}],
    ids=str,
)
def test_settings_that_cannot_sort_are_refused(taught: Path, wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match="cannot sort rows"):
        incoming(ContinualModel.from_pretrained(taught), **wrong)


def test_more_than_one_process_is_refused(taught: Path, monkeypatch: pytest.MonkeyPatch):
    model = ContinualModel.from_pretrained(taught)
    monkeypatch.setattr(model, "accelerator", SimpleNamespace(num_processes=2))
    with pytest.raises(ConfigError, match="one process"):
        incoming(model)


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_is_what_tells_these_rows_from_others():
    own = [f"Which remedy do nurses give for plague {i}?" for i in range(30)]
    others = [f"Which verdict do judges give in case {i}?" for i in range(30)]
    name = named_after(own, others, set[str]().__contains__)
    assert set(name.split("-")) <= {"remedy", "nurses", "plague"}
    assert len(name.split("-")) == 2


def test_a_name_that_is_taken_gets_a_number():
    taken = {"dragons", "dragons-2"}
    assert named_after(["dragons 1?"], ["glaciers"], taken.__contains__) == "dragons-3"
    assert named_after(["1 2 3", "是什么"], [], {"domain"}.__contains__) == "domain-2"


def test_a_new_domain_is_never_called_as_one_that_is_there(taught: Path, tmp_path: Path):
    """Also where its words are the same, and where two new ones have the same words."""
    with incoming(copy(taught, tmp_path)) as rows:
        rows.take([*about("dragons", 80, kind="g"), *about("dragons", 60, kind="k")], 140, keep=False)
        found = rows.plan()
    assert [p.domain for p in found if p.new] == ["dragons-2", "dragons-3"]


WORDS = st.sampled_from(["dragons", "glaciers", "İstanbul", "a" * 70, "Ünïcode", "ﬁnance", "Kelvin", "to", "ſsss"])
TEXTS = st.lists(st.one_of(st.text(max_size=30), st.lists(WORDS, max_size=4).map(" ".join)), max_size=5)


@settings(max_examples=150, deadline=None)
@given(own=TEXTS.filter(bool), others=TEXTS, again=st.integers(1, 4))
def test_names_are_valid_and_never_given_twice(own: list[str], others: list[str], again: int):
    taken: set[str] = set()
    for _ in range(again):
        name = named_after(own, others, taken.__contains__)
        assert check_domain_name(name) == name
        assert name not in taken
        assert re.fullmatch(r"[a-z0-9-]+", name)
        taken.add(name)
    assert named_after(own, others, set[str]().__contains__) == named_after(own, others, set[str]().__contains__)


# --- the command -----------------------------------------------------------------------------------------------------

FAST = ("--epochs", 1, "--rank", 4, "--max-length", 64, "--lr", 0.01)


def crma(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def file_of(path: Path, rows: Sequence[Example]) -> Path:
    lines = [json.dumps({"prompt": row.prompt, "completion": row.completion}) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("law",),
        ("law", "DATA", "--auto", "DATA"),
        ("law", "DATA", "--stream", "DATA"),
        ("law", "--auto", "DATA"),
        ("--auto", "DATA", "--stream", "DATA"),
        ("law", "DATA", "--plan"),
        ("--stream", "DATA", "--plan"),
        ("--auto", "DATA", "--extend"),
        ("--stream", "DATA", "--extend"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_is_refused(words: Sequence[str], tmp_path: Path, toy_base: Path):
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 3))
    given_words = [data if w == "DATA" else w for w in words]
    code, text = crma("learn", tmp_path / "stack", *given_words, "--base", toy_base, "--json")
    assert code == 1
    error = json.loads(text)["error"]
    assert error["type"] == "ConfigError"
    assert "--auto" in error["message"] or "DOMAIN and DATA" in error["message"]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_plan_for_a_stack_that_is_not_there_makes_none(tmp_path: Path, toy_base: Path):
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 60))
    words = ("learn", tmp_path / "stack", "--auto", data, "--plan", "--base", toy_base, "--directions", 3)
    code, text = crma(*words, "--json")
    assert code == 0
    (new, *rest) = [Planned(**p) for p in json.loads(text)["plan"]]
    assert (new.domain, new.new) == ("glaciers", True)
    assert new.rows + sum(p.rows for p in rest) == 60
    code, text = crma(*words)
    assert code == 0
    assert f"glaciers: new, {new.rows} rows" in text
    assert "g glaciers" in text.splitlines()[1]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_plan_leaves_a_stack_as_it_is(taught: Path, tmp_path: Path):
    root = copy(taught, tmp_path).stack.root
    data = file_of(tmp_path / "rows.jsonl", [*about("dragons", 40, start=500), *about("glaciers", 60)])
    before = on_disk(root)
    code, text = crma("learn", root, "--auto", data, "--plan")
    assert code == 0
    assert text.splitlines()[0].startswith("glaciers: new, ")
    assert "dragons: extended, " in text
    kept = {path: content for path, content in on_disk(root).items() if not path.startswith(".lock")}
    assert kept == {path: content for path, content in before.items() if not path.startswith(".lock")}


def test_auto_learns_a_file_once(tmp_path: Path, toy_base: Path):
    data = file_of(tmp_path / "rows.jsonl", [*about("dragons", 70), *about("glaciers", 60)])
    words = ("learn", tmp_path / "stack", "--auto", data, "--base", toy_base)
    code, text = crma(*words, "--directions", 3, *FAST, "--json")
    assert code == 0
    done = json.loads(text)["done"]
    assert {d["domain"] for d in done} == {"dragons", "glaciers"}
    assert all(d["loss_after"] is not None for d in done)
    root = tmp_path / "stack"
    assert sum(learnt_rows(root).values()) + len(waiting(root)) == 130
    before = done_in(root)
    code, text = crma(*words, *FAST, "--json")
    assert (code, json.loads(text)) == (0, {"done": []})
    file_of(data, [*about("dragons", 70), *about("glaciers", 60), *about("glaciers", 40, start=60)])
    code, text = crma(*words, *FAST)
    assert code == 0
    assert "glaciers: extended, " in text
    assert done_in(root) == [*before, ("extend", "glaciers")]


def test_a_stream_is_followed_to_its_end(taught: Path, tmp_path: Path):
    root = copy(taught, tmp_path).stack.root
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 60))
    data.write_text(data.read_text() + '\n{"question": "?"}\nnot json\n' + '{"prompt": "g glaciers 99?", "compl')
    words = ("learn", root, "--stream", data, "--idle", 0, *FAST, "--json")
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    assert [d["domain"] for d in json.loads(result.stdout)["done"]] == ["glaciers"]
    assert result.stderr.count("this line is no row") == 3
    assert at(root) == data.stat().st_size
    assert learnt_rows(root)["glaciers"] + len(waiting(root)) == 60


def test_standard_input_is_a_stream_too(taught: Path, tmp_path: Path):
    root = copy(taught, tmp_path).stack.root
    text = file_of(tmp_path / "rows.jsonl", about("glaciers", 60)).read_text()
    words = ["learn", root, "--stream", "-", *FAST, "--json"]
    result = CliRunner().invoke(app, [str(w) for w in words], input=text)
    assert result.exit_code == 0, result.output
    assert [d["domain"] for d in json.loads(result.stdout)["done"]] == ["glaciers"]


def test_an_interrupted_stream_goes_on(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = copy(taught, tmp_path).stack.root
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 70))
    words = ("learn", root, "--stream", data, "--idle", 0, *FAST, "--json")
    with monkeypatch.context() as patched:
        interrupted(patched, "learn")
        code, text = crma(*words)
    assert (code, json.loads(text)) == (0, {"done": []})
    assert done_in(root) == [("learn", "dragons")]
    assert len(waiting(root)) == 70 or at(root) < data.stat().st_size
    assert crma(*words)[0] == 0
    assert done_in(root) == [("learn", "dragons"), ("learn", "glaciers")]
    assert learnt_rows(root)["glaciers"] + len(waiting(root)) == 70


def test_extend_learns_on(taught: Path, tmp_path: Path):
    root = copy(taught, tmp_path).stack.root
    data = file_of(tmp_path / "rows.jsonl", about("dragons", 40, start=500))
    code, text = crma("learn", root, "dragons", data, "--extend", "--json")
    assert code == 0
    found = json.loads(text)
    assert (found["domain"], found["left_out"]) == ("dragons", 0)
    assert found["rows"]["rows"] == sum(found["rows"][name] for name in ("train", "validation", "test")) == 40
    assert found["loss_after"] < found["loss_before"]
    assert done_in(root) == [("learn", "dragons"), ("extend", "dragons")]
    data = file_of(tmp_path / "rows.jsonl", about("dragons", 40, start=600))
    code, text = crma("learn", root, "dragons", data, "--extend", *FAST)
    assert code == 0
    assert "of the way to what the new rows taught" in " ".join(text.split())


@pytest.mark.parametrize(("words", "kind"), [(("law",), "UnknownDomainError"), (("dragons",), "ConfigError")])
def test_what_cannot_be_extended_is_refused(taught: Path, tmp_path: Path, words: Sequence[str], kind: str):
    data = file_of(tmp_path / "rows.jsonl", about("dragons", 40, start=500))
    code, text = crma("learn", taught, *words, data, "--extend", "--rank", 8, "--json")
    assert (code, json.loads(text)["error"]["type"]) == (1, kind)


def learn_all(model: ContinualModel, given: Sequence[Example], **settings: Any) -> None:
    with incoming(model, **settings) as rows:
        rows.take(given, len(given))
        rows.finish()


def test_a_plan_after_a_kill_learns_nothing_and_the_next_call_tells_what_it_went_on_with(empty: Path, tmp_path: Path):
    root = copy(empty, tmp_path).stack.root
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 60))
    model = ContinualModel.from_pretrained(root)
    with pytest.raises(Killed):
        learn_all(model, about("glaciers", 60), source=f"file {data.resolve()}", on_event=killed_at("step"))
    assert crma("learn", root, "--auto", data, "--plan")[0] == 0
    assert done_in(root) == []
    code, text = crma("learn", root, "--auto", data, *FAST, "--json")
    assert code == 0
    assert [done["domain"] for done in json.loads(text)["done"]] == ["glaciers"]


def test_rows_of_one_document_cannot_be_split_and_stop_nobody(taught: Path, tmp_path: Path):
    model = copy(taught, tmp_path)
    group = next(g for g in (f"report {i}" for i in range(999)) if _place(0, g) < 0.1)  # all of it is test rows
    one = [Example(messages=row.messages, group=group) for row in about("dragons", 40, start=500)]
    with incoming(model) as rows:
        rows.take(one, 40)
        assert rows.finish() == []
    assert waiting(model.stack.root) == []


def test_what_was_begun_for_a_domain_that_was_forgotten_is_sorted_anew(taught: Path, tmp_path: Path):
    model = copy(taught, tmp_path)
    with pytest.raises(Killed):
        learn_all(model, about("dragons", 60, start=500), on_event=killed_at("step"))
    assert crma("forget", model.stack.root, "dragons")[0] == 0
    with incoming(ContinualModel.from_pretrained(model.stack.root)) as rows:
        rows.finish()
    assert sum(learnt_rows(model.stack.root).values()) + len(waiting(model.stack.root)) == 60


def test_a_new_name_differs_by_more_than_case(empty: Path, tmp_path: Path):
    model = copy(empty, tmp_path)
    model.learn("Dragons", about("kites", 60), CONFIG)
    with incoming(model) as rows:
        rows.take(about("dragons", 80), 80)
        rows.finish()
    assert [d.name for d in model.stack.manifest.domains] == ["Dragons", "dragons-2"]


def test_other_settings_after_a_kill_do_not_extend_by_the_same_rows_again(taught: Path, tmp_path: Path, monkeypatch):
    model = copy(taught, tmp_path)
    with monkeypatch.context() as patched:
        after_the_commit(patched, "extend")
        with pytest.raises(Killed):
            learn_all(model, about("dragons", 60, start=200))
    other = CONFIG.model_copy(update={"validation": 0.3})
    with incoming(ContinualModel.from_pretrained(model.stack.root), other) as rows:
        rows.finish()
    assert done_in(model.stack.root) == [("learn", "dragons"), ("extend", "dragons")]


def test_training_that_diverges_is_told_once_and_its_rows_wait(empty: Path, tmp_path: Path, monkeypatch):
    model = copy(empty, tmp_path)

    def diverge(*_: object, **__: object) -> None:
        raise TrainingDivergedError("training diverged")

    monkeypatch.setattr(model, "learn", diverge)
    with pytest.raises(TrainingDivergedError):
        learn_all(model, about("dragons", 80))
    assert len(waiting(model.stack.root)) == 80
    assert state_of(model.stack.root)["begun"] is None


def test_extending_by_one_setting_takes_the_domains_own_for_the_rest(taught: Path, tmp_path: Path):
    root = copy(taught, tmp_path).stack.root
    data = file_of(tmp_path / "rows.jsonl", about("dragons", 40, start=600))
    assert crma("learn", root, "dragons", data, "--extend", "--lr", 0.01, "--json")[0] == 0


@pytest.mark.parametrize("wrong", [("--least", 5), ("--false-alarms", 2)])
def test_bad_settings_make_no_stack(wrong: tuple[str, float], tmp_path: Path, toy_base: Path):
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 60))
    assert crma("learn", tmp_path / "stack", "--auto", data, *wrong, "--base", toy_base)[0] != 0
    assert crma("learn", tmp_path / "stack", "--stream", tmp_path / "no", "--base", toy_base)[0] != 0
    assert not (tmp_path / "stack").exists()


def test_a_plan_leaves_nothing_behind(tmp_path: Path, toy_base: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 60))
    code, _ = crma("learn", tmp_path / "stack", "--auto", data, "--plan", "--base", toy_base, "--directions", 3)
    assert code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_file_that_lost_rows_is_refused(taught: Path, tmp_path: Path):
    root = copy(taught, tmp_path).stack.root
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 12))
    assert crma("learn", root, "--auto", data, *FAST)[0] == 0
    file_of(data, about("glaciers", 3))
    assert crma("learn", root, "--auto", data, *FAST)[0] != 0


def test_a_plan_names_domains_as_they_will_be_learnt(empty: Path, tmp_path: Path):
    given = [*about("glaciers", 60), *about("dragons", 60)]
    with incoming(copy(empty, tmp_path / "plan")) as rows:
        rows.take(given, 120)
        planned = [(p.domain, p.rows) for p in rows.plan() if p.new]
    model = copy(empty, tmp_path / "learn")
    with incoming(model) as rows:
        rows.take(given, 120)
        learnt = [(d.domain, d.rows["rows"]) for d in rows.finish() if isinstance(d, Learnt)]
    assert planned == learnt
    assert len(learnt) == 2


def test_extending_a_stack_that_is_not_there_makes_none(tmp_path: Path, toy_base: Path):
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 60))
    assert crma("learn", tmp_path / "stack", "glaciers", data, "--extend", "--base", toy_base)[0] != 0
    assert not (tmp_path / "stack").exists()


def test_a_line_that_is_no_row_is_told_with_its_place_and_the_others_are_taken(taught: Path, tmp_path: Path):
    model, told = copy(taught, tmp_path), []
    data = file_of(tmp_path / "rows.jsonl", about("glaciers", 3))
    data.write_text(data.read_text() + "no row\n")
    with incoming(model, source="s", on_event=lambda kind, value: told.append(value.get("text", ""))) as rows:
        assert list(rows.read_stream(str(data), idle=0)) == []
    assert any("line 4" in text and "passed by" in text for text in told)
    assert len(waiting(model.stack.root)) == 3
