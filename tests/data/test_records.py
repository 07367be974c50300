"""Files that come from anywhere: every row is accounted for, nothing hangs, crashes or takes the memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crma.data import formats
from crma.data.sources import Record, files_of, is_held_out, read_examples, read_line, read_records, read_rows
from crma.errors import DataError

GOOD = b'{"prompt": "a", "completion": "b"}'
ROW = {"prompt": "a", "completion": "b"}


def records(path: Path, content: bytes | None = None) -> list[Record]:
    if content is not None:
        path.write_bytes(content)
    return list(read_records(path))


def kinds(path: Path, content: bytes | None = None) -> list[tuple[int, str]]:
    return [(record.line, record.kind) for record in records(path, content)]


# --- the record ---


def test_good_and_faulty_rows_come_in_order_with_their_own_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = b'{"prompt": "", "completion": "b"}\r'
    found = records(path, GOOD + b"\n\n" + bad + b"\n{broken\n[1]\n" + GOOD)
    assert [(r.line, r.kind, r.raw) for r in found] == [
        (1, "", GOOD),
        (3, "empty", bad),
        (4, "json", b"{broken"),
        (5, "schema", b"[1]"),
        (6, "", GOOD),
    ]
    assert all((r.example is None) != (r.fault is None) for r in found)
    assert [r.fields is None for r in found] == [False, False, True, True, False]
    assert found[1].fields == {"prompt": "", "completion": "b"}
    assert [r.end for r in found][-1] == path.stat().st_size
    assert found[0].end == len(GOOD) + 1
    assert all(r.file == path for r in found)


def test_read_rows_raises_what_read_records_passes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    found = records(path, GOOD + b"\n{broken\n" + GOOD + b"\n[1]\n")
    with pytest.raises(DataError, match="2 faulty lines; 2 good") as caught:
        read_examples(path)
    assert caught.value.faults == tuple((r.line, r.fault) for r in found if r.fault)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"{", "json"),
        (b'{"prompt": "\xff", "completion": "b"}', "encoding"),
        (b'{"prompt": "\\ud800", "completion": "b"}', "encoding"),
        (b'{"question": "a"}', "schema"),
        (b'{"prompt": 1, "completion": ""}', "schema"),
        (b'{"prompt": "a", "completion": " "}', "empty"),
        (b'{"messages": []}', "turns"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "turns"),
        (b'{"prompt": "' + b"a" * 400 + b'", "completion": "b"}', "size"),
    ],
)
def test_a_fault_has_the_kind_of_its_first_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, kind: str
) -> None:
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 300)
    assert kinds(tmp_path / "rows.jsonl", line) == [(1, kind)]


def test_an_empty_file_gives_no_record_and_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    assert records(tmp_path / "rows.csv", b"prompt,completion\n") == []
    for content in (b"", b"\n\n  \n", b"\xef\xbb\xbf", b"[]"):
        assert records(tmp_path / "rows.jsonl", content) == []
    with pytest.raises(DataError, match="no rows"):
        records(tmp_path)
    with pytest.raises(DataError, match="no rows"):
        list(read_rows(tmp_path / "rows.jsonl"))


def test_held_out_files_are_read_where_asked_for(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "data/dev.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(GOOD)
    assert files_of(tmp_path) == [tmp_path / "train.jsonl"]
    every = [tmp_path / "test.jsonl", tmp_path / "train.jsonl", tmp_path / "data/dev.jsonl"]
    assert files_of(tmp_path, held_out=True) == every
    assert [r.file for r in read_records(tmp_path, held_out=True)] == every
    assert [is_held_out(file.relative_to(tmp_path)) for file in every] == [True, False, True]
    assert not is_held_out("latest.jsonl")
    assert not is_held_out("train/test_questions.jsonl")


# --- JSON ---


def test_lines_end_with_a_line_feed_alone(tmp_path: Path) -> None:
    texts = ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb"]
    lines = [json.dumps({"prompt": t, "completion": "b"}, ensure_ascii=False).encode() for t in texts[:3]]
    found = records(tmp_path / "rows.jsonl", b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n" + GOOD + b"\r" + GOOD)
    assert [r.example and r.example.prompt for r in found] == [*texts[:3], None]
    assert found[0].raw == b"\xef\xbb\xbf" + lines[0] + b"\r"
    assert found[3].kind == "json"  # a lone carriage return ends no line
    assert kinds(tmp_path / "rows.jsonl", GOOD + b"\n\xef\xbb\xbf" + GOOD) == [(1, ""), (2, "json")]


def test_a_null_byte_is_no_space(tmp_path: Path) -> None:
    assert kinds(tmp_path / "rows.jsonl", GOOD + b"\n\0\n" + GOOD + b"\0\n" + GOOD) == [
        (1, ""),
        (2, "json"),
        (3, "json"),
        (4, ""),
    ]
    (found,) = records(tmp_path / "rows.jsonl", b'{"prompt": "a\\u0000", "completion": "b"}')
    assert found.example
    assert found.example.prompt == "a\0"


@pytest.mark.parametrize("inside", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'[{"role":' * 600])
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_what_python_cannot_parse_is_a_fault(tmp_path: Path, inside: bytes, ending: str) -> None:
    content = b'{"prompt": "a", "completion": ' + inside
    if ending == "json":
        assert kinds(tmp_path / "rows.json", b"[" + GOOD + b",\n" + content + b"}]") == [(1, ""), (2, "json")]
    else:
        assert kinds(tmp_path / "rows.jsonl", content + b"}\n" + GOOD) == [(1, "json"), (2, "")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt": "a", "completion": "b", "prompt": "c"}', "prompt given twice"),
        ('{"prompt": "a", "completion": "b", "pr\\u006fmpt": "c"}', "prompt given twice"),
        ('{"prompt": "a", "completion": "b", "id": 1, "id": 2}', "id given twice"),
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "message 1: content given twice"),
        ('{"messages": [{"role": "system", "role": "user", "content": "a"}]}', "message 1: role given twice"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "text": "b"}]}]}',
            "message 1: text given twice",
        ),
    ],
)
def test_a_name_given_twice_is_a_fault_where_a_row_is_made_of_it(tmp_path: Path, line: str, told: str) -> None:
    for path, content in ((tmp_path / "r.jsonl", line), (tmp_path / "r.json", f"[{line}]")):
        (found,) = records(path, content.encode())
        assert told in (found.fault or "")
    with pytest.raises(DataError, match="no row") as caught:
        read_line(line, 1)
    assert told in str(caught.value)


def test_of_other_names_the_last_one_wins_and_nan_is_let_pass(tmp_path: Path) -> None:
    line = b'{"prompt": "prompt", "completion": "\\"prompt\\": b", "n": NaN, "n": -Infinity, "m": {"prompt": 1}}'
    (found,) = records(tmp_path / "rows.jsonl", line)
    assert found.example
    assert found.fields
    assert found.fields["n"] == float("-inf")
    (found,) = records(tmp_path / "rows.jsonl", b'{"prompt": NaN, "completion": "b"}')
    assert "prompt must be text, got a number" in (found.fault or "")


def test_what_is_shown_of_a_row_is_short_and_printable(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    role = json.dumps({"messages": [{"role": "\x1b[2J\ud800" + "r" * 9999, "content": "a"}]})
    names = json.dumps({"\x1b\ud800" + str(i) + "n" * 999: 1 for i in range(5000)})
    many = json.dumps({"messages": [[]] * 100_000})
    part = json.dumps({"messages": [{"role": "user", "content": [{"type": ["x"] * 9999}]}]})
    for found in records(path, "\n".join([role, names, many, part]).encode()):
        assert found.fault
        assert found.fault.isprintable()
        assert len(found.fault) < 4000


def test_a_long_line_is_told_and_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", len(GOOD))
    monkeypatch.setattr(formats, "_BLOCK", 64)
    path = tmp_path / "rows.jsonl"
    long = b" " * 1000 + GOOD
    found = records(path, GOOD + b"\r\n" + long + b"\n" + GOOD + b"\n " + GOOD + b"\n" + long)
    assert [(r.line, r.kind) for r in found] == [(1, ""), (2, "size"), (3, ""), (4, "size"), (5, "size")]
    assert f"{len(long):,} bytes" in (found[1].fault or "")
    assert f"{len(GOOD) + 1:,} bytes" in (found[3].fault or "")
    assert f"{len(long):,} bytes" in (found[4].fault or "")
    assert found[1].raw is None
    assert found[1].end == len(GOOD) + 2 + len(long) + 1
    assert found[4].end == path.stat().st_size


@pytest.mark.parametrize("block", [1, 7, 64, 2**20])
def test_a_list_reads_alike_however_its_blocks_fall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(formats, "_BLOCK", block)
    rows = [ROW | {"id": i, "n": 10**i, "t": "é\n" * i, "f": 1e10 * i} for i in range(12)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), "utf-8")
    found = records(path)
    assert [r.fields for r in found] == rows
    assert [r.line for r in found] == [2 + 8 * i for i in range(12)]
    numbers = records(path, b"[1.5e+10, -0.25E-3 ,12345678901, -Infinity,true,null]")
    assert len(numbers) == 6
    assert {r.kind for r in numbers} == {"schema"}
    (broken,) = records(path, b'[\n\n  {"prompt" "a"}]')
    assert (broken.line, broken.fault) == (
        3,
        "broken JSON: Expecting ':' delimiter at column 13; the rest was not read",
    )
    assert [r.kind for r in records(path, b"[" + GOOD + b"," + GOOD + b"] x")] == ["", "", "json"]
    assert [r.kind for r in records(path, b"[" + GOOD + b",")] == ["", "json"]


def test_bytes_that_are_not_utf8_cost_one_row_of_a_list(tmp_path: Path) -> None:
    bad = b'{"prompt": "a",\n"completion": "\xff"}'
    assert kinds(tmp_path / "rows.json", b"[" + GOOD + b",\n" + bad + b",\n" + GOOD + b"]") == [
        (1, ""),
        (3, "encoding"),
        (4, ""),
    ]


def test_a_long_row_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr(formats, "_BLOCK", 200)
    long = b'{"prompt": "a", "completion": "' + b"b" * 90 + b'"}'
    path = tmp_path / "rows.json"
    assert kinds(path, b"[" + GOOD + b",\n" + long + b",\n" + GOOD + b"]") == [(1, ""), (2, "size"), (3, "")]
    # Where it ends cannot be known without holding it.
    longer = b'{"prompt": "a", "completion": "' + b"b" * 900 + b'"}'
    assert kinds(path, b"[" + GOOD + b",\n" + longer + b",\n" + GOOD + b"]") == [(1, ""), (2, "size")]


def test_a_large_object_over_many_lines_is_told_without_being_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 1000)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"data": [ROW] * 100}, indent=1))
    with pytest.raises(DataError, match="one JSON object"):
        records(path)
    assert kinds(path, b"{broken\n" + (GOOD + b"\n") * 100)[:2] == [(1, "json"), (2, "")]


# --- CSV ---


def test_an_opened_quote_loses_no_more_than_the_longest_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 200)
    rows = b"".join(b"row %d,b\n" % i for i in range(100))
    found = records(tmp_path / "rows.csv", b'prompt,completion\na,b\nc,"never closed\n' + rows)
    assert [(r.line, r.kind) for r in found[:2]] == [(2, ""), (3, "size")]
    good = [r.line for r in found[2:] if r.example]
    assert good == list(range(good[0], 104))
    assert good[0] < 3 + 200 // 8 + 3


def test_a_long_csv_row_is_a_fault_and_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 60)
    long = b"a," + b"b" * 500
    spread = b'a,"' + b"b" * 30 + b"\n" + b"b" * 40 + b'"'
    content = b"\r\n".join(
        [b"prompt,completion", b"a,b", long, b"c,d", spread, b"e,f", b"a," + "é".encode() * 40, b"g,h"]
    )
    found = records(tmp_path / "rows.csv", content)
    assert [(r.line, r.kind) for r in found] == [
        (2, ""),
        (3, "size"),
        (4, ""),
        (5, "size"),
        (7, ""),
        (8, "size"),
        (9, ""),
    ]
    assert "502" in (found[1].fault or "") or "504" in (found[1].fault or "")
    assert kinds(tmp_path / "rows.csv", b"x" * 5000) == [(1, "size")]


def test_line_ends_of_csv(tmp_path: Path) -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        assert kinds(tmp_path / "rows.csv", end.join([b"prompt,completion", b"a,b", b"c,d"])) == [(2, ""), (3, "")]
    found = records(tmp_path / "rows.csv", b'prompt,completion\n"a\xe2\x80\xa8b",c\x00\n')
    assert found[0].fields == {"prompt": "a\u2028b", "completion": "c\0"}
    assert 0 < found[0].end <= (tmp_path / "rows.csv").stat().st_size


# --- Parquet and Arrow ---


def write_arrow(path: Path, table: pa.Table, **options: object) -> None:
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer,
    ):
        writer.write_table(table)


def named(values: list[str], names: object) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(names, pa.int32()), pa.array(values))


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_texts_in_a_dictionary_nulls_and_other_types_read_as_they_are(tmp_path: Path, ending: str) -> None:
    chats = [
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        None,
        [],
        [None, {"role": "user", "content": None}],
    ]
    table = pa.table(
        {
            "messages": pa.array(chats),
            "prompt": named(["x", "y"], [0, None, 1, 1]),
            "completion": pa.array(["c", "", None, "é"], pa.large_string()),
            "group": pa.array([1, None, 3, 4], pa.int8()),
            "id": pa.array([None] * 4),
            "noise": pa.array([1.0] * 4),
        }
    )
    path = tmp_path / f"rows.{ending}"
    pq.write_table(table, path) if ending == "parquet" else write_arrow(path, table)
    found = records(path)
    assert [r.fields for r in found] == table.drop_columns(["noise"]).to_pylist()
    assert [r.kind for r in found] == ["", "schema", "turns", "schema"]
    assert found[-1].end <= path.stat().st_size


def test_a_sliced_table_in_several_batches_and_row_groups(tmp_path: Path) -> None:
    rows = [ROW | {"messages": None, "id": str(i)} for i in range(5000)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=700)
    write_arrow(tmp_path / "rows.arrow", table.slice(10))
    assert [r.fields["id"] for r in read_records(tmp_path / "rows.parquet") if r.fields] == [r["id"] for r in rows]
    assert [r.fields["id"] for r in read_records(tmp_path / "rows.arrow") if r.fields] == [r["id"] for r in rows[10:]]


def test_a_long_row_of_a_table_is_a_fault_and_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_ROW_BYTES", 1000)
    table = pa.table({"prompt": ["a"] * 6, "completion": ["b", "c" * 5000, "d", "e", "f" * 5000, "g" * 5000]})
    pq.write_table(table, tmp_path / "rows.parquet")
    write_arrow(tmp_path / "rows.arrow", table)
    write_arrow(tmp_path / "named.arrow", table.set_column(1, "completion", table["completion"].dictionary_encode()))
    for name in ("rows.parquet", "rows.arrow", "named.arrow"):
        assert kinds(tmp_path / name) == [(1, ""), (2, "size"), (3, ""), (4, ""), (5, "size"), (6, "size")]


def test_texts_of_a_table_that_are_not_utf8_cost_their_own_row(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"\xff", b"c"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    write_arrow(tmp_path / "rows.arrow", pa.table({"prompt": text, "completion": ["x", "y", "z"]}))
    assert kinds(tmp_path / "rows.arrow") == [(1, ""), (2, "encoding"), (3, "")]


def test_offsets_that_lead_outside_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    write_arrow(path, pa.table({"prompt": ["a"] * 3, "completion": ["b", "cc", "ddd"]}))
    good, content = np.array([0, 1, 3, 6], np.int32).tobytes(), path.read_bytes()
    assert content.count(good) == 1
    for offsets in ([0, 4, 3, 6], [0, 1, 3, 3_000_000], [-5, 1, 3, 6]):
        with pytest.raises(DataError, match="damaged"):
            records(path, content.replace(good, np.array(offsets, np.int32).tobytes()))


def test_a_file_cut_between_two_batches_is_damaged(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([ROW] * 30)
    path = tmp_path / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    assert len(records(path)) == 30
    with pytest.raises(DataError, match="damaged"):
        records(path, path.read_bytes()[:-40])


def bomb_of_named_texts(path: Path) -> None:
    """100 GB: 100,000 rows, each of which names the same text of 1 MB."""
    rows = 100_000
    table = pa.table({"prompt": ["a"] * rows, "completion": named(["x" * 2**20], np.zeros(rows, np.int32))})
    pq.write_table(table, path) if path.suffix == ".parquet" else write_arrow(path, table)


def bomb_of_named_turns(path: Path) -> None:
    rows = 20_000
    roles = pa.array(["user", "assistant"] * rows)
    turns = pa.StructArray.from_arrays([roles, named(["x" * 2**20], np.zeros(2 * rows, np.int32))], ["role", "content"])
    chats = pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32)), turns)
    table = pa.table({"messages": chats})
    pq.write_table(table, path) if path.suffix == ".parquet" else write_arrow(path, table)


def bomb_of_one_cell(path: Path) -> None:
    """300 MB in 10 KB."""
    table = pa.table({"prompt": ["a", "b"], "completion": ["y" * 300_000_000, "ok"]})
    if path.suffix == ".parquet":
        pq.write_table(table, path, compression="zstd", use_dictionary=False)
    else:
        write_arrow(path, table, compression="zstd")


def bomb_of_one_page(path: Path) -> None:
    """600 MB in 1,024 texts, none too long by itself."""
    table = pa.table({"prompt": ["a"] * 1024, "completion": ["y" * 600_000] * 1024})
    if path.suffix == ".parquet":
        pq.write_table(table, path, compression="zstd", use_dictionary=False)
    else:
        write_arrow(path, table, compression="zstd")


def bomb_of_one_line(path: Path) -> None:
    """A gigabyte without a line end, none of it on disk."""
    with path.open("wb") as handle:
        handle.write(b'{"prompt": "')
        handle.truncate(10**9)
        handle.seek(0, os.SEEK_END)
        handle.write(b"\n" + GOOD + b"\n")


def bomb_of_an_open_quote(path: Path) -> None:
    with path.open("wb") as handle:
        handle.write(b'prompt,completion\na,"')
        for _ in range(60):
            handle.write(b"x" * 2**20)
        handle.write(b"\na,b\n")


# What a process takes that reads the file to its end (or 5,000 records of it), less what it takes before: in MB.
_PEAK = """
import resource, sys
from itertools import islice
import pyarrow.parquet
from crma.data.sources import read_records
from crma.errors import DataError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, told = peak(), ""
try:
    for record in islice(read_records(sys.argv[1]), 5000):
        told = told or record.kind
