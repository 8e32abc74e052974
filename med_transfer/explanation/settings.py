"""User settings of how maps are computed, independent of the input grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from med_transfer.errors import ConfigError
from med_transfer.errors.given_numbers import number_from, whole_number
from med_transfer.explanation.attention import Attention
from med_transfer.explanation.faithfulness import MapCheckSettings
from med_transfer.explanation.gradcam import GradCAM
from med_transfer.explanation.heat import Method
from med_transfer.explanation.occlusion import Occlusion
from med_transfer.progress import Progress, silent
from med_transfer.scans import geometry
from med_transfer.scans.geometry import Grid

MethodName = Literal["gradcam", "occlusion", "attention"]
Fill = Literal["mean", "floor"]
_DRAWS: dict[str, int] = {
    "gradcam": 3,
    "attention": 3,
    "occlusion": 1,
}  # an occlusion map takes hundreds of forward passes, and so does each draw


@dataclass(frozen=True)
class MapSettings:
    """How maps are computed.

    Attributes:
        method: ``gradcam``, ``occlusion``, or, for networks that pool slices or tiles by it, ``attention``.
        stage: stage for Grad-CAM, see :class:`~med_transfer.explanation.GradCAM`.
        window_mm, stride_mm: box for occlusion, see :meth:`~med_transfer.explanation.Occlusion.in_mm`.
        fill: value of hidden voxels: their ``mean``, or the ``floor`` of the input's window (air, for CT).
        draws: number of random networks in the sanity check; None for 1 with occlusion and 3 otherwise, 0 to skip it.
        hidden: number of random regions in the deletion check; 0 skips it.

    Raises:
        ConfigError: method or fill is unknown, or a setting belongs to another method.
        UsageError: ``draws`` or ``hidden`` is no number of them, or a size no number of mm.
    """

    method: MethodName = "gradcam"
    stage: int | None = None
    window_mm: float | None = None
    stride_mm: float | None = None
    fill: Fill = "mean"
    draws: int | None = None
    hidden: int = MapCheckSettings.n_random

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method, _DRAWS), ("fill", self.fill, get_args(Fill))):
            if value not in known:
                raise ConfigError(f"{name} {value!r}", expected=f"one of {', '.join(known)}")
        if self.method != "occlusion" and (self.window_mm is not None or self.stride_mm is not None):
            raise ConfigError("a window or stride", where=self.method, expected="method occlusion for these")
        if self.method != "gradcam" and self.stage is not None:
            raise ConfigError(f"stage {self.stage}", where=self.method, expected="method gradcam for a stage")
        for number, what in ((self.draws, "draws"), (self.hidden, "hidden")):
            if number is not None:
                whole_number(number, what, 0)
        for size, what in ((self.window_mm, "window_mm"), (self.stride_mm, "stride_mm")):
            if size is not None:
                number_from(size, what, 0)

    def on(self, grid: Grid, floor: float, progress: Progress = silent) -> Method:
        """Return the method for an input on this grid.

        Args:
            grid: the input grid.
            floor: value of hidden voxels for ``fill="floor"``, in the network's units.
            progress: progress callback.

        Raises:
            ConfigError: the window does not fit the input, or the stride the window.
        """
        if self.method == "gradcam":
            return GradCAM(self.stage)
        if self.method == "attention":
            return Attention()
        fill = floor if self.fill == "floor" else None
        width, height, depth = geometry.spacing_mm(grid.affine)
        return Occlusion.in_mm(grid.shape, (depth, height, width), self.window_mm, self.stride_mm, fill, progress)

    @property
    def n_draws(self) -> int:
        """Number of random networks in the sanity check: ``draws``, or the method's default."""
        return _DRAWS[self.method] if self.draws is None else self.draws
