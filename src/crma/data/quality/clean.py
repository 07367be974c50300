"""A repaired file beside the one that was checked, and the list of changes by which the original can be had back.

    rows.jsonl  ->  clean.jsonl + clean.jsonl.changes

The input is never written to. The list of changes has one line for each row that was left out or edited, with the row
as it was; so it holds what was taken out, secrets as well, and only its owner may read it (mode 0600).
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from crma.data.quality.check import Surveyed, stamp_of
from crma.data.quality.damage import mend_control, mend_encoding, mend_markup
from crma.data.quality.findings import CHECKS, check_named
from crma.data.quality.personal import MARKS, mask
from crma.data.sources import Record, read_line, read_records
from crma.errors import ConfigError, DataError

__all__ = ["REPAIRED", "Cleaned", "changes_of", "clean", "refuse_output", "undo"]

FORMAT = 1
ENDING = ".changes"
REPAIRED = frozenset(name for name, check in CHECKS.items() if check.repaired)

_MENDS: Mapping[str, Callable[[str], str]] = {
    "encoding": mend_encoding,
    "control": mend_control,
    "markup": mend_markup,
}
_TEXT_FIELDS = ("prompt", "completion", "instruction", "input", "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """What was done: rows read (faulty ones too), kept as they were, edited, left out; how often for which check."""

    rows: int
    kept: int
    edited: int
    dropped: int
    by_check: Mapping[str, int]
    gone: tuple[int, ...]  # lines of dropped rows whose text could not be kept (broken CSV, too long): not to be undone
    output: Path
    changes: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Undone:
    taken_back: int  # changes
    gone: tuple[int, ...]  # lines, in the file that was cleaned, of rows that no list of changes holds


def changes_of(output: Path) -> Path:
    return output.with_name(output.name + ENDING)


def clean(source: Path, output: Path, surveyed: Surveyed, checks: Collection[str] = REPAIRED) -> Cleaned:
    """Write `source` as JSON Lines to `output`, with the rows that `checks` found edited or left out.

    Lines of a JSON Lines file that are not changed stay the same bytes. Of other formats a row is written as it was
    read: names of CSV columns in lower case, of Parquet and Arrow the fields that training reads. Whatever interrupts
    it, `output` is there whole with its list of changes, or not at all.

    Args:
        surveyed: of `crma.data.quality.check.survey`, over this file (and others, if it was checked with them).

    Raises:
        ConfigError: a check that does not exist or cannot repair, or an `output` that is there.
        DataError: the input changed since it was checked, no row of it can be read, or the disk is full.
    """
    wanted = _wanted(checks)
    refuse_output(source, output)
    found = {name: set(surveyed.hits.rows_of(name).tolist()) for name in wanted if name != "schema"}
    number = surveyed.first_row[source]
    rows = kept = edited = dropped = 0
    by_check: Counter[str] = Counter()
    gone: list[int] = []
    readable, fault = False, ""
    with _whole_or_not(output) as (lines, changes):
        _write(changes, {"format": FORMAT, "source": source.name, "checks": sorted(wanted)})
        written = hashlib.sha256()
        original = hashlib.sha256()
        for record in read_records(source):
            rows += 1
            readable = readable or record.example is not None
            fault = fault or (f"line {record.line}: {record.fault}" if record.example is None else "")
            before = _line_of(record)
            _feed(original, before)
            names = (
                ["schema"] if record.example is None else [n for n in wanted if n != "schema" and number in found[n]]
            )
            number += record.example is not None
            if record.example is None and "schema" not in wanted:
                raise DataError(
                    "a row that cannot be read can only be left out",
                    where=f"{source}, line {record.line}",
                    got=record.fault,
                    next_step="let the check 'schema' repair, or mend the line first",
                )
            after, did = _repaired(record, before, names)
            by_check.update(did)
            if after is None:
                dropped += 1
                if before is None:
                    gone.append(record.line)
            else:
                lines.write(after + b"\n")
                written.update(after + b"\n")
            if after is None or after != before:
                edited += after is not None
                action = "drop" if after is None else "edit"
                entry = {"row": rows, "line": record.line, "action": action, "checks": did}
                if record.example is None:
                    entry["fault"] = record.fault
                _write(changes, entry | _as_json("before", before))
            else:
                kept += 1
        _write(changes, {"rows": rows, "output_sha256": written.hexdigest(), "rows_sha256": original.hexdigest()})
        if rows and not readable:
            raise DataError(
                "no row of this file can be read, so there is nothing to repair",
                where=source,
                expected="rows with prompt and completion, messages, or instruction and output",
                got=fault,
                next_step="rename its columns or fields, or save it as JSON Lines",
            )
        if stamp_of(source) != surveyed.stamps[source]:
            raise DataError("the file changed while it was cleaned", where=source, next_step="check and clean it again")
    return Cleaned(
        rows=rows,
        kept=kept,
        edited=edited,
        dropped=dropped,
        by_check=dict(by_check),
        gone=tuple(gone),
        output=output,
        changes=changes_of(output),
    )


def undo(output: Path, restored: Path, checks: Collection[str] | None = None) -> Undone:
    """The rows as they were before `clean`, as JSON Lines; with `checks` only what these alone changed is taken back.

    Raises:
        DataError: there is no list of changes, or `output` is not the file it belongs to.
    """
    for name in checks or ():
        check_named(name)
    refuse_output(output, restored)
    changes = changes_of(output)
    entries, end = _read_changes(changes)
    _refuse_changed(output, end)
    taken, gone = 0, list[int]()
    original = hashlib.sha256()
    with output.open("rb") as lines, _whole_or_not(restored, with_changes=False) as (out, _):
        for row in range(1, end["rows"] + 1):
            entry = entries.get(row)
            line = lines.readline() if entry is None or entry["action"] == "edit" else b""
            back = entry is not None and (checks is None or set(entry["checks"]) <= set(checks))
            if entry is not None and back:
                before = _from_json("before", entry)
                if before is None:
                    gone.append(entry["line"])
                else:
                    taken += 1
                    line = before + b"\n"
            _feed(original, line[:-1] if line else None)
            out.write(line)
        if checks is None and original.hexdigest() != end["rows_sha256"]:
            raise DataError(
                "the rows are not what they were", where=changes, next_step="the list of changes is damaged"
            )
    return Undone(taken_back=taken, gone=tuple(gone))


# --- one row ---


def _repaired(record: Record, before: bytes | None, names: list[str]) -> tuple[bytes | None, list[str]]:
    """The row's new line, None where it is left out, and the checks by which it changed."""
    drops = [name for name in names if CHECKS[name].repair == "drop"]
    if drops or before is None:
        return None, drops or ["schema"]
    if not names or record.fields is None:
        return before, []
    mends = [(name, _MENDS[name]) for name in _MENDS if name in names]
    if personal := frozenset(names) & set(MARKS):
        mends += [(name, partial(mask, checks={name})) for name in sorted(personal)]
    did: list[str] = []
    fields: Any = record.fields
    for name, mend in mends:
        mended = _each_text(fields, mend)
        if mended != fields:
            did.append(name)
            fields = mended
    if not did:
        return before, []
    after = json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        read_line(after.decode("utf-8", "surrogatepass"), record.line)
    except DataError:  # nothing is left of a text
        return None, did
    return after, did


