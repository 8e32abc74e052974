"""A scan's whole path: modality -> node -> page -> a reader and their judgement, while page and node are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chromium
import peers
import pytest
import requests
from browsing import PASSWORD
from peers import free_port, series, storescu, until
from pydicom import dcmread
from receiving import announce
from serving import serving, written
from tiny_bundle import tiny_bundle

from med_transfer.bundle.decisions_lock import lock_hash
from med_transfer.hospital.config import read_node_config
from med_transfer.hospital.queue import Queue, answering
from med_transfer.hospital.review.access.access import Access

pytestmark = [
    pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk"),
    pytest.mark.skipif(chromium.COMMAND is None, reason="needs Chromium"),
]
WITHOUT_WEBGL = ("--no-sandbox", "--disable-gpu", "--disable-3d-apis", "--disable-dev-shm-usage")
RATE = {"value": 0.875, "ci95": [0.64, 0.96], "method": "Wilson", "reason": ""}
ENGLISH = re.compile(r"\b[A-Za-z]+(?: [a-z]+){2,}")  # three words in a row are an untranslated sentence


def bundle_with_rates(folder: Path) -> Path:
    """That tells how often it was right, and abstains from scans of other grey values."""
    file = tiny_bundle(folder) / "med_transfer.json"
    record = json.loads(file.read_text())
    record["input_envelope"] |= {"numbers": {"value_p50": [-450, -150]}, "false_alarms": 0.02}
    record |= {
        "abstain_above_novelty": 1.0,
        "operating_point": {"rule": "class_threshold", "thresholds": {"malignant": 0.25}, "chosen_on": "validation"},
        "chosen_point": {
            "rule": "sensitivity",
            "for_class": "malignant",
            "at_least": 0.85,
            "n_scans": 18,
            "n_patients": 16,
            "sensitivity": {"benign": RATE | {"value": 0.75}, "malignant": RATE},
            "specificity": {"benign": RATE, "malignant": RATE | {"value": 0.75}},
        },
    }
    file.write_text(json.dumps(record | {"lock_hash": lock_hash(record)}))
    return folder


def brighter(files: list[Path]) -> list[Path]:
    """By 600 HU: unlike the development scans."""
    for file in files:
        image = dcmread(file)
        image.RescaleIntercept += 600
        image.save_as(file)
    return files


def page_process(node: int) -> int:
    """The node's child that serves the page."""
    children = Path(f"/proc/{node}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    (page,) = [pid for pid in pids if b"\0page\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return page


@contextmanager
def somebody_asks(url: str, cookie: dict[str, str]) -> Iterator[Counter[object]]:
    """For the list, again and again: what was answered, how often."""
    answered: Counter[object] = Counter()
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.05):
            try:
                answered[requests.get(url, cookies=cookie, timeout=240, allow_redirects=False).status_code] += 1
            except requests.ConnectionError:
                answered["nobody"] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered
    finally:
        ended.set()
        thread.join(240)


def lives(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=10).text == "ok\n"
    except requests.RequestException:
        return False


def press_until(tab, selector: str, key: str = "Tab") -> None:
    """By keyboard alone: until the focus is there."""
    for _ in range(80):
        tab.keyboard.press(key)
        if tab.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"no key leads to {selector}")


def seen(tab, url: str) -> str:
    """The page's text, at both widths without anything beyond its edge."""
    tab.goto(url)
    for width in (1400, 400):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), (url, width)
    return tab.inner_text("main")


def sign_in_and_judge(tab, url: str, study: str) -> None:
    """By keyboard alone."""
    tab.goto(url)
    tab.wait_for_function("document.activeElement.id === 'name'")
    tab.keyboard.type("ray")
    tab.keyboard.press("Tab")
    tab.keyboard.type(PASSWORD)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("table.worklist")
    press_until(tab, f"a[href='/study/{study}']")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#status.notice")
    assert "it has no WebGL 2" in tab.inner_text("#status")
    assert not tab.is_visible("#viewer, .controls, #keys")
    press_until(tab, "button[value=agree]")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".notice[role=alert]")
    assert "Saved: you agree." in tab.inner_text(".notice[role=alert]")


