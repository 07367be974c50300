"""Rows that arrived without their domain: what a receipt of them comes to, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.bench.classification import adjusted_rand
from crma.bench.routing import UNLABELLED, Arrival, RoutingReceipt, routing_numbers
from crma.bench.routing_tables import routing_tables

LABELS = st.lists(st.sampled_from("abcd"), min_size=2, max_size=40)


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), min_size=2, max_size=60))
def test_the_adjusted_rand_index_is_that_of_scikit_learn(pairs: list[tuple[str, str]]):
    metrics = pytest.importorskip("sklearn.metrics")
    found, right = [f for f, _ in pairs], [r for _, r in pairs]
    assert adjusted_rand(found, right) == pytest.approx(metrics.adjusted_rand_score(right, found), abs=1e-12)


@given(LABELS)
def test_names_do_not_matter_to_it(labels: list[str]):
    assert adjusted_rand([f"new-{x}" for x in labels], labels) == 1.0


ARRIVAL = Arrival(
    how="one after the other",
    order=("law", "code"),
    right=("law",) * 4 + ("code",) * 4,
    found=("new-1", "new-1", "new-1", None, "new-1", "new-2", "new-2", "new-2"),
    made=(("new-1", 3), ("new-2", 8)),
)


def test_purity_counts_rows_in_domains_that_are_mostly_theirs_and_leaves_out_what_waits():
    assert ARRIVAL.main() == {"new-1": "law", "new-2": "code"}
    assert ARRIVAL.purity() == pytest.approx(6 / 7)
    assert ARRIVAL.delays() == [3, 4]  # code began at row 4 and was made after row 8


def test_where_nothing_was_learnt_there_is_nothing_pure():
    idle = ARRIVAL.model_copy(update={"found": (None,) * 8, "made": ()})
    assert (idle.purity(), idle.agreement(), idle.delays()) == (0.0, 0.0, [])


def test_the_report_shows_them_and_no_other_number_changes():
    receipt = RoutingReceipt(
        name=UNLABELLED,
        seed=0,
        base={"name": "toy"},
        router={},
        data={},
        rows={},
        guarantees={},
        groups=(),
        arrivals=(ARRIVAL,),
    )
    table = routing_tables([receipt])["router/unlabelled"]
    assert "| one after the other (law first) | 8 | 2.0 | 85.7% (85.7%) |" in table
    assert routing_numbers([receipt])["accuracy_verticals"] == {}
