"""One function for every kind of mask, placed on a scan as SimpleITK places it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_series import PLANES, SECRETS, as_image, hounsfield, plane_affine, read_with_simpleitk, write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import leaked
from region_objects import FRAME, blobs, closed, middles, scan, write_segmentation, write_structure_set

from med_transfer.errors import AmbiguousScan, GeometryRejected, NotAScan, ScanNotFound, UnreadableScan, UnusableVoxels
from med_transfer.scans import Provenance, Volume, geometry, read_scan, region_of_mask
from med_transfer.scans.formats.nifti_file import write_nifti_file
from med_transfer.scans.masks.mask_placement import mark_voxels, onto_grid
from med_transfer.scans.masks.masks import read_mask

SHAPE = (6, 7, 9)
FORMATS = ("nii.gz", "nii", "nrrd", "mha")


def write(path, voxels, affine=None):
    SimpleITK.WriteImage(as_image(np.asarray(voxels), plane_affine() if affine is None else affine), path)
    return path


def box(shape=SHAPE, low=(1, 2, 3), high=(4, 6, 7), value=1) -> np.ndarray:
    voxels = np.zeros(shape, np.uint8)
    voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    return voxels


# Mask files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("plane", ["axial", "oblique"])
def test_on_the_scans_grid_it_passes_unchanged(tmp_path, suffix, plane):
    affine = plane_affine(plane)
    voxels = blobs()[..., 0]
    path = write(tmp_path / f"mask.{suffix}", voxels, affine)
    own, placed = read_mask(path), read_mask(path, scan(affine))
    np.testing.assert_array_equal(own.voxels, voxels)
    np.testing.assert_array_equal(placed.voxels, voxels)
    np.testing.assert_array_equal(placed.affine, affine)
    assert own.voxels.dtype == placed.voxels.dtype == np.int16
    assert str(own.verdict) == str(placed.verdict) == "accept"  # and no doubt about Hounsfield units


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_ones_is_a_mask_and_all_zeros_is_none(tmp_path, suffix):
    path = write(tmp_path / f"mask.{suffix}", np.ones(SHAPE, np.uint8))
    assert (read_mask(path, scan()).voxels == 1).all()
    assert (read_mask(path).voxels == 1).all()
    with pytest.raises(UnusableVoxels, match=r"every voxel is 1; expected an image\.$"):
        read_scan(path)
    write(path, np.zeros(SHAPE, np.uint8))
    with pytest.raises(UnusableVoxels, match=r"mask\.\S+: the mask is empty; expected at least one non-zero voxel\.$"):
        read_mask(path)


@pytest.mark.parametrize("values", [(1, 2, 5), (0.5,), (255,), (40_000, 3)])
def test_every_label_counts(tmp_path, values):
    voxels = np.zeros(SHAPE, np.float32)
    for place, value in enumerate(values):
        voxels[1 + place, 2:4, 3] = value
    path = write(tmp_path / "mask.nrrd", voxels)
    np.testing.assert_array_equal(read_mask(path, scan()).voxels, voxels != 0)


def test_a_number_picks_one_label(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    path = write(tmp_path / "mask.nii.gz", voxels)
    for value in (1, 2, 3):
        np.testing.assert_array_equal(read_mask(path, scan(), str(value)).voxels, voxels == value)
    for name in ("7", "0", "Liver"):
        with pytest.raises(
            ScanNotFound, match=rf"mask\.nii\.gz: no voxel has the label '{name}'; expected one of 1, 2, 3\.$"
        ):
            read_mask(path, name=name)
    for name in ("1 + 3", "1.0+3.0"):  # pandas writes numbers with a gap in their column as decimals
        np.testing.assert_array_equal(read_mask(path, scan(), name).voxels, np.isin(voxels, (1, 3)))
    with pytest.raises(ScanNotFound, match=r"mask\.nii\.gz: no voxel has the label '9'; expected one of 1, 2, 3\.$"):
        read_mask(path, scan(), "1+9")


def test_a_name_picks_a_file_of_a_folder_with_one_for_each_organ(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    for value, organ in ((1, "liver"), (2, "kidney_left"), (3, "kidney_right"), (7, "spleen")):
        write(tmp_path / f"{organ}.nii.gz", (voxels == value).astype(np.uint8))
    np.testing.assert_array_equal(read_mask(tmp_path, scan(), "liver").voxels, voxels == 1)
    both = np.isin(voxels, (2, 3))
    np.testing.assert_array_equal(read_mask(tmp_path, scan(), "kidney_left + kidney_right").voxels, both)
    np.testing.assert_array_equal(read_mask(tmp_path, name="kidney_left+spleen").voxels, voxels == 2)
    with pytest.raises(UnusableVoxels, match=r"spleen\.nii\.gz: the mask is empty"):
        read_mask(tmp_path, scan(), "spleen")
    with pytest.raises(
        ScanNotFound,
        match=f"{tmp_path.name}: no mask file 'Liver'; expected one of kidney_left, kidney_right, liver, spl",
    ):
        read_mask(tmp_path, scan(), "kidney_left + Liver")
    with pytest.raises(
        ScanNotFound,
        match=f"{tmp_path.name}: no mask file 'Liver'; expected one of kidney_left, kidney_right, liver, spl",
    ):
        read_mask(tmp_path, scan(), "Liver")
    with pytest.raises(
        AmbiguousScan, match=f"{tmp_path.name}: 4 masks: .* in the column mask_name, for example kidney_left"
    ):
        read_mask(tmp_path, scan())


def test_a_name_that_two_files_have_is_ambiguous(tmp_path):
    for value, name in ((1, "liver.nii"), (2, "liver.nii.gz"), (3, "spleen.nii")):
        write(tmp_path / name, np.full(SHAPE, value, np.uint8))
    read_mask(tmp_path, scan(), "spleen")
    with pytest.raises(
        AmbiguousScan, match=rf"{tmp_path.name}: 2 masks: liver\.nii, liver\.nii\.gz; expected one\. Name its file"
    ):
        read_mask(tmp_path, scan(), "spleen + liver")


def test_a_folder_of_masks_that_may_not_be_looked_into(as_nobody):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0)
        with pytest.raises(UnreadableScan, match="folder cannot be opened"):
            read_mask(folder, scan(), "liver")
        Path(folder).chmod(0o700)


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (hounsfield(), r"values from -\d+: a scan rather than a mask; expected 0 outside the region and whole numbers"),
        (
            np.random.default_rng(0).random(SHAPE),
            r"values between whole numbers, as in a map of probabilities;",
        ),
        (hounsfield() + 1024, r"values that change from voxel to voxel: a scan rather than a mask; expected 0 outside"),
        (np.full(SHAPE, np.nan), r"378 of 378 voxels are NaN or infinite"),
    ],
)
def test_no_labels(tmp_path, voxels, message):
    path = write(tmp_path / "mask.nrrd", voxels)
    with pytest.raises(UnusableVoxels, match=rf"mask\.nrrd: .*{message}"):
        read_mask(path)


# Another grid -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.sampled_from(list(PLANES)), st.sampled_from(list(PLANES)), st.integers(0, 10_000))
def test_placed_as_simpleitk_places_it(tmp_path_factory, plane, scan_plane, seed):
    """Finer and coarser grids in any two directions, around one middle."""
    random = np.random.default_rng(seed)
    affines = []
    for which in (plane, scan_plane):
        affine = plane_affine(which, tuple(random.uniform(0.5, 3, 3)), (0, 0, 0))
        affine[:3, 3] = random.uniform(-1, 1, 3) - geometry.centre_mm(affine, (30, 30, 30))
        affines.append(affine)
    affines[1][:3, :3] *= 4  # the scan holds the whole mask
    affines[1][:3, 3] -= geometry.centre_mm(affines[1], (30, 30, 30))
    mask = box((30, 30, 30), (8, 9, 10), (21, 20, 19)) * (random.random((30, 30, 30)) > 0.3)
    path = write(tmp_path_factory.mktemp("mask") / "mask.nrrd", mask.astype(np.uint8), affines[0])
    onto = scan(affines[1], (30, 30, 30))
    image = as_image(onto.voxels, onto.affine)
    nearest = SimpleITK.Resample(SimpleITK.ReadImage(path), image, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    expected = SimpleITK.GetArrayFromImage(nearest)
    placed = read_mask(path, onto).voxels
    if expected.any():
        np.testing.assert_array_equal(placed, expected)
    else:
        assert placed.any()


@pytest.mark.parametrize("factor", [2, 3, 0.5])
def test_volume_is_kept(tmp_path, factor):
    """A ball on a finer or a coarser grid than the scan's."""
    fine = np.array([1.5, 1.5, 1.5]) / factor
    shape = tuple(int(n) for n in np.rint(60 / fine[::-1]))
    affine = np.diag([*fine, 1.0])
    affine[:3, 3] = (fine - 60) / 2
    points = geometry.to_world_mm(affine, np.moveaxis(np.indices(shape)[::-1], 0, -1))
    path = write(tmp_path / "mask.nii.gz", ((points**2).sum(axis=-1) < 20**2).astype(np.uint8), affine)
    onto = scan(np.array([[1.5, 0, 0, -29.25], [0, 1.5, 0, -29.25], [0, 0, 1.5, -29.25], [0, 0, 0, 1]]), (40, 40, 40))
    mask = read_mask(path, onto)
    assert mask.voxels.sum() * 1.5**3 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.03)
    np.testing.assert_allclose(region_of_mask(mask).size_mm, 40, atol=3.1)


