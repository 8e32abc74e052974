"""Enhanced multi-frame objects: what the header says of each frame (DICOM PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from med_transfer.errors import UnreadableScan
from med_transfer.scans.dicom.elements import Values, values_of

# Attributes that enhanced objects name differently, and the name that single-frame objects give them.
_SAME_AS = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "EffectiveEchoTime": "EchoTime",
    "FrameAcquisitionDateTime": "AcquisitionTime",
}
FRAME_KEYWORDS = tuple(_SAME_AS)
_MAX_FRAMES = 100_000


def frames_of(path: Path, values: Values, keywords: Iterable[str]) -> list[Values]:
    """For each frame, in stored order, the values that hold for it: its own before the shared before the object's.

    Empty where the object has no functional groups, as a multi-frame secondary capture: nothing says where its frames
    lie. Raises UnreadableScan when as many frames as declared are not described.
    """
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not own:
        return []
    declared = int(values.get("NumberOfFrames", ("1",))[0])
    if declared != len(own) or declared > _MAX_FRAMES:
        raise UnreadableScan(f"{declared} frames declared, {len(own)} described", where=path)
    wanted = tuple(dict.fromkeys(keywords))
    common = dict(values)
    for group in dataset.get("SharedFunctionalGroupsSequence") or []:
        common |= _flattened(group, wanted)
    return [common | _flattened(group, wanted) for group in own]


def _flattened(group: Dataset, keywords: tuple[str, ...]) -> Values:
    """The wanted values of every functional group macro in one item."""
    values: Values = {}
    for element in group:
        if element.VR == "SQ" and element.value:
            values |= values_of(element.value[0], keywords)
    return {_SAME_AS.get(keyword, keyword): parts for keyword, parts in values.items()}
