"""DICOM SEG written and read by highdicom, against read_mask."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from dicom_series import SECRETS, plane_affine
from planted import leaked
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from region_objects import FRAME, ORGANS, SHAPE, blobs, middles, read_with_highdicom, scan, write_segmentation

from med_transfer.errors import (
    AmbiguousScan,
    GeometryRejected,
    MissingCodec,
    NotAScan,
    ScanError,
    ScanNotFound,
    UnreadableScan,
    UnusableVoxels,
)
from med_transfer.scans import geometry, read_scan
from med_transfer.scans.masks.masks import read_mask

KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")


@pytest.mark.parametrize("plane", ["axial", "axial feet first", "sagittal", "oblique"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_highdicom_and_what_was_written(tmp_path, plane, kind):
    affine = plane_affine(plane)
    voxels = blobs()[..., 0]
    path = write_segmentation(tmp_path, voxels, affine, kind=kind)
    own, placed = read_mask(path), read_mask(path, scan(affine))
    assert middles(own) == read_with_highdicom(path, 1)
    np.testing.assert_array_equal(placed.voxels, voxels)
    np.testing.assert_array_equal(placed.affine, affine)
    assert own.voxels.dtype == placed.voxels.dtype == np.int16
    assert own.spacing_mm == pytest.approx((0.7, 0.9, 2.5))
    assert (own.provenance.modality, own.provenance.frame_of_reference) == ("SEG", FRAME)


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", ImplicitVRLittleEndian),
        ("BINARY", DeflatedExplicitVRLittleEndian),
        *((kind, syntax) for kind in KINDS[1:] for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless)),
    ],
)
def test_every_encoding(tmp_path, kind, syntax):
    voxels = blobs(shape=(4, 33, 41))[..., 0]
    path = write_segmentation(tmp_path, voxels, kind=kind, syntax=syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_mask(path, scan(shape=(4, 33, 41))).voxels, voxels)


@pytest.mark.parametrize("name", ["liver_1frame.dcm", "liver_expb_1frame.dcm"])
def test_object_of_another_maker_in_both_byte_orders(tmp_path, name):
    dataset = pydicom.dcmread(get_testdata_file(name))
    del dataset.PerFrameFunctionalGroupsSequence[1:]  # pydicom cut off these frames, and left their description
    dataset.save_as(tmp_path / name)
    mask = read_mask(tmp_path / name, name="Liver")
    assert mask.voxels.sum() > 1000
    np.testing.assert_array_equal(mask.voxels[0], dataset.pixel_array)
    np.testing.assert_allclose(mask.affine[:3, :3], np.diag([0.810547, 0.810547, 1.0]))
    np.testing.assert_allclose(mask.affine[:3, 3], [-235.2, -226.8, -128.69])


def test_frames_in_any_order(tmp_path):
    voxels = blobs()[..., 0]

    def shuffle(dataset):
        order = np.random.default_rng(3).permutation(dataset.NumberOfFrames)
        pixels = dataset.pixel_array[order]
        bits = np.packbits(pixels.ravel(), bitorder="little").tobytes()
        dataset.PixelData = bits + b"\0" * (len(bits) % 2)
        dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[n] for n in order]

    path = write_segmentation(tmp_path, voxels, change=shuffle)
    np.testing.assert_array_equal(read_mask(path, scan()).voxels, voxels)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_empty_slices_are_left_out_of_the_file(tmp_path, kind):
    voxels = np.zeros((20, 7, 9), np.uint8)
    voxels[[3, 4, 11, 17]] = blobs(shape=(6, 7, 9))[1:5, ..., 0]
    path = write_segmentation(tmp_path, voxels, kind=kind)
    assert pydicom.dcmread(path).NumberOfFrames == 4
    own = read_mask(path)
    np.testing.assert_array_equal(own.voxels, voxels[3:18])
    assert middles(own) == read_with_highdicom(path, 1)
    np.testing.assert_array_equal(read_mask(path, scan(shape=(20, 7, 9))).voxels, voxels)


@pytest.mark.parametrize("spacing", [2.5, None])
def test_two_slices_far_apart_do_not_become_thick(tmp_path, spacing):
    """Only the spacing, or else the thickness, says that seven empty slices lie between them."""
    voxels = np.zeros((12, 7, 9), np.uint8)
    voxels[1, 2:5, 2:6] = voxels[9, 2:5, 2:6] = 1
    own = read_mask(write_segmentation(tmp_path, voxels, change=measured(2.5, spacing)))
    assert own.voxels.shape == (9, 7, 9)
    assert own.spacing_mm[2] == pytest.approx(2.5)
    assert own.voxels.sum() == voxels.sum()


@pytest.mark.parametrize("slices", [(3,), (3, 7), (1, 5, 9)])
def test_slices_that_overlap_are_as_far_apart_as_those_of_the_scan_they_were_drawn_on(tmp_path, slices):
    """Slices of 5 mm every 2.5 mm: a frame that states its thickness alone would cover its neighbours, too."""
    voxels = np.zeros((12, 7, 9), np.uint8)
    voxels[list(slices), 2:5, 2:6] = 1
    path = write_segmentation(tmp_path, voxels, change=measured(5.0, None))
    np.testing.assert_array_equal(read_mask(path, read_scan(tmp_path / "scan")).voxels, voxels)


def test_slices_that_were_interpolated_between_uneven_ones_leave_no_stripes(tmp_path):
    """The scan's slices are closer now than the frames, which cover those between them."""
    voxels = np.zeros((8, 7, 9), np.uint8)
    voxels[4:7, 2:5, 2:6] = 1
    offsets = (0, 0.5, 1, 2, 3, 4, 5, 6)
    path = write_segmentation(tmp_path, voxels, offsets=offsets, change=measured(2.5, None))
    mask = read_mask(path, read_scan(tmp_path / "scan", max_gap_mm=5.0))
    filled = np.flatnonzero(mask.voxels.any(axis=(1, 2)))
    assert np.diff(filled).tolist() == [1] * (len(filled) - 1)
    assert len(filled) * mask.spacing_mm[2] == pytest.approx(7.5, abs=1.3)


