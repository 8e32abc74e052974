"""Storage classes and transfer syntaxes that the node accepts: images that it can read, and objects that it ignores.

Source: DICOM PS3.6 A.
"""

from __future__ import annotations

from pydicom import uid as sop_class
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pynetdicom.presentation import AllStoragePresentationContexts

from med_transfer.scans.dicom.codecs import READABLE_TRANSFER_SYNTAXES

STORAGE_CLASSES = (
    *(sop_class.CTImageStorage, sop_class.EnhancedCTImageStorage, sop_class.LegacyConvertedEnhancedCTImageStorage),
    *(sop_class.MRImageStorage, sop_class.EnhancedMRImageStorage, sop_class.LegacyConvertedEnhancedMRImageStorage),
    sop_class.PositronEmissionTomographyImageStorage,
    sop_class.EnhancedPETImageStorage,
    sop_class.LegacyConvertedEnhancedPETImageStorage,
)
# A deflated data set may expand a thousandfold, and identifying its study requires inflating it.
TRANSFER_SYNTAXES = tuple(uid for uid in READABLE_TRANSFER_SYNTAXES if uid != DeflatedExplicitVRLittleEndian)

VENDOR_CLASSES = (
    "1.3.12.2.1107.5.9.1",  # Siemens CSA Non-Image Storage
    "1.3.46.670589.11.0.0.12.1",  # Philips MR Spectrum Storage
    "1.3.46.670589.11.0.0.12.2",  # Philips MR Series Data Storage
    "1.3.46.670589.11.0.0.12.4",  # Philips MR ExamCard Storage
)
# Retired but still in archives: multi-frame ultrasound, nuclear medicine, ultrasound. Too new for some versions of
# pynetdicom: label map segmentation, height map segmentation.
_UNLISTED_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("3", "5", "6", "66.7", "66.8"))
_KNOWN = tuple(str(context.abstract_syntax) for context in AllStoragePresentationContexts)

# Acknowledged but not stored: dose reports, presentation states, documents. Otherwise forwarding a whole study may fail
# at one refused object (Orthanc's jobs stop at the first), and every CT study has a dose report.
IGNORED_CLASSES = frozenset({*_KNOWN, *_UNLISTED_CLASSES, *VENDOR_CLASSES} - {*STORAGE_CLASSES})
