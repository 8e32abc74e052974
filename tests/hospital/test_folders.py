"""Under another orchestrator: a folder in, a folder out, result.json."""

from __future__ import annotations

import json
import subprocess

import peers
import pytest
from peers import free_port, orthanc, series
from pydicom import dcmread
from tiny_bundle import tiny_bundle

pytest.importorskip("highdicom", reason="needs the extra [hospital]")

from med_transfer.hospital.config import Results
from med_transfer.hospital.folders import process
from med_transfer.inference import Predictor
from med_transfer.scans.search.series_rules import SeriesRules


def test_a_module_of_mercure(command, tmp_path, monkeypatch):
    bundle = tiny_bundle(tmp_path / "bundle")
    series(tmp_path / "in")
    monkeypatch.setenv("MERCURE_IN_DIR", str(tmp_path / "in"))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(tmp_path / "out"))
    told = command("node", "process", bundle)
    assert told.code == 0, told.err
    (study,) = json.loads((tmp_path / "out" / "result.json").read_text())["studies"]
    assert study["series"][0]["status"] == "ok"
    assert [dcmread(tmp_path / "out" / file).Modality for file in study["files"]] == ["SR", "OT"]
    assert "P-0001" not in (tmp_path / "out" / "result.json").read_text()


@pytest.mark.skipif(not (peers.ORTHANC and peers.DCMTK), reason="needs orthanc and dcmtk")
def test_mercures_dispatcher_finds_the_results(command, tmp_path, monkeypatch):
    """It sends the DICOM files of the folder itself, not those of folders in it, and only if the module exits with 0.

    Source: mercure, app/dispatch/target_types/builtin.py, app/process/process_series.py.
    """
    series(tmp_path / "in")
    series(tmp_path / "in", series=2, slices=1)  # a localiser, which cannot be predicted
    out = tmp_path / "out"
    monkeypatch.setenv("MERCURE_IN_DIR", str(tmp_path / "in"))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(out))
    told = command("node", "process", tiny_bundle(tmp_path / "bundle"))
    assert (told.code, told.out.startswith("1 of 2 series predicted")) == (0, True), told.err
    with orthanc(tmp_path / "pacs", free_port()) as pacs:
        asked = ["127.0.0.1", str(pacs.dicom), "+sd", str(out), "-aet", "M", "-aec", "ORTHANC", "-nuc", "+sp", "*.dcm"]
        subprocess.run([str(peers.DCMTK).replace("storescu", "dcmsend"), *asked], check=True, timeout=240)
        assert len(pacs.get("/instances")) == 3  # a report, and a page for each series


def test_what_could_not_be_read_stands_in_no_other_patients_report(command, tmp_path):
    of_patient: dict[str, set[str]] = {}
    for number in (1, 2):
        for file in series(tmp_path / "in", patient=f"P-{number}", study=number, slices=2):
            image = dcmread(file)
            image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.2"  # doses
            image.save_as(file)
            of_patient.setdefault(image.PatientID, set()).add(image.SOPInstanceUID)
    told = command("node", "process", tiny_bundle(tmp_path / "bundle"), tmp_path / "in", tmp_path / "out")
    assert told.code == 3
    reports = [dcmread(file) for file in (tmp_path / "out").glob("*.dcm")]
    said = {report.PatientID: report.to_json() for report in reports if report.Modality == "SR"}
    assert said.keys() == of_patient.keys()
    for patient, text in said.items():
        for other, uids in of_patient.items():
            assert {uid in text for uid in uids} == {patient == other}


def test_results_have_the_same_uids_only_if_they_are_the_same(tmp_path):
    """A PACS keeps the first object that comes under a UID, and drops the others."""
    predictor, images = Predictor(tiny_bundle(tmp_path / "bundle")), tmp_path / "in"
    file, *_ = series(images)
    axial = SeriesRules.model_validate({"require": [{"plane": "axial"}]})

    def uids(out: str, rules: SeriesRules | None = None) -> set[str]:
        process(predictor, images, tmp_path / out, rules, Results(heat_map="off"))
        return {path.stem for path in (tmp_path / out).glob("*.dcm")}

    first = uids("first")
    assert uids("again") == first
    assert not uids("by rules", axial) & first
    image = dcmread(file)
    image.PixelData = bytes(len(image.PixelData))
    image.save_as(file)
    assert not uids("of other pixels") & first


def test_without_folders(command, tmp_path, monkeypatch):
    for name in ("MERCURE_IN_DIR", "HOLOSCAN_INPUT_PATH", "MONAI_INPUTPATH"):
        monkeypatch.delenv(name, raising=False)
    told = command("node", "process", tmp_path)
    assert told.code == 2
    assert "MERCURE_IN_DIR and MERCURE_OUT_DIR" in told.err
