"""ContinualModel: teach one domain after another on a frozen base, answer, measure, forget. The public face."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
import torch

from crma.audit import audit
from crma.bench.metrics import drift_pct
from crma.data.render import Rendered, end_of_turn_ids, render_all, render_prompt
from crma.errors import ConfigError, DataError
from crma.export import export_domains
from crma.extending import Extended, Extending, check_extendable
from crma.forgetting import Forgotten, forget_domain
from crma.generate.engine import generate
from crma.learning import Data, Learning, Learnt
from crma.route.blending import shares_of
from crma.route.conversation import is_settled, route_conversation
from crma.served import ServedStack
from crma.status import status_of
from crma.train.config import LearnConfig
from crma.train.processes import on_main
from crma.training import Listener
from crma.types import Example, Matrix, Message, Reply, Role, Route, Score, check_domain_name

__all__ = ["ContinualModel", "Evaluation", "Forgotten"]

_TURNS = 16  # of a conversation, the last so many of the user's are looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Test losses: `floating` is R[t][i] with adapter i under the backbone after domain t, `pinned` as served."""

    floating: Matrix
    pinned: tuple[float | None, ...]  # None, here and below: the domain keeps no test rows
    routed: tuple[float | None, ...]  # the router picks the adapter, row by row
    routing_accuracy: tuple[float | None, ...]
    drift_pinned_pct: tuple[float | None, ...]
    drift_floating_pct: tuple[float | None, ...]


