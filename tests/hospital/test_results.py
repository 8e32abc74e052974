"""Results that conform to the standard: read back with highdicom, checked with dcmtk, equal to a batch run's."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import peers
import pytest
import torch
from peers import series
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import Comprehensive3DSRStorage, RLELossless
from tiny_bundle import tiny_bundle

pytest.importorskip("highdicom", reason="needs the extra [hospital]")

from highdicom.sr import CodedConcept, srread

from med_transfer.cohorts.input_facts import INPUT_LENGTHS, INPUT_TEXTS, INPUT_VALUES
from med_transfer.errors import ConfigError, ScanAborted, sentence
from med_transfer.explanation.explained import Explanation
from med_transfer.explanation.faithfulness import Deletion
from med_transfer.explanation.heat import HeatMap
from med_transfer.explanation.record import _IN_PADDING
from med_transfer.explanation.sanity import Sanity
from med_transfer.finetuning.decisions.config import OperatingPointConfig
from med_transfer.hospital.analysis import Analysis, analyse, require_usable
from med_transfer.hospital.codes import REASONS, class_code, probability_code, reason_code
from med_transfer.hospital.config import NodeConfig, Results
from med_transfer.hospital.queue import ResultFile
from med_transfer.hospital.result_header import RESEARCH_ONLY, ResultHeader
from med_transfer.hospital.results import basis_of, facts, write_results
from med_transfer.hospital.secondary_capture import lines, lines_of_refused, page, pixels
from med_transfer.hospital.settings.value_types import CodedEntry
from med_transfer.inference import Predictor
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.page.language import translator
from med_transfer.predictions.table import PredictionTable
from med_transfer.scans.search.series_rules import SeriesRules

HEAT = HeatMap(np.eye(4, dtype=np.float32)[None], (1.0, 1.0, 1.0))
FACTS = (*INPUT_TEXTS, *INPUT_LENGTHS, *INPUT_VALUES, "noise")
CODES = {"malignant": CodedEntry(value="86049000", scheme="SCT", meaning="Malignant neoplasm")}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", seed=1, spacing_mm=(1, 2, 2)))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series, one of them too short to be a volume."""
    folder = tmp_path_factory.mktemp("study")
    series(folder, series=1)
    series(folder, series=2, slices=1)
    return folder


def header(predictor: Predictor, **changes: object) -> ResultHeader:
    own = {"study_uid": "1.2.3", "basis": "b", "revision": 1, "station": "MEDTRANSFER"}
    return ResultHeader.of(predictor.record, predictor.identity, **{**own, **changes})


@pytest.fixture(scope="module")
def written(predictor, study, tmp_path_factory) -> tuple[Path, list]:
    folder, analyses = tmp_path_factory.mktemp("node"), analyse(study, predictor, heat="checked")
    results = write_results(folder, analyses, header(predictor), Results(codes=CODES))
    return folder, [folder / result.file for result in results]


def named(items, meaning: str):
    return next(item for item in items if item.name.meaning == meaning)


def test_the_report_says_what_a_batch_run_says(written, predictor, study, tmp_path):
    predictor.predict_folder(study, tmp_path / "out")
    rows = {row.series_uid: row for row in PredictionTable.load(tmp_path / "out" / "predictions.csv")}
    report = srread(written[1][0])
    groups = report.content.get_image_measurement_groups()
    assert len(groups) == len(rows) == 2
    by_uid = {str(dcmread(path).SOPInstanceUID): dcmread(path) for path in study.iterdir()}
    for group in groups:
        about = {by_uid[image.referenced_sop_instance_uid].SeriesInstanceUID for image in group.source_images}
        row = rows[str(about.pop())]
        assert not about
        numbers = {m.name.meaning: m[0].MeasuredValueSequence[0].FloatingPointValue for m in group.get_measurements()}
        novelty = numbers.pop("Share of training data that is less novel", None)
        assert numbers == {f"Probability of {name}": value for name, value in row.probabilities.items()}
        assert novelty == row.novelty
        said = {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()}
        if row.status == "ok":
            predicted = {"malignant": "Malignant neoplasm"}.get(row.predicted, row.predicted)
            assert said["Predicted class"] == predicted
            assert said["Abstained: unlike the training data"] == ("Yes" if row.abstained else "No")
        else:
            assert said == {
                "Analysis": "Not analysed",
                "Reason why there is no answer": "The slices do not form a usable volume",
            }
        comment = [item for item in group[0].ContentSequence if item.name.meaning == "Comment"]
        assert [item.value for item in comment] == ([" ".join(row.reason.split())] if row.reason else [])


