"""Conditions on a stack: crma, frozen, and the ablations of the backbone. They resume inside a domain too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from crma.bench.receipt import NOWHERE, Answers, Measurement, View
from crma.benchmark.notebook import Notebook
from crma.benchmark.rivals import TfidfRouter, at_random, best_single, require_scikit_learn
from crma.benchmark.run import Outcome, Run
from crma.continual import ContinualModel
from crma.data.render import Rendered, render_all
from crma.data.worlds import WORLDS, is_exact_match
from crma.model.adapters import from_file, rank_of
from crma.model.backbone import BackboneConfig
from crma.served import WEIGHTS
from crma.stack import files
from crma.stack.stack import Stack
from crma.types import Example, Score, Split

__all__ = [
    "apart",
    "counted",
    "on_a_stack",
    "opened",
    "routed",
    "score_served",
    "shared_numbers",
    "steps_of",
    "stored_numbers",
]

_ANSWER_TOKENS = 12  # the worlds' answers are two or three words


def on_a_stack(run: Run) -> Outcome:
    if run.rivals:
        require_scikit_learn()
    notebook, shape, names = Notebook(run.folder), run.shape, tuple(run.domains)
    model = opened(run.folder / "stack", run.base, shape)
    for t, (name, split) in enumerate(run.domains.items(), start=1):
        before = any(d.name == name for d in model.stack.manifest.domains)
        told: dict[tuple[str, str, str], tuple[float, ...]] = {}  # (domain, view, split) -> a loss a row
        still = False
        if not before:
            if t > 1 and name not in notebook.routes_ahead:
                _measure_ahead(model, t, name, run, notebook)

            def heard(kind: str, value: Mapping[str, Any], told: dict[Any, Any] = told) -> None:
                if kind == "measured":
                    told[value["domain"], value["view"], value["split"]] = tuple(value["losses"])
                run.on_event(kind, value)

            still = model.learn(name, split, run.config, on_event=heard).share == 0.0
        if not notebook.has(t, "floating"):
            _measure(model, t, names, notebook, told, still=still)
        run.tell(name, t, before=before)
    last = len(names)
    routes = {d: [r.domain for r in model.route([e.prompt for e in run.domains[d].test])] for d in names}
    if not notebook.has(last, "routed"):
        rows = {d: model.kept(d, "test") for d in names}
        if shape is not None:
            notebook.take(last, "pinned", {d: score_served(model, d, rows[d]) for d in names}, rows)
        notebook.take(last, "routed", {d: routed(model, rows[d], routes[d]) for d in names}, rows)
    if run.rivals and not notebook.has(last, "tfidf"):
        _measure_rivals(run, model, notebook)
    if not notebook.answers and _asks_facts(run.domains):
        notebook.answers = [answer for d in names for answer in _answered(model, d, run.domains[d].test)]
        notebook.answers += _answered_by_rivals(run, model, notebook.answers) if run.rivals else []
        notebook.save()
    steps = [line for d in names for line in steps_of(model, d)]
    adapter = sum(p.numel() for p in model.adapters.parameters(names[-1]).values())
    trained = sum(p.numel() for part in model.backbone.trained() for p in part.values()) if model.backbone else 0
    shares = {s.domain: s.alpha for s in model.stack.manifest.snapshots}
    router = model.router()
    return Outcome(
        measurements=notebook.measurements,
        base=model.stack.manifest.base.model_dump(),
        trained_parameters=adapter + trained,
        stored_parameters=sum(stored_numbers(model, d) for d in names) + shared_numbers(model),
        tokens=sum(line["tokens"] for line in steps),
        holds=shape is None,
        answers=notebook.answers,
        routes={d: counted(chosen) for d, chosen in routes.items()},
        routes_ahead=notebook.routes_ahead,
        router=asdict(router.features) if router is not None else {},
        shares={d: shares.get(d, 0.0) for d in names} if shape is not None else {},
        refusals=_refusals(model),
        fits={
            e["domain"]: e["verdict"].get("fits", {})
            for e in model.stack.read_ledger()
            if e["kind"] == "learn" and e.get("verdict")
        },
        spectral=[_spectral_line(line) for line in steps if "certificate" in line],
    )


def opened(folder: Path, base: str, shape: BackboneConfig | None) -> ContinualModel:
    if Stack.exists(folder):
        return ContinualModel.from_pretrained(folder, base=base)
    return ContinualModel.create(folder, base=base, backbone=shape)


def _measure_ahead(model: ContinualModel, t: int, name: str, run: Run, notebook: Notebook) -> None:
    """The rows of a domain that nothing is known of yet, as the router deals with them."""
    examples = run.domains[name].test
    rows = render_all(examples, model.tokenizer, run.config.max_length).rows
    chosen = [r.domain for r in model.route([e.prompt for e in examples])]
    notebook.routes_ahead[name] = counted(chosen)
    notebook.take(t - 1, "routed", {name: routed(model, rows, chosen)}, {name: rows})


def counted(chosen: Sequence[str | None]) -> dict[str, int]:
    return {NOWHERE if to is None else to: chosen.count(to) for to in dict.fromkeys(chosen)}


def _measure(
    model: ContinualModel,
    t: int,
    names: Sequence[str],
    notebook: Notebook,
    told: Mapping[tuple[str, str, str], tuple[float, ...]],
    *,
    still: bool,
) -> None:
    """After the t-th domain: its rows under the base and its own LoRA, and every earlier domain's under the backbone
    of now. Taken from what the learning measured itself (`told`), or, where the backbone stood `still`, from the domain
    before; where a kill lost that, measured again."""
    name = names[t - 1]
    test, held_out = {name: model.kept(name, "test")}, {name: model.kept(name, "validation")}

    def score(domain: str, view: str, split: str, measure: Callable[[], Score]) -> Score:
        losses = told.get((domain, view, split))
        return Score(loss=0.0, tokens=0, losses=losses) if losses else measure()

    def of_base() -> Score:
        with model.untouched():
            return model.score_rows(test[name])

    def floating(domain: str) -> Score:
        before = notebook.find(t - 1, "floating", domain) if still else None
        if before is not None:
            return Score(loss=0.0, tokens=0, losses=before.losses)
        return score(domain, "floating", "test", lambda: _floating(model, domain))

    notebook.take(0, "base", {name: score(name, "base", "test", of_base)}, test)
    own = score(name, "floating", "validation", lambda: score_served(model, name, held_out[name]))
    notebook.take(t, "floating", {name: own}, held_out, split="validation")
    # Without a backbone nothing of an earlier domain moves: its own row says all (Receipt.holds).
    seen = names[:t] if model.backbone is not None else names[t - 1 : t]
    notebook.take(t, "floating", {d: floating(d) for d in seen}, {d: model.kept(d, "test") for d in seen})


def _floating(model: ContinualModel, domain: str) -> Score:
    """Under the newest snapshot, whichever the domain is pinned to."""
    with model.serving(domain, snapshot=model.stack.manifest.head):
        return model.score_rows(model.kept(domain, "test"))


def score_served(model: ContinualModel, domain: str | None, rows: Sequence[Rendered]) -> Score:
    with model.serving(domain):
        return model.score_rows(rows)


def routed(model: ContinualModel, rows: Sequence[Rendered], chosen: Sequence[str | None]) -> Score:
    """Each row as what its router picked serves it, the untouched base included."""
    losses = [0.0] * len(rows)
    for domain in dict.fromkeys(chosen):
        own = [i for i, c in enumerate(chosen) if c == domain]
        for index, loss in zip(own, score_served(model, domain, [rows[i] for i in own]).losses, strict=True):
            losses[index] = loss
    return Score(loss=0.0, tokens=0, losses=tuple(losses))


def _measure_rivals(run: Run, model: ContinualModel, notebook: Notebook) -> None:
    """Every test row under every adapter, as it is served, and from that what other routers would come to."""
    names = tuple(run.domains)
    rows = {d: model.kept(d, "test") for d in names}
    tokens = {d: [sum(r.supervised[1:]) for r in rows[d]] for d in names}
    losses: dict[str, dict[str, Sequence[float]]] = {d: {} for d in names}
    for adapter in names:
        place = run.folder / f"under-{adapter}.json"
        if not place.is_file():
            found = {d: score_served(model, adapter, rows[d]).losses for d in names}
            files.write_json(place, {d: [round(x, 6) for x in of] for d, of in found.items()})
        for d, of in files.read_json(place).items():
            losses[d][adapter] = of
    single, chosen = best_single(losses, tokens), _by_tfidf(run)
    views: dict[View, dict[str, Sequence[float]]] = {
        "single": {d: losses[d][single] for d in names},
        "random": {d: at_random(losses[d]) for d in names},
        "tfidf": {d: [losses[d][to][i] for i, to in enumerate(chosen[d])] for d in names},
    }
    for view, of in views.items():
        notebook.take(len(names), view, {d: Score(loss=0.0, tokens=0, losses=tuple(x)) for d, x in of.items()}, rows)


def _by_tfidf(run: Run) -> dict[str, list[str]]:
    """Where that router sends each test row; it was fitted on all rows but these, as ours."""
    tfidf = TfidfRouter({d: [e.prompt for e in (*s.train, *s.validation)] for d, s in run.domains.items()})
    return {d: tfidf.choose([e.prompt for e in split.test])[0] for d, split in run.domains.items()}


def _asks_facts(domains: Mapping[str, Split]) -> bool:
    """Whether these are fictional worlds, whose questions have one right answer each."""
    return all(d in WORLDS and s.test and (s.test[0].group or "").startswith(f"{d}/") for d, s in domains.items())


def _answered(model: ContinualModel, domain: str, examples: Sequence[Example]) -> Iterator[Answers]:
    """The same weights with the backbone on and off, beside the base and what the router picks; greedy answers."""
    views: dict[str, dict[str, Any]] = {
        "base": {"domain": "base"},
        "served": {"domain": domain},
        "backbone-off": {"domain": domain, "use_backbone": False},
        "routed": {},
    }
    for view, options in views.items():
        # One that stands alone is served without the backbone anyway: nothing would be compared.
        alone = model.stack.manifest.domain(domain).standalone
        if view == "backbone-off" and (model.backbone is None or alone):
            continue
        yield Answers(domain=domain, view=cast(Any, view), correct=_right(model, examples, **options))


def _answered_by_rivals(run: Run, model: ContinualModel, known: Sequence[Answers]) -> list[Answers]:
    """What other routers would come to, from every adapter's answers to every question (`known`: to its own)."""
    tests = {d: split.test for d, split in run.domains.items()}
    own = {answers.domain: answers.correct for answers in known if answers.view == "served"}
    right = {
        adapter: {d: own[d] if d == adapter else _right(model, of, domain=adapter) for d, of in tests.items()}
        for adapter in tests
    }
    single = max(right, key=lambda adapter: sum(map(sum, right[adapter].values())))
    found = [Answers(domain=d, view="single", correct=right[single][d]) for d in tests]
    for d, chosen in _by_tfidf(run).items():
        found.append(Answers(domain=d, view="tfidf", correct=tuple(right[to][d][i] for i, to in enumerate(chosen))))
    return found


