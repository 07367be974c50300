from __future__ import annotations

import base64
import copy
import itertools
import json
import math
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from web.quality_report import quality_report
from web.test_charts import DEUTAN, PROTAN, assert_readable, lab, linear, luminance
from web.test_report import HOSTILE, Page, figures

from crma.data.quality.findings import CHECKS, Finding, Report
from crma.web.bars import Bar, Histogram, amount, bar_chart, histogram_chart
from crma.web.page import Section, render_page
from crma.web.quality_page import SEVERITY_DARK, SEVERITY_LIGHT, render_quality
from crma.web.svg import DARK, LIGHT

Json = dict[str, Any]


def headline(report: Mapping[str, Any]) -> str:
    (found,) = re.findall(r"<h1>(.*?)</h1>", render_quality(report))
    return found


def bare(*findings: Json, **more: Any) -> Json:
    return {"rows": 2000, "files": [{"name": "a.jsonl", "rows": 2000}], "findings": list(findings), **more}


def finding(check: str, severity: str, lines: list[int], file: str = "a.jsonl", **more: Any) -> Json:
    return {"check": check, "severity": severity, "count": len(lines), "lines": lines, "file": file, **more}


# --- the page as a document ---


def test_the_page_is_whole_and_its_pictures_are_xml() -> None:
    page = render_quality(quality_report())
    found = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert found.tags.count("h1") == found.tags.count("main") == 1
    assert len(figures(page)) == 5  # findings, two of lengths, languages, overlap
    for svg in figures(page):
        root = ET.fromstring(svg)
        assert [e.attrib.get("id") for e in root[:2]] == root.attrib["aria-labelledby"].split()
        assert all(e.text for e in root[:2])
        assert_readable(svg)
    identities = [value for _, name, value in found.attributes if name == "id"]
    assert len(identities) == len(set(identities))
    targets = {value[1:] for _, name, value in found.attributes if name == "href" and value.startswith("#")}
    assert targets <= set(identities)
    named = {word for _, name, value in found.attributes if name == "aria-labelledby" for word in value.split()}
    assert named <= set(identities)
    assert found.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in found.attributes)


def test_nothing_is_fetched_and_nothing_runs() -> None:
    page = render_quality(quality_report())
    found = Page(page)
    links = [v for _, name, v in found.attributes if name in ("href", "src", "srcset", "action", "data", "xlink:href")]
    assert all(v[0] == "#" or v == "data:," for v in links)
    assert not re.search(r"@import|url\(|<(img|iframe|object|embed|base|form)\b", page)
    assert "http" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "").replace("http-equiv", "")
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert found.tags.count("script") == 1
    (policy,) = (value for tag, _, value in found.attributes if tag == "meta" and value.startswith("default-src"))
    assert policy.startswith("default-src 'none';")


def test_the_whole_report_is_in_the_page() -> None:
    report = quality_report()
    assert json.loads(Page(render_quality(report)).script) == report


# --- the verdict in words ---


def test_errors_are_counted_by_rows_not_by_faults() -> None:
    rows = [
        finding("secret", "error", [1, 2, 3]),
        finding("pii_card", "error", [3, 4]),
        finding("secret", "error", [3], file="b.jsonl"),
    ]
    assert headline(bare(*rows)) == "Not ready to train on: 2 kinds of errors in 5 of 2,000 rows"
    assert headline(bare(finding("secret", "error", [9]))) == (
        "Not ready to train on: 1 kind of error in 1 of 2,000 rows"
    )


def test_rows_that_cannot_be_read_are_rows_too() -> None:
    report = bare(finding("schema", "error", [7, 9]))
    assert headline(report).endswith("in 2 of 2,002 rows")
    report["files"][0]["faulty"] = 2
    assert headline(report).endswith("in 2 of 2,002 rows")


def test_a_number_of_rows_that_is_not_sure_is_a_least_one() -> None:
    many = {**finding("secret", "error", [1, 2]), "count": 40}
    assert headline(bare(many)).endswith("1 kind of error in 40 of 2,000 rows")
    assert headline(bare(many, finding("pii_iban", "error", [5]))).endswith("in at least 40 of 2,000 rows")


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (bare(*(finding(f"w{i}", "warning", [i]) for i in range(5))), "Ready, with 5 warnings"),
        (bare(finding("w", "warning", [1])), "Ready, with 1 warning"),
        (bare(finding("i", "info", [1]), finding("j", "info", [1])), "Ready, with 2 remarks"),
        (bare(), "Nothing found"),
        (bare(verdict="fail"), "Not ready to train on"),
        (bare(finding("s", "error", [1]), verdict="pass"), "Not ready to train on: 1 kind of error in 1 of 2,000 rows"),
        ({"rows": 0}, "Nothing was checked"),
        ({}, "Nothing was checked"),
    ],
)
def test_the_verdict_in_words(report: Json, said: str) -> None:
    assert headline(report) == said


