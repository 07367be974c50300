"""A prompt's features are the mean of one middle layer of the base, whatever it was batched with."""

from __future__ import annotations

import numpy as np
import torch
from toys import toy_model, toy_tokenizer

from crma.model.features import prompt_features, prompt_words
from crma.route.seen import FeatureKind, seen_of, with_words
from crma.route.words import packed

TEXTS = ("What is a tort?", "x", "A much longer question about the law of torts and what follows from it.", "")


def test_features_are_the_mean_hidden_state_of_the_layer_and_know_no_neighbours():
    model, tokenizer = toy_model(), toy_tokenizer()
    together = prompt_features(model, tokenizer, TEXTS, depth=0.5)
    assert together.shape == (4, 32)
    assert together.dtype == np.float32
    for text, found in zip(TEXTS, together, strict=True):
        ids = torch.tensor([tokenizer(text or " ", add_special_tokens=False).input_ids])
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[1]
        np.testing.assert_allclose(found, hidden[0].mean(dim=0).numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(prompt_features(model, tokenizer, [text], depth=0.5)[0], found, rtol=0, atol=1e-6)


def test_a_long_text_keeps_its_two_ends_and_no_layer_above_runs():
    model, tokenizer = toy_model(), toy_tokenizer()
    ran: list[int] = []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    long = prompt_features(model, tokenizer, ["a" * 50 + "b" * 500 + "c" * 50], depth=0.5, max_length=100)
    assert ran == [0]
    ends = prompt_features(model, tokenizer, ["a" * 50 + "c" * 50], depth=0.5)
    np.testing.assert_array_equal(long, ends)
    assert prompt_features(model, tokenizer, [], depth=0.5).shape == (0, 32)
    model(torch.tensor([[5, 6]]))
    assert ran == [0, 0, 0, 1]


def test_words_do_not_show_the_typing():
    tokenizer = toy_tokenizer()
    clean, hasty, none = prompt_words(tokenizer, ["What is a Tort?", "  what is a tort", " ?! "])
    assert clean == hasty == tokenizer(" what is a tort", add_special_tokens=False).input_ids
    assert none == []
    long = prompt_words(tokenizer, ["a" * 50 + "b" * 500 + "c" * 50], max_length=20)[0]
    ends = prompt_words(tokenizer, ["a" * 50 + "b" * 500 + "c" * 50], max_length=10_000)[0]
    assert long == ends[:10] + ends[-10:]


def test_a_routers_row_is_the_hidden_state_and_then_the_words():
    model, tokenizer = toy_model(), toy_tokenizer()
    rows = seen_of(model, tokenizer, TEXTS, FeatureKind(depth=0.5, words=64))
    hidden = seen_of(model, tokenizer, TEXTS, FeatureKind(depth=0.5))
    np.testing.assert_array_equal(hidden, prompt_features(model, tokenizer, TEXTS, depth=0.5))
    np.testing.assert_array_equal(rows[:, :32], hidden)
    np.testing.assert_array_equal(rows[:, 32:], packed(prompt_words(tokenizer, TEXTS), 64))
    np.testing.assert_array_equal(rows, with_words(hidden, tokenizer, TEXTS, FeatureKind(depth=0.5, words=64)))