def measured(thickness, spacing):
    def change(dataset):
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness, measures.SpacingBetweenSlices = thickness, spacing

    return change


def test_overlapping_segments_one_by_one(tmp_path):
    voxels = blobs(3)
    assert (voxels.sum(axis=3) > 1).any()
    path = write_segmentation(tmp_path, voxels)
    for number, label in enumerate(ORGANS, 1):
        for name in (label, label.upper(), f" {label}", str(number)):
            np.testing.assert_array_equal(read_mask(path, scan(), name).voxels, voxels[..., number - 1])
        assert middles(read_mask(path, name=label)) == read_with_highdicom(path, number)


def test_labels_of_a_label_map(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 301, SHAPE).astype(np.uint16)
    voxels[2, 3, 4] = 300
    path = write_segmentation(tmp_path, voxels, kind="LABELMAP", labels=[f"Part {n}" for n in range(1, 301)])
    assert pydicom.dcmread(path).BitsAllocated == 16
    for number in (int(voxels[1, 1, 1]), 300):
        np.testing.assert_array_equal(read_mask(path, scan(), f"part {number}").voxels, voxels == number)


@pytest.mark.parametrize(("most", "lowest"), [(255, 128), (100, 50), (1, 1)])
def test_fractional_from_half(tmp_path, most, lowest):
    fractions = np.linspace(0, 1, np.prod(SHAPE)).reshape(SHAPE)
    path = write_segmentation(tmp_path, fractions, kind="FRACTIONAL", max_fractional_value=most)
    stored = np.rint(fractions * most)
    np.testing.assert_array_equal(read_mask(path, scan()).voxels, stored >= lowest)


