"""The report in a real browser: no overflow, no request, no console message, and it prints."""

import dataclasses
import itertools
import re

import pytest
from chromium import COMMAND, tab
from report_samples import evidence, metrics_of, sample, summary, write
from simulated_scores import three_classes

from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.report.run_summary import participant_flow

pytestmark = pytest.mark.skipif(COMMAND is None, reason="no chromium on this machine")

_A4_POINTS = (595, 842)


def full():
    """With everything that can be too wide: long names, long reasons, two patients' worth of failures."""
    data = three_classes()
    names = ("adenocarcinoma_in_situ_without_invasion", "benign", "a class whose name is a whole sentence of words")
    named = type(data)(data.truth, data.probabilities, data.patients, Labels(names))
    reason = "1 slice missing: gap 5.00 mm between slices 20 and 21, others 2.50 mm; expected one regular volume"
    failed = [Prediction("scans/a", "gone", status="rejected", reason=f"scans/a: {reason}")] * 3
    flow = participant_flow(data.patients, ["train", "val", "test"] * 40, ["gone"] * 3)
    run = summary(named, flow=flow)
    sites = ["a hospital with a long name", "another"] * 60
    return evidence(named, metrics_of(named, failed=failed, subgroups={"site": sites}), run=run)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The same report in both languages."""
    folder, english = tmp_path_factory.mktemp("report"), full()
    chinese = dataclasses.replace(english, run=dataclasses.replace(english.run, language="zh-TW"))
    write(folder / "report.html", english)
    write(folder / "chinese" / "report.html", chinese)
    return {"en": folder / "report.html", "zh-TW": folder / "chinese" / "report.html"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("language", ["en", "zh-TW"])
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_complains_or_is_fetched(page, reports, language, width, dark):
    page.open(reports[language], width, dark=dark)
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(OUTSIDE) == []
    assert [
        event["request"]["url"]
        for event in page.told("Network.requestWillBeSent")
        if not event["request"]["url"].startswith("data:")
    ] == [reports[language].resolve().as_uri()]
    complaints = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
    assert [event for name in complaints for event in page.told(name)] == []


# Elements that overflow the window, except in scrolling boxes. Opens everything that is folded first.
OPEN_ALL = 'document.querySelectorAll("details").forEach(one => one.open = true);'
OUTSIDE = f"""
{OPEN_ALL}
[...document.querySelectorAll("main *")]
  .filter(one => !one.closest(".scroll > *, svg *") && one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => one.outerHTML.slice(0, 80))
"""


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_sentences_and_figures_can_be_read_on_a_phone(page, reports, language):
    """What is too wide scrolls: no sentence is squeezed into a column of single letters, no figure to dots."""
    page.open(reports[language], 400)
    page.value(OPEN_ALL)
    assert page.value(SQUEEZED) == []
    assert page.value(TINY) == []


# Cells of a table of sentences that are narrower than a few words, and figures whose words, 10 pt, are below 7.5 px.
SQUEEZED = """
[...document.querySelectorAll("table.text tbody > tr > *")]
  .filter(one => one.textContent.length > 40 && one.clientWidth < 120).map(one => one.textContent.slice(0, 60))
"""
TINY = """
[...document.querySelectorAll("svg.figure")]
  .filter(one => one.getBoundingClientRect().width / one.viewBox.baseVal.width < 0.75).map(one => one.textContent)
