"""The router where it is hard: far domains and verticals, with and without their sources' wording, against strangers.

No training and no stack: a router needs the base and the prompts only. Features are computed once a text and kept in
the scratch folder, so a killed run goes on.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from crma.bench.receipt import write_receipt
from crma.bench.routing import UNLABELLED, Group, RoutingReceipt, Step, read_routing
from crma.benchmark.arrivals import arrivals
from crma.benchmark.boundary import BOUNDARY
from crma.benchmark.conversations import make_conversations
from crma.benchmark.rivals import TfidfRouter, require_scikit_learn
from crma.benchmark.streams import STREAMS
from crma.benchmark.wording import fixed_wording, without
from crma.data.domains import documents_of, split_examples, split_hashes
from crma.data.sources import read_examples
from crma.errors import ConfigError
from crma.model.base import Base, load_base
from crma.route.background import BACKGROUND_PROMPTS
from crma.route.centroid import Router
from crma.route.conversation import route_conversation
from crma.route.retyping import RETYPED, as_typed, in_haste, mistyped, retyped_of, with_slips
from crma.route.seen import FEATURES, FeatureKind, seen_of, with_words
from crma.types import Example, Route, Split

__all__ = ["SETS", "measure_routing"]

SEEDS = (0, 42, 1234)
_ERROR_RATE = 0.01
_STRANGERS = 1000  # queries of a kind, drawn once; two draws of 300 differed by 6 points in what was let in
_CONVERSATIONS = 300
_ARRIVE = 250  # rows a domain that arrive without its name
_SHORT = 8  # tokens of a turn through which the simplest rule keeps the subject
_BATCH = 256  # texts between two savings of what is known
_EVERY = 4  # of other domains' test rows one in so many, beside those of one that was not learnt
_SPEED_DOMAINS = 1000  # made up, for the time a query takes


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingSet:
    """Domains that one router holds: domain -> (file under the data folder, value of its rows' `subdomain` or None)."""

    sources: Mapping[str, tuple[str, str | None]]
    train: int
    validation: float | int
    test: float | int
    seeds: tuple[int, ...] = SEEDS
    grows: bool = False  # measured after each added domain as well
    strangers: bool = False  # strangers and boundary cases are asked too
    arrive: bool = False  # rows arrive without their domain; nothing else is measured


def _vertical(file: str, names: str) -> dict[str, tuple[str, str | None]]:
    return {name: (f"subdomains/{file}.jsonl", name) for name in names.split()}


_MEDICINE = _vertical(
    "medical",
    "genetics rare_diseases neurology diabetes_digestive_kidney heart_lung_blood cancer general_health senior_health"
    " biomedical_research",
)
_LAW = _vertical("legal", "privacy_policies contracts statutes court_rules legal_terms")
_CODE = _vertical(
    "code_languages",
    "python_mbpp python_algorithms java_mbxp javascript_mbxp typescript_mbxp cpp_mbxp",
)


def _in_turn(*sets: Mapping[str, Any]) -> dict[str, Any]:
    """One of each in turn, so that relatives do not come one after the other."""
    rows = [list(s.items()) for s in sets]
    longest = max(len(r) for r in rows)
    return dict(r[i] for i in range(longest) for r in rows if i < len(r))


SETS: Mapping[str, RoutingSet] = {
    "far": RoutingSet(
        sources=dict(STREAMS["far"].sources), train=500, validation=100, test=200, grows=True, strangers=True
    ),
    UNLABELLED: RoutingSet(sources=dict(STREAMS["far"].sources), train=500, validation=100, test=200, arrive=True),
    "medicine": RoutingSet(sources=_MEDICINE, train=300, validation=0.15, test=0.25),
    "law": RoutingSet(sources=_LAW, train=300, validation=0.15, test=0.25),
    "programming languages": RoutingSet(sources=_CODE, train=300, validation=0.15, test=0.25),
    "twenty": RoutingSet(
        sources=_in_turn(_MEDICINE, _LAW, _CODE), train=300, validation=0.15, test=0.25, seeds=(0,), grows=True
    ),
}


def measure_routing(
    data: Path,
    results: Path,
    work: Path,
    *,
    names: Sequence[str] = tuple(SETS),
    base: str = "smollm2-135m",
    kind: FeatureKind = FEATURES,
    say: Callable[[str], None] = lambda _text: None,
) -> list[Path]:
    """Write the receipts of the sets `names` that are not there yet, to `results/<set>-seed<seed>.json`.

    Args:
        data: the folder that holds domains/, subdomains/, ood/ and benchmarks/.
        work: scratch; features of texts are kept there.

    Raises:
        ConfigError: no such set, or scikit-learn is not installed; DataError: a file of rows is not there.
    """
    require_scikit_learn()
    unknown = set(names) - set(SETS)
    if unknown:
        raise ConfigError("there is no such set of domains", expected=", ".join(SETS), got=", ".join(sorted(unknown)))
    todo = [
        (name, seed, results / f"{name.replace(' ', '-')}-seed{seed}.json")
        for name in names
        for seed in SETS[name].seeds
    ]
    there = [path for *_, path in todo if path.is_file()]
    todo = [(name, seed, path) for name, seed, path in todo if not path.is_file()]
    for receipt in (read_routing(path)[0] for path in there):
        made = {"base": receipt.base.get("name"), "router": receipt.router}
        wanted = {"base": base, "router": _made_of(kind)}
        if made != wanted:
            raise ConfigError(
                "a receipt there is of another base or kind of router",
                where=f"{results}: {receipt.name}, seed {receipt.seed}",
                expected=wanted,
                got=made,
                next_step="move it away, or choose another --results folder; no receipt is overwritten",
            )
    if not todo:
        return []
    features = _Features(load_base(base), kind, work, say)
    for name, seed, path in todo:
        say(f"{name}, seed {seed}")
        receipt = _measured(name, seed, data, features, {"name": base, "weights_sha256": features.base.weights_sha256})
        write_receipt(path, receipt.model_dump(exclude={"made", "machine"}))
    return [path for *_, path in todo]


class _Features:
    """Features of texts; the hidden state of each is computed once and kept."""

    def __init__(self, base: Base, kind: FeatureKind, work: Path, say: Callable[[str], None]) -> None:
        self.base, self.kind, self.say = base, kind, say
        named = hashlib.sha256(f"{base.weights_sha256} {kind.depth} {kind.tokens}".encode()).hexdigest()[:12]
        self.path = work / f"features-{named}.npz"
        self.known: dict[str, np.ndarray] = {}
        if self.path.is_file():
            with np.load(self.path) as kept:
                self.known = dict(zip(kept["keys"].tolist(), kept["features"], strict=True))

    def of(self, texts: Sequence[str]) -> np.ndarray:
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}
        for start in range(0, len(missing), _BATCH):
            part = list(missing)[start : start + _BATCH]
            found = self.compute([missing[key] for key in part], replace(self.kind, words=0))
            self.known |= dict(zip(part, found, strict=True))
            self._save()
            if len(missing) > _BATCH:
                self.say(f"  features: {start + len(part)} of {len(missing)} texts")
        hidden_NH = np.stack([self.known[key] for key in keys])
        return with_words(hidden_NH, self.base.tokenizer, texts, self.kind)

    def compute(self, texts: Sequence[str], kind: FeatureKind | None = None) -> np.ndarray:
        return seen_of(self.base.model, self.base.tokenizer, texts, kind or self.kind)

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part.npz")
        np.savez(whole, keys=np.array(list(self.known)), features=np.stack(list(self.known.values())))
        whole.replace(self.path)


