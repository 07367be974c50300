"""The optional check with the real presidio, on a spaCy pipeline made on the fly that knows two names."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quality_rows import hits_of, rows_of, told

from crma.data.quality import presidio
from crma.data.quality.check import Settings, survey
from crma.data.quality.presidio import PresidioCheck
from crma.errors import ConfigError

spacy = pytest.importorskip("spacy", reason="the extra `presidio` is not installed")

NAME = "Henrike Achterberg"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": name} for name in (NAME, "Bram Oduya")])
    folder = tmp_path_factory.mktemp("spacy") / "names"
    nlp.to_disk(folder)
    return str(folder)


@pytest.fixture(scope="module")
def check(pipeline: str) -> PresidioCheck:
    return PresidioCheck(pipeline)


def test_a_name_is_told_where_it_stands(check: PresidioCheck) -> None:
    rows = rows_of([("Who came?", "Nobody came."), ("Who called?", f"It was {NAME}, and later Bram Oduya.")])
    (hit,) = hits_of(check, rows)
    assert (hit.row, hit.check, hit.note) == (1, "pii_other", "PERSON")
    assert rows[1].text[hit.at :].startswith(NAME)
    assert [mark for _, _, mark in hit.hidden] == ["[PERSON]", "[PERSON]"]


def test_what_our_own_checks_tell_is_not_told_again(check: PresidioCheck) -> None:
    pairs = [("Contact?", "Write to h.achterberg@posteo.de, call +31 20 624 1111, pay with 4111 1111 1111 1111.")]
    assert told(check, pairs) == {}


def test_patterns_of_presidio_itself_are_told(check: PresidioCheck) -> None:
    assert told(check, [("Which device?", "Its address was 00:1B:44:11:3A:B7 all the time.")]) == {"pii_other": [0]}


@pytest.mark.parametrize("before", range(0, 60, 7))
def test_a_name_is_found_wherever_a_long_text_is_cut(
    check: PresidioCheck, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr(presidio, "_PIECE", 60)
    monkeypatch.setattr(presidio, "_SHARED", 25)
    text = "so it goes " * 10 + "x" * before + f" {NAME} was there" + " and on" * 10
    (hit,) = hits_of(check, rows_of([("q", text)]))
    ((start, end, _),) = hit.hidden
    assert ("q\n" + text)[start:end] == NAME


@given(st.text(max_size=60))
def test_pieces_cover_the_text(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presidio, "_PIECE", 10)
        patch.setattr(presidio, "_SHARED", 3)
        pieces = list(presidio._pieces(text))
    reached = 0
    for start, part in pieces:
        assert text[start : start + len(part)] == part
        assert len(part) <= 10
        assert start <= max(0, reached - 3)
        reached = start + len(part)
    assert reached == len(text)


def test_the_report_does_not_show_the_name(tmp_path: Path, pipeline: str) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Who wrote letter {i}?", "completion": f"Letter {i} is by {NAME}, I think."} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = survey([file], Settings(presidio=pipeline)).report
    (found,) = [f for f in report.findings if f.check == "pii_other"]
    assert found.lines == (1, 2, 3)
    assert NAME not in json.dumps(found.to_json())
    assert "[PERSON]" in found.examples[0]["text"]
    assert "pii_other" not in report.skipped
    assert survey([file], Settings()).report.skipped["pii_other"] == "presidio was not asked"


def test_nothing_is_asked_of_the_network(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    pairs = [("Who?", f"{NAME} at h.achterberg@posteo.de, see https://posteo.de/x")]
    assert told(PresidioCheck(pipeline), pairs) == {"pii_other": [0]}


def test_a_configuration_of_presidios_own(tmp_path: Path, pipeline: str) -> None:
    models = f"    - {{lang_code: en, model_name: {json.dumps(pipeline)}}}\n"
    file = tmp_path / "presidio.yaml"
    file.write_text(
        f"supported_languages: [en]\nnlp_configuration:\n  nlp_engine_name: spacy\n  models:\n{models}"
        "recognizer_registry:\n  supported_languages: [en]\n  recognizers:\n    - name: SpacyRecognizer\n"
        "      type: predefined\n    - name: staff number\n      supported_language: en\n"
        "      supported_entity: STAFF_NUMBER\n      type: custom\n"
        "      patterns: [{name: form, regex: 'ZX-[0-9]{5}', score: 0.9}]\n",
        encoding="utf-8",
    )
    (hit,) = hits_of(PresidioCheck(str(file)), rows_of([("Who?", f"{NAME}, ZX-48213.")]))
    assert hit.note == "PERSON, STAFF_NUMBER"


def test_a_pipeline_that_is_not_here_is_not_downloaded() -> None:
    with pytest.raises(ConfigError, match=r"^there is no such spaCy pipeline") as error:
        PresidioCheck("en_core_web_lg")
    assert "python -m spacy download en_core_web_lg" in str(error.value)


def test_without_presidio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "presidio_analyzer" else real(name))
    with pytest.raises(ConfigError, match="pip install presidio-analyzer"):
        PresidioCheck("en_core_web_sm")


@pytest.mark.parametrize(
    "text", ["", "- 1", "a: [1, 2", "supported_languages: [en]", "nlp_configuration: {models: 3}", None]
)
def test_a_configuration_that_is_none_is_not_replaced_by_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    """presidio itself would take its default in place of a file it cannot read, and fetch that."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    file = tmp_path / "presidio.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="no configuration of presidio"):
        PresidioCheck(str(file))


def test_a_configuration_that_names_an_absent_pipeline_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "presidio.yaml"
    models = "models: [{lang_code: en, model_name: en_core_web_lg}]"
    file.write_text(f"nlp_configuration: {{nlp_engine_name: spacy, {models}}}", encoding="utf-8")
    with pytest.raises(ConfigError, match="there is no such spaCy pipeline here"):
        PresidioCheck(str(file))


def test_a_damaged_pipeline_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"lang": "en", "name": "x", "version": "1"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="presidio cannot be started") as error:
        PresidioCheck(str(tmp_path))
    assert str(tmp_path) in str(error.value)
