"""RTSTRUCT built from shapes with known volume and centre, and from masks whose outline is traced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from dicom_series import PLANES, SECRETS, as_image, plane_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from planted import leaked
from pydicom.data import get_testdata_file
from region_objects import closed, scan, write_structure_set
from scipy import ndimage
from skimage.measure import find_contours

from med_transfer.cohorts import Case, read_input
from med_transfer.errors import AmbiguousScan, GeometryRejected, ScanError, ScanNotFound, UnreadableScan, UnusableVoxels
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.scans import geometry, region_of_mask
from med_transfer.scans.masks.masks import read_mask
from med_transfer.scans.verdict import Repair, Verdict

SHAPE = (20, 64, 72)
AFFINE = plane_affine(spacing_mm=(0.8, 0.9, 2.0))


def circle(
    k: float, radius: float, centre=(36.0, 32.0), affine=AFFINE, points: int = 180, turn: float = 1.0
) -> np.ndarray:
    """A circle of ``radius`` mm in slice k around pixel (i, j) = ``centre``, LPS mm."""
    angle = turn * np.linspace(0, 2 * np.pi, points, endpoint=False)
    i = centre[0] + radius / 0.8 * np.cos(angle)
    j = centre[1] + radius / 0.9 * np.sin(angle)
    return geometry.to_world_mm(affine, np.column_stack([i, j, np.full(points, k)]))


def rectangle(k, i=(10.5, 20.5), j=(30.5, 36.5), affine=AFFINE) -> np.ndarray:
    corners = [(i[0], j[0], k), (i[1], j[0], k), (i[1], j[1], k), (i[0], j[1], k)]
    return geometry.to_world_mm(affine, np.array(corners, float))


def read(tmp_path, contours, onto=None, **options):
    path = write_structure_set(tmp_path / "rs.dcm", {"GTV": contours})
    return read_mask(path, scan(AFFINE, SHAPE) if onto is None else onto, **options)


def volume_mm3(mask) -> float:
    return float(mask.voxels.sum() * np.prod(mask.spacing_mm))


def centroid_mm(mask) -> np.ndarray:
    return geometry.to_world_mm(mask.affine, np.argwhere(mask.voxels)[:, ::-1].mean(axis=0))


@pytest.mark.parametrize("plane", list(PLANES))
@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_sphere(tmp_path, plane, turn):
    affine = plane_affine(plane, (0.8, 0.9, 2.0))
    radii = {k: np.sqrt(15.0**2 - ((k - 10) * 2.0) ** 2) for k in range(3, 18)}
    contours = closed(*(circle(k, radius, affine=affine, turn=turn) for k, radius in radii.items()))
    mask = read(tmp_path, contours, scan(affine, SHAPE))
    assert volume_mm3(mask) == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.01)
    middle = geometry.to_world_mm(affine, [36, 32, 10])
    np.testing.assert_allclose(centroid_mm(mask), middle, atol=0.05)
    assert mask.voxels.dtype == np.int16
    np.testing.assert_array_equal(mask.affine, affine)
    if plane != "oblique":
        np.testing.assert_allclose(region_of_mask(mask).size_mm, 30, atol=2.5)


def test_middles_inside_as_matplotlib_finds_them(tmp_path):
    """Fifty stars with corners anywhere: no middle lies on an edge, so that both must agree."""
    random = np.random.default_rng(0)
    stars, expected = [], np.zeros(SHAPE, int)
    for k in range(SHAPE[0]):
        angle = np.sort(random.uniform(0, 2 * np.pi, 17))
        radius = random.uniform(2, 28, 17)
        ij = np.column_stack([36 + radius * np.cos(angle), 32 + radius * np.sin(angle)])
        stars.append(geometry.to_world_mm(AFFINE, np.column_stack([ij, np.full(17, k)])))
        inside = Polygon(np.round(ij, 3)).contains_points(np.argwhere(np.ones(SHAPE[:0:-1])))
        expected[k] = inside.reshape(SHAPE[:0:-1]).T
    differing = (read(tmp_path, closed(*stars)).voxels != expected).sum()
    assert differing <= 5  # corners are written with three decimals of a millimetre


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_traced_mask_comes_back(tmp_path_factory, seed):
    """Outlines of random blobs with holes and islands, between the pixels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(5, 30, 34)), (0.5, 2, 2))
    mask = noise > 0.05
    contours = []
    for k, image in enumerate(mask):
        for outline in find_contours(np.pad(image, 1).astype(float), 0.5):
            ij = outline[:, ::-1] - 1
            contours.append(geometry.to_world_mm(AFFINE, np.column_stack([ij, np.full(len(ij), k)])))
    path = write_structure_set(tmp_path_factory.mktemp("rs") / "rs.dcm", {"GTV": closed(*contours)})
    np.testing.assert_array_equal(read_mask(path, scan(AFFINE, (5, 30, 34))).voxels, mask)


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_ring_by_two_contours(tmp_path, kind):
    contours = closed(*(circle(k, radius) for k in (8, 9, 10) for radius in (20.0, 9.0)), kind=kind)
    mask = read(tmp_path, contours)
    assert volume_mm3(mask) == pytest.approx(np.pi * (20**2 - 9**2) * 6, rel=0.01)
    assert mask.voxels[9, 32, 36] == 0
    np.testing.assert_allclose(centroid_mm(mask), geometry.to_world_mm(AFFINE, [36, 32, 9]), atol=0.05)


