"""Group images into series by UID, then split what a scanner or an archive has put under one UID."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.completeness import completeness, shared_verdict
from med_transfer.scans.dicom.header import PHASE_KEYWORDS, Slice
from med_transfer.scans.dicom.slice_geometry import SAME_POSITION_MM, is_plane, normal, usual_normal
from med_transfer.scans.verdict import Verdict

_OTHER_PLANE_COSINE = 0.7  # 45 degrees: less than between scout and slices, more than rounding and wobble
_MOSTLY = 0.8
_DAMAGED_COSINE = 0.1  # error of products of cosines that rounding does not explain
Part = tuple[str, list[Slice]]  # a name that distinguishes the part of a series, empty for the whole; its images
Group = tuple[list[Slice], Verdict]  # images of one series, and the verdict that follows from other images


def group_by_series(slices: Iterable[Slice], listed: Mapping[str, frozenset[str]]) -> list[Group]:
    """Group slices by series; localizers under a series' UID form a group of their own.

    A series spread over several folders is one group, unless one folder holds all its images: then each folder is one.

    Args:
        slices: all images of a folder tree.
        listed: SOPInstanceUIDs that DICOMDIRs of the tree list, by SeriesInstanceUID.
    """
    by_uid: dict[Hashable, dict[Hashable, list[Slice]]] = defaultdict(lambda: defaultdict(list))
    for slice_ in slices:
        by_uid[slice_.series_uid or slice_.path.parent][slice_.patient_mark, slice_.study_uid].append(slice_)
    return [group for owners in by_uid.values() for group in _groups_of_uid(list(owners.values()), listed)]


def _groups_of_uid(owners: Sequence[Sequence[Slice]], listed: Mapping[str, frozenset[str]]) -> list[Group]:
    every = [slice_ for owned in owners for slice_ in owned]
    verdict = shared_verdict(owners).joined(completeness(every, listed.get(every[0].series_uid, frozenset())))
    groups: list[Group] = []
    for owned in owners:
        for is_localizer in (False, True):
            images = [slice_ for slice_ in owned if slice_.is_localizer == is_localizer]
            groups += [(copy, verdict.joined(partial)) for copy, partial in _copies(images)]
    return groups


def _copies(slices: list[Slice]) -> list[Group]:
    """If one folder holds all images, each folder is a copy or a partial copy; otherwise all form one series."""
    folders: dict[Path, list[Slice]] = defaultdict(list)
    for slice_ in slices:
        folders[slice_.path.parent].append(slice_)
    images = {folder: {slice_.image for slice_ in part} for folder, part in folders.items()}
    every = set().union(*images.values())
    whole = [folder for folder in folders if images[folder] == every]
    if len(folders) < 2 or not whole:
        return [(slices, Verdict())] if slices else []
    reason = Sentence("part of a series: the folder {name} holds these images and more", name=whole[0].name)
    partial = Verdict(rejections=(reason,))
    return [(part, Verdict() if folder in whole else partial) for folder, part in folders.items()]


def split_planes(slices: Sequence[Slice]) -> list[Part]:
    """Separate images that lie across the others, such as an unmarked scout.

    Nothing is separated if an orientation is missing or invalid: that image may be a slice of the volume.
    """
    if not all(s.orientation and is_plane(s.orientation, _DAMAGED_COSINE) for s in slices):
        return [("", list(slices))]
    along = usual_normal(slices)
    like_it = {o for o in {s.orientation for s in slices} if abs(along @ normal(o)) > _OTHER_PLANE_COSINE}
    with_it = [s.orientation in like_it for s in slices]
    if all(with_it) or not any(with_it):  # not any: row and column are parallel and span no plane
        return [("", list(slices))]
    main = [s for s, same in zip(slices, with_it, strict=True) if same]
    across = [s for s, same in zip(slices, with_it, strict=True) if not same]
    return [("", main), *((f"plane {number}", part) for number, (_, part) in enumerate(split_planes(across), start=2))]


def split_phases(slices: Sequence[Slice], usable: Callable[[Sequence[Slice]], bool]) -> list[Part]:
    """Split a series into acquisitions, phases, echoes or b-values by the first attributes that separate them.

    One attribute, or two (such as echo, and magnitude or phase), separate the parts if every image has them, no part
    has two images at one position, at least one part is a usable volume, and the parts overlap in space. Parts that
    follow each other or interleave may be one volume that lacks a slice, and are never split. If no attribute fits,
    volumes that InstanceNumber numbers one after another are split; otherwise the series stays whole, to be rejected.
    """
    whole: list[Part] = [("", list(slices))]
    if not all(s.position_mm and s.orientation for s in slices):
        return whole
    for names in _names(slices):
        if len(set(names)) > len(slices) // 2:
            continue
        parts = _grouped(slices, names)
        if _are_phases(list(parts.values())) and any(map(usable, parts.values())):
            return list(parts.items())
    return whole


def _names(slices: Sequence[Slice]) -> Iterator[list[str]]:
    """Yield names of the part of each image, by one or two attributes, in order of preference."""
    phases = [dict(s.phase) for s in slices]
    columns = {keyword: [phase.get(keyword) for phase in phases] for keyword in PHASE_KEYWORDS}
    telling = {keyword: values for keyword, values in columns.items() if None not in values and len(set(values)) > 1}
    for keywords in (*combinations(telling, 1), *combinations(telling, 2)):
        rows = zip(*(telling[keyword] for keyword in keywords), strict=True)
        yield [" ".join(f"{k} {value}" for k, value in zip(keywords, row, strict=True)) for row in rows]
    if numbered := _numbered(slices):
        yield numbered


def _numbered(slices: Sequence[Slice]) -> list[str]:
    """Part names by InstanceNumber, if its order runs through all positions repeatedly in one direction; else empty."""
    places = len(set(np.round(_depths(slices) / SAME_POSITION_MM).tolist()))
    order = sorted(range(len(slices)), key=lambda n: slices[n].number or 0)
    if len({s.number for s in slices} - {None}) < len(slices) or len(slices) % places:
        return []
    rounds = np.array(order).reshape(-1, places)
    depths = _depths(slices)[rounds]
    if np.ptp(depths, axis=0).max() > SAME_POSITION_MM or len(set(np.sign(np.diff(depths, axis=1)).ravel())) > 1:
        return []
    names = np.empty(len(slices), object)
    for volume in rounds:
        names[volume] = f"InstanceNumber {slices[volume[0]].number} to {slices[volume[-1]].number}"
    return names.tolist()


def _grouped(slices: Sequence[Slice], names: Sequence[str]) -> dict[str, list[Slice]]:
    parts: dict[str, list[Slice]] = {name: [] for name in sorted(set(names))}
    for slice_, name in zip(slices, names, strict=True):
        parts[name].append(slice_)
    return parts


def _are_phases(parts: Sequence[Sequence[Slice]]) -> bool:
    several = min(map(len, parts)) > 1
    return several and all(map(_one_image_a_place, parts)) and _overlap(parts) and not _interleave(parts)


def _one_image_a_place(part: Sequence[Slice]) -> bool:
    return bool(np.diff(np.sort(_depths(part))).min() >= SAME_POSITION_MM)


def _overlap(parts: Sequence[Sequence[Slice]]) -> bool:
    """Whether every part overlaps another along the normal; halves of one volume would follow each other instead."""
    extents = [(depths.min(), depths.max()) for depths in map(_depths, parts)]
    return all(
        any(min(end, e) - max(start, s) > SAME_POSITION_MM for n, (s, e) in enumerate(extents) if n != number)
        for number, (start, end) in enumerate(extents)
    )


def _interleave(parts: Sequence[Sequence[Slice]]) -> bool:
    """Whether the parts are interleaved slices of one volume, such as odd and even ones (MR concatenations)."""
    gaps = np.diff(np.sort(np.concatenate([_depths(part) for part in parts])))
    usual = float(np.median(gaps))
    own = min(float(np.median(np.diff(np.sort(_depths(part))))) for part in parts)
    even = np.isclose(gaps, usual, rtol=0.05, atol=SAME_POSITION_MM).mean() > _MOSTLY
    return usual > SAME_POSITION_MM and even and usual < _MOSTLY * own


def _depths(part: Sequence[Slice]) -> np.ndarray:
    return np.array([s.position_mm for s in part]) @ usual_normal(part)
