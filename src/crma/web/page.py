"""What every page has: the document, its style, its tables, and the numbers and words in them.

A page is one file with nothing to fetch and nothing to run. A content security policy of 'none' stands in it, so a
browser refuses any request that could slip in with a text. What a page was made from is inside it as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crma.web.svg import DARK, LIGHT, chart_style, escape

__all__ = [
    "MISSING",
    "Section",
    "Tile",
    "cell",
    "count_cell",
    "count_of",
    "decimal",
    "duration",
    "joined",
    "mapping_of",
    "number_of",
    "render_page",
    "sequence_of",
    "string_of",
    "table_of",
    "tiles_of",
    "variables",
    "words_cell",
]

MISSING = '<span class="missing">not measured</span>'


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    key: str  # its id
    title: str
    body: str  # HTML


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    name: str
    value: str | None  # None: not measured
    note: str


def render_page(
    *,
    title: str,
    eyebrow: str,
    headline: str,
    detail: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    footer: str,
    result: Mapping[str, Any],
    style: str = "",
) -> str:
    """The whole document.

    Args:
        title: the window's.
        eyebrow: above the headline.
        footer: HTML.
        result: what the page was made from; it stands in the element #result.
        style: rules of this page alone.
    """
    links = "".join(f'<li><a href="#{s.key}">{s.title}</a></li>' for s in sections)
    main = "".join(
        f'<section id="{s.key}" aria-labelledby="{s.key}-h"><h2 id="{s.key}-h">{s.title}</h2>{s.body}</section>'
        for s in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<meta name="description" content="{escape(headline)}">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f"<style>{_BEFORE}{style}{_AFTER}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#{sections[0].key}">Skip to the results</a>\n'
        f'<header><p class="eyebrow">{escape(eyebrow)}</p><h1>{escape(headline)}</h1>'
        f'<p class="lead">{escape(detail)}</p>{tiles_of(tiles)}'
        f'<nav aria-label="On this page"><ol>{links}</ol></nav></header>\n<main>{main}</main>\n'
        f"<footer><p>{footer}</p></footer>\n"
        f'<script type="application/json" id="result">{_embedded(result)}</script>\n</body>\n</html>\n'
    )


def tiles_of(tiles: Sequence[Tile]) -> str:
    cells = "".join(
        f"<div><dt>{escape(t.name)}</dt><dd>{escape(t.value) if t.value is not None else MISSING}"
        f"<small>{escape(t.note)}</small></dd></div>"
        for t in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def table_of(
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


def cell(text: str, *, classes: str = "", bar: float | None = None) -> str:
    """`bar`: a share to show as the length of a tint behind the number."""
    names = " ".join(n for n in (classes, "bar" if bar is not None else "") if n)
    style = f' style="--v:{100 * min(max(bar, 0.0), 1.0):.1f}%"' if bar is not None else ""
    kind = f' class="{names}"' if names else ""
    return f"<td{kind}{style}>{escape(text)}</td>"


def words_cell(value: str | None) -> str | None:
    return f'<td class="words" dir="auto">{escape(value)}</td>' if value else None


def count_cell(value: float | None) -> str | None:
    return cell(f"{value:,.0f}") if value is not None else None


def _embedded(result: Mapping[str, Any]) -> str:
    """JSON that no HTML parser can leave: '<', '>' and '&' are written as escapes, all else outside ASCII too."""
    text = json.dumps(_finite(result), ensure_ascii=True, allow_nan=False, default=str, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: what is not finite was not measured; nor was a whole number past any float."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, int | float) and not _is_finite(value) else value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def mapping_of(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def sequence_of(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def string_of(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def number_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        return None
    return value


def decimal(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits < 2 else text


def duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 120:
        return f"{decimal(seconds, 1)} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60} s"


def count_of(count: float | None, noun: str) -> str:
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""


def variables(colours: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


_SANS = 'system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif'
_BEFORE = (
    f":root{{color-scheme:light dark;--sans:{_SANS};{variables(LIGHT)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
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
"""
)
_AFTER = """details{margin-top:18px}
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
