"""What routing comes to, on hand-made receipts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import betabinom

from crma.bench.headline import headline
from crma.bench.receipt import write_receipt
from crma.bench.routing import (
    Group,
    RoutingReceipt,
    Step,
    abstentions_expected,
    false_accepts_at,
    read_routing,
    routing_numbers,
    separation,
    wrong_abstentions,
)
from crma.bench.routing_tables import TITLES, routing_tables
from crma.errors import DataError


def group(name="test", kind="own", right=("law", "law", "code", "code"), routed=("law", None, "code", "law"), **more):
    n = len(routed)
    told = {
        "right": tuple((r,) if not isinstance(r, tuple) else r for r in right),
        "nearest": tuple(r or "law" for r in routed),
        "margin": tuple(-1.0 if r is None else 1.0 for r in routed),
        "confidence": (0.5,) * n,
        "own_margin": tuple(-1.0 if r is None else 1.0 for r in routed) if kind == "own" else (),
        "tfidf": ("law",) * n,
        "tfidf_sure": (0.9,) * n,
        **more,
    }
    return Group.model_validate({"name": name, "kind": kind, "routed": tuple(routed), **told})


def receipt(**changes):
    values = {
        "name": "far",
        "seed": 0,
        "base": {"name": "toy", "weights_sha256": "a"},
        "router": {"features": {"depth": 0.24, "tokens": 192}},
        "data": {},
        "rows": {"law": {}, "code": {}},
        "guarantees": {"law": (0.01, 99), "code": (0.1, 9)},
        "documents": {"law": (0, 0), "code": (0, 1)},
        "groups": (
            group(),
            group("clinc", "stranger", right=(None, None), routed=(None, "law"), margin=(-3.0, 0.5)),
            group("boundary", "boundary", right=(("law", None), ("code",)), routed=(None, "law"), kinds=("a", "b")),
        ),
        "steps": (
            Step(right=(("law", 3, 4),)),
            Step(right=(("law", 2, 4), ("code", 4, 4))),
        ),
        **changes,
    }
    return RoutingReceipt(**values)


def test_a_refused_row_is_not_at_home_and_the_base_is_no_class():
    own = group()
    assert own.accuracy() == 0.5
    # law: 1 hit, 1 false positive, 1 miss: 2/4; code: 1 hit, 1 miss: 2/3
    assert own.macro_f1() == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert own.tfidf_macro_f1() == pytest.approx((2 * 2 / (2 + 4) + 0) / 2)
    assert own.calibration_error() == pytest.approx(abs(0.75 - 0.5))  # nearest is right in three of four
    strangers = group("x", "stranger", right=(None,) * 4, routed=("law", None, None, None))
    assert own.calibration_error(strangers) == pytest.approx(abs(3 / 8 - 0.5))  # and of a stranger never
    assert own.tfidf_correct() == [True, True, False, False]
    assert own.tfidf_correct(bar=0.95) == [False] * 4


def test_separation_and_false_accepts_are_of_the_margin():
    own = group(margin=(1.0, 2.0, 3.0, 4.0))
    strangers = group("x", "stranger", right=(None,) * 4, routed=("law",) * 4, margin=(0.0, 1.5, 5.0, -1.0))
    assert separation(own, strangers) == (4 + 3 + 0 + 4) / 16
    assert false_accepts_at(own, strangers, true_accepts=0.5) == 0.25  # the bar is 2.5
    assert false_accepts_at(own, strangers, true_accepts=1.0) == 0.5  # the bar is 1


def test_wrong_abstentions_are_counted_by_documents_also_where_another_domain_takes_the_row():
    """Law's two rows are of one document, one of them is refused."""
    taken = receipt(groups=(group(routed=("code", "law", "code", "code"), own_margin=(-0.1, 1.0, 1.0, 1.0)),))
    assert wrong_abstentions(taken, "law") == 1
    whole = receipt()
    assert (wrong_abstentions(whole, "law"), wrong_abstentions(whole, "code")) == (1, 0)
    assert abstentions_expected(whole, "law") == (0.01, 0, 1)
    many = receipt(
        documents={"law": tuple(range(200)), "code": ()},
        groups=(group(right=("law",) * 200, routed=("law",) * 200),),
    )
    stated, most, tested = abstentions_expected(many, "law")
    assert (stated, tested) == (0.01, 200)
    assert betabinom.cdf(most, 200, 1, 99) >= 0.95 > betabinom.cdf(most - 1, 200, 1, 99)
    # By simulation: the lowest of 99 uniform scores is the threshold, 200 new ones are tested against it.
    rng = np.random.default_rng(0)
    below = [(rng.random(200) < rng.random(99).min()).sum() for _ in range(20_000)]
    assert np.mean(np.array(below) <= most) == pytest.approx(0.95, abs=0.02)


def test_without_calibration_rows_nothing_is_stated():
    assert abstentions_expected(receipt(guarantees={"law": (1.0, 0)}), "law") == (1.0, 1, 1)