def test_the_report_is_of_the_study_and_not_verified(written, study):
    report, image = dcmread(written[1][0]), dcmread(next(study.iterdir()))
    assert report.StudyInstanceUID == image.StudyInstanceUID
    assert report.PatientID == image.PatientID
    assert report.SeriesInstanceUID != image.SeriesInstanceUID
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert RESEARCH_ONLY in report.SeriesDescription
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MEDTRANSFER"
    assert "bundle SHA-256" in report.to_json()
    assert "operating point: the most probable class" in report.to_json()


def test_the_page_is_a_picture_of_the_study(written, study):
    page, image = dcmread(written[1][1]), dcmread(next(study.iterdir()))
    assert page.StudyInstanceUID == image.StudyInstanceUID
    assert page.pixel_array.shape == (1024, 1024, 3)
    assert page.PatientOrientation == ""  # three planes have three
    assert page.BurnedInAnnotation == "NO"
    top = page.pixel_array[:40].reshape(-1, 3)
    assert np.count_nonzero((top[:, 0] > 200) & (top[:, 2] < 120)) > 500  # yellow letters: research use only
    pages = [dcmread(path).pixel_array[400:800].reshape(-1, 3).astype(int) for path in written[1][1:]]
    orange = sorted(np.count_nonzero(own[:, 0] > own[:, 2] + 60) for own in pages)
    assert orange[0] == 0  # of the series that could not be used
    assert orange[1] > 1000  # the map


def test_the_page_of_a_map_says_what_its_colours_mean_and_what_is_doubtful(study, predictor):
    (explained,) = (analysis for analysis in analyse(study, predictor, heat="checked") if analysis.heat)
    failed = Explanation(HEAT, 0.5, Deletion(0.05, 0.01, (0.02,) * 20), Sanity((0.95,) * 3))
    doubts = (*failed.doubts, _IN_PADDING)
    assert len(doubts) == 3  # an empty or uniform map is not checked: no map has more
    record = explained.heat.record.model_copy(update={"doubts": doubts})
    said = " ".join(lines(replace(explained, heat=replace(explained.heat, record=record)), header(predictor)))
    assert f"orange supports {record.class_name}, blue opposes it (Grad-CAM); it need not be the finding." in said
    assert [doubt for doubt in doubts if doubt not in said] == []
    assert "orange" not in " ".join(lines(replace(explained, heat=None), header(predictor)))


def test_a_class_with_a_backslash_is_one_value_of_dicom():
    for code in (class_code("benign\\atypical", {}), probability_code("benign\\atypical" * 9)):
        concept = CodedConcept(code.value, code.scheme_designator, code.meaning)
        assert concept["CodeMeaning"].VM == 1
        assert "benign/atypical" in concept.CodeMeaning
        assert len(concept.CodeMeaning) <= 64


def test_long_names_of_classes_that_differ_at_the_end_look_different_everywhere(predictor, study):
    names = [f"solid pulmonary nodule with a largest diameter in the axial plane {size} 6 mm" for size in ("<", ">")]
    for coded in ([class_code(name, {}) for name in names], [probability_code(name) for name in names]):
        assert len({code.meaning for code in coded}) == 2
        assert {len(code.meaning) for code in coded} == {64}
    (analysis,) = [analysis for analysis in analyse(study, predictor) if analysis.volume is not None]
    prediction = replace(analysis.prediction, predicted=names[0], probabilities={names[0]: 0.7, names[1]: 0.3})
    said = "\n".join(lines(replace(analysis, prediction=prediction), header(predictor)))
    assert re.search(r"70\.0%  solid pulmon.*< 6 mm", said)
    assert re.search(r"30\.0%  solid pulmon.*> 6 mm", said)


