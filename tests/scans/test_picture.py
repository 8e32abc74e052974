"""A landmark appears where a radiologist looks for it, however the scan is stored."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import SimpleITK
from dicom_series import as_image, image_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from med_transfer.scans import Region, geometry
from med_transfer.scans.inspection.picture import (
    below_each_other,
    jpeg,
    pad_to_box,
    planes,
    read_png,
    row_image,
    side_by_side,
    sides,
)

SPACING = (1.5, 2.0, 3.0)
SHAPE = (16, 20, 24)  # depth, height, width of the LPS scan
LANDMARK = (19, 4, 13)  # i, j, k: to the left, to the front, to the head
AXES = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "IS")) for letters in itertools.product(*order)
]
# Where a left, anterior, superior point belongs: (right half, upper half) of axial, coronal and sagittal plane.
CORNERS = {"axial": (True, True), "coronal": (True, True), "sagittal": (False, True)}
EDGES = {"axial": "ALPR", "coronal": "SLIR", "sagittal": "SPIA"}  # top, right, bottom, left


def phantom() -> SimpleITK.Image:
    """One bright voxel, left, anterior and superior of the middle; LPS."""
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[LANDMARK[::-1]] = 1000
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-17, 33, 250)
    return as_image(voxels, affine)


def stored_as(image: SimpleITK.Image, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels [k, j, i] and affine of the same scan with columns, rows and slices growing to other sides."""
    turned = SimpleITK.DICOMOrient(image, axes)  # these letters, too, are the sides that axes grow to
    return SimpleITK.GetArrayFromImage(turned), image_affine(turned)


def landmark_mm(image: SimpleITK.Image) -> tuple[float, float, float]:
    return image.TransformIndexToPhysicalPoint(LANDMARK)


def brightest(image: np.ndarray) -> tuple[bool, bool]:
    """Whether the brightest spot lies in the right half, and in the upper half."""
    row, column = np.unravel_index(image.argmax(), image.shape)
    return bool(column > image.shape[1] / 2), bool(row < image.shape[0] / 2)


@pytest.mark.parametrize("axes", AXES)
def test_landmark_in_its_corner_however_the_scan_is_stored(axes):
    image = phantom()
    voxels, affine = stored_as(image, axes)
    assert geometry.orientation(affine) == axes
    found = planes(voxels, affine, (-1000, 1000), Region(landmark_mm(image), (6.0, 6.0, 6.0)))
    assert {plane.name: brightest(plane.image) for plane in found} == CORNERS
    assert {plane.name: plane.top + plane.right + plane.bottom + plane.left for plane in found} == EDGES
    for plane in found:
        assert plane.box is not None
        left, top, right, bottom = plane.box
        row, column = np.unravel_index(plane.image.argmax(), plane.image.shape)
        height, width = plane.image.shape
        assert left < (column + 0.5) / width < right
        assert top < (row + 0.5) / height < bottom


def test_every_stored_direction_was_tried():
    assert len(set(AXES)) == 48


@settings(max_examples=25)
@given(st.sampled_from(AXES))
def test_planes_are_the_same_however_the_scan_is_stored(axes):
    rng = np.random.default_rng(1)
    image = as_image(rng.integers(-1000, 1000, SHAPE).astype(np.int16), np.diag([*SPACING, 1.0]))
    region = Region((10.0, 14.0, 20.0), (8.0, 9.0, 10.0))
    expected = planes(*stored_as(image, "LPS"), (-1000, 1000), region)
    for one, other in zip(planes(*stored_as(image, axes), (-1000, 1000), region), expected, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.box == pytest.approx(other.box)
        assert (one.slice, one.slices, one.width_mm) == pytest.approx((other.slice, other.slices, other.width_mm))


def test_proportions_are_those_of_the_patient():
    image = phantom()
    axial, coronal, sagittal = planes(*stored_as(image, "PIR"), (-1000, 1000))
    depth, height, width = (n * mm for n, mm in zip(SHAPE, SPACING[::-1], strict=True))
    for plane, across, down in ((axial, width, height), (coronal, width, depth), (sagittal, height, depth)):
        assert (plane.width_mm, plane.height_mm) == pytest.approx((across, down))
        rows, columns = plane.image.shape
        assert columns / rows == pytest.approx(across / down, rel=0.05)


def test_box_is_where_the_region_is():
    """From edge to edge of voxels 4 to 7 along x, 10 to 13 along y, 2 to 5 along z."""
    affine = np.diag([*SPACING, 1.0])
    centre = np.array([5.5, 11.5, 3.5]) * SPACING
    region = Region(tuple(centre), tuple(4 * np.array(SPACING)))
    boxes = {p.name: p.box for p in planes(np.zeros(SHAPE), affine, (0, 1), region)}
    assert boxes["axial"] == pytest.approx((4 / 24, 10 / 20, 8 / 24, 14 / 20))
    assert boxes["coronal"] == pytest.approx((4 / 24, 1 - 6 / 16, 8 / 24, 1 - 2 / 16))
    assert boxes["sagittal"] == pytest.approx((10 / 20, 1 - 6 / 16, 14 / 20, 1 - 2 / 16))


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ((1, 0, 0), "L"),
        ((0, 0, -2), "I"),
        ((1, 1, 0), "LP"),
        ((-3, -2, 0), "RA"),
        ((1, 0.2, 0), "L"),
        ((1, 1, 1), "LPS"),
        ((np.cos(np.radians(19.9)), np.sin(np.radians(19.9)), 0), "L"),  # a side counts from 20 degrees on
        ((np.cos(np.radians(20.1)), np.sin(np.radians(20.1)), 0), "LP"),
        ((0, -np.sin(np.radians(20.1)), -np.cos(np.radians(20.1))), "IA"),
    ],
)
def test_sides_of_oblique_directions(direction, expected):
    assert sides(direction) == expected


