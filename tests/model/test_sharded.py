"""Sharded by FSDP 2 the backbone has the same numbers, the same map and the same reports. One process, every tensor a
DTensor: what a plain tensor would hide shows here; several processes are the training loop's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from toys import toy_model

from crma.model.adapters import AdapterConfig, Adapters
from crma.model.backbone import Backbone, BackboneConfig, attach_backbone, distance


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def ids(seed: int = 0) -> Tensor:
    return torch.randint(5, 261, (2, 10), generator=torch.Generator().manual_seed(seed))


def built(*, sharded: bool, frames: str) -> tuple[nn.Module, Backbone, Adapters]:
    model = toy_model()
    backbone = attach_backbone(model, BackboneConfig(frames=frames, directions=4))  # pyright: ignore[reportArgumentType]
    adapters = Adapters(model)
    adapters.add("a", AdapterConfig(rank=2))
    adapters.activate("a")
    for parameters in (adapters.parameters("a"), *backbone.trained()):
        for parameter in parameters.values():
            parameter.requires_grad_(True)
    if sharded:
        mesh = init_device_mesh("cpu", (1,))
        for layer in model.model.layers:  # pyright: ignore
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model, backbone, adapters


def learnt(*, sharded: bool, frames: str) -> tuple[nn.Module, Backbone, Adapters]:
    model, backbone, adapters = built(sharded=sharded, frames=frames)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        model(ids(step), labels=ids(step)).loss.backward()
        optimizer.step()
        backbone.retract_()
    return model, backbone, adapters


@pytest.mark.parametrize("frames", ["contraction", "learnt", "light"])
@pytest.mark.usefixtures("group")
def test_a_sharded_backbone_is_the_same_backbone(frames: str):
    plain_model, plain, plain_adapters = learnt(sharded=False, frames=frames)
    model, backbone, adapters = learnt(sharded=True, frames=frames)
    assert all(hasattr(p, "full_tensor") for p in backbone.parameters())
    state, expected = backbone.state(), plain.state()
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, rtol=0, atol=1e-6)
    for target, pair in plain_adapters.weights("a").items():
        for one, other in zip(adapters.weights("a")[target], pair, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert backbone.certificate().holds
    np.testing.assert_allclose(backbone.operator_norms(), plain.operator_norms(), atol=1e-6)
    for one, other in zip(backbone.report(), plain.report(), strict=True):
        assert one.relative_change == pytest.approx(other.relative_change, abs=1e-6)
        assert one.gate == pytest.approx(other.gate, abs=1e-6)
    other = {**state, "gate": state["gate"] * 0.5, "logits": state["logits"][:, ::-1].copy()}
    if frames == "contraction":  # once within its limit and once cut
        assert min(r.gate for r in backbone.report()) > 0
        written = state["frames_out.32"]
        size = np.where(np.arange(len(written)) % 2, 1e3, 1e-3).astype(np.float32)
        other["frames_out.32"] = written * size[:, None, None]
    np.testing.assert_allclose(distance(backbone, state, other), distance(plain, state, other), atol=1e-6)
    backbone.load(other)
    plain.load(other)
    assert all(np.array_equal(backbone.state()[k], other[k]) for k in other)
    with torch.no_grad():
        torch.testing.assert_close(model(ids()).logits, plain_model(ids()).logits, rtol=0, atol=1e-5)
        with backbone.bypass(), plain.bypass():
            torch.testing.assert_close(model(ids()).logits, plain_model(ids()).logits, rtol=0, atol=1e-5)