def test_island_in_a_hole(tmp_path):
    mask = read(tmp_path, closed(*(circle(9, radius) for radius in (20.0, 9.0, 3.0))))
    assert volume_mm3(mask) == pytest.approx(np.pi * (20**2 - 9**2 + 3**2) * 2, rel=0.01)
    assert mask.voxels[9, 32, 36] == 1


def test_ring_by_a_keyhole(tmp_path):
    """One contour: out along the ray, around the outside, back, and around the hole the other way."""
    outer, inner = circle(9, 20.0), circle(9, 9.0, turn=-1.0)
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    mask = read(tmp_path, closed(keyhole))
    two = read(tmp_path, closed(outer, inner))
    assert mask.voxels[9, 32, 36] == 0
    assert (mask.voxels != two.voxels).sum() == 0


def test_rotated_box(tmp_path):
    turned = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    corners = np.array([[-12, -5], [12, -5], [12, 5], [-12, 5]]) @ turned.T / (0.8, 0.9) + (36, 32)
    box = [geometry.to_world_mm(AFFINE, np.column_stack([corners, np.full(4, k)])) for k in range(5, 12)]
    mask = read(tmp_path, closed(*box))
    assert volume_mm3(mask) == pytest.approx(24 * 10 * 14, rel=0.01)
    np.testing.assert_allclose(centroid_mm(mask), geometry.to_world_mm(AFFINE, [36, 32, 8]), atol=0.06)


def test_contour_through_the_middles_of_pixels_includes_them(tmp_path):
    mask = read(tmp_path, closed(rectangle(4, (10, 20), (30, 36))))
    expected = np.zeros(SHAPE, int)
    expected[4, 30:37, 10:21] = 1
    np.testing.assert_array_equal(mask.voxels, expected)


def test_neighbours_share_an_edge_without_a_seam(tmp_path):
    mask = read(tmp_path, closed(rectangle(4, (10, 15), (30, 36)), rectangle(4, (15, 20), (30, 36))))
    assert mask.voxels[4, 30:37, 10:21].all()


@pytest.mark.parametrize(
    "again",
    [np.array, np.flipud, lambda points: np.roll(points, 1, axis=0), lambda points: np.vstack([points, points[:1]])],
    ids=["the same", "the other way round", "from another point", "closed by its first point"],
)
def test_contour_stored_twice_counts_once(tmp_path, again):
    assert read(tmp_path, closed(rectangle(4), again(rectangle(4)))).voxels.sum() == 60


@pytest.mark.parametrize(("k", "slice_"), [(4.3, 4), (4.7, 5), (4.5, 4), (-0.4, 0), (19.4, 19), (-0.5, 0)])
def test_between_slices_goes_to_the_nearest(tmp_path, k, slice_):
    mask = read(tmp_path, closed(rectangle(k)))
    assert mask.voxels[slice_].sum() == mask.voxels.sum() == 60


def test_finer_contours_than_slices(tmp_path):
    """A cone drawn every fifth of a slice: each slice takes the contour drawn on it."""
    contours = closed(*(circle(k, 2 + k) for k in np.arange(3, 12.01, 0.2)))
    mask = read(tmp_path, contours)
    for k in range(3, 13):
        assert mask.voxels[k].sum() * 0.72 == pytest.approx(np.pi * (2 + k) ** 2, rel=0.03)


def test_contours_on_every_second_slice(tmp_path):
    mask = read(tmp_path, closed(*(circle(k, 10.0) for k in (4, 6, 8, 10))))
    np.testing.assert_array_equal(np.flatnonzero(mask.voxels.any(axis=(1, 2))), np.arange(4, 11))
    assert "contours on one of 2 slices throughout: the slices between take the nearer one" in str(mask.verdict)


