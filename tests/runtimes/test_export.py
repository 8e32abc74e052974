"""A bundle's network for another runtime: the same answers, checked at export, refused otherwise."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import python
from small_network import SmallEncoder, small_images
from tiny_bundle import tiny_bundle, write_scan
from torch import Tensor, nn

from med_transfer.atomic import sha256_of
from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.instances import InstanceEncoder
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import PlanarNetwork
from med_transfer.backbones.networks.published import beside_published
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.backbones.networks.tiles import TileEncoder
from med_transfer.bundle import load_network, read_record
from med_transfer.bundle.signature import make_key, sign_bundle, verify_bundle
from med_transfer.errors import BundleError, ConfigError, MissingExtra, OutputError, UsageError
from med_transfer.inference import Predictor
from med_transfer.inference.explain import explain_scans
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.progress import silent
from med_transfer.runtimes import engines
from med_transfer.runtimes.checking import CheckScans, answers, compare, objections, scans_of_table
from med_transfer.runtimes.cores import computed_by, core_inputs, distinct
from med_transfer.runtimes.export import export_bundle
from med_transfer.runtimes.record import Check

pytest.importorskip("openvino", reason="needs the extra openvino")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    rows = [
        {"scan": write_scan(folder / f"{n}.nii", n).name, "patient": str(n), "label": ("benign", "malignant")[n % 2]}
        for n in range(4)
    ]
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["scan", "patient", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    bundle = tiny_bundle(tmp_path_factory.mktemp("exported") / "bundle")
    assert export_bundle(bundle, "openvino", scans=scans).folder == bundle / "models" / "openvino-fp32"
    return bundle


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "bundle")


def as_fast_as(bundle: Path, **seconds: float) -> None:
    path = bundle / "models" / "openvino-fp32" / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | seconds))


def test_it_answers_as_torch_does(bundle: Path, scans: Path):
    openvino, by_torch = (Predictor(bundle, "cpu", runtime=name) for name in ("openvino", "torch"))
    for number in range(4):
        ours, theirs = (one.predict(scans.parent / f"{number}.nii") for one in (openvino, by_torch))
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
        assert ours.novelty == pytest.approx(theirs.novelty, abs=0.02)
    assert openvino.chosen.name == "openvino fp32"
    assert openvino.identity != by_torch.identity  # rows of both do not mix in one table


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnx_runtime_answers_as_torch_does_and_its_file_is_for_other_programs(
    tmp_path: Path, scans: Path, precision: str
):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    bundle = tiny_bundle(tmp_path / "bundle")
    result = export_bundle(bundle, "onnx", precision, scans)  # type: ignore[arg-type]
    assert result.record.check.n_scans == 4
    assert result.folder == bundle / "models" / f"onnx-{precision}"
    onnx.checker.check_model(result.folder / "encoder0.onnx", full_check=True)
    runtime, by_torch = (Predictor(bundle, "cpu", runtime=name) for name in ("onnx", "torch"))
    assert runtime.chosen.name == f"onnx {precision}"
    for number in range(4):
        ours, theirs = (one.predict(scans.parent / f"{number}.nii") for one in (runtime, by_torch))
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4 if precision == "fp32" else 0.15)


def test_each_of_more_than_ten_fold_models_keeps_its_own_encoder(tmp_path: Path, scans: Path):
    """The second of two is numbered as an eleventh one would be, after nine that are the first once more."""
    bundle = tiny_bundle(tmp_path / "bundle", n=2)
    folder = export_bundle(bundle, "openvino", scans=scans).folder
    assert folder is not None
    for suffix in ("xml", "bin"):
        (folder / f"encoder1.{suffix}").rename(folder / f"encoder10.{suffix}")
        for number in range(1, 10):
            shutil.copy(folder / f"encoder0.{suffix}", folder / f"encoder{number}.{suffix}")
    record = json.loads((folder / "export.json").read_text())
    record |= {"encoders": [0, 10], "files": {path.name: sha256_of(path) for path in folder.glob("encoder*")}}
    (folder / "export.json").write_text(json.dumps(record))
    openvino, by_torch = (Predictor(bundle, "cpu", runtime=name) for name in ("openvino", "torch"))
    ours, theirs = (one.predict(scans.parent / "0.nii") for one in (openvino, by_torch))
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)


def test_auto_takes_what_was_fastest(bundle: Path):
    as_fast_as(bundle, seconds=1.0, torch_seconds=2.0)
    assert Predictor(bundle, "cpu").chosen.sentence == (
        "computed by openvino fp32 (2.0 times as fast as torch where it was exported)"
    )
    as_fast_as(bundle, seconds=2.0, torch_seconds=1.0)
    assert Predictor(bundle, "cpu").chosen.sentence == "computed by torch"


def test_lock_and_hashes_of_the_bundle_hold(bundle: Path):
    assert read_record(bundle).weights_sha256
    assert load_network(bundle)


def test_eight_bits_are_fitted_to_the_scans(bundle: Path, scans: Path, capfd: pytest.CaptureFixture[str]):
    pytest.importorskip("nncf", reason="needs the extra openvino")
    result = export_bundle(bundle, "openvino", "int8", scans)
    assert result.record.check.n_scans == 4
    assert 0 < result.record.check.probability_difference < 0.2
    assert (result.folder is None) == bool(result.objections)
    assert capfd.readouterr().out == ""  # which is for --json alone


class Residual(Encoder):
    """Activations that nearly all scans leave small, and one makes large."""

    stage_channels = (8,)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1)

    def stages(self) -> list[nn.Module]:
        return [nn.Identity(), nn.Sequential(self.first, nn.ReLU(), self.second, nn.ReLU())]


def test_in_eight_bits_a_scan_unlike_the_others_stays_so(tmp_path: Path):
    pytest.importorskip("nncf", reason="needs the extra openvino")
    torch.manual_seed(0)
    core, images = Residual().core([0]).eval(), torch.rand(16, 1, 4, 8, 8)
    images[5] *= 10  # the range of activations is not the mean of the scans' own
    engine, plain, path = engines.ENGINES["openvino"], tmp_path / "plain.xml", tmp_path / "int8.xml"
    with torch.no_grad():
        engine.convert(core, images[:1], plain)
        engine.quantise(plain, list(images[:, None]), path)
        expected, found = core(images[5:6]), engine.load(path, "int8")(images[5:6])
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()


def test_the_network_of_torch_stays_as_it_is():
    ensemble = Ensemble([Classifier(SmallEncoder(), 2)]).eval()
    other = computed_by(ensemble, [lambda batch: torch.zeros(len(batch), ensemble.fold_models[0].n_features)], (0,))
    assert isinstance(ensemble.fold_models[0].encoder, SmallEncoder)
    assert other.fold_models[0].head.weight is ensemble.fold_models[0].head.weight  # no second copy in memory


def test_a_signed_bundle_is_signed_again_or_left_alone(tmp_path: Path, scans: Path):
    bundle, key = tiny_bundle(tmp_path / "bundle"), tmp_path / "lab.key"
    public = make_key(key)
    sign_bundle(bundle, key)
    with pytest.raises(BundleError, match=r"is signed, .* Give --sign-key"):
        export_bundle(bundle, "openvino", scans=scans)
    assert verify_bundle(bundle, public)
    export_bundle(bundle, "openvino", scans=scans, sign_key=key)
    assert verify_bundle(bundle, public)
    (bundle / "models" / "openvino-fp32" / "encoder0.bin").write_bytes(b"changed")
    with pytest.raises(BundleError, match="1 file changed since it was signed"):
        Predictor(bundle, "cpu", public)


KILLED = """
import os, signal, sys
from med_transfer.runtimes.export import export_bundle

