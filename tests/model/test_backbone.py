"""The backbone keeps its bounds whatever is done to it, and is the base itself until it has learnt something.

The dense truth is observed, not recomputed from our factors: W' is what a hooked projection answers to the unit
vectors, in a float64 model, and every norm is NumPy's SVD.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from toys import toy_model

import crma.model.backbone as backbone_module
from crma.errors import BaseModelError, ConfigError, TrainingDivergedError
from crma.model.adapters import AdapterConfig, Adapters
from crma.model.backbone import Backbone, BackboneConfig, attach_backbone, distance, interpolate
from crma.model.birkhoff import project_to_birkhoff

FORMS = ("contraction", "learnt", "light")
LEARNT = FORMS[:2]  # the forms that learn where they read and write
SLACK = 1e-6  # the factors are float32


def attached(
    form: str,
    n: int = 4,
    *,
    dtype: torch.dtype = torch.float32,
    hidden: int = 32,
    silent: tuple[str, ...] = (),
    **changes: Any,
) -> tuple[nn.Module, Backbone]:
    model = toy_model(dtype=dtype, hidden=hidden)
    for name in silent:
        nn.init.zeros_(model.get_submodule(name).weight)  # pyright: ignore[reportArgumentType]
    config = BackboneConfig(frames=form, directions=n, **changes)  # pyright: ignore[reportArgumentType]
    return model, attach_backbone(model, config)


def wide(form: str, n: int) -> tuple[nn.Module, Backbone]:
    """On a model 64 wide, whose values are 32 wide: more directions than that only a contraction can have there."""
    where = "residual-writes" if n > 32 and form != "contraction" else "lora-targets"
    return attached(form, n, dtype=torch.float64, hidden=64, where=where)


def ids(seed: int = 0, length: int = 12) -> Tensor:
    return torch.randint(5, 261, (2, length), generator=torch.Generator().manual_seed(seed))


def parameters(backbone: Backbone) -> list[nn.Parameter]:
    frames, mixing = backbone.trained()
    return [*frames.values(), *mixing.values()]


def train(model: nn.Module, backbone: Backbone, *, steps: int = 3, lr: float = 0.05, seed: int = 0) -> None:
    for parameter in parameters(backbone):
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters(backbone), lr=lr)
    for step in range(steps):
        batch = ids(seed + step)
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        backbone.retract_()
    optimizer.zero_grad()
    model.requires_grad_(False)


@torch.no_grad()
def opened(backbone: Backbone, *, size: float = 1.0, seed: int = 0) -> Backbone:
    """Open every site as its form allows: random writes in a contraction (of 1 the cut binds), a gate in the others."""
    if backbone.config.frames == "contraction":
        generator = torch.Generator().manual_seed(seed)
        for writes in backbone.frames_out.values():
            writes.copy_(size * torch.randn(writes.shape, generator=generator))
    else:
        backbone.gate.fill_(0.7)
    return backbone


@torch.no_grad()
def observed(model: nn.Module, backbone: Backbone) -> list[tuple[np.ndarray, np.ndarray]]:
    """(W, W') of every site."""
    backbone.prepare()
    found = []
    for site in backbone.sites:
        module = model.get_submodule(site.name)
        eye = torch.eye(site.d_in, dtype=torch.float64)
        changed = module(eye).mT.numpy()
        with backbone.bypass():
            found.append((module(eye).mT.numpy(), changed))
    return found


def norm(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(matrix, 2))


def assert_bounded(model: nn.Module, backbone: Backbone) -> None:
    """The theorem, on the dense matrices; and what the backbone says of itself agrees with them."""
    config, own = backbone.config, backbone.operator_norms()
    pairs = zip(observed(model, backbone), backbone.sites, backbone.report(), backbone.norms.tolist(), strict=True)
    with torch.no_grad():
        operators = backbone()
    for index, ((w, changed), _site, report, stored) in enumerate(pairs):
        delta = changed - w
        assert np.isfinite(delta).all()
        if config.frames != "light":
            assert norm(delta) <= config.strength * norm(w) * (1 + SLACK)
            assert norm(changed) <= (1 + config.strength) * norm(w) * (1 + SLACK)
            scale = config.strength * stored
            if config.frames == "contraction":
                assert 0 <= report.gate <= 1 + SLACK
                assert report.gate == pytest.approx(norm(delta) / scale if stored else 0.0, rel=1e-5, abs=1e-12)
            else:
                assert -1 <= report.gate <= 1
                scale *= abs(report.gate)
            assert own[index] <= 1 + SLACK
            if scale > 1e-30:
                assert norm(delta / scale) <= 1 + SLACK  # ‖B K A‖₂
                assert own[index] == pytest.approx(norm(delta / scale), rel=1e-5, abs=1e-12)
            if stored:
                assert report.relative_change == pytest.approx(norm(delta) / stored, rel=1e-5, abs=1e-12)
        else:
            assert 0 <= report.gate <= 1
            left, right = (x[index].double().numpy() for x in (operators.left, operators.right))
            c = np.eye(len(left)) + left @ right
            np.testing.assert_allclose(c @ w, changed, rtol=0, atol=1e-12)
            assert norm(c) <= 1 + SLACK
            assert norm(changed) <= norm(w) * (1 + SLACK)
            assert own[index] == pytest.approx(norm(c), abs=1e-6)
            assert report.relative_change == pytest.approx(norm(c - np.eye(len(c))), abs=1e-5)
    assert backbone.certificate().holds


# --- the bound -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [4, 16, 64])
def test_the_bound_holds_before_and_after_training(form: str, n: int):
    model, backbone = wide(form, n)
    assert_bounded(model, backbone)
    assert all(np.array_equal(w, changed) for w, changed in observed(model, backbone))
    train(model, backbone)
    moved = [norm(changed - w) > 1e-3 for w, changed in observed(model, backbone)]
    assert all(moved) if form == "contraction" else any(moved)
    assert_bounded(model, backbone)


def huge_logits(backbone: Backbone) -> None:
    backbone.logits.copy_(1e4 * torch.randn(backbone.logits.shape, generator=torch.Generator().manual_seed(0)))


def tied_logits(backbone: Backbone) -> None:
    backbone.logits.fill_(1e4)


def swapped_signs(backbone: Backbone) -> None:  # K = −I, the largest change there is
    n = backbone.config.directions
    backbone.logits.copy_(1e4 * torch.eye(2 * n).roll(n, dims=0))


def deficient_frames(backbone: Backbone) -> None:  # each write may be allowed alone, and all are the same one
    for frames in backbone.trained()[0].values():
        frames.copy_(frames[..., :1].expand_as(frames))


def zero_frames(backbone: Backbone) -> None:
    for frames in backbone.trained()[0].values():
        frames.zero_()


def zero_reads(backbone: Backbone) -> None:
    for frames in backbone.frames_in.values():
        frames.zero_()


def huge_frames(backbone: Backbone) -> None:
    for frames in backbone.trained()[0].values():
        frames.mul_(1e16)


def enormous_frames(backbone: Backbone) -> None:  # their squares are over float32's largest number
    for frames in backbone.trained()[0].values():
        frames.mul_(1e30)


def tiny_frames(backbone: Backbone) -> None:  # and here under its smallest
    for frames in backbone.trained()[0].values():
        frames.mul_(1e-30)


def random_steps(backbone: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter in parameters(backbone):
            parameter.sub_(1e6 * torch.randn(parameter.shape, generator=generator))
        backbone.retract_()


def everything_at_once(backbone: Backbone) -> None:
    huge_logits(backbone)
    deficient_frames(backbone)
    huge_frames(backbone)


ON_FRAMES = (deficient_frames, zero_frames, zero_reads, huge_frames, enormous_frames, tiny_frames)
ON_ALL = (huge_logits, tied_logits, swapped_signs, random_steps, everything_at_once)
HOSTILE = [(form, attack) for form in FORMS for attack in (ON_ALL if form == "light" else (*ON_FRAMES, *ON_ALL))]
SILENT = "model.layers.1.mlp.down_proj"  # a site with W = 0: what it may add is nothing at all


@pytest.mark.parametrize(("form", "attack"), HOSTILE)
@pytest.mark.parametrize("n", [4, 64])
@torch.no_grad()
def test_the_bound_holds_whatever_is_done_to_the_parameters(form: str, n: int, attack: Callable[[Backbone], None]):
    model, backbone = wide(form, n)
    opened(backbone)
    attack(backbone)
    for gate in (3.0,) if form == "contraction" else (3.0, -3.0, 0.7):  # a contraction must not mind what stands there
        backbone.gate.fill_(gate)
        assert_bounded(model, backbone)
        backbone.retract_()
        assert_bounded(model, backbone)


@pytest.mark.parametrize(("form", "attack"), [pair for pair in HOSTILE if pair[0] != "light"])
@torch.no_grad()
def test_a_site_whose_base_writes_nothing_stays_silent_whatever_is_done(form: str, attack: Callable[[Backbone], None]):
    model, backbone = attached(form, dtype=torch.float64, silent=(SILENT,))
    opened(backbone)
    attack(backbone)
    assert_bounded(model, backbone)
    for site, (_, changed), report in zip(backbone.sites, observed(model, backbone), backbone.report(), strict=True):
        if site.name == SILENT:
            assert not changed.any()
            assert math.isfinite(report.relative_change)
            assert form == "learnt" or report.gate == report.relative_change == 0


@pytest.mark.parametrize("form", LEARNT)
@torch.no_grad()
def test_the_bound_is_reached(form: str):
    """K = −I, fully open, moves W by exactly ρ ‖W‖₂: the bound is not met by doing nothing."""
    model, backbone = attached(form, 8, dtype=torch.float64)
    swapped_signs(opened(backbone))
    backbone.gate.fill_(1.0)
    for (w, changed), stored in zip(observed(model, backbone), backbone.norms.tolist(), strict=True):
        assert norm(changed - w) == pytest.approx(0.5 * stored, rel=1e-6)
        assert stored <= norm(w) * (1 + SLACK)
        assert stored == pytest.approx(norm(w), rel=0.02)
    assert backbone.operator_norms() == pytest.approx(1.0, abs=SLACK)
    assert [r.gate for r in backbone.report()] == pytest.approx([1.0] * len(backbone.sites), abs=SLACK)


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_the_bound_holds_for_what_the_factors_are_rounded_to(seed: int):
    """In a base of 16 bits they are applied rounded, which alone would break a bound that is reached."""
    model, backbone = attached("contraction", 4, dtype=torch.bfloat16, hidden=64)
    swapped_signs(opened(backbone, size=100.0, seed=seed))

    def worst() -> float:
        operators = backbone()
        return max(
            norm((le.bfloat16().double() @ r.bfloat16().double()).numpy()) / allowed
            for le, r, allowed in zip(operators.left, operators.right, backbone.allowed().tolist(), strict=True)
        )

    assert worst() <= 1.0
    assert backbone.operator_norms().max() == pytest.approx(worst())
    assert worst() > 0.97  # no more is given away than rounding could take
    backbone.applied = torch.float32
    assert worst() > 1.0 + SLACK
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("strength", [0.05, 0.5, 4.0])
@torch.no_grad()
def test_the_strength_is_what_a_contraction_may_add(strength: float):
    model, backbone = attached("contraction", 4, dtype=torch.float64, strength=strength)
    swapped_signs(opened(backbone, size=100.0))
    assert_bounded(model, backbone)
    assert [r.relative_change for r in backbone.report()] == pytest.approx([strength] * len(backbone.sites), rel=1e-5)
    assert backbone.allowed().tolist() == pytest.approx([strength * w for w in backbone.norms.tolist()])


@pytest.mark.parametrize("size", [1e-3, 1.0])
@torch.no_grad()
def test_a_contraction_is_the_map_its_formula_says(size: float):
    """W + ρ ‖W‖₂ · B K A from the stored numbers by NumPy's QR and SVD, B cut where it has to be."""
    model, backbone = attached("contraction", 4, dtype=torch.float64, hidden=64)
    opened(backbone, size=size)
    huge_logits(backbone)
    n, seen = 4, Counter[str]()
    mixing = backbone.mixing().double().numpy()
    ks = 0.5 * (mixing[:, :n, :n] - mixing[:, :n, n:] - mixing[:, n:, :n] + mixing[:, n:, n:])
    k0 = (math.exp(3) - 1) / (math.exp(3) + 2 * n - 1)
    for index, ((w, changed), site) in enumerate(zip(observed(model, backbone), backbone.sites, strict=True)):
        reads = backbone.frames_in[str(site.d_in)][seen[f"in {site.d_in}"]].double().numpy()
        writes = backbone.frames_out[str(site.d_out)][seen[f"out {site.d_out}"]].double().numpy()
        seen.update([f"in {site.d_in}", f"out {site.d_out}"])  # sites of one width stand together, in their order
        q, r = np.linalg.qr(reads)
        a = (q * np.sign(np.diag(r))).T
        limit = 0.5 * backbone.norms[index].item()
        b = 2 / k0 * writes
        assert (norm(b) > limit) == (size == 1.0)
        delta = b * min(1.0, limit / norm(b)) @ ks[index] @ a
        np.testing.assert_allclose(changed - w, delta, rtol=0, atol=1e-6 * norm(b) if size < 1 else 1e-6 * limit)


@torch.no_grad()
def test_a_contraction_under_its_limit_is_not_touched():
    """ΔW is linear in B until ‖B‖₂ is 1, and from there on stays where it is, however long B grows."""
    model, backbone = attached("contraction", 4, dtype=torch.float64)
    swapped_signs(opened(backbone))  # K = −I: ‖B K A‖₂ = ‖B‖₂
    unit = {w: f / (_widest(backbone) / backbone.allowed().min()) for w, f in backbone.frames_out.items()}
    found = []
    for size in (0.25, 0.5, 1e3, 1e9):
        for width, writes in backbone.frames_out.items():
            writes.copy_(size * unit[width])
        found.append([changed - w for w, changed in observed(model, backbone)])
    for quarter, half, cut, far in zip(*found, strict=True):
        np.testing.assert_allclose(half, 2 * quarter, rtol=0, atol=1e-6 * norm(half))
        np.testing.assert_allclose(far, cut, rtol=0, atol=1e-6 * norm(cut))
        cosine = (quarter * cut).sum() / np.linalg.norm(quarter) / np.linalg.norm(cut)
        assert cosine == pytest.approx(1.0, abs=1e-6), "the cut changed the direction"
        assert norm(cut) > 1.9 * norm(half)


def _widest(backbone: Backbone) -> Tensor:
    """The largest ‖scaled B‖₂ before any cut: that of an operator of hardly any length, grown back."""
    kept = {w: f.clone() for w, f in backbone.frames_out.items()}
    for writes in backbone.frames_out.values():
        writes.mul_(1e-9)
    norms = torch.stack([torch.linalg.matrix_norm(x, 2) for x in backbone().left])
    for width, writes in backbone.frames_out.items():
        writes.copy_(kept[width])
    return norms.max() * 1e9


@pytest.mark.parametrize("form", LEARNT)
def test_learning_at_a_rate_of_a_million_stays_bounded_or_says_it_diverged(form: str):
    model, backbone = attached(form, 4, dtype=torch.float64)
    try:
        train(model, backbone, lr=1e6)
    except TrainingDivergedError:
        return
    assert_bounded(model, backbone)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_mixing_measures_the_distance_from_the_identity(form: str):
    _, backbone = attached(form)
    n = backbone.config.directions
    backbone.logits.copy_(1e4 * torch.eye(2 * n))
    assert all(r.mixing < 1e-6 and r.sigma2 == pytest.approx(1) for r in backbone.report())
    tied_logits(backbone)
    assert all(r.mixing == pytest.approx(1) and r.sigma2 < 1e-6 for r in backbone.report())


@torch.no_grad()
def test_fixed_frames_that_are_not_orthonormal_do_not_pass_for_bounded():
    """The light form applies its frames as they are: a tampered snapshot must show in the norm."""
    _, backbone = attached("light")
    huge_logits(backbone)
    backbone.gate.fill_(1.0)
    state = backbone.state()
    for name in (k for k in state if k.startswith("frames_out")):
        state[name] = state[name] * np.array([3, 0.5, 2, 1], dtype=np.float32)
    backbone.load(state)
    with torch.no_grad():
        operators = backbone()
    dense = [np.eye(len(le)) + (le @ r).double().numpy() for le, r in zip(operators.left, operators.right, strict=True)]
    assert backbone.operator_norms() == pytest.approx([norm(c) for c in dense], rel=1e-6)
    assert (backbone.operator_norms() > 1.5).all()


# --- distances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_distance_is_the_norm_of_the_difference_and_bounds_every_write(form: str):
    model, backbone = attached(form, 4, dtype=torch.float64)
    train(model, backbone, seed=0)
    a, seen_a = backbone.state(), observed(model, backbone)
    train(model, backbone, seed=50)
    b, seen_b = backbone.state(), observed(model, backbone)
    between = distance(backbone, a, b)
    assert all(np.array_equal(b[k], v) for k, v in backbone.state().items()), "distance left other numbers behind"
    x = np.random.default_rng(0).standard_normal((50, 64))
    for (w, w_a), (_, w_b), delta, stored in zip(seen_a, seen_b, between, backbone.norms.tolist(), strict=True):
        if form == "light":  # the distance is that of C: ‖(C_a − C_b) W x‖ ≤ ‖C_a − C_b‖ ‖W x‖
            assert np.linalg.matrix_rank(w) == len(w)  # so that C is seen on all of its space
            change, bound, reads = (w_a - w_b) @ np.linalg.pinv(w), delta, x[:, : w.shape[1]] @ w.T
        else:
            change, bound, reads = w_a - w_b, delta * stored, x[:, : w.shape[1]]
        assert delta > 1e-4 or form == "light"  # whose gates may stay shut
        assert bound == pytest.approx(norm(change), rel=1e-5)
        moved = np.linalg.norm(reads @ change.T, axis=1)
        assert (moved <= bound * np.linalg.norm(reads, axis=1) * (1 + SLACK)).all()
    assert (between > 1e-4).sum() >= 4
    assert distance(backbone, b, b) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("form", LEARNT)
def test_the_ends_of_an_interpolation_are_exact_and_its_middle_lies_between(form: str):
    model, backbone = attached(form, dtype=torch.float64)
    train(model, backbone, seed=20)
    old = backbone.state()
    train(model, backbone)
    new = backbone.state()
    for share, end in ((0.0, old), (1.0, new)):
        found = interpolate(old, new, share)
        assert all(np.array_equal(found[k], end[k]) for k in end)
    backbone.load(interpolate(old, new, 0.5))
    backbone.retract_()
    assert_bounded(model, backbone)
    middle = backbone.state()
    moved = "gate" if form == "learnt" else "frames_out.32"
    assert np.abs(new[moved] - old[moved]).max() > 1e-3
    np.testing.assert_allclose(middle[moved], (old[moved] + new[moved]) / 2, atol=1e-7)
    halves = distance(backbone, old, middle), distance(backbone, middle, new)
    assert all((half < distance(backbone, old, new)).all() for half in halves)


@pytest.mark.parametrize("form", LEARNT)
def test_a_base_that_writes_nothing_has_no_distance(form: str):
    model, backbone = attached(form, silent=("model.layers.0.self_attn.o_proj", SILENT))
    old = backbone.state()
    train(model, backbone)
    between = distance(backbone, old, backbone.state())
    assert np.isfinite(between).all()
    still = {s.name for s, moved in zip(backbone.sites, between, strict=True) if moved == 0}
    # What reads for attention that writes nothing is not heard, and learns nothing.
    first = "model.layers.0.self_attn"
    assert still == {SILENT, f"{first}.o_proj", f"{first}.q_proj", f"{first}.v_proj"}
    assert all(np.isfinite([r.gate, r.relative_change]).all() for r in backbone.report())


# --- retraction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_retracting_changes_the_numbers_and_not_the_map(form: str):
    model, backbone = attached(form, 4, dtype=torch.float64)
    train(model, backbone)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for frames in backbone.trained()[0].values():  # X and X R have the same Q where R's diagonal is positive
            n = frames.shape[-1]
            frames.copy_(frames @ (torch.randn(n, n, generator=generator).triu(1) + 2 * torch.eye(n)))
        backbone.gate.add_(0.01).mul_(100 * 8)
    before, raw = observed(model, backbone), backbone.state()
    backbone.retract_()
    after, once = observed(model, backbone), backbone.state()
    assert any(np.abs(raw[k] - once[k]).max() > 0.1 for k in once)
    for (w, old), (_, new) in zip(before, after, strict=True):
        assert norm(new - old) <= 1e-6 * norm(w)
    backbone.retract_()
    for name, value in backbone.state().items():
        np.testing.assert_allclose(value, once[name], rtol=0, atol=1e-6)
    assert np.abs(once["gate"]).max() <= 1


def test_what_a_contraction_writes_is_left_alone_by_retracting():
    """Adam's moments belong to the numbers as they are: cut is the operator, never the parameter."""
    model, backbone = attached("contraction", dtype=torch.float64)
    train(model, backbone)
    opened(backbone, size=100.0)
    before = backbone.state()
    backbone.retract_()
    assert_bounded(model, backbone)
    assert all(np.array_equal(v, before[k]) for k, v in backbone.state().items() if k.startswith("frames_out"))


@pytest.mark.parametrize("form", LEARNT)
@pytest.mark.parametrize("name", ["logits", "gate", "frames_in.32", "frames_out.32"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(form: str, name: str, bad: float):
    _, backbone = attached(form)
    dict(backbone.named_parameters())[name].data.view(-1)[3] = bad
    with pytest.raises(TrainingDivergedError) as caught:
        backbone.retract_()
    assert caught.value.where == name


# --- numbers in and out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_state_round_trips_bit_for_bit(form: str):
    model, backbone = attached(form)
    train(model, backbone)
    state, logits = backbone.state(), model(ids()).logits
    other_model, other = attached(form, seed=9)
    assert not torch.equal(other_model(ids()).logits, logits)
    for value in state.values():
        value.setflags(write=False)  # as a memory-mapped snapshot is
    other.load(state)
    assert all(np.array_equal(other.state()[k], state[k]) for k in state)
    assert torch.equal(other_model(ids()).logits, logits)


@pytest.mark.parametrize("form", FORMS)
def test_a_state_is_a_copy(form: str):
    model, backbone = attached(form)
    state = backbone.state()
    kept = copy.deepcopy(state)
    train(model, backbone)
    assert all(np.array_equal(state[k], kept[k]) for k in kept)
    moved = "frames_out.32" if form == "contraction" else "gate"
    assert not np.array_equal(backbone.state()[moved], kept[moved])


@pytest.mark.parametrize("foreign", ["other n", "other form", "one missing", "one too many"])
def test_a_state_of_another_shape_is_refused_and_changes_nothing(foreign: str):
    _, backbone = attached("contraction", 4)
    own = backbone.state()
    match foreign:
        case "other n":
            state = attached("contraction", 8)[1].state()
        case "other form":
            state = attached("light", 4)[1].state()
        case "one missing":
            state = {k: v + 1 for k, v in own.items() if k != "gate"}
        case _:
            state = {**{k: v + 1 for k, v in own.items()}, "extra": np.zeros(1)}
    with pytest.raises(ConfigError, match="does not fit"):
        backbone.load(state)
    assert all(np.array_equal(backbone.state()[k], own[k]) for k in own)


def test_more_directions_than_a_site_is_wide_are_refused():
    with pytest.raises(ConfigError, match="narrowest"):
        attached("contraction", 33, hidden=32)


@pytest.mark.parametrize("form", FORMS)
def test_every_number_has_a_layer(form: str):
    _, backbone = attached(form)
    layers = backbone.layers()
    assert set(layers) >= {k for part in backbone.trained() for k in part}
    named = dict(backbone.named_parameters())
    assert all(len(layers[k]) == named[k].shape[0] for k in layers if k in named)
    assert layers["logits"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert layers["frames_out.16"] == [0, 1]  # the values' sites


# --- in the model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_before_it_learns_the_model_is_the_base_and_the_bypass_gives_the_base_back(form: str, dtype: torch.dtype):
    base = toy_model(dtype=dtype)(ids()).logits
    model, backbone = attached(form, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(model(ids()).logits, base)
    model.train()
    for parameter in parameters(backbone):
        parameter.requires_grad_(True)
    assert torch.equal(model(ids()).logits, base)
    train(model, backbone, lr=0.5)
    model.eval()
    changed = model(ids()).logits
    assert (changed.float() - base.float()).abs().max() > 1e-2
    with backbone.bypass():
        assert torch.equal(model(ids()).logits, base)
        with backbone.bypass():
            pass
        assert torch.equal(model(ids()).logits, base), "an inner bypass ended the outer one"
    assert torch.equal(model(ids()).logits, changed)


def test_an_error_inside_a_bypass_ends_it():
    model, backbone = attached("contraction")
    train(model, backbone)
    changed = model(ids()).logits
    with pytest.raises(ZeroDivisionError), backbone.bypass():
        _ = 1 / 0
    assert torch.equal(model(ids()).logits, changed)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    calls: list[torch.Size] = []
    real = backbone_module.project_to_birkhoff

    def project(logits: Tensor, *, sweeps: int = 5) -> Tensor:
        calls.append(logits.shape)
        return real(logits, sweeps=sweeps)

    with monkeypatch.context() as patch:
        patch.setattr(backbone_module, "project_to_birkhoff", project)
        yield calls


@pytest.mark.parametrize("form", LEARNT)
def test_one_projection_serves_a_whole_forward_and_later_ones_until_a_number_changes(
    form: str, monkeypatch: pytest.MonkeyPatch
):
    model, backbone = attached(form)
    train(model, backbone)
    with counted(monkeypatch) as calls:
        first = model(ids()).logits
        assert calls == [backbone.logits.shape]
        for _ in range(3):
            model(ids(1))
        model.generate(ids(), max_new_tokens=4, do_sample=False, pad_token_id=0)  # pyright: ignore[reportCallIssue]
        with backbone.bypass():
            model(ids())
        assert len(calls) == 1
        with torch.no_grad():
            for changes, parameter in enumerate(parameters(backbone), start=2):
                parameter.mul_(1.5) if parameter is not backbone.gate else parameter.mul_(0.5)
                parameter[0].add_(torch.linspace(0, 0.3, parameter[0].numel()).reshape(parameter[0].shape))
                second = model(ids()).logits
                assert len(calls) == changes
                assert not torch.equal(second, first), "a stale operator was used"
                first = second
        state = backbone.state()
        shut = "frames_out" if form == "contraction" else "gate"
        state |= {k: v * 0 for k, v in state.items() if k.startswith(shut)}
        backbone.load(state)
        assert torch.equal(model(ids()).logits, toy_model()(ids()).logits)


def test_one_projection_serves_a_training_forward_and_none_of_it_is_kept(monkeypatch: pytest.MonkeyPatch):
    model, backbone = attached("contraction")
    for parameter in parameters(backbone):
        parameter.requires_grad_(True)
    with counted(monkeypatch) as calls:
        for _ in range(3):
            model(ids(), labels=ids()).loss.backward()
        assert len(calls) == 3


@pytest.mark.parametrize("form", ["learnt", "light"])
def test_gradients_reach_the_gate_first_and_then_everything(form: str):
    model, backbone = attached(form)
    named = asking_for_gradients(model, backbone)
    assert any(k.startswith("frames") for k in named) == (form == "learnt")
    model(ids(), labels=ids()).loss.backward()
    gate = backbone.gate.grad
    assert gate is not None
    assert (gate != 0).all()
    for name, parameter in named.items():
        assert name == "gate" or parameter.grad is None or not parameter.grad.any()
    with torch.no_grad():
        backbone.gate.sub_(0.1 * gate.sign())
    backbone.retract_()
    model.zero_grad()
    model(ids(), labels=ids()).loss.backward()
    moved = backbone.effective_gate() != 0
    assert moved.any()
    if form == "learnt":
        assert moved.all(), "a gate may turn negative, so every site learns"
        frames, _ = backbone.trained()
        assert all(f.grad is not None and f.grad.flatten(1).any(dim=1).all() for f in frames.values())
    assert backbone.logits.grad is not None
    assert torch.equal(backbone.logits.grad.flatten(1).any(dim=1), moved)


@pytest.mark.parametrize("form", [*FORMS, "lora"])
@pytest.mark.parametrize("mixing", ["doubly-stochastic", "none"])
def test_an_attached_backbone_asks_for_gradients_of_what_is_trained_and_nothing_else(form: str, mixing: str):
    """One number more, and a backbone held still would make its operators anew for every forward."""
    _, backbone = attached(form, mixing=mixing)
    asking = {k for k, p in backbone.named_parameters() if p.requires_grad}
    assert asking == {k for part in backbone.trained() for k in part}


def asking_for_gradients(model: nn.Module, backbone: Backbone) -> dict[str, nn.Parameter]:
    """The trained parameters by name, all asking for a gradient and nothing else in the model doing so."""
    frames, mixing = backbone.trained()
    named = {**frames, **mixing}
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is p for p in named.values()))
    assert [k for k, p in model.named_parameters() if p.requires_grad] == [
        f"crma_backbone.{k}" for k, _ in backbone.named_parameters() if k in named
    ]
    return named


@pytest.mark.parametrize("mixing", ["doubly-stochastic", "none"])
def test_in_a_contraction_the_first_gradient_reaches_every_write_and_the_second_everything(mixing: str):
    """One step along what the first backward gives is all that is needed: nothing else holds a site shut."""
    model, backbone = attached("contraction", mixing=mixing)
    named = asking_for_gradients(model, backbone)
    assert set(named) == {"frames_in.32", "frames_in.64", "frames_out.16", "frames_out.32"} | (
        {"logits"} if mixing == "doubly-stochastic" else set()
    )
    before = model(ids(), labels=ids()).loss
    before.backward()
    for name, parameter in named.items():
        if name.startswith("frames_out"):
            assert parameter.grad is not None
            assert parameter.grad.flatten(1).any(dim=1).all()
            assert parameter.grad.any(dim=1).all(), "a direction of a site learns nothing"
        else:
            assert parameter.grad is None or not parameter.grad.any()
    with torch.no_grad():
        for parameter in named.values():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    backbone.retract_()
    model.zero_grad()
    after = model(ids(), labels=ids()).loss
    assert after < before, "not along the loss's gradient"
    after.backward()
    assert all(p.grad is not None and p.grad.flatten(1).any(dim=1).all() for p in named.values())
    assert backbone.gate.grad is None


def test_a_contraction_with_a_base_that_writes_nothing_learns_at_the_other_sites():
    model, backbone = attached("contraction", silent=(SILENT,))
    train(model, backbone)
    named = asking_for_gradients(model, backbone)
    model(ids(), labels=ids()).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in named.values())
    for width in (16, 32):
        grad = backbone.frames_out[str(width)].grad
        assert grad is not None
        names = [s.name for s in backbone.sites if s.d_out == width]
        assert grad.flatten(1).any(dim=1).tolist() == [name != SILENT for name in names]


@pytest.mark.parametrize("times", [10.0, 1e4])
def test_where_the_cut_binds_the_gradient_does_not_vanish(times: float):
    """Beyond the limit the factor that cuts is a constant: the gradient is that at the limit divided by how far beyond,
    and keeps its part along B itself, which the map's own slope has not. Else what was cut could never come back."""

    def gradient(size: float) -> tuple[Tensor, Tensor]:
        model, backbone = attached("contraction", dtype=torch.float64, where="residual-writes")
        opened(backbone)
        with torch.no_grad():
            limit = (backbone.allowed() / _norms_before_the_cut(backbone))[:, None, None]
            backbone.frames_out["32"].mul_(limit * size)
        asking_for_gradients(model, backbone)
        model(ids(), labels=ids()).loss.backward()
        writes = backbone.frames_out["32"]
        assert writes.grad is not None
        return writes.detach(), writes.grad

    _, inside = gradient(1 - 1e-6)
    writes, beyond = gradient(times)
    torch.testing.assert_close(times * beyond, inside, rtol=1e-3, atol=1e-4 * inside.abs().max().item())
    along = (writes * beyond).sum(dim=(1, 2)) / writes.flatten(1).norm(dim=1) / beyond.flatten(1).norm(dim=1)
    assert (along.abs() > 1e-3).all()


@torch.no_grad()
def _norms_before_the_cut(backbone: Backbone) -> Tensor:
    """‖(2 / K₀) B‖₂ [S], with K₀ the diagonal with which K begins, as the first logits make it without their noise."""
    n, c = backbone.config.directions, backbone.config.diagonal
    first = project_to_birkhoff(c * torch.eye(2 * n))
    k0 = 0.5 * (first[0, 0] - first[0, n] - first[n, 0] + first[n, n])
    return torch.linalg.matrix_norm(2 / k0 * backbone.frames_out["32"], 2)


@pytest.mark.parametrize("form", LEARNT)
def test_frames_alone_can_be_trained(form: str):
    """The operators follow whatever needs a gradient: an ablation may hold the mixing still."""
    model, backbone = attached(form)
    train(model, backbone)
    frames, _ = backbone.trained()
    for parameter in frames.values():
        parameter.requires_grad_(True)
    model(ids(), labels=ids()).loss.backward()
    assert all(f.grad is not None and f.grad.any() for f in frames.values())


@pytest.mark.parametrize("form", LEARNT)
def test_gradients_are_the_slopes_of_the_loss(form: str):
    """Central differences along each kind of parameter's own gradient, in a float64 model."""
    model, backbone = attached(form, dtype=torch.float64)
    train(model, backbone)
    share = 0.03
    if form == "contraction":  # inside the limit, where no cut is held for a constant
        opened(backbone, size=2e-3)
        assert max(r.gate for r in backbone.report()) < 0.7
    sizes = {
        id(p): 1e-3 if p is backbone.frames_out["32"] and form == "contraction" else share for p in parameters(backbone)
    }

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(ids()).logits[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())

    for parameter in parameters(backbone):
        parameter.requires_grad_(True)
    loss().backward()
    for parameter in parameters(backbone):
        assert parameter.grad is not None
        length, size = parameter.grad.norm(), sizes[id(parameter)]
        step = size * parameter.grad / length  # large beside the operators' float32, small beside the curvature
        with torch.no_grad():
            parameter.add_(step)
            above = loss().item()
            parameter.sub_(2 * step)
            below = loss().item()
            parameter.add_(step)
        assert (above - below) / (2 * size) == pytest.approx(length.item(), rel=0.01)


# --- how fast it begins --------------------------------------------------------------------------------------------


def first_gradient(form: str, c: float, n: int, **changes: Any) -> Tensor:
    """∂loss/∂B [S, d, 4] at the start, of the first 4 directions: with A = [I, 0] always the same reads."""
    model, backbone = attached(form, n, dtype=torch.float64, diagonal=c, **changes)
    with torch.no_grad():
        backbone.logits.copy_((c * torch.eye(2 * n)).expand_as(backbone.logits))
        for width, reads in backbone.frames_in.items():
            reads.copy_(torch.eye(int(width))[:, :n].expand_as(reads))
    writes = backbone.frames_out["32"].requires_grad_(True)
    model(ids(), labels=ids()).loss.backward()
    assert writes.grad is not None
    return writes.grad[..., :4]


@pytest.mark.parametrize("mixing", ["doubly-stochastic", "free", "row-stochastic", "none"])
@pytest.mark.parametrize(("c", "n"), [(1.0, 4), (3.0, 4), (8.0, 4), (3.0, 16), (1.0, 32)])
def test_a_contraction_begins_as_a_lora_does_whatever_the_diagonal_and_the_directions(c: float, n: int, mixing: str):
    """K begins at K₀ I with K₀ from 0.03 to 0.99 here; B is read in units that undo it, so one rate serves all."""
    torch.testing.assert_close(
        first_gradient("contraction", c, n, mixing=mixing), first_gradient("lora", 3.0, 4), rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("c", [0.0, 800.0])
def test_a_diagonal_at_the_edge_is_refused_or_serves(c: float):
    try:
        config = BackboneConfig(directions=4, diagonal=c)
    except ValidationError:
        return
    model = toy_model()
    backbone = opened(attach_backbone(model, config))
    with torch.no_grad():
        assert torch.isfinite(model(ids()).logits).all()
    assert backbone.operator_norms().max() <= 1 + SLACK


# --- beside the rest -----------------------------------------------------------------------------------------------


def test_checkpointed_gradients_are_the_plain_ones():
    gradients = []
    for checkpointed in (False, True):
        model, backbone = attached("contraction")
        train(model, backbone)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
        model.train()
        for parameter in parameters(backbone):
            parameter.requires_grad_(True)
        model(ids(), labels=ids()).loss.backward()
        gradients.append([p.grad for p in parameters(backbone)])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=1e-7)


def test_a_forward_in_inference_mode_leaves_nothing_that_stops_training():
    """An adapter is trained on a backbone that is held: its backward needs the operators an evaluation made."""
    model, backbone = attached("contraction")
    train(model, backbone)
    with torch.inference_mode():
        model(ids())
    adapters = Adapters(model)
    adapters.add("a", AdapterConfig(rank=2))
    adapters.activate("a")
    lora = adapters.parameters("a")
    for parameter in lora.values():
        parameter.requires_grad_(True)
    model(ids(), labels=ids()).loss.backward()
    assert all(p.grad is not None for p in lora.values())
    assert all(not p.requires_grad for p in parameters(backbone))


def test_under_autocast_the_operators_stay_float32():
    model, backbone = attached("contraction")
    train(model, backbone)
    plain = backbone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        operators = backbone()
    for one, other in zip([*operators.left, *operators.right], [*plain.left, *plain.right], strict=True):
        assert torch.equal(one, other)


def test_a_second_backbone_and_one_over_a_lora_are_refused():
    model, _ = attached("contraction")
    with pytest.raises(BaseModelError, match="already"):
        attach_backbone(model, BackboneConfig(directions=4))
    plain = toy_model()
    Adapters(plain).add("a", AdapterConfig(rank=2))
    with pytest.raises(BaseModelError, match="a LoRA is in the model"):
        attach_backbone(plain, BackboneConfig(directions=4))


def test_a_block_called_without_its_decoder_is_refused():
    model, backbone = attached("contraction")
    with pytest.raises(RuntimeError, match="call the model"):
        model.get_submodule(backbone.sites[0].name)(torch.zeros(1, 32))


def test_the_same_seed_gives_the_same_backbone():
    one, two, other = (attached("contraction", seed=s)[1].state() for s in (3, 3, 4))
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert not np.array_equal(one["logits"], other["logits"])
    assert not np.array_equal(one["frames_in.32"], other["frames_in.32"])


@torch.no_grad()
def test_half_of_a_move_far_beyond_the_limit_is_half_of_it():
    """What the forward cuts off does nothing; without `cut_` a half of it would be cut to nearly the whole move."""
    _, backbone = attached("contraction")
    old = backbone.state()
    for value in backbone.frames_out.values():
        value.copy_(1e4 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0)))
    before = [x.clone() for x in backbone().left]
    whole = distance(backbone, old, backbone.state())
    backbone.cut_()
    assert all(torch.allclose(x, y, rtol=1e-5) for x, y in zip(backbone().left, before, strict=True))
    half = distance(backbone, old, interpolate(old, backbone.state(), 0.5))
    assert half == pytest.approx(whole / 2, rel=1e-4)