class ContinualModel(ServedStack):
    """A stack on disk with its base in memory. `create` or `from_pretrained` one."""

    def learn(
        self, domain: str, data: Data, config: LearnConfig | None = None, *, on_event: Listener = lambda _k, _v: None
    ) -> Learnt:
        """Learn `domain` from `data` and commit it to the stack; the same call after a kill goes on where it stopped.

        Args:
            data: a file or folder that `read_examples` takes, examples to split, or a Split to take as it is.
            on_event: told ("step", the line of metrics.jsonl), ("phase", …), ("note", …), for a live view.

        Raises:
            DataError, ConfigError, StackLockedError, TrainingDivergedError: the stack is as it was.
        """
        learning = Learning(self, check_domain_name(domain), config or LearnConfig(), on_event)
        with self._changing(domain):
            return learning.run(data)

    def extend(
        self, domain: str, data: Data, config: LearnConfig | None = None, *, on_event: Listener = lambda _k, _v: None
    ) -> Extended:
        """Let a domain learn on from more rows of its subject; what it can already do is kept, or nothing is taken.

        The rows it was judged by judge again, together with new ones; no other domain changes. Rows are split as the
        domain's own were. `config` None takes the domain's own settings.

        Raises:
            UnknownDomainError, ConfigError, DataError, StackLockedError, TrainingDivergedError: the stack is as it was.
        """
        own = check_extendable(self.stack.manifest.domain(domain), config)
        extending = Extending(self, domain, own, on_event)
        with self._changing(domain):
            return extending.run(data)

    @contextmanager
    def _changing(self, domain: str) -> Iterator[None]:
        try:
            with ExitStack() as held:

                def lock() -> None:
                    held.enter_context(self.stack.lock())

                # Under the lock no process can see the stack change; where there is none to be had, all are told.
                on_main(self.accelerator, lock)
                yield
        except BaseException:
            self.adapters.remove(domain)  # half learnt: it must never answer
            raise

    def route(self, texts: Sequence[str]) -> list[Route]:
        """Which domain each text belongs to, or none; nothing is generated."""
        _refuse_one_string(texts)
        router, nowhere = self.router(), Route(domain=None, confidence=0.0, abstained=True)
        routes = [nowhere] * len(texts)
        asked = [i for i, text in enumerate(texts) if text.strip()] if router is not None else []
        if router is None or not asked:
            return routes
        features = self.features([texts[i] for i in asked])
        sound = np.isfinite(features).all(axis=1)  # a base in float16 may overflow: that query alone goes to the base
        for i, route in zip(np.array(asked)[sound], router.route(features[sound]), strict=True):
            routes[i] = route
        return routes

    def route_conversations(self, conversations: Sequence[Sequence[Message]]) -> list[Route]:
        """Which domain the last turn of each conversation belongs to, in the light of the user's turns before it."""
        turns = [[m.content for m in c if m.role == "user"][-_TURNS:] or [""] for c in conversations]
        routes = self.route([texts[-1] for texts in turns])
        # Most turns say by themselves where they belong: only for the others the earlier ones are read (again).
        doubtful = [i for i, route in enumerate(routes) if len(turns[i]) > 1 and not is_settled(route)]
        earlier = iter(self.route([text for i in doubtful for text in turns[i][:-1]]))
        for i in doubtful:
            lengths = [len(self.tokenizer(t, add_special_tokens=False).input_ids) for t in turns[i]]
            routes[i] = route_conversation([*(next(earlier) for _ in turns[i][:-1]), routes[i]], lengths)
        return routes

    def ask(
        self,
        text: str | Sequence[Message | Mapping[str, str]],
        *,
        domain: str | None = None,
        max_new_tokens: int = 128,
        use_backbone: bool = True,
        top_k: int = 1,
    ) -> Reply:
        """Answer a question, or go on with a conversation (messages, or {"role": …, "content": …} as OpenAI has them).

        `domain` overrides the router; "base" asks the base. `use_backbone` False answers without the backbone, where a
        domain does not stand alone. `top_k` above 1: where several domains accept the query, the likeliest so many
        answer it together, each with its probability (see `serving_blend`).
        """
        return self.ask_many(
            [text], domain=domain, max_new_tokens=max_new_tokens, use_backbone=use_backbone, top_k=top_k
        )[0]

    def ask_many(
        self,
        texts: Sequence[str | Sequence[Message | Mapping[str, str]]],
        *,
        domain: str | None = None,
        max_new_tokens: int = 128,
        use_backbone: bool = True,
        top_k: int = 1,
    ) -> list[Reply]:
        """Answer several, those of one route together.

        Raises:
            ConfigError: `top_k` below 1, or above 1 without the backbone: what is blended has it folded in;
                `max_new_tokens` below 1.
        """
        _refuse_one_string(texts)
        if top_k < 1 or (top_k > 1 and not use_backbone):
            raise ConfigError(
                "these domains cannot be blended",
                expected="top_k of 1 or more; of 1 where the backbone is off",
                got=f"top_k={top_k}, use_backbone={use_backbone}",
                next_step="leave use_backbone (`--no-backbone`) or top_k (`--top-k`) as it is by default",
            )
        if max_new_tokens < 1:
            raise ConfigError("an answer needs room", expected="max_new_tokens of 1 or more", got=max_new_tokens)
        conversations = [_conversation(t) for t in texts]
        if domain is not None:
            chosen = None if domain == "base" else self.stack.manifest.domain(domain).name
            routes = [Route(domain=chosen, confidence=1.0, nearest=chosen) for _ in texts]
        else:
            routes = self.route_conversations(conversations)
        replies: list[Reply | None] = [None] * len(texts)
        served_by = [tuple(shares_of(r, top_k).items()) for r in routes]
        for shares in dict.fromkeys(served_by):
            indices = [i for i, by in enumerate(served_by) if by == shares]
            prompts = [render_prompt(conversations[i], self.tokenizer) for i in indices]
            with self.serving_blend(dict(shares), use_backbone=use_backbone):
                answers = generate(
                    self.base.model,
                    prompts,
                    stop_ids=end_of_turn_ids(self.tokenizer),
                    pad_id=self.pad_id,
                    max_new_tokens=max_new_tokens,
                )
            for index, ids in zip(indices, answers, strict=True):
                answer = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
                replies[index] = Reply(text=answer, route=routes[index], shares=dict(shares))
        return [r for r in replies if r is not None]

    # --- measuring ---------------------------------------------------------------------------------------------

    def evaluate(self) -> Evaluation:
        """Every adapter under the newest backbone, as served, and as routed, on the kept test rows, computed anew.

        The matrix's earlier rows are what was measured on their day (the ledger has it): LoRAs may have been fitted to
        a moved backbone since. Where there is no newest backbone (none at all, or all was rewound), floating is pinned.

        A domain that keeps no test rows has None in its place.

        Raises:
            DataError: no domain keeps any.
        """
        records = self.stack.manifest.domains
        tests = {r.name: self.kept(r.name, "test") for r in records}
        if records and not any(tests.values()):
            raise DataError(
                "these domains keep no test rows",
                where=", ".join(tests),
                next_step="learn them with keep_rows and enough rows for a test split, or read the losses of that day: "
                "`crma status`",
            )
        base: list[float | None] = []
        pinned: list[float | None] = []
        routed: list[float | None] = []
        accuracy: list[float | None] = []
        for name, rows in tests.items():
            if not rows:
                for measured in (base, pinned, routed, accuracy):
                    measured.append(None)
                continue
            with self.untouched():
                base.append(self.score_rows(rows).loss)
            with self.serving(name):
                own = self.score_rows(rows)
            pinned.append(own.loss)
            routes = self.route_conversations([e.messages for e in self.kept_examples(name, "test")])
            routed.append(self._routed_loss(name, rows, own, routes))
            accuracy.append(sum(r.domain == name for r in routes) / len(routes))
        days = {e["domain"]: e["test_loss_floating"] for e in self.stack.read_ledger() if e["kind"] == "learn"}
        floating = []
        for t, later in enumerate(records[:-1]):
            row: list[float | None] = [days[later.name].get(r.name) for r in records[: t + 1]]
            floating.append((*row, *[None] * (len(records) - t - 1)))
        now: list[float | None] = []
        for record in records:
            if not tests[record.name]:
                now.append(None)
                continue
            with self.serving(record.name, snapshot=self.stack.manifest.head or record.snapshot_pinned):
                now.append(self.score_rows(tests[record.name]).loss)
        floating += [tuple(now)] if records else []
        # Of its own day, as `status` has it; the diagonal is the same but for the last domain, which is measured now.
        after = [r.loss_after or floating[i][i] for i, r in enumerate(records)]
        last = floating[-1] if floating else ()
        return Evaluation(
            floating=Matrix(domains=tuple(r.name for r in records), base=tuple(base), rows=tuple(floating)),
            pinned=tuple(pinned),
            routed=tuple(routed),
            routing_accuracy=tuple(accuracy),
            drift_pinned_pct=tuple(_drift(a, p) for a, p in zip(after, pinned, strict=True)),
            drift_floating_pct=tuple(_drift(a, f) for a, f in zip(after, last, strict=True)),
        )

    def _routed_loss(self, own_name: str, rows: Sequence[Rendered], own: Score, routes: Sequence[Route]) -> float:
        """Each row's loss under the adapter the router picked for it, over all supervised tokens."""
        tokens = [sum(r.supervised[1:]) for r in rows]
        losses = list(own.losses)
        for name in {r.domain for r in routes} - {own_name}:
            strays = [i for i, r in enumerate(routes) if r.domain == name]
            with self.serving(name):
                scored = self.score_rows([rows[i] for i in strays])
            for index, loss in zip(strays, scored.losses, strict=True):
                losses[index] = loss
        return sum(loss * n for loss, n in zip(losses, tokens, strict=True)) / sum(tokens)

    def score(self, examples: Sequence[Example], *, domain: str | None, max_length: int = 512) -> Score:
        """The loss of `examples` as `domain` is served, or of the untouched base for None."""
        rows = render_all(examples, self.tokenizer, max_length).rows
        with self.serving(domain):
            return self.score_rows(rows)

    def status(self) -> dict[str, Any]:
        """The stack in numbers, for a person or a program; measured when the last domain was committed."""
        return status_of(self.stack)

    def verify(self) -> dict[str, Any]:
        """Check files, ledger and the bounds of every site of every snapshot anew; see `crma.audit`."""
        return audit(self)

    def export(self, path: str | os.PathLike[str], domains: Sequence[str] | None = None) -> dict[str, Any]:
        """Each domain folded with its pinned backbone into one PEFT LoRA; returns the parity report.

        Where this model is held in another dtype, the export opens the stack once more in float32 to be checked.
        """
        if next(self.model.parameters()).dtype == torch.float32:
            return export_domains(self, path, domains)
        exact = ServedStack.from_pretrained(self.stack.root, base=self.base.name, precision="float32")
        return export_domains(exact, path, domains)

    # --- forgetting --------------------------------------------------------------------------------------------

    def forget(self, domain: str, *, rewind: bool = False) -> Forgotten:
        """Remove a domain: its LoRA, its rows, its part of the router. Snapshots trained after it stay, and are named.

        Args:
            rewind: also make the snapshot before it the head, so that what is learnt from now on does not build on it.
                Domains learnt since stay pinned to the snapshots they need.
        """
        forgotten = on_main(self.accelerator, lambda: forget_domain(self.stack, domain, rewind=rewind))
        self.stack.refresh()
        self.adapters.remove(domain)
        return forgotten


