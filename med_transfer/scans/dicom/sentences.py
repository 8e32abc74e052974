"""How reasons name slices: by their place along the normal, from 1, and never more than a few."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from med_transfer.scans.dicom.slice_geometry import commonest

_MAX_NAMED = 6  # slices or gaps that one message names before it counts the rest


def mixed(what: str, values: Sequence[Hashable]) -> str:
    """Names the slices whose value differs from the most frequent one; empty where all are equal."""
    if len(set(values)) == 1:
        return ""
    usual = commonest(values)
    deviating = sorted({value for value in values if value != usual}, key=str)
    parts = [f"{named([n for n, v in enumerate(values, 1) if v == value])} {value}" for value in deviating[:_MAX_NAMED]]
    return f"mixed {what}: {', '.join(parts)}, the others {usual}"


def counted(number: int) -> str:
    """``1 slice``, ``2 slices``."""
    return f"{number} slice" if number == 1 else f"{number} slices"


def named(numbers: Sequence[int]) -> str:
    """``slice 3``, ``slices 3, 4``."""
    return f"slice {numbers[0]}" if len(numbers) == 1 else f"slices {listed([str(number) for number in numbers])}"


def listed(items: Sequence[str]) -> str:
    """The first few, and how many more."""
    rest = len(items) - _MAX_NAMED
    return ", ".join(items[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