@pytest.mark.parametrize("plane", [plane for plane in PLANES if plane != "oblique"])
def test_flipped_and_permuted_axes_change_nothing(tmp_path, plane):
    voxels, affine = geometry.canonical(blobs()[..., 0], plane_affine(plane))
    path = write(tmp_path / "mask.nrrd", voxels, affine)
    np.testing.assert_array_equal(read_mask(path, scan(plane_affine(plane))).voxels, blobs()[..., 0])


def test_too_small_for_any_middle(tmp_path):
    """A region of 0.2 mm between the middles of the scan's voxels is the voxel that holds it."""
    affine = plane_affine(spacing_mm=(0.1, 0.1, 0.1))
    affine[:3, 3] = geometry.to_world_mm(plane_affine(), (3.2, 4.2, 2.2))
    path = write(tmp_path / "mask.nrrd", box((5, 5, 5), (0, 0, 0), (2, 2, 2)), affine)
    assert np.argwhere(read_mask(path, scan()).voxels).tolist() == [[2, 4, 3]]


def test_a_thin_slice_between_two_of_the_scans_marks_the_nearer_and_is_left_as_it_was():
    affine = plane_affine()
    affine[:3, 3] = geometry.to_world_mm(plane_affine(), (2, 1, 2.4))
    affine[:3, 2] *= 0.1
    mask = Volume(np.ones((1, 3, 4), np.int16), affine.copy(), Provenance(Path("mask.nii"), "nifti"))
    np.testing.assert_array_equal(onto_grid([mask], scan()), box(low=(2, 1, 2), high=(3, 4, 6)))
    np.testing.assert_array_equal(mask.affine, affine)


