"""Every table of RESULTS.md, by name, as Markdown, from receipts; `numbers` checks documents against them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from crma.bench.ahead_table import ahead_table
from crma.bench.arriving_table import arriving_table
from crma.bench.cells import NONE, bounded, called, count, markdown_table, nats, percent, plain, size
from crma.bench.figures import spectral_steps
from crma.bench.general_tables import General, general_tables
from crma.bench.headline import RECIPES, Run, average, group_runs, headline, interval
from crma.bench.metrics import captured_share
from crma.bench.quality import Quality
from crma.bench.quality_tables import quality_tables
from crma.bench.receipt import KNOWS_NO_ORDER, NOWHERE, Receipt, View
from crma.bench.routing import RoutingReceipt
from crma.bench.routing_tables import routing_tables
from crma.bench.statistics import mcnemar
from crma.bench.studies import growth, rates, rows_study, whole

__all__ = ["result_tables", "streams_of"]

_LABELS: Mapping[str, str] = {
    "base": "untouched base",
    "naive": "one LoRA, trained on and on (naive)",
    "naive-low-lr": "the same at a tenth of the rate (naive-low-lr)",
    "naive-copies": "naive, a copy kept after each domain (naive-copies)",
    "copies-follow": "naive's copies, each drawn after the later ones (copies-follow)",
    "joint": "one LoRA, all domains at once (joint)",
    "frozen-small": "a LoRA a domain, CRMA's rank (frozen-small)",
    "frozen": "a LoRA a domain, CRMA's size (**frozen**, the control)",
    "frozen-uniform": "frozen, its LoRAs begun as PEFT has it (frozen-uniform)",
    "frozen-warm": "frozen, each LoRA begun as the nearest earlier one (frozen-warm)",
    "crma-warm": "CRMA, each LoRA begun as the nearest earlier one (crma-warm)",
    "crma-pinned": "CRMA, each adapter under its own snapshot (pinned)",
    "crma": "**CRMA**, all adapters under the last backbone",
    "as-it-is": "earlier LoRAs left as they are (as-it-is)",
    "stay": "earlier domains do not follow (stay)",
    "gated": "orthonormal writes behind a gate (gated)",
    "shared-lora": "an ordinary shared LoRA as backbone (shared-lora)",
    "free-mixing": "any K (free-mixing)",
    "row-stochastic": "only rows of M sum to 1 (row-stochastic)",
    "no-mixing": "M = I (no-mixing)",
    "reset": "a new backbone at each domain (reset)",
    "light": "fixed frames (light)",
}
_MAIN = (
    "base",
    "naive",
    "naive-low-lr",
    "naive-copies",
    "copies-follow",
    "joint",
    "frozen-small",
    "frozen",
    "frozen-uniform",
    "frozen-warm",
    "crma-warm",
    "crma-pinned",
    "crma",
)
_ABLATIONS = (
    "as-it-is",
    "stay",
    "gated",
    "shared-lora",
    "free-mixing",
    "row-stochastic",
    "no-mixing",
    "reset",
    "light",
)
_DERIVED = ("naive-copies", "crma-pinned")  # read from another condition's receipt
_ROUTERS: Mapping[View, str] = {
    "floating": "the right adapter, last backbone",
    "pinned": "the right adapter, pinned",
    "routed": "CRMA's router",
    "tfidf": "TF-IDF and logistic regression",
    "single": "the best single adapter",
    "random": "a random adapter",
}
_PROTOCOL_RUNS = 3  # seeds, and orders (PROTOCOL rule 6)


def result_tables(
    receipts: Iterable[Receipt],
    routing: Iterable[RoutingReceipt] = (),
    quality: Quality | None = None,
    general: General | None = None,
) -> dict[str, str]:
    """Every table these receipts are enough for, as Markdown, by name.

    "headline", "captured", "growth", "rows", "rates", "cost", "bound", "missing"; for each recipe and stream
    "small/far/methods", and so on "ablations", "domains", "seeds", "runs", "shares", "routers", "ahead", "arriving",
    "answers", "compared"; and those of `routing_tables`, `quality_tables` and `general_tables`.
    """
    receipts = list(receipts)
    shown = whole(receipts)
    streams = streams_of(group_runs(shown))
    studies = {"growth": _growth_table(streams), "rows": _rows_table(receipts), "rates": _rates_table(receipts)}
    tables = {
        "headline": _headline_table(headline(shown)),
        "captured": _captured_table(streams),
        **{name: table for name, table in studies.items() if table is not None},
        "cost": _cost_table(streams),
        "bound": _bound_table(streams),
        "missing": _missing(streams),
    }
    for key, runs in streams.items():
        made = {
            "methods": _methods_table(runs, _MAIN),
            "ablations": _ablations_table(runs),
            "domains": _domains_table(runs),
            "seeds": _seeds_table(runs),
            "runs": _runs_table(runs),
            "shares": _shares_table(runs),
            "routers": _routers_table(runs),
            "ahead": ahead_table(runs),
            "arriving": arriving_table(runs),
            "answers": _answers_table(runs),
            "compared": _compared_table(runs),
        }
        tables |= {f"{key}/{name}": table for name, table in made.items() if table is not None}
    return tables | routing_tables(routing) | quality_tables(quality or Quality()) | general_tables(general)


def streams_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by "recipe/stream", the recipes that the headline prefers first."""
    ranked = sorted(runs, key=lambda r: (RECIPES.index(r.recipe) if r.recipe in RECIPES else len(RECIPES), r.recipe))
    streams: dict[str, list[Run]] = {}
    for run in ranked:
        streams.setdefault(f"{run.recipe}/{run.stream}", []).append(run)
    return streams


