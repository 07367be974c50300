"""The conditions, each a few lines on the same loop: PROTOCOL rule 1 and METHOD section 5.

Every one gets the same rows in the same order of steps, the same rates and the same evaluation; each does what it does
after every domain through `measured`, so that a run that was killed goes on after the last domain it finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from accelerate import Accelerator

from crma.bench.receipt import Answers, Measurement, View
from crma.benchmark.recipes import Plan
from crma.continual import ContinualModel
from crma.data.batches import plan_batches
from crma.data.render import Rendered, ensure_chat_template, render_all
from crma.data.worlds import WORLDS, is_exact_match
from crma.errors import ConfigError
from crma.model.adapters import AdapterConfig, Adapters, from_file, to_file
from crma.model.backbone import BackboneConfig
from crma.model.base import load_base
from crma.stack import files
from crma.stack.stack import Stack
from crma.train.config import LearnConfig, derived_seed
from crma.train.loop import Group, fit
from crma.train.objectives import evaluate_rows
from crma.types import Example, Score, Split

__all__ = ["CONDITIONS", "Condition", "Listener", "Outcome", "condition_named"]

Listener = Callable[[str, Mapping[str, Any]], None]
_ANSWER_TOKENS = 12  # the worlds' answers are two or three words
ONE = "one"  # the name of the only LoRA, where there is one


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What it is, in settings. `rank` says whose: crma's LoRA alone, or raised to crma's number of trained numbers."""

    name: str
    says: str
    learner: Literal["base", "one", "joint", "stack", "reset"]
    rank: Literal["adapter", "matched"] = "matched"
    lr_factor: float = 1.0
    backbone: Mapping[str, Any] | None = None  # changes to BackboneConfig; None: no backbone
    learn: Mapping[str, Any] = field(default_factory=dict)  # changes to LearnConfig

    def config(self, plan: Plan, seed: int) -> LearnConfig:
        changes: dict[str, Any] = {"seed": seed, "lr": plan.learn.lr * self.lr_factor, **self.learn}
        if self.rank == "matched":
            changes["rank"] = plan.matched_rank
        return plan.learn.model_copy(update=changes)

    def shape(self, plan: Plan, seed: int) -> BackboneConfig | None:
        if self.backbone is None:
            return None
        return BackboneConfig(**{"directions": plan.directions, "seed": seed, **self.backbone})


def _crma(name: str, says: str, **backbone: Any) -> Condition:
    return Condition(name=name, says=says, learner="stack", rank="adapter", backbone=backbone)


CONDITIONS: Mapping[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition(name="base", says="the untouched base", learner="base"),
        Condition(name="naive", says="one LoRA, trained on and on", learner="one"),
        Condition(
            name="naive-low-lr", says="one LoRA, trained on at a tenth of the rate", learner="one", lr_factor=0.1
        ),
        Condition(name="joint", says="one LoRA, all domains at once", learner="joint"),
        Condition(name="frozen-small", says="a LoRA a domain, of crma's rank", learner="stack", rank="adapter"),
        Condition(name="frozen", says="a LoRA a domain, as many trained numbers as crma", learner="stack"),
        Condition(
            name="frozen-warm",
            says="frozen, each LoRA begun as the nearest earlier one: a warm start without a backbone",
            learner="stack",
            learn={"warm_start": True},
        ),
        _crma("crma", "shared bounded backbone, a LoRA a domain, verified promotion"),
        _crma("shared-lora", "an ordinary shared LoRA in the backbone's place", frames="lora"),
        _crma("free-mixing", "any K in place of a doubly stochastic mixing", mixing="free"),
        _crma("row-stochastic", "rows of M sum to 1, columns need not", mixing="row-stochastic"),
        _crma("no-mixing", "M = I", mixing="none"),
        _crma("light", "fixed frames: only mixing and gates learn", frames="light", directions=32),
        Condition(
            name="crma-warm",
            says="crma, each LoRA begun as the nearest earlier one",
            learner="stack",
            rank="adapter",
            backbone={},
            learn={"warm_start": True},
        ),
        Condition(
            name="reset",
            says="crma with a new backbone at each domain: its capacity without its transfer",
            learner="reset",
            rank="adapter",
            backbone={},
        ),
    )
}


