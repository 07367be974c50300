"""The whole check over files, the repaired file, and the way back."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quality_rows import prose

from crma.data.quality.check import Settings, Surveyed, survey
from crma.data.quality.clean import REPAIRED, Undone, changes_of, clean, undo
from crma.data.quality.findings import CHECKS, Report
from crma.errors import ConfigError, DataError
from crma.types import Example

SECRET = "AKIA" + "IOSFODNN7" + "QWERTYU"


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def row(prompt: str, completion: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, **more}


def dirty(path: Path) -> Path:
    """Ten rows: sound, copy, mojibake, address, broken, remains of a page, sound messages, nothing, key, sound."""
    return write(
        path,
        [
            row(prose(1), prose(2), source="a"),
            row(prose(1), prose(2), source="b"),
            row("Où est le café ?", "Le cafÃ© est fermÃ©.", id=3),
            row(prose(3), "Write to jane.doe@hospital.org about it."),
            b'{"prompt": "x", "completion": }',
            row(prose(4), "<p>First.</p><p>Second &amp; third.</p>"),
            {
                "messages": [{"role": "user", "content": prose(5)}, {"role": "assistant", "content": prose(6)}],
                "n": 1.50,
            },
            row(prose(7), "N/A"),
            row(prose(8), f"The key is {SECRET} here."),
            row(prose(9), prose(10)),
        ],
    )


def checked(*paths: Path, **settings: Any) -> Surveyed:
    return survey(paths, Settings(**settings))


def lines_of(report: Report, check: str) -> list[int]:
    return [line for finding in report.findings if finding.check == check for line in finding.lines]


def test_every_finding_says_which_lines(tmp_path: Path) -> None:
    report = checked(dirty(tmp_path / "rows.jsonl")).report
    found = {finding.check: list(finding.lines) for finding in report.findings}
    assert found == {
        "schema": [5],
        "duplicate": [2],
        "encoding": [3],
        "pii_email": [4],
        "markup": [6],
        "empty_answer": [8],
        "secret": [9],
    }
    assert report.verdict == "fail"
    assert report.rows == 9
    assert report.files[0]["rows"] == 9
    assert report.files[0]["faulty"] == 1


def test_the_report_as_json(tmp_path: Path) -> None:
    found = checked(dirty(tmp_path / "rows.jsonl")).report.to_json()
    assert json.loads(json.dumps(found)) == found
    assert found["verdict"] == "fail"
    for finding in found["findings"]:
        assert set(finding) >= {"check", "severity", "count", "lines", "why", "advice"}
        assert finding["count"] == len(finding["lines"])
        assert CHECKS[finding["check"]].severity == finding["severity"]
    assert "leak_stack" in found["skipped"]


def test_nothing_personal_is_shown(tmp_path: Path) -> None:
    told = json.dumps(checked(dirty(tmp_path / "rows.jsonl")).report.to_json())
    assert "jane.doe" not in told
    assert SECRET not in told
    assert "[EMAIL]" in told
    assert "[SECRET]" in told


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [([row(prose(1), prose(2))], "pass"), ([row(prose(1), "N/A")], "warn"), ([row(prose(1), SECRET)], "fail")],
)
def test_the_verdict(tmp_path: Path, rows: list[Any], verdict: str) -> None:
    assert checked(write(tmp_path / "rows.jsonl", rows)).report.verdict == verdict


def test_held_out_files_are_known_by_their_names_and_leaks_told_of_the_other(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row(prose(1), prose(2)), row(prose(3), prose(4))])
    test = write(tmp_path / "test.jsonl", [row(prose(3), prose(4)), row(prose(5), prose(6))])
    for paths in ((train, test), (test, train)):
        findings = checked(*paths).report.findings
        assert [(f.check, f.file, f.lines) for f in findings] == [("leak_split", "train.jsonl", (2,))]
    apart = survey([train], Settings(), held_out=[write(tmp_path / "other.jsonl", [row(prose(1), prose(2))])])
    assert lines_of(apart.report, "leak_split") == [1]


def test_rows_of_a_stack(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(prose(i), prose(i + 50)) for i in range(60)])
    reserved = {"test rows of 'law'": [Example.of(prose(7), prose(57)), Example.of(prose(90), prose(91))]}
    report = checked(file, reserved=reserved).report
    assert lines_of(report, "leak_stack") == [8]
    assert report.rows == 60


def test_questions_of_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "benchmarks" / "quiz").mkdir(parents=True)
    question = "Which of these rivers flows through the largest number of countries on its way to the sea?"
    write(tmp_path / "benchmarks" / "quiz" / "test.jsonl", [{"question": question, "answer": "A"}])
    rows = [
        row(prose(1), prose(2)),
        row(f"Answer this. {question.upper()} {prose(3)}", prose(4)),
        row(question[:40], "x y"),
    ]
    report = checked(write(tmp_path / "rows.jsonl", rows), benchmarks=tmp_path / "benchmarks").report
    assert lines_of(report, "leak_benchmark") == [2]
    assert "quiz" in report.findings[0].examples[0]["note"]


def test_a_check_can_be_left_out(tmp_path: Path) -> None:
    report = checked(dirty(tmp_path / "rows.jsonl"), skip=frozenset({"schema", "secret", "duplicate"})).report
    assert {f.check for f in report.findings} == {"encoding", "pii_email", "markup", "empty_answer"}
    assert report.skipped["secret"] == "switched off"
    with pytest.raises(ConfigError, match="no such check"):
        checked(tmp_path / "rows.jsonl", skip=frozenset({"sekret"}))


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    file = dirty(tmp_path / "rows.jsonl")
    (tmp_path / "link.jsonl").symlink_to(file)
    with pytest.raises(DataError, match="given twice"):
        checked(file, tmp_path / "link.jsonl")


def test_a_file_of_faulty_rows_alone_is_told(tmp_path: Path) -> None:
    report = checked(write(tmp_path / "rows.jsonl", [b"{", b"[]"])).report
    assert report.rows == 0
    assert lines_of(report, "schema") == [1, 2]


# --- clean and undo ---


def test_clean_mends_what_it_can_and_touches_nothing_else(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    before = source.read_bytes()
    done = clean(source, tmp_path / "clean.jsonl", checked(source))
    assert source.read_bytes() == before
    lines = before.splitlines(keepends=True)
    out = (tmp_path / "clean.jsonl").read_bytes().splitlines(keepends=True)
    assert [out[0], out[4], out[6]] == [lines[0], lines[6], lines[9]]
    assert [json.loads(line).get("completion") for line in out[1:4]] == [
        "Le café est fermé.",
        "Write to [EMAIL] about it.",
        "First.\nSecond & third.",
    ]
    assert json.loads(out[1])["id"] == 3
    assert json.loads(out[5])["completion"] == "The key is [SECRET] here."
    assert (done.rows, done.kept, done.edited, done.dropped) == (10, 3, 4, 3)
    assert done.by_check == {
        "schema": 1,
        "duplicate": 1,
        "encoding": 1,
        "pii_email": 1,
        "markup": 1,
        "empty_answer": 1,
        "secret": 1,
    }


def test_what_was_cleaned_is_clean(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    clean(source, tmp_path / "clean.jsonl", checked(source))
    assert checked(tmp_path / "clean.jsonl").report.findings == ()


def test_undo_gives_every_row_back(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    clean(source, tmp_path / "clean.jsonl", checked(source))
    assert undo(tmp_path / "clean.jsonl", tmp_path / "back.jsonl") == Undone(taken_back=7, gone=())
    assert (tmp_path / "back.jsonl").read_bytes() == source.read_bytes()


def test_rows_that_no_list_can_hold_are_named_and_not_called_taken_back(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(f'prompt,completion\n{prose(1)},{prose(2)}\n{prose(3)},"caf\xe9"\n'.encode("latin-1"))
    done = clean(source, tmp_path / "clean.jsonl", checked(source))
    assert (done.kept, done.dropped, done.gone) == (1, 1, (3,))
    assert undo(tmp_path / "clean.jsonl", tmp_path / "back.jsonl") == Undone(taken_back=0, gone=(3,))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("excel.csv", "sep=;\nprompt;completion\na;b\n"),
        ("whole.jsonl", '{"data": [{"prompt": "a", "completion": "b"}]}\n'),
        ("share.jsonl", '{"conversations": [{"from": "human", "value": "a"}]}\n' * 3),
    ],
)
def test_a_file_of_which_no_row_can_be_read_is_not_made_an_empty_one(tmp_path: Path, name: str, content: str) -> None:
    source = tmp_path / name
    source.write_text(content)
    with pytest.raises(DataError, match="no row of this file can be read"):
        clean(source, tmp_path / "clean.jsonl", checked(source))
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_undo_of_one_check_leaves_the_others(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    clean(source, tmp_path / "clean.jsonl", checked(source))
    assert undo(tmp_path / "clean.jsonl", tmp_path / "back.jsonl", {"pii_email"}).taken_back == 1
    out = (tmp_path / "back.jsonl").read_text()
    assert "jane.doe@hospital.org" in out
    assert SECRET not in out
    assert len(out.splitlines()) == 7


def test_the_list_of_changes_is_the_owners_alone(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    done = clean(source, tmp_path / "clean.jsonl", checked(source))
    assert stat.S_IMODE(done.changes.stat().st_mode) == 0o600
    assert stat.S_IMODE(done.output.stat().st_mode) == 0o666 & ~_umask()


def test_only_what_was_asked_for_is_repaired(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    surveyed = checked(source)
    done = clean(source, tmp_path / "clean.jsonl", surveyed, {"schema", "duplicate"})
    assert done.by_check == {"schema": 1, "duplicate": 1}
    assert b"jane.doe" in (tmp_path / "clean.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="a person has to look"):
        clean(source, tmp_path / "c2.jsonl", surveyed, {"contradiction"})
    with pytest.raises(DataError, match="can only be left out"):
        clean(source, tmp_path / "c2.jsonl", surveyed, {"duplicate"})
    assert not (tmp_path / "c2.jsonl").exists()


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    surveyed = checked(source)
    (tmp_path / "there.jsonl").write_text("mine")
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    (tmp_path / "nowhere.jsonl").symlink_to(tmp_path / "missing")
    for name in ("rows.jsonl", "there.jsonl", "link.jsonl", "hard.jsonl", "nowhere.jsonl", "no/folder.jsonl"):
        with pytest.raises(ConfigError):
            clean(source, tmp_path / name, surveyed)
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    assert not (tmp_path / "missing").exists()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    source = dirty(tmp_path / "rows" / "train.jsonl")
    with pytest.raises(ConfigError, match="file by file"):
        clean(tmp_path / "rows", tmp_path / "clean.jsonl", checked(source))


def test_a_file_that_changed_since_it_was_checked_is_refused(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    surveyed = checked(source)
    lines = source.read_bytes().splitlines(keepends=True)
    for other in (lines[:1], lines[::-1]):  # fewer rows; as many, in another order
        source.write_bytes(b"".join(other))
        with pytest.raises(DataError, match="changed while it was cleaned"):
            clean(source, tmp_path / "clean.jsonl", surveyed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


def test_undo_refuses_a_file_that_was_changed(tmp_path: Path) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    clean(source, tmp_path / "clean.jsonl", checked(source))
    with (tmp_path / "clean.jsonl").open("ab") as stream:
        stream.write(b"{}\n")
    with pytest.raises(DataError, match="changed since it was cleaned"):
        undo(tmp_path / "clean.jsonl", tmp_path / "back.jsonl")
    with pytest.raises(DataError, match="no list of changes"):
        undo(source, tmp_path / "back.jsonl")
    changes_of(tmp_path / "clean.jsonl").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        undo(tmp_path / "clean.jsonl", tmp_path / "back.jsonl")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dirty(tmp_path / "rows.jsonl")
    surveyed = checked(source)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="could not be written"):
        clean(source, tmp_path / "clean.jsonl", surveyed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


def test_a_kill_leaves_the_whole_file_or_none(tmp_path: Path) -> None:
    """Killed at the moment of the first fsync: no file of that name; the next call goes through."""
    source = dirty(tmp_path / "rows.jsonl")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from crma.data.quality.check import Settings, survey; from crma.data.quality.clean import clean\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "s = Path(sys.argv[1]); clean(s, Path(sys.argv[2]), survey([s], Settings()))"
    )
    ended = subprocess.run([sys.executable, "-c", code, source, tmp_path / "clean.jsonl"], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "clean.jsonl").exists()
    assert clean(source, tmp_path / "clean.jsonl", checked(source)).kept == 3


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_other_formats_become_json_lines_and_come_back_as_rows(tmp_path: Path, ending: str) -> None:
    rows = [row(prose(i), prose(i + 50)) for i in (1, 2, 1, 3)]
    source = tmp_path / f"rows.{ending}"
    if ending == "json":
        source.write_text(json.dumps(rows))
    elif ending == "csv":
        import csv

        with source.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["prompt", "completion"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), source)
    done = clean(source, tmp_path / "clean.jsonl", checked(source))
    assert (done.kept, done.dropped) == (3, 1)
    assert [json.loads(line) for line in (tmp_path / "clean.jsonl").read_text().splitlines()] == [
        rows[i] for i in (0, 1, 3)
    ]
    undo(tmp_path / "clean.jsonl", tmp_path / "back.jsonl")
    assert [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()] == rows


_TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["N/A", "cafÃ©", "<p>a</p> &amp; b", "x\u200by", "a@b.org", SECRET, "As an AI language model, no."]
    ),
)
_LINES = st.one_of(
    st.builds(lambda p, c: json.dumps({"prompt": p, "completion": c}).encode(), _TEXTS, _TEXTS),
    st.builds(
        lambda p, c: json.dumps({"prompt": p, "completion": c}, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        _TEXTS,
        _TEXTS,
    ),
    st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_LINES, min_size=1, max_size=12))
def test_whatever_the_file_undo_gives_its_rows_back(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "rows.jsonl")
        source.write_bytes(b'{"prompt": "a", "completion": "b"}\n' + b"".join(line + b"\n" for line in lines))
        before = source.read_bytes()
        surveyed = checked(source)
        output, back = Path(folder, "out.jsonl"), Path(folder, "back.jsonl")
        done = clean(source, output, surveyed)
        assert done.rows == done.kept + done.edited + done.dropped
        undo(output, back)
        assert source.read_bytes() == before
        assert _rows(back.read_bytes()) == _rows(before)
        if done.kept + done.edited:
            left = {f.check for f in checked(output).report.findings} & {"schema", "secret", "pii_email", "control"}
            assert not left


def _rows(data: bytes) -> list[bytes]:
    """Lines that are not blank, as text has it: the separators U+001C to U+001F are space there."""
    return [line for line in data.split(b"\n") if line.decode("utf-8", "surrogateescape").strip()]


def test_repaired_are_the_checks_that_can() -> None:
    assert {name for name, check in CHECKS.items() if check.repair != "look"} == REPAIRED


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
