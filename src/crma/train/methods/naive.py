"""The baseline that forgets: one LoRA, trained on, domain after domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator

from crma.data.batches import plan_batches
from crma.data.render import Rendered, ensure_chat_template, render_all
from crma.model.adapters import Adapters
from crma.model.base import Base
from crma.train.config import LearnConfig, derived_seed
from crma.train.loop import Group, fit
from crma.train.objectives import evaluate_rows
from crma.types import Matrix, Split

__all__ = ["NAIVE", "learn_naively"]

NAIVE = "naive"  # the one adapter's name


def learn_naively(
    base: Base,
    domains: Mapping[str, Split],
    config: LearnConfig,
    *,
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda _kind, _value: None,
    after_domain: Callable[[str], None] = lambda _domain: None,
) -> tuple[Adapters, Matrix]:
    """Train one LoRA on each domain in turn; the same rows, order of rows and steps as the other methods get.

    Returns:
        The adapter as it is at the end, active in `base.model`, and the full T × T matrix of test losses: one model
        answers for every domain, so the part above the diagonal is defined too.
    """
    ensure_chat_template(base.tokenizer)
    head = base.model.get_output_embeddings()
    assert head is not None
    pad_id = base.tokenizer.pad_token_id
    assert isinstance(pad_id, int)
    adapters = Adapters(base.model)
    tests = {d: render_all(s.test, base.tokenizer, config.max_length).rows for d, s in domains.items()}

    def measure(rows: Sequence[Rendered]) -> float:
        return evaluate_rows(base.model, head, rows, pad_id=pad_id).loss

    untouched = tuple(measure(tests[d]) for d in domains)
    adapters.add(NAIVE, config.adapter, seed=derived_seed(config.seed, NAIVE))
    matrix: list[tuple[float | None, ...]] = []
    for domain, split in domains.items():
        adapters.activate(NAIVE)
        rows = render_all(split.train[: config.limit], base.tokenizer, config.max_length).rows
        plan = plan_batches(
            [len(r.input_ids) for r in rows],
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=derived_seed(config.seed, domain),
        )
        on_event("phase", {"phase": NAIVE, "domain": domain, "steps": len(plan)})
        fit(
            base.model,
            head,
            rows,
            plan,
            [Group(name="adapter", side="adapter", lr=config.lr, parameters=adapters.parameters(NAIVE))],
            config=config.loop,
            accelerator=Accelerator(),
            pad_id=pad_id,
            on_step=lambda r, domain=domain: on_event("step", {"phase": NAIVE, "domain": domain, **asdict(r)}),
        )
        matrix.append(tuple(measure(tests[d]) for d in domains))
        after_domain(domain)
    return adapters, Matrix(domains=tuple(domains), base=untouched, rows=tuple(matrix))
