"""The real rows beside the project: every file is read without a fault, and splits by document do not leak."""

from __future__ import annotations

from pathlib import Path

import pytest

from crma.data.domains import leaks, split_examples
from crma.data.sources import read_examples


@pytest.mark.parametrize(
    ("name", "rows"), [("medical", 3825), ("legal", 4650), ("financial", 3963), ("code", 2034), ("science", 3362)]
)
def test_a_domain_is_read_whole_and_split_by_document(shared_data: Path, name: str, rows: int):
    examples = read_examples(shared_data / "domains" / f"{name}.jsonl")
    assert len(examples) == rows
    assert all(e.group for e in examples)
    split = split_examples(examples, seed=0, validation=40, test=48, limit=160)
    assert (len(split.train), len(split.validation), len(split.test)) == (160, 40, 48)
    groups = [{e.group for e in part} for part in (split.train, split.validation, split.test)]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert leaks(split) == ()
