"""What operators see of a node: metrics, liveness, readiness, a log without names; and how it stops."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import HTTPServer, SimpleHTTPRequestHandler
from multiprocessing.process import BaseProcess
from pathlib import Path

import peers
import pytest
from forked import python
from killed import killed_at
from peers import answers, certificate, free_port, series, storescu, until
from planted import leaked
from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread
from pynetdicom import AE, StoragePresentationContexts, evt
from receiving import announce, receiving
from tiny_bundle import tiny_bundle

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.errors import ConfigError, FolderInUse, OutputError, UsageError
from med_transfer.hospital import record
from med_transfer.hospital.backup import back_up, restore
from med_transfer.hospital.config import NodeConfig, read_node_config
from med_transfer.hospital.doctor import _skew
from med_transfer.hospital.health import HealthServer, Pulse
from med_transfer.hospital.log_lines import JsonLines, TextLines, set_up_log
from med_transfer.hospital.node import Node
from med_transfer.hospital.queue import Instance, Queue, ResultFile
from med_transfer.hospital.receiver import VERIFICATION
from med_transfer.hospital.review.access.access import Access

pytestmark = pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk")

PLANTED = {
    "PatientName": "Zwiebelfisch^Quirin",
    "PatientID": "PID-Krokant",
    "PatientBirthDate": "19470311",
    "AccessionNumber": "ACCKESSELFL",
    "ImageComments": "saw Dr Zwiebelfisch",
    "PatientComments": "born Quirin",
    "SeriesDescription": "thorax Quirin",
    "StudyDescription": "Zwiebelfisch",
    "InstitutionName": "Quirinspital",
}
HINTS = ("zwiebel", "quirin", "krokant", "19470311", "kesselfl")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figures(port: int) -> dict[tuple[str, ...], float]:
    """Name, and values of the labels in order of their names, to the value."""
    families = text_string_to_metric_families(get(port, "/metrics")[1])
    return {
        (s.name.removeprefix("med_transfer_"), *(value for _, value in sorted(s.labels.items()))): s.value
        for f in families
        for s in f.samples
    }


def planted(folder: Path, study: int, **changes: object) -> list[Path]:
    """A series that says who its patient is wherever it can."""
    files = series(folder, study=study, slices=4)
    for file in files:
        image = dcmread(file)
        for keyword, value in PLANTED.items():
            setattr(image, keyword, value)
        for keyword, value in changes.items():
            if keyword == "PixelSpacing":
                image[keyword]._value = value
            else:
                setattr(image, keyword, value)
        image.save_as(file)
    return files


@contextmanager
def pacs(port: int, refused: str = "") -> Iterator[list[str]]:
    """Takes results but those of one study; UIDs of what it was sent."""
    sent: list[str] = []

    def store(event: evt.Event) -> int:
        sent.append(str(event.request.AffectedSOPInstanceUID))
        return 0xA700 if event.dataset.StudyInstanceUID == refused else 0

    entity = AE("PACS")
    entity.supported_contexts = StoragePresentationContexts
    entity.add_supported_context(VERIFICATION)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield sent
    finally:
        server.shutdown()


@contextmanager
def working(config: NodeConfig, bundle: Path) -> Iterator[Node]:
    node = Node(config, bundle, "cpu")
    node.start()
    try:
        yield node
    finally:
        assert node.stop()


def test_what_was_announced_is_remembered_for_a_month(bundle, node_config):
    config, now = node_config(), time.time()
    with closing(Queue(config.queue_file)) as queue:
        for days in (29, 31):
            queue.announce(f"{days}", [f"1.2.{days}"], now - days * 86400)
    with working(config, bundle) as node:
        until(lambda: "announced images that never came forgotten" in {one["event"] for one in node.queue.entries()})
        assert [node.queue.forget_announced(now - days * 86400) for days in (30, 28)] == [0, 1]


@pytest.fixture
def log_file(tmp_path, monkeypatch) -> Iterator[Path]:
    """What ``serve --log json`` at level debug would write, with all that libraries say."""
    root, own, shown = logging.getLogger(), logging.getLogger("med_transfer"), warnings.showwarning
    before = root.level, root.handlers[:], own.level
    with (tmp_path / "log").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        set_up_log("json", "debug")
        root.setLevel(logging.DEBUG)
        yield tmp_path / "log"
        root.handlers[:] = before[1]
        root.setLevel(before[0])
        own.setLevel(before[2])
        logging.captureWarnings(False)
        warnings.showwarning = shown


def test_figures_log_status_and_record_name_nobody(bundle, node_config, command, log_file, tmp_path):
    pacs_port, port = free_port(), free_port()
    to_pacs = {"ae_title": "PACS", "address": "127.0.0.1", "port": pacs_port}
    config = node_config(
        destinations=[to_pacs],
        metrics={"port": port},
        study={"quiet_seconds": 600},
        results={"heat_map": "off", "encapsulated_pdf": True},
        retries={"attempts": 1, "predictions": 1, "first_seconds": 0.1},
    )
    taken, refused, odd = (planted(tmp_path / f"{n}", study=n) for n in (1, 2, 3))
    for file in odd:  # a reader's message would contain what it cannot read
        content = file.read_bytes()
        assert content.count(b"1.5\\1.5") == 1
        file.write_bytes(content.replace(b"1.5\\1.5", b"Quirin "))
    uids = [str(dcmread(files[0]).StudyInstanceUID) for files in (taken, refused, odd)]
    other_patient = dcmread(taken[0])
    other_patient.PatientID, other_patient.SOPInstanceUID = "PID-Krokant-B", "1.2.3.4.5"
    other_patient.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    other_patient.save_as(tmp_path / "other.dcm")
    with pacs(pacs_port, refused=uids[1]) as sent, working(config, bundle) as node:
        assert get(port, "/ready")[0] == get(port, "/live")[0] == 200
        for files in (taken, refused, odd):
            announce(config.port, files)
            storescu(config.port, *files)
        storescu(config.port, tmp_path / "other.dcm")
        until(lambda: node.queue.counts().get("dead", 0) + node.queue.counts().get("sent", 0) == 3)
        until(lambda: len(node.queue.reasons()) == 1)
        logging.getLogger("pydicom").critical("cannot read %s", PLANTED["PatientName"])
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"odd: {PLANTED['PatientName']}", stacklevel=1)
        measured, exposition = figures(port), get(port, "/metrics")[1]
        (mark,) = node.queue.bundles("")
        record = json.dumps(list(node.queue.entries()), ensure_ascii=False)
    path = tmp_path / "node.yaml"
    path.write_text(config.model_dump_json())
    status = command("node", "status", "-c", path).out + command("node", "status", "-c", path, "--json").out
    log = log_file.read_text()
    for told in (exposition, record, status, log):
        assert len(told) > 100
        assert leaked(HINTS, told.lower()) == []
        assert not [uid for uid in uids if uid in told]
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "code", "study", "where"} <= line.keys() for line in lines)
    assert {"an_instance_was_set_aside", "library"} < {line["code"] for line in lines}

    assert measured["studies", "dead"] + measured["studies", "sent"] == 3
    assert measured["predictions_total", "ok"] == measured["predict_seconds_count",] == 2
    assert measured["results_sent_total", f"PACS@127.0.0.1:{pacs_port}"] == measured["receive_to_sent_seconds_count",]
    assert measured["failures_total", "another_patient", "receive"] == 1
    assert measured["failures_total", "refused_A700", "send"] >= 1
    assert measured["deliveries", f"PACS@127.0.0.1:{pacs_port}", "dead"] >= 1
    assert measured["bundle_info", mark, ""] == 1
    *edges, last = [float(key[1]) for key in measured if key[0] == "receive_to_sent_seconds_bucket"]
    assert (len(edges) > 5, last) == (True, float("inf"))
    for edge in edges:  # a person reads them: whole hours above an hour, whole minutes above a minute
        assert edge % (3600 if edge > 3600 else 60 if edge > 60 else 10) == 0
    assert measured["disk_free_bytes",] > 0
    assert len(sent) >= 6


@pytest.mark.parametrize("form", [TextLines(), JsonLines()], ids=["text", "json"])
def test_what_was_raised_is_told_without_its_words(form):
    try:
        try:
            float(PLANTED["PatientName"])
        except ValueError as error:
            raise RuntimeError(PLANTED["PatientID"]) from error
    except RuntimeError:
        raised = sys.exc_info()
    ours, theirs = ("med_transfer.hospital.node", "unexpected"), ("highdicom", PLANTED["PatientName"])
    lines = [form.format(logging.LogRecord(name, 30, "f", 1, text, (), raised)) for name, text in (ours, theirs)]
    assert leaked(HINTS, "".join(lines).lower()) == []
    assert "ValueError at test_what_was_raised" in lines[0]
    assert "RuntimeError" in lines[0]
    assert "highdicom" in lines[1]


def test_lines_of_text_say_when():
    record = logging.LogRecord("med_transfer.hospital.node", 30, "f", 1, "unexpected", (), None)
    record.created = datetime(2026, 12, 2, 7, 5, 11, tzinfo=UTC).timestamp()
    assert TextLines().format(record) == "2026-12-02T07:05:11Z WARNING: unexpected"


def test_metrics_are_served_on_an_ipv6_address(node_config):
    config = node_config(metrics={"bind": "::1", "port": free_port()})
    Queue(config.queue_file).close()
    try:
        server = HealthServer(config, config.metrics, lambda: {"disk": True}, Pulse(60))
    except ConfigError as error:
        if "Cannot assign" in str(error):
            pytest.skip("no IPv6 on this machine")
        raise
    try:
        with urllib.request.urlopen(f"http://[::1]:{config.metrics.port}/ready", timeout=10) as answer:
            assert answer.status == 200
    finally:
        server.close()


def test_a_node_that_cannot_work_says_so(node_config):
    config = node_config(metrics={"port": free_port()})
    Queue(config.queue_file).close()
    pulse, ready = Pulse(60), {"disk": True}
    server = HealthServer(config, config.metrics, lambda: ready, pulse)
    try:
        pulse.beat("predict")
        assert get(config.metrics.port, "/live") == (200, '{"ok": true}\n')
        pulse._stuck_seconds = 0.0
        assert get(config.metrics.port, "/live") == (503, '{"ok": false, "predict is stuck": false}\n')
        ready["disk"] = False
        assert get(config.metrics.port, "/ready") == (503, '{"ok": false, "disk": false}\n')
        assert get(config.metrics.port, "/metrics/../secret")[0] == 404
    finally:
        server.close()


def stopped_reader(node: BaseProcess) -> int:
    """The node's process that reads scans, which from now on answers nothing; 0 until there is one."""
    children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(node.pid)], capture_output=True, text=True)
    readers = [int(line.split()[0]) for line in children.stdout.splitlines() if "med_transfer.scans" in line]
    for reader in readers:
        os.kill(reader, signal.SIGSTOP)
    return readers[0] if readers else 0