def test_what_the_verdict_rests_on() -> None:
    text = Page(render_quality(quality_report())).text
    assert "Checked: 482 rows in 2 files, in 3.4 s. Besides, 3 warnings in" in text
    assert "2 things were not checked or measured" in text
    quiet = Page(render_quality(bare(skipped={"hard": "none were to be scored"}))).text
    assert "1 thing was not checked or measured" in quiet
    assert "Whether an answer is true, no check knows." in quiet
    assert "There is nothing to repair." in quiet


# --- what it tells ---


def test_every_check_is_told_with_its_words() -> None:
    findings = tuple(
        Finding(check=name, severity=check.severity, count=2, lines=(3, 8), file="a.jsonl")
        for name, check in CHECKS.items()
    )
    report = Report(files=({"name": "a.jsonl", "bytes": 1, "rows": 50},), rows=50, findings=findings)
    page = render_quality(report.to_json())
    found = Page(page)
    assert found.tags.count("article") == len(CHECKS)
    shown = found.text.lower()
    for name, check in CHECKS.items():
        for text in (name, check.title, check.why, check.advice):
            assert text.lower() in shown, text
    (command,) = re.findall(r'<p class="command"><code>(.*?)</code>', page)
    assert Page(command).text == (
        "crma data clean FILE -o OUT --held-out HELD-OUT-FILE --stack STACK --benchmarks FOLDER"
    )
    for svg in figures(page):
        assert_readable(svg)


def test_a_check_has_one_card_for_all_files() -> None:
    found = Page(render_quality(quality_report()))
    assert found.tags.count("article") == 8
    assert "11 rows, 2.3 % of 482" in found.text
    assert "train.jsonl, 10 rows" in found.text
    assert "test.jsonl, 1 row" in found.text
    assert "7 rows of the 128 that were drawn" in found.text


def test_the_first_lines_are_told_and_how_many_more() -> None:
    text = Page(render_quality(bare(finding("x", "warning", list(range(1, 101)))))).text
    assert "Lines 1, 2, 3, " in text
    assert ", 30 and 70 more" in text
    assert "31," not in text
    assert "Line 5" in Page(render_quality(bare(finding("x", "warning", [5])))).text
    assert "Rows 5, 6" in Page(render_quality(bare(finding("x", "warning", [5, 6], file="a.parquet")))).text


def test_many_files_of_one_check_are_summed_up() -> None:
    report = bare(*(finding("x", "warning", [1], file=f"{i:03}.jsonl") for i in range(300)))
    report["files"] = [{"name": f"{i:03}.jsonl", "bytes": 9, "rows": 7} for i in range(300)]
    text = Page(render_quality(report)).text
    assert "and 288 rows in 288 more files" in text
    assert "300 rows, 15 % of 2,000" in text
    assert "and 200 more files" in text


def test_the_page_says_what_clean_does() -> None:
    text = Page(render_quality(quality_report())).text
    for part in ("crma data clean FILE -o OUT --held-out HELD-OUT-FILE", "Rows it leaves out", "Rows it edits"):
        assert part in text
    assert "Left to you" in text
    unsure = Page(render_quality(bare(finding("language", "info", [1], repair="look")))).text
    assert "Nothing here is repaired by itself." in unsure
    assert "crma data clean FILE" not in unsure


def test_the_facts_are_told() -> None:
    found = Page(render_quality(quality_report()))
    training = dict(found.tables["Tokens and training, in numbers"])
    assert training["tokens in all"] == "31,204"
    assert training["training takes about"] == "23 min"
    assert training["peak memory"] == "1.8 GiB"
    copies = dict(found.tables["Copies among the rows"])
    assert copies["rows nearly the same as another (at least 80 % alike)"] == "63"
    assert found.tables["Questions, tokens"][5] == ["4–5", "6"]
    assert sum(int(row[1]) for row in found.tables["Answers, tokens"][1:]) == 480
    assert ["leak_benchmark", "no folder of benchmarks"] in found.tables["Not checked or measured, and why"]
    assert found.tables["Files"][1] == ["train.jsonl", "311 KiB", "418", "2", "train"]
    assert ["scores.loss.median", "2.31"] in found.tables["Measured besides"]
    assert "German (de)" in found.text


