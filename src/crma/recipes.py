"""Whole runs as functions; each docstring gives command, time and hardware."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from crma.bench.metrics import summarise
from crma.bench.receipt import write_receipt
from crma.continual import ContinualModel
from crma.data.domains import split_examples, split_hashes
from crma.data.render import ensure_chat_template, render
from crma.data.sources import read_examples
from crma.errors import ConfigError
from crma.model.backbone import BackboneConfig
from crma.model.base import load_base
from crma.stack.stack import Stack
from crma.train.config import LearnConfig
from crma.train.methods.naive import learn_naively
from crma.types import Example, Split

__all__ = ["Condition", "far_stream", "run_condition"]

Condition = Literal["crma", "frozen", "naive"]
Listener = Callable[[str, Mapping[str, Any]], None]

FAR = ("medical", "legal", "financial", "code", "science")


def far_stream(
    data: Path,
    *,
    base: str = "smollm2-135m",
    seed: int = 0,
    train: int = 160,
    validation: int = 40,
    test: int = 48,
    max_tokens: int = 128,
) -> dict[str, Split]:
    """The five far-apart domains, rows of at most `max_tokens` (so none is cut), split by document."""
    tokenizer = load_base(base).tokenizer
    ensure_chat_template(tokenizer)

    def fits(example: Example) -> bool:
        if len(example.prompt) + len(example.completion) > 8 * max_tokens:  # far too long in any wording
            return False
        return len(render(example, tokenizer, max_length=100 * max_tokens).input_ids) <= max_tokens

    domains = {}
    for name in FAR:
        path = data / "domains" / f"{name}.jsonl"
        rows = [e for e in read_examples(path) if fits(e)]
        domains[name] = split_examples(rows, seed=seed, validation=validation, test=test, limit=train)
    return domains


def run_condition(
    condition: Condition,
    domains: Mapping[str, Split],
    folder: Path,
    receipt: Path,
    config: LearnConfig,
    *,
    base: str = "smollm2-135m",
    backbone: BackboneConfig | None = None,
    on_event: Listener = lambda _kind, _value: None,
) -> dict[str, Any]:
    """Learn `domains` in sequence and write the receipt. About 9 minutes for five domains × 160 rows on two cores.

    crma: the default method. frozen: a LoRA a domain and no backbone. naive: one LoRA trained on.
    The same call after a kill goes on after the last domain it finished (naive starts again).
    """
    began = time.perf_counter()
    content: dict[str, Any] = {
        "condition": condition,
        "config": config.model_dump(),
        "data": {name: split_hashes(split) for name, split in domains.items()},
        "rows": {n: [len(s.train), len(s.validation), len(s.test)] for n, s in domains.items()},
    }
    if condition == "naive":
        loaded = load_base(base)
        content["base"] = {"name": base, "source": loaded.source, "weights_sha256": loaded.weights_sha256}
        adapters, matrix = learn_naively(loaded, domains, config, on_event=on_event)
        content["trained_parameters"] = sum(p.numel() for p in adapters.parameters("naive").values())
        content["matrix"] = asdict(matrix)
    elif condition in ("crma", "frozen"):
        shape = (backbone or BackboneConfig(seed=config.seed)) if condition == "crma" else None
        if Stack.exists(folder):
            model = ContinualModel.from_pretrained(folder, base=base)
        else:
            model = ContinualModel.create(folder, base=base, backbone=shape)
        done = {d.name for d in model.stack.manifest.domains}
        for name, split in domains.items():
            if name not in done:
                on_event("learnt", asdict(model.learn(name, split, config, on_event=on_event)))
        evaluation = model.evaluate()
        content["base"] = model.stack.manifest.base.model_dump()
        content["backbone"] = model.stack.manifest.backbone
        adapter = sum(p.numel() for p in model.adapters.parameters(next(iter(model.adapters.configs))).values())
        shared = sum(p.numel() for p in model.backbone.parameters()) if model.backbone else 0
        content["trained_parameters"] = adapter + shared
        content["evaluation"] = asdict(evaluation)
        content["matrix"] = asdict(evaluation.floating)
        content["status"] = model.status()
        content["ledger"] = list(model.stack.read_ledger())
        matrix = evaluation.floating
    else:
        raise ConfigError("there is no such condition", expected="crma, frozen, naive", got=condition)
    content["summary"] = asdict(summarise(matrix))
    content["seconds"] = time.perf_counter() - began
    write_receipt(receipt, content)
    return content
