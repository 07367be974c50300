"""Every row once an epoch, the same order for the same seed, rows of a length together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crma.data.batches import evaluation_batches, plan_batches

LENGTHS = st.lists(st.integers(min_value=1, max_value=300), min_size=1, max_size=120)


@given(lengths=LENGTHS, size=st.integers(1, 16), epochs=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_each_row_once_an_epoch(lengths, size, epochs, seed):
    plan = plan_batches(lengths, batch_size=size, epochs=epochs, seed=seed)
    assert plan.steps_per_epoch == -(-len(lengths) // size)
    assert len(plan) == epochs * plan.steps_per_epoch
    for epoch in range(epochs):
        steps = plan.steps[epoch * plan.steps_per_epoch : (epoch + 1) * plan.steps_per_epoch]
        assert sorted(i for step in steps for i in step) == list(range(len(lengths)))
        assert sorted(len(step) for step in steps)[1:] == [size] * (len(steps) - 1)  # at most one is smaller


@given(lengths=LENGTHS, size=st.integers(1, 16), epochs=st.floats(0.01, 3.0), seed=st.integers(0, 99))
def test_a_plan_is_a_function_of_its_arguments(lengths, size, epochs, seed):
    plan = plan_batches(lengths, batch_size=size, epochs=epochs, seed=seed)
    assert plan == plan_batches(list(lengths), batch_size=size, epochs=epochs, seed=seed)
    assert len(plan) == max(1, round(epochs * plan.steps_per_epoch))
    # A longer run begins as the shorter one does, and two parts make the whole.
    longer = plan_batches(lengths, batch_size=size, epochs=epochs + 1, seed=seed)
    assert longer.steps[: len(plan)] == plan.steps
    middle = len(plan) // 2
    assert plan.cut(0, middle).steps + plan.cut(middle, len(plan)).steps == plan.steps


def test_seeds_and_epochs_shuffle_anew():
    lengths = [10] * 40
    one = plan_batches(lengths, batch_size=4, epochs=2, seed=0)
    assert one.steps[:10] != one.steps[10:]
    assert one.steps != plan_batches(lengths, batch_size=4, epochs=2, seed=1).steps


def test_rows_of_a_length_stand_together():
    rng = random.Random(0)
    lengths = [rng.randint(1, 500) for _ in range(400)]
    plan = plan_batches(lengths, batch_size=8, epochs=1, seed=0)

    def padded(steps):
        return sum(len(step) * max(lengths[i] for i in step) for step in steps)

    order = list(range(400))
    rng.shuffle(order)
    shuffled = padded([order[k : k + 8] for k in range(0, 400, 8)])
    waste, waste_shuffled = padded(plan.steps) - sum(lengths), shuffled - sum(lengths)
    assert waste < 0.25 * waste_shuffled
    firsts = [max(lengths[i] for i in step) for step in plan.steps]
    assert firsts != sorted(firsts)  # the steps themselves are not in order of length
    assert firsts != sorted(firsts, reverse=True)


@given(lengths=st.lists(st.integers(1, 300), max_size=80), budget=st.integers(1, 1000))
def test_evaluation_covers_every_row_within_its_budget(lengths, budget):
    batches = evaluation_batches(lengths, max_tokens=budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    heads = [lengths[batch[0]] for batch in batches]
    assert heads == sorted(heads, reverse=True)  # the longest first: what does not fit in memory fails at once


def test_evaluation_fills_its_batches():
    assert [len(b) for b in evaluation_batches([10] * 25, max_tokens=100)] == [10, 10, 5]


def test_a_fraction_of_an_epoch_is_at_least_one_step():
    assert len(plan_batches([5] * 100, batch_size=10, epochs=0.01, seed=0)) == 1
    assert len(plan_batches([5] * 100, batch_size=10, epochs=0.5, seed=0)) == 5


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_larger_than_the_rows(size):
    assert len(plan_batches([5, 6, 7], batch_size=size, epochs=1, seed=0).steps) == -(-3 // size)
