"""DICOM series to voxels and affine, against SimpleITK and highdicom."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_series import (
    PLANES,
    SECRETS,
    as_image,
    hounsfield,
    plane_affine,
    read_with_simpleitk,
    write_series,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import leaked
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from scipy.ndimage import binary_erosion

from med_transfer.errors import MissingCodec, ScanAborted, UnreadableScan
from med_transfer.scans import find_series, geometry, identity, read_scan
from med_transfer.scans.dicom import series


@pytest.mark.parametrize("plane", PLANES)
def test_voxels_and_affine_equal_simpleitk(tmp_path, plane):
    hu, affine = hounsfield(), plane_affine(plane)
    write_series(tmp_path, hu, affine)
    volume = read_scan(tmp_path)
    voxels, expected = read_with_simpleitk(tmp_path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_array_equal(volume.voxels, hu)
    np.testing.assert_allclose(volume.affine, expected, atol=1e-5)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert volume.voxels.dtype == np.int16
    assert str(volume.verdict) == "accept"


def test_affine_equals_highdicom(tmp_path):
    paths = write_series(tmp_path, affine=plane_affine("oblique"))
    reference = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in paths])
    volume = read_scan(tmp_path)
    index_kji = (4, 2, 7)  # highdicom's own: its slices run the other way
    place_mm = (reference.affine @ [*index_kji, 1])[:3]
    found = geometry.to_index(volume.affine, place_mm)
    i, j, k = np.rint(found).astype(int)
    np.testing.assert_allclose(found, [i, j, k], atol=1e-4)
    assert volume.voxels[k, j, i] == reference.array[index_kji]


def test_spacing_comes_from_positions_not_thickness(tmp_path):
    write_series(tmp_path, SliceThickness=9.0)
    assert read_scan(tmp_path).spacing_mm == pytest.approx((0.7, 0.9, 2.5))


@settings(max_examples=8)
@given(
    st.permutations(range(5)),
    st.lists(st.text("abcXYZ019_. -", min_size=1, max_size=8), min_size=5, max_size=5, unique_by=str.lower),
)
def test_order_and_names_on_disk_never_matter(order, stems):
    names = [f"{n}{stem.strip(' .')}" for n, stem in zip(order, stems, strict=True)]
    with tempfile.TemporaryDirectory() as plain, tempfile.TemporaryDirectory() as shuffled:
        write_series(Path(plain), series_uid="1.2.3")
        write_series(Path(shuffled), series_uid="1.2.3", names=names)
        first, second = read_scan(plain), read_scan(shuffled)
    np.testing.assert_array_equal(first.voxels, second.voxels)
    np.testing.assert_array_equal(first.affine, second.affine)
    assert first.content_hash == second.content_hash


def test_files_are_in_slice_order(tmp_path):
    paths = write_series(tmp_path, names=["e", "a", "d", "b", "c"])
    (series,) = find_series(tmp_path)
    assert series.files == tuple(paths)
    assert series.n_slices == 5


# Values -------------------------------------------------------------------------------------------------------


def test_rescale_is_applied_slice_by_slice(tmp_path):
    slopes = [1.0, 0.5, 2.0, 0.25, 1.5]
    paths = write_series(tmp_path, slopes=slopes, intercept=-1000.0, modality="PT")
    volume = read_scan(tmp_path)
    one_by_one = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path, SimpleITK.sitkFloat64))[0] for path in paths]
    np.testing.assert_allclose(volume.voxels, one_by_one, rtol=1e-6)
    assert volume.voxels.dtype == np.float32


@pytest.mark.parametrize(("signed", "intercept"), [(True, 0.0), (True, -1024.0), (False, -1024.0), (False, -8192.0)])
def test_signed_and_unsigned(tmp_path, signed, intercept):
    write_series(tmp_path, signed=signed, intercept=intercept)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield())


def test_high_bits_that_are_not_stored_are_masked(tmp_path):
    def overlay_in_high_bits(k, dataset):
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.add_new(0x60000102, "US", 15)  # OverlayBitPosition
        stored = np.frombuffer(dataset.PixelData, np.uint16) | 0x8000
        dataset.PixelData = stored.tobytes()

    write_series(tmp_path, signed=False, change=overlay_in_high_bits)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield())


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_bits_stored_that_is_too_small_is_an_error_and_loses_no_bits(tmp_path, syntax):
    def too_few(k, dataset):
        dataset.BitsStored, dataset.HighBit = 10, 9
        if syntax == RLELossless:
            dataset.compress(syntax)

    write_series(tmp_path, signed=False, change=too_few)
    with pytest.raises(UnreadableScan, match=r"slice000\.dcm: .*values need 12 bits where BitsStored says 10"):
        read_scan(tmp_path)


def test_pixels_that_a_damaged_representation_shifts_are_an_error(tmp_path):
    """Without its 'OW' the element's length counts as its first pixels."""
    path = write_series(tmp_path)[-1]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00\x0fW"))
    with pytest.raises(UnreadableScan, match="and more than padding"):
        read_scan(tmp_path)