def test_the_headline_names_the_four_numbers_and_none_where_nothing_was_measured():
    law = receipt(name="law", groups=(group(routed=("law", "law", "code", "code")),))
    twenty = receipt(name="twenty", groups=(group(routed=(None,) * 4),))
    found = routing_numbers([receipt(), law, twenty])
    assert (found["accuracy_far"], found["accuracy_vertical"]) == (0.5, 1.0)
    assert found["accuracy_verticals"] == {"law": 1.0}
    assert found["auroc_strangers"] == separation(receipt().groups[0], receipt().groups[1])
    empty = headline([])["router"]
    assert {empty[k] for k in ("accuracy_far", "accuracy_vertical", "auroc_strangers", "routed_vs_oracle_pct")} == {
        None
    }


def test_every_table_has_a_title_and_says_what_the_receipts_say():
    speed = {
        "feature_ms": 9.0,
        "prompt_tokens": 40.0,
        "route_ms": 0.4,
        "route_ms_1000_domains": 2.0,
        "queries_a_second": 9000.0,
        "queries_a_second_1000_domains": 3000.0,
    }
    said = {"names none": (1, 2, 3, 4), "everyday, the first turn": (1, 1, 1, 1)}
    tables = routing_tables([receipt(speed=speed, conversations=said)])
    assert "| names none | 4 | 25.0% | 50.0% | 75.0% |" in tables["router/conversations"]
    assert "| all but the first turns | 4 | 25.0% | 50.0% | 75.0% |" in tables["router/conversations"]
    # Rows of a set of its own (test_arrivals.py), and below.
    assert set(tables) == set(TITLES) - {"router/unlabelled", "router/unlearnt"}
    # Of three documents half is two.
    assert (
        "| far, 2 domains | as they are | 4 | 50.00% [20.8, 93.9] | 75.00% | 50.00% [20.8, 93.9] |"
        in tables["router/accuracy"]
    )
    assert "| CLINC150, out of its scope | 2 | 0.8" in tables["router/strangers"]
    assert "| far | 3 | 7.00% | 1 (33.33%) | 1 of 2: law (seed 0) |" in tables["router/abstentions"]
    assert "| far | 1 | law: 75.00% | 75.00% | 1 |" in tables["router/growth"]
    assert "| far | 2 | law: 50.00% | 75.00% | 1 |" in tables["router/growth"]
    assert "| a | 1 | 1 of 1 (100%) | 1 of 1 (100%) |" in tables["router/boundary"]
    assert "| b | 1 | 0 of 1 (0%) | 0 of 1 (0%) |" in tables["router/boundary"]
    assert routing_tables([]) == {}


def test_receipts_are_read_back_and_broken_ones_are_named(tmp_path):
    write_receipt(tmp_path / "far.json", receipt().model_dump(exclude={"made", "machine"}))
    (tmp_path / "other.json").write_text(json.dumps({"format": 2}), encoding="utf-8")
    (found,) = read_routing(tmp_path)
    assert found.model_copy(update={"made": "", "machine": {}}) == receipt()
    assert [d for d, *_ in found.steps[1].right] == ["law", "code"]  # as they were learnt, not as JSON sorts them
    (tmp_path / "bad.json").write_text(json.dumps({"kind": "routing", "name": "far"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.json"):
        read_routing(tmp_path)


@pytest.mark.parametrize("changes", [{}, {"seed": 1, "base": {"weights_sha256": "b"}}, {"seed": 1, "router": {}}])
def test_receipts_that_are_not_comparable_are_refused(changes):
    with pytest.raises(DataError):
        routing_tables([receipt(), receipt(**changes)])
    with pytest.raises(DataError):
        routing_numbers([receipt(), receipt(**changes)])


def test_lists_of_different_lengths_are_no_group():
    with pytest.raises(ValidationError, match="lists of"):
        group(confidence=(0.5,))


def test_the_table_of_domains_that_are_not_learnt():
    right = (None, None, "code", "code")
    left_out = group(
        "without law",
        "unlearnt",
        right=right,
        routed=("code", None, "code", "code"),
        margin=(0.5, -1.0, 2.0, 0.25),
        tfidf_sure=(0.9, 0.9, 0.9, 0.95),
    )
    of = receipt(groups=(group(), left_out))
    assert left_out.unclaimed == ["code", None]
    assert left_out.parted() == ([2.0, 0.25], [0.5, -1.0])
    table = routing_tables([of])["router/unlearnt"]
    assert "| law | 2 | 50.0% | code, 50.0% | 0.7500 | 0.7500 |" in table
    assert "router/unlearnt" not in routing_tables([receipt()])
    assert routing_numbers([of])["unlearnt_to_base"] == {"mean": 0.5, "domains": {"law": 0.5}}
    assert routing_numbers([receipt()])["unlearnt_to_base"] is None
