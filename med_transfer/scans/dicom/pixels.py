"""Pixels of DICOM slices as measured values: rescaled slice by slice, with padding replaced by air."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import get_frame

from med_transfer.errors import MissingCodec, ScanAborted, UnreadableScan, unreadable
from med_transfer.errors.sentence import Sentence, message_of
from med_transfer.processor import cores
from med_transfer.scans.dicom.codecs import decode, drop_overlay, require_decoder
from med_transfer.scans.dicom.elements import stamp_of
from med_transfer.scans.dicom.header import Slice, read_slices

AIR_HU = -1024
TISSUE_HU = (-900, 4000)  # a padding value in this range could be lung, tissue, bone or metal
_INT16 = np.iinfo(np.int16)
_DAMAGED = "Export the series again; the file is truncated or corrupt"


def stack(slices: Sequence[Slice]) -> tuple[NDArray, tuple[str, ...]]:
    """Rescaled values [depth, height, width] of slices in order, and remarks on implausible padding.

    The result is int16 if every slope and intercept is an integer and every value fits, else float32. Compressed slices
    are decoded in threads, directly into the volume, since the decoders release the GIL.

    Raises:
        UnreadableScan: truncated or corrupt pixels, or a file that has changed since its header was read.
        MissingCodec: no installed package decodes the compressed pixels.
    """
    for slice_ in slices:
        require_decoder(slice_.pixels.format.syntax, slice_.path)
    exact = all(s.slope.is_integer() and s.intercept.is_integer() for s in slices)
    voxels = _empty(slices, np.int16 if exact else np.float32)
    fitted = _fill(voxels, slices)
    if None in fitted:  # some value does not fit into 16 bits
        voxels = _empty(slices, np.float32)
        fitted = _fill(voxels, slices)
    return voxels, tuple(dict.fromkeys(remark for remark in fitted if remark))


def _empty(slices: Sequence[Slice], dtype: type) -> NDArray:
    shape = (len(slices), slices[0].rows, slices[0].columns)
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        found = Sentence("{size} voxels do not fit into memory", size=" x ".join(map(str, shape)))
        raise UnreadableScan(found, where=slices[0].path.parent) from error


def same_pixels(first: Slice, second: Slice) -> bool:
    """Whether two slices have equal values, whatever their transfer syntax; False if one cannot be decoded."""
    try:
        pair, _ = stack([first, second])
    except (UnreadableScan, MissingCodec):
        return False
    return np.array_equal(pair[0], pair[1])


def _fill(voxels: NDArray, slices: Sequence[Slice]) -> list[str | None]:
    """Write the values of each slice to ``voxels``; returns a remark for each, or None if int16 cannot hold them."""
    workers = min(cores(), 8, len(slices))
    shared = {s.path: _pixel_data(s) for s in {s.path: s for s in slices if _is_framed(s)}.values()}
    if workers == 1 or not any(s.pixels.encapsulated for s in slices):  # threads do not speed up plain reading
        return [_fill_one(voxels[k], slice_, shared) for k, slice_ in enumerate(slices)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_fill_one, voxels, slices, repeat(shared)))


def _fill_one(out: NDArray, slice_: Slice, shared: dict[Path, bytes]) -> str | None:
    if out.shape != (slice_.rows, slice_.columns):
        raise UnreadableScan(
            Sentence("{columns} x {rows} pixels", columns=slice_.columns, rows=slice_.rows),
            where=slice_.path,
            expected="those of the others",
        )
    stored = _stored(slice_, out, shared)
    padded, remark = _padded(stored, slice_)
    if out.dtype == np.int16:
        if not _rescale_in_place(out, stored, slice_, padded):
            return None
    else:
        out[...] = stored * slice_.slope + slice_.intercept  # in double precision, rounded once
    if padded is not None:
        out[padded] = AIR_HU if slice_.modality == "CT" else min(out[~padded].min(initial=0), 0)
    return remark


def _rescale_in_place(out: NDArray, stored: NDArray, slice_: Slice, padded: NDArray | None) -> bool:
    """Rescale (PS3.3 C.11.1.1.2) to int16; False if a value does not fit. ``stored`` may share memory with ``out``."""
    slope, intercept = int(slice_.slope), int(slice_.intercept)
    low, high = int(stored.min()), int(stored.max())
    if padded is not None and not _fits(low, high, slope, intercept):  # padding need not fit: it is replaced
        measured = stored[~padded]
        low, high = (int(measured.min()), int(measured.max())) if measured.size else (0, 0)
    if not _fits(low, high, slope, intercept):
        return False
    values = stored.view(np.int16) if stored.itemsize == 2 else stored.astype(np.int16)
    # all arithmetic is modulo 2^16: intermediate values may wrap around, the results fit
    if slope != 1:
        values = np.multiply(values, _modulo(slope), out=out)
    if intercept:
        values = np.add(values, _modulo(intercept), out=out)
    if not np.may_share_memory(values, out):
        np.copyto(out, values)
    return True


def _modulo(number: int) -> NDArray[np.int16]:
    return np.array(number % 65536, np.uint16).view(np.int16)


def _fits(low: int, high: int, slope: int, intercept: int) -> bool:
    ends = (low * slope + intercept, high * slope + intercept)
    return _INT16.min <= min(ends) and max(ends) <= _INT16.max


# From the file to stored values -------------------------------------------------------------------------------


def _stored(slice_: Slice, out: NDArray, shared: dict[Path, bytes]) -> NDArray:
    """The stored values of one slice; plain 16-bit pixels are read directly into ``out``."""
    with _explained(slice_):
        if _is_plain(slice_) and out.dtype == np.int16:
            return _read_into(out, slice_)
        return decode(_frame(slice_, shared), slice_.pixels.format, where=slice_.path)


@contextmanager
def _explained(slice_: Slice) -> Iterator[None]:
    """Raise UnreadableScan for any error of a library: corrupt bytes can raise nearly anything."""
    try:
        yield
    except (UnreadableScan, ScanAborted, MissingCodec):
        raise
    except Exception as error:
        found = Sentence("pixels cannot be decoded ({error})", error=type(error).__name__)
        raise unreadable(found, error, where=slice_.path, action=_DAMAGED) from error


def _is_plain(slice_: Slice) -> bool:
    pixels = slice_.pixels
    words = pixels.format.bits_allocated == 16 and 1 <= pixels.format.bits_stored <= 16 and pixels.format.samples == 1
    return words and not pixels.encapsulated and pixels.at is not None and np.little_endian


def _read_into(out: NDArray, slice_: Slice) -> NDArray:
    with slice_.path.open("rb", buffering=0) as file:
        _require_unchanged(slice_, os.fstat(file.fileno()))
        file.seek((slice_.pixels.at or 0) + slice_.pixels.frame * out.nbytes)
        if file.readinto(out.data.cast("B")) != out.nbytes:
            raise UnreadableScan("truncated pixels", where=slice_.path, action=_DAMAGED)
        surplus = (slice_.pixels.length or 0) - slice_.pixels.frames * out.nbytes
        if slice_.pixels.is_last and surplus > 0 and any(file.read(surplus)):
            found = Sentence(
                "{there} bytes of pixels instead of {needed}, and more than padding",
                there=slice_.pixels.length,
                needed=slice_.pixels.frames * out.nbytes,
            )
            raise UnreadableScan(found, where=slice_.path, action=_DAMAGED)
    stored = out if slice_.pixels.format.signed else out.view(np.uint16)
    try:
        drop_overlay(stored, slice_.pixels.format.bits_stored, declared=slice_.pixels.format.overlay)
    except ValueError as error:
        raise UnreadableScan(message_of(error), where=slice_.path, action=_DAMAGED) from error
    return stored


def _is_framed(slice_: Slice) -> bool:
    """Whether a file holds several images that cannot be read one by one; its pixels are then read once for all."""
    return slice_.pixels.frames > 1 and not _is_plain(slice_)


def _frame(slice_: Slice, shared: dict[Path, bytes]) -> bytes:
    """The bytes of one image as stored: encoded, or raw in the file's byte order."""
    pixels = slice_.pixels
    value = shared[slice_.path] if slice_.path in shared else _pixel_data(slice_)
    if pixels.encapsulated:
        return get_frame(value, pixels.frame, number_of_frames=pixels.frames)
    start = pixels.frame * pixels.frame_bytes
    return value[start:] if pixels.is_last else value[start : start + pixels.frame_bytes]  # decode checks the padding


