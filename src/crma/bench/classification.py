"""How well rows are told apart: calibration, ranking, partitions, F1. Pure functions, each with formula and source."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence

import numpy as np
from scipy import stats

from crma.bench.checked import Answers, Numbers, numbers, right_or_wrong, same_length, shares, whole_number
from crma.errors import ConfigError

__all__ = [
    "adjusted_rand",
    "auroc",
    "expected_calibration_error",
    "macro_f1",
]


def expected_calibration_error(confidences: Numbers, correct: Answers, bins: int = 15) -> float:
    """Σ_m |B_m|/n · |accuracy(B_m) − mean confidence(B_m)|, B_m the confidences in ((m − 1)/M, m/M]; in [0, 1].

    A confidence of 0 belongs to the first bin. The number depends on `bins` and is biased upwards on few rows.
    Source: Guo et al. (2017), "On calibration of modern neural networks", eq. 3 (M = 15 there).

    Raises:
        ConfigError: empty, of two lengths, a confidence outside [0, 1], or bins below 1.
    """
    conf, right = shares("confidences", confidences), right_or_wrong("correct", correct)
    same_length("confidences", conf, "correct", right)
    m = whole_number("bins", bins, least=1)
    # Compared with the edges themselves: conf × bins would put 0.7 of 10 bins into the eighth (7.000000000000001).
    which = np.searchsorted(np.arange(1, m) / m, conf, side="left")
    gaps = np.bincount(which, weights=right - conf, minlength=m)
    return float(np.abs(gaps).sum() / len(conf))


def auroc(scores_positive: Numbers, scores_negative: Numbers) -> float:
    """P(positive > negative) + ½ P(tie) over all pairs: U / (n₊ n₋), from ranks.

    Source: Mann and Whitney (1947) for U; Hanley and McNeil (1982) for the area under the ROC curve.

    Raises:
        ConfigError: an empty side, or a score that is not finite.
    """
    up, down = numbers("scores_positive", scores_positive), numbers("scores_negative", scores_negative)
    ranks = stats.rankdata(np.concatenate([up, down]))  # ties get their mean rank
    u = float(ranks[: len(up)].sum()) - len(up) * (len(up) + 1) / 2
    return u / (len(up) * len(down))


def adjusted_rand(found: Sequence[str], right: Sequence[str]) -> float:
    """How far two partitions of the same rows agree, corrected for chance: 1 for equal ones, about 0 for unrelated.

    (Σ C(n_ij, 2) − E) / (½ (Σ C(a_i, 2) + Σ C(b_j, 2)) − E) with E = Σ C(a_i, 2) Σ C(b_j, 2) / C(n, 2)
    (Hubert and Arabie 1985, eq. 5).
    """
    same_length("found", found, "right", right)
    cells, rows, columns = Counter(zip(found, right, strict=True)), Counter(found), Counter(right)
    together, own, theirs = (sum(math.comb(n, 2) for n in counts.values()) for counts in (cells, rows, columns))
    every = math.comb(len(found), 2)
    expected = own * theirs / every if every else 0.0
    most = (own + theirs) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def macro_f1(
    true: Sequence[Hashable], predicted: Sequence[Hashable], *, classes: Collection[Hashable] | None = None
) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN); in [0, 1].

    Without `classes` they are all that appear on either side, so a label that is only predicted (a router's None, where
    it abstains) counts as a class with F1 = 0.
    Source: van Rijsbergen (1979) for F; Opitz and Burst (2019), "Macro F1 and macro F1", for this of the two averages.

    Raises:
        ConfigError: empty, of two lengths, or none of `classes` appears.
    """
    if len(true) == 0:
        raise ConfigError("macro F1 needs answers", expected="at least one label", got="none")
    same_length("true", true, "predicted", predicted)
    hits: dict[Hashable, int] = {}
    seen: dict[Hashable, int] = {}  # 2 TP + FP + FN
    for t, p in zip(true, predicted, strict=True):
        hits[t] = hits.get(t, 0) + (t == p)
        seen[t] = seen.get(t, 0) + 1
        seen[p] = seen.get(p, 0) + 1
    counted = {label: n for label, n in seen.items() if classes is None or label in classes}
    if not counted:
        raise ConfigError("macro F1 needs classes that appear", expected="one of the labels", got=list(classes or ()))
    return sum(2.0 * hits.get(label, 0) / n for label, n in counted.items()) / len(counted)
