"""Views of a crop: windowing, degradation, and each network's own orientation and channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from med_transfer.backbones import InputSpec
from med_transfer.pretraining.view_config import ViewConfig

_OPPOSITE = dict(zip("LRPASI", "RLAPIS", strict=True))
CROP_ORIENTATION = "SPL"


def reorient(x: Tensor, source: str, target: str) -> Tensor:
    """Permute and flip the last three axes from one orientation to another, for example ``SPL`` to ``SRA``.

    Each letter is the side that the axis points to.
    """
    order = [next(i for i, s in enumerate(source) if s in (letter, _OPPOSITE[letter])) for letter in target]
    first = x.ndim - 3
    x = x.permute(*range(first), *(first + i for i in order))
    flips = [first + n for n, i in enumerate(order) if source[i] != target[n]]
    return x.flip(flips) if flips else x


def window(hu: Tensor, window_hu: tuple[float, float], output_range: tuple[float, float]) -> Tensor:
    """Clip HU to the window and map it linearly to ``output_range``."""
    (low, high), (bottom, top) = window_hu, output_range
    return (hu.clamp(low, high) - low) * ((top - bottom) / (high - low)) + bottom


def reduce(hu: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Average to a coarser grid over the same extent; ``shape`` must divide the number of voxels along each axis."""
    return F.avg_pool3d(hu, [n // m for n, m in zip(hu.shape[2:], shape, strict=True)])


def encoder_input(x: Tensor, spec: InputSpec, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Bring windowed crops [batch, 1, depth, height, width] to the encoder's orientation and number of channels."""
    x = reorient(x, CROP_ORIENTATION, spec.orientation).expand(-1, spec.channels, -1, -1, -1)
    return x.contiguous(memory_format=layout)


class Degradation:
    """Randomly degrades the encoder's view, so that it becomes robust to other scanners and slice thicknesses."""

    def __init__(self, config: ViewConfig, device: torch.device, seed: int) -> None:
        self.config, self.device = config, device
        self.random = torch.Generator(device).manual_seed(seed)

    def __call__(self, x: Tensor, output_range: tuple[float, float]) -> Tensor:
        """Degrade [batch, 1, depth, height, width] with values in ``output_range``."""
        bottom, top = output_range
        x = (x - bottom) / (top - bottom)
        x = self._apply_to_share(x, self.config.blur / 2, _blur_in_plane)
        x = self._apply_to_share(x, self.config.blur / 2, lambda y: _blur_in_plane(_blur_in_plane(y)))
        x = self._in_thick_slices(x)
        gamma = torch.exp(self.config.gamma * self._uniform(len(x)))
        x = self._noisy(self._rescaled(x.clamp_min(1e-4) ** gamma))
        return x.clamp(0, 1) * (top - bottom) + bottom

    def hounsfield(self, hu: Tensor, window_hu: tuple[float, float]) -> Tensor:
        """Degrade crops in HU, before windowing and without gamma; intensity changes are in units of this window."""
        low, high = window_hu
        x = self._apply_to_share((hu - low) / (high - low), self.config.blur, _blur_in_plane)
        x = self._noisy(self._rescaled(self._in_thick_slices(x)))
        return x * (high - low) + low

    def _in_thick_slices(self, x: Tensor) -> Tensor:
        for slices in (2, 3, 4):
            x = self._apply_to_share(x, self.config.thick_slices / 3, lambda y, n=slices: thick_slices(y, n))
        return x

    def _rescaled(self, x: Tensor) -> Tensor:
        scale = 1 + self.config.scale * self._uniform(len(x))
        return x * scale + self.config.shift * self._uniform(len(x))

    def _noisy(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=self.random, device=self.device)
        return x + noise * self.config.noise * self._uniform(len(x)).clamp_min(0)

    def _apply_to_share(self, x: Tensor, share: float, change) -> Tensor:
        """Apply a change to a random share of the batch; the number is fixed, to avoid waiting for the device."""
        chosen = torch.randperm(len(x), generator=self.random, device=self.device)[: round(share * len(x))]
        return x.index_copy(0, chosen, change(x[chosen])) if len(chosen) else x

    def _uniform(self, n: int) -> Tensor:
        return 2 * torch.rand((n, 1, 1, 1, 1), generator=self.random, device=self.device) - 1


def thick_slices(x: Tensor, slices: int) -> Tensor:
    """Average over groups of ``slices`` slices and interpolate back along depth."""
    thick = F.avg_pool3d(x, (slices, 1, 1), ceil_mode=True, count_include_pad=False)
    return F.interpolate(thick, x.shape[2:], mode="trilinear", align_corners=False)


def _blur_in_plane(x: Tensor) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate")
    return F.avg_pool3d(padded, (1, 3, 3), stride=1)