def condition_named(name: str) -> Condition:
    if name not in CONDITIONS:
        raise ConfigError("there is no such condition", expected=", ".join(CONDITIONS), got=name)
    return CONDITIONS[name]


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a condition leaves for its receipt."""

    measurements: list[Measurement]
    base: Mapping[str, Any]
    trained_parameters: int
    stored_parameters: int
    tokens: int
    holds: bool = False
    answers: list[Answers] = field(default_factory=list)
    routes: dict[str, dict[str, int]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    spectral: Sequence[Mapping[str, Any]] = ()


class Notebook:
    """The measurements made so far, in a file of the run's folder, so that none is made twice."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "measured.json"
        known = files.parse_json(self.path, files.read_bytes(self.path)) if self.path.is_file() else {}
        self.measurements = [Measurement(**m) for m in known.get("measurements", ())]
        self.answers = [Answers(**a) for a in known.get("answers", ())]
        self.tokens: dict[str, int] = known.get("tokens", {})  # phase -> trained on

    def has(self, after: int, view: View) -> bool:
        return any((m.after, m.view, m.split) == (after, view, "test") for m in self.measurements)

    def find(self, after: int, view: View, domain: str) -> Measurement | None:
        wanted = (after, view, domain, "test")
        return next((m for m in self.measurements if (m.after, m.view, m.domain, m.split) == wanted), None)

    def take(
        self,
        after: int,
        view: View,
        scores: Mapping[str, Score],
        rows: Mapping[str, Sequence[Rendered]],
        *,
        split: Literal["test", "validation"] = "test",
    ) -> None:
        def known(m: Measurement) -> bool:  # by a run that was killed before it came to the rest
            return (m.after, m.view, m.split, m.domain in scores) == (after, view, split, True)

        self.measurements = [m for m in self.measurements if not known(m)]
        for domain, score in scores.items():
            tokens = tuple(sum(r.supervised[1:]) for r in rows[domain])
            losses = tuple(round(x, 6) for x in score.losses)
            self.measurements.append(
                Measurement(after=after, domain=domain, view=view, split=split, losses=losses, tokens=tokens)
            )
        self.save()

    def save(self) -> None:
        made = {"measurements": self.measurements, "answers": self.answers}
        content = {name: [value.model_dump() for value in values] for name, values in made.items()}
        files.write_json(self.path, {**content, "tokens": self.tokens})


def run(
    condition: Condition,
    plan: Plan,
    domains: Mapping[str, Split],
    folder: Path,
    *,
    base: str,
    seed: int,
    on_event: Listener = lambda _kind, _value: None,
) -> Outcome:
    """Learn `domains` in their order under `condition`, with everything resumable kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    learners = {"stack": _learn_on_a_stack, "one": _learn_with_one, "joint": _learn_with_one, "reset": _learn_apart}
    learner = learners.get(condition.learner, _only_measure)
    return learner(condition, plan, domains, folder, base, seed, on_event)


# --- the stack: crma, frozen, and the ablations of the backbone ---------------------------------------------------


def _learn_on_a_stack(
    condition: Condition,
    plan: Plan,
    domains: Mapping[str, Split],
    folder: Path,
    base: str,
    seed: int,
    on_event: Listener,
) -> Outcome:
    config, shape = condition.config(plan, seed), condition.shape(plan, seed)
    notebook = Notebook(folder)
    model = _opened(folder / "stack", base, shape)
    learnt = {d.name for d in model.stack.manifest.domains}
    spectral = _Spectral(folder / "spectral.jsonl", on_event, notebook)
    names = tuple(domains)
    for t, (name, split) in enumerate(domains.items(), start=1):
        if name not in learnt:
            spectral.open(name)
            told = model.learn(name, split, config, on_event=spectral)
            spectral.losses[name, "moved", "test"] = (told.share or 0.0,)
        if not notebook.has(t, "floating"):
            _measure(model, t, names, notebook, spectral.losses, holds=shape is None)
        on_event("domain", {"domain": name, "number": t, "of": len(names), "before": name in learnt})
    last = len(names)
    routes = {d: [r.domain for r in model.route([e.prompt for e in domains[d].test])] for d in names}
    if not notebook.has(last, "routed"):
        rows = {d: model.kept(d, "test") for d in names}
        if shape is not None:
            notebook.take(last, "pinned", {d: _served(model, d, rows[d]) for d in names}, rows)
        notebook.take(last, "routed", {d: _routed(model, rows[d], routes[d]) for d in names}, rows)
    if not notebook.answers and _asks_facts(domains):
        notebook.answers = [answer for d in names for answer in _answered(model, d, domains[d].test)]
        notebook.save()
    adapter = sum(p.numel() for p in model.adapters.parameters(names[-1]).values())
    trained = sum(p.numel() for part in model.backbone.trained() for p in part.values()) if model.backbone else 0
    kept = sum(p.numel() for p in model.backbone.parameters()) if model.backbone else 0
    shares = {s.domain: s.alpha for s in model.stack.manifest.snapshots}
    return Outcome(
        measurements=notebook.measurements,
        base=model.stack.manifest.base.model_dump(),
        trained_parameters=adapter + trained,
        stored_parameters=adapter * last + kept,
        tokens=sum(notebook.tokens.values()),
        holds=shape is None,
        answers=notebook.answers,
        routes={d: {str(r): chosen.count(r) for r in dict.fromkeys(chosen)} for d, chosen in routes.items()},
        shares={d: shares.get(d, 0.0) for d in names} if shape is not None else {},
        refusals=_refusals(model) if shape is not None else {},
        spectral=spectral.lines(),
    )


def _refusals(model: ContinualModel) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """From the stack's ledger: each refused share, the domain that refused it, and by how much."""
    found: dict[str, tuple[Mapping[str, Any], ...]] = {}
    for entry in model.stack.read_ledger():
        if entry["kind"] != "learn" or not entry.get("verdict"):
            continue
        found[entry["domain"]] = tuple(
            {"share": t["share"], "by": t["refused_by"], "excess_pct": t.get("excess_pct")}
            for t in entry["verdict"]["trials"]
            if t["refused_by"]
        )
    return found


