"""The protocol on a toy: learn two domains, answer, measure, verify, forget."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import save_toy

from crma import BackboneConfig, ContinualModel, LearnConfig, Route
from crma.data.worlds import make_world
from crma.errors import BaseMismatchError, ConfigError, DataError, StackLockedError, UnknownDomainError
from crma.stack.stack import Stack
from crma.types import Example, Message, Split

CONFIG = LearnConfig(propose=0.75, epochs=2, rank=4, max_length=160, lr=5e-3, lr_backbone=5e-3, lr_mixing=5e-2)
SMALL = BackboneConfig(directions=4)


def world(name: str) -> Split:
    return make_world(name, entities=2).split


def learnt(path: Path, base: Path, *, frames: str | None = "contraction", names=("medicine", "law")) -> ContinualModel:
    backbone = SMALL.model_copy(update={"frames": frames}) if frames else None
    model = ContinualModel.create(path, base=str(base), backbone=backbone)
    for name in names:
        model.learn(name, world(name), CONFIG)
    return model


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, toy_base: Path) -> ContinualModel:
    return learnt(tmp_path_factory.mktemp("taught") / "stack", toy_base)


IDS = torch.tensor([[5, 9, 40, 41, 42, 43]])


def logits(model: ContinualModel) -> torch.Tensor:
    with torch.no_grad():
        return model.model(input_ids=IDS).logits


def test_learning_lowers_the_loss_and_is_in_the_ledger(taught: ContinualModel):
    status = taught.status()
    for domain in status["domains"]:
        assert domain["loss_after"] < domain["loss_base"]
    entries = [e["kind"] for e in taught.stack.read_ledger()]
    assert entries == ["create", "learn", "learn"]
    assert taught.stack.verify_files() == []


def test_no_domain_is_worse_on_its_validation_rows_than_just_after_it_was_learnt(taught: ContinualModel):
    first = next(e for e in taught.stack.read_ledger() if e.get("domain") == "law")
    for name, loss in first["verdict"]["losses"].items():
        record = taught.stack.manifest.domain(name)
        assert record.validation_loss is not None
        assert loss >= record.validation_loss  # what was accepted is the new reference
    before = next(t for t in first["verdict"]["trials"])
    assert before["share"] == 1.0
    accepted = first["verdict"]["share"]
    refused = [t for t in first["verdict"]["trials"] if t["refused_by"]]
    assert all(t["share"] > accepted for t in refused)


def test_a_reopened_stack_answers_and_scores_as_before(taught: ContinualModel, toy_base: Path):
    again = ContinualModel.from_pretrained(taught.stack.root, base=str(toy_base))
    for name in ("medicine", "law"):
        rows = world(name).test
        assert again.score(rows, domain=name).losses == taught.score(rows, domain=name).losses
    assert again.ask("What is it?", domain="law", max_new_tokens=6) == taught.ask(
        "What is it?", domain="law", max_new_tokens=6
    )


def test_the_untouched_base_is_the_base_bit_for_bit(taught: ContinualModel, toy_base: Path):
    plain = ContinualModel.create(taught.stack.root.parent / "plain", base=str(toy_base), backbone=None)
    wanted = logits(plain)
    with taught.serving("medicine"):
        assert not torch.equal(logits(taught), wanted)
    with taught.untouched():
        assert torch.equal(logits(taught), wanted)
    with taught.serving("medicine"), taught.without_backbone(), taught.adapters.using(None):
        assert torch.equal(logits(taught), wanted)


def test_evaluation_holds_the_matrix_with_its_base_row(taught: ContinualModel):
    found = taught.evaluate()
    assert found.floating.domains == ("medicine", "law")
    assert found.floating.rows[0][1] is None
    after = {d["name"]: d["loss_after"] for d in taught.status()["domains"]}
    assert found.floating.rows[0][0] == pytest.approx(after["medicine"], rel=1e-6)
    assert found.floating.rows[1][1] == pytest.approx(after["law"], rel=1e-6)
    base, pinned = found.floating.base[0], found.pinned[0]
    assert base is not None
    assert pinned is not None
    assert base > pinned
    now = taught.status()["domains"][0]["loss_now"]
    assert found.pinned[0] == pytest.approx(now, rel=1e-6)


def test_metrics_show_gradients_of_both_sides_a_layer_and_the_certificate(taught: ContinualModel):
    record = taught.stack.manifest.domain("medicine")
    lines = taught.stack.read_lines(f"{record.adapter_learnt or record.adapter}/metrics.jsonl")
    propose = [m for m in lines if m["phase"] == "propose"]
    assert [m["step"] for m in propose] == list(range(1, len(propose) + 1))
    first = propose[0]
    assert set(first["grad_norm"]) == {"adapter", "backbone"}
    for side in ("adapter", "backbone"):
        assert set(first["grad_norm_layers"][side]) == {"0", "1"}
        total = np.sqrt(sum(v**2 for v in first["grad_norm_layers"][side].values()))
        assert total == pytest.approx(first["grad_norm"][side], rel=1e-4)
    assert len(first["sites"]) == 8
    assert first["certificate"]["norm_bound"] - 1 <= 1.2e-7
    assert first["certificate"]["worst_operator_norm"] <= 1 + 1e-6
    commit = [m for m in lines if m["phase"] == "commit"]
    assert commit
    assert set(commit[0]["grad_norm"]) == {"adapter"}


def test_verify_passes_and_fails_when_a_number_was_changed(taught: ContinualModel, tmp_path: Path):
    import shutil

    assert taught.verify()["ok"]
    copy = tmp_path / "copy"
    shutil.copytree(taught.stack.root, copy)
    victim = copy / taught.stack.manifest.domain("law").adapter / "adapter_model.safetensors"
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    report = ContinualModel.from_pretrained(copy, base=taught.base.name).verify()
    assert not report["ok"]
    assert "adapter_model.safetensors" in report["files"]["problems"][0]


def test_forgetting_removes_the_domain_exactly_and_leaves_the_other(tmp_path: Path, toy_base: Path):
    model = learnt(tmp_path / "stack", toy_base)
    rows = world("law").test
    before = model.score(rows, domain="law")
    folder = model.stack.root / model.stack.manifest.domain("medicine").adapter
    gone = model.forget("medicine")
    assert gone.trained_after[0] == "v0001"
    assert gone.snapshot_before is None
    assert not folder.exists()
    assert model.score(rows, domain="law") == before
    with pytest.raises(UnknownDomainError):
        model.ask("?", domain="medicine")
    texts = " ".join(
        p.read_text(errors="ignore") for p in model.stack.root.rglob("*.json*") if p.name != "ledger.jsonl"
    )
    assert world("medicine").test[0].prompt not in texts
    assert model.stack.verify_files() == []
    assert model.route(["What is it?"])[0].runner_up is None


def test_rewinding_goes_back_to_the_snapshot_before(tmp_path: Path, toy_base: Path):
    model = learnt(tmp_path / "stack", toy_base)
    law = world("law").test
    before = model.score(law, domain="law")
    assert model.stack.manifest.head is not None
    model.forget("medicine", rewind=True)
    assert model.stack.manifest.head is None
    assert model.score(law, domain="law") == before  # it keeps the snapshot it needs
    assert model.status()["domains"][0]["drift_floating_pct"] is None  # under no backbone nothing was measured
    model.learn("finance", world("finance"), CONFIG)
    assert model.stack.verify_files() == []


@pytest.mark.parametrize("name", ["children", "values", "training", "d-1"])
def test_a_domain_may_be_called_what_torch_calls_its_own(tmp_path: Path, toy_base: Path, name: str):
    model = learnt(tmp_path / "stack", toy_base, names=("law",))
    model.learn(name, world("code"), CONFIG)
    assert model.ask("?", domain=name, max_new_tokens=2).route.domain == name
    assert model.adapters.weights(name)
    model.forget(name)
    assert name not in model.adapters.configs


def test_folded_ranks_may_be_above_what_a_lora_is_learnt_with(tmp_path: Path, toy_base: Path):
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=SMALL)
    large = CONFIG.model_copy(update={"rank": 512, "epochs": 1, "limit": 2})
    for name in ("medicine", "law"):
        model.learn(name, world(name), large)
    with model.serving_blend({"medicine": 0.5, "law": 0.5}):
        assert torch.isfinite(logits(model)).all()
    exact = ContinualModel.from_pretrained(tmp_path / "stack", base=str(toy_base), precision="float32")
    assert exact.export(tmp_path / "out", ["law"])["domains"]["law"]["rank"] == 512 + 4


def test_a_domain_that_another_process_learnt_anew_is_judged_by_its_own_rows(tmp_path: Path, toy_base: Path):
    model = learnt(tmp_path / "stack", toy_base)
    held = model.kept("law", "validation")
    other = ContinualModel.from_pretrained(tmp_path / "stack", base=str(toy_base))
    other.forget("law")
    other.learn("law", world("code"), CONFIG)
    model.stack.refresh()
    assert model.kept("law", "validation") == other.kept("law", "validation") != held
    model.learn("finance", world("finance"), CONFIG)
    record = model.stack.manifest.domain("law")
    with model.serving("law"):
        assert model.score_rows(model.kept("law", "validation")).loss == pytest.approx(record.validation_loss)


def test_what_nobody_can_measure_is_not_stated(tmp_path: Path, toy_base: Path):
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=SMALL)
    model.learn("medicine", world("medicine"), CONFIG.model_copy(update={"keep_rows": False}))
    assert model.status()["domains"][0]["drift_floating_pct"] == 0.0
    model.learn("law", world("law"), CONFIG)  # the backbone moved, and no row can say what that means
    assert model.status()["domains"][0]["drift_floating_pct"] is None


def test_verify_reports_all_damage_and_does_not_stop_at_the_first(taught: ContinualModel, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(taught.stack.root, copy)
    first, second = (copy / s.folder / "backbone.safetensors" for s in taught.stack.manifest.snapshots)
    for victim in (first, copy / "ledger.jsonl"):
        data = bytearray(victim.read_bytes())
        data[-4] ^= 1
        victim.write_bytes(data)
    report = ContinualModel.from_pretrained(copy, base=taught.base.name).verify()
    assert not report["ok"]
    assert report["ledger"]["entries"] is None
    assert {p.split(":")[0] for p in report["files"]["problems"]} == {"hash", "ledger"}
    broken, whole = report["snapshots"].values()
    assert "backbone.safetensors" in broken["unreadable"]
    assert all(whole["holds"].values())
    assert second.is_file()


def test_a_base_in_a_folder_is_found_from_anywhere(tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(toy_base.parent)
    ContinualModel.create(tmp_path / "stack", base=toy_base.name, backbone=SMALL)
    monkeypatch.chdir(tmp_path)
    assert ContinualModel.from_pretrained("stack").stack.manifest.base.name == str(toy_base.resolve())
    with pytest.raises(ConfigError, match="no domain"):
        ContinualModel.from_pretrained("stack").export("out")
    assert not (tmp_path / "out").exists()


def test_a_stack_without_backbone_is_a_lora_a_domain(tmp_path: Path, toy_base: Path):
    model = learnt(tmp_path / "stack", toy_base, frames=None)
    assert model.backbone is None
    found = model.evaluate()
    assert found.drift_pinned_pct == (0.0, 0.0)
    assert found.drift_floating_pct == (0.0, 0.0)


def test_without_kept_rows_a_domain_stays_pinned(tmp_path: Path, toy_base: Path):
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=SMALL)
    model.learn("medicine", world("medicine"), CONFIG.model_copy(update={"keep_rows": False}))
    model.learn("law", world("law"), CONFIG)
    assert model.stack.manifest.domain("medicine").snapshot_pinned == "v0001"
    assert model.stack.manifest.domain("law").snapshot_pinned == "v0002"
    assert model.evaluate().pinned[0] is None
    model.forget("law")
    with pytest.raises(DataError, match="keep no test rows"):
        model.evaluate()


@pytest.mark.parametrize("frames", ["contraction", "learnt", "light", None])
def test_the_export_is_one_plain_lora_that_answers_like_the_stack(tmp_path: Path, toy_base: Path, frames: str | None):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    path = tmp_path / "stack"
    learnt(path, toy_base, frames=frames)
    model = ContinualModel.from_pretrained(path, base=str(toy_base), precision="float32")
    report = model.export(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "parity.json").read_text()) == json.loads(json.dumps(report))
    for name in ("medicine", "law"):
        assert report["domains"][name]["max_logit_difference"] <= 1e-4
        config = json.loads((tmp_path / "out" / name / "adapter_config.json").read_text())
        assert config["r"] == config["lora_alpha"] == (8 if frames else 4)
        assert not config["rank_pattern"]
        with model.serving(name):
            wanted = logits(model)
        plain = AutoModelForCausalLM.from_pretrained(toy_base, dtype=torch.float32)
        exported = PeftModel.from_pretrained(plain, str(tmp_path / "out" / name)).eval()
        with torch.no_grad():
            assert (exported(input_ids=IDS).logits - wanted).abs().max() <= 1e-4
    with pytest.raises(ConfigError, match="not a new or empty one"):
        model.export(tmp_path / "out")
    with pytest.raises(ConfigError, match="got: a file"):
        model.export(tmp_path / "out" / "parity.json")
    assert list(model.export(tmp_path / "once", ["law", "law"])["domains"]) == ["law"]


def test_another_base_is_refused(taught: ContinualModel, tmp_path: Path):
    foreign = save_toy(tmp_path / "foreign", seed=1)
    with pytest.raises(BaseMismatchError, match="not the base model"):
        ContinualModel.from_pretrained(taught.stack.root, base=str(foreign))


def test_bad_requests_say_what_to_do(taught: ContinualModel, tmp_path: Path):
    with pytest.raises(ConfigError, match="learnt 'law' already"):
        taught.learn("law", world("law"), CONFIG)
    with pytest.raises(ConfigError, match="cannot name a domain"):
        taught.learn("../law", world("law"), CONFIG)
    with pytest.raises(ConfigError, match="by more than case"):  # before training: a disk may not tell them apart
        taught.learn("LAW", world("code"), CONFIG)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        taught.ask("?", max_new_tokens=0)
    with pytest.raises(DataError, match="this is no text"):  # as a shell hands on bytes that are no UTF-8
        taught.ask("caf\udce9")
    with pytest.raises(DataError):
        taught.learn("new", tmp_path / "absent.jsonl", CONFIG)
    with pytest.raises(UnknownDomainError, match="no such domain"):
        taught.ask("?", domain="physics")
    assert taught.stack.verify_files() == []


def test_a_second_writer_is_told_who_writes(taught: ContinualModel):
    other = Stack.open(taught.stack.root)
    with other.lock(), pytest.raises(StackLockedError):
        taught.learn("new", world("code"), CONFIG)


def test_a_failed_learning_leaves_the_stack_and_the_model_as_they_were(taught: ContinualModel):
    from crma.errors import TrainingDivergedError

    rows = world("law").test
    before, manifest = taught.score(rows, domain="law"), taught.stack.manifest
    with pytest.raises(TrainingDivergedError):
        taught.learn("broken", world("code"), CONFIG.model_copy(update={"lr": 1e30, "lr_backbone": 1e30}))
    assert taught.stack.refresh() == manifest
    assert "broken" not in taught.adapters.configs
    assert taught.score(rows, domain="law") == before


def test_conversations_and_files_are_learnt_from(tmp_path: Path, toy_base: Path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Answer {i}."}]}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=SMALL)
    learnt_ = model.learn("talk", path, CONFIG)
    assert learnt_.rows["rows"] == 40
    turns = [
        Message(role="user", content="Question 1?"),
        Message(role="assistant", content="Answer 1."),
        Message(role="user", content="Question 2?"),
    ]
    assert isinstance(model.ask(turns, max_new_tokens=4).route, Route)


def test_an_empty_stack_answers_with_the_base(tmp_path: Path, toy_base: Path):
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base), backbone=SMALL)
    reply = model.ask("Hello?", max_new_tokens=4)
    assert reply.route.abstained
    assert reply.route.domain is None
    assert model.evaluate().pinned == ()
    assert model.verify()["ok"]


def test_an_empty_prompt_or_one_whose_features_overflow_goes_to_the_base_alone(taught: ContinualModel, monkeypatch):
    ours, theirs = world("medicine").test[0].prompt, world("law").test[0].prompt
    alone = taught.route([ours])[0]
    features = taught.features

    def overflowing(texts):
        found = features(texts).copy()
        found[-1, 3] = np.inf
        return found

    monkeypatch.setattr(taught, "features", overflowing)
    first, empty, last = taught.route([ours, " \n", theirs])
    assert (first.domain, first.nearest) == (alone.domain, alone.nearest)
    assert first.nearest is not None
    assert empty == last == Route(domain=None, confidence=0.0, abstained=True)


def test_the_router_is_kept_until_another_process_writes_one(tmp_path: Path, toy_base: Path):
    model = learnt(tmp_path / "stack", toy_base, frames=None, names=("medicine",))
    kept = model.router()
    assert kept is model.router()
    other = ContinualModel.from_pretrained(tmp_path / "stack")
    other.learn("law", world("law"), CONFIG)
    model.stack.refresh()
    found = model.router()
    assert found is not None
    assert found.domains == ("law", "medicine")


def test_what_the_router_refuses_costs_no_training(taught: ContinualModel, monkeypatch):
    def refuse(domain, split):
        raise ConfigError("no router for this", where=domain)

    monkeypatch.setattr(taught, "router_with", refuse)
    heard: list[str] = []
    with pytest.raises(ConfigError, match="no router"):
        taught.learn("finance", world("finance"), CONFIG, on_event=lambda kind, _value: heard.append(kind))
    assert "step" not in heard


def test_a_lora_is_read_again_when_its_folder_holds_another(tmp_path: Path, toy_base: Path):
    """A folder's name comes back after a domain was fitted twice; what counts is what is in it."""
    model = learnt(tmp_path / "stack", toy_base, frames=None, names=("medicine",))
    with model.serving("medicine"):
        before = logits(model)
    other = Stack.open(tmp_path / "stack")
    folder = other.manifest.domain("medicine").adapter
    tensors = {k: 2 * v for k, v in other.read_tensors(f"{folder}/adapter_model.safetensors").items()}
    for _there_and_back in range(2):
        with other.transaction() as tx:
            record = other.manifest.domain("medicine")
            place = tx.fresh_path("adapters/medicine")
            tx.write_tensors(f"{place}/adapter_model.safetensors", tensors, {"format": "pt"})
            tx.remove(record.adapter)
            tx.update(domains=(record.model_copy(update={"adapter": place}),))
        other.refresh()
    assert other.manifest.domain("medicine").adapter == folder
    model.stack.refresh()
    with model.serving("medicine"):
        assert not torch.equal(logits(model), before)


