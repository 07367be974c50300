"""Files of conversations become Examples; every faulty line is named at once.

A row is one of three shapes, told apart by its fields:

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "completion": "..."}
    {"instruction": "...", "input": "..." (optional), "output": "..."}

with `group` and `id` optional in each. Rows come from JSON Lines, a JSON list, CSV, TSV, Parquet, Arrow, or a folder
of these (also what Hugging Face `save_to_disk` writes). The format is read off the content first, then the ending.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crma.errors import DataError
from crma.types import Example, Message, Role

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_examples", "read_line", "read_rows"]

_ACCEPTED = "messages, or prompt and completion, or instruction and output (input optional)"
_SCHEMAS = (("messages",), ("prompt", "completion"), ("instruction", "output"))
_FIELDS = ("messages", "prompt", "completion", "instruction", "input", "output", "group", "id")
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_ENDINGS = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow"})
_ABOUT_THE_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
# The words by which Hugging Face `datasets` tells splits apart in file and folder names.
_TRAIN_WORDS = frozenset({"train", "training"})
_HELD_OUT_WORDS = frozenset({"validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"})

_HEAD_BYTES = 65536
_CSV_FIELD_LIMIT = 2**31 - 1  # the largest a C long holds everywhere; the csv module's own limit is 131072
# Valid UTF-8 never decodes to a surrogate, so under "surrogateescape" one of these marks a byte that is not UTF-8.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Faulty(Exception):
    """Why one row cannot be used. Readers yield it in the row's place, so that reading goes on."""


_Record = tuple[int, object]  # line, and the row (a mapping) or its _Faulty


def read_examples(path: str | os.PathLike[str]) -> tuple[Example, ...]:
    """Every row of a file or folder, in order. DataError lists all faulty lines."""
    return tuple(read_rows(path))


def read_rows(path: str | os.PathLike[str]) -> Iterator[Example]:
    """The rows one by one, holding none of them.

    Good rows are yielded as they come; if any row was faulty, DataError with all of them is raised after the last row.
    So use nothing of the stream for good before it has ended. A folder is read file by file in name order; files and
    folders named for a held-out split (test, validation, dev and so on) are left out. `line` is a row's line, from 1
    within its file; in Parquet and Arrow its number.
    """
    root = Path(path)
    files = _files(root)
    faults: list[tuple[int, str]] = []
    rows = 0
    for file in files:
        prefix = "" if file == root else f"{file.relative_to(root)}: "
        for line, record in _records(file):
            try:
                example = _example(record, line)
            except _Faulty as fault:
                faults.append((line, f"{prefix}{fault}"))
            else:
                rows += 1
                yield example
    if faults:
        raise DataError(
            f"{len(faults)} faulty {'line' if len(faults) == 1 else 'lines'}; {rows} good",
            where=root,
            next_step="mend or delete these lines; nothing was learnt from this source",
            faults=faults,
        )
    if rows == 0:
        raise DataError("this source holds no rows", where=root, expected=f"rows with {_ACCEPTED}", got="nothing")


def read_line(text: str, number: int) -> Example:
    """One line of JSON Lines, as it may come out of a pipe.

    Raises:
        DataError: it is no row.
    """
    try:
        return _example(_not_utf8(text) or _json(text), number)
    except _Faulty as fault:
        raise DataError("this line is no row", where=f"line {number}", expected=_ACCEPTED, got=str(fault)) from fault


# --- rows ---


