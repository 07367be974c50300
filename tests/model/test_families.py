"""One backbone code for the decoder families users bring, and the folded LoRA that plain PEFT serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import save_file
from torch import Tensor, nn
from toys import FAMILIES, toy_config, toy_model
from transformers import AutoConfig, AutoModelForCausalLM

from crma.errors import BaseModelError
from crma.model.adapters import AdapterConfig, Adapters, Weights, from_file, peft_config, to_file
from crma.model.architecture import backbone_sites, decoder_of, lora_targets
from crma.model.backbone import Backbone, BackboneConfig, attach_backbone, dense_weight
from crma.model.fold import fold, folded_rank

FORMS = ("contraction", "learnt", "light")
CONFIG = AdapterConfig(rank=3, alpha=12.0)

# Families beyond those of the toys: transposed weights and biases (GPT-2), biases and fused reads (GPT-NeoX, Phi-2),
# a Llama whose writes have biases.
OTHERS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 261},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "phi": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "biased_llama": {},
}


def model_of(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    if family in FAMILIES:
        return louder(toy_model(family, dtype=dtype))
    if family == "biased_llama":
        config = toy_config("llama")
        config.attention_bias = config.mlp_bias = True
    else:
        config = AutoConfig.for_model(
            family, **{"vocab_size": 261, "bos_token_id": 1, "eos_token_id": 2, **OTHERS[family]}
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.3)
    return louder(model.requires_grad_(False).eval())


@torch.no_grad()
def louder(model: nn.Module) -> nn.Module:
    """Random weights of deviation 0.1 instead of 0.02: a write then matters beside the stream it is added to."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(5)
    return model


def ids(seed: int = 0, length: int = 10) -> Tensor:
    return torch.randint(5, 261, (2, length), generator=torch.Generator().manual_seed(seed))


