"""Decode one frame of DICOM pixels to its stored values, with one decoder for each transfer syntax.

=====================================  ==================================================================
uncompressed, deflated frame           numpy, zlib
RLE                                    imagecodecs' PackBits, segment by segment
JPEG baseline, extended, lossless      libjpeg-turbo, checked by jpeg_integrity
JPEG-LS                                CharLS
JPEG 2000, HTJ2K                       OpenJPEG (OpenJPH accepts truncated streams)
=====================================  ==================================================================

All of them release the GIL and keep no state, so frames can be decoded in threads.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import config, uid

from med_transfer.errors import MissingCodec, UnreadableScan
from med_transfer.errors.sentence import Sentence, message_of
from med_transfer.scans.dicom.codestream import (
    Header,
    jpeg2000_codestream,
    jpeg2000_header,
    jpeg_end,
    jpeg_header,
    require_all_tiles,
)
from med_transfer.scans.dicom.jpeg_integrity import LOSSLESS, require_complete

_BASELINE, _EXTENDED, _JPEG_LS = 0xC0, 0xC1, 0xF7
_RLE_HEADER_BYTES = 64
_NON_IMAGE_SYNTAXES = ("MPEG", "HEVC", "JPIP", "SMPTE")  # video, or the address of a server instead of pixels


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Encoding of a frame's pixels according to the header (PS3.3 C.7.6.3).

    Args:
        syntax: transfer syntax UID.
        rows, columns: size of the image in pixels.
        samples: SamplesPerPixel; 1 unless in colour.
        bits_allocated, bits_stored: BitsAllocated and BitsStored.
        signed: PixelRepresentation is 1.
        overlay: whether the bits above the stored ones are declared to hold an overlay (PS3.3 C.9.2, retired).
    """

    syntax: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    overlay: bool = False


@dataclass(frozen=True)
class _Decoded:
    """Values [rows, columns] as the codec returns them, in a new array.

    Only the lowest ``significant_bits`` are part of a value; None: all.
    """

    values: NDArray
    significant_bits: int | None = None


def decode(frame: bytes | memoryview, pixels: PixelFormat, *, where: object = "") -> NDArray:
    """Stored values [rows, columns] of one frame before rescaling, as a new integer array with BitsAllocated bits.

    Bits above BitsStored are dropped if the header declares an overlay there, and the sign is extended. If a JPEG 2000
    or JPEG-LS stream disagrees with the header on precision or sign, the stream is trusted, as in pydicom. Unsigned
    values of lossy JPEG may exceed BitsStored: this is ringing at the brightest pixels.

    Args:
        frame: the whole frame, with fragments joined, and inflated if the data set is deflated.
        pixels: encoding of the frame.
        where: the file, for the error.

    Raises:
        UnreadableScan: colour, an unsupported layout, a truncated or corrupt frame, or values that need more bits than
            BitsStored. A partial image is never returned.
        MissingCodec: a transfer syntax that cannot be decoded here.
    """
    require_decoder(pixels.syntax, where)
    _require_known_layout(pixels, where)
    try:
        return _stored_values(_DECODERS[pixels.syntax](frame, pixels), pixels)
    except Exception as error:  # corrupt bytes make codecs raise nearly anything
        raise UnreadableScan(
            Sentence("pixels cannot be decoded ({error})", error=message_of(error)),
            where=where,
            action="Export the series again; the file is truncated or corrupt",
        ) from error


def require_decoder(syntax: str, where: object) -> None:
    """Check that a transfer syntax can be decoded here.

    Raises:
        MissingCodec: it cannot; names what to install, or how to export the scan.
    """
    decoder = _DECODERS.get(syntax)
    if decoder is not None and _installed(decoder):
        return
    name = uid.UID(syntax, config.IGNORE).name
    if decoder is not None:
        raise MissingCodec(
            Sentence("no installed package decodes {name}", name=name),
            where=where,
            action='Install it with: pip install -U "imagecodecs"',
        )
    found = Sentence("no decoder for {name}", name=name)
    if any(word in name for word in _NON_IMAGE_SYNTAXES):
        found = Sentence("{name} is video or streamed from a server", name=name)
    raise MissingCodec(
        found,
        where=where,
        expected="single images",
        action="Export the series again, uncompressed or as JPEG-LS, JPEG 2000 or RLE",
    )


def _installed(decoder: _Decoder) -> bool:
    if decoder not in _CODECS:
        return True
    codec = getattr(imagecodecs, _CODECS[decoder])
    return codec.available and (decoder is not _jpeg or getattr(codec, "all_precisions", False))