@pytest.mark.timeout(900)
def test_a_node_told_to_stop_while_it_predicts_leaves_the_study_in_the_queue(bundle, tmp_path):
    port, metrics = free_port(), free_port()
    settings = {
        "folder": "state",
        "port": port,
        "callers": [{"ae_title": "CT1", "address": "127.0.0.1"}],
        "limits": {"disk_free_gib": 0},
        "study": {"quiet_seconds": 600},
        "results": {"heat_map": "off"},
        "metrics": {"port": metrics},
        "stop_seconds": 1,
    }
    config = tmp_path / "node.yaml"
    config.write_text(json.dumps(settings))
    scan, log = series(tmp_path / "scan"), tmp_path / "log"
    queue = Queue(read_node_config(config).queue_file)
    node = python("-m", "med_transfer", "serve", "-c", config, bundle, "--log", "json", out=log)
    reader = 0
    try:
        until(lambda: not node.is_alive() or answers(port))
        announce(port, scan)
        assert storescu(port, *scan).returncode == 0
        reader = until(lambda: stopped_reader(node))
        until(lambda: queue.counts() == {"complete": 1})
        node.terminate()
        node.join(200)  # the reader has 300 s for its scan
        assert node.exitcode == 0
    finally:
        node.kill()
        node.join()
        if reader:
            os.kill(reader, signal.SIGKILL)
    assert queue.counts() == {"complete": 1}
    assert "stopped_while_at_work" in log.read_text()
    with working(read_node_config(config).model_copy(update={"stop_seconds": 60}), bundle):
        until(lambda: queue.counts() == {"predicted": 1})
    assert queue.audit().broken == 0
    queue.close()


