"""What routing comes to: receipts of queries and where they went, and the numbers computed from them.

Words used here. A query is *accepted* by the domain it is sent to, or *abstained* on (the untouched base answers). Its
*margin* is the largest difference, over the domains that were asked, between the domain's score and its threshold: 0
and above is accepted. A *group* is queries of one kind: own (rows of the router's domains, each with one right answer),
stranger (right is the base) or boundary (each with a few right answers).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.stats import betabinom

from crma.bench.classification import adjusted_rand, auroc, expected_calibration_error, macro_f1
from crma.bench.receipt import validated
from crma.errors import DataError

__all__ = [
    "UNLABELLED",
    "Arrival",
    "Group",
    "Judge",
    "RoutingReceipt",
    "Step",
    "abstentions_expected",
    "check_comparable",
    "false_accepts_at",
    "read_routing",
    "routing_numbers",
    "separation",
    "wrong_abstentions",
]


Judge = Literal["margin", "tfidf_sure"]  # our router's score, or its rival's
UNLABELLED = "unlabelled"  # the set in which rows arrive without their domain


class Group(BaseModel):
    """Queries of one kind; the lists run over the queries. None is the untouched base."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["own", "stranger", "boundary", "unlearnt"]
    right: tuple[tuple[str | None, ...], ...]
    routed: tuple[str | None, ...]
    nearest: tuple[str, ...]  # the domain it was sent to, or would have been, had it been accepted
    margin: tuple[float, ...]
    confidence: tuple[float, ...]
    own_margin: tuple[float, ...] = ()  # of own rows: the score of their own domain less its threshold
    tfidf: tuple[str, ...]  # where the rival router sends them
    tfidf_sure: tuple[float, ...]  # the probability it gives that domain
    kinds: tuple[str, ...] = ()  # of boundary cases
    left_out: int = Field(default=0, description="queries of which nothing was left without the fixed wording")

    @model_validator(mode="after")
    def _fits(self) -> Group:
        told = (self.right, self.routed, self.nearest, self.margin, self.confidence, self.tfidf, self.tfidf_sure)
        lengths = {len(x) for x in told} | {len(x) for x in (self.own_margin, self.kinds) if x}
        if lengths != {len(self.routed)} or not self.routed:
            raise ValueError(f"{self.name}: lists of {sorted(lengths)} queries")
        return self

    @property
    def correct(self) -> list[bool]:
        return [to in right for to, right in zip(self.routed, self.right, strict=True)]

    def tfidf_correct(self, bar: float = 0.0) -> list[bool]:
        """`bar`: it abstains where it is less sure than this."""
        sent = [to if sure >= bar else None for to, sure in zip(self.tfidf, self.tfidf_sure, strict=True)]
        return [to in right for to, right in zip(sent, self.right, strict=True)]

    @property
    def accepted(self) -> list[bool]:
        return [to is not None for to in self.routed]

    def accuracy(self) -> float:
        """Share that ends where is right; the base is not right for a domain's own row."""
        return float(np.mean(self.correct))

    def macro_f1(self) -> float:
        """Over the domains; the base is no class of theirs."""
        right = [r[0] for r in self.right]
        return macro_f1(right, list(self.routed), classes=set(right))

    def tfidf_macro_f1(self) -> float:
        right = [r[0] for r in self.right]
        return macro_f1(right, list(self.tfidf), classes=set(right))

    @property
    def nearest_correct(self) -> list[bool]:
        return [near in r for near, r in zip(self.nearest, self.right, strict=True)]

    def parted(self, by: Judge = "margin") -> tuple[list[float], list[float]]:
        """(of the domains' own rows, of those that only the base is right for): what the judge says of each."""
        pairs = list(zip(self.right, getattr(self, by), strict=True))
        return [x for r, x in pairs if r != (None,)], [x for r, x in pairs if r == (None,)]

    @property
    def unclaimed(self) -> list[str | None]:
        """Where those queries were sent that only the base is right for."""
        return [to for to, right in zip(self.routed, self.right, strict=True) if right == (None,)]

    def calibration_error(self, strangers: Group | None = None) -> float:
        """Expected calibration error of the confidence in `nearest`, over these rows, and strangers (never right) if
        given: the confidence is that a query is no stranger and that domain's, so both belong to it."""
        right, sure = self.nearest_correct, self.confidence
        if strangers is not None:
            right, sure = right + strangers.nearest_correct, sure + strangers.confidence
        return expected_calibration_error(sure, right)