def test_nothing_in_a_stack_is_a_pickle(taught: ContinualModel):
    kinds = {p.suffix for p in taught.stack.root.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert kinds <= {".json", ".jsonl", ".safetensors"}


def test_a_split_without_training_rows_is_refused(taught: ContinualModel):
    with pytest.raises(DataError, match="nothing to learn"):
        taught.learn("none", Split(train=(), validation=(), test=(Example.of("a", "b"),)), CONFIG)


@pytest.mark.parametrize("frames", ["contraction", None])
def test_a_warm_start_begins_as_the_nearest_lora_and_leaves_it_alone(
    tmp_path: Path, toy_base: Path, frames: str | None
):
    model = learnt(tmp_path / "stack", toy_base, frames=frames)
    with model.serving("law"):
        law = model.adapters.weights("law")
        before = model.score_rows(model.kept("law", "test")).losses
    heard: list[str] = []
    idle = CONFIG.model_copy(update={"warm_start": True, "lr": 1e-12, "lr_backbone": 1e-12, "lr_mixing": 1e-12})
    rows = world("law")
    again = Split(train=rows.train, validation=(), test=rows.test)
    model.learn("law2", again, idle, on_event=lambda kind, v: heard.append(v["text"]) if kind == "note" else None)
    assert "the LoRA begins as that of law" in heard
    with model.serving("law2"):
        begun = model.adapters.weights("law2")
    for target, (a, b) in law.items():
        assert np.allclose(begun[target][1] @ begun[target][0], b @ a, atol=1e-4)
    with model.serving("law"):  # where there is a backbone it may have been fitted anew; what it does is the same
        assert model.score_rows(model.kept("law", "test")).losses == pytest.approx(before, rel=1e-4)


def test_a_conversation_may_be_messages_as_openai_has_them(taught):
    ours = taught.ask([Message(role="user", content="What is term 3?")], max_new_tokens=3)
    assert taught.ask([{"role": "user", "content": "What is term 3?"}], max_new_tokens=3) == ours
    for broken in ({"role": "user"}, {"role": "robot", "content": "x"}, {"role": "user", "content": None}, "hi"):
        with pytest.raises(DataError, match="no message"):
            taught.ask([broken])


def test_a_single_string_is_not_taken_for_a_list_of_letters(taught):
    for call in (taught.route, taught.ask_many):
        with pytest.raises(DataError, match="one text"):
            call("What is term 3?")


def test_a_turn_that_names_no_subject_stays_with_the_one_before(taught):
    name = taught.stack.manifest.domains[0].name
    question = taught.kept_examples(name, "test")[0].prompt
    (alone,) = taught.route([question])
    follow_up = [{"role": "user", "content": question}, {"role": "assistant", "content": "So."}]
    told = [taught.ask([*follow_up, {"role": "user", "content": text}], max_new_tokens=2).route for text in ("", "why")]
    assert [r.domain for r in told] == [alone.domain] * 2


def test_earlier_turns_are_read_only_where_the_last_one_leaves_it_open(taught, monkeypatch):
    question = next(
        e.prompt
        for d in taught.stack.manifest.domains
        for e in taught.kept_examples(d.name, "test")
        if taught.route([e.prompt])[0].domain is not None
    )
    asked, route = [], taught.route
    monkeypatch.setattr(taught, "route", lambda texts: asked.append(list(texts)) or route(texts))

    def talk(*texts: str) -> list[Message]:
        return [Message(role="user", content=text) for text in texts]

    taught.route_conversations([talk("Hello?", question), talk("Hello?", "")])
    assert asked == [[question, ""], ["Hello?"]]


# --- several domains at once ---------------------------------------------------------------------------------------


def accepted_by_both(domain: str) -> Route:
    other = "law" if domain == "medicine" else "medicine"
    return Route(
        domain=domain,
        confidence=0.6,
        nearest=domain,
        scores={domain: 1.0, other: 1.0},
        thresholds={domain: 0.0, other: 0.0},
        probabilities={domain: 0.6, other: 0.2},
    )


@pytest.fixture(scope="module")
def exact(taught: ContinualModel) -> ContinualModel:
    return ContinualModel.from_pretrained(taught.stack.root, precision="float32")


def test_a_blend_adds_what_each_domain_adds_by_its_share(exact: ContinualModel):
    alone = {d: exact.folded(d) for d in ("medicine", "law")}
    with exact.serving_blend({"medicine": 0.75, "law": 0.25}):
        active = exact.adapters.active
        assert active is not None
        blended, scaling = exact.adapters.weights(active), exact.adapters.configs[active].scaling
    for target, (a, b) in blended.items():
        wanted = sum(s * alone[d][target][1] @ alone[d][target][0] for d, s in (("medicine", 0.75), ("law", 0.25)))
        np.testing.assert_allclose(scaling * b @ a, wanted, rtol=0, atol=1e-6)


def test_one_domain_or_none_is_served_as_ever(taught: ContinualModel):
    with taught.serving("law"):
        expected = logits(taught)
    for shares in ({"law": 1.0}, {"law": 1.0, "medicine": 0.0}):
        with taught.serving_blend(shares):
            torch.testing.assert_close(logits(taught), expected, rtol=0, atol=0)
    with taught.untouched():
        expected = logits(taught)
    with taught.serving_blend({}):
        torch.testing.assert_close(logits(taught), expected, rtol=0, atol=0)
    with taught.serving_blend({"medicine": 0.5, "law": 0.5}):
        assert not torch.allclose(logits(taught), expected, atol=1e-3)
    with taught.untouched():
        torch.testing.assert_close(logits(taught), expected, rtol=0, atol=0)


def test_all_of_one_domain_in_a_blend_of_two_is_that_domain(exact: ContinualModel):
    with exact.serving("law"):
        expected = logits(exact)
    with exact.serving_blend({"law": 1.0 - 1e-9, "medicine": 1e-9}):
        torch.testing.assert_close(logits(exact), expected, rtol=0, atol=1e-4)


def test_top_k_asks_those_that_accept_together(taught: ContinualModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ContinualModel, "route", lambda _self, texts: [accepted_by_both("law") for _ in texts])
    asked: list[dict[str, float]] = []
    real = ContinualModel.serving_blend
    monkeypatch.setattr(
        ContinualModel, "serving_blend", lambda self, shares, **k: asked.append(dict(shares)) or real(self, shares, **k)
    )
    assert taught.ask("Who?", max_new_tokens=1).shares == {"law": 1.0}
    assert taught.ask("Who?", top_k=2, max_new_tokens=1).shares == pytest.approx({"law": 0.75, "medicine": 0.25})
    taught.ask("Who?", top_k=2, domain="medicine", max_new_tokens=1)
    taught.ask("Who?", top_k=2, domain="base", max_new_tokens=1)
    assert asked == [{"law": 1.0}, {"law": pytest.approx(0.75), "medicine": pytest.approx(0.25)}, {"medicine": 1.0}, {}]


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"top_k": 2, "use_backbone": False}])
def test_what_cannot_be_blended_is_refused(taught: ContinualModel, wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match="cannot be blended"):
        taught.ask("Who?", **wrong)


