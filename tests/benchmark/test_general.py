"""Three views of one stack on the same rows: only what was routed to a domain may differ from the base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crma import BackboneConfig, ContinualModel, LearnConfig
from crma.data.worlds import make_world

pytest.importorskip("lm_eval", reason="the bench extra is not installed")


@pytest.mark.slow
def test_rows_left_to_the_base_are_answered_by_it(shared_data: Path, toy_base: Path, tmp_path: Path):
    from crma.benchmark.general import measure_general

    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=BackboneConfig(directions=4))
    config = LearnConfig(epochs=1, rank=2, max_length=160, lr=5e-2)
    model.learn("medicine", make_world("medicine", entities=2).split, config)
    receipt = tmp_path / "general.json"
    found = measure_general(model, shared_data / "benchmarks", receipt, tasks=("winogrande",), limit=6)
    kept = json.loads(receipt.read_text())
    assert kept["domains"] == ["medicine"]
    base, routed, always = (found[view]["tasks"]["winogrande"] for view in ("base", "routed", "always"))
    assert base["rows"] == routed["rows"] == always["rows"]
    right = {view: measured["items"]["acc"] for view, measured in (("base", base), ("routed", routed))}
    for where, one, other in zip(routed["routes"], right["base"], right["routed"], strict=True):
        assert where is not None or one == other
