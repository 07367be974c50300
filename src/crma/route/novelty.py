"""Has something new begun? A sequential test over rows that arrive one by one, with a stated rate of false alarms.

Of each row one bit is looked at: is it untypical of every domain that is known? While all rows come from known domains
that happens at a rate of at most p0, which the domains' calibration bounds. A bet that it happens oftener gains on
average only if it does: for an alternative p1 > p0 the likelihood ratio of each bit has a mean of at most 1 under any
rate up to p0. The bets of all starting times are summed, as in the Shiryaev-Roberts procedure, and averaged over a few
alternatives. Such an e-detector, stopped when it reaches 1/a, raises on average at most one false alarm in 1/a rows
(Shin, Ramdas and Rinaldo 2022, arXiv 2203.03532, "E-detectors"). What is assumed: rows of a domain are exchangeable
with those that calibrated it, one row a document; and see `untypical_rate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scipy.stats import beta, binom

from crma.route.calibration import Calibration

__all__ = ["Novelty", "untypical_rate"]

_SURE = 0.95  # that p0 bounds the rates of all domains, over the draws of the rows that calibrated them
_ALTERNATIVES = (0.1, 0.25, 0.5, 0.75)  # of the way from p0 to 1
_DOUBT = 0.05
_LARGEST = 1e300  # a sum is cut there: it has long said what it has to say


def untypical_rate(calibrations: Iterable[Calibration]) -> float:
    """p0: how often a row of one of these domains is untypical of its own, at most, with a probability of 95 %.

    Given n held-out documents, the share of a domain's rows below the k-th smallest of their scores is distributed as
    Beta(k, n + 1 - k) over the draws of these documents (Vovk 2012, arXiv 1209.2673); all domains share the 5 %. That
    is exact for a k fixed beforehand. Here k follows from the bar, and the bar from the same scores, so the 95 % rest
    on simulation: they hold for normal scores from n = 12 on (`tests/route/test_novelty.py`).

    It is 1, and no alarm is ever raised, where a domain held nothing out.
    """
    known = list(calibrations)
    if not known or any(c.typical_rank == 0 for c in known):
        return 1.0
    sure = 1.0 - (1.0 - _SURE) / len(known)
    return max(float(beta.ppf(sure, c.typical_rank, c.count + 1 - c.typical_rank)) for c in known)


@dataclass(frozen=True, kw_only=True, slots=True)
class Novelty:
    """The state of the test: an immutable value, `after` a row it is another. The rate may change between rows."""

    rate: float  # p0
    false_alarms: float  # a: on average at most one in 1/a rows
    sums: tuple[float, ...] = (0.0,) * len(_ALTERNATIVES)
    seen: int = 0
    untypical: int = 0

    def after(self, untypical: bool) -> Novelty:
        sums = self.sums
        if self.rate < 1.0:
            grown = []
            for share, total in zip(_ALTERNATIVES, sums, strict=True):
                p1 = self.rate + share * (1.0 - self.rate)
                ratio = p1 / self.rate if untypical else (1.0 - p1) / (1.0 - self.rate)
                grown.append(min((total + 1.0) * ratio, _LARGEST))
            sums = tuple(grown)
        return replace(self, sums=sums, seen=self.seen + 1, untypical=self.untypical + untypical)

    @property
    def alarm(self) -> bool:
        return sum(self.sums) / len(self.sums) >= 1.0 / self.false_alarms

    @property
    def doubtful(self) -> bool:
        """Once all rows have come: whether so many untypical ones had a chance of less than 5 %, by one binomial test.

        Not to be asked row after row: that is what the alarm is for.
        """
        return self.rate < 1.0 and float(binom.sf(self.untypical - 1, self.seen, self.rate)) < _DOUBT