def test_several_segments_and_no_name(tmp_path):
    path = write_segmentation(tmp_path, blobs(3))
    message = r"seg\.dcm: 3 segments: 1 'Liver', 2 'Tumour', 3 'Vessel'; expected one segment\. Name one segment\.$"
    with pytest.raises(AmbiguousScan, match=message):
        read_mask(path)
    with pytest.raises(
        ScanNotFound, match=r"seg\.dcm: no segment 'Lung'; expected one of 1 'Liver', 2 'Tumour', 3 'Vessel'\.$"
    ):
        read_mask(path, name="Lung")


def test_one_label_for_two_segments(tmp_path):
    path = write_segmentation(tmp_path, blobs(2), labels=["Lesion", "Lesion"])
    with pytest.raises(AmbiguousScan, match=r"2 segments: 1 'Lesion', 2 'Lesion'.*Give the segment's number\.$"):
        read_mask(path, name="Lesion")
    for number in ("2", "2.0"):  # as pandas writes a column with gaps
        np.testing.assert_array_equal(read_mask(path, scan(), number).voxels, blobs(2)[..., 1])


def test_frame_of_reference(tmp_path):
    path = write_segmentation(tmp_path, blobs()[..., 0])
    with pytest.raises(GeometryRejected, match=r"seg\.dcm: the mask has another frame of reference than the scan"):
        read_mask(path, scan(frame="1.2.3"))
    assert read_mask(path, scan(frame="")).voxels.any()


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_frames_off_any_grid_are_placed_one_by_one(tmp_path, shift):
    """Slices 0, 1, 2 and, by their positions, 3.55 and 5."""
    voxels = np.ones((5, 7, 9), np.uint8)
    voxels[:, 0, 0] = 0
    path = write_segmentation(tmp_path, voxels, offsets=[0, 1, 2, 3.55, 5], change=measured(2.5, None))
    with pytest.raises(
        GeometryRejected, match=r"seg\.dcm: the frames form no regular grid; expected the scan, to place them on"
    ):
        read_mask(path)
    affine = plane_affine()
    affine[:3, 3] += shift * affine[:3, 2]
    placed = read_mask(path, scan(affine, (6, 7, 9))).voxels
    filled = {0.0: [0, 1, 2, 4, 5], 0.3: [0, 1, 2, 3, 5]}[shift]
    np.testing.assert_array_equal(np.flatnonzero(placed.any(axis=(1, 2))), filled)
    np.testing.assert_array_equal(placed[filled], voxels)


def test_sheared_by_a_tilted_gantry(tmp_path):
    """The scan was straightened; the object keeps the slices where they were."""
    sheared = plane_affine(spacing_mm=(1.0, 1.0, 2.0))
    sheared[:3, 2] += [0, 1.0, 0]
    voxels = blobs()[..., 0]
    straight = plane_affine(spacing_mm=(1.0, 1.0, 2.0))
    mask = read_mask(write_segmentation(tmp_path, voxels, sheared), scan(straight, (6, 12, 9)))
    expected = np.zeros((6, 12, 9), int)
    for k in range(6):
        expected[k, k : k + 7] = voxels[k]
    np.testing.assert_array_equal(mask.voxels, expected)


def test_two_different_frames_in_one_place(tmp_path):
    def double(dataset):
        groups = dataset.PerFrameFunctionalGroupsSequence
        groups[1].PlanePositionSequence = groups[0].PlanePositionSequence

    with pytest.raises(GeometryRejected, match=r"seg\.dcm: two different frames of the segment lie in one place\.$"):
        read_mask(write_segmentation(tmp_path, blobs()[..., 0], change=double))


def _without_position(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


def _skewed(dataset):
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PlaneOrientationSequence = [pydicom.Dataset()]
        group.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0.6, 0.8, 0]


def _second_twice(dataset):
    dataset.SegmentSequence[1].SegmentNumber = 1


