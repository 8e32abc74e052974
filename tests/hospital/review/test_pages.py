"""The review page's pages as a person and a browser get them; names chosen by others have no effect there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import chromium
import pytest
import yaml
from browsing import HTML, Page, page_of
from made_up_studies import add_study, fill

from med_transfer.hospital.figures import Figures
from med_transfer.hospital.queue import Described, Feedback, SeriesAnswer
from med_transfer.hospital.review.pages import TEMPLATES, environment_of
from med_transfer.page.language import translator

STUDY = f"{999:016x}"
BUNDLE = Path(__file__).parents[2] / "old_run" / "run" / "bundle"
PLANTED = '"><img src=x onerror="document.title=1"><script>document.title=2</script>{{7*7}}'
DESCRIBED = Described(f"{PLANTED}^Eve", PLANTED, PLANTED, PLANTED, PLANTED, PLANTED)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    with page_of(tmp_path_factory.mktemp("page") / "state") as served:
        queue = served.app.state.queue
        answer = {"predicted": PLANTED, "probabilities": {PLANTED: 0.99}}
        add_study(queue, 999, DESCRIBED, answer)
        assert queue.add_feedback(Feedback("ray", STUDY, 1, 0, "disagree", PLANTED, PLANTED), 1.8e9)
        fill(queue, 60)
        queue.set_aside(PLANTED, PLANTED, "aside/1", 5)
        shutil.copytree(BUNDLE, served.app.state.node.folder / "bundles" / "abcd")
        record = served.app.state.node.folder / "bundles" / "abcd" / "med_transfer.json"
        escaped = PLANTED.replace('"', '\\"')
        record.write_text(record.read_text().replace("ground-glass", escaped))
        queue.use_bundle("", "abcd", "bundle in use")
        yield served


def people(text: str) -> list[str]:
    """Of a list, in its order."""
    return [unescape(name) for name in re.findall(r'<a href="/study/[^"]*">(.*?)</a>', text)]


def test_the_list_is_paged_sorted_and_filtered(page):
    browser = page.browser("rita")
    first = browser.get("/").text
    assert len(people(first)) == 50
    assert "64 studies, 50 on this page" in first
    (following,) = re.findall(r'name="after" value="(\w+)"', first)
    there = browser.form("/", "/", after=following, top_class="", search=" ").headers["Location"]
    assert there == f"/?after={following}"  # an address, to which a browser can go back
    assert len(people(browser.get(there).text)) == 14
    by_name = people(browser.get("/?sort=patient_name&descending=false").text)
    assert by_name[1:] == sorted(by_name[1:])
    assert "disagreed" not in re.sub(r"(?s)<select.*?</select>", "", browser.get("/?judged=agree").text)
    assert len(people(browser.get("/?state=received").text)) == 3
    assert browser.get("/?state=asleep").status_code == browser.get("/?sort=secret").status_code == 422


def test_a_search_for_a_name_is_in_no_address(page):
    browser = page.browser("rita")
    found = browser.form("/", "/", search=" garcia ")
    assert set(people(found.text)) == {"Garcia, Ana Maria"}
    assert 'method="post" action="/"' in found.text
    assert "garcia" not in "".join(re.findall(r'(?:href|action)="([^"]*)"', found.text)).lower()
    events = list(page.access.audit.events())
    assert "garcia" not in str(events).lower()
    assert "No matching studies." in browser.form("/", "/", search="100%").text


def test_counts_are_no_sign_that_somebody_is_there(page):
    browser = page.browser("rita")
    assert browser.get("/counts").json() | {"received": 3, "dead": 0} == browser.get("/counts").json()
    with page.access.database.writing() as database:
        database.execute("UPDATE session SET seen = seen - 100 WHERE user = 'rita'")
    before = page.access.database.rows("SELECT max(seen) FROM session WHERE user = 'rita'")
    browser.get("/counts")
    assert page.access.database.rows("SELECT max(seen) FROM session WHERE user = 'rita'") == before
    browser.get("/")
    assert page.access.database.rows("SELECT max(seen) FROM session WHERE user = 'rita'") > before


def test_every_stored_string_is_only_text(page):
    browser = page.browser("ann")
    for path in ("/", f"/study/{STUDY}", "/report", "/load", "/accesses", "/none/" + PLANTED.replace("/", "")):
        text = browser.get(path, headers=HTML).text
        assert "<img" not in text, path
        assert "<script>" not in text, path
    searched = browser.form("/", "/", search=PLANTED).text
    assert "<img" not in searched
    assert len(people(searched)) == 1
    rows = browser.get("/").text
    assert "&lt;img" in rows, "the planted name is not there at all"
    assert "{{7*7}}" in rows
    assert browser.get(f"/study/{STUDY}").text.count("&lt;img") >= 4  # name, description, class, comment
    assert "&lt;img" in browser.get("/report").text
    assert "&lt;img" in browser.get("/load").text


def test_both_languages_say_everything(page):
    """Every sentence of a template is in a catalogue."""
    browser = page.browser("ann")
    chinese = browser.get("/", headers={"Accept-Language": "zh-TW,zh;q=0.9"}).text
    assert '<html lang="zh-TW">' in chinese
    assert "工作清單" in chinese
    browser.form("/language", "/", language="zh-TW", next="/load")
    assert "負載與漂移" in browser.get("/load").text
    t = translator("zh-TW")
    for catalogue in TEMPLATES.glob("*.zh_TW.yaml"):
        t = t.reading(catalogue.with_name(catalogue.name.removesuffix(".zh_TW.yaml")))
    for template in TEMPLATES.glob("*.jinja"):
        for said in re.findall(r"\bt\((?:\"([^\"]+)\"|'([^']+)')", template.read_text(encoding="utf-8")):
            assert "".join(said) in t.sentences, (template.name, said)
    assert environment_of("en").get_template("login.html.jinja") is not None


def test_states_are_told_in_words_that_are_not_misread(page):
    """Beside a patient's name stood "dead", and "complete" where there was no answer yet."""
    browser = page.browser("rita")
    for path in ("/", "/load", "/?state=received"):
        shown = re.sub(r"<[^>]*>", " ", browser.get(path).text)
        assert all(words in shown for words in ("arriving", "to be predicted", "given up")), path
        assert re.findall(r"\b(?:dead|complete|received)\b", shown) == []
    t = environment_of("zh-TW").globals["t"]
    assert (t("arriving"), t("to be predicted"), t("given up"), t("not delivered")) == (
        "接收中",
        "待預測",
        "已停止",
        "無法送達",
    )