def test_window_is_black_at_its_lower_and_white_at_its_upper_end():
    voxels = np.zeros((3, 3, 3), np.float32)
    voxels[1, 0], voxels[1, 1], voxels[1, 2] = -160, 40, 240
    axial, *_ = planes(voxels, np.eye(4), (-160, 240))
    assert axial.image[:, 1].tolist() == [0, 128, 255]


def test_png_of_three_planes_shows_the_landmark_in_its_corners():
    """As the report draws network inputs: any axes, any range; here each third of the picture is one plane."""
    voxels = np.zeros(SHAPE, np.float32)
    for at in ((8, 4, 18), (13, 10, 18), (13, 4, 12)):  # in the middle axial, coronal and sagittal plane
        voxels[tuple(slice(n - 1, n + 2) for n in at)] = 1
    turned = voxels.transpose(0, 2, 1)[::-1, ::-1]  # depth to the feet, height to the right, width to the back
    for stored, letters in ((voxels, "SPL"), (turned, "IRP")):
        spacing = tuple(SPACING["LPS".index({"R": "L", "I": "S"}.get(letter, letter))] for letter in letters)
        affine = geometry.grid_affine(letters, spacing, (0, 0, 0), stored.shape)
        png = imread(io.BytesIO(side_by_side(planes(stored, affine, (0, 1)))))[..., :3]
        grey = np.where(np.ptp(png, axis=2) < 0.05, png[..., 0], 0)  # the letters are yellow
        widths = np.array([24 * 1.5, 24 * 1.5, 20 * 2.0])
        cuts = np.cumsum(widths / widths.sum() * grey.shape[1]).astype(int)[:-1]
        found = [brightest(part) for part in np.split(grey, cuts, axis=1)]
        assert found == list(CORNERS.values()), letters


def test_rows_below_each_other_are_those_that_are_drawn_alone():
    voxels = np.random.default_rng(0).normal(size=SHAPE)
    rows = [planes(part, np.eye(4), (-2, 2)) for part in (voxels[:, :9], voxels)]
    (wide, narrow), together = map(row_image, rows), read_png(below_each_other([*map(row_image, rows)], "png"))
    np.testing.assert_array_equal(wide, read_png(side_by_side(rows[0])))
    np.testing.assert_array_equal(together[: len(wide)], wide)
    left = (wide.shape[1] - narrow.shape[1]) // 2
    below = together[len(wide) :]
    np.testing.assert_array_equal(below[:, left : left + narrow.shape[1]], narrow)
    assert not below[:, :left].any()
    assert not below[:, left + narrow.shape[1] :].any()


def test_picture_of_a_very_wide_scan_stays_small():
    found = planes(np.zeros((3, 3, 400)), np.diag([5.0, 1.0, 1.0, 1.0]), (0, 1))
    height, width, _ = imread(io.BytesIO(side_by_side(found, "Window"))).shape
    assert max(height, width) < 2000
    assert max(found[0].image.shape) <= 512


def test_jpeg_keeps_the_greys():
    image = np.tile(np.arange(256, dtype=np.uint8), (40, 1))
    decoded = imread(io.BytesIO(jpeg(image)), format="jpeg")[..., 0]
    assert np.abs(decoded.astype(int) - image).max() <= 3


def test_a_box_that_reaches_beyond_the_scan_gets_room():
    """The scan keeps its pixels and its size in mm, and the box its place beside it."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    region = Region((10.0, -5.0, 12.0), (10.0, 40.0, 200.0))  # within along x, beyond to the front, beyond along z
    for plain in planes(np.full((12, 20, 30), 5), affine, (0, 10), region):
        roomy = pad_to_box(plain)
        mm = roomy.width_mm / roomy.image.shape[1]
        assert mm == pytest.approx(plain.width_mm / plain.image.shape[1])
        rows, columns = np.nonzero(roomy.image)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == plain.image.shape
        left, top, right, bottom = roomy.box
        assert min(left, top) >= -1e-9
        assert max(right, bottom) <= 1 + 1e-9
        before = (left * roomy.width_mm - columns.min() * mm) / plain.width_mm
        above = (top * roomy.height_mm - rows.min() * mm) / plain.height_mm
        assert (before, above) == pytest.approx(plain.box[:2])
        assert (right - left) * roomy.width_mm == pytest.approx((plain.box[2] - plain.box[0]) * plain.width_mm)
    assert pad_to_box(planes(np.zeros((4, 4, 4)), affine, (0, 1))[0]).box is None
