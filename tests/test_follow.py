"""When the backbone moves, earlier domains follow as far as they gain, their LoRAs fitted to the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crma import BackboneConfig, ContinualModel, LearnConfig
from crma.data.worlds import make_world
from crma.errors import StackError
from crma.learning import Learning
from crma.model.architecture import Where
from crma.stack.layout import Fit
from crma.train.promotion import Held

# A tolerance wide enough that the toy's proposals are accepted whole, and every LoRA fitted to them: here it is the
# move that is studied.
CONFIG = LearnConfig(
    epochs=2,
    rank=4,
    max_length=160,
    lr=5e-3,
    lr_backbone=5e-3,
    lr_mixing=5e-2,
    propose=1.0,
    tolerance=0.5,
    follow=(0.0,),
    widen=False,
)
NAMES = ("medicine", "law", "finance")


def two_domains(
    path: Path, base: Path, *, where: Where = "lora-targets", reference: float | None = None, **changes
) -> ContinualModel:
    """The first may be given another validation loss to be kept at before the second moves the backbone."""
    model = ContinualModel.create(path, base=str(base), backbone=BackboneConfig(directions=3, where=where))
    model.learn("medicine", make_world("medicine", entities=2).split, CONFIG)
    record = model.stack.manifest.domain("medicine")
    if reference is not None:
        with model.stack.transaction() as tx:
            tx.update(domains=(record.model_copy(update={"validation_loss": reference}),))
        model.stack.refresh()
    model.learn("law", make_world("law", entities=2).split, CONFIG.model_copy(update=changes))
    return model


def learn(path: Path, base: Path, **changes) -> ContinualModel:
    model = ContinualModel.create(path, base=str(base), backbone=BackboneConfig(directions=4))
    for name in NAMES:
        model.learn(name, make_world(name, entities=2).split, CONFIG.model_copy(update=changes))
    return model


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, toy_base: Path) -> ContinualModel:
    return learn(tmp_path_factory.mktemp("absorb") / "stack", toy_base)


def test_the_lora_as_it_was_learnt_stays_beside_the_fitted_one(taught: ContinualModel):
    record = taught.stack.manifest.domain("medicine")
    assert record.snapshot_pinned == taught.stack.manifest.head != record.snapshot_learnt
    assert record.adapter_learnt not in (None, record.adapter)
    learnt, served = (taught._stored(f) for f in (record.adapter_learnt or "", record.adapter))
    site = next(t for t in served if t.endswith("down_proj"))
    assert not np.allclose(learnt[site][0], served[site][0])
    assert taught.stack.verify_files() == []


def test_fits_start_from_what_is_served_and_leave_no_file_behind(taught: ContinualModel):
    with taught.serving("medicine"):
        served = taught.adapters.weights("medicine")
        again = taught.absorbed("medicine", Fit(follow=0.0, rank=CONFIG.rank))  # to where it stands: nothing to absorb
    for target, (a, b) in again.items():
        assert np.allclose(b @ a, served[target][1] @ served[target][0], atol=1e-5)
    adapters = {p.split("/")[1] for p in taught.stack.manifest.files if p.startswith("adapters/medicine")}
    assert len(adapters) == 2  # as learnt and as served; the fit to the snapshot between is gone


def test_the_first_row_of_the_matrix_is_still_what_was_measured_then(taught: ContinualModel):
    entry = next(e for e in taught.stack.read_ledger() if e.get("domain") == "medicine")
    assert taught.evaluate().floating.rows[0][0] == pytest.approx(entry["test_loss_floating"]["medicine"], rel=1e-6)


def test_staying_drifts_less_than_leaving_the_loras_as_they_are(taught: ContinualModel, tmp_path: Path, toy_base: Path):
    left = learn(tmp_path / "left", toy_base, follow=(1.0,))
    head = taught.stack.manifest.head

    def moved(model: ContinualModel) -> float:
        """How far the first domain's answers are from those of the day it was learnt."""
        rows = make_world("medicine", entities=2).split.test
        with model.serving("medicine", snapshot=model.stack.manifest.domain("medicine").snapshot_learnt):
            before = np.array(model.score_rows(model.kept("medicine", "test")).losses)
        now = np.array(model.score(rows, domain="medicine").losses)
        return float(np.abs(now - before).mean())

    assert head == left.stack.manifest.head  # both moved the backbone as often
    assert left.stack.manifest.domain("medicine").adapter_learnt is None
    assert moved(taught) < moved(left)


def test_the_export_is_the_fitted_stack(taught: ContinualModel, tmp_path: Path):
    report = taught.export(tmp_path / "out", ["medicine"])
    assert report["domains"]["medicine"]["max_logit_difference"] <= 1e-4


