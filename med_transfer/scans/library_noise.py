"""Keeps the warnings of the reading libraries away from the user, who gets our verdicts and errors instead."""

from __future__ import annotations

import logging
import warnings

_LOGGERS = ("pydicom", "pylibjpeg", "nibabel.global")


def silence_readers() -> None:
    """Let pydicom and nibabel neither warn nor log below the level of an error.

    ``warnings.catch_warnings`` would restore shared state and so is not safe between threads; these filters are set
    for good, name the libraries only, and setting them again changes nothing.
    """
    for library in ("pydicom", "nibabel", "pylibjpeg", "highdicom"):  # whose warnings hold names of patients
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
