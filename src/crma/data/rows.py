"""A row becomes an Example, or a Fault with its reasons; nothing here knows about files' formats.

A row is one of three shapes, told apart by its fields:

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "completion": "..."}
    {"instruction": "...", "input": "..." (optional), "output": "..."}

with `group` and `id` optional in each. Of a name that stands twice in one JSON object the last would win, as everywhere
in Python; where it is one that a row is made of (these, and `role` and `content` of a message), nobody can know which
was meant, and the row is faulty. NaN and Infinity, which are no JSON but which pandas and others write, are let pass in
fields that nothing is made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from crma.types import Example, Message, Role

__all__ = ["ACCEPTED", "FIELDS", "Fault", "Record", "example_of", "not_utf8", "parse_json", "record_of", "schema_of"]

ACCEPTED = "messages, or prompt and completion, or instruction and output (input optional)"
FIELDS = ("messages", "prompt", "completion", "instruction", "input", "output", "group", "id")

_SCHEMAS = (("messages",), ("prompt", "completion"), ("instruction", "output"))
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_QUOTED = tuple((name, f'"{name}"') for name in FIELDS)
# Valid UTF-8 never decodes to a surrogate, so under "surrogateescape" one of these marks a byte that is not UTF-8.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
# A 16 MiB line can hold five million empty lists where messages should be; a sentence about each would be a gigabyte.
_MOST_REASONS = 20
_MOST_NAMES = 20


class Fault(Exception):
    """Why one row cannot be used. Readers yield it in the row's place, so that reading goes on.

    `kind` is one of "json", "encoding", "schema", "empty", "turns", "size", "format".
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row of a file, good or faulty: exactly one of `example` and `fault` is there.

    Attributes:
        line: the row's, from 1 within its file; in Parquet and Arrow its number.
        kind: of the fault (of several the first's): "json", "encoding", "schema", "empty", "turns", "size", "format";
            empty where there is none.
        raw: of JSON Lines the line's own bytes but for the line feed that ends it (a carriage return before that, and
            the byte order mark of a file's first line, are kept), so that lines written back as they were are the same
            bytes. None where the line was too long to be held.
        fields: the row as it was read, where it was an object; of Parquet and Arrow only the columns in `FIELDS`, of
            CSV with the header's names in lower case.
        end: bytes of the file read so far; exact for JSON Lines, else near and never beyond the file's size.
    """

    file: Path
    line: int
    example: Example | None
    fault: str | None = None
    kind: str = ""
    raw: bytes | None = None
    fields: Mapping[str, object] | None = None
    end: int = 0


class _Doubled(dict[str, object]):
    """A JSON object in which names stand twice."""

    names: frozenset[str]


def record_of(file: Path, line: int, row: object, end: int, raw: bytes | None = None) -> Record:
    """`row` is what was read, or the Fault that stands in its place."""
    fields = row if isinstance(row, dict) else None
    try:
        example = example_of(row, line)
    except Fault as fault:
        return Record(
            file=file, line=line, example=None, fault=str(fault), kind=fault.kind, raw=raw, fields=fields, end=end
        )
    return Record(file=file, line=line, example=example, raw=raw, fields=fields, end=end)


def example_of(row: object, line: int) -> Example:
    """Raises Fault with all that is wrong with the row."""
    if isinstance(row, Fault):
        raise row
    if not isinstance(row, Mapping):
        raise Fault("schema", f"a row must be a JSON object, got {_kind(row)}")
    reasons = _Reasons()
    given = [name for name, value in row.items() if value is not None]  # columnar files fill absent fields with null
    schema = schema_of(given) or schema_of(row)
    if schema is None:
        raise unknown_schema(row)
    _refuse_doubled(row, FIELDS, "", reasons)
    if schema == ("messages",):
        messages = _messages(row["messages"], reasons)
    else:
        prompt = _text(row, schema[0], reasons)
        extra = row.get("input") if schema[0] == "instruction" else None
        if extra is not None and not isinstance(extra, str):
            reasons.add("schema", f"input must be text, got {_kind(extra)}")
        elif extra and extra.strip():
            prompt = f"{prompt}\n\n{extra}"
        messages = (
            Message(role="user", content=prompt),
            Message(role="assistant", content=_text(row, schema[1], reasons)),
        )
    group, id_ = _label(row, "group", reasons), _label(row, "id", reasons)
    if any(_has_surrogate(m.content) for m in messages) or any(_has_surrogate(text) for text in (group, id_) if text):
        reasons.add("encoding", "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    if reasons.found:
        raise reasons.fault()
    return Example(messages=messages, group=group, line=line, id=id_)


def schema_of(names: Iterable[object]) -> tuple[str, ...] | None:
    have = set(names)
    return next((schema for schema in _SCHEMAS if have.issuperset(schema)), None)


def unknown_schema(names: Iterable[object]) -> Fault:
    found = sorted(map(str, names))
    more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    shown = ", ".join(shown_text(name) for name in found[:_MOST_NAMES]) or "no fields"
    case = "; these names are read in lower case only" if schema_of(name.casefold() for name in found) else ""
    return Fault("schema", f"unknown schema: found {shown}{more}; accepted: {ACCEPTED}{case}")


def shown_text(text: str, most: int = 80) -> str:
    """Part of a row as it may stand in a message: short, and without what a terminal would obey or could not print."""
    short = text if len(text) <= most else f"{text[:most]}…"
    return short if short.isprintable() else repr(short)[1:-1]


def not_utf8(text: str) -> Fault | None:
    """Of text that was decoded with "surrogateescape"."""
    if text.isascii():
        return None
    found = _ESCAPED_BYTE.search(text)
    if not found:
        return None
    return Fault("encoding", f"not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1}")


def parse_json(text: str) -> object:
    """The value of one JSON text, or the Fault that it is none."""
    try:
        value = json.loads(text)
        return json.loads(text, object_pairs_hook=_object) if may_be_doubled(value, text) else value
    except json.JSONDecodeError as error:
        return Fault("json", f"broken JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; a thousand nested lists
        return Fault("json", f"broken JSON: {error}")


def may_be_doubled(value: object, text: str) -> bool:
    """Whether a name that a row is made of could stand twice in its JSON. Looking again takes twice as long, counting
    names 3% of the time; it errs only on the side of looking again."""
    if not isinstance(value, dict):
        return False
    if "\\u006" in text or "\\u007" in text:  # a letter of a name may be escaped
        return True
    if any(name in value and text.count(quoted) > 1 for name, quoted in _QUOTED):
        return True
    messages = value.get("messages")
    if not isinstance(messages, list):
        return False
    if text.count('"role"') > len(messages) or text.count('"content"') > len(messages):
        return True
    return any(isinstance(m, dict) and isinstance(m.get("content"), list) for m in messages)


def parse_again(text: str) -> object:
    """The value of JSON that was read before, with names that stand twice marked."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    marked, seen, twice = _Doubled(made), set[str](), set[str]()
    for name, _ in pairs:
        (twice if name in seen else seen).add(name)
    marked.names = frozenset(twice)
    return marked


# --- the parts of a row ---


class _Reasons:
    """All that is wrong with one row, the first few in words."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, kind: str, reason: str) -> None:
        self.found.append((kind, reason))

    def fault(self) -> Fault:
        return Fault(self.found[0][0], "; ".join(reason for _, reason in self.found))


def _refuse_doubled(row: Mapping[str, object], names: Iterable[str], where: str, reasons: _Reasons) -> None:
    if isinstance(row, _Doubled) and (twice := [name for name in names if name in row.names]):
        reasons.add("schema", f"{where}{', '.join(twice)} given twice in one object")


def _has_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()  # a third of the time of a search
    except UnicodeEncodeError:
        return True
    return False


def _text(row: Mapping[str, object], name: str, reasons: _Reasons) -> str:
    value = row[name]
    if not isinstance(value, str):
        reasons.add("schema", f"{name} must be text, got {_kind(value)}")
        return ""
    if not value or value.isspace():
        reasons.add("empty", f"{name} is empty")
    return value


def _label(row: Mapping[str, object], name: str, reasons: _Reasons) -> str | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():  # pandas makes such a column of one with gaps in it
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        reasons.add("schema", f"{name} must be text or a whole number, got {_kind(value)}")
        return None
    return str(value)


def _messages(value: object, reasons: _Reasons) -> tuple[Message, ...]:
    if not isinstance(value, list):
        reasons.add("schema", f"messages must be a list, got {_kind(value)}")
        return ()
    before = len(reasons.found)
    messages: list[Message] = []
    for position, item in enumerate(value, start=1):
        messages.append(_message(item, position, reasons))
        if len(reasons.found) >= _MOST_REASONS:
            reasons.add("schema", f"the other {len(value) - position} of {len(value)} messages were not looked at")
            return ()
    if len(reasons.found) == before:  # an order is only worth judging where every role was read
        _check_order(messages, reasons)
    return tuple(messages)


_NOTHING = Message(role="user", content="")


def _message(item: object, position: int, reasons: _Reasons) -> Message:
    where = f"message {position}"
    if not isinstance(item, Mapping):
        reasons.add("schema", f"{where} must be an object with role and content, got {_kind(item)}")
        return _NOTHING
    _refuse_doubled(item, ("role", "content"), f"{where}: ", reasons)
    given = item.get("role")
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        got = f"'{shown_text(given)}'" if isinstance(given, str) else _kind(given)
        reasons.add("schema", f"{where}: role must be one of {', '.join(_ROLES)}, got {got}")
        return _NOTHING
    content = _content(item.get("content"), where, reasons)
    if content is None:
        return _NOTHING
    # An empty system turn is how some sets switch a default one off.
    if (not content or content.isspace()) and role != "system":
        reasons.add("empty", f"{where}: the {role}'s content is empty")
    return Message(role=role, content=content)


def _content(value: object, where: str, reasons: _Reasons) -> str | None:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        reasons.add("schema", f"{where}: content must be text or a list of text parts, got {_kind(value)}")
        return None
    texts: list[str] = []
    for part in value:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else part
            got = f"'{shown_text(kind)}'" if isinstance(part, Mapping) and isinstance(kind, str) else _kind(kind)
            reasons.add(
                "schema", f'{where}: each content part must be {{"type": "text", "text": "..."}}, got type {got}'
            )
            return None
        _refuse_doubled(part, ("type", "text"), f"{where}: ", reasons)
        texts.append(text)
    return "".join(texts)


def _check_order(messages: list[Message], reasons: _Reasons) -> None:
    """At most one system turn, first; then user and assistant by turns. Several models' templates refuse all else."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        reasons.add("turns", "no user turn and no assistant turn")
        return
    if turns[0].role == "assistant":
        reasons.add("turns", "a user turn must come before the first assistant turn")
    if turns[-1].role != "assistant":
        reasons.add("turns", f"the last turn must be the assistant's, got {turns[-1].role}")
    if any(m.role == "system" for m in turns):
        reasons.add("turns", "a system turn may only come first, once")
    for earlier, later in pairwise(turns):
        if earlier.role == later.role != "system":
            reasons.add("turns", f"two {earlier.role} turns in a row")
            return


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", bytes: "bytes"}
    if isinstance(value, Mapping):
        return "an object"
    return names.get(type(value), "a list" if isinstance(value, list) else type(value).__name__)