def test_an_empty_part_on_another_grid_adds_nothing():
    part = Volume(box(), plane_affine(), Provenance(Path("mask.nii"), "nifti"))
    empty = Volume(np.zeros((2, 3, 4), np.uint8), np.diag([9.0, 9.0, 9.0, 1.0]), part.provenance)
    np.testing.assert_array_equal(onto_grid([empty, part], scan()), box())
    assert not onto_grid([empty], scan()).any()


def test_a_point_marks_the_voxel_that_it_lies_in_or_is_nearest_to():
    found = np.zeros((3, 4, 5), bool)
    mark_voxels(found, np.array([[0.0, 0.0, 0.0], [3.6, 2.4, 0.5], [1.0, -2.0, 9.0], [8.0, 1.0, 1.0]]))
    assert np.argwhere(found).tolist() == [[0, 0, 0], [1, 1, 4], [1, 2, 4], [2, 0, 1]]  # k, j, i; midway the later one


def test_outer_voxels_reach_to_the_outer_faces(tmp_path):
    """The mask covers the scan to its faces with voxels twice as large."""
    affine = plane_affine(spacing_mm=(1.4, 1.8, 5.0))
    affine[:3, 3] = geometry.to_world_mm(plane_affine(), (0.5, 0.5, 0.5))
    path = write(tmp_path / "mask.nrrd", np.ones((3, 4, 5), np.uint8), affine)
    assert read_mask(path, scan(shape=(6, 8, 10))).voxels.all()


