"""The matrix's derived numbers against values worked by hand."""

from __future__ import annotations

import pytest

from crma.bench.metrics import drift_pct, summarise
from crma.types import Matrix

# Learnt at 1.0, 2.0 and 3.0; the first was once better (0.9) and ends at 1.2, the second ends better at 1.9.
MATRIX = Matrix(
    domains=("a", "b", "c"),
    base=(4.0, 4.0, 4.0),
    rows=((1.0, 3.5, 4.2), (0.9, 2.0, 4.1), (1.2, 1.9, 3.0)),
)


def test_drift_is_relative_and_positive_when_forgotten():
    assert drift_pct(2.0, 2.1) == pytest.approx(5.0)
    assert drift_pct(2.0, 1.9) == pytest.approx(-5.0)


def test_the_summary_is_what_is_worked_by_hand():
    found = summarise(MATRIX)
    assert found.drift_pct == pytest.approx((20.0, -5.0, 0.0))
    assert found.drift_mean_pct == pytest.approx(7.5)
    assert found.drift_worst_pct == pytest.approx(20.0)
    assert found.backward_transfer == pytest.approx(-((1.2 - 1.0) + (1.9 - 2.0)) / 2)
    assert found.forgetting == pytest.approx(((1.2 - 0.9) + 0.0) / 2)
    assert found.forward_transfer == pytest.approx(((4.0 - 3.5) + (4.0 - 4.1)) / 2)
    assert found.average_loss == pytest.approx((1.2 + 1.9 + 3.0) / 3)
    assert found.learning_loss == pytest.approx(2.0)


def test_what_was_not_measured_stays_unknown():
    lower = Matrix(domains=("a", "b"), base=(4.0, 4.0), rows=((1.0, None), (1.1, 2.0)))
    assert summarise(lower).forward_transfer is None
    with pytest.raises(ValueError, match="needed"):
        summarise(Matrix(domains=("a", "b"), base=(4.0, 4.0), rows=((1.0, None), (None, 2.0))))
