"""One study on the page, in a real browser and without one: open, view, judge, export."""

from __future__ import annotations

import io
import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path

import nibabel
import numpy as np
import pytest
from analysed import analysed
from browsing import HTML, Page, page_of
from peers import series, until
from requests.adapters import HTTPAdapter
from tiny_bundle import made_up_cases, tiny_bundle

from med_transfer.cohorts import Cohort
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import answering
from med_transfer.hospital.review.bundle_report import reports
from med_transfer.hospital.review.pages import moment
from med_transfer.hospital.review.study import answer_of, study_facts
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.page.language import translator
from med_transfer.predictions.labels import Labels
from med_transfer.scans import geometry, read_scan
from med_transfer.scans.formats.nifti_file import write_nifti_file

NAME = "Planted^<script>alert(1)</script>"
PLANTED = (3, 18, 5)  # column, row, slice: on the patient's right, to the back, above the middle
PLANTED_HU = 1777


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> NodeConfig:
    """A phantom's study with one bright voxel, and a map of it whose only strong place is that voxel."""
    folder = tmp_path_factory.mktemp("node")
    files = series(folder / "scan")
    _plant(files)
    described = {"PatientName": NAME, "PatientID": "PLANTED-17", "StudyDescription": "<b>fall</b>"}
    bundle = tiny_bundle(folder / "bundle", similar=made_up_cases())
    return analysed(folder / "state", bundle, files, **described)


def _plant(files: list[Path]) -> None:
    from pydicom import dcmread

    images = sorted((dcmread(file) for file in files), key=lambda image: image.ImagePositionPatient[2])
    image = images[PLANTED[2]]
    pixels = image.pixel_array.copy()
    pixels[PLANTED[1], PLANTED[0]] = (PLANTED_HU - image.RescaleIntercept) / image.RescaleSlope
    image.PixelData = pixels.tobytes()
    image.save_as(image.filename)


@pytest.fixture(scope="module")
def page(config: NodeConfig) -> Iterator[Page]:
    settings = config.model_dump(mode="json", include={"results", "limits", "study"})
    with page_of(config.folder, **settings) as page:
        yield page


@pytest.fixture
def study(page: Page) -> str:
    (only,) = page.app.state.queue.studies()
    return only.id


def facts(page: Page, study: str):
    found = study_facts(page.app.state.node, page.app.state.queue, study)
    assert found is not None
    return found


def place_of(study: str, page: Page) -> str:
    return f"/study/{study}/{facts(page, study).revision}/0"


def test_the_page_says_what_the_record_says_and_no_name_does_anything(page, study):
    said = page.browser("rita").get(f"/study/{study}").text
    shown, series_ = unescape(said), facts(page, study).series[0]
    assert "Planted, <script>alert(1)</script>" in shown
    assert "<script>alert" not in said
    assert "<b>fall" not in said
    for one in series_.classes:
        assert one.name in shown
        assert f"{one.probability:.1%}" in shown
    assert (series_.has_volume, series_.has_map, series_.images) == (True, True, 8)
    events = [(entry["user"], entry["what"], entry["study"]) for entry in page.access.audit.latest(10)]
    assert ("rita", "saw study", study) in events


def test_what_is_below_one_is_not_written_as_one(page, study, monkeypatch):
    said = facts(page, study)
    nearly = replace(said.series[0].classes[0], probability=0.99996, threshold=0.9996)
    shown = replace(said, series=(replace(said.series[0], classes=(nearly,), novelty=0.9999),))
    monkeypatch.setattr("med_transfer.hospital.review.study_page.study_facts", lambda *_: shown)
    text = page.browser("rita").get(f"/study/{study}").text
    assert "<td>99.996%</td><td>0.9996</td>" in text
    assert "more novel than 99.99% of the training scans" in text
    below = replace(nearly, probability=0.49998, threshold=0.5, called=False)  # 50.0% would be a call
    shown = replace(said, series=(replace(said.series[0], classes=(below,)),))
    assert "<td>49.998%</td><td>0.5</td>" in page.browser("rita").get(f"/study/{study}").text

    estimate = Estimate(value=0.9996, ci95=(0.995001, 1.0), method="Wilson")
    rates = {"benign": estimate, "malignant": estimate}
    changes = {
        "operating_point": OperatingPoint(rule="class_threshold", thresholds={"malignant": 0.9998}),
        "chosen_point": ChosenPoint(rule="thresholds", n_scans=9, n_patients=9, sensitivity=rates, specificity=rates),
    }
    node, queue = page.app.state.node, page.app.state.queue
    (own,) = reports(node, queue)
    of_bundle = replace(own, record=own.record.model_copy(update=changes))
    monkeypatch.setattr("med_transfer.hospital.review.node_pages.reports", lambda *_: [of_bundle])
    text = page.browser("rita").get("/report").text
    assert '<td class="number">0.9998</td><td class="number">0.9996 <small>[0.995, 1.00]</small></td>' in text


