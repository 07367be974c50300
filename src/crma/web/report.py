"""The demo's page: one HTML file made from one result, with nothing to fetch and nothing to run.

Every number on it is read or computed from the result; what the result lacks is shown as "not measured". A content
security policy of 'none' stands in the page itself, so a browser refuses any request that could slip in with a text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from crma.web.charts import (
    DARK,
    LIGHT,
    Band,
    Curve,
    Panel,
    Trace,
    chart_style,
    escape,
    forgetting_chart,
    percent,
    picture,
    steps_chart,
)

__all__ = ["render_picture", "render_report", "summary"]

MISSING = '<span class="missing">not measured</span>'
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
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
    main = "".join(
        f'<section id="{key}" aria-labelledby="{key}-h"><h2 id="{key}-h">{title}</h2>{body}</section>'
        for key, title, body in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<meta name="description" content="{escape(headline)}">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(run.title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#curves">Skip to the results</a>\n'
        f'<header><p class="eyebrow">{escape(run.title)}</p><h1>{escape(headline)}</h1>'
        f'<p class="lead">{escape(detail)}</p>{_tiles(run)}'
        f'<nav aria-label="On this page"><ol>{links}</ol></nav></header>\n<main>{main}</main>\n'
        "<footer><p>An independent implementation, from the public description, of the Constrained Residual Mixing "
        f'Adapter (<a href="{PAPER}" rel="noreferrer">arXiv 2606.00382</a>). '
        "One run on invented facts; it shows what happens, it does not prove how often.</p></footer>\n"
        f'<script type="application/json" id="result">{_embedded(result)}</script>\n</body>\n</html>\n'
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
    facts = [f"base {run.base}" if run.base else None, _duration(_number(run.raw.get("seconds")))]
    made = (_string(run.raw.get("made")) or "").split("T")[0]
    return picture(
        panels,
        title=f"What is left after learning {_count(len(run.domains), 'domain')}, one after another",
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
    learnt = f"After learning {_and(run.domains)} one after another" if run.domains else "At the end"
    asked = "of unseen paraphrases exactly"
    if crma is None or crma.final is None:
        known = [m for m in run.methods if m.final is not None]
        if not known:
            return f"{learnt}, no answers were measured.", "Nothing can be said about forgetting from this run."
        told = _and([f"{m.short} answers {percent(m.final or 0.0)}" for m in known])
        return f"{learnt}, {told} {asked}; CRMA was not measured.", _lost(run)
    own = percent(crma.final)
    if rival is None or rival.final is None:
        return f"{learnt}, CRMA answers {own} {asked}; there is nothing measured to compare it with.", _lost(run)
    other = percent(rival.final)
    total = run.questions * len(run.domains) if run.questions is not None else None
    low, high = _difference(crma.final, rival.final, total)
    said = f"{learnt}, CRMA answers {own} {asked}"
    if low > 0:
        return f"{said}; {rival.short}: {other}.", _lost(run)
    if high < 0:
        return f"{said}, fewer than the {other} of {rival.short}.", _lost(run)
    if own == other:
        return f"{said}, a tie with {rival.short}.", _lost(run)
    few = f" ({_count(total, 'question')})" if total is not None else ""
    return f"{said}: too close to call against the {other} of {rival.short}{few}.", _lost(run)


def _lost(run: _Run) -> str:
    parts = []
    for method in run.methods:
        if method.lost is None:
            continue
        points = _plain(abs(100 * method.lost), 1)
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


def _tiles(run: _Run) -> str:
    routing = _mapping(run.raw.get("routing"))
    certificate = _mapping(run.raw.get("certificate"))
    tiles = [
        (f"Exact at the end, {m.short}", percent(m.final) if m.final is not None else None, "mean over the domains")
        for m in run.methods
    ]
    asked = _number(routing.get("questions"))
    strange = _number(routing.get("strangers"))
    tiles.append(
        (
            "Routed to the right domain",
            _share(routing.get("accuracy")),
            f"of {_count(asked, 'question')}" if asked is not None else "of the questions asked",
        )
    )
    tiles.append(
        (
            "Strangers left to the base",
            _share(routing.get("strangers_to_base")),
            f"of {_count(strange, 'question')} of no domain" if strange is not None else "questions of no domain",
        )
    )
    holds = certificate.get("holds")
    tiles.append(("Certificate", _holds(holds) if isinstance(holds, bool) else None, "the backbone's norm bound"))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value) if value is not None else MISSING}"
        f"<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _curves(run: _Run) -> str:
    if not run.methods or not run.domains:
        return f"<p>{MISSING}</p>"
    asked = _count(run.questions, "question") if run.questions is not None else "questions"
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
            _cell(percent(v), classes="" if i < t else "early", bar=v)
            if (v := method.exact[t][i]) is not None
            else None
            for i in range(len(run.domains))
        ]
        rows.append(("untouched base" if t == 0 else f"after {escape(stage)}", cells))
    caption = f"Share answered exactly, {method.short}"
    return _table(caption, ["asked", *run.domains], rows)


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
                _cell(_plain(v, 3)) if v is not None else None for v in (method.loss[i + 1][i], method.loss[-1][i])
            ]
            cells.append(_drift_cell(method.drift[i]))
        rows.append((escape(name), cells))
    means: list[str | None] = []
    for method in run.methods:
        means += ["<td></td>", "<td></td>", _drift_cell(_mean(method.drift[:-1], whole=True))]
    if len(run.domains) > 1:
        rows.append(("mean, without the last", means))
    return intro + _table("Loss in nats a token, and drift in per cent", head, rows, groups=groups)


def _drift_cell(value: float | None) -> str | None:
    if value is None:
        return None
    text = _signed(value) + " %"
    if text == "0 %":
        return _cell(text)
    return _cell(f"{text} {'▲ worse' if value > 0 else '▼ better'}", classes="bad" if value > 0 else "good")


def _answers(run: _Run) -> str:
    samples = [_mapping(s) for s in _sequence(run.raw.get("samples"))]
    if not samples:
        return f"<p>{MISSING}</p>"
    counted = []
    for key, label in [("before", "the untouched base"), *((m.key, m.short) for m in run.methods)]:
        grades = [g for s in samples if isinstance(g := _mapping(s.get("correct")).get(key), bool)]
        if grades:
            counted.append(f"{label} {sum(grades)} of {len(grades)}")
    intro = f"<p>Right among the questions shown here: {escape('; '.join(counted))}.</p>" if counted else ""
    cards = [_sample(run, s) for s in samples]
    first, rest = cards[:_SHOWN_SAMPLES], cards[_SHOWN_SAMPLES:]
    more = ""
    if rest:
        label = _count(len(rest), "more question")
        more = f'<details><summary>{label}</summary><div class="grid cards">{"".join(rest)}</div></details>'
    return f'{intro}<div class="grid cards">{"".join(first)}</div>{more}'


def _sample(run: _Run, sample: Mapping[str, Any]) -> str:
    correct = _mapping(sample.get("correct"))
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
    domain = _string(sample.get("domain"))
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
    routing = _mapping(run.raw.get("routing"))
    asked, strange = _number(routing.get("questions")), _number(routing.get("strangers"))
    rows = [
        ("questions asked of the domains", [_count_cell(asked)]),
        ("sent to the right domain", [_cell(v) if (v := _share(routing.get("accuracy"))) else None]),
        ("questions of no domain", [_count_cell(strange)]),
        ("left to the untouched base", [_cell(v) if (v := _share(routing.get("strangers_to_base"))) else None]),
    ]
    intro = (
        "<p>Nobody tells CRMA which domain a question belongs to. A router picks the adapter, and a question it does "
        "not recognise goes to the base model untouched, so what the base could do before stays as it was.</p>"
    )
    known = _table("The router, counted", ["", "measured"], rows)
    strangers = [_mapping(s) for s in _sequence(run.raw.get("strangers"))]
    if not strangers:
        return f"{intro}{known}<h3>Strangers</h3><p>{MISSING}</p>"
    lines = []
    for stranger in strangers:
        confidence, same = _number(stranger.get("confidence")), stranger.get("same_as_base")
        if "route" not in stranger:
            route = None
        elif stranger["route"] is None:
            route = _cell("untouched base", classes="good")
        else:
            route = _cell(f"{stranger['route']} (misrouted)", classes="bad")
        lines.append(
            (
                _quoted(stranger.get("question")),
                [
                    route,
                    _cell(_plain(confidence, 2)) if confidence is not None else None,
                    f'<td class="words" dir="auto">{_quoted(stranger.get("answer"))}</td>',
                    _cell("yes" if same else "no", classes="good" if same else "bad")
                    if isinstance(same, bool)
                    else None,
                ],
            )
        )
    head = ["question", "routed to", "confidence of the nearest domain", "answer", "same as the base's answer"]
    table = _table("Questions of no domain", head, lines, words=True)
    return f"{intro}{known}<h3>Strangers</h3>{table}"


def _gradients(run: _Run) -> str:
    steps = _mapping(run.raw.get("steps"))
    tables, figures = [], []
    for index, method in sorted(enumerate(run.methods), key=lambda m: m[1].key != CRMA):
        lines = [_mapping(line) for line in _sequence(steps.get(method.key))]
        if not lines:
            continue
        bands = _bands(lines)
        sides = [Trace(name=side, values=_column(lines, f"grad_{side}")) for side in ("adapter", "backbone")]
        sides = [side for side in sides if any(v is not None for v in side.values)]
        if sides:
            title = f"Gradient norm, {_and([side.name for side in sides])}, {method.short}"
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
            _cell(phase) if phase else None,
            _cell(str(len(part))),
            _cell(f"{_plain(loss[0], 3)} → {_plain(loss[-1], 3)}") if loss else None,
            *(_cell(f"{median(v):.3g}") if v else None for v in (adapter, backbone)),
            _cell(f"{median(speed):.0f}") if speed else None,
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
    return _table(f"The lessons of {method.short}, phase by phase", head, rows)


def _certificate(run: _Run) -> str:
    certificate = _mapping(run.raw.get("certificate"))
    holds = certificate.get("holds")
    if holds is True:
        verdict = '<p class="verdict good">✓ The bound holds at every site checked.</p>'
    elif holds is False:
        verdict = '<p class="verdict bad">✗ The bound does not hold. Nothing on this page that rests on it counts.</p>'
    else:
        verdict = f'<p class="verdict">The certificate: {MISSING}</p>'
    bound, worst = _number(certificate.get("norm_bound")), _number(certificate.get("worst_operator_norm"))
    rows = [
        ("‖M‖₂ is at most (float64, no SVD)", [_cell(f"{bound:.10g}") if bound is not None else None]),
        ("largest ‖B K A‖₂ found", [_cell(f"{worst:.6g}", bar=worst) if worst is not None else None]),
        ("sites checked", [_count_cell(_number(certificate.get("sites")))]),
    ]
    intro = (
        "<p>The shared backbone mixes directions with a doubly stochastic matrix M, so by Birkhoff’s theorem ‖M‖₂ ≤ 1, "
        "up to float32 rounding, whatever the data and the step. The frames around it are orthonormal, so the "
        "backbone’s own transformation B K A never lengthens a vector. The bound limits how strong the backbone can "
        "be; it does not by itself stop it from moving, which is why drift is measured above.</p>"
    )
    snapshots = [_mapping(s) for s in _sequence(run.raw.get("snapshots"))]
    lines = []
    for snapshot in snapshots:
        share, distance = _number(snapshot.get("share")), _number(snapshot.get("distance"))
        domain = _string(snapshot.get("domain"))
        lines.append(
            (
                escape(name) if (name := _string(snapshot.get("id"))) else MISSING,
                [
                    f'<td class="words">{escape(domain)}</td>' if domain else None,
                    _cell(percent(share), bar=share) if share is not None else None,
                    _cell(f"{distance:.4g}") if distance is not None else None,
                ],
            )
        )
    head = ["snapshot", "learnt", "share of the proposed move kept", "distance moved, relative to ‖W‖₂"]
    table = _table("Snapshots of the backbone", head, lines) if lines else f"<p>{MISSING}</p>"
    checked = _table("The certificate, in numbers", ["", "value"], rows)
    moved = (
        "<p>After each lesson the backbone moves by the largest share of its proposed move that makes no earlier "
        "domain worse on its validation questions.</p>"
    )
    return f"{intro}{verdict}{checked}<h3>Snapshots</h3>{moved}{table}"


def _made(run: _Run) -> str:
    rows: list[tuple[str, list[str | None]]] = []
    for method in run.methods:
        exact = _cell(percent(method.final), bar=method.final) if method.final is not None else None
        seconds = _cell(text) if (text := _duration(method.seconds)) else None
        rows.append((escape(method.label), [_count_cell(method.trained), seconds, exact]))
    methods = _table("The methods", ["method", "numbers trained", "time", "exact at the end"], rows) if rows else ""
    known = [
        ("base model", run.base),
        ("made", _string(run.raw.get("made"))),
        ("time in all", _duration(_number(run.raw.get("seconds")))),
        ("domains, in order", ", ".join(run.domains) or None),
        ("questions a domain", str(run.questions) if run.questions is not None else None),
    ]
    facts: list[tuple[str, list[str | None]]] = [(name, [_words_cell(value)]) for name, value in known]
    for section in ("machine", "config"):
        found = _flat(_mapping(run.raw.get(section)))
        facts += [(f"{section}: {escape(key)}", [_words_cell(value)]) for key, value in found]
    notes = [n for n in _sequence(run.raw.get("notes")) if _string(n)]
    told = "".join(f'<li dir="auto">{escape(n)}</li>' for n in notes)
    remarks = f"<h3>What to know, and what did not work</h3><ul>{told}</ul>" if notes else ""
    return methods + _table("The run", ["", "value"], facts, words=True) + remarks


def _data(run: _Run) -> str:
    kept = ", ".join(sorted(str(k) for k in run.raw)) or "nothing"
    return (
        "<p>The whole result this page was made from is inside it, as JSON, in the element <code>#result</code>. "
        f"It holds: {escape(kept)}. In the browser’s console: "
        "<code>JSON.parse(document.getElementById('result').textContent)</code></p>"
    )


# --- pieces of HTML --------------------------------------------------------------------------------------------------


def _table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str | None]]],
    *,
    groups: Sequence[tuple[str, int]] = (),
    words: bool = False,
) -> str:
    """A table that scrolls by itself on a narrow screen.

    rows: a row's name as HTML, then its cells as `<td>`s, None where not measured.
    groups: a title over so many columns each, the first column apart.
    """
    over = "".join(f'<th scope="colgroup" colspan="{n}">{escape(title)}</th>' for title, n in groups)
    top = f"<tr><td></td>{over}</tr>" if over else ""
    top += "<tr>" + "".join(f'<th scope="col">{escape(h)}</th>' if h else "<td></td>" for h in head) + "</tr>"
    body = "".join(
        f'<tr><th scope="row" dir="auto">{name}</th>'
        + "".join(cell if cell is not None else f"<td>{MISSING}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows
    )
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table{kind}>'
        f"<caption>{escape(caption)}</caption><thead>{top}</thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: str, *, classes: str = "", bar: float | None = None) -> str:
    """`bar`: a share to show as the length of a tint behind the number."""
    names = " ".join(n for n in (classes, "bar" if bar is not None else "") if n)
    style = f' style="--v:{100 * min(max(bar, 0.0), 1.0):.1f}%"' if bar is not None else ""
    kind = f' class="{names}"' if names else ""
    return f"<td{kind}{style}>{escape(text)}</td>"


def _words_cell(value: str | None) -> str | None:
    return f'<td class="words" dir="auto">{escape(value)}</td>' if value else None


def _count_cell(value: float | None) -> str | None:
    return _cell(f"{value:,.0f}") if value is not None else None


def _quoted(value: object) -> str:
    if not isinstance(value, str):
        return MISSING
    if not value.strip():
        return '<span class="missing">(an empty answer)</span>'
    shown = value if len(value) <= _SHOWN_TEXT else value[:_SHOWN_TEXT] + " …"
    return f"<q>{escape(shown)}</q>"


def _embedded(result: Mapping[str, Any]) -> str:
    """JSON that no HTML parser can leave: '<', '>' and '&' are written as escapes, all else outside ASCII too."""
    text = json.dumps(_finite(result), ensure_ascii=True, allow_nan=False, default=str, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: what is not finite was not measured."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- reading the result ----------------------------------------------------------------------------------------------


def _read(result: Mapping[str, Any]) -> _Run:
    domains = tuple(str(d) for d in _sequence(result.get("domains")))
    methods = []
    for key, value in _mapping(result.get("methods")).items():
        raw = _mapping(value)
        label = _string(raw.get("label")) or str(key)
        drift = [_number(v) for v in _sequence(raw.get("drift_pct"))]
        methods.append(
            _Method(
                key=str(key),
                label=label,
                short="CRMA" if key == CRMA else label.split(":")[0].strip() or str(key),
                exact=_matrix(raw.get("exact"), len(domains)),
                loss=_matrix(raw.get("loss"), len(domains)),
                drift=tuple(drift[i] if i < len(drift) else None for i in range(len(domains))),
                seconds=_number(raw.get("seconds")),
                trained=_number(raw.get("trained_parameters")),
            )
        )
    questions = _number(result.get("questions_per_domain"))
    return _Run(
        title=_string(result.get("title")) or "CRMA demo",
        base=_string(result.get("base")),
        domains=domains,
        questions=round(questions) if questions is not None else None,
        methods=tuple(methods),
        raw=result,
    )


def _matrix(value: object, count: int) -> tuple[tuple[float | None, ...], ...]:
    """[1 + count][count], None where `value` has no number."""
    rows = [_sequence(row) for row in _sequence(value)]
    return tuple(
        tuple(_number(rows[t][i]) if t < len(rows) and i < len(rows[t]) else None for i in range(count))
        for t in range(count + 1)
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


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
    return tuple(_number(line.get(key)) for line in lines)


def _stretches(
    lines: Sequence[Mapping[str, Any]],
) -> list[tuple[str | None, str | None, list[Mapping[str, Any]]]]:
    """Neighbouring steps of one domain and one phase."""
    found: list[tuple[str | None, str | None, list[Mapping[str, Any]]]] = []
    for line in lines:
        domain, phase = _string(line.get("domain")), _string(line.get("phase"))
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


def _difference(a: float, b: float, count: int | None) -> tuple[float, float]:
    """A 95 % interval for the share a minus the share b, of `count` answers each."""
    if not count:
        return a - b, a - b
    (low_a, high_a), (low_b, high_b) = _wilson(a, count), _wilson(b, count)
    return (
        a - b - math.hypot(a - low_a, high_b - b),
        a - b + math.hypot(high_a - a, b - low_b),
    )


def _wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(max(0.0, share * (1 - share)) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def _plain(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits < 2 else text


def _signed(value: float) -> str:
    text = f"{value:+.1f}".removesuffix(".0")
    return "0" if text in ("+0", "-0") else text.replace("-", "−")


def _share(value: object) -> str | None:
    number = _number(value)
    return percent(number) if number is not None else None


def _holds(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 120:
        return f"{_plain(seconds, 1)} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60} s"


def _count(count: float | None, noun: str) -> str:
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""


def _variables(colours: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


_SANS = 'system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif'
_STYLE = (
    f":root{{color-scheme:light dark;--sans:{_SANS};{_variables(LIGHT)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    + chart_style()
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:17px/1.55 var(--sans)}
svg text{font-family:var(--sans)}
header,main,footer{max-width:1080px;margin:0 auto;padding:0 20px}
header{padding-top:48px}
.eyebrow{margin:0 0 12px;color:var(--accent);font-weight:600;font-size:15px}
h1{margin:0;font-size:clamp(25px,4.4vw,40px);line-height:1.2;font-weight:650;letter-spacing:-.015em}
h1,h2,.lead{text-wrap:pretty;overflow-wrap:break-word}
.lead{margin:18px 0 0;max-width:72ch;color:var(--muted);font-size:clamp(16px,2.2vw,19px)}
h2{margin:0 0 10px;font-size:26px;line-height:1.25;letter-spacing:-.01em}
h3{margin:28px 0 8px;font-size:18px;line-height:1.4}
section{margin:64px 0 0;scroll-margin-top:16px}
section>p{max-width:72ch}
p,li,dd,h3,figcaption{overflow-wrap:anywhere}
a{color:var(--accent)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
code{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
code{background:var(--shade);padding:2px 5px;border-radius:4px}
.skip{position:absolute;left:-9999px}
.skip:focus{left:12px;top:12px;background:var(--card);padding:8px 12px;border-radius:6px}
.missing{color:var(--muted);font-style:italic;font-weight:400}
.good{color:var(--good)}
.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,168px),1fr));gap:12px;margin:34px 0 0}
.tiles>div,figure,.card,.scroll{background:var(--card);border:1px solid var(--grid);border-radius:12px}
.tiles>div{padding:14px 16px;display:flex;flex-direction:column;justify-content:space-between;min-width:0}
.tiles dt{color:var(--muted);font-size:14px;line-height:1.35}
.tiles dd{margin:8px 0 0;font-size:27px;font-weight:650;line-height:1.2;font-variant-numeric:tabular-nums}
.tiles dd .missing{font-size:17px}
.tiles small{display:block;margin-top:3px;color:var(--muted);font-size:13px;font-weight:400;line-height:1.35}
nav ol{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:26px 0 0;font-size:15px}
nav a{display:inline-block;padding:4px 0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:18px;margin-top:18px}
.cards{grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr))}
figure,.card{margin:0;padding:18px;min-width:0}
figcaption{font-weight:600;line-height:1.4;margin-bottom:10px}
figure svg{display:block;width:100%;max-width:500px;height:auto;margin:0 auto}
figure .scroll{margin:12px 0 0;border:0;border-top:1px solid var(--grid);border-radius:0}
.scroll{overflow-x:auto;margin:18px 0 0}
table{border-collapse:collapse;width:100%;font-size:15px;line-height:1.4;font-variant-numeric:tabular-nums}
caption{text-align:start;padding:12px 14px 6px;color:var(--muted);font-size:14px}
th,td{padding:8px 14px;text-align:end;border-top:1px solid var(--grid);vertical-align:top}
thead th,thead td{border-top:0;color:var(--muted);font-weight:600;font-size:13.5px;vertical-align:bottom}
th[scope=colgroup]{text-align:center;color:var(--ink);border-inline-start:1px solid var(--grid)}
th:first-child{text-align:start}
tbody th{font-weight:500}
td.words,table.words td{text-align:start;overflow-wrap:anywhere}
table.words thead th{text-align:start}
table.words th,td.words{min-width:8.5em}
td.bar{background:linear-gradient(to right,var(--shade) var(--v),transparent var(--v))}
td.early{color:var(--muted)}
.tag{margin:0 0 6px;color:var(--accent);font-weight:600;font-size:14px}
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
details{margin-top:18px}
summary{cursor:pointer;font-weight:600;color:var(--accent)}
footer{margin-top:72px;padding-bottom:48px;color:var(--muted);font-size:14.5px}
footer p{border-top:1px solid var(--grid);padding-top:18px}
@media (max-width:520px){
body{font-size:16px}
header{padding-top:30px}
section{margin-top:48px}
header,main,footer{padding-inline:14px}
.card{padding:14px}
figure{padding:12px 10px}
th,td{padding:7px 10px}
.tiles{grid-template-columns:1fr 1fr}
}
@media print{
@page{margin:16mm}
body{background:none;font-size:10.5pt}
header,main,footer{max-width:none;padding:0}
nav,.skip{display:none}
section{margin-top:26pt}
h2,h3,figcaption,caption{break-after:avoid}
figure,.card,tr,.tiles>div{break-inside:avoid}
.scroll{overflow:visible}
.grid{grid-template-columns:1fr 1fr}
details::details-content{content-visibility:visible;block-size:auto}
.c-shade,td.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""
)