def _pixel_data(slice_: Slice) -> bytes:
    """The value of PixelData, with all frames."""
    pixels = slice_.pixels
    with _explained(slice_), slice_.path.open("rb") as file:
        _require_unchanged(slice_, os.fstat(file.fileno()))
        if pixels.at is None:
            return pydicom.dcmread(file, force=True).PixelData
        file.seek(pixels.at)
        return file.read(-1 if pixels.length is None else pixels.length)


def _require_unchanged(slice_: Slice, now: os.stat_result) -> None:
    """Refuse a file that has changed; a new stamp with the same header (new link, other permissions) is accepted."""
    if slice_.stamp == stamp_of(now):
        return
    if slice_ not in [replace(image, stamp=slice_.stamp) for image in read_slices(slice_.path)]:
        raise UnreadableScan("has changed since the folder was looked through", where=slice_.path, action="Try again")


# Padding ------------------------------------------------------------------------------------------------------


def _padded(stored: NDArray, slice_: Slice) -> tuple[NDArray | None, str]:
    """Mask of padding pixels (PS3.3 C.7.5.1.1.2), None if there are none; and a remark if padding is kept as values."""
    if not slice_.pixels.padding:
        return None, ""
    limits = [_as_stored(limit, stored.dtype) for limit in slice_.pixels.padding]
    low, high = min(limits), max(limits)
    padded = stored == low if low == high else (stored >= low) & (stored <= high)
    if not padded.any():
        return None, ""
    first, last = sorted(limit * slice_.slope + slice_.intercept for limit in (low, high))
    if slice_.modality != "CT" or last <= TISSUE_HU[0] or first >= TISSUE_HU[1]:
        return padded, ""
    if first == last:
        return None, Sentence("declared padding is {hu:g} HU, a value that tissue can have, and was kept", hu=first)
    return None, Sentence(
        "declared padding is {first:g} to {last:g} HU, which tissue can have, and was kept", first=first, last=last
    )


def _as_stored(value: int, dtype: np.dtype) -> int:
    """A padding value in the pixels' data type, if written with the wrong sign (63536 is -2000 in signed 16 bits)."""
    bits = 8 * dtype.itemsize
    value %= 1 << bits
    return value - (1 << bits) if np.issubdtype(dtype, np.signedinteger) and value >= 1 << (bits - 1) else value