def _right(model: ContinualModel, examples: Sequence[Example], **options: Any) -> tuple[bool, ...]:
    replies = model.ask_many([e.prompt for e in examples], max_new_tokens=_ANSWER_TOKENS, **options)
    return tuple(is_exact_match(r.text, e.completion) for r, e in zip(replies, examples, strict=True))


def steps_of(model: ContinualModel, domain: str) -> list[dict[str, Any]]:
    """The steps of a domain's learning: the stack keeps each once, however often it was killed."""
    record = model.stack.manifest.domain(domain)
    return model.stack.read_lines(f"{record.adapter_learnt or record.adapter}/metrics.jsonl")


def stored_numbers(model: ContinualModel, domain: str) -> int:
    """Of its LoRA under the last backbone, whose rank may have grown."""
    record = model.stack.manifest.domain(domain)
    stored = from_file(model.stack.read_tensors(f"{record.adapter}/{WEIGHTS}"))
    numbers = sum(a.size + b.size for a, b in stored.values())
    return numbers if record.floating is None else numbers * record.floating.rank // rank_of(stored)


def shared_numbers(model: ContinualModel) -> int:
    return sum(p.numel() for p in model.backbone.parameters()) if model.backbone else 0


def _spectral_line(step: Mapping[str, Any]) -> dict[str, Any]:
    sites = step["sites"]
    return {
        "domain": step["domain"],
        "phase": step["phase"],
        "step": step["step"],
        "gap": step["certificate"]["norm_bound"] - 1.0,
        "worst_operator_norm": step["certificate"]["worst_operator_norm"],
        "gate": sum(abs(s["gate"]) for s in sites) / len(sites),
        "sigma2": sum(s["sigma2"] for s in sites) / len(sites),
        "relative_change": max(s["relative_change"] for s in sites),
    }


