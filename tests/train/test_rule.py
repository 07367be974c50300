"""Learning comes to the same as when the number of its rule was given: equal settings that learn otherwise would mix
receipts and half-done runs of two methods under one number."""

from __future__ import annotations

from pathlib import Path

import pytest

from crma.continual import ContinualModel
from crma.learning import RULE
from crma.model.backbone import BackboneConfig
from crma.train.config import LearnConfig
from crma.types import Example, Split

# What three toy domains came to by each rule, from 2026-11-24 on: the test loss after each lesson and at the end, in
# nats, and the version of the LoRA each is served with at the end (2 and more: it followed).
# Threads and instruction sets move them by up to 1e-7; a backbone cut at .976 of its limit moves the third by 7e-5.
CAME_TO = {
    3: {
        "after": (5.4044356, 5.2290757, 5.3719090),
        "end": (5.4044356, 5.2290757, 5.3719090),
        "served": ("adapters/fruit.2", "adapters/stones.2", "adapters/birds"),
    },
}


def questions(subject: str, *answers: str) -> Split:
    rows = [
        Example.of(f"What is the colour of {subject} {'very ' * (i % 4)}{i}?", answers[i % len(answers)])
        for i in range(40)
    ]
    return Split(train=tuple(rows[:24]), validation=tuple(rows[24:32]), test=tuple(rows[32:]))


def test_equal_settings_learn_the_same_until_the_rule_gets_a_new_number(
    tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where this fails and the change was meant: raise `crma.learning.RULE`, put the new rule's numbers here, and make
    the receipts of CRMA's conditions again; where it was not meant, it is a fault."""
    monkeypatch.setenv("CRMA_CACHE", str(tmp_path / "cache"))
    backbone = BackboneConfig(directions=4, strength=0.05)  # small, so that B is cut to its limit
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), precision="float32", backbone=backbone)
    config = LearnConfig(epochs=6, batch_size=6, rank=2, lr=2e-2, lr_backbone=5e-2, lr_mixing=5e-2, max_length=96)
    lessons = {
        "fruit": questions("fruit", "It is red.", "It is green."),
        "stones": questions("stone", "0110 100", "1100 010"),
        "birds": questions("bird", "It is red.", "Zzz."),
    }
    learnt = [model.learn(name, split, config) for name, split in lessons.items()]
    was = CAME_TO[RULE]
    assert [x.loss_after for x in learnt] == pytest.approx(was["after"], abs=2e-6)
    assert list(learnt[-1].losses.values()) == pytest.approx(was["end"], abs=2e-6)
    assert tuple(d.adapter for d in model.stack.manifest.domains) == was["served"]
