"""Optional results beside report and page: read back with highdicom, checked by dciodvfy, stored by a PACS."""

from __future__ import annotations

import copy
import http.server
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import peers
import pytest
from peers import free_port, orthanc, series
from pydicom import dcmread
from pydicom.dataset import Dataset
from tiny_bundle import tiny_bundle

pytest.importorskip("highdicom", reason="needs the extra [hospital]")

from highdicom import Volume
from highdicom.ko import KeyObjectSelectionDocument
from highdicom.pm import ParametricMap
from highdicom.seg import Segmentation, segread

from med_transfer.errors import ConfigError
from med_transfer.hospital.analysis import Analysis, analyse
from med_transfer.hospital.config import NodeConfig, Results
from med_transfer.hospital.fhir import fhir_bundle
from med_transfer.hospital.fhir_sender import FhirSender
from med_transfer.hospital.queue import Instance, Queue, ResultFile
from med_transfer.hospital.result_header import RESEARCH_ONLY, ResultHeader
from med_transfer.hospital.results import write_results
from med_transfer.hospital.sender import Sender
from med_transfer.inference import Predictor

ALL = Results(segmentation=True, parametric_map=True, key_objects=True, encapsulated_pdf=True, fhir=True)
DCIODVFY = shutil.which("dciodvfy")
TOKEN = "a-secret-of-the-fhir-server"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", seed=1, spacing_mm=(1, 2, 2)))


@pytest.fixture(scope="module")
def analysed(predictor, tmp_path_factory) -> list[Analysis]:
    """One series with a map, one that is too short."""
    folder = tmp_path_factory.mktemp("study")
    series(folder, series=1)
    series(folder, series=2, slices=1)
    return analyse(folder, predictor, heat="plain")


def header(predictor: Predictor) -> ResultHeader:
    own = {"study_uid": "1.2.3", "basis": "b", "revision": 1, "station": "MEDTRANSFER"}
    return ResultHeader.of(predictor.record, predictor.identity, **own)


@pytest.fixture(scope="module")
def state(predictor, analysed, tmp_path_factory) -> tuple[Path, list[ResultFile]]:
    folder = tmp_path_factory.mktemp("state")
    return folder, write_results(folder, analysed, header(predictor), ALL)


ODD = {  # as images in use have them
    "a sex, a day and a time that are none": {"PatientSex": "U", "PatientBirthDate": "00000000", "StudyTime": "9:30"},
    "two values, unknown letters": {"SpecificCharacterSet": "ISO_IR 999", "StudyDate": ["20260101", "20260102"]},
    "Korean with code extensions": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 149"],
        "PatientName": "Hong^Gildong=洪^吉洞=홍^길동",
        "StudyDescription": "흉부",
    },
    "Chinese in the study alone": {
        "SpecificCharacterSet": "GB18030",
        "StudyDescription": "胸部 电脑断层",
        "ProcedureCodeSequence": "胸部",
    },
}


def _procedure(meaning: str) -> list[Dataset]:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99LOCAL", meaning
    return [code]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of what is odd here