@pytest.mark.timeout(900)
def test_a_scan_is_seen_and_judged_while_page_and_node_are_killed(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    port, page_port = free_port(), free_port()
    url = f"http://127.0.0.1:{page_port}"
    config = written(tmp_path, port, 0, destinations=[], page={"port": page_port})
    node = read_node_config(config)
    bundle = bundle_with_rates(tmp_path / "bundle")
    good, rejected = (series(tmp_path / str(n), patient=f"P-{n}", study=n) for n in (1, 2))
    del rejected[3]  # a hole
    abstained = brighter(series(tmp_path / "3", patient="P-3", study=3))
    assert node.page is not None
    access, queue = Access(node, node.page), Queue(node.queue_file)
    access.users.put("ray", "reviewer", PASSWORD)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium.COMMAND, args=list(WITHOUT_WEBGL))
        tab = browser.new_page(locale="en-GB")
        tab.set_default_timeout(120_000)
        with serving(bundle, config, port) as serve:
            announce(port, good)
            assert storescu(port, *good).returncode == 0
            until(lambda: answers(queue))
            until(lambda: lives(url))
            ((study, facts),) = answers(queue).items()
            sign_in_and_judge(tab, url, study)
            before = seen(tab, f"{url}/study/{study}")
            for name, share in facts["probabilities"].items():
                assert name in before
                assert f"{share:.1%}" in before
            assert "88% [64%, 96%]" in before  # sensitivity at the operating point, with interval
            assert "malignant from a probability of 0.25" in before
            cookie = {one["name"]: one["value"] for one in tab.context.cookies()}
            with somebody_asks(url, cookie) as answered:
                until(lambda: answered[200] > 3)
                killed = page_process(serve.pid)
                os.kill(killed, signal.SIGKILL)
                until(lambda: answered["nobody"])
                answered.clear()
                until(lambda: answered[200] > 3)
                assert page_process(serve.pid) != killed
                assert seen(tab, f"{url}/study/{study}") == before, "another page, or signed out"
                announce(port, rejected)
                assert storescu(port, *rejected).returncode == 0
                announce(port, abstained)
                assert storescu(port, *abstained[:5]).returncode == 0
                answered.clear()
                serve.kill()
                serve.join(240)
                of_both = answered[200]
                until(lambda: answered[200] > of_both + 3)  # the page goes on without its node
                assert set(answered) == {200}
        with serving(bundle, config, port), somebody_asks(url, cookie) as answered:
            assert storescu(port, *abstained).returncode == 0  # the modality sends all of it again
            until(lambda: len(answers(queue)) == 3)
            # The third that has the port: the first node's, its successor, and this node's. The one before it may
            # answer for seconds, and then nobody does until this one has started.
            until(lambda: (tmp_path / "serve.log").read_text().count("The review page is at") == 3)
            answered.clear()
            until(lambda: answered[200] > 3)
            assert set(answered) == {200}
            told = {study: seen(tab, f"{url}/study/{study}") for study in answers(queue)}
            assert told[study].replace("Next study", "") == before.replace("Next study", "")
            refused, doubted = (
                told[next(s for s, f in answers(queue).items() if test(f))] for test in (is_rejected, is_doubted)
            )
            assert "Not analysed" in refused
            assert "The slices do not form a usable volume" in refused
            assert "Abstained: the scan is unlike the training data" in doubted
            assert "Outside of the development scans: middle grey value (median)" in doubted
            listed = seen(tab, url)
            assert "3 studies, 3 on this page" in listed
            assert "The slices do not form a usable volume" in listed
            assert "novelty to the network" in seen(tab, f"{url}/load")
            nothing_is_left_in_english(browser, url, cookie, [*told, ""])
        browser.close()
    assert queue.audit().broken == access.audit.audit().broken == 0
    predicted = Counter(entry["study"] for entry in queue.entries() if entry["event"] == "predicted")
    assert set(predicted.values()) == {1}
    with queue.reading() as database:
        assert [(said.user, said.kind) for said in answering.feedback(database)] == [("ray", "agree")]
    queue.close()
    access.close()
    assert not re.search(r"P-[123]\b|PHANTOM", (tmp_path / "serve.log").read_text())


def answers(queue: Queue) -> dict[str, dict]:
    """By study."""
    with queue.reading() as database:
        rows = database.execute("SELECT study, facts FROM answer ORDER BY study").fetchall()
    return {study: json.loads(facts) for study, facts in rows}


def is_rejected(facts: dict) -> bool:
    return facts["status"] == "rejected"


def is_doubted(facts: dict) -> bool:
    return facts["abstained"]


def nothing_is_left_in_english(browser, url: str, cookie: dict[str, str], studies: list[str]) -> None:
    context = browser.new_context(locale="zh-TW")
    context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookie.items()])
    tab = context.new_page()
    paths = [*(f"study/{study}" for study in studies if study), "", "report", "load"]
    for path in paths:
        tab.goto(f"{url}/{path}")
        assert tab.evaluate("document.documentElement.lang") == "zh-TW"
        tab.evaluate("document.querySelectorAll('[lang=en]').forEach(one => one.remove())")
        assert not ENGLISH.findall(tab.inner_text("body")), path
