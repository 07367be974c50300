"""The ledger cannot be shortened, edited or reordered unseen; a torn tail is no harm."""

from __future__ import annotations

import hashlib
import json

import pytest

from crma.errors import StackCorruptError
from crma.stack import ledger
from crma.stack.stack import Stack

TIME = "2024-01-01T00:00:00+00:00"


@pytest.fixture
def kept(disk):
    """A ledger of five entries, and its head."""
    path, head = disk / "ledger.jsonl", ledger.EMPTY
    for number in range(5):
        data, after = ledger.encode_entries(head, [{"kind": "learn", "domain": f"d{number}"}], time=TIME)
        ledger.append(path, head, data)
        head = after
    return path, head


def test_entries_are_bound_to_each_other(kept):
    path, head = kept
    entries = ledger.read_ledger(path, head)
    assert [entry["domain"] for entry in entries] == ["d0", "d1", "d2", "d3", "d4"]
    lines = path.read_bytes().splitlines()
    assert entries[0]["previous"] == "0" * 64
    for line, entry in zip(lines, entries[1:], strict=False):
        assert entry["previous"] == hashlib.sha256(line).hexdigest()
    assert head.sha256 == hashlib.sha256(lines[-1]).hexdigest()


@pytest.mark.parametrize(
    "tail", [b"{", b"garbage\n", b"\0" * 50, b'{"entry": 6, "transaction": 5}\n{"entry": 7, "transa']
)
def test_a_killed_writers_tail_is_ignored_then_overwritten(kept, tail):
    path, head = kept
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert len(ledger.read_ledger(path, head)) == 5
    ledger.check_tail(path, head)
    ledger.append(path, head, b"next\n")
    assert path.read_bytes() == whole + b"next\n"
    ledger.cut_tail(path, head)
    assert path.read_bytes() == whole


def test_every_cut_is_seen(kept):
    path, head = kept
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StackCorruptError, match="cut or edited"):
            ledger.read_ledger(path, head)


def test_every_flipped_bit_is_seen(kept):
    path, head = kept
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(StackCorruptError):
            ledger.read_ledger(path, head)


def test_removed_swapped_and_forged_lines_are_seen(kept):
    path, head = kept
    lines = path.read_bytes().splitlines(keepends=True)
    forged = json.dumps(json.loads(lines[2]) | {"domain": "dX"}, sort_keys=True).encode() + b"\n"
    assert len(forged) == len(lines[2])
    for edited in (
        [*lines[:2], *lines[3:], b"x" * (len(lines[2]) - 1) + b"\n"],
        [lines[1], lines[0], *lines[2:]],
        [*lines[:2], forged, *lines[3:]],
        [*lines[:4], lines[3]],
    ):
        path.write_bytes(b"".join(edited))
        with pytest.raises(StackCorruptError):
            ledger.read_ledger(path, head)


def test_a_tail_that_was_committed_is_not_a_leftover(kept):
    path, head = kept
    old = ledger.encode_entries(ledger.EMPTY, [{"kind": "learn", "domain": "d0"}], time=TIME)[1]
    assert len(ledger.read_ledger(path, old)) == 1
    with pytest.raises(StackCorruptError, match="older than the ledger"):
        ledger.check_tail(path, old)
    ledger.check_tail(path, head)


@pytest.mark.parametrize("entry", [{}, {"kind": 3}, {"kind": "x", "entry": 1}, {"kind": "x", "loss": float("inf")}])
def test_a_faulty_entry_is_refused_where_it_is_logged(stack, tree, entry):
    before = tree(stack.root)
    with pytest.raises(ValueError), stack.transaction() as tx:  # noqa: PT011 - each says its own
        tx.log(entry)
    assert tree(stack.root) == before


def test_an_edited_ledger_stops_writers_not_readers_of_adapters(stack, teach):
    path = stack.root / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1.25", b"1.20"))
    reader = Stack.open(stack.root)
    assert reader.read_tensors("adapters/medicine/adapter_model.safetensors")
    assert [problem.kind for problem in reader.verify_files()] == ["ledger"]
    with pytest.raises(StackCorruptError):
        reader.read_ledger()
    with pytest.raises(StackCorruptError):
        teach(reader, "law")
