"""What of a prompt is its source's fixed wording, and the prompt without it.

Most rows come from templates ("What are the symptoms of …?"), which give the domain away whatever they are about. A run
of two words or more is fixed wording if at least one in twenty of a source's prompts has it; a single word if as many
have it before a colon at the beginning of a line ("Question:"), or if one in four of them ends with it ("… mean?"). A
run that people use anyway ("of the") goes too: what is left is harder than it has to be, for every router alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["fixed_wording", "without"]

SHARE = 0.05
_ENDS = 0.25  # share of prompts from which on a word at their end is fixed
_LONGEST = 12  # words of a run
_WORD = re.compile(r"\S+")
_LABEL = re.compile(r"^\s*(\w+:)", re.MULTILINE)
_END = "\n"  # no word is this: what follows it in a run is the last word of a prompt
_EDGES = ".,;:!?\"'()[]`"

Wording = frozenset[tuple[str, ...]]


def fixed_wording(prompts: Sequence[str], *, share: float = SHARE) -> Wording:
    """The runs of words, lower-cased, that at least `share` of the prompts have, two prompts at least."""
    counts: Counter[tuple[str, ...]] = Counter()
    ends: Counter[str] = Counter()
    for prompt in prompts:
        words = [_plain(w) for w in _WORD.findall(prompt)]
        ends.update(words[-1:])
        runs = {tuple(words[i : i + n]) for n in range(2, _LONGEST + 1) for i in range(len(words) - n + 1)}
        counts.update(runs | {(_plain(label),) for label in _LABEL.findall(prompt)})
    needed = max(2.0, share * len(prompts))
    last = {(_END, word) for word, n in ends.items() if n >= max(2.0, _ENDS * len(prompts))}
    return frozenset({run for run, n in counts.items() if n >= needed} | last)


def without(prompt: str, wording: Wording) -> str:
    """`prompt` without the runs in `wording`, the longest first; empty where nothing else was in it."""
    found = list(_WORD.finditer(prompt))
    words = [_plain(m.group()) for m in found]
    labels = {m.start(1) for m in _LABEL.finditer(prompt)}
    gone = [False] * len(words)
    for n in sorted({len(run) for run in wording}, reverse=True):
        for i in range(len(words) - n + 1):
            if n == 1 and found[i].start() not in labels:
                continue
            if tuple(words[i : i + n]) in wording and not any(gone[i : i + n]):
                gone[i : i + n] = [True] * n
    if words and (_END, words[-1]) in wording:
        gone[-1] = True
    lines: dict[int, list[str]] = {}
    for match, out in zip(found, gone, strict=True):
        if not out:
            lines.setdefault(prompt.count("\n", 0, match.start()), []).append(match.group())
    text = "\n".join(" ".join(line) for line in lines.values())
    return text if any(c.isalnum() for c in text) else ""


def _plain(word: str) -> str:
    return word.lower().strip(_EDGES) or word
