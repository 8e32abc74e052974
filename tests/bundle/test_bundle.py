"""The bundle: whole or not at all, no pickle, no unnoticed change, and a source for the next transfer."""

import copy
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from edited_bundle import before_locks
from safetensors.torch import load_file, save_file

from med_transfer.backbones import load_backbone
from med_transfer.bundle import (
    RECORD_FILE,
    WEIGHTS_FILE,
    BackboneRecord,
    BundleRecord,
    InputEnvelope,
    Provenance,
    load_network,
    read_record,
    save_bundle,
)
from med_transfer.bundle.decisions_lock import lock_hash
from med_transfer.errors import BundleError, OutputError
from med_transfer.model.calibration import PredictionSets, TemperatureScaling
from med_transfer.model.calibration.calibrators import IsotonicRegression, RisingCurve, VectorScaling
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.record import Prediction
from med_transfer.preprocessing import PreprocessingConfig

TEMPERATURE = TemperatureScaling(temperature=1.3, n=9)
IMAGES = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


def record(**changes) -> BundleRecord:
    values = {
        "classes": ("benign", "malignant"),
        "preprocessing": PreprocessingConfig(shape=(16, 16, 16), spacing_mm=(2, 1, 1)),
        "backbone": BackboneRecord(name="resnet18-w8", pooled_stages=(-1,), licence="Apache-2.0", source="none"),
        "n_members": 2,
        "calibration": TEMPERATURE,
        "input_envelope": InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        "trained_on": Provenance(cohort_hash="c", patient_hashes=("a",), content_hashes=("b",)),
    }
    return BundleRecord(**(values | changes))


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    encoders = [load_backbone("resnet18-w8", seed=seed).encoder for seed in range(2)]
    return Ensemble([Classifier(encoder, 2) for encoder in encoders], calibrator=TEMPERATURE).eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, ensemble):
    return save_bundle(tmp_path_factory.mktemp("bundles") / "bundle", record(), ensemble, "# card\n")


def test_network_comes_back_the_same_and_no_random_value_is_drawn_for_it(bundle, ensemble):
    before = torch.get_rng_state()
    network = load_network(bundle)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGES), ensemble(IMAGES))


def test_record_comes_back_the_same(bundle):
    found = read_record(bundle)
    written = {"encoders": (), "weights_sha256": "", "versions": {}, "lock_hash": "", "files": {}}
    assert found.model_copy(update=written) == record()
    assert found.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # one may lack its +cu128
    assert json.loads((bundle / RECORD_FILE).read_text())["schema"] == "1"


def test_layout_and_no_pickle(bundle):
    files = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    configs, docs = (
        ["configs/inference.json", "configs/metadata.json"],
        ["docs/README.md", "docs/applied_model_card.xml"],
    )
    assert files == [*configs, *docs, RECORD_FILE, WEIGHTS_FILE]


@pytest.mark.parametrize(
    ("channels", "named"), [((), {"0": "image"}), (("scan", "scan_post"), {"0": "scan", "1": "scan_post"})]
)
def test_the_metadata_for_monai_name_each_channel_of_the_input_and_each_class(tmp_path, ensemble, channels, named):
    preprocessing = {"shape": (16, 16, 16), "spacing_mm": (2, 1, 1), "channels": channels}
    seen = record(preprocessing=PreprocessingConfig.model_validate(preprocessing))
    folder = save_bundle(tmp_path / "bundle", seen, ensemble, "# card\n")
    metadata = json.loads((folder / "configs/metadata.json").read_text())["network_data_format"]
    image, scores = metadata["inputs"]["image"], metadata["outputs"]["pred"]
    assert (image["channel_def"], image["num_channels"], image["spatial_shape"]) == (named, len(named), [16, 16, 16])
    assert (scores["channel_def"], scores["num_channels"]) == ({"0": "benign", "1": "malignant"}, 2)