@pytest.mark.parametrize(
    ("shift_mm", "message"),
    [
        ((100.05, 0, 0), r"the mask lies 96\.2 mm outside the scan; expected a mask drawn on this scan\.$"),
        ((0, 0, -40.05), r"the mask lies 31\.3 mm outside the scan"),
        ((3.55, 0, 0), r"the mask reaches 2\.5 mm beyond the scan"),
    ],
)
def test_not_in_the_scan(tmp_path, shift_mm, message):
    affine = plane_affine()
    affine[:3, 3] += shift_mm
    path = write(tmp_path / "mask.nrrd", box(low=(1, 2, 3), high=(4, 6, 8)), affine)
    with pytest.raises(GeometryRejected, match=rf"mask\.nrrd: .*{message}"):
        read_mask(path, scan())


TILTED = plane_affine(spacing_mm=(1.0, 1.0, 2.0)) + np.outer([0, 1, 0, 0], [0, 0, 0.5, 0])  # a shear of 14 degrees


@pytest.mark.parametrize(
    ("affine", "offsets"),
    [(TILTED, range(6)), (plane_affine(), (0, 1, 2, 3.5, 4.5, 5.5)), (TILTED, (0, 1, 2, 3.5, 4.5, 5.5))],
)
def test_drawn_where_slices_were_taken_for_a_rectangular_grid(tmp_path, affine, offsets):
    """As SimpleITK reads a tilted or unevenly spaced series: the mask would lie millimetres beside the finding."""
    write_series(tmp_path / "scan", hounsfield(SHAPE), affine, offsets=offsets)
    straight = read_scan(tmp_path / "scan", max_gap_mm=5.0)
    assert straight.verdict.decision == "repair"
    _, as_if_even = read_with_simpleitk(tmp_path / "scan")
    path = write(tmp_path / "mask.nrrd", box(), as_if_even)
    with pytest.raises(
        GeometryRejected,
        match=r"mask\.nrrd: the mask takes slices that are tilted or unevenly spaced for a .* grid; expected a DICOM",
    ):
        read_mask(path, straight)
    on_straight = write(tmp_path / "straight.nrrd", box(straight.voxels.shape), straight.affine)
    np.testing.assert_array_equal(read_mask(on_straight, straight).voxels, box(straight.voxels.shape))
    rolled = write(tmp_path / "rolled.nrrd", box().transpose(2, 0, 1), as_if_even[:, [1, 2, 0, 3]])
    with pytest.raises(GeometryRejected, match=r"rolled\.nrrd: the mask takes slices that are tilted"):
        read_mask(rolled, straight)
    cropped = write(tmp_path / "part.nrrd", box(straight.voxels.shape)[:5], straight.affine)
    np.testing.assert_array_equal(read_mask(cropped, straight).voxels, box(straight.voxels.shape))