def killed(stage, *_):
    if stage == "exporting":
        os.kill(os.getpid(), signal.SIGKILL)

export_bundle(sys.argv[1], "openvino", scans=sys.argv[2], progress=killed)
"""


def test_a_killed_export_leaves_the_one_before_and_the_next_takes_away_what_it_left(bundle: Path, scans: Path):
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    process = python("-c", KILLED, bundle, scans, out=Path(os.devnull))
    process.join(500)
    assert process.exitcode == -signal.SIGKILL
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert [path.name for path in bundle.parent.iterdir() if path != bundle] == [".export-bundle"]
    export_bundle(bundle, "openvino", scans=scans)
    assert [*bundle.parent.iterdir()] == [bundle]
    assert Predictor(bundle, "cpu", runtime="openvino")


def test_an_export_that_a_full_disk_stops_leaves_the_one_before(bundle: Path, scans: Path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(28, "No space left on device", str(path))

    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left on device"):
        export_bundle(bundle, "openvino", scans=scans)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


INTERRUPTED = """
import gc, signal, sys, threading
from med_transfer.inference import load_bundle

kept = [load_bundle(sys.argv[1], "cpu", runtime="openvino")]
kept[0].predict(sys.argv[2])

def exchanged():
    kept.clear()
    gc.collect()