def test_a_bundle_is_a_source_for_the_next_transfer(bundle, ensemble):
    loaded = load_backbone("resnet18-w8", bundle)
    assert loaded.report.matched_share == 1.0
    assert not loaded.report.unexpected
    with torch.no_grad():
        for ours, theirs in zip(ensemble.member0.encoder(IMAGES), loaded.encoder.eval()(IMAGES), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_saving_again_replaces_and_leaves_nothing_with_cluster_interval(tmp_path, ensemble):
    for card in ("first", "second"):
        save_bundle(tmp_path / "bundle", record(), ensemble, card)
    assert (tmp_path / "bundle/docs/README.md").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of a Unix")
def test_who_may_read_a_bundle_is_what_the_umask_says(tmp_path, ensemble):
    before = os.umask(0o027)
    try:
        save_bundle(tmp_path / "bundle", record(), ensemble, "card")
    finally:
        os.umask(before)
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in (tmp_path / "bundle").rglob("*")}
    assert modes | {(True, (tmp_path / "bundle").stat().st_mode & 0o777)} == {(True, 0o750), (False, 0o640)}


def test_a_failed_save_leaves_nothing(tmp_path, ensemble):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.bundle: cannot write"):
        save_bundle(tmp_path / "file" / "bundle", record(), ensemble, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_not_a_bundle(tmp_path):
    with pytest.raises(
        BundleError, match=f"{tmp_path.name}: not a bundle; expected a folder with med_transfer.json. Give RUN/bundle"
    ):
        read_record(tmp_path)


def test_weights_that_are_no_numbers_are_refused(tmp_path, ensemble):
    broken = copy.deepcopy(ensemble)
    broken.member1.encoder.state_dict()["conv1.weight"][0, 0, 0, 0, 0] = torch.nan
    folder = save_bundle(tmp_path / "bundle", record(), broken, "")
    with pytest.raises(
        BundleError, match=r"model\.safetensors: member1.* has values that are NaN or infinite; expected finite weights"
    ):
        load_network(folder)


def test_changed_weights_are_refused(tmp_path, ensemble):
    folder = save_bundle(tmp_path / "bundle", record(), ensemble, "")
    weights = folder / WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match="weights are not the ones this bundle was made with.*Copy the whole bundle"):
        load_network(folder)
    weights.unlink()
    with pytest.raises(BundleError, match="weights are missing"):
        load_network(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "9"}, r"schema '9', of a newer version; expected schema '1'. Update med-transfer"),
        ({"surprise": 1}, r"surprise: Extra inputs are not permitted"),
        ({"n_members": "many"}, r"n_members: Input should be a valid integer"),
    ],
)
def test_a_record_of_another_version_is_refused(tmp_path, bundle, change, message):
    content = json.loads((bundle / RECORD_FILE).read_text()) | change
    (tmp_path / RECORD_FILE).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=rf"med_transfer\.json: .*{message}"):
        read_record(tmp_path)


def test_answer_calls_the_class_and_abstains_above_the_limit():
    asked = Prediction("scan.nii.gz")
    answer = record(abstain_above_novelty=0.9).answer(asked, np.array([0.2, 0.8]), 0.95)
    assert answer.probabilities == {"benign": 0.2, "malignant": 0.8}
    assert (answer.predicted, answer.abstained, answer.novelty) == ("malignant", True, 0.95)
    assert not record().answer(asked, np.array([0.2, 0.8]), 0.95).abstained


def test_answer_joins_findings():
    point = OperatingPoint(rule="threshold", thresholds={"benign": 0.1, "malignant": 0.5})
    found = record(multilabel=True, operating_point=point).answer(Prediction("a"), np.array([0.2, 0.8]), 0.0)
    assert found.predicted == "benign;malignant"


def test_a_record_from_before_plans_were_kept_is_still_read(tmp_path, bundle):
    content = before_locks(bundle)
    assert content["backbone"].pop("plan") is None
    (tmp_path / RECORD_FILE).write_text(json.dumps(content))
    assert read_record(tmp_path).backbone.plan is None