@dataclass(kw_only=True, slots=True)
class _Rows:
    """A domain's split, and its source's fixed wording for each row."""

    split: Split
    wording: Mapping[str, frozenset[tuple[str, ...]]]  # source -> runs of words
    source: Mapping[str, str] = field(default_factory=dict)  # a row's id -> its source

    def bare(self, example: Example) -> str:
        return without(example.prompt, self.wording[self.source[example.id or ""]])


def _measured(name: str, seed: int, data: Path, features: _Features, base: Mapping[str, Any]) -> RoutingReceipt:
    wanted = SETS[name]
    rows = {d: _read(data, *place, wanted, seed) for d, place in wanted.sources.items()}
    router = Router.empty(features.of(BACKGROUND_PROMPTS), error_rate=_ERROR_RATE, features=features.kind)
    steps = []
    for number, (domain, of) in enumerate(rows.items(), start=1):
        prompts = [e.prompt for e in of.split.train]
        own = features.of(prompts)
        router = router.with_domain(
            domain,
            own,
            features.of([e.prompt for e in of.split.validation]),
            documents=documents_of(of.split.validation),
            retyped=retyped_of(prompts, own, features.of),
        )
        if wanted.grows:
            steps.append(_step(router, {d: rows[d] for d in list(rows)[:number]}, features))
    if wanted.arrive:
        return _arrived(name, seed, rows, router, features, base)
    tfidf = _tfidf(rows)

    def asked(
        kind: str,
        group: str,
        texts: Sequence[str],
        right: Sequence[tuple[str | None, ...]],
        router: Router = router,
        tfidf: TfidfRouter = tfidf,
        **more: Any,
    ) -> Group:
        routes = _routes(router, texts, features)
        chosen, sure = tfidf.choose(texts)
        return Group(
            name=group,
            kind=kind,  # pyright: ignore[reportArgumentType]
            right=tuple(right),
            routed=tuple(r.domain for r in routes),
            nearest=tuple(r.nearest or "" for r in routes),
            margin=tuple(_rounded(max(s - r.thresholds[d] for d, s in r.scores.items())) for r in routes),
            own_margin=tuple(
                _rounded(r.scores[d] - r.thresholds[d]) for r, (d,) in zip(routes, right, strict=True) if d
            )
            if kind == "own"
            else (),
            confidence=tuple(round(r.confidence, 5) for r in routes),
            tfidf=tuple(chosen),
            tfidf_sure=tuple(round(x, 5) for x in sure),
            **more,
        )

    own = [(d, of.bare(e), e) for d, of in rows.items() for e in of.split.test]
    left = [(d, bare) for d, bare, _ in own if bare]
    groups = [
        asked("own", "test", [e.prompt for *_, e in own], [(d,) for d, *_ in own]),
        asked("own", "bare", [b for _, b in left], [(d,) for d, _ in left], left_out=len(own) - len(left)),
        asked("own", "in haste", [in_haste(e.prompt) for *_, e in own], [(d,) for d, *_ in own]),
        asked("own", "with slips", [with_slips(e.prompt) for *_, e in own], [(d,) for d, *_ in own]),
        asked("own", "with gaps", [_with_gaps(e.prompt) for *_, e in own], [(d,) for d, *_ in own]),
    ]
    if wanted.strangers:
        for domain, of in rows.items():
            others = {d: mine for d, mine in rows.items() if d != domain}
            theirs = [(e, d) for d, mine in others.items() for e in mine.split.test[::_EVERY]]
            groups.append(
                asked(
                    "unlearnt",
                    f"without {domain}",
                    [e.prompt for e in of.split.test] + [e.prompt for e, _ in theirs],
                    [(None,)] * len(of.split.test) + [(d,) for _, d in theirs],
                    router=router.without_domain(domain),
                    tfidf=_tfidf(others),
                )
            )
        for kind, texts in _strangers(data):
            groups.append(asked("stranger", kind, texts, [(None,)] * len(texts)))
        groups.append(
            asked(
                "boundary",
                "boundary",
                [c.prompt for c in BOUNDARY],
                [c.right for c in BOUNDARY],
                kinds=tuple(c.kind for c in BOUNDARY),
            )
        )
    return RoutingReceipt(
        **_told(name, seed, base, router, rows),
        rows={d: {s: len(getattr(of.split, s)) for s in ("train", "validation", "test")} for d, of in rows.items()},
        guarantees={d: (s.calibration.guarantee, s.calibration.count) for d, s in router.statistics.items()},
        documents={d: _numbered(documents_of(of.split.test)) for d, of in rows.items()},
        groups=tuple(groups),
        steps=tuple(steps),
        conversations=_conversations(router, rows, features, data, seed) if wanted.strangers else {},
        speed=_speed(router, [e.prompt for *_, e in own], features) if wanted.strangers and seed == SEEDS[0] else {},
    )


