"""Routers that ours stands beside: what they pick, and what is made of the losses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crma.bench.receipt import read_receipts
from crma.benchmark.recipes import RECIPES
from crma.benchmark.rivals import TfidfRouter, at_random, best_single, require_scikit_learn
from crma.benchmark.runner import run_recipe
from crma.errors import ConfigError

TRAIN = {
    "law": ["Is the clause binding on the tenant?", "Who may terminate the contract?", "May the court strike a plea?"],
    "medicine": ["What causes migraine?", "How is scurvy treated?", "Which vitamin do patients lack?"],
}


def test_tfidf_tells_words_apart_and_says_how_sure_it_is():
    router = TfidfRouter(TRAIN)
    chosen, sure = router.choose(["Is the contract binding?", "How is migraine treated?", "zzz"])
    assert chosen[:2] == ["law", "medicine"]
    assert min(sure[:2]) > sure[2] >= 0.5
    assert TfidfRouter({"law": TRAIN["law"]}).choose(["a", "b"]) == (["law", "law"], [1.0, 1.0])


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        require_scikit_learn()


def test_the_best_single_adapter_weighs_domains_alike_and_rows_by_their_tokens():
    losses = {"law": {"law": [1.0, 3.0], "medicine": [2.0, 2.0]}, "medicine": {"law": [2.5], "medicine": [2.0]}}
    # law: 1.0 under its own by tokens (9 : 0 would be 1.0), 2.0 under the other
    assert best_single(losses, {"law": [9, 1], "medicine": [1]}) == "law"  # (1.2 + 2.5) / 2 < (2.0 + 2.0) / 2
    assert best_single(losses, {"law": [1, 9], "medicine": [1]}) == "medicine"  # (2.8 + 2.5) / 2 > 2.0


@given(st.lists(st.lists(st.floats(0, 9), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_random_adapter_is_neither_better_than_the_best_nor_worse_than_the_worst(table):
    found = np.array(at_random({str(i): row for i, row in enumerate(table)}))
    assert (found >= np.min(table, axis=0) - 1e-9).all()
    assert (found <= np.max(table, axis=0) + 1e-9).all()


def test_a_receipt_of_crma_has_the_rivals_in_its_first_order_only(tmp_path):
    for order in (0, 1):
        run_recipe(RECIPES["smoke"], tmp_path / "r", tmp_path / "w", condition="crma", order=order)
    first, second = read_receipts(tmp_path / "r")
    last = len(first.order)
    mean = {
        view: np.mean([first.at_end(view)[d] for d in first.order]) for view in ("pinned", "single", "random", "tfidf")
    }
    assert mean["pinned"] < mean["single"] < mean["random"]  # each domain's own adapter; the best one; any
    assert mean["pinned"] - 1e-9 <= mean["tfidf"] < mean["random"]
    assert all(second.loss(view, last, second.order[0]) is None for view in ("single", "random", "tfidf"))

    answers = {(a.domain, a.view): a.correct for a in first.answers}
    assert {view for _, view in answers} - {a.view for a in second.answers} == {"single", "tfidf"}
    # The single adapter is one of the domains' own, so on that domain's questions it answers as that one does.
    assert any(answers[d, "single"] == answers[d, "served"] for d in first.order)
    assert all(len(answers[d, "tfidf"]) == len(answers[d, "served"]) for d in first.order)