@pytest.mark.parametrize("signed", [True, False])
def test_numbers_stored_as_unknown_are_read(tmp_path, signed, monkeypatch):
    """Anonymisers write US and SS as UN (PS3.5 section 6.2.2)."""

    def unknown(k, dataset):
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
            dataset.add_new(dataset[keyword].tag, "UN", int(dataset[keyword].value).to_bytes(2, "little"))
        dataset.add_new("PixelPaddingValue", "UN", (63536).to_bytes(2, "little"))

    with monkeypatch.context() as patch:
        patch.setattr(pydicom.config, "replace_un_with_known_vr", False)  # else it writes them as US
        write_series(tmp_path, signed=signed, change=unknown)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield())


def test_values_beyond_int16_become_float32(tmp_path):
    hu = hounsfield().astype(np.int32)
    hu[3, 2, 1] = 60000
    write_series(tmp_path, hu, signed=False)
    volume = read_scan(tmp_path)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, hu)


@pytest.mark.parametrize("written_as", [-2000, 63536])
def test_padding_becomes_air(tmp_path, written_as):
    def pad(k, dataset):
        stored = np.frombuffer(dataset.PixelData, np.int16).copy()
        stored[:3] = -2000
        dataset.PixelData = stored.tobytes()
        dataset.add_new("PixelPaddingValue", "US" if written_as > 0 else "SS", written_as)

    write_series(tmp_path, change=pad)
    volume = read_scan(tmp_path)
    expected = hounsfield()
    expected[:, 0, :3] = -1024
    np.testing.assert_array_equal(volume.voxels, expected)
    assert str(volume.verdict) == "accept"


def test_padding_range_becomes_air(tmp_path):
    def pad(k, dataset):
        stored = np.frombuffer(dataset.PixelData, np.int16).copy()
        stored[:3] = [-2000, -1990, -1980]
        dataset.PixelData = stored.tobytes()
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        dataset.add_new("PixelPaddingRangeLimit", "SS", -1985)

    write_series(tmp_path, change=pad)
    assert read_scan(tmp_path).voxels[2, 0, :3].tolist() == [-1024, -1024, -3004]


def test_padding_that_tissue_can_have_is_kept_and_said(tmp_path):
    hu = hounsfield()
    hu[:, 0, :3] = 40
    write_series(tmp_path, hu, intercept=0.0, change=lambda k, d: d.add_new("PixelPaddingValue", "SS", 40))
    volume = read_scan(tmp_path)
    np.testing.assert_array_equal(volume.voxels, hu)
    assert volume.verdict.decision == "accept"
    assert volume.verdict.reasons == ("declared padding is 40 HU, a value that tissue can have, and was kept",)


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_a_padding_range_that_reaches_into_tissue_is_kept_and_said(tmp_path, slope):
    hu = hounsfield()
    hu[:, 0, :3] = [-800, -100, 40]

    def pad(k, dataset):
        first, last = sorted((-2000 / slope, -50 / slope))
        dataset.add_new("PixelPaddingValue", "SS", int(first))
        dataset.add_new("PixelPaddingRangeLimit", "SS", int(last))

    write_series(tmp_path, hu, intercept=0.0, slopes=slope, change=pad)
    volume = read_scan(tmp_path)
    np.testing.assert_array_equal(volume.voxels, hu)
    assert volume.verdict.reasons == ("declared padding is -2000 to -50 HU, which tissue can have, and was kept",)


