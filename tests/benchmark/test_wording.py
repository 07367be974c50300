"""Taking a source's fixed wording out of its prompts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crma.benchmark.boundary import BOUNDARY
from crma.benchmark.streams import STREAMS
from crma.benchmark.wording import fixed_wording, without
from crma.data.worlds import strangers
from crma.route.background import BACKGROUND_PROMPTS

TEMPLATES = [f"What are the symptoms of {x}?" for x in ("scurvy", "gout", "mumps", "rabies")] + [
    f"Read the text.\n\nText: A {x} fell.\nQuestion: What fell?" for x in ("leaf", "star", "tree", "wall")
]


def test_what_many_prompts_share_is_taken_out_and_the_rest_is_left():
    wording = fixed_wording(TEMPLATES, share=0.4)
    assert without("What are the symptoms of Lyme disease?", wording) == "Lyme disease?"
    assert without(TEMPLATES[4], wording) == "leaf"  # "Read the text. Text: A" and all after it stand in four of eight
    assert without("Question time is over. Text messages too.", wording) == "Question time is over. Text messages too."


def test_a_single_word_goes_only_as_a_label_at_the_beginning_of_a_line():
    wording = fixed_wording([f"Choices: {x}" for x in "abcd"], share=0.5)
    assert ("choices",) in wording
    assert without("Choices: x; y", wording) == "x; y"
    assert without("of all choices: none", wording) == "of all choices: none"


def test_a_word_that_prompts_end_with_goes_from_the_end_only():
    wording = fixed_wording([f'Term "{x}" mean?' for x in ("lien", "tort", "writ")] + ["Say when."])
    assert without('Term "plea" mean?', wording) == 'Term "plea"'
    assert without("mean old Term", wording) == "mean old Term"


def test_lines_stay_lines():
    wording = fixed_wording([f"Table:\na | {x}\nb | {x}\nQuestion: {x}?" for x in "cdef"])
    assert without("Table:\n1 | 2\n3 | 4\nQuestion: why?", wording) == "1 | 2\n3 | 4\nwhy?"


def test_a_prompt_that_is_nothing_else_comes_out_empty():
    assert without("What are the symptoms of ?", fixed_wording(TEMPLATES, share=0.4)) == ""
    assert fixed_wording(["once", "twice"]) == frozenset()


@given(st.lists(st.text(alphabet="ab \n:.", max_size=12), min_size=1, max_size=8))
def test_only_words_of_the_prompt_are_left_in_their_order(prompts: list[str]):
    wording = fixed_wording(prompts, share=0.3)
    for prompt in prompts:
        left, whole = without(prompt, wording).split(), iter(prompt.split())
        assert all(word in whole for word in left)


def test_boundary_cases_are_new_to_the_router_and_name_far_domains():
    known = {p.lower() for p in (*BACKGROUND_PROMPTS, *strangers())}
    assert not [c.prompt for c in BOUNDARY if c.prompt.lower() in known]
    assert {d for c in BOUNDARY for d in c.right} <= {None, *STREAMS["far"].domains}
    assert len({c.prompt for c in BOUNDARY}) == len(BOUNDARY) >= 60