"""


@pytest.mark.parametrize("dark", [False, True])
def test_the_theme_follows_the_reader(page, reports, dark):
    page.open(reports["en"], 1400, dark=dark)
    paper = page.value("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", paper)[:3])) / 3
    assert brightness < 60 if dark else brightness > 200
    stroke = "getComputedStyle(document.querySelector('#flow svg text')).fill"
    ink = sum(map(int, re.findall(r"\d+", page.value(stroke))[:3])) / 3
    assert ink > 200 if dark else ink < 60


def test_the_words_of_the_flow_diagram_stay_in_their_boxes(page, reports):
    for path in reports.values():
        page.open(path, 1400)
        page.value(OPEN_ALL)
        assert page.value(WORDS_OUTSIDE) == []


# Lines of the diagram that are not within one of its boxes; the drawing's background does not count as a box.
WORDS_OUTSIDE = """
(() => {
  const svg = document.querySelector("#flow svg"), all = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll("[id*=patch_] path")].map(one => one.getBoundingClientRect())
    .filter(box => box.height < all.height / 2);
  const inside = (line, box) => line.left >= box.left && line.right <= box.right && line.top >= box.top - 1
    && line.bottom <= box.bottom + 1;
  return [...svg.querySelectorAll("text")]
    .filter(one => one.textContent && !boxes.some(box => inside(one.getBoundingClientRect(), box)))
    .map(one => one.textContent);
})()
"""


def test_it_is_read_and_used_by_keyboard(page, reports):
    page.open(reports["en"], 1400)
    page.press("Tab", 9)
    assert page.value("document.activeElement.className") == "skip"
    page.value("document.querySelector('details summary').focus()")
    page.press("Enter", 13)
    page.send("Input.dispatchKeyEvent", type="char", text="\r")
    assert page.value("document.querySelector('details').open")
    page.value("location.hash = '#calibration'")  # a link into a folded part opens it
    assert page.value("document.querySelector('#calibration-part').open")
    assert not page.value("document.querySelector('#methods-part').open")
    reached = page.value("[...document.querySelectorAll('.scroll')].every(one => one.tabIndex === 0)")
    assert reached
    outline = page.value("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => +one.tagName[1])")
    assert outline[0] == 1
    assert outline.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(outline))


def test_a_screen_reader_finds_landmarks_names_and_headers(page, reports):
    page.open(reports["en"], 1400)
    page.value(OPEN_ALL)
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    named = {}
    for node in nodes:
        if not node.get("ignored"):
            named.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for landmark in ("main", "banner", "contentinfo", "navigation"):
        assert len(named.get(landmark, [])) == 1, landmark
    regions = named["region"]
    assert all(regions)
    assert len(regions) >= 10
    assert all(named["image"])
    assert {"Summary", "Reading the results", "Can it be trusted", "Calibration", "Model card"} <= set(named["heading"])
    assert {"columnheader", "rowheader"} <= set(named)


def test_it_prints_on_a4(page, reports):
    """Two pages that answer, then everything but the long lists, which are files of their own."""
    page.open(reports["en"], 1400, media="")
    printed = page.pdf()
    assert printed.startswith(b"%PDF-")
    boxes = re.findall(rb"/MediaBox \[([\d. ]+)\]", printed)
    assert 8 <= len(boxes) <= 22
    for box in boxes:
        _, _, width, height = map(float, box.split())
        assert abs(width - _A4_POINTS[0]) < 2
        assert abs(height - _A4_POINTS[1]) < 2


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_the_answers_fill_two_pages_at_most(page, reports, language):
    page.open(reports[language], round((210 - 32) / 25.4 * 96), media="print")
    assert page.value("document.querySelector('#group-1').getBoundingClientRect().top") < 2 * (297 - 32) / 25.4 * 96


def test_what_is_folded_away_is_printed_but_for_the_checklists(page, reports):
    page.open(reports["en"], 1400)
    assert page.value(FOLDED_HEIGHT.format("#rates-part")) < 60
    page.open(reports["en"], 1400, media="print")
    assert page.value(FOLDED_HEIGHT.format("#rates-part")) > 150
    assert page.value(FOLDED_HEIGHT.format("#checklists details")) < 60


FOLDED_HEIGHT = "document.querySelector('{}').offsetHeight"


def test_nothing_is_cut_off_on_paper(page, reports):
    """At the width of A4 between its margins, laid out as for print."""
    page.open(reports["en"], round((210 - 32) / 25.4 * 96), media="print")
    assert page.value("document.documentElement.scrollWidth") <= page.value("innerWidth")
    assert page.value(PRINTED_OUTSIDE) == []


PRINTED_OUTSIDE = """
[...document.querySelectorAll("main *")]
  .filter(one => !one.closest("svg *") && one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => one.outerHTML.slice(0, 120))
"""


def test_a_sample_of_findings_fits_too(page, tmp_path):
    path = tmp_path / "report.html"
    write(path, sample("findings"))
    page.open(path, 400)
    assert page.value("document.documentElement.scrollWidth") <= 400


def test_a_long_name_without_spaces_does_not_stretch_the_confusion_matrix(page, reports):
    """A column holds counts of a few digits, and the name above it takes several lines."""
    page.open(reports["en"], 800)
    page.value(OPEN_ALL)
    box = "document.querySelector('#confusion table.matrix').closest('.scroll')"
    assert page.value(f"{box}.scrollWidth") <= page.value(f"{box}.clientWidth")