def _opened(folder: Path, base: str, shape: BackboneConfig | None) -> ContinualModel:
    if Stack.exists(folder):
        return ContinualModel.from_pretrained(folder, base=base)
    return ContinualModel.create(folder, base=base, backbone=shape)


def _measure(
    model: ContinualModel,
    t: int,
    names: Sequence[str],
    notebook: Notebook,
    told: Mapping[tuple[str, str, str], tuple[float, ...]],
    *,
    holds: bool,
) -> None:
    """After the t-th domain: its rows under the base and its own LoRA, and every earlier domain's under the backbone
    of now. Taken from what the learning measured itself (`told`); where a kill lost that, measured again."""
    name = names[t - 1]
    test, held_out = {name: model.kept(name, "test")}, {name: model.kept(name, "validation")}

    def score(domain: str, view: str, split: str, measure: Callable[[], Score]) -> Score:
        losses = told.get((domain, view, split))
        return Score(loss=0.0, tokens=0, losses=losses) if losses else measure()

    def of_base() -> Score:
        with model.untouched():
            return model.score_rows(test[name])

    notebook.take(0, "base", {name: score(name, "base", "test", of_base)}, test)
    own = score(name, "floating", "validation", lambda: _served(model, name, held_out[name]))
    notebook.take(t, "floating", {name: own}, held_out, split="validation")
    # Without a backbone nothing of an earlier domain moves: its own row says all (Receipt.holds).
    seen = names[t - 1 : t] if holds else names[:t]
    still = told.get((name, "moved", "test")) == (0.0,)  # the backbone stood still: as after the domain before
    found = {}
    for domain in seen:
        before = notebook.find(t - 1, "floating", domain) if still and domain != name else None
        again = before.losses if before else None
        found[domain] = (
            Score(loss=0.0, tokens=0, losses=again)
            if again
            else score(domain, "floating", "test", lambda domain=domain: _floating(model, domain))
        )
    notebook.take(t, "floating", found, {d: model.kept(d, "test") for d in seen})


def _floating(model: ContinualModel, domain: str) -> Score:
    """Under the newest snapshot, whichever the domain is pinned to."""
    with model.serving(domain, snapshot=model.stack.manifest.head):
        return model.score_rows(model.kept(domain, "test"))


def _served(model: ContinualModel, domain: str | None, rows: Sequence[Rendered]) -> Score:
    with model.serving(domain):
        return model.score_rows(rows)