def test_nearly_certain_is_not_written_as_certain(predictor, study):
    (analysis,) = [analysis for analysis in analyse(study, predictor) if analysis.volume is not None]
    prediction = replace(analysis.prediction, probabilities={"benign": 0.99996, "malignant": 0.00004})
    said = "\n".join(lines(replace(analysis, prediction=prediction), header(predictor)))
    assert re.search(r"99\.996%  benign", said)
    assert re.search(r"0\.004%  malignant", said)


def test_a_page_says_why_there_is_no_answer(predictor, study):
    pages = [lines(analysis, header(predictor)) for analysis in analyse(study, predictor)]
    (refused,) = [page for page in pages if page[0] == "NOT ANALYSED"]
    assert "slice" in refused[1]
    assert "codes: GeometryRejected" in refused


def test_series_without_an_answer_share_one_page(predictor, study, tmp_path):
    """Of an MR study under a bundle of CT there would be one for each of its hundred series."""
    analyses = analyse(study, predictor)
    (good,) = [a for a in analyses if a.volume is not None]
    (short,) = [a for a in analyses if a.volume is None]
    refused = [
        replace(short.prediction, found="modality MR", reason=f"series {n}: modality MR; expected CT")
        for n in range(40)
    ]
    of_mr = [replace(short, prediction=one, refusal="InputRejected") for one in refused]
    many = [short, *of_mr, good]
    files = write_results(tmp_path, many, header(predictor), Results(encapsulated_pdf=True))
    report, *objects = [dcmread(tmp_path / file.file) for file in files]
    assert [one.Modality for one in objects] == ["OT", "OT", "DOC"]
    groups = srread(tmp_path / files[0].file).content.get_image_measurement_groups()
    assert len(groups) == len(many)
    said = lines_of_refused([short, *of_mr], header(predictor))
    assert said[0].startswith("NOT ANALYSED: 41 series")
    assert "40 series: modality MR (codes: InputRejected)" in said
    assert sum(line.startswith("1 series: ") for line in said) == 1
    strange = [replace(short, prediction=replace(short.prediction, found=f"reason {n}")) for n in range(30)]
    assert "and 22 more reasons" in lines_of_refused(strange, header(predictor))
    assert lines_of_refused([short], header(predictor)) == lines(short, header(predictor))
    assert report.StudyInstanceUID == objects[0].StudyInstanceUID


def test_a_page_draws_names_as_they_are_and_writes_out_what_it_has_no_letters_for(predictor, study):
    (analysis,) = [analysis for analysis in analyse(study, predictor) if analysis.volume is not None]
    names = ("$\\frac{1", "$x", "肺\ue123")
    prediction = replace(analysis.prediction, predicted=names[0], probabilities=dict.fromkeys(names, 0.3))
    drawn = page(replace(analysis, prediction=prediction, heat=None), header(predictor))
    assert pixels(drawn).shape == (1024, 1024, 3)
    said = drawn.texts[-1].get_text()
    assert [name in said for name in ("$\\frac{1", "$x", "\\ue123")] == [True] * 3


@pytest.fixture(scope="module")
def abstaining(predictor, study) -> tuple[Predictor, Analysis]:
    """Of a bundle whose development scans were heads with thin slices, and whose operating point has rates."""
    own, rates = copy.copy(predictor), {"benign": rate(0.8, 0.7, 0.9), "malignant": rate(0.87, 0.79, 0.92)}
    envelope = own.record.input_envelope.model_copy(update={"numbers": {"slice_mm": (0.5, 1.0)}})
    own.record = own.record.model_copy(
        update={
            "input_envelope": envelope.model_copy(update={"texts": {"body_part": ("HEAD",)}}),
            "abstain_above_novelty": 1.0,
            "chosen_point": ChosenPoint(rule="argmax", n_scans=90, n_patients=80, sensitivity=rates, specificity=rates),
        }
    )
    (analysis,) = [a for a in analyse(study, own) if a.volume is not None]
    return own, analysis


def rate(value: float, *interval: float) -> Estimate:
    return Estimate(value=value, ci95=interval, method="Wilson")  # pyright: ignore


