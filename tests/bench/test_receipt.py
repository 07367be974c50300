"""A receipt holds the machine and the versions, and is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crma.bench.receipt import write_receipt


def test_a_receipt_says_what_it_was_made_with(tmp_path: Path):
    path = tmp_path / "deep" / "one.json"
    write_receipt(path, {"loss": 1.5})
    found = json.loads(path.read_text())
    assert found["loss"] == 1.5
    assert set(found["machine"]["packages"]) >= {"torch", "transformers", "peft"}
    assert found["made"].endswith("+00:00")


def test_a_receipt_that_cannot_be_written_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "one.json"
    write_receipt(path, {"loss": 1.5})
    with pytest.raises(TypeError):
        write_receipt(path, {"loss": object()})
    assert json.loads(path.read_text())["loss"] == 1.5
    assert [p.name for p in tmp_path.iterdir()] == ["one.json"]