def turned(split: Split, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> Split:
    """The same questions within conversations."""

    def told(row: Example) -> Example:
        said = [
            m
            for text in before
            for m in (Message(role="user", content=text), Message(role="assistant", content="Yes."))
        ]
        more = [
            m for text in after for m in (Message(role="user", content=text), Message(role="assistant", content="So."))
        ]
        return Example(messages=(*said, *row.messages, *more), group=row.group)

    parts = {name: tuple(told(row) for row in getattr(split, name)) for name in ("train", "validation", "test")}
    return Split(**parts)


def test_a_router_is_made_of_the_questions_that_conversations_come_to(taught: ContinualModel):
    plain = taught.router_with("music", world("finance"))
    assert taught.router_with("music", turned(world("finance"), after=("why is that",))) == plain
    assert taught.router_with("music", turned(world("finance"), before=("hi",), after=("go on",))) == plain
    assert taught.router_with("music", world("law")) != plain


def test_rows_of_several_turns_are_evaluated_as_they_would_be_asked(tmp_path: Path, toy_base: Path, monkeypatch):
    model = ContinualModel.create(tmp_path / "stack", base=str(toy_base))
    split = turned(world("law"), after=("why is that",))
    model.learn("law", split, CONFIG)
    asked, route = [], model.route_conversations
    monkeypatch.setattr(model, "route_conversations", lambda talks: asked.extend(talks) or route(talks))
    (accuracy,) = model.evaluate().routing_accuracy
    assert [list(talk) for talk in asked] == [list(row.messages) for row in split.test]
    assert accuracy == sum(r.domain == "law" for r in route(asked)) / len(asked)