def test_why_a_prediction_abstains_stands_in_every_object_in_words_and_codes(abstaining, tmp_path):
    predictor, analysis = abstaining
    assert analysis.reasons == ("outside_slice_mm", "outside_body_part")
    (result, _) = write_results(tmp_path, [analysis], header(predictor), Results())
    (group,) = srread(tmp_path / result.file).content.get_image_measurement_groups()
    why = [item.value for item in group.get_qualitative_evaluations() if item.name.meaning == "Reason for abstaining"]
    assert [code.value for code in why] == ["out-slice-mm", "out-body-part"]
    assert why[1].meaning == "Outside of the development scans: body_part"
    (comment,) = [item.value for item in group[0].ContentSequence if item.name.meaning == "Comment"]
    assert "slice_mm 2.5 lies outside of 0.5 to 1" in comment
    page = lines(analysis, header(predictor))
    assert page[0] == "ABSTAINED: the scan is unlike the training data"
    assert "codes: outside_slice_mm, outside_body_part" in page
    assert any("body_part CHEST: the development scans are HEAD" in line for line in page)
    assert facts(analysis, "bundle", "basis", [])["because"] == ["outside_slice_mm", "outside_body_part"]


def test_the_page_has_the_rates_of_the_bundle(abstaining):
    page = lines(abstaining[1], header(abstaining[0]))
    assert any(line.split()[1:4] == ["malignant", "87%", "[79%,"] for line in page)
    assert "rates with 95 % interval on 80 validation patients" in page


@pytest.mark.parametrize("rule", get_args(ChosenPoint.model_fields["rule"].annotation))
def test_rates_are_called_too_high_only_where_the_point_was_chosen_on_these_patients(abstaining, rule):
    """Of the default rule, whose point is fixed before training, it was said as well."""
    own = copy.copy(abstaining[0])
    chosen = own.record.chosen_point.model_copy(update={"rule": rule, "at_least": 0.9})
    own.record = own.record.model_copy(update={"chosen_point": chosen})
    asked = {"sensitivity": {"class": "benign", "at_least": 0.9}, "thresholds": {"thresholds": {"benign": 0.5}}}
    costs = {"cost": {"costs": {"benign": {"malignant": 1}, "malignant": {"benign": 1}}}}
    config = OperatingPointConfig.model_validate({"rule": rule} | (asked | costs).get(rule, {}))
    assert ("rather too high" in header(own).rates_of) == config.is_chosen == (rule in ("youden", "sensitivity"))


@pytest.mark.parametrize("reason", [*REASONS, "novelty", *(f"outside_{name}" for name in FACTS)])
def test_every_reason_has_a_code_of_its_own(reason):
    code = reason_code(reason)
    assert (len(code.value) <= 16, len(code.meaning) <= 64) == (True, True)
    assert code.meaning != "Cannot be used"


def test_a_map_that_cannot_be_made_costs_no_answer(predictor, study, caplog):
    own = copy.copy(predictor)
    own.torch_network = torch.nn.Identity()  # nothing that Grad-CAM could read
    analyses = analyse(study, own, heat="plain")
    assert [analysis.prediction.status for analysis in analyses if analysis.volume is not None] == ["ok"]
    assert not [analysis for analysis in analyses if analysis.heat is not None]
    assert "no heat map" in caplog.text


@pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk")
def test_dcmtk_reads_it_without_a_warning(written):
    for path in written[1]:
        for command in (["dcmdump", "-q", str(path)], ["dsrdump", "-Er", str(path)]):
            if command[0] == "dsrdump" and path != written[1][0]:
                continue
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")


def test_the_same_images_give_the_same_uids(predictor, node_config):
    config: NodeConfig = node_config()
    instances = [("1.2.3.1", "hash")]
    basis = basis_of(instances, predictor.identity, config.results)
    assert basis == basis_of(instances, predictor.identity, config.results)
    assert basis != basis_of([("1.2.3.1", "other")], predictor.identity, config.results)
    first, other = header(predictor, basis=basis), header(predictor, basis=basis, study_uid="1.2.4")
    assert first.sop_uid("SR") == header(predictor, basis=basis).sop_uid("SR")
    assert len({first.sop_uid("SR"), first.sop_uid("SC"), first.sop_uid("SC", 1), other.sop_uid("SR")}) == 4
    assert first.series_uid("SR") == header(predictor, revision=2, basis="x").series_uid("SR")


