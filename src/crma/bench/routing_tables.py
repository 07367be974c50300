"""The router's tables, as Markdown, by name: "router/accuracy", "abstentions", "strangers", "growth" and so on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from crma.bench.cells import markdown_table
from crma.bench.classification import auroc
from crma.bench.routing import (
    UNLABELLED,
    Group,
    RoutingReceipt,
    abstentions_expected,
    check_comparable,
    false_accepts_at,
    separation,
    wrong_abstentions,
)
from crma.bench.statistics import wilson

__all__ = ["TITLES", "routing_tables"]

# Of the sections in which RESULTS.md shows them, in their order.
TITLES = {
    "router/accuracy": (
        "Rows to their own domain",
        "*Without the wording*: every run of words that a twentieth of a source's prompts share is taken out, since "
        "templates give the domain away (of the programming languages it takes the language's name: what is left can "
        "hardly be told apart). *In haste*: lower case, no mark at the end; *with slips*: in every fifth longer word "
        "two letters change places. Up to 256 training prompts of a domain are read once more with both; *with gaps*, "
        "a letter missing in every fifth longer word, none. Means over seeds; [brackets]: Wilson, 95 %, of that share "
        "of one seed's documents, since rows of one document and the same row in two seeds are not new. TF-IDF is of "
        "two to five letters, with logistic regression fitted anew on the rows of all domains together, and never "
        "abstains here; *its choice alone* is the router's if nothing could go to the base, to be held against that. "
        "*ECE*: expected calibration error of the confidence; in (brackets) with CLINC150's strangers among the rows. "
        "Splits of other seeds share rows, and the router's settings were chosen "
        "on splits of these files (LOG.md).",
    ),
    "router/strangers": (
        "Strangers to the far domains",
        "Queries that belong to none of the five. *Let in*: as the router serves, at its stated 1 %; *at 95 %*: by the "
        "bar that lets in 95 % of the domains' own rows. TF-IDF's bar is its largest probability. The router was "
        "chosen with a look at all kinds but WikiText and MMLU, which were first measured for this table; for those "
        "marked * prompts of their sort were written into its background. CLINC150's queries that nearly repeat "
        "a prompt of the background are left out. Means over seeds.",
    ),
    "router/unlearnt": (
        "A far domain that is not learnt yet",
        "Each of the five in turn is left out; its test rows are asked of a router of the other four. They are "
        "strangers to it, and harder ones than everyday queries: long prompts with documents in them. *Base*: sent to "
        "the base, at the stated 1 %. AUROC: against test rows of the other four. TF-IDF, fitted to "
        "these four, has no bar of its own. Means over seeds.",
    ),
    "router/abstentions": (
        "Wrong abstentions",
        "Test documents of which a row is refused by its own domain, against what that domain states: a threshold made "
        "of n documents is missed by a new one with a chance that varies with the draw of these n, so *most expected* "
        "is the 95 % point of a beta-binomial, which one domain in twenty may pass. All seeds.",
    ),
    "router/growth": (
        "As domains are added",
        "Does the last one hurt the first? Share of test rows that go to their own domain.",
    ),
    "router/boundary": (
        "Boundary cases",
        "Written for this test (`crma.benchmark.boundary`), each with the answers that are right. TF-IDF abstains "
        "below the probability that 99 % of the domains' own test rows reach, as our router's 1 %. All seeds.",
    ),
    "router/conversations": (
        "Conversations",
        "Six turns each, made of test rows, CLINC150's strangers and follow-ups that name no subject; right is the "
        "subject of the turn, for a follow-up the one before. All seeds.",
    ),
    "router/unlabelled": (
        "Rows without a domain",
        "Rows of the five far domains as `crma learn --auto` (one file) and `--stream` sort them, from an empty stack; "
        "in *nothing new* all five are known before. No adapter is trained. *Purity*: of the rows that were learnt, "
        "the share in a domain most of which is theirs; *ARI*: the adjusted Rand index; *waiting*: rows not learnt at "
        "the end. Means over seeds; the worst seed's purity in brackets.",
    ),
    "router/speed": (
        "Speed",
        "On the machine of the receipt, one query at a time; medians. The feature is what the frozen base computes of "
        "the prompt, up to its layer; the decision is all the rest.",
    ),
}
_GROUPS = (
    ("test", "as they are"),
    ("bare", "without the wording"),
    ("in haste", "in haste"),
    ("with slips", "with slips"),
    ("with gaps", "with gaps"),
)
_STRANGERS = {
    "clinc": "CLINC150, out of its scope",
    "clinc intents": "CLINC150, everyday intents",
    "truthfulqa": "TruthfulQA",
    "piqa": "PIQA",
    "winogrande": "WinoGrande *",
    "boolq": "BoolQ *",
    "hellaswag": "HellaSwag *",
    "gsm8k": "GSM8K *",
    "svamp": "SVAMP (as GSM8K)",
    "copa": "COPA",
    "dbpedia": "DBpedia, topics of paragraphs",
    "wikitext": "WikiText-2, paragraphs",
    "mmlu": "MMLU, history, philosophy and the like",
    "mnli": "MNLI *",
}


def routing_tables(receipts: Iterable[RoutingReceipt]) -> dict[str, str]:
    """Every table that these receipts are enough for."""
    receipts = list(receipts)
    check_comparable(receipts)
    sets: dict[str, list[RoutingReceipt]] = {}
    for receipt in receipts:
        sets.setdefault(receipt.name, []).append(receipt)
    made = {
        "router/accuracy": _accuracy(sets),
        "router/strangers": _strangers(sets.get("far", [])),
        "router/unlearnt": _unlearnt(sets.get("far", [])),
        "router/abstentions": _abstentions(sets),
        "router/growth": _growth(sets),
        "router/boundary": _boundary(sets.get("far", [])),
        "router/conversations": _conversations(sets.get("far", [])),
        "router/unlabelled": _unlabelled(sets.get(UNLABELLED, [])),
        "router/speed": _speed(sets.get("far", [])),
    }
    return {name: table for name, table in made.items() if table is not None}


def _accuracy(sets: dict[str, list[RoutingReceipt]]) -> str | None:
    rows = []
    for name, receipts in sets.items():
        for group, called in _GROUPS:
            found = [g for r in receipts if (g := r.group(group)) is not None]
            if found:
                rows.append(
                    [
                        f"{name}, {len(receipts[0].rows)} domains",
                        called,
                        str(sum(len(g.routed) for g in found)),
                        _share([g.correct for g in found], receipts),
                        f"{np.mean([np.mean(g.nearest_correct) for g in found]):.2%}",
                        _share([g.tfidf_correct() for g in found], receipts),
                        f"{np.mean([g.macro_f1() for g in found]):.4f}",
                        f"{np.mean([g.tfidf_macro_f1() for g in found]):.4f}",
                        _calibration(receipts, group),
                    ]
                )
    head = ["domains", "prompts", "rows", "router", "its choice alone", "TF-IDF", "macro-F1", "TF-IDF's", "ECE"]
    return markdown_table(head, rows) if rows else None


def _share(correct: Sequence[Sequence[bool]], receipts: Sequence[RoutingReceipt]) -> str:
    share = float(np.mean([np.mean(rows) for rows in correct]))
    documents = round(np.mean([sum(len(set(of)) for of in r.documents.values()) for r in receipts]))
    found = wilson(round(share * documents), max(1, documents))
    return f"{share:.2%} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _calibration(receipts: Sequence[RoutingReceipt], group: str) -> str:
    alone, among = [], []
    for receipt in receipts:
        own, clinc = receipt.group(group), receipt.group("clinc")
        if own is not None:
            alone.append(own.calibration_error())
            among += [own.calibration_error(clinc)] if clinc is not None else []
    return f"{np.mean(alone):.3f}" + (f" ({np.mean(among):.3f})" if among else "")


def _strangers(receipts: Sequence[RoutingReceipt]) -> str | None:
    pairs: dict[str, list[tuple[Group, Group]]] = {}
    for receipt in receipts:
        if (own := receipt.group("test")) is not None:
            for group in receipt.strangers:
                pairs.setdefault(group.name, []).append((own, group))
    rows = [
        [
            _STRANGERS.get(name, name),
            str(len(found[0][1].routed)),
            f"{np.mean([separation(own, group) for own, group in found]):.4f}",
            f"{np.mean([np.mean(group.accepted) for _, group in found]):.1%}",
            f"{np.mean([false_accepts_at(own, group) for own, group in found]):.1%}",
            f"{np.mean([separation(own, group, 'tfidf_sure') for own, group in found]):.4f}",
            f"{np.mean([false_accepts_at(own, group, 'tfidf_sure') for own, group in found]):.1%}",
        ]
        for name, found in pairs.items()
    ]
    return (
        markdown_table(["queries", "how many", "AUROC", "let in", "at 95 %", "TF-IDF's AUROC", "at 95 %"], rows)
        if rows
        else None
    )


def _unlearnt(receipts: Sequence[RoutingReceipt]) -> str | None:
    names = dict.fromkeys(g.name for r in receipts for g in r.unlearnt)
    rows = []
    for name in names:
        found = [g for r in receipts for g in r.unlearnt if g.name == name]
        sent = [g.unclaimed for g in found]
        most = Counter(to for of in sent for to in of if to is not None).most_common(1)
        total = sum(map(len, sent))
        rows.append(
            [
                name.removeprefix("without "),
                str(total),
                f"{np.mean([np.mean([to is None for to in of]) for of in sent]):.1%}",
                f"{most[0][0]}, {most[0][1] / total:.1%}" if most else "-",
                f"{np.mean([auroc(*g.parted()) for g in found]):.4f}",
                f"{np.mean([auroc(*g.parted('tfidf_sure')) for g in found]):.4f}",
            ]
        )
    head = ["domain left out", "rows", "base", "most of the others go to", "AUROC", "TF-IDF's AUROC"]
    return markdown_table(head, rows) if rows else None


def _abstentions(sets: dict[str, list[RoutingReceipt]]) -> str | None:
    rows = []
    for name, receipts in sets.items():
        domains = [(r, d) for r in receipts for d in r.guarantees]
        found = [(wrong_abstentions(r, d), *abstentions_expected(r, d)) for r, d in domains]
        tested = sum(n for *_, n in found)
        if not tested:
            continue
        stated = sum(rate * n for _, rate, _, n in found) / tested
        wrong = sum(w for w, *_ in found)
        beyond = [f"{d} (seed {r.seed})" for (r, d), (w, _, most, _) in zip(domains, found, strict=True) if w > most]
        rows.append(
            [
                name,
                str(tested),
                f"{stated:.2%}",
                f"{wrong} ({wrong / tested:.2%})",
                f"{len(beyond)} of {len(domains)}" + (f": {', '.join(beyond)}" if beyond else ""),
            ]
        )
    head = [
        "domains",
        "documents tested",
        "stated rate, mean",
        "wrong abstentions",
        "domains with more than most expected",
    ]
    return markdown_table(head, rows) if rows else None


def _growth(sets: dict[str, list[RoutingReceipt]]) -> str | None:
    rows = []
    for name, receipts in sets.items():
        with_steps = [r for r in receipts if r.steps]
        for i, step in enumerate(with_steps[0].steps if with_steps else ()):
            learnt = len(step.right)
            if learnt > 5 and learnt % 5:
                continue
            told = [r.steps[i].right for r in with_steps if i < len(r.steps)]
            first = [right[0][1] / right[0][2] for right in told]
            every = [np.mean([hits / n for _, hits, n in right]) for right in told]
            label = f"{step.right[0][0]}: {np.mean(first):.2%}"
            rows.append([name, str(learnt), label, f"{np.mean(every):.2%}", str(len(told))])
    head = ["domains", "so many learnt", "the first domain's rows", "mean over the domains", "seeds"]
    return markdown_table(head, rows) if rows else None


def _boundary(receipts: Sequence[RoutingReceipt]) -> str | None:
    pairs = [(g, own) for r in receipts if (g := r.group("boundary")) and (own := r.group("test"))]
    if not pairs:
        return None
    groups = [g for g, _ in pairs]
    bars = [float(np.quantile(own.tfidf_sure, 0.01)) for _, own in pairs]
    rows = []
    for kind in dict.fromkeys(groups[0].kinds):
        of = [(g, [i for i, k in enumerate(g.kinds) if k == kind]) for g in groups]
        n = sum(len(which) for _, which in of)
        ours = sum(g.correct[i] for g, which in of for i in which)
        theirs = sum(g.tfidf_correct(bars[k])[i] for k, (g, which) in enumerate(of) for i in which)
        rows.append(
            [kind, str(len(of[0][1])), f"{ours} of {n} ({ours / n:.0%})", f"{theirs} of {n} ({theirs / n:.0%})"]
        )
    return markdown_table(["kind", "cases", "router right", "TF-IDF right"], rows)


def _conversations(receipts: Sequence[RoutingReceipt]) -> str | None:
    counts: dict[str, np.ndarray] = {}
    for receipt in receipts:
        for kind, told in receipt.conversations.items():
            counts[kind] = counts.get(kind, np.zeros(4, int)) + told
    if not counts:
        return None
    later = [told for kind, told in counts.items() if not kind.endswith("the first turn")]
    rows = [
        [kind, f"{n:,}", f"{alone / n:.1%}", f"{kept / n:.1%}", f"{filtered / n:.1%}"]
        for kind, (alone, kept, filtered, n) in [*sorted(counts.items()), ("all but the first turns", sum(later))]
    ]
    head = ["turn", "how many", "each turn by itself", "subject kept through short refused turns", "the router"]
    return markdown_table(head, rows)


def _unlabelled(receipts: Sequence[RoutingReceipt]) -> str | None:
    rows = []
    for i, first in enumerate(receipts[0].arrivals if receipts else ()):
        found = [r.arrivals[i] for r in receipts]
        purities = [a.purity() for a in found]
        delays = [rows for a in found for rows in a.delays()] if first.how.startswith("one after") else []
        order = f" ({first.order[0]} first)" if delays else ""
        rows.append(
            [
                first.how + order,
                f"{len(first.right):,}",
                f"{np.mean([len(a.made) for a in found]):.1f}",
                f"{np.mean(purities):.1%} ({min(purities):.1%})",
                f"{np.mean([a.agreement() for a in found]):.2f}",
                f"{np.mean([a.found.count(None) for a in found]):.0f}",
                f"{np.median(delays):.0f}" if delays else "-",
                str(len(found)),
            ]
        )
    head = ["rows come", "rows", "new domains", "purity", "ARI", "waiting", "rows until a domain is made", "seeds"]
    return markdown_table(head, rows) if rows else None


def _speed(receipts: Sequence[RoutingReceipt]) -> str | None:
    found = next((r.speed for r in receipts if r.speed), None)
    if found is None:
        return None
    rows = [
        ["feature of a prompt", f"{found['feature_ms']:.1f} ms (prompts of {found['prompt_tokens']:.0f} tokens)"],
        ["decision, five domains", f"{found['route_ms']:.2f} ms"],
        ["decision, 1,000 domains", f"{found['route_ms_1000_domains']:.2f} ms"],
        ["from features that are there, five domains", f"{found['queries_a_second']:,.0f} queries/s"],
        ["from features that are there, 1,000 domains", f"{found['queries_a_second_1000_domains']:,.0f} queries/s"],
    ]
    return markdown_table(["what", "how fast"], rows)
