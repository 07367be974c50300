"""Unlabelled rows of known domains arrive in one order or another, and are sorted as `crma learn --auto` and `--stream`
sort them. No adapter is trained: what is measured is which rows end in which domain, and when that begins to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crma.bench.routing import Arrival
from crma.route.centroid import Router
from crma.route.sorting import Sorter, validation_share

__all__ = ["arrivals"]

_CHUNK = 50  # rows, as a stream is read
_INCREMENT = 100  # as `crma learn --stream` has it
_TEST = 0.1  # of a domain's rows, that neither make nor judge its part of the router


def arrivals(
    empty: Router, rows: Mapping[str, tuple[np.ndarray, np.ndarray]], full: Router, *, seed: int, least: int
) -> list[Arrival]:
    """Each domain's rows in four orders of arrival.

    Args:
        rows: a domain's features [N, D], and those of the same prompts `as_typed`.
        empty: a router of no domain.
        full: one that knows all of these domains, for rows in which nothing is new.
    """
    domains = tuple(rows)
    mixed = np.random.default_rng(seed).permutation(sum(len(features) for features, _ in rows.values()))
    return [
        _arrive("one file", domains, rows, empty, least, seed, mixed=mixed, at_once=True),
        _arrive("shuffled", domains, rows, empty, least, seed, mixed=mixed),
        _arrive("one after the other", domains, rows, empty, least, seed),
        _arrive("one after the other", domains[::-1], rows, empty, least, seed),
        _arrive("nothing new", domains, rows, full, least, seed, mixed=mixed),
    ]


def _arrive(
    how: str,
    order: Sequence[str],
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
    router: Router,
    least: int,
    seed: int,
    *,
    mixed: np.ndarray | None = None,
    at_once: bool = False,
) -> Arrival:
    features_ND, hasty_ND = (np.concatenate([rows[d][typing] for d in order]) for typing in (0, 1))
    right = np.array([d for d in order for _ in rows[d][0]])
    if mixed is not None:
        features_ND, hasty_ND, right = features_ND[mixed], hasty_ND[mixed], right[mixed]
    learner = _Learner(router, features_ND, hasty_ND, least=least, seed=seed)
    for start in range(0, len(features_ND), _CHUNK):
        learner.sorter.take(features_ND[start : start + _CHUNK])
        if not at_once:
            learner.work()
    learner.finish()
    found = tuple(learner.found.get(i) for i in range(len(features_ND)))
    return Arrival(how=how, order=tuple(order), right=tuple(right.tolist()), found=found, made=tuple(learner.made))


class _Learner:
    """As `crma.incoming.Incoming`, but what it teaches is the router alone."""

    def __init__(self, router: Router, features_ND: np.ndarray, hasty_ND: np.ndarray, *, least: int, seed: int) -> None:
        self.sorter = Sorter(router, least=least)
        self.features_ND, self.hasty_ND, self.draw = features_ND, hasty_ND, np.random.default_rng(seed)
        self.found: dict[int, str] = {}
        self.made: list[tuple[str, int]] = []
        self._judges: dict[str, list[int]] = {}
        self._seen = len(features_ND)

    def work(self) -> None:
        while new := self.sorter.new_domains():
            for rows in new:
                self._learn(rows)
        for domain in list(self.sorter.known):
            rows = self.sorter.known.get(domain, ())
            if len(rows) >= _INCREMENT:
                self._extend(domain, rows)

    def finish(self) -> None:
        self.work()
        while new := self.sorter.new_domains(at_the_end=True):
            for rows in new:
                self._learn(rows)
        for domain, rows in self.sorter.at_the_end().items():
            self._end_in(domain, rows)

    def _learn(self, rows: Sequence[int]) -> None:
        name = f"new-{len(self.made) + 1}"
        self.made.append((name, self.sorter.taken))
        train, judges = self._split(rows, validation_share(len(rows), 0.1))
        self._judges[name] = judges
        own, held_out = self.features_ND[train], self.features_ND[judges]
        router = self.sorter.router.with_domain(name, own, held_out, retyped=(own, self.hasty_ND[train]))
        self._end_in(name, rows)
        self.sorter.knows(router)

    def _extend(self, domain: str, rows: Sequence[int]) -> None:
        train, judges = self._split(rows, 0.1)
        self._end_in(domain, rows)
        if domain in self._judges:  # one that was known from the beginning keeps its own
            self._judges[domain] += judges
            more, all_judges = self.features_ND[train], self.features_ND[self._judges[domain]]
            retyped = (more, self.hasty_ND[train])
            self.sorter.knows(self.sorter.router.with_more(domain, more, all_judges, retyped=retyped))

    def _split(self, rows: Sequence[int], share: float) -> tuple[list[int], list[int]]:
        drawn = self.draw.permutation(np.array(rows)).tolist()
        judges, tests = max(1, round(share * len(drawn))), round(_TEST * len(drawn))
        return drawn[judges + tests :], drawn[:judges]

    def _end_in(self, domain: str, rows: Sequence[int]) -> None:
        self.found |= dict.fromkeys(rows, domain)
        self.sorter.remove(rows)