def _routed(model: ContinualModel, rows: Sequence[Rendered], chosen: Sequence[str | None]) -> Score:
    """Each row as what its router picked serves it, the untouched base included."""
    losses = [0.0] * len(rows)
    for domain in dict.fromkeys(chosen):
        own = [i for i, c in enumerate(chosen) if c == domain]
        for index, loss in zip(own, _served(model, domain, [rows[i] for i in own]).losses, strict=True):
            losses[index] = loss
    return Score(loss=0.0, tokens=0, losses=tuple(losses))


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
    prompts = [e.prompt for e in examples]
    for view, options in views.items():
        if view == "backbone-off" and model.backbone is None:
            continue
        replies = model.ask_many(prompts, max_new_tokens=_ANSWER_TOKENS, **options)
        matches = [is_exact_match(r.text, e.completion) for r, e in zip(replies, examples, strict=True)]
        yield Answers(domain=domain, view=cast(Any, view), correct=tuple(matches))


class _Spectral:
    """What a learning tells: the bound at every step that logs a certificate, tokens, losses; passes all events on."""

    def __init__(self, path: Path, on_event: Listener, notebook: Notebook) -> None:
        self.path, self.on_event, self.notebook = path, on_event, notebook
        self.losses: dict[tuple[str, str, str], tuple[float, ...]] = {}  # (domain, view, split), of this process

    def open(self, domain: str) -> None:
        """A domain that is learnt again after a kill writes its lines again."""
        self.losses.clear()
        kept = [line for line in self.lines() if line["domain"] != domain]
        files.write_bytes_atomic(self.path, files.encode_lines(kept))

    def __call__(self, kind: str, value: Mapping[str, Any]) -> None:
        if kind == "step":
            # A resumed phase begins at its last checkpoint: the steps before it were counted by that process.
            self.notebook.tokens[f"{value['domain']}/{value['phase']}/{value['step']}"] = value["tokens"]
            if "certificate" in value:
                with self.path.open("ab") as stream:
                    stream.write(files.encode_lines([_spectral_line(value)]))
        elif kind == "measured":
            self.losses[value["domain"], value["view"], value["split"]] = tuple(value["losses"])
        self.on_event(kind, value)

    def lines(self) -> list[dict[str, Any]]:
        """What was logged; a line that a kill cut short is left out."""
        if not self.path.is_file():
            return []
        whole = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return files.parse_lines(self.path, b"".join(whole))


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


def _learn_apart(
    condition: Condition,
    plan: Plan,
    domains: Mapping[str, Split],
    folder: Path,
    base: str,
    seed: int,
    on_event: Listener,
) -> Outcome:
    """A stack of its own for each domain: the first domain's learning, every time."""
    parts: list[Outcome] = []
    for t, (name, split) in enumerate(domains.items(), start=1):

        def heard(kind: str, value: Mapping[str, Any], t: int = t) -> None:
            on_event(kind, {**value, "number": t, "of": len(domains)} if kind == "domain" else value)

        part = _learn_on_a_stack(condition, plan, {name: split}, folder / name, base, seed, heard)
        part.measurements = [m.model_copy(update={"after": t if m.after else 0}) for m in part.measurements]
        parts.append(part)
    first = parts[0]
    return Outcome(
        measurements=[m for part in parts for m in part.measurements if m.view in ("base", "floating")],
        base=first.base,
        trained_parameters=first.trained_parameters,
        stored_parameters=sum(part.stored_parameters for part in parts),
        tokens=sum(part.tokens for part in parts),
        holds=True,
    )


# --- one LoRA for everything: naive and joint ---------------------------------------------------------------------


def _learn_with_one(
    condition: Condition,
    plan: Plan,
    domains: Mapping[str, Split],
    folder: Path,
    base: str,
    seed: int,
    on_event: Listener,
) -> Outcome:
    config = condition.config(plan, seed)
    notebook = Notebook(folder)
    model = _OneLora(base, config)
    tests = {d: model.rendered(s.test) for d, s in domains.items()}
    if not notebook.has(0, "base"):
        notebook.take(0, "base", {d: model.score(rows, None) for d, rows in tests.items()}, tests)
    for t, name, rows in _lessons(condition, domains, model):
        place = folder / f"{t}.safetensors"
        before = place.is_file()
        if before:
            model.load(place)
        else:
            notebook.tokens[name] = model.learn(name, rows, on_event)
            files.write_tensors(place, to_file(model.adapters.weights(ONE)))
            notebook.save()
        if not notebook.has(t, "floating"):
            # Just after learning, on the rows that rates are chosen on.
            own = {d: model.rendered(domains[d].validation) for d in (domains if name == "all" else [name])}
            notebook.take(
                t, "floating", {d: model.score(rows, ONE) for d, rows in own.items()}, own, split="validation"
            )
            # The learnt ones, and the next: forward transfer needs no more.
            seen = {d: rows for i, (d, rows) in enumerate(tests.items()) if i <= t}
            notebook.take(t, "floating", {d: model.score(rows, ONE) for d, rows in seen.items()}, seen)
        on_event("domain", {"domain": name, "number": t, "of": len(domains), "before": before})
    size = sum(p.numel() for p in model.adapters.parameters(ONE).values())
    return Outcome(
        measurements=notebook.measurements,
        base=model.reference,
        trained_parameters=size,
        stored_parameters=size,
        tokens=sum(notebook.tokens.values()),
    )