def test_rules_choose_one_series_or_say_why_none(predictor, study):
    chosen = analyse(study, predictor, SeriesRules.model_validate({"require": [{"modality": "CT"}]}))
    assert [analysis.prediction.status for analysis in chosen] == ["ok"]
    (none,) = analyse(study, predictor, SeriesRules.model_validate({"require": [{"modality": "MR"}]}))
    assert none.prediction.status == "rejected"
    assert "requirement 1 not met, modality CT" in none.prediction.reason
    assert none.images


def test_damaged_files_are_told_once_and_a_study_of_nothing_else_is_tried_again(predictor, tmp_path):
    whole, cut = series(tmp_path / "study", series=1), series(tmp_path / "study", series=2)
    for path in cut[:3]:
        path.write_bytes(path.read_bytes()[:700])
    analyses = analyse(tmp_path / "study", predictor)
    damaged = [analysis for analysis in analyses if not analysis.prediction.series_uid]
    assert len(damaged) == 1
    assert damaged[0].prediction.status == "rejected"
    kept = json.loads(json.dumps(facts(damaged[0], "bundle", "basis", [])))  # as the queue has it
    assert kept["reason"] == str(sentence.whole(kept["reason_in_parts"])) == damaged[0].prediction.found
    assert "被截斷" in translator("zh-TW").translated(sentence.whole(kept["reason_in_parts"]))
    assert [analysis.prediction.status for analysis in analyses[:-1]] == ["ok", "ok"]  # what is left is a volume
    for path in (*whole, *cut[3:]):
        path.unlink()
    with pytest.raises(ScanAborted, match="study: none of 3 files can be read"):
        analyse(tmp_path / "study", predictor)


def unpacks_to_gigabytes(image: Dataset) -> None:
    image.Rows = image.Columns = 65535
    segment = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + b"\x81\x00" * 50
    image.PixelData, image.file_meta.TransferSyntaxUID = encapsulate([segment]), RLELossless
    image["PixelData"].VR = "OB"


def claims_a_billion_frames(image: Dataset) -> None:
    image.NumberOfFrames = 10**9


def holds_no_pixels(image: Dataset) -> None:
    del image.PixelData


def test_bombs_and_series_without_a_slice_are_told_and_the_rest_goes_on(predictor, tmp_path):
    series(tmp_path / "study", series=1)
    for number, change in enumerate((unpacks_to_gigabytes, claims_a_billion_frames, holds_no_pixels), 2):
        for file in series(tmp_path / "study", series=number, slices=2):
            image = dcmread(file)
            change(image)
            image.save_as(file)
    analyses = analyse(tmp_path / "study", predictor)
    told = sorted((analysis.refusal, analysis.prediction.reason.partition(": ")[2]) for analysis in analyses)
    assert [refusal for refusal, _ in told] == ["", "GeometryRejected", "UnreadableScan", "UnreadableScan"]
    assert told[1][1].startswith("multi-frame images that do not say where each frame lies")
    assert told[2][1].startswith("damaged: 8589672450 bytes of pixels in a file of")
    assert told[3][1].startswith("truncated: no pixels behind the header")


def test_a_later_report_names_the_one_it_takes_the_place_of(predictor, study, written, tmp_path):
    later = header(predictor, revision=2, basis="b2")
    before = ResultFile("1.2.3", Comprehensive3DSRStorage, str(written[1][0]))
    results = write_results(tmp_path, analyse(study, predictor), later, Results(), [before])
    report: Dataset = dcmread(tmp_path / results[0].file)
    earlier = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert earlier.ReferencedSOPInstanceUID == dcmread(written[1][0]).SOPInstanceUID


def test_nothing_is_written_of_what_the_site_does_not_want(predictor, study, tmp_path):
    (refused,) = [a for a in analyse(study, predictor) if a.prediction.status != "ok"]
    assert write_results(tmp_path, [refused], header(predictor), Results(of_rejected=False)) == []
    (only,) = write_results(tmp_path, [refused], header(predictor), Results(secondary_capture=False))
    assert dcmread(tmp_path / only.file).Modality == "SR"


def test_a_bundle_that_needs_a_region_is_refused(tmp_path):
    predictor = Predictor(tiny_bundle(tmp_path / "roi", region="roi"))
    with pytest.raises(ConfigError, match=f"{tmp_path.name}: .*regions of interest, which a PACS does not send"):
        require_usable(predictor, tmp_path)
