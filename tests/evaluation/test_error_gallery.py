"""Which errors a report shows, and that each has a map from the network that made it."""

import copy
import dataclasses
import io

import numpy as np
import pytest
import torch
from bright_and_dark import BRIGHT, DARK, learned, scene
from matplotlib.image import imread

from med_transfer.backbones.networks.tiles import TileEncoder
from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance
from med_transfer.cohorts import Case, Cohort, PreparedCohort
from med_transfer.cohorts.preparation import PreparedScan
from med_transfer.evaluation import evaluate as evaluation
from med_transfer.evaluation.error_gallery import Error, _no_better, chosen_errors, gallery
from med_transfer.evaluation.evaluate import EvaluationInput, evaluate
from med_transfer.explanation import Explanation, HeatMap
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.report.run_summary import RunSummary

LABELS = Labels(("bright", "dark"), multilabel=True)


def one_hot(classes, n=3):
    return np.eye(n, dtype=bool)[classes]


def test_half_are_misses_in_turn_by_class_and_the_rest_the_surest():
    truth, called = one_hot([0, 0, 0, 1, 2, 2]), one_hot([1, 1, 2, 2, 0, 2])
    probabilities = np.array(
        [[0.1, 0.6, 0.3], [0.3, 0.5, 0.2], [0.2, 0.1, 0.7], [0.0, 0.05, 0.95], [0.8, 0.0, 0.2], [0.1, 0.1, 0.8]]
    )
    assert chosen_errors(truth, called, probabilities, 4) == [
        Error(0, "miss", 1),  # of class 0 the one with the least probability
        Error(3, "miss", 2),  # of class 1
        Error(4, "confident", 0),  # 0.95 is shown already
        Error(2, "confident", 2),
    ]
    everything = chosen_errors(truth, called, probabilities, 12)
    assert sorted(error.scan for error in everything) == [0, 1, 2, 3, 4]
    assert chosen_errors(truth, called, probabilities, 0) == []
    assert chosen_errors(truth, truth, probabilities, 5) == []


def test_findings_that_were_missed_without_a_wrong_call_are_explained_themselves():
    truth = np.array([[True, True], [False, False], [True, False]])
    called = np.array([[True, False], [False, True], [True, False]])
    probabilities = np.array([[0.9, 0.2], [0.1, 0.8], [0.7, 0.1]])
    assert chosen_errors(truth, called, probabilities, 6) == [Error(0, "miss", DARK), Error(1, "confident", DARK)]


def record(region: str = "whole") -> BundleRecord:
    return BundleRecord(
        classes=LABELS.names,
        multilabel=True,
        operating_point=OperatingPoint.default(LABELS),
        preprocessing=PreprocessingConfig.model_validate(
            {"shape": (16, 16, 16), "spacing_mm": (3, 2, 2), "region": region}
        ),
        backbone=BackboneRecord(name="resnet18-w8", pooled_stages=(-1,), licence="MIT", source="none"),
        n_fold_models=1,
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=(), content_hashes=()),
    )


@pytest.fixture(scope="module")
def prepared() -> PreparedCohort:
    """The second scan is labelled dark though it holds a bright ball; the third holds both and is labelled so."""
    rng, right = np.random.default_rng(5), frozenset({"bright"})
    images = [scene(rng, (4, 4, 5), None), scene(rng, (11, 4, 5), None), scene(rng, (5, 5, 5), (11, 12, 11))]
    labels = [right, frozenset({"dark"}), frozenset({"bright", "dark"})]
    cases = tuple(
        Case(f"Example^Ann/{n}.nii", None, "Example^Ann", label)  # type: ignore[arg-type]
        for n, label in enumerate(labels)
    )
    scans = tuple(PreparedScan(i.astype(np.float16), ("h",), np.zeros(1), ((1, 1, 1),), "", "", "") for i in images)
    return PreparedCohort(Cohort(cases, LABELS), scans)