def test_every_time_is_by_the_clock_of_the_node(page, study, monkeypatch):
    try:
        for zone, hours in (("UTC", 0), ("Asia/Taipei", 8)):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            text = page.browser("rita").get(f"/study/{study}").text
            entry = datetime.fromisoformat(str(facts(page, study).history[0]["time"])) + timedelta(hours=hours)
            assert f"<time>{entry:%Y-%m-%d %H:%M}</time>" in text
            assert moment(0.0) == f"1970-01-01 0{hours}:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_is_not_there_and_who_may_not(page, study):
    reader, place, before = page.browser("rita"), place_of(study, page), answering_of(page, study)
    assert reader.get("/study/nosuchstudy").status_code == 404
    for path in (f"/study/{study}/9/0/volume.nii.gz", f"/study/{study}/1/7/map.nii.gz", "/study/s%2F..%2Fs"):
        assert reader.get(path).status_code in (404, 422), path
    given = {"revision": 1, "number": 0, "kind": "agree"}
    refused = reader.post(f"/study/{study}/feedback", data=given, headers={"X-CSRF-Token": reader.token})
    assert refused.status_code == 403
    nobody = page.browser()
    for path in (f"/study/{study}", f"{place}/volume.nii.gz", f"{place}/map.nii.gz", "/niivue.js"):
        assert nobody.get(path).status_code == 401, path
    assert answering_of(page, study) == before


def test_the_scans_that_the_bundle_may_show_are_shown_and_no_others(page, study):
    reader, place = page.browser("rita"), place_of(study, page)
    shown, cases = facts(page, study).series[0], made_up_cases()
    said = unescape(reader.get(f"/study/{study}").text)
    assert "75.0% had the same label; by chance, 50.0% would" in said
    assert len(shown.similar) == 3
    for one in shown.similar:
        assert f"<strong>{one.label}</strong> · similarity {one.similarity:.2f}" in said
        answer = reader.get(f"{place}/similar/{one.number}.jpeg")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.content == cases.pictures[one.number]
    (other,) = set(range(4)) - {one.number for one in shown.similar}
    for path in (f"{place}/similar/{other}.jpeg", f"{place}/similar/99.jpeg", f"/study/{study}/9/0/similar/0.jpeg"):
        assert reader.get(path).status_code == 404, path
    assert page.browser().get(f"{place}/similar/0.jpeg").status_code == 401


def answering_of(page: Page, study: str):
    with page.app.state.queue.reading() as database:
        return answering.feedback(database, study)


def test_voxels_and_map_lie_where_the_images_are(page, study, config):
    """Byte for byte what the project's reader reads, and the map on the same voxels."""
    browser, place = page.browser("rita"), place_of(study, page)
    images = {}
    for name in ("volume", "map"):
        answer = browser.get(f"{place}/{name}.nii.gz", timeout=240)
        assert answer.status_code == 200, answer.text
        images[name] = nibabel.Nifti1Image.from_bytes(_unzipped(answer.content))
    seen = [(one["what"], one["study"], one["remark"]) for one in page.access.audit.latest(2)]
    assert seen == [("saw images", study, "heat map"), ("saw images", study, "")]
    volume = read_scan(config.folder / "incoming" / study)
    assert np.array_equal(np.asarray(images["volume"].dataobj).transpose(2, 1, 0), volume.voxels)
    assert np.allclose(images["volume"].affine, geometry.swap_lps_ras(volume.affine))
    assert np.allclose(images["map"].affine, images["volume"].affine)
    values = np.asarray(images["map"].dataobj)
    assert values.shape == images["volume"].shape
    assert np.allclose([values.min(), values.max()], [0, 1])
    assert volume.voxels[PLANTED[::-1]] == PLANTED_HU
    assert config.folder.stat().st_mode & 0o077 == 0