class Step(BaseModel):
    """The router of the first so many domains: of each of them, how many test rows went home."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    right: tuple[tuple[str, int, int], ...]  # in the order of learning: (domain, rows to their own domain, rows)


class Arrival(BaseModel):
    """Unlabelled rows in the order they came, and the domain each ended in; None are those that wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: str
    order: tuple[str, ...]  # of the domains, where these came one after the other
    right: tuple[str, ...]
    found: tuple[str | None, ...]
    made: tuple[tuple[str, int], ...]  # new domains, and after how many rows each was made

    def main(self) -> dict[str, str]:
        """Of each domain that was made or was there: which one most of its rows are of."""
        pairs = Counter((f, r) for f, r in zip(self.found, self.right, strict=True) if f is not None)
        return {f: max(self.order, key=lambda r, f=f: pairs[f, r]) for f in dict.fromkeys(f for f, _ in pairs)}

    def purity(self) -> float:
        """Of the rows that were learnt, the share in a domain that most of its rows share with it."""
        main = self.main()
        hits = [main[f] == r for f, r in zip(self.found, self.right, strict=True) if f is not None]
        return float(np.mean(hits)) if hits else 0.0

    def agreement(self) -> float:
        """The adjusted Rand index between what was found and what is right, over the rows that were learnt."""
        pairs = [(f, r) for f, r in zip(self.found, self.right, strict=True) if f is not None]
        return adjusted_rand([f for f, _ in pairs], [r for _, r in pairs]) if pairs else 0.0

    def delays(self) -> list[int]:
        """Where domains came one after the other: rows from a domain's first until the first that is mostly of it."""
        main, first = self.main(), {d: self.right.index(d) for d in self.order}
        found = [[at - first[d] for name, at in self.made if main.get(name) == d] for d in self.order]
        return [min(times) for times in found if times]


class RoutingReceipt(BaseModel):
    """One router: one set of domains, one split of their rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["routing"] = "routing"
    made: str = ""
    machine: Mapping[str, Any] = Field(default_factory=dict)
    name: str  # the set of domains
    seed: int
    base: Mapping[str, Any]
    router: Mapping[str, Any]  # what it is made of: features, error rate, prompts of the background
    data: Mapping[str, Mapping[str, str]]
    rows: Mapping[str, Mapping[str, int]]
    guarantees: Mapping[str, tuple[float, int]]  # domain -> (stated rate of wrong abstentions, documents it rests on)
    documents: Mapping[str, tuple[int, ...]] = Field(
        default_factory=dict, description="domain -> the document of each test row, numbered, in the order of 'test'"
    )
    groups: tuple[Group, ...]
    steps: tuple[Step, ...] = ()
    # Turns of made-up conversations: kind -> (right by the last turn alone, by keeping the subject through short turns
    # that are refused, by the filter, turns)
    conversations: Mapping[str, tuple[int, int, int, int]] = Field(default_factory=dict)
    speed: Mapping[str, float] = Field(default_factory=dict)
    arrivals: tuple[Arrival, ...] = ()

    def group(self, name: str) -> Group | None:
        return next((g for g in self.groups if g.name == name), None)

    @property
    def strangers(self) -> tuple[Group, ...]:
        return tuple(g for g in self.groups if g.kind == "stranger")

    @property
    def unlearnt(self) -> tuple[Group, ...]:
        """Of each domain: what a router of the others alone does with its rows (the base is right), and with theirs."""
        return tuple(g for g in self.groups if g.kind == "unlearnt")


def read_routing(folder: Path) -> list[RoutingReceipt]:
    """Every routing receipt under `folder` (or in that file), in the order of their paths.

    Raises:
        DataError: a file that calls itself one and is not.
    """
    found = []
    for file in [folder] if folder.is_file() else sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("kind") != "routing":
            continue
        found.append(validated(RoutingReceipt, content, file, "crma bench router"))
    return found


def separation(own: Group, strangers: Group, by: Judge = "margin") -> float:
    """AUROC between domains' own rows and strangers."""
    return auroc(getattr(own, by), getattr(strangers, by))


def false_accepts_at(own: Group, strangers: Group, by: Judge = "margin", *, true_accepts: float = 0.95) -> float:
    """Share of the strangers let in by the bar at which `true_accepts` of the own rows are let in."""
    bar = float(np.quantile(getattr(own, by), 1.0 - true_accepts))
    return float(np.mean(np.asarray(getattr(strangers, by)) >= bar))


