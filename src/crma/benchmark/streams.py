"""Streams of domains: which rows, in which order. None of them is kept in this project; they come from CRMA_SHARED.

far: five domains with little to share. near: sub-domains of one vertical. A stream's domain names are for people: they
never enter a prompt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from crma.data.domains import split_examples
from crma.data.render import render
from crma.data.sources import read_examples
from crma.data.worlds import WORLDS, make_world
from crma.errors import DataError
from crma.types import Example, Split

__all__ = ["STREAMS", "Sizes", "Stream", "load_stream", "shared_data"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """`orders[k]` is the k-th order in which its domains are learnt."""

    name: str
    kind: Literal["far", "near"]
    orders: tuple[tuple[str, ...], ...]
    # domain -> (file under the data folder, value of its rows' `subdomain`, or None for the whole file)
    sources: Mapping[str, tuple[str, str | None]]

    @property
    def domains(self) -> tuple[str, ...]:
        return self.orders[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Rows a domain. Rows of more than `max_tokens` are left out, so that none is cut."""

    train: int
    validation: int
    test: int
    max_tokens: int


def _vertical(name: str, file: str, *orders: str) -> Stream:
    split = tuple(tuple(order.split()) for order in orders)
    return Stream(
        name=name,
        kind="near",
        orders=split,
        sources={domain: (f"subdomains/{file}.jsonl", domain) for domain in split[0]},
    )


_FAR = (
    ("medical", "legal", "financial", "code", "science"),
    ("science", "code", "financial", "legal", "medical"),
    ("financial", "science", "medical", "code", "legal"),
)
_WORLD = ("medicine", "law", "finance")
# Facts a domain = entities × attributes; each is taught in four wordings and asked in two others, one a split.
_ATTRIBUTES, _WORDINGS = 2, 4

STREAMS: Mapping[str, Stream] = {
    stream.name: stream
    for stream in (
        Stream(
            name="far",
            kind="far",
            orders=_FAR,
            sources={name: (f"domains/{name}.jsonl", None) for name in _FAR[0]},
        ),
        _vertical(
            "near-medical",
            "medical",
            "diabetes_digestive_kidney rare_diseases genetics cancer neurology general_health heart_lung_blood"
            " senior_health",
            "senior_health heart_lung_blood general_health neurology cancer genetics rare_diseases"
            " diabetes_digestive_kidney",
            "genetics senior_health general_health diabetes_digestive_kidney neurology rare_diseases heart_lung_blood"
            " cancer",
        ),
        # Invented facts, made on the fly: what the smoke test runs on, with no file at all.
        Stream(name="worlds", kind="far", orders=(_WORLD, _WORLD[::-1]), sources={}),
        # 100 questions over five domains: the paper's inference ablation.
        Stream(name="worlds-five", kind="far", orders=(WORLDS, WORLDS[::-1]), sources={}),
    )
}


def shared_data() -> Path:
    """The folder of the data sets: CRMA_SHARED's `data`, by default `../shared/data`.

    Raises:
        DataError: it is not there.
    """
    folder = Path(os.environ.get("CRMA_SHARED", "../shared")) / "data"
    if not folder.is_dir():
        raise DataError(
            "the data of the benchmark is not here",
            where=str(folder),
            expected="the folder with domains/ and subdomains/",
            next_step="set CRMA_SHARED to the folder that holds data/",
        )
    return folder


def load_stream(
    stream: Stream, sizes: Sizes, tokenizer: PreTrainedTokenizerBase, *, seed: int, data: Path | None = None
) -> dict[str, Split]:
    """Each domain's rows, split by document with `seed`; the same whatever the order they are then learnt in."""
    if not stream.sources:
        worlds = [
            make_world(
                name,
                entities=max(1, sizes.train // (_ATTRIBUTES * _WORDINGS)),
                attributes=_ATTRIBUTES,
                seed=seed,
                train_paraphrases=_WORDINGS,
            )
            for name in stream.domains
        ]
        return {world.name: world.split for world in worlds}
    data = data or shared_data()
    domains = {}
    for domain, (file, part) in stream.sources.items():
        rows = [e for e in _rows(data / file, part) if _fits(e, tokenizer, sizes.max_tokens)]
        domains[domain] = split_examples(
            rows, seed=seed, validation=sizes.validation, test=sizes.test, limit=sizes.train
        )
        short = sizes.train - len(domains[domain].train)
        if short > 0:
            raise DataError(
                "this domain has too few rows of this length",
                where=domain,
                expected=f"{sizes.train} training rows of at most {sizes.max_tokens} tokens",
                got=sizes.train - short,
                next_step="lower the sizes of the recipe",
            )
    return domains


def _rows(file: Path, part: str | None) -> Sequence[Example]:
    examples = read_examples(file)
    if part is None:
        return examples
    with file.open(encoding="utf-8") as stream:
        parts = [json.loads(line)["subdomain"] for line in stream if line.strip()]
    return [e for e, p in zip(examples, parts, strict=True) if p == part]


def _fits(example: Example, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> bool:
    if len(example.prompt) + len(example.completion) > 8 * max_tokens:  # far too long in any wording
        return False
    return len(render(example, tokenizer, max_length=100 * max_tokens).input_ids) <= max_tokens