def test_forgetting_takes_both_files(tmp_path: Path, toy_base: Path):
    model = learn(tmp_path / "stack", toy_base)
    model.forget("medicine")
    assert not [p for p in model.stack.manifest.files if p.startswith("adapters/medicine")]
    assert model.stack.verify_files() == []


def test_a_refused_share_of_the_proposal_goes_into_the_new_lora(tmp_path: Path, toy_base: Path):
    """With a reference that nothing can meet, the backbone stands still and the new domain still knows its lesson."""

    def loss(absorb: bool) -> float:
        model = two_domains(tmp_path / str(absorb), toy_base, reference=0.0, absorb=absorb)
        assert model.stack.read_ledger()[-1]["verdict"]["share"] == 0.0
        found = model.stack.manifest.domain("law").loss_after
        assert found is not None
        return found

    assert loss(True) < loss(False)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_what_is_served_is_what_was_verified(tmp_path: Path, toy_base: Path, share: float):
    """A domain that follows part of the way is served just so, also by who opens the stack anew."""
    model = learn(tmp_path / "stack", toy_base, follow=(share,))
    fits = model.stack.read_ledger()[-1]["verdict"]["fits"]
    assert {d: fit["follow"] for d, fit in fits.items()} == {"medicine": share, "law": share}
    for opened in (model, ContinualModel.from_pretrained(tmp_path / "stack")):
        for name in ("medicine", "law"):
            record = opened.stack.manifest.domain(name)
            assert record.snapshot_pinned == opened.stack.manifest.head
            with opened.serving(name):
                verified = opened.score_rows(opened.kept(name, "validation")).loss
                assert verified == pytest.approx(record.validation_loss, rel=1e-6)
                assert opened.score_rows(opened.kept(name, "test")).loss == pytest.approx(record.loss_now, rel=1e-6)


def test_following_further_is_another_answer(tmp_path: Path, toy_base: Path):
    losses = [
        learn(tmp_path / str(share), toy_base, follow=(share,)).stack.manifest.domain("medicine").validation_loss
        for share in (0.0, 0.5, 1.0)
    ]
    assert len(set(losses)) == 3


def test_the_whole_way_is_the_lora_as_it_was_learnt_and_needs_no_fit(tmp_path: Path, toy_base: Path):
    """After a move it did not follow, medicine goes all the way with the next: its fitted LoRA is gone."""
    model = two_domains(tmp_path / "stack", toy_base)
    record = model.stack.manifest.domain("medicine")
    assert record.adapter_learnt is not None
    learnt = model._stored(record.adapter_learnt)
    split = make_world("finance", entities=2).split
    model.learn("finance", split, CONFIG.model_copy(update={"follow": (1.0,)}))
    record = model.stack.manifest.domain("medicine")
    assert (record.snapshot_pinned, record.adapter_learnt, record.rank) == (model.stack.manifest.head, None, None)
    served = model._stored(record.adapter)
    assert all(np.array_equal(served[t][0], learnt[t][0]) for t in learnt)
    assert len({p.split("/")[1] for p in model.stack.manifest.files if p.startswith("adapters/medicine")}) == 1
    assert model.stack.verify_files() == []
    for opened in (model, ContinualModel.from_pretrained(tmp_path / "stack")):
        with opened.serving("medicine"):
            loss = opened.score_rows(opened.kept("medicine", "test")).loss
        assert loss == pytest.approx(record.loss_now, rel=1e-6)


def test_settings_of_before_following_are_still_read():
    old = LearnConfig().model_dump(exclude={"follow"})
    for absorb, always, follow in ((True, False, (0.0, 1.0)), (True, True, (0.0,)), (False, False, (1.0,))):
        assert LearnConfig(**{**old, "absorb": absorb, "absorb_always": always}).follow == follow


ALONE: dict[str, Any] = {"tolerance": 0.0, "budget": 0.0, "widen": True}