def abstentions_expected(receipt: RoutingReceipt, domain: str, *, coverage: float = 0.95) -> tuple[float, int, int]:
    """(stated rate, most wrong abstentions that `coverage` of calibrations leave within it, documents tested) on the
    test rows of `domain`, by documents.

    Of n calibration documents the k-th lowest score is the threshold, so a new document has a row below it with a
    probability that is distributed over draws of the calibration as Beta(k, n + 1 − k) (Vovk 2012, "Conditional
    validity of inductive conformal predictors"), and of m documents a beta-binomial number.
    """
    stated, count = receipt.guarantees[domain]
    tested = len(set(receipt.documents.get(domain, ())))
    if not count or not tested:
        return stated, tested, tested
    rank = round(stated * (count + 1))
    return stated, int(betabinom.ppf(coverage, tested, rank, count + 1 - rank)), tested


def wrong_abstentions(receipt: RoutingReceipt, domain: str) -> int:
    """Test documents of `domain` with a row that `domain` itself refuses, whoever else takes it: what is stated."""
    own = receipt.group("test")
    if own is None:
        return 0
    mine = [i for i, right in enumerate(own.right) if right == (domain,)]
    refused = {d for d, i in zip(receipt.documents[domain], mine, strict=True) if own.own_margin[i] < 0.0}
    return len(refused)


def check_comparable(receipts: Sequence[RoutingReceipt]) -> None:
    """Raise DataError where two receipts are of one set and seed, or not of the same base and kind of router."""
    known: set[tuple[str, int]] = set()
    for receipt in receipts:
        if (receipt.name, receipt.seed) in known:
            raise DataError(
                "two routing receipts say they are the same",
                where=f"{receipt.name}, seed {receipt.seed}",
                expected="one receipt a set of domains and seed",
                got="two",
                next_step="keep the one you trust and move the other away",
            )
        known.add((receipt.name, receipt.seed))
        one = receipts[0]
        for what, a, b in (
            ("base", one.base.get("weights_sha256"), receipt.base.get("weights_sha256")),
            ("router", one.router, receipt.router),
        ):
            if a != b:
                raise DataError(
                    f"routing receipts of another {what} cannot be shown together",
                    where=f"{one.name}, seed {one.seed} and {receipt.name}, seed {receipt.seed}",
                    expected=a,
                    got=b,
                    next_step="make the older ones again with `crma bench router` into an empty folder",
                )


def routing_numbers(receipts: Sequence[RoutingReceipt]) -> dict[str, Any]:
    """`accuracy_far`, `accuracy_vertical`, `auroc_strangers`: means over the seeds of a set, then over sets; None where
    it was not measured. Strangers are CLINC's, the data's own set of them. `unlearnt_to_base`: of a far domain's rows
    the share that a router of the others sends to the base, by domain and over them."""
    sets: dict[str, list[RoutingReceipt]] = {}
    for receipt in receipts:
        sets.setdefault(receipt.name, []).append(receipt)

    def accuracy(name: str, group: str = "test") -> float | None:
        found = [g.accuracy() for r in sets.get(name, ()) if (g := r.group(group)) is not None]
        return float(np.mean(found)) if found else None

    check_comparable(receipts)
    verticals = {
        name: found
        for name in sets
        if name not in ("far", "twenty", UNLABELLED) and (found := accuracy(name)) is not None
    }
    known = list(verticals.values())
    areas = [
        separation(own, clinc)
        for r in sets.get("far", ())
        if (own := r.group("test")) is not None and (clinc := r.group("clinc")) is not None
    ]
    return {
        "accuracy_far": accuracy("far"),
        "accuracy_far_bare": accuracy("far", "bare"),
        "accuracy_vertical": float(np.mean(known)) if known else None,
        "accuracy_verticals": verticals,
        "auroc_strangers": float(np.mean(areas)) if areas else None,
        "unlearnt_to_base": _unlearnt(sets.get("far", ())),
    }


def _unlearnt(receipts: Sequence[RoutingReceipt]) -> dict[str, Any] | None:
    shares: dict[str, list[float]] = {}
    for group in (g for r in receipts for g in r.unlearnt):
        to_base = float(np.mean([to is None for to in group.unclaimed]))
        shares.setdefault(group.name.removeprefix("without "), []).append(to_base)
    means = {domain: float(np.mean(of)) for domain, of in shares.items()}
    return {"mean": float(np.mean(list(means.values()))), "domains": means} if means else None