def test_a_node_goes_on_elsewhere_from_a_backup_made_while_it_receives(bundle, node_config, command, tmp_path):
    pacs_port = free_port()
    settings = {
        "destinations": [{"ae_title": "PACS", "address": "127.0.0.1", "port": pacs_port}],
        "study": {"quiet_seconds": 600},
        "results": {"heat_map": "off"},
    }
    config, elsewhere = node_config(**settings), node_config(**settings, folder=tmp_path / "elsewhere")
    path, other_path = tmp_path / "node.yaml", tmp_path / "elsewhere.yaml"
    path.write_text(config.model_dump_json())
    other_path.write_text(elsewhere.model_dump_json())
    first, second, third = (series(tmp_path / f"{n}", study=n, slices=4) for n in (1, 2, 3))
    with pacs(pacs_port) as sent:
        with working(config, bundle) as node:
            announce(config.port, first)
            storescu(config.port, *first)
            until(lambda: node.queue.counts() == {"sent": 1})
            announce(config.port, second)
            storescu(config.port, *second[:2])
            assert command("node", "backup", "-c", path, "-o", tmp_path / "backup").code == 0
            storescu(config.port, *third)
            assert command("node", "restore", tmp_path / "backup", "-c", path).code == 2  # it is not empty
            assert list(node.queue.entries())[-1]["event"] == "backed up"
        check = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
        assert subprocess.run(check, cwd=tmp_path / "backup", check=False).returncode == 0
        kept = sorted((tmp_path / "backup/incoming").rglob("*.dcm"))
        assert len(kept) == 6
        assert command("node", "restore", tmp_path / "backup", "-c", other_path).code == 0
        for node_yaml, what in ((path, "backed up"), (other_path, "restored")):
            out = tmp_path / f"{what}.jsonl"
            assert command("node", "export", "--accesses", "-c", node_yaml, "-o", out).code == 0
            assert f'"display": "{what}"' in out.read_text()
        sent_before = list(sent)
        with working(elsewhere, None) as node:
            storescu(elsewhere.port, *second[2:])
            until(lambda: node.queue.counts() == {"sent": 2})
            assert node.queue.audit().broken == 0
            assert "restored" in [entry["event"] for entry in node.queue.entries()]
        assert len(sent_before) == 2
        assert len(sent) == len(set(sent)) == 4  # nothing twice
    kept[0].write_bytes(b"other")
    told = command("node", "restore", tmp_path / "backup", "-c", path)
    assert (told.code, "is not as it was written" in told.err) == (2, True)


