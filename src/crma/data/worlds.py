"""Fictional domains: invented facts that no base model can know, asked in many words, scored by exact match.

A world is a domain's entities with four attributes each, one short answer per attribute. The facts are the same in
all three splits; the questions are not: each attribute has eight phrasings, and a phrasing belongs to one split only.
So `train` teaches the facts, and `validation` and `test` ask for them in words never trained on.

No two entities of a world share the answer of an attribute. Whoever knows all answers of an attribute, but not whose
they are, is right once in `entities` times; whoever knows only the word lists, once in 256 or more.
"""

from __future__ import annotations

import random
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crma.data.world_templates import DOMAINS, QUESTIONS_PER_ATTRIBUTE
from crma.errors import ConfigError
from crma.types import Example, Split

__all__ = ["WORLDS", "Fact", "World", "is_exact_match", "make_world", "strangers"]

WORLDS: tuple[str, ...] = tuple(DOMAINS)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    entity: str
    attribute: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A domain's facts, and the questions that teach and ask them.

    Rows stand fact by fact, in the order of `facts`. An example's `group` is its phrasing, such as
    "medicine/remedy/5", not its fact: a fact is meant to stand in every split, a phrasing in one only.
    """

    name: str
    facts: tuple[Fact, ...]
    split: Split


def make_world(
    name: str,
    *,
    entities: int = 12,
    attributes: int = 4,
    seed: int = 0,
    train_paraphrases: int = 3,
    validation_paraphrases: int = 1,
    test_paraphrases: int = 1,
) -> World:
    """Return the world `name` of this seed, with `entities` x `attributes` facts.

    A split holds facts x its paraphrases rows: 144, 48 and 48 by default. The same arguments give the same world
    under every Python version and on every machine; another seed gives other names, answers and held-out phrasings.
    A larger world holds the smaller ones of its seed: more entities, attributes or training paraphrases only add
    facts and rows, and leave the questions of the earlier facts as they were. With 3 attributes no answer is a number.
    """
    if name not in DOMAINS:
        raise ConfigError(
            "there is no such world", expected=", ".join(WORLDS), got=repr(name), next_step="choose one of these"
        )
    domain = DOMAINS[name]
    most_entities = min(
        len(domain.starts) * len(domain.ends), *(len(a.firsts) * len(a.seconds) for a in domain.attributes)
    )
    phrasings = train_paraphrases + validation_paraphrases + test_paraphrases
    limits = {
        "entities": (entities, 1, most_entities),
        "attributes": (attributes, 1, len(domain.attributes)),
        "train_paraphrases": (train_paraphrases, 1, QUESTIONS_PER_ATTRIBUTE - 2),
        "validation_paraphrases": (validation_paraphrases, 1, QUESTIONS_PER_ATTRIBUTE - 2),
        "test_paraphrases": (test_paraphrases, 1, QUESTIONS_PER_ATTRIBUTE - 2),
        "paraphrases of all splits": (phrasings, 3, QUESTIONS_PER_ATTRIBUTE),
    }
    outside = {what: limit for what, limit in limits.items() if not limit[1] <= limit[0] <= limit[2]}
    if outside:
        raise ConfigError(
            "a world cannot have this size",
            where=f"the world {name!r}",
            expected=", ".join(f"{what} from {low} to {high}" for what, (_, low, high) in outside.items()),
            got=", ".join(f"{what} = {value}" for what, (value, _, _) in outside.items()),
            next_step="change these sizes",
        )

    def draw(purpose: str) -> random.Random:
        # A stream for each purpose, so that no size moves what another one draws. A string seeds through SHA-512,
        # where hash() would differ from run to run.
        return random.Random(f"crma world/{name}/{seed}/{purpose}")

    chosen = domain.attributes[:attributes]
    names = _entities(draw("names"), domain.starts, domain.ends, domain.shapes)
    answers = {a.name: _pairs(draw(f"answers/{a.name}"), a.firsts, a.seconds) for a in chosen}
    facts = tuple(
        Fact(entity=entity, attribute=a.name, answer=a.shape.format(*next(answers[a.name])))
        for entity in (next(names) for _ in range(entities))
        for a in chosen
    )

    test: dict[str, list[int]] = {}
    validation: dict[str, list[int]] = {}
    train: dict[str, list[int]] = {}
    for a in chosen:
        order = _shuffled(draw(f"phrasings/{a.name}"), range(len(a.questions)))
        test[a.name] = order[:test_paraphrases]
        validation[a.name] = order[test_paraphrases : test_paraphrases + validation_paraphrases]
        train[a.name] = order[::-1][:train_paraphrases]  # from the other end: more of them move no held-out one
    questions = {a.name: a.questions for a in chosen}

    def ask(phrasings_of: dict[str, list[int]]) -> tuple[Example, ...]:
        return tuple(
            Example.of(
                questions[fact.attribute][k].format(entity=fact.entity),
                fact.answer,
                group=f"{name}/{fact.attribute}/{k}",
            )
            for fact in facts
            for k in phrasings_of[fact.attribute]
        )

    return World(name=name, facts=facts, split=Split(train=ask(train), validation=ask(validation), test=ask(test)))


def _shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    # Only random() is promised to stay the same from one Python to the next; shuffle and sample are not.
    # https://docs.python.org/3/library/random.html#notes-on-reproducibility
    return sorted(items, key=lambda _: rng.random())


def _pairs(rng: random.Random, firsts: Sequence[str], seconds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every pair once, in rounds that use each first word before any is used again, and likewise the second words.

    So the names and answers of a small world share no part, and nothing is learnt by half.
    """
    left, right = _shuffled(rng, firsts), _shuffled(rng, seconds)
    for shift in range(len(right)):
        for i, first in enumerate(left):
            yield first, right[(i + shift) % len(right)]


