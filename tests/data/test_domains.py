"""A question stands in one split, stays there as the file grows, and every row is accounted for."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.data.domains import apart_from, leaks, prepare_domain, split_examples, split_hashes
from crma.errors import ConfigError, DataError
from crma.types import Example, Message, Split

# Few questions and few groups, so that hypothesis finds rows that share one.
EXAMPLE = st.builds(
    Example.of,
    st.integers(0, 30).map(lambda n: f"Question {n}?"),
    st.integers(0, 5).map(str),
    group=st.none() | st.integers(0, 8).map(str),
)
EXAMPLES = st.lists(EXAMPLE, min_size=1, max_size=60)
SHARE = st.floats(0, 0.45)
SEED = st.integers(0, 2**32)


def toys(count: int, answers: int = 1) -> list[Example]:
    return [Example.of(f"Question {n}?", f"Answer {m}") for n in range(count) for m in range(answers)]


def places(split: Split) -> dict[str, str]:
    return {row.content_hash: name for name in ("train", "validation", "test") for row in getattr(split, name)}


@settings(deadline=None)
@given(EXAMPLES, SEED, SHARE | st.integers(0, 9), SHARE | st.integers(0, 9), st.none() | st.integers(1, 20))
def test_every_row_goes_to_one_place_and_no_question_to_two(
    examples: list[Example], seed: int, validation: float, test: float, limit: int | None
) -> None:
    try:
        data = prepare_domain("toy", examples, seed=seed, validation=validation, test=test, limit=limit, test_limit=4)
    except DataError:
        return
    split, report = data.split, data.report
    rows = [*split.train, *split.validation, *split.test]
    hashes = [row.content_hash for row in rows]
    assert len(set(hashes)) == len(hashes)
    assert set(hashes) <= {row.content_hash for row in examples}
    assert leaks(split) == ()
    assert report.rows == len(examples) == report.duplicates_dropped + len(rows) + report.unused
    assert (report.train, report.validation, report.test) == tuple(map(len, (data.train, data.validation, data.test)))
    assert report.duplicates_dropped == len(examples) - len({row.content_hash for row in examples})
    if isinstance(validation, int):
        assert len(split.validation) == validation
    if isinstance(test, int):
        assert len(split.test) == test


@settings(deadline=None)
@given(EXAMPLES, EXAMPLES, SEED, SHARE, SHARE)
def test_a_row_keeps_its_split_as_the_file_grows(
    examples: list[Example], more: list[Example], seed: int, validation: float, test: float
) -> None:
    def split(rows: list[Example]) -> dict[str, str] | None:
        try:
            data = prepare_domain(
                "toy", rows, seed=seed, validation=validation, test=test, validation_limit=None, test_limit=None
            )
        except DataError:
            return None
        return None if data.report.validation_lent else places(data.split)  # a loan to a tiny file may be called back

    before, after = split(examples), split(examples + more)
    if before is not None and after is not None:
        assert before.items() <= after.items()


@settings(deadline=None)
@given(EXAMPLES, SEED, st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(examples: list[Example], seed: int, shuffler: random.Random) -> None:
    rows = [Example(messages=row.messages) for row in examples]  # of duplicates in two groups, the first is kept
    mixed = list(rows)
    shuffler.shuffle(mixed)
    try:
        split = split_examples(rows, seed=seed)
    except DataError:
        with pytest.raises(DataError):
            split_examples(mixed, seed=seed)
        return
    assert split_examples(mixed, seed=seed) == split
    assert split_hashes(split_examples(mixed, seed=seed)) == split_hashes(split)


def test_shares_come_out_near_what_was_asked() -> None:
    split = split_examples(toys(2000), seed=0, validation=0.2, test=0.1, validation_limit=None, test_limit=None)
    assert len(split.validation) == pytest.approx(400, abs=60)  # over three standard deviations (18 and 13)
    assert len(split.test) == pytest.approx(200, abs=45)


def test_another_seed_is_another_split() -> None:
    rows = toys(200)
    assert split_hashes(split_examples(rows, seed=0)) != split_hashes(split_examples(rows, seed=1))


def test_the_split_is_the_same_on_every_machine() -> None:
    """Golden: a change here gives every user other splits, and so lets test rows into train."""
    split = split_examples(toys(30), seed=7)
    assert [row.prompt for row in split.test] == [f"Question {n}?" for n in (25,)]
    assert [row.prompt for row in split.validation] == [f"Question {n}?" for n in (21, 5, 6)]


def test_questions_that_differ_in_case_and_spaces_are_one() -> None:
    askings = ("What is\tCRMA?", "what is crma?", " What  is crmA? ")
    rows = [Example.of(asking, str(i)) for i, asking in enumerate(askings)]
    data = prepare_domain("toy", [*rows, *toys(10)], seed=3)
    assert data.report.groups == 11
    assert len({places(data.split)[row.content_hash] for row in rows}) == 1


def test_the_whole_context_is_the_key_not_the_last_question_alone() -> None:
    def chat(system: str) -> Example:
        row = Example.of("Go on", system)
        return Example(messages=(Message(role="system", content=system), *row.messages))

    rows = [chat(str(i)) for i in range(9)]
    assert prepare_domain("toy", rows, seed=0).report.groups == 9


def test_rows_of_a_group_stay_together() -> None:
    rows = [Example.of(f"Question {i}?", "a", group=f"document {i % 7}") for i in range(70)]
    where = places(split_examples(rows, seed=5, validation=0.3, test=0.3))
    for document in range(7):
        assert len({where[row.content_hash] for row in rows if row.group == f"document {document}"}) == 1


def test_what_a_count_cuts_off_a_group_goes_nowhere() -> None:
    data = prepare_domain("toy", toys(6, answers=5), seed=0, validation=7, test=3)
    assert (len(data.validation), len(data.test), len(data.train)) == (7, 3, 15)
    assert data.report.unused == 5


def test_limits_keep_the_opening_of_the_full_split() -> None:
    full = split_examples(toys(300), seed=0, validation_limit=None, test_limit=None)
    data = prepare_domain("toy", toys(300), seed=0, limit=50, validation_limit=3, test_limit=2)
    assert data.train == full.train[:50]
    assert data.validation == full.validation[:3]
    assert data.test == full.test[:2]
    assert data.report.unused == 245


def test_changing_test_moves_no_row_between_train_and_validation() -> None:
    small, large = (split_examples(toys(300), seed=0, test=test) for test in (0.05, 0.3))
    assert small.validation == large.validation
    assert set(large.train) < set(small.train)


@settings(deadline=None)
@given(SEED)
def test_five_questions_are_enough_for_a_validation_row(seed: int) -> None:
    data = prepare_domain("toy", toys(5), seed=seed, validation=0.01, test=0.0)
    assert data.validation
    assert len(data.train) + len(data.validation) == 5
    assert not prepare_domain("toy", toys(4), seed=seed, validation=0.0, test=0.0).validation


@pytest.mark.parametrize(
    ("rows", "shares"),
    [
        ([], {}),
        (toys(3), {"validation": 2, "test": 1}),
        (toys(3), {"test": 4}),
        (toys(1), {"validation": 1, "test": 0}),
    ],
)
def test_a_split_without_train_rows_is_refused(rows: list[Example], shares: dict[str, int]) -> None:
    with pytest.raises(DataError):
        split_examples(rows, seed=0, **shares)


def test_all_faulty_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        split_examples(toys(9), seed=0, validation=1.0, test=-1, limit=0, test_limit=-2)
    for name in ("validation=1.0", "test=-1", "limit=0", "test_limit=-2"):
        assert name in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be made"):
        split_examples(toys(9), seed=0, validation=0.5, test=0.5)
    with pytest.raises(ConfigError, match="cannot name a domain"):
        prepare_domain("a/b", toys(9), seed=0)


def test_a_leak_is_seen() -> None:
    row, again = Example.of("Why?", "a"), Example.of("why?", "b")
    assert leaks(Split(train=(row,), validation=(), test=(again,))) == ("key why?",)
    assert leaks(Split(train=(row,), validation=(row,), test=())) == ("key why?", f"row {row.content_hash}")


# --- new rows beside those that judge ------------------------------------------------------------------------------

NOTHING = Split(train=(), validation=(), test=())


def rows_of(split: Split) -> list[tuple[str, Example]]:
    return [(name, row) for name in ("train", "validation", "test") for row in getattr(split, name)]


def both(one: Split, other: Split) -> Split:
    return Split(
        train=one.train + other.train, validation=one.validation + other.validation, test=one.test + other.test
    )


@settings(deadline=None)
@given(EXAMPLES, EXAMPLES, SEED, SEED)
def test_what_is_left_beside_judged_rows_leaks_nothing_and_is_all_that_can_be_left(
    examples: list[Example], more: list[Example], seed: int, other: int
) -> None:
    try:
        judged = split_examples(examples, seed=seed, validation=0.3, test=0.3)
        new = split_examples(more, seed=other, validation=0.3, test=0.3)
    except DataError:
        return
    kept, left_out = apart_from(new, judged)
    assert left_out == len(rows_of(new)) - len(rows_of(kept))
    known = {row.content_hash for _, row in rows_of(judged)}
    assert not known & {row.content_hash for _, row in rows_of(kept)}
    assert leaks(both(judged, kept)) == ()
    for name in ("train", "validation", "test"):
        ours = set(getattr(kept, name))
        assert getattr(kept, name) == tuple(row for row in getattr(new, name) if row in ours)  # in their order
        for row in getattr(new, name):
            alone = replace(NOTHING, **{name: (row,)})
            assert row in ours or row.content_hash in known or leaks(both(judged, alone))


@settings(deadline=None)
@given(EXAMPLES, EXAMPLES, SEED)
def test_of_a_file_that_has_grown_only_the_rows_that_judge_are_left_out(
    examples: list[Example], more: list[Example], seed: int
) -> None:
    try:
        first, grown = (
            prepare_domain("toy", rows, seed=seed, validation=0.3, test=0.2, validation_limit=None, test_limit=None)
            for rows in (examples, examples + more)
        )
    except DataError:
        return
    if first.report.validation_lent or grown.report.validation_lent:
        return
    judged = replace(first.split, train=())
    kept, left_out = apart_from(grown.split, judged)
    assert left_out == len(first.validation) + len(first.test)
    assert kept.train == grown.train
    assert set(kept.validation) == set(grown.validation) - set(first.validation)
    assert set(kept.test) == set(grown.test) - set(first.test)


def test_a_row_that_judges_is_taken_out_of_every_split() -> None:
    row, other = toys(2)
    for judged in (replace(NOTHING, validation=(row,)), replace(NOTHING, test=(row,))):
        new = Split(train=(row, other), validation=(row,), test=(row,))
        assert apart_from(new, judged) == (replace(NOTHING, train=(other,)), 3)


def test_another_answer_to_a_question_that_judges_may_judge_as_well_but_not_be_learnt() -> None:
    judged = replace(NOTHING, validation=(Example.of("Why?", "a"),), test=(Example.of("How?", "a"),))
    why, how = Example.of(" why? ", "b"), Example.of("How?", "b")
    kept, left_out = apart_from(Split(train=(why, how), validation=(why, how), test=(why, how)), judged)
    assert kept == Split(train=(), validation=(why,), test=(how,))
    assert left_out == 4


def test_of_a_document_that_judges_no_page_is_learnt() -> None:
    page, next_page = (Example.of(f"Page {n}?", "a", group="book") for n in (1, 2))
    elsewhere = Example.of("Page 2?", "b", group="another book")
    judged = replace(NOTHING, test=(page,))
    kept, left_out = apart_from(Split(train=(next_page, elsewhere), validation=(), test=(next_page,)), judged)
    assert kept == Split(train=(elsewhere,), validation=(), test=(next_page,))
    assert left_out == 1


def test_beside_nothing_everything_stays() -> None:
    split = split_examples(toys(30), seed=7)
    assert apart_from(split, NOTHING) == (split, 0)
