"""Whatever the file, the same rows come out; whatever is wrong, every line of it is named."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.data.sources import read_examples, read_rows
from crma.errors import DataError
from crma.types import Example, Message

ROWS = [{"prompt": "Capital of France?", "completion": "Paris"}, {"prompt": "Two and two?", "completion": "Four,\n4"}]
TEXTS = [(row["prompt"], row["completion"]) for row in ROWS]


def texts(path: Path) -> list[tuple[str, str]]:
    return [(row.prompt, row.completion) for row in read_examples(path)]


def faults(path: Path) -> tuple[tuple[int, str], ...]:
    with pytest.raises(DataError) as caught:
        read_examples(path)
    return caught.value.faults


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def arrow_stream(path: Path, rows: list[dict[str, str]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def saved_to_disk(folder: Path, shards: list[list[dict[str, str]]]) -> Path:
    """The layout of `datasets.Dataset.save_to_disk`."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{len(shards):05}.arrow" for i in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        arrow_stream(folder / name, rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def write_as(ending: str, path: Path) -> None:
    match ending:
        case "jsonl":
            jsonl(path, *ROWS)
        case "json":
            path.write_text(json.dumps(ROWS, indent=2))
        case "csv" | "tsv" | "semicolons":
            with path.open("w", newline="", encoding="utf-8") as handle:
                delimiter = {"csv": ",", "tsv": "\t", "semicolons": ";"}[ending]
                writer = csv.DictWriter(handle, ["prompt", "completion"], delimiter=delimiter)
                writer.writeheader()
                writer.writerows(ROWS)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case "arrow":
            arrow_stream(path, ROWS)
        case "arrow file":
            table = pa.Table.from_pylist(ROWS)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "semicolons", "parquet", "arrow", "arrow file"])
def test_every_format_gives_the_same_rows_even_without_its_ending(tmp_path: Path, ending: str, named: bool) -> None:
    usual = {"semicolons": "csv", "arrow file": "arrow"}.get(ending, ending)
    path = tmp_path / (f"rows.{usual}" if named else "rows")
    write_as(ending, path)
    assert texts(path) == TEXTS


def test_content_wins_over_a_wrong_ending(tmp_path: Path) -> None:
    assert texts(jsonl(tmp_path / "rows.csv", *ROWS)) == TEXTS
    write_as("json", tmp_path / "list.jsonl")
    assert texts(tmp_path / "list.jsonl") == TEXTS


def test_a_chat_keeps_its_turns(tmp_path: Path) -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Hi.", "weight": 1},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye."},
    ]
    (row,) = read_examples(jsonl(tmp_path / "chat.jsonl", {"messages": turns, "source": "ignored"}))
    assert row.messages[:3] == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hello there"),
        Message(role="assistant", content="Hi."),
    )
    assert row.completion == "Bye."


