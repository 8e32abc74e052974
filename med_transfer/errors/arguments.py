"""Check what a Python caller passes where the types are no help."""

from __future__ import annotations

import os
from pathlib import Path

from med_transfer.errors import UsageError


def given_path(value: object, where: str, expected: str = "a path") -> Path:
    """Return a path that a caller gave.

    Args:
        value: text or a path, or an object that names one, such as a ``Run``. An empty text is refused: ``Path`` takes
            it for the current folder.
        where: name of the argument.
        expected: what the path should lead to.

    Raises:
        UsageError: the value is no path, or is empty.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"found an object of type {type(value).__name__}", where=where, expected=expected)
    path = os.fspath(value)
    if isinstance(path, bytes) or not path.strip():
        raise UsageError(f"found {path!r}", where=where, expected=expected)
    return Path(path)