@pytest.mark.parametrize("where", ["lora-targets", "residual-writes"])
def test_a_domain_that_its_own_rank_cannot_keep_stands_alone(tmp_path: Path, toy_base: Path, where: Where):
    model = two_domains(tmp_path / "stack", toy_base, where=where, **ALONE)
    before = ContinualModel.create(
        tmp_path / "one", base=str(toy_base), backbone=BackboneConfig(directions=3, where=where)
    )
    before.learn("medicine", make_world("medicine", entities=2).split, CONFIG)
    before = before.stack.manifest.domain("medicine")
    record = model.stack.manifest.domain("medicine")
    assert model.stack.read_ledger()[-1]["verdict"]["fits"] == {
        "medicine": {"follow": 0.0, "rank": 7, "standalone": True}
    }
    assert record.standalone
    assert (record.snapshot_pinned, record.floating, record.loss_floating) == (None, None, record.loss_now)
    # What it was: W + backbone + LoRA of its day is W + the LoRA that stands alone, but for rounding to bfloat16.
    assert record.validation_loss == pytest.approx(before.validation_loss, rel=1e-4)
    assert record.loss_now == pytest.approx(before.loss_now, rel=1e-4)
    opened = ContinualModel.from_pretrained(tmp_path / "stack")
    with opened.serving("medicine"):
        assert {a.shape[0] for a, _ in opened.adapters.weights("medicine").values()} == {7}
        assert opened.score_rows(opened.kept("medicine", "test")).loss == pytest.approx(record.loss_now, rel=1e-6)
    file = opened.stack.read_json(f"{record.adapter}/adapter_config.json")
    assert (file["r"], file["lora_alpha"]) == (7, CONFIG.adapter.scaling * 7)
    assert [d["rank"] for d in opened.status()["domains"]] == [7, 4]
    exported = opened.export(tmp_path / "out")["domains"]
    assert {d: e["rank"] for d, e in exported.items()} == {"medicine": 7, "law": 4 + 3}
    assert all(e["max_logit_difference"] <= 1e-4 for e in exported.values())
    if where == "residual-writes":  # what the backbone does not add to answers as before
        learnt, served = (opened._stored(f) for f in (record.adapter_learnt or "", record.adapter))
        for target in (t for t in served if t.endswith(("q_proj", "v_proj"))):
            (a, b), (a_now, b_now) = learnt[target], served[target]
            assert np.allclose(b_now @ a_now, b @ a, atol=1e-6)
    # A third domain begins as the nearest LoRA of its own rank, and moves the backbone on over the one that grew.
    notes: list[str] = []
    opened.learn(
        "finance",
        make_world("medicine", entities=2, seed=1).split,
        CONFIG.model_copy(update={"warm_start": True}),
        on_event=lambda kind, value: notes.append(value["text"]) if kind == "note" else None,
    )
    assert "the LoRA begins as that of law" in notes
    assert opened.stack.verify_files() == []


def test_who_stands_alone_is_left_alone_or_comes_back(tmp_path: Path, toy_base: Path):
    model = two_domains(tmp_path / "stack", toy_base, **ALONE)
    alone = model.stack.manifest.domain("medicine")
    assert alone.standalone
    head = model.stack.manifest.head
    with model.serving("medicine", snapshot=head):  # whatever the backbone is, it is not asked
        floating = model.score_rows(model.kept("medicine", "test")).losses
    assert model.backbone is not None
    with model.serving("medicine"), torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.3)
        assert model.score_rows(model.kept("medicine", "test")).losses == floating
    model.snapshot_in = "unsaved"
    with model.serving("medicine", snapshot=alone.snapshot_learnt):
        learnt = model.score_rows(model.kept("medicine", "test")).loss
    assert learnt == pytest.approx(alone.loss_after, rel=1e-6)

    never = CONFIG.model_copy(update={**ALONE, "follow": (0.0,)})
    model.learn("finance", make_world("finance", entities=2).split, never)
    assert model.stack.manifest.head != head
    still = model.stack.manifest.domain("medicine")
    assert still == alone.model_copy(update={"router_version": still.router_version})
    back = CONFIG.model_copy(update={"follow": (1.0,)})
    model.learn("more", make_world("finance", entities=2, seed=1).split, back)
    record = model.stack.manifest.domain("medicine")
    assert (record.standalone, record.rank, record.adapter_learnt) == (False, None, None)
    assert record.snapshot_pinned == model.stack.manifest.head
    assert len({p.split("/")[1] for p in model.stack.manifest.files if p.startswith("adapters/medicine")}) == 1
    assert model.stack.verify_files() == []
    assert model.verify()["ok"]


def test_a_domain_does_not_stand_alone_where_it_may_not(tmp_path: Path, toy_base: Path):
    model = two_domains(tmp_path / "stack", toy_base, widen=False)
    assert model.stack.read_ledger()[-1]["verdict"]["fits"] == {
        "medicine": {"follow": 0.0, "rank": 4, "standalone": False}
    }
    assert not model.stack.manifest.domain("medicine").standalone


