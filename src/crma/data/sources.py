"""Files of conversations become Examples; every faulty line is named at once.

Rows (`crma.data.rows` tells what they are) come from JSON Lines, a JSON list, CSV, TSV, Parquet, Arrow, or a folder of
these (also what Hugging Face `save_to_disk` writes). Files are given by whoever uses CRMA, and may come from anywhere:
no file makes reading hang, crash, or take more memory than a few of its longest rows.

Links: one to a file is read, wherever it leads (the files of a Hugging Face cache are links to its blobs, outside the
folder); links to folders within a folder are not followed, so none leads in a circle. What has a data file's ending but
is none (a link that leads nowhere, a pipe) is refused, never passed by: its rows would be missing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from crma.data.formats import records_of
from crma.data.rows import ACCEPTED, Fault, Record, example_of, not_utf8, parse_json
from crma.errors import DataError
from crma.types import Example

__all__ = ["Record", "files_of", "is_held_out", "read_examples", "read_line", "read_records", "read_rows"]

_ENDINGS = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow"})
_ABOUT_THE_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
# The words by which Hugging Face `datasets` tells splits apart in file and folder names.
_TRAIN_WORDS = frozenset({"train", "training"})
_HELD_OUT_WORDS = frozenset({"validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"})

# A file that is no data at all can hold a billion faulty lines; this many reasons are some 30 MB.
_MOST_FAULTS = 100_000


def read_examples(path: str | os.PathLike[str]) -> tuple[Example, ...]:
    """Every row of a file or folder, in order. DataError lists all faulty lines."""
    return tuple(read_rows(path))


def read_rows(path: str | os.PathLike[str]) -> Iterator[Example]:
    """The rows one by one, holding none of them.

    Good rows are yielded as they come; if any row was faulty, DataError with all of them (the first 100,000, should
    there be more) is raised after the last row. So use nothing of the stream for good before it has ended. A folder is
    read file by file in name order; files and folders named for a held-out split (test, validation, dev and so on) are
    left out. `line` is a row's line, from 1 within its file; in Parquet and Arrow its number.
    """
    root = Path(path)
    faults: list[tuple[int, str]] = []
    rows = faulty = 0
    for file in files_of(root):
        prefix = "" if file == root else f"{file.relative_to(root)}: "
        for record in records_of(file):
            if record.example is not None:
                rows += 1
                yield record.example
                continue
            faulty += 1
            if faulty <= _MOST_FAULTS:
                faults.append((record.line, f"{prefix}{record.fault}"))
    if faults:
        raise DataError(
            f"{faulty} faulty {'line' if faulty == 1 else 'lines'}; {rows} good",
            where=root,
            next_step="mend or delete these lines; nothing was learnt from this source",
            faults=faults,
        )
    if rows == 0:
        raise _no_rows(root)


def read_records(path: str | os.PathLike[str], *, held_out: bool = False) -> Iterator[Record]:
    """Every row of a file or folder in order, good or faulty, holding none of them.

    A file without rows gives none.

    Args:
        held_out: of a folder, also read files named for a held-out split.

    Raises:
        DataError: there is no such file or folder, a file as a whole cannot be read, or a folder holds no rows.
    """
    root = Path(path)
    empty = True
    files = files_of(root, held_out=held_out)
    for file in files:
        for record in records_of(file):
            empty = False
            yield record
    if empty and files != [root]:
        raise _no_rows(root)


def read_line(text: str, number: int) -> Example:
    """One line of JSON Lines, as it may come out of a pipe.

    Raises:
        DataError: it is no row.
    """
    try:
        return example_of(not_utf8(text) or parse_json(text), number)
    except Fault as fault:
        raise DataError("this line is no row", where=f"line {number}", expected=ACCEPTED, got=str(fault)) from fault


def is_held_out(name: str | os.PathLike[str]) -> bool:
    """Whether a file, by its name (with the folders from the one that was given), belongs to a held-out split."""
    words = set(re.split(r"[^a-z]+", os.fspath(name).lower()))
    return bool(words & _HELD_OUT_WORDS) and not words & _TRAIN_WORDS


def files_of(path: str | os.PathLike[str], *, held_out: bool = False) -> list[Path]:
    """The files that are read of a file or folder, in order.

    Args:
        held_out: of a folder, also those named for a held-out split.

    Raises:
        DataError: there are none.
    """
    root = Path(path)
    try:
        return _files(root, held_out)
    except OSError as error:
        raise DataError(
            "this cannot be read",
            where=error.filename or root,
            got=error.strerror or str(error),
            next_step="check the path and its permissions",
        ) from error


def _no_rows(root: Path) -> DataError:
    return DataError(
        "this source holds no rows",
        where=root,
        expected=f"rows with {ACCEPTED}",
        got="nothing",
        next_step="check the path, and that the file was written whole",
    )


def _files(root: Path, held_out: bool) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        _refuse(root)
    if (root / "dataset_dict.json").is_file():
        return _of_dict(root, held_out)
    return _of_folder(root, held_out)


def _refuse(path: Path) -> NoReturn:
    """Of what is neither a file nor a folder."""
    if path.is_symlink() and not path.exists():
        raise DataError("this link leads nowhere, or in a circle", where=path, next_step="mend or remove the link")
    if not path.exists():
        raise DataError("no such file or folder", where=path, next_step="check the path")
    raise DataError(
        "this is neither a file nor a folder", where=path, got="a pipe, a socket or a device", next_step="give a file"
    )


def _of_dict(root: Path, held_out: bool) -> list[Path]:
    splits = sorted(entry for entry in root.iterdir() if entry.is_dir())
    chosen = [split for split in splits if split.name == "train" or (held_out and not split.name.startswith("."))]
    if not chosen:
        raise DataError(
            "this dataset has no train split",
            where=root,
            expected="a folder 'train'",
            got=", ".join(split.name for split in splits) or "no folder",
            next_step="name the folder of one split instead",
        )
    return [file for split in chosen for file in _of_folder(split, held_out)]


def _of_folder(root: Path, held_out: bool) -> list[Path]:
    return _arrow_shards(root) if (root / "state.json").is_file() else _loose_files(root, held_out)


def _arrow_shards(root: Path) -> list[Path]:
    """The shards `save_to_disk` wrote, in its order; only names within the folder are followed."""
    state = root / "state.json"
    try:
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        names = [Path(entry["filename"]).name for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            "this dataset's state.json cannot be read",
            where=state,
            got=repr(error),
            next_step="save the dataset again with save_to_disk",
        ) from error
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataError(
            "shards of this dataset are missing",
            where=root,
            expected=", ".join(names),
            got=f"no {missing}",
            next_step="copy the whole folder, or save the dataset again with save_to_disk",
        )
    return [root / name for name in names]


def _loose_files(root: Path, held_out: bool) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:  # a folder that may not be looked into; its rows would be missing
        raise error

    readable: list[Path] = []
    for folder, below, names in os.walk(root, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        readable += [
            Path(folder, name)
            for name in sorted(names)
            if Path(name).suffix.lower() in _ENDINGS and name not in _ABOUT_THE_DATA and not name.startswith(".")
        ]
    if not readable:
        raise DataError(
            "nothing readable in this folder",
            where=root,
            expected=f"files ending in {', '.join(sorted(_ENDINGS))}",
            next_step="name the folder that holds the rows",
        )
    chosen = [file for file in readable if held_out or not is_held_out(file.relative_to(root))]
    if not chosen:
        raise DataError(
            "this folder has no train split",
            where=root,
            expected="a file or folder not named for validation or test",
            got=", ".join(str(file.relative_to(root)) for file in readable[:5]),
            next_step="name the file to read instead",
        )
    for file in chosen:
        if not file.is_file():
            _refuse(file)
    return chosen
