"""The same journeys from Python: the names of ``import med_transfer as mt``, and the bundle as MONAI reads it."""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import pickle
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import TINY, read_rows, write_rows
from monai.bundle.config_parser import ConfigParser
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from tiny_bundle import tiny_bundle, write_scan

import med_transfer as mt
from med_transfer.errors import CohortError, MedTransferError, PatientLeak, UsageError
from med_transfer.phantoms import write_nifti
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import Preprocessing

# What "required" lists in MONAI's metadata schema, meta_schema_20240725.json.
METADATA_KEYS = {
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("task", "description", "authors", "copyright", "network_data_format"),
}
TENSOR_KEYS = {
    *("type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"),
}


def nifti_rows(table: Path) -> list[dict[str, str]]:
    return [row for row in read_rows(table) if row["scan"].endswith(".nii.gz")]


def test_objects_tell_what_they_are_in_a_line_and_not_who(cohort_csv, finished):
    cohort, bundle = mt.Cohort.read(cohort_csv), mt.load_bundle(finished.bundle, "cpu")
    assert repr(cohort) == "Cohort(18 scans of 18 patients, ground-glass 6, part-solid 6, solid 6)"
    assert repr(mt.Cohort.read(cohort_csv, labelled=False)) == "Cohort(18 scans of 18 patients)"
    assert repr(bundle) == "Predictor(ground-glass, part-solid, solid; resnet18-w8, by torch on cpu)"
    volume = mt.read_scan(cohort.cases[0].path)
    assert re.fullmatch(r"Volume\(24 x 64 x 64 voxels of [\d.]+ x [\d.]+ x [\d.]+ mm, [A-Z]{3}, accept\)", repr(volume))


def test_a_config_that_is_no_config_and_overrides_that_would_do_nothing_are_refused(cohort_csv, tmp_path):
    for call in (mt.finetune, mt.preview, mt.select_backbone):
        with pytest.raises(UsageError, match="a config of type dict"):
            call(cohort_csv, {"training": {"epochs": 2}})
        with pytest.raises(UsageError, match=r"overrides \(seed=1\) beside a FinetuneConfig"):
            call(cohort_csv, mt.FinetuneConfig(), overrides=("seed=1",))
        with pytest.raises(UsageError, match="^config: found ''; expected the path of a YAML file, or None"):
            call(cohort_csv, "")  # the program's defaults were taken, and not a plan
        with pytest.raises(UsageError, match=r"overrides 'seed=1'; expected a sequence of them, such as \('seed=1',\)"):
            call(cohort_csv, overrides="seed=1")


@pytest.mark.parametrize("minutes", [-5, float("nan"), "10"])
def test_a_time_limit_that_is_none_is_refused_before_a_scan_is_read(cohort_csv, minutes):
    told: list[str] = []
    with pytest.raises(UsageError, match="^minutes: found .*; expected a number, at least 0, or None"):
        mt.plan(cohort_csv, minutes=minutes, progress=lambda stage, *_: told.append(stage))
    assert told == []


@pytest.mark.parametrize("numbers", [{"per_class": 0}, {"per_class": 1.5}, {"draws": -1}])
def test_a_number_of_scans_to_preview_that_is_none_is_refused(cohort_csv, numbers):
    with pytest.raises(UsageError, match="found .*; expected a whole number, at least "):
        mt.preview(cohort_csv, mt.FinetuneConfig(), **numbers)


def test_every_public_name_is_there_and_explained():
    assert set(mt.__all__) | {"__version__"} == set(dir(mt))
    undocumented = [name for name in mt.__all__ if not inspect.getdoc(getattr(mt, name))]
    assert undocumented == []
    with pytest.raises(AttributeError, match="No med_transfer attribute finetuen"):
        _ = mt.finetuen


def test_scans_and_tables(cohort_csv):
    series = mt.find_series(cohort_csv.parent / "scans")
    cohort = mt.Cohort.read(cohort_csv)
    assert len(series) == len(cohort) == 18
    for one in series[:3]:
        volume = mt.read_scan(one)
        assert isinstance(volume, mt.Volume)
        assert volume.voxels.shape == (24, 64, 64)
        np.testing.assert_array_equal(volume.voxels, mt.read_scan(one.path).voxels)


