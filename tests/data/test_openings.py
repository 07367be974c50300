"""Of a row of several turns the router reads the one that names the subject."""

from __future__ import annotations

from crma.data.openings import openings
from crma.types import Example, Message

QUESTIONS = [f"What does clause {n} of the contract oblige the tenant to?" for n in range(9)]


def talk(*asked: str) -> Example:
    answer = Message(role="assistant", content="It is so.")
    said = [message for text in asked for message in (Message(role="user", content=text), answer)]
    return Example(messages=(Message(role="system", content="You help."), *said))


def test_the_first_question_and_not_the_follow_up():
    assert openings([talk(q, "why?") for q in QUESTIONS]) == QUESTIONS
    assert openings([talk(q) for q in QUESTIONS]) == QUESTIONS
    assert openings([talk(q, "And what if the tenant does not pay the rent by then?") for q in QUESTIONS]) == QUESTIONS


def test_where_first_turns_greet_the_second():
    assert openings([talk("Hello there!", q, "why?") for q in QUESTIONS]) == QUESTIONS
    assert openings([talk("hi", QUESTIONS[0]), talk("Good morning.")]) == [QUESTIONS[0], "Good morning."]


def test_it_is_decided_by_all_rows_together():
    rows = [talk(q, "Please, could you say all of that in much simpler words?" * 3) for q in QUESTIONS[:3]]
    mixed = [*[talk(q, "why?") for q in QUESTIONS[3:]], *rows]
    assert openings(mixed) == [*QUESTIONS[3:], *QUESTIONS[:3]]  # three long follow-ups do not make nine greetings
    assert openings(rows, like=mixed) == QUESTIONS[:3]
    assert openings(rows) != QUESTIONS[:3]


def test_rows_without_a_question_ask_nothing():
    silent = Example(messages=(Message(role="assistant", content="It is so."),))
    assert openings([silent]) == [""]
    assert openings([]) == []
    assert openings([silent, talk("why?")], like=[]) == ["", "why?"]