@pytest.mark.parametrize("odd", ODD)
def test_odd_words_of_patient_and_study_cost_no_result_and_no_letter(odd, predictor, tmp_path):
    described = "Thorax phantom"
    for file in series(tmp_path / "study"):
        image = dcmread(file)
        for keyword, value in ODD[odd].items():
            setattr(image, keyword, _procedure(value) if keyword.endswith("Sequence") else value)
        image.save_as(file)
        window = b"\x28\x00\x50\x10"  # (0028,1050), whose VR no standard has now
        assert window + b"DS" in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(window + b"DS", window + b"D\x84"))
    analyses = analyse(tmp_path / "study", predictor, heat="plain")
    results = write_results(tmp_path, analyses, header(predictor), ALL)
    of_all = [dcmread(tmp_path / result.file) for result in results if result.file.endswith("dcm")]
    assert len({made.SOPClassUID for made in of_all}) == len(of_all) == 6
    for made in of_all:
        if name := ODD[odd].get("PatientName"):
            assert str(made.PatientName) == name
        if "StudyDescription" in made:
            assert made.StudyDescription == ODD[odd].get("StudyDescription", described)
        if name := ODD[odd].get("ProcedureCodeSequence"):
            assert [code.CodeMeaning for code in made.get("ProcedureCodeSequence", [])] in ([], [name])
        assert made.PatientSex in ("M", "F", "O", "")
        assert made.SpecificCharacterSet in ("ISO_IR 100", "ISO_IR 192")


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of what is odd here
def test_a_backslash_within_a_name_or_number_costs_no_result_and_no_letter(predictor, tmp_path):
    """In Big5 the second byte of some characters is that of the backslash, and few images declare Big5."""
    odd = {"PatientName": "許^功蓋".encode("big5"), "ReferringPhysicianName": b"A^B\\C^D", "PatientID": b"WARD\\0042"}
    assert b"\\" in odd["PatientName"]
    for file in series(tmp_path / "study"):
        image = dcmread(file)
        del image.SpecificCharacterSet
        for keyword, value in odd.items():
            setattr(image, keyword, value)
        image.save_as(file)
    results = write_results(tmp_path, analyse(tmp_path / "study", predictor, heat="plain"), header(predictor), ALL)
    of_all = [dcmread(tmp_path / result.file) for result in results if result.file.endswith("dcm")]
    assert len({made.SOPClassUID for made in of_all}) == len(of_all) == 6
    for made in of_all:
        assert made.SpecificCharacterSet == "ISO_IR 100"  # or else the bytes would be others
        assert {keyword: made.get_item(keyword).value.strip() for keyword in odd} == odd
    (posted,) = [tmp_path / result.file for result in results if result.file.endswith("json")]
    report = json.loads(posted.read_text())["entry"][0]["resource"]
    assert report["subject"]["identifier"]["value"] == "WARD\\0042"


@pytest.mark.skipif(DCIODVFY is None, reason="needs dciodvfy (dicom3tools)")
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of what is odd here
def test_days_of_acr_nema_and_an_empty_frame_of_reference_make_no_invalid_object(predictor, tmp_path):
    odd = {"PatientBirthDate": "1950.01.31", "StudyDate": "2026.01.31", "FrameOfReferenceUID": ""}
    for file in series(tmp_path / "study"):
        image = dcmread(file)
        for keyword, value in odd.items():
            setattr(image, keyword, value)
        image.save_as(file)
    results = write_results(tmp_path, analyse(tmp_path / "study", predictor, heat="plain"), header(predictor), ALL)
    files = [tmp_path / result.file for result in results if result.file.endswith("dcm")]
    assert {named(file) for file in files} >= {"Comprehensive 3D SR Storage", "Encapsulated PDF Storage"}
    for file in files:
        assert (dcmread(file).PatientBirthDate, dcmread(file).StudyDate) == ("19500131", "20260131")
        told = subprocess.run([DCIODVFY, str(file)], capture_output=True, text=True, errors="replace", check=False)
        assert not [line for line in told.stderr.splitlines() if line.startswith("Error")]


def of(state: tuple[Path, list[ResultFile]], kind: str) -> Path:
    (path,) = [state[0] / r.file for r in state[1] if r.file.endswith("dcm") and kind == named(state[0] / r.file)]
    return path


def named(path: Path) -> str:
    return dcmread(path, stop_before_pixels=True).SOPClassUID.name


def heat_of(analysed: list[Analysis]) -> Analysis:
    (analysis,) = [one for one in analysed if one.heat is not None]
    return analysis


