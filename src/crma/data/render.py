"""Conversations become token ids, each marked supervised or not: the only place that knows the chat template.

A conversation is cut at the borders between context and answer, and each piece is tokenised by itself: so the ids
before an answer in training are the very ids `render_prompt` gives at inference. What is supervised is decided by
position, never by id: SmolLM2's pad, eos and end of turn are one token, and an end of turn masked is never learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from jinja2 import TemplateError

from crma.errors import BaseModelError, ConfigError, DataError
from crma.types import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Rendered",
    "RenderedSplit",
    "end_of_turn_ids",
    "ensure_chat_template",
    "render",
    "render_all",
    "render_prompt",
]

# The space stands with the answer, not after the colon: byte-level tokenizers hold " word" as one token.
_PLAIN_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{- message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}{{- 'User: ' + message['content'] + '\\n\\n' -}}
{%- else -%}{{- 'Assistant: ' + message['content'] -}}{{- eos_token -}}{{- '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"""

_Ids = list[tuple[int, bool]]  # token id, supervised
_Pieces = list[tuple[str, bool]]  # text, supervised

# Stands in for a text, to read off where the template writes it. Letters only: templates trim and split.
_SENTINEL = "crmaAnswerStandsHere"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """One row. `supervised[i]`: token i is to be predicted (from those before it)."""

    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    cut: int  # tokens dropped to fit max_length


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedSplit:
    rows: tuple[Rendered, ...]
    cut_rows: int
    cut_tokens: int


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give a tokenizer without a chat template a plain one, in memory only; True where that was needed."""
    if tokenizer.chat_template:
        return False
    tokenizer.chat_template = _PLAIN_TEMPLATE
    return True


def render(example: Example, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Rendered:
    """Supervise every answer up to its end-of-turn token; only the last where the template rewrites earlier ones.

    A row longer than `max_length` loses context from the left, but bos; an answer too long by itself loses its tail.
    What the template writes after the last end of turn is left out.
    """
    return _Chat.of(tokenizer).row(example, max_length)


def render_prompt(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids a model is to continue with its answer: those that stand before the last answer in `render`."""
    if not messages or messages[-1].role == "assistant":
        raise DataError(
            "a prompt ends before the assistant's turn",
            expected="a last message by the user",
            got="the assistant's" if messages else "no messages",
            next_step="end with what is asked",
        )
    return [id_ for id_, _ in _Chat.of(tokenizer).context(tuple(messages))]