def test_what_stands_alone_part_of_the_way_is_served_as_verified_and_forgetting_says_what_it_carries(
    tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch
):
    """Beside the backbone nothing helps; alone, half of the way does."""
    measured = Learning._held

    def held(self: Learning, rows, **told: str) -> Held:
        found = measured(self, rows, **told)
        if self.domain == "law" and not told and self.served.adapters.active == "medicine":
            alone = self.served.adapters.configs["medicine"].rank > CONFIG.rank
            return Held(losses=tuple(x + (-1.0 if alone else 1.0) for x in found.losses), tokens=found.tokens)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Learning, "_held", held)
        model = two_domains(tmp_path / "stack", toy_base, **{**ALONE, "follow": (0.0, 0.5)})
    fits = model.stack.read_ledger()[-1]["verdict"]["fits"]
    assert fits == {"medicine": {"follow": 0.5, "rank": 7, "standalone": True}}
    assert model.stack.read_ledger()[-1]["alone"] == ["medicine"]
    record = model.stack.manifest.domain("medicine")
    assert (record.standalone, record.followed) == (True, model.stack.manifest.head)
    opened = ContinualModel.from_pretrained(tmp_path / "stack")
    for snapshot in (None, opened.stack.manifest.head):
        with opened.serving("medicine", snapshot=snapshot):
            assert opened.score_rows(opened.kept("medicine", "test")).loss == pytest.approx(record.loss_now, rel=1e-6)
    assert record.loss_now != pytest.approx(record.loss_after, rel=1e-5)
    assert opened.export(tmp_path / "out", ["medicine"])["domains"]["medicine"]["max_logit_difference"] <= 1e-4
    with pytest.raises(StackError), opened.serving("medicine", snapshot="v0099"):
        pass
    forgotten = opened.forget("law", rewind=True)
    assert forgotten.carried_by == ("medicine",)
    record = opened.stack.manifest.domain("medicine")
    assert (record.standalone, record.loss_floating) == (True, record.loss_now)
    assert opened.evaluate().floating.rows[-1] == pytest.approx((record.loss_now,), rel=1e-6)


def test_a_new_lora_does_not_begin_as_one_that_holds_a_backbone_already(tmp_path: Path, toy_base: Path):
    """Beside the backbone it would be added twice; it begins as that one was learnt."""
    model = two_domains(tmp_path / "stack", toy_base, **ALONE)
    assert model.stack.manifest.domain("medicine").standalone
    notes: list[str] = []
    model.learn(
        "finance",
        make_world("medicine", entities=2).split,
        CONFIG.model_copy(update={"warm_start": True, "rank": 7, "alpha": 14.0}),
        on_event=lambda kind, value: notes.append(value["text"]) if kind == "note" else None,
    )
    assert not [n for n in notes if "the LoRA begins as" in n]  # none is of this rank as it was learnt


def test_what_its_rows_lose_is_measured_again_where_a_stack_does_not_say(tmp_path: Path, toy_base: Path):
    """Stacks of before `validation_rows`: the same decisions, and the backbone is put back."""
    ledgers = []
    for name in ("with", "without"):
        model = ContinualModel.create(tmp_path / name, base=str(toy_base), backbone=BackboneConfig(directions=3))
        model.learn("medicine", make_world("medicine", entities=2).split, CONFIG)
        if name == "without":
            record = model.stack.manifest.domain("medicine")
            assert record.validation_rows
            with model.stack.transaction() as tx:
                tx.update(domains=(record.model_copy(update={"validation_rows": ()}),))
        model.learn("law", make_world("law", entities=2).split, CONFIG.model_copy(update={"follow": (0.0, 0.5, 1.0)}))
        ledgers.append(model.stack.read_ledger()[-1])
    assert ledgers[0]["verdict"] == ledgers[1]["verdict"]
    assert ledgers[0]["test_loss_pinned"] == ledgers[1]["test_loss_pinned"]


@pytest.mark.parametrize("follow", [0.0, 0.5])
def test_one_that_stays_behind_is_found_floating_as_it_was_measured(tmp_path: Path, toy_base: Path, follow: float):
    """By the settings of the domain that moved the backbone, also when that one is
    gone."""
    behind: dict[str, Any] = {"reference": 1e-3, "tolerance": 0.0, "budget": 1e9, "follow": (follow,)}
    model = two_domains(tmp_path / "stack", toy_base, **behind)
    record = model.stack.manifest.domain("medicine")
    assert record.snapshot_pinned == record.snapshot_learnt != model.stack.manifest.head
    assert (record.adapter_learnt, record.rank) == (None, None)
    assert record.floating is not None
    assert model.stack.read_ledger()[-1]["verdict"]["fits"] == {"medicine": record.floating.model_dump()}

    def check(opened: ContinualModel) -> None:
        assert record.floating is not None
        with opened.serving("medicine", snapshot=opened.stack.manifest.head):
            assert {a.shape[0] for a, _ in opened.adapters.weights("medicine").values()} == {record.floating.rank}
            loss = opened.score_rows(opened.kept("medicine", "test")).loss
            assert loss == pytest.approx(record.loss_floating, rel=1e-6)

    check(model)
    model.forget("law")
    check(ContinualModel.from_pretrained(tmp_path / "stack"))