def _example(record: object, line: int) -> Example:
    if isinstance(record, _Faulty):
        raise record
    if not isinstance(record, Mapping):
        raise _Faulty(f"a row must be a JSON object, got {_kind(record)}")
    row: Mapping[str, object] = record
    reasons: list[str] = []
    given = [name for name in row if row[name] is not None]  # columnar files fill absent fields with null
    schema = _schema(given) or _schema(row)
    if schema is None:
        raise _unknown(row)
    if schema == ("messages",):
        messages = _messages(row["messages"], reasons)
    else:
        prompt = _text(row, schema[0], reasons)
        extra = row.get("input") if schema[0] == "instruction" else None
        if extra is not None and not isinstance(extra, str):
            reasons.append(f"input must be text, got {_kind(extra)}")
        elif extra and extra.strip():
            prompt = f"{prompt}\n\n{extra}"
        messages = (
            Message(role="user", content=prompt),
            Message(role="assistant", content=_text(row, schema[1], reasons)),
        )
    group, id_ = _label(row, "group", reasons), _label(row, "id", reasons)
    texts = [m.content for m in messages] + [text for text in (group, id_) if text]
    if any(_SURROGATE.search(text) for text in texts):
        reasons.append("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    if reasons:
        raise _Faulty("; ".join(reasons))
    return Example(messages=messages, group=group, line=line, id=id_)


def _schema(names: Iterable[object]) -> tuple[str, ...] | None:
    have = set(names)
    return next((schema for schema in _SCHEMAS if have.issuperset(schema)), None)


def _unknown(names: Iterable[object]) -> _Faulty:
    return _Faulty(f"unknown schema: found {', '.join(sorted(map(str, names))) or 'no fields'}; accepted: {_ACCEPTED}")


def _text(row: Mapping[str, object], name: str, reasons: list[str]) -> str:
    value = row[name]
    if not isinstance(value, str):
        reasons.append(f"{name} must be text, got {_kind(value)}")
        return ""
    if not value.strip():
        reasons.append(f"{name} is empty")
    return value


def _label(row: Mapping[str, object], name: str, reasons: list[str]) -> str | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        reasons.append(f"{name} must be text or a whole number, got {_kind(value)}")
        return None
    return str(value)


def _messages(value: object, reasons: list[str]) -> tuple[Message, ...]:
    if not isinstance(value, list):
        reasons.append(f"messages must be a list, got {_kind(value)}")
        return ()
    found = len(reasons)
    messages = tuple(_message(item, position, reasons) for position, item in enumerate(value, start=1))
    if len(reasons) == found:  # an order is only worth judging where every role was read
        _check_order(messages, reasons)
    return messages


def _message(item: object, position: int, reasons: list[str]) -> Message:
    where = f"message {position}"
    nothing = Message(role="user", content="")
    if not isinstance(item, Mapping):
        reasons.append(f"{where} must be an object with role and content, got {_kind(item)}")
        return nothing
    role = _ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
    if role is None:
        reasons.append(f"{where}: role must be one of {', '.join(_ROLES)}, got {item.get('role')!r}")
        return nothing
    content = _content(item.get("content"), where, reasons)
    if content is None:
        return nothing
    if not content.strip() and role != "system":  # an empty system turn is how some sets switch a default one off
        reasons.append(f"{where}: the {role}'s content is empty")
    return Message(role=role, content=content)


def _content(value: object, where: str, reasons: list[str]) -> str | None:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        reasons.append(f"{where}: content must be text or a list of text parts, got {_kind(value)}")
        return None
    texts: list[str] = []
    for part in value:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            kind = repr(part.get("type")) if isinstance(part, Mapping) else _kind(part)
            reasons.append(f'{where}: each content part must be {{"type": "text", "text": "..."}}, got type {kind}')
            return None
        texts.append(text)
    return "".join(texts)


def _check_order(messages: tuple[Message, ...], reasons: list[str]) -> None:
    """At most one system turn, first; then user and assistant by turns. Several models' templates refuse all else."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        reasons.append("no user turn and no assistant turn")
        return
    if turns[0].role == "assistant":
        reasons.append("a user turn must come before the first assistant turn")
    if turns[-1].role != "assistant":
        reasons.append(f"the last turn must be the assistant's, got {turns[-1].role}")
    if any(m.role == "system" for m in turns):
        reasons.append("a system turn may only come first, once")
    for earlier, later in pairwise(turns):
        if earlier.role == later.role != "system":
            reasons.append(f"two {earlier.role} turns in a row")
            return


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", bytes: "bytes"}
    if isinstance(value, Mapping):
        return "an object"
    return names.get(type(value), "a list" if isinstance(value, list) else type(value).__name__)


# --- files ---


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.exists():
        raise DataError("no such file or folder", where=root, next_step="check the path")
    if not root.is_dir():
        raise DataError("this is neither a file nor a folder", where=root)
    if (root / "dataset_dict.json").is_file():
        return _train_of_dict(root)
    if (root / "state.json").is_file():
        return _arrow_shards(root)
    return _loose_files(root)


def _train_of_dict(root: Path) -> list[Path]:
    train = root / "train"
    if train.is_dir():
        return _arrow_shards(train) if (train / "state.json").is_file() else _loose_files(train)
    splits = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    raise DataError(
        "this dataset has no train split",
        where=root,
        expected="a folder 'train'",
        got=", ".join(splits) or "no folder",
        next_step="name the folder of one split instead",
    )


def _arrow_shards(root: Path) -> list[Path]:
    """The shards `save_to_disk` wrote, in its order; only names within the folder are followed."""
    state = root / "state.json"
    try:
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        names = [Path(entry["filename"]).name for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("this dataset's state.json cannot be read", where=state, got=repr(error)) from error
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(
            "shards of this dataset are missing", where=root, expected=", ".join(names), got=f"no {missing}"
        )
    return [root / name for name in names]


def _loose_files(root: Path) -> list[Path]:
    readable: list[Path] = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        readable += [
            Path(folder, name)
            for name in sorted(names)
            if Path(name).suffix.lower() in _ENDINGS and name not in _ABOUT_THE_DATA and not name.startswith(".")
        ]
    if not readable:
        raise DataError(
            "nothing readable in this folder", where=root, expected=f"files ending in {', '.join(sorted(_ENDINGS))}"
        )
    words = {file: set(re.split(r"[^a-z]+", str(file.relative_to(root)).lower())) for file in readable}
    train = [file for file in readable if words[file] & _TRAIN_WORDS or not words[file] & _HELD_OUT_WORDS]
    if not train:
        raise DataError(
            "this folder has no train split",
            where=root,
            expected="a file or folder not named for validation or test",
            got=", ".join(str(file.relative_to(root)) for file in readable[:5]),
            next_step="name the file to read instead",
        )
    return train


def _records(file: Path) -> Iterator[_Record]:
    try:
        yield from _open(file)
    except OSError as error:
        raise DataError(
            "this file cannot be read",
            where=file,
            got=error.strerror or str(error),
            next_step="check the file and its permissions",
        ) from error


def _open(file: Path) -> Iterator[_Record]:
    with file.open("rb") as handle:
        head = handle.read(_HEAD_BYTES)
    ending = file.suffix.lower()
    if head.startswith(b"PAR1"):
        return _parquet(file)
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return _arrow(file, stream=not head.startswith(b"ARROW1"))
    for magic, name in ((b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip or xlsx"), (b"\x28\xb5\x2f\xfd", "zstandard")):
        if head.startswith(magic):
            raise DataError(
                "this file is packed", where=file, got=name, next_step="unpack it, or save it as CSV, first"
            )
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("this file is UTF-16", where=file, expected="UTF-8", next_step="save it as UTF-8")
    if ending in {".parquet", ".arrow"}:
        raise DataError(
            f"this is no {ending[1:]} file", where=file, got="nothing" if not head else f"opens with {head[:8]!r}"
        )
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return _json_list(file)
    if text.startswith(b"{") or ending in {".jsonl", ".ndjson", ".json"}:
        _refuse_one_object(file, text)
        return _json_lines(file)
    return _delimited(file)


def _read_text(file: Path, *, newline: str) -> IO[str]:
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _not_utf8(text: str) -> _Faulty | None:
    found = _ESCAPED_BYTE.search(text)
    return (
        _Faulty(f"not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1}") if found else None
    )


def _json_lines(file: Path) -> Iterator[_Record]:
    with _read_text(file, newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _not_utf8(line) or _json(line)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return _Faulty(f"broken JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; a thousand nested lists
        return _Faulty(f"broken JSON: {error}")


def _refuse_one_object(file: Path, head: bytes) -> None:
    """One object spread over lines (such as {"data": [...]}) would read as hundreds of broken lines: say what it is."""
    first = head.split(b"\n", 1)[0]
    if file.suffix.lower() != ".json" or not isinstance(_json(first.decode("utf-8", "replace")), _Faulty):
        return
    with _read_text(file, newline="\n") as handle:
        whole = _json(handle.read())
    if isinstance(whole, dict):
        raise DataError(
            "this file is one JSON object",
            where=file,
            expected="a list of rows, or one row a line",
            got=f"an object with {', '.join(sorted(whole)[:8]) or 'no fields'}",
            next_step="save the list of rows alone",
        )


def _json_list(file: Path) -> Iterator[_Record]:
    """Element by element, so that each has its line. After broken JSON the rest cannot be told apart: reading ends."""
    with _read_text(file, newline="\n") as handle:
        text = handle.read()
    bad = [(n, fault) for n, line in enumerate(text.split("\n"), start=1) if (fault := _not_utf8(line))]
    if bad:
        yield from bad
        return
    decoder, space = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
    line, counted = 1, 0

    def skip(position: int) -> int:
        nonlocal line, counted
        match = space.match(text, position)
        end = match.end() if match else position
        line += text.count("\n", counted, end)
        counted = end
        return end

    position = skip(skip(0) + 1)  # past "["
    if text[position : position + 1] != "]":
        while True:
            try:
                row, end = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                yield error.lineno, _Faulty(f"broken JSON: {error.msg} at column {error.colno}; the rest was not read")
                return
            except (ValueError, RecursionError) as error:
                yield line, _Faulty(f"broken JSON: {error}; the rest was not read")
                return
            yield line, row
            position = skip(end)
            if text[position : position + 1] != ",":
                break
            position = skip(position + 1)
    if text[position : position + 1] != "]":
        yield line, _Faulty("broken JSON: ',' or ']' expected after this row; the rest was not read")
    elif text[position + 1 :].strip():
        yield line, _Faulty("broken JSON: more follows after the list's ']'; the rest was not read")


# --- CSV and TSV ---


def _delimited(file: Path) -> Iterator[_Record]:
    known = file.suffix.lower() in {".csv", ".tsv"}
    found: list[str] = []
    broken: _Record | None = None
    for delimiter in "\t,;" if file.suffix.lower() == ".tsv" else ",\t;":
        with _read_text(file, newline="") as handle:
            line, header = next(_cells(handle, delimiter), (1, []))
        if isinstance(header, _Faulty):
            broken = broken or (line, header)
            continue
        names = [name.strip().casefold() for name in header]
        if _schema(names):
            return _delimited_rows(file, delimiter, names)
        if any(names) and len(names) > len(found):
            found = names
    if not found:
        return iter([broken] if broken else [])
    if known:
        return iter([(1, _unknown(found))])
    raise DataError(
        "the format of this file cannot be told",
        where=file,
        expected="JSON Lines, a JSON list, CSV or TSV with a header, Parquet or Arrow",
        got=f"a text file opening with {', '.join(found)[:80]!r}",
    )


def _delimited_rows(file: Path, delimiter: str, names: list[str]) -> Iterator[_Record]:
    twice = sorted({name for name in names if name in _FIELDS and names.count(name) > 1})
    if twice:
        yield 1, _Faulty(f"columns named twice: {', '.join(twice)}")
        return
    with _read_text(file, newline="") as handle:
        header_seen = False
        for line, cells in _cells(handle, delimiter):
            if isinstance(cells, _Faulty):
                yield line, cells
            elif not header_seen:
                header_seen = True
            elif len(cells) != len(names):
                yield line, _Faulty(f"{len(names)} columns expected, got {len(cells)}")
            else:
                yield line, dict(zip(names, cells, strict=True))


def _cells(handle: IO[str], delimiter: str) -> Iterator[tuple[int, list[str] | _Faulty]]:
    """Rows with the line each opens on. `strict`: else a quote never closed would swallow the rest unsaid."""
    bad: list[tuple[int, _Faulty]] = []

    def checked() -> Iterator[str]:
        for number, line in enumerate(handle, start=1):
            if fault := _not_utf8(line):
                bad.append((number, fault))
            yield line

    reader = csv.reader(checked(), delimiter=delimiter, strict=True)
    while True:
        opened = reader.line_num + 1
        row: list[str] | _Faulty | None
        limit = csv.field_size_limit(_CSV_FIELD_LIMIT)  # module-wide, so put back before anyone else runs
        try:
            row = next(reader, None)
        except csv.Error as error:
            row = _Faulty(f"broken CSV: {error}")
        finally:
            csv.field_size_limit(limit)
        if bad:
            yield from bad
            bad.clear()
        elif row:
            yield opened, row
        if row is None:
            return


# --- Parquet and Arrow ---


def _parquet(file: Path) -> Iterator[_Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            columns = [name for name in _FIELDS if name in names]
            yield from _batches(names, table.iter_batches(batch_size=1024, columns=columns))
    except pa.ArrowException as error:
        raise _unreadable(file, error) from error


def _arrow(file: Path, *, stream: bool) -> Iterator[_Record]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as source:
            if stream:
                batches = pa.ipc.open_stream(source)
                yield from _batches(batches.schema.names, batches)
            else:
                reader = pa.ipc.open_file(source)
                yield from _batches(reader.schema.names, map(reader.get_batch, range(reader.num_record_batches)))
    except pa.ArrowException as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError("this file is damaged", where=file, got=str(error), next_step="fetch or write it again")


def _batches(names: list[str], batches: Iterable[pa.RecordBatch]) -> Iterator[_Record]:
    if _schema(names) is None:
        yield 1, _unknown(names)
        return
    number = 0
    for batch in batches:
        for row in _rows_of(batch.select([name for name in _FIELDS if name in names])):
            number += 1
            yield number, row


def _rows_of(batch: pa.RecordBatch) -> Iterator[object]:
    for start in range(0, batch.num_rows, 1024):
        piece = batch.slice(start, 1024)
        try:
            yield from piece.to_pylist()
        except UnicodeDecodeError:
            yield from (_row_or_fault(piece.slice(i, 1).to_pylist) for i in range(piece.num_rows))


def _row_or_fault(read: Callable[[], list[dict[str, Any]]]) -> object:
    try:
        return read()[0]
    except UnicodeDecodeError as error:
        return _Faulty(f"not UTF-8: {error.reason}")
