"""Layers, findings, the source's head and features: each figure of a candidate, computed another way."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from edited_bundle import edit_record

from med_transfer.backbones import find_backbone, load_backbone
from med_transfer.backbones.weights.source_features import (
    LowRankGaussian,
    SourceFeatures,
    source_features_path,
    write_source_features,
)
from med_transfer.bundle import WEIGHTS_FILE, load_network, read_record
from med_transfer.cohorts import Case, Cohort
from med_transfer.errors import BackboneError
from med_transfer.predictions.labels import Labels
from med_transfer.selection.candidates import Candidate, find_candidates
from med_transfer.selection.features import StageFeatures
from med_transfer.selection.measures.discrepancy import mmd, proxy_a_distance
from med_transfer.selection.measures.frechet import frechet_distance, gaussian_of
from med_transfer.selection.measures.logme import log_me
from med_transfer.selection.measuring import domain_gap, joined_features, layers_of, measure_layers, over_labels
from med_transfer.selection.source import other_input, source_features, source_head, why_unknown
from med_transfer.selection.target import Target
from med_transfer.selection.weights_check import Agreement

CLASSES, FINDINGS = Labels(("a", "b", "c")), Labels(("effusion", "nodule"), multilabel=True)


def stage_features(tables, agreements=None) -> list[StageFeatures]:
    rows = zip(*tables, strict=True)
    seen = agreements or [None] * len(tables[0])
    return [StageFeatures(tuple(row), 0.1, 1.0, one, "cpu") for row, one in zip(rows, seen, strict=True)]


def target(truth, labels) -> Target:
    cases = [
        Case(f"s{number}", None, f"p{number}", label)  # type: ignore[arg-type]  no file is read here
        for number, label in enumerate(truth)
    ]
    return Target(Cohort(tuple(cases), labels), np.arange(len(truth)) % 5, (), {}, {})


@pytest.fixture
def three_classes():
    """A stage of noise, and one that shows the class along three of its features."""
    rng = np.random.default_rng(0)
    classes = (np.arange(60) // 5) % 3
    noise, shown = rng.normal(size=(60, 4)), rng.normal(size=(60, 6))
    shown[:, :3] += 2.5 * np.eye(3)[classes]
    return [noise.astype(np.float32), shown.astype(np.float32)], target([CLASSES.names[c] for c in classes], CLASSES)


def test_layers_are_every_stage_and_the_joined_ones_that_were_named():
    assert layers_of(find_backbone("resnet18-w8")) == [(0,), (1,), (2,), (3,)]
    assert layers_of(find_backbone("astra")) == [(0,), (1,), (2,), (3,), (2, 3)]
    assert layers_of(find_backbone("resnet18-w8"), also=(0, -1)) == [(0,), (1,), (2,), (3,), (0, 3)]


def test_the_layer_that_shows_the_class_is_best(three_classes):
    tables, known = three_classes
    measured = measure_layers(stage_features(tables), [(0,), (1,), (0, 1)], known)
    assert [one.score.stages for one in measured][-1] == (0,)
    assert measured[0].score.macro_auc > 0.9 > 0.7 > measured[-1].score.macro_auc
    joined = next(one.score for one in measured if one.score.stages == (0, 1))
    assert joined.n_features == 10
    assert joined.log_me == pytest.approx(log_me(np.concatenate(tables, axis=1), known.cohort.truth.argmax(1)))


def test_further_scans_of_the_same_patients_are_no_evidence_for_a_layer():
    """Ten equal scans of each patient made ten times the evidence, which decided against the cheaper layer."""
    rng = np.random.default_rng(3)
    classes = np.arange(40) % 2
    shown = np.repeat(rng.normal(size=(40, 2)) + 0.4 * classes[:, None], 10, axis=0)
    further = np.concatenate([shown, np.repeat(rng.normal(size=(40, 1)) + 0.25 * classes[:, None], 10, axis=0)], axis=1)
    labels = Labels(("a", "b"))
    cases = [
        Case(f"s{number}", None, f"p{number // 10}", labels.names[classes[number // 10]])  # type: ignore[arg-type]
        for number in range(400)
    ]
    known = Target(Cohort(tuple(cases), labels), np.arange(400) // 10 % 5, (), {}, {})
    tables = [shown.astype(np.float32), further.astype(np.float32)]
    by_layer = {one.score.stages: one.score for one in measure_layers(stage_features(tables), [(0,), (1,)], known)}
    lead = by_layer[1,].log_me - by_layer[0,].log_me
    assert known.n_patients * lead < 1 < 400 * lead
    assert list(by_layer) == [(0,), (1,)]


def test_the_seed_decides_how_patients_are_resampled_and_where_clusters_begin(three_classes):
    tables, known = three_classes
    found = [measure_layers(stage_features(tables), [(0,)], replace(known, seed=seed))[0].score for seed in (0, 1, 1)]
    assert found[1] == found[2]
    assert found[0].standard_error != found[1].standard_error
    assert found[0].n_leep != found[1].n_leep
    assert found[0].standard_error == pytest.approx(found[1].standard_error, rel=0.2)
    assert found[0].macro_auc == found[1].macro_auc


def test_findings_are_measured_one_by_one():
    rng = np.random.default_rng(0)
    present = rng.integers(2, size=(60, 2)).astype(bool)
    table = rng.normal(size=(60, 4)) + 2 * present[:, :1]
    truth = [frozenset(name for name, there in zip(FINDINGS.names, row, strict=True) if there) for row in present]
    known = target(truth, FINDINGS)
    expected = (log_me(table, present[:, 0].astype(int)) + log_me(table, present[:, 1].astype(int))) / 2
    assert over_labels(log_me, table, known) == pytest.approx(expected)
    (measured,) = measure_layers(stage_features([table.astype(np.float32)]), [(0,)], known)
    assert measured.probe.probabilities.shape == (60, 2)
    assert 0.5 < measured.score.macro_auc < 0.95  # one finding shown, the other not


# The gap to the source


def test_with_features_of_the_source_everything_is_known(three_classes):
    tables, known = three_classes
    here = stage_features(tables, [Agreement(0.9, 0.1, 0.2, 20), Agreement(0.7, 0.3, 0.2, 20), *[None] * 58])
    there = np.random.default_rng(1).normal(size=(25, 6))
    found = domain_gap(here, (1,), SourceFeatures("", 25, {(1,): there}), known.cohort.patients)
    table = joined_features(here, (1,))
    assert found.frechet == pytest.approx(frechet_distance(gaussian_of(there), gaussian_of(table)))
    assert found.frechet_relative == pytest.approx(found.frechet / there.var(axis=0).sum())
    assert (found.mmd_squared, found.mmd_p_value) == (mmd(there, table).squared, mmd(there, table).p_value)
    assert found.proxy_a_distance == proxy_a_distance(there, table, known.cohort.patients)
    assert found.batch_norm == Agreement(pytest.approx(0.8), pytest.approx(0.2), pytest.approx(0.2), 20)
    assert (found.stages, found.unknown) == ((1,), "")


def test_repeated_scans_of_a_patient_give_no_p_value(three_classes):
    """Permuting scans counts them as independent: equal scans, each four times, seemed to differ from the source."""
    tables, known = three_classes
    often = [np.repeat(table, 4, axis=0) for table in tables]
    there = np.random.default_rng(1).normal(size=(25, 6))
    patients = np.repeat(known.cohort.patients, 4).tolist()
    found = domain_gap(stage_features(often), (1,), SourceFeatures("", 25, {(1,): there}), patients)
    assert found.mmd_squared is not None
    assert found.mmd_p_value is None
    assert "p of MMD: its permutations assume one scan per patient" in found.unknown


def test_what_the_source_does_not_tell_is_unknown(three_classes):
    tables, known = three_classes
    here, gaussian = stage_features(tables), gaussian_of(np.random.default_rng(1).normal(size=(25, 4)))
    without = domain_gap(here, (1,), None, known.cohort.patients)
    assert (without.frechet, without.mmd_squared, without.proxy_a_distance, without.stages) == (None, None, None, None)
    assert without.unknown == (
        "batch normalisation: the network keeps no statistics; "
        "Frechet distance, MMD and A-distance: no features of the source are stored"
    )
    other_layer = domain_gap(here, (1,), SourceFeatures("", 25, gaussians={(0,): gaussian}), known.cohort.patients)
    assert (other_layer.stages, other_layer.mmd_squared) == ((0,), None)
    assert other_layer.frechet > 0
    assert "of the source only mean and covariance are stored" in other_layer.unknown


def test_source_features_of_another_width_are_refused(three_classes):
    tables, known = three_classes
    wide = SourceFeatures("", 5, {(1,): np.zeros((5, 9))})
    with pytest.raises(BackboneError, match="9 source features of stage 1; expected 6, as the network has"):
        domain_gap(stage_features(tables), (1,), wide, known.cohort.patients)


# What a bundle knows


@pytest.fixture
def of_bundle(finished) -> Candidate:
    return find_candidates([], [("resnet18-w8", finished.folder)]).ready[0]


def test_a_run_folder_stands_for_its_bundle(of_bundle, finished):
    assert of_bundle.weights == finished.bundle
    assert of_bundle.name == f"resnet18-w8 ({finished.folder})"


def test_the_bundles_gaussian_is_the_one_of_its_novelty(of_bundle, finished):
    """The squared Mahalanobis distance under the covariance, inverted in full, is what the network itself gives."""
    (stages, gaussian), *_ = source_features(of_bundle).gaussians.items()
    novelty = load_network(finished.bundle).novelty0
    features = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) + novelty.mean
    inverse = np.linalg.inv(dense(gaussian))
    centred = features.double().numpy() - gaussian.mean
    assert stages == (3,)
    assert np.einsum("nd,de,ne->n", centred, inverse, centred) == pytest.approx(
        novelty.distance(features).numpy(), rel=1e-3
    )


def dense(gaussian: LowRankGaussian) -> np.ndarray:
    inside = gaussian.components.T @ gaussian.components
    own = gaussian.components.T @ np.diag(gaussian.variances) @ gaussian.components
    return own + gaussian.residual * (np.eye(len(gaussian.mean)) - inside)


def test_the_bundles_head_answers_as_its_first_member(of_bundle, finished):
    network = load_network(finished.bundle)
    image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = network.member0.features(image)
        expected = network.calibrator.probabilities(network.member0(image).numpy(), multilabel=False)
    found = source_head(of_bundle).probabilities(features.numpy())
    assert found == pytest.approx(expected, abs=1e-5)


def test_training_scans_recoloured_by_coral_are_no_measure(of_bundle, finished, tmp_path):
    """The network is a plain one; its stored mean and covariance are of features that no encoder gives."""
    shutil.copytree(finished.bundle, tmp_path / "bundle")
    transfer = read_record(finished.bundle).transfer
    edit_record(tmp_path / "bundle", transfer=transfer.model_dump(mode="json") | {"mapping": "coral"})
    candidate = find_candidates([], [("resnet18-w8", tmp_path)]).ready[0]
    assert source_features(candidate) is None
    assert why_unknown(candidate) == (
        "the bundle describes its training scans as CORAL recoloured them for another site, "
        "not as the encoder gives them"
    )
    assert (source_features(of_bundle) is None, why_unknown(of_bundle)) == (False, "")
    table = np.random.default_rng(0).normal(size=(4, 64))
    assert source_head(candidate).probabilities(table) == pytest.approx(source_head(of_bundle).probabilities(table))


def test_the_bundles_own_input_is_no_other(of_bundle, finished):
    own = read_record(finished.bundle).preprocessing
    assert other_input(of_bundle, None, own) == ""
    assert other_input(of_bundle, None, own.model_copy(update={"max_gap_mm": 5.0, "modality": "CT"})) == ""
    window = own.model_copy(update={"window_hu": (-500.0, 500.0)})
    assert other_input(of_bundle, None, window) == "window_hu [-1000.0, 1000.0] (here [-500.0, 500.0])"


def test_a_file_beside_the_weights_goes_before_the_novelty(of_bundle, random_weights, tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(random_weights.read_bytes())
    candidate = find_candidates([], [("resnet18-w8", own)]).ready[0]
    assert source_features(candidate) is None
    assert source_head(candidate) is None
    written = SourceFeatures(candidate.sha256, 9, {(3,): np.zeros((9, 64))})
    write_source_features(source_features_path(own), written)
    assert source_features(candidate).n_scans == 9
    assert source_features_path(of_bundle.weights / WEIGHTS_FILE).name == "model.source.safetensors"


def test_by_name_it_stands_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path))
    candidate = Candidate("astra", find_backbone("astra"), None, "c" * 64, lambda: load_backbone("astra").encoder)
    assert source_features(candidate) is None
    write_source_features(tmp_path / "astra.source.safetensors", SourceFeatures("c" * 64, 7, {(3,): np.zeros((7, 8))}))
    assert source_features(candidate).n_scans == 7
