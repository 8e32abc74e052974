"""Head, brain and lungs by thresholds: against organs known by construction, in scans stored in every orientation."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation
from whole_bodies import (
    affine_of,
    as_volume,
    chest,
    head,
    is_brain,
    lung_mm,
    plain_chest,
    plain_head,
    voxel_points,
)

from med_transfer.errors import ConfigError, OrganNotFound
from med_transfer.preprocessing import InputConfig, Preprocessing, PreprocessingConfig
from med_transfer.preprocessing.organs import LIMITS, NotFound, Organ, _dilated, _eroded, _filled, _Parts, find_organ
from med_transfer.scans import Volume, find_series, geometry, read_scan
from med_transfer.scans.geometry import Grid

DATA = Path(os.environ.get("MED_TRANSFER_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="MED_TRANSFER_DATA does not name the folder of real scans")


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def on_scan(organ: Organ | NotFound, scan: Volume) -> np.ndarray:
    assert isinstance(organ, Organ), organ
    return organ.on(Grid(scan.affine, scan.voxels.shape))


@pytest.mark.parametrize("size", [0.75, 1.0, 1.1])
def test_the_brain_is_what_the_skull_encloses(size):
    scan = head(size=size)
    brain = find_organ(scan, "brain")
    assert dice(on_scan(brain, scan), is_brain(voxel_points(scan), size)) > 0.95
    np.testing.assert_allclose(brain.region.size_mm, 2 * size * np.array([66, 84, 64]), atol=12)
    np.testing.assert_allclose(brain.region.centre_mm, 0, atol=6)


def test_the_head_holds_scalp_and_face_but_neither_neck_nor_headrest():
    scan = plain_head()
    found, points = on_scan(find_organ(scan, "head"), scan), voxel_points(scan)
    assert found[is_brain(points)].mean() > 0.999
    dense = scan.voxels > 0
    face = dense & (points[..., 1] < -70) & (points[..., 2] < -50) & (points[..., 2] > -110)
    assert found[face].mean() > 0.9
    assert not found[points[..., 1] > 105].any()
    assert found[dense & (points[..., 2] > -50) & (points[..., 1] < 98)].mean() > 0.95


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_lungs_are_both_lungs_without_airways_and_wall(seed):
    scan = chest(seed)
    found, outside_mm = on_scan(find_organ(scan, "lungs"), scan), lung_mm(voxel_points(scan), seed)
    assert found[outside_mm < -2].mean() > 0.99
    assert np.count_nonzero(found & (outside_mm > 9)) < 0.01 * np.count_nonzero(found)
    points = voxel_points(scan)
    trachea = (np.hypot(points[..., 0], points[..., 1] - 11) < 7) & (points[..., 2] > 45)
    assert scan.voxels[trachea].mean() < -800
    assert not found[trachea].any()


def turned(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same scan as a file might store it: axes exchanged and flipped."""
    voxels, affine = volume.voxels.transpose(order), volume.affine.copy()
    affine[:, :3] = affine[:, [2 - order[2], 2 - order[1], 2 - order[0]]]
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, 2 - axis] * (voxels.shape[axis] - 1)
            affine[:3, 2 - axis] *= -1
            voxels = np.flip(voxels, axis)
    return as_volume(voxels, affine)


@settings(max_examples=6)
@given(
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    make=st.sampled_from([("brain", plain_head), ("head", plain_head), ("lungs", plain_chest)]),
)
def test_the_order_of_the_files_axes_changes_nothing(order, flips, make):
    organ, scan_of = make
    scan = scan_of()
    there = on_scan(find_organ(turned(scan, tuple(order), flips), organ), scan)
    assert dice(there, on_scan(find_organ(scan, organ), scan)) > 0.99


