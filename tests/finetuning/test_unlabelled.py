"""Unlabelled scans in a run: which are allowed, what a batch holds, resuming, and what the bundle rebuilds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TINY, read_rows, settings
from lightning.pytorch.callbacks import Callback
from pydantic import ValidationError
from safetensors.torch import load_file
from small_run_data import small_config, small_run_data, source_of

import med_transfer as mt
from med_transfer.backbones import find_backbone, load_backbone
from med_transfer.bundle import load_network, read_record
from med_transfer.cohorts import Cohort, SplitConfig, recognise, split_cohort
from med_transfer.cohorts.hashed_names import old_hash
from med_transfer.cohorts.source_lock import SourceLock
from med_transfer.config import load_config
from med_transfer.errors import CohortError, ConfigError, PatientLeak, UsageError
from med_transfer.finetuning import fold_training
from med_transfer.finetuning.batches import fold_data, training_batches
from med_transfer.finetuning.callbacks.checkpoints import ResumePoint
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData, prepare_run_data
from med_transfer.finetuning.feature_mapping import labelled_features
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.folds import train_folds
from med_transfer.finetuning.initialisation import check_transfer
from med_transfer.finetuning.unlabelled import (
    UNLABELLED_LOCK_FILE,
    check_unlabelled,
    lock_unlabelled,
    prepare_unlabelled,
)
from med_transfer.model.classifier import Classifier
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.progress import silent

HERE = "."  # exists; the plans below bring their unlabelled scans along


def with_unlabelled(shift: float = 0.5, n: int = 20) -> RunData:
    """A plan whose unlabelled scans are brighter than the labelled ones."""
    run_data, others = (
        small_run_data(signal=0.7, n=36, n_test=10),
        small_run_data(signal=0.7, n=n, n_test=0, seed=7).prepared,
    )
    scans = tuple(
        replace(s, tensor=s.tensor + np.float16(shift), content_hashes=(f"u{s.content_hashes[0]}",))
        for s in others.scans
    )
    cases = tuple(replace(case, patient=f"u{case.patient}", label=None) for case in others.cohort.cases)
    return replace(run_data, unlabelled=replace(others, cohort=Cohort(cases, others.cohort.labels), scans=scans))


PLAN = with_unlabelled()


def align(method: str, **sections) -> FinetuneConfig:
    return small_config("full", transfer={"align": {"method": method, "unlabelled": HERE}}, **sections)


def mapped(method: str, **options) -> FinetuneConfig:
    mapping = {"method": method, "unlabelled": HERE, "bottleneck": 3} | options
    return small_config("linear_probe", transfer={"mapping": mapping})


class Kill(Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, *args) -> None:
        self.epoch = 3

    def on_train_batch_end(self, trainer, *args, **kwargs) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def test_a_batch_holds_as_many_unlabelled_images_each_as_often(tmp_path):
    config = align("mmd", training={"epoch_scans": 800, "batch_size": 50})
    data = fold_data(PLAN.prepared, PLAN.split, 0, PLAN.unlabelled)
    marked = [np.full_like(tensor, number) for number, tensor in enumerate(data.unlabelled.tensors)]
    data = replace(data, unlabelled=replace(data.unlabelled, tensors=marked))
    read = [list(training_batches(data, config, PLAN.preprocessing, 3)) for _ in range(2)]
    images, truth, others = (torch.cat(parts) for parts in zip(*read[0], strict=True))
    assert images.shape == others.shape == (800, 1, 8, 8, 8)
    drawn = np.bincount(others[:, 0, 0, 0, 0].long().numpy(), minlength=len(marked))
    assert drawn.min() > 15
    assert drawn.max() < 70  # 40 expected of each of 20
    assert abs(float(truth[:, 0].float().mean()) - 0.5) < 0.08
    assert all(a.equal(b) for first, second in zip(*read, strict=True) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("method", ["mmd", "dann"])
def test_a_killed_alignment_ends_as_one_that_was_not(method, tmp_path, monkeypatch):
    """The domain classifier, its optimiser, and the draws of unlabelled scans go on where they were."""
    monkeypatch.setattr(fold_training, "ResumePoint", lambda path: ResumePoint(path, seconds=0.0))
    config = align(method, training={"epochs": 5, "dropout": 0.5}, augmentation={"strength": 1.0, "mixup": 0.4})
    whole = train_folds(PLAN, config, source_of("sees"), tmp_path / "whole", silent)
    with monkeypatch.context() as patch:
        patch.setattr("med_transfer.finetuning.folds.TrainingProgress", Kill)
        with pytest.raises(KeyboardInterrupt):
            train_folds(PLAN, config, source_of("sees"), tmp_path / "killed", silent)
    assert (tmp_path / "killed/fold-0" / fold_training.RESUME_FILE).exists()
    again = train_folds(PLAN, config, source_of("sees"), tmp_path / "killed", silent)
    assert again.fold_models[0].history == whole.fold_models[0].history
    assert [np.isfinite(row["alignment"]) for row in again.fold_models[0].history] == [True] * 5
    expected = whole.ensemble.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in again.ensemble.state_dict().items())
    plain = set(Classifier(source_of("sees").encoder, 2).state_dict())
    assert set(load_file(tmp_path / "killed/fold-0/best.safetensors")) == plain  # no domain classifier in it


def test_alignment_brings_the_features_of_brighter_scans_nearer(tmp_path):
    def gap(config: FinetuneConfig, folder: Path) -> float:
        trained = train_folds(PLAN, config, source_of("sees"), folder, silent).fold_models[0].classifier
        reader, data = FeatureSource(folder, config, PLAN.preprocessing), fold_data(PLAN.prepared, PLAN.split, 0)
        known, other = (reader.computed(trained, part) for part in (data.training.tensors, PLAN.unlabelled.tensors))
        return float((known.mean(0) - other.mean(0)).norm() / known.std(0).norm())

    training = {
        "epochs": 8,
        "epoch_scans": 64,
        "smoothing": 0,
        "patience": 8,
        "averaging": "ema",
    }
    sections = {"training": training | {"averaging": "swa", "swa_start": 0.9}}
    plain = gap(small_config({"name": "full", "learning_rate": 0.02}, **sections), tmp_path / "plain")
    assert gap(align("mmd", **sections), tmp_path / "aligned") < 0.7 * plain


def test_the_from_scratch_baseline_is_trained_without_alignment_for_as_many_steps(tmp_path):
    config = align("mmd")
    baseline = config.from_scratch_config()
    assert (baseline.transfer.align, baseline.transfer.mapping, baseline.training) == (None, None, config.training)
    with_scans = train_folds(PLAN, baseline, source_of("random"), tmp_path / "a", silent)
    without = train_folds(replace(PLAN, unlabelled=None), baseline, source_of("random"), tmp_path / "b", silent)
    assert with_scans.fold_models[0].history == without.fold_models[0].history
    assert "alignment" not in with_scans.fold_models[0].history[0]


def test_the_autoencoders_bottleneck_is_in_what_is_written(tmp_path, caplog):
    caplog.set_level("INFO", "med_transfer")
    trained = train_folds(PLAN, mapped("autoencoder"), source_of("sees"), tmp_path, silent)
    classifier = trained.fold_models[0].classifier
    assert (classifier.n_features, classifier.head.in_features) == (3, 3)
    assert "% of the variance of the validation scans' features" in caplog.text
    stored = load_file(tmp_path / "fold-0/best.safetensors")
    assert {"mapping.0.weight", "mapping.0.bias"} <= set(stored)
    again = train_folds(PLAN, mapped("autoencoder"), source_of("sees"), tmp_path, silent)
    images = torch.randn(4, 1, 8, 8, 8)
    assert again.ensemble(images).equal(trained.ensemble(images))
    without, config = replace(PLAN, unlabelled=None), mapped("autoencoder", unlabelled=None)
    alone = train_folds(without, config, source_of("sees"), tmp_path / "alone", silent)
    assert not alone.ensemble(images).equal(trained.ensemble(images))  # unlabelled scans were learned from


def test_coral_leaves_a_plain_network_whose_figures_are_on_recoloured_features(tmp_path):
    config = mapped("coral", ridge=0.01)
    trained = train_folds(PLAN, config, source_of("sees"), tmp_path, silent)
    classifier, plain = trained.fold_models[0].classifier, Classifier(source_of("sees").encoder, 2)
    assert set(classifier.state_dict()) == set(plain.state_dict())
    assert all(
        t.equal(classifier.encoder.state_dict()[name]) for name, t in source_of("sees").encoder.state_dict().items()
    )
    data = fold_data(PLAN.prepared, PLAN.split, 0, PLAN.unlabelled)
    reader = FeatureSource(tmp_path / "features", config, PLAN.preprocessing)
    known, _ = labelled_features(classifier, data, config, reader.cached)
    other = reader.cached(classifier, data.unlabelled.tensors)
    torch.testing.assert_close(known.mean(0), other.mean(0), rtol=1e-3, atol=1e-4)
    assert trained.gap.training_sensitivity > 0.8


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        (
            {"strategy": "linear_probe", "align": {"method": "mmd", "unlabelled": "x"}},
            "align with linear_probe: its fea",
        ),
        ({"strategy": "full", "mapping": {"method": "autoencoder"}}, "mapping with full: it maps frozen features"),
        ({"mapping": {"method": "autoencoder"}}, "mapping with auto: .* strategy must be linear_probe"),
        ({"strategy": "linear_probe", "mapping": {"method": "coral"}}, "mapping coral without mapping.unlabelled"),
        (
            {"strategy": "linear_probe", "on_harm": "fallback", "mapping": {"method": "coral", "unlabelled": "x"}},
            "on_harm fallback with mapping coral",
        ),
        ({"align": {"method": "mmd"}}, "unlabelled\n  Field required"),
        ({"align": {"method": "mdd", "unlabelled": "x"}}, "Input should be 'mmd', 'coral' or 'dann'"),
        ({"align": {"method": "mmd", "weight": 0, "unlabelled": "x"}}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(transfer, message):
    with pytest.raises(ValidationError, match=message):
        FinetuneConfig.model_validate({"transfer": transfer})


def test_one_scan_a_batch_cannot_be_aligned():
    with pytest.raises(ValidationError, match=r"batch_size 1 with transfer.align: one scan has no distribution"):
        align("mmd", training={"batch_size": 1})


def test_unlabelled_scans_that_are_not_there_are_said_before_anything_is_read():
    config = FinetuneConfig.model_validate({"transfer": {"align": {"method": "mmd", "unlabelled": "nowhere.csv"}}})
    with pytest.raises(
        ConfigError, match=r"transfer.align.unlabelled: nowhere.csv does not exist; expected a cohort ta"
    ):
        check_transfer(config.resolved(from_source=True), load_backbone("resnet18-w8", scratch=True).encoder)


@pytest.fixture(scope="module")
def split_of_cohort(cohort_csv):
    cohort = Cohort.read(cohort_csv)
    return cohort, split_cohort(cohort, SplitConfig(folds=2, test_fraction=0.34))


@pytest.mark.parametrize(
    ("input_", "needed"),
    [({"region": "roi"}, "a region of interest"), ({"channels": ("scan", "scan_late")}, "several scans of each case")],
)
def test_a_folder_that_cannot_give_the_input_is_refused_before_a_scan_is_read(split_of_cohort, input_, needed):
    config = PreprocessingConfig.model_validate(input_)
    with pytest.raises(ConfigError, match=f"^nowhere: a folder, and the network's input is made of {needed}"):
        check_unlabelled(Path("nowhere"), *split_of_cohort, config)
    check_unlabelled(Path("nowhere"), *split_of_cohort, PreprocessingConfig(region="foreground"))


def test_a_table_that_cannot_be_used_is_refused_before_a_scan_is_read(split_of_cohort, unseen_csv, tmp_path):
    cohort, split = split_of_cohort
    test = table_of([cohort.cases[row] for row in split.test[:2]], tmp_path)
    with pytest.raises(PatientLeak, match=r"unlabelled.csv: 2 unlabelled scans are test scans of this run"):
        check_unlabelled(test, cohort, split, PreprocessingConfig())
    with pytest.raises(ConfigError, match=r"input.region: roi, and no row of .*unlabelled.csv has a region"):
        check_unlabelled(test, cohort, split, PreprocessingConfig(region="roi"))
    channels = PreprocessingConfig.model_validate({"channels": ("scan", "scan_late")})
    with pytest.raises(CohortError, match=r"no scan in column scan_late"):
        check_unlabelled(unseen_csv, cohort, split, channels)
    check_unlabelled(unseen_csv, cohort, split, PreprocessingConfig(region="roi"))
    labelled = table_of([cohort.cases[row] for row in split.development[:3]], tmp_path)
    with pytest.raises(
        CohortError, match=r"unlabelled\.csv: 0 unlabelled scans are left of 3; expected at least 2 of patients who"
    ):
        check_unlabelled(labelled, cohort, split, PreprocessingConfig())


def prepared_with(run_data: RunData, table: Path, cache: Path):
    return prepare_unlabelled(table, run_data.prepared, run_data.split, run_data.preprocessing, cache, silent)


@pytest.fixture(scope="module")
def plan_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def phantom_plan(cohort_csv, unseen_csv, plan_folder) -> RunData:
    unlabelled = f"transfer.align={{method: mmd, unlabelled: {unseen_csv}}}"
    config = load_config(FinetuneConfig, None, (*TINY, "transfer.strategy=full", unlabelled))
    return prepare_run_data(Cohort.read(cohort_csv), config, find_backbone("resnet18-w8"), plan_folder, silent)


def table_of(cases, folder: Path, patient: str = "patient", rename: str = "") -> Path:
    rows = [f"{case.path},{rename or case.patient}{number if rename else ''}" for number, case in enumerate(cases)]
    path = folder / "unlabelled.csv"
    path.write_text("\n".join([f"scan,{patient}", *rows]) + "\n")
    return path


def test_a_test_patient_is_refused_and_so_is_a_test_image_under_another_name(phantom_plan, tmp_path):
    test = phantom_plan.prepared.subset(phantom_plan.split.test).cohort.cases
    message = r"unlabelled.csv: 2 unlabelled scans are test scans of this run or of their patients: row 2 .* row 3 "
    for table in (table_of(test[:2], tmp_path), table_of(test[:2], tmp_path, rename="somebody-else-")):
        with pytest.raises(PatientLeak, match=message):
            prepared_with(phantom_plan, table, tmp_path)
    with pytest.raises(PatientLeak, match=r"test scans of this run"):  # a folder: by image, or by DICOM's patient
        prepared_with(phantom_plan, Path(test[0].path).parent, tmp_path)


def test_scans_of_the_development_part_are_left_out_with_their_number(phantom_plan, unseen_csv, tmp_path, caplog):
    caplog.set_level("INFO", "med_transfer")
    others = Cohort.read(unseen_csv).cases
    development = phantom_plan.prepared.subset(phantom_plan.split.development[:3]).cohort.cases
    found = prepared_with(phantom_plan, table_of([*others, *development], tmp_path), tmp_path)
    assert found.cohort.patients == tuple(case.patient for case in others)
    assert "left out 3 unlabelled scans: they or their patients have labels in this run" in caplog.text
    with pytest.raises(
        CohortError,
        match=r"unlabelled\.csv: 0 unlabelled scans are left of 3; expected at least 2 of patients who are no",
    ):
        prepared_with(phantom_plan, table_of(development, tmp_path), tmp_path)
    marked = tmp_path / "marked.csv"
    marked.write_text("scan,split\n" + "".join(f"{case.path},test\n" for case in others))
    with pytest.raises(CohortError, match=r"marked\.csv: every row is marked split=test; expected rows to learn from"):
        prepared_with(phantom_plan, marked, tmp_path)


def test_a_run_does_not_go_on_with_other_unlabelled_scans(phantom_plan, unseen_csv, tmp_path):
    found = prepared_with(phantom_plan, unseen_csv, tmp_path)
    lock_unlabelled(found, tmp_path / "lock.json")
    lock_unlabelled(found.subset(reversed(range(len(found.scans)))), tmp_path / "lock.json")  # in any order
    with pytest.raises(
        UsageError, match=r"lock\.json: the folder holds a run with other unlabelled scans; expected a new folder"
    ):
        lock_unlabelled(found.subset(range(3)), tmp_path / "lock.json")


def test_whom_a_run_looked_at_without_labels_lies_beside_its_cohort(phantom_plan, plan_folder):
    lock, looked_at = SourceLock.read(plan_folder / UNLABELLED_LOCK_FILE), phantom_plan.unlabelled
    assert (set(lock.patient_hashes), set(lock.content_hashes)) == (looked_at.patient_hashes, looked_at.images)
    assert len(lock.content_hashes) == 6


def test_a_run_from_before_names_were_salted_goes_on_where_a_scan_has_no_patient(phantom_plan, tmp_path):
    found = phantom_plan.unlabelled
    nameless = tuple(
        replace(case, patient="" if row == 0 else case.patient) for row, case in enumerate(found.cohort.cases)
    )
    found = replace(found, cohort=Cohort(nameless, found.cohort.labels))
    before = SourceLock.of({old_hash(case.patient) for case in nameless[1:]}, found.images)
    before.write(tmp_path / "lock.json")
    lock_unlabelled(found, tmp_path / "lock.json")
    assert SourceLock.read(tmp_path / "lock.json").source_hash != before.source_hash  # with salt from now on


def test_without_test_scans_a_network_for_another_site_has_nothing_to_be_measured_on(
    cohort_csv, unseen_csv, finished, tmp_path, command
):
    """Out of fold the figures would be of recoloured features, which the bundle does not compute."""
    words = (
        "transfer.strategy=linear_probe",
        "transfer.mapping.method=coral",
        f"transfer.mapping.unlabelled={unseen_csv}",
    )
    own = ("split.test_fraction=0", f"backbone.weights={finished.bundle}", "from_scratch_baseline=false")
    refused = command("finetune", cohort_csv, "-o", tmp_path / "run", *settings(*TINY, *words, *own))
    assert refused.code == 2
    assert (
        "transfer.mapping: coral without test scans; expected scans of the site that the network is for" in refused.err
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "bottleneck", "name"),
    [
        (("transfer.align.method=mmd", "transfer.align.unlabelled={}"), None, "aligned by mmd"),
        (("transfer.align.method=coral", "transfer.align.unlabelled={}"), None, "aligned by coral"),
        (("transfer.align.method=dann", "transfer.align.unlabelled={}"), None, "aligned by dann"),
        (
            (
                "transfer.strategy=linear_probe",
                "transfer.mapping.method=autoencoder",
                "transfer.mapping.bottleneck=5",
                "transfer.mapping.unlabelled={}",
            ),
            5,
            "features mapped by autoencoder",
        ),
        (
            ("transfer.strategy=linear_probe", "transfer.mapping.method=coral", "transfer.mapping.unlabelled={}"),
            None,
            "features mapped by coral",
        ),
    ],
)
def test_a_run_with_unlabelled_scans_ends_as_a_bundle_that_predicts(
    words, bottleneck, name, cohort_csv, unseen_csv, finished, tmp_path, command
):
    own = (
        "split.kind=holdout",
        "split.val_fraction=0.34",
        f"backbone.weights={finished.bundle}",
        "from_scratch_baseline=false",
    )
    pictures = "explain.gallery=6" if bottleneck else "explain.gallery=0"  # a plain network's are drawn elsewhere
    own += ("training.epochs=1", pictures)
    overrides = settings(*TINY, *own, *(word.format(unseen_csv) for word in words))
    outcome = command("finetune", cohort_csv, "-o", tmp_path / "run", *overrides)
    assert outcome.code == 0, outcome.err
    record, bundle = read_record(tmp_path / "run/bundle"), tmp_path / "run/bundle"
    assert (record.transfer.bottleneck, record.transfer.n_unlabelled) == (bottleneck, 6)
    assert f"{name}, 6 unlabelled scans" in (bundle / "docs/README.md").read_text()
    patients = set(Cohort.read(unseen_csv).patients)
    assert recognise(patients, record.trained_on.patient_hashes).keys() == patients

    network, stored = load_network(bundle), load_file(tmp_path / "run/training/fold-0/best.safetensors")
    found = {n.removeprefix("member0."): t for n, t in network.state_dict().items() if n.startswith("member0.")}
    assert set(found) == set(stored)
    assert all(stored[n].equal(t) for n, t in found.items())
    again = read_rows(mt.load_bundle(bundle).predict_folder(cohort_csv, tmp_path / "again").table)
    answers = {row["scan"]: row for row in again}
    for row in read_rows(tmp_path / "run/predictions.csv"):
        for column in (c for c in row if c.startswith("p_")):
            assert float(answers[row["scan"]][column]) == pytest.approx(float(row[column]), abs=2e-2)

    encoder = load_backbone("resnet18-w8", bundle).encoder.state_dict()  # and it can be a source in its turn
    assert all(stored[f"encoder.{n}"].equal(t) for n, t in encoder.items())