def test_padding_in_mr_becomes_zero(tmp_path):
    hu = np.abs(hounsfield())
    hu[:, 0, 0] = -32000
    pad = {"change": lambda k, d: d.add_new("PixelPaddingValue", "SS", -32000)}
    write_series(tmp_path, hu, intercept=0.0, modality="MR", **pad)
    volume = read_scan(tmp_path)
    assert (volume.voxels[:, 0, 0] == 0).all()
    np.testing.assert_array_equal(volume.voxels[:, 1:], hu[:, 1:])


def test_absent_rescale_means_stored_values_and_doubt(tmp_path):
    def strip(k, dataset):
        del dataset.RescaleSlope
        dataset.RescaleIntercept = None

    write_series(tmp_path, change=strip)
    volume = read_scan(tmp_path)
    np.testing.assert_array_equal(volume.voxels, hounsfield() + 1024)
    assert volume.verdict.decision == "accept"
    assert "values do not look like Hounsfield units" in str(volume.verdict)


def test_rescale_type_other_than_hu_is_said(tmp_path):
    write_series(tmp_path, RescaleType="US")
    assert str(read_scan(tmp_path).verdict) == "accept: RescaleType is US: values may not be Hounsfield units"


# Encodings ----------------------------------------------------------------------------------------------------


def _compressed(syntax):
    def save(dataset, path):
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)

    return save


def _rewritten(syntax):
    def save(dataset, path):
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path, enforce_file_format=True)

    return save


def _big_endian(dataset, path):
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)


def _without_preamble(implicit):
    def save(dataset, path):
        dataset.preamble, dataset.file_meta = None, pydicom.dataset.FileMetaDataset()
        dataset.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)

    return save


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(_compressed(RLELossless), id="rle"),
        pytest.param(_compressed(JPEG2000Lossless), id="jpeg2000"),
        pytest.param(_rewritten(ImplicitVRLittleEndian), id="implicit"),
        pytest.param(_big_endian, id="big endian"),
        pytest.param(_rewritten(DeflatedExplicitVRLittleEndian), id="deflated"),
        pytest.param(_without_preamble(True), id="no preamble, implicit"),
        pytest.param(_without_preamble(False), id="no preamble, explicit"),
    ],
)
def test_every_encoding_gives_the_same_volume(tmp_path, save):
    hu = hounsfield((4, 40, 33))
    write_series(tmp_path, hu, save=save)
    volume = read_scan(tmp_path)
    np.testing.assert_array_equal(volume.voxels, hu)
    np.testing.assert_allclose(volume.affine, plane_affine(), atol=1e-5)


@pytest.mark.parametrize(
    ("syntax", "found"),
    [
        (pydicom.uid.MPEG2MPML, "MPEG2 Main Profile / Main Level is video"),
        ("1.2.840.113619.5.2", r"no decoder for 1\.2\.840\.113619\.5\.2; expected single images"),
    ],
)
def test_codec_unknown_to_everyone(tmp_path, syntax, found):
    def encoded(dataset, path):
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
        dataset["PixelData"].VR = "OB"
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)

    write_series(tmp_path, save=encoded)
    with pytest.raises(MissingCodec, match=found):
        read_scan(tmp_path)


# Damage -------------------------------------------------------------------------------------------------------


def test_truncated_pixels(tmp_path):
    path = write_series(tmp_path)[2]
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UnreadableScan, match=r"slice002\.dcm: pixels cannot be decoded|slice002\.dcm: truncated"):
        read_scan(tmp_path)


def test_truncated_file_is_seen_without_decoding(tmp_path):
    hu = hounsfield((5, 64, 64))
    path = write_series(tmp_path, hu)[4]
    path.write_bytes(path.read_bytes()[: 3012 - 8192])  # from the end: UIDs make headers differ in length
    (series,) = find_series(tmp_path)
    assert str(series.verdict) == "reject: slice004.dcm is truncated: 3012 bytes of pixels, 8192 needed"
    with pytest.raises(UnreadableScan, match=r"slice004\.dcm: truncated: 3012 bytes of pixels, 8192 needed"):
        read_scan(tmp_path)


