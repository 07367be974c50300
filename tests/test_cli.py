"""The commands as a user types them, in a process of their own, on a toy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crma.cli import app
from crma.cli.told import tell_route
from crma.types import Reply, Route


def crma(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(w) for w in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def as_json(*words: object):
    code, text = crma(*words, "--json")
    assert code == 0, text
    return json.loads(text)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "law.jsonl"
    lines = [{"prompt": f"What is term {i}?", "completion": f"Term {i} is a rule."} for i in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


FAST = ("--epochs", 1, "--rank", 4, "--max-length", 128)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, rows: Path) -> Path:
    path = tmp_path_factory.mktemp("cli") / "stack"
    found = as_json("learn", path, "law", rows, "--base", toy_base, "--directions", 4, *FAST)
    assert found["domain"] == "law"
    assert found["loss_after"] is not None
    return path


def test_status_has_the_fields_that_programs_read(stack: Path):
    found = as_json("status", stack)
    wanted = {
        "name",
        "snapshot_pinned",
        "loss_base",
        "loss_after",
        "loss_now",
        "drift_pinned_pct",
        "drift_floating_pct",
    }
    assert wanted <= set(found["domains"][0])
    assert found["snapshots"][0]["distance_to_parent"]["max"] >= found["snapshots"][0]["distance_to_parent"]["mean"] > 0
    assert found["sizes"]
    code, text = crma("status", stack)
    assert code == 0
    assert "law" in text


def test_ask_answers_and_shows_the_route(stack: Path):
    found = as_json("ask", stack, "What is term 3?", "--domain", "law", "--max-new-tokens", 4)
    assert found["route"]["domain"] == "law"
    code, text = crma("ask", stack, "What is term 3?", "--show-route", "--max-new-tokens", 4)
    assert code == 0
    assert "accepts from" in text
    assert "→ " in text
    assert (
        "chosen by the caller" in crma("ask", stack, "?", "--domain", "base", "--show-route", "--max-new-tokens", 2)[1]
    )
    with_, without = (
        as_json("ask", stack, "?", "--domain", "law", flag, "--max-new-tokens", 4)
        for flag in ("--backbone", "--no-backbone")
    )
    assert set(with_) == set(without) == {"text", "route", "shares"}
    assert with_["shares"] == {"law": 1.0}
    assert set(as_json("ask", stack, "What is term 3?", "--top-k", 2, "--max-new-tokens", 2)) == set(with_)


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (
            Route(domain="law", confidence=0.9, nearest="law"),
            "it accepts this (score 5.0, from 2.0 on), and no other does",
        ),
        (Route(domain="art", confidence=0.9, nearest="art"), "and it is the nearest of 2 that do; confidence 0.90"),
        (
            Route(domain=None, confidence=0.1, nearest="tax", abstained=True),
            "no domain takes it; tax is nearest, accepts from 9.0",
        ),
        (Route(domain="law", confidence=0.6, nearest="law", carried=True), "so the conversation goes"),
    ],
)
def test_a_route_is_explained(route: Route, said: str, capsys: pytest.CaptureFixture[str]):
    thresholds = {"law": 2.0, "art": -1.0 if route.nearest == "art" else 6.0, "tax": 9.0}
    asked = replace(
        route,
        scores=dict.fromkeys(thresholds, 5.0),
        thresholds=thresholds,
        probabilities=dict.fromkeys(thresholds, 0.3),
    )
    tell_route(Reply(text="", route=asked, shares={"law": 0.75, "art": 0.25}))
    text = " ".join(capsys.readouterr().out.split())
    assert said in text
    assert "9.0" in text
    assert "answered together: law 75%, art 25%" in text


def test_chat_ends_with_an_empty_line(stack: Path):
    result = CliRunner().invoke(app, ["chat", str(stack), "--max-new-tokens", "3"], input="Hello?\n\n")
    assert result.exit_code == 0
    assert "base> " in result.stdout or "law> " in result.stdout


def test_evaluate_verify_and_export(stack: Path, tmp_path: Path):
    found = as_json("evaluate", stack, "--matrix")
    assert found["floating"]["domains"] == ["law"]
    assert crma("evaluate", stack, "--matrix")[0] == 0
    assert as_json("verify", stack)["ok"] is True
    assert "ok" in crma("verify", stack)[1]
    assert as_json("export", stack, tmp_path / "out")["domains"]["law"]["max_logit_difference"] <= 1e-4
    assert (tmp_path / "out" / "law" / "adapter_model.safetensors").is_file()


def test_verify_exits_with_one_on_damage(stack: Path, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(stack, copy)
    next((copy / "snapshots").rglob("*.json")).write_text("{}")
    code, text = crma("verify", copy)
    assert code == 1
    assert "NOT ok" in text


def test_forget_says_what_stays(toy_base: Path, rows: Path, tmp_path: Path):
    path = tmp_path / "stack"
    as_json("learn", path, "law", rows, "--base", toy_base, "--directions", 4, *FAST)
    code, text = crma("forget", path, "law")
    assert code == 0
    assert "v0001" in text
    assert f"crma forget {path} law --rewind" in " ".join(text.split())
    assert as_json("status", path)["domains"] == []
    assert as_json("forget", path, "law", "--rewind")["rewound"] is True


def test_an_answer_is_not_broken_into_lines(stack: Path, monkeypatch: pytest.MonkeyPatch):
    from crma.continual import ContinualModel

    long = "word " * 60
    told = Reply(text=long, route=Route(domain=None, confidence=0.0), shares={})
    monkeypatch.setattr(ContinualModel, "ask", lambda *_, **__: told)
    assert crma("ask", stack, "?")[1] == long + "\n"


def test_a_report_that_could_not_be_written_is_refused_before_the_work(tmp_path: Path, rows: Path):
    nowhere = tmp_path / "none" / "r.html"
    for words in (
        ("demo", "--folder", tmp_path / "d", "--report", nowhere),
        ("data", "check", rows, "--html", nowhere),
    ):
        code, text = crma(*words, "--json")
        assert code == 1
        assert "cannot be written there" in json.loads(text)["error"]["message"]
    assert not (tmp_path / "d").exists()


def test_a_mistyped_check_repairs_nothing(tmp_path: Path, rows: Path):
    code, text = crma("data", "clean", rows, "-o", tmp_path / "clean.jsonl", "--skip", "pii_emial", "--json")
    assert code == 1
    assert "pii_emial" in json.loads(text)["error"]["message"]
    assert not (tmp_path / "clean.jsonl").exists()


def test_errors_are_messages_not_tracebacks(stack: Path, tmp_path: Path, rows: Path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\nnot json\n{"prompt": "b", "completion": ""}\n')
    code, text = crma("learn", stack, "broken", bad, "--json")
    assert code == 1
    message = json.loads(text)["error"]["message"]
    assert "line 1" in message
    assert "line 2" in message
    assert "line 3" in message
    for domain, data in (("law", tmp_path / "mistyped.jsonl"), ("médecine", rows), ("law", bad)):
        assert crma("learn", tmp_path / "new", domain, data, "--json")[0] == 1
        assert not (tmp_path / "new").exists()  # or the corrected command would meet a stack made by the wrong one
    code, text = crma("status", tmp_path / "nothing", "--json")
    assert code == 1
    assert "error" in json.loads(text)
    code, text = crma("learn", stack, "other", rows, "--frames", "light", "--json")
    assert code == 1
    assert "keeps the backbone" in json.loads(text)["error"]["message"]
    code, text = crma("learn", stack, "other", rows, "--lr", -1, "--json")
    assert code == 1
    assert "lr" in json.loads(text)["error"]["message"]


def refused(*words: object) -> str:
    code, text = crma(*words, "--json")
    assert code == 1, text
    return json.loads(text)["error"]["message"]


def test_what_pydantic_says_is_told_as_options(stack: Path, rows: Path):
    message = refused("learn", stack, "other", rows, "--lr-gate", -1, "--rank", 0)
    assert "where: --lr-gate, --rank" in message or "where: --rank, --lr-gate" in message
    assert "next step" in message
    assert "pydantic" not in message


def test_options_of_another_way_are_refused_not_ignored(stack: Path, rows: Path):
    for words, said in (
        (("law", rows, "--plan"), "--plan with --auto"),
        (("law", rows, "--least", 30), "--least with --auto or --stream"),
        (("law", rows, "--increment", 30), "--increment with --stream"),
        (("--auto", rows, "--idle", 0), "--idle with --stream"),
        (("--auto", rows, "--extend"), "--extend with DOMAIN and DATA"),
        (("--stream", rows, "--check"), "--check with DOMAIN and DATA or --auto"),
    ):
        assert said in refused("learn", stack, *words)


def test_a_first_lesson_that_cannot_begin_leaves_no_stack(tmp_path: Path, toy_base: Path, rows: Path):
    bad, one = tmp_path / "bad.jsonl", tmp_path / "one.jsonl"
    bad.write_text('{"prompt": "a"}\n')
    of_one_document = [{"prompt": f"What is {i}?", "completion": "So.", "group": "1"} for i in range(40)]
    one.write_text("".join(json.dumps(row) + "\n" for row in of_one_document))
    new = tmp_path / "new"
    for words, said in (
        (("--auto", bad), "line 1"),
        (("--stream", tmp_path), "a folder"),
        (("law", one), "train split would be empty"),
    ):
        assert said in refused("learn", new, *words, "--base", toy_base)
        assert not new.exists()
    new.write_text("a file")
    assert "got: a file" in refused("learn", new, "law", rows, "--base", toy_base)
    assert "got: a file" in refused("status", new)
    assert new.read_text() == "a file"


def test_chat_refuses_an_unknown_domain_before_the_first_question(stack: Path):
    result = CliRunner().invoke(app, ["chat", str(stack), "--domain", "medicine"], input="Hello?\n\n")
    assert result.exit_code == 1
    assert "you>" not in result.stdout


def test_a_domain_without_test_rows_does_not_keep_the_others_from_being_measured(
    tmp_path: Path, toy_base: Path, rows: Path
):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(f'{{"prompt": "What is plant {i}?", "completion": "Green."}}\n' for i in range(3)))
    stack = tmp_path / "stack"
    as_json("learn", stack, "plants", few, "--base", toy_base, "--directions", 4, *FAST)
    assert "no test rows" in refused("evaluate", stack)
    as_json("learn", stack, "law", rows, *FAST)
    found = as_json("evaluate", stack)
    for key in ("pinned", "routed", "routing_accuracy", "drift_pinned_pct", "drift_floating_pct"):
        plants, law = found[key]
        assert plants is None
        assert law is not None
    assert found["floating"]["rows"][-1][0] is None
    assert "no test rows are kept of plants" in crma("evaluate", stack)[1]


def test_the_version_is_told():
    from importlib.metadata import version

    assert crma("--version") == (0, f"crma {version('crma')}\n")


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom crma.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_benchmark_runs_reports_and_notices_a_changed_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CRMA_CACHE", str(tmp_path / "cache"))
    results, document = tmp_path / "results", tmp_path / "RESULTS.md"
    for condition in ("frozen", "naive"):
        run = ["bench", "run", "smoke", "--condition", condition, "--order", "0", "--json"]
        made = CliRunner().invoke(app, [*run, "--results", str(results), "--work", str(tmp_path / "work")])
        assert made.exit_code == 0, made.output
        assert len(json.loads(made.stdout)["written"]) == 1
    monkeypatch.chdir(tmp_path)  # no README here
    report = ["bench", "report", "--results", str(results), "--out", str(document)]
    assert CliRunner().invoke(app, report).exit_code == 0
    assert CliRunner().invoke(app, [*report, "--check"]).exit_code == 0
    headline = json.loads(CliRunner().invoke(app, [*report, "--json"]).stdout)["headline"]
    assert set(headline) >= {"far", "near"}
    table, number = "<!-- results:smoke/worlds/methods -->", "(naive) | "
    before, after = document.read_text().split(table)
    document.write_text(before + table + after.replace(number, f"{number}9", 1))
    assert CliRunner().invoke(app, [*report, "--check"]).exit_code == 1


def test_a_stack_that_has_learnt_nothing_has_nothing_to_export(tmp_path: Path, toy_base: Path):
    from crma import ContinualModel

    stack = ContinualModel.create(tmp_path / "stack", base=str(toy_base)).stack.root
    code, text = crma("export", stack, tmp_path / "out", "--json")
    assert code == 1
    assert "learnt no domain" in text
    assert not (tmp_path / "out").exists()
