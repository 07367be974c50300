"""A base of packed weights: the backbone reads W from what a layer answers, and hooks the layer all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import save_toy, toy_model

from crma.model.adapters import AdapterConfig, Adapters
from crma.model.backbone import BackboneConfig, attach_backbone, dense_weight
from crma.model.fold import fold

CONFIG = AdapterConfig(rank=2, alpha=4.0)


def ids(seed: int = 0) -> Tensor:
    return torch.randint(5, 261, (2, 10), generator=torch.Generator().manual_seed(seed))


class PackedLinear(nn.Linear):
    """Eight bits a weight in one flat row, as bitsandbytes packs its own: no float weight of the layer's shape."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.scale = float(plain.weight.abs().max()) / 127
        packed = (plain.weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed.reshape(1, -1), requires_grad=False)

    def dequantised(self) -> Tensor:
        return self.weight.reshape(self.out_features, self.in_features).float() * self.scale

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.dequantised().mT.to(input.dtype)


def packed_model() -> nn.Module:
    model = toy_model()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "layers" in name:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PackedLinear(module))
    return model.eval()


def unpacked_model() -> nn.Module:
    """The same numbers in plain layers: what a fold is served on where nothing is quantised."""
    packed, model = packed_model(), toy_model()
    for name, module in packed.named_modules():
        if isinstance(module, PackedLinear):
            model.get_submodule(name).weight.data.copy_(module.dequantised())  # pyright: ignore
    return model


@pytest.mark.parametrize("form", ["contraction", "learnt", "light"])
def test_a_packed_base_is_attached_trained_and_folded(form: str):
    model, base = packed_model(), packed_model()(ids()).logits
    backbone = attach_backbone(model, BackboneConfig(frames=form, directions=4))  # pyright: ignore[reportArgumentType]
    assert torch.equal(model(ids()).logits, base)
    adapters = train_one_step(model, backbone)
    with torch.no_grad():
        live = model(ids()).logits
        assert (live - base).abs().max() > 1e-3
        with backbone.bypass():
            assert (live - model(ids()).logits).abs().max() > 1e-3, "the backbone learnt nothing"
        for site in backbone.sites:  # under its hook and its LoRA
            layer = model.get_submodule(f"{site.name}.base_layer")
            assert isinstance(layer, PackedLinear)
            torch.testing.assert_close(dense_weight(layer, site), layer.dequantised(), rtol=0, atol=1e-6)
        folded = fold(model, backbone, adapters.weights("a"), CONFIG.scaling)
        plain = unpacked_model()
        served = Adapters(plain)
        served.load("a", AdapterConfig(rank=6, alpha=6.0), folded)
        served.activate("a")
        torch.testing.assert_close(plain(ids()).logits, live, rtol=0, atol=1e-5)


def train_one_step(model: nn.Module, backbone) -> Adapters:
    adapters = Adapters(model)
    adapters.add("a", CONFIG)
    adapters.activate("a")
    frames, mixing = backbone.trained()
    parameters = [*adapters.parameters("a").values(), *frames.values(), *mixing.values()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    model(ids(), labels=ids()).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in parameters if p.grad is not None)
    torch.optim.Adam(parameters, lr=0.1).step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    with torch.no_grad():
        backbone.gate.fill_(0.5)
        backbone.logits.add_(2 * torch.randn(backbone.logits.shape, generator=torch.Generator().manual_seed(0)))
    backbone.retract_()
    return adapters


@pytest.mark.filterwarnings("ignore")  # bitsandbytes speaks of kernels this machine lacks
@pytest.mark.parametrize("form", ["contraction", "learnt", "light"])
def test_four_bits_are_attached_trained_and_folded(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    from crma.model.base import load_base

    monkeypatch.setenv("CRMA_CACHE", str(tmp_path / "cache"))
    folder = save_toy(tmp_path / "toy", hidden=64)  # bitsandbytes on a CPU wants widths of 64 and multiples
    with torch.no_grad():
        base = load_base(str(folder), precision="4bit", device="cpu").model(ids()).logits
    model = load_base(str(folder), precision="4bit", device="cpu").model
    backbone = attach_backbone(model, BackboneConfig(frames=form, directions=4))  # pyright: ignore[reportArgumentType]
    assert type(model.get_submodule(backbone.sites[0].name)).__name__ == "Linear4bit"
    with torch.no_grad():  # with gradients bitsandbytes takes another kernel on a CPU
        assert torch.equal(model(ids()).logits, base)
    adapters = train_one_step(model, backbone)
    with torch.no_grad():
        live = model(ids()).logits
        assert (live.float() - base.float()).abs().max() > 1e-3
        with backbone.bypass():
            assert not torch.equal(live, model(ids()).logits), "the backbone learnt nothing"
        folded = fold(model, backbone, adapters.weights("a"), CONFIG.scaling)
        served = load_base(str(folder), precision="4bit", device="cpu").model
        others = Adapters(served)
        others.load("a", AdapterConfig(rank=6, alpha=6.0), folded)
        others.activate("a")
        # The live backbone adds in bfloat16, the LoRA in float32: equal to bfloat16's rounding.
        torch.testing.assert_close(served(ids()).logits.float(), live.float(), rtol=0.05, atol=0.02)
