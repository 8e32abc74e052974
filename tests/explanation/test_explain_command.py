"""``med-transfer explain``: maps that overlay the scan in any viewer, pictures, records, and what is refused."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from matplotlib.image import imread

import med_transfer as mt
from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.backbones import load_backbone
from med_transfer.bundle import (
    WEIGHTS_FILE,
    BackboneRecord,
    BundleRecord,
    InputEnvelope,
    Provenance,
    load_network,
    save_bundle,
)
from med_transfer.errors import BundleError, ConfigError, UsageError
from med_transfer.explanation import GradCAM, HeatMap
from med_transfer.explanation.settings import MapSettings
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.phantoms.nifti_file import write_nifti
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.preprocessing.config import ChannelConfig
from med_transfer.scans import Region, geometry

SPACINGS = {"anisotropic": (0.8, 0.8, 2.5), "flipped": (-1.0, 1.0, -1.5)}
QUICK = ("--draws", "1")


def bundle_at(folder: Path, *, multilabel: bool = False, columns: tuple[str, ...] = (), region: str = "whole") -> Path:
    """A network with random weights is explained like any other."""
    channels = tuple(ChannelConfig(column=column) for column in columns)
    encoder = load_backbone("resnet18-w32", seed=3, channels=max(1, len(columns))).encoder
    torch.manual_seed(1)  # a head that finds something for either class
    record = BundleRecord(
        classes=("benign", "malignant"),
        multilabel=multilabel,
        preprocessing=PreprocessingConfig.model_validate(
            {"shape": (16, 16, 16), "spacing_mm": (2, 2, 2), "channels": channels, "region": region}
        ),
        backbone=BackboneRecord(name="resnet18-w32", pooled_stages=(-1,), licence="MIT", source="none"),
        n_fold_models=1,
        operating_point=OperatingPoint.default(Labels(("benign", "malignant"), multilabel)),
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=(), content_hashes=()),
    )
    return save_bundle(folder, record, Ensemble([Classifier(encoder, 2)], multilabel=multilabel), "# card\n")


def write_scan(path: Path, spacing=SPACINGS["anisotropic"], seed=0) -> Path:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-30.0, 20.0, 100.0)
    shape = tuple(round(48 / abs(mm)) for mm in spacing[::-1])
    voxels = np.random.default_rng(seed).normal(-200, 300, shape).clip(-1000, 1000)
    return write_nifti(path, voxels.astype(np.int16), affine)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return bundle_at(tmp_path_factory.mktemp("explained") / "bundle")


@pytest.mark.parametrize("stored", list(SPACINGS))
def test_one_scan_becomes_a_map_a_picture_and_a_record(bundle, tmp_path, command, stored):
    scan = write_scan(tmp_path / "scan.nii.gz", SPACINGS[stored])
    found = command("explain", bundle, scan, "-o", tmp_path / "out", "--class", "malignant", *QUICK)
    assert found.code == 0, found.err
    with sole_writer(tmp_path / "out"):
        refused = command("explain", bundle, scan, "-o", tmp_path / "out", "--class", "benign", *QUICK)
    assert refused.code == 2
    assert "another run is active here" in refused.err
    assert "malignant 0." in found.out
    assert "gradcam is strongest at" in found.out
    record = json.loads((tmp_path / "out/explanation.json").read_text())
    assert record["class_name"] == "malignant"
    assert record["probability"] == pytest.approx(mt.load_bundle(bundle).predict(scan).probabilities["malignant"])
    assert "does not show why" in record["statement"]
    assert (record["method"], record["stage"], record["window_mm"]) == ("gradcam", 1, None)
    assert record["element_mm"] == [8.0, 8.0, 8.0]

    original, written = nib.load(scan), nib.load(tmp_path / "out/map.nii.gz")
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)
    assert written.shape == original.shape
    theirs, ours = (SimpleITK.ReadImage(str(p)) for p in (scan, tmp_path / "out/map.nii.gz"))
    np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-6)
    assert ours.GetSize() == theirs.GetSize()

    values = SimpleITK.GetArrayFromImage(ours)
    nearest = ours.TransformPhysicalPointToIndex(record["peak_lps_mm"])
    assert ours.GetPixel(*nearest) == pytest.approx(record["peak"], rel=0.2)
    assert values.max() <= record["peak"] * (1 + 1e-5)
    corner = ours.TransformIndexToPhysicalPoint((0, 0, 0))
    assert np.abs(np.array(corner) - record["seen_centre_lps_mm"]).max() > record["seen_size_mm"][0] / 2
    assert values[0, 0, 0] == 0  # outside of what the network saw

    picture = imread(tmp_path / "out/picture.png")
    assert picture.ndim == 3
    coloured = np.ptp(picture[..., :3], axis=-1) > 0.2
    height = len(picture) // 2
    assert coloured[height:].mean() > 2 * coloured[:height].mean()  # letters and box above; the map too below


def _noise(shape):
    return np.random.default_rng(0).normal(0, 200, shape).astype(np.int16)


class Beside(torch.nn.Module):
    """A map that grows to the left, beyond a scan that is narrower than the input."""

    def __call__(self, ensemble, image, class_index):
        ramp = np.broadcast_to(np.arange(image.shape[3], dtype=np.float32), tuple(image.shape[1:]))
        return HeatMap(ramp.copy(), (1.0, 1.0, 1.0))


def test_what_is_strongest_in_the_padding_is_said_and_the_place_lies_in_the_scan(bundle, tmp_path, monkeypatch):
    scan = write_nifti(tmp_path / "s.nii.gz", _noise((16, 16, 6)), np.diag([2.0, 2.0, 2.0, 1.0]))
    monkeypatch.setattr(MapSettings, "on", lambda *_: Beside())
    (record,) = mt.explain(bundle, scan, tmp_path / "out", draws=0, hidden=0).records
    assert record.doubts == ("The map is strongest outside of the scan, in what pads it.",)
    written = SimpleITK.ReadImage(str(tmp_path / "out/map.nii.gz"))
    place = written.TransformPhysicalPointToIndex(record.peak_lps_mm)
    assert written.GetPixel(*place) == pytest.approx(record.peak, rel=0.1)
    assert SimpleITK.GetArrayFromImage(written).max() <= record.peak * (1 + 1e-5)


def test_the_map_is_of_what_the_predictor_sees(bundle, tmp_path, command):
    scan = write_scan(tmp_path / "scan.nii.gz", (2.0, 2.0, 2.0))
    command("explain", bundle, scan, "-o", tmp_path / "out", "--class", "benign", "--draws", "0")
    preprocessing = Preprocessing(PreprocessingConfig(shape=(16, 16, 16), spacing_mm=(2, 2, 2)))
    volume = mt.read_scan(scan)
    heat = GradCAM()(load_network(bundle), preprocessing(volume), 0)
    written = nib.load(tmp_path / "out/map.nii.gz").get_fdata().T
    grid = preprocessing.grid(volume)
    first = geometry.to_index(volume.affine, grid.affine[:3, 3])[::-1]
    np.testing.assert_allclose(first, np.rint(first), atol=1e-6)
    box = tuple(slice(round(start), round(start) + 16) for start in first)
    np.testing.assert_allclose(written[box], heat.values, atol=1e-6)


def test_occlusion_in_mm(bundle, tmp_path, command):
    scan = write_scan(tmp_path / "scan.nii.gz")
    options = ("--method", "occlusion", "--window-mm", "16", "--stride-mm", "8", "--fill", "floor", "--json", *QUICK)
    found = command("explain", bundle, scan, "-o", tmp_path / "out", *options)
    assert found.code == 0, found.err
    (record,) = json.loads(found.out)
    assert (record["window_mm"], record["stride_mm"], record["fill"]) == ([16.0] * 3, [8.0] * 3, "floor")
    assert record["stage"] is None
    assert record["class_name"] == record["predicted"]  # nobody named one
    assert len(record["sanity"]["correlations"]) == 1


def test_a_table_with_a_broken_scan_goes_on(bundle, tmp_path, command):
    write_scan(tmp_path / "one.nii.gz")
    (tmp_path / "two.nii.gz").write_bytes(b"\x1f\x8bnothing")
    write_scan(tmp_path / "three.nii.gz", seed=1)
    (tmp_path / "cohort.csv").write_text(
        "scan,patient\none.nii.gz,Ann Example\ntwo.nii.gz,Bob Example\nthree.nii.gz,Cas Example\n"
    )
    found = command("explain", bundle, tmp_path / "cohort.csv", "-o", tmp_path / "out", *QUICK)
    assert found.code == 1
    with (tmp_path / "out/explanations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["scan"], row["folder"]) for row in rows] == [
        ("one.nii.gz", "0001"),
        ("two.nii.gz", ""),
        ("three.nii.gz", "0003"),
    ]
    assert rows[1]["reason"].startswith("two.nii.gz: ")
    assert float(rows[0]["probability"]) > 0
    assert not (tmp_path / "out/0002").exists()
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"Example" not in written
    assert "Example" not in found.out + found.err


def test_where_a_scan_has_no_map_any_more_there_is_none_of_another(bundle, tmp_path, command):
    for number in range(2):
        write_scan(tmp_path / f"scans/{number}.nii.gz", seed=number)
    command("explain", bundle, tmp_path / "scans", "-o", tmp_path / "out", *QUICK)
    (tmp_path / "scans/0.nii.gz").write_bytes(b"\x1f\x8bnothing")
    found = command("explain", bundle, tmp_path / "scans", "-o", tmp_path / "out", *QUICK)
    assert (found.code, f"{tmp_path / 'out/0002'}: no map; the table says why" in found.out) == (1, True)  # listed last
    assert sorted(path.parent.name for path in (tmp_path / "out").rglob("map.nii.gz")) == ["0001"]
    assert not any((tmp_path / "out/0002").iterdir())


def test_what_an_earlier_call_wrote_of_other_scans_is_gone(bundle, tmp_path):
    out = tmp_path / "out"
    for number in range(3):
        write_scan(tmp_path / f"scans/{number}.nii.gz")

    def written() -> list[str]:
        return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.suffix in (".gz", ".csv"))

    mt.explain(bundle, tmp_path / "scans", out, draws=0, hidden=0)
    several = ["0001/map.nii.gz", "0002/map.nii.gz", "0003/map.nii.gz", "explanations.csv"]
    assert written() == several
    (out / "0002" / "notes.txt").write_text("of a reader")
    (tmp_path / "scans/2.nii.gz").unlink()
    mt.explain(bundle, tmp_path / "scans", out, draws=0, hidden=0)
    assert written() == [*several[:2], "explanations.csv"]
    assert not (out / "0003").exists()
    mt.explain(bundle, tmp_path / "scans/0.nii.gz", out, draws=0, hidden=0)
    assert written() == ["map.nii.gz"]
    assert [path.name for path in (out / "0002").iterdir()] == ["notes.txt"]
    mt.explain(bundle, tmp_path / "scans", out, draws=0, hidden=0)
    assert written() == [*several[:2], "explanations.csv"]


def test_several_channels_share_one_map_and_several_findings_have_one_each(tmp_path, command):
    bundle = bundle_at(tmp_path / "bundle", multilabel=True, columns=("scan", "scan_late"))
    write_scan(tmp_path / "early.nii.gz")
    write_scan(tmp_path / "late.nii.gz", (1.5, 1.5, 3.0), seed=1)
    (tmp_path / "cohort.csv").write_text("scan,scan_late,patient\nearly.nii.gz,late.nii.gz,p1\n")
    maps = {}
    for name in ("benign", "malignant"):
        found = command("explain", bundle, tmp_path / "cohort.csv", "-o", tmp_path / name, "--class", name, *QUICK)
        assert found.code == 0, found.err
        maps[name] = nib.load(tmp_path / name / "map.nii.gz")
        assert maps[name].shape == nib.load(tmp_path / "early.nii.gz").shape
    assert not np.allclose(maps["benign"].get_fdata(), maps["malignant"].get_fdata())


def test_a_region_of_interest_is_where_the_map_is(tmp_path):
    bundle = bundle_at(tmp_path / "bundle", region="roi")
    scan = write_scan(tmp_path / "scan.nii.gz", (1.0, 1.0, 1.0))
    centre = (-20.0, 35.0, 115.0)
    (tmp_path / "cohort.csv").write_text(
        "scan,patient,roi_x_mm,roi_y_mm,roi_z_mm,roi_size_mm\n" + f"scan.nii.gz,p,{','.join(map(str, centre))},10\n"
    )
    (record,) = mt.explain(bundle, tmp_path / "cohort.csv", tmp_path / "out", draws=0).records
    assert record is not None
    assert record.sanity is None
    assert record.seen_centre_lps_mm == centre
    assert record.seen_size_mm == (32.0, 32.0, 32.0)
    volume = mt.read_scan(scan)
    written = nib.load(tmp_path / "out/map.nii.gz").get_fdata().T
    index = geometry.to_index(volume.affine, centre)
    occupied = np.argwhere(written != 0)[:, ::-1]
    assert (np.abs(occupied - index) <= 16.5).all()
    assert Preprocessing(PreprocessingConfig(region="roi")).grid(volume, Region(centre, (1, 1, 1))).shape


def test_a_seriously_tilted_slice_stack_keeps_its_shear(tmp_path):
    from med_transfer.explanation.files import write_map

    affine = np.array([[1, 0, 0, -5], [0, 1, 0.3, 7], [0, 0, 2.0, 9], [0, 0, 0, 1]])
    values = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    values[0] = np.nan
    write_map(tmp_path / "map.nii.gz", values, affine)
    written = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(geometry.swap_lps_ras(written.affine), affine, atol=1e-6)
    assert int(written.header["qform_code"]) == 0
    np.testing.assert_array_equal(written.get_fdata().T, np.nan_to_num(values))


def test_what_is_refused_says_why(bundle, tmp_path, command):
    scan = write_scan(tmp_path / "scan.nii.gz")
    out = tmp_path / "out"
    unknown = command("explain", bundle, scan, "-o", out, "--class", "maligant")
    assert unknown.code == UsageError.exit_code
    assert "class 'maligant' is unknown to the bundle; expected one of benign, malignant." in unknown.err
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8bnothing")
    assert command("explain", bundle, broken, "-o", out).code == 1
    late = command("explain", bundle, scan, "-o", out, "--stage", "9")
    assert late.code == UsageError.exit_code
    assert "stage 9: the class does not depend on it; expected one of 0, 1, 2, 3" in late.err
    wide = command("explain", bundle, scan, "-o", out, "--method", "occlusion", "--window-mm", "99")
    assert "a window of 99 mm; expected above 0 and at most 32 mm" in wide.err
    mixed = command("explain", bundle, scan, "-o", out, "--window-mm", "9")
    assert "gradcam: a window or stride; expected method occlusion for these" in mixed.err
    assert not out.exists()


def test_a_bundle_without_its_network_is_refused(tmp_path):
    bundle = bundle_at(tmp_path / "bundle")
    (bundle / WEIGHTS_FILE).unlink()
    with pytest.raises(BundleError, match=r"weights are missing. Copy the whole bundle folder again"):
        mt.explain(bundle, write_scan(tmp_path / "scan.nii.gz"), tmp_path / "out")


def test_settings_of_the_other_method_and_negative_draws_are_refused():
    with pytest.raises(ConfigError, match="occlusion: stage 1; expected method gradcam for a stage"):
        MapSettings("occlusion", stage=1)
    with pytest.raises(UsageError, match="draws: found -1; expected a whole number, at least 0"):
        MapSettings(draws=-1)
    with pytest.raises(UsageError, match="hidden: found -1; expected a whole number, at least 0"):
        MapSettings(hidden=-1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "grad-cam"}, "method 'grad-cam'; expected one of gradcam, attention, occlusion"),
        ({"fill": "men"}, "fill 'men'; expected one of mean, floor"),
    ],
)
def test_words_that_no_map_is_made_by_are_refused(tmp_path, setting, message):
    with pytest.raises(ConfigError, match=message):
        mt.explain(tmp_path / "no bundle", tmp_path / "no scan", tmp_path / "out", **setting)
