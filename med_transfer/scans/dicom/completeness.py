"""Check from image counts and numbers in the headers that a series is complete, and of one patient.

A volume that has lost slices at an end still looks regular; only these counts can show the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from med_transfer.errors.sentence import Sentence, few, listed
from med_transfer.scans.dicom.geometry_verdict import slices_verdict
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.dicom.slice_geometry import arrange, commonest
from med_transfer.scans.verdict import Verdict

_MOSTLY = 0.5


def completeness(slices: Sequence[Slice], on_list: frozenset[str]) -> Verdict:
    """Reject a series if a DICOMDIR lists more images; else remark on what other counts suggest.

    Args:
        slices: all images of the series, localizers included.
        on_list: SOPInstanceUIDs that a DICOMDIR lists for this series.
    """
    absent = on_list - {slice_.sop_uid.split("/")[0] for slice_ in slices}
    reason = Sentence(
        "{n} of {of} images that the DICOMDIR lists for this series are not here", n=len(absent), of=len(on_list)
    )
    remarks = (_counts(slices), _numbers(slices), _one_uid(slices))
    return Verdict(rejections=(reason,) if absent else (), remarks=tuple(remark for remark in remarks if remark))


def shared_verdict(owners: Sequence[Sequence[Slice]]) -> Verdict:
    """Verdict on a SeriesInstanceUID that several patients or studies use: reject if they share one volume."""
    if len(owners) < 2:
        return Verdict()
    together = [slice_ for owned in owners for slice_ in owned if not slice_.is_localizer]
    if slices_verdict(arrange(together)).usable:
        return Verdict(rejections=(Sentence("PatientID or StudyInstanceUID changes within the volume"),))
    return Verdict(remarks=(Sentence("SeriesInstanceUID stands for {n} patients or studies", n=len(owners)),))


def _counts(slices: Sequence[Slice]) -> str:
    there = {
        "NumberOfSlices": len({slice_.position_mm for slice_ in slices}),
        "ImagesInAcquisition": len({slice_.image for slice_ in slices}),
        "InConcatenationTotalNumber": len({slice_.sop_uid.split("/")[0] for slice_ in slices}),
    }
    lacking = []
    for keyword, count in there.items():
        declared = max((_stated(slice_, keyword) for slice_ in slices), default=0)
        if declared > count:
            lacking.append(
                Sentence("{keyword} is {declared}, {count} are here", keyword=keyword, declared=declared, count=count)
            )
    return Sentence("{names}: slices may be missing", names=listed(*lacking)) if lacking else ""


def _stated(slice_: Slice, keyword: str) -> int:
    text = dict(slice_.content).get(keyword, "")
    return int(text) if text.isdecimal() else 0


def _numbers(slices: Sequence[Slice]) -> str:
    """Gaps in InstanceNumber, if it numbers the images consecutively."""
    numbers = sorted({slice_.number for slice_ in slices if slice_.number is not None})
    steps = [last - first for first, last in pairwise(numbers)]
    if not steps or steps.count(step := commonest(steps)) < _MOSTLY * len(steps):
        return ""
    counted = [0, *numbers] if step == 1 and numbers[0] > 1 else numbers
    absent = [_number_range(first + step, last - step) for first, last in pairwise(counted) if last - first > step]
    return Sentence("InstanceNumber lacks {absent}: slices may be missing", absent=few(absent)) if absent else ""


def _number_range(first: int, last: int) -> str:
    return str(first) if first == last else Sentence("{first} to {last}", first=first, last=last)


def _one_uid(slices: Sequence[Slice]) -> str:
    """Images at several positions with one SOPInstanceUID: the software at fault may have overwritten images."""
    places = {slice_.image for slice_ in slices if slice_.sop_uid}
    uids = {sop_uid for sop_uid, _ in places}
    shared = len(places) - len(uids)
    if not shared:
        return ""
    return Sentence("{shared} images share a SOPInstanceUID that should be each one's own", shared=shared + 1)
