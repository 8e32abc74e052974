"""Per-frame header values of enhanced multi-frame objects (DICOM PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from med_transfer.errors import UnreadableScan
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.elements import Values, values_of

# Attributes to read of each functional group macro, by the macro's sequence. Other sequences of a group are ignored:
# manufacturers' own ones repeat these attributes with other values (Philips gives the position of the first voxel's
# corner, where PlanePositionSequence gives its centre), and references hold attributes of other images.
_MACROS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameContentSequence": (
        *("FrameAcquisitionNumber", "FrameAcquisitionDateTime", "TemporalPositionIndex", "StackID"),
    ),
    "CardiacSynchronizationSequence": ("NominalPercentageOfCardiacPhase",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "CTAcquisitionDetailsSequence": ("GantryDetectorTilt",),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTXRayDetailsSequence": ("KVP",),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue",),
    "MRTimingAndRelatedParametersSequence": ("RepetitionTime",),
    "PETFrameTypeSequence": ("FrameType",),
}
# Where legacy converted objects keep attributes that no macro has (PS3.3 C.7.6.16.2.25).
_CONVERTED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")
# Attribute names of enhanced objects, and the corresponding ones of single-frame objects.
_SAME_AS = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "EffectiveEchoTime": "EchoTime",
    "FrameAcquisitionDateTime": "AcquisitionTime",
}
_MAX_FRAMES = 100_000


def frames_of(path: Path, values: Values, converted: tuple[str, ...]) -> list[Values]:
    """Values of each frame in stored order; per-frame values override shared ones, and those override the object's.

    Empty if the object has no functional groups, as in multi-frame secondary capture: the frames then have no known
    position.

    Args:
        path: the file.
        values: the object's top-level values.
        converted: keywords also read from the sequences of converted attributes.

    Raises:
        UnreadableScan: the number of frames declared is not that described, or is above 100,000.
    """
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)  # force: files without preamble
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not own:
        return []
    declared = int(values.get("NumberOfFrames", ("1",))[0])
    if declared != len(own) or declared > _MAX_FRAMES:
        raise UnreadableScan(
            Sentence("{declared} frames declared, {n} described", declared=declared, n=len(own)), where=path
        )
    macros = dict.fromkeys(_CONVERTED, converted) | _MACROS
    common = dict(values)
    for group in dataset.get("SharedFunctionalGroupsSequence") or []:
        common |= _described(group, macros)
    return [common | _described(group, macros) for group in own]


def _described(group: Dataset, macros: Mapping[str, tuple[str, ...]]) -> Values:
    """Values from the macros in one item; those of a macro override converted attributes."""
    values: Values = {}
    for sequence, keywords in macros.items():
        if items := group.get(sequence):
            values |= values_of(items[0], keywords)
    return {_SAME_AS.get(keyword, keyword): parts for keyword, parts in values.items()}
