"""Unlabelled rows, sorted as they arrive: to a known domain, to a new one, or to wait until it is clear.

A row that the router sends to a known domain, and that is typical of it, belongs there. The others wait. Only when the
test for novelty (`crma.route.novelty`) says that more of them are typical of no domain than chance explains are they
grouped, and groups that are large enough are new domains. Until then what waits may be a domain's own odd rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crma.route.centroid import Router
from crma.route.grouping import grouped
from crma.route.novelty import Novelty, untypical_rate
from crma.types import Route

__all__ = ["Sorter", "validation_share"]

_JUDGES = 20  # validation rows that a new domain should have: they say what is typical of it
_JUDGES_SHARE = 1 / 3  # of its rows, at most
_COLD = 6  # times as many rows as make a domain, before the first look: where nothing is known, nothing holds it up
_WORTH_ANOTHER_LOOK = 1.2  # times as many rows as at the last grouping that found nothing


@dataclass(frozen=True, slots=True)
class _Seen:
    features_D: np.ndarray
    typical: bool  # of any domain
    typical_of: str | None  # the one it is sent to
    let_in_by: str | None  # by the bar that serves


class Sorter:
    """Rows are known by the numbers `take` gave them, in the order of their coming, until `remove` takes them out."""

    def __init__(self, router: Router, *, least: int = 50, false_alarms: float = 1e-4) -> None:
        """
        Args:
            least: rows that make a new domain.
            false_alarms: with rows of known domains alone, on average at most one alarm in 1/false_alarms rows, with a
                probability of 95 % over the rows that calibrated these domains.
        """
        self.least, self.false_alarms = least, false_alarms
        self._rows: dict[int, _Seen] = {}
        self._next = 0
        self._looked_at = 0
        self.router = router
        self.novelty = Novelty(rate=self._rate(), false_alarms=false_alarms)

    def _rate(self) -> float:
        return untypical_rate(held.calibration for held in self.router.statistics.values())

    def resume(self, sums: Sequence[float], seen: int, untypical: int) -> None:
        """The test goes on where it stood, after rows it had seen were taken again."""
        self.novelty = replace(self.novelty, sums=tuple(sums), seen=seen, untypical=untypical)

    def take(self, features_ND: np.ndarray) -> range:
        """Sort rows, and return their numbers."""
        numbers = range(self._next, self._next + len(features_ND))
        for number, seen in zip(numbers, self._asked(features_ND), strict=True):
            self._rows[number] = seen
            self.novelty = self.novelty.after(not seen.typical)
        self._next = numbers.stop
        return numbers

    def knows(self, router: Router) -> None:
        """Sort all rows anew by a router that has changed. With another domain in it, the test begins anew."""
        same = router.domains == self.router.domains
        self.router, numbers = router, list(self._rows)
        if numbers:
            asked = self._asked(np.stack([self._rows[n].features_D for n in numbers]))
            self._rows = dict(zip(numbers, asked, strict=True))
        self.novelty = (
            replace(self.novelty, rate=self._rate())
            if same
            else Novelty(rate=self._rate(), false_alarms=self.false_alarms)
        )
        self._looked_at = 0

    def remove(self, numbers: Collection[int]) -> None:
        for number in numbers:
            self._rows.pop(number, None)

    @property
    def alarm(self) -> bool:
        """Whether something new has begun; where no domain is known, everything is new."""
        return not self.router.domains or self.novelty.alarm

    @property
    def doubtful(self) -> bool:
        """Whether, all rows having come, something among them is likely to be new, or enough of them make a domain that
        every known one would refuse: learning these takes nothing from it."""
        refused = sum(seen.typical_of is None and seen.let_in_by is None for seen in self._rows.values())
        return self.alarm or self.novelty.doubtful or refused >= self.least

    @property
    def waiting(self) -> tuple[int, ...]:
        return tuple(n for n, seen in self._rows.items() if seen.typical_of is None)

    @property
    def known(self) -> dict[str, tuple[int, ...]]:
        """The rows typical of each known domain, the domain with most of them first."""
        return _by_domain((n, seen.typical_of) for n, seen in self._rows.items())

    @property
    def let_in(self) -> dict[str, tuple[int, ...]]:
        """Those that wait and that a known domain would answer all the same: its own odd rows, if nothing is new."""
        return _by_domain((n, s.let_in_by) for n, s in self._rows.items() if s.typical_of is None)

    def at_the_end(self) -> dict[str, tuple[int, ...]]:
        """The rows of each known domain, with its odd ones, unless it looks as if something new were among these."""
        rows = {d: set(numbers) for d, numbers in self.known.items()}
        for domain, numbers in ({} if self.doubtful else self.let_in).items():
            rows.setdefault(domain, set()).update(numbers)
        return {d: tuple(sorted(numbers)) for d, numbers in rows.items()}

    @property
    def taken(self) -> int:
        """How many rows have come so far."""
        return self._next

    def new_domains(self, *, at_the_end: bool = False) -> list[tuple[int, ...]]:
        """The groups of waiting rows that make new domains, the largest first; none without an alarm.

        `at_the_end`: look also where hardly more rows wait than when nothing was found.
        """
        waiting = self.waiting
        enough = len(waiting) >= (self._looked_at * _WORTH_ANOTHER_LOOK if not at_the_end else 0)
        new = self.doubtful if at_the_end else self.alarm
        cold = not at_the_end and not self.router.domains
        if not new or len(waiting) < self.least * (_COLD if cold else 1) or not enough:
            return []
        features_ND = np.stack([self._rows[n].features_D for n in waiting])
        # As long as more may come, small groups get time to grow.
        labels_N = grouped(self.router, features_ND, least=self.least if at_the_end else 0)
        groups = [tuple(waiting[i] for i in np.flatnonzero(labels_N == g)) for g in range(labels_N.max() + 1)]
        found = [group for group in groups if len(group) >= self.least]
        self._looked_at = 0 if found else len(waiting)
        return found

    def _asked(self, features_ND: np.ndarray) -> list[_Seen]:
        features_ND = np.asarray(features_ND, dtype=np.float32)
        routes: Sequence[Route] = self.router.route(features_ND)
        return [
            _Seen(features_D, self.router.is_typical(route), self.router.typical_of(route), route.domain)
            for features_D, route in zip(features_ND, routes, strict=True)
        ]


def validation_share(rows: int, share: float) -> float:
    """Of the first rows of a domain: enough to say what is typical of it, but not more than a third."""
    return max(share, min(_JUDGES / rows, _JUDGES_SHARE))


def _by_domain(rows: Iterable[tuple[int, str | None]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for number, domain in rows:
        if domain is not None:
            found.setdefault(domain, []).append(number)
    return {d: tuple(found[d]) for d in sorted(found, key=lambda d: (-len(found[d]), d))}