def test_prediction_sets_come_back_and_a_bundle_from_before_them_has_none(tmp_path, ensemble):
    sets = PredictionSets(coverage=0.9, thresholds=(0.3, 0.4), n_patients=(20, 30))
    folder = save_bundle(tmp_path / "bundle", record(prediction_sets=sets), ensemble, "")
    found = read_record(folder)
    assert found.prediction_sets == sets
    answers = [found.answer(Prediction("a"), np.array([1 - p, p]), 0.0).prediction_set for p in (0.1, 0.5, 0.65)]
    assert answers == ["benign", "benign;malignant", "benign;malignant"]
    content = before_locks(folder)
    del content["prediction_sets"]
    (folder / RECORD_FILE).write_text(json.dumps(content))
    assert read_record(folder).prediction_sets is None
    assert read_record(folder).answer(Prediction("a"), np.array([0.5, 0.5]), 0.0).prediction_set == ""
    content["prediction_sets"] = {"coverage": 0.9, "thresholds": [0.3], "n_patients": [20]}
    (folder / RECORD_FILE).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="the prediction sets are not of 2 classes"):
        read_record(folder)


@pytest.mark.parametrize(
    "change", [{"classes": ["malignant", "benign"]}, {"weights_sha256": "0" * 64}, {"reported": ["macro_auc"]}]
)
def test_a_decision_that_was_changed_after_the_lock_is_refused(tmp_path, bundle, change):
    content = json.loads((bundle / RECORD_FILE).read_text()) | change
    (tmp_path / RECORD_FILE).write_text(json.dumps(content))
    with pytest.raises(
        BundleError,
        match=r"med_transfer\.json: .*changed after it was locked; expected decisions with SHA-256 [0-9a-f]{12}\.",
    ):
        read_record(tmp_path)


@pytest.mark.parametrize("removed", [{"lock_hash": ""}, {"lock_hash": "", "files": {}}])
def test_a_lock_that_was_emptied_is_refused(tmp_path, bundle, removed):
    content = json.loads((bundle / RECORD_FILE).read_text()) | {"classes": ["malignant", "benign"]} | removed
    (tmp_path / RECORD_FILE).write_text(json.dumps(content))
    with pytest.raises(
        BundleError, match=r"med_transfer\.json: the lock on its decisions was removed; expected lock_hash\."
    ):
        read_record(tmp_path)
    del content["lock_hash"], content["held_out"]
    (tmp_path / RECORD_FILE).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"med_transfer\.json: the lock on its decisions was removed"):
        read_record(tmp_path)


@pytest.mark.parametrize("name", ["configs/inference.json", "configs/metadata.json", "docs/README.md"])
def test_every_file_beside_the_record_is_locked(tmp_path, bundle, name):
    changed = shutil.copytree(bundle, tmp_path / "bundle") / name
    changed.write_text(changed.read_text() + " ")
    with pytest.raises(BundleError, match=f"{changed.name}: contents are not the ones this bundle was made with"):
        read_record(tmp_path / "bundle")
    changed.unlink()
    with pytest.raises(BundleError, match=f"{changed.name}: contents are missing. Copy the whole bundle"):
        read_record(tmp_path / "bundle")


def test_what_decides_nothing_may_differ(tmp_path, bundle):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    content = json.loads((bundle / RECORD_FILE).read_text()) | {"versions": {"torch": "9"}}
    (copy / RECORD_FILE).write_text(json.dumps(content, sort_keys=True, indent=None))  # nor does the layout count
    assert read_record(copy).lock_hash == content["lock_hash"]


CURVES = (
    RisingCurve(log_odds=(-2.0, 0.1, 0.2, 3.0), probability=(0.1, 0.1, 0.6, 0.9)),
    RisingCurve(log_odds=(0.0,), probability=(0.3,)),
)


@pytest.mark.parametrize(
    "calibrator",
    [VectorScaling(scale=(0.7, 1.4), bias=(0.3, -0.3), n=40), IsotonicRegression(curves=CURVES, n=90, note="why")],
)
@pytest.mark.parametrize("multilabel", [False, True])
def test_a_bundle_answers_as_the_ensemble_that_was_calibrated(tmp_path, ensemble, calibrator, multilabel):
    members = [ensemble.member0, ensemble.member1]
    calibrated = Ensemble(members, multilabel=multilabel, calibrator=calibrator).eval()
    folder = save_bundle(tmp_path / "bundle", record(calibration=calibrator, multilabel=multilabel), calibrated, "")
    assert read_record(folder).calibration == calibrator
    with torch.no_grad():
        assert torch.equal(load_network(folder)(IMAGES), calibrated(IMAGES))
        of_each = [calibrator.probabilities(member(IMAGES).numpy(), multilabel=multilabel) for member in members]
        torch.testing.assert_close(calibrated(IMAGES), torch.from_numpy(np.mean(of_each, axis=0)))