def _drift(after: float | None, now: float | None) -> float | None:
    return None if after is None or now is None else drift_pct(after, now)


def _conversation(text: str | Sequence[Message | Mapping[str, str]]) -> tuple[Message, ...]:
    turns = (Message(role="user", content=text),) if isinstance(text, str) else text
    return tuple(_message(turn, f"turn {number} of a conversation") for number, turn in enumerate(turns, start=1))


def _message(turn: Message | Mapping[str, str], where: str) -> Message:
    if not isinstance(turn, Message):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if role not in get_args(Role) or not isinstance(content, str):
            raise DataError(
                "this is no message",
                where=where,
                expected=f'a Message, or {{"role": one of {", ".join(get_args(Role))}, "content": a text}}',
                got=repr(turn)[:80],
                next_step="hand in the conversation as a list of such messages, oldest first",
            )
        turn = Message(role=cast(Any, role), content=content)
    try:
        turn.content.encode()
    except UnicodeEncodeError as error:  # bytes that were no UTF-8, on a command line or from a pipe
        raise DataError(
            "this is no text",
            where=where,
            expected="UTF-8",
            got=repr(turn.content[error.start : error.end]),
            next_step="send it as UTF-8",
        ) from error
    return turn


def _refuse_one_string(texts: object) -> None:
    if isinstance(texts, str):  # or its letters would be asked one by one
        raise DataError(
            "one text where several are asked for",
            expected="a list of texts",
            got=repr(texts)[:80],
            next_step="put it into a list, or call `ask`",
        )
