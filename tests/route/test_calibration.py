from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crma.errors import ConfigError
from crma.route.calibration import calibrate, conformal_rank


@pytest.mark.parametrize(
    ("count", "error_rate", "rank"),
    [(99, 0.01, 1), (199, 0.01, 2), (12, 0.01, 1), (1, 0.5, 1), (99, 0.07, 7), (99, 0.29, 29), (3, 0.99, 3)],
)
def test_the_threshold_is_the_kth_of_n_plus_one(count: int, error_rate: float, rank: int) -> None:
    assert conformal_rank(count, error_rate) == rank


@pytest.mark.parametrize("error_rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_outside_its_range_is_refused(error_rate: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        conformal_rank(10, error_rate)


def test_twelve_rows_guarantee_one_in_thirteen_and_say_so() -> None:
    told = calibrate(np.arange(12.0), np.array([20.0, 21.0]), error_rate=0.01)
    assert told.guarantee == 1 / 13
    assert told.threshold == 0.0


def test_a_gap_to_the_strangers_lowers_the_threshold_but_never_below_them() -> None:
    own, strangers = np.linspace(10, 20, 12), np.linspace(-1, 1, 50)
    told = calibrate(own, strangers, error_rate=0.01)
    assert strangers.max() < told.threshold < own.min()


def test_inseparable_kinds_keep_the_conformal_threshold_and_finite_odds() -> None:
    same = np.zeros(5)
    told = calibrate(same, same, error_rate=0.01)
    assert (told.threshold, told.slope, told.middle) == (0.0, 0.0, 0.0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), count=st.integers(5, 120), error_rate=st.sampled_from([0.01, 0.05, 0.2]))
def test_wrong_abstentions_stay_within_the_guarantee(seed: int, count: int, error_rate: float) -> None:
    """Averaged over many draws of calibration rows; the strangers' scores overlap, so that no gap helps."""
    rng = np.random.default_rng(seed)
    strangers = rng.normal(size=50) + 1.0
    told = [calibrate(rng.normal(size=count), strangers, error_rate=error_rate) for _ in range(400)]
    wrong = np.mean([rng.normal() < each.threshold for each in told])
    guarantee = told[0].guarantee
    spread = 5 * np.sqrt(guarantee * (1 - guarantee) / 400)  # five binomial standard deviations
    assert guarantee - spread <= wrong <= guarantee + spread


def test_rows_of_one_document_count_once_with_their_lowest_score() -> None:
    strangers = np.array([20.0, 21.0])
    told = calibrate(np.arange(12.0), strangers, error_rate=0.25, documents=[row // 3 for row in range(12)])
    assert (told.count, told.guarantee, told.threshold) == (4, 1 / 5, 0.0)
    alone = calibrate(np.arange(12.0), strangers, error_rate=0.25, documents=list("abcdefghijkl"))
    assert alone == calibrate(np.arange(12.0), strangers, error_rate=0.25)
    with pytest.raises(ConfigError, match="differ in number"):
        calibrate(np.arange(12.0), strangers, error_rate=0.25, documents=["a"])


def test_wrong_abstentions_stay_within_the_guarantee_where_documents_differ_more_than_their_rows() -> None:
    """Counted by rows the error would be larger than stated: the test would fail without `documents`."""
    rng = np.random.default_rng(3)
    strangers, documents, per = rng.normal(size=50) + 9.0, 9, 10

    def draw(count: int) -> np.ndarray:
        return (rng.normal(size=(count, 1)) * 3 + 0.1 * rng.normal(size=(count, per))).ravel()

    def wrong(which: list[int] | None) -> tuple[float, float]:
        told = [calibrate(draw(documents), strangers, error_rate=0.01, documents=which) for _ in range(1500)]
        return float(np.mean([(draw(1) < each.threshold).mean() for each in told])), told[0].guarantee

    by_document, stated = wrong([row // per for row in range(documents * per)])
    assert by_document <= stated + 0.03  # 5 binomial standard deviations are 0.04
    by_row, stated = wrong(None)
    assert stated < 0.02
    assert by_row > 0.05
