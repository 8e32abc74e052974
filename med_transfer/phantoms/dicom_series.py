"""Write a volume as a DICOM CT series, one file per slice, valid enough for a PACS.

Source: DICOM PS3.10 7 (file format), PS3.5 8.2 (compressed pixel data).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, CTImageStorage, ExplicitVRLittleEndian

from med_transfer.atomic import output_error
from med_transfer.errors import ConfigError, MissingExtra
from med_transfer.phantoms.ct_header import UNSIGNED_INTERCEPT, SeriesDetails, common_header, slice_header
from med_transfer.scans import geometry

_PIXEL_DATA = 0x7FE00010
_PREAMBLE = b"\0" * 128 + b"DICM"


def write_dicom_series(
    folder: Path,
    voxels_hu: NDArray[np.int16],
    affine: geometry.Affine,
    *,
    seed: int = 0,
    patient: str = "0001",
    details: SeriesDetails | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> list[Path]:
    """Write a volume as a series of single-slice files, and return their paths in order of k.

    File names do not reflect the order. The folder may exist and hold other series. Stored values are unsigned with an
    intercept of -1024; if voxels are below -1024, they are signed with intercept 0.

    Args:
        folder: folder to write to.
        voxels_hu: int16 HU [depth, height, width].
        affine: voxel index (i, j, k) to LPS mm; if k is not orthogonal to the image plane, the series is sheared.
        seed, patient: determine the UIDs; ignored if ``details`` is given.
        details: metadata of the series.
        transfer_syntax: transfer syntax UID: explicit little endian, or a lossless compression that pydicom can encode
            (RLE always; JPEG-LS and JPEG 2000 with their pylibjpeg plugins).

    Raises:
        ConfigError: voxels are not three-dimensional int16, or rows and columns are not orthogonal.
        MissingExtra: there is no encoder for the transfer syntax.
        OutputError: the folder cannot be written.
    """
    details = details or SeriesDetails(patient=patient, seed=seed)
    _check(voxels_hu, affine)
    encoded = list(_encode(voxels_hu, affine, details, transfer_syntax))
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in encoded:
            written.append(folder / name)
            written[-1].write_bytes(content)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise output_error(folder, error) from error
    return written


def _check(voxels: NDArray, affine: geometry.Affine) -> None:
    if voxels.dtype != np.int16 or voxels.ndim != 3:
        raise ConfigError(f"voxels of type {voxels.dtype}, {voxels.ndim} axes", expected="int16 HU, three axes")
    columns, rows = affine[:3, 0], affine[:3, 1]
    if abs(columns @ rows) > 1e-6 * np.linalg.norm(columns) * np.linalg.norm(rows):
        raise ConfigError("rows and columns are not at right angles", where="affine", expected="an image plane")


def _encode(
    voxels: NDArray[np.int16], affine: geometry.Affine, details: SeriesDetails, transfer_syntax: str
) -> Iterator[tuple[str, bytes]]:
    """File name and content of every slice."""
    signed = int(voxels.min()) < UNSIGNED_INTERCEPT
    stored = voxels.astype("<i2") if signed else (voxels.astype(np.int32) - UNSIGNED_INTERCEPT).astype("<u2")
    common = common_header(details, affine, voxels, signed=signed)
    common_bytes = _elements(common)
    for k, pixels in enumerate(stored):
        own = slice_header(details, affine, k, len(stored))
        own[_PIXEL_DATA] = DataElement(_PIXEL_DATA, "OW", _even(pixels.tobytes()))
        if transfer_syntax == ExplicitVRLittleEndian:
            content = _plain_file(own.SOPInstanceUID, common_bytes | _elements(own))
        else:
            content = _compressed_file(common, own, transfer_syntax)
        yield hashlib.sha256(own.SOPInstanceUID.encode()).hexdigest()[:12] + ".dcm", content


def _even(content: bytes) -> bytes:
    return content + b"\0" * (len(content) % 2)


def _elements(dataset: Dataset) -> dict[int, bytes]:
    """Explicit little endian bytes of each element, by tag, so that common ones are encoded once per series."""
    encoded = {}
    for element in dataset:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element)
        encoded[int(element.tag)] = buffer.getvalue()
    return encoded


def _plain_file(sop_instance_uid: str, elements: dict[int, bytes]) -> bytes:
    meta = b"".join(_elements(_file_meta(sop_instance_uid)).values())
    length = FileMetaDataset()
    length.FileMetaInformationGroupLength = len(meta)
    (group_length,) = _elements(length).values()
    return b"".join([_PREAMBLE, group_length, meta, *(elements[tag] for tag in sorted(elements))])


def _compressed_file(common: Dataset, own: Dataset, transfer_syntax: str) -> bytes:
    file = FileDataset("", Dataset(), preamble=_PREAMBLE[:128], file_meta=_file_meta(own.SOPInstanceUID))
    file.update(common)
    file.update(own)
    try:
        file.compress(transfer_syntax, generate_instance_uid=False)
    except (RuntimeError, NotImplementedError) as error:
        raise MissingExtra(
            f"no encoder for {transfer_syntax}", where="transfer_syntax", action="Install pylibjpeg[all]"
        ) from error
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _file_meta(sop_instance_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return meta