# --- the tables ---------------------------------------------------------------------------------------------------


def _headline_table(numbers: Mapping[str, Any]) -> str:
    near = numbers["near"]
    streams = near["streams"]
    columns: dict[str, Mapping[str, Any]] = {"far": numbers["far"]}
    if len(streams) == 1:
        columns[f"near ({next(iter(streams))})"] = near
    else:
        columns |= {"near": near, **streams}
    rows: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("recipe", lambda n: n["recipe"] or NONE),
        (
            "**advantage over frozen**, last backbone",
            lambda n: bounded(n["advantage_pct"]["mean"], n["advantage_pct"]["interval"]),
        ),
        ("its sd over seeds", lambda n: plain(n["advantage_pct"]["sd"], ".2f", " %")),
        ("advantage, pinned", lambda n: percent(n["advantage_pinned_pct"])),
        ("advantage, both routed", lambda n: percent(n["advantage_routed_pct"])),
        ("what joint training wins over frozen", lambda n: percent(n["joint_gain_pct"])),
        ("share of that captured", lambda n: plain(n["captured_share"], ".2f")),
        ("**drift**, last backbone: mean", lambda n: percent(n["drift_floating_pct"]["mean"])),
        ("worst domain of any run", lambda n: percent(n["drift_floating_pct"]["worst"])),
        ("drift, pinned: mean", lambda n: percent(n["drift_pinned_pct"]["mean"])),
        ("worst domain of any run", lambda n: percent(n["drift_pinned_pct"]["worst"])),
        ("drift of one LoRA trained on (naive)", lambda n: percent(n["naive_forgetting_pct"])),
        ("pinned against naive-copies", lambda n: percent(n["naive_copies_vs_pinned_pct"])),
        ("pairs of runs (orders)", lambda n: f"{n['runs']} ({n['orders']})"),
    ]
    return markdown_table(["", *columns], [[label, *(show(n) for n in columns.values())] for label, show in rows])


