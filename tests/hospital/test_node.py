"""From a modality to the PACS: storescu -> node -> SR and page in Orthanc, through kills and with the PACS down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import peers
import pytest
from peers import Orthanc, free_port, orthanc, series, storescu, until
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, StoragePresentationContexts, evt
from receiving import announce
from serving import serving, working, written
from tiny_bundle import tiny_bundle
from worklist_server import WorklistServer, work, worklist

from med_transfer.hospital.config import read_node_config
from med_transfer.hospital.queue import Queue

pytestmark = [
    pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk"),
    pytest.mark.skipif(not peers.ORTHANC, reason="needs orthanc"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def server() -> Iterator[WorklistServer]:
    with worklist() as running:
        yield running


def results(pacs: Orthanc) -> list[dict]:
    """Tags of what is in the PACS."""
    return [pacs.get(f"/instances/{name}/simplified-tags") for name in pacs.get("/instances")]


@pytest.mark.timeout(900)
def test_from_the_modality_to_the_pacs_through_a_kill(bundle, server, tmp_path):
    port, pacs_port = free_port(), free_port()
    files = [series(tmp_path / f"scan{number}", patient=f"P-{number}", study=number) for number in range(4)]
    asked = server.add(work("1.2.1", str(dcmread(files[0][0]).StudyInstanceUID)))
    workitems = {"service": {"kind": "dicomweb", "url": server.url}, "label": "AI", "poll_seconds": 0.2}
    config = written(tmp_path, port, pacs_port, workitems=workitems)
    queue = Queue(read_node_config(config).queue_file)
    with serving(bundle, config, port) as node:  # the PACS is down
        until(lambda: server.state(asked) == "IN PROGRESS")
        for scan in files[:3]:
            announce(port, scan)
            assert storescu(port, *scan).returncode == 0
        until(lambda: "predicted" in queue.counts())
        announce(port, files[3])
        assert storescu(port, *files[3][:5]).returncode == 0
        node.kill()
        node.join(20)
    with orthanc(tmp_path / "pacs", port, pacs_port) as pacs, serving(bundle, config, port) as node:
        assert storescu(port, *files[3]).returncode == 0  # the modality sends all of it again
        until(lambda: queue.counts() == {"committed": 4} and server.state(asked) == "COMPLETED")
        said = results(pacs)
        assert sorted(tags["Modality"] for tags in said) == ["OT"] * 4 + ["SR"] * 4
        expected = {str(dcmread(scan[0]).StudyInstanceUID): str(dcmread(scan[0]).PatientID) for scan in files}
        assert {tags["StudyInstanceUID"]: tags["PatientID"] for tags in said} == expected
        node.terminate()
        node.join(60)
        assert node.exitcode == 0
    assert queue.audit().broken == 0
    (done,) = server.item(asked).UnifiedProcedureStepPerformedProcedureSequence  # claimed before the kill, ended after
    outputs = [one for output in done.OutputInformationSequence for one in output.ReferencedSOPSequence]
    of_study = {tags["SOPInstanceUID"] for tags in said if tags["PatientID"] == "P-0"}
    assert {one.ReferencedSOPInstanceUID for one in outputs} == of_study
    assert server.answers.count(("PUT", f"workitems/{asked}/state", 200)) == 2
    sent = [entry["sop_uid"] for entry in queue.entries() if entry["event"] == "sent"]
    assert len(sent) == len(set(sent)) == 8
    log = (tmp_path / "serve.log").read_text()
    assert not [patient for patient in ("P-0", "P-1", "P-2", "P-3", "PHANTOM") if patient in log]


@contextmanager
def taking(port: int, do: Callable[[], object] = lambda: None) -> Iterator[list[Dataset]]:
    """A PACS and what it has taken; after each it does something, before it says so."""
    taken: list[Dataset] = []

    def take(event: evt.Event) -> int:
        taken.append(event.dataset)
        do()
        return 0

    pacs = AE("ORTHANC")
    pacs.supported_contexts = StoragePresentationContexts
    server = pacs.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    try:
        yield taken
    finally:
        server.shutdown()


@pytest.mark.timeout(900)
def test_what_a_pacs_took_before_a_kill_is_taken_back_when_a_late_image_comes(bundle, tmp_path):
    port, pacs_port = free_port(), free_port()
    to_pacs = {"ae_title": "ORTHANC", "address": "127.0.0.1", "port": pacs_port}
    reports_alone = {"heat_map": "off", "secondary_capture": False, "of_rejected": False}
    config = written(tmp_path, port, pacs_port, destinations=[to_pacs], results=reports_alone)
    queue, scan = Queue(read_node_config(config).queue_file), series(tmp_path / "scan")
    late = dcmread(scan[3])  # another image at the same position: the study can no longer be analysed
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    late.PixelData = bytes(reversed(late.PixelData))
    late.save_as(tmp_path / "late.dcm")
    with serving(bundle, config, port) as node, taking(pacs_port, node.kill) as taken:
        announce(port, scan)
        assert storescu(port, *scan).returncode == 0
        node.join(240)
        assert node.exitcode
        (first,) = taken
    assert "sent" not in [entry["event"] for entry in queue.entries()], "for all the node knows"
    with serving(bundle, config, port):
        announce(port, [*scan, tmp_path / "late.dcm"])
        assert storescu(port, tmp_path / "late.dcm").returncode == 0
        until(lambda: [study for study in queue.studies("predicted") if study.revision > 1])
        with taking(pacs_port) as taken:
            until(lambda: queue.counts() == {"sent": 1})
    (second,) = taken
    (named,) = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == first.SOPInstanceUID != second.SOPInstanceUID
    assert "Not analysed" in str(second)
    queue.close()


@pytest.mark.timeout(600)
def test_a_late_series_supersedes_and_shadow_sends_nothing(bundle, tmp_path):
    port, pacs_port, http = free_port(), free_port(), free_port()
    by_dicom = {"ae_title": "ORTHANC", "address": "127.0.0.1", "port": pacs_port}
    web = {"kind": "dicomweb", "url": f"http://127.0.0.1:{http}/dicom-web"}
    config = written(tmp_path, port, pacs_port, destinations=[by_dicom | {"storage_commitment": True}, web])
    first, late, other = (series(tmp_path / f"{n}", series=n, study=1 + (n == 3)) for n in (1, 2, 3))
    with orthanc(tmp_path / "pacs", port, pacs_port, http) as pacs:
        with working(config, bundle) as node:
            announce(port, first)
            storescu(port, *first)
            until(lambda: node.queue.counts() == {"committed": 1})
            announce(port, late)
            storescu(port, *late)
            until(lambda: [study for study in node.queue.studies("committed") if study.revision > 1])
            reports = [tags for tags in results(pacs) if tags["Modality"] == "SR"]
            assert len({tags["SeriesInstanceUID"] for tags in reports}) == 1
            earlier, later = sorted(reports, key=lambda tags: int(tags["InstanceNumber"]))
            assert earlier["SOPInstanceUID"] in str(later["PredecessorDocumentsSequence"])
            sent = [entry["destination"] for entry in node.queue.entries() if entry["event"] == "sent"]
            assert sent.count(web["url"]) == len(sent) / 2 == len(pacs.get("/instances"))
        storescu(pacs_port, *other, called="ORTHANC")
        count = len(pacs.get("/instances"))
        queue = Queue(read_node_config(config).queue_file)
        with queue.writing() as writing:  # something still waits when shadow mode begins
            writing.execute("UPDATE delivery SET state = 'waiting' WHERE rowid = 1")
        (waiting,) = [one for one in queue.deliveries() if one.state == "waiting"]
        queue.close()
        asking = {"shadow": True, "pacs": by_dicom, "study": {"quiet_seconds": 0.5}}
        with working(written(tmp_path, port, pacs_port, **asking), bundle) as node:
            storescu(port, *other[:5])
            until(lambda: [study.reason for study in node.queue.studies("received")] == ["missing_3"])
            storescu(port, *other)
            until(lambda: node.queue.counts() == {"committed": 1, "predicted": 1})
            assert node.queue.to_send(waiting.destination, time.time()) == [waiting]
        assert len(pacs.get("/instances")) == count


@pytest.mark.timeout(600)
def test_the_pacs_gets_a_report_in_place_of_that_of_a_route_that_is_no_more(bundle, tmp_path, command):
    port, pacs_port, scan = free_port(), free_port(), series(tmp_path / "scan")
    routes = [{"name": name, "series": {"require": [{"modality": "CT"}]}} for name in ("all", "chest")]
    reports = {"heat_map": "off", "secondary_capture": False}
    path = written(tmp_path, port, pacs_port, routes=routes, results=reports)
    other = tiny_bundle(tmp_path / "other", seed=2)
    for name, of_route in (("all", bundle), ("chest", other)):
        assert command("node", "use", of_route, "-c", path, "--route", name).code == 0
    with orthanc(tmp_path / "pacs", port, pacs_port) as pacs:
        with working(path, None) as node:
            announce(port, scan)
            storescu(port, *scan)
            until(lambda: node.queue.counts() == {"committed": 1})
        path = written(tmp_path, port, pacs_port, routes=routes[:1], results=reports)
        with working(path, None) as node:
            assert command("node", "withdraw", "-c", path, "--route", "chest").code == 0
            until(lambda: len(results(pacs)) == 3 and node.queue.counts() == {"committed": 1})
        said = sorted(results(pacs), key=lambda tags: "route-removed" in str(tags))
        assert ["route-removed" in str(tags) for tags in said] == [False, False, True]
        (before,) = [tags for tags in said[:2] if tags["SeriesInstanceUID"] == said[2]["SeriesInstanceUID"]]
        assert before["SOPInstanceUID"] in str(said[2]["PredecessorDocumentsSequence"])


@pytest.mark.timeout(600)
def test_a_pacs_that_refuses_has_not_been_sent_anything(bundle, tmp_path):
    port, pacs_port = free_port(), free_port()
    config = written(tmp_path, port, pacs_port, retries={"attempts": 2, "first_seconds": 0.1, "longest_seconds": 0.2})
    pacs = AE("ORTHANC")
    pacs.supported_contexts = StoragePresentationContexts
    server = pacs.start_server(
        ("127.0.0.1", pacs_port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda e: 0xA700)]
    )
    scan = series(tmp_path / "scan")
    with working(config, bundle) as node:
        announce(port, scan)
        storescu(port, *scan)
        until(lambda: node.queue.counts() == {"dead": 1})
        assert node.queue.studies()[0].reason == "refused_A700"
        assert "sent" not in [entry["event"] for entry in node.queue.entries()]
        assert node.queue.retry() == 2
    server.shutdown()