def test_who_waits_for_images_keeps_nobody_from_the_page(page, study):
    """One series is read at a time; a browser gives up, and a person asks again, long before fifty are read."""
    browser, place = page.browser("rita"), place_of(study, page)
    browser.mount("http://", HTTPAdapter(pool_maxsize=50))
    with ThreadPoolExecutor(50) as pool:
        with page.app.state.volumes._lock:  # somebody's series is being read
            looks = [pool.submit(browser.get, f"{place}/volume.nii.gz", timeout=240) for _ in range(50)]
            threads = page.app.state.volume_threads
            until(lambda: threads.borrowed_tokens + threads.statistics().tasks_waiting == 50)
            assert browser.get("/", headers=HTML, timeout=240).status_code == 200
        assert {look.result().status_code for look in looks} == {200}


def _unzipped(content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content)


def test_every_sentence_of_the_page_has_a_translation():
    from med_transfer.hospital.review.pages import TEMPLATES

    text = (TEMPLATES / "study.html.jinja").read_text()
    t = translator("zh-TW").reading(TEMPLATES / "page").reading(TEMPLATES / "study")
    sentences = set(re.findall(r"""\bt\((?:"([^"]+)"|'([^']+)')""", text))
    missing = {one for pair in sentences for one in pair if one and t.template(one) == one}
    assert not missing
    from med_transfer.hospital.codes import REASONS

    assert not {meaning for meaning in REASONS.values() if t.template(meaning) == meaning}


def test_open_look_disagree_and_export(page, study, config, command, tmp_path):
    """A reviewer in Chromium, by keyboard: the planted voxel's value, place and map; another class; the label sheet."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    import chromium

    if chromium.COMMAND is None:
        pytest.skip("needs Chromium")
    _plant_map(page, study, config)
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    series_ = facts(page, study).series[0]
    other = next(one.name for one in series_.classes if not one.called)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium.COMMAND, args=[*flags, "--disable-dev-shm-usage"])
        tab = browser.new_page(viewport={"width": 700, "height": 700})
        secret = page.access.sessions.begin("ray", "reviewer", local=True)
        tab.context.add_cookies([{"name": page.access.cookie.name, "value": secret, "url": page.url}])
        told: list[str] = []
        tab.on("console", lambda said: told.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.goto(f"{page.url}/study/{study}")
        tab.wait_for_selector("#viewer[data-ready]", timeout=180_000)
        _look(tab, config, study)
        before = answering_of(page, study)
        tab.check(f"input[value={other}]")
        tab.press(f"input[value={other}]", "Enter")  # presses no button, least of all the first, which agrees
        assert tab.is_checked(f"input[value={other}]")
        tab.fill("#comment", "<img src=x onerror=alert(1)> not so")
        tab.click("button[value=disagree]")
        tab.wait_for_selector(".notice[role=alert]")
        assert "you disagree" in tab.inner_text(".notice[role=alert]")
        assert "<img src=x" in tab.inner_text(".said blockquote")
        browser.close()
    assert told == []
    (said,) = answering_of(page, study)[len(before) :]
    assert (said.user, said.kind, said.label, said.number) == ("ray", "disagree", other, 0)
    assert said.bundle
    assert said.series_uid
    _exported(command, config, other, tmp_path)


def _plant_map(page: Page, study: str, config: NodeConfig) -> None:
    volume = read_scan(config.folder / "incoming" / study)
    share = np.zeros(volume.voxels.shape, np.uint8)
    share[PLANTED[::-1]] = 255
    answer = answers_of(page, study)[0]
    write_nifti_file(config.folder / answer.map_file, share, volume.affine, 1 / 255)


def answers_of(page: Page, study: str):
    revision = facts(page, study).revision
    with page.app.state.queue.reading() as database:
        return answering.answers(database, study, revision)


def _look(tab, config: NodeConfig, study: str) -> None:
    """To the planted voxel by keys, as the page's list of keys says; then at where it is seen."""
    affine = read_scan(config.folder / "incoming" / study).affine
    tab.focus("#viewer")
    wanted = (affine @ [*PLANTED, 1])[:3]
    keys = (("ArrowLeft", "ArrowRight", 1.5), ("ArrowUp", "ArrowDown", 1.5), ("PageDown", "PageUp", 2.5))
    for axis, (less, more, step_mm) in enumerate(keys):  # right, left; front, back; feet, head: LPS
        there = [float(text) for text in tab.inner_text("#place").split(",")]
        steps = round((wanted[axis] - there[axis]) / step_mm)
        for _ in range(abs(steps)):
            tab.keyboard.press(more if steps > 0 else less)
    assert np.allclose([float(text) for text in tab.inner_text("#place").split(",")], wanted, atol=0.1)
    assert tab.inner_text("#value") == f"{PLANTED_HU} HU"
    assert tab.inner_text("#share") == "100 %"
    tab.keyboard.press("2")  # axial
    tab.fill("#centre", "5000")  # everything is black except the map
    tab.press("#centre", "Tab")
    tab.evaluate("document.querySelector('#opacity').value = 100")
    tab.dispatch_event("#opacity", "input")
    rows, columns, (height, width) = _coloured(tab)
    assert rows.mean() / height > 0.6  # the back is below
    assert columns.mean() / width < 0.4  # the patient's right is on the left


