"""The images of a series say the same of it, each in its own file; in memory they say it once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import fields, replace
from typing import Any

from med_transfer.scans.dicom.header import Slice

_OWN = ("path", "stamp", "sop_uid", "position_mm")  # an image's own, as a rule
_MOST = 100_000  # values; a tree of which each image differs would fill the memory that this is to save


class SharedValues:
    """Hands out equal slices whose equal values are one object: 1 KB an image instead of 6."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Hashable] = {}
        self._names = [field.name for field in fields(Slice) if field.name not in _OWN]

    def of(self, slices: Iterable[Slice]) -> tuple[Slice, ...]:
        """The same slices."""
        if len(self._values) > _MOST:
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