def _unused(dataset):
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_without_position, GeometryRejected, r"frame 3 has no place in the patient; expected position, orientation"),
        (_skewed, GeometryRejected, r"frame 1 is not rectangular\.$"),
        (_second_twice, UnreadableScan, r"two segments have one number\.$"),
        (_unused, UnusableVoxels, r"segment 1 has no frames\.$"),
        (lambda d: setattr(d, "Rows", 60000), UnreadableScan, r"truncated: \d+ bytes of pixels, \d{6,} declared\.$"),
        (lambda d: setattr(d, "NumberOfFrames", 7), UnreadableScan, r"7 frames declared, 8 described\.$"),
        (lambda d: setattr(d, "SegmentationType", "HEAPS"), UnreadableScan, r"damaged DICOM object \(ValueError\)\.$"),
        (lambda d: setattr(d, "SegmentSequence", []), UnusableVoxels, r"no segment in the object\.$"),
        (lambda d: setattr(d, "PixelData", bytes(len(d.PixelData))), UnusableVoxels, r"the mask is empty"),
    ],
)
def test_bad_objects(tmp_path, change, error, message):
    path = write_segmentation(tmp_path, blobs(2), change=change)
    with pytest.raises(error, match=rf"seg\.dcm: {message}") as raised:
        read_mask(path, scan(), "1")
    assert leaked(SECRETS, str(raised.value)) == []


def test_compressed_frames_cannot_claim_any_size(tmp_path):
    def claim(dataset):
        dataset.Rows = dataset.Columns = 65535

    path = write_segmentation(tmp_path, blobs()[..., 0], kind="FRACTIONAL", syntax=RLELossless, change=claim)
    with pytest.raises(UnreadableScan, match=r"truncated: \d+ bytes of pixels, \d{10,} declared"):
        read_mask(path)


def test_unknown_compression(tmp_path):
    path = write_segmentation(tmp_path, blobs()[..., 0], kind="FRACTIONAL", syntax=RLELossless)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    dataset.save_as(path)
    with pytest.raises(MissingCodec, match=r"MPEG-4.* is video or streamed from a server"):
        read_mask(path)


def test_surface_is_no_mask(tmp_path):
    surface = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.5"}
    path = write_segmentation(tmp_path, blobs()[..., 0], change=lambda dataset: dataset.update(surface))
    with pytest.raises(NotAScan, match=r"seg\.dcm: SEG object \(Surface Segmentation Storage\), not an image"):
        read_mask(path)


def test_cut_off_anywhere(tmp_path):
    path = write_segmentation(tmp_path, blobs()[..., 0])
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(ScanError) as raised:
            read_mask(path)
        assert "\n" not in str(raised.value)


def refusal(path) -> str:
    try:
        read_mask(path, scan())
    except ScanError as error:
        return str(error)
    return ""


def test_damaged_anywhere(tmp_path):
    """Any error is ours, and tells nothing of the patient."""
    path = write_segmentation(tmp_path, blobs()[..., 0])
    whole, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in random.integers(132, len(whole), 12):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        message = refusal(path)
        refused += bool(message)
        assert leaked(SECRETS, message) == []
    assert refused > 30


def test_volume_of_an_ellipsoid(tmp_path):
    affine = plane_affine("oblique", (1.0, 1.2, 1.5))
    shape = (24, 30, 36)
    points = geometry.to_world_mm(affine, np.moveaxis(np.indices(shape)[::-1], 0, -1))
    middle = geometry.centre_mm(affine, shape)
    inside = (((points - middle) / (10, 12, 9)) ** 2).sum(axis=-1) < 1
    mask = read_mask(write_segmentation(tmp_path, inside.astype(np.uint8), affine))
    assert mask.voxels.sum() * np.prod(mask.spacing_mm) == pytest.approx(4 / 3 * np.pi * 10 * 12 * 9, rel=0.02)
    centroid = geometry.to_world_mm(mask.affine, np.argwhere(mask.voxels)[:, ::-1].mean(axis=0))
    np.testing.assert_allclose(centroid, middle, atol=0.1)
