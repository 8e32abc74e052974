"""Read NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd); SimpleITK gives the grid, already in LPS and [k, j, i]."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import NotAScan, UnreadableScan, unreadable
from med_transfer.errors.sentence import Sentence
from med_transfer.scans import geometry
from med_transfer.scans.formats.metaimage import metaimage_data
from med_transfer.scans.formats.nrrd import nrrd_data
from med_transfer.scans.formats.stored_data import StoredData, read_values, require_room
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Verdict, grid_verdict, require_usable_series, unit_in_mm
from med_transfer.scans.volume import Provenance, Volume
from med_transfer.scans.voxel_checks import hounsfield_doubt, narrow, require_finite

if TYPE_CHECKING:
    import SimpleITK

FORMATS = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage"}


def itk_series(path: Path) -> Series:
    """The file as a series, with a verdict from its header.

    Raises:
        NotAScan: not of the format that its name says.
        UnreadableScan: truncated, corrupt or not permitted, or its voxels are outside its folder.
    """
    reader, data = _open(path)
    size = reader.GetSize()
    affine, verdict = _geometry(reader, data)
    n_slices = size[2] if len(size) > 2 else 1
    return Series(path, (path,), _format(path), "", "", "", n_slices, verdict, affine=affine)


def read_itk(path: Path) -> Volume:
    """Read the volume of an NRRD or MetaImage file.

    Raises:
        GeometryRejected: several volumes, fewer than three dimensions, or axes that are not perpendicular.
        NotAScan, UnreadableScan: see :func:`itk_series`.
        UnusableVoxels: voxels are NaN or infinite.
    """
    reader, data = _open(path)
    affine, verdict = _geometry(reader, data)
    require_usable_series(verdict, path)
    values = _text(reader, path) if data.encoding == "text" else _values(reader, data, path)
    voxels = narrow(values.reshape(values.shape[-3:]))
    require_finite(voxels, path)
    provenance = Provenance(path, _format(path), files=(path,))
    return Volume(voxels, affine, provenance, replace(verdict, doubt=hounsfield_doubt(voxels)))


def stored_data(path: Path) -> StoredData:
    """Location and encoding of the voxels, from the header. Raises NotAScan, UnreadableScan."""
    return metaimage_data(path) if _format(path) == "metaimage" else nrrd_data(path)


def _values(reader: SimpleITK.ImageFileReader, data: StoredData, path: Path) -> NDArray:
    return read_values(data, _dtype(reader), reader.GetSize()[::-1], path)


def _dtype(reader: SimpleITK.ImageFileReader) -> np.dtype:
    """Data type of one component of a voxel."""
    import SimpleITK

    return SimpleITK.GetArrayFromImage(SimpleITK.Image([1, 1, 1], reader.GetPixelID())).dtype


def _text(reader: SimpleITK.ImageFileReader, path: Path) -> NDArray:
    """Voxels stored as text after the header, which ITK parses."""
    import SimpleITK

    try:
        return SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise UnreadableScan("truncated or corrupt data", where=path, action="Write the file again") from error


def _open(path: Path) -> tuple[SimpleITK.ImageFileReader, StoredData]:
    """Read the header, and where the voxels are stored."""
    import SimpleITK  # slow to import, and most calls read DICOM

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        found = Sentence("cannot be opened ({error})", error=type(error).__name__)
        raise unreadable(found, error, where=path) from error
    if not start:
        raise UnreadableScan("empty file", where=path)
    data = stored_data(path)
    if data.encoding == "text" and data.files != (path,):
        raise UnreadableScan("voxels as text in a file of their own are not supported", where=path)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise NotAScan(
            Sentence("not a readable {format} file in spite of its name", format=_format(path)), where=path
        ) from error
    n_values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    require_room(data, n_values * _dtype(reader).itemsize, path)
    return reader, data


def _geometry(reader: SimpleITK.ImageFileReader, data: StoredData) -> tuple[geometry.Affine, Verdict]:
    """Affine (i, j, k) to LPS mm, and the verdict on it."""
    import SimpleITK

    unit_mm, of_units = unit_in_mm(data.units)
    affine = _affine(reader)
    affine[:3] *= unit_mm
    verdict = grid_verdict(
        reader.GetSize(),
        affine,
        channels=reader.GetNumberOfComponents(),
        is_complex="complex" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()),
        placed=data.has_origin and (_format(Path(reader.GetFileName())) == "metaimage" or _has_anatomical_axes(reader)),
    )
    return affine, verdict.joined(of_units)


def _has_anatomical_axes(reader: SimpleITK.ImageFileReader) -> bool:
    """Whether an NRRD file's axes are anatomical; ITK converts RAS and LAS to LPS, but not scanner-xyz."""
    return reader.HasMetaDataKey("NRRD_space") and reader.GetMetaData("NRRD_space").startswith(
        "left-posterior-superior"
    )


def _affine(reader: SimpleITK.ImageFileReader) -> geometry.Affine:
    """Affine (i, j, k) to LPS mm from the first three axes; singular for an image with fewer axes."""
    n = reader.GetDimension()
    direction = np.array(reader.GetDirection()).reshape(n, n)
    affine = np.zeros((4, 4))
    used = min(n, 3)
    with np.errstate(invalid="ignore", over="ignore"):  # the verdict reports it
        affine[:used, :used] = direction[:used, :used] * reader.GetSpacing()[:used]
    affine[:used, 3] = reader.GetOrigin()[:used]
    affine[3, 3] = 1.0
    return affine


def _format(path: Path) -> str:
    return FORMATS[path.suffix.lower()]
