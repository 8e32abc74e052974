"""NRRD and MetaImage files against SimpleITK, and every way in which one can be wrong."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicom_series import as_image, hounsfield, image_affine, plane_affine

from med_transfer.errors import GeometryRejected, NotAScan, UnreadableScan, UnusableVoxels
from med_transfer.scans import find_series, read_scan

SUFFIXES = ("nrrd", "nhdr", "mha", "mhd")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("plane", ["axial", "oblique"])
def test_voxels_and_affine_equal_simpleitk(tmp_path, suffix, plane):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine(plane)), path, useCompression=suffix == "nrrd")
    reference = SimpleITK.ReadImage(path)
    volume = read_scan(path)
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(reference))
    np.testing.assert_allclose(volume.affine, image_affine(reference), atol=1e-9)
    np.testing.assert_allclose(volume.affine, plane_affine(plane), atol=1e-6)
    assert volume.voxels.dtype == np.int16
    assert volume.provenance.format == ("nrrd" if suffix in ("nrrd", "nhdr") else "metaimage")
    assert str(volume.verdict) == "accept"


def test_itk_does_not_warn_beside_our_own_words(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_READ_IN_PROCESS", "1")
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), tmp_path / "a.nrrd")
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)
    read_scan(tmp_path / "a.nrrd")
    assert not SimpleITK.ProcessObject.GetGlobalWarningDisplay()


def test_nrrd_in_ras_becomes_lps(tmp_path):
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 9 7 5\nendian: little\n"
        "encoding: raw\nspace directions: (0.7,0,0) (0,0.9,0) (0,0,2.5)\nspace origin: (1,2,3)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + hounsfield().astype("<i2").tobytes())
    volume = read_scan(tmp_path / "a.nrrd")
    np.testing.assert_allclose(
        volume.affine, np.diag([-1, -1, 1, 1]) @ [[0.7, 0, 0, 1], [0, 0.9, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(volume.voxels, hounsfield())


def test_nrrd_without_space_is_nominal(tmp_path):
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 9 7 5\nspacings: 0.7 0.9 2.5\nendian: little\nencoding: raw\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + hounsfield().astype("<i2").tobytes())
    volume = read_scan(tmp_path / "a.nrrd")
    assert str(volume.verdict).startswith("accept: affine is nominal")
    assert volume.spacing_mm == pytest.approx((0.7, 0.9, 2.5))


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_one_volume_in_four_dimensions(tmp_path, suffix):
    image = SimpleITK.JoinSeries([as_image(hounsfield(), plane_affine("oblique"))])
    SimpleITK.WriteImage(image, tmp_path / f"a.{suffix}")
    volume = read_scan(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(volume.voxels, hounsfield())
    np.testing.assert_allclose(volume.affine, plane_affine("oblique"), atol=1e-6)


def _sheared():
    image = as_image(hounsfield(), plane_affine())
    image.SetDirection([1, 0, 0.3, 0, 1, 0, 0, 0, 0.95])
    return image


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (SimpleITK.JoinSeries([as_image(hounsfield(), np.eye(4))] * 2), r"array of 9 x 7 x 5 x 2 holds 2 volumes"),
        (SimpleITK.GetImageFromArray(hounsfield()[0]), r"array of 9 x 7 is not three-dimensional"),
        (SimpleITK.Compose([as_image(hounsfield(), np.eye(4))] * 3), r"3 values a voxel, not one"),
        (_sheared(), r"voxel axes are sheared by 17\.5 degrees"),
    ],
)
def test_rejected_geometry(tmp_path, suffix, image, message):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(image, path)
    assert find_series(path)[0].verdict.decision == "reject"
    with pytest.raises(GeometryRejected, match=message):
        read_scan(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_in_disguise(tmp_path, suffix, capfd):
    path = tmp_path / f"a.{suffix}"
    path.write_text("not a scan at all")
    with pytest.raises(NotAScan, match=rf"a\.{suffix}: not a readable (nrrd|metaimage) file in spite of its name"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_file(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"")
    with pytest.raises(UnreadableScan, match=r"a\.[\w.]+: empty file"):
        read_scan(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_truncated(tmp_path, suffix, compressed, capfd):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), path, useCompression=compressed)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreadableScan, match=r"a\.[\w.]+: truncated or corrupt data"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("suffix", "data"), [("nhdr", "a.raw"), ("mhd", "a.raw")])
def test_missing_data_file(tmp_path, suffix, data):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), path)
    (tmp_path / data).unlink()
    message = rf"a\.{suffix}: .*its data file ('{re.escape(data)}' )?is missing"
    with pytest.raises((UnreadableScan, NotAScan), match=message):
        read_scan(path)


def test_nan(tmp_path):
    values = hounsfield().astype(np.float32)
    values[0, 0, 0] = np.nan
    SimpleITK.WriteImage(as_image(values, plane_affine()), tmp_path / "a.mha")
    with pytest.raises(UnusableVoxels, match=r"1 of 315 voxels are NaN or infinite"):
        read_scan(tmp_path / "a.mha")


# Voxels are as they were packed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_flipped_bit_of_compressed_voxels_goes_unnoticed(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    hu = hounsfield((12, 20, 30))
    SimpleITK.WriteImage(as_image(hu, plane_affine()), path, useCompression=True)
    stored = path if suffix in ("nrrd", "mha") else next(one for one in tmp_path.iterdir() if one != path)
    content = stored.read_bytes()
    start = content.index(b"LOCAL") + 6 if suffix == "mha" else content.find(b"\n\n") + 2 if suffix == "nrrd" else 0
    unnoticed = 0
    for at in np.linspace(start, len(content) - 1, 60).astype(int):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        stored.write_bytes(changed)
        with contextlib.suppress(UnreadableScan, NotAScan):
            unnoticed += not np.array_equal(read_scan(path).voxels, hu)
    assert unnoticed == 0


def _nrrd(path: Path, data: bytes, *fields: str, space: str = "left-posterior-superior") -> Path:
    lines = ["NRRD0004", "type: short", "dimension: 3", f"space: {space}", "sizes: 9 7 5"]
    if not any(field.startswith("space directions") for field in fields):
        lines += ["space directions: (0.7,0,0) (0,0.9,0) (0,0,2.5)", "space origin: (1,2,3)"]
    path.write_bytes("\n".join([*lines, *fields, *([""] if data else []), ""]).encode() + data)
    return path


def _mhd(path: Path, place: str, *fields: str, data: bytes = b"") -> Path:
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "DimSize = 9 7 5", *fields]
    if not any(field.startswith("ElementSpacing") for field in fields):
        lines.append("ElementSpacing = 0.7 0.9 2.5")
    path.write_bytes("\n".join([*lines, "ElementType = MET_SHORT", f"ElementDataFile = {place}", ""]).encode() + data)
    return path


@pytest.mark.parametrize(
    ("encoding", "endian", "pack"),
    [
        ("raw", "big", bytes),
        ("gzip", "big", gzip.compress),
        ("gz", "little", gzip.compress),
        ("bzip2", "little", bz2.compress),
        ("ascii", "little", lambda data: " ".join(map(str, np.frombuffer(data, "<i2"))).encode()),
    ],
)
def test_encodings_of_nrrd(tmp_path, encoding, endian, pack):
    stored = hounsfield().astype(">i2" if endian == "big" else "<i2").tobytes()
    path = _nrrd(tmp_path / "a.nrrd", pack(stored), f"endian: {endian}", f"encoding: {encoding}")
    np.testing.assert_array_equal(read_scan(path).voxels, hounsfield())


def test_voxels_in_several_files(tmp_path):
    (tmp_path / "slices").mkdir()
    for k, image in enumerate(hounsfield()):
        (tmp_path / "slices" / f"{k + 1:02d}.raw").write_bytes(b"12345" + image.astype(">i2").tobytes())
    names = "\n".join(f"slices/{k:02d}.raw" for k in range(1, 6))
    byte_order = "BinaryDataByteOrderMSB = True"
    pattern = "slices/%02d.raw 1 5 1"
    endian = ("endian: big", "encoding: raw", "byte skip: -1")
    for path in (
        _mhd(tmp_path / "a.mhd", pattern, byte_order, "HeaderSize = 5"),
        _mhd(tmp_path / "b.mhd", "LIST", byte_order, "HeaderSize = -1", data=names.encode()),
        _nrrd(tmp_path / "c.nhdr", b"", *endian, f"data file: {pattern}"),
        _nrrd(tmp_path / "d.nhdr", b"", *endian, f"data file: LIST\n{names}"),
    ):
        np.testing.assert_array_equal(read_scan(path).voxels, hounsfield())


_STORED = hounsfield().astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("encoding", "fields", "data", "message"),
    [
        (
            "gzip",
            ["byte skip: 5"],
            gzip.compress(_STORED),
            "lines or bytes to skip before packed voxels are not supported",
        ),
        ("raw", ["line skip: 1"], _STORED, "lines or bytes to skip before packed voxels are not supported"),
        ("gzip", [], gzip.compress(_STORED + b"0"), r"truncated or corrupt data \(not 630 bytes when unpacked\)"),
        ("bzip2", [], bz2.compress(_STORED[:-1]), r"truncated or corrupt data \(not 630 bytes when unpacked\)"),
    ],
)
def test_packed_voxels_are_as_many_as_the_header_says(tmp_path, encoding, fields, data, message):
    path = _nrrd(tmp_path / "a.nrrd", data, "endian: little", f"encoding: {encoding}", *fields)
    with pytest.raises(UnreadableScan, match=rf"a\.nrrd: .*{message}"):
        read_scan(path)


def test_header_size_counts_from_the_first_byte_of_the_file_as_for_itk(tmp_path):
    length = _mhd(tmp_path / "a.mha", "LOCAL", "HeaderSize = 000").stat().st_size + 7
    path = _mhd(tmp_path / "a.mha", "LOCAL", f"HeaderSize = {length}", data=b"unknown" + _STORED)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
    np.testing.assert_array_equal(expected, hounsfield())
    np.testing.assert_array_equal(read_scan(path).voxels, expected)


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_of_two_byte_orders_the_one_that_itk_takes(tmp_path, first, second):
    orders = (f"BinaryDataByteOrderMSB = {first}", f"ElementByteOrderMSB = {second}")
    path = _mhd(tmp_path / "a.mha", "LOCAL", *orders, data=_STORED)
    np.testing.assert_array_equal(read_scan(path).voxels, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)))


def test_values_that_a_function_codes(tmp_path):
    neutral = ("ElementToIntensityFunctionSlope = 1", "ElementToIntensityFunctionOffset = 0")
    path = _mhd(tmp_path / "a.mha", "LOCAL", *neutral, data=_STORED)
    np.testing.assert_array_equal(read_scan(path).voxels, hounsfield())
    _mhd(path, "LOCAL", "ElementToIntensityFunctionOffset = -1024", data=_STORED)
    with pytest.raises(UnreadableScan, match=r"a\.mha: values coded by an ElementToIntensityFunction"):
        read_scan(path)


@pytest.mark.parametrize("place", ["LOCAL", "a.raw"])
def test_more_than_the_voxels_is_an_error_where_it_is_no_padding(tmp_path, place):
    """A header of the data that nobody told of, or slices that the size leaves out."""
    path = tmp_path / "a.mhd"
    for data, found in ((bytes(12), ""), (b"x" + bytes(11), r"\(642 bytes instead of 630, and more than padding\)")):
        stored = _STORED + data
        _mhd(path, place, data=stored if place == "LOCAL" else b"")
        (tmp_path / "a.raw").write_bytes(stored)
        if not found:
            np.testing.assert_array_equal(read_scan(path).voxels, hounsfield())
            continue
        with pytest.raises(UnreadableScan, match=found):
            read_scan(path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([126, 126, 126, 125, 127], "125 of 126 bytes"),  # as many in all as the scan has
        ([200, 200, 200, 200], "not as many bytes in each file"),
    ],
)
def test_each_of_several_files_holds_its_share(tmp_path, sizes, message):
    for k, size in enumerate(sizes):
        (tmp_path / f"{k}.raw").write_bytes(bytes(size))
    path = _mhd(tmp_path / "a.mhd", f"%d.raw 0 {len(sizes) - 1} 1")
    with pytest.raises(UnreadableScan, match=rf"truncated or corrupt data \({message}\)"):
        read_scan(path)


# Voxels are the scan's own --------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    """A file that would do as voxels, beside the folder of the scans."""
    (tmp_path / "scans").mkdir()
    path = tmp_path / "secret.raw"
    path.write_bytes(hounsfield().tobytes())
    return path


@pytest.mark.parametrize(
    "place", ["../secret.raw", "{folder}/secret.raw", "link/secret.raw", "link.raw", "x/../../secret.raw"]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxels_outside_the_folder_are_refused(tmp_path, outside, suffix, place):
    (tmp_path / "scans" / "link").symlink_to(tmp_path)
    (tmp_path / "scans" / "link.raw").symlink_to(outside)
    place = place.format(folder=tmp_path)
    path = tmp_path / "scans" / f"a.{suffix}"
    if suffix in ("nrrd", "nhdr"):
        _nrrd(path, b"", "endian: little", "encoding: raw", f"data file: {place}")
    else:
        _mhd(path, place)
    with pytest.raises(
        UnreadableScan, match=r"a\.[\w.]+: its data file lies outside the folder of the header; expected a data fi"
    ):
        read_scan(path)
    assert find_series(tmp_path / "scans") == []


@pytest.mark.parametrize(
    "place", ["LIST\n../secret.raw", "../secret%d.raw 1 1 1", "/etc/%s 1 3 1", "%n%n 1 2 1", "a%d.raw 1 9 0"]
)
def test_voxels_outside_the_folder_by_list_and_pattern(tmp_path, outside, place):
    outside.with_name("secret1.raw").write_bytes(outside.read_bytes())
    for path in (
        _nrrd(tmp_path / "scans" / "a.nhdr", b"", "endian: little", "encoding: raw", f"data file: {place}"),
        _mhd(tmp_path / "scans" / "a.mhd", place),
    ):
        with pytest.raises(
            (UnreadableScan, NotAScan), match=r"a\.[\w.]+: .*(outside the folder|no pattern of data files)"
        ):
            read_scan(path)


def test_a_comment_hides_no_data_file(tmp_path, outside):
    path = _mhd(tmp_path / "scans" / "a.mhd", "../secret.raw", "Comment = ElementDataFile = LOCAL")
    with pytest.raises(NotAScan, match=r"not a readable metaimage file"):
        read_scan(path)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_voxels_come_from_regular_files(tmp_path, make):
    make(tmp_path / "a.raw")
    for path in (
        _nrrd(tmp_path / "a.nhdr", b"", "endian: little", "encoding: raw", "data file: a.raw"),
        _mhd(tmp_path / "a.mhd", "a.raw"),
    ):
        with pytest.raises(UnreadableScan, match=r"its data file 'a\.raw' is missing"):
            read_scan(path)


# Units and spaces -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("um", 1e3), ("microns", 1e3), ("m", 1e-3), ("cm", 0.1)])
def test_units_of_length(tmp_path, unit, factor):
    raw = ("endian: little", "encoding: raw")
    x, y, z = (f"{mm * factor!r}" for mm in (0.7, 0.9, 2.5))
    placed = (f"space directions: ({x},0,0) (0,{y},0) (0,0,{z})", f"space origin: ({factor},{2 * factor},{3 * factor})")
    nrrd = _nrrd(tmp_path / "a.nrrd", hounsfield().tobytes(), *raw, *placed, f'space units: "{unit}" "{unit}" "{unit}"')
    spacing, offset = f"ElementSpacing = {x} {y} {z}", f"Offset = {factor} {2 * factor} {3 * factor}"
    mha = _mhd(tmp_path / "a.mha", "LOCAL", spacing, offset, f"DistanceUnits = {unit}", data=hounsfield().tobytes())
    for path in (nrrd, mha):
        volume = read_scan(path)
        np.testing.assert_allclose(volume.affine[:3, 3], (1, 2, 3))
        assert volume.spacing_mm == pytest.approx((0.7, 0.9, 2.5))
        converted = {"um": "um", "microns": "um", "m": "m", "cm": "cm"}.get(unit)
        remark = f": lengths are stated in {converted} and were converted to mm" if converted else ""
        assert str(volume.verdict) == f"accept{remark}" == str(find_series(path)[0].verdict)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ('"furlong" "furlong" "furlong"', r"lengths that are not all in one of mm, cm, m, um"),
        ('"mm" "mm" "um"', r"lengths that are not all in one of mm, cm, m, um"),
        ('"m" "m" "m"', r"voxels of 700 x 900 x 2500 mm"),
    ],
)
def test_units_that_cannot_be(tmp_path, units, message):
    raw = ("endian: little", "encoding: raw")
    with pytest.raises(GeometryRejected, match=message):
        read_scan(_nrrd(tmp_path / "a.nrrd", hounsfield().tobytes(), *raw, f"space units: {units}"))


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "3D-left-handed"])
def test_a_space_that_is_not_the_body_is_nominal(tmp_path, space):
    path = _nrrd(tmp_path / "a.nrrd", hounsfield().tobytes(), "endian: little", "encoding: raw", space=space)
    assert str(read_scan(path).verdict).startswith("accept: affine is nominal")


@pytest.mark.parametrize(("suffix", "origin"), [("nhdr", b"space origin"), ("mhd", b"Offset")])
def test_axes_without_an_origin_are_nominal(tmp_path, suffix, origin):
    """ITK takes the origin for 0, so that a mask drawn elsewhere would be placed as if it were known."""
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine("oblique")), path)
    assert str(read_scan(path).verdict) == "accept"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if not line.startswith(origin)))
    volume = read_scan(path)
    assert str(volume.verdict).startswith("accept: affine is nominal")
    np.testing.assert_array_equal(volume.voxels, hounsfield())


@pytest.mark.parametrize("length", ["1e308", "-1e308", "nan", "inf", "1e10", "x"])
@pytest.mark.parametrize("field", ["space directions: ({},0,0) (0,0.9,0) (0,0,2.5)", "spacings: {} 0.9 2.5"])
def test_lengths_that_itk_takes_for_a_millimetre(tmp_path, field, length, recwarn):
    path = _nrrd(
        tmp_path / "a.nrrd", hounsfield().tobytes(), "endian: little", "encoding: raw", "space directions: none"
    )
    path.write_bytes(path.read_bytes().replace(b"space directions: none", field.format(length).encode()))
    with pytest.raises(NotAScan, match=r"a\.nrrd: invalid lengths in a nrrd file"):
        read_scan(path)
    assert not recwarn


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_a_header_that_claims_more_voxels_than_there_are(tmp_path, suffix, packed):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), path, useCompression=packed)
    path.write_bytes(path.read_bytes().replace(b"9 7 5\n", b"40000 40000 40000\n"))
    with pytest.raises(UnreadableScan, match=r"a\.\w+: truncated or corrupt data: \d+ bytes for 128000000000000"):
        find_series(path) or read_scan(path)
    assert find_series(tmp_path) == []
