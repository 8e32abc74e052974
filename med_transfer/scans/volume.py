"""A scan in memory: voxels, where they lie in the patient, and what they came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.scans import geometry
from med_transfer.scans.verdict import Verdict

_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Provenance:
    """What a volume came from. Holds no patient name, identifier or date."""

    path: Path
    format: str  # dicom | nifti | nrrd | metaimage
    modality: str = ""  # DICOM Modality (0008,0060); empty when the format does not say
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference: str = ""  # UID; volumes and masks that share it lie in one coordinate system
    files: tuple[Path, ...] = ()
    acquisition: dict[str, str] = field(default_factory=dict)  # Manufacturer, ConvolutionKernel, SliceThickness ...


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan; two are equal where they are one object.

    Attributes:
        voxels: [depth, height, width]; Hounsfield units for CT; int16 where exact, else float32.
        affine: voxel index (i, j, k) = (column, row, slice) to LPS mm (see geometry.py).
        verdict: accept or repair, with reasons; a rejected series never becomes a Volume.
        provenance: the files it came from.
    """

    voxels: NDArray
    affine: geometry.Affine
    provenance: Provenance
    verdict: Verdict = field(default_factory=Verdict)

    def __repr__(self) -> str:
        """Without the voxels."""
        size, spacing = " x ".join(map(str, self.voxels.shape)), " x ".join(f"{mm:.4g}" for mm in self.spacing_mm[::-1])
        return f"Volume({size} voxels of {spacing} mm, {self.orientation}, {self.verdict.decision})"

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxels along (i, j, k): column, row, slice."""
        return geometry.spacing_mm(self.affine)

    @property
    def orientation(self) -> str:
        """The side to which i, j and k grow, for example ``LPS``."""
        return geometry.orientation(self.affine)

    @property
    def content_hash(self) -> str:
        """SHA-256 of the voxels in LPS order: equal for the same scan in another file, folder or format."""
        voxels, _ = geometry.canonical(self.voxels, self.affine)
        if voxels.dtype != np.int16:  # an integer-valued float volume hashes like its int16 twin
            rounded = np.rint(voxels)
            whole = np.array_equal(rounded, voxels)
            exact = whole and rounded.min() >= _INT16.min and rounded.max() <= _INT16.max
            voxels = rounded.astype(np.int16) if exact else voxels.astype(np.float32)
        digest = hashlib.sha256(repr((voxels.dtype.str, voxels.shape)).encode())
        digest.update(bytes_of(voxels))
        return digest.hexdigest()


def bytes_of(array: NDArray) -> memoryview:
    """An array's bytes in C order, to be hashed; copied only where they lie otherwise."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
