"""Files that an earlier part of a run has left in its folder, for a later one to go on from."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from med_transfer.errors import UsageError


@contextmanager
def left_behind(file: Path) -> Iterator[None]:
    """While it is read and taken over.

    Raises:
        UsageError: it is not what this version would have written there.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise UsageError(
            "is damaged",
            where=file,
            expected="what the run has written there",
            action="Remove it, and the same command makes it again, or choose another -o",
        ) from error