except DataError as error:
    told = str(error)
print(peak() - before)
print(told)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of memory is counted in other units, or not")
@pytest.mark.parametrize(
    ("make", "name", "most", "told"),
    [
        (bomb_of_one_line, "rows.jsonl", 100, "size"),
        (bomb_of_one_line, "rows.csv", 200, "size"),
        (bomb_of_an_open_quote, "rows.csv", 400, "size"),
        (bomb_of_named_texts, "rows.parquet", 300, ""),
        (bomb_of_named_texts, "rows.arrow", 300, ""),
        (bomb_of_named_turns, "rows.parquet", 300, "turns|^$"),
        (bomb_of_named_turns, "rows.arrow", 300, "turns|^$"),
        (bomb_of_one_cell, "rows.parquet", 100, "decodes to more than can be held"),
        (bomb_of_one_cell, "rows.arrow", 500, "size"),
        (bomb_of_one_page, "rows.parquet", 100, "decodes to more than can be held"),
        (bomb_of_one_page, "rows.arrow", 100, "decodes to more than can be held"),
    ],
)
def test_no_small_file_takes_the_memory(
    tmp_path: Path, make: Callable[[Path], None], name: str, most: int, told: str
) -> None:
    path = tmp_path / name
    make(path)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    peak, said = done.stdout.split("\n", 1)
    assert int(peak) < most
    if told == "":
        assert said.strip() == ""
    else:
        assert any(part in said if part != "^$" else not said.strip() for part in told.split("|"))