@settings(max_examples=4)
@given(
    pixel=st.floats(1.8, 2.5),
    thickness=st.floats(2.0, 5.0),
    angles=st.tuples(*[st.floats(-20, 20)] * 3),
    organ=st.sampled_from(["brain", "head"]),
)
def test_another_spacing_and_a_turned_patient_have_the_same_organ(pixel, thickness, angles, organ):
    """A turned grid; the patient lies as before. Slices of up to 5 mm."""
    plain = plain_head()
    linear = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    other = head(affine_of((pixel, pixel, thickness), linear), seed=1)
    assert dice(on_scan(find_organ(other, organ), plain), on_scan(find_organ(plain, organ), plain)) > 0.95


@pytest.mark.parametrize("spacing", [(1.5, 6.0), (4.0, 2.0)])
def test_another_spacing_has_the_same_lungs(spacing):
    plain = plain_chest()
    pixel, thickness = spacing
    shape = (round(276 / thickness), round(252 / pixel), round(336 / pixel))
    other = chest(pixel_mm=pixel, slice_mm=thickness, shape=shape)
    assert dice(on_scan(find_organ(other, "lungs"), plain), on_scan(find_organ(plain, "lungs"), plain)) > 0.95


def half_a_chest() -> Volume:
    whole = plain_chest()
    return as_volume(whole.voxels[:46], whole.affine)


@pytest.mark.parametrize(
    ("scan", "organ", "reason"),
    [
        (plain_chest, "brain", "volume"),
        (plain_chest, "head", "nothing_there"),
        (plain_head, "lungs", "nothing_there"),
        (lambda: as_volume(plain_head().voxels, affine_of((90, 90, 90))), "head", "scan_size"),
        (half_a_chest, "lungs", "cut_off"),
        (lambda: head(size=0.5), "brain", "volume"),
        (lambda: head(open_skull=True), "brain", "volume"),
        (
            lambda: as_volume(np.full((20, 60, 60), -1000, np.int16), affine_of((3, 3, 5))),
            "lungs",
            "no_hounsfield_units",
        ),
        (
            lambda: as_volume((plain_head().voxels + 1000).astype(np.int16), affine_of((2, 2, 3))),
            "brain",
            "no_hounsfield_units",
        ),
    ],
)
def test_what_is_not_there_is_not_found(scan, organ, reason):
    found = find_organ(scan(), organ)
    assert isinstance(found, NotFound), found
    assert found.reason == reason


def test_the_reason_has_its_measure_and_its_limits():
    found = find_organ(head(size=0.5), "brain")
    assert found.limits == LIMITS["brain"].volume
    assert found.measured == pytest.approx(0.125 * 4 / 3 * np.pi * np.prod([66, 84, 64]) / 1000, rel=0.1)
    assert found.expected == f"300 to 2200 ml, not {found.measured:g}"


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.9))
def test_holes_of_each_slice_are_filled_as_scipy_fills_them(seed, share):
    """Also where the mask reaches the edge of the field of view, and where it is everywhere."""
    mask = np.random.default_rng(seed).random((3, 6, 7)) < share
    for one in (mask, mask | True, mask & False):
        np.testing.assert_array_equal(_filled(one), np.stack([ndimage.binary_fill_holes(part) for part in one]))


def test_parts_are_measured_in_millilitres():
    apart = np.zeros((12, 12, 30), bool)
    apart[1:11, 1:11, 1:11] = apart[1:6, 1:11, 15:25] = True  # voxels of 2 mm
    assert _Parts.of(apart).millilitres.tolist() == [8.0, 4.0]


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2)])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("shape", [(1, 9, 12), (14, 16, 18)])
def test_masks_are_eroded_and_dilated_as_by_scipy(shape, steps, axes):
    cross = ndimage.generate_binary_structure(3, 1)
    cross[[0, 2]] &= 0 in axes
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=shape)
        mask = ndimage.gaussian_filter(noise, 1) > (-0.2, 0.1)[seed % 2]
        for beyond in (False, True):
            expected = ndimage.binary_erosion(mask, cross, steps, border_value=int(beyond))
            np.testing.assert_array_equal(_eroded(mask, steps, axes, beyond=beyond), expected)
        np.testing.assert_array_equal(_dilated(mask, steps, axes), ndimage.binary_dilation(mask, cross, steps))