def test_no_word_has_two_translations():
    """All catalogues of the page are read into one, so a second translation would replace the first everywhere."""
    found: dict[str, dict[str, str]] = {}
    for catalogue in sorted(TEMPLATES.glob("*.zh_TW.yaml")):
        for said, chinese in yaml.safe_load(catalogue.read_text(encoding="utf-8")).items():
            found.setdefault(said, {})[catalogue.name] = chinese
    assert {said: where for said, where in found.items() if len(set(where.values())) > 1} == {}


def test_drift_is_told_in_plain_digits_and_why_its_counts_differ(page):
    mark, node = "abcd", page.app.state.node
    quantities = {
        name: {"n": 3, "mean": mean, "recent": mean, "n_alarms": 0, "alarms": []}
        for name, mean in {"value_p01": -1023.4, "slice_mm": 2.5, "noise": 17.2, "unusable": 1 / 3}.items()
    }
    node.drift_folder(mark).mkdir(parents=True)
    state = {"statuses": {"ok": 3, "rejected": 1, "failed": 0}, "quantities": quantities}
    (node.drift_folder(mark) / "drift.json").write_text(json.dumps(state))
    text = page.browser("rita").get("/load").text
    shown = re.findall(r'<td class="number">([-\d.e+]+)</td>', text)
    assert [value for value in ("-1023", "2.5", "0.333") if value in shown] == ["-1023", "2.5", "0.333"]
    assert "e+" not in "".join(shown)
    for quantity in ("lowest grey values (1st percentile)", "noise (standard deviation)"):
        assert f"{quantity}, in HU for CT" in text
    assert "A further scan of a recent patient is counted in the caption, but not in the table." in text


def test_rates_at_a_point_that_was_not_chosen_on_scans_are_not_said_to_be_of_those_scans(page):
    bundles, queue, reader = page.app.state.node.folder / "bundles", page.app.state.queue, page.browser("rita")
    assert "validation scans that the threshold was chosen on" in reader.get("/report").text
    shutil.copytree(bundles / "abcd", bundles / "ef01")
    record = json.loads((bundles / "ef01" / "med_transfer.json").read_text())
    record["operating_point"]["chosen_on"] = "fixed"
    (bundles / "ef01" / "med_transfer.json").write_text(json.dumps(record))
    queue.use_bundle("", "ef01", "bundle in use")
    try:
        text = reader.get("/report").text
    finally:
        queue.use_bundle("", "abcd", "bundle in use")
    assert "that the threshold was chosen on" not in text
    assert "validation scans. The report of" in text


def test_a_bundle_is_in_use_for_the_routes_of_node_yaml_and_no_others(tmp_path, command):
    """One of a route that was removed answers nothing any more."""
    routes = [{"name": name, "series": {"require": [{"modality": "CT"}]}} for name in ("chest", "torn")]
    with page_of(tmp_path / "state", routes=routes) as page:
        node, queue = page.app.state.node, page.app.state.queue
        for route, mark in (("", "before"), ("brain", "removed"), ("chest", "ours"), ("torn", "damaged")):
            shutil.copytree(BUNDLE, node.bundle_copy(mark))
            node.drift_folder(mark).mkdir(parents=True)
            state = {"statuses": {"ok": 3}, "quantities": {}}
            (node.drift_folder(mark) / "drift.json").write_text(json.dumps(state))
            queue.use_bundle(route, mark, "bundle in use")
        (node.bundle_copy("damaged") / "med_transfer.json").write_text("{")
        (node.bundle_copy("ours") / "docs" / "README.md").unlink()
        text, load = page.browser("rita").get("/report").text, page.browser("rita").get("/load").text
        figures = Figures(node, dict)
        exposed = figures.exposition().decode()
        figures.close()
    assert re.findall("bundle ([a-z]+)</h2>", text) == ["ours", "damaged"]
    assert text.count("This bundle cannot be read.") == 1
    assert "No bundle is in use." not in text
    assert text.count("Model card") == 0
    assert set(re.findall("bundle ([a-z]+):", load)) == {"ours", "damaged"}
    assert set(re.findall('bundle_info{bundle="([a-z]+)"', exposed)) == {"ours", "damaged"}
    yaml_file = tmp_path / "node.yaml"
    yaml_file.write_text(yaml.safe_dump({"folder": str(node.folder), "routes": routes}))
    told = command("node", "status", "-c", yaml_file).out
    assert re.findall("bundle ([a-z]+) is in use for ([a-z]+)", told) == [("ours", "chest"), ("damaged", "torn")]
    assert told.count("is in use") == 2


