"""How long people wait for the review page's worklist: many at once, ten thousand studies, real HTTP, a real process.

python benchmarks/review_page.py --studies 10000 --people 50

``at once``: everybody requests the list again as soon as they have it; ``reading``: after a pause of five seconds on
average (exponential), like somebody who works through a list. On a machine with other work, the page's own processor
time per list is the most reliable figure.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import requests

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.review.access.access import Access
from med_transfer.hospital.review.process import PageProcess

_STATES = ("received", "predicted", "sent", "committed", "dead")
_PATHS = ("/", "/?state=predicted", "/?sort=patient_name&descending=false", "/?judged=no&sort=top_probability")


def fill(node: NodeConfig, studies: int) -> None:
    """Fill the queue with invented studies."""
    Queue(node.queue_file).close()
    draw = random.Random(0)
    with closing(sqlite3.connect(node.queue_file)) as database, database:
        for number in range(studies):
            study, state = f"{number:016x}", _STATES[number % len(_STATES)]
            database.execute(
                "INSERT INTO study (id, study_uid, patient_mark, state, changed) VALUES (?, ?, 'm', ?, ?)",
                (study, f"1.2.{number}", state, 1.7e9 + number),
            )
            database.execute(
                "UPDATE worklist SET patient_name = ?, patient_id = ?, study_date = '20260102', modality = 'CT', "
                "description = 'CT chest', answer = 'ok', top_class = ?, top_probability = ? WHERE study = ?",
                (f"Name{draw.randrange(10**6)}^Given", f"P{number}", draw.choice("ab"), draw.random(), study),
            )


def person(url: str, secret: str, until: float, pause: float, waits: list[float], failed: list[int]) -> None:
    """Request the list until the given time; seconds of each wait."""
    draw = random.Random(secret)
    with requests.Session() as browser:
        browser.trust_env = False
        browser.cookies.set("session", secret)
        if pause:
            time.sleep(draw.uniform(0, pause))
        while time.monotonic() < until:
            began = time.perf_counter()
            answer = browser.get(url + draw.choice(_PATHS), timeout=60)
            waits.append(time.perf_counter() - began)
            if answer.status_code != 200:
                failed.append(answer.status_code)
            time.sleep(draw.expovariate(1 / pause) if pause else 0)


def processor_seconds(pid: int) -> float:
    """Processor seconds of a process so far. Source: proc(5), utime and stime."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(pid: int, url: str, secrets: list[str], seconds: float, pause: float) -> str:
    """One line of the table."""
    before = processor_seconds(pid)
    waits: list[float] = []
    failed: list[int] = []
    until = time.monotonic() + seconds
    arguments = [(url, secret, until, pause, waits, failed) for secret in secrets]
    threads = [threading.Thread(target=person, args=given) for given in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    median, p95, longest = (1000 * value for value in (*np.quantile(waits, [0.5, 0.95]), max(waits)))
    own = 1000 * (processor_seconds(pid) - before) / len(waits)
    counted = (
        f"{len(waits)} requests, {len(failed)} failed, {len(waits) / seconds:.1f} a second, {own:.1f} ms of processor"
    )
    return f"{counted}, median {median:.0f} ms, p95 {p95:.0f} ms, longest {longest:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--port", type=int, default=18_443)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.yaml"
        path.write_text(f"folder: {folder}/state\npage: {{port: {asked.port}}}\n")
        node = NodeConfig.model_validate({"folder": f"{folder}/state", "page": {"port": asked.port}})
        assert node.page is not None
        fill(node, asked.studies)
        access = Access(node, node.page)
        access.users.put("reader", "reader", "a long password of a benchmark")
        secrets = [access.sessions.begin("reader", "reader", local=True) for _ in range(asked.people)]
        process, url = PageProcess(path), f"http://127.0.0.1:{asked.port}"
        try:
            _until_it_answers(url)
            measure(process.pid, url, secrets[:2], 2.0, 0.0)
            print(f"one person: {measure(process.pid, url, secrets[:1], 5.0, 0.0)}")
            print(f"{asked.people} people reading: {measure(process.pid, url, secrets, asked.seconds, 5.0)}")
            print(f"{asked.people} people at once: {measure(process.pid, url, secrets, asked.seconds, 0.0)}")
        finally:
            process.stop()
            access.close()


def _until_it_answers(url: str) -> None:
    for _ in range(600):
        try:
            requests.get(f"{url}/health", timeout=5)
            return
        except requests.RequestException:
            time.sleep(0.1)
    raise SystemExit("the page does not start")


if __name__ == "__main__":
    main()
