"""Before each fold's training its encoder learns painted lesions, from that fold's training scans only."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from med_transfer.atomic import sha256_of
from med_transfer.backbones import find_backbone, from_scratch, load_backbone
from med_transfer.backbones.channels import with_channels
from med_transfer.bundle import RECORD_FILE, WEIGHTS_FILE, load_network, read_record
from med_transfer.bundle.decisions_lock import lock_hash
from med_transfer.cohorts import Case, Cohort, SourceLock, SplitConfig, split_cohort
from med_transfer.config import load_config
from med_transfer.errors import ConfigError
from med_transfer.finetuning import Run, finetune
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import prepare_run_data
from med_transfer.finetuning.fold_pretraining import (
    _pretraining,
    canvas,
    check_pretraining,
    hounsfield,
    in_crop_order,
    mirrored,
    source_scans,
)
from med_transfer.finetuning.folds import Folds
from med_transfer.finetuning.on_cluster import group_by_dependency
from med_transfer.finetuning.split_choice import choose_split
from med_transfer.finetuning.transfer_config import ProbeConfig
from med_transfer.inference import Predictor
from med_transfer.model.linear_head import fit_probe
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.pretraining.methods.method import PretrainingContext
from med_transfer.pretraining.methods.painted_lesions import PaintedLesions
from med_transfer.pretraining.source.views import encoder_input, reorient
from med_transfer.progress import silent
from med_transfer.scans import read_scan

PATIENTS = 10
ENTRY = find_backbone("slices-efficientnet-lite0")
STRENGTHS = ProbeConfig().inverse_strengths
WINDOWS = [{"column": "scan", "window_hu": window} for window in ([0, 80], [-20, 180], [-800, 2000])]
SETTINGS = {
    "backbone": {
        "name": "slices-efficientnet-lite0",
        "instance_pooling": "mean_max",
        "pretrain": "painted_lesions",
        "pretraining": {"steps": 2},
    },
    "input": {"region": "whole", "shape": [8, 64, 64], "channels": WINDOWS},
    "transfer": {"strategy": "linear_probe"},
    "split": {"test_fraction": 0, "folds": 2},
    "from_scratch_baseline": False,
    "explain": {"gallery": 0},
}


def head(seed: int, *, sick: bool) -> np.ndarray:
    """HU [depth, height, width] of a skull around a brain, with blood in it or not."""
    _, y, x = np.mgrid[:8, :64, :64] - 31.5
    radius, rng = np.hypot(y, x), np.random.default_rng(seed)
    hu = np.select([radius < 24, radius < 28], [35.0, 900.0], -1000.0)
    hu[2:5, 20:30, 24 + seed % 8 : 34 + seed % 8] += 40 * sick
    return hu + rng.normal(0, 4, hu.shape)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    folder, rows = tmp_path_factory.mktemp("heads"), ["scan,patient,label"]
    for number in range(PATIENTS):
        sick = number % 2 == 1
        voxels = head(number, sick=sick).transpose(2, 1, 0).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([-3.0, -3.0, 5.0, 1.0])), folder / f"{number}.nii.gz")
        rows.append(f"{number}.nii.gz,p{number},{'blood' if sick else 'none'}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    return Cohort.read(folder / "cohort.csv")


@pytest.fixture(scope="module")
def stages() -> set[str]:
    """What the run told."""
    return set()


@pytest.fixture(scope="module")
def run(cohort, stages, tmp_path_factory):
    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        stages.add(stage)

    return finetune(cohort, FinetuneConfig.model_validate(SETTINGS), tmp_path_factory.mktemp("run"), listen)


@pytest.fixture(scope="module")
def run_data(cohort, tmp_path_factory):
    entry = find_backbone("slices-efficientnet-lite0")
    return prepare_run_data(cohort, choose_split(config(), cohort), entry, tmp_path_factory.mktemp("data"), silent)


def config(**pretraining) -> FinetuneConfig:
    backbone = SETTINGS["backbone"] | {"pretraining": {"steps": 2} | pretraining}
    return FinetuneConfig.model_validate(SETTINGS | {"backbone": backbone})


def sources(run_data, asked: FinetuneConfig, number: int):
    return source_scans(run_data, canvas(run_data.prepared.cohort, run_data.split, asked, number))


def fold(run, number: int):
    return run.folder / f"training/fold-{number}/pretraining"


def test_a_fold_learns_from_its_own_training_scans_and_from_no_other(run, cohort):
    images = {case.patient: read_scan(case.path).content_hash for case in cohort.cases}
    seen = [set(SourceLock.read(fold(run, number) / "source.lock.json").content_hashes) for number in range(2)]
    assert seen[0] | seen[1] == set(images.values())
    assert not seen[0] & seen[1]  # of two folds, each one's training scans are the other's validation scans


def test_each_fold_has_an_encoder_of_its_own_and_the_bundle_predicts_with_them(run, cohort):
    states = [load_file(fold(run, number) / "encoder.safetensors") for number in range(2)]
    moved = [name for name, values in states[0].items() if not torch.equal(values, states[1][name])]
    assert len(moved) > 20
    predictor = Predictor(run.folder / "bundle")
    probabilities = [predictor.predict(case.path).probabilities for case in cohort.cases[:2]]
    assert all(sum(values.values()) == pytest.approx(1) for values in probabilities)


ANSWERS = {"encoders": 2, "head_reads": "answers"}
BOTH = {"encoders": 2, "head_reads": "answers_and_published"}


@pytest.fixture(scope="module")
def answering(cohort, tmp_path_factory):
    """Three folds, of which the first and the last share an encoder."""
    asked = config(**BOTH).model_dump() | {"split": {"test_fraction": 0, "folds": 3}}
    return finetune(cohort, FinetuneConfig.model_validate(asked), tmp_path_factory.mktemp("answering"))


def test_a_shared_encoder_has_seen_nobody_whom_any_of_its_folds_holds_out(answering, cohort):
    images = {case.scan: read_scan(case.path).content_hash for case in cohort.cases}
    split = split_cohort(cohort, load_config(FinetuneConfig, answering.folder / "config.yaml").split)
    held_out = [{images[cohort.cases[case].scan] for case in part} for part in split.validation]
    seen = [set(SourceLock.read(fold(answering, number) / "source.lock.json").content_hashes) for number in range(2)]
    assert seen[0] == held_out[1]
    assert seen[1] == held_out[0] | held_out[2]
    assert not fold(answering, 2).exists()


def test_the_head_reads_what_the_network_answers(answering, cohort, tmp_path):
    of_run = load_config(FinetuneConfig, answering.folder / "config.yaml")
    data = prepare_run_data(cohort, of_run, find_backbone(of_run.backbone.name), tmp_path, silent)
    tensors = data.prepared.without_margin(margin_voxels(data.preprocessing.shape)).tensors
    models = load_network(answering.folder / "bundle").fold_models
    first, *others = [model.encoder for model in models]
    assert [one.learned is first.learned for one in others] == [False, True]
    assert all(one.published is first.published for one in others)
    for number, learned_from in enumerate(
        (data.split.validation[1], data.split.validation[0] + data.split.validation[2])
    ):
        kept = load_file(fold(answering, number) / "encoder.safetensors")

        def parts(tensor, encoder=models[number].encoder.learned, kept=kept):
            maps = [m[0].transpose(0, 1) for m in encoder(torch.from_numpy(tensor).float()[None])]
            places = [
                torch.einsum("kc,nchw->nkhw", kept[f"head.place.{n}.weight"][..., 0, 0, 0], own).amax((2, 3))
                + kept[f"head.place.{n}.bias"]
                for n, own in zip((1, 2, 3), maps[1:4], strict=True)
            ]
            said = maps[3].mean((2, 3)) @ kept["head.what.weight"].T + kept["head.what.bias"]
            return torch.stack([*places, said[:, :2], said[:, 2:]], 1)  # no slice is empty

        with torch.no_grad():
            of_slices = [parts(tensor) for tensor in tensors]
            of_training = torch.stack([of_slices[n] for n in learned_from])
            of_scans = of_training.mean(1)
            centre, scale = of_scans.mean(0), of_scans.std(0, correction=0)
            spread = ((of_training - centre) / scale).mean(2).flatten(0, 1).std(0, correction=0)
            expected = torch.stack([((of_one - centre) / scale).mean((0, 1)) for of_one in of_slices[:3]]) / spread
            found = models[number].features(torch.from_numpy(np.stack(tensors[:3])).float())
        # mean_max: the mean over slices, then the largest; before the answers the published network's
        torch.testing.assert_close(found[:, -4:-2], expected, rtol=1e-3, atol=1e-3)


def test_beside_the_answers_the_head_reads_the_network_as_published_each_by_a_head_of_its_own(
    answering, cohort, tmp_path
):
    of_run = load_config(FinetuneConfig, answering.folder / "config.yaml")
    data = prepare_run_data(cohort, of_run, find_backbone(of_run.backbone.name), tmp_path, silent)
    tensors = data.prepared.without_margin(margin_voxels(data.preprocessing.shape)).tensors
    images, truth = torch.from_numpy(np.stack(tensors)).float(), np.asarray(cohort.truth)
    loaded = load_backbone(of_run.backbone.name, channels=of_run.input.channels_of_network).encoder.eval()
    network = load_network(answering.folder / "bundle")
    with torch.no_grad():
        read = network.fold_model_features(images)
        enlarged = torch.nn.functional.interpolate(images[0].transpose(0, 1), size=(224, 224), mode="bilinear")
        shown = loaded.net_maps(loaded.photograph(enlarged.transpose(0, 1)[None])[0].transpose(0, 1))[-1]
        of_heads = [model.head(rows).numpy() for model, rows in zip(network.fold_models, read, strict=True)]
    of_slices = shown.mean((2, 3))
    expected = torch.cat([of_slices.mean(0), of_slices.max(0).values]).numpy()
    for number, (features, logits) in enumerate(zip(map(torch.Tensor.numpy, read), of_heads, strict=True)):
        np.testing.assert_allclose(features[0, :-4], expected, rtol=1e-3, atol=1e-3)
        learned = [n for k, part in enumerate(data.split.validation) if k != number for n in part]
        learners = [cohort.patients[n] for n in learned]
        heads = [
            fit_probe(part[learned], truth[learned], learners, STRENGTHS, multilabel=False, balanced=True)
            for part in (features[:, :-4], features[:, -4:])
        ]
        by_parts = (heads[0].logits(features[:, :-4]) + heads[1].logits(features[:, -4:])) / 2
        np.testing.assert_allclose(logits, by_parts, rtol=1e-2, atol=1e-3)


def test_a_bundle_in_which_the_published_network_lay_within_the_other_is_read(answering, tmp_path):
    network, folder = load_network(answering.folder / "bundle"), tmp_path / "bundle"
    shutil.copytree(answering.folder / "bundle", folder)
    tensors = {name.replace(".learned.", "."): tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    record = json.loads((folder / RECORD_FILE).read_text()) | {"weights_sha256": sha256_of(folder / WEIGHTS_FILE)}
    del record["encoders"]
    (folder / RECORD_FILE).write_text(json.dumps(record | {"lock_hash": lock_hash(record)}))
    preprocessing = read_record(folder).preprocessing
    again, image = load_network(folder), torch.rand(1, preprocessing.n_channels, *preprocessing.shape)
    with torch.no_grad():
        for one, other in zip(again.fold_model_features(image), network.fold_model_features(image), strict=True):
            assert torch.equal(one, other)
    assert again.equal_encoders() == network.equal_encoders()


@pytest.mark.parametrize(
    ("orientation", "axes", "flips", "as_features", "as_answers"),
    [
        ("SPL", "SPL", (), (0, 0, 0), (0, 0, 0.5)),
        ("SPL", "SPL", (2,), (0, 0, 0.5), (0, 0, 0.5)),
        ("LSP", "LSP", (1,), (0.5, 0, 0), (0.5, 0, 0.5)),  # its second axis goes up
        ("LSP", "SPL", (1,), (0, 0.5, 0), (0.5, 0.5, 0)),  # sagittal slices: their depth goes to the left
        ("PSL", "SPL", (), (0, 0, 0), (0, 0, 0.5)),
    ],
)
def test_what_is_denser_has_no_side(orientation, axes, flips, as_features, as_answers):
    asked = [config(**settings).model_dump() | {"augmentation": {"flips": flips}} for settings in ({}, ANSWERS)]
    found = [mirrored(FinetuneConfig.model_validate(one), orientation, axes) for one in asked]
    assert found == [as_features, as_answers]


def test_card_and_report_say_what_it_learned_before_its_fold(answering):
    learned = "efficientnet-lite0-57934424.pth, then pretrained on training scans: painted_lesions"
    expected = f"{learned}; and as published, beside it"
    assert expected in (answering.folder / "bundle/docs/README.md").read_text()
    assert expected in answering.report.read_text()


def test_folds_with_a_shared_encoder_go_on_from_it_without_its_scans_or_a_child(
    answering, cohort, tmp_path, monkeypatch
):
    def refused(*_, **__):
        pytest.fail("a finished encoder needs neither")

    again = Run(shutil.copytree(answering.folder, tmp_path / "again"))
    for number in range(3):
        (again.folder / f"training/fold-{number}/history.json").unlink()  # as if its training had been killed
    monkeypatch.setattr("med_transfer.finetuning.fold_pretraining.source_scans", refused)
    monkeypatch.setattr("med_transfer.pretraining.side_by_side.ScanWorker", refused)
    finetune(cohort, load_config(FinetuneConfig, again.folder / "config.yaml"), again.folder)
    for name in ("predictions.csv", *(f"training/fold-{number}/best.safetensors" for number in range(3))):
        assert (again.folder / name).read_bytes() == (answering.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": {"name": "med-transfer-small", "instance_pooling": None}},
            "answers of slices, and this is no",
        ),
        ({"backbone": {"pooled_stages": [2]}}, "with backbone.pooled_stages: it reads no feature map"),
        ({"backbone": {"instance_pooling": None}}, "with attention over slices: set backbone.instance_pooling"),
        ({"transfer": {"strategy": "lp_ft"}}, "with lp_ft: the network would not be the one any more"),
        (
            {"transfer": {"strategy": "linear_probe", "mapping": {"method": "autoencoder"}}},
            "with transfer.mapping autoencoder: the features and the answers have a head each",
        ),
        ({"transfer": {"strategy": "linear_probe", "batch_norm": "bn_adapt"}}, "with batch_norm bn_adapt"),
    ],
)
def test_a_network_that_cannot_answer_is_refused(changes, message):
    asked = config(**BOTH).model_dump() | {key: value for key, value in changes.items() if key != "backbone"}
    asked["backbone"] |= changes.get("backbone", {})
    with pytest.raises(ValidationError, match=f"head_reads answers_and_published .*{message}"):
        FinetuneConfig.model_validate(asked)


def test_on_a_cluster_a_fold_waits_for_the_one_that_pretrains_its_encoder(run_data, tmp_path):
    source, folders = from_scratch(find_backbone("med-transfer-small")), tuple(tmp_path / f"fold-{k}" for k in range(5))
    shared, alone = (Folds(run_data, config(encoders=n), source, folders) for n in (2, None))
    jobs = [(place, fold) for place in range(2) for fold in range(5)]
    first, then = group_by_dependency(jobs, [shared, alone])
    assert first == [(0, 0), (0, 1), *((1, fold) for fold in range(5))]
    assert then == [(0, 2), (0, 3), (0, 4)]
    assert group_by_dependency([(1, 0)], [shared, alone]) == [[(1, 0)]]


def test_an_encoder_without_a_canvas_is_named(cohort):
    split = split_cohort(cohort, SplitConfig(test_fraction=0, folds=5))
    assert canvas(cohort, split, config(encoders=2), 0) == sorted(split.validation[1] + split.validation[3])
    in_second = set(split.validation[1] + split.validation[3])
    relabelled = (replace(case, label="blood") if n in in_second else case for n, case in enumerate(cohort.cases))
    with pytest.raises(
        ConfigError,
        match=r"^backbone\.pretraining\.only_class: encoder 1 has no training scan of none; .* at least one in each",
    ):
        canvas(Cohort(tuple(relabelled), cohort.labels), split, config(encoders=2, only_class="none"), 0)


def test_progress_says_that_encoders_learn(run, stages):
    at_once = "pretraining 2 encoders" if torch.get_num_threads() > 1 else "pretraining"
    assert f"fine-tuning: {at_once}" in stages


def test_it_is_not_repeated_since_each_fold_costs_a_training(run):
    assert load_config(FinetuneConfig, run.folder / "config.yaml").split.repeats == 1


def test_a_finished_pretraining_is_found_again_and_a_finished_fold_asks_for_none(run, cohort, tmp_path):
    again = Run(shutil.copytree(run.folder, tmp_path / "again"))
    before = (fold(again, 0) / "encoder.safetensors").stat().st_mtime_ns
    (again.folder / "training/fold-0/history.json").unlink()  # as if its training had been killed
    shutil.rmtree(fold(again, 1))
    finetune(cohort, load_config(FinetuneConfig, again.folder / "config.yaml"), again.folder)
    assert (fold(again, 0) / "encoder.safetensors").stat().st_mtime_ns == before
    assert not fold(again, 1).exists()
    assert again.metrics.macro_auc == run.metrics.macro_auc


def test_one_class_alone_or_half_of_it_can_be_the_canvas(run_data, cohort):
    healthy = {case.patient for case in cohort.cases if case.label == "none"}
    for number in range(2):
        training = {run_data.prepared.cohort.patients[n] for n in run_data.split.training(number)}
        for only, expected in (("none", training & healthy), (None, training)):
            scans = sources(run_data, config(only_class=only), number)
            assert len(scans) == len(expected)
            assert len(scans.patient_hashes) == len(expected)
        half = sources(run_data, config(only_class="none", canvas_share=0.5), number)
        assert len(half) == round(len(training & healthy) / 2) > 0
        healthy_images = {*sources(run_data, config(only_class="none"), number).content_hashes}
        assert {*half.content_hashes} < healthy_images


def test_without_a_source_it_is_refused_and_the_baseline_has_none(cohort, tmp_path):
    of_run = FinetuneConfig.model_validate(config().model_dump() | {"transfer": {"strategy": "scratch"}})
    with pytest.raises(
        ConfigError, match=r"^backbone\.pretrain: painted_lesions with a network that starts from random values"
    ):
        finetune(cohort, of_run, tmp_path / "run")
    assert (
        config().resolved(from_source=True).from_scratch_config().resolved(from_source=False).backbone.pretrain is None
    )


def test_who_says_when_the_training_stops_is_no_canvas(cohort):
    split = split_cohort(cohort, SplitConfig(test_fraction=0, folds=2))
    of_run = FinetuneConfig.model_validate(config().model_dump() | {"transfer": {"strategy": "full"}})
    for number in range(2):
        painted, steering = set(canvas(cohort, split, of_run, number)), set(split.steering_of(number))
        assert steering
        assert painted == set(split.training(number)) - steering


def test_where_the_table_has_findings_those_without_any_are_the_canvas():
    findings = [frozenset(), frozenset({"blood"}), frozenset({"blood", "fracture"}), frozenset({"fracture"})]
    cases = tuple(Case(f"{n}", Path(f"{n}"), f"p{n}", findings[n % 4]) for n in range(12))
    table = Cohort(cases, Labels(("blood", "fracture"), multilabel=True))
    split = split_cohort(table, SplitConfig(test_fraction=0, folds=3))
    painted = canvas(table, split, config(only_class="none"), 1)
    assert painted == [n for n in split.training(1) if n % 4 == 0]
    with pytest.raises(
        ConfigError,
        match=r"^backbone\.pretraining\.only_class: blood, and the table has findings; expected none: the scans",
    ):
        check_pretraining(config(only_class="blood"), PreprocessingConfig(), table, split, ENTRY.input)
    sick = Cohort(tuple(replace(case, label=case.label or findings[1]) for case in cases), table.labels)
    with pytest.raises(
        ConfigError,
        match=r"^backbone\.pretraining\.only_class: fold 1 has no training scan of none; .* at least one in each fold",
    ):
        check_pretraining(config(only_class="none"), PreprocessingConfig(), sick, split, ENTRY.input)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": SETTINGS["backbone"] | {"pretraining": {"only_class": "well"}}},
            r"^backbone\.pretraining\.only_class: no class well; .* blood, none",
        ),
        (
            {"input": {"modality": "MR", "region": "whole", "shape": [8, 64, 64]}},
            r"^backbone\.pretrain: z-scores; expected one CT a case",
        ),
        (
            {"input": SETTINGS["input"] | {"output_range": [-1, 1]}},
            r"^input\.output_range: \[-1.0, 1.0\], and the network is pretrained on \[0.0, 1.0\]",
        ),
        (
            {"input": {"region": "whole", "shape": [8, 64, 64], "channels": [WINDOWS[0], {"column": "scan_late"}]}},
            r"^backbone\.pretrain: several scans a case",
        ),
    ],
)
def test_what_cannot_be_painted_is_refused_before_anything_is_read(cohort, tmp_path, changes, message):
    cases = tuple(replace(case, columns={"scan_late": case.scan}) for case in cohort.cases)
    with pytest.raises(ConfigError, match=message):
        finetune(replace(cohort, cases=cases), FinetuneConfig.model_validate(SETTINGS | changes), tmp_path / "run")
    assert not (tmp_path / "run" / "prepared").exists()


@pytest.mark.parametrize("orientation", ["SPL", "SRA", "LPS"])
def test_the_painter_sees_the_hounsfield_units_of_the_prepared_scan(cohort, orientation):
    """Prepared in windows and turned back, against the same grid in one wide window, which hides nothing."""
    volume = read_scan(cohort.cases[1].path)
    common = {"orientation": orientation, "shape": (16, 48, 56), "spacing_mm": (5.0, 4.0, 4.0), "modality": "CT"}
    windows = PreprocessingConfig(**common, channels=WINDOWS, output_range=(0.0, 1.0))
    plain = PreprocessingConfig(**common, window_hu=(-800, 2000), output_range=(-800, 2000))
    seen = Preprocessing(windows)({"scan": volume}).numpy()
    expected = Preprocessing(plain)(volume).numpy()[0]
    found = hounsfield(seen.astype(np.float16), windows, orientation)
    turned = reorient(torch.from_numpy(expected), orientation, "SPL").numpy()
    assert found.shape == turned.shape == in_crop_order(windows.shape, orientation)
    fine = (turned > 5) & (turned < 75)
    assert np.abs(found - turned)[fine].max() <= 1
    assert np.abs(found - turned).max() <= 3


@pytest.mark.parametrize("orientation", ["SPL", "PSL", "LSP"])
def test_pretraining_shows_the_network_the_slices_that_it_is_trained_on(cohort, orientation, tmp_path):
    """Whole ones, also coronal and sagittal ones, of which a slab holds neighbours."""
    axes = {"orientation": orientation, "shape": [8, 48, 64]}
    asked = FinetuneConfig.model_validate(SETTINGS | {"input": SETTINGS["input"] | axes})
    data = prepare_run_data(cohort, choose_split(asked, cohort), ENTRY, tmp_path, silent)
    rows, learning = [0, 1], _pretraining(data, asked, 0)
    assert learning.input_shape == (4, 48, 64)
    whole = learning.crops.plain.model_copy(update={"slab": 8, "shape": (8, 48, 64), "shift_mm": 1e-6})
    learning = learning.model_copy(update={"crops": whole, "input_shape": (8, 48, 64)})
    needs = with_channels(ENTRY, "windows").input
    context = PretrainingContext(learning, needs, source_scans(data, rows), None, torch.device("cpu"))
    crops, numbers = next(PaintedLesions(ENTRY.build(), context).plain_inputs(4))
    tensors = data.prepared.without_margin(margin_voxels(data.preprocessing.shape)).tensors
    for seen, number in zip(encoder_input(crops, needs), numbers.tolist(), strict=True):
        trained_on = torch.from_numpy(tensors[rows[number]]).float()
        torch.testing.assert_close(seen, trained_on, rtol=0, atol=0.03)  # Hounsfield units are rounded
