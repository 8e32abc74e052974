"""Where crops of a scan are worthwhile: neighbourhoods inside the body that have structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

_NEIGHBOURHOOD_MM = 24.0  # edge of the neighbourhood that a centre is assessed by
_LUNG_HU = (-930.0, -600.0)
_BODY_HU = -400.0


@dataclass(frozen=True)
class CropCentres:
    """Centres of neighbourhoods that are lung, and of other tissue, as voxel indices (z, y, x), float32 [n, 3]."""

    lung: NDArray[np.float32]
    tissue: NDArray[np.float32]

    def __bool__(self) -> bool:
        return bool(len(self.lung) or len(self.tissue))


def find_crop_centres(voxels: NDArray[np.int16], spacing_mm: tuple[float, float, float]) -> CropCentres:
    """Find the neighbourhoods of a scan [depth, height, width] in HU that are lung, or tissue with structure."""
    window = [min(n, max(1, round(_NEIGHBOURHOOD_MM / mm))) for n, mm in zip(voxels.shape, spacing_mm, strict=True)]
    stride = [max(1, n // 3) for n in window]
    hu = torch.from_numpy(voxels.astype(np.float32)).clamp(-1000, 400)[None, None]

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool3d(x, window, stride)[0, 0]

    average = mean(hu)
    spread = (mean(hu**2) - average**2).clamp_min(0).sqrt()
    inside = _body(average) > 0
    lung_share = mean(((hu > _LUNG_HU[0]) & (hu < _LUNG_HU[1])).float())
    lung = inside & (lung_share > 0.4) & (spread > 40)
    tissue = inside & (average > -600) & (spread > 40) & ~lung
    offset = torch.tensor([(n - 1) / 2 for n in window])

    def middles(chosen: Tensor) -> NDArray[np.float32]:
        return (chosen.nonzero() * torch.tensor(stride) + offset).numpy()

    return CropCentres(middles(lung), middles(tissue))


def _body(average_hu: Tensor) -> Tensor:
    """1.0 in the largest connected piece of tissue, its holes (lungs) filled by axial slice; excludes the table."""
    pieces = np.asarray(ndimage.label(average_hu.numpy() > _BODY_HU)[0])  # type: ignore[index]
    if not pieces.any():
        return torch.zeros_like(average_hu)
    body = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    filled = np.array([ndimage.binary_fill_holes(axial) for axial in body])
    return torch.from_numpy(filled).to(average_hu)
