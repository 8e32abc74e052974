"""Queries to the PACS: the contents of a study, the list of studies, and sending one; by DIMSE and DICOMweb."""

from __future__ import annotations

import time
from collections.abc import Iterator

import peers
import pytest
from peers import Orthanc, free_port, orthanc, series, storescu, until
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from receiving import receiving
from worklist_server import work, worklist

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.incoming import study_id
from med_transfer.hospital.pacs import FIND, Fetched, PacsFailed, StudyQuery
from med_transfer.hospital.peers import pacs_of
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.queue.workitems import Workitems
from med_transfer.hospital.workitems.performer import Performer

pytestmark = [
    pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk"),
    pytest.mark.skipif(not peers.ORTHANC, reason="needs orthanc"),
]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Holds two CT studies of three images and a page each; the page says CT, as those of dose often do."""
    folder = tmp_path_factory.mktemp("pacs")
    with orthanc(folder / "orthanc", free_port()) as server:
        for number in (1, 2):
            files = series(folder / f"scan{number}", study=number, slices=3)
            page = dcmread(files[0])
            page.SOPClassUID = page.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
            page.SOPInstanceUID = page.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
            page.save_as(folder / "page.dcm")
            assert storescu(server.dicom, *files, folder / "page.dcm", called="ORTHANC").returncode == 0
        yield server


def asking(config: NodeConfig, pacs: Orthanc, kind: str) -> NodeConfig:
    """The node's config with the PACS in it."""
    dicom = {"ae_title": "ORTHANC", "address": "127.0.0.1", "port": pacs.dicom}
    web = {"kind": "dicomweb", "url": f"http://127.0.0.1:{pacs.http}/dicom-web/"}
    return NodeConfig.model_validate(config.model_dump() | {"pacs": dicom if kind == "dicom" else web})


@pytest.mark.parametrize("kind", ["dicom", "dicomweb"])
def test_a_study_is_found_counted_and_fetched(node_config, pacs, kind):
    config = asking(node_config(), pacs, kind)
    pacs.know_node(config.port)
    with receiving(config) as queue:
        asked = pacs_of(config, queue)
        assert asked is not None
        everything = asked.find(StudyQuery(modality="CT", dates="19000101-20991231"))
        assert len(everything) == 2
        assert asked.find(StudyQuery(modality="MR")) == []
        (uid,) = asked.find(StudyQuery(study_uid=everything[0]))
        images = asked.images(uid)
        assert len(images) == 3  # the node does not wait for what it would not accept
        assert asked.images("1.2.3.4.5") == set()
        assert asked.fetch(uid) == Fetched(3, 0)  # nor ask for it: Orthanc would then send nothing
        assert {sop_uid for sop_uid, _ in queue.instances(study_id(uid))} == images


def test_a_pacs_that_forwards_whole_studies_is_not_stopped_by_what_is_no_image(node_config, pacs):
    """Orthanc's job ends at the first object that is refused, and then sends none of the images either."""
    config = node_config()
    pacs.know_node(config.port)
    with receiving(config) as queue:
        (study, *_) = pacs.get("/studies")
        whole = [one["ID"] for one in pacs.get(f"/studies/{study}/instances")]
        kinds = {one: pacs.get(f"/instances/{one}/metadata/SopClassUid", text=True) for one in whole}
        whole.sort(key=lambda one: kinds[one] == "1.2.840.10008.5.1.4.1.1.2")  # the page is first
        pacs.send("POST", "/modalities/node/store", {"Resources": whole, "LocalAet": "CT1", "Synchronous": True})
        uid = pacs.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
        assert (len(whole), len(queue.instances(study_id(uid)))) == (4, 3)
        assert dict(queue.reasons()) == {}
        assert len(list((config.folder / "incoming").glob("*/*"))) == 3


