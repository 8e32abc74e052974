"""Import MONAI without optional dependencies that no command uses, which halves the start-up time of `predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# `import monai` loads all its submodules, and with them any of these that is installed: torchvision, which loads
# PyTorch's compiler, for its detectors; jsonschema, which with Jupyter installed builds a grammar of international
# addresses, for its bundles; the others for images, tables and metrics. MONAI requires only NumPy and PyTorch.
UNUSED = frozenset({"jsonschema", "matplotlib", "pandas", "scipy.signal", "skimage", "sklearn", "torchvision"})


class _Unused:
    """Import finder that reports :data:`UNUSED` as not installed, but only to MONAI while it is being imported."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        monai = sys.modules.get("monai")
        if name in UNUSED and getattr(getattr(monai, "__spec__", None), "_initializing", False) and _for_monai():
            raise ModuleNotFoundError(f"{name} is not needed", name=name)


def _for_monai() -> bool:
    """Whether the current import comes from MONAI; another thread may import one of these packages meanwhile."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "monai":
            return True
        frame = frame.f_back
    return False


@contextmanager
def monai_alone() -> Iterator[None]:
    """Context in which MONAI, if not loaded yet, is imported without :data:`UNUSED`; only for our own processes.

    It is not used in a notebook, where the user may need all of MONAI.
    """
    sys.meta_path.insert(0, _Unused)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        sys.meta_path.remove(_Unused)  # pyright: ignore[reportArgumentType]
