"""A scan in memory: voxels, their position in the patient, and their source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import GeometryRejected, UnusableVoxels
from med_transfer.errors.sentence import Sentence
from med_transfer.scans import geometry
from med_transfer.scans.verdict import Verdict

_INT16 = np.iinfo(np.int16)
_REAL = "biuf"  # kinds of NumPy: Boolean, as of a mask, whole and floating-point numbers


@dataclass(frozen=True)
class Provenance:
    """Source of a volume, without patient name, identifier or date.

    ``stored`` is another grid on which programs may take the voxels to lie: that of the slices as stored, with their
    mean step, if a repair has moved them; that of a NIfTI file's qform, if its sform contradicts it.
    """

    path: Path
    format: str  # dicom | nifti | nrrd | metaimage
    modality: str = ""  # DICOM Modality (0008,0060); empty if the format does not state it
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference: str = ""  # UID; volumes and masks with the same one share a coordinate system
    files: tuple[Path, ...] = ()
    acquisition: dict[str, str] = field(default_factory=dict)  # Manufacturer, ConvolutionKernel, SliceThickness ...
    stored: geometry.Grid | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan; compared by identity.

    Attributes:
        voxels: [depth, height, width]; Hounsfield units for CT; int16 if exact, else float32.
        affine: voxel index (i, j, k) = (column, row, slice) to LPS mm (see geometry.py).
        verdict: accept or repair, with reasons; a rejected series never becomes a Volume.
        provenance: the files it was read from.

    Raises:
        UnusableVoxels: the voxels are no array of real numbers with three axes, or there are none.
        GeometryRejected: the affine is no 4 x 4 array.
    """

    voxels: NDArray
    affine: geometry.Affine
    provenance: Provenance
    verdict: Verdict = field(default_factory=Verdict)

    def __post_init__(self) -> None:
        array = self.voxels if isinstance(self.voxels, np.ndarray) else None
        if array is None or array.ndim != 3 or not array.size or array.dtype.kind not in _REAL:
            found = Sentence("an object of type {type}", type=type(self.voxels).__name__)
            if array is not None:
                shape, kind = str(array.shape), str(array.dtype)
                found = Sentence("an array of shape {shape} and type {type}", shape=shape, type=kind)
            raise UnusableVoxels(
                found, where=self.provenance.path, expected="an array of real numbers [depth, height, width]"
            )
        if np.shape(self.affine) != (4, 4):
            raise GeometryRejected(
                Sentence("an affine of shape {shape}", shape=str(np.shape(self.affine))),
                where=self.provenance.path,
                expected="4 x 4, to LPS mm",
            )

    def __repr__(self) -> str:
        """A summary without the voxels."""
        size, spacing = " x ".join(map(str, self.voxels.shape)), " x ".join(f"{mm:.4g}" for mm in self.spacing_mm[::-1])
        return f"Volume({size} voxels of {spacing} mm, {self.orientation}, {self.verdict.decision})"

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between voxels along (i, j, k): column, row, slice."""
        return geometry.spacing_mm(self.affine)

    @property
    def orientation(self) -> str:
        """Directions in which i, j and k increase, for example ``LPS``."""
        return geometry.orientation(self.affine)

    @property
    def content_hash(self) -> str:
        """SHA-256 of the voxels in LPS order: equal for copies of a scan in any file, folder or format."""
        voxels, _ = geometry.canonical(self.voxels, self.affine)
        if voxels.dtype != np.int16:  # integer-valued floats hash like int16
            rounded = np.rint(voxels)
            whole = np.array_equal(rounded, voxels)
            exact = whole and rounded.min() >= _INT16.min and rounded.max() <= _INT16.max
            voxels = rounded.astype(np.int16) if exact else voxels.astype(np.float32)
        digest = hashlib.sha256(repr((voxels.dtype.str, voxels.shape)).encode())
        digest.update(bytes_of(voxels))
        return digest.hexdigest()


def bytes_of(array: NDArray) -> memoryview:
    """An array's bytes in C order, for hashing; copied only if the array is not C-contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
