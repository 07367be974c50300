"""Lines come as they are written, each once, also over a restart; what is no row is named and nothing else is lost."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.data.lines import Lines, follow
from crma.data.sources import read_line
from crma.errors import DataError


def append(path: Path, data: str | bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def at_each_wait(*steps: Callable[[], None]) -> Callable[[float], None]:
    """A `wait` that does the next step in no time, and nothing once they are done."""
    left = list(steps)

    def wait(_seconds: float) -> None:
        if left:
            left.pop(0)()

    return wait


def never(_seconds: float) -> None:
    pytest.fail("it waited")


def all_lines(batches: list[Lines]) -> list[str]:
    return [line for lines, _ in batches for line in lines]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.touch()
    return path


def test_lines_come_as_they_are_written(log: Path):
    append(log, "one\ntwo\n")
    wait = at_each_wait(lambda: append(log, "three\n"), lambda: None, lambda: append(log, "four\nfive\n"))
    found = list(islice(follow(str(log), wait=wait), 3))
    assert found == [(["one", "two"], 8), (["three"], 14), (["four", "five"], 24)]


def test_an_unfinished_line_waits_for_its_end(log: Path):
    append(log, "one\ntw")
    wait = at_each_wait(lambda: append(log, "o"), lambda: append(log, "\nthr"), lambda: append(log, "ee\n"))
    found = list(islice(follow(str(log), wait=wait), 3))
    assert [lines for lines, _ in found] == [["one"], ["two"], ["three"]]


def test_the_rest_counts_at_the_end(log: Path):
    append(log, "one\ntwo")
    found = list(follow(str(log), idle=1, wait=lambda _s: None))
    assert found == [(["one"], 4), (["two"], 7)]


def test_an_unfinished_line_is_not_taken_while_others_come(log: Path):
    append(log, "one\ntw")
    wait = at_each_wait(lambda: None, lambda: append(log, "o\n"))
    assert list(follow(str(log), idle=2, wait=wait)) == [(["one"], 4), (["two"], 8)]


def test_a_later_run_goes_on_at_the_position(log: Path):
    append(log, "one\nzwölf\n")
    (_, position), *_ = follow(str(log), idle=0, wait=never, batch=1)
    assert position == 4
    found = list(follow(str(log), position, idle=0, wait=never))
    assert found == [(["zwölf"], 11)]
    assert list(follow(str(log), 11, idle=0, wait=never)) == []
    append(log, "three\n")
    assert list(follow(str(log), 11, idle=0, wait=never)) == [(["three"], 17)]


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=6), max_size=12),
    batch=st.integers(1, 5),
    ended=st.booleans(),
    stop=st.integers(0, 5),
)
def test_stopped_anywhere_no_line_is_lost_or_told_twice(
    lines: list[str], batch: int, ended: bool, stop: int, tmp_path_factory: pytest.TempPathFactory
):
    path = tmp_path_factory.mktemp("lines") / "log"
    text = "\n".join(lines) + ("\n" if lines and ended else "")
    path.write_bytes(text.encode())
    wanted = [line.decode() for line in text.encode().split(b"\n")]
    wanted = wanted[:-1] if wanted[-1] == "" else wanted
    first = list(islice(follow(str(path), idle=0, wait=never, batch=batch), stop))
    position = first[-1][1] if first else 0
    second = list(follow(str(path), position, idle=0, wait=never, batch=batch))
    assert all_lines([*first, *second]) == wanted
    assert all(0 < len(found) <= batch for found, _ in (*first, *second))
    assert [where for _, where in second][-1:] in ([], [len(text.encode())])


def test_what_ends_a_line_is_no_part_of_it(log: Path):
    append(log, b"one\r\ntwo\n\r\nthree \r\n")
    assert all_lines(list(follow(str(log), idle=0, wait=never))) == ["one", "two", "", "three "]


def test_only_a_line_feed_ends_a_line(log: Path):
    append(log, "a\u2028b\x0bc\x85d\n")
    assert all_lines(list(follow(str(log), idle=0, wait=never))) == ["a\u2028b\x0bc\x85d"]


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (50, [7])])
def test_batches_are_no_larger_than_asked(log: Path, batch: int, sizes: list[int]):
    append(log, "row\n" * 7)
    found = list(follow(str(log), batch=batch, idle=0, wait=never))
    assert [len(lines) for lines, _ in found] == sizes
    assert [position for _, position in found] == [4 * sum(sizes[: i + 1]) for i in range(len(sizes))]


def test_idle_it_ends_after_so_many_seconds_without_a_line(log: Path):
    waited: list[float] = []
    steps = at_each_wait(lambda: None, lambda: append(log, "late\n"))

    def wait(seconds: float) -> None:
        waited.append(seconds)
        steps(seconds)

    assert all_lines(list(follow(str(log), idle=1.5, wait=wait))) == ["late"]
    assert sum(waited[2:]) >= 1.5  # from the last line on, not from the beginning
    assert sum(waited[2:-1]) < 1.5


def test_without_idle_it_never_ends(log: Path):
    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    wait = at_each_wait(*[lambda: None] * 500, enough)
    with pytest.raises(Enough):
        list(follow(str(log), wait=wait))


def test_a_file_that_became_shorter_is_refused(log: Path):
    append(log, "one\n")
    with pytest.raises(DataError, match="shorter") as caught:
        next(follow(str(log), 5))
    assert caught.value.got == 4


@pytest.mark.parametrize("name", ["nothing", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str):
    with pytest.raises(DataError, match="no such file"):
        next(follow(str(tmp_path / name)))


# --- a pipe ----------------------------------------------------------------------------------------------------------


def test_a_pipe_is_read_to_its_end():
    found = list(follow("-", batch=2, wait=never, pipe=io.StringIO("one\r\ntwo\n\nfour\nfive")))
    assert found == [(["one", "two"], 2), (["", "four"], 4), (["five"], 5)]
    assert list(follow("-", wait=never, pipe=io.StringIO(""))) == []


def test_a_real_pipe_is_waited_for():
    out, into = os.pipe()

    def write() -> None:
        with os.fdopen(into, "wb") as stream:
            for number in range(3):
                stream.write(b"%d\n" % number)
                stream.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with os.fdopen(out, encoding="utf-8") as pipe:
            assert all_lines(list(follow("-", batch=2, wait=never, pipe=pipe))) == ["0", "1", "2"]
    finally:
        writer.join()


# --- rows ------------------------------------------------------------------------------------------------------------


def line_of(**fields: object) -> str:
    return json.dumps(fields)


def test_a_line_is_a_row():
    row = read_line(line_of(prompt="Why?", completion="So.", group="g", id="i"), 7)
    assert (row.prompt, row.completion, row.group, row.id, row.line) == ("Why?", "So.", "g", "i", 7)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert read_line(line_of(messages=turns), 1).completion == "Ho"
    assert read_line(line_of(instruction="Add", input="1 1", output="2"), 1).prompt == "Add\n\n1 1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "broken JSON"),
        ("", "JSON"),
        ("[1]", "JSON object"),
        (line_of(question="?"), "question"),
        (line_of(prompt="Why?"), "completion"),
        (line_of(prompt="Why?", completion=""), "completion"),
        ('{"prompt": "\\ud800", "completion": "So."}', "surrogate"),
    ],
)
def test_a_line_that_is_no_row_is_named(line: str, said: str):
    with pytest.raises(DataError) as caught:
        read_line(line, 12)
    assert caught.value.where == "line 12"
    assert said in str(caught.value.got)


def test_bytes_that_are_not_utf8_cost_their_own_line_only(log: Path):
    append(log, line_of(prompt="a", completion="b") + "\n")
    append(log, b'{"prompt": "\xff\xfe", "completion": "c"}\n')
    append(log, line_of(prompt="d", completion="e") + "\n")
    ((lines, position),) = follow(str(log), idle=0, wait=never)
    assert position == log.stat().st_size
    assert read_line(lines[0], 1).prompt == "a"
    assert read_line(lines[2], 3).prompt == "d"
    with pytest.raises(DataError) as caught:
        read_line(lines[1], 2)
    assert "UTF-8" in str(caught.value.got)
    assert "ff" in str(caught.value.got).lower()
    assert caught.value.where == "line 2"


def test_a_file_that_shrinks_while_it_is_followed_is_refused(tmp_path: Path):
    path = tmp_path / "lines"
    path.write_text("one\ntwo\n")

    def shrink(_seconds: float) -> None:
        path.write_text("x\n")

    with pytest.raises(DataError, match="shorter"):
        list(follow(str(path), idle=3, wait=shrink))


def test_a_byte_order_mark_costs_no_row(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}\n')
    ((lines, _),) = follow(str(path), idle=0)
    assert read_line(lines[0], 1).prompt == "a"


def test_slow_rows_of_a_pipe_do_not_wait_for_a_batch():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, os.fdopen(write, "wb", buffering=0) as end:
        end.write(b"one\n\xff")
        batches = follow("-", pipe=pipe)
        assert next(batches) == (["one"], 1)  # while the pipe is still open
        end.write(b"\n")
        assert next(batches) == (["\udcff"], 2)