# --- links, pipes, devices ---


def test_links_to_files_are_read_wherever_they_lead(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"  # as in a Hugging Face cache
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "0a1b2c").write_bytes(GOOD)
    (snapshot / "train.jsonl").symlink_to(Path("..", "blobs", "0a1b2c"))
    assert [r.file for r in read_records(snapshot)] == [snapshot / "train.jsonl"]
    (tmp_path / "link").symlink_to(snapshot)
    assert len(read_examples(tmp_path / "link")) == 1


def test_links_to_folders_lead_in_no_circle(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD)
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "below.jsonl").symlink_to(tmp_path, target_is_directory=True)
    assert files_of(tmp_path) == [tmp_path / "rows.jsonl"]


@pytest.mark.parametrize("within", [True, False])
def test_links_that_lead_nowhere_are_refused(tmp_path: Path, within: bool) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD)
    dangling, loop = tmp_path / "a" / "gone.jsonl", tmp_path / "b" / "loop.jsonl"
    for link, target in ((dangling, "nothing"), (loop, "loop.jsonl")):
        link.parent.mkdir()
        link.symlink_to(target)
        with pytest.raises(DataError, match="leads nowhere, or in a circle") as caught:
            files_of(link.parent if within else link)
        assert caught.value.where == link


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(DataError, match="neither a file nor a folder"):
            records(path)
    with pytest.raises(DataError, match="no file"):  # it became one after the folder was listed
        list(formats.records_of(pipe))
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="neither"):
        records(tmp_path / "zero.jsonl")


