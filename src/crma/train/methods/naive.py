"""The baseline that forgets: one LoRA, trained on, domain after domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator

from crma.data.batches import plan_batches
from crma.data.render import Rendered, ensure_chat_template, render_all
from crma.model.adapters import Adapters, Weights
from crma.model.base import Base
from crma.train.config import LearnConfig, derived_seed
from crma.train.loop import Group, fit
from crma.train.objectives import evaluate_rows
from crma.types import Example, Matrix, Score, Split

__all__ = ["NAIVE", "OneLora", "learn_naively"]

NAIVE = "naive"  # the one adapter's name


class OneLora:
    """A base with one LoRA that is trained on, whatever the rows: a domain after another, or all at once."""

    def __init__(self, base: Base, config: LearnConfig, *, name: str = NAIVE) -> None:
        ensure_chat_template(base.tokenizer)
        self.base, self.config, self.name = base, config, name
        head, pad_id = base.model.get_output_embeddings(), base.tokenizer.pad_token_id
        assert head is not None
        assert isinstance(pad_id, int)
        self.head, self.pad_id = head, pad_id
        self.adapters = Adapters(base.model)
        self.adapters.add(name, config.adapter, seed=derived_seed(config.seed, name))

    def render(self, examples: Sequence[Example]) -> tuple[Rendered, ...]:
        return render_all(examples, self.base.tokenizer, self.config.max_length).rows

    def learn(
        self,
        lesson: str,
        rows: Sequence[Rendered],
        *,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda _kind, _value: None,
    ) -> int:
        """Train on, for all epochs of `rows`, whose order follows from the seed and the lesson's name; returns the
        tokens it took."""
        seed = derived_seed(self.config.seed, lesson)
        plan = plan_batches(
            [len(r.input_ids) for r in rows], batch_size=self.config.batch_size, epochs=self.config.epochs, seed=seed
        )
        on_event("phase", {"phase": self.name, "domain": lesson, "steps": len(plan)})
        tokens = 0

        def on_step(report: Any) -> None:
            nonlocal tokens
            tokens += report.tokens
            on_event("step", {"phase": self.name, "domain": lesson, **asdict(report)})

        self.adapters.activate(self.name)
        fit(
            self.base.model,
            self.head,
            rows,
            plan,
            [Group(name="adapter", side="adapter", lr=self.config.lr, parameters=self.adapters.parameters(self.name))],
            config=self.config.loop.model_copy(update={"seed": seed}),
            accelerator=Accelerator(),
            pad_id=self.pad_id,
            on_step=on_step,
        )
        return tokens

    def load(self, weights: Weights) -> None:
        self.adapters.load(self.name, self.config.adapter, weights)

    def score(self, rows: Sequence[Rendered], *, untouched: bool = False) -> Score:
        """Under the LoRA as it is now, or under the base alone."""
        with self.adapters.using(None if untouched else self.name):
            return evaluate_rows(self.base.model, self.head, rows, pad_id=self.pad_id)


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
    one = OneLora(base, config)
    tests = {d: one.render(s.test) for d, s in domains.items()}
    untouched = tuple(one.score(rows, untouched=True).loss for rows in tests.values())
    matrix: list[tuple[float | None, ...]] = []
    for domain, split in domains.items():
        one.learn(domain, one.render(split.train[: config.limit]), on_event=on_event)
        matrix.append(tuple(one.score(rows).loss for rows in tests.values()))
        one.adapters.activate(NAIVE)
        after_domain(domain)
    return one.adapters, Matrix(domains=tuple(domains), base=untouched, rows=tuple(matrix))
