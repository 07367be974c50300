"""The demo's page: one HTML file made from one result, with nothing to fetch and nothing to run.

Every number on it is read or computed from the result; what the result lacks is shown as "not measured".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from crma.bench.statistics import newcombe
from crma.web.charts import Band, Curve, Panel, Trace, forgetting_chart, picture, steps_chart
from crma.web.page import (
    MISSING,
    Section,
    Tile,
    cell,
    count_cell,
    count_of,
    decimal,
    duration,
    joined,
    mapping_of,
    number_of,
    render_page,
    sequence_of,
    string_of,
    table_of,
    words_cell,
)
from crma.web.svg import escape, percent

__all__ = ["render_picture", "render_report", "summary"]

CRMA = "crma"
PAPER = "https://arxiv.org/abs/2606.00382"
_SHOWN_TEXT = 1200  # characters of an answer; the whole stands in the embedded JSON
_SHOWN_SAMPLES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class _Method:
    key: str
    label: str
    short: str
    exact: tuple[tuple[float | None, ...], ...]  # [1 + domains][domains]; row 0 is the untouched base
    loss: tuple[tuple[float | None, ...], ...]
    drift: tuple[float | None, ...]
    seconds: float | None
    trained: float | None

    @property
    def final(self) -> float | None:
        return _mean(self.exact[-1]) if len(self.exact) > 1 else None

    @property
    def lost(self) -> float | None:
        """Mean share the domains before the last lost between their own lesson and the end."""
        return _mean([_minus(self.exact[i + 1][i], self.exact[-1][i]) for i in range(len(self.exact) - 2)])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    title: str
    base: str | None
    domains: tuple[str, ...]
    questions: int | None  # a domain
    methods: tuple[_Method, ...]
    raw: Mapping[str, Any]

    @property
    def crma(self) -> _Method | None:
        return next((m for m in self.methods if m.key == CRMA), None)

    @property
    def rival(self) -> _Method | None:
        """What CRMA is compared with: the naive method, or else the first other one."""
        others = [m for m in self.methods if m.key != CRMA]
        return next((m for m in others if m.key == "naive"), others[0] if others else None)

    @property
    def stages(self) -> tuple[str, ...]:
        return ("base", *self.domains)

    def panel(self, method: _Method) -> Panel:
        curves = tuple(
            Curve(name=name, values=tuple(row[i] for row in method.exact), learnt=i + 1)
            for i, name in enumerate(self.domains)
        )
        return Panel(title=method.short, curves=curves, stages=self.stages)


def render_report(result: Mapping[str, Any]) -> str:
    """The whole page as one string."""
    run = _read(result)
    sections = [
        ("curves", "Does it forget?", _curves(run)),
        ("drift", "How far each domain drifted", _drift(run)),
        ("answers", "Answers, before and after", _answers(run)),
        ("routing", "Who answers: the router", _routing(run)),
        ("gradients", "What trained, step by step", _gradients(run)),
        ("certificate", "The certificate", _certificate(run)),
        ("made", "How this was made", _made(run)),
        ("data", "The numbers themselves", _data(run)),
    ]
    headline, detail = summary(result)
    return render_page(
        title=run.title,
        eyebrow=run.title,
        headline=headline,
        detail=detail,
        tiles=_tiles(run),
        sections=[Section(key=key, title=title, body=body) for key, title, body in sections],
        footer="An independent implementation, from the public description, of the Constrained Residual Mixing "
        f'Adapter (<a href="{PAPER}" rel="noreferrer">arXiv 2606.00382</a>). '
        "One run on invented facts; it shows what happens, it does not prove how often.",
        result=result,
        style=_STYLE,
    )


def render_picture(result: Mapping[str, Any]) -> str:
    """The forgetting curves as an SVG file of its own: the comparison on the left, CRMA on the right."""
    run = _read(result)
    panels = []
    for method in (run.rival, run.crma):
        if method is not None and run.domains:
            final = percent(method.final) if method.final is not None else "not measured in the end"
            panels.append(replace(run.panel(method), title=f"{method.short}: {final}"))
    asked = f"{run.questions} unseen paraphrases a domain" if run.questions is not None else "unseen paraphrases"
    facts = [f"base {run.base}" if run.base else None, duration(number_of(run.raw.get("seconds")))]
    made = (string_of(run.raw.get("made")) or "").split("T")[0]
    return picture(
        panels,
        title=f"What is left after learning {count_of(len(run.domains), 'domain')}, one after another",
        subtitle=f"Share answered exactly, {asked}; beside each method its mean in the end",
        footer=" · ".join(f for f in [*facts, made and f"made {made}", "one run"] if f),
    )


def summary(result: Mapping[str, Any]) -> tuple[str, str]:
    """The sentence the numbers allow, and what it rests on. The data choose the words: better, worse or too close.

    "Too close" is a 95 % interval for the difference of two shares that holds 0 (Newcombe, 1998, method 10), the
    questions counted as independent; where their number is unknown, only equal shares are too close.
    """
    run = _read(result)
    crma, rival = run.crma, run.rival
    learnt = f"After learning {joined(run.domains)} one after another" if run.domains else "At the end"
    asked = "of unseen paraphrases exactly"
    if crma is None or crma.final is None:
        known = [m for m in run.methods if m.final is not None]
        if not known:
            return f"{learnt}, no answers were measured.", "Nothing can be said about forgetting from this run."
        told = joined([f"{m.short} answers {percent(m.final or 0.0)}" for m in known])
        return f"{learnt}, {told} {asked}; CRMA was not measured.", _lost(run)
    own = percent(crma.final)
    if rival is None or rival.final is None:
        return f"{learnt}, CRMA answers {own} {asked}; there is nothing measured to compare it with.", _lost(run)
    other = percent(rival.final)
    total = run.questions * len(run.domains) if run.questions is not None else None
    low = high = crma.final - rival.final
    if total:
        difference = newcombe(round(crma.final * total), total, round(rival.final * total), total)
        low, high = difference.low, difference.high
    said = f"{learnt}, CRMA answers {own} {asked}"
    if low > 0:
        return f"{said}; {rival.short}: {other}.", _lost(run)
    if high < 0:
        return f"{said}, fewer than the {other} of {rival.short}.", _lost(run)
    if own == other:
        return f"{said}, a tie with {rival.short}.", _lost(run)
    few = f" ({count_of(total, 'question')})" if total is not None else ""
    return f"{said}: too close to call against the {other} of {rival.short}{few}.", _lost(run)


def _lost(run: _Run) -> str:
    parts = []
    for method in run.methods:
        if method.lost is None:
            continue
        points = decimal(abs(100 * method.lost), 1)
        if points == "0":
            change = "none"
        elif method.lost > 0:
            change = f"{points} percentage points"
        else:
            change = f"none, {points} percentage points gained"
        parts.append(f"{method.short}: {change}")
    if not parts:
        return "How much the earlier domains lost was not measured."
    return f"Lost on the earlier domains since they were taught, in exact answers: {'; '.join(parts)}."


# --- sections --------------------------------------------------------------------------------------------------------


def _tiles(run: _Run) -> list[Tile]:
    routing = mapping_of(run.raw.get("routing"))
    certificate = mapping_of(run.raw.get("certificate"))
    tiles = [
        Tile(
            name=f"Exact at the end, {m.short}",
            value=percent(m.final) if m.final is not None else None,
            note="mean over the domains",
        )
        for m in run.methods
    ]
    asked = number_of(routing.get("questions"))
    strange = number_of(routing.get("strangers"))
    tiles.append(
        Tile(
            name="Routed to the right domain",
            value=_share(routing.get("accuracy")),
            note=f"of {count_of(asked, 'question')}" if asked is not None else "of the questions asked",
        )
    )
    tiles.append(
        Tile(
            name="Strangers left to the base",
            value=_share(routing.get("strangers_to_base")),
            note=f"of {count_of(strange, 'question')} of no domain"
            if strange is not None
            else "questions of no domain",
        )
    )
    holds = certificate.get("holds")
    held = _holds(holds) if isinstance(holds, bool) else None
    return [*tiles, Tile(name="Certificate", value=held, note="the backbone's norm bound")]


def _curves(run: _Run) -> str:
    if not run.methods or not run.domains:
        return f"<p>{MISSING}</p>"
    asked = count_of(run.questions, "question") if run.questions is not None else "questions"
    intro = (
        "<p>Each domain is taught once, then the next, and no earlier row is seen again. After every lesson "
        f"every domain is asked {escape(asked)} about its facts, in words never trained on. A solid line that "
        "falls is forgetting. The dotted part is the time before the domain was taught.</p>"
    )
    figures = []
    for i, method in enumerate(run.methods):
        chart = forgetting_chart(run.panel(method), key=f"curve-{i}")
        figures.append(
            f"<figure><figcaption>{escape(method.label)}</figcaption>{chart}{_exact_table(run, method)}</figure>"
        )
    return intro + f'<div class="grid">{"".join(figures)}</div>'


def _exact_table(run: _Run, method: _Method) -> str:
    rows = []
    for t, stage in enumerate(run.stages):
        cells = [
            cell(percent(v), classes="" if i < t else "early", bar=v) if (v := method.exact[t][i]) is not None else None
            for i in range(len(run.domains))
        ]
        rows.append(("untouched base" if t == 0 else f"after {escape(stage)}", cells))
    caption = f"Share answered exactly, {method.short}"
    return table_of(caption, ["asked", *run.domains], rows)


def _drift(run: _Run) -> str:
    if not run.methods or not run.domains:
        return f"<p>{MISSING}</p>"
    intro = (
        "<p>Drift is the change of a domain’s loss on its unseen paraphrases, from just after its own lesson to the "
        "end: positive means forgotten. The last domain had no time to drift. Drift sees what exact match cannot: an "
        "answer that is still right, but less sure.</p>"
    )
    head = ["domain", *(part for _ in run.methods for part in ("loss just after", "loss at the end", "drift"))]
    groups = [(m.short, 3) for m in run.methods]
    rows = []
    for i, name in enumerate(run.domains):
        cells: list[str | None] = []
        for method in run.methods:
            cells += [
                cell(decimal(v, 3)) if v is not None else None for v in (method.loss[i + 1][i], method.loss[-1][i])
            ]
            cells.append(_drift_cell(method.drift[i]))
        rows.append((escape(name), cells))
    means: list[str | None] = []
    for method in run.methods:
        means += ["<td></td>", "<td></td>", _drift_cell(_mean(method.drift[:-1], whole=True))]
    if len(run.domains) > 1:
        rows.append(("mean, without the last", means))
    return intro + table_of("Loss in nats a token, and drift in per cent", head, rows, groups=groups)


def _drift_cell(value: float | None) -> str | None:
    if value is None:
        return None
    text = _signed(value) + " %"
    if text == "0 %":
        return cell(text)
    return cell(f"{text} {'▲ worse' if value > 0 else '▼ better'}", classes="bad" if value > 0 else "good")


def _answers(run: _Run) -> str:
    samples = [mapping_of(s) for s in sequence_of(run.raw.get("samples"))]
    if not samples:
        return f"<p>{MISSING}</p>"
    counted = []
    for key, label in [("before", "the untouched base"), *((m.key, m.short) for m in run.methods)]:
        grades = [g for s in samples if isinstance(g := mapping_of(s.get("correct")).get(key), bool)]
        if grades:
            counted.append(f"{label} {sum(grades)} of {len(grades)}")
    intro = f"<p>Right among the questions shown here: {escape('; '.join(counted))}.</p>" if counted else ""
    cards = [_sample(run, s) for s in samples]
    first, rest = cards[:_SHOWN_SAMPLES], cards[_SHOWN_SAMPLES:]
    more = ""
    if rest:
        label = count_of(len(rest), "more question")
        more = f'<details><summary>{label}</summary><div class="grid cards">{"".join(rest)}</div></details>'
    return f'{intro}<div class="grid cards">{"".join(first)}</div>{more}'


def _sample(run: _Run, sample: Mapping[str, Any]) -> str:
    correct = mapping_of(sample.get("correct"))
    lines = []
    for key, label in [("before", "untouched base"), *((m.key, m.short) for m in run.methods)]:
        grade = correct.get(key)
        if grade is True:
            mark = '<span class="mark good">✓ right</span>'
        elif grade is False:
            mark = '<span class="mark bad">✗ wrong</span>'
        else:
            mark = '<span class="mark missing">not graded</span>'
        lines.append(f"<div><dt>{escape(label)} {mark}</dt><dd>{_quoted(sample.get(key))}</dd></div>")
    domain = string_of(sample.get("domain"))
    if "route" not in sample:
        route = MISSING
    elif sample["route"] is None:
        route = "no domain: the untouched base"
    else:
        route = escape(sample["route"]) + ("" if sample["route"] == domain else ", not its domain")
    return (
        f'<article class="card"><p class="tag">{escape(domain) if domain else MISSING}</p>'
        f'<h3 dir="auto">{_quoted(sample.get("question"))}</h3>'
        f'<p class="expected">expected: <strong dir="auto">{_quoted(sample.get("expected"))}</strong></p>'
        f'<dl class="said">{"".join(lines)}</dl><p class="routed">routed to: {route}</p></article>'
    )


def _routing(run: _Run) -> str:
    routing = mapping_of(run.raw.get("routing"))
    asked, strange = number_of(routing.get("questions")), number_of(routing.get("strangers"))
    rows = [
        ("questions asked of the domains", [count_cell(asked)]),
        ("sent to the right domain", [cell(v) if (v := _share(routing.get("accuracy"))) else None]),
        ("questions of no domain", [count_cell(strange)]),
        ("left to the untouched base", [cell(v) if (v := _share(routing.get("strangers_to_base"))) else None]),
    ]
    intro = (
        "<p>Nobody tells CRMA which domain a question belongs to. A router picks the adapter, and a question it does "
        "not recognise goes to the base model untouched, so what the base could do before stays as it was.</p>"
    )
    known = table_of("The router, counted", ["", "measured"], rows)
    strangers = [mapping_of(s) for s in sequence_of(run.raw.get("strangers"))]
    if not strangers:
        return f"{intro}{known}<h3>Strangers</h3><p>{MISSING}</p>"
    lines = []
    for stranger in strangers:
        confidence, same = number_of(stranger.get("confidence")), stranger.get("same_as_base")
        if "route" not in stranger:
            route = None
        elif stranger["route"] is None:
            route = cell("untouched base", classes="good")
        else:
            route = cell(f"{stranger['route']} (misrouted)", classes="bad")
        lines.append(
            (
                _quoted(stranger.get("question")),
                [
                    route,
                    cell(decimal(confidence, 2)) if confidence is not None else None,
                    f'<td class="words" dir="auto">{_quoted(stranger.get("answer"))}</td>',
                    cell("yes" if same else "no", classes="good" if same else "bad")
                    if isinstance(same, bool)
                    else None,
                ],
            )
        )
    head = ["question", "routed to", "confidence of the nearest domain", "answer", "same as the base's answer"]
    table = table_of("Questions of no domain", head, lines, words=True)
    return f"{intro}{known}<h3>Strangers</h3>{table}"


def _gradients(run: _Run) -> str:
    steps = mapping_of(run.raw.get("steps"))
    tables, figures = [], []
    for index, method in sorted(enumerate(run.methods), key=lambda m: m[1].key != CRMA):
        lines = [mapping_of(line) for line in sequence_of(steps.get(method.key))]
        if not lines:
            continue
        bands = _bands(lines)
        sides = [Trace(name=side, values=_column(lines, f"grad_{side}")) for side in ("adapter", "backbone")]
        sides = [side for side in sides if any(v is not None for v in side.values)]
        if sides:
            title = f"Gradient norm, {joined([side.name for side in sides])}, {method.short}"
            unit = "gradient norm, logarithmic"
            chart = steps_chart(sides, bands, key=f"gradient-{index}", title=title, unit=unit, log=True)
            figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>")
            tables.append(_phases(method, lines))
        title = f"Training loss, {method.short}"
        loss = [Trace(name="loss", values=_column(lines, "loss"))]
        chart = steps_chart(loss, bands, key=f"loss-{index}", title=title, unit="loss, nats a token")
        figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>")
    if not figures:
        return f"<p>{MISSING}</p>"
    intro = (
        "<p>Two things learn, and they are watched apart: the new domain’s own adapter, and the bounded backbone that "
        "all domains share. Where the backbone’s line stops, it is held and only the adapter trains. Shaded: every "
        "phase of a lesson after its first.</p>"
    )
    if not tables:
        intro += f"<p>Gradient norms: {MISSING}.</p>"
    return f'{intro}<div class="grid">{"".join(figures)}</div>{"".join(tables)}'


def _phases(method: _Method, lines: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for domain, phase, part in _stretches(lines):
        numbers = [
            [v for v in _column(part, key) if v is not None]
            for key in ("loss", "grad_adapter", "grad_backbone", "tokens_per_s")
        ]
        loss, adapter, backbone, speed = numbers
        cells: list[str | None] = [
            cell(phase) if phase else None,
            cell(str(len(part))),
            cell(f"{decimal(loss[0], 3)} → {decimal(loss[-1], 3)}") if loss else None,
            *(cell(f"{median(v):.3g}") if v else None for v in (adapter, backbone)),
            cell(f"{median(speed):.0f}") if speed else None,
        ]
        rows.append((escape(domain) if domain else MISSING, cells))
    head = [
        "domain",
        "phase",
        "steps",
        "loss, first → last",
        "median adapter gradient",
        "median backbone gradient",
        "median tokens/s",
    ]
    return table_of(f"The lessons of {method.short}, phase by phase", head, rows)


def _certificate(run: _Run) -> str:
    certificate = mapping_of(run.raw.get("certificate"))
    holds = certificate.get("holds")
    if holds is True:
        verdict = '<p class="verdict good">✓ The bound holds at every site checked.</p>'
    elif holds is False:
        verdict = '<p class="verdict bad">✗ The bound does not hold. Nothing on this page that rests on it counts.</p>'
    else:
        verdict = f'<p class="verdict">The certificate: {MISSING}</p>'
    bound, worst = number_of(certificate.get("norm_bound")), number_of(certificate.get("worst_operator_norm"))
    rows = [
        ("‖M‖₂ is at most (float64, no SVD)", [cell(f"{bound:.10g}") if bound is not None else None]),
        ("largest ‖B K A‖₂ found", [cell(f"{worst:.6g}", bar=worst) if worst is not None else None]),
        ("sites checked", [count_cell(number_of(certificate.get("sites")))]),
    ]
    intro = (
        "<p>The shared backbone mixes directions with a doubly stochastic matrix M, so by Birkhoff’s theorem ‖M‖₂ ≤ 1, "
        "up to float32 rounding, whatever the data and the step. The frames around it are orthonormal, so the "
        "backbone’s own transformation B K A never lengthens a vector. The bound limits how strong the backbone can "
        "be; it does not by itself stop it from moving, which is why drift is measured above.</p>"
    )
    snapshots = [mapping_of(s) for s in sequence_of(run.raw.get("snapshots"))]
    lines = []
    for snapshot in snapshots:
        share, distance = number_of(snapshot.get("share")), number_of(snapshot.get("distance"))
        domain = string_of(snapshot.get("domain"))
        lines.append(
            (
                escape(name) if (name := string_of(snapshot.get("id"))) else MISSING,
                [
                    f'<td class="words">{escape(domain)}</td>' if domain else None,
                    cell(percent(share), bar=share) if share is not None else None,
                    cell(f"{distance:.4g}") if distance is not None else None,
                ],
            )
        )
    head = ["snapshot", "learnt", "share of the proposed move kept", "distance moved, relative to ‖W‖₂"]
    table = table_of("Snapshots of the backbone", head, lines) if lines else f"<p>{MISSING}</p>"
    checked = table_of("The certificate, in numbers", ["", "value"], rows)
    moved = (
        "<p>After each lesson the backbone moves by the largest share of its proposed move that makes no earlier "
        "domain worse on its validation questions.</p>"
    )
    return f"{intro}{verdict}{checked}<h3>Snapshots</h3>{moved}{table}"


def _made(run: _Run) -> str:
    rows: list[tuple[str, list[str | None]]] = []
    for method in run.methods:
        exact = cell(percent(method.final), bar=method.final) if method.final is not None else None
        seconds = cell(text) if (text := duration(method.seconds)) else None
        rows.append((escape(method.label), [count_cell(method.trained), seconds, exact]))
    methods = table_of("The methods", ["method", "numbers trained", "time", "exact at the end"], rows) if rows else ""
    known = [
        ("base model", run.base),
        ("made", string_of(run.raw.get("made"))),
        ("time in all", duration(number_of(run.raw.get("seconds")))),
        ("domains, in order", ", ".join(run.domains) or None),
        ("questions a domain", str(run.questions) if run.questions is not None else None),
    ]
    facts: list[tuple[str, list[str | None]]] = [(name, [words_cell(value)]) for name, value in known]
    for section in ("machine", "config"):
        found = _flat(mapping_of(run.raw.get(section)))
        facts += [(f"{section}: {escape(key)}", [words_cell(value)]) for key, value in found]
    notes = [n for n in sequence_of(run.raw.get("notes")) if string_of(n)]
    told = "".join(f'<li dir="auto">{escape(n)}</li>' for n in notes)
    remarks = f"<h3>What to know, and what did not work</h3><ul>{told}</ul>" if notes else ""
    return methods + table_of("The run", ["", "value"], facts, words=True) + remarks


def _data(run: _Run) -> str:
    kept = ", ".join(sorted(str(k) for k in run.raw)) or "nothing"
    return (
        "<p>The whole result this page was made from is inside it, as JSON, in the element <code>#result</code>. "
        f"It holds: {escape(kept)}. In the browser’s console: "
        "<code>JSON.parse(document.getElementById('result').textContent)</code></p>"
    )


def _quoted(value: object) -> str:
    if not isinstance(value, str):
        return MISSING
    if not value.strip():
        return '<span class="missing">(an empty answer)</span>'
    shown = value if len(value) <= _SHOWN_TEXT else value[:_SHOWN_TEXT] + " …"
    return f"<q>{escape(shown)}</q>"


# --- reading the result ----------------------------------------------------------------------------------------------


def _read(result: Mapping[str, Any]) -> _Run:
    domains = tuple(str(d) for d in sequence_of(result.get("domains")))
    methods = []
    for key, value in mapping_of(result.get("methods")).items():
        raw = mapping_of(value)
        label = string_of(raw.get("label")) or str(key)
        drift = [number_of(v) for v in sequence_of(raw.get("drift_pct"))]
        methods.append(
            _Method(
                key=str(key),
                label=label,
                short="CRMA" if key == CRMA else label.split(":")[0].strip() or str(key),
                exact=_matrix(raw.get("exact"), len(domains)),
                loss=_matrix(raw.get("loss"), len(domains)),
                drift=tuple(drift[i] if i < len(drift) else None for i in range(len(domains))),
                seconds=number_of(raw.get("seconds")),
                trained=number_of(raw.get("trained_parameters")),
            )
        )
    questions = number_of(result.get("questions_per_domain"))
    return _Run(
        title=string_of(result.get("title")) or "CRMA demo",
        base=string_of(result.get("base")),
        domains=domains,
        questions=round(questions) if questions is not None else None,
        methods=tuple(methods),
        raw=result,
    )


def _matrix(value: object, count: int) -> tuple[tuple[float | None, ...], ...]:
    """[1 + count][count], None where `value` has no number."""
    rows = [sequence_of(row) for row in sequence_of(value)]
    return tuple(
        tuple(number_of(rows[t][i]) if t < len(rows) and i < len(rows[t]) else None for i in range(count))
        for t in range(count + 1)
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            found += _flat(inner, name + ".")
        elif isinstance(inner, list | tuple):
            found.append((name, ", ".join(map(str, inner))))
        else:
            found.append((name, str(inner) if inner is not None else None))
    return found


def _column(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[float | None, ...]:
    return tuple(number_of(line.get(key)) for line in lines)


def _stretches(
    lines: Sequence[Mapping[str, Any]],
) -> list[tuple[str | None, str | None, list[Mapping[str, Any]]]]:
    """Neighbouring steps of one domain and one phase."""
    found: list[tuple[str | None, str | None, list[Mapping[str, Any]]]] = []
    for line in lines:
        domain, phase = string_of(line.get("domain")), string_of(line.get("phase"))
        if not found or found[-1][:2] != (domain, phase):
            found.append((domain, phase, []))
        found[-1][2].append(line)
    return found


def _bands(lines: Sequence[Mapping[str, Any]]) -> list[Band]:
    """The domains, and, shaded and beneath them, every phase of a lesson but its first."""
    lessons: list[Band] = []
    shaded: list[Band] = []
    at, previous = 0, object()
    for domain, phase, part in _stretches(lines):
        stop = at + len(part)
        if domain == previous:
            start = lessons.pop().start
            shaded.append(Band(name=phase or "", start=at, stop=stop, shaded=True))
        else:
            start = at
        lessons.append(Band(name=domain or "", start=start, stop=stop))
        at, previous = stop, domain
    return shaded + lessons


# --- numbers and words -----------------------------------------------------------------------------------------------


def _mean(values: Sequence[float | None], *, whole: bool = False) -> float | None:
    """None where a value is missing: a mean over some of the domains would be another number under the same name."""
    if not values or any(v is None for v in values):
        return None
    return sum(v for v in values if v is not None) / len(values)


def _minus(a: float | None, b: float | None) -> float | None:
    return a - b if a is not None and b is not None else None


def _signed(value: float) -> str:
    text = f"{value:+.1f}".removesuffix(".0")
    return "0" if text in ("+0", "-0") else text.replace("-", "−")


def _share(value: object) -> str | None:
    number = number_of(value)
    return percent(number) if number is not None else None


def _holds(holds: bool) -> str:
    return "holds" if holds else "does not hold"


_STYLE = """.tag{margin:0 0 6px;color:var(--accent);font-weight:600;font-size:14px}
.card h3{margin:0;font-size:17px;font-weight:600}
.expected{margin:8px 0 0;font-size:15px;color:var(--muted)}
.expected strong{color:var(--ink);font-weight:600}
.said{margin:12px 0 0;display:grid;gap:10px}
.said dt{font-size:14px;color:var(--muted);display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px}
.said dd{margin:2px 0 0;white-space:pre-line}
.mark{font-weight:600;white-space:nowrap}
.mark.missing{font-weight:400}
.routed{margin:12px 0 0;padding-top:10px;border-top:1px solid var(--grid);font-size:14px;color:var(--muted)}
q{quotes:none}
.verdict{font-size:19px;font-weight:600}
"""
