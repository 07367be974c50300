"""Domains' LoRAs come and go in one model, and none of them leaves a trace on another or on the base."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from toys import toy_model

from crma.errors import ConfigError, UnknownDomainError
from crma.model.adapters import AdapterConfig, Adapters, Weights, from_file, peft_config, to_file
from crma.model.backbone import BackboneConfig, attach_backbone

CONFIG = AdapterConfig(rank=4, alpha=8.0)


def ids(seed: int = 0) -> Tensor:
    return torch.randint(5, 261, (2, 10), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(ids()).logits


@torch.no_grad()
def teach(adapters: Adapters, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in adapters.parameters(name).items():
        if key.endswith("lora_B"):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(x, y) for t in one for x, y in zip(one[t], other[t], strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_changes_nothing_until_it_is_taught_and_nothing_while_it_is_off(dtype: torch.dtype):
    base = logits(toy_model(dtype=dtype))
    model = toy_model(dtype=dtype)
    adapters = Adapters(model)
    adapters.add("a", CONFIG)
    assert adapters.active is None
    assert torch.equal(logits(model), base)
    adapters.activate("a")
    assert torch.equal(logits(model), base)
    teach(adapters, "a", 1)
    assert not torch.equal(logits(model), base)
    adapters.activate(None)
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_reads_along_orthonormal_directions_of_its_seed(dtype: torch.dtype):
    model = toy_model(dtype=dtype)
    adapters = Adapters(model)
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        adapters.add(name, CONFIG, seed=seed)
    for target, (a, b) in adapters.weights("a").items():
        np.testing.assert_allclose(a @ a.T, np.eye(4), atol=1e-6)
        assert not b.any()
        assert np.array_equal(a, adapters.weights("again")[target][0])
        assert not np.allclose(a, adapters.weights("b")[target][0], atol=0.1)
    first, *others = (a for a, _ in adapters.weights("a").values())
    assert not any(np.allclose(first, a, atol=0.1) for a in others if a.shape == first.shape)


def test_more_rows_than_columns_are_of_length_one_and_peft_s_own_are_shorter():
    model = toy_model()
    adapters = Adapters(model)
    adapters.add("many", AdapterConfig(rank=40, alpha=80.0))
    narrow = [a for a, _ in adapters.weights("many").values() if a.shape[1] < 40]
    assert narrow
    for a in narrow:
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1.0, atol=1e-6)
    adapters.add("peft", AdapterConfig(rank=4, reads="uniform"))
    lengths = np.concatenate([np.linalg.norm(a, axis=1) for a, _ in adapters.weights("peft").values()])
    assert 0.5 < lengths.mean() < 0.65  # 1/√3


def test_another_rank_keeps_the_scaling():
    wide = AdapterConfig(rank=8, alpha=12.0, dropout=0.1).of_rank(18)
    assert (wide.rank, wide.alpha, wide.scaling, wide.dropout) == (18, 27.0, 1.5, 0.1)


def test_only_the_loras_are_float32_over_a_bfloat16_base():
    model = toy_model(dtype=torch.bfloat16)
    adapters = Adapters(model)
    adapters.add("a", CONFIG)
    adapters.add("b", AdapterConfig(rank=2))
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    assert {d for n, d in dtypes.items() if "lora_" in n} == {torch.float32}
    assert {d for n, d in dtypes.items() if "lora_" not in n} == {torch.bfloat16}
    assert sum("lora_" in n for n in dtypes) == 2 * 2 * len(adapters.targets)


def test_two_adapters_do_not_disturb_each_other():
    alone = {}
    for name, seed in (("a", 1), ("b", 2)):
        model = toy_model()
        adapters = Adapters(model)
        adapters.add(name, CONFIG, seed=seed)
        adapters.activate(name)
        teach(adapters, name, seed)
        alone[name] = logits(model)
    model = toy_model()
    adapters = Adapters(model)
    adapters.add("a", CONFIG, seed=1)
    teach(adapters, "a", 1)
    adapters.activate("a")
    adapters.add("b", CONFIG, seed=2)
    assert adapters.active == "a"
    assert torch.equal(logits(model), alone["a"])
    teach(adapters, "b", 2)
    for name in ("b", "a", "b", None, "a"):
        adapters.activate(name)
        assert torch.equal(logits(model), logits(toy_model()) if name is None else alone[name])


def test_training_one_adapter_leaves_the_other_bit_for_bit():
    model = toy_model()
    adapters = Adapters(model)
    for name in ("a", "b"):
        adapters.add(name, CONFIG)
        teach(adapters, name, 0)
    before = adapters.weights("a")
    adapters.activate("b")
    trained = adapters.parameters("b")
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(trained.values(), lr=0.1)
    model(ids(), labels=ids()).loss.backward()
    optimizer.step()
    assert same(adapters.weights("a"), before)
    assert not same(adapters.weights("b"), before)


def test_nothing_becomes_trainable_by_adding_activating_or_removing():
    model = toy_model()
    adapters = Adapters(model)

    def trainable() -> list[str]:
        return [n for n, p in model.named_parameters() if p.requires_grad]

    for name in ("a", "b", "c"):
        adapters.add(name, CONFIG)
        adapters.activate(name)
        assert trainable() == []
    adapters.remove("c")
    assert trainable() == []
    assert adapters.active is None
    adapters.activate("b")
    adapters.remove("a")
    assert trainable() == []
    with adapters.using(None):
        assert trainable() == []
    assert trainable() == []


def test_removing_an_adapter_leaves_the_others_and_removing_the_last_leaves_the_model_it_was():
    model = toy_model()
    modules, base = {n: type(m) for n, m in model.named_modules()}, logits(model)
    keys = set(model.state_dict())
    adapters = Adapters(model)
    for seed, name in enumerate(("a", "b")):
        adapters.add(name, CONFIG)
        teach(adapters, name, seed)
    adapters.activate("a")
    seen = logits(model)
    adapters.remove("b")
    assert adapters.active == "a"
    assert torch.equal(logits(model), seen)
    with pytest.raises(UnknownDomainError):
        adapters.activate("b")
    adapters.remove("a")
    assert adapters.active is None
    assert adapters.configs == {}
    assert torch.equal(logits(model), base)
    assert {n: type(m) for n, m in model.named_modules()} == modules
    assert set(model.state_dict()) == keys
    assert not hasattr(model, "peft_config")
    adapters.remove("never there")


def test_a_removed_adapter_that_was_active_leaves_the_base_not_a_neighbour():
    model = toy_model()
    base = logits(model)
    adapters = Adapters(model)
    for seed, name in enumerate(("a", "b")):
        adapters.add(name, CONFIG)
        teach(adapters, name, seed)
    adapters.activate("a")
    adapters.remove("a")
    assert torch.equal(logits(model), base)


def test_the_same_seed_gives_the_same_lora_however_often_it_is_added():
    model = toy_model()
    adapters = Adapters(model)
    found = []
    for extra in (False, True, False):
        if extra:
            adapters.add("other", AdapterConfig(rank=2), seed=5)
        state = torch.get_rng_state()
        adapters.add("a", CONFIG, seed=3)
        assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers were disturbed"
        found.append(adapters.weights("a"))
        adapters.remove("a")
    first = found[0]
    assert all(same(w, first) for w in found)
    assert all(not b.any() and a.any() for a, b in first.values())
    adapters.add("a", CONFIG, seed=4)
    assert not same(adapters.weights("a"), first)


def test_using_an_adapter_ends_with_the_context_even_by_an_error():
    model = toy_model()
    adapters = Adapters(model)
    for seed, name in enumerate(("a", "b")):
        adapters.add(name, CONFIG)
        teach(adapters, name, seed)
    adapters.activate("a")
    seen = logits(model)
    with adapters.using("b"):
        assert not torch.equal(logits(model), seen)
    with pytest.raises(ZeroDivisionError), adapters.using("b"):
        _ = 1 / 0
    assert adapters.active == "a"
    assert torch.equal(logits(model), seen)
    with adapters.using("a"):
        adapters.remove("a")
    assert adapters.active is None


def test_names_that_are_taken_or_unknown_are_refused():
    adapters = Adapters(toy_model())
    adapters.add("a", CONFIG)
    with pytest.raises(ConfigError, match="already"):
        adapters.add("a", CONFIG)
    with pytest.raises(UnknownDomainError) as caught:
        adapters.activate("nobody")
    assert "['a']" in str(caught.value)
    assert adapters.parameters("nobody") == {}


# --- numbers in and out --------------------------------------------------------------------------------------------


def taught_weights(config: AdapterConfig = CONFIG) -> tuple[Weights, Tensor]:
    model = toy_model()
    adapters = Adapters(model)
    adapters.add("a", config)
    teach(adapters, "a", 7)
    adapters.activate("a")
    return adapters.weights("a"), logits(model)


def test_weights_round_trip_through_a_file_into_another_model():
    weights, seen = taught_weights()
    back = from_file(to_file(weights))
    for pair in back.values():
        for array in pair:
            array.setflags(write=False)  # as a memory-mapped file is
    model = toy_model()
    adapters = Adapters(model)
    adapters.load("a", CONFIG, back)
    adapters.activate("a")
    assert same(adapters.weights("a"), weights)
    assert torch.equal(logits(model), seen)


def test_loading_replaces_what_stands_under_the_name_whatever_its_rank():
    small = AdapterConfig(rank=2, alpha=2.0)
    weights, seen = taught_weights()
    other, seen_other = taught_weights(small)
    model = toy_model()
    adapters = Adapters(model)
    for config, stored, expected in ((CONFIG, weights, seen), (small, other, seen_other), (CONFIG, weights, seen)):
        adapters.load("a", config, stored)
        adapters.activate("a")
        assert torch.equal(logits(model), expected)


def foreign(kind: str, weights: Weights) -> Weights:
    target = next(iter(weights))
    a, b = weights[target]
    changed: Mapping[str, Weights] = {
        "a target missing": {t: w for t, w in weights.items() if t != target},
        "a target too many": {**weights, "model.layers.9.mlp.down_proj": (a, b)},
        "another rank": {t: (x[:2], y[:, :2]) for t, (x, y) in weights.items()},
        "another width": {**weights, target: (a[:, :5], b)},
    }
    return changed[kind]


@pytest.mark.parametrize("kind", ["a target missing", "a target too many", "another rank", "another width"])
def test_a_lora_of_another_base_is_refused_and_leaves_the_model_as_it_was(kind: str):
    weights, seen = taught_weights()
    wrong = foreign(kind, copy.deepcopy(weights))
    model = toy_model()
    adapters = Adapters(model)
    with pytest.raises(ConfigError, match="does not fit"):
        adapters.load("a", CONFIG, wrong)
    assert adapters.configs == {}, "a refused adapter would be answered under, untaught"
    assert not any(isinstance(m, LoraLayer) for m in model.modules())
    adapters.load("a", CONFIG, weights)
    adapters.activate("a")
    with pytest.raises(ConfigError, match="does not fit"):
        adapters.load("a", CONFIG, wrong)
    assert torch.equal(logits(model), seen)


def test_adapters_over_a_backbone_neither_train_it_nor_take_its_hooks_away():
    model = toy_model()
    backbone = attach_backbone(model, BackboneConfig(directions=4))
    with torch.no_grad():
        for writes in backbone.frames_out.values():
            writes.copy_(torch.randn(writes.shape, generator=torch.Generator().manual_seed(1)))
        backbone.logits.add_(torch.randn(backbone.logits.shape, generator=torch.Generator().manual_seed(0)))
    seen = logits(model)
    assert not torch.equal(seen, logits(toy_model()))
    adapters = Adapters(model)
    assert not any("crma_backbone" in t for t in adapters.targets)
    adapters.add("a", CONFIG)
    adapters.activate("a")
    assert torch.equal(logits(model), seen)
    teach(adapters, "a", 0)
    assert not torch.equal(logits(model), seen)
    adapters.remove("a")
    assert torch.equal(logits(model), seen)


def test_the_config_file_names_targets_as_engines_expect():
    targets = Adapters(toy_model()).targets
    config = peft_config(rank=7, alpha=7.0, targets=targets, base_name="org/base")
    assert config["target_modules"] == ["down_proj", "o_proj", "q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["peft_type"], config["bias"]) == (7, 7.0, "LORA", "none")
    assert config["base_model_name_or_path"] == "org/base"
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert not config["use_rslora"]
    assert config["inference_mode"]