def _methods_table(runs: Sequence[Run], methods: Sequence[str]) -> str:
    rows = []
    for method in methods:
        having = [r for r in runs if r.loss(method) is not None]
        if not having:
            continue
        receipts = [x for r in having if (x := r.receipt(method)) is not None]
        trained = max((x.trained_parameters for x in receipts), default=0)
        routed = None if method == "crma" else average(having, lambda r, m=method: _routed(r, m))
        drifts = [d for r in having if (d := r.drifts(method))]
        rows.append(
            [
                _LABELS.get(method, method),
                size(trained) if trained else NONE,
                size(stored) if (stored := _stored(method, receipts)) else NONE,
                nats(average(having, lambda r, m=method: r.learning_loss(m))),
                nats(average(having, lambda r, m=method: r.loss(m))),
                nats(routed),
                percent(average(having, lambda r, m=method: _mean_drift(r, m))),
                percent(max((x for d in drifts for x in d.values()), default=None)),
                NONE if method == "frozen" else _advantage(having, method),
                str(len(having)),
            ]
        )
    return markdown_table(
        [
            "method",
            "trained",
            "stored",
            "just after",
            "at the end",
            "routed",
            "drift, mean",
            "worst",
            "advantage over frozen",
            "runs",
        ],
        rows,
    )


def _stored(method: str, receipts: Sequence[Receipt]) -> float | None:
    """Numbers to keep for serving all domains at the end; not said of pinned adapters, which need old snapshots too."""
    if method == "crma-pinned" or not receipts:
        return None
    copies = len(receipts[0].order) if method == "naive-copies" else 1
    return copies * _mean([x.stored_parameters for x in receipts])


def _ablations_table(runs: Sequence[Run]) -> str | None:
    # What is ablated is shown over the ablations' own runs, which are fewer: like stands beside like.
    # (What knows no order stands in every run of its seed, and so does not say which were ablated.)
    ordered = set(_ABLATIONS) - KNOWS_NO_ORDER
    ablated = [r for r in runs if ordered & r.receipts.keys()]
    ablated = ablated or [r for r in runs if any(a in r.receipts for a in _ABLATIONS)]
    return _methods_table(ablated, ("frozen", "crma-pinned", "crma", *_ABLATIONS)) if ablated else None


def _captured_table(streams: Mapping[str, Sequence[Run]]) -> str:
    rows = []
    for key, runs in streams.items():
        for method in ("crma", "crma-pinned", "naive-copies"):
            having = [r for r in runs if all(r.loss(m) is not None for m in (method, "frozen", "joint"))]
            losses = [average(having, lambda r, m=m: r.loss(m)) for m in ("frozen", "joint", method)]
            frozen, joint, ours = losses
            if frozen is None or joint is None or ours is None:
                continue
            share = captured_share(frozen=frozen, ours=ours, joint=joint)
            said = "nothing to win" if share is None else f"{share:z.2f}"
            gain = average(having, lambda r: r.advantage("joint", "frozen"))
            rows.append([called(key), method, *(nats(x) for x in losses), percent(gain), said, str(len(having))])
    return markdown_table(
        ["stream", "method", "frozen", "joint", "method's loss", "joint's gain", "share captured", "runs"], rows
    )


def _growth_table(streams: Mapping[str, Sequence[Run]]) -> str | None:
    found = {key: points for key, runs in streams.items() if (points := growth(runs)) is not None}
    if not found:
        return None
    longest = max(len(points) for points in found.values())
    rows = []
    for key, points in found.items():
        for label, part in (("all so far", 0), ("the newest", 1)):
            cells = [percent(p[part]) for p in points]
            rows.append([called(key), label, *cells, *[NONE] * (longest - len(cells))])
    return markdown_table(["stream", "advantage of", *(str(t) for t in range(1, longest + 1))], rows)


def _rows_table(receipts: Sequence[Receipt]) -> str | None:
    rows = [
        [called(key), str(size), nats(frozen), nats(crma), bounded(gain, bounds), str(runs)]
        for key, points in rows_study(receipts).items()
        for size, runs, frozen, crma, gain, bounds in points
    ]
    head = ["stream", "training rows a domain", "frozen", "crma", "advantage over frozen", "runs"]
    return markdown_table(head, rows) if rows else None


def _rates_table(receipts: Sequence[Receipt]) -> str | None:
    points = rates(receipts)
    grid = sorted({rate for *_, losses in points for rate in losses})
    rows = [
        [called(key), condition, str(seed), order[0], *(nats(losses.get(rate)) for rate in grid)]
        for key, condition, seed, order, losses in points
    ]
    return (
        markdown_table(["stream", "condition", "seed", "first domain", *(f"{r:g}" for r in grid)], rows)
        if rows
        else None
    )


