"""The demo on a toy base: it cannot answer, but every part of the report is there and comes from the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crma import ContinualModel, LearnConfig
from crma.data.worlds import make_world
from crma.demo import run_demo
from crma.errors import BaseModelError, ConfigError
from crma.stack.stack import Stack


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, toy_base: Path):
    folder = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    result = run_demo(folder / "stack", folder / "report.html", base=str(toy_base), say=said.append)
    return folder, result, said


def test_it_tells_the_time_left_and_where_the_report_is(made):
    _, _, said = made
    assert any("s left" in line for line in said)
    assert "report.html" in said[-1]


def test_both_methods_learn_the_same_rows_with_as_many_numbers(made):
    _, result, _ = made
    naive, crma = result["methods"]["naive"], result["methods"]["crma"]
    assert [len(m["exact"]) for m in (naive, crma)] == [4, 4]
    assert naive["exact"][0] == crma["exact"][0]
    a_rank = naive["trained_parameters"] / naive["rank"]
    assert 0 <= naive["trained_parameters"] - crma["trained_parameters"] < a_rank
    assert len(result["steps"]["naive"]) == len(result["steps"]["crma"])
    assert any(s["grad_backbone"] for s in result["steps"]["crma"])


def test_the_stack_it_leaves_can_be_used(made):
    folder, result, _ = made
    assert [d.name for d in Stack.open(folder / "stack").manifest.domains] == result["domains"]
    assert result["certificate"]["holds"]


def test_report_picture_and_receipt_hold_the_same_run(made):
    folder, result, _ = made
    receipt = json.loads((folder / "report.json").read_text())
    assert receipt["methods"] == json.loads(json.dumps(result["methods"]))
    assert "<svg" in (folder / "report.svg").read_text()
    assert result["samples"][0]["question"] in (folder / "report.html").read_text().replace("&#x27;", "'")


def test_an_earlier_demo_is_replaced(made, toy_base: Path):
    folder, result, _ = made
    again = run_demo(folder / "stack", folder / "again.html", base=str(toy_base), say=lambda _: None)
    assert [again["methods"][m]["loss"] for m in ("crma", "naive")] == [
        result["methods"][m]["loss"] for m in ("crma", "naive")
    ]


def test_a_users_own_stack_of_the_same_domains_stays(tmp_path: Path, toy_base: Path):
    own = ContinualModel.create(tmp_path / "mine", base=str(toy_base))
    own.learn("law", make_world("law", entities=1).split, LearnConfig(epochs=1, rank=2, max_length=128))
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="not the demo's"):
        run_demo(tmp_path / "mine", tmp_path / "r.html", base=str(toy_base), say=lambda _: None)
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


def test_a_base_that_is_not_there_costs_no_earlier_demo(tmp_path: Path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "made-by-crma-demo.txt").touch()
    (tmp_path / "demo" / "left").touch()
    with pytest.raises(BaseModelError):
        run_demo(tmp_path / "demo", tmp_path / "r.html", base=str(tmp_path / "no-base.gguf"), say=lambda _: None)
    assert (tmp_path / "demo" / "left").exists()


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path, toy_base: Path):
    (tmp_path / "mine").mkdir()
    keep = tmp_path / "mine" / "notes.txt"
    keep.write_text("keep me")
    with pytest.raises(ConfigError, match="not the demo's"):
        run_demo(tmp_path / "mine", tmp_path / "r.html", base=str(toy_base), say=lambda _: None)
    assert keep.read_text() == "keep me"
