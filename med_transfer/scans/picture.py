"""Three planes through the middle of an image, as a picture with anatomical letters."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_PLANES = ("depth", "height", "width")
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "I": "S", "S": "I"}


def three_planes(image: NDArray[np.floating], orientation: str, spacing_mm: tuple[float, float, float] | None) -> bytes:
    """PNG of the three middle planes, with the letters of the side each edge lies on.

    Args:
        image: [depth, height, width], in any range.
        orientation: the side to which depth, height and width grow, for example ``SPL``.
        spacing_mm: along depth, height, width; None draws square voxels.
    """
    spacing = spacing_mm or (1.0, 1.0, 1.0)
    low, high = float(image.min()), float(image.max())
    with matplotlib.rc_context({"savefig.facecolor": "black"}):
        figure = Figure(figsize=(5.4, 1.8), dpi=100, facecolor="black")
        for axis, name in enumerate(_PLANES):
            rows, columns = (other for other in range(3) if other != axis)
            axes = figure.add_axes((axis / 3 + 0.005, 0.01, 0.323, 0.98))
            plane = image.take(image.shape[axis] // 2, axis=axis).astype(np.float32)
            up = orientation[rows] == "S"  # the head belongs at the top of a picture
            axes.imshow(
                plane, cmap="gray", vmin=low, vmax=high, origin="lower" if up else "upper",
                aspect=spacing[rows] / spacing[columns], interpolation="nearest",
            )  # fmt: skip
            axes.set_axis_off()
            axes.set_gid(name)
            edges = (
                (0.5, 0.03, orientation[rows] if not up else _OPPOSITE[orientation[rows]]),
                (0.97, 0.5, orientation[columns]),
            )
            for x, y, letter in edges:
                axes.text(x, y, letter, color="#ffd24d", fontsize=8, transform=axes.transAxes, ha="center", va="bottom")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
