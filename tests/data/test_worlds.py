"""Fictional worlds: the same facts in every split, in words a split keeps to itself; and the rule that scores them."""

from __future__ import annotations

import hashlib
import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.data.world_templates import DOMAINS, QUESTIONS_PER_ATTRIBUTE
from crma.data.worlds import WORLDS, World, is_exact_match, make_world, strangers
from crma.errors import ConfigError
from crma.types import Example, check_domain_name

names = st.sampled_from(WORLDS)
seeds = st.integers(min_value=0, max_value=2**32)
some = settings(max_examples=40, deadline=None)  # a busy machine is no failure


def words(text: str) -> set[str]:
    """Its words in lower case; LockedSchemaError counts as three, skip_rows as two."""
    return {w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", text)}


def rows(world: World) -> tuple[Example, ...]:
    return world.split.train + world.split.validation + world.split.test


# --- the words and templates themselves, all of them, so that every seed is covered ---


def answer_words(domain: str) -> set[str]:
    return {w for a in DOMAINS[domain].attributes for part in (*a.firsts, *a.seconds) for w in words(part)}


def stems(domain: str) -> list[str]:
    return [(start + end).lower() for start, end in itertools.product(DOMAINS[domain].starts, DOMAINS[domain].ends)]


def templates(domain: str) -> list[str]:
    return [question for a in DOMAINS[domain].attributes for question in a.questions]


def test_there_are_five_worlds_and_their_names_can_name_domains():
    assert WORLDS == ("medicine", "law", "finance", "code", "science")
    assert [check_domain_name(name) for name in WORLDS] == list(WORLDS)


def test_no_entity_can_stand_in_two_domains_and_no_answer_word_either():
    for one, other in itertools.combinations(WORLDS, 2):
        assert not set(stems(one)) & set(stems(other))
        assert not {w for w in answer_words(one) & answer_words(other) if not w.isdigit()}
    for name in WORLDS:
        assert len(set(stems(name))) == len(stems(name))


@pytest.mark.parametrize("name", WORLDS)
def test_no_answer_word_stands_in_any_question_or_inside_a_name(name: str):
    given_away = answer_words(name)
    asked = set().union(*(words(q.format(entity="")) for other in WORLDS for q in templates(other)))
    asked |= set().union(*(words(shape) for other in WORLDS for shape in DOMAINS[other].shapes))
    assert not given_away & asked
    assert not [(stem, w) for stem in stems(name) for w in given_away if w in stem]


@pytest.mark.parametrize("name", WORLDS)
def test_no_question_and_no_name_says_which_domain_it_is_of(name: str):
    for text in (*templates(name), *stems(name), *DOMAINS[name].shapes):
        assert not [domain for domain in WORLDS if domain in text.lower()]


@pytest.mark.parametrize("name", WORLDS)
def test_every_attribute_has_eight_short_questions_and_no_two_are_alike(name: str):
    assert len(DOMAINS[name].attributes) >= 4
    for a in DOMAINS[name].attributes:
        assert len(a.questions) == QUESTIONS_PER_ATTRIBUTE
        for question in a.questions:
            assert question.count("{entity}") == 1
            assert not question.startswith("{entity}")  # some entities are lower-case
            assert question[0].isupper()
            assert question[-1] in "?."
            assert len(question.split()) <= 13
    everywhere = [q.lower() for other in WORLDS for q in templates(other)]
    assert len(set(everywhere)) == len(everywhere)


@pytest.mark.parametrize("name", WORLDS)
def test_an_answer_is_hard_to_guess_and_loses_nothing_in_exact_match(name: str):
    for a in DOMAINS[name].attributes:
        answers = [a.shape.format(first, second) for first, second in itertools.product(a.firsts, a.seconds)]
        assert len(set(answers)) == len(answers) >= 256
        for answer in answers:
            assert 1 <= len(answer.split()) <= 4
            assert is_exact_match(answer, answer)
            assert not {"a", "an", "the"} & set(answer.lower().split())
        first, second = answers[:2]
        assert not is_exact_match(first, second)


# --- worlds ---


def test_a_world_is_the_same_on_every_machine_and_under_every_python():
    worlds = [make_world(name, entities=3, seed=7) for name in WORLDS]
    facts = [(f.entity, f.attribute, f.answer) for world in worlds for f in world.facts]
    asked = [(e.prompt, e.completion, e.group) for world in worlds for e in rows(world)]
    digest = hashlib.sha256(json.dumps([facts, asked]).encode()).hexdigest()
    # Golden: it changes whenever a word or a question does, and then published numbers are of other worlds.
    assert digest[:16] == "86eb1e6d11f9e3a4"


@some
@given(name=names, seed=seeds)
def test_the_same_seed_gives_the_same_world_and_another_seed_another(name: str, seed: int):
    world = make_world(name, entities=4, seed=seed)
    assert make_world(name, entities=4, seed=seed) == world
    assert make_world(name, entities=4, seed=seed + 1).facts != world.facts


@some
@given(
    name=names,
    seed=seeds,
    entities=st.integers(1, 40),
    attributes=st.integers(1, 4),
    train=st.integers(1, 4),
    validation=st.integers(1, 2),
    test=st.integers(1, 2),
)
def test_every_split_asks_every_fact_in_words_no_other_split_uses(
    name: str, seed: int, entities: int, attributes: int, train: int, validation: int, test: int
):
    world = make_world(
        name,
        entities=entities,
        attributes=attributes,
        seed=seed,
        train_paraphrases=train,
        validation_paraphrases=validation,
        test_paraphrases=test,
    )
    assert len(world.facts) == entities * attributes
    assert len({(f.entity, f.attribute) for f in world.facts}) == len(world.facts)  # no contradictions
    assert len({f.entity for f in world.facts}) == entities
    assert len({(f.attribute, f.answer) for f in world.facts}) == len(world.facts)  # no answer is worth repeating

    seen: set[str | None] = set()
    for split, paraphrases in (
        (world.split.train, train),
        (world.split.validation, validation),
        (world.split.test, test),
    ):
        for k, fact in enumerate(world.facts):
            of_fact = split[k * paraphrases : (k + 1) * paraphrases]
            assert [e.completion for e in of_fact] == [fact.answer] * paraphrases
            assert all(fact.entity in e.prompt for e in of_fact)
        assert len(split) == len(world.facts) * paraphrases
        groups = {e.group for e in split}
        assert len(groups) == attributes * paraphrases
        assert not groups & seen
        seen |= groups
    assert len({e.prompt for e in rows(world)}) == len(rows(world))


@some
@given(name=names, seed=seeds)
def test_a_group_is_one_phrasing_whatever_the_entity(name: str, seed: int):
    world = make_world(name, entities=3, seed=seed)
    entities = {f.entity for f in world.facts}

    def phrasing(example: Example) -> str:
        (entity,) = (entity for entity in entities if entity in example.prompt)
        return example.prompt.replace(entity, "X")

    for group in {e.group for e in rows(world)}:
        assert len({phrasing(e) for e in rows(world) if e.group == group}) == 1


@some
@given(name=names, seed=seeds)
def test_the_question_does_not_hold_its_answer(name: str, seed: int):
    for example in rows(make_world(name, entities=4, seed=seed)):
        assert not words(example.completion) & words(example.prompt)


@some
@given(name=names, seed=seeds)
def test_a_larger_world_only_adds_to_the_smaller_one(name: str, seed: int):
    small = make_world(name, entities=3, attributes=2, seed=seed, train_paraphrases=2)
    large = make_world(name, entities=9, attributes=4, seed=seed, train_paraphrases=6)
    assert set(small.facts) <= set(large.facts)
    assert set(small.split.train) <= set(large.split.train)
    assert set(small.split.validation) <= set(large.split.validation)
    assert set(small.split.test) <= set(large.split.test)


def test_twenty_facts_a_world_make_a_hundred_test_questions_about_distinct_entities():
    worlds = [make_world(name, entities=5) for name in WORLDS]
    questions = {e.prompt for world in worlds for e in world.split.test}
    assert len(questions) == 100
    assert len({f.entity for world in worlds for f in world.facts}) == 25


def test_the_largest_world_has_256_entities_and_still_no_answer_twice():
    world = make_world("law", entities=256, attributes=2)
    assert len({(f.attribute, f.answer) for f in world.facts}) == 512


def test_an_unknown_world_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="medicine, law, finance, code, science"):
        make_world("astrology")