@pytest.mark.parametrize("every", [1.25, 5 / 3, 2.0, 2.4])
def test_contours_of_thicker_slices_leave_no_stripes(tmp_path, every):
    """Two cylinders, drawn on the slices of another reconstruction, with three slices between them."""
    low, high = 1 + every * np.arange(4), 5 + every * np.arange(3, 6)
    mask = read(tmp_path, closed(*(circle(k, 10.0) for k in (*low, *high))))
    ends = [round(float(k)) for k in (low[0], low[-1], high[0], high[-1])]
    filled = [*range(ends[0], ends[1] + 1), *range(ends[2], ends[3] + 1)]
    np.testing.assert_array_equal(np.flatnonzero(mask.voxels.any(axis=(1, 2))), filled)
    assert f"contours on one of {every:.3g} slices throughout" in str(mask.verdict)
    assert "no contours on 3 slices between the first and the last: left empty" in str(mask.verdict)


def test_contours_of_uneven_slices_that_were_interpolated_are_refused_where_they_leave_stripes(tmp_path):
    onto = scan(AFFINE, SHAPE)
    repaired = replace(onto, verdict=Verdict(repairs=(Repair("uneven_gaps", "uneven gaps"),)))
    contours = [circle(k, 10.0) for k in (4, 5, 6, 10, 14)]  # the slices as they were
    assert read(tmp_path, closed(*contours[:3]), repaired).voxels.any()
    with pytest.raises(
        GeometryRejected, match=r"rs\.dcm: ROI GTV has no contours on slices that .*; expected a mask or a SEG"
    ):
        read(tmp_path, closed(*contours), repaired)


def test_two_parts_stay_two(tmp_path):
    mask = read(tmp_path, closed(*(circle(k, 10.0) for k in (4, 5, 6, 14, 15))))
    np.testing.assert_array_equal(np.flatnonzero(mask.voxels.any(axis=(1, 2))), [4, 5, 6, 14, 15])
    assert "no contours on 7 slices between the first and the last: left empty" in str(mask.verdict)


def test_slices_that_an_outline_leaves_out_are_told_with_the_answer(tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (20, 64, 72)).astype(np.int16)
    SimpleITK.WriteImage(as_image(voxels, AFFINE), tmp_path / "scan.nii.gz")
    write_structure_set(tmp_path / "outline.dcm", {"GTV": closed(*(circle(k, 10.0) for k in (4, 5, 6, 9)))})
    case = Case("scan.nii.gz", tmp_path / "scan.nii.gz", "P1", None, mask=tmp_path / "outline.dcm")
    notes = read_input(case, PreprocessingConfig(region="roi", shape=(8, 8, 8))).notes
    assert "no contours on 2 slices between the first and the last: left empty" in notes


def test_points(tmp_path):
    points = geometry.to_world_mm(AFFINE, np.array([[3.2, 4.4, 5.3], [60.6, 2.0, 18.7]]))
    mask = read(tmp_path, [("POINT", points[:1]), ("POINT", points[1:])])
    assert np.argwhere(mask.voxels).tolist() == [[5, 4, 3], [19, 2, 61]]


def test_at_the_outer_faces(tmp_path):
    """An outline may stray half a pixel beyond the image, which fills it; a point on the face is of the last voxel."""
    whole = read(tmp_path, closed(rectangle(4, (-0.9, 71.9), (-0.9, 63.9))))
    assert whole.voxels[4].all()
    beside = read(tmp_path, closed(rectangle(4), rectangle(4, (71.98, 71.99), (3, 4))))
    assert beside.voxels.sum() == 60
    corner = geometry.to_world_mm(AFFINE, np.array([[71.5, 63.5, 19.5]]))
    assert np.argwhere(read(tmp_path, [("POINT", corner)]).voxels).tolist() == [[19, 63, 71]]


def test_contour_within_one_pixel(tmp_path):
    mask = read(tmp_path, closed(rectangle(4, (10.1, 10.3), (30.1, 30.4))))
    assert np.argwhere(mask.voxels).tolist() == [[4, 30, 10]]


def test_one_of_several(tmp_path):
    rois = {"GTV": closed(rectangle(4)), "Liver": closed(rectangle(5, (3.5, 9.5))), "Couch": None}
    path = write_structure_set(tmp_path / "rs.dcm", rois)
    onto = scan(AFFINE, SHAPE)
    with pytest.raises(AmbiguousScan, match=r"rs\.dcm: 3 ROIs: 1 'GTV', 2 'Liver', 3 'Couch'; expected one ROI\."):
        read_mask(path, onto)
    np.testing.assert_array_equal(read_mask(path, onto, "liver").voxels, read_mask(path, onto, "2").voxels)
    assert read_mask(path, onto, "GTV").voxels[4].sum() == 60
    with pytest.raises(UnusableVoxels, match=r"ROI Couch has no contours\.$"):
        read_mask(path, onto, "Couch")
    with pytest.raises(ScanNotFound, match=r"rs\.dcm: no ROI 'Lung'; expected one of 1 'GTV', 2 'Liver', 3 'Couch'\.$"):
        read_mask(path, onto, "Lung")