def _refusals(model: ContinualModel) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """From the stack's ledger: each refused share, the domain that refused it, and by how much."""
    return {
        entry["domain"]: tuple(
            {"share": t["share"], "by": t["refused_by"], "excess_pct": t["excess_pct"]}
            for t in entry["verdict"]["trials"]
            if t["refused_by"]
        )
        for entry in model.stack.read_ledger()
        if entry["kind"] == "learn" and entry.get("verdict")
    }


def apart(run: Run) -> Outcome:
    """A stack of its own for each domain: the first domain's learning, every time."""
    measurements: list[Measurement] = []
    parts: list[Outcome] = []
    for t, (name, split) in enumerate(run.domains.items(), start=1):

        def heard(kind: str, value: Mapping[str, Any], name: str = name, t: int = t) -> None:
            if kind == "domain":
                run.tell(name, t, before=value["before"])
            else:
                run.on_event(kind, value)

        part = on_a_stack(replace(run, domains={name: split}, folder=run.folder / name, on_event=heard))
        measurements += [
            m.model_copy(update={"after": t if m.after else 0})
            for m in part.measurements
            if m.view in ("base", "floating")
        ]
        parts.append(part)
    return Outcome(
        measurements=measurements,
        base=parts[0].base,
        trained_parameters=parts[0].trained_parameters,
        stored_parameters=sum(part.stored_parameters for part in parts),
        tokens=sum(part.tokens for part in parts),
        holds=True,
    )
