"""Names, addresses and whatever else presidio takes for personal data: an option, since a model has to guess them.

Our own checks tell what has a form (`personal`); a name has none. presidio-analyzer (Microsoft) asks a spaCy pipeline
for names and adds the patterns of many countries; what our checks tell already is not told again.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crma.data.quality.personal import find_personal
from crma.data.quality.row import Hit, Row, RowCheck
from crma.errors import ConfigError

__all__ = ["PresidioCheck"]

CHECK = "pii_other"
_SURE = 0.5  # presidio's scores: patterns without a check digit or a word beside them have less
# What our own checks look for, and what does not name a person.
_LEFT_OUT = frozenset(
    {"EMAIL", "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE"}
    | {"URL", "DATE_TIME", "ORGANIZATION", "UUID", "ID"}
)
_PIECE = 50_000  # characters; spaCy refuses texts of a million, and its memory grows with a text's length
_SHARED = 200  # characters: longer than any name
_BATCH = 64


class PresidioCheck(RowCheck):
    """`pii_other`. Rows of other languages than the pipeline's are read as if they were in its own.

    Args:
        model: the name or folder of a spaCy pipeline, or presidio's own configuration (a YAML file).

    Raises:
        ConfigError: presidio is not installed, or there is no such pipeline.
    """

    def __init__(self, model: str) -> None:
        engine, self._language = _load(model)
        from presidio_analyzer import BatchAnalyzerEngine

        self._entities = sorted(set(engine.get_supported_entities(self._language)) - _LEFT_OUT)
        self._engine = BatchAnalyzerEngine(engine)

    def see(self, rows: Sequence[Row]) -> Iterable[Hit]:
        pieces = [(row, start, text) for row in rows for start, text in _pieces(row.text)]
        found = self._engine.analyze_iterator(
            [text for _, _, text in pieces],
            self._language,
            batch_size=_BATCH,
            entities=self._entities,
            score_threshold=_SURE,
        )
        spans: dict[int, list[tuple[int, int, str]]] = {}
        for (row, start, _), results in zip(pieces, found, strict=True):
            spans.setdefault(row.number, []).extend((start + r.start, start + r.end, r.entity_type) for r in results)
        for row in rows:
            if apart := _apart(spans.get(row.number, ()), row.text):
                kinds = ", ".join(dict.fromkeys(kind for _, _, kind in apart))
                hidden = tuple((start, end, f"[{kind}]") for start, end, kind in apart)
                yield Hit(row.number, CHECK, kinds, apart[0][0], hidden)


def _load(model: str) -> tuple[Any, str]:
    """presidio's AnalyzerEngine and the language it is for. No spaCy pipeline is downloaded."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise ConfigError(
            "presidio is not installed",
            expected="presidio-analyzer",
            next_step="pip install presidio-analyzer",
        )
    from presidio_analyzer import AnalyzerEngine, AnalyzerEngineProvider
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it warns of each recognizer of another language
    path = Path(model)
    if path.suffix.lower() in {".yml", ".yaml"}:
        for name in _pipelines_of(path):
            _language_of(name)
        with _started(model):
            engine = AnalyzerEngineProvider(analyzer_engine_conf_file=path).create_engine()
            return engine, engine.supported_languages[0]
    language = _language_of(model)
    models = [{"lang_code": language, "model_name": model}]
    with _started(model):
        provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
        return AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=[language]), language


@contextmanager
def _started(model: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "presidio cannot be started with this",
            where=model,
            got=str(error),
            next_step="try it with presidio alone: its documentation has the form of a configuration",
        ) from error


def _pipelines_of(path: Path) -> list[str]:
    """The spaCy pipelines that a configuration names. Read here first: of a file that it cannot read presidio makes its
    default, and downloads that."""
    import yaml

    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        engine = told["nlp_configuration"]
        names = [model["model_name"] for model in engine["models"]]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            "this is no configuration of presidio",
            where=path,
            expected="YAML with nlp_configuration: {nlp_engine_name, models: [{lang_code, model_name}]}",
            got=repr(error),
            next_step="name such a file, or an installed spaCy pipeline",
        ) from error
    spacy = [name["spacy"] if isinstance(name, dict) else name for name in names]
    return spacy if engine.get("nlp_engine_name", "spacy") in {"spacy", "transformers"} else []


def _language_of(model: str) -> str:
    """Of a pipeline that is installed or lies in a folder: presidio would download any other, through pip."""
    from spacy.util import get_package_path, is_package, load_meta

    installed = is_package(model)
    if not installed and not (Path(model) / "meta.json").is_file():
        raise ConfigError(
            "there is no such spaCy pipeline here",
            expected="the name of one that is installed, its folder, or a YAML file for presidio",
            got=model,
            next_step=f"python -m spacy download {model}",
        )
    folder = get_package_path(model) if installed else Path(model)
    metas = [folder / "meta.json", *sorted(folder.glob("*/meta.json"))]
    with _started(model):
        return str(load_meta(next(meta for meta in metas if meta.is_file()))["lang"])


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """A text in parts that are not too long, each with where it starts. They share some of it: whatever a cut goes
    through is whole in the next one."""
    for start in range(0, max(1, len(text) - _SHARED), _PIECE - _SHARED):
        yield start, text[start : start + _PIECE]


def _apart(spans: Iterable[tuple[int, int, str]], text: str) -> list[tuple[int, int, str]]:
    """Those that overlap nothing our own checks tell nor one another (the longer stays), in order."""
    taken = [(span.start, span.end) for span in find_personal(text)]
    apart: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(spans, key=lambda span: (span[0] - span[1], span)):
        if all(end <= a or start >= b for a, b in taken):
            taken.append((start, end))
            apart.append((start, end, kind))
    return sorted(apart)
