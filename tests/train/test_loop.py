"""The training loop on a toy: what it trains, how it clips, that it repeats, stops and goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import toy_model

from crma.data.batches import Plan, plan_batches
from crma.errors import TrainingDivergedError
from crma.model.adapters import AdapterConfig, Adapters
from crma.model.backbone import BackboneConfig, attach_backbone
from crma.train.loop import Checkpoint, Group, LoopConfig, StepReport, fit, learning_rate_share
from crma.train.objectives import answer_losses, collate


@dataclass(frozen=True)
class Tokens:
    input_ids: tuple[int, ...]
    supervised: tuple[bool, ...]


def rows_of(count: int, seed: int = 0) -> list[Tokens]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        prompt, answer = torch.randint(2, 9, (2,), generator=generator).tolist()
        ids = torch.randint(5, 40, (prompt + answer,), generator=generator).tolist()
        rows.append(Tokens(tuple(ids), (False,) * prompt + (True,) * answer))
    return rows


ROWS = rows_of(11)
PLAN = plan_batches([len(r.input_ids) for r in ROWS], batch_size=8, epochs=4, seed=0)  # 8 steps, each second of 3 rows


class Learner:
    """A toy with a backbone and a LoRA, both away from their zeros, so that every parameter has a gradient."""

    def __init__(self, *, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **shape) -> None:
        self.model = toy_model(dtype=dtype)
        self.backbone = attach_backbone(self.model, BackboneConfig(directions=4, **shape))
        self.adapters = Adapters(self.model)
        self.adapters.add("a", AdapterConfig(rank=2, dropout=dropout), seed=1)
        self.adapters.activate("a")
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for writes in self.backbone.frames_out.values():
                writes.copy_(0.002 * torch.randn(writes.shape, generator=generator))
            for name, parameter in self.adapters.parameters("a").items():
                if name.endswith("lora_B"):
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        self.reports: list[StepReport] = []
        self.checkpoints: list[Checkpoint] = []

    def groups(self, lr: float = 1e-2) -> list[Group]:
        frames, mixing = self.backbone.trained()
        layers = self.backbone.layers()
        return [
            Group(name="adapter", side="adapter", lr=lr, parameters=self.adapters.parameters("a")),
            Group(name="frames", side="backbone", lr=lr, parameters=frames, layers=layers),
            Group(name="mixing", side="backbone", lr=2 * lr, parameters=mixing, layers=layers),
        ]

    def fit(self, plan: Plan = PLAN, *, lr: float = 1e-2, every: int = 100, groups=None, **options) -> Learner:
        start, after = options.pop("start", None), options.pop("after", lambda: None)
        groups = groups or self.groups(lr)

        def after_update() -> None:
            if any(g.side == "backbone" for g in groups):
                self.backbone.retract_()
            after()

        fit(
            self.model,
            self.model.get_output_embeddings(),
            ROWS,
            plan,
            groups,
            config=LoopConfig(**options),
            accelerator=Accelerator(),
            pad_id=0,
            on_step=self.reports.append,
            after_update=after_update,
            checkpoint_due=lambda step: step % every == 0,
            on_checkpoint=self.checkpoints.append,
            start=start,
        )
        return self

    @property
    def losses(self) -> list[float]:
        return [r.loss for r in self.reports]

    def trained(self) -> dict[str, torch.Tensor]:
        return {f"{g.name}/{n}": p.detach().clone() for g in self.groups() for n, p in g.parameters.items()}

    def frozen(self) -> dict[str, torch.Tensor]:
        trained = {id(p) for g in self.groups() for p in g.parameters.values()}
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if id(p) not in trained}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- what is learnt ------------------------------------------------------------------------------------------------


def test_it_learns_and_reports_each_step():
    learner = Learner().fit()
    assert [r.step for r in learner.reports] == list(range(1, 9))
    assert {r.steps for r in learner.reports} == {8}
    assert [r.epoch for r in learner.reports] == [s / 2 for s in range(1, 9)]
    for report, indices in zip(learner.reports, PLAN.steps, strict=True):
        assert report.tokens == sum(len(ROWS[i].input_ids) for i in indices)
        assert report.supervised == sum(sum(ROWS[i].supervised[1:]) for i in indices)
        assert report.lr["mixing"] == pytest.approx(2 * report.lr["adapter"])
        assert report.seconds > 0
    assert sum(learner.losses[-2:]) < sum(learner.losses[:2])


def test_the_first_loss_is_the_mean_over_the_steps_answer_tokens():
    learner = Learner()
    batch = collate([ROWS[i] for i in PLAN.steps[0]], pad_id=0, device=torch.device("cpu"))
    expected = answer_losses(learner.model, learner.model.get_output_embeddings(), batch).mean().item()
    assert learner.fit(PLAN.cut(0, 1)).losses[0] == pytest.approx(expected, abs=1e-6)


def test_only_the_groups_learn_and_the_base_stays_bit_for_bit():
    learner = Learner(dtype=torch.bfloat16)
    base, before = learner.frozen(), learner.trained()
    seen = []
    learner.fit(after=lambda: seen.append({n for n, p in learner.model.named_parameters() if p.requires_grad}))
    assert all(len(s) == len(before) for s in seen)
    assert not any("base_layer" in n or "embed" in n for n in seen[0])
    assert same(base, learner.frozen())
    assert not any(torch.equal(before[k], v) for k, v in learner.trained().items())
    assert all(v.dtype == torch.float32 for v in learner.trained().values())
    assert not any(p.requires_grad or p.grad is not None for p in learner.model.parameters())
    assert not learner.model.training


def test_without_mixing_the_frames_learn_and_the_logits_stay():
    learner = Learner(mixing="none")
    before = learner.backbone.state()
    assert learner.groups()[2].parameters == {}
    learner.fit()
    after = learner.backbone.state()
    moved = {k for k in after if (after[k] != before[k]).any()}
    assert moved == {"frames_in.32", "frames_in.64", "frames_out.16", "frames_out.32"}
    assert sum(learner.losses[-2:]) < sum(learner.losses[:2])


def test_a_phase_without_the_backbone_leaves_it_alone():
    learner = Learner()
    before = learner.backbone.state()
    learner.fit(groups=learner.groups()[:1])
    assert all((before[k] == v).all() for k, v in learner.backbone.state().items())
    assert set(learner.reports[0].grad_norm) == {"adapter"}


def test_a_parameter_the_loss_does_not_reach_is_left_where_it_was():
    learner = Learner()
    stray = nn.Parameter(torch.ones(3))
    groups = [*learner.groups(), Group(name="stray", side="stray", lr=1.0, parameters={"stray": stray})]
    learner.fit(groups=groups, every=8)
    assert torch.equal(stray, torch.ones(3))
    assert learner.reports[0].grad_norm["stray"] == 0.0
    assert "stray/stray/exp_avg" in learner.checkpoints[0].tensors


# --- steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_parts_of_a_step_add_up_to_it(size):
    whole, parts = Learner().fit(micro_batch_size=8), Learner().fit(micro_batch_size=size)
    assert parts.losses == pytest.approx(whole.losses, abs=1e-5)
    for a, b in zip(whole.reports, parts.reports, strict=True):
        assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-4)
        assert (a.tokens, a.supervised) == (b.tokens, b.supervised)
    for name, value in whole.trained().items():
        torch.testing.assert_close(parts.trained()[name], value, rtol=0, atol=1e-4)


def test_gradient_checkpointing_changes_memory_not_numbers():
    plain, saving = Learner().fit(), Learner().fit(gradient_checkpointing=True)
    assert saving.losses == pytest.approx(plain.losses, abs=1e-6)
    assert not saving.model.is_gradient_checkpointing


@given(steps=st.integers(1, 500), warmup=st.floats(0, 1))
def test_the_learning_rate_rises_then_falls(steps, warmup):
    shares = [learning_rate_share(s, steps, warmup) for s in range(steps)]
    assert all(0 < s <= 1 for s in shares)
    rising = round(warmup * steps)
    assert shares[:rising] == pytest.approx([(s + 1) / rising for s in range(rising)])
    assert shares[rising:] == sorted(shares[rising:], reverse=True)
    if rising < steps:
        assert shares[rising] == 1.0
        assert learning_rate_share(steps, steps, warmup) == pytest.approx(0.0, abs=1e-12)


def test_the_learning_rate_at_known_points():
    shares = [learning_rate_share(s, 12, 1 / 6) for s in range(12)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[7] == pytest.approx(0.5)  # half way down
    assert shares[11] == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    reports = Learner().fit(warmup=0.25).reports
    assert [r.lr["frames"] for r in reports] == pytest.approx(
        [1e-2 * learning_rate_share(s, 8, 0.25) for s in range(8)]
    )


# --- norms and clipping --------------------------------------------------------------------------------------------


def test_norms_a_side_and_a_layer_are_the_gradients_own():
    learner = Learner()
    groups = learner.groups()
    batch = collate([ROWS[i] for i in PLAN.steps[0]], pad_id=0, device=torch.device("cpu"))
    parameters = [(g, n, p.requires_grad_(True)) for g in groups for n, p in g.parameters.items()]
    loss = answer_losses(learner.model, learner.model.get_output_embeddings(), batch).mean()
    expected: dict[tuple[str, str], float] = {}
    for (group, name, p), g in zip(parameters, torch.autograd.grad(loss, [p for *_, p in parameters]), strict=True):
        if group.side == "adapter":
            layer = name.split("layers.")[1].split(".")[0]
            expected["adapter", layer] = expected.get(("adapter", layer), 0.0) + float(g.square().sum())
        else:
            for site, layer in enumerate(learner.backbone.layers()[name]):
                key = ("backbone", str(layer))
                expected[key] = expected.get(key, 0.0) + float(g[site].square().sum())
        assert p.grad is None
    report = Learner().fit(PLAN.cut(0, 1)).reports[0]
    found = {(side, k): v**2 for side, layers in report.grad_norm_layers.items() for k, v in layers.items()}
    assert found == pytest.approx(expected, rel=1e-4)
    assert set(found) == {(side, layer) for side in ("adapter", "backbone") for layer in "01"}


def test_layers_sum_in_squares_to_their_side():
    for report in Learner().fit().reports:
        for side, norm in report.grad_norm.items():
            assert norm > 0
            assert sum(v**2 for v in report.grad_norm_layers[side].values()) == pytest.approx(norm**2, rel=1e-6)


def test_each_side_is_clipped_for_itself(monkeypatch):
    stepped: list[dict[str, float]] = []
    real = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        adapter, *backbone = [math.fsum(float(p.grad.square().sum()) for p in g["params"]) for g in self.param_groups]
        stepped.append({"adapter": math.sqrt(adapter), "backbone": math.sqrt(sum(backbone))})
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    free = Learner().fit(PLAN.cut(0, 1), clip=1e9).reports[0].grad_norm
    assert stepped[0] == pytest.approx(free, rel=1e-5)
    low, high = sorted(free.values())
    assert high > 1.2 * low  # or one limit could not part them
    limit = (low + high) / 2
    clipped = Learner().fit(PLAN.cut(0, 1), clip=limit).reports[0].grad_norm
    assert clipped == pytest.approx(free)  # told as they were before clipping
    assert stepped[1] == pytest.approx({side: min(norm, limit) for side, norm in free.items()}, rel=1e-5)


# --- divergence ----------------------------------------------------------------------------------------------------


def test_a_huge_learning_rate_is_an_error_not_a_model():
    learner = Learner()
    with pytest.raises(TrainingDivergedError, match=r"diverged|finite"):
        learner.fit(lr=1e30, warmup=0)
    assert len(learner.reports) < 8


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_weight_that_is_no_number_stops_before_it_spreads(value):
    learner = Learner()
    with torch.no_grad():
        next(iter(learner.adapters.parameters("a").values()))[0, 0] = value
    before = learner.backbone.state()
    with pytest.raises(TrainingDivergedError) as caught:
        learner.fit()
    assert "step 1 of 8" in str(caught.value)
    assert all((before[k] == v).all() for k, v in learner.backbone.state().items())
    assert not learner.model.training
    assert not any(p.requires_grad or p.grad is not None for p in learner.model.parameters())


# --- the same again ------------------------------------------------------------------------------------------------


def test_a_seed_repeats_bit_for_bit_and_another_does_not():
    one, again, other = (Learner(dropout=0.3).fit(seed=s) for s in (7, 7, 8))
    assert one.losses == again.losses
    assert same(one.trained(), again.trained())
    assert one.losses != other.losses


@pytest.mark.parametrize("step", [1, 3, 7])
def test_a_fresh_model_goes_on_from_a_checkpoint_bit_for_bit(step):
    whole = Learner(dropout=0.3).fit(every=1)
    resumed = Learner(dropout=0.3)
    with torch.no_grad():
        for value in resumed.adapters.parameters("a").values():
            value.zero_()  # what is not in the checkpoint must not matter
    torch.manual_seed(12345)
    resumed.fit(start=whole.checkpoints[step - 1], every=1)
    assert resumed.losses == whole.losses[step:]
    assert same(resumed.trained(), whole.trained())
    last, last_whole = resumed.checkpoints[-1].tensors, whole.checkpoints[-1].tensors
    assert last.keys() == last_whole.keys()
    assert all((last[k] == v).all() for k, v in last_whole.items())


def test_a_checkpoint_is_a_copy():
    learner = Learner().fit(every=3)
    first, second = learner.checkpoints
    assert (first.step, second.step) == (3, 6)
    assert all((first.tensors[k] != second.tensors[k]).any() for k in first.tensors if k.endswith("exp_avg"))


def test_nothing_is_left_to_do_after_the_last_step():
    whole = Learner().fit(every=8)
    again = Learner().fit(start=whole.checkpoints[0])
    assert again.reports == []
    assert same(again.trained(), whole.trained())