def test_backbones():
    assert {"resnet18-w32", "medicalnet-resnet18", "astra"} <= set(mt.list_backbones())
    loaded = mt.load_backbone("resnet18-w32")
    with torch.no_grad():
        maps = loaded.encoder.eval()(torch.zeros(1, 1, 16, 16, 16))
    assert [feature_map.shape[1] for feature_map in maps] == list(loaded.spec.stage_channels)


def test_finetune_tells_its_progress_and_gives_what_the_command_gives(cohort_csv, finished, tmp_path):
    told: list[tuple[str, int, int]] = []
    run = mt.finetune(
        cohort_csv,
        out=tmp_path / "run",
        overrides=(*TINY, "training.epochs=1"),
        progress=lambda stage, done, total, note="": told.append((stage, done, total)),
    )
    assert isinstance(run, mt.Run)
    folds = ["fine-tuning, fold 1 of 2", "fine-tuning, fold 2 of 2"]
    stages = ["looking at scans", "reading scans", *folds, "predicting"]
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == stages
    assert [(done, total) for stage, done, total in told if stage == stages[0]][-1] == (18, 18)
    same = json.loads((finished.folder / "cohort.lock.json").read_text())
    assert json.loads((run.folder / "cohort.lock.json").read_text()) == same
    assert run.metrics.n_scans == 6
    first, second = mt.compare([finished.folder, run.folder])
    assert (first.n_shared, second.n_shared) == (6, 6)
    with pytest.raises(UsageError, match="1 run; expected at least two to compare"):
        mt.compare(str(run.folder))  # it was taken for a run of each letter


def test_finetune_takes_a_config_as_object_or_file(cohort_csv, tmp_path):
    (tmp_path / "c.yaml").write_text("training: {epochs: -1}\n")
    with pytest.raises(MedTransferError, match=r"c\.yaml: training\.epochs: found -1"):
        mt.finetune(mt.Cohort.read(cohort_csv), tmp_path / "c.yaml", tmp_path / "run")
    one_class = mt.Cohort.read(cohort_csv).subset(range(2))
    with pytest.raises(CohortError, match="has 1 patient; expected at least 5|has 0 patients; expected at least 5"):
        mt.finetune(one_class, mt.FinetuneConfig(), tmp_path / "run")


def test_predictor_one_scan_and_a_folder(finished, unseen_csv, tmp_path):
    predictor = mt.load_bundle(finished.bundle)
    assert isinstance(predictor, mt.Predictor)
    outcome = predictor.predict_folder(unseen_csv.parent / "scans", tmp_path)
    table = pd.read_csv(outcome.table, keep_default_na=False, float_precision="round_trip").set_index("scan")
    assert (outcome.n_ok, outcome.exit_code) == (6, 0)
    for row in read_rows(unseen_csv)[:3]:
        one = predictor.predict(unseen_csv.parent / row["scan"])
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-6)
        in_table = table.loc[Path(row["scan"]).name]
        assert {name: in_table[f"p_{name}"] for name in one.probabilities} == one.probabilities
        assert one.predicted == in_table.predicted


def test_evaluate_agrees_with_scikit_learn(finished, unseen_csv, tmp_path):
    metrics = mt.evaluate(finished.bundle, mt.Cohort.read(unseen_csv), tmp_path, gallery=0)
    table = pd.read_csv(tmp_path / "predictions.csv").set_index("scan")
    truth = {row["scan"]: row["label"] for row in read_rows(unseen_csv)}
    for name, rates in metrics.classes.items():
        expected = roc_auc_score([truth[scan] == name for scan in table.index], table[f"p_{name}"])
        assert rates.auc.value == pytest.approx(expected)


