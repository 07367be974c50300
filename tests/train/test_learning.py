"""What a commit may and may not do to the domains before it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from crma.continual import ContinualModel
from crma.errors import ConfigError, TrainingDivergedError
from crma.model.backbone import BackboneConfig
from crma.train.config import LearnConfig
from crma.types import Example, Split

# Rates at which a second domain's backbone makes the first one worse.
ROUGH = LearnConfig(
    follow=(1.0,),
    absorb=False,
    budget=0.0,
    propose=0.5,
    epochs=4,
    batch_size=6,
    rank=2,
    lr=5e-3,
    lr_backbone=4e-2,
    lr_mixing=5e-2,
    max_length=96,
)


def questions(subject: str, *answers: str) -> Split:
    rows = [
        Example.of(f"What is the colour of {subject} {'very ' * (i % 4)}{i}?", answers[i % len(answers)])
        for i in range(23)
    ]
    return Split(train=tuple(rows[:13]), validation=tuple(rows[13:18]), test=tuple(rows[18:]))


@pytest.fixture
def model(tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch) -> ContinualModel:
    monkeypatch.setenv("CRMA_CACHE", str(tmp_path / "cache"))
    backbone = BackboneConfig(directions=4, strength=4.0)
    made = ContinualModel.create(tmp_path / "stack", base=str(toy_base), precision="float32", backbone=backbone)
    made.learn("fruit", questions("fruit", "It is red.", "It is green."), ROUGH)
    return made


def test_a_domain_on_an_older_snapshot_is_not_promoted_by_a_proposal_that_was_refused(model: ContinualModel):
    stones = questions("stone", "0110 100", "1100 010")
    model.learn("stones", stones, ROUGH.model_copy(update={"verify": False}))
    fruit = model.stack.manifest.domain("fruit")
    assert fruit.snapshot_pinned == "v0001"  # it would be worse on v0002, the head
    learnt = model.learn("birds", questions("bird", "Zzz zzz.", "Qqq!"), ROUGH)
    assert learnt.share == 0.0
    after = model.stack.manifest.domain("fruit")
    assert (after.snapshot_pinned, after.validation_loss) == ("v0001", fruit.validation_loss)
    assert after.loss_now == fruit.loss_now
    with model.serving("fruit"):
        served = model.score_rows(model.kept("fruit", "validation")).loss
    assert served == pytest.approx(after.validation_loss, abs=1e-6)


@pytest.mark.parametrize(("lr", "rows"), [(1e30, 13), (1e30, 6)], ids=["in a step", "in the last step"])
def test_learning_that_diverges_leaves_the_stack_as_it_was(model: ContinualModel, lr, rows):
    before = model.stack.manifest
    split = questions("stone", "0110 100", "1100 010")
    split = Split(train=split.train[:rows], validation=split.validation, test=split.test)
    config = ROUGH.model_copy(update={"lr": lr, "epochs": 4.0 if rows == 13 else 1.0, "propose": 0.0})
    with pytest.raises(TrainingDivergedError, match="diverged" if rows == 13 else "no finite loss"):
        model.learn("stones", split, config)
    assert model.stack.refresh() == before
    assert model.stack.verify_files() == []
    learnt = model.learn("stones", split, ROUGH)
    assert learnt.loss_after is not None
    assert learnt.loss_base is not None
    assert learnt.loss_after < learnt.loss_base


def test_a_domain_is_learnt_once(model: ContinualModel):
    with pytest.raises(ConfigError, match="already"):
        model.learn("fruit", questions("fruit", "It is red.", "It is green."), ROUGH)
    assert [d.name for d in model.stack.manifest.domains] == ["fruit"]