def test_paths_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path / ("n" * 5000), tmp_path / "a\0b"):
        with pytest.raises(DataError):
            records(path)


def read_or_refused(stream: Iterator[Record], path: Path) -> int:
    """How many records come before the end, or an error that names the file."""
    count = 0
    with contextlib.suppress(DataError):
        for _ in stream:
            count += 1
        return count
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(read_records(path))
    return count


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    rows = [ROW | {"id": f"{i}" + "x" * 500} for i in range(20_000)]
    match ending:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "json":
            path.write_text(json.dumps(rows))
        case "csv":
            path.write_text("prompt,completion,id\n" + "".join(f"a,b,{row['id']}\n" for row in rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000, compression="none")
        case _:
            with pa.OSFile(str(path), "wb") as sink:
                table = pa.Table.from_pylist(rows)
                with pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table, max_chunksize=1000)
    stream: Iterator[Record] = read_records(path)
    assert next(stream).example
    os.truncate(path, 4000)
    assert read_or_refused(stream, path) < len(rows) - 1


# --- anything at all ---

PIECES = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'\n\r{}[],":\t;\xff\0a '),
        *(GOOD, b"\r\n", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"NaN", b"\\u006", b"1e", b"null", b'"messages"'),
        *(b"prompt,completion\n", b"prompt\tcompletion\n", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff"),
    ]
)
ANYTHING = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20).map(b"".join))
FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(ANYTHING, st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "arrow", "txt"]))
def test_any_bytes_read_or_are_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(content)
    found: list[Record] = []
    with contextlib.suppress(DataError):
        found += read_records(path)
    lines = [r.line for r in found]
    assert lines == sorted(lines)
    assert all((r.example is None) == bool(r.fault) == bool(r.kind) for r in found)
    assert all(0 <= r.end <= len(content) for r in found)


@FUZZ
@given(st.lists(st.one_of(ANYTHING, st.just(GOOD)), max_size=8).map(b"\n".join))
def test_every_line_is_accounted_for_and_keeps_its_bytes(tmp_path: Path, content: bytes) -> None:
    content = b"{" + content  # else it may be another format
    lines = content.split(b"\n")
    found = {r.line: r for r in records(tmp_path / "rows.jsonl", content)}
    for number, line in enumerate(lines, start=1):
        if number in found:
            assert found[number].raw == line
            lines[number - 1] = found[number].raw or b""
        else:
            assert not line.decode().strip()
    assert b"\n".join(lines) == content
    ends = [r.end for r in found.values()]
    assert ends == sorted(ends)


@FUZZ
@given(st.data())
def test_damaged_tables_read_or_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    table = pa.table(
        {
            "prompt": named(["a", "b"], [0, 1] * 10),
            "completion": ["é"] * 20,
            "messages": [[{"role": "user", "content": "a"}]] * 20,
        }
    )
    path = tmp_path / data.draw(st.sampled_from(["rows.parquet", "rows.arrow"]))
    pq.write_table(table, path) if path.suffix == ".parquet" else write_arrow(path, table)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    read_or_refused(read_records(path), path)
