"""What an adapter takes over when the backbone moves under it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_model

from crma.model.adapters import AdapterConfig, Adapters
from crma.model.backbone import BackboneConfig, attach_backbone
from crma.model.fold import absorb, blend, factors, fold

SITE = "model.layers.0.mlp.down_proj"
D_OUT, D_IN = 12, 20


def lora(rank, seed=0, d=D_OUT, i=D_IN):
    rng = np.random.default_rng(seed)
    return {SITE: (rng.normal(size=(rank, i)).astype(np.float32), rng.normal(size=(d, rank)).astype(np.float32))}


def roomy(filled, rank, seed=0):
    """A LoRA of `rank` of which `filled` directions say something."""
    a, b = lora(filled, seed)[SITE]
    empty = rank - filled
    return {SITE: (np.pad(a, ((0, empty), (0, 0))), np.pad(b, ((0, 0), (0, empty))))}


def moved(n, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        SITE: (scale * rng.normal(size=(D_OUT, n)).astype(np.float32), rng.normal(size=(n, D_IN)).astype(np.float32))
    }


def dense(weights, scaling=1.0):
    a, b = weights[SITE]
    return scaling * b.astype(np.float64) @ a


def product(factor):
    left, reads = factor[SITE]
    return left.astype(np.float64) @ reads


def test_a_backbone_that_stood_still_changes_nothing():
    weights, same = lora(4), moved(3, 1)
    assert np.allclose(dense(absorb(weights, 2.0, same, same), 2.0), dense(weights, 2.0), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(rank=st.integers(1, 14), n=st.integers(1, 6), seed=st.integers(0, 999), scaling=st.sampled_from([0.5, 1.0, 2.0]))
def test_no_other_adapter_of_this_rank_is_nearer(rank, n, seed, scaling):
    weights, gone, come = lora(rank, seed), moved(n, seed + 1), moved(n, seed + 2)
    target = dense(weights, scaling) + product(gone) - product(come)
    got = dense(absorb(weights, scaling, gone, come), scaling)
    values = np.linalg.svd(target, compute_uv=False)
    best = float(np.sqrt((values[rank:] ** 2).sum()))  # Eckart and Young
    assert np.linalg.norm(target - got) == pytest.approx(best, abs=1e-4 * float(np.linalg.norm(target)))


def test_what_fits_into_the_rank_is_kept_exactly():
    nothing = {SITE: (np.zeros((D_OUT, 2), np.float32), np.zeros((2, D_IN), np.float32))}
    weights = {SITE: (np.zeros((5, D_IN), np.float32), np.zeros((D_OUT, 5), np.float32))}
    gone = moved(2, 3)
    assert np.allclose(dense(absorb(weights, 2.0, gone, nothing), 2.0), product(gone), atol=1e-5)


def test_shapes_and_targets_stay_so_that_the_file_still_loads():
    weights = lora(4) | {"model.layers.0.self_attn.q_proj": (np.ones((4, 6), np.float32), np.ones((6, 4), np.float32))}
    after = absorb(weights, 2.0, moved(3, 1), moved(3, 2))
    assert {t: (a.shape, b.shape) for t, (a, b) in after.items()} == {
        t: (a.shape, b.shape) for t, (a, b) in weights.items()
    }
    no_site = "model.layers.0.self_attn.q_proj"
    assert all(np.array_equal(x, y) for x, y in zip(after[no_site], weights[no_site], strict=True))


@settings(deadline=None, max_examples=20)
@given(follow=st.floats(0, 1), seed=st.integers(0, 999))
def test_a_lora_that_follows_is_between_both_backbones(follow, seed):
    """With rank enough, what it answers under the new backbone lies on the straight line between the two."""
    weights, gone, come = roomy(2, 8, seed), moved(3, seed + 1), moved(3, seed + 2)
    got = dense(absorb(weights, 2.0, gone, come, follow=follow), 2.0) + product(come)
    stayed, gone_along = dense(weights, 2.0) + product(gone), dense(weights, 2.0) + product(come)
    assert np.allclose(got, (1 - follow) * stayed + follow * gone_along, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(follow=st.floats(0, 1), seed=st.integers(0, 999))
def test_a_lora_that_was_fitted_follows_towards_the_one_that_was_learnt(follow, seed):
    """Not towards its last fit: else each further move would add its share, and the way behind would never fade."""
    served, learnt, gone, come = roomy(2, 12, seed), lora(4, seed + 3), moved(3, seed + 1), moved(3, seed + 2)
    got = dense(absorb(served, 2.0, gone, come, follow=follow, learnt=learnt), 2.0) + product(come)
    ends = dense(served, 2.0) + product(gone), dense(learnt, 2.0) + product(come)
    assert np.allclose(got, (1 - follow) * ends[0] + follow * ends[1], atol=1e-4)
    elsewhere = {"model.layers.0.self_attn.q_proj": served[SITE]}, {"model.layers.0.self_attn.q_proj": learnt[SITE]}
    (name,) = elsewhere[0]
    a, b = absorb(elsewhere[0], 2.0, gone, come, follow=follow, learnt=elsewhere[1])[name]
    between = (1 - follow) * dense(served, 2.0) + follow * dense(learnt, 2.0)
    assert np.allclose(2.0 * b @ a, between, atol=1e-4)  # a target that is no site is between both too


@settings(deadline=None, max_examples=20)
@given(follow=st.floats(0, 1), seed=st.integers(0, 999))
def test_one_that_stands_alone_is_between_both_and_needs_no_backbone(follow, seed):
    """W + gone + served at 0, W + come + learnt at 1; exact where it has the ranks of both ends."""
    served, learnt, gone, come = roomy(2, 20, seed), lora(4, seed + 3), moved(3, seed + 1), moved(3, seed + 2)
    got = dense(absorb(served, 2.0, gone, come, follow=follow, learnt=learnt, rank=20, standalone=True), 2.0)
    ends = dense(served, 2.0) + product(gone), dense(learnt, 2.0) + product(come)
    assert np.allclose(got, (1 - follow) * ends[0] + follow * ends[1], atol=1e-4)
    # One that already stands alone has no backbone to take off, and stays as it is, to the bit.
    again = absorb(served, 2.0, {}, come, follow=0.0, learnt=learnt, standalone=True)
    assert all(np.array_equal(x, y) for t in served for x, y in zip(again[t], served[t], strict=True))


def test_staying_alone_is_exact_at_the_ranks_of_lora_and_backbone_together():
    weights, gone, come = lora(4, 1), moved(3, 2), moved(3, 3)
    got = dense(absorb(weights, 2.0, gone, come, rank=4 + 3, standalone=True), 2.0)
    assert np.allclose(got, dense(weights, 2.0) + product(gone), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(share=st.floats(0, 1), seed=st.integers(0, 999), rank=st.integers(1, 8))
def test_a_blend_is_the_nearest_of_its_rank_to_the_straight_line_between_both(share, seed, rank):
    weights, towards = lora(rank, seed), lora(3, seed + 1)
    target = (1 - share) * dense(weights) + share * dense(towards)
    a, b = blend(weights, towards, share)[SITE]
    assert (a.shape, b.shape) == ((rank, D_IN), (D_OUT, rank))
    best = float(np.sqrt((np.linalg.svd(target, compute_uv=False)[rank:] ** 2).sum()))
    got = b.astype(np.float64) @ a
    assert np.linalg.norm(target - got) == pytest.approx(best, abs=1e-4 * float(np.linalg.norm(target)))


@pytest.mark.parametrize("frames", ["contraction", "learnt", "light"])
def test_in_a_model_an_adapter_of_ample_rank_answers_as_before(frames):
    model = toy_model()
    backbone = attach_backbone(model, BackboneConfig(directions=3, frames=frames))
    adapters = Adapters(model)
    config = AdapterConfig(rank=12, alpha=24.0)
    adapters.add("d", config, seed=1)
    adapters.activate("d")
    generator = torch.Generator().manual_seed(0)

    def draw(scale):
        with torch.no_grad():
            if frames == "contraction":
                for writes in backbone.frames_out.values():
                    writes.copy_(torch.randn(writes.shape, generator=generator))
            else:
                backbone.gate.copy_(torch.rand(backbone.gate.shape, generator=generator))
            backbone.logits.add_(scale * torch.randn(backbone.logits.shape, generator=generator))
        backbone.retract_()

    draw(1.0)
    gone = factors(model, backbone)
    ids = torch.arange(10)[None] + 5
    with torch.no_grad():
        before = model(input_ids=ids).logits
        draw(2.0)
        between = model(input_ids=ids).logits
        adapters.load("d", config, absorb(adapters.weights("d"), config.scaling, gone, factors(model, backbone)))
        after = model(input_ids=ids).logits
    assert (between - before).abs().max() > 1e-3  # the backbone did move the answer
    assert torch.allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("frames", ["contraction", "learnt"])
def test_fold_is_the_sum_of_both(frames):
    model = toy_model()
    backbone = attach_backbone(model, BackboneConfig(directions=3, frames=frames))
    with torch.no_grad():
        backbone.gate.fill_(0.7)
        for writes in backbone.frames_out.values():
            writes.copy_(torch.randn(writes.shape, generator=torch.Generator().manual_seed(0)))
    found = factors(model, backbone)
    name = next(iter(found))
    left, reads = found[name]
    assert np.abs(left @ reads).max() > 1e-3
    weights = {n: lora(2, d=f[0].shape[0], i=f[1].shape[1])[SITE] for n, f in found.items()}
    a, b = fold(model, backbone, weights, 2.0)[name]
    own_a, own_b = weights[name]
    assert np.allclose(b @ a, left @ reads + 2.0 * own_b @ own_a, atol=1e-4)
