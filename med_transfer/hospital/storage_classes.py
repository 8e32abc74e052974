"""Which images the node takes, in which encodings: those that the reader handles. Source: DICOM PS3.6 A."""

from __future__ import annotations

from pydicom import uid as sop_class
from pydicom.uid import DeflatedExplicitVRLittleEndian

from med_transfer.scans.dicom.codecs import READABLE_TRANSFER_SYNTAXES

STORAGE_CLASSES = (
    *(sop_class.CTImageStorage, sop_class.EnhancedCTImageStorage, sop_class.LegacyConvertedEnhancedCTImageStorage),
    *(sop_class.MRImageStorage, sop_class.EnhancedMRImageStorage, sop_class.LegacyConvertedEnhancedMRImageStorage),
    sop_class.PositronEmissionTomographyImageStorage,
    sop_class.EnhancedPETImageStorage,
    sop_class.LegacyConvertedEnhancedPETImageStorage,
)
# A deflated data set may unpack to a thousand times its size, and must be unpacked to find out whose it is.
TRANSFER_SYNTAXES = tuple(uid for uid in READABLE_TRANSFER_SYNTAXES if uid != DeflatedExplicitVRLittleEndian)
