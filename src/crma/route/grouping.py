"""Rows of no known domain fall into groups: two groups are one domain where routers made for each would mix them up.

Ward's clustering of the rows' directions (Ward 1963) gives many small groups; then the two whose routers let in most of
each other's rows are joined, and so on until no two let in half. So what comes out is as coarse as the router sees:
specialities of medicine are one domain, contracts and a glossary of law are two. Who wants it otherwise names domains.
Where that leaves groups too small to be worth a domain, these are joined to each other all the same, the most mixed
first: their rows are better learnt together than not at all.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from crma.route.calibration import median_deviation
from crma.route.centroid import Router

__all__ = ["grouped"]

_LEAVES = 15  # groups to begin with, at most
_LEAF_ROWS = 20  # a leaf, on average, at least
_FEWEST = 10  # rows of which a router can be made
_MIXED = 0.5  # of each side's rows that the other side's router lets in, from which on they are one
_FAR = 3.0  # robust standard deviations below the middle of a group: not of the group
_NORMAL = 1.4826  # a normal's standard deviation in units of its median absolute deviation


def grouped(router: Router, features_ND: np.ndarray, *, least: int = 0) -> np.ndarray:
    """The group of each row, from 0 in the order of size, [N]; -1 for those of no group.

    Args:
        router: whose background is looked through; its domains play no part.
        least: groups of fewer rows are joined, as long as there are two of them.
    """
    count = len(features_ND)
    labels_N = np.full(count, -1)
    if count < _FEWEST:
        return labels_N
    # By hidden states alone: words tell groups of a few rows apart that belong together, and then join what does not
    # (purity of a stream .95 without, .88 with them; LOG.md).
    features_ND = np.asarray(features_ND)[:, : router.dimension]
    alone = Router(
        background=router.background[:, : router.dimension],
        error_rate=router.error_rate,
        features=replace(router.features, words=0),
    )
    groups = _leaves(alone, features_ND)
    # A fixed order of its own: every fifth row calibrates, and rows come in the order of their sources.
    shuffle = np.random.default_rng(0).permutation

    def router_of(rows: np.ndarray) -> Router:
        return alone.with_domain("it", features_ND[rows])

    def mixed(a: int, b: int) -> tuple[float, float]:
        """Of each side's rows the share that the other side's router lets in: the smaller, and the mean."""
        pair = (frozenset(members[a].tolist()), frozenset(members[b].tolist()))
        if pair not in known:
            sides = ((routers[a], members[b]), (routers[b], members[a]))
            let_in = [
                float(np.mean([route.domain is not None for route in by.route(features_ND[rows])]))
                for by, rows in sides
            ]
            known[pair] = min(let_in), sum(let_in) / 2
        return known[pair]

    def join(a: int, b: int) -> None:
        joined = shuffle(np.concatenate([members[a], members[b]]))
        for i in sorted((a, b), reverse=True):
            del members[i], routers[i]
        members.append(joined)
        routers.append(router_of(joined))

    known: dict[tuple[frozenset[int], frozenset[int]], tuple[float, float]] = {}
    members = [shuffle(rows) for rows in groups if len(rows) >= _FEWEST]
    routers = [router_of(rows) for rows in members]
    while len(members) > 1:
        a, b = max(combinations(range(len(members)), 2), key=lambda pair: mixed(*pair)[0])
        if mixed(a, b)[0] < _MIXED:
            break
        join(a, b)
    while len(small := [i for i, rows in enumerate(members) if len(rows) < least]) > 1:
        join(*max(combinations(small, 2), key=lambda pair: mixed(*pair)[1]))
    order = sorted(range(len(members)), key=lambda i: (-len(members[i]), int(members[i].min())))
    for number, i in enumerate(order):
        labels_N[members[i]] = number
        labels_N[_strays(routers[i], members[i], features_ND)] = -1
    left = np.flatnonzero(labels_N < 0)
    if len(left) and members:  # rows of leaves too small for a router of their own
        whole = alone
        for number in range(len(order)):
            whole = whole.with_domain(str(number), features_ND[labels_N == number])
        typical = [whole.typical_of(route) for route in whole.route(features_ND[left])]
        labels_N[left] = [-1 if domain is None else int(domain) for domain in typical]
    return labels_N


def _strays(router: Router, rows: np.ndarray, features_ND: np.ndarray) -> np.ndarray:
    """Rows far below what the others of a group score: one of them among the few that calibrate would open it to all of
    its kind (as three of sixty did, LOG.md)."""
    scores = np.array([route.scores["it"] for route in router.route(features_ND[rows])])
    return rows[scores < np.median(scores) - _FAR * _NORMAL * median_deviation(scores)]


def _leaves(router: Router, features_ND: np.ndarray) -> list[np.ndarray]:
    wanted = min(_LEAVES, len(features_ND) // _LEAF_ROWS)
    if wanted < 2:
        return [np.arange(len(features_ND))]
    leaf_N = fcluster(linkage(router.directions(features_ND), "ward"), wanted, "maxclust")
    return [np.flatnonzero(leaf_N == leaf) for leaf in np.unique(leaf_N)]
