"""What a killed run finds again, and what it must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crma.errors import StackWriteError
from crma.session import Session
from crma.train.loop import Checkpoint


def test_the_same_fingerprint_goes_on(tmp_path: Path):
    first = Session(tmp_path, {"data": "x"})
    assert not first.resumed
    first.remember(share=0.5)
    first.save("propose", Checkpoint(step=3, tensors={"a": np.arange(4.0, dtype=np.float32)}, updates=7))
    again = Session(tmp_path, {"data": "x"})
    assert again.resumed
    assert again.get("share") == 0.5
    found = again.load("propose")
    assert found is not None
    assert (found.step, found.updates) == (3, 7)
    assert np.array_equal(found.tensors["a"], np.arange(4.0, dtype=np.float32))
    assert again.load("commit") is None


def test_a_metrics_file_that_cannot_be_written_is_an_error_of_the_stack(tmp_path: Path):
    session = Session(tmp_path, {"data": "x"})
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StackWriteError, match=r"metrics\.jsonl"):
        session.log({"step": 1})
    with pytest.raises(StackWriteError, match=r"metrics\.jsonl"):
        session.rewind_metrics("commit", 0)


def test_another_fingerprint_starts_anew_and_says_so(tmp_path: Path):
    first = Session(tmp_path, {"data": "x"})
    first.remember(share=0.5)
    first.log({"phase": "propose", "step": 1})
    other = Session(tmp_path, {"data": "y"})
    assert other.discarded
    assert not other.resumed
    assert other.get("share") is None
    assert other.metrics() == []


def test_lines_after_the_checkpoint_are_dropped_and_a_torn_one_is_left_out(tmp_path: Path):
    session = Session(tmp_path, {})
    for phase, step in (("propose", 1), ("propose", 2), ("commit", 1), ("commit", 2)):
        session.log({"phase": phase, "step": step})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"phase": "commit", "st')
    session.rewind_metrics("commit", 1)
    assert [(m["phase"], m["step"]) for m in session.metrics()] == [("propose", 1), ("propose", 2), ("commit", 1)]


def test_a_process_that_does_not_write_changes_nothing(tmp_path: Path):
    Session(tmp_path, {"data": "x"}).remember(share=1.0)
    reader = Session(tmp_path, {"data": "y"}, writes=False)
    reader.remember(share=0.1)
    reader.log({"step": 1})
    assert Session(tmp_path, {"data": "x"}).get("share") == 1.0