def _entities(rng: random.Random, starts: Sequence[str], ends: Sequence[str], shapes: Sequence[str]) -> Iterator[str]:
    shapes = _shuffled(rng, shapes)
    for i, (start, end) in enumerate(_pairs(rng, starts, ends)):
        yield shapes[i % len(shapes)].format(start + end)


_STRANGERS = (
    "Will it rain this afternoon?",
    "How do I keep rice from sticking to the pot?",
    "What is the capital of Portugal?",
    "How are you today?",
    "Which ocean lies between Africa and Australia?",
    "How long should I boil an egg?",
    "Can you tell me a short joke?",
    "What can I do on a rainy Sunday?",
    "How often should I water a cactus?",
    "Who sang Yellow Submarine?",
    "What is a nice present for a grandmother?",
    "How many players are on a football team?",
    "What do you call a baby kangaroo?",
    "What is a good name for a kitten?",
    "Which language is spoken in Brazil?",
    "How do I get a coffee stain out of a shirt?",
    "What should I pack for a weekend at the beach?",
    "Is it warmer in Cairo or in Oslo?",
    "How do I teach my dog to sit?",
    "What rhymes with moon?",
)


def strangers() -> tuple[str, ...]:
    """Return twenty everyday questions that belong to none of the worlds: a router should send them to the base."""
    return _STRANGERS


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)
# What makes another number of one: the point of 4.17 and .417, and the sign of -417.
_OF_A_NUMBER = re.compile(r"\.(?=\d)|(?<!\S)[-\u2013\u2014](?=\d)")


def is_exact_match(answer: str, expected: str) -> bool:
    """Tell whether the first line of `answer`, or the first sentence of that line, is `expected`.

    1. Of `answer`, the first line that holds more than white space is taken; whatever follows it is ignored, since a
       model may go on talking. Its first sentence ends behind the first '.', '!' or '?' before white space.
    2. That line, that sentence and the whole of `expected` are each normalised as SQuAD does it (Rajpurkar et al.
       2016, https://arxiv.org/abs/1606.05250, the official evaluation script's normalize_answer): lower case, then
       punctuation deleted, then the words a, an and the deleted, then runs of white space made one blank, none at
       either end. Two things differ from the script: punctuation is also Unicode's (a curly quote, a long dash), not
       only ASCII's; and a point before a digit stays, as does a minus or dash before a digit with no text on its
       left, since 4.17 and -417 are not 417.
    3. It is a match if the line or the sentence then equals `expected`, character by character, and is not empty.
       The answer among other words ("it is X", "X or Y") is no match.
    """
    line = next((part.strip() for part in answer.splitlines() if part.strip()), "")
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    wanted = _normalised(expected)
    return bool(wanted) and wanted in (_normalised(line), _normalised(sentence))


def _normalised(text: str) -> str:
    text = text.lower()
    kept = {match.start() for match in _OF_A_NUMBER.finditer(text)}
    bare = "".join(c for i, c in enumerate(text) if i in kept or not _is_punctuation(c))
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _is_punctuation(character: str) -> bool:
    return character in _PUNCTUATION or unicodedata.category(character).startswith("P")