def names_in(backup: Path) -> set[str]:
    return {line.partition("  ")[2] for line in (backup / "SHA256SUMS").read_text().splitlines()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_restore_that_was_killed_wherever_it_writes_goes_on(node_config, tmp_path):
    config = node_config()
    with receiving(config):
        storescu(config.port, *series(tmp_path / "scan", slices=2))
    with sole_writer(tmp_path / "backup"), pytest.raises(FolderInUse):
        back_up(config, tmp_path / "backup")
    back_up(config, tmp_path / "backup")
    for moment in itertools.count(1):
        elsewhere = node_config(folder=tmp_path / f"elsewhere-{moment}")
        if not killed_at(moment, lambda elsewhere=elsewhere: restore(elsewhere, tmp_path / "backup")):
            break
        assert stat.S_IMODE(elsewhere.folder.stat().st_mode) == 0o700
        if elsewhere.queue_file.exists():  # it is a node
            break
        restore(elsewhere, tmp_path / "backup")
        names = (path.relative_to(elsewhere.folder) for path in elsewhere.folder.rglob("*") if path.is_file())
        assert {name.as_posix() for name in names} >= names_in(tmp_path / "backup")
        assert not list(elsewhere.folder.rglob("*.partial.*"))
        with closing(sqlite3.connect(elsewhere.queue_file)) as database:
            assert record.audit(database).broken == 0
    assert moment > 2


def test_what_may_have_happened_since_the_backup_counts_after_a_restore(node_config, tmp_path):
    """A result may have been sent, so that a later one must name it, and somebody may have signed out."""
    config, elsewhere = node_config(page={}), node_config(folder=tmp_path / "elsewhere", page={})
    first = Instance("1.2.1", "s", "1.2", "1.4", "m", "ct", "syntax", "hash", "incoming/s/1.dcm")
    with closing(Queue(config.queue_file)) as queue, closing(Access(config, config.page)) as access:
        queue.add(first, 0)
        queue.complete(100, 0)
        result = ResultFile("2.25.1", "sr", "results/2.25.1.dcm")
        assert queue.predicted(queue.to_predict(100), [result], [("PACS@127.0.0.1:4242", False)], 100, [])
        access.users.put("ann", "operator", "a long password")
        secret = access.sessions.begin("ann", "operator", local=True)
        back_up(config, tmp_path / "backup")
        assert access.sessions.find(secret)
    restore(elsewhere, tmp_path / "backup")
    with closing(Queue(elsewhere.queue_file)) as queue, closing(Access(elsewhere, elsewhere.page)) as access:
        assert access.sessions.find(secret) is None
        assert list(queue.entries())[-1]["event"] == "restored"
        queue.add(replace(first, sop_uid="1.2.2"), 200)
        queue.complete(300, 0)
        assert queue.earlier_results(queue.to_predict(300)) == [replace(result, revision=1)]


def test_a_backup_in_the_nodes_folder_is_refused(node_config, tmp_path):
    """Each later backup would hold the earlier ones, too, and all of them be lost with the node's disk."""
    config = node_config()
    Queue(config.queue_file).close()
    (tmp_path / "link").symlink_to(config.folder)
    for out in (config.folder, config.folder / "backup", tmp_path / "link/backup"):
        with pytest.raises(UsageError, match="is in the node's folder; expected a folder elsewhere"):
            back_up(config, out)
    assert not (config.folder / "backup").exists()


def test_a_restore_takes_no_file_away_that_is_another(node_config, tmp_path):
    config, elsewhere = node_config(), node_config(folder=tmp_path / "elsewhere")
    with receiving(config):
        storescu(config.port, *series(tmp_path / "scan", slices=1))
    back_up(config, tmp_path / "backup")
    (image,) = (name for name in names_in(tmp_path / "backup") if name.endswith(".dcm"))
    (elsewhere.folder / image).parent.mkdir(parents=True)
    for other in (image, "review.sqlite"):
        (elsewhere.folder / other).write_bytes(b"mine")
        with pytest.raises(OutputError, match="is not empty; expected a new or an empty folder"):
            restore(elsewhere, tmp_path / "backup")
        assert (elsewhere.folder / other).read_bytes() == b"mine"
        (elsewhere.folder / other).unlink()


def test_a_file_that_was_lost_does_not_keep_the_rest_from_being_backed_up(node_config, command, tmp_path):
    config, path = node_config(), tmp_path / "node.yaml"
    path.write_text(config.model_dump_json())
    with receiving(config):
        storescu(config.port, *series(tmp_path / "scan", slices=3))
    next((config.folder / "incoming").glob("*/*")).unlink()
    told = command("node", "backup", "-c", path, "-o", tmp_path / "backup")
    assert (told.code, len(list((tmp_path / "backup/incoming").glob("*/*")))) == (0, 2)
    assert "1 file named by the queue: not in the node's folder" in " ".join(told.err.split())


def examined(command, path: Path, code: int) -> dict[str, list[tuple[str, object]]]:
    """State and value of what the doctor finds, by its code."""
    told = command("doctor", "-c", path, "--json")
    assert told.code == code, told.out
    found: dict[str, list[tuple[str, object]]] = {}
    for finding in json.loads(told.out):
        assert len(finding["text"]) > 5
        found.setdefault(finding["code"], []).append((finding["state"], finding["value"]))
    return found


def test_the_doctor_reads_what_sign_in_needs(node_config, command, tmp_path):
    _, pem = certificate(tmp_path, "provider", days=100)
    secret, path = tmp_path / "secret", tmp_path / "node.yaml"
    oidc = {"issuer": "https://id.hospital", "client_id": "page", "roles": {"radiology": "reader"}}
    page = {"port": free_port(), "oidc": oidc | {"client_secret": str(secret), "trusted": str(pem)}}
    path.write_text(node_config(page=page).model_dump_json())
    found = examined(command, path, 1)
    assert (found["client_secret"], found["oidc_trusted"][0][0]) == ([("problem", None)], "ok")
    secret.write_text("s3cret")
    pem.unlink()
    found = examined(command, path, 1)
    assert (found["client_secret"], found["oidc_trusted"]) == ([("ok", None)], [("problem", None)])


class Yesterday(SimpleHTTPRequestHandler):
    def date_time_string(self, timestamp: float | None = None) -> str:
        return "yesterday"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-0.004, "the disk's clock agrees with this machine's to the second"),
        (90.2, "the disk's clock is 90 s ahead of this machine's"),
        (-90.2, "the disk's clock is 90 s behind this machine's"),
    ],
)
def test_the_doctor_says_which_clock_is_ahead(seconds, said):
    assert _skew("clock_disk", seconds, "the disk's").text == said