def predictions_of(prepared: PreparedCohort, look: BundleRecord):
    with torch.no_grad():
        images = torch.from_numpy(np.stack(prepared.tensors).astype(np.float32))
        probabilities = learned()(images).double().numpy()
    unanswered = prepared.unanswered()
    return [look.answer(one, p, 0.0) for one, p in zip(unanswered, probabilities, strict=True)]


def wrong_calls(prepared: PreparedCohort):
    """Every scan is called what it is not."""
    probabilities = np.where(prepared.cohort.truth, 0.1, 0.9)
    return [record().answer(one, p, 0.0) for one, p in zip(prepared.unanswered(), probabilities, strict=True)]


def test_an_error_is_shown_with_a_map_and_without_a_name(prepared):
    look = record()
    predictions = predictions_of(prepared, look)
    assert predictions[1].predicted == "bright"
    misses, checks = gallery(look, learned(), prepared, predictions, 1)
    (miss,) = misses
    assert (miss.row, miss.truth, miss.predicted, miss.explained) == (1, "dark", "bright", "bright")
    assert (miss.kind, miss.through) == ("miss", "peak")
    assert miss.probability == predictions[1].probabilities["bright"]
    assert b"Example" not in miss.picture
    assert "Example" not in repr(miss)
    rgb = imread(io.BytesIO(miss.picture), format="jpeg").astype(float)
    orange = (rgb[..., 0] - rgb[..., 2] > 60) & (rgb[..., 1] < 0.75 * rgb[..., 0])  # the letters are yellow
    height = len(rgb) // 2
    assert orange[height:].mean() > 0.02
    assert orange[:height].mean() < 0.002
    assert checks is not None
    assert (checks.n, checks.n_empty, checks.n_no_better) == (1, 0, 0)
    assert checks.element_mm == (12.0, 8.0, 8.0)
    assert checks.drop is not None
    assert checks.random_drop is not None
    assert checks.drop > checks.random_drop


def test_an_error_is_named_by_its_row_in_the_table_which_is_sorted(prepared, tmp_path, monkeypatch):
    names = ("m.nii", "z.nii", "b.nii")
    cases = tuple(dataclasses.replace(case, scan=name) for case, name in zip(prepared.cohort.cases, names, strict=True))
    failed = (Prediction("a.nii", "Other", status="failed", reason="is cut off"),)
    prepared = dataclasses.replace(prepared, cohort=Cohort(cases, LABELS), failed=failed)
    probabilities = np.where(prepared.cohort.truth, 0.9, 0.1)
    probabilities[1] = [0.95, 0.2]  # only z.nii is called wrongly
    shown = []
    monkeypatch.setattr(evaluation, "write_report", lambda path, evidence: shown.extend(evidence.misses))
    summary = RunSummary("title", "question", "backbone", "MIT", {})
    evaluate(EvaluationInput(record(), learned(), prepared, probabilities, np.zeros(3), summary), tmp_path)
    (miss,) = shown
    rows = PredictionTable.load(tmp_path / "predictions.csv")
    assert [row.scan for row in rows] == ["a.nii", "b.nii", "m.nii", "z.nii"]
    assert rows[miss.row - 2].scan == "z.nii"


def test_scans_called_by_decisions_of_others_are_out_of_fold_in_every_figure(prepared):
    """Those that abstain are left out of a figure of its own, which is to be as wide as the others."""
    scans = [prepared, np.full((3, 2), 0.4), np.zeros(3), RunSummary("title", "question", "backbone", "MIT", {})]
    crossed = EvaluationInput(record(), learned(), *scans, cross_fitted=[(np.arange(3), record())])
    assert crossed.labelled(scans[1]).out_of_fold
    assert not EvaluationInput(record(), learned(), *scans).labelled(scans[1]).out_of_fold


class BallsInTiles(TileEncoder):
    """The network that knows the balls, on tiles."""

    def __init__(self) -> None:
        super().__init__(learned().fold_models[0].encoder, (8, 8, 8))


