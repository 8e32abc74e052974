"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) through SimpleITK, which already uses LPS and [k, j, i]."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from med_transfer.errors import NotAScan, UnreadableScan
from med_transfer.scans import geometry
from med_transfer.scans.formats.metaimage import require_header, require_whole
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Verdict, grid_verdict, require_usable_series
from med_transfer.scans.volume import Provenance, Volume
from med_transfer.scans.voxel_checks import hounsfield_doubt, narrow, require_finite

if TYPE_CHECKING:
    import SimpleITK

FORMATS = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage"}


def itk_series(path: Path) -> Series:
    """The file as a series, with a verdict from its header.

    Raises:
        NotAScan: not of the format that its name says.
        UnreadableScan: truncated, corrupt or not permitted.
    """
    reader = _open(path)
    size = reader.GetSize()
    return Series(
        path,
        (path,),
        _format(path),
        "",
        "",
        "",
        size[2] if len(size) > 2 else 1,
        _verdict(reader),
        affine=_affine(reader),
    )


def read_itk(path: Path) -> Volume:
    """The volume of an NRRD or MetaImage file.

    Raises:
        GeometryRejected: several volumes, fewer than three dimensions, or axes that are not perpendicular.
        NotAScan, UnreadableScan, UnusableVoxels: as their names say.
    """
    import SimpleITK

    reader = _open(path)
    verdict = _verdict(reader)
    require_usable_series(verdict, path)
    if _format(path) == "metaimage":
        pixel = SimpleITK.Image([1, 1, 1], reader.GetPixelID())
        require_whole(path, int(np.prod(reader.GetSize())) * pixel.GetSizeOfPixelComponent())
    try:
        values = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise UnreadableScan("truncated or corrupt data", where=path, action="Write the file again") from error
    voxels = narrow(values.reshape(values.shape[-3:]))
    require_finite(voxels, path)
    doubt = hounsfield_doubt(voxels)
    provenance = Provenance(path, _format(path), files=(path,))
    return Volume(voxels, _affine(reader), provenance, verdict.remarked((doubt,) if doubt else ()))


def _open(path: Path) -> SimpleITK.ImageFileReader:
    """Header only."""
    import SimpleITK  # slow to import, and most calls read DICOM

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UnreadableScan(f"cannot be opened ({type(error).__name__})", where=path) from error
    if not start:
        raise UnreadableScan("empty file", where=path)
    if _format(path) == "metaimage":
        require_header(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        or_data = ", or its data file is missing" if path.suffix.lower() == ".nhdr" else ""
        raise NotAScan(f"not a readable {_format(path)} file in spite of its name{or_data}", where=path) from error
    return reader


def _verdict(reader: SimpleITK.ImageFileReader) -> Verdict:
    import SimpleITK

    return grid_verdict(
        reader.GetSize(),
        _affine(reader),
        channels=reader.GetNumberOfComponents(),
        is_complex="complex" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()),
        # An NRRD file names its space; MetaImage has a position and axes always.
        placed=_format(Path(reader.GetFileName())) == "metaimage" or reader.HasMetaDataKey("NRRD_space"),
    )


def _affine(reader: SimpleITK.ImageFileReader) -> geometry.Affine:
    """(i, j, k) to LPS mm from the first three axes; an image of fewer axes gets a singular affine."""
    n = reader.GetDimension()
    direction = np.array(reader.GetDirection()).reshape(n, n)
    affine = np.zeros((4, 4))
    used = min(n, 3)
    affine[:used, :used] = direction[:used, :used] * reader.GetSpacing()[:used]
    affine[:used, 3] = reader.GetOrigin()[:used]
    affine[3, 3] = 1.0
    return affine


def _format(path: Path) -> str:
    return FORMATS[path.suffix.lower()]