def test_the_doctor_says_that_the_folder_cannot_be_written(node_config, command, tmp_path):
    path, node = tmp_path / "node.yaml", node_config()
    path.write_text(node.model_dump_json())
    shutil.rmtree(node.folder)
    node.folder.write_text("a file in its place")
    found = examined(command, path, 1)
    assert (found["folder"], "running" in found) == ([("problem", None)], False)


def test_the_doctor_says_why_a_peer_cannot_be_reached(node_config, command, tmp_path):
    key, pem = certificate(tmp_path, "node")
    old_key, old_pem = certificate(tmp_path, "old", days=-1)
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(pem.read_text() + old_pem.read_text())
    pacs = node_config(tls={"certificate": old_pem, "key": old_key, "trusted": pem})
    closed, unknown = free_port(), "no-such-host.invalid"
    peers_of = [
        {"ae_title": pacs.ae_title, "address": "127.0.0.1", "port": pacs.port, "tls": True},
        {"ae_title": "PACS", "address": "127.0.0.1", "port": closed},
        {"ae_title": "PACS", "address": unknown, "port": closed},
    ]
    node = node_config(
        folder=tmp_path / "other",
        port=free_port(),
        destinations=peers_of,
        tls={"certificate": pem, "key": key, "trusted": trusted},
    )
    path = tmp_path / "node.yaml"
    path.write_text(node.model_dump_json())
    with receiving(pacs):
        outcome = command("doctor", "-c", path)
    said = [line for line in outcome.out.splitlines() if "C-ECHO" in line]
    assert len(said) == 3, outcome.err
    assert said[0].endswith("unreachable (TLS: certificate has expired)")
    assert said[1].endswith("unreachable (Connection refused)")
    assert said[2].partition("unreachable (")[2] not in ("", "gaierror)")