def _lessons(
    condition: Condition, domains: Mapping[str, Split], model: _OneLora
) -> Iterator[tuple[int, str, tuple[Rendered, ...]]]:
    """(domains learnt after it, its name, its rows): a domain at a time, or all of them at once."""
    train = {d: model.rendered(s.train) for d, s in domains.items()}
    if condition.learner == "joint":
        yield len(train), "all", tuple(row for rows in train.values() for row in rows)
        return
    for t, (name, rows) in enumerate(train.items(), start=1):
        yield t, name, rows


class _OneLora:
    """A base with one LoRA that is trained on."""

    def __init__(self, base: str, config: LearnConfig) -> None:
        loaded = load_base(base)
        ensure_chat_template(loaded.tokenizer)
        self.model, self.tokenizer, self.config = loaded.model, loaded.tokenizer, config
        self.reference = {"name": base, "source": loaded.source, "weights_sha256": loaded.weights_sha256}
        head = self.model.get_output_embeddings()
        assert head is not None
        self.head = head
        pad = self.tokenizer.pad_token_id
        self.pad_id = pad if isinstance(pad, int) else 0
        self.adapters = Adapters(self.model)
        self.adapters.add(ONE, config.adapter, seed=derived_seed(config.seed, ONE))

    def rendered(self, examples: Sequence[Any]) -> tuple[Rendered, ...]:
        return render_all(examples, self.tokenizer, self.config.max_length).rows

    def learn(self, name: str, rows: Sequence[Rendered], on_event: Listener) -> int:
        """Train on; returns the tokens it took."""
        tokens = 0

        def on_step(report: Any) -> None:
            nonlocal tokens
            tokens += report.tokens
            line = {"step": report.step, "steps": report.steps, "loss": report.loss, "tokens": report.tokens}
            on_event("step", {**line, "domain": name, "phase": ONE, "seconds": report.seconds})

        self.adapters.activate(ONE)
        seed = derived_seed(self.config.seed, name)
        plan = plan_batches(
            [len(r.input_ids) for r in rows], batch_size=self.config.batch_size, epochs=self.config.epochs, seed=seed
        )
        fit(
            self.model,
            self.head,
            rows,
            plan,
            [Group(name="adapter", side="adapter", lr=self.config.lr, parameters=self.adapters.parameters(ONE))],
            config=self.config.loop.model_copy(update={"seed": seed}),
            accelerator=Accelerator(),
            pad_id=self.pad_id,
            on_step=on_step,
        )
        return tokens

    def score(self, rows: Sequence[Rendered], adapter: str | None) -> Score:
        with self.adapters.using(adapter):
            return evaluate_rows(self.model, self.head, rows, pad_id=self.pad_id)

    def load(self, path: Path) -> None:
        weights = from_file(files.parse_tensors(path, files.read_bytes(path)))
        config = AdapterConfig(rank=self.config.rank, alpha=self.config.adapter.alpha)
        self.adapters.load(ONE, config, weights)


def _only_measure(
    condition: Condition,
    plan: Plan,
    domains: Mapping[str, Split],
    folder: Path,
    base: str,
    seed: int,
    _on_event: Listener,
) -> Outcome:
    notebook = Notebook(folder)
    model = _OneLora(base, condition.config(plan, seed))
    tests = {d: model.rendered(s.test) for d, s in domains.items()}
    if not notebook.has(len(domains), "floating"):
        scores = {d: model.score(rows, None) for d, rows in tests.items()}
        notebook.take(0, "base", scores, tests)
        notebook.take(len(domains), "floating", scores, tests)
    return Outcome(
        measurements=notebook.measurements, base=model.reference, trained_parameters=0, stored_parameters=0, tokens=0
    )
