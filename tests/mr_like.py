"""CT phantoms turned into scans of other contrasts: MR without a unit, and a second phase."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import MRImageStorage

from med_transfer.phantoms import write_nifti
from med_transfer.scans import Volume, read_scan


def mr_values(voxels_hu: NDArray, gain: float = 1.0) -> NDArray[np.int16]:
    """HU by a rising curve to what an MR scanner might give: air dark, no unit, another gain in every scan."""
    return np.round(gain * 400 * (1 + np.tanh((voxels_hu + 200.0) / 400))).astype(np.int16)


def enhanced(voxels_hu: NDArray, hu: float = 80.0) -> NDArray[np.int16]:
    """Soft tissue brighter, air and bone as they were: a later phase."""
    tissue = (voxels_hu > -300) & (voxels_hu < 250)
    return np.where(tissue, voxels_hu + hu, voxels_hu).astype(np.int16)


def as_nifti(scan: Path, out: Path, change, affine_change: NDArray | None = None) -> Path:
    """A scan of any format with other values, as NIfTI."""
    volume: Volume = read_scan(scan)
    affine = volume.affine if affine_change is None else affine_change @ volume.affine
    return write_nifti(out, change(volume.voxels), affine)


def as_mr_dicom(folder: Path, gain: float = 1.0) -> None:
    """Turns a CT series on disk into an MR series of the same place, in place."""
    for path in folder.glob("*.dcm"):
        slice_ = pydicom.dcmread(path)
        hu = slice_.pixel_array * float(slice_.RescaleSlope) + float(slice_.RescaleIntercept)
        slice_.set_pixel_data(mr_values(hu, gain).astype(np.uint16), "MONOCHROME2", 16, generate_instance_uid=False)
        slice_.Modality, slice_.SOPClassUID, slice_.file_meta.MediaStorageSOPClassUID = (
            "MR",
            MRImageStorage,
            MRImageStorage,
        )
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "KVP"):
            if keyword in slice_:
                del slice_[keyword]
        slice_.save_as(path)