def test_a_bundle_from_before_other_calibrations_still_answers_the_same(tmp_path, bundle, ensemble):
    """The temperature was a tensor among the weights, and the record a few numbers of any type."""
    old = tmp_path / "bundle"
    shutil.copytree(bundle, old)
    save_file(load_file(old / WEIGHTS_FILE) | {"temperature": torch.tensor(1.3)}, old / WEIGHTS_FILE)
    content = before_locks(old)
    content["calibration"] = {"method": "temperature", "temperature": 1.3, "n": 9.0}
    content["weights_sha256"] = hashlib.sha256((old / WEIGHTS_FILE).read_bytes()).hexdigest()
    (old / RECORD_FILE).write_text(json.dumps(content))
    with torch.no_grad():
        assert torch.equal(load_network(old)(IMAGES), ensemble(IMAGES))


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"method": "beta"}, "calibration: Input tag 'beta' found using 'method' does not match any of the expected"),
        (
            {"method": "temperature", "temperature": 0},
            "calibration.temperature.temperature: Input should be greater than 0",
        ),
        ({"method": "vector", "scale": [1, 1, 1], "bias": [0, 0, 0]}, "the calibration is not of 2 classes"),
        (
            {"method": "isotonic", "curves": [{"log_odds": [0, 1], "probability": [0.6, 0.5]}] * 2},
            r"calibration.isotonic.curves.0: probabilities that fall",
        ),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(tmp_path, bundle, calibration, message):
    content = json.loads((bundle / RECORD_FILE).read_text()) | {"calibration": calibration}
    (tmp_path / RECORD_FILE).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=rf"med_transfer\.json: .*{message}"):
        read_record(tmp_path)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """Three fold models, of which the first and the last have the same encoder, and the bundle of them."""
    encoders = [load_backbone("resnet18-w8", seed=seed).encoder for seed in (0, 1, 0)]
    ensemble = Ensemble([Classifier(encoder, 2) for encoder in encoders], calibrator=TEMPERATURE).eval()
    with torch.no_grad():
        expected = ensemble(IMAGES)
    return save_bundle(tmp_path_factory.mktemp("bundles") / "bundle", record(n_members=3), ensemble, ""), expected


def test_equal_encoders_lie_in_a_bundle_once(frozen):
    bundle, expected = frozen
    names = load_file(bundle / WEIGHTS_FILE)
    assert read_record(bundle).encoders == (0, 1, 0)
    assert {name.split(".")[0] for name in names if ".encoder." in name} == {"member0", "member1"}
    network = load_network(bundle)
    first, second, third = (model.encoder for model in network.fold_models)
    assert first is third is not second
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGES), expected)
    again = save_bundle(bundle.with_name("again"), record(n_members=3), network, "")
    assert (again / WEIGHTS_FILE).read_bytes() == (bundle / WEIGHTS_FILE).read_bytes()


@pytest.mark.parametrize(
    ("encoders", "found"),
    [
        ((0, 1, 2), "member2.encoder.bn1.bias.* of the file or of the network alone"),
        ((0, 0, 0), "member1.encoder.bn1.bias.* of the file or of the network alone"),
        ((0, 1), "numbers of 2 encoders, and there are 3"),
        ((), "member2.encoder.bn1.bias.* of the file or of the network alone"),
    ],
)
def test_a_record_that_shares_encoders_otherwise_than_its_weights_is_refused(frozen, tmp_path, encoders, found):
    folder = shutil.copytree(frozen[0], tmp_path / "bundle")
    content = json.loads((folder / RECORD_FILE).read_text()) | {"encoders": encoders}
    (folder / RECORD_FILE).write_text(json.dumps(content | {"lock_hash": lock_hash(content)}))
    with pytest.raises(BundleError, match=rf"model\.safetensors: weights do not fit resnet18-w8: {found}"):
        load_network(folder)
