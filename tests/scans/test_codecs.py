"""Frames of every transfer syntax against other decoders; damaged ones are refused, never half an image."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import imagecodecs
import lossless_jpeg
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array

from med_transfer.errors import MissingCodec, UnreadableScan
from med_transfer.scans.dicom import jpeg_integrity
from med_transfer.scans.dicom.codecs import PixelFormat, decode, require_decoder
from med_transfer.scans.dicom.codestream import jpeg2000_codestream

ENCAPSULATED_UNCOMPRESSED, DEFLATED_FRAME = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"


def phantom(bits: int, *, signed: bool = False, shape: tuple[int, int] = (37, 53)) -> np.ndarray:
    """A smooth, noisy image [rows, columns] of odd size over most of its range, its corners at the limits."""
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns]
    wave = 0.5 + 0.3 * np.sin(x / 9) * np.cos(y / 7) + np.random.default_rng(bits).normal(0, 0.01, shape)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    image = np.clip(low + wave * (high - low), low, high)
    image[0, 0], image[-1, -1] = low, high
    return image.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}")


def pixel_format(image: np.ndarray, syntax: str, bits_stored: int | None = None) -> PixelFormat:
    allocated = 8 * image.itemsize
    return PixelFormat(syntax, *image.shape, 1, allocated, bits_stored or allocated, image.dtype.kind == "i")


def dataset(image: np.ndarray, bits_stored: int, syntax: str = uid.ExplicitVRLittleEndian) -> pydicom.Dataset:
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = uid.CTImageStorage, "1.2.3"
    ds.Rows, ds.Columns = image.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * image.itemsize, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(image.dtype.kind == "i")
    ds.PixelData = image.tobytes() + b"\0" * (image.nbytes % 2)
    ds["PixelData"].VR = "OW" if image.itemsize > 1 else "OB"
    return ds


def first_frame(ds: pydicom.Dataset) -> tuple[bytes, PixelFormat]:
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        frame = next(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1)))
    else:
        frame = ds.PixelData[: ds.Rows * ds.Columns * ds.BitsAllocated // 8]
    signed = ds.PixelRepresentation == 1
    return frame, PixelFormat(syntax, ds.Rows, ds.Columns, 1, ds.BitsAllocated, ds.BitsStored, signed)


def with_frame(ds: pydicom.Dataset, frame: bytes, syntax: str) -> pydicom.Dataset:
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.PixelData = pydicom.encaps.encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    return ds


# Uncompressed


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("bits", "signed"), [(16, True), (16, False), (32, True), (32, False), (12, True), (12, False)]
)
def test_uncompressed_words_in_either_order(bits, signed, order):
    image = phantom(bits, signed=signed)
    syntax = uid.ExplicitVRLittleEndian if order == "<" else uid.ExplicitVRBigEndian
    frame = image.astype(image.dtype.newbyteorder(order)).tobytes()
    decoded = decode(memoryview(frame), pixel_format(image, syntax, bits))
    np.testing.assert_array_equal(decoded, image, strict=True)
    assert decoded.dtype.isnative
    decoded[0, 0] = 1  # a new array, not a view of the file


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, ENCAPSULATED_UNCOMPRESSED]
)
def test_uncompressed_bytes(syntax, signed):
    image = phantom(8, signed=signed)
    assert image.nbytes % 2
    np.testing.assert_array_equal(decode(image.tobytes() + b"\0", pixel_format(image, syntax)), image, strict=True)


@pytest.mark.parametrize("signed", [True, False])
def test_a_declared_overlay_above_bits_stored_is_dropped_as_pydicom_does(signed):
    image = phantom(12, signed=signed)
    junk = np.random.default_rng(0).integers(0, 16, image.shape, np.uint16) << 12
    stored = ((image.view(np.uint16) & 0x0FFF) | junk).view(image.dtype)
    pixels = pixel_format(image, uid.ExplicitVRLittleEndian, 12)
    decoded = decode(stored.tobytes(), replace(pixels, overlay=True))
    np.testing.assert_array_equal(decoded, image)
    np.testing.assert_array_equal(decoded, pixel_array(dataset(stored, 12)))
    with pytest.raises(UnreadableScan, match="values need 1[56] bits where BitsStored says 12"):
        decode(stored.tobytes(), pixels)


def test_deflated_frame():
    image = phantom(16, signed=True)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    frame = packer.compress(image.tobytes()) + packer.flush()
    pixels = pixel_format(image, DEFLATED_FRAME)
    np.testing.assert_array_equal(decode(frame, pixels), image)
    np.testing.assert_array_equal(decode(frame + b"\0", pixels), image)
    with pytest.raises(UnreadableScan, match="pixels cannot be decoded"):
        decode(frame[:-1], pixels)
    with pytest.raises(UnreadableScan, match="another length than the image"):
        decode(frame, replace(pixels, rows=30))


# Compressed by other encoders


@pytest.mark.parametrize("plugin", ["pydicom", "pylibjpeg", "gdcm"])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, True)])
def test_rle_of_each_encoder(bits, signed, plugin):
    image = phantom(bits, signed=signed, shape=(36, 54) if plugin == "gdcm" else (37, 53))  # gdcm aborts on odd sizes
    ds = dataset(image, bits)
    ds.compress(uid.RLELossless, encoding_plugin=plugin)
    np.testing.assert_array_equal(decode(*first_frame(ds)), image, strict=True)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_jpeg_2000_stream_with_a_sign_that_the_header_denies(bits):
    image = phantom(bits, signed=True)
    stream = imagecodecs.jpeg2k_encode(image, codecformat="j2k", bitspersample=bits, reversible=True, level=0)
    format_ = PixelFormat(uid.JPEG2000Lossless, *image.shape, 1, 8 * image.itemsize, bits, False)
    np.testing.assert_array_equal(decode(stream, format_), image.view(f"u{image.itemsize}") & ((1 << bits) - 1))


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (8, True), (12, False), (12, True), (16, False), (16, True)])
def test_jpeg_ls_of_pyjpegls(bits, signed):
    image = phantom(bits, signed=signed)
    ds = dataset(image, bits)
    ds.compress(uid.JPEGLSLossless, encoding_plugin="pyjpegls")
    np.testing.assert_array_equal(decode(*first_frame(ds)), image, strict=True)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_near_lossless_jpeg_ls_equals_other_decoders(bits):
    ds = dataset(phantom(bits), bits)
    ds.compress(uid.JPEGLSNearLossless, jls_error=3, encoding_plugin="pyjpegls")
    decoded = decode(*first_frame(ds))
    assert 0 < np.abs(decoded.astype(int) - phantom(bits)).max() <= 3
    for plugin in ("pylibjpeg", "pyjpegls"):
        np.testing.assert_array_equal(decoded, pixel_array(ds, decoding_plugin=plugin))


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (8, True), (12, False), (12, True), (16, False), (16, True)])
def test_jpeg_2000_of_pylibjpeg(bits, signed):
    image = phantom(bits, signed=signed)
    ds = dataset(image, bits)
    ds.compress(uid.JPEG2000Lossless, encoding_plugin="pylibjpeg")
    np.testing.assert_array_equal(decode(*first_frame(ds)), image, strict=True)


def test_lossy_jpeg_2000_equals_other_decoders():
    ds = dataset(phantom(12, signed=True), 12)
    ds.compress(uid.JPEG2000, j2k_cr=[8], encoding_plugin="pylibjpeg")
    for plugin in ("pylibjpeg", "gdcm"):
        np.testing.assert_allclose(decode(*first_frame(ds)), pixel_array(ds, decoding_plugin=plugin), atol=1)


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, True), (16, False)])
@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K])
def test_htj2k_of_openjph(syntax, bits, signed, tile):
    image = phantom(bits, signed=signed)
    frame = imagecodecs.htj2k_encode(image, tile=tile, resolutions=3)
    np.testing.assert_array_equal(decode(frame, pixel_format(image, syntax, bits)), image, strict=True)


def test_lossy_htj2k_equals_openjph():
    image = phantom(16, signed=True)
    frame = imagecodecs.htj2k_encode(image, level=0.001, resolutions=3)
    decoded = decode(frame, pixel_format(image, uid.HTJ2K))
    np.testing.assert_allclose(decoded.astype(int), imagecodecs.htj2k_decode(frame), atol=2)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg_of_each_predictor(bits, predictor):
    image = phantom(bits)
    frame = lossless_jpeg.encode(image, predictor=predictor, precision=bits)
    syntax = uid.JPEGLosslessSV1 if predictor == 1 else uid.JPEGLossless
    decoded = decode(frame, pixel_format(image, syntax, bits))
    np.testing.assert_array_equal(decoded, image, strict=True)
    ds = with_frame(dataset(image, bits), frame, syntax)
    np.testing.assert_array_equal(decoded, pixel_array(ds, decoding_plugin="pylibjpeg"))


@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_jpeg_of_the_largest_differences(predictor, monkeypatch):
    """Differences wrap round at 16 bits, and 32768 has a category of its own (T.81 H.1.2.2): the count must know.

    It goes over a few rows at a time, and a row is predicted from the one before.
    """
    monkeypatch.setattr(jpeg_integrity, "_AT_ONCE", 100)
    image = np.random.default_rng(0).choice(np.array([0, 1, 32767, 32768, 65535], np.uint16), (19, 23))
    frame = lossless_jpeg.encode(image, predictor=predictor, precision=16)
    np.testing.assert_array_equal(decode(frame, pixel_format(image, uid.JPEGLossless)), image)


@pytest.mark.parametrize("predictor", [1, 4, 7])
def test_lossless_jpeg_with_point_transform(predictor):
    image = phantom(12)
    frame = lossless_jpeg.encode(image, predictor=predictor, precision=12, point_transform=2)
    decoded = decode(frame, pixel_format(image, uid.JPEGLossless, 12))
    np.testing.assert_array_equal(decoded, image >> 2 << 2)


@pytest.mark.parametrize("predictor", [1, 6])
def test_lossless_jpeg_with_restart_markers(predictor):
    image = phantom(12)
    frame = lossless_jpeg.encode(image, predictor=predictor, precision=12, restart_rows=4)
    assert len(re.findall(rb"\xff[\xd0-\xd7]", frame)) == 9
    decoded = decode(frame, pixel_format(image, uid.JPEGLossless, 12))
    np.testing.assert_array_equal(decoded, image)
    ds = with_frame(dataset(image, 12), frame, uid.JPEGLossless)
    np.testing.assert_array_equal(decoded, pixel_array(ds, decoding_plugin="pylibjpeg"))


def test_lossless_jpeg_of_signed_values():
    image = phantom(12, signed=True)
    frame = lossless_jpeg.encode(image.view(np.uint16) & 0x0FFF, predictor=1, precision=12)
    decoded = decode(frame, pixel_format(image, uid.JPEGLosslessSV1, 12))
    np.testing.assert_array_equal(decoded, image)
    np.testing.assert_array_equal(decoded, pixel_array(with_frame(dataset(image, 12), frame, uid.JPEGLosslessSV1)))


@pytest.mark.parametrize(
    ("bits", "syntax"), [(8, uid.JPEGBaseline8Bit), (8, uid.JPEGExtended12Bit), (12, uid.JPEGExtended12Bit)]
)
def test_lossy_jpeg_equals_pylibjpeg(bits, syntax):
    """Within 2 of 4096: their cosine transforms round apart."""
    image = phantom(bits)
    frame = imagecodecs.jpeg8_encode(image, level=90, bitspersample=bits)
    ds = with_frame(dataset(image, bits), frame, syntax)
    reference = pixel_array(ds, decoding_plugin="pylibjpeg").astype(int)
    decoded = decode(frame, pixel_format(image, syntax, bits))
    np.testing.assert_allclose(decoded.astype(int), reference, atol=1 if bits == 8 else 2)


def test_lossy_jpeg_keeps_what_exceeds_bits_stored():
    """11 bits stored in a 12-bit stream: ringing beside a bright edge must not wrap round to black."""
    image = np.zeros((32, 32), np.uint16)
    image[:, 13:] = 2047
    frame = imagecodecs.jpeg8_encode(image, level=50, bitspersample=12)
    decoded = decode(frame, pixel_format(image, uid.JPEGExtended12Bit, 11))
    assert decoded.max() > 2047
    assert decoded[:, 16:].min() > 1500


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="dcmtk is not installed")
@pytest.mark.parametrize(
    "options",
    [*(["+el", "+sv", str(k)] for k in range(1, 8)), ["+el", "+sv", "6", "+pt", "1"], ["+e1"], ["+ee", "+bt"]],
)
def test_jpeg_of_dcmtk(options, tmp_path):
    ds = dataset(phantom(12, shape=(64, 60)), 12)
    ds.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    for command in (["dcmcjpeg", *options, "plain.dcm", "jpeg.dcm"], ["dcmdjpeg", "jpeg.dcm", "back.dcm"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    decoded = decode(*first_frame(pydicom.dcmread(tmp_path / "jpeg.dcm")))
    np.testing.assert_array_equal(decoded, pixel_array(tmp_path / "back.dcm"))


# Streams and headers that disagree


@pytest.mark.parametrize("signed", [True, False])
def test_sign_of_jpeg_2000_is_corrected_as_pydicom_does(signed):
    """The stream has the other sign than PixelRepresentation, and 13 bits."""
    image = phantom(13, signed=signed)
    other = image.view(np.uint16) & 0x1FFF
    if not signed:
        other = (other << 3).view(np.int16) >> 3
    frame = imagecodecs.jpeg2k_encode(other, codecformat="j2k", level=0, bitspersample=13)
    ds = with_frame(dataset(image, 13), frame, uid.JPEG2000Lossless)
    decoded = decode(frame, pixel_format(image, uid.JPEG2000Lossless, 13))
    np.testing.assert_array_equal(decoded, image, strict=True)
    np.testing.assert_array_equal(decoded, pixel_array(ds, decoding_plugin="pylibjpeg"))


@pytest.mark.parametrize("signed", [True, False])
def test_precision_of_the_stream_goes_before_bits_stored(signed):
    """16 bits in the stream, 12 in the header: what exceeds 12 bits is kept, as pydicom does."""
    image = phantom(16, signed=signed)
    for syntax, frame in [
        (uid.JPEG2000Lossless, imagecodecs.jpeg2k_encode(image, codecformat="j2k", level=0)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode(image.view(np.uint16))),
    ]:
        ds = with_frame(dataset(image, 12), frame, syntax)
        decoded = decode(frame, pixel_format(image, syntax, 12))
        np.testing.assert_array_equal(decoded, image)
        np.testing.assert_array_equal(decoded, pixel_array(ds, decoding_plugin="pylibjpeg"))


def test_stream_of_few_bits_in_many_allocated():
    image = phantom(8)
    frame = imagecodecs.jpegls_encode(image)
    wide = pixel_format(image.astype(np.uint16), uid.JPEGLSLossless, 8)
    np.testing.assert_array_equal(decode(frame, wide), image.astype(np.uint16), strict=True)


def test_jp2_file_instead_of_codestream():
    image = phantom(12)
    frame = imagecodecs.jpeg2k_encode(image, codecformat="jp2", level=0, bitspersample=12)
    assert frame[4:8] == b"jP  "
    pixels = pixel_format(image, uid.JPEG2000Lossless, 12)
    np.testing.assert_array_equal(decode(frame, pixels), image)
    with pytest.raises(UnreadableScan, match="holds no codestream"):
        decode(frame[:60], pixels)


def test_codestream_is_taken_out_of_every_kind_of_jp2_box():
    stream, start = b"\xff\x4f\xff\x51 and more", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    n = len(stream)
    boxes = {
        "of its length": (8 + n).to_bytes(4, "big") + b"jp2c" + stream + b"\0\0\0\x08free",
        "to the end": bytes(4) + b"jp2c" + stream,
        "64 bits long": b"\0\0\0\1jp2c" + (16 + n).to_bytes(8, "big") + stream + b"\0\0\0\x08free",
    }
    assert {name: jpeg2000_codestream(start + box) for name, box in boxes.items()} == dict.fromkeys(boxes, stream)
    assert jpeg2000_codestream(start + b"\0\0\0\x08jp2c") == b""  # the last box there may be
    assert jpeg2000_codestream(stream) == stream
    for without in (b"", b"\0\0\0\x08free", b"\0\0\0\x07free" + boxes["to the end"]):
        with pytest.raises(ValueError, match="the JP2 file holds no codestream"):
            jpeg2000_codestream(start + without)


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "JPEG2000.dcm",
        "MR_small_jp2klossless.dcm",
        "JPEGLSNearLossless_08.dcm",
        "JPEGLSNearLossless_16.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_RLE.dcm",
        "rtdose_rle.dcm",
        "rtdose_rle_1frame.dcm",
        "JPGExtended.dcm",
        "CT_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
        "rtdose.dcm",
        "rtdose_expb.dcm",
        "examples_overlay.dcm",
        "examples_palette.dcm",
    ],
)
def test_files_of_pydicom(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("this installation of pydicom lacks the file")
    frame, pixels = first_frame(pydicom.dcmread(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about the very faults that these files test
        reference = pixel_array(path, index=0)
    tolerance = 1 if pixels.syntax == uid.JPEGExtended12Bit else 0
    np.testing.assert_allclose(decode(frame, pixels).astype(np.int64), reference.astype(np.int64), atol=tolerance)


# Damage


@cache
def streams() -> dict[str, tuple[bytes, PixelFormat, np.ndarray]]:
    """A frame of every compressed syntax, and what it decodes to."""
    unsigned, signed, byte = phantom(12), phantom(16, signed=True), phantom(8)
    rle = dataset(signed, 16)
    rle.compress(uid.RLELossless, encoding_plugin="pydicom")
    jpeg_2000 = imagecodecs.jpeg2k_encode(signed, codecformat="j2k", level=0)
    frames = {
        "rle": (first_frame(rle)[0], pixel_format(signed, uid.RLELossless)),
        "baseline": (imagecodecs.jpeg8_encode(byte), pixel_format(byte, uid.JPEGBaseline8Bit)),
        "extended": (
            imagecodecs.jpeg8_encode(unsigned, bitspersample=12),
            pixel_format(unsigned, uid.JPEGExtended12Bit, 12),
        ),
        "lossless": (
            imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=1, bitspersample=12),
            pixel_format(unsigned, uid.JPEGLosslessSV1, 12),
        ),
        "restarts": (
            lossless_jpeg.encode(unsigned, predictor=1, precision=12, restart_rows=4),
            pixel_format(unsigned, uid.JPEGLossless, 12),
        ),
        "jpeg-ls": (imagecodecs.jpegls_encode(unsigned), pixel_format(unsigned, uid.JPEGLSLossless, 12)),
        "near": (imagecodecs.jpegls_encode(unsigned, level=3), pixel_format(unsigned, uid.JPEGLSNearLossless, 12)),
        "jpeg 2000": (jpeg_2000, pixel_format(signed, uid.JPEG2000Lossless)),
        "jpeg 2000 lossy": (
            imagecodecs.jpeg2k_encode(signed, codecformat="j2k", level=50, reversible=False),
            pixel_format(signed, uid.JPEG2000),
        ),
        "htj2k": (imagecodecs.htj2k_encode(signed, resolutions=3), pixel_format(signed, uid.HTJ2KLossless)),
        "htj2k tiles": (
            imagecodecs.htj2k_encode(signed, tile=(16, 16), resolutions=2),
            pixel_format(signed, uid.HTJ2KLosslessRPCL),
        ),
    }
    return {name: (bytes(frame), pixels, decode(frame, pixels)) for name, (frame, pixels) in frames.items()}


NAMES = ["rle", "baseline", "extended", "lossless", "restarts", "jpeg-ls", "near"]
NAMES += ["jpeg 2000", "jpeg 2000 lossy", "htj2k", "htj2k tiles"]


@pytest.mark.parametrize("name", NAMES)
def test_padding_byte_behind_the_stream(name):
    frame, pixels, image = streams()[name]
    np.testing.assert_array_equal(decode(frame + b"\0", pixels), image)


@pytest.mark.parametrize("name", ["baseline", "extended", "lossless", "restarts", "jpeg-ls"])
def test_fill_byte_before_the_end_marker(name):
    """How dcmtk makes a length even (ITU-T T.81 B.1.1.2)."""
    frame, pixels, image = streams()[name]
    np.testing.assert_array_equal(decode(frame[:-2] + b"\xff\xff\xd9", pixels), image)


@pytest.mark.parametrize("name", NAMES)
def test_cut_off_stream_is_refused_wherever_it_ends(name):
    frame, pixels, _ = streams()[name]
    whole = frame.rstrip(b"\0")
    for length in [*range(0, len(whole) - 40, 29), *range(len(whole) - 40, len(whole))]:
        with pytest.raises(UnreadableScan, match=r"^slice\.dcm: pixels cannot be decoded \(.+\)\. Export the series"):
            decode(whole[:length], pixels, where="slice.dcm")


@pytest.mark.parametrize("name", ["rle", "lossless", "jpeg-ls", "near", "jpeg 2000", "htj2k", "htj2k tiles"])
def test_stream_without_its_middle_is_refused(name):
    """As when a fragment is lost: start and end look sound."""
    frame, pixels, _ = streams()[name]
    for start in range(len(frame) // 3, len(frame) - 300, 41):
        with pytest.raises(UnreadableScan, match="pixels cannot be decoded"):
            decode(frame[:start] + frame[start + 200 :], pixels)


@pytest.mark.parametrize("name", ["baseline", "extended", "restarts"])
def test_lossy_stream_without_its_middle_lacks_pixels(name):
    frame, pixels, _ = streams()[name]
    end = -40 if name == "restarts" else -2
    with pytest.raises(UnreadableScan, match="does not hold exactly the image"):
        decode(frame[: len(frame) * 2 // 3] + frame[end:], pixels)


def test_lossless_jpeg_with_bytes_lost_added_or_zeroed():
    """libjpeg says nothing of all this; the count of bits does."""
    frame, pixels, image = streams()["lossless"]
    middle = len(frame) // 2
    for damaged in (
        frame[:middle] + bytes(64) + frame[middle + 64 :],
        frame[:middle] + b"\x55" * 16 + frame[middle:],
        frame[:-12] + b"\xff\xd9",
    ):
        assert imagecodecs.jpeg8_decode(damaged).shape == image.shape
        with pytest.raises(UnreadableScan, match="does not hold exactly the image"):
            decode(damaged, pixels)


def test_hole_of_zeros_in_jpeg_2000():
    image = phantom(16, signed=True, shape=(128, 128))
    frame = imagecodecs.jpeg2k_encode(image, codecformat="j2k", level=0)
    middle = len(frame) // 2
    damaged = frame[:middle] + bytes(512) + frame[middle + 512 :]
    assert imagecodecs.jpeg2k_decode(damaged).shape == image.shape
    with pytest.raises(UnreadableScan, match="hole of zeros"):
        decode(damaged, pixel_format(image, uid.JPEG2000Lossless))


@pytest.mark.parametrize("name", NAMES)
def test_blank_image_is_no_damage(name):
    _, pixels, image = streams()[name]
    blank = np.zeros((256, 256), image.dtype)
    if name == "rle":
        ds = dataset(blank, 16)
        ds.compress(uid.RLELossless, encoding_plugin="pydicom")
        frame = first_frame(ds)[0]
    else:
        encoders = {
            "baseline": lambda: imagecodecs.jpeg8_encode(blank),
            "extended": lambda: imagecodecs.jpeg8_encode(blank, bitspersample=12),
            "lossless": lambda: imagecodecs.jpeg8_encode(blank, lossless=True, predictor=1, bitspersample=12),
            "restarts": lambda: lossless_jpeg.encode(blank, predictor=1, precision=12, restart_rows=64),
            "jpeg-ls": lambda: imagecodecs.jpegls_encode(blank),
            "near": lambda: imagecodecs.jpegls_encode(blank, level=3),
            "jpeg 2000": lambda: imagecodecs.jpeg2k_encode(blank, codecformat="j2k", level=0),
            "jpeg 2000 lossy": lambda: imagecodecs.jpeg2k_encode(blank, codecformat="j2k", level=50, reversible=False),
            "htj2k": lambda: imagecodecs.htj2k_encode(blank, resolutions=3),
            "htj2k tiles": lambda: imagecodecs.htj2k_encode(blank, tile=(16, 16)),
        }
        frame = encoders[name]()
    decoded = decode(frame, replace(pixels, rows=256, columns=256))
    np.testing.assert_allclose(decoded, blank, atol=0 if name not in ("baseline", "extended") else 1)


def test_jpeg_2000_without_a_tile_is_refused():
    """OpenJPEG leaves the tile black, without a word."""
    frame, pixels, _ = streams()["htj2k tiles"]
    lengths = [m.start() for m in re.finditer(rb"\xff\x90\x00\x0a", frame)]
    assert len(lengths) == 12
    without = frame[: lengths[4]] + frame[lengths[5] :]
    with pytest.raises(UnreadableScan, match="cut off or lacks tiles"):
        decode(without, pixels)


@pytest.mark.parametrize("name", NAMES[1:])
def test_header_that_claims_gigabytes_is_refused_before_decoding(name):
    frame, pixels, _ = streams()[name]
    if name.startswith(("jpeg 2000", "htj2k")):
        huge = frame[:8] + struct.pack(">2I", 60000, 60000) + frame[16:]
    else:
        at = re.search(rb"\xff[\xc0\xc1\xc3\xf7]\x00\x0b", frame).start()
        huge = frame[: at + 5] + struct.pack(">2H", 60000, 60000) + frame[at + 9 :]
    with pytest.raises(UnreadableScan, match="the stream holds 60000 x 60000 x 1 values instead of 37 x 53"):
        decode(huge, pixels)


@pytest.mark.parametrize("name", NAMES)
def test_other_size_than_the_header_says_is_refused(name):
    frame, pixels, _ = streams()[name]
    for other in (replace(pixels, rows=54, columns=37), replace(pixels, rows=36), replace(pixels, columns=54)):
        with pytest.raises(UnreadableScan, match="pixels cannot be decoded"):
            decode(frame, other)


@pytest.mark.parametrize("name", NAMES)
def test_stream_of_another_kind_than_the_syntax_is_refused(name):
    frame, pixels, _ = streams()[name]
    other = uid.JPEG2000 if pixels.syntax in uid.JPEGLSTransferSyntaxes else uid.JPEGLSLossless
    with pytest.raises(UnreadableScan, match=r"not a JPEG"):
        decode(frame, replace(pixels, syntax=other))


@pytest.mark.parametrize("name", NAMES)
def test_mutated_streams_are_refused_or_decoded_whole(name):
    frame, pixels, image = streams()[name]
    changes = st.lists(st.tuples(st.integers(2, len(frame) - 1), st.integers(0, 255)), min_size=1, max_size=8)

    @settings(max_examples=60)
    @given(changes)
    def refused_or_whole(changes):
        mutated = bytearray(frame)
        for at, value in changes:
            mutated[at] = value
        begun = time.process_time()
        with contextlib.suppress(UnreadableScan):
            decoded = decode(mutated, pixels)
            assert (decoded.shape, decoded.dtype) == (image.shape, image.dtype)
        assert time.process_time() - begun < 2  # damage must not cost time either

    refused_or_whole()


def test_uncompressed_frame_of_another_length_is_refused():
    image = phantom(16)
    pixels = pixel_format(image, uid.ExplicitVRLittleEndian)
    with pytest.raises(UnreadableScan, match=r"3920 bytes instead of 3922"):
        decode(image.tobytes()[:-2], pixels)
    with pytest.raises(UnreadableScan, match=r"3922 bytes instead of 3816, and more than padding"):
        decode(image.tobytes(), replace(pixels, rows=36))
    np.testing.assert_array_equal(decode(image.tobytes() + bytes(20), pixels), image)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (struct.pack("<3I", 2, 64, 1 << 31), "RLE segments lie outside the frame"),
        (struct.pack("<3I", 2, 64, 64), "RLE segments lie outside the frame"),
        (struct.pack("<3I", 2, 60, 80), "RLE segments lie outside the frame"),
        (struct.pack("<3I", 1, 64, 0), "1 RLE segments instead of 2"),
        (struct.pack("<3I", 200, 64, 80), "200 RLE segments instead of 2"),
    ],
)
def test_rle_header_that_points_elsewhere(header, message):
    frame, pixels, _ = streams()["rle"]
    with pytest.raises(UnreadableScan, match=message):
        decode(header + frame[len(header) :], pixels)


def _replaced(name: str, old: bytes, new: bytes) -> bytes:
    frame = streams()[name][0]
    assert old in frame
    return frame.replace(old, new, 1)


def _at(name: str, at: int, new: bytes) -> bytes:
    frame = streams()[name][0]
    return frame[:at] + new + frame[at + len(new) :]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "baseline",
            lambda: _replaced("baseline", b"\xff\xc0\0\x0b", b"\xff\xc2\0\x0b"),
            r"\(marker FFC2\) that DICOM has",
        ),
        ("baseline", lambda: _replaced("baseline", b"\xff\xc0\0\x0b", b"\xff\xe5\0\x0b"), "the JPEG header is damaged"),
        ("jpeg-ls", lambda: streams()["baseline"][0], "not a JPEG-LS stream"),
        ("jpeg 2000", lambda: _at("jpeg 2000", 43, b"\2\1"), "the JPEG 2000 codestream is subsampled"),
        ("jpeg 2000", lambda: _at("jpeg 2000", 24, bytes(4)), "the JPEG 2000 codestream has empty tiles"),
        ("jpeg 2000", lambda: _at("jpeg 2000", 28, bytes(4)), "the JPEG 2000 codestream has empty tiles"),
    ],
)
def test_damage_of_a_header_is_named(name, damage, message):
    with pytest.raises(UnreadableScan, match=rf"pixels cannot be decoded \(.*{message}"):
        decode(damage(), streams()[name][1])


def test_stream_of_more_bits_than_the_header_allocates_is_refused():
    frame, pixels, _ = streams()["extended"]
    with pytest.raises(UnreadableScan, match="the stream has 12 bits a value, more than are allocated"):
        decode(frame, replace(pixels, bits_allocated=8, bits_stored=8))


@pytest.mark.parametrize("alone", [0x00, 0x01, 0xD0, 0xD7])
def test_no_second_header_hides_behind_a_marker_that_has_no_length(alone):
    """libjpeg goes on right behind it, so that what a length would step over is the header that it decodes by."""
    frame, pixels, _ = streams()["baseline"]
    at = frame.index(b"\xff\xc0\0\x0b")
    own, behind = frame[at : at + 13], frame[at + 13 :]
    larger = imagecodecs.jpeg8_encode(phantom(8, shape=(80, 96)))
    hidden = own[:5] + struct.pack(">2H", 80, 96) + own[9:] + b"\xff\xe5" + struct.pack(">H", 2 + len(own))
    start = larger.index(b"\xff\xda")
    polyglot = frame[:at] + bytes([0xFF, alone]) + struct.pack(">H", 2 + len(hidden)) + hidden + own
    polyglot += behind[: behind.index(b"\xff\xda")] + larger[start:]
    assert imagecodecs.jpeg8_decode(polyglot).shape == (80, 96)
    with pytest.raises(UnreadableScan, match="the JPEG header is cut off or damaged"):
        decode(polyglot, pixels)


def test_a_decoder_that_gives_another_shape_is_not_believed(monkeypatch):
    frame, pixels, image = streams()["jpeg-ls"]
    monkeypatch.setattr(imagecodecs, "jpegls_decode", lambda stream: image.T.copy())
    with pytest.raises(UnreadableScan, match=r"the decoded image has shape \(53, 37\)"):
        decode(frame, pixels)


# What is not requested


def test_colour_and_odd_layouts_are_refused():
    pixels = pixel_format(phantom(8), uid.ExplicitVRLittleEndian)
    with pytest.raises(UnreadableScan, match=r"3 samples \(colour\); expected one channel"):
        decode(b"", replace(pixels, samples=3))
    with pytest.raises(UnreadableScan, match="store 1 bits in 1; expected 8, 16 or 32"):
        decode(b"", replace(pixels, bits_allocated=1, bits_stored=1))
    with pytest.raises(UnreadableScan, match="store 12 bits in 8"):
        decode(b"", replace(pixels, bits_stored=12))
    with pytest.raises(UnreadableScan, match="0 x 53 pixels"):
        decode(b"", replace(pixels, rows=0))
    with pytest.raises(UnreadableScan, match="8 bits in big endian order are ambiguous"):
        decode(b"", replace(pixels, syntax=uid.ExplicitVRBigEndian))


@pytest.mark.parametrize("syntax", [*uid.MPEGTransferSyntaxes, "1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.205"])
def test_video_and_servers_are_refused_with_a_reason(syntax):
    with pytest.raises(MissingCodec, match=r"^slice\.dcm: .+ is video or streamed from a server; .+ Export the series"):
        require_decoder(syntax, "slice.dcm")


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.4.55", "1.2.840.10008.1.2.4.92", "1.2.840.113619.5.2", "nonsense"]
)
def test_retired_and_private_syntaxes_are_refused(syntax):
    with pytest.raises(MissingCodec, match=r"no decoder for .+Export the series again, uncompressed"):
        require_decoder(syntax, "slice.dcm")
    with pytest.raises(MissingCodec):
        decode(b"", pixel_format(phantom(8), syntax))


def test_codec_that_this_build_lacks_is_named(monkeypatch):
    require_decoder(uid.JPEGLosslessSV1, "slice.dcm")
    monkeypatch.setattr(imagecodecs.JPEG8, "all_precisions", False)
    with pytest.raises(
        MissingCodec,
        match=r'^slice\.dcm: no installed package decodes JPEG Lossless.+pip install -U "imagecodecs"',
    ):
        require_decoder(uid.JPEGLosslessSV1, "slice.dcm")


# Threads


@pytest.mark.parametrize("name", NAMES)
def test_threads_decode_as_one_does(name):
    frame, pixels, image = streams()[name]
    with ThreadPoolExecutor(4) as threads:
        for decoded in threads.map(lambda _: decode(frame, pixels), range(40)):
            np.testing.assert_array_equal(decoded, image)


# Real scans


@pytest.mark.real_data
@pytest.mark.skipif("MED_TRANSFER_DATA" not in os.environ, reason="MED_TRANSFER_DATA names no folder of real scans")
@pytest.mark.parametrize(
    "folder",
    [
        "ct_jpeg2000_20_slices",
        *(f"mr_generic_and_compressed/compressed{kind}" for kind in ("", "_j2k", "_jpeg", "_jpegls", "_rle")),
    ],
)
def test_real_scans_equal_pydicom(folder):
    files = sorted(p for p in (Path(os.environ["MED_TRANSFER_DATA"]) / "dicom" / folder).rglob("*") if p.is_file())
    datasets = [ds for ds in (pydicom.dcmread(path, force=True) for path in files) if "PixelData" in ds]
    assert datasets
    for ds in datasets[::4]:
        np.testing.assert_array_equal(decode(*first_frame(ds)), ds.pixel_array)
