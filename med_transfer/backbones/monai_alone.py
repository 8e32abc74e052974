"""MONAI without what no command of ours uses of it: half of the seconds before `predict` begins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# `import monai` loads every part of itself, and with it whatever of this is there: torchvision, which loads PyTorch's
# compiler, for its detectors; jsonschema, which where Jupyter is builds a grammar of international addresses, for its
# bundles; the others for its pictures, tables and metrics. To MONAI all but NumPy and PyTorch is optional.
UNUSED = frozenset({"jsonschema", "matplotlib", "pandas", "scipy.signal", "skimage", "sklearn", "torchvision"})


class _Unused:
    """Finder that says of :data:`UNUSED` that they are not installed, to MONAI while it is imported and nobody else."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        monai = sys.modules.get("monai")
        if name in UNUSED and getattr(getattr(monai, "__spec__", None), "_initializing", False) and _for_monai():
            raise ModuleNotFoundError(f"{name} is not needed", name=name)


def _for_monai() -> bool:
    """Whether an import is MONAI's; another thread may load one of ours meanwhile."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "monai":
            return True
        frame = frame.f_back
    return False


@contextmanager
def monai_alone() -> Iterator[None]:
    """Meanwhile MONAI, where it is not loaded yet, is loaded alone; for a process that is ours from start to end.

    Whoever imports MONAI beside this package, in a notebook, has all of it: there nothing is kept out.
    """
    sys.meta_path.insert(0, _Unused)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        sys.meta_path.remove(_Unused)  # pyright: ignore[reportArgumentType]