def test_truncated_compressed_pixels(tmp_path):
    path = write_series(tmp_path, hounsfield((5, 40, 33)), save=_compressed(JPEG2000Lossless))[1]
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(UnreadableScan, match=r"slice001\.dcm: pixels cannot be decoded"):
        read_scan(tmp_path)


@pytest.mark.parametrize("length", [140, 200, 400, 700])
def test_truncated_header(tmp_path, length):
    path = write_series(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UnreadableScan, match=r"slice000\.dcm: .*(damaged|truncated)"):
        read_scan(path)
    with pytest.raises(UnreadableScan, match=r"damaged|truncated"):
        read_scan(tmp_path)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(128, 1000), st.integers(0, 255)), min_size=1, max_size=8))
def test_corrupt_bytes_never_give_a_traceback(changes):
    """Whatever happens to the bytes of a file, the search ends, with nothing worse than an ignored file."""
    with tempfile.TemporaryDirectory() as name:
        path = write_series(Path(name))[1]
        content = bytearray(path.read_bytes())
        for place, value in changes:
            content[place] = value
        path.write_bytes(content)
        find_series(name)


# Repairs ------------------------------------------------------------------------------------------------------


def _tilted(degrees: float, step_mm: float = 4.0) -> np.ndarray:
    """Slices leaning back by ``degrees`` while the table moves straight along z."""
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:3, 0] = [0.8, 0.0, 0.0]
    affine[:3, 1] = 0.8 * np.array([0.0, np.cos(angle), -np.sin(angle)])
    affine[:3, 2] = [0.0, 0.0, step_mm]
    affine[:3, 3] = [-20.0, -30.0, 50.0]
    return affine


@pytest.mark.parametrize("degrees", [-18.5, 3.0, 14.0])
def test_tilt_is_straightened_as_simpleitk_resamples_it(tmp_path, degrees):
    smooth = SimpleITK.SmoothingRecursiveGaussian(
        SimpleITK.GetImageFromArray(hounsfield((8, 40, 30)).astype(float)), 1.5
    )
    hu = np.rint(SimpleITK.GetArrayFromImage(smooth)).astype(np.int16)
    sheared = _tilted(degrees)
    write_series(tmp_path, hu, sheared)
    volume = read_scan(tmp_path)
    assert volume.verdict.decision == "repair"
    assert f"positions show a gantry tilt of {abs(degrees):.1f} degrees" in str(volume.verdict)
    assert geometry.shear_degrees(volume.affine) < 1e-4
    assert volume.voxels.dtype == np.int16
    grid = as_image(volume.voxels, volume.affine)
    expected = SimpleITK.Resample(
        as_image(hu.astype(np.float64), sheared), grid, SimpleITK.Transform(), SimpleITK.sitkLinear, -1024.0
    )
    expected = SimpleITK.GetArrayFromImage(expected)
    inside = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(as_image(np.ones(hu.shape), sheared), grid, SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0)
    )
    inside = binary_erosion(inside > 0.999, np.ones((1, 3, 3)))  # at the very edge, SimpleITK extrapolates
    assert inside.mean() > 0.5
    np.testing.assert_allclose(volume.voxels[inside], expected[inside], atol=0.51)


def test_straightening_cuts_nothing_off(tmp_path):
    hu = np.full((6, 20, 20), -1000, np.int16)
    hu[0, 2, 3] = hu[5, 17, 4] = 1000
    sheared = _tilted(20.0)
    write_series(tmp_path, hu, sheared)
    volume = read_scan(tmp_path)
    for i, j, k in ((3, 2, 0), (4, 17, 5)):
        where = geometry.to_index(volume.affine, geometry.to_world_mm(sheared, [i, j, k]))
        assert where[2] == pytest.approx(k, abs=1e-4)
        row, column = int(np.floor(where[1])), int(np.rint(where[0]))
        assert (volume.voxels[k, row : row + 2, column].astype(int) + 1000).sum() == pytest.approx(2000, abs=2)


def test_no_tilt_below_half_a_degree(tmp_path):
    write_series(tmp_path, affine=_tilted(0.3))
    volume = read_scan(tmp_path)
    assert volume.verdict.decision == "accept"
    np.testing.assert_array_equal(volume.voxels, hounsfield())