def test_the_segmentation_is_where_the_map_is_strong(state, analysed):
    analysis, found = heat_of(analysed), segread(of(state, "Segmentation Storage"))
    values = np.nan_to_num(analysis.heat.values)  # pyright: ignore
    uids = [image.SOPInstanceUID for image in sorted(analysis.images, key=lambda i: i.ImagePositionPatient[2])]
    assert isinstance(found, Segmentation)
    mask = found.get_pixels_by_source_instance(
        uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(mask[..., 0], values >= values.max() / 2)
    assert 0 < mask.sum() < mask.size
    segment = found.get_segment_description(1)
    assert segment.segmented_property_type.meaning == "Where the network found what it takes for the class"
    assert segment.algorithm_type.value == "AUTOMATIC"
    assert RESEARCH_ONLY in found.SeriesDescription


def test_the_parametric_map_holds_the_map(state, analysed):
    values = np.nan_to_num(heat_of(analysed).heat.values)  # pyright: ignore
    found = ParametricMap.from_dataset(dcmread(of(state, "Parametric Map Storage")))
    affine = heat_of(analysed).volume.affine[:, [2, 1, 0, 3]]  # pyright: ignore
    expected = Volume(values / values.max(), affine, "PATIENT", found.FrameOfReferenceUID)
    assert np.allclose(found.get_volume().match_geometry(expected).array, np.clip(expected.array, 0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", ["Segmentation Storage", "Parametric Map Storage"])
def test_the_name_of_their_creator_is_there_and_empty(state, kind):
    """Of type 2 (PS3.3 table 10-12), which dciodvfy does not ask for."""
    assert dcmread(of(state, kind))["ContentCreatorName"].is_empty


def test_the_key_object_is_the_slice_of_the_peak(state, analysed):
    analysis = heat_of(analysed)
    found = KeyObjectSelectionDocument.from_dataset(dcmread(of(state, "Key Object Selection Document Storage")))
    (reference,) = found.content.get_references()
    (image,) = [i for i in analysis.images if i.SOPInstanceUID == reference.referenced_sop_instance_uid]
    assert abs(image.ImagePositionPatient[2] - analysis.heat.record.peak_lps_mm[2]) <= 1.25  # half of a slice


def test_the_document_is_a_pdf_of_all_pages(state):
    found = dcmread(of(state, "Encapsulated PDF Storage"))
    content = found.EncapsulatedDocument[: found.EncapsulatedDocumentLength]
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert b"/Count 2" in content
    assert found.BurnedInAnnotation == "NO"


def test_the_same_pages_give_the_same_objects(state, predictor, analysed, tmp_path):
    settings = Results(structured_report=False, secondary_capture=False, encapsulated_pdf=True)
    again = write_results(tmp_path, analysed, header(predictor), settings)
    first, second = (dcmread(of(one, "Encapsulated PDF Storage")) for one in (state, (tmp_path, again)))
    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert first.EncapsulatedDocument == second.EncapsulatedDocument


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk")
def test_dcmtk_reads_each_without_a_warning(state):
    for result in state[1]:
        if result.file.endswith("dcm"):
            done = run("dcmdump", "-q", state[0] / result.file)
            assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not DCIODVFY, reason="needs dicom3tools")
def test_a_validator_finds_no_error(state):
    for result in state[1]:
        if result.file.endswith("dcm"):
            said = subprocess.run(
                [DCIODVFY, state[0] / result.file], capture_output=True, text=True, check=False
            ).stderr
            assert not [line for line in said.splitlines() if line.startswith("Error")], result


def test_images_that_lack_what_an_object_needs_cost_no_report(predictor, analysed, tmp_path, caplog):
    analysis = heat_of(analysed)
    bare = []
    for image in analysis.images:
        bare.append(Dataset())
        bare[-1].update(image)
        del bare[-1].FrameOfReferenceUID, bare[-1].Rows
    own = Analysis(analysis.prediction, tuple(bare), analysis.volume, "", analysis.heat)
    results = write_results(tmp_path, [own], header(predictor), Results(secondary_capture=False, segmentation=True))
    assert named(tmp_path / results[0].file) == "Comprehensive 3D SR Storage"
    assert "segmentation: none is made" in caplog.text


def test_objects_of_a_map_need_a_map():
    with pytest.raises(ValueError, match="heat_map is off"):
        Results(heat_map="off", segmentation=True)


# To peers -----------------------------------------------------------------------------------------------------


def queue_of(config: NodeConfig, results: list[ResultFile], source: Path) -> Queue:
    """With the results of one study, waiting to be sent."""
    queue = Queue(config.queue_file, config.retries)
    queue.add(Instance("1.2.1", "s", "1.3", "1.4", "m", "ct", "syntax", "hash", "1.dcm"), 0)
    queue.complete(100, 1)
    study = queue.to_predict(100)
    shutil.copytree(source / "results", config.folder / "results")
    names = [(d.name, d.storage_commitment) for d in config.destinations] + [(s.name, False) for s in config.fhir]
    assert queue.predicted(study, results, names, 100, [])  # pyright: ignore
    return queue


@pytest.mark.skipif(not (peers.DCMTK and peers.ORTHANC), reason="needs orthanc")
def test_a_pacs_takes_every_object(state, node_config, tmp_path):
    port = free_port()
    config = node_config(destinations=[{"ae_title": "ORTHANC", "address": "127.0.0.1", "port": port}])
    queue = queue_of(config, state[1], state[0])
    with orthanc(tmp_path / "pacs", config.port, port) as pacs:
        assert Sender(config, queue, config.destinations[0], None).send_due() == 7
        stored = [pacs.get(f"/instances/{name}/simplified-tags") for name in pacs.get("/instances")]
    assert sorted(tags["Modality"] for tags in stored) == ["DOC", "KO", "OT", "OT", "OT", "SEG", "SR"]
    assert len({tags["StudyInstanceUID"] for tags in stored}) == 1


@pytest.mark.skipif(not (peers.DCMTK and peers.ORTHANC), reason="needs orthanc")
def test_a_result_that_cannot_be_read_keeps_no_other_waiting(state, node_config, tmp_path):
    port = free_port()
    config = node_config(destinations=[{"ae_title": "ORTHANC", "address": "127.0.0.1", "port": port}])
    queue = queue_of(config, state[1], state[0])
    (config.folder / state[1][0].file).unlink()
    with orthanc(tmp_path / "pacs", config.port, port) as pacs:
        assert Sender(config, queue, config.destinations[0], None).send_due() == 6
        assert len(pacs.get("/instances")) == 6
    assert queue.studies()[0].reason == "unexpected_FileNotFoundError"


class FhirPeer(http.server.BaseHTTPRequestHandler):
    """As a FHIR server answers a transaction."""

    server: FhirServer

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), content))
        status = self.server.statuses.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(self.answered(content)).encode())

    @staticmethod
    def answered(content: dict) -> dict:
        created = {"response": {"status": "201 Created"}}
        return {"resourceType": "Bundle", "entry": [created for _ in content["entry"]]}

    def log_message(self, *_: object) -> None:
        pass