def test_the_doctor_goes_on_where_a_peers_date_is_none(node_config, command, tmp_path):
    with HTTPServer(("127.0.0.1", 0), Yesterday) as web:
        threading.Thread(target=web.handle_request, daemon=True).start()
        peer = {"kind": "dicomweb", "url": f"http://127.0.0.1:{web.server_port}/dicom-web"}
        path = tmp_path / "node.yaml"
        path.write_text(node_config(destinations=[peer]).model_dump_json())
        found = examined(command, path, 1)
    assert (found["http"][0][0], "clock_http" in found, found["bundle"][0][0]) == ("ok", False, "problem")


def test_the_doctor_of_a_node_that_works_and_of_one_that_does_not(bundle, node_config, command, tmp_path):
    pacs_port, silent = free_port(), free_port()
    key, pem = certificate(tmp_path, "node")
    expired_key, expired = certificate(tmp_path, "old", days=-2)
    for private in (key, expired_key):
        private.chmod(0o600)
    to_pacs = {"ae_title": "PACS", "address": "127.0.0.1", "port": pacs_port}
    good = node_config(
        destinations=[to_pacs],
        metrics={"port": free_port()},
        tls={"certificate": pem, "key": key, "trusted": pem},
    )
    path = tmp_path / "node.yaml"
    path.write_text(good.model_dump_json())
    (tmp_path / "state").chmod(0o700)
    found = examined(command, path, 1)
    assert found["bundle"][0][0] == found["echo"][0][0] == "problem"  # none is in use yet, nobody answers
    assert found["running"] == [("ok", 0.0)]
    assert found["tls_certificate"] == [("warning", pytest.approx(2, abs=0.1))]  # two days count as soon
    with pacs(pacs_port), working(good, bundle) as node, sole_writer(good.folder):
        found = examined(command, path, 0)
        assert found["bundle"] == [("ok", node.queue.bundles("")[0])]
        assert found["running"] == [("ok", 1.0)]
        assert found["echo"] == [("ok", "answers")]
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as web, socket.socket() as taken:
        threading.Thread(target=web.handle_request, daemon=True).start()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bad = node_config(
            port=taken.getsockname()[1],
            destinations=[
                {"kind": "dicomweb", "url": f"http://127.0.0.1:{web.server_port}/dicom-web"},
                {"kind": "dicomweb", "url": f"http://127.0.0.1:{silent}/dicom-web", "token": tmp_path / "none"},
            ],
            limits={"disk_free_gib": 1e9},
            tls={"certificate": pem, "key": expired_key, "trusted": expired},
        )
        path.write_text(bad.model_dump_json())
        found = examined(command, path, 1)
    problems = {code for code, states in found.items() if "problem" in [state for state, _ in states]}
    assert problems == {"port", "http", "token", "disk_free_gib", "tls_certificate", "tls_trusted"}
    assert found["http"][0][0] == found["clock_http"][0][0] == "ok"
    assert command("doctor").out.count("codecs") == 1