def _domains_table(runs: Sequence[Run]) -> str | None:
    pairs = [r for r in runs if r.advantage("crma", "frozen") is not None]
    if not pairs:
        return None
    columns = ("base", "naive", "naive-copies", "joint", "frozen", "crma-pinned", "crma")
    methods = [m for m in columns if any(r.at_end(m) for r in pairs)]
    rows = []
    for domain in pairs[0].order:
        each = [x for r in pairs if (x := r.advantage("crma", "frozen", domain=domain)) is not None]
        rows.append(
            [
                domain,
                *(nats(average(pairs, lambda r, m=m, d=domain: _domain_loss(r, m, d))) for m in methods),
                _advantage(pairs, "crma", domain=domain),
                f"{sum(x > 0 for x in each)} of {len(each)}",
            ]
        )
    return markdown_table(["domain", *methods, "advantage of crma", "runs it is better in"], rows)


def _seeds_table(runs: Sequence[Run]) -> str | None:
    if not any("crma" in r.receipts for r in runs):
        return None
    rows = []
    for seed in sorted({r.seed for r in runs}):
        of = [r for r in runs if r.seed == seed]
        rows.append([str(seed), str(len(of)), *_run_cells(of)])
    return markdown_table(["seed", "orders", *_RUN_HEAD], rows)


def _runs_table(runs: Sequence[Run]) -> str | None:
    if not any("crma" in r.receipts for r in runs):
        return None
    orders = sorted({r.order for r in runs})
    rows = [[str(r.seed), str(orders.index(r.order) + 1), *_run_cells([r])] for r in runs]
    return markdown_table(["seed", "order", *_RUN_HEAD], rows)


_RUN_HEAD = [
    "naive",
    "joint",
    "frozen",
    "pinned",
    "crma",
    "advantage over frozen",
    "drift, mean",
    "worst",
    "naive's drift",
]


def _run_cells(runs: Sequence[Run]) -> list[str]:
    worst = [x for r in runs for x in (r.drifts("crma") or {}).values()]
    return [
        *(nats(average(runs, lambda r, m=m: r.loss(m))) for m in ("naive", "joint", "frozen", "crma-pinned", "crma")),
        _advantage(runs, "crma"),
        percent(average(runs, lambda r: _mean_drift(r, "crma"))),
        percent(max(worst, default=None)),
        percent(average(runs, lambda r: _mean_drift(r, "naive"))),
    ]


def _shares_table(runs: Sequence[Run]) -> str | None:
    rows = []
    for run in runs:
        for condition in ("crma", *_ABLATIONS):
            receipt = run.receipts.get(condition)
            if receipt is not None and receipt.shares:
                shown = " → ".join(f"{d} {receipt.shares[d]:g}" for d in run.order if d in receipt.shares)
                rows.append([condition, str(run.seed), shown, *_fit_cells(receipt)])
    head = [
        "condition",
        "seed",
        "in the order of learning",
        "earlier ones followed, mean",
        "stand alone at the end",
    ]
    return markdown_table(head, rows) if rows else None


def _fit_cells(receipt: Receipt) -> tuple[str, str]:
    """(how far earlier domains followed, how many of them stand alone at the end)."""
    moves = [receipt.fits.get(domain, {}) for domain in receipt.order]
    fits = [fit for moved in moves for fit in moved.values()]
    if not fits:
        return NONE, NONE
    last: dict[str, bool] = {}
    for moved in moves:
        last |= {domain: bool(fit.get("standalone", False)) for domain, fit in moved.items()}
    return f"{_mean([fit['follow'] for fit in fits]):.0%}", f"{sum(last.values())} of {len(last)}"


