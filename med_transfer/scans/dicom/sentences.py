"""How reasons name slices: by their number along the normal, from 1, and only the first few."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from med_transfer.errors.sentence import Sentence, few
from med_transfer.scans.dicom.slice_geometry import commonest

_MAX_NAMED = 6  # values listed in one message


def mixed(what: str, values: Sequence[Hashable]) -> str:
    """Name the slices whose value differs from the most frequent one; empty if all are equal."""
    if len(set(values)) == 1:
        return ""
    usual, slices_with = commonest(values), defaultdict[Hashable, list[int]](list)
    for number, value in enumerate(values, 1):
        slices_with[value].append(number)
    parts = [
        Sentence("{slices} {value}", slices=named(slices_with[value]), value=value)
        for value in sorted(slices_with, key=str)
        if value != usual
    ]
    return Sentence("mixed {what}: {parts}, the others {usual}", what=what, parts=few(parts, _MAX_NAMED), usual=usual)


def counted(number: int) -> Sentence:
    """``1 slice``, ``2 slices``."""
    return Sentence("{n} slice", n=number) if number == 1 else Sentence("{n} slices", n=number)


def named(numbers: Sequence[int]) -> Sentence:
    """``slice 3``, ``slices 3, 4``."""
    if len(numbers) == 1:
        return Sentence("slice {number}", number=numbers[0])
    return Sentence("slices {numbers}", numbers=few([str(number) for number in numbers]))
