"""Pixels of DICOM slices as measured values: rescaled slice by slice, padding made air."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from med_transfer.errors import MissingCodec, UnreadableScan
from med_transfer.scans.dicom_header import Slice

AIR_HU = -1024
TISSUE_HU = (-900, 4000)  # a padding value in here could be lung, tissue, bone or metal
_INT16 = np.iinfo(np.int16)


def stack(slices: Sequence[Slice]) -> tuple[NDArray, tuple[str, ...]]:
    """Values [depth, height, width] of slices in order, and remarks on odd padding.

    int16 where every slope and intercept is a whole number and every value fits, else float32.

    Raises:
        UnreadableScan: truncated or corrupt pixels.
        MissingCodec: compressed in a way that no installed package can decode.
    """
    exact = all(s.slope.is_integer() and s.intercept.is_integer() for s in slices)
    voxels = np.empty((len(slices), slices[0].rows, slices[0].columns), np.int16 if exact else np.float32)
    remarks: dict[str, None] = {}
    for k, slice_ in enumerate(slices):
        values, remark = _values(slice_)
        if voxels.dtype == np.int16 and not (_INT16.min <= values.min() and values.max() <= _INT16.max):
            voxels = voxels.astype(np.float32)
        voxels[k] = values
        if remark:
            remarks[remark] = None
    return voxels, tuple(remarks)


def same_pixels(first: Slice, second: Slice) -> bool:
    """Whether two slices hold equal values, whatever their transfer syntax; false where one cannot be decoded."""
    try:
        return np.array_equal(_values(first)[0], _values(second)[0])
    except (UnreadableScan, MissingCodec):
        return False


def _values(slice_: Slice) -> tuple[NDArray, str]:
    """One slice rescaled (PS3.3 C.11.1.1.2), as whole numbers where slope and intercept are, and a remark."""
    dataset, stored = _decode(slice_)
    if slice_.slope.is_integer() and slice_.intercept.is_integer():
        values = stored.astype(np.int64) * int(slice_.slope) + int(slice_.intercept)
    else:
        values = stored * slice_.slope + slice_.intercept
    return _without_padding(dataset, stored, values, slice_)


def _decode(slice_: Slice) -> tuple[Dataset, NDArray]:
    try:
        dataset = pydicom.dcmread(slice_.path, force=True)
        _require_codec(dataset, slice_)
        stored = pixel_array(dataset)
    except MissingCodec:
        raise
    except Exception as error:  # codecs raise whatever they like on corrupt bytes
        raise UnreadableScan(
            f"pixels cannot be decoded ({type(error).__name__})",
            where=slice_.path,
            action="Export the series again; the file is truncated or corrupt",
        ) from error
    if stored.shape != (slice_.rows, slice_.columns):
        raise UnreadableScan(
            f"pixels have shape {stored.shape}", where=slice_.path, expected="one image of one channel"
        )
    return dataset, stored


def _require_codec(dataset: Dataset, slice_: Slice) -> None:
    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:  # a file without preamble: pydicom has found its encoding by looking
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
    syntax = meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise MissingCodec(
            f"no installed package decodes {syntax.name}",
            where=slice_.path,
            action='Install the codecs with: pip install "pylibjpeg[all]"',
        )


def _without_padding(dataset: Dataset, stored: NDArray, values: NDArray, slice_: Slice) -> tuple[NDArray, str]:
    """Padding (PS3.3 C.7.5.1.1.2) is no measurement: it becomes air in CT, else the slice's lowest value, at most 0."""
    bounds = _padding_range(dataset, stored)
    if bounds is None:
        return values, ""
    padded = (stored >= bounds[0]) & (stored <= bounds[1])
    if not padded.any():
        return values, ""
    if slice_.modality == "CT":
        hu = bounds[0] * slice_.slope + slice_.intercept
        if TISSUE_HU[0] < hu < TISSUE_HU[1]:
            return values, f"declared padding is {hu:g} HU, a value that tissue can have, and was kept"
        fill = AIR_HU
    else:
        fill = min(values[~padded].min(initial=0), 0)
    return np.where(padded, values.dtype.type(fill), values), ""


def _padding_range(dataset: Dataset, stored: NDArray) -> tuple[int, int] | None:
    first = dataset.get("PixelPaddingValue")
    if first is None or first == "":
        return None
    last = dataset.get("PixelPaddingRangeLimit")
    limits = [_as_stored(int(limit), stored.dtype) for limit in (first, first if last in (None, "") else last)]
    return min(limits), max(limits)


def _as_stored(value: int, dtype: np.dtype) -> int:
    """A padding value written with the wrong sign, read as the pixels are (63536 is -2000 in signed 16 bits)."""
    bits = 8 * dtype.itemsize
    value %= 1 << bits
    return value - (1 << bits) if np.issubdtype(dtype, np.signedinteger) and value >= 1 << (bits - 1) else value
