"""The blind test's rows are what they say they are, and are counted so."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from crma.bench.quality import MECHANICAL, read_quality
from crma.benchmark import blind_rows as blind
from crma.benchmark.blind_rows import blind_rows, measure_blind
from crma.benchmark.toy import toy_base
from crma.data.quality.findings import CHECKS
from crma.errors import ConfigError

from .rows_to_plant import write_data

pytest.importorskip("sklearn")


def test_every_row_is_whole_and_of_checks_that_are() -> None:
    rows = blind_rows()
    assert len(rows) > 500
    assert all(row.note and "\u241f" not in row.raw for row in rows)
    assert {check for row in rows for check in row.planted | row.decoy | row.allowed} <= set(CHECKS)
    assert {row.fields is None for row in rows if "schema" not in row.planted | row.decoy} == {False}


def test_there_are_enough_of_each_kind_to_say_something() -> None:
    rows = blind_rows()
    planted = Counter(check for row in rows for check in row.planted)
    decoys = Counter(check for row in rows for check in row.decoy)
    # Leaks take a second file or a stack.
    for check in set(MECHANICAL) - {"leak_split", "leak_stack", "leak_benchmark"}:
        assert planted[check] >= 15, check
        assert decoys[check] >= 10, check


def test_no_file_holds_a_key_in_one_piece() -> None:
    """What a scanner of repositories would take for a key has the sign in it that is taken out on reading."""
    for row in blind_rows():
        if "secret" in row.planted and row.fields is not None:
            text = json.dumps(row.fields)
            assert not any(text[1:-1] in line for line in blind._files().values()), row.note


def test_a_group_keeps_its_order_among_the_others() -> None:
    rows = blind_rows()
    lines = [line.raw for line in blind._among(rows, [])]
    assert sorted(lines) == sorted(row.line().raw for row in rows)
    assert lines != [row.line().raw for row in rows]
    places = {raw: i for i, raw in enumerate(lines)}
    groups: dict[str, list[bytes]] = {}
    for row in rows:
        if row.group is not None:
            groups.setdefault(row.group, []).append(row.line().raw)
    for raws in groups.values():
        if len(set(raws)) == len(raws):  # of equal rows there is no telling which is which
            assert [places[raw] for raw in raws] == sorted(places[raw] for raw in raws)


def test_rounds_are_counted_by_hand_and_only_the_first_is_blind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(prompt: str, completion: str, note: str, **told: list[str]) -> dict[str, object]:
        return {"prompt": prompt, "completion": completion, "note": note, **told}

    written = [
        row(
            "Who helps me?",
            "Write to h.achterberg@posteo.de, she answers at once.",
            "an address",
            planted=["pii_email"],
        ),
        row("Who else?", "Nobody but her, as far as anybody can see from here.", "missed", planted=["pii_email"]),
        row("Where to?", "Write to name@example.com in the form, then send it.", "an example", decoy=["pii_email"]),
        row("Is it open?", "N/A", "nothing", planted=["empty_answer"]),
        row("Sum of both?", "=SUM(A1:A2) is what the cell beside them should hold.", "a cell", planted=["formula"]),
        {"raw": "{broken", "note": "a broken line", "planted": ["schema"]},
    ]
    monkeypatch.setattr(blind, "_files", lambda: {"a.jsonl": "\n".join(map(json.dumps, written))})
    data, base = write_data(tmp_path / "data"), str(toy_base())
    path = measure_blind(data, tmp_path / "r", tmp_path / "w", base=base)
    assert path == tmp_path / "r" / "blind.json"
    found = read_quality(tmp_path / "r").blind
    assert found is not None
    (first,) = found.rounds
    assert first.blind
    assert (first.checks["pii_email"].planted, first.checks["pii_email"].found) == (2, 1)
    assert (first.checks["pii_email"].decoys, first.checks["pii_email"].tempted) == (1, 0)
    assert first.missed["pii_email"] == ("missed",)
    assert [first.checks[c].found for c in ("empty_answer", "formula", "schema")] == [1, 1, 1]

    monkeypatch.setattr("crma.data.quality.check.find_personal", lambda _text: ())  # another rule
    assert measure_blind(data, tmp_path / "r", tmp_path / "w", base=base) is not None
    assert measure_blind(data, tmp_path / "r", tmp_path / "w", base=base) is None
    again = read_quality(tmp_path / "r").blind
    assert again is not None
    assert [r.blind for r in again.rounds] == [True, False]
    assert again.rounds[0] == first
    assert sorted(again.rounds[1].missed["pii_email"]) == ["an address", "missed"]

    more = [row("And now?", "N/A", "nothing again", planted=["empty_answer"])]
    files = {"a.jsonl": "\n".join(map(json.dumps, written)), "b.jsonl": "\n".join(map(json.dumps, more))}
    monkeypatch.setattr(blind, "_files", lambda: files)
    assert measure_blind(data, tmp_path / "r", tmp_path / "w", base=base) is not None
    later = read_quality(tmp_path / "r").blind
    assert later is not None
    assert (later.rows, later.rounds[2].blind, later.rounds[2].files) == (7, True, ("b.jsonl",))
    assert later.rounds[2].checks["empty_answer"].planted == 1

    written[1]["note"] = "another row"
    monkeypatch.setattr(blind, "_files", lambda: {"a.jsonl": "\n".join(map(json.dumps, written))})
    with pytest.raises(ConfigError, match="other rows"):
        measure_blind(data, tmp_path / "r", tmp_path / "w", base=base)