def taught(family: str, form: str, *, where: str = "lora-targets") -> tuple[nn.Module, Backbone, Adapters]:
    """A model whose backbone and LoRA "a" took two training steps together, and whose mixing then got far from I."""
    model = model_of(family)
    shape = BackboneConfig(frames=form, directions=4, where=where)  # pyright: ignore[reportArgumentType]
    backbone = attach_backbone(model, shape)
    adapters = Adapters(model)
    adapters.add("a", CONFIG)
    adapters.activate("a")
    frames, mixing = backbone.trained()
    parameters = [*adapters.parameters("a").values(), *frames.values(), *mixing.values()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        model(ids(step), labels=ids(step)).loss.backward()
        optimizer.step()
        backbone.retract_()
    for parameter in parameters:
        parameter.requires_grad_(False)
    if form == "contraction":
        assert all(r.gate > 0.01 for r in backbone.report()), "two steps from zero open every site"
    with torch.no_grad():  # two steps move little, and in the light form a gate that wants to turn negative stays at 0
        backbone.logits.add_(2 * torch.randn(backbone.logits.shape, generator=torch.Generator().manual_seed(0)))
        backbone.gate.add_(0.5)
        backbone.retract_()
    return model, backbone, adapters


def write_adapter(folder: Path, weights: Weights, rank: int) -> Path:
    folder.mkdir()
    save_file(to_file(weights), folder / "adapter_model.safetensors")
    config = peft_config(rank=rank, alpha=float(rank), targets=tuple(weights), base_name="toy")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def with_peft(family: str, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(model_of(family), str(folder)).eval()  # pyright: ignore[reportArgumentType]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_an_attached_model_is_the_base_bit_for_bit(family: str, form: str, dtype: torch.dtype):
    base = model_of(family, dtype)(ids()).logits
    model = model_of(family, dtype)
    backbone = attach_backbone(model, BackboneConfig(frames=form, directions=4))  # pyright: ignore[reportArgumentType]
    assert [s.name for s in backbone.sites] == list(lora_targets(model))
    half = len(backbone.sites) // 2
    assert [s.layer for s in backbone.sites] == [0] * half + [1] * half
    assert torch.equal(model(ids()).logits, base)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # PEFT's own load of GPT-2
def test_what_was_learnt_folds_into_one_lora_that_plain_peft_serves(family: str, form: str, tmp_path: Path):
    model, backbone, adapters = taught(family, form)
    rank = folded_rank(backbone, CONFIG.rank)
    assert rank == 7
    with torch.no_grad():
        live = model(ids()).logits
        base = model_of(family)(ids()).logits
        folded = fold(model, backbone, adapters.weights("a"), CONFIG.scaling)
        served = with_peft(family, write_adapter(tmp_path / "folded", folded, rank))(ids()).logits
        lora = {t: (a, b * np.float32(CONFIG.scaling)) for t, (a, b) in adapters.weights("a").items()}
        alone = with_peft(family, write_adapter(tmp_path / "alone", lora, CONFIG.rank))(ids()).logits
        with backbone.bypass():
            bypassed = model(ids()).logits
    assert (live - base).abs().max() > 1e-2
    assert (live - alone).abs().max() > 1e-2, "the backbone learnt nothing: the fold proves nothing"
    torch.testing.assert_close(served, live, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, bypassed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
@torch.no_grad()
def test_generation_with_a_cache_is_generation_without(family: str):
    with torch.enable_grad():
        model, _, _ = taught(family, "contraction")
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    cached, plain = (model.generate(ids(), use_cache=c, **options) for c in (True, False))  # pyright: ignore
    assert cached.shape == (2, 15)
    assert torch.equal(cached, plain)
    base = model_of(family).generate(ids(), use_cache=False, **options)  # pyright: ignore[reportCallIssue]
    assert not torch.equal(plain, base), "what was learnt does not reach generation"


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_the_dense_weight_is_the_map_itself_whatever_the_layout_and_the_hooks(family: str):
    model, backbone, _ = taught(family, "light")
    modules, untouched = dict(model.named_modules()), model_of(family)
    for site in backbone.sites:
        plain = untouched.get_submodule(site.name)
        bias = plain.bias if plain.bias is not None else torch.zeros(site.d_out)  # pyright: ignore
        with torch.no_grad():
            truth = (plain(torch.eye(site.d_in)) - bias).mT
        torch.testing.assert_close(dense_weight(plain, site), truth, rtol=0, atol=1e-6)
        torch.testing.assert_close(dense_weight(modules[f"{site.name}.base_layer"], site), truth, rtol=0, atol=1e-6)


def test_without_a_backbone_the_fold_is_the_lora_with_its_scaling_in_b():
    model, _, adapters = taught("llama", "contraction")
    weights = adapters.weights("a")
    folded = fold(model, None, weights, CONFIG.scaling)
    assert folded_rank(None, CONFIG.rank) == CONFIG.rank
    for target, (a, b) in folded.items():
        assert np.array_equal(a, weights[target][0])
        assert np.array_equal(b, weights[target][1] * np.float32(4.0))


@pytest.mark.parametrize("where", ["lora-targets", "residual-writes"])
def test_every_module_of_the_fold_has_one_rank_and_one_dtype(where: str):
    model, backbone, adapters = taught("llama", "contraction", where=where)
    folded = fold(model, backbone, adapters.weights("a"), CONFIG.scaling)
    assert set(folded) == set(adapters.targets) >= {s.name for s in backbone.sites}
    assert {a.shape[0] for a, _ in folded.values()} == {b.shape[1] for _, b in folded.values()} == {7}
    assert {x.dtype for pair in folded.values() for x in pair} == {np.dtype(np.float32)}
    back = from_file(to_file(folded))
    assert all(np.array_equal(x, y) for t in folded for x, y in zip(folded[t], back[t], strict=True))


def test_a_fold_of_a_lora_that_misses_a_site_is_refused():
    model, backbone, adapters = taught("llama", "contraction")
    weights = adapters.weights("a")
    del weights[backbone.sites[0].name]
    with pytest.raises(AssertionError, match="sites without a LoRA"):
        fold(model, backbone, weights, CONFIG.scaling)


# --- which projections ---------------------------------------------------------------------------------------------


def test_reads_and_writes_of_each_block_are_found_and_nothing_else():
    def last(names: list[str]) -> list[str]:
        return sorted({n.rsplit(".", 1)[-1] for n in names})

    for family, writes, targets in (
        ("llama", ["down_proj", "o_proj"], ["down_proj", "o_proj", "q_proj", "v_proj"]),
        ("phi3", ["down_proj", "o_proj"], ["down_proj", "o_proj", "qkv_proj"]),
        ("gpt2", ["c_proj"], ["c_attn", "c_proj"]),
        ("gpt_neox", ["dense", "dense_4h_to_h"], ["dense", "dense_4h_to_h", "query_key_value"]),
    ):
        model = model_of(family)
        assert last([s.name for s in backbone_sites(model, "residual-writes")]) == writes
        assert [s.name for s in backbone_sites(model)] == list(lora_targets(model))
        assert last(list(lora_targets(model))) == targets
        assert len(backbone_sites(model, "residual-writes")) == 4
        for site in backbone_sites(model, "residual-writes"):
            assert model.get_submodule(site.name) is not None
            assert site.d_out == 32


def test_a_mixture_of_experts_is_refused():
    config = AutoConfig.for_model(
        "mixtral",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        num_local_experts=2,
    )
    with pytest.raises(BaseModelError, match="mixture of experts"):
        backbone_sites(AutoModelForCausalLM.from_config(config))


def test_a_model_without_known_writes_is_refused():
    with pytest.raises(BaseModelError, match="no projection") as caught:
        backbone_sites(nn.Sequential(nn.Linear(3, 3)))
    assert "o_proj" in str(caught.value)
    with pytest.raises(BaseModelError, match="no decoder"):
        decoder_of(nn.Linear(3, 3))