def _tfidf(rows: Mapping[str, _Rows]) -> TfidfRouter:
    return TfidfRouter({d: [e.prompt for e in (*of.split.train, *of.split.validation)] for d, of in rows.items()})


def _arrived(
    name: str, seed: int, rows: Mapping[str, _Rows], router: Router, features: _Features, base: Mapping[str, Any]
) -> RoutingReceipt:
    """The first half of the training rows make up the router that knows all; the other half arrives."""
    halves = {
        d: ([e.prompt for e in of.split.train[:_ARRIVE]], [e.prompt for e in of.split.train[-_ARRIVE:]])
        for d, of in rows.items()
    }
    empty = replace(router, statistics={})
    full = empty
    for domain, (first, _) in halves.items():
        judges = rows[domain].split.validation
        own = features.of(first)
        full = full.with_domain(
            domain,
            own,
            features.of([e.prompt for e in judges]),
            documents=documents_of(judges),
            retyped=retyped_of(first, own, features.of),
        )
    arriving = {
        d: (features.of(second), features.of([as_typed(p) for p in second])) for d, (_, second) in halves.items()
    }
    return RoutingReceipt(
        **_told(name, seed, base, router, rows),
        rows={d: {"train": _ARRIVE, "arriving": _ARRIVE} for d in rows},
        guarantees={},
        groups=(),
        arrivals=tuple(arrivals(empty, arriving, full, seed=seed, least=50)),
    )


