"""What a router sees of a prompt: the base's hidden state at one middle layer, and which words there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase

from crma.model.features import prompt_features, prompt_words
from crma.route.words import BUCKETS, columns, packed

__all__ = ["FEATURES", "HIDDEN_STATES", "FeatureKind", "seen_of", "with_words"]


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
