"""Several domains for one query: which, and how much of each."""

from __future__ import annotations

from crma.types import Route

__all__ = ["shares_of"]


def shares_of(route: Route, top_k: int) -> dict[str, float]:
    """Of the domains that accept the query the `top_k` likeliest, with their probabilities scaled to sum to one.

    Empty where the query goes to the untouched base. A route that knows no probabilities (the caller chose the domain,
    or the conversation carried it) has its one domain.
    """
    if route.domain is None:
        return {}
    accepted = [d for d, score in route.scores.items() if score >= route.thresholds[d] and d in route.probabilities]
    if route.carried or route.domain not in accepted:
        return {route.domain: 1.0}
    # The route's own first: it is the likeliest of those that accept, ties are broken as the router broke them.
    order = sorted(accepted, key=lambda d: (d != route.domain, -route.probabilities[d], d))[: max(1, top_k)]
    total = sum(route.probabilities[d] for d in order)
    return {d: route.probabilities[d] / total for d in order} if total > 0 else {route.domain: 1.0}