def _told(name: str, seed: int, base: Mapping[str, Any], router: Router, rows: Mapping[str, _Rows]) -> dict[str, Any]:
    """What every receipt says of where it comes from."""
    return {
        "name": name,
        "seed": seed,
        "base": base,
        "router": _made_of(router.features),
        "data": {d: split_hashes(of.split) for d, of in rows.items()},
    }


def _read(data: Path, file: str, part: str | None, wanted: RoutingSet, seed: int) -> _Rows:
    path = data / file
    examples = read_examples(path)
    with path.open(encoding="utf-8") as stream:
        sources = [json.loads(line)["subdomain"] for line in stream if line.strip()]
    pairs = [(e, s) for e, s in zip(examples, sources, strict=True) if part in (None, s)]
    prompts: dict[str, list[str]] = {}
    for example, source in pairs:
        prompts.setdefault(source, []).append(example.prompt)
    split = split_examples(
        [e for e, _ in pairs], seed=seed, validation=wanted.validation, test=wanted.test, limit=wanted.train
    )
    return _Rows(
        split=split,
        wording={source: fixed_wording(texts) for source, texts in prompts.items()},
        source={e.id or "": s for e, s in pairs},
    )


def _made_of(kind: FeatureKind) -> dict[str, Any]:
    return {
        "features": asdict(kind),
        "retyped": RETYPED,
        "error_rate": _ERROR_RATE,
        "background": len(BACKGROUND_PROMPTS),
        "background_sha256": hashlib.sha256("\n".join(BACKGROUND_PROMPTS).encode()).hexdigest(),
    }


def _numbered(documents: Sequence[Hashable]) -> tuple[int, ...]:
    numbers = {document: i for i, document in enumerate(dict.fromkeys(documents))}
    return tuple(numbers[d] for d in documents)


