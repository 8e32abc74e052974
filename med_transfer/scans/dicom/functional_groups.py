"""Enhanced multi-frame objects: what the header says of each frame (DICOM PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from med_transfer.errors import UnreadableScan
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.elements import Values, values_of

# Each functional group macro by its sequence, and what is read of its item. Nothing else in a group speaks for the
# frame: makers add sequences with the same attributes and other values (Philips puts there the position of the first
# voxel's corner, where PlanePositionSequence has its middle), and references hold the attributes of other images.
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
# Where legacy converted objects keep what no macro has (PS3.3 C.7.6.16.2.25): it may hold any attribute.
_CONVERTED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")
# Attributes that enhanced objects name differently, and the name that single-frame objects give them.
_SAME_AS = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "EffectiveEchoTime": "EchoTime",
    "FrameAcquisitionDateTime": "AcquisitionTime",
}
_MAX_FRAMES = 100_000


def frames_of(path: Path, values: Values, converted: tuple[str, ...]) -> list[Values]:
    """For each frame, in stored order, the values that hold for it: its own before the shared before the object's.

    Empty where the object has no functional groups, as a multi-frame secondary capture: nothing says where its frames
    lie.

    Args:
        values: the object's own.
        converted: keywords that are also read where a legacy conversion put what no macro has.

    Raises:
        UnreadableScan: as many frames as declared are not described.
    """
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)  # without preamble, too
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
    """What the macros in one item say, each from its own sequence; a macro counts before a converted attribute."""
    values: Values = {}
    for sequence, keywords in macros.items():
        if items := group.get(sequence):
            values |= values_of(items[0], keywords)
    return {_SAME_AS.get(keyword, keyword): parts for keyword, parts in values.items()}
