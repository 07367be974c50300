"""A domain learns on from more rows: what it knew stays, no other domain changes, or nothing is taken at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from crma import BackboneConfig, ContinualModel, LearnConfig
from crma.data.domains import prepare_domain
from crma.data.render import render_all
from crma.data.worlds import make_world
from crma.errors import ConfigError, DataError, StackLockedError, UnknownDomainError
from crma.extending import Extended, Extending
from crma.model.adapters import Weights
from crma.route.retyping import retyped_of
from crma.stack.layout import DomainRecord
from crma.stack.stack import Stack
from crma.train.promotion import Held, gain
from crma.types import Example, Message, Split

CONFIG = LearnConfig(
    epochs=1, rank=4, max_length=160, lr=1e-2, lr_backbone=5e-3, lr_mixing=5e-2, batch_size=4, checkpoint_every=2
)
STEPS = 3  # of twelve training rows
SMALL = BackboneConfig(directions=3)
STILL: dict[str, Any] = {"follow": (0.0,)}  # an earlier domain that is never to follow the backbone


def half(name: str, which: int, entities: int = 2) -> Split:
    """Every second row of a world: both halves are of the same things, and ask for other attributes of them."""
    rows = make_world(name, entities=entities).split
    return Split(train=rows.train[which::2], validation=rows.validation[which::2], test=rows.test[which::2])


OLD, NEW = half("medicine", 0), half("medicine", 1)


def odd(rows: Sequence[Example]) -> tuple[Example, ...]:
    """The same questions answered in letters that no answer of the worlds is made of."""
    return tuple(Example.of(row.prompt, "0123456789" * 3, group=row.group) for row in rows)


def two_domains(path: Path, base: Path, *, backbone: BackboneConfig | None = SMALL, **changes: Any) -> ContinualModel:
    """Half of medicine, then half of law; the changes are to how law is learnt."""
    model = ContinualModel.create(path, base=str(base), backbone=backbone)
    model.learn("medicine", OLD, CONFIG)
    model.learn("law", half("law", 0), CONFIG.model_copy(update=changes))
    return model


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, toy_base: Path) -> Path:
    return two_domains(tmp_path_factory.mktemp("taught") / "stack", toy_base).stack.root


@pytest.fixture
def model(taught: Path, tmp_path: Path) -> ContinualModel:
    """A copy that a test may change."""
    return copy(taught, tmp_path / "stack")


class Once(NamedTuple):
    """A domain extended once: for tests that only look."""

    before: ContinualModel
    model: ContinualModel
    found: Extended
    events: list[tuple[str, Mapping[str, Any]]]

    @property
    def records(self) -> tuple[DomainRecord, DomainRecord]:
        return self.before.stack.manifest.domain("medicine"), self.model.stack.manifest.domain("medicine")


@pytest.fixture(scope="module")
def once(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Once:
    before, model = ContinualModel.from_pretrained(taught), copy(taught, tmp_path_factory.mktemp("once") / "stack")
    events: list[tuple[str, Mapping[str, Any]]] = []
    found = model.extend("medicine", NEW, on_event=lambda kind, value: events.append((kind, value)))
    return Once(before, model, found, events)


def copy(root: Path, path: Path) -> ContinualModel:
    return ContinualModel.from_pretrained(shutil.copytree(root, path))


def contents(root: Path, *folders: str) -> dict[str, str]:
    """Every file that holds what was learnt, by its hash; metrics hold times, so they are left out."""
    files = Stack.open(root).manifest.files
    wanted = {path: record.sha256 for path, record in files.items() if not path.endswith("metrics.jsonl")}
    return {path: sha for path, sha in wanted.items() if not folders or path.startswith(folders)}


def on_disk(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def tokens(rows: Sequence[Example], model: ContinualModel) -> tuple[int, ...]:
    return tuple(sum(r.supervised[1:]) for r in render_all(rows, model.tokenizer, CONFIG.max_length).rows)


def loss(model: ContinualModel, rows: Sequence[Example], domain: str = "medicine") -> float:
    return model.score(rows, domain=domain, max_length=CONFIG.max_length).loss


def told(events: Sequence[tuple[str, Mapping[str, Any]]], wanted: str) -> list[Any]:
    key = {"note": "text", "phase": "phase", "step": "step"}[wanted]
    return [value[key] for kind, value in events if kind == wanted]


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_the_new_rows_are_learnt(once: Once):
    assert once.found.share > 0.0
    assert once.found.loss_before == pytest.approx(loss(once.before, NEW.test), rel=1e-6)
    assert once.found.loss_after == pytest.approx(loss(once.model, NEW.test), rel=1e-6)
    assert loss(once.model, NEW.test) < loss(once.before, NEW.test) - 0.01


def test_what_judged_it_before_loses_nothing(once: Once):
    before, after = once.records
    old = loss(once.model, OLD.validation)
    assert before.validation_loss == pytest.approx(loss(once.before, OLD.validation), rel=1e-6)
    assert before.validation_loss is not None
    assert old <= before.validation_loss
    own = after.validation_rows[: len(OLD.validation)]
    assert np.average(own, weights=tokens(OLD.validation, once.model)) == pytest.approx(old, rel=1e-6)


def test_all_validation_rows_judge_it_from_now_on(once: Once):
    _, record = once.records
    rows = (*OLD.validation, *NEW.validation)
    assert [e.messages for e in once.model.kept_examples("medicine", "validation")] == [e.messages for e in rows]
    assert len(record.validation_rows) == len(rows)
    found = once.model.score(rows, domain="medicine", max_length=CONFIG.max_length)
    assert record.validation_rows == pytest.approx(found.losses, rel=1e-5)
    weights = tokens(rows, once.model)
    assert len(set(weights)) > 1  # or a mean over rows would pass for one over tokens
    assert record.validation_loss == pytest.approx(np.average(record.validation_rows, weights=weights), rel=1e-9)


def test_its_test_rows_stay_those_of_its_first_day(once: Once):
    before, after = once.records
    assert [e.messages for e in once.model.kept_examples("medicine", "test")] == [e.messages for e in OLD.test]
    assert (after.loss_base, after.loss_after) == (before.loss_base, before.loss_after)
    assert after.loss_now == pytest.approx(loss(once.model, OLD.test), rel=1e-6)
    assert after.loss_now != before.loss_now
    found = once.model.evaluate()
    assert found.pinned[0] == pytest.approx(after.loss_now, rel=1e-6)
    first = next(e for e in once.model.stack.read_ledger() if e.get("domain") == "medicine")
    assert found.floating.rows[0][0] == first["test_loss_floating"]["medicine"]


def test_documents_survive_in_the_kept_rows(once: Once):
    kept = once.model.kept_examples("medicine", "validation")
    assert [e.group for e in kept] == [e.group for e in (*OLD.validation, *NEW.validation)]
    assert all(e.group for e in kept)
    assert [e.group for e in once.model.kept_examples("medicine", "test")] == [e.group for e in OLD.test]
    router = once.model.router()
    assert router is not None
    assert router.statistics["medicine"].calibration.count == len({e.group for e in kept}) < len(kept)


def test_no_other_domain_changes(once: Once):
    assert once.model.stack.manifest.domain("law") == once.before.stack.manifest.domain("law")
    theirs = ("adapters/law", "rows/law", "snapshots/")
    before = contents(once.before.stack.root, *theirs)
    assert {path.split("/")[0] for path in before} == {"adapters", "rows", "snapshots"}
    assert contents(once.model.stack.root, *theirs) == before
    assert once.model.stack.manifest.head == once.before.stack.manifest.head
    rows = half("law", 0).test
    assert once.model.score(rows, domain="law") == once.before.score(rows, domain="law")
    for one, other in ((once.model, once.before), (once.before, once.model)):
        ours, others = one.router(), other.router()
        assert ours is not None
        assert others is not None
        assert ours.without_domain("medicine") == others.without_domain("medicine")


def test_the_router_counts_the_new_rows(once: Once):
    router, before = once.model.router(), once.before.router()
    assert router is not None
    assert before is not None
    assert before.statistics["medicine"].own.count == len(OLD.train)
    assert router.statistics["medicine"].own.count == len(OLD.train) + len(NEW.train)
    prompts = [e.prompt for e in NEW.train]
    own = once.model.features(prompts)
    expected = before.with_more(
        "medicine",
        own,
        once.model.features([e.prompt for e in (*OLD.validation, *NEW.validation)]),
        documents=[e.group for e in (*OLD.validation, *NEW.validation)],
        retyped=retyped_of(prompts, own, once.model.features),
    )
    assert router == expected


def test_old_rows_that_begin_with_a_greeting_are_not_read_as_new_ones_that_do_not(model: ContinualModel):
    hello = (Message(role="user", content="hi"), Message(role="assistant", content="Hello."))
    greeted = [replace(row, messages=(*hello, *row.messages)) for row in OLD.validation]
    extending = Extending(model, "medicine", CONFIG, lambda _kind, _value: None)
    assert extending._router(NEW, greeted) == extending._router(NEW, OLD.validation)
    assert extending._router(NEW, greeted[:1]) != extending._router(NEW, OLD.validation)


def test_it_is_written_down(once: Once):
    _, record = once.records
    assert [e["kind"] for e in once.model.stack.read_ledger()] == ["create", "learn", "learn", "extend"]
    entry = once.model.stack.read_ledger()[-1]
    (extension,) = record.extensions
    found = once.found
    assert (entry["domain"], entry["share"]) == ("medicine", found.share)
    assert entry["new_test_loss"] == [found.loss_before, found.loss_after]
    assert entry["test_loss_pinned"]["medicine"] == record.loss_now
    assert entry["data_sha256"] == extension.data_sha256 != record.data_sha256
    assert (extension.share, extension.loss_before, extension.loss_after) == (
        found.share,
        found.loss_before,
        found.loss_after,
    )
    assert dict(found.rows) == extension.rows == {"train": 12, "validation": 4, "test": 4}
    assert record.rows == {"train": 24, "validation": 8, "test": 8}
    lines = once.model.stack.read_lines(f"{record.adapter}/metrics.jsonl")
    assert [(m["phase"], m["step"]) for m in lines] == [("commit", step) for step in range(1, STEPS + 1)]
    assert told(once.events, "step") == list(range(1, STEPS + 1))
    assert told(once.events, "phase") == ["commit", "verify"]


def test_only_its_own_lora_was_trained(once: Once):
    lines = once.model.stack.read_lines(f"{once.records[1].adapter}/metrics.jsonl")
    assert {side for m in lines for side in m["grad_norm"]} == {"adapter"}


def test_the_stack_is_whole_and_what_was_replaced_is_gone(once: Once):
    assert once.model.stack.verify_files() == []
    assert once.model.verify()["ok"]
    before, after = once.records
    assert (after.adapter, after.rows_kept, after.router_version) != (
        before.adapter,
        before.rows_kept,
        before.router_version,
    )
    folders = {"/".join(path.split("/")[:2]) for path in once.model.stack.manifest.files}
    assert {f for f in folders if "medicine" in f} == {after.adapter, after.rows_kept}
    assert not (once.model.stack.root / "work" / "medicine").exists()


def test_reopened_it_serves_the_same(once: Once):
    again = ContinualModel.from_pretrained(once.model.stack.root)
    for rows, name in ((OLD.test, "medicine"), (NEW.test, "medicine"), (half("law", 0).test, "law")):
        assert again.score(rows, domain=name).losses == once.model.score(rows, domain=name).losses
    question = NEW.test[0].prompt
    assert again.ask(question, max_new_tokens=6) == once.model.ask(question, max_new_tokens=6)
    assert again.route([question]) == once.model.route([question])


def test_a_domain_may_be_extended_again(once: Once, tmp_path: Path):
    model = copy(once.model.stack.root, tmp_path / "stack")
    third = make_world("medicine", entities=3).split
    more = Split(train=third.train[24:], validation=third.validation[8:], test=third.test[8:])
    before = model.stack.manifest.domain("medicine")
    found = model.extend("medicine", more)
    assert found.left_out == 0
    record = model.stack.manifest.domain("medicine")
    assert record.extensions[0] == before.extensions[0]
    assert [e.share > 0 for e in record.extensions] == [True, True]
    judges = (*OLD.validation, *NEW.validation, *more.validation)
    assert [e.content_hash for e in model.kept_examples("medicine", "validation")] == [e.content_hash for e in judges]
    assert record.validation_loss == pytest.approx(loss(model, judges), rel=1e-6)
    assert loss(model, judges[:8]) <= (before.validation_loss or 0.0)
    router = model.router()
    assert router is not None
    assert router.statistics["medicine"].own.count == 24 + len(more.train)
    with pytest.raises(ConfigError, match="has learnt these rows already"):
        model.extend("medicine", NEW)  # not only the last are remembered
    assert model.stack.verify_files() == []


def test_rows_from_a_list_are_split_as_the_domains_own_were(tmp_path: Path, toy_base: Path):
    config = CONFIG.model_copy(update={"validation": 0.3, "test": 0.2, "seed": 5})
    rows = [Example.of(f"What is the number of crate {n}?", f"It is crate {n}.") for n in range(40)]
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=None)
    model.learn("crates", rows[:20], config)
    old = prepare_domain("crates", rows[:20], seed=5, validation=0.3, test=0.2).split
    found = model.extend("crates", rows[20:])
    new = prepare_domain("crates", rows[20:], seed=5, validation=0.3, test=0.2).split
    assert found.share > 0.0
    assert found.rows["train"] == len(new.train)
    kept = [e.messages for e in model.kept_examples("crates", "validation")]
    assert kept == [e.messages for e in (*old.validation, *new.validation)]
    # The file as it has grown: what judges stands where it stood, and so does what was measured by.
    more = [Example.of(f"What is the number of crate {n}?", f"It is crate {n}.") for n in range(40, 60)]
    again = model.extend("crates", [*rows, *more])
    assert again.left_out == len(old.validation) + len(new.validation) + len(old.test)
    grown = prepare_domain("crates", [*rows, *more], seed=5, validation=0.3, test=0.2).split
    assert {e.content_hash for e in new.test} <= {e.content_hash for e in grown.test}
    assert again.rows["train"] == len(grown.train)


def test_settings_of_an_extension_are_its_own(model: ContinualModel):
    before = model.stack.manifest.domain("medicine")
    other = CONFIG.model_copy(update={"lr": 2e-2, "epochs": 0.5})
    events: list[tuple[str, Mapping[str, Any]]] = []
    model.extend("medicine", NEW, other, on_event=lambda kind, value: events.append((kind, value)))
    assert len(told(events, "step")) < STEPS
    assert model.stack.manifest.domain("medicine").config == before.config
    assert model.stack.read_ledger()[-1]["config"]["lr"] == 2e-2


# --- how far ---------------------------------------------------------------------------------------------------------

# Four rows of the subject and eight that it would lose by; the new validation rows gain most at the far end.
PARTLY = Split(train=(*NEW.train[:4], *odd(NEW.train[4:])), validation=odd(NEW.validation), test=())


@pytest.mark.parametrize(
    ("data", "changes", "expected"),
    [
        (NEW, {"follow": (0.0, 0.5)}, 1.0),
        (NEW, {"follow": (0.001, 0.1), "lr": 0.7}, 0.1),
        (PARTLY, {"follow": (0.02, 0.1), "lr": 5e-2, "epochs": 2}, 0.1),
    ],
    ids=["all the way", "less is better", "more would harm"],
)
def test_it_goes_as_far_as_serves_the_new_rows_best_and_harms_the_old_ones_nowhere(
    model: ContinualModel, tmp_path: Path, data: Split, changes: dict[str, Any], expected: float
):
    """Against every share measured by hand, and the point on the way made with matrices written out."""
    config = CONFIG.model_copy(update=changes)
    learnt: list[Weights] = []

    def on_event(kind: str, value: Mapping[str, Any]) -> None:
        if kind == "phase" and value["phase"] == "verify":
            learnt.append(model.adapters.weights("medicine"))

    before = ContinualModel.from_pretrained(shutil.copytree(model.stack.root, tmp_path / "before"))
    found = model.extend("medicine", data, config, on_event=on_event)
    judges = {"old": OLD.validation, "new": data.validation}

    def measured() -> dict[str, Held]:
        rows = {k: render_all(r, before.tokenizer, CONFIG.max_length).rows for k, r in judges.items()}
        return {k: Held(losses=before.score_rows(r).losses, tokens=tokens(judges[k], before)) for k, r in rows.items()}

    with before.serving("medicine"):
        served = before.adapters.weights("medicine")
        start = measured()
        allowed: dict[float, float] = {0.0: start["new"].loss}
        for share in sorted({*config.follow, 1.0} - {0.0}):
            before.place("medicine", between(served, learnt[0], share))
            there = measured()
            fall, error = gain(there["new"], start["new"])
            if there["old"].loss <= start["old"].loss and fall > error:
                allowed[share] = there["new"].loss
    best = min(allowed, key=lambda share: allowed[share])
    assert found.share == best == expected
    after = model.stack.manifest.domain("medicine")
    stored = model._stored(after.adapter)
    for target, (a, b) in between(served, learnt[0], best).items():
        assert np.allclose(stored[target][1] @ stored[target][0], b @ a, atol=1e-5)


def between(served: Weights, learnt: Weights, share: float) -> Weights:
    """What both add to the base, averaged, as the nearest LoRA of the rank."""
    made: Weights = {}
    for target, (a, b) in served.items():
        u, s, v = np.linalg.svd((1 - share) * (b @ a) + share * (learnt[target][1] @ learnt[target][0]))
        rank = a.shape[0]
        made[target] = ((s[:rank, None] * v[:rank]).astype(np.float32), u[:, :rank].astype(np.float32))
    return made


HARMFUL: dict[str, tuple[Split, dict[str, Any]]] = {
    "what was known would be lost": (
        Split(train=odd(NEW.train), validation=odd(NEW.validation), test=odd(NEW.test)),
        {"lr": 5e-2, "epochs": 2},
    ),
    "the new rows lose by it": (replace(NEW, validation=odd(NEW.validation)), {}),
    "they gain no more than by chance": (
        replace(NEW, validation=(*NEW.validation[:1], *odd(NEW.validation[1:]))),
        {"lr": 2e-2},
    ),
    "neither is served": (replace(NEW, train=odd(NEW.train)), {"lr": 0.1, "epochs": 2}),
}


@pytest.mark.parametrize("why", HARMFUL)
def test_where_nothing_may_be_taken_nothing_changes(model: ContinualModel, why: str):
    root = model.stack.root
    before = on_disk(root)
    assert "manifest.json" in before
    served = model.score((*OLD.test, *NEW.test), domain="medicine")
    answer = model.ask(OLD.test[0].prompt, domain="medicine", max_new_tokens=6)
    data, changes = HARMFUL[why]
    found = model.extend("medicine", data, CONFIG.model_copy(update=changes))
    assert found.share == 0.0
    assert found.loss_before == found.loss_after
    assert on_disk(root) == before
    for opened in (model, ContinualModel.from_pretrained(root)):
        assert opened.score((*OLD.test, *NEW.test), domain="medicine") == served
        assert opened.ask(OLD.test[0].prompt, domain="medicine", max_new_tokens=6) == answer
    assert model.verify()["ok"]


def test_rows_of_which_nothing_was_taken_may_be_tried_again(model: ContinualModel):
    data, changes = HARMFUL["what was known would be lost"]
    assert model.extend("medicine", data, CONFIG.model_copy(update=changes)).share == 0.0
    # Ten times the loss is not called worse.
    lenient = model.extend("medicine", data, CONFIG.model_copy(update={**changes, "tolerance": 10.0}))
    assert lenient.share > 0.0
    assert loss(model, OLD.validation) > loss(model, odd(NEW.validation))


def test_of_a_single_new_validation_row_no_more_than_a_gain_is_asked(model: ContinualModel):
    found = model.extend("medicine", replace(NEW, validation=NEW.validation[:1], test=()))
    assert found.share > 0.0
    assert (found.loss_before, found.loss_after) == (None, None)
    assert len(model.stack.manifest.domain("medicine").validation_rows) == len(OLD.validation) + 1


# --- domains of every kind -------------------------------------------------------------------------------------------


def extended(model: ContinualModel) -> tuple[DomainRecord, DomainRecord]:
    """Extend medicine; what holds whatever kind of domain it is. Its records before and after."""
    before, law = model.stack.manifest.domain("medicine"), model.stack.manifest.domain("law")
    found = model.extend("medicine", NEW)
    assert found.share > 0.0
    assert found.loss_before is not None
    assert found.loss_after is not None
    assert found.loss_after < found.loss_before
    assert model.stack.manifest.domain("law") == law
    after = model.stack.manifest.domain("medicine")
    for opened in (model, ContinualModel.from_pretrained(model.stack.root)):
        assert loss(opened, NEW.test) == pytest.approx(found.loss_after, rel=1e-6)
        assert loss(opened, OLD.test) == pytest.approx(after.loss_now, rel=1e-6)
        assert loss(opened, OLD.validation) <= (before.validation_loss or 0.0) * (1 + 1e-6)
    assert model.stack.verify_files() == []
    return before, after


def loras(model: ContinualModel) -> set[str]:
    return {"/".join(p.split("/")[:2]) for p in model.stack.manifest.files if p.startswith("adapters/medicine")}


def test_one_that_stands_alone_stands_alone_still(tmp_path: Path, toy_base: Path):
    model = two_domains(tmp_path / "stack", toy_base, budget=0.0, **STILL)
    alone = model.stack.manifest.domain("medicine")
    assert (alone.standalone, alone.rank) == (True, CONFIG.rank + 3)
    of_its_day = model.weights_learnt("medicine")
    before, after = extended(model)
    assert (after.standalone, after.rank, after.snapshot_pinned) == (True, before.rank, None)
    assert after.loss_floating == after.loss_now
    # What was learnt beside a backbone stays beside it.
    assert (after.adapter_learnt, after.snapshot_learnt) == (before.adapter_learnt, before.snapshot_learnt)
    assert loras(model) == {after.adapter, after.adapter_learnt}
    kept = model.weights_learnt("medicine")
    assert all(np.array_equal(x, y) for t in kept for x, y in zip(kept[t], of_its_day[t], strict=True))
    file = model.stack.read_json(f"{after.adapter}/adapter_config.json")
    assert (file["r"], file["lora_alpha"]) == (before.rank, CONFIG.adapter.scaling * (before.rank or 0))
    with model.serving("medicine"):
        assert {a.shape[0] for a, _ in model.adapters.weights("medicine").values()} == {before.rank}
        with model.without_backbone():
            assert model.score_rows(model.kept("medicine", "test")).loss == pytest.approx(after.loss_now, rel=1e-6)
    report = model.export(tmp_path / "out", ["medicine"])["domains"]["medicine"]
    assert report["max_logit_difference"] <= 1e-4
    # A domain that is learnt later moves the backbone on, and leaves it where it is.
    head = model.stack.manifest.head
    model.learn("finance", half("finance", 0), CONFIG.model_copy(update={"budget": 0.0, **STILL}))
    assert model.stack.manifest.head != head
    later = model.stack.manifest.domain("medicine")
    assert later == after.model_copy(update={"router_version": later.router_version})
    assert loss(model, NEW.test) == pytest.approx(after.extensions[0].loss_after, rel=1e-6)
    assert model.verify()["ok"]


def test_of_one_that_was_fitted_to_the_backbone_one_lora_is_left(tmp_path: Path, toy_base: Path):
    """It was extended under the snapshot it is pinned to: that is what it was learnt with from now on."""
    model = two_domains(tmp_path / "stack", toy_base, widen=False, tolerance=0.5, **STILL)
    fitted = model.stack.manifest.domain("medicine")
    assert fitted.adapter_learnt not in (None, fitted.adapter)
    before, after = extended(model)
    assert (after.adapter_learnt, after.standalone, after.rank) == (None, False, None)
    assert after.snapshot_learnt == after.snapshot_pinned == before.snapshot_pinned != before.snapshot_learnt
    assert loras(model) == {after.adapter}
    assert after.loss_floating == after.loss_now
    model.learn("finance", half("finance", 0), CONFIG)
    later = model.stack.manifest.domain("medicine")
    assert later.validation_loss is not None
    assert after.validation_loss is not None
    assert later.validation_loss <= after.validation_loss
    assert len(later.validation_rows) == len(after.validation_rows)
    assert later.extensions == after.extensions
    assert model.verify()["ok"]


def test_one_that_stays_behind_is_extended_where_it_is(tmp_path: Path, toy_base: Path):
    """What it would lose under the head is not known until it is asked for."""
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=SMALL)
    model.learn("medicine", OLD, CONFIG)
    reference = model.stack.manifest.domain("medicine").validation_loss
    given(model, 1e-3)  # that no move can keep
    model.learn("law", half("law", 0), CONFIG.model_copy(update={"widen": False, "budget": 1e9, **STILL}))
    given(model, reference)
    behind = model.stack.manifest.domain("medicine")
    assert behind.snapshot_pinned != model.stack.manifest.head
    assert behind.floating is not None
    before, after = extended(model)
    assert (after.snapshot_pinned, after.floating) == (before.snapshot_pinned, before.floating)
    assert before.loss_floating is not None
    assert after.loss_floating is None
    assert loras(model) == {after.adapter}
    with model.serving("medicine", snapshot=model.stack.manifest.head):
        floating = model.score_rows(model.kept("medicine", "test")).loss
    assert model.evaluate().floating.rows[-1][0] == pytest.approx(floating, rel=1e-6)
    assert floating < before.loss_floating


def given(model: ContinualModel, reference: float | None) -> None:
    """Another validation loss for medicine to be kept at."""
    with model.stack.transaction() as tx:
        record = model.stack.manifest.domain("medicine").model_copy(update={"validation_loss": reference})
        tx.update(domains=(record, *(d for d in model.stack.manifest.domains if d.name != "medicine")))
    model.stack.refresh()


def test_a_stack_without_backbone(tmp_path: Path, toy_base: Path):
    model = two_domains(tmp_path / "stack", toy_base, backbone=None)
    _, after = extended(model)
    assert (after.snapshot_learnt, after.snapshot_pinned, after.standalone) == (None, None, False)
    assert model.verify()["ok"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank": 8}, "rank"),
        ({"alpha": 3.0}, "alpha"),
        ({"max_length": 96}, "max_length"),
    ],
)
def test_settings_that_make_another_lora_are_refused(taught: Path, change: dict[str, Any], named: str):
    before = on_disk(taught)
    with pytest.raises(ConfigError, match=f"another {named}"):
        ContinualModel.from_pretrained(taught).extend("medicine", NEW, CONFIG.model_copy(update=change))
    assert on_disk(taught) == before


def test_alpha_said_in_other_words_is_the_same(model: ContinualModel):
    """None stands for twice the rank."""
    assert CONFIG.alpha is None
    assert model.extend("medicine", NEW, CONFIG.model_copy(update={"alpha": 8.0})).rows["train"]


def test_under_a_head_that_was_rewound_nothing_is_known(tmp_path: Path, toy_base: Path):
    model = two_domains(tmp_path / "stack", toy_base, widen=False, budget=1e9, follow=(1.0,))
    model.learn("finance", half("finance", 0), CONFIG.model_copy(update={"widen": False, "budget": 1e9, **STILL}))
    model.forget("law", rewind=True)
    pinned, head = model.stack.manifest.domain("finance").snapshot_pinned, model.stack.manifest.head
    assert pinned != head
    model.extend("finance", half("finance", 1), CONFIG)
    assert model.stack.manifest.domain("finance").loss_floating is None


def test_evaluate_and_status_tell_the_same_drift(once: Once, tmp_path: Path):
    shutil.copytree(once.model.stack.root, tmp_path / "copy")
    model = ContinualModel.from_pretrained(tmp_path / "copy")
    model.extend("law", half("law", 1), CONFIG)  # the last domain, which is measured anew
    told = {d["name"]: d["drift_pinned_pct"] for d in model.status()["domains"]}
    found = model.evaluate()
    assert dict(zip(found.floating.domains, found.drift_pinned_pct, strict=True)) == pytest.approx(told, abs=1e-4)
    assert told["law"] != 0.0


def test_the_same_rows_are_not_learnt_twice(once: Once):
    before = on_disk(once.model.stack.root)
    shuffled = replace(NEW, train=NEW.train[::-1])
    for rows in (NEW, shuffled):
        with pytest.raises(ConfigError, match="has learnt these rows already"):
            once.model.extend("medicine", rows)
    assert on_disk(once.model.stack.root) == before
    assert loss(once.model, NEW.test) == pytest.approx(once.found.loss_after, rel=1e-6)  # it answers all the same


def test_nor_are_those_of_its_first_day(taught: Path):
    before = on_disk(taught)
    with pytest.raises(ConfigError, match="rows of its first day"):
        ContinualModel.from_pretrained(taught).extend("medicine", OLD)
    assert on_disk(taught) == before


@pytest.mark.parametrize("lacking", [{"keep_rows": False}, {"validation": 0}])
def test_a_domain_that_nothing_could_judge_is_refused(tmp_path: Path, toy_base: Path, lacking: dict[str, Any]):
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=None)
    rows = [Example.of(f"Which {i}?", "This one.") for i in range(8)]
    model.learn("stones", rows, CONFIG.model_copy(update={"test": 1, **lacking}))
    with pytest.raises(ConfigError, match="keeps no validation rows"):
        model.extend("stones", [Example.of(f"Which {i}?", "That one.") for i in range(8, 16)])


def test_a_domain_that_is_not_there_is_refused(taught: Path):
    model = ContinualModel.from_pretrained(taught)
    with pytest.raises(UnknownDomainError, match="finance"):
        model.extend("finance", half("finance", 0))
    assert not (taught / "work" / "finance").exists()


def test_while_another_changes_the_stack_it_is_locked(taught: Path):
    model = ContinualModel.from_pretrained(taught)
    expected = loss(model, OLD.test)
    with Stack.open(taught).lock(), pytest.raises(StackLockedError):
        model.extend("medicine", NEW)
    assert loss(model, OLD.test) == expected


def test_rows_that_judge_are_never_trained_on(once: Once, taught: Path, tmp_path: Path):
    """Neither they nor other answers to their questions: without them it is the same extension, byte for byte."""
    model = copy(taught, tmp_path / "stack")
    asked_otherwise = [
        Example.of("In other words?", "Yes.", group=row.group) for row in (OLD.test[0], OLD.validation[0])
    ]
    data = Split(
        train=(*OLD.validation, *OLD.test, *asked_otherwise, *NEW.train),
        validation=(*OLD.validation, *OLD.test[:1], *NEW.validation),
        test=(*OLD.test, *OLD.validation[:1], *NEW.test),
    )
    events: list[tuple[str, Mapping[str, Any]]] = []
    found = model.extend("medicine", data, on_event=lambda kind, value: events.append((kind, value)))
    assert found.left_out == (4 + 4 + 2) + (4 + 1) + (4 + 1)
    assert any(note.startswith("20 rows are left out") for note in told(events, "note"))
    assert (found.share, found.loss_before, found.loss_after) == (
        once.found.share,
        once.found.loss_before,
        once.found.loss_after,
    )
    assert contents(model.stack.root) == contents(once.model.stack.root)


@pytest.mark.parametrize(
    "data",
    [
        replace(NEW, validation=()),
        replace(NEW, train=()),
        replace(NEW, train=OLD.validation),
    ],
    ids=["no validation", "no training", "only rows that judge"],
)
def test_too_few_rows_are_refused(taught: Path, data: Split):
    model = ContinualModel.from_pretrained(taught)
    before, expected = on_disk(taught), model.score(OLD.test, domain="medicine")
    with pytest.raises(DataError):
        model.extend("medicine", data)
    assert on_disk(taught) == before
    assert model.score(OLD.test, domain="medicine") == expected


# --- killed ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed_at(kind: str, **fields: Any) -> Callable[[str, Mapping[str, Any]], None]:
    def on_event(told: str, value: Mapping[str, Any]) -> None:
        if told == kind and all(str(value.get(k)).startswith(str(v)) for k, v in fields.items()):
            raise Killed

    return on_event


# Dropout, so that the random numbers have to go on as well.
RESUMED = CONFIG.model_copy(update={"dropout": 0.1, "epochs": 2})
MOMENTS: dict[str, tuple[dict[str, Any], list[int]]] = {  # and the steps that the next run has still to do
    "in the middle": ({"kind": "step", "step": 5}, [5, 6]),
    "before it is judged": ({"kind": "phase", "phase": "verify"}, []),
    "before it is published": ({"kind": "note", "text": "'medicine' goes"}, []),
}


@pytest.fixture(scope="module")
def whole(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Extended]:
    model = copy(taught, tmp_path_factory.mktemp("whole") / "stack")
    found = model.extend("medicine", NEW, RESUMED)
    assert found.share > 0.0
    return model.stack.root, found


def check_finished(root: Path, whole: Path) -> None:
    assert contents(root) == contents(whole)
    made, expected = (Stack.open(r).manifest.domain("medicine") for r in (root, whole))
    assert [e.model_dump(exclude={"learnt"}) for e in made.extensions] == [
        e.model_dump(exclude={"learnt"}) for e in expected.extensions
    ]
    assert made.model_dump(exclude={"extensions"}) == expected.model_dump(exclude={"extensions"})
    steps = [
        [(m["phase"], m["step"], m["loss"]) for m in Stack.open(r).read_lines(f"{expected.adapter}/metrics.jsonl")]
        for r in (root, whole)
    ]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 2 * STEPS
    assert [e["kind"] for e in Stack.open(root).read_ledger()].count("extend") == 1
    assert Stack.open(root).verify_files() == []
    assert not (root / "work" / "medicine").exists()


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_goes_on_and_ends_as_if_nothing_had_happened(
    moment: str, model: ContinualModel, taught: Path, whole: tuple[Path, Extended]
):
    kill, left = MOMENTS[moment]
    expected = model.score(OLD.test, domain="medicine")
    with pytest.raises(Killed):
        model.extend("medicine", NEW, RESUMED, on_event=killed_at(**kill))
    assert contents(model.stack.root) == contents(taught)
    assert model.score(OLD.test, domain="medicine") == expected  # nothing half learnt answers
    again = ContinualModel.from_pretrained(model.stack.root)
    events: list[tuple[str, Mapping[str, Any]]] = []
    found = again.extend("medicine", NEW, RESUMED, on_event=lambda k, v: events.append((k, v)))
    assert told(events, "step") == left
    assert replace(found, seconds=0.0) == replace(whole[1], seconds=0.0)
    check_finished(model.stack.root, whole[0])


def test_what_was_decided_before_the_kill_is_not_decided_again(model: ContinualModel):
    """The decision of the first run is kept on disk; the second does not even ask."""
    events: list[tuple[str, Mapping[str, Any]]] = []
    with pytest.raises(Killed):
        model.extend("medicine", NEW, on_event=killed_at("note", text="'medicine' goes"))
    model.extend("medicine", NEW, on_event=lambda k, v: events.append((k, v)))
    assert told(events, "phase") == []


def test_other_rows_do_not_go_on_from_an_unfinished_run(model: ContinualModel, once: Once):
    with pytest.raises(Killed):
        model.extend("medicine", HARMFUL["neither is served"][0], on_event=killed_at("phase", phase="verify"))
    events: list[tuple[str, Mapping[str, Any]]] = []
    model.extend("medicine", NEW, on_event=lambda k, v: events.append((k, v)))
    assert told(events, "step") == list(range(1, STEPS + 1))
    assert contents(model.stack.root) == contents(once.model.stack.root)


def test_killed_between_the_commit_and_the_end_it_says_what_was_made(
    model: ContinualModel, whole: tuple[Path, Extended], monkeypatch: pytest.MonkeyPatch
):
    def clear_work(self: Stack, domain: str) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Stack, "clear_work", clear_work)
        with pytest.raises(Killed):
            model.extend("medicine", NEW, RESUMED)
    root = model.stack.root
    assert (root / "work" / "medicine").exists()
    assert contents(root) == contents(whole[0])
    expected = loss(ContinualModel.from_pretrained(whole[0]), NEW.test)
    assert loss(model, NEW.test) == expected  # the process that lived on serves what it committed
    again = ContinualModel.from_pretrained(root)
    events: list[tuple[str, Mapping[str, Any]]] = []
    found = again.extend("medicine", NEW, RESUMED, on_event=lambda k, v: events.append((k, v)))
    assert told(events, "step") == []
    assert replace(found, seconds=0.0) == replace(whole[1], seconds=0.0)
    check_finished(root, whole[0])
    assert loss(again, NEW.test) == expected
    with pytest.raises(ConfigError, match="already"):
        again.extend("medicine", NEW, RESUMED)


# --- afterwards ------------------------------------------------------------------------------------------------------


def test_an_extended_domain_is_forgotten_whole(once: Once, tmp_path: Path):
    model = copy(once.model.stack.root, tmp_path / "stack")
    law = model.score(half("law", 0).test, domain="law")
    model.forget("medicine")
    assert not [p for p in model.stack.manifest.files if "medicine" in p]
    texts = " ".join(
        p.read_text(errors="ignore") for p in model.stack.root.rglob("*.json*") if p.name != "ledger.jsonl"
    )
    assert NEW.validation[0].prompt not in texts
    assert model.score(half("law", 0).test, domain="law") == law
    assert model.stack.verify_files() == []
    with pytest.raises(UnknownDomainError):
        model.extend("medicine", NEW)


def test_the_export_is_the_extended_domain(once: Once, tmp_path: Path):
    report = once.model.export(tmp_path / "out", ["medicine"])
    assert report["domains"]["medicine"]["max_logit_difference"] <= 1e-4