# As input of a network ----------------------------------------------------------------------------------------


BRAIN = {"region": "brain", "modality": "CT", "shape": (24, 40, 40), "window_hu": (0, 80), "output_range": (0, 1)}


def test_the_grid_lies_on_the_organ_with_a_margin():
    scan = plain_head()
    box, grid = find_organ(scan, "brain").region, Preprocessing(PreprocessingConfig(**BRAIN)).grid(scan)
    np.testing.assert_allclose(geometry.centre_mm(grid.affine, grid.shape), box.centre_mm, atol=1e-9)
    extent = np.array(grid.voxel_mm) * grid.shape
    np.testing.assert_allclose(extent[::-1], np.array(box.size_mm) + 8)


@pytest.mark.parametrize(
    ("fit", "same"), [("stretch", ()), ("proportional", (1, 2)), ("isotropic", (0, 1, 2))], ids=lambda x: str(x)
)
def test_fit_keeps_proportions_and_loses_nothing(fit, same):
    scan, shape = head(), (24, 40, 40)
    box = np.array(find_organ(scan, "brain").region.size_mm)[::-1] + 8
    voxel = np.array(Preprocessing(PreprocessingConfig(**BRAIN | {"fit": fit})).grid(scan).voxel_mm)
    assert len({round(mm, 9) for mm in voxel[list(same)]}) <= 1
    spare = voxel * shape - box
    assert (spare > -1e-9).all()
    if fit != "isotropic":
        assert spare[0] == pytest.approx(0)
    assert np.isclose(spare, 0).sum() >= (3 if fit == "stretch" else 1)


def test_fit_goes_before_the_backbones_spacing_and_not_with_ones_own():
    native = {"spacing_mm": (1.0, 1.0, 1.0), "shape": (16, 16, 16)}
    assert InputConfig(region="whole").completed(native).spacing_mm == (1.0, 1.0, 1.0)
    fitted = InputConfig(region="whole", fit="proportional").completed(native)
    assert (fitted.spacing_mm, fitted.fit) == (None, "proportional")
    with pytest.raises(
        ConfigError, match="input.fit: a spacing and a way to fit; expected input.spacing_mm or input.fit"
    ):
        InputConfig(region="whole", fit="stretch", spacing_mm=(1, 1, 1)).completed(native)


WINDOWS = ({"column": "scan", "window_hu": (0, 80)}, {"column": "scan", "window_hu": (-1000, 1000)})


@settings(max_examples=4)
@given(margin=st.integers(0, 3), region=st.sampled_from(["brain", "head"]))
def test_isolated_it_is_the_organ_and_nothing_else(margin, region):
    scan = plain_head()
    config = PreprocessingConfig(**BRAIN | {"region": region, "channels": WINDOWS})
    plain, alone = Preprocessing(config), Preprocessing(config.model_copy(update={"isolate": True}))
    with_all, isolated = (each(scan, margin=(margin,) * 3).numpy() for each in (plain, alone))
    grid = plain.grid(scan, margin=(margin,) * 3)
    inside = on_scan(find_organ(scan, region), as_volume(np.empty(grid.shape, np.int16), grid.affine))
    deep, far = ndimage.binary_erosion(inside, iterations=3), ~ndimage.binary_dilation(inside, iterations=2)
    np.testing.assert_allclose(isolated[:, deep], with_all[:, deep], atol=1e-3)
    np.testing.assert_allclose(isolated[:, far], 0, atol=1e-4)
    if region == "brain":
        bone = 0.6  # above 200 HU; slices of 3 mm leave a little of it at the skull's base
        assert (isolated[1] > bone).mean() < 0.001 < 0.1 < (with_all[1] > bone).mean()


