"""Which bundle the node uses: replaced while it runs, rolled back, the same after a restart; several by route."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import free_port, series
from pydicom import dcmread
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.association import Association
from tiny_bundle import tiny_bundle

from med_transfer.bundle import read_record
from med_transfer.errors import BundleError, ConfigError, UsageError
from med_transfer.hospital import bundles
from med_transfer.hospital.bundles import Bundles, bundle_mark, use
from med_transfer.hospital.config import NodeConfig, require_route
from med_transfer.hospital.incoming import keep, received_file, study_id
from med_transfer.hospital.node import Node
from med_transfer.hospital.queue import Feedback, Queue
from med_transfer.hospital.review.bundle_records import bundle_record
from med_transfer.hospital.sender import Sender
from med_transfer.hospital.updates import rollback, update_record
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.metrics.records.estimate import Estimate


@pytest.fixture(scope="module")
def first_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "first", seed=1)


@pytest.fixture(scope="module")
def second_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "second", seed=2)


def predict(node: Node, scan: list[Path]) -> list[dict[str, object]]:
    """A study as it comes by the network, and what the record says of it."""
    before = len(list(node.queue.entries()))
    for file in scan:
        keep(node._config.folder, node.queue, received_file(file.read_bytes()), 0, 100)
    node.queue.complete(100, 0)
    study = node.queue.to_predict(100)
    assert study is not None
    node.predict(study)
    return [entry for entry in list(node.queue.entries())[before:] if entry["event"] == "predicted"]


def predict_again(node: Node) -> dict[str, object]:
    """As somebody asks for on the page; the last entry of the record."""
    (study,) = node.queue.studies()
    assert node.queue.add_feedback(Feedback("ray", study.id, study.revision, 0, "rerun"), 300)
    return predict(node, [])[-1]


def test_a_bundle_is_exchanged_taken_back_and_the_same_after_a_restart(
    node_config, first_bundle, second_bundle, tmp_path, command
):
    destination = {"ae_title": "PACS", "address": "127.0.0.1", "port": 1}
    off = {"heat_map": "off", "secondary_capture": False}
    config = node_config(destinations=[destination], results=off)
    path = tmp_path / "node.yaml"
    path.write_text(config.model_dump_json())
    scans = [series(tmp_path / f"{number}", series=number, slices=8) for number in (1, 2, 3)]
    node = Node(config, first_bundle, "cpu")
    told = predict(node, scans[0])
    for delivery in node.queue.deliveries():
        node.queue.sent(delivery, 200)
    assert command("node", "use", second_bundle, "-c", path).code == 0  # as if in another process
    told += predict(node, scans[1])  # the same study, a late series
    first, second = (entry["bundle"] for entry in (told[0], told[-1]))
    assert first != second
    *_, report = sorted((config.folder / "results").glob("*.dcm"), key=lambda file: file.stat().st_mtime_ns)
    predecessor = dcmread(report).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == told[0]["outputs"][0]
    assert f"bundle {bundle_mark(second_bundle)} is in use" in command("node", "status", "-c", path).out
    assert command("node", "rollback", "-c", path).out == f"{bundle_mark(first_bundle)} is in use\n"
    node.queue.close()
    with pytest.raises(ConfigError, match=f"{second_bundle.name}: the node uses another bundle"):
        Node(config, second_bundle, "cpu")
    again = Node(config, device="cpu")
    assert predict(again, scans[2])[-1]["bundle"] == first
    updates = [entry for entry in again.queue.entries() if "bundle" in str(entry["event"])]
    assert [entry["event"] for entry in updates] == ["bundle in use", "bundle in use", "bundle rolled back"]
    marks = [bundle_mark(bundle) for bundle in (first_bundle, second_bundle)]
    assert [entry["previous"] for entry in updates] == ["", *marks]
    assert [entry["rollback"] for entry in updates] == ["", *["med-transfer node rollback"] * 2]
    there, back = (entry["changed"]["weights"] for entry in updates[1:])
    assert there == back[::-1]
    assert updates[0]["changed"]["classes"] == [None, "benign, malignant"]
    assert "classes" not in updates[1]["changed"]
    again.queue.close()


def test_a_study_is_not_judged_without_images_that_are_gone_from_the_disk(node_config, first_bundle, tmp_path):
    config = node_config(results={"heat_map": "off", "secondary_capture": False})
    node, scan = Node(config, first_bundle, "cpu"), series(tmp_path / "scan")
    for file in scan:
        keep(config.folder, node.queue, received_file(file.read_bytes()), 0, 100)
    *_, last = sorted((config.folder / "incoming").glob("*/*"), key=lambda path: dcmread(path).InstanceNumber)
    last.unlink()  # at an end of the stack no geometry misses it
    assert predict(node, []) == []
    assert [(study.state, study.reason) for study in node.queue.studies()] == [("complete", "images_deleted")]
    (entry,) = [entry for entry in node.queue.entries() if entry["event"] == "images lost"]
    assert entry["count"] == 1
    assert predict(node, scan)[-1]["images"] == len(scan)  # sent again
    node.queue.close()


def test_a_clock_that_was_wrong_keeps_no_image_for_years(node_config, first_bundle, tmp_path):
    config = node_config(study={"keep_days": 0}, results={"heat_map": "off"})
    node = Node(config, first_bundle, "cpu")
    predict(node, series(tmp_path / "scan"))
    with node.queue.writing() as database:
        database.execute("UPDATE study SET changed = changed + 1e9")
    assert len(list((config.folder / "incoming").glob("*/*"))) == 8
    node._tidy_due()
    assert not list((config.folder / "incoming").glob("*/*"))
    node.queue.close()


def test_an_answer_of_a_study_that_is_not_all_here_says_so(node_config, first_bundle, tmp_path):
    """In every object: the record and the page are not what the PACS shows."""
    config = node_config(results={"heat_map": "off", "secondary_capture": False, "fhir": True})
    scan = series(tmp_path / "scan")
    node, remark = Node(config, first_bundle, "cpu"), "1 of the study's images had not come when this was made"
    image = dcmread(scan[0], stop_before_pixels=True)
    node.queue.announce(study_id(image.StudyInstanceUID), {*(dcmread(file).SOPInstanceUID for file in scan)}, 0)
    *_, last = scan  # at an end of the stack no geometry misses it
    for file in scan[:-1]:
        keep(config.folder, node.queue, received_file(file.read_bytes()), 0, 100)
    assert node.queue.complete(100, 0, longest_seconds=1) == 1
    for whole in (False, True):
        entry = predict(node, [last] if whole else [])[-1]
        assert (entry["status"], entry["images"]) == ("ok", len(scan) - (not whole))
        report, resources = (f"{config.folder}/results/{uid}" for uid in entry["outputs"])
        said = [dcmread(f"{report}.dcm").to_json(), Path(f"{resources}.json").read_text()]
        assert [remark in text for text in said] == [not whole] * 2
    node.queue.close()


def test_a_code_for_a_class_that_no_bundle_has_is_told(node_config, first_bundle, caplog):
    codes = {name: {"value": "1", "scheme": "99SITE", "meaning": name} for name in ("malignant", "malingant")}
    Node(node_config(results={"codes": codes}), first_bundle, "cpu").queue.close()
    assert "results.codes: malingant, and no bundle has such a class" in caplog.text


def test_a_pacs_that_is_down_makes_no_thread_seem_stuck(node_config, first_bundle, tmp_path):
    down = {"ae_title": "PACS", "address": "127.0.0.1", "port": 1}
    config = node_config(pacs=down, metrics={}, retries={"first_seconds": 0.001, "longest_seconds": 0.001})
    node, beats = Node(config, first_bundle, "cpu"), []
    for number in (1, 2, 3):
        (file,) = series(tmp_path / f"{number}", study=number, slices=1)
        keep(config.folder, node.queue, received_file(file.read_bytes()), 0, 100)
    beat = node._pulse.beat
    node._pulse.beat = lambda thread: beats.append(thread) or beat(thread)
    node._count_due()
    assert len(beats) == 3  # each of them may take as long as the network waits
    assert [study.reason for study in node.queue.studies()] == ["pacs_unreachable"] * 3
    node._stopped.set()
    node._count_due()
    assert len(beats) == 3, "who is told to stop asks nobody any more"
    node.queue.close()


def test_a_disk_that_takes_no_results_makes_no_dead_letter(node_config, first_bundle, tmp_path):
    config = node_config(results={"heat_map": "off", "secondary_capture": False}, retries={"predictions": 2})
    node = Node(config, first_bundle, "cpu")
    (config.folder / "results").write_text("in the way")
    assert predict(node, series(tmp_path / "scan")) == []
    for attempts in (1, 2, 3):
        (study,) = node.queue.studies()
        assert (study.state, study.reason, study.attempts) == ("complete", "OutputError", attempts)
        node.predict(study)
    (config.folder / "results").unlink()
    assert predict(node, [])[-1]["status"] == "ok"
    node.queue.close()


def test_an_answer_that_was_replaced_is_sent_again_when_its_bundle_is_back(
    node_config, first_bundle, second_bundle, tmp_path
):
    config = node_config(
        destinations=[{"ae_title": "PACS", "address": "127.0.0.1", "port": 1}],
        results={"heat_map": "off", "secondary_capture": False},
    )
    node = Node(config, first_bundle, "cpu")
    queue, told = node.queue, [predict(node, series(tmp_path / "scan"))[-1]]
    for exchange in (lambda: use(config, queue, second_bundle), lambda: rollback(config, queue), lambda: None):
        exchange()
        for delivery in queue.to_send("PACS@127.0.0.1:1", 1e12):
            queue.sent(delivery, 200)
        told.append(predict_again(node))
    (first,), (second,), (third,), (fourth,) = (entry["outputs"] for entry in told)
    assert len({first, second, third}) == 3  # under the first one's UID it would not be sent to the PACS
    assert third == fourth
    assert not queue.to_send("PACS@127.0.0.1:1", 1e12)  # asked for once more, to the same end
    predecessor = dcmread(config.folder / f"results/{third}.dcm").PredecessorDocumentsSequence[0]
    (reference,) = predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == second
    queue.close()


def test_an_answer_that_a_late_image_takes_away_is_taken_back(node_config, first_bundle, tmp_path):
    """Also where a site wants no objects of studies without an answer: else the first would stay the last word."""
    config = node_config(
        destinations=[{"ae_title": "PACS", "address": "127.0.0.1", "port": 1}],
        results={"heat_map": "off", "secondary_capture": False, "of_rejected": False},
    )
    node, scan = Node(config, first_bundle, "cpu"), series(tmp_path / "scan")
    first = predict(node, scan)[-1]
    assert (first["status"], len(first["outputs"])) == ("ok", 1)
    for delivery in node.queue.deliveries():
        node.queue.sent(delivery, 200)
    late = dcmread(scan[3])  # another image at the same place
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    late.PixelData = bytes(reversed(late.PixelData))
    late.save_as(tmp_path / "late.dcm")
    second = predict(node, [tmp_path / "late.dcm"])[-1]
    assert (second["status"], len(second["outputs"])) == ("rejected", 1)
    report = dcmread(config.folder / f"results/{second['outputs'][0]}.dcm")
    (named,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == first["outputs"][0]
    assert predict(node, series(tmp_path / "other", study=2, slices=1))[-1]["outputs"] == []
    node.queue.close()


def test_what_a_pacs_took_without_an_answer_is_taken_back_too(node_config, first_bundle, tmp_path, monkeypatch):
    """A PACS that is slow to answer has the report, although the node waits to send it again."""
    stored: list[str] = []
    given_up, associate = threading.Event(), AE.associate

    def take(event: evt.Event) -> int:
        stored.append(str(event.dataset.SOPInstanceUID))
        given_up.wait(240)
        return 0

    def patient(self: AE, *given: Any, **named: Any) -> Association:
        self.acse_timeout = self.connection_timeout = 240  # to get there; the node's own time is for the answer alone
        return associate(self, *given, **named)

    monkeypatch.setattr(AE, "associate", patient)
    port = free_port()
    config = node_config(
        destinations=[{"ae_title": "PACS", "address": "127.0.0.1", "port": port}],
        results={"heat_map": "off", "secondary_capture": False, "of_rejected": False},
        limits={"disk_free_gib": 0.0, "network_seconds": 0.3},
    )
    pacs = AE("PACS")
    pacs.supported_contexts = StoragePresentationContexts
    server = pacs.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    node = Node(config, first_bundle, "cpu")
    try:
        first = predict(node, series(tmp_path / "scan"))[-1]
        assert Sender(config, node.queue, config.destinations[0], None).send_due() == 0
        assert [delivery.sop_uid for delivery in node.queue.deliveries()] == stored == first["outputs"] != []
    finally:
        server.shutdown()
    second = predict(node, series(tmp_path / "late", series=2, slices=1))[-1]
    report = dcmread(config.folder / f"results/{second['outputs'][0]}.dcm")
    (named,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == stored[0]
    node.queue.close()


@pytest.mark.parametrize("page", [True, False])
def test_it_is_sent_again_where_there_are_no_reports_too(node_config, first_bundle, second_bundle, tmp_path, page):
    own = {"fhir": [{"url": "http://127.0.0.1:1/fhir"}]}
    if page:
        own = {"destinations": [{"ae_title": "PACS", "address": "127.0.0.1", "port": 1}]}
    results = {"heat_map": "off", "structured_report": not page, "secondary_capture": page, "fhir": not page}
    config = node_config(results=results, **own)
    (receiver,) = (*config.destinations, *config.fhir)
    node = Node(config, first_bundle, "cpu")
    queue = node.queue
    scan = series(tmp_path / "1", series=1) + series(tmp_path / "2", series=2)  # two pages
    told = [predict(node, scan)[-1]]
    sent: list[list[str]] = []
    for exchange in (lambda: use(config, queue, second_bundle), lambda: rollback(config, queue), lambda: None):
        sent.append([delivery.sop_uid for delivery in queue.to_send(receiver.name, 1e12)])
        for delivery in queue.to_send(receiver.name, 1e12):
            queue.sent(delivery, 200)
        exchange()
        told.append(predict_again(node))
    assert [len(uids) for uids in sent] == [1 + page] * 3
    assert not queue.to_send(receiver.name, 1e12)  # asked for once more, to the same end
    assert told[2]["outputs"] == told[3]["outputs"]
    queue.close()


def test_every_series_goes_to_the_bundles_whose_route_wants_it(node_config, first_bundle, second_bundle, tmp_path):
    rules = [
        {"name": "any-ct", "series": {"require": [{"modality": "CT"}]}},
        {"name": "thick-ct", "series": {"require": [{"modality": "CT", "n_slices": [9, None]}]}},
    ]
    config = node_config(routes=rules, results={"heat_map": "off", "secondary_capture": False})
    queue = Queue(config.queue_file)
    use(config, queue, first_bundle, "any-ct")
    with pytest.raises(ConfigError, match="^route 'thick-ct': no bundle is in use.*--route thick-ct"):
        Bundles(config, queue)
    use(config, queue, second_bundle, "thick-ct")
    with pytest.raises(
        ConfigError, match="^node.yaml: has 2 routes, and none is named; expected --route: any-ct or thick-ct"
    ):
        require_route(config, "")
    with pytest.raises(ConfigError, match="^node.yaml: no route 'other'.*one of any-ct, thick-ct"):
        use(config, queue, second_bundle, "other")
    queue.close()
    node = Node(config, device="cpu")
    thin = predict(node, series(tmp_path / "thin", study=1, slices=8))
    thick = predict(node, series(tmp_path / "thick", study=2, slices=10))
    assert (len(thin), len({entry["bundle"] for entry in thick})) == (1, 2)
    other = series(tmp_path / "other", study=3, slices=1)
    dataset = dcmread(other[0])
    dataset.Modality, dataset.SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(other[0])
    (entry,) = predict(node, other)
    assert (entry["status"], entry["reason"]) == ("rejected", "no route wants it")
    node.queue.close()


@pytest.mark.parametrize("routes", [True, False])
def test_what_is_asked_for_and_cannot_be_used_has_a_result_that_says_why(node_config, first_bundle, tmp_path, routes):
    """No result at all would look as if nothing had been there to be analysed."""
    of_volume = {"plane": "axial", "slice_spacing_mm": [None, 5]}  # which slices with a gap do not have
    asked, other = ({"require": [{"modality": name} | of_volume]} for name in ("CT", "MR"))
    results = {"heat_map": "off", "secondary_capture": False}
    if routes:
        config = node_config(routes=[{"name": "ct", "series": asked}, {"name": "mr", "series": other}], results=results)
    else:
        config = node_config(study={"series": asked}, results=results)
    queue = Queue(config.queue_file)
    for route in config.rules_by_route:
        use(config, queue, first_bundle, route)
    queue.close()
    node, scan = Node(config, device="cpu"), series(tmp_path / "scan")
    in_order = sorted(scan, key=lambda file: dcmread(file).ImagePositionPatient[2])
    (entry,) = predict(node, [*in_order[:3], *in_order[5:]])
    assert (entry["status"], entry["because"], len(entry["outputs"])) == ("rejected", ["GeometryRejected"], 1)
    assert str(entry["reason"]).startswith("2 slices missing")
    node.queue.close()


KINDS = {  # what was sent to a site; each must withdraw its own result
    "report": {"structured_report": True},
    "page": {"secondary_capture": True},
    "document": {"encapsulated_pdf": True},
    "fhir": {"fhir": True},
}


ANY_CT = {"name": "any-ct", "series": {"require": [{"modality": "CT"}]}}
FEW_SLICES = {"name": "few-slices", "series": {"require": [{"n_slices": [None, 8]}]}}


def _sent(node: Node) -> None:
    for delivery in node.queue.deliveries():
        if delivery.state == "waiting":
            node.queue.sent(delivery, 200)


def _waiting(node: Node) -> set[str]:
    return {delivery.sop_uid for delivery in node.queue.deliveries() if delivery.state == "waiting"}


def _changed(node: Node, **settings: object) -> Node:
    """The same node, started again with another node.yaml."""
    node.queue.close()
    return Node(NodeConfig.model_validate(node._config.model_dump() | settings), device="cpu")


@pytest.fixture
def unasked(node_config, first_bundle, second_bundle) -> Callable[[str], Node]:
    """A node of two routes that has no study yet."""

    def make(kind: str) -> Node:
        none = {"structured_report": False, "secondary_capture": False, "heat_map": "off", "of_rejected": False}
        config = node_config(
            routes=[ANY_CT, FEW_SLICES],
            destinations=[{"ae_title": "PACS", "address": "127.0.0.1", "port": 1}],
            results=none | KINDS[kind],
            fhir=[{"url": "http://127.0.0.1:1/fhir"}] if kind == "fhir" else [],
        )
        queue = Queue(config.queue_file)
        use(config, queue, first_bundle, "any-ct")
        use(config, queue, second_bundle, "few-slices")
        queue.close()
        return Node(config, device="cpu")

    return make


@pytest.fixture
def two_routes(unasked, tmp_path) -> Callable[..., Node]:
    """A node whose two routes have answered a study, which was sent."""

    def make(kind: str = "report") -> Node:
        node = unasked(kind)
        predict(node, series(tmp_path / "scan"))
        _sent(node)
        return node

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_of_a_route_that_wants_nothing_any_more_is_taken_back(unasked, tmp_path, kind):
    node, scan = unasked(kind), series(tmp_path / "scan", slices=10)
    first = predict(node, scan[:8])
    assert [entry["status"] for entry in first] == ["ok", "ok"]
    _sent(node)
    still, gone = predict(node, scan[8:])
    assert (still["status"], gone["status"], gone["because"]) == ("ok", "rejected", ["not-chosen"])
    assert gone["bundle"] == first[1]["bundle"] != still["bundle"]
    assert _waiting(node) == {*still["outputs"], *gone["outputs"]}
    assert len(_waiting(node)) == 2
    node.queue.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_of_a_route_that_is_no_more_is_taken_back_when_its_study_is_predicted_anew(
    two_routes, tmp_path, kind, caplog, command
):
    node = two_routes(kind)
    first = [entry for entry in node.queue.entries() if entry["event"] == "predicted"]
    assert "node.yaml does not name" not in caplog.text
    node = _changed(node, routes=[ANY_CT])
    told = "1 studies have answers of routes that node.yaml does not name ('few-slices')"
    assert told in caplog.text
    assert _waiting(node) == set(), "a name that is misspelt in node.yaml must take nothing back by itself"
    path = tmp_path / "node.yaml"
    path.write_text(node._config.model_dump_json())
    assert told in command("doctor", "-c", path).out
    assert "node.yaml has the route 'any-ct'" in command("node", "withdraw", "-c", path, "--route", "any-ct").err
    assert command("node", "withdraw", "-c", path, "--route", "few-slices").out == "1 studies will be predicted again\n"
    still, gone = predict(node, [])
    assert (still["outputs"], gone["because"]) == (first[0]["outputs"], ["route-removed"])
    assert gone["bundle"] == first[1]["bundle"]
    assert _waiting(node) == set(gone["outputs"]) != set(first[1]["outputs"])
    if kind == "report":
        report = dcmread(node._config.folder / f"results/{gone['outputs'][0]}.dcm")
        (named,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
        assert named.ReferencedSOPInstanceUID == first[1]["outputs"][0]
    _sent(node)
    assert command("node", "withdraw", "-c", path, "--route", "few-slices").out == "0 studies will be predicted again\n"
    assert "does not name" not in command("doctor", "-c", path).out
    assert predict_again(node)["outputs"] == still["outputs"], "what was taken back is not taken back once more"
    node = _changed(node, routes=[ANY_CT, FEW_SLICES])
    *_, back = predict(node, series(tmp_path / "late", series=2))
    assert back["status"] == "ok", "the route is there again"
    node.queue.close()


def test_a_route_under_another_name_goes_on_with_its_answers(two_routes, second_bundle, tmp_path, caplog):
    node = two_routes()
    first = [entry for entry in node.queue.entries() if entry["event"] == "predicted"]
    use(
        NodeConfig.model_validate(node._config.model_dump() | {"routes": [ANY_CT, FEW_SLICES | {"name": "thin"}]}),
        node.queue,
        second_bundle,
        "thin",
    )
    node = _changed(node, routes=[ANY_CT, FEW_SLICES | {"name": "thin"}])
    (study,) = node.queue.studies()
    assert node.queue.add_feedback(Feedback("ray", study.id, study.revision, 0, "rerun"), 300)
    assert [entry["outputs"] for entry in predict(node, [])] == [entry["outputs"] for entry in first]
    assert _waiting(node) == set(), "nothing new was said"
    *_, later = predict(node, series(tmp_path / "late", series=2))
    report = dcmread(node._config.folder / f"results/{later['outputs'][0]}.dcm")
    (named,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == first[1]["outputs"][0]
    assert node.queue.removed_route_answers(node._bundles.marks) == []
    assert "does not name" not in caplog.text
    node.queue.close()


def test_a_study_without_images_is_taken_back_when_they_are_here_again(two_routes, tmp_path, command):
    node = two_routes()
    (study,) = node.queue.studies()
    node.queue.lost(study.id, node.queue.files(study.id))
    node = _changed(node, routes=[ANY_CT])
    path = tmp_path / "node.yaml"
    path.write_text(node._config.model_dump_json())
    told = command("node", "withdraw", "-c", path, "--route", "few-slices").out
    assert told.startswith("0 studies will be predicted again\n1 more no longer have images here; after node fetch")
    _, gone = predict(node, sorted((tmp_path / "scan").iterdir()))
    assert gone["because"] == ["route-removed"]
    node.queue.close()


def test_an_answer_whose_bundle_is_gone_costs_no_other(two_routes, tmp_path, caplog):
    node = two_routes()
    shutil.rmtree(node._config.bundle_copy(node.queue.bundles("few-slices")[0]))
    node = _changed(node, routes=[ANY_CT])
    (only,) = predict(node, series(tmp_path / "late", series=2))[:1]
    assert only["status"] == "ok"
    assert "the answer of route 'few-slices' cannot be taken back" in caplog.text
    assert len(node.queue.removed_route_answers(node._bundles.marks)) == 1
    node.queue.close()


def test_what_cannot_be_used_leaves_the_present_one_at_work(node_config, first_bundle, second_bundle, tmp_path):
    config = node_config()
    queue = Queue(config.queue_file)
    with pytest.raises(
        ConfigError, match=f"^{config.folder}: no bundle is in use. Run: med-transfer node use BUNDLE -c"
    ):
        Bundles(config, queue)
    loaded = Bundles(config, queue, first_bundle, "cpu")
    with pytest.raises(UsageError, match=f"^{config.folder}: no other bundle was in use"):
        rollback(config, queue)
    with pytest.raises(BundleError):
        use(config, queue, tmp_path)
    at_work = loaded.predictors[""]
    mark = use(config, queue, second_bundle)
    (weights,) = (config.folder / "bundles" / mark).rglob("*.safetensors")
    weights.write_bytes(b"changed")
    loaded.refresh()
    assert loaded.predictors[""] is at_work
    queue.close()


def test_a_bundle_that_cannot_be_read_for_the_page_now_is_read_later(node_config, first_bundle):
    config = node_config()
    queue = Queue(config.queue_file)
    mark = use(config, queue, first_bundle)
    record = config.bundle_copy(mark) / "med_transfer.json"
    aside = record.rename(record.with_suffix(".aside"))
    assert bundle_record(config, mark) is None
    record.mkdir()  # like a drive that does not answer: it exists, but cannot be read
    assert bundle_record(config, mark) is None
    record.rmdir()
    aside.rename(record)
    found = bundle_record(config, mark)
    assert found is not None
    assert found.classes == ("benign", "malignant")
    queue.close()


def test_memory_that_does_not_hold_the_new_bundle_leaves_the_present_one_at_work(
    node_config, first_bundle, second_bundle, monkeypatch
):
    config = node_config()
    queue = Queue(config.queue_file)
    loaded = Bundles(config, queue, first_bundle, "cpu")
    at_work = loaded.predictors[""]
    use(config, queue, second_bundle)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(bundles, "load_bundle", full)  # no full GPU is available here
        loaded.refresh()
    loaded.refresh()  # not tried again with every study
    assert (loaded.predictors[""] is at_work, loaded.marks[""]) == (True, bundle_mark(first_bundle))
    rollback(config, queue)
    use(config, queue, second_bundle)  # once there is memory
    loaded.refresh()
    assert loaded.marks[""] == bundle_mark(second_bundle)
    queue.close()


def test_the_record_of_an_update_has_the_rates_before_and_after(first_bundle):
    rate = {"malignant": Estimate(value=0.8, ci95=(0.7, 0.9), method="Wilson")}
    point = ChosenPoint(rule="argmax", n_scans=80, n_patients=60, sensitivity=rate, specificity={})
    was = read_record(first_bundle)
    told = update_record(was, was.model_copy(update={"chosen_point": point}), "0123")
    assert told["impact"] == {"sensitivity": {"malignant": [None, [0.8, 0.7, 0.9]]}, "specificity": {}}
    assert told["protocol"] == {"rule": "argmax", "scans": 80, "patients": 60}
    assert told["changed"] == {}
