"""The matrix's derived numbers against values worked by hand."""

from __future__ import annotations

import math

import pytest

from crma.bench.metrics import advantage_pct, captured_share, drift_pct, intransigence, summarise
from crma.errors import ConfigError
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


def test_the_papers_advantages_come_from_its_losses():
    # hold-out losses of MODULAR and FROZEN, seeds 0, 42 and 1234 (PROTOCOL.md); printed: 1.46, 1.97, 2.54 %
    losses = ((1.2530, 1.2716), (1.2657, 1.2912), (1.2705, 1.3036))
    assert [advantage_pct(theirs=f, ours=m) for m, f in losses] == pytest.approx([1.46, 1.97, 2.54], abs=0.006)
    assert advantage_pct(theirs=2.0, ours=2.5) == pytest.approx(-25.0)


def test_the_captured_share_is_of_what_joint_training_wins():
    assert captured_share(frozen=2.0, ours=1.9, joint=1.8) == pytest.approx(0.5)
    assert captured_share(frozen=2.0, ours=1.7, joint=1.8) == pytest.approx(1.5)
    assert captured_share(frozen=2.0, ours=2.1, joint=1.8) == pytest.approx(-0.5)


@pytest.mark.parametrize("joint", [2.0, 2.1])
def test_nothing_is_captured_where_joint_training_wins_nothing(joint):
    assert captured_share(frozen=2.0, ours=1.9, joint=joint) is None


def test_intransigence_is_the_loss_over_a_reference():
    assert intransigence(MATRIX, (0.8, 2.0, 3.1)) == pytest.approx((0.2, 0.0, -0.1))


def test_what_is_no_loss_is_refused():
    with pytest.raises(ConfigError, match="no loss"):
        captured_share(frozen=2.0, ours=math.nan, joint=1.0)
    with pytest.raises(ConfigError, match="no loss"):
        advantage_pct(theirs=-1.0, ours=1.0)
    with pytest.raises(ConfigError, match="relative to their loss"):
        advantage_pct(theirs=0.0, ours=1.0)
    with pytest.raises(ConfigError, match="expected: 3 losses\n  got: 2"):
        intransigence(MATRIX, (1.0, 2.0))
    with pytest.raises(ConfigError, match="the diagonal"):
        intransigence(Matrix(domains=("a",), base=(4.0,), rows=((None,),)), (1.0,))
