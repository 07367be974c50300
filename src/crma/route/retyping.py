"""Prompts as people type them: from these a router learns what of its features is only the typing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["RETYPED", "in_haste", "retyped_of", "with_slips"]

RETYPED = 256  # prompts of a domain that are read once more
_SLIPS = 0.2  # of the words of four letters and more
_WORD = re.compile(r"[^\W\d_]{4,}")


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