def test_a_parquet_file_without_rows_is_whole(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = pa.schema([("prompt", pa.string()), ("completion", pa.string())])
    pq.write_table(names.empty_table(), tmp_path / "0.parquet")
    with pytest.raises(DataError, match="holds no rows"):
        read_examples(tmp_path / "0.parquet")
    rows = pa.Table.from_pylist([{"prompt": "a", "completion": "b"}], schema=names)
    pq.write_table(rows, tmp_path / "1.parquet")
    assert [e.prompt for e in read_examples(tmp_path)] == ["a"]  # one empty part does not spoil a folder


def test_a_chat_in_parquet_reads_like_one_in_json(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    pq.write_table(pa.Table.from_pylist([{"messages": chat, "noise": 1.5}]), tmp_path / "rows.parquet")
    expected = read_examples(jsonl(tmp_path / "rows.jsonl", {"messages": chat}))
    assert read_examples(tmp_path / "rows.parquet") == expected


def test_alpaca_input_joins_the_instruction_only_where_it_says_something(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "alpaca.jsonl",
        {"instruction": "Translate", "input": "chat", "output": "cat"},
        {"instruction": "Say hello", "input": "", "output": "Hello"},
        {"instruction": "Say hello", "input": None, "output": "Hello"},
    )
    assert texts(path) == [("Translate\n\nchat", "cat"), ("Say hello", "Hello"), ("Say hello", "Hello")]


def test_group_id_and_line_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "a", "completion": "b"}
    path.write_text(f"\n{json.dumps(row | {'group': 7.0, 'id': 'x1'})}\n   \n{json.dumps(row | {'group': ''})}\n")
    first, second = read_examples(path)
    assert (first.group, first.id, first.line) == ("7", "x1", 2)  # 7.0: as pandas writes a column with gaps
    assert (second.group, second.id, second.line) == (None, None, 4)


def test_lines_are_counted_where_rows_span_them(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_bytes(b'\xef\xbb\xbfPrompt , completion,group\r\n"two\r\nlines",b,g\r\n\r\nc,d,\r\n')
    assert [(row.line, row.prompt, row.group) for row in read_examples(table)] == [
        (2, "two\r\nlines", "g"),
        (5, "c", None),
    ]
    listed = tmp_path / "rows.json"
    listed.write_text('\ufeff[\n\n{"prompt": "a",\n"completion": "b"}\n,\n{"prompt": "c", "completion": "d"}]', "utf-8")
    assert [row.line for row in read_examples(listed)] == [3, 6]


def test_all_faulty_lines_are_named_at_once(tmp_path: Path) -> None:
    good = b'{"prompt": "a", "completion": "b"}'
    lines: list[tuple[bytes, str]] = [
        (b'{"prompt": "a", "comp', "broken JSON"),
        (b'["a", "b"]', "must be a JSON object, got a list"),
        (b'{"question": "a", "answer": "b"}', "found answer, question; accepted: messages"),
        (b'{"prompt": " ", "completion": ""}', "prompt is empty; completion is empty"),
        (b'{"prompt": 3, "completion": null}', "prompt must be text, got a number; completion must be text, got null"),
        (b'{"prompt": "caf\xe9", "completion": "b"}', "not UTF-8: byte 0xe9 at character 16"),
        (b'{"prompt": "a", "completion": "\\ud800"}', "surrogate"),
        (b'{"prompt": "a", "completion": "b", "group": [1]}', "group must be text"),
        (b'{"prompt": "a", "completion": "b", "group": 1.5}', "group must be text"),
        (b'{"Prompt": "a", "Completion": "b"}', "read in lower case only"),
        (b'{"prompt": "a", "completion": ' + b"[" * 100_000, "broken JSON"),
        (b'{"prompt": "a", "completion": "b", "n": ' + b"9" * 5000 + b"}", "broken JSON"),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(good + b"\n" + b"\n".join(line for line, _ in lines) + b"\n" + good)
    found = faults(path)
    assert [line for line, _ in found] == list(range(2, 2 + len(lines)))
    for (_, reason), (_, expected) in zip(found, lines, strict=True):
        assert expected in reason


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ("", "no user turn"),
        ("system", "no user turn"),
        ("user", "last turn must be the assistant's"),
        ("assistant", "user turn must come before"),
        ("system assistant", "user turn must come before"),
        ("user user assistant", "two user turns in a row"),
        ("user assistant assistant", "two assistant turns in a row"),
        ("user system assistant", "system turn may only come first"),
        ("user tool assistant", "role must be one of"),
    ],
)
def test_turns_out_of_order_are_refused(tmp_path: Path, roles: str, reason: str) -> None:
    turns = [{"role": role, "content": "text"} for role in roles.split()]
    ((line, told),) = faults(jsonl(tmp_path / "rows.jsonl", {"messages": turns}))
    assert line == 1
    assert reason in told


def test_contents_that_are_not_text_are_refused(tmp_path: Path) -> None:
    image = [{"type": "image_url", "image_url": {}}]
    turns = [{"role": "user", "content": image}, {"role": "assistant", "content": None}, "hello"]
    ((_, told),) = faults(jsonl(tmp_path / "rows.jsonl", {"messages": turns}, ROWS[0]))
    assert "got type 'image_url'" in told
    assert "message 2: content must be text or a list of text parts, got null" in told
    assert "message 3 must be an object" in told


def test_faulty_csv_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt,completion\na,b\na\na,b,c\ncaf\xe9,b\n,b\na,"b"c\na,b\nx,"never closed\na,b\n')
    assert [(line, reason.split(":")[0]) for line, reason in faults(path)] == [
        (3, "2 columns expected, got 1"),
        (4, "2 columns expected, got 3"),
        (5, "not UTF-8"),
        (6, "prompt is empty"),
        (7, "broken CSV"),
        (9, "broken CSV"),
    ]


def test_a_wrong_header_is_one_fault_not_one_a_row(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\n" + "a,b\n" * 9)
    pq.write_table(pa.Table.from_pylist([{"question": "a", "answer": "b"}] * 9), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        ((line, reason),) = faults(tmp_path / name)
        assert line == 1
        assert "answer, question" in reason
    (tmp_path / "twice.csv").write_text("prompt,Prompt,completion\na,b,c\n")
    assert "named twice: prompt" in faults(tmp_path / "twice.csv")[0][1]


def test_broken_lists_keep_the_faults_before_the_break(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"prompt": ""},\n{"prompt": "a", "completion": "b"},\n{"prompt" "a"}]')
    assert [line for line, _ in faults(path)] == [2, 4]
    path.write_text('[{"prompt": "a", "completion": "b"}')
    assert "',' or ']' expected" in faults(path)[0][1]
    path.write_bytes(b'[{"prompt": "a",\n "completion": "\xff"}]')
    assert faults(path)[0][0] == 2


def test_a_field_larger_than_the_csv_modules_limit_is_read(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,completion\na,{'b' * (before + 1)}\n")
    assert len(read_examples(path)[0].completion) == before + 1
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no rows"),
        (b" \n\n ", "no rows"),
        (b"\xef\xbb\xbf", "no rows"),
        (b"[]", "no rows"),
        (b"prompt,completion\n", "no rows"),
        (b"PAR1 cut short", "cannot be read|damaged"),
        (b"ARROW1 cut short", "damaged"),
        (b"\xff\xff\xff\xff\x10\x00", "damaged"),
        (b"\x1f\x8b\x08 packed", "packed"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"Dear diary, today", "cannot be told"),
    ],
)
def test_files_without_rows_are_refused_saying_why(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        read_examples(path)
    assert str(path) in str(caught.value)


def test_an_object_around_the_list_is_told_apart_from_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=1))
    with pytest.raises(DataError, match="one JSON object") as caught:
        read_examples(path)
    assert "data, version" in str(caught.value)