def _require_known_layout(pixels: PixelFormat, where: object) -> None:
    if pixels.samples != 1:
        raise UnreadableScan(
            Sentence("pixels have {samples} samples (colour)", samples=pixels.samples),
            where=where,
            expected="one channel",
        )
    if pixels.rows < 1 or pixels.columns < 1:
        raise UnreadableScan(
            Sentence("the image has {rows} x {columns} pixels", rows=pixels.rows, columns=pixels.columns),
            where=where,
            expected="an image",
        )
    if pixels.bits_allocated not in (8, 16, 32) or not 1 <= pixels.bits_stored <= pixels.bits_allocated:
        raise UnreadableScan(
            Sentence(
                "pixels store {bits_stored} bits in {bits_allocated}",
                bits_stored=pixels.bits_stored,
                bits_allocated=pixels.bits_allocated,
            ),
            where=where,
            expected="8, 16 or 32 bits allocated, and no more stored",
        )
    if pixels.syntax == uid.ExplicitVRBigEndian and pixels.bits_allocated == 8:
        raise UnreadableScan(  # the words are swapped if their VR is OW, not if it is OB: PS3.5 A.3
            "pixels of 8 bits in big endian order are ambiguous",
            where=where,
            action="Export the series again in little endian order",
        )


def _uncompressed(frame: bytes | memoryview, pixels: PixelFormat, order: str = "<") -> _Decoded:
    count = pixels.rows * pixels.columns
    whole = _without_padding(frame, count * pixels.bits_allocated // 8)
    values = np.frombuffer(whole, f"{order}u{pixels.bits_allocated // 8}", count)
    return _Decoded(values.reshape(pixels.rows, pixels.columns).copy(), pixels.bits_stored)


def _deflated_frame(frame: bytes | memoryview, pixels: PixelFormat) -> _Decoded:
    """Deflated Image Frame Compression, PS3.5 A.4: RFC 1951 without a zlib header."""
    size = pixels.rows * pixels.columns * pixels.bits_allocated // 8
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    inflated = inflater.decompress(frame, size + 2)
    if not inflater.eof:
        raise ValueError(Sentence("the deflated stream has another length than the image"))
    return _uncompressed(inflated, pixels)


def _rle(frame: bytes | memoryview, pixels: PixelFormat) -> _Decoded:
    """RLE: one segment for each byte of the samples, the most significant first (PS3.5 annex G)."""
    width = pixels.bits_allocated // 8
    if len(frame) < _RLE_HEADER_BYTES:
        raise ValueError(Sentence("the RLE header is cut off"))
    segments, *offsets = np.frombuffer(frame, "<u4", _RLE_HEADER_BYTES // 4).tolist()
    if segments != width:
        raise ValueError(Sentence("{segments} RLE segments instead of {width}", segments=segments, width=width))
    bounds = [*offsets[:width], len(frame)]
    if bounds[0] != _RLE_HEADER_BYTES or any(first >= last for first, last in pairwise(bounds)):
        raise ValueError(Sentence("RLE segments lie outside the frame"))
    count = pixels.rows * pixels.columns
    samples = np.empty((count, width), np.uint8)
    for k in range(width):
        segment = imagecodecs.packbits_decode(bytes(frame[bounds[k] : bounds[k + 1]]))
        samples[:, k] = np.frombuffer(_without_padding(segment, count), np.uint8, count)
    return _Decoded(samples.view(f">u{width}").reshape(pixels.rows, pixels.columns), pixels.bits_stored)


def _without_padding(data: bytes | bytearray | memoryview, size: int) -> memoryview:
    """The first ``size`` bytes, if only zeros follow; other bytes would be pixels, and the header's size wrong."""
    view = memoryview(data)
    if len(view) < size:
        raise ValueError(Sentence("{n} bytes instead of {size}", n=len(view), size=size))
    if any(view[size:]):
        raise ValueError(Sentence("{n} bytes instead of {size}, and more than padding", n=len(view), size=size))
    return view[:size]


def _jpeg(frame: bytes | memoryview, pixels: PixelFormat) -> _Decoded:
    stream = bytes(frame)
    header = jpeg_header(stream)
    if header.process not in (_BASELINE, _EXTENDED, LOSSLESS):
        raise ValueError(
            Sentence(
                "a JPEG process (marker FF{process:02X}) that DICOM has retired or never had", process=header.process
            )
        )
    _require_size(header, pixels)
    whole = stream[: jpeg_end(stream, header)]
    values = imagecodecs.jpeg8_decode(whole)
    require_complete(whole, header, values, imagecodecs.jpeg8_decode)
    ringing = header.process != LOSSLESS and not pixels.signed
    return _Decoded(values, None if ringing else pixels.bits_stored)


def _jpeg_ls(frame: bytes | memoryview, pixels: PixelFormat) -> _Decoded:
    """JPEG-LS has no signed values; the sign is the highest bit of the stream's precision."""
    stream = bytes(frame)
    header = jpeg_header(stream)
    if header.process != _JPEG_LS:
        raise ValueError(Sentence("not a JPEG-LS stream"))
    _require_size(header, pixels)
    return _Decoded(imagecodecs.jpegls_decode(stream[: jpeg_end(stream, header)]), header.precision)


def _jpeg2000(frame: bytes | memoryview, pixels: PixelFormat) -> _Decoded:
    """Values as in the codestream; if the header disagrees on the sign, their bits are reinterpreted."""
    codestream = jpeg2000_codestream(bytes(frame))
    header = jpeg2000_header(codestream)
    _require_size(header, pixels)
    require_all_tiles(codestream)
    values = imagecodecs.jpeg2k_decode(codestream, numthreads=1)
    if header.signed and not pixels.signed:
        values = values.view(f"u{values.itemsize}")
        values &= (1 << header.precision) - 1  # clears the sign extension, which the header does not expect
    return _Decoded(values, None if header.signed == pixels.signed else header.precision)


def _require_size(header: Header, pixels: PixelFormat) -> None:
    """Compare sizes before decoding, since a damaged stream header could claim gigabytes."""
    if (header.rows, header.columns, header.components) != (pixels.rows, pixels.columns, 1):
        raise ValueError(
            Sentence(
                "the stream holds {rows} x {columns} x {components} values instead of {own_rows} x {own_columns}",
                rows=header.rows,
                columns=header.columns,
                components=header.components,
                own_rows=pixels.rows,
                own_columns=pixels.columns,
            )
        )
    if header.precision > pixels.bits_allocated:
        raise ValueError(
            Sentence("the stream has {precision} bits a value, more than are allocated", precision=header.precision)
        )


def _stored_values(decoded: _Decoded, pixels: PixelFormat) -> NDArray:
    if decoded.values.shape != (pixels.rows, pixels.columns):
        raise ValueError(Sentence("the decoded image has shape {shape}", shape=str(decoded.values.shape)))
    values, dtype = decoded.values, np.dtype(f"{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}")
    as_it_is = values.dtype.isnative and values.itemsize == dtype.itemsize  # the same bits, signed or not
    values = values.view(dtype) if as_it_is else values.astype(dtype)
    drop_overlay(values, decoded.significant_bits or pixels.bits_allocated, declared=pixels.overlay)
    return values


def drop_overlay(values: NDArray, bits: int, *, declared: bool) -> None:
    """Keep the lowest ``bits`` of each value, in place, and extend the sign.

    Args:
        values: stored values, modified in place.
        bits: BitsStored.
        declared: whether the header declares an overlay in the higher bits.

    Raises:
        ValueError: higher bits are in use without a declared overlay. BitsStored is then wrong, and dropping the bits
            would silently change the values.
    """
    spare = 8 * values.itemsize - bits
    if not spare:
        return
    low, high = int(values.min()), int(values.max())
    if not declared and (high >> bits > 0 or low >> bits < -1):
        needed = max(high.bit_length(), low.bit_length())
        raise ValueError(Sentence("values need {needed} bits where BitsStored says {bits}", needed=needed, bits=bits))
    values <<= spare  # shifting left, then right, fills the high bits with the sign, or with zeros if unsigned
    values >>= spare


_Decoder = Callable[[bytes | memoryview, PixelFormat], _Decoded]
# libjpeg-turbo before 3.0 supports only 8 bits, as all_precisions tells
_CODECS: dict[_Decoder, str] = {_rle: "PACKBITS", _jpeg: "JPEG8", _jpeg_ls: "JPEGLS", _jpeg2000: "JPEG2K"}
_ENCAPSULATED_UNCOMPRESSED, _DEFLATED_FRAME = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"
_DECODERS: dict[str, _Decoder] = {
    uid.ImplicitVRLittleEndian: _uncompressed,
    uid.ExplicitVRLittleEndian: _uncompressed,
    uid.DeflatedExplicitVRLittleEndian: _uncompressed,
    _ENCAPSULATED_UNCOMPRESSED: _uncompressed,
    uid.ExplicitVRBigEndian: partial(_uncompressed, order=">"),
    _DEFLATED_FRAME: _deflated_frame,
    uid.RLELossless: _rle,
    uid.JPEGBaseline8Bit: _jpeg,
    uid.JPEGExtended12Bit: _jpeg,
    uid.JPEGLossless: _jpeg,
    uid.JPEGLosslessSV1: _jpeg,
    uid.JPEGLSLossless: _jpeg_ls,
    uid.JPEGLSNearLossless: _jpeg_ls,
    uid.JPEG2000Lossless: _jpeg2000,
    uid.JPEG2000: _jpeg2000,
    uid.HTJ2KLossless: _jpeg2000,
    uid.HTJ2KLosslessRPCL: _jpeg2000,
    uid.HTJ2K: _jpeg2000,
}
READABLE_TRANSFER_SYNTAXES = tuple(map(str, _DECODERS))
