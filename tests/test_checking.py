"""The data check with a base and a stack, and its commands: what a user types, on a toy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from quality_rows import hits_of, prose, rows_of
from typer.testing import CliRunner

from crma import ContinualModel, LearnConfig
from crma.checking import check_data, prepare, refuse_failing
from crma.cli import app
from crma.errors import DataError
from crma.model.backbone import BackboneConfig
from crma.model.base import load_base
from crma.probe import RowScores, TrainingCost, row_scores
from crma.types import Example

CONFIG = LearnConfig(epochs=1, rank=4, batch_size=8, max_length=256)
SECRET = "AKIA" + "IOSFODNN7" + "QWERTYU"


def crma(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs), encoding="utf-8")
    return path


def law(count: int, first: int = 0) -> list[tuple[str, str]]:
    return [
        (f"What is term {i} of the code? {prose(i, 10)}", f"Term {i} says: {prose(i + 500, 10)}")
        for i in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, toy_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("checking")
    model = ContinualModel.create(folder / "stack", base=str(toy_base), backbone=BackboneConfig(directions=4))
    model.learn("law", write(folder / "law.jsonl", law(60)), CONFIG)
    return folder / "stack"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", law(30, first=1000))


def test_lengths_and_the_time_of_training_are_measured(sound: Path, toy_base: Path) -> None:
    report = check_data(sound, base=str(toy_base), config=CONFIG)
    training = report.facts["training"]
    assert training["rows"] == 30
    assert training["steps"] == 4
    assert training["seconds"] > 0
    assert training["peak_bytes"] > 10**6
    tokens = report.facts["tokens"]
    # The toy's tokens are bytes: both texts of each row, and what its template adds.
    texts = sum(len(p.encode()) + len(c.encode()) for p, c in law(30, first=1000))
    template = (
        len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<|im_end|>")
        - len("<|im_start|><|im_end|><|im_start|><|im_end|>")
        + 4
    )
    assert tokens["total"] == texts + 30 * template
    assert report.facts["lengths"]["unit"] == "tokens"
    assert report.verdict == "pass"


def test_held_out_rows_take_no_time_to_train(sound: Path, tmp_path: Path, toy_base: Path) -> None:
    held = write(tmp_path / "test.jsonl", law(20, first=3000))
    report = check_data([sound, held], base=str(toy_base), config=CONFIG)
    assert report.facts["training"]["rows"] == 30
    assert report.rows == 50


def test_rows_longer_than_training_takes_are_told_exactly(tmp_path: Path, toy_base: Path) -> None:
    pairs = [("q" * n, "a") for n in range(20, 60)]
    report = check_data(
        write(tmp_path / "rows.jsonl", pairs), base=str(toy_base), config=LearnConfig(max_length=64), use_model=False
    )
    from crma.data.render import render
    from crma.model.base import load_tokenizer

    tokenizer = load_tokenizer(str(toy_base))
    cut = [i for i, (p, c) in enumerate(pairs, start=1) if render(Example.of(p, c), tokenizer, max_length=64).cut]
    found = next(f for f in report.findings if f.check == "too_long")
    assert list(found.lines) == cut != []


def test_the_probe_leaves_the_numbers_as_they_were(stack: Path) -> None:
    model = ContinualModel.from_pretrained(stack)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    cost = TrainingCost(model.base, CONFIG, model)
    hits_of(cost, rows_of(law(20)))
    assert cost.facts()["training"]["tokens_per_second"] > 0
    after = model.model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_rows_of_the_stack_leak_and_its_domain_is_recognised(stack: Path, tmp_path: Path) -> None:
    kept = ContinualModel.from_pretrained(stack).kept_examples("law", "test")[0]
    file = write(tmp_path / "rows.jsonl", [*law(20, first=900), (kept.prompt, kept.completion)])
    report = check_data(file, stack=stack)
    assert [(f.check, f.lines) for f in report.findings if f.severity == "error"] == [("leak_stack", (21,))]
    assert set(report.facts["overlap"]) <= {"law"}
    assert report.skipped.keys() >= {"hard", "easy", "leak_benchmark"}
    # While `law` itself learns on, the rows that judge it are left out by learning.
    assert prepare(file, stack=stack, extends="law").report.verdict != "fail"


def test_without_the_model_nothing_of_it_is_told(stack: Path, sound: Path) -> None:
    report = check_data(sound, stack=stack, use_model=False)
    assert "training" not in report.facts
    assert report.skipped["overlap"] == report.skipped["training"] == "the model was not loaded"


def test_scores_are_the_losses_of_the_answers(toy_base: Path) -> None:
    base = load_base(str(toy_base))
    drawn = list(enumerate(Example.of(p, c) for p, c in law(4)))
    numbers, given, strange = row_scores(base, None, drawn, 256)
    assert numbers == [0, 1, 2, 3]
    turned = [(i, Example.of(drawn[(i + 1) % 4][1].prompt, row.completion)) for i, row in drawn]
    _, again, _ = row_scores(base, None, turned, 256)
    assert strange == pytest.approx(again, rel=1e-4)
    assert (given != strange).all()


def test_hard_rows_are_those_whose_answer_gains_nothing(toy_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    found = ([3, 5, 7], np.array([2.0, 2.0, 0.01]), np.array([3.0, 1.9, 4.0]))
    monkeypatch.setattr("crma.probe.row_scores", lambda *_: found)
    scores = RowScores(load_base(str(toy_base)), None, rows=3)
    assert [(hit.row, hit.check) for hit in scores.finish(None)] == [(5, "hard"), (7, "easy")]  # pyright: ignore
    assert scores.facts()["scores"]["rows"] == 3


def test_the_gate_names_every_line(tmp_path: Path, toy_base: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*law(3), ("a key", SECRET), ("another", SECRET + " again")])
    with pytest.raises(DataError, match="not ready") as caught:
        refuse_failing(file, base=str(toy_base))
    assert caught.value.faults == ((4, "keys and passwords"), (5, "keys and passwords"))
    assert SECRET not in str(caught.value)
    assert f"crma data clean {file} -o OUT --base {toy_base} repairs" in str(caught.value)  # with the same settings
    assert refuse_failing(write(tmp_path / "sound.jsonl", law(3)), base=str(toy_base)).rows == 3


# --- commands ---


def as_json(*words: object, code: int = 0) -> dict[str, Any]:
    found, text = crma(*words, "--json")
    assert found == code, text
    return json.loads(text)


def test_check_exits_by_what_it_found(sound: Path, tmp_path: Path, toy_base: Path) -> None:
    fast = ("--base", toy_base, "--no-model")
    assert as_json("data", "check", sound, *fast)["verdict"] == "pass"
    bad = write(tmp_path / "bad.jsonl", [("q", SECRET)])
    assert as_json("data", "check", bad, *fast, code=1)["verdict"] == "fail"
    assert as_json("data", "check", bad, *fast, "--fail-on", "never")["verdict"] == "fail"
    doubtful = write(tmp_path / "doubtful.jsonl", [("q", "N/A")])
    assert as_json("data", "check", doubtful, *fast)["verdict"] == "warn"
    assert as_json("data", "check", doubtful, *fast, "--fail-on", "warning", code=1)["verdict"] == "warn"
    assert as_json("data", "check", doubtful, *fast, "--skip", "empty_answer")["verdict"] == "pass"


def test_check_tells_a_person_and_writes_a_page(tmp_path: Path, toy_base: Path) -> None:
    bad = write(tmp_path / "bad[red].jsonl", [("[bold]q[/bold]", f"\x1b[31m {SECRET}"), *law(4)])
    code, text = crma("data", "check", bad, "--base", toy_base, "--html", tmp_path / "page.html")
    assert code == 1
    assert "not ready to train on" in text
    assert "training here: about" in text
    assert SECRET not in text
    assert "\x1b[31m" not in text
    assert "[bold]q[/bold]" in text
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in page
    assert SECRET not in page


def test_a_page_that_cannot_be_written_is_told(sound: Path, tmp_path: Path, toy_base: Path) -> None:
    missing = ("--html", tmp_path / "no" / "page.html")
    told = as_json("data", "check", sound, "--base", toy_base, "--no-model", *missing, code=1)
    assert "cannot be written" in told["error"]["message"]


def test_clean_and_undo_as_commands(tmp_path: Path, toy_base: Path) -> None:
    rows = [*law(3), law(1)[0], ("mail", "Write to jane.doe@hospital.org now.")]
    file = write(tmp_path / "rows.jsonl", rows)
    done = as_json("data", "clean", file, "-o", tmp_path / "clean.jsonl", "--base", toy_base)
    assert done["by_check"] == {"duplicate": 1, "pii_email": 1}
    assert (done["kept"], done["edited"], done["dropped"]) == (3, 1, 1)
    back = as_json("data", "undo", tmp_path / "clean.jsonl", "-o", tmp_path / "back.jsonl")
    assert back["taken_back"] == 2
    assert (tmp_path / "back.jsonl").read_bytes() == file.read_bytes()
    kept = as_json("data", "clean", file, "-o", tmp_path / "c2.jsonl", "--base", toy_base, "--skip", "pii_email")
    assert kept["by_check"] == {"duplicate": 1}
    held = write(tmp_path / "anything.jsonl", law(1, first=2))
    only = ("--only", "leak_split", "--held-out", held)
    assert as_json("data", "clean", file, "-o", tmp_path / "c3.jsonl", "--base", toy_base, *only)["by_check"] == {
        "leak_split": 1
    }
    message = as_json("data", "clean", file, "-o", file, "--base", toy_base, code=1)["error"]["message"]
    assert "over itself" in message


def test_learn_refuses_rows_that_fail_and_makes_no_stack(tmp_path: Path, toy_base: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [*law(20), ("a key", SECRET)])
    told = as_json("learn", tmp_path / "stack", "law", bad, "--base", toy_base, "--check", code=1)["error"]["message"]
    assert "not ready to be learnt" in told
    assert "line 21: keys and passwords" in told
    assert not (tmp_path / "stack").exists()


def test_lines_of_progress_for_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import crma.cli.data as commands

    now = [0.0]
    monkeypatch.setattr(commands.time, "monotonic", lambda: now[0])
    told: list[str] = []
    monkeypatch.setattr(commands.err, "print", lambda text, **_: told.append(text))
    show = commands._lines_of_progress()
    for seconds, done in ((10, 10), (40, 40), (50, 50), (100, 100)):
        now[0] = seconds
        show(done, 100, 7 * done)
    assert told == ["40% read, 280 rows, about 60 s more"]


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import importlib.util

    import crma.data.quality as package
    from crma.errors import ConfigError

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ftfy" else real(name, *a))
    with pytest.raises(ConfigError, match=r"pip install -e '.\[quality\]'"):
        importlib.reload(package)
