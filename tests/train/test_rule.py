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
# nats, and how far each earlier domain followed at the last lesson (and whether alone). Threads and instruction sets
# move the losses by up to 3e-6; a backbone cut at .976 of its limit by 2e-4 to 6e-4, each of them.
CAME_TO = {
    3: {
        "after": (5.4127552, 5.4106224, 5.4055547),
        "end": (5.4121919, 5.4105414, 5.4055547),
        "followed": {"fruit": (0.25, False), "stones": (0.5, True)},
    },
}


def questions(subject: str) -> Split:
    answers = ("It is red.", "It is green.")
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
    model = ContinualModel.create(
        tmp_path / "stack", base=str(toy_base), precision="float32", backbone=BackboneConfig(directions=4)
    )
    # A rate at which B is cut to its limit, and domains of which one gains beside the backbone and one alone.
    config = LearnConfig(epochs=6, batch_size=6, rank=2, lr=2e-3, lr_backbone=5e-2, lr_mixing=5e-2, max_length=96)
    learnt = [model.learn(name, questions(name), config) for name in ("fruit", "stones", "birds")]
    fits = model.stack.read_ledger()[-1]["verdict"]["fits"]
    was = CAME_TO[RULE]
    assert {name: (fit["follow"], fit["standalone"]) for name, fit in fits.items()} == was["followed"]
    assert [x.loss_after for x in learnt] == pytest.approx(was["after"], abs=1e-5)
    assert list(learnt[-1].losses.values()) == pytest.approx(was["end"], abs=1e-5)