def _routers_table(runs: Sequence[Run]) -> str | None:
    # The same runs in every row: rivals are measured in fewer, and seeds differ by more than routers do.
    views: list[View] = [v for v in _ROUTERS if any(r.loss("crma", v) is not None for r in runs)]
    same = [r for r in runs if all(r.loss("crma", v) is not None for v in views)]
    rows = []
    for view in views if same else ():
        right, abstained = (NONE, NONE) if view != "routed" else _routed_shares(same)
        loss = average(same, lambda r, v=view: r.loss("crma", v))
        rows.append([_ROUTERS[view], nats(loss), right, abstained, str(len(same))])
    head = ["who picks the adapter", "test loss", "rows to their own domain", "rows to the base", "runs"]
    return markdown_table(head, rows) if len(rows) > 1 else None


def _routed_shares(runs: Sequence[Run]) -> tuple[str, str]:
    counts = [(d, to, n) for r in runs for d, went in r.receipts["crma"].routes.items() for to, n in went.items()]
    total = sum(n for _, _, n in counts)
    if not total:
        return NONE, NONE
    own = sum(n for d, to, n in counts if to == d)
    base = sum(n for _, to, n in counts if to == NOWHERE)
    return f"{own} of {total} ({own / total:.1%})", f"{base} of {total} ({base / total:.1%})"


def _answers_table(runs: Sequence[Run]) -> str | None:
    counts: dict[tuple[str, str], list[int]] = {}
    for condition in _conditions(runs):
        for receipt in _made(runs, condition):
            for answers in receipt.answers:
                entry = counts.setdefault((condition, answers.view), [0, 0])
                entry[0] += sum(answers.correct)
                entry[1] += len(answers.correct)
    if not counts:
        return None
    rows = [[c, v, f"{right} of {n}", f"{right / n:.1%}"] for (c, v), (right, n) in sorted(counts.items())]
    return markdown_table(["condition", "answered by", "exactly right", "share"], rows)


_Side = tuple[str, str]  # condition, view

# Same weights without the backbone; a backbone against a larger LoRA, and against one of its own LoRA's rank.
_COMPARED: tuple[tuple[_Side, _Side], ...] = (
    (("crma", "served"), ("crma", "backbone-off")),
    (("crma", "served"), ("frozen", "served")),
    (("crma", "served"), ("frozen-small", "served")),
    (("crma", "routed"), ("frozen", "routed")),
)


def _compared_table(runs: Sequence[Run]) -> str | None:
    """Each pair on the questions that both were asked, run by run and domain by domain."""
    rows = []
    for one, other in _COMPARED:
        pairs = [
            pair for run in runs for pair in zip(*_both(_correct_of(run, one), _correct_of(run, other)), strict=True)
        ]
        if pairs:
            first, second = [a for a, _ in pairs], [b for _, b in pairs]
            found = mcnemar(first, second)
            names = [f"{condition}, {view}" for condition, view in (one, other)]
            shares = [f"{sum(side)} of {len(side)}" for side in (first, second)]
            rows.append([names[0], shares[0], names[1], shares[1], str(found.b), str(found.c), f"{found.p:.2g}"])
    head = ["", "right", "against", "right", "only the first", "only the second", "p (McNemar, exact)"]
    return markdown_table(head, rows) if rows else None


def _correct_of(run: Run, side: _Side) -> dict[str, tuple[bool, ...]]:
    receipt = run.receipts.get(side[0])
    return {a.domain: a.correct for a in receipt.answers if a.view == side[1]} if receipt else {}


def _both(one: Mapping[str, tuple[bool, ...]], other: Mapping[str, tuple[bool, ...]]) -> tuple[list[bool], list[bool]]:
    """What both sides say of the domains that both have."""
    shared = [domain for domain in one if domain in other]
    return [x for d in shared for x in one[d]], [x for d in shared for x in other[d]]


def _cost_table(streams: Mapping[str, Sequence[Run]]) -> str:
    rows = []
    for key, runs in streams.items():
        for condition in _conditions(runs):
            of = _made(runs, condition)
            memory = [x.peak_memory_mb for x in of if x.peak_memory_mb is not None]
            rows.append(
                [
                    called(key),
                    condition,
                    size(_mean([x.trained_parameters for x in of])),
                    size(_mean([x.stored_parameters for x in of])),
                    f"{_mean([x.tokens for x in of]):,.0f}",
                    f"{_mean([x.seconds for x in of]):,.0f}",
                    f"{_mean(memory):,.0f}" if memory else NONE,
                    str(len(of)),
                ]
            )
    return markdown_table(
        ["stream", "condition", "trained", "stored", "tokens trained on", "seconds", "peak memory, MB", "runs"], rows
    )