def test_drawn_where_the_qform_of_the_scan_places_it(tmp_path):
    """As SimpleITK does for a scan whose sform was aligned to another one; this scan lies where its sform says."""
    image = nibabel.Nifti1Image(hounsfield((20, 24, 22)).T, geometry.swap_lps_ras(plane_affine("oblique")))
    image.set_sform(image.affine, code=2)
    moved = image.affine.copy()
    moved[:3, 3] += (6.0, -4.0, 5.0)
    image.set_qform(moved, code=1)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    by_itk = SimpleITK.ReadImage(tmp_path / "scan.nii.gz")
    drawn = SimpleITK.GetImageFromArray(box((20, 24, 22)))
    drawn.CopyInformation(by_itk)
    SimpleITK.WriteImage(drawn, tmp_path / "mask.nrrd")
    scanned = read_scan(tmp_path / "scan.nii.gz")
    with pytest.raises(
        GeometryRejected, match=r"mask\.nrrd: the mask lies by the qform of a scan that lies by its sform; expected a"
    ):
        read_mask(tmp_path / "mask.nrrd", scanned)
    own = write(tmp_path / "own.nrrd", box((20, 24, 22)), scanned.affine)
    np.testing.assert_array_equal(read_mask(own, scanned).voxels, box((20, 24, 22)))


@pytest.mark.parametrize("name", ["", "2", "255"])
def test_mask_images_of_tilted_slices_are_not_interpolated(tmp_path, name):
    """Between 0 and 255 interpolation would give other labels, and a region wider by the voxels around it."""
    write_series(tmp_path / "scan", hounsfield(SHAPE), TILTED, FrameOfReferenceUID=FRAME)
    labels = box(value=255)
    labels[3:5, 2:4, 1:3] = 2
    intercept = {"RescaleIntercept": 0, "FrameOfReferenceUID": FRAME}
    write_series(tmp_path / "mask", labels.astype(np.int16), TILTED, intercept=0.0, modality="MR", **intercept)
    chosen = labels == int(name) if name else labels != 0
    frames = write_segmentation(tmp_path / "seg", chosen.astype(np.uint8), TILTED)
    straight = read_scan(tmp_path / "scan")
    mask = read_mask(tmp_path / "mask", straight, name)
    np.testing.assert_array_equal(mask.voxels, read_mask(frames, straight).voxels)
    assert mask.verdict.notes == ()


def test_a_nifti_mask_says_by_its_sform_where_tilted_slices_lie(tmp_path):
    write_series(tmp_path / "scan", hounsfield(SHAPE), TILTED, FrameOfReferenceUID=FRAME)
    straight = read_scan(tmp_path / "scan")
    write_nifti_file(tmp_path / "mask.nii.gz", box(), TILTED)
    frames = write_segmentation(tmp_path / "seg", box(), TILTED)
    np.testing.assert_array_equal(
        read_mask(tmp_path / "mask.nii.gz", straight).voxels, read_mask(frames, straight).voxels
    )
    with pytest.raises(GeometryRejected, match="voxel axes are sheared by 14"):
        read_scan(tmp_path / "mask.nii.gz")  # values would have to be interpolated


@pytest.mark.parametrize("slices", [(2,), (1, 2, 4)])
def test_a_segmentation_of_tilted_slices_says_where_they_lie(tmp_path, slices):
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[list(slices), 2:5, 3:7] = 1
    path = write_segmentation(tmp_path, voxels, TILTED)
    mask = read_mask(path, read_scan(tmp_path / "scan"))
    drawn = geometry.to_world_mm(TILTED, np.argwhere(voxels)[:, ::-1])
    found = geometry.to_world_mm(mask.affine, np.argwhere(mask.voxels)[:, ::-1])
    np.testing.assert_allclose(found.mean(axis=0), drawn.mean(axis=0), atol=0.5)


def test_a_segmentation_that_leaves_the_tilt_out(tmp_path):
    write_segmentation(tmp_path, box(), TILTED)
    path = write_segmentation(tmp_path / "converted", box(), plane_affine(spacing_mm=(1.0, 1.0, 2.0)))
    with pytest.raises(GeometryRejected, match="the mask takes slices that are tilted"):
        read_mask(path, read_scan(tmp_path / "scan"))


