from __future__ import annotations

import copy
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crma.web.report import render_picture, render_report, summary

VOID = {"meta", "link"}
Result = dict[str, Any]


class Page(HTMLParser):
    """What a reader and a browser find: the tags in order, their attributes, texts, tables; tags must balance."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self.script = ""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.script += data
        elif "style" not in self._open:
            self.text += data
            if "caption" in self._open:
                self._caption += data
            elif "table" in self._open:
                self._rows[-1][-1] += data


def figures(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)


def test_the_page_is_whole_and_its_pictures_are_xml(result: Result) -> None:
    page = render_report(result)
    found = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert found.tags.count("h1") == found.tags.count("main") == 1
    assert len(figures(page)) == 6  # two of curves, two of losses, two of gradients
    for svg in [*figures(page), render_picture(result)]:
        root = ET.fromstring(svg)
        named = root.attrib["aria-labelledby"].split()
        assert [e.attrib.get("id") for e in root[:2]] == named
        assert all(e.text for e in root[:2])
    identities = [value for _, name, value in found.attributes if name == "id"]
    assert len(identities) == len(set(identities))
    targets = {value[1:] for _, name, value in found.attributes if name == "href" and value.startswith("#")}
    assert targets <= set(identities)
    assert {v for tag, name, v in found.attributes if tag == "th" and name == "scope"} == {"col", "row", "colgroup"}
    assert found.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in found.attributes)


def test_nothing_is_fetched_and_nothing_runs(result: Result) -> None:
    page = render_report(result)
    found = Page(page)
    links = [
        (tag, value) for tag, name, value in found.attributes if name in ("href", "src", "srcset", "action", "data")
    ]
    assert all(
        tag == "a" and v.startswith("https://arxiv.org/abs/") for tag, v in links if v[0] != "#" and v != "data:,"
    )
    assert not re.search(r"@import|url\(|<(img|iframe|object|embed|base|form)\b", page)
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert [value for tag, name, value in found.attributes if tag == "script" and name == "type"] == [
        "application/json"
    ]
    assert found.tags.count("script") == 1
    (policy,) = (value for tag, _, value in found.attributes if tag == "meta" and value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    picture = render_picture(result).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|href|url\(|@import|<script|<foreignObject", picture)


def test_the_exact_table_holds_the_numbers_given(result: Result) -> None:
    tables = Page(render_report(result)).tables
    for method, caption in [("naive", "one LoRA, trained on and on"), ("crma", "CRMA")]:
        rows = tables[f"Share answered exactly, {caption}"]
        assert rows[0] == ["asked", "medicine", "law", "finance"]
        shown = [[float(cell.removesuffix(" %")) / 100 for cell in row[1:]] for row in rows[1:]]
        for given_row, shown_row in zip(result["methods"][method]["exact"], shown, strict=True):
            assert shown_row == pytest.approx(given_row, abs=0.0005001)


def test_the_drift_table_holds_the_numbers_given(result: Result) -> None:
    (rows,) = [t for caption, t in Page(render_report(result)).tables.items() if caption.startswith("Loss in nats")]
    assert rows[0] == ["", "one LoRA, trained on and on", "CRMA"]
    assert rows[2] == ["medicine", "0.210", "1.900", "+804.8 % ▲ worse", "0.190", "0.187", "−1.6 % ▼ better"]
    assert rows[3][3::3] == ["+500 % ▲ worse", "+2.4 % ▲ worse"]
    assert rows[4] == ["finance", "0.180", "0.180", "0 %", "0.170", "0.170", "0 %"]
    assert rows[5][3::3] == ["+652.4 % ▲ worse", "+0.4 % ▲ worse"]  # (804.8 + 500) / 2, (−1.6 + 2.4) / 2


def test_the_other_numbers_are_shown_too(result: Result) -> None:
    found = Page(render_report(result))
    for text in (
        "1.00000003",
        "0.8712",
        "98.6 %",
        "2,954,880",
        "2,954,881",
        "2 min 50 s",
        "50.1 s",
        "machine: cpu.cores",
    ):
        assert text in found.text, text
    assert ["v0002", "law", "25 %", "not measured"] in found.tables["Snapshots of the backbone"]
    lessons = found.tables["The lessons of CRMA, phase by phase"]
    assert lessons[1] == ["medicine", "propose", "4", "3.000 → 2.700", "0.375", "0.0417", "302"]
    assert lessons[2][1:6] == ["commit", "4", "3.000 → 2.700", "0.375", "not measured"]
    strangers = found.tables["Questions of no domain"]
    assert strangers[1] == ["How is bread baked?", "untouched base", "0.10", "Mix", "yes"]
    assert strangers[2] == ["A haiku?", "law (misrouted)", "0.93", "Act", "no"]
    assert "Right among the questions shown here: the untouched base 0 of 3" in found.text


def ending(result: Result, naive: float, crma: float) -> tuple[str, str]:
    changed = copy.deepcopy(result)
    for method, share in (("naive", naive), ("crma", crma)):
        changed["methods"][method]["exact"][-1] = [share] * 3
    return summary(changed)


def test_the_sentence_when_crma_is_better(result: Result) -> None:
    assert ending(result, 0.5, 0.9)[0] == (
        "After learning medicine, law and finance one after another, CRMA answers 90 % of unseen paraphrases exactly; "
        "one LoRA, trained on and on: 50 %."
    )


def test_the_sentence_when_crma_is_worse(result: Result) -> None:
    headline, _ = ending(result, 0.9, 0.5)
    assert headline.endswith(
        "CRMA answers 50 % of unseen paraphrases exactly, fewer than the 90 % of one LoRA, trained on and on."
    )


def test_the_sentence_when_they_tie_or_nearly(result: Result) -> None:
    assert ending(result, 0.9, 0.9)[0].endswith("exactly, a tie with one LoRA, trained on and on.")
    near, _ = ending(result, 0.875, 0.9167)
    assert near.endswith("too close to call against the 87.5 % of one LoRA, trained on and on (72 questions).")
    del result["questions_per_domain"]
    assert "too close" not in ending(result, 0.875, 0.9167)[0]


def test_the_sentence_about_what_was_lost(result: Result) -> None:
    # naive: (0.875 − 0.125 + 0.9375 − 0.375) / 2; crma: (0 + 0.9583 − 0.9167) / 2
    assert summary(result)[1].endswith(
        "one LoRA, trained on and on: 65.6 percentage points; CRMA: 2.1 percentage points."
    )
    result["methods"]["crma"]["exact"][-1][:2] = [1.0, 1.0]
    assert summary(result)[1].endswith("CRMA: none, 4.2 percentage points gained.")


def test_a_bound_that_does_not_hold_is_said_plainly(result: Result) -> None:
    result["certificate"]["holds"] = False
    text = Page(render_report(result)).text
    assert "✗ The bound does not hold." in text
    assert "The bound holds" not in text


def test_what_was_not_measured_is_never_a_number(result: Result) -> None:
    crma = result["methods"]["crma"]
    crma["exact"][-1] = [0.9, None, math.nan]
    crma["drift_pct"] = [1.0]
    result["routing"] = {"accuracy": None}
    result["certificate"] = {}
    found = Page(render_report(result))
    assert found.tables["Share answered exactly, CRMA"][-1] == ["after finance", "90 %", "not measured", "not measured"]
    assert summary(result)[0].endswith(
        "one LoRA, trained on and on answers 50 % of unseen paraphrases exactly; CRMA was not measured."
    )
    assert found.tables["The certificate, in numbers"][1][1] == "not measured"
    assert found.tables["The router, counted"][1][1] == "not measured"
    assert not re.search(r"\b(nan|inf)\b", found.text, flags=re.IGNORECASE)


@pytest.mark.parametrize(
    "kept", [(), ("domains",), ("methods",), ("domains", "methods"), ("samples", "steps", "strangers")]
)
def test_a_poor_result_still_makes_a_page(result: Result, kept: tuple[str, ...]) -> None:
    poor = {key: result[key] for key in kept}
    assert "not measured" in Page(render_report(poor)).text
    ET.fromstring(render_picture(poor))


def test_only_one_method_is_compared_with_nothing(result: Result) -> None:
    del result["methods"]["naive"]
    assert "nothing measured to compare it with" in summary(result)[0]
    assert ET.fromstring(render_picture(result)) is not None


def test_eight_domains_and_three_methods_fit(result: Result) -> None:
    names = [f"speciality-number-{i}" for i in range(8)]
    matrix = [[0.5] * 8 for _ in range(9)]
    methods = {
        k: {"label": k, "exact": matrix, "loss": matrix, "drift_pct": [0.0] * 8} for k in ("naive", "frozen", "crma")
    }
    page = render_report({**result, "domains": names, "methods": methods})
    assert len(Page(page).tables["Share answered exactly, frozen"]) == 10
    assert [ET.fromstring(svg).tag for svg in figures(page)]


def test_the_whole_result_is_in_the_page(result: Result) -> None:
    assert json.loads(Page(render_report(result)).script) == result


def test_a_wrong_route_is_pointed_out(result: Result) -> None:
    assert "not its domain" not in Page(render_report(result)).text
    result["samples"][0]["route"] = "law"
    assert "routed to: law, not its domain" in Page(render_report(result)).text


def test_more_samples_than_a_screen_holds_stay_folded(result: Result) -> None:
    result["samples"] *= 7
    found = Page(render_report(result))
    assert found.tags.count("article") == 21
    assert "9 more questions" in found.text


HOSTILE = st.text(max_size=40) | st.sampled_from(
    [
        "</script><script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='alert(1)",
        "]]><!--",
        "<!-- <script>",
        "&lt;b&gt;",
        "<q><script>1</script></q>",
        "\ud800\x00\x0b\ufffe",
        "\u202e\u2028</style>",
    ]
)


def disguised(result: Result, text: str) -> Result:
    """`result` with `text` wherever a text may stand, names of keys included."""

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {(k + text if k == "naive" else k): change(v) for k, v in value.items()}
        if isinstance(value, list):
            return [change(v) for v in value]
        return value + text if isinstance(value, str) else value

    changed = change(result)
    changed["machine"] = {f"k{text}": f"v{text}"}
    changed[f"more{text}"] = None
    return changed


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HOSTILE)
@example("</script><script>alert(1)</script>")
@example('"><img src=x onerror=alert(1)>')
@example("<q><script>1</script></q>")
@example("\ud800\x00\x0b\ufffe")
def test_no_text_becomes_markup(result: Result, text: str) -> None:
    hostile = disguised(result, text)
    page = render_report(hostile)
    found = Page(page)
    page.encode("utf-8")
    innocent = Page(render_report(disguised(result, "a")))
    assert set(found.tags) <= set(innocent.tags)
    assert {(tag, name) for tag, name, _ in found.attributes} <= {(t, n) for t, n, _ in innocent.attributes}
    for tag in ("script", "style", "a", "article", "section", "table", "td", "th", "svg", "q", "li"):
        assert found.tags.count(tag) == innocent.tags.count(tag), tag
    assert json.loads(found.script) == hostile
    for svg in [*figures(page), render_picture(hostile)]:
        ET.fromstring(svg)
    shown = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", f"oshen bark{text}")
    assert shown.replace("\r\n", "\n").replace("\r", "\n") in found.text.replace("\r\n", "\n").replace("\r", "\n")
