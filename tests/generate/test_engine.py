"""Decoding: batches equal single prompts, and stop ids end an answer without standing in it."""

from __future__ import annotations

import torch
from toys import toy_model

from crma.generate.engine import generate


def test_a_batch_answers_as_each_prompt_alone():
    model = toy_model(seed=3)
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12], [20, 21, 22]]
    together = generate(model, prompts, stop_ids=[2], pad_id=0, max_new_tokens=6)
    alone = [generate(model, [p], stop_ids=[2], pad_id=0, max_new_tokens=6)[0] for p in prompts]
    split = generate(model, prompts, stop_ids=[2], pad_id=0, max_new_tokens=6, max_tokens=8)
    assert together == alone == split
    assert all(together)


def test_greedy_decoding_takes_the_best_token_each_time():
    model = toy_model(seed=3)
    ids = [5, 6, 7]
    answer = generate(model, [ids], stop_ids=[2], pad_id=0, max_new_tokens=4)[0]
    for token in answer:
        with torch.no_grad():
            best = model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()
        assert token == best
        ids = [*ids, token]


def test_a_stop_id_ends_the_answer():
    model = toy_model(seed=3)
    free = generate(model, [[5, 6, 7]], stop_ids=[2], pad_id=0, max_new_tokens=6)[0]
    stopped = generate(model, [[5, 6, 7]], stop_ids=[2, free[2]], pad_id=0, max_new_tokens=6)[0]
    assert stopped == free[: free.index(free[2])]