def _coloured(tab):
    from matplotlib.image import imread

    shot = tab.locator("#viewer canvas").screenshot(timeout=180_000)
    picture = imread(io.BytesIO(shot), format="png")[..., :3]
    warm = (picture[..., 0] > 0.6) & (picture[..., 2] < 0.3) & (picture[..., 0] > picture[..., 2] + 0.4)
    rows, columns = np.nonzero(warm)
    assert len(rows)
    return rows, columns, picture.shape[:2]


def _exported(command, config: NodeConfig, label: str, tmp_path: Path) -> None:
    yaml, out = tmp_path / "node.yaml", tmp_path / "labels.csv"
    yaml.write_text(f"folder: {config.folder}\n")
    told = command("node", "labels", "-c", yaml, "-o", out)
    assert told.code == 0, told.err
    cohort = Cohort.read(out, labels=Labels(("benign", "malignant")))
    assert [case.label for case in cohort.cases] == [label]
    assert re.fullmatch("P[0-9a-f]{12}", cohort.patients[0])
    volume = read_scan(cohort.cases[0].path, cohort.cases[0].series_uid)
    assert volume.voxels[PLANTED[::-1]] == PLANTED_HU
    assert not re.search("planted", out.read_text() + told.out, re.IGNORECASE)


def test_feedback_is_for_good_and_an_old_answer_is_not_judged(page, study, config):
    queue, browser = page.app.state.queue, page.browser("ray")
    before, token = len(answering_of(page, study)), browser.token

    def say(kind: str, **more: object):
        given = {"revision": facts(page, study).revision, "number": 0, "kind": kind} | more
        answer = browser.post(f"/study/{study}/feedback", data=given, headers={"X-CSRF-Token": token})
        assert answer.status_code == 303
        return re.findall("said=([a-z_]+)", answer.headers["location"])[0]

    assert say("disagree") == "nothing"  # which class?
    assert say("disagree", label="no such class") == "nothing"
    assert say("comment", comment="  ") == "nothing"
    assert say("agree", revision=7) == "changed"
    classes = facts(page, study).series[0].classes
    assert say("agree", label=next(one.name for one in classes if not one.called)) == "contradiction"
    assert len(answering_of(page, study)) == before
    assert [say("agree"), say("comment", comment="later")] == ["agree", "comment"]
    assert [one.kind for one in answering_of(page, study)[before:]] == ["agree", "comment"]
    outside = sqlite3.connect(config.queue_file)
    for change in ("UPDATE feedback SET label = 'x'", "DELETE FROM feedback"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            outside.execute(change)
    outside.close()
    assert say("rerun") == "rerun"
    assert [(one.state, one.revision) for one in queue.studies()] == [("complete", 2)]
    assert say("rerun") == "changed"  # there is no answer yet
    told = str(list(queue.entries())) + str(page.access.audit.latest(100))
    assert "later" not in told
    assert not re.search("planted", told, re.IGNORECASE)
    assert page.browser("ray").get(f"/study/{study}").status_code == 200
    # Its pictures are still those of the earlier answer, and there are none of an answer to come.
    (one, *_) = answer_of(queue, study, 1, 0).facts["similar"]
    pictures = [f"/study/{study}/{revision}/0/similar/{one['number']}.jpeg" for revision in (1, 2)]
    assert [browser.get(picture).status_code for picture in pictures] == [200, 404]