def test_a_head_that_goes_back_leaves_no_word_of_what_floated_under_the_other(tmp_path: Path, toy_base: Path):
    model = two_domains(tmp_path / "stack", toy_base, reference=1e-3, tolerance=0.0, budget=1e9)
    assert model.stack.manifest.domain("medicine").floating is not None
    model.forget("law", rewind=True)
    record = model.stack.manifest.domain("medicine")
    assert record.snapshot_pinned == model.stack.manifest.head
    assert (record.floating, record.loss_floating) == (None, record.loss_now)
    assert model.evaluate().floating.rows[-1] == pytest.approx((record.loss_now,), rel=1e-6)


def test_a_stack_of_before_these_settings_is_read_as_it_was_made(tmp_path: Path, toy_base: Path):
    model = two_domains(tmp_path / "stack", toy_base, where="residual-writes", widen=False, reads="uniform")
    stack, later = model.stack, {"widen", "reads", "lr_gate"}
    with model.serving("medicine"):
        served = model.score_rows(model.kept("medicine", "test")).loss
    with stack.transaction() as tx:
        records = tuple(
            d.model_copy(update={"config": {k: v for k, v in d.config.items() if k not in later}})
            for d in stack.manifest.domains
        )
        shape = {k: v for k, v in (stack.manifest.backbone or {}).items() if k != "where"}
        tx.update(domains=records, backbone=shape)
    opened = ContinualModel.from_pretrained(tmp_path / "stack")
    assert opened.backbone is not None
    assert {s.name.rsplit(".", 1)[-1] for s in opened.backbone.sites} == {"o_proj", "down_proj"}
    with opened.serving("medicine"):
        assert opened.score_rows(opened.kept("medicine", "test")).loss == pytest.approx(served, rel=1e-6)
    assert opened.verify()["ok"]
    opened.learn("finance", make_world("finance", entities=2).split, CONFIG)
    assert opened.stack.verify_files() == []


def test_a_lora_that_the_move_does_not_harm_stays_as_it_is(tmp_path: Path, toy_base: Path):
    """The reference is put so high that any move leaves the first domain no worse."""
    model = two_domains(tmp_path / "stack", toy_base, reference=99.0, follow=(0.0, 1.0))
    after = model.stack.manifest.domain("medicine")
    assert after.snapshot_pinned == model.stack.manifest.head != after.snapshot_learnt
    assert (after.adapter_learnt, after.rank, after.floating) == (None, None, None)


def test_with_nothing_to_fit_a_lora_stands_under_another_backbone_as_it_is(tmp_path: Path, toy_base: Path):
    model = learn(tmp_path / "stack", toy_base, follow=(1.0,))
    record = model.stack.manifest.domain("medicine")
    with model.stack.transaction() as tx:  # as one that stays pinned
        rest = tuple(d for d in model.stack.manifest.domains if d.name != "medicine")
        tx.update(domains=(record.model_copy(update={"snapshot_pinned": record.snapshot_learnt}), *rest))
    model.stack.refresh()
    stored = model._stored(record.adapter)
    with model.serving("medicine", snapshot=model.stack.manifest.snapshots[1].id):
        placed = model.adapters.weights("medicine")
    assert all(np.array_equal(x, y) for t in stored for x, y in zip(stored[t], placed[t], strict=True))


def test_a_loss_that_is_no_number_refuses_and_is_written_down(
    tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch
):
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=BackboneConfig(directions=4))
    model.learn("medicine", make_world("medicine", entities=2).split, CONFIG)
    measured = Learning._held

    def held(self: Learning, rows, **told: str) -> Held:
        found = measured(self, rows, **told)
        if self.domain == "law" and not told:  # the verification alone is not told
            return Held(losses=(float("nan"),) * len(found.losses), tokens=found.tokens)
        return found

    monkeypatch.setattr(Learning, "_held", held)
    learnt = model.learn("law", make_world("law", entities=2).split, CONFIG)
    assert learnt.share == 0.0
    trials = model.stack.read_ledger()[-1]["verdict"]["trials"]
    assert {t["losses"]["medicine"] for t in trials} == {None}