@pytest.mark.parametrize("trained", [True, False])
def test_a_network_that_looks_by_attention_is_explained_by_it(prepared, trained):
    """An attention that has learned nothing counts all tiles alike: its map would be empty, so it is Grad-CAM's."""
    torch.manual_seed(3)
    network = Classifier(BallsInTiles(), 2, dropout=0.0).eval()
    if trained:
        torch.nn.init.normal_(network.encoder.attention.score.weight, std=5.0)
    misses, checks = gallery(record(), Ensemble([network], multilabel=True), prepared, wrong_calls(prepared), 1)
    assert checks is not None
    assert checks.method == ("attention" if trained else "gradcam")
    assert checks.element_mm is not None
    assert not trained or checks.element_mm == (24.0, 16.0, 16.0)  # a tile of 8 voxels
    assert len(misses) == 1


def test_of_a_scan_that_taught_fold_models_the_one_is_explained_that_it_did_not_teach(prepared):
    """The other one has no weights that could see anything, and would have an empty map."""
    blind = copy.deepcopy(learned().fold_models[0])
    for parameter in blind.parameters():
        torch.nn.init.zeros_(parameter)
    both = Ensemble([learned().fold_models[0], blind], multilabel=True)
    predictions = wrong_calls(prepared)
    empty = [
        {miss.empty for miss in gallery(record(), both, prepared, predictions, 6, [fold] * len(predictions))[0]}
        for fold in (0, 1)
    ]
    assert False in empty[0]
    assert empty[1] == {True}


def test_errors_are_those_of_the_calls_that_were_made(prepared):
    """A validation scan is called by thresholds that other patients led to, not by the bundle's."""
    right = [
        dataclasses.replace(one, predicted=";".join(np.array(LABELS.names)[truth]))
        for one, truth in zip(wrong_calls(prepared), prepared.cohort.truth, strict=True)
    ]
    assert gallery(record(), learned(), prepared, right, 6) == ([], None)


def test_planes_go_through_the_region_where_there_is_one(prepared):
    look = record("roi")
    misses, _ = gallery(look, learned(), prepared, predictions_of(prepared, look), 6)
    assert {miss.through for miss in misses} == {"region"}


def test_without_an_error_or_by_wish_there_is_no_gallery(prepared):
    look = record()
    predictions = predictions_of(prepared, look)
    assert gallery(look, learned(), prepared, predictions, 0) == ([], None)
    assert gallery(look, learned(), prepared.subset([0]), predictions[:1], 6) == ([], None)
    assert gallery(look, learned(), prepared.subset([]), [], 6) == ([], None)


def test_the_network_is_explained_for_the_class_that_it_called(prepared):
    """The map of BRIGHT lies on the bright ball; equal input gives an equal picture."""
    look = record()
    predictions = predictions_of(prepared, look)
    first, again = (gallery(look, learned(), prepared, predictions, 1)[0][0] for _ in range(2))
    assert first.picture == again.picture
    assert first.explained == LABELS.names[BRIGHT]


def test_where_the_region_is_fitted_the_picture_has_the_scans_own_proportions(prepared):
    """Voxels four times as long from head to foot make the sagittal plane four times as high as wide."""
    preprocessing = record().preprocessing.model_copy(update={"spacing_mm": None})
    look = record().model_copy(update={"preprocessing": preprocessing})
    shapes = []
    for voxel_mm in ((1.0, 1.0, 1.0), (4.0, 1.0, 1.0)):
        scans = tuple(dataclasses.replace(scan, voxel_mm=voxel_mm) for scan in prepared.scans)
        (miss,), _ = gallery(look, learned(), dataclasses.replace(prepared, scans=scans), wrong_calls(prepared), 1)
        shapes.append(imread(io.BytesIO(miss.picture), format="jpeg").shape)
    (height, width, _), (tall, narrow, _) = shapes
    assert height / width > 0.5
    assert tall / narrow > 2 * height / width


@pytest.mark.parametrize(("values", "expected"), [(1.0, True), (0.0, False)])
def test_no_part_of_a_uniform_map_matters_more_and_an_empty_one_is_counted_apart(values, expected):
    heat = HeatMap(np.full((2, 2, 2), values, np.float32), (2.0, 2.0, 2.0))
    assert _no_better(Explanation(heat, 0.5, None, None)) is expected