def render_all(examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> RenderedSplit:
    """Render a split. DataError lists every row the template refuses or that is left without a supervised token."""
    chat = _Chat.of(tokenizer)
    rows: list[Rendered] = []
    faults: list[tuple[int, str]] = []
    for position, example in enumerate(examples, start=1):
        line = position if example.line is None else example.line
        try:
            row = chat.row(example, max_length)
        except DataError as error:
            faults.append((line, f"{error.what} ({error.got})"))
            continue
        if not any(row.supervised):
            faults.append(
                (line, f"no supervised token is left of {len(row.input_ids) + row.cut} at max_length={max_length}")
            )
        rows.append(row)
    if faults:
        raise DataError(
            f"{len(faults)} rows cannot be rendered",
            next_step="mend or delete these rows, or raise max_length",
            faults=faults,
        )
    cuts = [row.cut for row in rows if row.cut]
    return RenderedSplit(rows=tuple(rows), cut_rows=len(cuts), cut_tokens=sum(cuts))


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids to stop at: the template's end of turn (what `render` supervises last), and eos."""
    return _Chat.of(tokenizer).end_ids()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chat:
    """One tokenizer and what was read off it once."""

    tokenizer: PreTrainedTokenizerBase
    specials: tuple[str, ...]
    bos: int | None  # put first where the template does not; None where the tokenizer itself opens no text with it
    joins: bool  # Llama 2's kind: a text by itself is tokenised as if a space stood before it

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> _Chat:
        ensure_chat_template(tokenizer)
        added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        opened = tokenizer("a", verbose=False).input_ids[:1]
        bos = tokenizer.bos_token_id
        a, line, both = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a", "\n", "\na"))
        return cls(
            tokenizer=tokenizer,
            specials=tuple({*added, *map(str, tokenizer.all_special_tokens)} - {""}),
            bos=cast(int, bos) if bos is not None and opened == [bos] else None,
            joins=line + a != both,
        )

    def row(self, example: Example, max_length: int) -> Rendered:
        if max_length < 1:
            raise ConfigError("max_length must be positive", expected="at least 1", got=max_length)
        if len(example.messages) < 2 or example.messages[-1].role != "assistant":
            raise DataError(
                "this row has no answer to learn",
                where=None if example.line is None else f"line {example.line}",
                expected="a user's turn, and an assistant's turn last",
                got=", ".join(m.role for m in example.messages) or "no messages",
                next_step="add the answer, or delete the row",
            )
        try:
            context = self.settled(example.messages[:-1])
            pieces = self.pieces(context)
            answer, _, ended = self.answer(context, example.messages[-1])
        except TemplateError as error:
            raise _refused(error, example.messages) from error
        before = self.ids(pieces)
        after = self.piece_ids(pieces[-1][0], answer)
        if not ended:
            after.append(self.eos())
        return _fitted(before, after, max_length, keeps_first=self.opens_with_bos(before))

    def context(self, messages: tuple[Message, ...]) -> _Ids:
        try:
            return self.ids(self.pieces(self.settled(messages)))
        except TemplateError as error:
            raise _refused(error, messages) from error

    def end_ids(self) -> tuple[int, ...]:
        ask = (Message(role="user", content="a"),)
        answer, _, ended = self.answer(ask, Message(role="assistant", content=_SENTINEL))
        last = self.ids([(answer, True)])[-1:] if ended else []
        eos = self.tokenizer.eos_token_id
        return tuple(dict.fromkeys([*(id_ for id_, _ in last), *([] if eos is None else [cast(int, eos)])]))

    def text(self, messages: Sequence[Message], *, opens_answer: bool = False) -> str:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        return cast(str, self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opens_answer))

    def settled(self, context: tuple[Message, ...]) -> tuple[Message, ...]:
        """The context as the template can write it: a system turn it refuses, or leaves out, joins the first user's."""
        if context[0].role != "system":
            return context
        system, rest = context[0].content, context[1:]
        try:
            if _SENTINEL in self.text((Message(role="system", content=_SENTINEL), *rest), opens_answer=True):
                return context
        except TemplateError:
            pass  # refused: the merged form is tried, and its own refusal is the caller's to report
        first = next((i for i, m in enumerate(rest) if m.role == "user"), None)
        if first is None:
            return context
        merged = "\n\n".join(text for text in (system, rest[first].content) if text.strip())
        return (*rest[:first], Message(role="user", content=merged), *rest[first + 1 :])

    def pieces(self, context: tuple[Message, ...]) -> _Pieces:
        """The context; earlier answers are supervised pieces of their own where the template keeps them as they were.

        Qwen 3's takes the reasoning out of earlier turns: what stands there is then not what the model would write.
        """
        whole = self.text(context, opens_answer=True)
        pieces: _Pieces = []
        position = 0
        for k, message in enumerate(context):
            if message.role != "assistant" or not any(m.role == "user" for m in context[:k]):
                continue
            opening = self.text(context[:k], opens_answer=True)
            answer, opened, _ = self.answer(context[:k], message)
            if not opened or len(opening) < position or not whole.startswith(opening + answer):
                return [(whole, False)]
            pieces += [(whole[position : len(opening)], False), (answer, True)]
            position = len(opening) + len(answer)
        return [*pieces, (whole[position:], False)]

    def answer(self, context: tuple[Message, ...], message: Message) -> tuple[str, bool, bool]:
        """The answer's text to its end of turn; whether it goes on from the opening; whether it has an end of turn."""
        opening = self.text(context, opens_answer=True)
        whole = self.text((*context, message))
        placed = self.text((*context, Message(role="assistant", content=_SENTINEL)))
        _, found, tail = placed.rpartition(_SENTINEL)
        tail = tail if found else ""
        opened = whole.startswith(opening)
        # Else the opening holds what the template later drops (DeepSeek R1's <think>): the model goes on from there.
        follows = opened and whole.endswith(tail)
        answer = whole[len(opening) : len(whole) - len(tail)] if follows else message.content
        ends = [(at, -len(special)) for special in self.specials if (at := tail.find(special)) >= 0]
        if not ends:
            return answer, opened, False
        at, minus_length = min(ends)
        return answer + tail[: at - minus_length], opened, True

    def ids(self, pieces: _Pieces) -> _Ids:
        ids: _Ids = []
        previous = ""
        for text, supervised in pieces:
            ids += [(id_, supervised) for id_ in self.piece_ids(previous, text)]
            previous = text
        first = self.bos is not None and not self.opens_with_bos(ids)
        return [(cast(int, self.bos), False), *ids] if first else ids

    def piece_ids(self, previous: str, text: str) -> list[int]:
        alone = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if not (self.joins and previous):
            return alone
        before = self.tokenizer(previous, add_special_tokens=False, verbose=False).input_ids
        both = self.tokenizer(previous + text, add_special_tokens=False, verbose=False).input_ids
        return both[len(before) :] if both[: len(before)] == before else alone

    def opens_with_bos(self, ids: _Ids) -> bool:
        return bool(ids) and ids[0][0] == self.tokenizer.bos_token_id

    def eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise BaseModelError(
                "this tokenizer has nothing that ends an answer",
                expected="an eos token, or a chat template that ends answers with a special token",
                got="neither",
                next_step="set tokenizer.eos_token",
            )
        return cast(int, eos)


def _refused(error: TemplateError, messages: Sequence[Message]) -> DataError:
    return DataError(
        "the chat template refuses this conversation",
        expected="turns this base model's template knows",
        got=f"{', '.join(m.role for m in messages)}: {error}",
        next_step="write its turns so that the template takes them, or choose another base",
    )


def _fitted(context: _Ids, answer: list[int], max_length: int, *, keeps_first: bool) -> Rendered:
    """Whole where it fits. One context token always stays: a row's first token has none before it to be told from."""
    length = len(context) + len(answer)
    if length > max_length:
        answer = answer[: max(max_length - 1, 0)]
        room = max_length - len(answer)
        head = context[:1] if keeps_first else []
        rest = context[len(head) :]
        context = head + rest[len(rest) - (room - len(head)) :]
    row = [*context, *((id_, True) for id_ in answer)]
    return Rendered(
        input_ids=tuple(id_ for id_, _ in row),
        supervised=tuple(supervised and i > 0 for i, (_, supervised) in enumerate(row)),
        cut=length - len(row),
    )
