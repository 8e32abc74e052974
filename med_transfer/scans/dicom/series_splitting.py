"""Images become series: by UID, then apart again what a scanner or an archive has put under one UID."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from med_transfer.scans.dicom.header import PHASE_KEYWORDS, Slice
from med_transfer.scans.dicom.slice_geometry import SAME_POSITION_MM, commonest, normal

_OTHER_PLANE_COSINE = 0.7  # 45 degrees: a scout lies across the slices, rounding and wobble do not
_MOSTLY = 0.8
Part = tuple[str, list[Slice]]  # what tells the part apart from the rest of its series, empty for the whole


def group_by_series(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Slices by series; localizers that share a series' UID form a group of their own.

    A series spread over several folders stays one, unless the folders hold the same images: those are copies.
    """
    together: dict[tuple, list[Slice]] = defaultdict(list)
    for slice_ in slices:
        folder_if_unnamed = "" if slice_.series_uid else slice_.path.parent
        key = (slice_.patient_mark, slice_.study_uid, slice_.series_uid, folder_if_unnamed, slice_.is_localizer)
        together[key].append(slice_)
    return [part for group in together.values() for part in _without_copies(group)]


def _without_copies(slices: list[Slice]) -> list[list[Slice]]:
    folders: dict[Path, list[Slice]] = defaultdict(list)
    for slice_ in slices:
        folders[slice_.path.parent].append(slice_)
    images = [{slice_.sop_uid for slice_ in part if slice_.sop_uid} for part in folders.values()]
    copied = sum(len(uids) for uids in images) > len(set().union(*images))
    return list(folders.values()) if copied else [slices]


def split_planes(slices: Sequence[Slice]) -> list[Part]:
    """Images that lie across the others (a scout that is not marked as one) apart from them."""
    if not all(s.orientation for s in slices):
        return [("", list(slices))]
    along = normal(commonest([tuple(round(c, 2) for c in s.orientation) for s in slices]))
    like_it = {o for o in {s.orientation for s in slices} if abs(along @ normal(o)) > _OTHER_PLANE_COSINE}
    with_it = [s.orientation in like_it for s in slices]
    if all(with_it):
        return [("", list(slices))]
    main = [s for s, same in zip(slices, with_it, strict=True) if same]
    across = [s for s, same in zip(slices, with_it, strict=True) if not same]
    return [("", main), *((f"plane {number}", part) for number, (_, part) in enumerate(split_planes(across), start=2))]


def split_phases(slices: Sequence[Slice], usable: Callable[[Sequence[Slice]], bool]) -> list[Part]:
    """Acquisitions, phases, echoes or b-values of one series apart, by the first attribute that tells them apart.

    An attribute does so when every image has it, no part holds two images at one place, one part at least is a usable
    volume, and the parts overlap in space. What follows each other or interleaves may be one volume that lacks a
    slice, and is never taken for two. Without such an attribute the series stays whole, to be rejected.
    """
    whole: list[Part] = [("", list(slices))]
    if not all(s.position_mm and s.orientation for s in slices):
        return whole
    for keyword in PHASE_KEYWORDS:
        values = [dict(s.phase).get(keyword) for s in slices]
        if None in values or len(set(values)) == 1 or len(set(values)) > len(slices) // 2:
            continue
        parts = _by(slices, values)
        if _are_phases(list(parts.values())) and any(map(usable, parts.values())):
            return [(f"{keyword} {value}", part) for value, part in parts.items()]
    return whole


def _by(slices: Sequence[Slice], values: Sequence[Hashable]) -> dict[str, list[Slice]]:
    parts: dict[str, list[Slice]] = defaultdict(list)
    for slice_, value in sorted(zip(slices, values, strict=True), key=lambda pair: _natural(str(pair[1]))):
        parts[str(value)].append(slice_)
    return dict(parts)


def _natural(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return np.inf, value


def _are_phases(parts: Sequence[Sequence[Slice]]) -> bool:
    several = min(map(len, parts)) > 1
    return several and all(map(_one_image_a_place, parts)) and _overlap(parts) and not _interleave(parts)


def _one_image_a_place(part: Sequence[Slice]) -> bool:
    return bool(np.diff(np.sort(_depths(part))).min() >= SAME_POSITION_MM)


def _overlap(parts: Sequence[Sequence[Slice]]) -> bool:
    """Whether along the normal every part reaches into another one. Halves of one volume follow each other instead."""
    extents = [(depths.min(), depths.max()) for depths in map(_depths, parts)]
    return all(
        any(min(end, e) - max(start, s) > SAME_POSITION_MM for n, (s, e) in enumerate(extents) if n != number)
        for number, (start, end) in enumerate(extents)
    )


def _interleave(parts: Sequence[Sequence[Slice]]) -> bool:
    """Whether the parts are the odd and even slices of one volume (MR concatenations), which belong together."""
    gaps = np.diff(np.sort(np.concatenate([_depths(part) for part in parts])))
    usual = float(np.median(gaps))
    own = min(float(np.median(np.diff(np.sort(_depths(part))))) for part in parts)
    even = np.isclose(gaps, usual, rtol=0.05, atol=SAME_POSITION_MM).mean() > _MOSTLY
    return usual > SAME_POSITION_MM and even and usual < _MOSTLY * own


def _depths(part: Sequence[Slice]) -> np.ndarray:
    along = normal(commonest([tuple(round(c, 2) for c in s.orientation) for s in part]))
    return np.array([s.position_mm for s in part]) @ along