@pytest.mark.parametrize("name", ["lengths", "languages", "tokens", "training", "duplicates", "overlap", "scores"])
@pytest.mark.parametrize("value", [None, "gone", 3, [], {}, {"x": {"y": None}}, [[1]]])
def test_a_fact_may_be_missing_or_odd(name: str, value: object) -> None:
    report = quality_report()
    report["facts"][name] = value
    Page(render_quality(report))
    del report["facts"][name]
    text = Page(render_quality(report)).text
    if name == "training":
        assert "Training time" not in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


@pytest.mark.parametrize(
    "histogram",
    [
        {"edges": [0, 1], "counts": [1, 2]},
        {"edges": [0, 2, 1], "counts": [1, 2]},
        {"edges": [0, math.nan, 1], "counts": [1, 2]},
        {"edges": [0, 1, 2], "counts": [1, -2]},
        {"edges": [], "counts": []},
    ],
)
def test_a_histogram_that_is_none_is_left_out(histogram: Json) -> None:
    page = render_quality(bare(facts={"lengths": {"unit": "tokens", "prompt": histogram}}))
    assert not figures(page)


@pytest.mark.parametrize("key", sorted(quality_report()))
def test_a_report_may_lack_anything(key: str) -> None:
    report = quality_report()
    del report[key]
    Page(render_quality(report))
    report[key] = "odd"
    Page(render_quality(report))


def test_big_numbers_stay_short() -> None:
    report = quality_report()
    report["rows"] = 10**18
    report["seconds"] = 1e300
    report["files"][0] |= {"bytes": 10**30, "rows": 10**400}
    report["findings"][0] |= {"count": 10**15, "lines": [10**300, 2]}
    report["facts"]["tokens"] |= {"total": 12_345_678_901, "supervised": 10**400}
    report["facts"]["training"] |= {"seconds": 9e9, "peak_bytes": 1e300}
    report["facts"]["languages"] |= {"en": 10**17}
    report["facts"]["lengths"]["prompt"]["counts"][3] = 10**200
    page = render_quality(report)
    found = Page(page)
    assert "12.3 B" in found.text
    for svg in figures(page):
        assert_readable(svg)
    shown = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert max(map(len, re.findall(r"[\d,.]+", shown))) <= len("999,999,999,999")


def test_a_million_lines_do_not_make_a_page_of_megabytes() -> None:
    page = render_quality(bare(finding("x", "warning", list(range(1, 1_000_001)))))
    assert len(page) < 100_000
    found = Page(page)
    assert len(json.loads(found.script)["findings"][0]["lines"]) == 2000
    assert "the first 2,000 line numbers" in found.text


# --- hostile text ---


def disguised(report: Json, text: str) -> Json:
    """`report` with `text` behind every text in it, keys of facts and of skipped checks included."""

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: change(v) for k, v in value.items()}
        if isinstance(value, list):
            return [change(v) for v in value]
        return value + text if isinstance(value, str) else value

    changed = change(report)
    for one in changed["findings"]:
        one |= {key: one[key].removesuffix(text) for key in ("severity", "repair")}
    for key in ("languages", "overlap"):
        changed["facts"][key] = {k + text: v for k, v in changed["facts"][key].items()}
    changed["facts"][f"more{text}"] = {f"k{text}": f"v{text}", "list": [text, 1, None]}
    changed["skipped"] = {k + text: v for k, v in changed["skipped"].items()}
    return changed


@settings(deadline=None, max_examples=40)
@given(HOSTILE)
@example("</script><img onerror=alert(1) src=x>")
@example("\u202e\u2067 desrever")
@example("\x00\x1b[31m")
@example("m" * 10_000)
@example("</title></style></svg>]]><!--")
def test_no_text_becomes_markup(text: str) -> None:
    assume(text.strip())  # else it is the report as it was, whose checks clean knows
    hostile = disguised(quality_report(), text)
    page = render_quality(hostile)
    page.encode("utf-8")
    found, innocent = Page(page), Page(render_quality(disguised(quality_report(), "a")))
    assert [t for t in found.tags if t != "title"] == [t for t in innocent.tags if t != "title"]  # of shortened labels
    assert {(tag, name) for tag, name, _ in found.attributes} == {(t, n) for t, n, _ in innocent.attributes}
    assert json.loads(found.script) == hostile
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", outside)
    for svg in figures(page):
        ET.fromstring(svg)
        assert_readable(svg)