thread = threading.Thread(target=exchanged)
thread.start()
thread.join()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_is_heard_after_another_thread_has_let_go_of_the_bundle(bundle: Path, scans: Path, tmp_path: Path):
    out, err = tmp_path / "out", tmp_path / "err"
    process = python("-c", INTERRUPTED, bundle, scans.with_name("0.nii"), out=out, err=err)
    process.join(500)
    assert (process.exitcode, out.read_text()) == (0, "heard\n"), err.read_text()


def test_changed_or_foreign_exports_are_refused(bundle: Path):
    folder = bundle / "models" / "openvino-fp32"
    as_fast_as(bundle, seconds=1.0, torch_seconds=2.0)
    weights = (folder / "encoder0.bin").read_bytes()
    (folder / "encoder0.bin").write_bytes(weights[:-4] + b"\0\0\0\1")
    with pytest.raises(BundleError, match=r"encoder0.bin: the exported network was changed; .* Export it again"):
        Predictor(bundle, "cpu")
    (folder / "encoder0.bin").unlink()
    with pytest.raises(BundleError, match="the exported network is missing"):
        Predictor(bundle, "cpu")
    record = json.loads((folder / "export.json").read_text())
    for change, words in (
        ({"schema": "2"}, "schema '2', of a newer version"),
        ({"weights_sha256": "0"}, "was exported from other weights"),
        ({"format": "tensorrt"}, "format: Input should be"),
        (
            {"encoders": [1]},
            r"export.json: fold models are given encoders \[1\]; expected those of the bundle. Export it",
        ),
        ({"encoders": [0, 0]}, r"fold models are given encoders \[0, 0\]; expected those of the bundle"),
        ({"seconds": 0}, "seconds: Input should be greater than 0"),
    ):
        (folder / "export.json").write_text(json.dumps(record | change))
        with pytest.raises(BundleError, match=words):
            Predictor(bundle, "cpu")
    assert Predictor(bundle, "cpu", runtime="torch")  # which does not read it


def test_a_bundle_of_a_newer_schema_says_so(bundle: Path):
    path = bundle / "med_transfer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": "2"}))
    with pytest.raises(BundleError, match=r"schema '2', of a newer version; expected schema '1'. Update med-transfer"):
        Predictor(bundle, "cpu")