def test_all_impossible_sizes_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        make_world("law", entities=257, train_paraphrases=0)
    assert "entities = 257" in str(caught.value)
    assert "train_paraphrases = 0" in str(caught.value)
    with pytest.raises(ConfigError, match="paraphrases of all splits = 9"):
        make_world("law", train_paraphrases=6, test_paraphrases=2)


def test_strangers_are_twenty_questions_with_no_word_of_a_world():
    asked = strangers()
    assert len(set(asked)) == len(asked) == 20
    for question in asked:
        assert question.endswith("?")
        assert not [name for name in WORLDS if answer_words(name) & words(question)]
        assert not [name for name in WORLDS if name in question.lower()]


# --- exact match ---


@pytest.mark.parametrize(
    "answer",
    [
        "itchy elbows",
        "Itchy Elbows.",
        "  The itchy\telbows!  ",
        "“itchy elbows”",
        "**itchy elbows**",
        "\n\nitchy elbows\nThey last for a week.",
        "Itchy elbows. They last for a week.",
        "itchy elbows! numb knees!",
    ],
)
def test_case_punctuation_articles_and_what_follows_do_not_matter(answer: str):
    assert is_exact_match(answer, "itchy elbows")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "   \n",
        "itchy",
        "itchy elbow",
        "elbows itchy",
        "itchyelbows",
        "itchy elbows or numb knees",
        "It is itchy elbows.",
        "numb knees. itchy elbows.",
        "numb knees\nitchy elbows",
        "itchy elbows, numb knees, stiff toes",
        "not itchy elbows",
    ],
)
def test_the_answer_among_others_or_after_others_or_in_part_is_no_match(answer: str):
    assert not is_exact_match(answer, "itchy elbows")


