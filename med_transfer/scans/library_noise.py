"""Silences the reading libraries: users get the verdicts and errors of this package instead of their warnings."""

from __future__ import annotations

import logging
import warnings

_LOGGERS = ("pydicom", "pylibjpeg", "nibabel.global")


def silence_readers() -> None:
    """Suppress the libraries' warnings, and their log messages below the level CRITICAL.

    ``warnings.catch_warnings`` saves and restores global state, which is not thread-safe. These filters are permanent
    instead, limited to the libraries, and idempotent.
    """
    for library in ("pydicom", "nibabel", "pylibjpeg", "highdicom"):  # their warnings may contain patient names
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