def test_a_series_without_an_answer_says_in_words_why_it_is_not_drawn(page):
    rejected = f"{4:016x}"
    text = page.browser("ray").get(f"/study/{rejected}").text
    assert "Not analysed" in text
    (reasons,) = re.findall(r"data-reasons='([^']*)'", text)
    assert json.loads(reasons)["GeometryRejected"] == "The slices do not form a usable volume"
    assert json.loads(reasons)["no_images"] == "The images of this study have been deleted from the node."
    assert "instead of the called class" not in text
    assert "Disagree" not in text


def test_what_was_called_is_told_of_every_series_and_revision(tmp_path):
    """No finding is an answer; one that abstains is not told like one to rely on."""
    found = {"predicted": "nodule;effusion", "probabilities": {"nodule": 0.9, "effusion": 0.8}}
    nothing = {"predicted": "", "probabilities": {"nodule": 0.1, "effusion": 0.2}}
    facts = [{"status": "ok", "abstained": False} | nothing, {"status": "ok", "abstained": True} | found]
    facts.append({"status": "failed", "abstained": False, "predicted": ""})
    with page_of(tmp_path / "state") as page:
        queue, browser = page.app.state.queue, page.browser("ray")
        study = add_study(queue, 1, answer=nothing)
        assert "none of the findings" in browser.get("/").text

        assert queue.add_feedback(Feedback("ray", study, 1, 0, "rerun"), 1.8e9)
        waiting = browser.get(f"/study/{study}?said=rerun").text
        assert "The study will be predicted again." in waiting
        assert "There are no results for this study yet." in waiting
        assert "predicted, revision 1: none of the findings" in waiting

        again = queue.to_predict(1e12)
        answers = [SeriesAnswer(one, bundle="b", series_uid=f"1.2.{number}") for number, one in enumerate(facts)]
        assert queue.predicted(again, [], [], 1e12, facts, answers)
        text, line = browser.get(f"/study/{study}").text, browser.get("/").text
    (series,) = re.findall(r'(?s)<nav aria-label="Series".*?</nav>', text)
    assert re.findall(r">(Series \d: .*?)</a>", series) == [
        "Series 1: none of the findings",
        "Series 2: nodule, effusion (abstained)",
        "Series 3: no answer",
    ]
    assert "predicted, revision 2: nodule, effusion (abstained)" in text
    assert "none of the findings <small>another answer on 1 further series</small>" in line


@pytest.mark.skipif(chromium.COMMAND is None, reason="needs Chromium")
def test_a_real_browser_runs_nothing_of_it_and_shows_it_at_both_widths(page, tmp_path):
    browser = page.browser("ann")
    with chromium.tab(tmp_path / "profile") as tab:
        tab.send("Network.setCookie", name="session", value=browser.cookies["session"], url=page.url)
        for path in ("/", f"/study/{STUDY}", "/report", "/load", "/accesses"):
            for width in (1400, 400):
                visit(tab, page.url + path, width)
                assert tab.value("document.title") not in ("1", "2"), path
                assert tab.value("document.images.length") == 0
                assert tab.value("document.documentElement.scrollWidth <= innerWidth"), (path, width)
                assert tab.value("[...document.querySelectorAll('[hidden]')].every(e => !e.getClientRects().length)")
                sources = {told["entry"]["source"] for told in tab.told("Log.entryAdded")}
                assert not sources & {"security", "violation", "javascript"}, path
        visit(tab, page.url + "/", 1400)
        tab.press("Tab", 9)
        assert tab.value("document.activeElement.className") == "skip"
        assert tab.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        unnamed = (
            "[...document.querySelectorAll('input:not([type=hidden]),select')].filter(e => !e.labels.length).length"
        )
        assert tab.value(unnamed) == 0
        assert tab.value("document.querySelectorAll('main,header,nav[aria-label],[aria-live]').length") >= 4
        assert tab.value("[...document.querySelectorAll('th')].every(e => e.scope)")


def visit(tab: chromium.Tab, url: str, width: int) -> None:
    tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    tab.events.clear()
    tab.send("Page.navigate", url=url)
    while not tab.told("Page.loadEventFired"):
        tab.events.append(tab._receive())
