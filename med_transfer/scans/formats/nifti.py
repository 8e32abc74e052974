"""Read single-file NIfTI-1 and NIfTI-2 (.nii, .nii.gz) with nibabel; RAS becomes LPS, [i, j, k] becomes [k, j, i]."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from med_transfer.errors import NotAScan, ScanAborted, UnreadableScan, unreadable
from med_transfer.errors.sentence import Sentence
from med_transfer.scans import geometry
from med_transfer.scans.formats.stored_data import MAX_DEFLATED, holds_more, read_at_most
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Verdict, grid_verdict, require_usable_series, unit_in_mm
from med_transfer.scans.volume import Provenance, Volume
from med_transfer.scans.voxel_checks import hounsfield_doubt, narrow, require_finite

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

SUFFIXES = (".nii", ".nii.gz")
_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = 540  # for NIfTI-2; NIfTI-1 has 348
_SPACE_UNITS = 0b111  # the bits of xyzt_units for spatial units
_UNITS = {0: "", 1: "m", 2: "mm", 3: "um"}
_SAME_SIZE = 0.01  # relative tolerance between pixdim and affine
_SAME_PLACE_MM = 1.0


def nifti_series(path: Path) -> Series:
    """The file as a series, with a verdict from its header.

    Raises:
        NotAScan: not NIfTI in spite of its name.
        UnreadableScan: truncated, corrupt or not permitted.
    """
    image = _open(path)
    affine, verdict = _geometry(image)
    n_slices = image.shape[2] if len(image.shape) > 2 else 1
    return Series(path, (path,), "nifti", "", "", "", n_slices, verdict, affine=affine)


def read_nifti(path: Path, *, straight: bool = True) -> Volume:
    """Read the volume of a NIfTI file; scl_slope and scl_inter are applied, trailing dimensions of one dropped.

    Without ``straight``, the axes may be sheared, as the sform of a mask of tilted slices states them.

    Raises:
        GeometryRejected: several volumes, fewer than three dimensions, or axes that are not perpendicular.
        NotAScan, UnreadableScan: see :func:`nifti_series`.
        UnusableVoxels: voxels are NaN or infinite.
    """
    affine, verdict = _geometry(_open(path), straight=straight)
    require_usable_series(verdict, path)
    image = _load_whole(path)
    try:
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError) as error:
        raise _unreadable(path, error) from error
    voxels = narrow(values.reshape(values.shape[:3]).T)
    require_finite(voxels, path)
    return Volume(
        np.ascontiguousarray(voxels),
        affine,
        Provenance(path, "nifti", files=(path,), stored=_grid_by_qform(image)),
        replace(verdict, doubt=hounsfield_doubt(voxels)),
    )


def _open(path: Path) -> Nifti1Image:
    """Read the header only."""
    start = _first_bytes(path)
    if not start:
        raise UnreadableScan("empty file", where=path)
    kind = _kind(start, path)
    try:
        slope = float(kind.header_class.from_fileobj(io.BytesIO(start), check=False)["scl_slope"])
        image = kind.from_filename(path, mmap=False)  # memory-mapped voxels would change with the file
        end, there = _end(image), path.stat().st_size
    except Exception as error:  # corrupt headers make nibabel raise nearly anything
        raise _unreadable(path, error) from error
    if np.isinf(slope):  # nibabel would ignore the slope, as it rightly does for 0 and NaN
        raise UnreadableScan(Sentence("scl_slope is {slope:g}", slope=slope), where=path, expected="a finite scl_slope")
    if there * (MAX_DEFLATED if _is_gzip(path) else 1) < end:  # before that much memory is allocated
        raise _truncated(path, there, end)
    return image


def _end(image: Nifti1Image) -> int:
    """Offset of the end of the voxels, in bytes."""
    start: int = image.dataobj.offset  # pyright: ignore[reportAttributeAccessIssue]  not kept in the header
    return start + int(np.prod(image.shape, dtype=object)) * np.dtype(image.get_data_dtype()).itemsize


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
        if not start or not _is_gzip(path):
            return start
        if not start.startswith(_GZIP_MAGIC):
            raise NotAScan("not a gzip file in spite of its name", where=path, expected="NIfTI")
        with gzip.open(path) as file:
            return file.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _kind(start: bytes, path: Path) -> type[Nifti1Image]:
    """NIfTI version by the magic string; nibabel alone would mistake a truncated file for another format."""
    import nibabel  # slow to import, and most calls read DICOM

    if start[344:347] == b"n+1":
        return nibabel.Nifti1Image
    if start[4:7] == b"n+2":
        return nibabel.Nifti2Image
    raise NotAScan("not a NIfTI file in spite of its name", where=path, expected="NIfTI")


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _load_whole(path: Path) -> Nifti1Image:
    """Read the whole file, so that gzip's checksum at its end is verified, which nibabel does not reach.

    Bytes after the voxels other than padding are refused: they would be slices or volumes left out.
    """
    image = _open(path)
    end = _end(image)
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
            content = read_at_most(file, end) if _is_gzip(path) else b""
            file.seek(end)
            more = holds_more(file)
        there = len(content) or path.stat().st_size
        if there < end:
            raise _truncated(path, there, end)
        if more:
            raise UnreadableScan(
                Sentence("NIfTI file with more than padding behind its {end} bytes", end=end), where=path
            )
        return type(image).from_bytes(content) if content else image
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _geometry(image: Nifti1Image, *, straight: bool = True) -> tuple[geometry.Affine, Verdict]:
    """Affine (i, j, k) to LPS mm, from sform, else qform, else the voxel sizes alone; and the verdict on it."""
    unit_mm, of_units = _unit_mm(image)
    affine = geometry.swap_lps_ras(np.asarray(image.affine))
    affine[:3] *= unit_mm
    dtype = np.dtype(image.get_data_dtype())
    verdict = grid_verdict(
        image.shape,
        affine,
        channels=len(dtype.names or (0,)),
        is_complex=dtype.kind == "c",
        placed=int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0,
        straight=straight,
    ).joined(of_units)
    return affine, verdict.joined(_forms_verdict(image, unit_mm)) if verdict.usable else verdict


def _unit_mm(image: Nifti1Image) -> tuple[float, Verdict]:
    code = int(image.header["xyzt_units"]) & _SPACE_UNITS
    return unit_in_mm([_UNITS.get(code, f"unit {code}")])


def _forms_verdict(image: Nifti1Image, unit_mm: float) -> Verdict:
    """Check that sform and qform agree if both are given, and that pixdim agrees with the affine used."""
    used = np.asarray(image.affine) * unit_mm
    remarks = []
    sizes, stated = geometry.spacing_mm(used), np.abs(image.header["pixdim"][1:4]) * unit_mm
    if not np.allclose(stated, sizes, rtol=_SAME_SIZE):
        words = {
            name: " x ".join(f"{mm:.4g}" for mm in lengths) for name, lengths in (("stated", stated), ("used", sizes))
        }
        remarks.append(
            Sentence("pixdim states voxels of {stated} mm, the affine {used} mm: the affine is used", **words)
        )
    if (qform := _qform(image)) is not None:
        if np.linalg.det(qform[:3, :3]) * np.linalg.det(used[:3, :3]) < 0:
            return Verdict(rejections=(Sentence("sform and qform mirror each other: left and right are not known"),))
        if apart := _apart_mm(image, qform, unit_mm):
            remarks.append(
                Sentence("sform and qform place the voxels up to {apart:.1f} mm apart: sform is used", apart=apart)
            )
    return Verdict(remarks=tuple(remarks))


def _apart_mm(image: Nifti1Image, qform: geometry.Affine, unit_mm: float) -> float:
    """How far the qform places voxels from where the affine used does, at most; 0 if both mean the same place."""
    corners = geometry.lattice(image.shape[2::-1], 2)
    used = np.asarray(image.affine)
    apart = geometry.to_world_mm(used, corners) - geometry.to_world_mm(qform, corners)
    apart_mm = float(np.linalg.norm(apart, axis=1).max()) * unit_mm
    return apart_mm if apart_mm > max(_SAME_PLACE_MM, min(geometry.spacing_mm(used)) * unit_mm / 2) else 0.0


def _grid_by_qform(image: Nifti1Image) -> geometry.Grid | None:
    """The grid of the voxels by the qform, if the sform, which is used, contradicts it."""
    unit_mm, _ = _unit_mm(image)
    qform = _qform(image)
    if qform is None or not _apart_mm(image, qform, unit_mm):
        return None
    affine = geometry.swap_lps_ras(qform)
    affine[:3] *= unit_mm
    width, height, depth = image.shape[:3]
    return geometry.Grid(affine, (depth, height, width))


def _qform(image: Nifti1Image) -> geometry.Affine | None:
    """The qform beside an sform; None if one of them is absent, or the qform is invalid."""
    from nibabel.spatialimages import HeaderDataError

    if int(image.header["sform_code"]) <= 0:
        return None
    try:
        return image.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):
        return None


def _truncated(path: Path, there: int, end: int) -> UnreadableScan:
    found = Sentence("truncated or corrupt NIfTI file: {there} of {end} bytes", there=there, end=end)
    return UnreadableScan(found, where=path)


def _unreadable(path: Path, error: Exception) -> UnreadableScan | ScanAborted:
    if isinstance(error, PermissionError):
        return UnreadableScan("no permission to read the file", where=path)
    found = Sentence("truncated or corrupt NIfTI file ({kind})", kind=type(error).__name__)
    return unreadable(found, error, where=path)
