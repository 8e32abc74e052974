from .cohort import PhantomConfig, write_cohort
from .dicom_series import SeriesDetails, write_dicom_series
from .lesions import CLASSES
from .nifti_file import write_nifti
from .patient import PhantomVolume, phantom_volume

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
