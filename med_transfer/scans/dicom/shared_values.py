"""Share equal header values between the images of a series, to save memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import fields, replace
from typing import Any

from med_transfer.scans.dicom.header import Slice

_OWN = ("path", "stamp", "sop_uid", "position_mm")  # usually unique to an image
_MAX_VALUES = 100_000  # values; bounds memory if all images of a folder tree differ


class SharedValues:
    """Replaces equal values of slices by one shared object: 1 KB per image instead of 6."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Hashable] = {}
        self._names = [field.name for field in fields(Slice) if field.name not in _OWN]

    def of(self, slices: Iterable[Slice]) -> tuple[Slice, ...]:
        """Equal slices that share their values."""
        if len(self._values) > _MAX_VALUES:
            self._values.clear()
        return tuple(
            replace(slice_, **{name: self._one(getattr(slice_, name)) for name in self._names}) for slice_ in slices
        )

    def _one(self, value: Any) -> Any:
        if isinstance(value, tuple):
            value = tuple(map(self._one, value))
        elif isinstance(value, int | float):
            return value
        return self._values.setdefault(value, value)
