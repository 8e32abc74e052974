"""How maps are made, as a user states it, for whatever grid the scan gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from med_transfer.errors import ConfigError
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
}  # an occlusion map costs hundreds of passes, and so does a draw


@dataclass(frozen=True)
class MapSettings:
    """How maps are made.

    Attributes:
        method: ``gradcam``, ``occlusion``, or ``attention`` where slices or tiles are pooled by it.
        stage: of Grad-CAM, see :class:`~med_transfer.explanation.GradCAM`.
        window_mm, stride_mm: of occlusion, see :meth:`~med_transfer.explanation.Occlusion.in_mm`.
        fill: what hidden voxels show: their ``mean``, or the ``floor`` of the input's window (air, for CT).
        draws: of random weights for the sanity check; None: 1 for occlusion and 3 for the others. 0 leaves it out.
        hidden: regions that hiding what the map shows is held against; 0 leaves that out.

    Raises:
        ConfigError: an unknown method or fill, a setting of another method, or negative draws or regions.
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
        for number, what in ((self.draws, "draws"), (self.hidden, "hidden regions")):
            if number is not None and number < 0:
                raise ConfigError(f"{number} {what}", where=self.method, expected="at least 0")

    def on(self, grid: Grid, floor: float, progress: Progress = silent) -> Method:
        """The method for an input on this grid."""
        if self.method == "gradcam":
            return GradCAM(self.stage)
        if self.method == "attention":
            return Attention()
        fill = floor if self.fill == "floor" else None
        width, height, depth = geometry.spacing_mm(grid.affine)
        return Occlusion.in_mm(grid.shape, (depth, height, width), self.window_mm, self.stride_mm, fill, progress)

    @property
    def n_draws(self) -> int:
        """Random networks that the sanity check compares with: ``draws``, or what the method can afford."""
        return _DRAWS[self.method] if self.draws is None else self.draws
