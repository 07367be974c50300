"""Running a recipe: what a receipt holds, what a kill costs, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from filelock import FileLock

from crma.bench.receipt import NOWHERE, read_receipts
from crma.benchmark.recipes import RECIPES, recipe_named
from crma.benchmark.runner import run_recipe
from crma.benchmark.streams import STREAMS, Sizes, load_stream
from crma.errors import ConfigError, DataError

SMOKE = RECIPES["smoke"]


@pytest.fixture
def run(tmp_path):
    def call(condition, *, order=0, recipe=SMOKE, **more):
        return run_recipe(recipe, tmp_path / "r", tmp_path / "w", condition=condition, order=order, **more)

    return call


def test_a_crma_receipt_tells_the_whole_story(run):
    (path,) = run("crma")
    (receipt,) = read_receipts(path)
    order = receipt.order
    for t in range(len(order)):  # every earlier adapter under every later backbone
        assert all(receipt.loss("floating", t + 1, d) is not None for d in order[: t + 1])
    assert all(receipt.loss(view, len(order), d) is not None for view in ("pinned", "routed") for d in order)
    assert all(receipt.loss("base", 0, d) is not None for d in order)
    assert set(receipt.shares) == set(order)
    assert receipt.shares[order[0]] == 1.0
    assert receipt.spectral
    assert max(line["gap"] for line in receipt.spectral) <= 1.2e-7
    assert max(line["worst_operator_norm"] for line in receipt.spectral) <= 1 + 1e-6
    assert {a.view for a in receipt.answers} == {"base", "served", "backbone-off", "routed", "single", "tfidf"}
    assert all((receipt.find("routed", i, d) is not None) == (i > 0) for i, d in enumerate(order))
    assert {d: sum(where.values()) for d, where in receipt.routes_ahead.items()} == {
        d: receipt.rows[d]["test"] for d in order[1:]
    }
    assert {d: len(of) for d, of in receipt.documents.items()} == {d: receipt.rows[d]["test"] for d in order}
    assert receipt.tokens > 0
    assert receipt.router["words"] == 4096
    assert sum(sum(where.values()) for where in receipt.routes.values()) == sum(
        r["test"] for r in receipt.rows.values()
    )


def test_without_a_backbone_nothing_learnt_moves_and_one_row_a_domain_says_it(run):
    (receipt,) = read_receipts(run("frozen"))
    assert receipt.holds
    last = len(receipt.order)
    for i, d in enumerate(receipt.order):
        assert receipt.loss("floating", last, d) == receipt.loss("floating", i + 1, d)
    assert receipt.shares == {}


def test_a_frozen_run_is_the_same_in_every_order_whoever_learns_first(run):
    """So that one receipt may stand in all of them (KNOWS_NO_ORDER)."""
    anyhow = replace(SMOKE, in_every_order=("frozen",))
    (first,) = read_receipts(run("frozen", recipe=anyhow))
    (other,) = read_receipts(run("frozen", recipe=anyhow, order=1))
    assert first.order != other.order
    told = first.in_order(other.order)
    assert told.measurements != first.measurements
    last = len(first.order)
    assert {(m.view, m.after, m.domain, m.split): m.losses for m in told.measurements} == {
        (m.view, m.after, m.domain, m.split): m.losses
        for m in other.measurements
        if m.view != "routed" or m.after == last  # before a domain is learnt the router knows what came before it
    }
    assert first.routes_ahead
    assert not told.routes_ahead
    assert told.routes == other.routes


def test_naive_is_measured_on_what_it_learnt_and_on_what_comes_next_and_joint_once(run):
    (naive,) = read_receipts(run("naive"))
    assert [[x is not None for x in row] for row in naive.matrix().rows] == [
        [True, True, False],
        [True, True, True],
        [True, True, True],
    ]
    (joint,) = read_receipts(run("joint"))
    assert joint.matrix().rows[0] == (None, None, None)
    assert joint.just_after() == joint.at_end()
    assert joint.tokens == naive.tokens  # the same rows, as often


def test_reset_learns_every_domain_as_if_it_were_the_first(run):
    (reset,) = read_receipts(run("reset"))
    (crma,) = read_receipts(run("crma"))
    first, *later = crma.order
    assert reset.loss("floating", 1, first) == pytest.approx(crma.loss("floating", 1, first))
    assert reset.loss("floating", 2, later[0]) != pytest.approx(crma.loss("floating", 2, later[0]))


def test_what_is_there_is_not_made_again_and_not_overwritten(run):
    (path,) = run("naive")
    before = path.read_bytes()
    assert run("naive") == []
    assert path.read_bytes() == before
    plan = SMOKE.streams["worlds"]
    other = replace(SMOKE, streams={"worlds": replace(plan, learn=plan.learn.model_copy(update={"lr": 5e-3}))})
    with pytest.raises(ConfigError, match="other settings"):
        run("naive", recipe=other)
    assert path.read_bytes() == before
    receipt = json.loads(before)  # as one from before a setting existed
    del receipt["config"]["learn"]["warm_start"]
    receipt["config"]["learn"] |= {"propose": 0.5, "absorb_always": True}  # heeded by no run without backbone
    path.write_text(json.dumps(receipt))
    assert run("naive") == []


def test_a_receipt_of_a_backbone_of_other_settings_is_not_taken_for_this_one(run):
    (path,) = run("crma")
    for change in ({"propose": 0.5}, {"a_setting_that_is_gone": True}):
        receipt = json.loads(path.read_bytes())
        receipt["config"]["learn"] |= change
        path.write_text(json.dumps(receipt))
        with pytest.raises(ConfigError, match="other settings"):
            run("crma")


@pytest.mark.parametrize(
    ("condition", "part", "setting"),
    [
        ("crma", "backbone", "where"),
        ("crma", "learn", "widen"),
        ("crma", "condition", "rule"),
        ("naive", "learn", "reads"),
    ],
)
def test_a_receipt_of_before_a_setting_was_made_as_things_were_then(run, condition: str, part: str, setting: str):
    (path,) = run(condition)
    receipt = json.loads(path.read_bytes())
    del receipt["config"][part][setting]
    path.write_text(json.dumps(receipt))
    with pytest.raises(ConfigError, match="other settings"):
        run(condition)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("condition", ["naive", "copies-follow", "crma"])
def test_a_run_killed_between_two_domains_learns_only_the_rest(run, tmp_path, condition):
    def kill(kind, value):
        if kind == "domain" and value["number"] == 2:
            raise Killed

    with pytest.raises(Killed):
        run(condition, on_event=kill)
    assert not (tmp_path / "r").exists()
    heard = []
    (path,) = run(condition, on_event=lambda kind, value: heard.append((kind, value.get("domain"))))
    assert {domain for kind, domain in heard if kind == "step"} == {json.loads(path.read_text())["order"][2]}
    ends_as_a_whole_one(path, run, condition)


def test_second_halves_are_learnt_by_extending_and_no_row_twice(run):
    (halves,) = read_receipts(run("halves"))
    (crma,) = read_receipts(run("crma"))
    t = len(halves.order)
    for d in halves.order:
        first, then = halves.find("routed", t, d), halves.find("routed", 2 * t, d)
        assert first is not None
        assert then is not None
        assert len(first.losses) == len(then.losses) == halves.rows[d]["test"]
    assert any(halves.loss("routed", t, d) != halves.loss("routed", 2 * t, d) for d in halves.order)
    assert halves.tokens == crma.tokens
    assert {to for went in halves.routes.values() for to in went} <= {*halves.order, NOWHERE}


@pytest.mark.parametrize("condition", ["auto", "auto-stream"])
def test_rows_without_names_make_domains_of_their_own(run, condition):
    (unnamed,) = read_receipts(run(condition))
    (crma,) = read_receipts(run("crma"))
    t = len(unnamed.order)
    for d in unnamed.order:
        routed = unnamed.find("routed", t, d)
        assert routed is not None
        assert len(routed.losses) == sum(unnamed.routes[d].values()) == unnamed.rows[d]["test"]
    made = {to for went in unnamed.routes.values() for to in went} - {NOWHERE}
    assert made
    assert not made & set(unnamed.order)  # nobody told it what they are called
    assert 0 < unnamed.tokens < crma.tokens  # it holds rows out that are trained on where they are named
    base = [unnamed.loss("base", 0, d) for d in unnamed.order]
    ours = [unnamed.loss("routed", t, d) for d in unnamed.order]
    assert sum(x for x in ours if x) < sum(x for x in base if x)


@pytest.mark.parametrize("condition", ["naive", "crma", "reset", "halves", "auto-stream"])
def test_a_run_killed_inside_a_domain_goes_on(run, condition):
    steps = iter(range(100))

    def kill(kind, _value):
        if kind == "step" and next(steps) == 11:
            raise Killed

    with pytest.raises(Killed):
        run(condition, on_event=kill)
    (path,) = run(condition)
    ends_as_a_whole_one(path, run, condition)


def ends_as_a_whole_one(path, run, condition):
    (resumed,) = read_receipts(path)
    path.unlink()
    (whole,) = read_receipts(run(condition))
    assert resumed.measurements == whole.measurements
    assert resumed.tokens == whole.tokens
    assert resumed.spectral == whole.spectral
    assert resumed.refusals == whole.refusals


def test_a_run_that_another_process_has_is_left_to_it(run, tmp_path):
    said = []
    run("naive")
    (folder,) = {p for p in (tmp_path / "w" / "smoke" / "worlds").iterdir() if p.suffix == ".lock"}
    (tmp_path / "r" / "smoke" / "worlds" / "naive-seed0-order0.json").unlink()
    with FileLock(folder):
        assert run("naive", say=said.append) == []
    assert "another process" in said[-1]


def test_a_choice_that_fits_nothing_is_refused(run):
    with pytest.raises(ConfigError, match="no such run"):
        run("crma", order=7)
    with pytest.raises(ConfigError, match="smoke, "):
        recipe_named("huge")


def test_a_domain_with_too_few_rows_is_named(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "a", "subdomain": "cancer"} for i in range(6)]
    rows += [{"prompt": f"w{i}", "completion": "a", "subdomain": "genetics"} for i in range(90)]
    (tmp_path / "subdomains").mkdir()
    (tmp_path / "subdomains" / "medical.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    from toys import toy_tokenizer

    stream = replace(
        STREAMS["near-medical"],
        sources={d: ("subdomains/medical.jsonl", d) for d in ("genetics", "cancer")},
    )
    with pytest.raises(DataError, match="cancer"):
        load_stream(stream, Sizes(train=8, validation=2, test=2, max_tokens=99), toy_tokenizer(), seed=0, data=tmp_path)