def test_a_long_example_is_cut_and_says_so() -> None:
    page = render_quality(bare(finding("x", "warning", [1], examples=[{"line": 1, "text": "<" * 10_000}])))
    assert "… (10,000 characters)" in page
    assert page.count("&lt;") == 600


def test_texts_of_any_direction_stand_apart() -> None:
    """Every text of the data is in an element that decides its own direction, and isolates it."""
    page = render_quality(bare(finding("x", "warning", [1], note="ملاحظة", examples=[{"line": 1, "text": "سؤال"}])))
    assert '<p class="quoted" dir="auto">سؤال</p>' in page
    assert '<span dir="auto">ملاحظة</span>' in page


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_odd_values_anywhere_never_raise(data: st.DataObject) -> None:
    report = copy.deepcopy(quality_report())
    for _ in range(data.draw(st.integers(1, 4))):
        place: Any = report
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(list(keys)))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = data.draw(ODD)
            break
    page = render_quality(report)
    Page(page)
    for svg in figures(page):
        ET.fromstring(svg)


# --- charts ---

NAMES = st.text(alphabet="aimwMW-_ 0", min_size=1, max_size=64).filter(str.strip)
BARS = st.builds(
    lambda name, value, group: Bar(name=name, value=value, text=f"{amount(value)} rows", group=group),
    NAMES,
    st.integers(0, 10**7),
    st.sampled_from(["", "Errors", "Warnings"]),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(BARS, max_size=12))
def test_every_label_of_a_bar_chart_has_its_own_room(bars: list[Bar]) -> None:
    assert_readable(bar_chart(bars, key="k", title="t", unit="rows"))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.5, 1e5), st.integers(0, 10**7)), min_size=1, max_size=40),
    st.floats(-10, 1e6),
    st.floats(0, 1e6),
)
@example([(1.0, 0)], 0.0, 0.0)
@example([(1.0, 1)], 0.5, 0.7)
def test_every_label_of_a_histogram_has_its_own_room(
    ranges: list[tuple[float, int]], median: float, high: float
) -> None:
    edges = tuple(itertools.accumulate((width for width, _ in ranges), initial=0.0))
    histogram = Histogram(
        edges=edges,
        counts=tuple(float(count) for _, count in ranges),
        marks=(("median", median), ("95 % up to", median + high)),
    )
    assert_readable(histogram_chart(histogram, key="k", title="t", unit="tokens"))


def test_a_bar_is_as_long_as_its_number() -> None:
    bars = [Bar(name="a", value=30, text="30", style="one"), Bar(name="b", value=120, text="120", style="two")]
    root = ET.fromstring(bar_chart(bars, key="k", title="t", unit="rows"))
    short, long = (
        float(next(e for e in root.iter() if e.get("class") == kind).attrib["width"]) for kind in ("one", "two")
    )
    assert short / long == pytest.approx(0.25)


def test_a_histogram_marks_its_median_where_it_lies() -> None:
    histogram = Histogram(edges=(0.0, 10.0, 30.0), counts=(4.0, 2.0), marks=(("median", 20.0),))
    root = ET.fromstring(histogram_chart(histogram, key="k", title="t", unit="tokens"))
    first, second = (e for e in root.iter() if e.get("class") == "c-f0")
    mark = float(next(e for e in root.iter() if e.get("class") == "b-mark").attrib["x1"])
    middle = float(second.attrib["x"]) + float(second.attrib["width"]) / 2
    assert mark == pytest.approx(middle, abs=0.02)
    assert float(first.attrib["height"]) == pytest.approx(2 * float(second.attrib["height"]), abs=0.02)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3, "3"), (29.5, "29.5"), (12_345, "12,345"), (999_950, "1.0 M"), (4.2e9, "4.2 B"), (10**18, "1e+18")],
)
def test_an_amount_is_as_short_as_a_label_needs(value: float, text: str) -> None:
    assert amount(value) == text


# --- colours ---

SCHEMES = [(LIGHT, SEVERITY_LIGHT), (DARK, SEVERITY_DARK)]