def test_identical_copies_are_dropped(tmp_path):
    hu = hounsfield()[[0, 1, 1, 2, 3, 4]]
    write_series(tmp_path, hu, offsets=[0, 1, 1, 2, 3, 4])
    (series,) = find_series(tmp_path)
    assert series.n_slices == len(series.files) == 5
    volume = read_scan(series)
    assert str(volume.verdict) == "repair: 1 identical copies dropped, at the position of slices 2"
    np.testing.assert_array_equal(volume.voxels, hounsfield())


def test_copies_whose_pixels_cannot_be_compared_are_none(tmp_path, monkeypatch):
    """A reader that crashes on them says nothing of whether they are alike, and nothing is dropped on its word."""

    def crashed(*_, where, **__):
        raise ScanAborted("crashed", where=where)

    write_series(tmp_path, hounsfield()[[0, 1, 1, 2, 3, 4]], offsets=[0, 1, 1, 2, 3, 4])
    monkeypatch.setattr(series, "isolated", crashed)
    (found,) = find_series(tmp_path)
    assert (found.n_slices, found.verdict.decision) == (6, "reject")


# Privacy ------------------------------------------------------------------------------------------------------


def test_copies_that_are_dropped_change_no_voxel(tmp_path):
    """Even where the slices shift aside by less than what counts as a tilt."""
    affine = plane_affine()
    affine[:3, 2] += affine[:3, 1] / np.linalg.norm(affine[:3, 1]) * 2.5 * np.tan(np.radians(0.4))
    hu = hounsfield((9, 30, 30))
    paths = write_series(tmp_path / "whole", hu, affine)
    shutil.copytree(tmp_path / "whole", tmp_path / "twice")
    shutil.copy(paths[3], tmp_path / "twice" / "again.dcm")
    volume = read_scan(tmp_path / "twice")
    assert volume.verdict.decision == "repair"
    np.testing.assert_array_equal(volume.voxels, hu)
    np.testing.assert_array_equal(volume.affine, read_scan(tmp_path / "whole").affine)


def test_no_patient_data_in_anything_printed(tmp_path):
    write_series(tmp_path, Manufacturer="ACME", ConvolutionKernel="B30f", KVP="120")
    (series,) = find_series(tmp_path)
    volume = read_scan(series)
    printed = f"{series!r} {series.verdict} {volume.provenance!r} {volume.verdict}"
    assert leaked(SECRETS, printed) == []
    assert identity(series).patient == "PID-4711"
    assert volume.provenance.acquisition == {
        "Manufacturer": "ACME",
        "ConvolutionKernel": "B30f",
        "SliceThickness": "9.0",
        "KVP": "120",
        "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
    }


def test_pixels_that_do_not_start_at_the_lowest_bit_are_refused(tmp_path):
    write_series(tmp_path, BitsStored=12, HighBit=15)
    with pytest.raises(UnreadableScan, match=r"coded with HighBit 15, expected 11 for 12 bits"):
        read_scan(tmp_path)


def test_a_compressed_file_cannot_claim_any_size(tmp_path):
    """A header of a kilobyte that asks for eight gigabytes."""

    def claim(k, dataset):
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 64])
        dataset["PixelData"].VR = "OB"
        dataset.Rows, dataset.Columns = 65535, 65535

    write_series(tmp_path, change=claim)
    with pytest.raises(UnreadableScan, match=r"damaged: 8589672450 bytes of pixels in a file of \d+"):
        read_scan(tmp_path)


def test_fragments_in_an_uncompressed_file_are_not_read_as_pixels(tmp_path):
    for path in write_series(tmp_path, hounsfield((5, 16, 16))):
        content = path.read_bytes()
        at = content.index(b"\xe0\x7f\x10\x00OW")
        pixels = pydicom.encaps.encapsulate([content[at + 12 :]])
        head = content[: at + 4] + b"OB\0\0\xff\xff\xff\xff"
        path.write_bytes(head + pixels + b"\xfe\xff\xdd\xe0\0\0\0\0")
    with pytest.raises(UnreadableScan, match="pixels in fragments, which an uncompressed file does not have"):
        read_scan(tmp_path)
