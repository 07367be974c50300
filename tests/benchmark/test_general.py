"""Three views of one stack on the same rows: only what was routed to a domain may differ from the base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crma import BackboneConfig, ContinualModel, LearnConfig
from crma.bench.general_tables import general_made, general_tables, read_general
from crma.data.worlds import make_world
from crma.errors import ConfigError

pytest.importorskip("lm_eval", reason="the bench extra is not installed")


@pytest.mark.slow
def test_rows_left_to_the_base_are_answered_by_it(shared_data: Path, toy_base: Path, tmp_path: Path):
    from crma.benchmark.general import measure_general

    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=BackboneConfig(directions=4))
    config = LearnConfig(epochs=1, rank=2, max_length=160, lr=5e-2)
    model.learn("medicine", make_world("medicine", entities=2).split, config)
    receipt = tmp_path / "general.json"
    found = measure_general(model, shared_data / "benchmarks", receipt, tasks=("winogrande",), limit=6)
    kept = read_general(tmp_path)
    assert kept is not None
    assert kept.domains == ("medicine",)
    assert "WinoGrande" in general_tables(kept)["general"]
    assert f"lm-evaluation-harness {kept.base.versions.lm_eval}" in general_made(kept)
    base, routed, always = (found[view]["tasks"]["winogrande"] for view in ("base", "routed", "always"))
    assert base["rows"] == routed["rows"] == always["rows"]
    right = {view: measured["items"]["acc"] for view, measured in (("base", base), ("routed", routed))}
    for where, one, other in zip(routed["routes"], right["base"], right["routed"], strict=True):
        assert where is not None or one == other


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_next_task(
    shared_data: Path, toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from crma.benchmark import general

    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=BackboneConfig(directions=4))
    receipt, said, ask = tmp_path / "general.json", [], general.evaluate_general

    def killed(*args: object, tasks: tuple[str, ...], **options: object) -> dict:
        if tasks == ("winogrande",):
            raise KeyboardInterrupt
        return ask(*args, tasks=tasks, **options)  # pyright: ignore[reportArgumentType]

    tasks = ("arc_challenge", "winogrande")

    def measure() -> dict:
        data = shared_data / "benchmarks"
        return general.measure_general(model, data, receipt, tasks=tasks, limit=3, say=said.append)

    monkeypatch.setattr(general, "evaluate_general", killed)
    with pytest.raises(KeyboardInterrupt):
        measure()
    assert not receipt.exists()
    monkeypatch.setattr(general, "evaluate_general", ask)
    said.clear()
    found = measure()
    assert said == ["[2/2] winogrande"]
    assert list(found["base"]["tasks"]) == list(found["routed"]["tasks"]) == list(tasks)
    assert list(tmp_path.glob("general*")) == [receipt]
    with pytest.raises(ConfigError, match="there already"):
        measure()


@pytest.mark.slow
def test_what_was_measured_otherwise_is_not_taken_over(
    shared_data: Path, toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from crma.benchmark import general

    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=BackboneConfig(directions=4))
    receipt = tmp_path / "general.json"
    part = tmp_path / "general.part.json"
    general.measure_general(model, shared_data / "benchmarks", receipt, tasks=("winogrande",), limit=3)
    kept = json.loads(receipt.read_text())
    asked = {key: kept[key] for key in ("kind", "domains", "base_model", "stack_sha256", "limit", "shots", "seed")}
    part.write_text(
        json.dumps({**asked, "kind": "general-part", "limit": 2, "views": {"base": {"tasks": {"winogrande": {}}}}})
    )
    receipt.unlink()
    said: list[str] = []
    general.measure_general(model, shared_data / "benchmarks", receipt, tasks=("winogrande",), limit=3, say=said.append)
    assert said == ["[1/1] winogrande"]
