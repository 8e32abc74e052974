"""How reasons name slices: by their number along the normal, from 1, and only the first few."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from med_transfer.errors.sentence import Sentence, few, listed
from med_transfer.scans.dicom.slice_geometry import commonest

_MAX_NAMED = 6  # values listed in one message


def mixed(what: str, values: Sequence[Hashable]) -> str:
    """Name the slices whose value differs from the most frequent one; empty if all are equal."""
    if len(set(values)) == 1:
        return ""
    usual = commonest(values)
    deviating = sorted({value for value in values if value != usual}, key=str)
    parts = [_have([n for n, v in enumerate(values, 1) if v == value], value) for value in deviating[:_MAX_NAMED]]
    return Sentence("mixed {what}: {parts}, the others {usual}", what=what, parts=listed(*parts), usual=usual)


def _have(numbers: Sequence[int], value: Hashable) -> Sentence:
    return Sentence("{slices} {value}", slices=named(numbers), value=value)


def counted(number: int) -> Sentence:
    """``1 slice``, ``2 slices``."""
    return Sentence("{n} slice", n=number) if number == 1 else Sentence("{n} slices", n=number)


def named(numbers: Sequence[int]) -> Sentence:
    """``slice 3``, ``slices 3, 4``."""
    if len(numbers) == 1:
        return Sentence("slice {number}", number=numbers[0])
    return Sentence("slices {numbers}", numbers=few([str(number) for number in numbers]))
