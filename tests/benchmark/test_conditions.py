"""Each control differs from crma in the one thing it is there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import toy_model

from crma.benchmark.conditions import CONDITIONS, condition_named
from crma.benchmark.recipes import CLAIM, CONTROLS, RECIPES, recipe_named
from crma.errors import ConfigError
from crma.model.adapters import AdapterConfig, Adapters
from crma.model.backbone import BackboneConfig, attach_backbone
from crma.model.base import load_skeleton
from crma.model.matching import matched_rank, trained_numbers

PLAN = RECIPES["smoke"].streams["worlds"]


def backbone(**changes):
    built = attach_backbone(toy_model(), BackboneConfig(directions=4, **changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for writes in built.frames_out.values():  # as far as a contraction may: ‖B‖₂ is cut to 1
            writes.copy_(torch.randn(writes.shape, generator=generator))
        built.logits.copy_(3.0 * torch.randn(built.logits.shape, generator=torch.Generator().manual_seed(0)))
    return built


def test_every_condition_of_every_recipe_exists():
    for recipe in RECIPES.values():
        for name in recipe.conditions:
            assert condition_named(name).name == name
    assert set(CLAIM + CONTROLS) == set(CONDITIONS)


def test_an_unknown_condition_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match="naive-low-lr"):
        condition_named("replay")


def test_all_conditions_learn_with_the_same_settings_but_for_their_point():
    crma = condition_named("crma").config(PLAN, seed=7)
    for name, condition in CONDITIONS.items():
        config = condition.config(PLAN, seed=7)
        changed = {k for k, v in config.model_dump().items() if v != crma.model_dump()[k]}
        allowed = {"rank"} if condition.rank == "matched" else set()
        allowed |= {"reads"} if name == "frozen-uniform" else set()
        allowed |= {"warm_start"} if name.endswith("-warm") else set()
        allowed |= {"follow"} if name in ("as-it-is", "stay") else set()
        if name == "naive-low-lr":
            allowed |= {"lr"}
            assert config.lr == pytest.approx(crma.lr / 10)
        assert changed == allowed, name


def test_the_control_trains_no_fewer_numbers_than_crma_and_less_than_a_rank_more():
    model = toy_model()
    backbone = attach_backbone(model, BackboneConfig(directions=4))
    shared = sum(p.numel() for part in backbone.trained() for p in part.values())
    adapters = Adapters(model)

    def numbers(rank):
        adapters.add("x", AdapterConfig(rank=rank, alpha=2.0 * rank))
        count = sum(p.numel() for p in adapters.parameters("x").values())
        adapters.remove("x")
        return count

    matched = matched_rank(toy_model(), rank=3, directions=4)
    assert trained_numbers(toy_model(), rank=3, directions=4) == numbers(3) + shared
    assert numbers(matched - 1) < numbers(3) + shared <= numbers(matched)


@pytest.mark.parametrize("name", [name for name, c in CONDITIONS.items() if c.backbone is not None])
def test_every_backbone_of_the_smoke_recipe_fits_its_base(name: str):
    [plan] = RECIPES["smoke"].streams.values()
    shape = condition_named(name).shape(plan, seed=0)
    assert shape is not None
    assert attach_backbone(toy_model(), shape).config.frames == shape.frames


@pytest.mark.model
def test_the_recipes_ranks_are_matched_to_their_base():
    for recipe in RECIPES.values():
        if recipe.base == "toy":
            continue
        skeleton = load_skeleton(recipe.base)
        for plan in recipe.streams.values():
            wanted = matched_rank(skeleton, rank=plan.learn.rank, directions=plan.directions)
            assert plan.matched_rank == wanted, recipe.name


def test_another_rate_or_base_is_a_recipe_with_receipts_of_its_own(toy_base):
    at = recipe_named("small", lr=1e-3).streams["far"].learn
    assert (at.lr, at.lr_mixing / at.lr) == (1e-3, pytest.approx(1.0))
    assert recipe_named("small", lr=1e-3).name == "small-lr0.001"
    few = recipe_named("small", rows=25)
    assert few.name == "small-rows25"
    assert {plan.sizes.train for plan in few.streams.values()} == {25}
    assert few.streams["far"].learn == recipe_named("small").streams["far"].learn
    assert recipe_named("small", rows=25, lr=1e-3).name == "small-rows25-lr0.001"
    other = recipe_named("small", base=str(toy_base))
    assert other.name == f"small-{toy_base.name}"
    assert other.streams["far"].matched_rank != 19


def test_row_stochastic_rows_sum_to_one_and_columns_do_not():
    m = backbone(mixing="row-stochastic").mixing()
    assert torch.allclose(m.sum(-1), torch.ones(()), atol=1e-5)
    assert (m.sum(-2) - 1).abs().max() > 0.5


def test_free_mixing_may_leave_the_unit_ball_which_the_doubly_stochastic_one_cannot():
    for mixing, escapes in (("doubly-stochastic", False), ("free", True)):
        built = backbone(mixing=mixing)
        with torch.no_grad():
            built.logits.mul_(10)
        norms = built.operator_norms()
        assert norms.min() > 0.01
        assert (norms.max() > 1 + 1e-6) == escapes
        assert not escapes or norms.max() > 1.5


def test_free_mixing_begins_where_the_doubly_stochastic_one_does():
    fresh = [
        attach_backbone(toy_model(), BackboneConfig(directions=4, mixing=m)) for m in ("free", "doubly-stochastic")
    ]
    ks = [0.5 * (m[:, :4, :4] - m[:, :4, 4:] - m[:, 4:, :4] + m[:, 4:, 4:]) for m in (b.mixing() for b in fresh)]
    assert torch.allclose(ks[0], ks[1], atol=0.02)


def test_no_mixing_holds_k_at_the_identity_and_trains_no_logits():
    bare = backbone(mixing="none")
    _, mixing = bare.trained()
    assert mixing == {}
    assert np.allclose(bare.operator_norms(), 1.0, atol=1e-6)
    assert [r.mixing for r in bare.report()] == [0.0] * len(bare.sites)
    assert [r.gate for r in bare.report()] == pytest.approx([1.0] * len(bare.sites))


def test_only_the_gated_form_without_mixing_still_trains_its_gate():
    _, mixing = backbone(frames="learnt", mixing="none").trained()
    assert set(mixing) == {"gate"}
    _, mixing = backbone(frames="learnt").trained()
    assert set(mixing) == {"logits", "gate"}
    _, mixing = backbone().trained()
    assert set(mixing) == {"logits"}


def test_the_shared_lora_begins_at_nothing_and_knows_no_bound():
    shared = attach_backbone(toy_model(), BackboneConfig(directions=4, frames="lora"))
    assert shared.operator_norms().max() == 0.0
    with torch.no_grad():
        for frames in shared.frames_out.values():
            frames.add_(10.0)
    assert shared.operator_norms().max() > 1.0
    frames, mixing = shared.trained()
    assert mixing == {}
    assert {name.split(".")[0] for name in frames} == {"frames_in", "frames_out"}
    assert not shared.config.bounded


def test_only_bounded_forms_call_themselves_bounded():
    assert BackboneConfig().bounded
    assert BackboneConfig(frames="light").bounded
    assert BackboneConfig(mixing="none").bounded
    assert not BackboneConfig(mixing="free").bounded
    assert not BackboneConfig(mixing="row-stochastic").bounded