def _routes(router: Router, texts: Sequence[str], features: _Features) -> list[Route]:
    """As `ContinualModel.route`: what has no text in it goes to the base unasked."""
    found = router.route(features.of(texts))
    return [
        r if text.strip() else replace(r, domain=None, confidence=0.0, abstained=True)
        for r, text in zip(found, texts, strict=True)
    ]


def _step(router: Router, rows: Mapping[str, _Rows], features: _Features) -> Step:
    right = []
    for domain, of in rows.items():
        routes = router.route(features.of([e.prompt for e in of.split.test]))
        right.append((domain, sum(r.domain == domain for r in routes), len(routes)))
    return Step(right=tuple(right))


def _rounded(margin: float) -> float:
    """To three digits, away from 0: the sign says whether it was accepted."""
    return float(np.copysign(np.ceil(abs(margin) * 1000.0) / 1000.0, margin))


def _conversations(
    router: Router, rows: Mapping[str, _Rows], features: _Features, data: Path, seed: int
) -> dict[str, tuple[int, int, int, int]]:
    everyday = _out_of_scope(data)
    prompts = {d: [e.prompt for e in of.split.test] for d, of in rows.items()}
    counts: dict[str, list[int]] = {}
    kept: str | None = None
    for turns in make_conversations(prompts, everyday, count=_CONVERSATIONS, seed=seed):
        texts = [turn.text for turn in turns]
        routes = _routes(router, texts, features)
        lengths = [len(features.base.tokenizer(t, add_special_tokens=False).input_ids) for t in texts]
        for i, turn in enumerate(turns):
            entry = counts.setdefault(turn.kind, [0, 0, 0, 0])
            if i == 0 or routes[i].domain is not None or lengths[i] > _SHORT:
                kept = routes[i].domain
            entry[0] += routes[i].domain == turn.right
            entry[1] += kept == turn.right
            entry[2] += route_conversation(routes[: i + 1], lengths[: i + 1]).domain == turn.right
            entry[3] += 1
    return {kind: (n[0], n[1], n[2], n[3]) for kind, n in sorted(counts.items())}


def _with_gaps(prompt: str) -> str:
    """In every fifth longer word a letter within it is missing. No router is taught with such."""

    def leave_out(word: str, draw: random.Random) -> str:
        i = draw.randrange(1, len(word) - 1)
        return word[:i] + word[i + 1 :]

    return mistyped(prompt, leave_out)


# TruthfulQA's categories that one of the five domains has a claim on.
_CLAIMED = [
    "Health",
    "Law",
    "Economics",
    "Finance",
    "Science",
    "Statistics",
    "Nutrition",
    "Logical",
    "Misconceptions",
    "Conspirac",
    "Psychology",
    "Confusion",
]


# MMLU's subjects that none of the five domains has a claim on.
_HUMANITIES = {
    *("high_school_european_history", "high_school_geography", "high_school_us_history", "high_school_world_history"),
    *("moral_disputes", "philosophy", "prehistory", "sociology", "world_religions"),
}

_BACKGROUND_WORDS = [set(re.sub(r"[^\w\s']", "", prompt.lower()).split()) for prompt in BACKGROUND_PROMPTS]


