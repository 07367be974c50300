"""What a router sees of a prompt: the base's hidden state at one middle layer, and which words there are."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from crma.model.features import prompt_features, prompt_words
from crma.route.words import BUCKETS, columns, packed

__all__ = [
    "FEATURES",
    "HIDDEN_STATES",
    "RETYPED",
    "FeatureKind",
    "in_haste",
    "retyped_of",
    "seen_of",
    "with_slips",
    "with_words",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureKind:
    """Which features of a prompt a router is made of: the mean over its tokens of one hidden state of the base, and
    after these the packed buckets of its words (`crma.route.words`). A router keeps its own kind, so that one made
    before the defaults changed still reads what it was taught on."""

    depth: float = 0.24  # after this share of the base's blocks: the 7th of 30, measured on SmolLM2-135M (LOG.md)
    tokens: int = 192  # of a longer prompt its first and last halves
    words: int = 0  # buckets; 0 where words are not looked at

    @property
    def columns(self) -> int:
        """How many of a row's last numbers are words."""
        return columns(self.words)


_SLIPS = 0.2
_WORD = re.compile(r"[^\W\d_]{4,}")
RETYPED = 256  # prompts of a domain that are read once more, typed in haste


HIDDEN_STATES = FeatureKind()
FEATURES = FeatureKind(words=BUCKETS)  # of a new router


def seen_of(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], kind: FeatureKind
) -> np.ndarray:
    """[N, D] float32, hidden state first.

    Args:
        model: the base with adapters off and the backbone bypassed, so that learning never moves a feature.
    """
    hidden_NH = prompt_features(model, tokenizer, texts, depth=kind.depth, max_length=kind.tokens)
    return with_words(hidden_NH, tokenizer, texts, kind)


def with_words(
    hidden_NH: np.ndarray, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], kind: FeatureKind
) -> np.ndarray:
    """The same where the hidden states are known already."""
    if not kind.words:
        return hidden_NH
    words = prompt_words(tokenizer, texts, max_length=kind.tokens)
    return np.concatenate([hidden_NH, packed(words, kind.words)], axis=1)


def retyped_of(
    prompts: Sequence[str], features_ND: np.ndarray, features: Callable[[Sequence[str]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Features [K, D] of at most 256 of the prompts, spread evenly over them, as they are and as typed in haste: in
    lower case, without a mark at the end, and with slips.

    Args:
        features_ND: of all the prompts, as they are.
        features: texts -> features of the same kind.
    """
    some = np.linspace(0, len(prompts) - 1, num=min(len(prompts), RETYPED)).round().astype(int)
    return features_ND[some], features([in_haste(with_slips(prompts[int(i)])) for i in some])


def in_haste(prompt: str) -> str:
    """As people type: lower case, no mark at the end."""
    return prompt.lower().rstrip(" .?!:") or prompt


def with_slips(prompt: str) -> str:
    """In every fifth word of four letters or more two neighbours within it change places; which, the prompt decides."""
    draw = random.Random(prompt)

    def slip(word: re.Match[str]) -> str:
        text = word[0]
        if draw.random() >= _SLIPS:
            return text
        i = draw.randrange(1, len(text) - 2)
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]

    return _WORD.sub(slip, prompt)
