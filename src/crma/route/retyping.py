"""Prompts as people type them: from these a router learns what of its features is only the typing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["RETYPED", "as_typed", "in_haste", "mistyped", "retyped_of", "with_slips"]

RETYPED = 256  # prompts of a domain that are read once more
_SLIPS = 0.2  # of the words of four letters and more
_WORD = re.compile(r"[^\W\d_]{4,}")


def retyped_of(
    prompts: Sequence[str], features_ND: np.ndarray, features: Callable[[Sequence[str]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Features [K, D] of at most 256 of the prompts, spread evenly over them, as they are and `as_typed`.

    Args:
        features_ND: of all the prompts, as they are.
        features: texts -> features of the same kind.
    """
    some = np.linspace(0, len(prompts) - 1, num=min(len(prompts), RETYPED)).round().astype(int)
    return features_ND[some], features([as_typed(prompts[int(i)]) for i in some])


def as_typed(prompt: str) -> str:
    """What a router is shown of a prompt's typing: haste and slips."""
    return in_haste(with_slips(prompt))


def in_haste(prompt: str) -> str:
    """As people type: lower case, no mark at the end."""
    return prompt.lower().rstrip(" .?!:") or prompt


def with_slips(prompt: str) -> str:
    """In every fifth longer word two neighbours within it change places."""

    def swap(word: str, draw: random.Random) -> str:
        i = draw.randrange(1, len(word) - 2)
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]

    return mistyped(prompt, swap)


def mistyped(prompt: str, change: Callable[[str, random.Random], str]) -> str:
    """`change` made to every fifth word of four letters or more; to which, and how, the prompt decides."""
    draw = random.Random(prompt)
    return _WORD.sub(lambda word: change(word[0], draw) if draw.random() < _SLIPS else word[0], prompt)
