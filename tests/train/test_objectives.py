"""The loss against the plain one: all logits, and labels of -100 where nothing is supervised."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from toys import FAMILIES, toy_model

from crma.train.objectives import answer_losses, collate, evaluate_rows

PAD = 4  # <|im_end|>: the pad token is the end of turn, as in SmolLM2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tokens:
    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]


def conversation(seed: int, *, prompt: int, answer: int) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 261, (prompt + answer - 1,), generator=generator).tolist()
    return Tokens((*ids, PAD), (False,) * prompt + (True,) * answer)


ROWS = [
    conversation(0, prompt=5, answer=3),
    conversation(1, prompt=9, answer=7),
    conversation(2, prompt=2, answer=1),
    # A conversation of two answers, the first in the middle.
    Tokens((5, 6, 7, PAD, 8, 9, PAD), (False, False, True, True, False, True, True)),
]


def dense_loss(model: torch.nn.Module, rows: list[Tokens]) -> torch.Tensor:
    """transformers' own: every logit, labels shifted inside."""
    length = max(len(r.input_ids) for r in rows)
    ids = torch.tensor([[*r.input_ids, *[PAD] * (length - len(r.input_ids))] for r in rows])
    mask = torch.tensor([[1] * len(r.input_ids) + [0] * (length - len(r.input_ids)) for r in rows])
    labels = torch.full_like(ids, -100)
    for b, row in enumerate(rows):
        for t, on in enumerate(row.supervised):
            if on:
                labels[b, t] = row.input_ids[t]
    return model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_the_dense_ones(family):
    found = {}
    for kind in ("dense", "answers only"):
        model = toy_model(family).requires_grad_(True)
        if kind == "dense":
            loss = dense_loss(model, ROWS)
        else:
            loss = answer_losses(model, model.get_output_embeddings(), collate(ROWS, pad_id=PAD, device=CPU)).mean()
        loss.backward()
        found[kind] = loss.item(), {n: p.grad for n, p in model.named_parameters()}
    (dense, dense_gradients), (ours, gradients) = found["dense"], found["answers only"]
    assert ours == pytest.approx(dense, abs=1e-6)
    assert gradients.keys() == dense_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, dense_gradients[name], rtol=1e-4, atol=1e-6)


def test_the_head_sees_the_positions_before_answer_tokens_only_and_is_left_as_it_was():
    model = toy_model()
    head = model.get_output_embeddings()
    seen = []
    watch = head.register_forward_hook(lambda _m, args, _z: seen.append(tuple(args[0].shape)))
    batch = collate(ROWS, pad_id=PAD, device=CPU)
    answer_losses(model, head, batch)
    assert seen == [(3 + 7 + 1 + 4, 32)]
    watch.remove()
    assert model(input_ids=batch.ids_BL).logits.shape == (4, 16, 261)


def test_an_end_of_turn_that_is_also_the_pad_token_is_learnt_and_padding_is_not():
    short, long = ROWS[2], ROWS[1]
    batch = collate([short, long], pad_id=PAD, device=CPU)
    assert batch.targets_N.tolist()[0] == PAD  # the short row's only answer token is its end of turn
    assert batch.targets_N.tolist().count(PAD) == 2  # 13 more of the same id stand there as padding
    assert batch.row_N.tolist() == [0] + [1] * 7
    assert batch.tokens == 3 + 16
    model = toy_model()
    head = model.get_output_embeddings()
    alone = answer_losses(model, head, collate([short], pad_id=PAD, device=CPU))
    torch.testing.assert_close(answer_losses(model, head, batch)[:1], alone, rtol=0, atol=1e-5)


def test_what_is_not_supervised_is_not_in_the_loss():
    model = toy_model()
    head = model.get_output_embeddings()
    row = ROWS[0]
    # The first token's own prediction is nobody's: whether it counts as supervised changes nothing.
    marked = Tokens(row.input_ids, (True, *row.supervised[1:]))
    one, two = (answer_losses(model, head, collate([r], pad_id=PAD, device=CPU)) for r in (row, marked))
    assert torch.equal(one, two)
    assert len(one) == 3
    nothing = Tokens(row.input_ids, (False,) * 8)
    assert answer_losses(model, head, collate([nothing], pad_id=PAD, device=CPU)).shape == (0,)


@pytest.mark.parametrize("max_tokens", [1, 20, 2048])
def test_evaluation_is_the_mean_over_tokens_and_keeps_the_order_of_rows(max_tokens):
    model = toy_model()
    head = model.get_output_embeddings()
    score = evaluate_rows(model, head, ROWS, pad_id=PAD, max_tokens=max_tokens)
    assert score.tokens == 3 + 7 + 1 + 4
    assert score.loss == pytest.approx(dense_loss(model, ROWS).item(), abs=1e-6)
    assert score.losses == pytest.approx([dense_loss(model, [row]).item() for row in ROWS], abs=1e-5)


def test_evaluation_leaves_the_mode_and_the_gradients_alone():
    model = toy_model().train()
    empty = evaluate_rows(model, model.get_output_embeddings(), [], pad_id=PAD)
    assert (empty.loss, empty.tokens, empty.losses) == (0.0, 0, ())
    evaluate_rows(model, model.get_output_embeddings(), ROWS, pad_id=PAD)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    broken = [Tokens((5, 999), (False, True))]  # an id the model does not have
    with pytest.raises(IndexError):
        evaluate_rows(model, model.get_output_embeddings(), broken, pad_id=PAD)
    assert model.training
    assert model(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 2, 261)  # no hook was left on the head
