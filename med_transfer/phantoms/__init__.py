"""Synthetic chest CT with known geometry, written as real DICOM or NIfTI: for the demo, the tests, the benchmarks."""

from med_transfer.phantoms.cohort import PhantomConfig, write_cohort
from med_transfer.phantoms.dicom_series import SeriesDetails, write_dicom_series
from med_transfer.phantoms.lesions import CLASSES
from med_transfer.phantoms.nifti_file import write_nifti
from med_transfer.phantoms.patient import PhantomVolume, phantom_volume

__all__ = [
    "CLASSES",
    "PhantomConfig",
    "PhantomVolume",
    "SeriesDetails",
    "phantom_volume",
    "write_cohort",
    "write_dicom_series",
    "write_nifti",
]