def test_needs_the_scan(tmp_path):
    path = write_structure_set(tmp_path / "rs.dcm", {"GTV": closed(rectangle(4))})
    with pytest.raises(
        GeometryRejected, match=r"rs\.dcm: contours have no grid of their own; expected the scan beside them\.$"
    ):
        read_mask(path)


def test_frame_of_reference(tmp_path):
    with pytest.raises(GeometryRejected, match=r"the mask has another frame of reference than the scan"):
        read(tmp_path, closed(rectangle(4)), scan(AFFINE, SHAPE, frame="1.2.3"))
    assert read(tmp_path, closed(rectangle(4)), scan(AFFINE, SHAPE, frame="")).voxels.any()


_crooked = rectangle(4) + np.array([[0, 0, 0], [0, 0, 1.6], [0, 0, 0], [0, 0, 1.6]])
_upright = geometry.to_world_mm(AFFINE, np.array([(9.0, 30, 4), (9, 40, 4), (9, 40, 9), (9, 30, 9)]))


@pytest.mark.parametrize(
    ("contours", "message"),
    [
        (closed(rectangle(4), kind="OPEN_PLANAR"), r"contour 1 of ROI GTV is OPEN_PLANAR, which fills nothing"),
        (
            closed(rectangle(4), kind="OPEN_NONPLANAR"),
            r"is OPEN_NONPLANAR, which fills nothing; expected",
        ),
        (closed(rectangle(3), _crooked), r"contour 2 of .* is not planar: its points lie up to 0\.80 mm off one plane"),
        (closed(_upright), r"contour 1 of ROI GTV lies across the scan's slices, over 10\.0 mm of them; expected"),
        (closed(rectangle(-3)), r"contour 1 of ROI GTV lies 6\.0 mm from the nearest slice of the scan; expected"),
        (closed(rectangle(24.5)), r"contour 1 of ROI GTV lies 11\.0 mm from the nearest slice of the scan"),
        (closed(rectangle(4, (60.0, 81.5))), r"the mask reaches 8\.0 mm beyond the scan; expected a mask drawn on"),
        (closed(rectangle(4, (-50.5, -40.5))), r"the mask lies 32\.0 mm outside the scan"),
        ([("POINT", rectangle(-3)[:1])], r"contour 1 of ROI GTV lies 6\.0 mm from the nearest slice"),
    ],
)
def test_refused(tmp_path, contours, message):
    with pytest.raises(GeometryRejected, match=rf"rs\.dcm: .*{message}"):
        read(tmp_path, contours)


def _fewer_declared(dataset):
    dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 3


def _far(dataset):
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData[4] = "1e99"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_fewer_declared, UnreadableScan, r"contour 1 of ROI GTV is damaged: 12 coordinates, 3 points declared\.$"),
        (_far, UnreadableScan, r"contour 1 of ROI GTV is damaged: 12 coordinates, 4 points declared\.$"),
        (lambda d: d.StructureSetROISequence.clear(), UnusableVoxels, r"no ROI in the object\.$"),
        (lambda d: d.ROIContourSequence.clear(), UnusableVoxels, r"ROI GTV has no contours\.$"),
        (lambda d: d.pop("StructureSetROISequence"), UnreadableScan, r"damaged DICOM object \(AttributeError\)\.$"),
    ],
)
def test_bad_objects(tmp_path, change, error, message):
    path = write_structure_set(tmp_path / "rs.dcm", {"GTV": closed(rectangle(4))}, change=change)
    with pytest.raises(error, match=rf"rs\.dcm: {message}") as raised:
        read_mask(path, scan(AFFINE, SHAPE))
    assert leaked(SECRETS, str(raised.value)) == []


def test_cut_off_anywhere(tmp_path):
    path = write_structure_set(tmp_path / "rs.dcm", {"GTV": closed(*(circle(k, 9.0, points=20) for k in range(5)))})
    whole = path.read_bytes()
    for size in range(0, len(whole), 41):
        path.write_bytes(whole[:size])
        with pytest.raises(ScanError) as raised:
            read_mask(path, scan(AFFINE, SHAPE))
        assert "\n" not in str(raised.value)


def test_object_of_another_maker():
    """pydicom's own, implicit and without preamble: a rectangle of 400 x 300 mm, 10 mm apart, on three slices."""
    onto = scan(plane_affine(spacing_mm=(4.0, 4.0, 10.0), origin_mm=(-239, -239, -200)), (21, 120, 120), frame="")
    path = get_testdata_file("rtstruct.dcm")
    mask = read_mask(path, onto, "patient")
    assert mask.voxels.sum(axis=(1, 2)).tolist() == [100 * 75] * 3 + [0] * 18
    assert np.argwhere(read_mask(path, onto, "Isocenter 1").voxels).tolist() == [[20, 60, 60]]
