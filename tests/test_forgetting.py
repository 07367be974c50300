"""Forgetting with --rewind: the head goes back to what it was learnt from, and only where it builds on the domain."""

from __future__ import annotations

from pathlib import Path

import pytest

from crma import BackboneConfig, ContinualModel, LearnConfig
from crma.data.worlds import make_world
from crma.errors import StackWriteError, UnknownDomainError
from crma.stack.stack import Stack

CONFIG = LearnConfig(epochs=1, rank=2, max_length=160, lr=5e-3, lr_backbone=5e-3, lr_mixing=5e-2)


def learn(model: ContinualModel, *names: str) -> None:
    for name in names:
        model.learn(name, make_world(name, entities=1, attributes=2).split, CONFIG)


@pytest.fixture
def model(tmp_path: Path, toy_base: Path) -> ContinualModel:
    return ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=BackboneConfig(directions=4))


def parents(model: ContinualModel) -> dict[str, str | None]:
    return {s.id: s.parent for s in model.stack.manifest.snapshots}


def test_a_head_that_does_not_build_on_the_domain_stays(model: ContinualModel):
    learn(model, "medicine", "law", "finance")
    first = model.forget("law", rewind=True)
    assert (first.rewound, first.trained_after) == (True, ("v0002", "v0003"))
    assert model.stack.manifest.head == "v0001"
    learn(model, "code")
    head = model.stack.manifest.head
    assert parents(model)[head or ""] == "v0001"
    second = model.forget("finance", rewind=True)
    assert (second.rewound, second.trained_after) == (False, ("v0003",))
    assert model.stack.manifest.head == head
    assert "v0003" not in parents(model)  # nobody needs it any more
    assert model.stack.verify_files() == []
    learn(model, "finance")


def test_of_a_domain_that_was_learnt_twice_the_newest_snapshot_goes(model: ContinualModel):
    learn(model, "medicine", "law")
    model.forget("medicine")
    learn(model, "finance", "medicine")
    assert model.stack.manifest.head == "v0004"
    gone = model.forget("medicine", rewind=True)
    assert (gone.trained_after, gone.snapshot_before) == (("v0004",), "v0003")
    assert model.stack.manifest.head == "v0003"


def test_a_snapshot_whose_parent_went_is_put_under_the_nearest_that_stayed(model: ContinualModel):
    learn(model, "medicine", "law", "finance", "code")
    model.forget("law", rewind=True)  # v0002 is needed by nobody
    assert parents(model) == {"v0001": None, "v0003": "v0001", "v0004": "v0003"}
    gone = model.forget("finance", rewind=True)
    assert not gone.rewound
    assert gone.trained_after == ("v0003", "v0004")
    assert model.stack.manifest.head == "v0001"


def test_one_that_is_forgotten_already_can_still_be_rewound(model: ContinualModel):
    learn(model, "medicine", "law", "finance")
    model.forget("law")
    assert model.stack.manifest.head == "v0003"
    gone = model.forget("law", rewind=True)
    assert (gone.rewound, gone.snapshot_before) == (True, "v0001")
    assert model.stack.manifest.head == "v0001"
    assert [d.name for d in model.stack.manifest.domains] == ["medicine", "finance"]
    assert model.route(["What is it?"])[0].nearest in ("medicine", "finance")
    with pytest.raises(UnknownDomainError):  # its snapshot is gone too now
        model.forget("law", rewind=True)
    with pytest.raises(UnknownDomainError):
        model.forget("law")
    assert model.stack.verify_files() == []


def test_an_id_that_a_record_names_does_not_come_back(model: ContinualModel):
    learn(model, "medicine", "law")
    with model.stack.transaction() as tx:
        first, second = tx.manifest.domains
        tx.update(domains=(first.model_copy(update={"followed": "v0007"}), second))
    assert model.stack.manifest.next_snapshot_id == "v0008"


def test_what_an_unfinished_extension_left_goes_before_the_commit(
    model: ContinualModel, monkeypatch: pytest.MonkeyPatch
):
    learn(model, "medicine", "law")
    left = model.stack.work("law") / "commit.safetensors"
    left.write_bytes(b"learnt from its rows")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crma.stack.transaction.Transaction.finish", killed)
    with pytest.raises(KeyboardInterrupt):  # after the commit point, as a kill may come
        model.forget("law")
    monkeypatch.undo()
    assert not left.exists()
    again = Stack.open(model.stack.root)
    with pytest.raises(UnknownDomainError):
        again.manifest.domain("law")


def test_scratch_that_cannot_be_removed_stops_it_before_anything_is_forgotten(
    model: ContinualModel, monkeypatch: pytest.MonkeyPatch
):
    learn(model, "medicine")
    model.stack.work("medicine")

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("shutil.rmtree", refused)
    with pytest.raises(StackWriteError):
        model.forget("medicine")
    monkeypatch.undo()
    assert [d.name for d in Stack.open(model.stack.root).manifest.domains] == ["medicine"]