@pytest.mark.parametrize(
    "answer", ["4.17 kelvin", "41.7 kelvin", ".417 kelvin", "-417 kelvin", "\u2212417 kelvin", "4 17 kelvin"]
)
def test_another_number_of_the_same_digits_is_no_match(answer: str):
    assert is_exact_match("417 kelvin.", "417 kelvin")
    assert not is_exact_match(answer, "417 kelvin")


def test_nothing_is_never_an_answer():
    assert not is_exact_match("", "")
    assert not is_exact_match("the", "a")
    assert not is_exact_match("...", "!")


def test_an_expected_answer_with_a_full_stop_inside_matches_itself_but_not_its_beginning():
    assert is_exact_match("St. Ives", "St. Ives")
    assert not is_exact_match("St.", "St. Ives")


known = st.sampled_from([f.answer for name in WORLDS for f in make_world(name, entities=8).facts])
anything = st.text(max_size=30)


@some
@given(answer=known, after=anything)
def test_a_right_first_line_or_sentence_is_right_whatever_follows(answer: str, after: str):
    assert is_exact_match(f"{answer}\n{after}", answer)
    assert is_exact_match(f"{answer.upper()}. {after}", answer)


@some
@given(first=known, second=known)
def test_two_facts_answers_match_only_if_they_are_one(first: str, second: str):
    assert is_exact_match(first, second) == (first == second)
    assert not is_exact_match(f"{first} {second}", second)
    assert not is_exact_match(f"{first} or {second}", first)


@some
@given(answer=anything, expected=anything)
def test_any_text_can_be_scored_and_a_match_holds_both_ways_on_one_line(answer: str, expected: str):
    matched = is_exact_match(answer, expected)
    one_line = len(answer.splitlines()) <= 1 and len(expected.splitlines()) <= 1
    if one_line and not re.search(r"[.!?]\s", answer + expected):
        assert is_exact_match(expected, answer) == matched