def test_a_table_that_was_read_before_is_evaluated_by_the_classes_of_the_bundle(tmp_path):
    """As one that is read with the bundle at hand: whichever classes it has, and in whatever order."""
    bundle = tiny_bundle(tmp_path / "bundle")

    def table(name: str, *labels: str) -> Path:
        scans = [str(write_scan(tmp_path / f"{number}.nii.gz", number)) for number in range(len(labels))]
        rows = [
            {"scan": scan, "patient": f"p{scan}", "label": label} for scan, label in zip(scans, labels, strict=True)
        ]
        return write_rows(tmp_path / name, rows)

    good = table("good.csv", *["benign", "malignant"] * 3)
    by_path = mt.evaluate(bundle, good, tmp_path / "by_path", gallery=0)
    read = mt.Cohort.read(good)
    turned = replace(read, labels=Labels(("malignant", "benign")))
    for name, cohort in (("read", read), ("turned", turned)):
        metrics = mt.evaluate(bundle, cohort, tmp_path / name, gallery=0)
        assert metrics.confusion_matrix == by_path.confusion_matrix
        assert list(metrics.classes) == ["benign", "malignant"]
    others = mt.Cohort.read(table("others.csv", *["dense", "light"] * 3))
    with pytest.raises(CohortError, match=r"others.csv: row 2, class 'dense' is not in both the table and the bundle"):
        mt.evaluate(bundle, others, tmp_path / "others")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gallery": 13}, "a gallery of 13 errors; expected a number from 0 to 12"),
        ({"gallery": "many"}, "a gallery of 'many' errors; expected a number"),
        ({"language": "fr"}, "language 'fr'; expected en or zh-TW"),
    ],
)
def test_a_setting_of_an_evaluation_that_is_none_is_refused_before_any_scan_is_read(setting, message, tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle")
    rows = [{"scan": str(write_scan(tmp_path / "1.nii.gz", 1)), "patient": "p", "label": "benign"}]
    with pytest.raises(UsageError, match=message):
        mt.evaluate(bundle, write_rows(tmp_path / "cohort.csv", rows), tmp_path / "out", **setting)
    assert not (tmp_path / "out").exists()


def test_transfer_classifier_is_a_scikit_learn_estimator(cohort_csv, unseen_csv, tmp_path):
    config = mt.FinetuneConfig.model_validate(
        {
            "input": {"shape": [16, 16, 16]},
            "split": {"kind": "holdout", "test_fraction": 0.34, "val_fraction": 0.34},
            "training": {"epochs": 1, "epoch_scans": 16, "batch_size": 8},
            "from_scratch_baseline": False,
            "explain": {"gallery": 0},
        }
    )
    estimator = clone(mt.TransferClassifier(config=config, out=tmp_path / "run"))
    assert estimator.get_params() == {"config": config, "out": tmp_path / "run"}
    rows = read_rows(cohort_csv)
    paths = [cohort_csv.parent / row["scan"] for row in rows]
    labels = [row["label"] for row in rows]
    estimator.fit(paths, labels, groups=[row["patient"] for row in rows])
    assert estimator.classes_.tolist() == sorted(set(labels))

    new = [unseen_csv.parent / row["scan"] for row in read_rows(unseen_csv)]
    probabilities = estimator.predict_proba(new)
    assert probabilities.shape == (len(new), 3)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    called = mt.load_bundle(estimator.run_.bundle)
    assert estimator.predict(new).tolist() == [called.predict(scan).predicted for scan in new]
    truth = [row["label"] for row in read_rows(unseen_csv)]
    assert estimator.score(new, truth) == np.mean(estimator.predict(new) == np.array(truth))
    with pytest.raises(CohortError, match="2 scans, 1 label, 2 patients; expected equal numbers"):
        estimator.fit(paths[:2], labels[:1])


def test_transfer_classifier_gives_back_the_labels_that_it_was_given(cohort_csv, tmp_path):
    """Numbers are called as numbers, in their order, as every estimator of scikit-learn does."""
    one_fold = {"kind": "holdout", "test_fraction": 0, "val_fraction": 0.4}
    config = {"input": {"shape": [16, 16, 16]}, "split": one_fold, "transfer": {"strategy": "linear_probe"}}
    config |= {"from_scratch_baseline": False, "explain": {"gallery": 0}}
    rows = read_rows(cohort_csv)
    paths = [cohort_csv.parent / row["scan"] for row in rows]
    number_of = dict(zip(sorted({row["label"] for row in rows}), (2, 10, 9), strict=True))
    labels = np.array([number_of[row["label"]] for row in rows])
    estimator = mt.TransferClassifier(mt.FinetuneConfig.model_validate(config), tmp_path / "run").fit(paths, labels)
    assert estimator.classes_.tolist() == [2, 9, 10]
    assert mt.load_bundle(estimator.run_.bundle).record.classes == ("2", "9", "10")
    assert estimator.score(paths, labels) == np.mean(estimator.predict(paths) == labels)
    surest = estimator.classes_[estimator.predict_proba(paths).argmax(axis=1)]
    assert set(surest.tolist()) <= {2, 9, 10}


def test_transfer_classifier_learns_from_one_of_other_scans_whose_patients_are_not_known_either(tmp_path):
    shared = {"split": {"folds": 2, "test_fraction": 0}, "from_scratch_baseline": False, "explain": {"gallery": 0}}
    shared |= {"input": {"shape": [16, 16, 16]}, "transfer": {"strategy": "linear_probe"}}
    weights = None
    for cohort in range(2):
        paths = [write_scan(tmp_path / f"{cohort}/{number}.nii.gz", 100 * cohort + number) for number in range(8)]
        config = mt.FinetuneConfig.model_validate(shared | ({"backbone": {"weights": weights}} if weights else {}))
        fitted = mt.TransferClassifier(config, tmp_path / f"run{cohort}").fit(paths, ["a", "b"] * 4)
        assert fitted.run_.metrics.n_patients == 8
        weights = fitted.run_.bundle
    with pytest.raises(PatientLeak, match="the source was trained on 8 of these scans"):
        mt.TransferClassifier(config, tmp_path / "again").fit(
            [tmp_path / f"0/{n}.nii.gz" for n in range(8)], ["a", "b"] * 4
        )


@pytest.mark.parametrize("nothing", [None, float("nan"), "", "NA"])
def test_transfer_classifier_takes_no_missing_label_for_a_class_and_no_missing_patient_for_one(tmp_path, nothing):
    estimator, paths = mt.TransferClassifier(out=tmp_path / "run"), [tmp_path / f"{number}.nii" for number in range(4)]
    with pytest.raises(CohortError, match=r"^y: scan 2 has no label \(1 in all\); expected one for every scan"):
        estimator.fit(paths, ["a", nothing, "b", "b"])
    with pytest.raises(CohortError, match=r"^groups: scan 3 has no patient \(2 in all\)"):
        estimator.fit(paths, ["a", "a", "b", "b"], groups=[1, 2, nothing, nothing])
    with pytest.raises(CohortError, match=r"^y: shape \(4, 2\); expected one label a scan"):
        estimator.fit(paths, [["a", "b"]] * 4)


def test_transfer_classifier_without_a_config_plans_and_so_refuses_what_no_plan_suits(tmp_path):
    rng, affine, inside = np.random.default_rng(0), np.diag([6.0, 6.0, 8.0, 1.0]), np.zeros((6, 40, 40), bool)
    inside[:, 8:32, 8:32] = True
    ct = [np.where(inside, rng.normal(mean, 10, inside.shape), -1000) for mean in (20, 70)]
    grey = [rng.integers(0, 255, inside.shape) for _ in range(2)]
    paths = [write_nifti(tmp_path / f"{n}.nii.gz", v.astype(np.int16), affine) for n, v in enumerate([*ct, *grey])]
    with pytest.raises(CohortError, match="modalities: 2 scans (CT|none stated), 2 scans (CT|none stated)"):
        mt.TransferClassifier(out=tmp_path / "run").fit(paths, ["light", "dense"] * 2)


API_CHECKS = (  # of scikit-learn, those that need no table of numbers
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimators_unfitted",
    "check_mixin_order",
)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_transfer_classifier_passes_the_checks_of_scikit_learn_that_apply():
    estimator_checks.check_estimator(mt.TransferClassifier())
    for name in API_CHECKS:
        getattr(estimator_checks, name)("TransferClassifier", mt.TransferClassifier())


def test_transfer_classifier_is_cross_validated_by_patient_in_a_pipeline(cohort_csv, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = read_rows(cohort_csv)
    paths = np.array([str(cohort_csv.parent / row["scan"]) for row in rows])
    labels, patients = (np.array([row[column] for row in rows]) for column in ("label", "patient"))
    one_fold = {"kind": "holdout", "test_fraction": 0, "val_fraction": 0.4}
    config = {"input": {"shape": [16, 16, 16]}, "split": one_fold, "transfer": {"strategy": "linear_probe"}}
    config |= {"from_scratch_baseline": False, "explain": {"gallery": 0}}
    with config_context(enable_metadata_routing=True):
        classifier = mt.TransferClassifier(mt.FinetuneConfig.model_validate(config)).set_fit_request(groups=True)
        result = cross_validate(
            make_pipeline(classifier),
            *(paths, labels),
            cv=GroupKFold(2),
            params={"groups": patients},
            error_score="raise",
            return_estimator=True,
        )
    scores = result["test_score"]
    assert scores.shape == (2,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(list(tmp_path.glob("med-transfer-*"))) == 2
    fitted = result.pop("estimator")[0][-1]
    gc.collect()
    (folder,) = tmp_path.glob("med-transfer-*")  # that of the other fold has ended with its estimator
    assert fitted.run_.bundle.is_relative_to(folder)
    again, answers = pickle.loads(pickle.dumps(fitted)), fitted.predict_proba(paths[:1])
    assert clone(fitted).get_params() == fitted.get_params()
    del fitted
    gc.collect()
    assert not folder.exists()
    assert again.predict_proba(paths[:1]).tolist() == answers.tolist()


# the bundle through MONAI's own reader


@pytest.fixture(scope="module")
def monai_bundle(finished) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(finished.bundle / "configs/inference.json")])
    parser.read_meta(str(finished.bundle / "configs/metadata.json"))
    parser["bundle_root"] = str(finished.bundle)
    return parser


def test_monai_builds_the_network_and_gets_the_same_probabilities(monai_bundle, finished, unseen_csv):
    network = monai_bundle.get_parsed_content("network_def")
    predictor = mt.load_bundle(finished.bundle)
    preprocessing = Preprocessing(predictor.record.preprocessing)
    for row in read_rows(unseen_csv)[:3]:
        path = unseen_csv.parent / row["scan"]
        with torch.inference_mode():
            (probabilities,) = network(preprocessing(mt.read_scan(path))[None])
        answer = predictor.predict(path).probabilities
        assert probabilities.tolist() == pytest.approx(list(answer.values()), abs=1e-6)


def test_monai_runs_the_bundle(monai_bundle, finished, unseen_csv):
    scans = [str(unseen_csv.parent / row["scan"]) for row in read_rows(unseen_csv)[:2]]
    monai_bundle["scans"] = scans
    (predictions,) = monai_bundle.get_parsed_content("run")
    expected = [mt.load_bundle(finished.bundle).predict(scan).probabilities for scan in scans]
    assert [prediction.probabilities for prediction in predictions] == expected


def test_metadata_holds_what_monai_requires(monai_bundle, finished):
    metadata = json.loads((finished.bundle / "configs/metadata.json").read_text())
    assert not METADATA_KEYS - set(metadata)
    image = metadata["network_data_format"]["inputs"]["image"]
    scores = metadata["network_data_format"]["outputs"]["pred"]
    for tensor in (image, scores):
        assert not TENSOR_KEYS - set(tensor)
    network = monai_bundle.get_parsed_content("network_def")
    with torch.inference_mode():
        output = network(torch.zeros(1, image["num_channels"], *image["spatial_shape"]))
    assert output.shape == (1, scores["num_channels"])
    for package, version in metadata["required_packages_version"].items():
        assert importlib.metadata.version(package) == version


def test_bundle_holds_no_pickle_and_no_patient(finished, cohort_csv):
    patients = [row["patient"] for row in read_rows(cohort_csv)]
    for path in (path for path in finished.bundle.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert path.suffix in (".json", ".md", ".safetensors", ".xml")
        pickled = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1))
        assert not content.startswith((b"PK", *pickled)), "a zip archive or a pickle"
        assert not [patient for patient in patients if patient.encode() in content]
