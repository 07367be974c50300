"""Where a conversation goes: the turns' own routes, filtered, so that it follows a change of subject and does not flap.

A hidden Markov model's forward filter (Rabiner 1989, A tutorial on hidden Markov models, eq. 19 and 20): the state is
the domain, or none. A turn either names its subject, and is then as much likelier in a domain than in none as its own
route says, and may have changed it; or it names nothing ("and for children?"), looks like any everyday turn and changes
nothing. The shorter it is the likelier it names nothing.

The filter decides for a turn that every domain refuses, and between domains that accept it. It does not overrule a
domain that alone accepts: so the stated rate of wrong abstentions holds in a conversation as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from crma.types import Route

__all__ = ["is_settled", "route_conversation"]

# Chosen on conversations made of validation rows (LOG.md, on the router): 90 % of later turns right, where each turn by
# itself has 74 % and keeping the subject through refused turns of at most eight tokens 88 %.
SWITCH = 0.3  # the chance that a turn which names its subject changes it
HALF = 6.0  # tokens at which a turn names its subject as often as not
SLOPE = 1.2  # tokens in which that chance goes from a half to nearly three quarters
LEAST = 1e-3  # of any state: a route is never surer than this


def is_settled(turn: Route) -> bool:
    """Whether a turn goes where it goes by itself, whatever was said before: exactly one domain accepts it."""
    return turn.domain is not None and sum(_accepts(turn, domain) for domain in turn.scores) == 1


def route_conversation(turns: Sequence[Route], tokens: Sequence[int]) -> Route:
    """The route of the last turn in the light of the ones before.

    Args:
        turns: the routes of the user's turns, each by itself, oldest first; at least one.
        tokens: how long each of these turns is.

    Returns:
        The last turn's route; where the conversation says otherwise, with another domain and `carried`. Scores,
        thresholds and probabilities stay those of the turn.
    """
    last = turns[-1]
    if len(turns) == 1:
        return last
    states: list[str | None] = [None, *dict.fromkeys(d for route in turns for d in route.probabilities)]
    belief = [1.0 / len(states)] * len(states)
    for route, length in zip(turns, tokens, strict=True):
        named = 1.0 / (1.0 + math.exp(min((HALF - length) / SLOPE, 700.0)))
        none = max(1.0 - sum(route.probabilities.values()), LEAST)
        spoken = [1.0 - named + named * max(route.probabilities.get(s, 0.0), LEAST) / none for s in states[1:] if s]
        changes = SWITCH * named
        other = changes / max(1, len(states) - 1)
        raised = [x * (other + (1.0 - changes - other) * b) for x, b in zip([1.0, *spoken], belief, strict=True)]
        belief = [x / sum(raised) for x in raised]
    domain = states[max(range(len(states)), key=lambda i: belief[i])]
    if domain == last.domain or (last.domain is not None and not _accepts(last, domain)):
        return last
    nearest = domain or last.nearest
    return replace(
        last,
        domain=domain,
        nearest=nearest,
        runner_up=last.nearest if nearest != last.nearest else last.runner_up,
        confidence=belief[states.index(nearest)] if nearest in states else 0.0,
        abstained=domain is None,
        carried=True,
    )


def _accepts(route: Route, domain: str | None) -> bool:
    return domain is not None and route.scores.get(domain, -math.inf) >= route.thresholds.get(domain, math.inf)
