"""Channels on one grid: against SimpleITK, and what cannot be placed on the first scan."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scans_in_space import EVERY_WAY, HALF, smooth, turned

from med_transfer.errors import InputRejected
from med_transfer.phantoms.dicom_series import write_dicom_series
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.preprocessing.channels import overlap
from med_transfer.scans import Provenance, Region, Verdict, Volume, geometry, read_scan

SHAPE = (24, 40, 44)
TWO = {"channels": ("scan", "scan_late"), "spacing_mm": (1, 1, 1), "shape": (12, 14, 16)}
AS_STORED = {"window_hu": (-1000, 1000), "output_range": (-1000, 1000)}


def scan(affine, seed=0, shape=SHAPE, **provenance) -> Volume:
    made = {"format": "dicom", "modality": "CT", "frame_of_reference": "1.2"} | provenance
    return Volume(smooth(shape, seed), affine, Provenance(Path(f"scans/{seed}"), **made))


def on_grid_by_sitk(volume: Volume, affine: np.ndarray, shape_kji) -> np.ndarray:
    image = sitk.GetImageFromArray(volume.voxels.astype(np.float32))
    for one, by in ((image, volume.affine),):
        spacing = np.array(geometry.spacing_mm(by))
        one.SetSpacing(spacing.tolist())
        one.SetDirection((by[:3, :3] / spacing).ravel().tolist())
        one.SetOrigin(by[:3, 3].tolist())
    spacing = np.array(geometry.spacing_mm(affine))
    direction = (affine[:3, :3] / spacing).ravel().tolist()
    resampled = sitk.Resample(
        image,
        list(shape_kji[::-1]),
        sitk.Transform(),
        sitk.sitkLinear,
        affine[:3, 3].tolist(),
        spacing.tolist(),
        direction,
        -9999.0,
    )
    return sitk.GetArrayFromImage(resampled)


RIGID = [name for name, affine in EVERY_WAY.items() if geometry.shear_degrees(affine) < 1e-6]  # all that ITK supports


@pytest.mark.parametrize("first", RIGID)
@pytest.mark.parametrize("other", ["plain", "flipped", "oblique"])
def test_every_channel_lies_where_simpleitk_puts_it(first, other):
    """The second scan has axes of its own, and its middle 3 mm beside that of the first."""
    volumes = {"scan": scan(EVERY_WAY[first]), "scan_late": scan(moved_to(EVERY_WAY[first], EVERY_WAY[other]), seed=1)}
    preprocessing = Preprocessing(PreprocessingConfig(**TWO | AS_STORED | {"spacing_mm": (0.6, 0.6, 0.6)}))
    grid = preprocessing.grid(volumes["scan"])
    for ours, volume in zip(preprocessing(volumes).numpy(), volumes.values(), strict=True):
        reference = on_grid_by_sitk(volume, grid.affine, grid.shape)
        inside = reference > -9000
        assert inside.mean() > 0.9
        np.testing.assert_allclose(ours[inside], reference[inside], atol=0.1, rtol=HALF)


def moved_to(first: np.ndarray, other: np.ndarray, beside_mm=(3.0, 0.0, 0.0)) -> np.ndarray:
    """The other affine, its scan's middle beside that of the first one's."""
    moved = other.copy()
    moved[:3, 3] += geometry.centre_mm(first, SHAPE) + beside_mm - geometry.centre_mm(other, SHAPE)
    return moved


@settings(max_examples=15)
@given(seed=st.integers(0, 5), region=st.sampled_from(["whole", "foreground"]), margin=st.integers(0, 2))
def test_a_channel_is_the_same_with_others_beside_it(seed, region, margin):
    affine = turned(5, 0, 3)
    first, late = scan(affine, seed), scan(affine, seed + 10)
    config = {"spacing_mm": (1, 1, 1), "shape": (8, 9, 10), "region": region, "window_hu": (-300, 500)}
    alone = Preprocessing(PreprocessingConfig(**config))(first, margin=(margin,) * 3)
    channels = ("scan", "scan_late", {"column": "scan_late", "window_hu": (0, 100)})
    together = Preprocessing(PreprocessingConfig(**config, channels=channels))
    image = together({"scan": first, "scan_late": late}, margin=(margin,) * 3)
    assert image.shape == (3, *alone.shape[1:])
    np.testing.assert_array_equal(image[0], alone[0])
    np.testing.assert_allclose(image[2], np.clip((image[1] + 1) * 400 - 300, 0, 100) / 50 - 1, atol=500 / 50 * HALF)


def test_each_channel_has_its_own_normalisation():
    first, pet = scan(np.eye(4)), scan(np.eye(4), 1, modality="PT")
    channels = ("scan", {"column": "scan_pet", "modality": "PT", "normalisation": "zscore"})
    preprocessing = Preprocessing(PreprocessingConfig(modality="CT", channels=channels, shape=(12, 12, 12)))
    image = preprocessing({"scan": first, "scan_pet": pet})
    stronger = preprocessing({"scan": first, "scan_pet": replace(pet, voxels=pet.voxels * 7.0)})
    np.testing.assert_allclose(image, stronger, atol=1e-5, rtol=2 * HALF)


def test_two_windows_of_one_scan_need_one_scan():
    channels = ({"column": "scan", "window_hu": (-900, 0)}, {"column": "scan", "window_hu": (0, 900)})
    config = PreprocessingConfig(channels=channels, shape=(8, 8, 8))
    assert config.columns == ("scan",)
    low, high = Preprocessing(config)(scan(np.eye(4)))
    assert not np.allclose(low, high)


def reason_of(first: Volume, late: Volume, **changes) -> str:
    with pytest.raises(InputRejected) as caught:
        Preprocessing(PreprocessingConfig(**TWO | changes))({"scan": first, "scan_late": late})
    return str(caught.value)


@pytest.mark.parametrize("first_is_straightened", [True, False])
def test_a_file_on_the_stored_slices_of_a_straightened_scan_is_rejected(tmp_path, first_is_straightened):
    """As SimpleITK writes it after reading the tilted series."""
    tilted = EVERY_WAY["tilted gantry"]
    write_dicom_series(tmp_path / "ct", smooth(SHAPE), tilted)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    sitk.WriteImage(reader.Execute() + 7, tmp_path / "late.nii.gz")
    pair = [read_scan(tmp_path / "ct"), read_scan(tmp_path / "late.nii.gz")]
    reason = reason_of(*(pair if first_is_straightened else pair[::-1]))
    which = "scan_late: " if first_is_straightened else "scan_late: the column scan "
    assert f"{which}takes slices that are tilted or unevenly spaced for a rectangular grid" in reason


def test_another_frame_of_reference_is_rejected():
    reason = reason_of(scan(np.eye(4)), scan(np.eye(4), 1, frame_of_reference="1.3"))
    assert reason.startswith("scans/1: scan_late: lies in another frame of reference than the column scan")
    assert "Register the scans first" in reason


@pytest.mark.parametrize("frames", [("", "1.2"), ("1.2", ""), ("", "")])
def test_file_without_a_frame_of_reference_is_taken_by_its_coordinates(frames):
    first, late = (scan(np.eye(4), n, frame_of_reference=frame) for n, frame in enumerate(frames))
    assert Preprocessing(PreprocessingConfig(**TWO))({"scan": first, "scan_late": late}).shape == (2, 12, 14, 16)


@pytest.mark.parametrize(("shift_mm", "covered"), [(500, "0%"), (15, "31%")])
def test_scan_of_another_place_is_rejected_with_the_share_that_it_covers(shift_mm, covered):
    late = np.eye(4)
    late[2, 3] = shift_mm
    reason = reason_of(scan(np.eye(4)), scan(late, 1), shape=(16, 16, 16))
    assert f"scan_late: covers {covered} of what the network sees of scan, less than 50%" in reason


@pytest.mark.parametrize(("shift_mm", "covered"), [((0, 19, 2), "49.7%"), ((0, 31, 23), "0.2%")])
def test_a_share_short_of_the_least_or_above_nothing_is_not_rounded_to_it(shift_mm, covered):
    late = np.eye(4)
    late[:3, 3] = shift_mm
    assert f"covers {covered} of" in reason_of(scan(np.eye(4)), scan(late, 1), shape=(24, 24, 24))


def test_a_region_is_what_counts_where_there_is_one():
    """The second scan covers the lesion only: little of the whole, all of the region."""
    first, late = scan(np.eye(4)), scan(np.eye(4), 1, shape=(10, 12, 12))
    assert "covers" in reason_of(first, late, shape=(24, 40, 44))
    around = Preprocessing(PreprocessingConfig(**TWO | {"region": "roi", "shape": (8, 8, 8)}))
    assert around({"scan": first, "scan_late": late}, Region((5, 5, 5), (6, 6, 6))).shape == (2, 8, 8, 8)


@settings(max_examples=20)
@given(shift=st.integers(0, 24))
def test_overlap_is_the_share_of_slices(shift):
    first, late, moved = scan(np.eye(4)), np.eye(4), np.eye(4)
    late[2, 3] = moved[2, 3] = shift
    grid = Preprocessing(PreprocessingConfig(spacing_mm=(1, 1, 1), shape=SHAPE)).grid(first)
    assert overlap(first, scan(late, 1), grid) == pytest.approx((24 - shift) / 24)


def test_file_that_does_not_say_where_it_lies_needs_the_same_grid():
    nominal = replace(scan(np.eye(4), 1, frame_of_reference=""), verdict=Verdict(placed=False))
    assert Preprocessing(PreprocessingConfig(**TWO))({"scan": scan(np.eye(4)), "scan_late": nominal}).shape[0] == 2
    other = np.diag([1.1, 1.1, 1.1, 1])
    assert "has no position in the patient" in reason_of(scan(other), nominal)
    assert Verdict() != nominal.verdict


def test_the_same_image_twice_and_a_missing_one_are_rejected():
    first = scan(np.eye(4))
    assert "scan_late: is the same image as scan" in reason_of(first, replace(first))
    stored_otherwise = np.diag([1.0, 1, -1, 1])
    stored_otherwise[2, 3] = len(first.voxels) - 1
    turned = replace(first, voxels=first.voxels[::-1], affine=stored_otherwise)
    assert "scan_late: is the same image as scan" in reason_of(first, turned)
    three = Preprocessing(PreprocessingConfig(**TWO | {"channels": ("scan", "scan_late", "scan_last")}))
    late = scan(np.eye(4), 1)
    with pytest.raises(InputRejected, match="^scans/1: scan_last: is the same image as scan_late"):
        three({"scan": first, "scan_late": late, "scan_last": replace(late)})
    with pytest.raises(InputRejected, match="^scans/0: no scan for channel scan_late.*as in training"):
        Preprocessing(PreprocessingConfig(**TWO))(first)


def test_a_channel_of_another_modality_is_rejected():
    reason = reason_of(scan(np.eye(4)), scan(np.eye(4), 1, modality="MR"), modality="CT")
    assert "scans/1: modality MR; expected CT" in reason


@pytest.mark.parametrize(
    ("channels", "complaint"),
    [
        (["scan_late", "scan"], "the first channel must be scan"),
        (["late"], r"scan or scan_<name>"),
        ([{"column": "scan", "window_hu": [5, 0]}], "window_hu must rise"),
    ],
)
def test_channels_that_make_no_sense_are_refused(channels, complaint):
    with pytest.raises(ValidationError, match=complaint):
        PreprocessingConfig(channels=channels)