@pytest.mark.parametrize("kind", ["dicom", "dicomweb"])
def test_the_study_of_a_work_item_is_fetched_and_ready_at_once(node_config, pacs, kind):
    with worklist() as server:
        asking_for = {"service": {"kind": "dicomweb", "url": server.url}, "label": "AI", "poll_seconds": 0.001}
        own = {"workitems": asking_for, "destinations": [{"ae_title": "ORTHANC", "address": "x", "port": 1}]}
        config = asking(node_config(**own, study={"quiet_seconds": 600}), pacs, kind)
        pacs.know_node(config.port)
        with receiving(config) as queue:
            asked = pacs_of(config, queue)
            assert asked is not None
            assert config.workitems is not None
            (uid, *_) = asked.find(StudyQuery(modality="CT", dates="19000101-20991231"))
            server.add(work("1.2.1", uid))
            server.add(work("1.2.2", "1.2.3.4.5"))
            performer = Performer(config, config.workitems, queue, asked)
            ends = {"1.2.1": ("waiting", ""), "1.2.2": ("claimed", "study_not_there")}
            until(
                lambda: (
                    performer.work_due()
                    or {item.uid: (item.state, item.reason) for item in Workitems(queue).open()} == ends
                )
            )
            performer.close()
            queue.complete(time.time(), 600)
            assert [(study.study_uid, study.state) for study in queue.studies()] == [(uid, "complete")]


def test_fetch_by_the_command_line(command, node_config, pacs, tmp_path):
    config = asking(node_config(), pacs, "dicom")
    pacs.know_node(config.port)
    path = tmp_path / "node.yaml"
    path.write_text(config.model_dump_json(exclude={"folder"})[:-1] + ', "folder": "state"}')
    for option, value, code, found in (
        ("--dates", "20260101 - 20260131", 2, "--dates: found '20260101 - 20260131'; expected 20260131"),
        ("--accession", "A*", 2, "--accession: has a wildcard"),
        ("--study", "1.2.3.4", 3, f"the PACS {config.pacs.name}: has no such study"),
    ):
        told = command("node", "fetch", "-c", path, option, value)
        assert (told.code, found in told.err) == (code, True), told.err
    everything = ("node", "fetch", "-c", path, "--dates", "19000101-20991231", "--modality", "CT")
    told = command(*everything)  # the node does not run
    assert (told.code, told.out.count("refused_C000")) == (3, 2)
    with receiving(config) as queue:
        told = command(*everything, "--most", "1")
        assert (told.code, told.out.count("3 of 3 images came, 0 failed")) == (0, 1)
        assert told.out.endswith("1 study more is left for the next time: at most 1 is fetched at once (--most)\n")
        told = command(*everything, "--most", "1")  # what is here does not count: the next time brings the next ones
        assert (told.code, told.out.count("is here"), told.out.count("3 of 3")) == (0, 1, 1)
        assert "left for the next time" not in told.out
        assert queue.counts() == {"received": 2}


def test_what_a_pacs_leaves_empty_is_waited_for(node_config):
    """A key that it does not support comes back without a value (PS3.4 C.2.2.1.3), and says nothing of the image."""

    def found(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        answer = Dataset()
        answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
        answer.StudyInstanceUID, answer.SeriesInstanceUID, answer.Modality = "1.2.3", "1.2.3.9", ""
        if answer.QueryRetrieveLevel == "IMAGE":
            answer.SOPInstanceUID, answer.SOPClassUID = "1.2.3.1", ""
        yield 0xFF00, answer
        yield 0x0000, None

    entity, port = AE("PACS"), free_port()
    entity.add_supported_context(FIND)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, found)])
    try:
        config = node_config(pacs={"ae_title": "PACS", "address": "127.0.0.1", "port": port})
        asked = pacs_of(config, Queue(config.queue_file))
        assert asked is not None
        assert asked.images("1.2.3") == {"1.2.3.1"}
    finally:
        server.shutdown()


def test_a_pacs_that_cannot_be_asked_says_why(node_config, pacs):
    down = {"kind": "dicomweb", "url": f"http://127.0.0.1:{free_port()}/dicom-web"}
    stranger = {"ae_title": "ANOTHER", "address": "127.0.0.1", "port": pacs.dicom}
    missing = {"kind": "dicomweb", "url": f"http://127.0.0.1:{pacs.http}/nothing-here"}
    for peer, reason in ((down, "unreachable"), (stranger, "rejected"), (missing, "http_404")):
        config = node_config(pacs=peer)
        asked = pacs_of(config, Queue(config.queue_file))
        assert asked is not None
        with pytest.raises(PacsFailed, match=reason):
            asked.images("1.2.3")
