"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz), through nibabel; RAS becomes LPS, [i, j, k] becomes [k, j, i]."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from med_transfer.errors import NotAScan, UnreadableScan
from med_transfer.scans import geometry
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Verdict, grid_verdict, require_usable_series
from med_transfer.scans.volume import Provenance, Volume
from med_transfer.scans.voxel_checks import hounsfield_doubt, narrow, require_finite

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

SUFFIXES = (".nii", ".nii.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348


def nifti_series(path: Path) -> Series:
    """The file as a series, with a verdict from its header.

    Raises:
        NotAScan: not NIfTI in spite of its name.
        UnreadableScan: truncated, corrupt or not permitted.
    """
    image = _open(path)
    shape = image.shape
    return Series(
        path, (path,), "nifti", "", "", "", shape[2] if len(shape) > 2 else 1, _verdict(image), affine=_affine(image)
    )


def read_nifti(path: Path) -> Volume:
    """The volume of a NIfTI file; a trailing dimension of one is dropped and scl_slope, scl_inter are applied.

    Raises:
        GeometryRejected: several volumes, fewer than three dimensions, or axes that are not perpendicular.
        NotAScan, UnreadableScan, UnusableVoxels: as their names say.
    """
    verdict = _verdict(_open(path))
    require_usable_series(verdict, path)
    image = _load_whole(path)
    try:
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError) as error:
        raise _unreadable(path, error) from error
    voxels = narrow(values.reshape(values.shape[:3]).T)
    require_finite(voxels, path)
    doubt = hounsfield_doubt(voxels)
    return Volume(
        np.ascontiguousarray(voxels),
        _affine(image),
        Provenance(path, "nifti", files=(path,)),
        verdict.remarked((doubt,) if doubt else ()),
    )


def _open(path: Path) -> Nifti1Image:
    """Header only."""
    start = _first_bytes(path)
    if not start:
        raise UnreadableScan("empty file", where=path)
    kind = _kind(start, path)
    try:
        return kind.from_filename(path)
    except Exception as error:  # nibabel raises errors of its own, by no common name, on corrupt headers
        raise _unreadable(path, error) from error


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GZIP_MAGIC))
        if not _is_gzip(path):
            with path.open("rb") as file:
                return file.read(_HEADER_BYTES)
        if magic and magic != _GZIP_MAGIC:
            raise NotAScan("not a gzip file in spite of its name", where=path, expected="NIfTI")
        with gzip.open(path) as file:
            return file.read(_HEADER_BYTES) if magic else b""
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _kind(start: bytes, path: Path) -> type[Nifti1Image]:
    """By the magic string: nibabel alone would take a truncated file for another format."""
    import nibabel  # slow to import, and most calls read DICOM

    if start[344:347] == b"n+1":
        return nibabel.Nifti1Image
    if start[4:7] == b"n+2":
        return nibabel.Nifti2Image
    raise NotAScan("not a NIfTI file in spite of its name", where=path, expected="NIfTI")


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _load_whole(path: Path) -> Nifti1Image:
    """All bytes, so that gzip's checksum at the end is compared: nibabel alone stops before it."""
    image = _open(path)
    if not _is_gzip(path):
        return image
    try:
        with gzip.open(path) as file:
            return type(image).from_bytes(file.read())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _verdict(image: Nifti1Image) -> Verdict:
    dtype = np.dtype(image.get_data_dtype())
    return grid_verdict(
        image.shape,
        _affine(image),
        channels=len(dtype.names or (0,)),
        is_complex=dtype.kind == "c",
        placed=int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0,
    )


def _affine(image: Nifti1Image) -> geometry.Affine:
    """(i, j, k) to LPS mm, from sform, else qform, else the voxel sizes alone."""
    return geometry.swap_lps_ras(np.asarray(image.affine))


def _unreadable(path: Path, error: Exception) -> UnreadableScan:
    if isinstance(error, PermissionError):
        return UnreadableScan("no permission to read the file", where=path)
    return UnreadableScan(f"truncated or corrupt NIfTI file ({type(error).__name__})", where=path)