def _each_text(fields: Mapping[str, Any], mend: Callable[[str], str]) -> dict[str, Any]:
    """A row with every text that training reads mended, all else as it was."""
    mended = dict(fields)
    for name in _TEXT_FIELDS:
        if isinstance(fields.get(name), str):
            mended[name] = mend(fields[name])
    if isinstance(fields.get("messages"), list):
        mended["messages"] = [_message(message, mend) for message in fields["messages"]]
    return mended


def _message(message: Any, mend: Callable[[str], str]) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return {**message, "content": mend(content)}
    if isinstance(content, list):
        parts = [{**p, "text": mend(p["text"])} if isinstance(p, Mapping) and "text" in p else p for p in content]
        return {**message, "content": parts}
    return message


def _line_of(record: Record) -> bytes | None:
    """A row as a line of JSON: its own bytes where it had one; None where there is nothing to write (broken CSV)."""
    if record.raw is not None:
        return record.raw
    if record.fields is None:
        return None
    return json.dumps(dict(record.fields), ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


# --- files ---


def _wanted(checks: Collection[str]) -> list[str]:
    for name in checks:
        if check_named(name).repair == "look":
            raise ConfigError(
                f"the check '{name}' cannot repair: a person has to look at these rows",
                expected=", ".join(sorted(REPAIRED)),
                got=name,
                next_step="leave it out; its lines are in the report",
            )
    return [name for name in CHECKS if name in set(checks)]


def refuse_output(source: Path, output: Path) -> None:
    """ConfigError where `output` is there, `source` itself perhaps, or its folder is not.

    A list of changes without its file is what a kill between the two left behind: it may be replaced.
    """
    if source.is_dir():
        raise ConfigError(
            "a folder is cleaned file by file",
            expected="a file",
            got=str(source),
            next_step="name one of its files; --held-out takes those it must share nothing with",
        )
    if output.exists() or output.is_symlink():
        same = output.exists() and source.exists() and output.samefile(source)
        raise ConfigError(
            "a file cannot be written over itself" if same else "this file is there",
            expected="a new name",
            got=str(output),
            next_step="name another file, or move this one away",
        )
    if not output.parent.is_dir():
        raise ConfigError(
            "there is no such folder",
            expected="a folder that is there",
            got=output.parent,
            next_step="make it, or name another file",
        )


@contextmanager
def _whole_or_not(output: Path, *, with_changes: bool = True) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Two files under names of their own, which get theirs once both are on disk: the list first."""
    targets = [changes_of(output), output] if with_changes else [output]
    made: list[tuple[IO[bytes], Path]] = []
    try:
        for target in targets:
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
            made.append((os.fdopen(handle, "wb"), Path(name)))
        yield made[-1][0], made[0][0]
        for stream, _ in made:
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        _readable_as_others(made[-1][1])
        for target, (_, path) in zip(targets, made, strict=True):
            _take_name(path, target)
    except OSError as error:
        raise DataError(
            "the repaired file could not be written; nothing is left of it",
            where=output,
            got=error.strerror or str(error),
            next_step="make room, or name another folder",
        ) from error
    finally:
        for stream, path in made:
            stream.close()
            path.unlink(missing_ok=True)


def _take_name(path: Path, target: Path) -> None:
    """A list of changes may replace a lone one; a link, unlike a rename, fails where another process was faster."""
    if target.name.endswith(ENDING):
        path.replace(target)
        return
    try:
        os.link(path, target)
        path.unlink()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):  # file systems without links
            raise
        path.rename(target)


def _readable_as_others(path: Path) -> None:
    """mkstemp's files are the owner's alone; the repaired one is to be as any other file."""
    mask_ = os.umask(0)
    os.umask(mask_)
    path.chmod(0o666 & ~mask_)


def _write(stream: IO[bytes], entry: Mapping[str, Any]) -> None:
    stream.write(json.dumps(entry, ensure_ascii=True).encode() + b"\n")


def _as_json(name: str, line: bytes | None) -> dict[str, Any]:
    if line is None:
        return {name: None}
    try:
        return {name: line.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(line).decode()}


def _from_json(name: str, entry: Mapping[str, Any]) -> bytes | None:
    if f"{name}_base64" in entry:
        return base64.b64decode(entry[f"{name}_base64"])
    return entry[name].encode("utf-8") if entry[name] is not None else None


def _read_changes(path: Path) -> tuple[dict[int, Any], dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        head, *entries, end = [json.loads(line) for line in lines]
        if head["format"] != FORMAT:
            raise DataError(
                "this list of changes is of another version",
                where=path,
                expected=FORMAT,
                got=head["format"],
                next_step="undo it with the version of CRMA that cleaned it",
            )
        return {entry["row"]: entry for entry in entries}, {"rows": int(end["rows"]), **end}
    except FileNotFoundError as error:
        raise DataError(
            "there is no list of changes beside this file",
            where=path,
            next_step="name the file that `crma data clean` wrote, its list beside it",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "this list of changes cannot be read",
            where=path,
            got=repr(error),
            next_step="restore it, or clean the rows again",
        ) from error


def _refuse_changed(output: Path, end: Mapping[str, Any]) -> None:
    try:
        with output.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            "this file cannot be read",
            where=output,
            got=error.strerror,
            next_step="check the file and its permissions",
        ) from error
    if found != end["output_sha256"]:
        raise DataError(
            "this file was changed since it was cleaned",
            where=output,
            expected=f"SHA-256 {end['output_sha256'][:12]}…",
            got=f"{found[:12]}…",
            next_step="undo works on the file as it was written; the rows as they were are in its list of changes",
        )


def _feed(digest: Any, line: bytes | None) -> None:
    digest.update(b"\0" if line is None else b"\1" + line + b"\n")