def test_missing_paths_and_folders_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_examples(tmp_path / "absent.jsonl")
    (tmp_path / "notes.md").write_text("# nothing")
    with pytest.raises(DataError, match="nothing readable"):
        read_examples(tmp_path)


def test_a_symlink_without_an_ending_is_followed(tmp_path: Path) -> None:
    target = jsonl(tmp_path / "rows.jsonl", *ROWS)
    (tmp_path / "link").symlink_to(target)
    assert texts(tmp_path / "link") == TEXTS


def test_a_saved_dataset_is_read_in_the_order_of_its_shards(tmp_path: Path) -> None:
    folder = saved_to_disk(tmp_path / "saved", [ROWS[1:], ROWS[:1]])
    assert texts(folder) == [TEXTS[1], TEXTS[0]]
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match="shards of this dataset are missing"):
        read_examples(folder)


def test_a_dataset_dict_gives_its_train_split_or_says_there_is_none(tmp_path: Path) -> None:
    root = tmp_path / "dict"
    saved_to_disk(root / "train", [ROWS[:1]])
    saved_to_disk(root / "test", [ROWS[1:]])
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert texts(root) == TEXTS[:1]
    (root / "train").rename(root / "holdout")
    with pytest.raises(DataError, match="no train split") as caught:
        read_examples(root)
    assert "holdout, test" in str(caught.value)


def test_a_folder_of_files_leaves_held_out_splits_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), tmp_path / "data" / "train-00000-of-00001.parquet")
    jsonl(tmp_path / "data" / "validation.jsonl", ROWS[1])
    jsonl(tmp_path / ".cache.jsonl", ROWS[1])
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert texts(tmp_path) == TEXTS[:1]
    jsonl(tmp_path / "more.jsonl", {"prompt": ""})
    ((line, reason),) = faults(tmp_path)
    assert line == 1
    assert reason.startswith("more.jsonl: ")


def test_a_folder_of_held_out_files_only_is_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl", *ROWS)
    with pytest.raises(DataError, match="no train split"):
        read_examples(tmp_path)
    assert texts(tmp_path / "test.jsonl") == TEXTS  # named outright, it is meant


def test_rows_are_streamed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", *ROWS, {"prompt": ""})
    stream = read_rows(path)
    assert [row.line for row in islice(stream, 2)] == [1, 2]
    with pytest.raises(DataError, match="1 faulty line; 2 good"):
        next(stream)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(deadline=None)  # two cores may be shared
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_any_text_survives_json_and_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.json").write_text(json.dumps([{"prompt": p, "completion": c} for p, c in rows]), "utf-8")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, quoting=csv.QUOTE_ALL).writerows([("prompt", "completion"), *rows])
    expected = [Example.of(p, c).messages for p, c in rows]
    for name in ("rows.json", "rows.csv"):
        assert [row.messages for row in read_examples(folder / name)] == expected
