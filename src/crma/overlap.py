"""Does a new domain overlap one that is there? Measured on held-out questions of both, before anything is trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from crma.data.openings import openings
from crma.route.centroid import Router
from crma.served import ServedStack
from crma.types import Split

__all__ = ["Overlap", "is_much", "overlaps_of"]

_ASKED = 3  # earlier domains, the nearest: each costs the features of its held-out questions
_SHARE = 0.1  # of either side's questions, from which on it is told
_ROWS = 2  # at least: one question says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Of the new domain's held-out questions how many are nearer to `other`, and the other way round."""

    domain: str
    other: str
    lost: int
    asked: int
    taken: int  # of `other`'s questions, by the new domain
    other_asked: int

    def __str__(self) -> str:
        back = f", and {self.taken} of {self.other_asked} of '{self.other}' to its" if self.other_asked else ""
        return (
            f"'{self.domain}' overlaps '{self.other}': {self.lost} of {self.asked} of its held-out questions would "
            f"go to the adapter of '{self.other}'{back}. If they are one subject, learn their rows as one domain"
        )


def overlaps_of(served: ServedStack, domain: str, router: Router, split: Split) -> list[Overlap]:
    """Those of the earlier domains nearest to `domain` that share a tenth of either side's questions with it.

    Asked are test questions: no router was made of them. Where there are none, those that laid a domain's threshold
    are; its choices have seen these, so they tell too little rather than too much.

    Args:
        router: one that holds the new domain.
        split: of the new domain.
    """
    asked = split.test or split.validation
    if not asked or len(router.domains) < 2:
        return []
    routes = router.route(served.features(openings(asked, like=split.train)))
    lost = Counter(r.nearest for r in routes if r.nearest is not None and r.nearest != domain)
    near = Counter(d for r in routes for d in (r.nearest, r.runner_up) if d is not None and d != domain)
    found = []
    for other, _ in sorted(near.items(), key=lambda item: (-lost[item[0]], -item[1], item[0]))[:_ASKED]:
        kept = served.kept_examples(other, "test") or served.kept_examples(other, "validation")
        questions = openings(kept)
        back = router.route(served.features(questions)) if questions else []
        taken = sum(r.nearest == domain for r in back)
        if is_much(lost[other], len(routes)) or is_much(taken, len(back)):
            found.append(
                Overlap(
                    domain=domain,
                    other=other,
                    lost=lost[other],
                    asked=len(routes),
                    taken=taken,
                    other_asked=len(back),
                )
            )
    return found


def is_much(count: int, of: int) -> bool:
    """Of so many questions, so many that it is worth telling."""
    return count >= _ROWS and count >= _SHARE * of
