"""Work items of a remote worklist: claimed, performed, completed or cancelled, whatever happens in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peers import until
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from worklist_server import UID, WorklistServer, work, worklist

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.incoming import study_id
from med_transfer.hospital.pacs import PacsFailed
from med_transfer.hospital.queue import Instance, Queue, ResultFile, SeriesAnswer
from med_transfer.hospital.queue.workitems import Workitems
from med_transfer.hospital.workitems.performer import Performer
from med_transfer.hospital.workitems.service import WorkitemService

STUDY, SR = "1.2.826.7", "1.2.840.10008.5.1.4.1.1.88.34"
TO_PACS = {"ae_title": "PACS", "address": "127.0.0.1", "port": 104}
TO_WEB = {"kind": "dicomweb", "url": "https://archive/dicom-web"}


@pytest.fixture
def server() -> Iterator[WorklistServer]:
    with worklist() as running:
        yield running


Worker = Callable[..., tuple[Performer, Workitems, Queue]]


@pytest.fixture
def worker(node_config, server: WorklistServer, tmp_path: Path) -> Iterator[Worker]:
    """A performer and what it works with; the same name again is the same node after a kill."""
    made: list[tuple[Performer, Queue]] = []

    def make(name: str = "a", **settings: object) -> tuple[Performer, Workitems, Queue]:
        config = config_of(node_config(folder=tmp_path / name), server, **settings)
        config.folder.mkdir(exist_ok=True)
        queue = Queue(config.queue_file, config.retries)
        performer = Performer(config, config.workitems, queue, None)
        made.append((performer, queue))
        return performer, Workitems(queue), queue

    yield make
    for performer, queue in made:
        performer.close()
        queue.close()


def config_of(config: NodeConfig, server: WorklistServer, **settings: object) -> NodeConfig:
    section = {
        "service": {"kind": "dicomweb", "url": server.url},
        "label": "AI",
        "station": {"value": "NODE", "scheme": "99SITE", "meaning": "Node"},
        "poll_seconds": 0.001,
    }
    retries = {"first_seconds": 0.001, "longest_seconds": 0.001}
    own = {"workitems": section | settings, "destinations": [TO_PACS, TO_WEB], "retries": retries}
    return NodeConfig.model_validate(config.model_dump() | own)


def receive(queue: Queue, study_uid: str = STUDY, number: int = 1) -> None:
    """One image of a study has come."""
    study, uid = study_id(study_uid), f"{study_uid}.{number}"
    queue.add(Instance(uid, study, study_uid, f"{study_uid}.9", "mark", "ct", "implicit", "hash", f"{number}"), 0)


def predict(queue: Queue, folder: Path, status: str = "ok", because: tuple[str, ...] = ()) -> ResultFile:
    """The study is predicted, and one report is on the disk."""
    queue.complete(time.time(), 0)
    study = queue.to_predict(time.time())
    assert study is not None
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID, report.SeriesInstanceUID = SR, "2.25.1", "2.25.2"
    (folder / "results").mkdir(exist_ok=True)
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.save_as(folder / "results/2.25.1.dcm", enforce_file_format=True)
    result = ResultFile("2.25.1", SR, "results/2.25.1.dcm")
    facts = {"status": status, "because": list(because)}
    destinations = [("PACS@127.0.0.1:104", False), (TO_WEB["url"], False)]
    assert queue.predicted(study, [result], destinations, time.time(), [facts], [SeriesAnswer(facts)])
    return result


def send(queue: Queue, *destinations: str) -> None:
    for destination in destinations or ("PACS@127.0.0.1:104", TO_WEB["url"]):
        for delivery in queue.to_send(destination, time.time()):
            queue.sent(delivery, time.time())


def states(items: Workitems) -> dict[str, int]:
    return items.counts()


def test_only_what_is_the_nodes_is_claimed_and_once(server, worker):
    own = server.add(work("1.2.1", STUDY))
    others = [
        server.add(work("1.2.2", STUDY, label="other")),
        server.add(work("1.2.3", STUDY, station="OTHER")),
        server.add(work("1.2.4", STUDY, ready="INCOMPLETE")),
    ]
    malformed = {UID: {"vr": "UI", "Value": ["1.2.5"]}, "00404025": {"vr": "LO", "Value": ["NODE"]}}  # no sequence
    server.items["1.2.5"], server.overlooks = server.items[own] | malformed, True
    first, first_items, _ = worker("a")
    second, second_items, queue = worker("b")
    second.choose()  # both have seen it, and the other one was faster
    first.work_due()
    second.work_due()
    first.work_due()
    assert ("PUT", f"workitems/{own}/state", 409) in server.answers
    assert states(first_items) == {"waiting": 1}
    assert states(second_items) == {"lost": 1}
    assert [entry["event"] for entry in queue.entries()] == ["work item lost"]
    second.work_due()  # it is not tried again
    assert server.answers.count(("PUT", f"workitems/{own}/state", 409)) == 1
    assert {server.state(uid) for uid in (*others, "1.2.5")} == {"SCHEDULED"}
    (item,) = first_items.open()
    assert server.items[own]["00081195"]["Value"] == [item.transaction_uid]
    assert own not in repr(item)


def test_an_item_that_cannot_be_looked_at_keeps_no_other_from_being_claimed(server, worker):
    broken, good = server.add(work("1.2.1", STUDY)), server.add(work("1.2.2", "1.2.9"))
    server.broken.add(broken)
    performer, items, _ = worker()
    performer.work_due()
    assert [item.uid for item in items.open()] == [good]


def test_the_urgent_is_claimed_before_what_has_waited_longer(server, worker):
    """Where there is room for one."""
    ordinary, urgent = work("1.2.1", STUDY), work("1.2.2", "1.2.9")
    urgent.ScheduledProcedureStepPriority = "HIGH"
    for item in (ordinary, urgent):
        server.add(item)
    server.includes = True
    performer, items, _ = worker(at_once=1)
    performer.work_due()
    assert [item.uid for item in items.open()] == ["1.2.2"]


def test_what_the_wire_answers_to_who_has_not_claimed(server, node_config):
    config = config_of(node_config(), server)
    service, uid = WorkitemService(config.workitems, 5), server.add(work("1.2.1", STUDY))
    service.change_state(uid, "2.25.7", "IN PROGRESS")
    for answer, ask in (
        ("http_409", lambda: service.change_state(uid, "2.25.8", "IN PROGRESS")),
        ("http_400", lambda: service.update(uid, "2.25.8", Dataset())),
        ("http_400", lambda: service.change_state(uid, "2.25.8", "COMPLETED")),
        ("http_400", lambda: service.change_state(uid, "2.25.8", "CANCELED")),
        ("http_409", lambda: service.change_state(uid, "2.25.7", "COMPLETED")),  # what was done is not said yet
        ("http_404", lambda: service.change_state("1.2.99", "2.25.7", "CANCELED")),
    ):
        with pytest.raises(PacsFailed, match=answer):
            ask()
    assert sum("Transaction UID is incorrect" in warning for warning in server.warnings) == 3
    service.update(uid, "2.25.7", Dataset())
    server.deleted.add(uid)
    with pytest.raises(PacsFailed, match="http_410"):
        service.retrieve(uid)
    assert "TransactionUID" not in server.item(uid) or server.state(uid) == "IN PROGRESS"


def test_completed_with_the_uids_of_the_results_through_a_server_that_is_down(server, worker, tmp_path):
    uid = server.add(work("1.2.1", STUDY))
    performer, items, queue = worker()
    performer.work_due()
    receive(queue)
    performer.work_due()
    assert server.item(uid).ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 10
    server.stop()
    result = predict(queue, tmp_path / "a")
    send(queue, "PACS@127.0.0.1:104")
    performer.work_due()
    assert [item.reason for item in items.open()] == ["unreachable"]
    server.start()
    until(lambda: performer.work_due() or not items.open()[0].reason or items.open()[0].progress == 80)
    assert server.state(uid) == "IN PROGRESS"  # one destination does not have its result yet
    send(queue)
    until(lambda: performer.work_due() or not items.open())
    assert (server.state(uid), states(items)) == ("COMPLETED", {"completed": 1})
    (done,) = server.item(uid).UnifiedProcedureStepPerformedProcedureSequence
    assert done.PerformedStationNameCodeSequence[0].CodeValue == "NODE"
    assert done.PerformedWorkitemCodeSequence[0].CodeValue == "lesion-ct"
    (output,) = done.OutputInformationSequence
    assert (output.StudyInstanceUID, output.SeriesInstanceUID) == (STUDY, "2.25.2")
    (referenced,) = output.ReferencedSOPSequence
    assert (referenced.ReferencedSOPInstanceUID, referenced.ReferencedSOPClassUID) == (result.sop_uid, SR)
    assert [place.RetrieveAETitle for place in output.DICOMRetrievalSequence] == ["PACS"]
    assert [place.RetrieveURL for place in output.WADORSRetrievalSequence] == [
        f"https://archive/dicom-web/studies/{STUDY}/series/2.25.2"
    ]


def test_a_claim_and_an_end_whose_answers_were_lost_count(server, worker, tmp_path):
    uid = server.add(work("1.2.1", STUDY))
    server.lose |= {("PUT", "/state")}
    performer, items, queue = worker()
    performer.work_due()
    assert [item.state for item in items.open()] == ["claiming"]
    again, items, queue = worker()  # killed and restarted
    until(lambda: again.work_due() or states(items) == {"waiting": 1})
    receive(queue)
    predict(queue, tmp_path / "a")
    send(queue)
    server.lose |= {("PUT", "/state")}
    again.work_due()
    assert (server.state(uid), states(items)) == ("COMPLETED", {"waiting": 1})
    last, items, queue = worker()
    until(lambda: last.work_due() or not items.open())
    assert states(items) == {"completed": 1}
    changes = [status for method, path, status in server.answers if (method, path) == ("PUT", f"workitems/{uid}/state")]
    assert changes == [200, 409, 200]
    assert [entry["event"] for entry in queue.entries() if "work item" in entry["event"]] == [
        "work item claimed",
        "work item completed",
    ]
    assert uid not in json.dumps(list(queue.entries()))


def test_canceled_on_request_before_it_is_predicted_and_not_after(server, worker, tmp_path):
    early, late = server.add(work("1.2.1", "1.2.9")), server.add(work("1.2.2", STUDY))
    performer, items, queue = worker()
    performer.work_due()
    receive(queue, "1.2.9")
    receive(queue)
    until(lambda: performer.work_due() or server.heard_by("MEDTRANSFER") == 1)
    assert server.ask_to_cancel(early) == 202
    until(lambda: performer.work_due() or server.state(early) == "CANCELED")
    step = server.item(early).ProcedureStepProgressInformationSequence[0]
    assert step.ReasonForCancellation == "Canceled as requested (cancel_requested)"
    assert [(s.state, s.reason) for s in queue.studies() if s.study_uid == "1.2.9"] == [("dead", "canceled")]
    predict(queue, tmp_path / "a")
    assert server.ask_to_cancel(late) == 202
    until(lambda: any(item.cancel for item in items.open()))
    send(queue)
    performer.work_due()
    assert (server.state(late), states(items)) == ("COMPLETED", {"canceled": 1, "completed": 1})
    assert server.ask_to_cancel(late) == 409
    anew = server.add(work("1.2.4", "1.2.9"))  # somebody still wants the study
    until(lambda: performer.work_due() or server.state(anew) == "IN PROGRESS")
    performer.work_due()
    assert [(s.state, s.reason) for s in queue.studies() if s.study_uid == "1.2.9"] == [("received", "")]
    assert server.state(anew) == "IN PROGRESS"


def test_what_comes_after_the_cancellation_is_kept_and_not_predicted(server, worker):
    """A sender that has begun goes on, and one that has not begins, whatever the worklist says."""
    begun, not_yet = server.add(work("1.2.1", "1.2.9")), server.add(work("1.2.2", "1.2.8"))
    performer, items, queue = worker()
    performer.work_due()
    receive(queue, "1.2.9")
    until(lambda: performer.work_due() or server.heard_by("MEDTRANSFER") == 1)
    assert [server.ask_to_cancel(item) for item in (begun, not_yet)] == [202, 202]
    until(lambda: performer.work_due() or states(items) == {"canceled": 2})
    receive(queue, "1.2.9", 2)
    receive(queue, "1.2.8")
    assert queue.complete(time.time(), 0) == 0
    assert [(study.state, study.reason) for study in queue.studies()] == [("dead", "canceled")] * 2
    server.add(work("1.2.4", "1.2.8"))
    server.add(work("1.2.5", "1.2.9"))
    until(lambda: performer.work_due() or queue.counts() == {"received": 2})
    assert queue.complete(time.time(), 0) == 2
    assert len(queue.images_here(study_id("1.2.9"))) == 2


def test_canceled_with_the_reason_why_there_is_no_answer(server, worker, tmp_path):
    rejected, nothing = server.add(work("1.2.1", STUDY)), server.add(work("1.2.2"))
    missing = server.add(work("1.2.3", "1.2.3.4"))
    performer, items, queue = worker(input_seconds=0.2)
    performer.work_due()
    receive(queue)
    result = predict(queue, tmp_path / "a", status="rejected", because=("GeometryRejected",))
    send(queue)
    until(lambda: performer.work_due() or not items.open())
    assert states(items) == {"canceled": 3}
    said = {}
    for uid in (rejected, nothing, missing):
        assert server.state(uid) == "CANCELED"
        step = server.item(uid).ProcedureStepProgressInformationSequence[0]
        said[uid] = step.ReasonForCancellation, step.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue
    assert said[rejected] == ("The slices do not form a usable volume (GeometryRejected)", "110521")
    assert said[nothing] == ("The input is not exactly one study (not_one_study)", "110514")
    assert said[missing] == ("The study did not come in time (input_not_in_time)", "110523")
    done = server.item(rejected).UnifiedProcedureStepPerformedProcedureSequence[0]
    assert done.OutputInformationSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == result.sop_uid


def test_one_item_that_cannot_be_ended_keeps_no_other_waiting(server, worker, tmp_path):
    stuck, other = server.add(work("1.2.1", STUDY)), server.add(work("1.2.2"))
    performer, items, queue = worker()
    receive(queue)
    result = predict(queue, tmp_path / "a")
    send(queue)
    (tmp_path / "a" / result.file).unlink()
    until(lambda: performer.work_due() or len(items.open()) == 1)
    assert (server.state(stuck), server.state(other)) == ("IN PROGRESS", "CANCELED")
    until(lambda: performer.work_due() or items.open()[0].reason == "unexpected_FileNotFoundError")
