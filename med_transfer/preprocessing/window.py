"""The window of values that the network tells apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def apply_window(voxels: NDArray[np.float32], window: tuple[float, float], output_range: tuple[float, float]) -> None:
    """Clips to ``window`` and maps that range linearly to ``output_range``, in place.

    As MONAI's ``ScaleIntensityRange`` with ``clip=True``. Slice by slice, so that a slice stays in the processor's
    cache over the three steps.
    """
    (low, high), (bottom, top) = window, output_range
    scale = (top - bottom) / (high - low)
    for image in voxels:
        image *= scale
        image += bottom - low * scale
        np.clip(image, bottom, top, out=image)