class FhirServer(http.server.HTTPServer):
    asked: list
    statuses: list[int]


@contextmanager
def fhir_server(*statuses: int) -> Iterator[FhirServer]:
    server = FhirServer(("127.0.0.1", 0), FhirPeer)
    server.asked, server.statuses = [], list(statuses)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(240)
        server.server_close()


def test_a_fhir_server_gets_the_answers_once(state, analysed, node_config, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with fhir_server(503, 302, 200) as server:
        url = f"http://127.0.0.1:{server.server_port}/fhir"
        config = node_config(
            fhir=[{"url": url, "token": tmp_path / "token"}],
            results={"fhir": True},
            retries={"first_seconds": 0.001, "longest_seconds": 0.001},
        )
        queue = queue_of(config, state[1], state[0])
        sender = FhirSender(config, queue, config.fhir[0])
        for reason in ("refused_http_503", "refused_http_302"):
            assert sender.send_due() == 0
            assert queue.studies()[0].reason == reason
            time.sleep(0.002)  # the wait until the next try
        assert sender.send_due() == 1
        assert sender.send_due() == 0
        assert queue.counts() == {"sent": 1}
        path, token, posted = server.asked[-1]
    assert (path, token) == ("/fhir", f"Bearer {TOKEN}")
    check(posted, analysed)


@pytest.mark.parametrize("entry", [{"response": "201 Created"}, {"response": None}, {}, None])
def test_an_odd_answer_of_a_fhir_server_leaves_open_whether_it_took_the_result(
    entry, state, node_config, tmp_path, monkeypatch
):
    odd = staticmethod(lambda content: {"entry": [entry for _ in content["entry"]]})
    monkeypatch.setattr(FhirPeer, "answered", odd)
    with fhir_server(200) as server:
        url = f"http://127.0.0.1:{server.server_port}/fhir"
        config = node_config(fhir=[{"url": url}], results={"fhir": True})
        queue = queue_of(config, state[1], state[0])
        assert FhirSender(config, queue, config.fhir[0]).send_due() == 0
    assert queue.studies()[0].reason == "no_answer"
    assert [delivery.may_be_there for delivery in queue.deliveries()] == [1]


def test_a_patient_without_an_identifier_is_taken_for_nobody(predictor, analysed):
    images = tuple(copy.deepcopy(analysed[0].images))
    for image in images:
        image.PatientID = ""
    bundle = fhir_bundle([replace(analysed[0], images=images)], header(predictor), {})
    subjects = [entry["resource"]["subject"] for entry in bundle["entry"]]
    assert subjects == [{"type": "Patient", "display": "unknown"}] * 2
    pytest.importorskip("fhir.resources.R4B.bundle").Bundle.model_validate(bundle)


@pytest.mark.parametrize("novelty", [None, 0.25])
def test_novelty_is_told_only_where_the_bundle_measures_it(predictor, analysed, novelty):
    answer = next(one for one in analysed if one.prediction.status == "ok")
    answered = replace(answer, prediction=replace(answer.prediction, novelty=novelty))
    posted = fhir_bundle([answered], header(predictor), {})
    bundle = pytest.importorskip("fhir.resources.R4B.bundle").Bundle.model_validate(posted)
    parts = {part.code.text: part.valueQuantity for part in bundle.entry[1].resource.component}
    told = parts.get("Share of training data that is less novel")
    assert (told and float(told.value)) == novelty


def check(posted: dict, analysed: list[Analysis]) -> None:
    """The bundle says what the predictions say, by a model of FHIR that is not ours."""
    bundle = pytest.importorskip("fhir.resources.R4B.bundle").Bundle.model_validate(posted)
    assert {entry.request.method for entry in bundle.entry} == {"POST"}
    assert all(entry.request.ifNoneExist.startswith("identifier=urn:dicom:uid|urn:oid:2.25.") for entry in bundle.entry)
    report, *observations = [entry.resource for entry in bundle.entry]
    assert report.status == "preliminary"
    assert {one.issued for one in observations} == {report.issued}  # which of two reports holds
    assert abs(report.issued.timestamp() - time.time()) < 600
    assert report.conclusion.startswith(RESEARCH_ONLY)
    assert [ref.reference for ref in report.result] == [entry.fullUrl for entry in bundle.entry[1:]]
    assert report.subject.identifier.value == analysed[0].images[0].PatientID
    assert len(observations) == len(analysed) == 2
    for observation, analysis in zip(observations, analysed, strict=True):
        components = {part.code.text: part for part in observation.component}
        if analysis.prediction.status == "ok":
            assert observation.valueCodeableConcept.text == analysis.prediction.predicted
            for name, value in analysis.prediction.probabilities.items():
                assert float(components[f"Probability of {name}"].valueQuantity.value) == pytest.approx(
                    value, abs=1e-12
                )
            assert components["Abstained: unlike the training data"].valueBoolean is False
        else:
            assert observation.dataAbsentReason.text == "Not analysed"
            (part,) = components.values()
            assert part.valueCodeableConcept.coding[0].code == "GeometryRejected"


def taken(resources: dict[str, dict], transaction: dict) -> dict[str, dict]:
    """What a server has after a transaction: by identifier, as R4 has it for a conditional create and update."""
    ways = [entry["request"].get("ifNoneExist") or entry["request"]["url"].partition("?")[2] for entry in transaction]
    for way, entry in zip(ways, transaction, strict=True):
        own = entry["resource"]["identifier"][0]
        assert way == f"identifier={own['system']}|{own['value']}"
        if entry["request"]["method"] == "PUT" or way not in resources:
            resources[way] = entry["resource"]
    return resources


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2), (1, 2, 0, 1), (2, 0, 1)])
def test_a_later_report_replaces_and_withdraws_the_earlier_ones(predictor, analysed, tmp_path, order):
    """Also where a server was not sent one of them, or takes one late."""
    own, sent, transactions = Results(structured_report=False, secondary_capture=False, fhir=True), [], []
    for revision, analyses in enumerate((analysed, analysed[:1], analysed), 1):
        own_header = replace(header(predictor), revision=revision, basis=f"b{revision}")
        sent += write_results(tmp_path, analyses, own_header, own, sent)
        transactions.append(json.loads((tmp_path / sent[-1].file).read_text()))
    resources: dict[str, dict] = {}
    for number in order:
        bundle = pytest.importorskip("fhir.resources.R4B.bundle").Bundle.model_validate(transactions[number])
        assert len({entry.fullUrl for entry in bundle.entry}) == len(bundle.entry)
        taken(resources, transactions[number]["entry"])
    report, *observations = [entry["resource"] for entry in transactions[-1]["entry"][:3]]
    holds = [resource for resource in resources.values() if resource["status"] != "entered-in-error"]
    assert sorted(map(str, holds)) == sorted(map(str, [report, *observations]))
    withdrawn = [one["conclusion"] for one in resources.values() if "conclusion" in one and one is not report]
    assert len(withdrawn) == 2
    assert all(text.endswith("withdrawn: a later one takes its place.") for text in withdrawn)
    (extension,) = report["extension"]
    assert extension["url"] == "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"
    assert extension["valueReference"]["reference"] == transactions[1]["entry"][0]["fullUrl"]
    again = replace(header(predictor), revision=4, basis="b3")  # predicted anew, to the same end
    (same,) = write_results(tmp_path, analysed, again, own, sent)
    assert [entry["fullUrl"] for entry in json.loads((tmp_path / same.file).read_text())["entry"]] == [
        entry["fullUrl"] for entry in transactions[-1]["entry"]
    ]


@pytest.mark.parametrize("url", ["http://10.0.0.1/fhir", "https://user:secret@host/fhir", "ftp://host"])
def test_a_fhir_server_must_be_reached_safely(node_config, url):
    with pytest.raises(ValueError, match="url"):
        node_config(fhir=[{"url": url}], results={"fhir": True})


def test_a_token_or_certificates_that_cannot_be_used_are_named(node_config, tmp_path):
    (tmp_path / "short").write_text("abc\n")
    for own, message in (
        ({"token": tmp_path / "none"}, r"none: No such file"),
        ({"token": tmp_path / "short"}, r"short: holds no token; expected one word of at least 16 ASCII characters"),
        ({"trusted": tmp_path / "short"}, r"fhir \(.*short\): cannot be read; expected certificates as PEM"),
    ):
        config = node_config(fhir=[{"url": "https://host/fhir", **own}], results={"fhir": True})
        with pytest.raises(ConfigError, match=message):
            FhirSender(config, Queue(config.queue_file), config.fhir[0])