def _strangers(data: Path) -> Iterator[tuple[str, list[str]]]:
    """(kind, queries) of none of the far domains: all of CLINC's that are out of its scope; of the others a sample."""
    yield "clinc", _out_of_scope(data)
    intents = _lines(data / "ood/clinc150_intents.jsonl")
    everyday = [r["prompt"] for r in intents if r["subdomain"] not in ("banking", "credit_cards")]
    yield "clinc intents", _sample([query for query in everyday if not _known(query)])
    marks = data / "benchmarks"
    truthful = _lines(marks / "truthfulqa/validation.jsonl")
    yield (
        "truthfulqa",
        _sample([r["question"] for r in truthful if not any(c in r.get("category", "") for c in _CLAIMED)]),
    )
    for kind, file, column in (
        ("piqa", "piqa/validation.jsonl", "goal"),
        ("winogrande", "winogrande/validation.jsonl", "sentence"),
        ("boolq", "boolq/validation.jsonl", "question"),
        ("hellaswag", "hellaswag/validation_1000.jsonl", "ctx"),
        ("gsm8k", "gsm8k/test.jsonl", "question"),
        ("svamp", "svamp/test.jsonl", "context"),
        ("copa", "copa/test.jsonl", "query"),
    ):
        yield kind, _sample([r[column] for r in _lines(marks / file)])
    yield "dbpedia", _sample([r["prompt"] for r in _lines(data / "cl_benchmark/dbpedia/test.jsonl")])
    wiki = (marks / "wikitext2_raw/wiki.test.raw").read_text(encoding="utf-8").splitlines()
    yield "wikitext", _sample([line.strip() for line in wiki if len(line.split()) >= 30])
    exams = _lines(marks / "mmlu/test.jsonl")
    yield "mmlu", _sample([r["question"] for r in exams if r["subject"] in _HUMANITIES])
    yield "mnli", _sample([r["prompt"] for r in _lines(data / "cl_benchmark/MNLI/test.jsonl")])


def _out_of_scope(data: Path) -> list[str]:
    """CLINC's queries out of its scope that no domain has a claim on, but those that nearly repeat the background."""
    rows = _lines(data / "ood/clinc150_oos.jsonl")
    return [r["prompt"] for r in rows if not r["near_domains"] and not _known(r["prompt"])]


def _known(query: str) -> bool:
    """Whether a prompt of the background says nearly the same: six of ten words of both together."""
    words = set(query.lower().split())
    return any(len(words & b) >= 0.6 * len(words | b) for b in _BACKGROUND_WORDS)


def _sample(texts: Sequence[str]) -> list[str]:
    unique = list(dict.fromkeys(texts))
    return random.Random(0).sample(unique, min(_STRANGERS, len(unique)))


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def _speed(router: Router, texts: Sequence[str], features: _Features) -> dict[str, float]:
    """Medians over single queries in milliseconds, and queries a second from features that are there."""
    some = list(random.Random(0).sample(list(texts), min(200, len(texts))))
    found = features.of(some)
    lengths = [len(features.base.tokenizer(t, add_special_tokens=False).input_ids) for t in some]
    noise = np.random.default_rng(0)
    many = router
    own = features.of(texts)
    hidden, words = own[:, : router.dimension], own[:, router.dimension :]
    spread = hidden.std(0)
    for i in range(_SPEED_DOMAINS - len(router.domains)):  # somewhere between real prompts, each in a place of its own
        around = hidden[noise.integers(len(own))] + noise.normal(size=spread.shape) * spread
        rows = around + 0.5 * noise.normal(size=(12, len(spread))) * spread
        rows = np.concatenate([rows, words[noise.integers(len(own), size=12)]], axis=1)
        many = many.with_domain(f"made-up-{i}", rows.astype(np.float32))

    def alone(ask: Callable[[int], object]) -> float:
        ask(0)
        took = []
        for i in range(len(some)):
            began = time.perf_counter()
            ask(i)
            took.append(time.perf_counter() - began)
        return 1000.0 * float(np.median(took))

    def rate(which: Router) -> float:
        which.route(own[:1])
        began = time.perf_counter()
        which.route(own)
        return len(own) / (time.perf_counter() - began)

    return {
        "feature_ms": alone(lambda i: features.compute([some[i]])),
        "prompt_tokens": float(np.median(lengths)),
        "route_ms": alone(lambda i: router.route(found[i])),
        "route_ms_1000_domains": alone(lambda i: many.route(found[i])),
        "queries_a_second": rate(router),
        "queries_a_second_1000_domains": rate(many),
    }
