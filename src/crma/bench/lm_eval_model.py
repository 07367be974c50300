"""The border between lm-evaluation-harness and a model: an Answerer's three questions, and what asks them.

`ModelAnswerer` answers from a causal LM in memory; `harness_model` makes any Answerer one the harness can run, and
sends each query to the adapter a router picks for it.

Shape legend: B = contexts, K = continuations, L = padded length, N = scored positions, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from crma.errors import ConfigError, DataError

__all__ = ["QUERY", "Answerer", "ModelAnswerer", "Routing", "ServingAnswerer", "harness_model"]

QUERY = "crma_query"  # the column of a harness document that holds what a router may see

# Questions -> the domain that answers each, None for the base.
Routing = Callable[[Sequence[str]], Sequence[str | None]]

_Ids = tuple[int, ...]
_HEAD_ROWS = 256  # positions whose logits are held in float32 at a time: 50 MB at 49,152 tokens of vocabulary


@runtime_checkable
class Answerer(Protocol):
    """What the harness asks of a model. The answers come in the order of the questions."""

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation): ln p(continuation | context), and whether greedy decoding would say it."""
        ...

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """ln p(text) of each whole text, window by window where it is longer than the context."""
        ...

    def generate(self, prompts: Sequence[str], stop: Sequence[str], max_tokens: int) -> list[str]:
        """The greedy continuation of each prompt, cut before the first of the stop strings."""
        ...


@runtime_checkable
class ServingAnswerer(Answerer, Protocol):
    """An Answerer that can answer as any of several domains: what a routed evaluation needs."""

    def serving(self, domain: str | None) -> AbstractContextManager[None]: ...