def _bound_table(streams: Mapping[str, Sequence[Run]]) -> str:
    rows = []
    for key, runs in streams.items():
        for condition in _conditions(runs):
            logs = [spectral_steps(r.receipts[condition]) for r in runs if condition in r.receipts]
            steps = [s for log in logs for s in log]
            if not steps:
                continue
            worst = {
                name: max((x for s in steps if (x := getattr(s, name)) is not None), default=None)
                for name in ("gap", "worst_operator_norm", "relative_change")
            }
            rows.append(
                [
                    called(key),
                    condition,
                    str(sum(1 for log in logs if log)),
                    str(len(steps)),
                    plain(worst["gap"], ".1e"),
                    plain(worst["worst_operator_norm"], ".7f"),
                    plain(worst["relative_change"], ".4f"),
                ]
            )
    return markdown_table(
        ["stream", "condition", "runs", "logged steps", "worst gap", "worst ‖BKA‖₂", "largest ‖ΔW‖₂/‖W‖₂"], rows
    )


def _missing(streams: Mapping[str, Sequence[Run]]) -> str:
    lines = []
    kinds = {runs[0].kind for runs in streams.values()}
    lines += [f"- no stream of the kind *{kind}*" for kind in ("far", "near") if kind not in kinds]
    for key, runs in streams.items():
        said = []
        seeds, orders = {r.seed for r in runs}, {r.order for r in runs}
        for noun, n in (("seed", len(seeds)), ("order", len(orders))):
            if n < _PROTOCOL_RUNS:
                said.append(f"{count(n, noun)} of the protocol's {_PROTOCOL_RUNS}")
        conditions = [c for c in (*_MAIN, *_ABLATIONS) if c not in _DERIVED]
        never = [c for c in conditions if not any(c in r.receipts for r in runs)]
        if never:
            said.append(f"never: {', '.join(never)}")
        for c in conditions:
            done = sum(c in r.receipts for r in runs)
            if 0 < done < len(runs):
                said.append(f"{c} in {done} of {len(runs)} runs")
        routers = [v for v in list(_ROUTERS)[2:] if all(r.loss("crma", v) is None for r in runs)]
        if routers:
            said.append(f"routers not measured: {', '.join(routers)}")
        if said:
            lines.append(f"- {called(key)}: {'; '.join(said)}")
    return "\n".join(lines) or "Nothing that the protocol asks for."


def _made(runs: Sequence[Run], condition: str) -> list[Receipt]:
    """The receipts of a condition, each once, though one that knows no order stands in several runs."""
    found = {}
    for run in runs:
        if (receipt := run.receipts.get(condition)) is not None:
            found.setdefault(receipt.seed if condition in KNOWS_NO_ORDER else (receipt.seed, receipt.order), receipt)
    return list(found.values())


# --- what they are made of ----------------------------------------------------------------------------------------


def _advantage(runs: Sequence[Run], method: str, *, domain: str | None = None) -> str:
    mean = average(runs, lambda r: r.advantage(method, "frozen", domain=domain))
    return bounded(mean, interval(runs, method, "frozen", domain=domain))


def _routed(run: Run, method: str) -> float | None:
    # The base and the one LoRA are asked directly: no router stands before them.
    return None if method in ("base", "naive-copies") else run.loss(method, "routed")


def _mean_drift(run: Run, method: str) -> float | None:
    drifts = run.drifts(method)
    return _mean(list(drifts.values())) if drifts else None


def _domain_loss(run: Run, method: str, domain: str) -> float | None:
    measured = run.at_end(method)
    return None if measured is None else measured[domain].loss


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _conditions(runs: Sequence[Run]) -> list[str]:
    there = {c for r in runs for c in r.receipts}
    known = [c for c in (*_MAIN, *_ABLATIONS) if c in there]
    return known + sorted(there - set(known))