@pytest.mark.parametrize(("ground", "worn"), SCHEMES, ids=["light", "dark"])
def test_severities_keep_wcag_contrast(ground: Mapping[str, str], worn: Mapping[str, str]) -> None:
    for name, colour in worn.items():
        for under in ("page", "card", "shade"):
            high, low = sorted((luminance(colour), luminance(ground[under])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{name} on {under}"


@pytest.mark.parametrize("worn", [worn for _, worn in SCHEMES], ids=["light", "dark"])
@pytest.mark.parametrize("sight", [np.eye(3), PROTAN, DEUTAN], ids=["all cones", "protan", "deutan"])
def test_severities_differ_to_colour_blind_readers(worn: Mapping[str, str], sight: np.ndarray) -> None:
    seen = [lab(sight @ linear(colour)) for colour in worn.values()]
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(a - b) >= 20


def test_severity_is_never_told_by_colour_alone() -> None:
    found = Page(render_quality(quality_report()))
    for text in ("✗ Errors", "▲ Warnings", "● Remarks", "✗ error", "▲ warning", "● remark"):
        assert text in found.text


# --- in a browser ---


class Browser:
    """Chromium by chromedriver's own protocol; of the standard library alone."""

    def __init__(self, driver: str, chromium: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._url = f"http://127.0.0.1:{free.getsockname()[1]}"
        quiet = subprocess.DEVNULL
        port = self._url.rsplit(":", 1)[1]
        self._process = subprocess.Popen([driver, f"--port={port}"], stdout=quiet, stderr=quiet)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": chromium, "args": [*arguments, f"--user-data-dir={folder}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            for _ in range(200):
                try:
                    self._call("GET", "/status")
                    break
                except OSError:
                    time.sleep(0.05)
            self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except OSError:
            self._process.kill()
            self._process.wait()
            raise

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def ask(self, path: str, **body: Any) -> Any:
        return self._call("POST", f"/session/{self._session}{path}", body)

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.ask("/goog/cdp/execute", cmd=command, params=parameters)

    def script(self, text: str) -> Any:
        return self.ask("/execute/sync", script=text, args=[])

    def show(self, page: Path, *, width: int, scheme: str) -> None:
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        self.ask("/url", url=page.as_uri())

    def close(self) -> None:
        try:
            self._call("DELETE", f"/session/{self._session}")
        finally:
            self._process.terminate()
            self._process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("needs chromium and chromedriver")
    opened = Browser(driver, chromium, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("light", 1200, "light"), ("dark", 1200, "dark"), ("narrow", 400, "light")]
)
def test_a_browser_shows_the_page_whole(browser: Browser, tmp_path: Path, name: str, width: int, scheme: str) -> None:
    """Nothing is wider than the screen, nothing is asked of anybody, and the colours are those of the scheme.

    With CRMA_SHOTS naming a folder, the pictures are left there to be looked at.
    """
    page = tmp_path / "report.html"
    page.write_text(render_quality(quality_report()), encoding="utf-8")
    browser.show(page, width=width, scheme=scheme)
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.script("return performance.getEntriesByType('resource').length") == 0
    assert browser.ask("/se/log", type="browser") == []
    ground = browser.script("return getComputedStyle(document.body).backgroundColor")
    expected = (DARK if scheme == "dark" else LIGHT)["page"]
    assert tuple(int(n) for n in re.findall(r"\d+", ground)) == tuple(int(expected[i : i + 2], 16) for i in (1, 3, 5))
    wide = "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll')"
    assert browser.script(wide + " && e.getBoundingClientRect().right > innerWidth).length") == 0
    if folder := os.environ.get("CRMA_SHOTS"):
        whole = browser.script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": whole, "scale": 1}
        shot = browser.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.slow
def test_hostile_text_does_nothing_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    taken = "document.title='taken'"
    attack = f"</script></style></svg><img src=x onerror={taken}>\u202e\x00<script>{taken}</script>"
    page = tmp_path / "report.html"
    page.write_text(render_quality(disguised(quality_report(), attack + "m" * 10_000)), encoding="utf-8")
    browser.show(page, width=400, scheme="light")
    assert browser.script("return document.title") != "taken"
    assert browser.script("return document.images.length + document.scripts.length") == 1
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.script("return JSON.parse(document.getElementById('result').textContent).findings.length") == 9
    assert browser.ask("/se/log", type="browser") == []


def test_what_is_no_number_in_json_was_not_measured() -> None:
    section = Section(key="k", title="T", body="<p>b</p>")
    result = {"a": math.inf, "b": [math.nan, 10**400, 3]}
    page = render_page(
        title="<t>", eyebrow="e", headline="h", detail="d", tiles=[], sections=[section], footer="f", result=result
    )
    assert json.loads(Page(page).script) == {"a": None, "b": [None, None, 3]}
    assert "<title>&lt;t&gt;</title>" in page
