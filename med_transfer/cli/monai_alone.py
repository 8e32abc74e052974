"""MONAI without what no command of ours uses of it: a third of the seconds before `predict` begins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# `import monai` loads every part of itself: with its detectors torchvision, which loads PyTorch's compiler; with its
# bundles jsonschema, which where Jupyter is builds a grammar of international addresses. Both are optional to MONAI.
UNUSED = frozenset({"jsonschema", "torchvision"})


class _Unused:
    """Finder that says of :data:`UNUSED` that they are not installed, while MONAI is imported and to nobody else."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        monai = sys.modules.get("monai")
        if name in UNUSED and getattr(getattr(monai, "__spec__", None), "_initializing", False):
            raise ModuleNotFoundError(f"{name} is not needed", name=name)


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