def test_nobody_knows_where(tmp_path):
    image = nibabel.Nifti1Image(box().T, np.diag([0.7, 0.9, 2.5, 1]))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "mask.nii")
    onto = read_mask(tmp_path / "mask.nii")  # stands for a scan that does not say either
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii", onto).voxels, box())
    with pytest.raises(GeometryRejected, match=r"mask\.nii: the mask does not say where its voxels lie in the patient"):
        read_mask(tmp_path / "mask.nii", scan())
    placed = write(tmp_path / "placed.nii", box())
    with pytest.raises(GeometryRejected, match=r"placed\.nii: the scan does not say where its voxels lie"):
        read_mask(placed, onto)


# Folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ones", [False, True])
def test_series_of_mask_images(tmp_path, ones):
    voxels = np.ones(SHAPE, int) if ones else blobs()[..., 0].astype(int)
    write_series(tmp_path / "mask", voxels, intercept=0, FrameOfReferenceUID=FRAME)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask", scan()).voxels, voxels)
    with pytest.raises(GeometryRejected, match=r"another frame of reference"):
        read_mask(tmp_path / "mask", scan(frame="1.2.3"))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segmentation_beside_its_scan(tmp_path, kind):
    voxels = blobs()[..., 0]
    path = write_segmentation(tmp_path, voxels, kind=kind)
    onto = read_scan(tmp_path / "scan")
    np.testing.assert_array_equal(read_mask(tmp_path, onto).voxels, voxels)
    assert middles(read_mask(tmp_path)) == middles(read_mask(path))


def test_file_or_structure_set_alone_in_a_folder(tmp_path):
    for name in ("file", "contours"):
        (tmp_path / name).mkdir()
    write(tmp_path / "file" / "mask.nii.gz", box())
    np.testing.assert_array_equal(read_mask(tmp_path / "file", scan()).voxels, box())
    corners = np.array([(2.5, 1.5, 3), (6.5, 1.5, 3), (6.5, 5.5, 3), (2.5, 5.5, 3)])
    rois = {"GTV": closed(geometry.to_world_mm(plane_affine(), corners))}
    write_structure_set(tmp_path / "contours" / "rs.dcm", rois)
    np.testing.assert_array_equal(read_mask(tmp_path / "contours", scan()).voxels[3], box()[3])


def test_which_one(tmp_path):
    write_segmentation(tmp_path, blobs()[..., 0]).rename(tmp_path / "first.dcm")
    write_structure_set(tmp_path / "second.dcm", {"GTV": []})
    with pytest.raises(
        AmbiguousScan, match=rf"{tmp_path.name}: 2 masks: first\.dcm, second\.dcm; expected one\. Name its file\.$"
    ):
        read_mask(tmp_path)


def test_no_mask(tmp_path):
    with pytest.raises(ScanNotFound, match=r"nowhere: no such file or folder"):
        read_mask(tmp_path / "nowhere")
    (tmp_path / "note.txt").write_text("no mask here")
    with pytest.raises(
        ScanNotFound, match=rf"{tmp_path.name}: no mask; expected a mask file, or a DICOM SEG, RTSTRUCT or series\.$"
    ):
        read_mask(tmp_path)
    with pytest.raises(NotAScan, match=r"note\.txt: not an image file"):
        read_mask(tmp_path / "note.txt")
    (tmp_path / "mask.nii.gz").write_bytes(b"")
    with pytest.raises(UnreadableScan, match=r"mask\.nii\.gz: empty file\.$"):
        read_mask(tmp_path)


def test_the_scan_itself_is_no_mask(tmp_path):
    write_series(tmp_path, modality="CT")
    with pytest.raises(UnusableVoxels, match=f"{tmp_path.name}: .*a scan rather than a mask") as raised:
        read_mask(tmp_path, read_scan(tmp_path))
    assert leaked(SECRETS, str(raised.value)) == []