class ModelAnswerer:
    """A causal LM in memory, with whatever serves it.

    A context is run once and its continuations go on from its keys and values, so a question's choices do not pay for
    the question again; contexts of equal length stand in one batch, and nothing is ever padded on the left of what is
    scored. Logits are computed where a continuation is scored, nowhere else.

    What was answered under `serving` is remembered for as long as this object lives. So a query that a router leaves to
    the base has, to the last bit, the answer that `serving(None)` gave, and costs nothing. Make a new one when an
    adapter or the backbone has changed.

    Args:
        head: the model's output embedding (`get_output_embeddings()`).
        activate: a context manager in which a domain (None: the untouched base) is served, as `ServedStack.serving`.
        max_length: tokens of context the model reads; longer inputs lose their left end. None: what the model was made
            for, at most 2048.
        max_tokens: padded tokens a forward pass.
        generate_rows: prompts decoded together.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        head: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        activate: Callable[[str | None], AbstractContextManager[None]] | None = None,
        max_length: int | None = None,
        max_tokens: int = 2048,
        generate_rows: int = 16,
    ) -> None:
        self.model: Any = model
        self.head = head
        self.tokenizer = tokenizer
        self.max_length = max_length or min(2048, self._made_for() or 2048)
        self._activate = activate
        self._max_tokens = max_tokens
        self._generate_rows = generate_rows
        self._known: dict[str | None, dict[Any, Any]] = {}  # served domain -> question -> answer
        self._memory: dict[Any, Any] | None = None  # of the domain that is served now

    @contextmanager
    def serving(self, domain: str | None) -> Iterator[None]:
        """Everything is answered as `domain` is served (None: the untouched base) while the context is open."""
        if self._memory is not None:
            raise ConfigError("one domain is served at a time", got=f"serving({domain!r}) inside another serving")
        if self._activate is None and domain is not None:
            raise ConfigError(
                "this answerer knows no domains", got=domain, next_step="give ModelAnswerer an `activate`"
            )
        with self._activate(domain) if self._activate else nullcontext():
            self._memory = self._known.setdefault(domain, {})
            try:
                yield
            finally:
                self._memory = None

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Tokenised as lm-eval's HFLM does: spaces that end a context open the continuation; an empty context is bos.

        Raises:
            DataError: a continuation is longer than the context the model reads.
        """
        return self._remembered(
            [("pair", *pair) for pair in pairs], lambda new: self._score([self._ids(*q[1:]) for q in new])
        )

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """Windows as lm-eval makes them: each token is predicted once, the last window reads as far back as it can."""
        return self._remembered([("text", text) for text in texts], lambda new: self._roll([q[1] for q in new]))

    def generate(self, prompts: Sequence[str], stop: Sequence[str], max_tokens: int) -> list[str]:
        if max_tokens >= self.max_length:
            raise ConfigError(
                "no room is left for a prompt",
                expected=f"max_tokens under the context of {self.max_length}",
                got=max_tokens,
            )
        keys = [("prompt", prompt, tuple(stop), max_tokens) for prompt in prompts]
        return self._remembered(keys, lambda new: self._generate([q[1] for q in new], stop, max_tokens))

    # --- remembering -------------------------------------------------------------------------------------------

    def _remembered(self, questions: Sequence[tuple], answer: Callable[[list[tuple]], list[Any]]) -> list[Any]:
        """Answer what is not known yet, each distinct question once."""
        known: dict[Any, Any] = {} if self._memory is None else self._memory
        new = [q for q in dict.fromkeys(questions) if q not in known]
        if new:
            was_training = self.model.training
            self.model.eval()
            try:
                known.update(zip(new, answer(new), strict=True))
            finally:
                self.model.train(was_training)
        return [known[q] for q in questions]

    # --- token ids ---------------------------------------------------------------------------------------------

    def _ids(self, context: str, continuation: str) -> tuple[_Ids, _Ids]:
        """(context, continuation), cut on the left so that the model reads at most `max_length` of the two."""
        bare = context.rstrip()
        context, continuation = bare, context[len(bare) :] + continuation
        if context:
            before = self._encode(context)
            after = self._encode(context + continuation)[len(before) :] or self._encode(continuation, specials=False)
        else:
            after = self._encode(continuation, specials=False)
            before = [self._prefix]
            if after[:1] == before:
                after = after[1:]
        if not after or len(after) > self.max_length:
            raise DataError(
                "this continuation cannot be scored",
                expected=f"1 to {self.max_length} tokens, the context the model reads",
                got=f"{len(after)} tokens: {continuation[:60]!r}",
                next_step="raise max_length" if after else None,
            )
        return tuple(before[max(0, len(before) + len(after) - 1 - self.max_length) :]), tuple(after)

    def _encode(self, text: str, *, specials: bool | None = None) -> list[int]:
        if specials is None:  # a text that opens with bos gets no second one
            opened = text.startswith(str(self.tokenizer.decode([self._prefix])))
            specials = False if opened else None
        if specials is None:
            return self.tokenizer(text, verbose=False).input_ids
        return self.tokenizer(text, verbose=False, add_special_tokens=specials).input_ids

    @property
    def _prefix(self) -> int:
        """What stands before a text that has nothing before it."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        found = bos if bos is not None else eos
        return found if isinstance(found, int) else 0

    def _made_for(self) -> int | None:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    # --- scoring -----------------------------------------------------------------------------------------------

    def _roll(self, texts: Sequence[str]) -> list[float]:
        windows: list[tuple[_Ids, _Ids]] = []
        owner: list[int] = []
        for index, text in enumerate(texts):
            ids = self._encode(text)
            whole = [self._prefix, *ids]
            for start in range(0, len(ids), self.max_length):
                stop = min(start + self.max_length, len(ids))
                first = max(0, stop - self.max_length)  # of the tokens read; the first of `ids` stands at 1
                windows.append((tuple(whole[first : start + 1]), tuple(ids[start:stop])))
                owner.append(index)
        sums = [0.0] * len(texts)
        for index, (score, _) in zip(owner, self._score(windows), strict=True):
            sums[index] += score
        return sums

    def _score(self, pairs: Sequence[tuple[_Ids, _Ids]]) -> list[tuple[float, bool]]:
        asked: dict[_Ids, dict[_Ids, tuple[float, bool]]] = {}
        for context, continuation in pairs:
            asked.setdefault(context, {})[continuation] = (0.0, False)
        for batch in self._batches(asked):
            self._score_batch(batch, asked)
        return [asked[context][continuation] for context, continuation in pairs]

    def _batches(self, asked: Mapping[_Ids, Mapping[_Ids, object]]) -> Iterator[list[_Ids]]:
        """Contexts of one length, as many as fit with their continuations (at least one); the longest first."""
        widths = {context: max(map(len, found)) - 1 for context, found in asked.items()}
        batch: list[_Ids] = []
        rows = 0
        for context in sorted(asked, key=lambda c: (-len(c), -widths[c], c)):
            rows += len(asked[context])
            width = max(widths[context], *(widths[c] for c in batch)) if batch else widths[context]
            tokens = (len(batch) + 1) * len(context) + rows * width
            if batch and (len(context) != len(batch[0]) or tokens > self._max_tokens):
                yield batch
                batch, rows = [], len(asked[context])
            batch.append(context)
        if batch:
            yield batch

    @torch.no_grad()
    def _score_batch(self, contexts: Sequence[_Ids], asked: Mapping[_Ids, dict[_Ids, tuple[float, bool]]]) -> None:
        device = next(self.model.parameters()).device
        rows = [(b, continuation) for b, context in enumerate(contexts) for continuation in asked[context]]
        context_BL = torch.tensor(contexts, device=device)
        last_BL = torch.zeros_like(context_BL, dtype=torch.bool)
        last_BL[:, -1] = True
        longer = [k for k, (_, continuation) in enumerate(rows) if len(continuation) > 1]
        logits_BV, cache = self._forward(context_BL, last_BL, use_cache=bool(longer))
        firsts_K = torch.tensor([b for b, _ in rows], device=device)
        score_K, greedy_K = _told(logits_BV[firsts_K], torch.tensor([c[0] for _, c in rows], device=device))
        sums = score_K.tolist()
        greedy = greedy_K.tolist()
        if longer:
            cache.batch_select_indices(firsts_K[longer])
            width = max(len(rows[k][1]) for k in longer) - 1
            ids_KL = torch.zeros((len(longer), width), dtype=torch.long)
            keep_KL = torch.zeros((len(longer), width), dtype=torch.bool)
            for row, k in enumerate(longer):
                n = len(rows[k][1]) - 1
                ids_KL[row, :n] = torch.tensor(rows[k][1][:-1])
                keep_KL[row, :n] = True
            targets_N = torch.tensor([id_ for k in longer for id_ in rows[k][1][1:]], device=device)
            attention_KL = torch.cat([torch.ones((len(longer), len(contexts[0])), dtype=torch.long), keep_KL.long()], 1)
            logits_NV, _ = self._forward(
                ids_KL.to(device), keep_KL.to(device), attention_mask=attention_KL.to(device), past_key_values=cache
            )
            score_N, greedy_N = _told(logits_NV, targets_N)
            for k, scores, said in zip(
                longer,
                score_N.cpu().split([len(rows[k][1]) - 1 for k in longer]),
                greedy_N.cpu().split([len(rows[k][1]) - 1 for k in longer]),
                strict=True,
            ):
                sums[k] += float(scores.sum())
                greedy[k] = greedy[k] and bool(said.all())
        for (b, continuation), total, said in zip(rows, sums, greedy, strict=True):
            asked[contexts[b]][continuation] = (total, said)

    def _forward(self, ids: Tensor, keep: Tensor, *, use_cache: bool = True, **more: Any) -> tuple[Tensor, Any]:
        """(logits [N, V] of the positions kept, the keys and values)."""
        handle = self.head.register_forward_pre_hook(lambda _module, args: (args[0][keep],))
        try:
            output = self.model(input_ids=ids, use_cache=use_cache, **more)
        finally:
            handle.remove()
        return output.logits, output.past_key_values if use_cache else None

    # --- generating --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _generate(self, prompts: Sequence[str], stop: Sequence[str], max_tokens: int) -> list[str]:
        device = next(self.model.parameters()).device
        room = self.max_length - max_tokens
        ids = [(self._encode(prompt) or [self._prefix])[-room:] for prompt in prompts]
        ends, strings = self._ends(stop)
        texts = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: (-len(ids[i]), i))
        for start in range(0, len(order), self._generate_rows):
            part = order[start : start + self._generate_rows]
            longest = len(ids[part[0]])
            ids_BL = torch.full((len(part), longest), self._pad, dtype=torch.long)
            mask_BL = torch.zeros((len(part), longest), dtype=torch.long)
            for row, index in enumerate(part):
                ids_BL[row, longest - len(ids[index]) :] = torch.tensor(ids[index])
                mask_BL[row, longest - len(ids[index]) :] = 1
            output = self.model.generate(
                input_ids=ids_BL.to(device),
                attention_mask=mask_BL.to(device),
                max_new_tokens=max_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=sorted(ends),
                pad_token_id=self._pad,
                stopping_criteria=StoppingCriteriaList([_Said(strings, longest, self._text)] if strings else []),
            )
            for row, index in enumerate(part):
                new = output[row, longest:].tolist()
                end = next((k for k, id_ in enumerate(new) if id_ in ends), len(new))
                text = self._text(new[:end])
                cuts = [at for string in strings if (at := text.find(string)) >= 0]
                texts[index] = text[: min(cuts, default=len(text))]
        return texts

    def _ends(self, stop: Sequence[str]) -> tuple[set[int], list[str]]:
        """(the ids that end an answer, the stop strings that are no token of their own)."""
        own = {str(token): id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        config = getattr(self.model, "generation_config", None)
        eos: list[Any] = [self.tokenizer.eos_token_id]
        for found in (getattr(config, "eos_token_id", None), [own[s] for s in stop if s in own]):
            eos += found if isinstance(found, list) else [found]
        return {id_ for id_ in eos if isinstance(id_, int)}, [s for s in stop if s and s not in own]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else self._prefix


def _told(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """(ln p of each target in float64, whether it is the likeliest); the softmax is in float32, whatever the model."""
    scores, likeliest = [], []
    for logits, targets in zip(logits_NV.split(_HEAD_ROWS), targets_N.split(_HEAD_ROWS), strict=True):
        exact = logits.float()
        told = exact.gather(1, targets[:, None])[:, 0] - exact.logsumexp(dim=1)
        scores.append(told.double())
        likeliest.append(exact.argmax(dim=1) == targets)
    return torch.cat(scores), torch.cat(likeliest)


class _Said(StoppingCriteria):
    """A row is done when its new text holds one of the strings."""

    def __init__(self, strings: Sequence[str], prompt: int, text: Callable[[list[int]], str]) -> None:
        self._strings, self._prompt, self._text = strings, prompt, text

    def __call__(self, input_ids: Tensor, scores: Tensor, **_more: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        texts = [self._text(row) for row in input_ids[:, self._prompt :].tolist()]
        return torch.tensor([any(s in text for s in self._strings) for text in texts], device=input_ids.device)


def harness_model(answerer: Answerer, *, route: Routing | None = None) -> Any:
    """An `lm_eval.api.model.LM` that asks `answerer`; `routes` tells, after a run, where each question went.

    Args:
        route: told the questions (a document's `QUERY` column; never the answers to choose from, unless the question
            lists them), names the domain that answers each. The requests of one domain are answered together, under
            `answerer.serving(domain)`.

    Raises:
        ConfigError: `route` is given and the answerer serves no domains.
    """
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

    if route is not None and not isinstance(answerer, ServingAnswerer):
        raise ConfigError(
            "a routed evaluation needs an answerer that serves domains",
            expected="a `serving(domain)` context manager, as ModelAnswerer has",
            got=type(answerer).__name__,
        )

    class HarnessModel(LM):
        def __init__(self) -> None:
            super().__init__()
            self.routes: dict[str, str | None] = {}

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return self._asked(requests, lambda some: answerer.loglikelihood([r.args for r in some]))

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return self._asked(requests, lambda some: answerer.rolling([r.args[0] for r in some]))

        def generate_until(self, requests: list[Any]) -> list[str]:
            return self._asked(requests, self._generated)

        def _generated(self, requests: list[Any]) -> list[str]:
            found: dict[int, str] = {}
            kinds = [(tuple(_listed(r.args[1].get("until"))), r.args[1].get("max_gen_toks", 256)) for r in requests]
            for stop, limit in dict.fromkeys(kinds):
                own = [i for i, kind in enumerate(kinds) if kind == (stop, limit)]
                texts = answerer.generate([requests[i].args[0] for i in own], stop, limit)
                found.update(zip(own, texts, strict=True))
            return [found[i] for i in range(len(requests))]

        def _asked(self, requests: list[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
            if route is None or not isinstance(answerer, ServingAnswerer):
                return answer(requests)
            questions = [r.doc[QUERY] for r in requests]
            new = [q for q in dict.fromkeys(questions) if q not in self.routes]
            self.routes.update(zip(new, route(new), strict=True))
            found: dict[int, Any] = {}
            for domain in dict.fromkeys(self.routes[q] for q in questions):
                own = [i for i, q in enumerate(questions) if self.routes[q] == domain]
                with answerer.serving(domain):
                    found.update(zip(own, answer([requests[i] for i in own]), strict=True))
            return [found[i] for i in range(len(requests))]

    return HarnessModel()


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