def test_a_table_checks_with_its_labels_or_without_any(tmp_path: Path, scans: Path):
    record, rows = read_record(tiny_bundle(tmp_path / "bundle")), scans.read_text().splitlines()
    labelled = scans_of_table(scans, record, silent)
    np.testing.assert_array_equal(labelled.truth, [[True, False], [False, True]] * 2)
    (scans.parent / "unlabelled.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows))
    unlabelled = scans_of_table(scans.parent / "unlabelled.csv", record, silent)
    assert unlabelled.truth is None
    np.testing.assert_array_equal(unlabelled.tensors, labelled.tensors)


def test_what_is_asked_for_and_not_there(tmp_path: Path, scans: Path):
    bundle = tiny_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="holds no network for onnx. Run: med-transfer export BUNDLE --to onnx"):
        Predictor(bundle, "cpu", runtime="onnx")
    with pytest.raises(ConfigError, match="runtime 'tensorrt'; expected one of auto, torch, openvino, onnx"):
        Predictor(bundle, "cpu", runtime="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="bf16 with onnx; expected one of fp32, int8"):
        export_bundle(bundle, "onnx", "bf16", scans)
    with pytest.raises(UsageError, match=r"bundle: nothing .* lies beside no prepared scans; .* --scans cohort.csv"):
        export_bundle(bundle, "openvino")
    assert Predictor(bundle, "cpu").chosen.name == "torch"


def test_a_runtime_that_is_not_installed(bundle: Path, scans: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(MissingExtra, match=r"package openvino is not installed. Run: pip install 'med-transfer\[openv"):
        Predictor(bundle, "cpu", runtime="openvino")
    with pytest.raises(MissingExtra, match=r"med-transfer\[openvino\]"):
        export_bundle(bundle, "openvino", scans=scans)
    assert Predictor(bundle, "cpu").chosen.name == "torch"
    assert "pip install 'med-transfer[openvino]'" in caplog.text


def test_a_processor_without_bfloat16_says_so(bundle: Path, scans: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(engines.OpenVino, "has_bf16", lambda self: False)
    assert export_bundle(bundle, "openvino", "bf16", scans).record.precision == "fp32"
    assert "does not compute in bfloat16" in caplog.text


def test_maps_are_made_by_torch(bundle: Path, scans: Path, tmp_path: Path):
    predictor = Predictor(bundle, "cpu", runtime="openvino")
    explain_scans(predictor, scans.parent / "0.nii", tmp_path / "map")
    assert (tmp_path / "map" / "map.nii.gz").exists()


def test_what_falls_is_refused():
    def check(difference: float, **sensitivity: tuple[float, float]) -> Check:
        return Check(
            n_scans=9,
            against="labels",
            by_fold=False,
            probability_difference=difference,
            novelty_difference=0,
            n_abstentions_changed=0,
            sensitivity=sensitivity,
        )

    assert objections(check(0.04, a=(0.9, 0.895), b=(0.5, 0.9)), "bf16") == []
    assert objections(check(0.0, a=(0.9, 0.85)), "int8") == [
        "sensitivity of a falls from 0.900 to 0.850 (by at most 0.01)"
    ]
    assert objections(check(0.04), "fp32") == ["a probability differs by 0.04 (at most 0.001)"]
    assert objections(check(float("inf")), "int8")


def test_findings_that_are_called_where_they_are_not_are_refused(tmp_path: Path):
    """Every scan without a finding is called so, by a probability that differs less than 8 bits may."""
    names = ("nodule", "effusion")
    point = OperatingPoint(rule="threshold", thresholds=dict.fromkeys(names, 0.3))
    record = read_record(tiny_bundle(tmp_path / "bundle")).model_copy(
        update={"classes": names, "multilabel": True, "operating_point": point}
    )
    truth = np.zeros((20, 2), bool)
    truth[:4] = True
    by_torch, exported = (np.where(truth, with_it, without) for with_it, without in ((0.8, 0.2), (0.85, 0.34)))
    scans = CheckScans([np.zeros(1, np.float16)] * 20, truth)
    check = compare((by_torch, np.zeros(20)), (exported, np.zeros(20)), scans, record)
    assert objections(check, "int8") == [
        f"sensitivity of no {name} falls from 1.000 to 0.000 (by at most 0.01)" for name in names
    ]


def test_a_bundle_is_exported_from_within(tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch):
    bundle = tiny_bundle(tmp_path / "bundle")
    for place in (bundle, bundle / "models"):
        monkeypatch.chdir(place)
        result = export_bundle(os.path.relpath(bundle), "openvino", scans=scans)
        assert result.folder is not None
        assert result.folder.resolve() == bundle / "models/openvino-fp32"
        assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


class Spectrum(SmallEncoder):
    """Has an operator that OpenVINO lacks."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [m * torch.special.bessel_j0(m) for m in super().forward(x)]


def test_an_unknown_operator_is_named(tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch):
    bundle, odd = tiny_bundle(tmp_path / "bundle"), Ensemble([Classifier(Spectrum(), 2)]).eval()
    before = logging.getLogger().level, list(logging.getLogger().filters)
    monkeypatch.setattr("med_transfer.runtimes.export.load_network", lambda folder: odd)
    with pytest.raises(
        UsageError, match=r"openvino cannot compute this network: .*bessel_j0.* Use the bundle with torch"
    ):
        export_bundle(bundle, "openvino", scans=scans)
    assert not list((bundle / "models").glob("openvino*"))
    assert not list(tmp_path.glob(".export*"))
    assert (logging.getLogger().level, logging.getLogger().filters) == before  # which the converter changes


def photographs() -> SliceEncoder:
    net = nn.Module()
    net.stem, net.deep = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2)
    planar = PlanarNetwork(net, (("stem",), ("deep",)), (6,))
    return SliceEncoder(planar, AsPhotograph())


def with_published() -> Encoder:
    published, learned = photographs(), photographs()
    for encoder in (published, learned):
        encoder.pool_by("log_mean_exp")
    return beside_published(published, learned)


def tiles() -> TileEncoder:
    return TileEncoder(SmallEncoder(), (8, 8, 8))


@pytest.mark.parametrize(
    ("make", "pooling"),
    [
        *((photographs, "attention"), (photographs, "mean_max"), (with_published, "")),
        *((tiles, "attention"), (tiles, "top_k"), (SmallEncoder, "")),
    ],
)
def test_slices_and_tiles_run_in_chunks(make, pooling, tmp_path):
    torch.manual_seed(0)
    members = []
    for _ in range(2):
        encoder = make()
        if isinstance(encoder, InstanceEncoder):
            encoder.pool_by(pooling)
            if encoder.attention is not None:
                encoder.attention.score.weight.data.normal_()
        members.append(Classifier(encoder, 2, tuple(range(len(encoder.stage_channels))), bottleneck=5))
    ensemble, image = Ensemble(members).eval(), torch.rand(1, 20, 12, 14)
    image[:, :9] = 0  # empty slices and tiles are left out in both
    wanted = ensemble.predict(image[None])
    encoders, numbers = distinct(ensemble)
    cores, openvino = [], engines.ENGINES["openvino"]
    for number, (encoder, stages) in enumerate(encoders):
        core, path = encoder.core(stages), tmp_path / f"{number}.xml"
        with engines.quiet():
            openvino.convert(core, core_inputs(encoder, stages, image)[0], path)
        cores.append(openvino.load(path, "fp32"))
    found = computed_by(ensemble, cores, numbers).predict(image[None])
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    assert torch.allclose(found[1], wanted[1], atol=0.02)


def test_a_run_checks_with_its_own_validation_scans():
    scans = CheckScans([np.zeros((1, 8, 8, 8), np.float16)] * 2, np.eye(2, dtype=bool), (1, 0))
    torch.manual_seed(0)
    ensemble = Ensemble([Classifier(SmallEncoder(), 2) for _ in range(2)]).eval()
    probabilities, _ = answers(ensemble, scans)
    for scan, member in enumerate((1, 0)):
        alone = ensemble.alone(member).predict(scans.image(scan)[None])[0][0]
        assert probabilities[scan] == pytest.approx(alone.double().detach().numpy())


def test_equal_encoders_are_computed_once():
    torch.manual_seed(0)
    one = SmallEncoder()
    members = [Classifier(SmallEncoder(), 2) for _ in range(3)]
    for member in members[::2]:
        member.encoder.load_state_dict(one.state_dict())
    ensemble, images = Ensemble(members).eval(), small_images(2)
    wanted = ensemble.predict(images)
    shared = ensemble.share_encoders(ensemble.equal_encoders())
    assert [member.encoder is members[0].encoder for member in shared.fold_models] == [True, False, True]
    assert torch.equal(shared.predict(images)[0], wanted[0])
    assert distinct(shared)[1] == (0, 1, 0)


def test_an_encoder_that_is_read_at_two_stages_has_a_core_for_each():
    torch.manual_seed(0)
    encoder = SmallEncoder()
    ensemble = Ensemble([Classifier(encoder, 2, pooled_stages=(stage,)) for stage in (0, 1)]).eval()
    encoders, numbers = distinct(ensemble)
    assert numbers == (0, 1)
    computed, images = computed_by(ensemble, [one.core(stages) for one, stages in encoders], numbers), small_images(2)
    assert torch.equal(computed.predict(images)[0], ensemble.predict(images)[0])


def test_a_class_without_scans_is_said_not_to_be_checked(bundle: Path, scans: Path):
    lines = scans.read_text().splitlines()
    one_class = scans.parent / "one_class.csv"
    one_class.write_text("\n".join(lines[:2]) + "\n")
    exported = export_bundle(bundle, "openvino", "fp32", one_class)
    (missing,) = exported.record.check.unchecked
    assert missing not in exported.record.check.sensitivity
    assert f"{missing}: not checked, there are no scans of it" in exported.sentences