def test_blood_along_the_skull_stays_when_it_is_isolated():
    """In voxels of 4 mm a clot of a few mm is still brighter than the brain, and the skull is not."""
    isolated = Preprocessing(PreprocessingConfig(**BRAIN | {"isolate": True, "fit": "isotropic"}))
    scan = plain_head()
    grid, image = isolated.grid(scan), isolated(scan)[0].numpy()
    points = voxel_points(as_volume(np.empty(grid.shape, np.int16), grid.affine))
    blood = image[(np.abs(points[..., 1:]) < 8).all(axis=-1) & (points[..., 0] > 52) & (points[..., 0] < 62)]
    other_side = image[(np.abs(points[..., 1:]) < 8).all(axis=-1) & (points[..., 0] < -52) & (points[..., 0] > -62)]
    assert blood.mean() > 0.65 > 0.5 > other_side.mean()


def test_isolated_lungs_have_no_bone():
    config = PreprocessingConfig(region="lungs", modality="CT", shape=(40, 48, 56), output_range=(0, 1))
    with_all = Preprocessing(config)(plain_chest())
    alone = Preprocessing(config.model_copy(update={"isolate": True}))(plain_chest())
    bone = 0.6  # above 200 HU
    assert (alone > bone).sum() < 0.2 * (with_all > bone).sum()


def test_what_is_not_found_is_an_error_with_its_code_and_what_to_do():
    message = r"scan: brain not found \(volume\); expected 300 to 2200 ml, not \d+\. Leave the scan out, or train"
    with pytest.raises(OrganNotFound, match=message):
        Preprocessing(PreprocessingConfig(**BRAIN))(plain_chest())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region": "brain", "modality": "MR"}, "region brain is found by Hounsfield units.*not MR and zscore"),
        ({"region": "lungs", "modality": None}, "needs modality CT and normalisation window, not None and window"),
        (
            {"region": "head", "normalisation": "zscore"},
            "not CT and zscore; other scans can have foreground, whole or roi",
        ),
        (
            {"region": "foreground", "isolate": True},
            "isolate needs region head, brain, lungs, or roi with masks, not foreground",
        ),
        ({"channels": [{"column": "scan", "modality": "PT"}], "region": "brain"}, "not PT and window"),
    ],
)
def test_only_a_ct_in_hounsfield_units_has_organs(changes, message):
    with pytest.raises(ConfigError, match=f"^input: .*{message}"):
        InputConfig.model_validate(changes).completed({})


def test_body_is_another_word_for_foreground():
    assert InputConfig.model_validate({"region": "body"}).region == "foreground"


# Real scans ---------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    ("name", "found"), [("head-049", True), ("head-066", True), ("head-081", False), ("head-085", False)]
)
def test_real_heads(name, found):
    """A child, a skull that is hardly denser than the brain, and an infant's with open sutures."""
    brain = find_organ(read_scan(DATA / "head_ct/scans" / f"{name}.nii.gz"), "brain")
    assert isinstance(brain, Organ) is found, brain


@needs_data
def test_a_tilted_gantry_and_uneven_slices():
    (series,) = find_series(DATA / "dicom/ct_head_ge_tilt_variable_spacing")
    brain = find_organ(read_scan(series, max_gap_mm=10), "brain")
    assert 1300 < np.count_nonzero(brain.mask) * 0.008 < 1600


@needs_data
@pytest.mark.parametrize(("organ", "reason"), [("brain", "volume"), ("head", "nothing_there"), ("lungs", "cut_off")])
def test_a_real_abdomen(organ, reason):
    series = max(find_series(DATA / "dicom/ct_abdomen_crlm_1004"), key=lambda series: len(series.files))
    assert find_organ(read_scan(series), organ).reason == reason


def test_the_page_states_the_limits_that_hold():
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    for organ, limits in LIMITS.items():
        (row,) = [line.split(" | ") for line in page.splitlines() if line.startswith(f"| `{organ}` |")]
        volume, sides = row[-2], row[-1].rstrip("| ")
        assert volume == "{} to {}".format(*limits.volume)
        assert sides == ", ".join("{}-{}".format(*side) for side in (limits.width, limits.depth, limits.height))
