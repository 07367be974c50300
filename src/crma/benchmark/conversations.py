"""Conversations made of test rows: a question, more of its kind, another subject, and turns that name none.

What is right for a turn that names nothing is the subject before it. The follow-ups are written for this test; the
filter's settings were chosen with others (LOG.md).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["FOLLOW_UPS", "Turn", "make_conversations"]

FOLLOW_UPS = (
    "Could you say that more briefly?",
    "what else",
    "How so?",
    "And the other one?",
    "Please go into more detail.",
    "Is there an exception?",
    "where does that come from",
    "I see.",
    "Would that be different for a beginner?",
    "Repeat the last part, please.",
    "how often does that happen",
    "Make a list of it.",
    "Is this still true today?",
    "no, I meant the first one",
    "What comes after that?",
    "really?",
    "Which one would you choose?",
    "Give me the short version.",
    "And if I do nothing?",
    "Why not the other way round?",
)
_TURNS = 6
# Chances of a turn after the first: that names nothing; of another subject. The rest are more of the same.
_FOLLOWS, _CHANGES = 0.3, 0.25
_EVERYDAY = 0.2  # of a new subject, that it is none


@dataclass(frozen=True, slots=True)
class Turn:
    kind: str  # "more of the same", "another subject", "names none"; "everyday, …" where the right answer is the base
    text: str
    right: str | None


def make_conversations(
    rows: Mapping[str, Sequence[str]], everyday: Sequence[str], *, count: int, seed: int
) -> list[list[Turn]]:
    """`count` conversations of six turns. `rows`: prompts a domain; `everyday`: prompts of none."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        turns: list[Turn] = []
        subject: str | None = None
        for number in range(_TURNS):
            chance = draw.random() if number else 1.0
            if chance < _FOLLOWS:
                text, kind = draw.choice(FOLLOW_UPS), "names none"
            else:
                before = subject
                if number == 0 or chance < _FOLLOWS + _CHANGES:
                    others = [d for d in rows if d != subject]
                    subject = None if draw.random() < _EVERYDAY or not others else draw.choice(others)
                text = draw.choice(everyday if subject is None else rows[subject])
                kind = "the first turn" if number == 0 else "more of the same"
                if number and subject != before:
                    kind = "another subject"
            turns.append(Turn(kind if subject is not None else f"everyday, {kind}", text, subject))
        made.append(turns)
    return made
