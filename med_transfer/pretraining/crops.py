"""Random crops of source scans, cut on the device that trains.

The scans stay on the device as int16. A crop is one trilinear interpolation of its scan at rotated, stretched,
mirrored positions; crops of one scan are interpolated together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from med_transfer.errors import UnusableVoxels
from med_transfer.pretraining.config import CropConfig
from med_transfer.pretraining.source import SourceScan, SourceScans

_NEIGHBOURHOOD_MM = 24.0  # what a crop's centre is judged by
_LUNG_HU = (-930.0, -600.0)
_BODY_HU = -400.0


@dataclass(frozen=True)
class Crops:
    """A batch.

    Attributes:
        hu: float32 HU [batch, 1, depth, height, width]; array axes grow to S, P, L unless mirrored.
        size_mm: extent along depth, height, width, [batch, 3].
        lung: bool [batch], centred in lung.
    """

    hu: Tensor
    size_mm: Tensor
    lung: Tensor


@dataclass(frozen=True)
class _Resident:
    """One scan on the device, with the places (voxel index z, y, x) that are worth a crop."""

    voxels: Tensor
    spacing_mm: Tensor
    lung: Tensor
    tissue: Tensor


class CropSampler:
    """Draws batches of crops; the same seed gives the same crops on the same kind of device.

    Raises:
        UnusableVoxels: no scan has any structure to look at.
    """

    def __init__(self, source: SourceScans, config: CropConfig, device: torch.device, seed: int) -> None:
        self.config, self.device = config, device
        residents = [_resident(scan, device) for scan in source.scans]
        self._with_lung = [r for r in residents if len(r.lung)]
        self._with_tissue = [r for r in residents if len(r.tissue)]
        if not self._with_lung and not self._with_tissue:
            raise UnusableVoxels(
                "nothing but air or uniform matter in the source scans", expected="CT in Hounsfield units"
            )
        self.random = torch.Generator(device).manual_seed(seed)
        self._choice = torch.Generator().manual_seed(seed)  # on the CPU: a choice of scans must not wait for the device

    def state(self) -> dict[str, Tensor]:
        return {"random": self.random.get_state(), "choice": self._choice.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.random.set_state(state["random"].cpu())
        self._choice.set_state(state["choice"].cpu())

    def batch(self, size: int) -> Crops:
        """``size`` crops from ``scans_per_batch`` scans, those centred in lung first."""
        lung = round(size * self.config.lung) if self._with_lung else 0
        if not self._with_tissue:
            lung = size
        parts = [self._from_scans(self._with_lung, lung, in_lung=True)] if lung else []
        parts += [self._from_scans(self._with_tissue, size - lung, in_lung=False)] if size > lung else []
        hu, size_mm = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return Crops(hu, size_mm, torch.arange(size, device=self.device) < lung)

    def _from_scans(self, scans: list[_Resident], size: int, in_lung: bool) -> tuple[Tensor, Tensor]:
        groups = min(size, self.config.scans_per_batch)
        weights = torch.tensor([float(len(s.lung if in_lung else s.tissue)) for s in scans]).sqrt()
        chosen = torch.multinomial(weights, groups, replacement=True, generator=self._choice).tolist()
        counts = [size // groups + (n < size % groups) for n in range(groups)]
        parts = [self._from_scan(scans[i], n, in_lung) for i, n in zip(chosen, counts, strict=True)]
        return torch.cat([hu for hu, _ in parts]), torch.cat([mm for _, mm in parts])

    def _from_scan(self, scan: _Resident, count: int, in_lung: bool) -> tuple[Tensor, Tensor]:
        places = scan.lung if in_lung else scan.tissue
        index = torch.randint(len(places), (count,), generator=self.random, device=self.device)
        centre_mm = places[index] * scan.spacing_mm + self._uniform(count, 3) * self.config.shift_mm
        size_mm = self._size_mm(count)
        mirror = torch.where(self._chance(count, 3, probability=self.config.flip), -1.0, 1.0)
        axes = self._rotation(count) * (mirror * size_mm / 2)[:, None, :]  # columns: half the crop along its own axes
        hu = interpolate(scan.voxels, scan.spacing_mm, centre_mm, axes, self.config.shape, self._limits(count))
        return hu, size_mm

    def _size_mm(self, count: int) -> Tensor:
        usual, large = (self._log_uniform(count, *r) for r in (self.config.size_mm, self.config.large_size_mm))
        size = torch.where(self._chance(count, probability=self.config.large), large, usual)
        return size[:, None] * (1 + self.config.stretch * self._uniform(count, 3))

    def _limits(self, count: int) -> Tensor:
        """Where the scan ends inside the crop, as a share of half its extent, [count, 3]; 1 where it does not."""
        depth, plane = self.config.cut
        share = torch.tensor([depth, plane, plane], device=self.device)
        least = torch.tensor([0.1, 0.55, 0.55], device=self.device)
        limit = least + (1 - least) * self._share(count, 3)
        return torch.where(self._share(count, 3) < share, limit, 1.0)

    def _rotation(self, count: int) -> Tensor:
        """Rotation matrices [count, 3, 3] in the order (z, y, x)."""
        largest = torch.tensor([math.radians(d) for d in self.config.rotation_degrees], device=self.device)
        return rotation_matrices(self._uniform(count, 3) * largest)

    def _share(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.device)

    def _uniform(self, *shape: int) -> Tensor:
        return 2 * self._share(*shape) - 1

    def _chance(self, *shape: int, probability: float) -> Tensor:
        return self._share(*shape) < probability

    def _log_uniform(self, count: int, low: float, high: float) -> Tensor:
        return low * (high / low) ** self._share(count)


def rotation_matrices(angles: Tensor) -> Tensor:
    """Right-handed rotations about x, then y, then z, [n, 3, 3] acting on (z, y, x) vectors, of angles (z, y, x)."""
    (cz, cy, cx), (sz, sy, sx) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    zero, one = torch.zeros_like(cz), torch.ones_like(cz)

    def rows(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))

    about_z = rows(one, zero, zero, zero, cz, sz, zero, -sz, cz)
    about_y = rows(cy, zero, -sy, zero, one, zero, sy, zero, cy)
    about_x = rows(cx, sx, zero, -sx, cx, zero, zero, zero, one)
    return about_z @ about_y @ about_x


def interpolate(
    voxels: Tensor, spacing_mm: Tensor, centre_mm: Tensor, axes_mm: Tensor, shape: tuple[int, int, int], limits: Tensor
) -> Tensor:
    """Trilinear crops of one scan; beyond its edge the last voxel repeats.

    Args:
        voxels: [depth, height, width].
        spacing_mm: [3] along depth, height, width.
        centre_mm: [n, 3], distance from the centre of voxel (0, 0, 0).
        axes_mm: [n, 3, 3]; column a is the way in mm from the crop's centre to its face along its axis a.
        shape: voxels of the crop.
        limits: [n, 3] in (0, 1]; along each axis of the crop what lies farther out repeats what lies here.

    Returns:
        float32 [n, 1, *shape].
    """
    steps = [(torch.arange(n, device=voxels.device) + 0.5) * 2 / n - 1 for n in shape]
    local = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).reshape(1, -1, 3)
    local = torch.maximum(torch.minimum(local, limits[:, None]), -limits[:, None])
    index = (centre_mm[:, None] + local @ axes_mm.transpose(1, 2)) / spacing_mm
    size = torch.tensor(voxels.shape, device=voxels.device)
    grid = ((2 * index + 1) / size - 1).flip(-1)  # grid_sample wants (x, y, z)
    grid = grid.reshape(1, -1, shape[1], shape[2], 3)  # the crops of a batch stand on top of each other
    crops = F.grid_sample(voxels.float()[None, None], grid, padding_mode="border", align_corners=False)
    return crops.reshape(len(centre_mm), 1, *shape)


def _resident(scan: SourceScan, device: torch.device) -> _Resident:
    """Judge neighbourhoods inside the body: whether they have structure, and whether they are lung."""
    voxels = torch.from_numpy(scan.voxels).to(device)
    window = [
        min(n, max(1, round(_NEIGHBOURHOOD_MM / mm))) for n, mm in zip(voxels.shape, scan.spacing_mm, strict=True)
    ]
    stride = [max(1, n // 3) for n in window]
    hu = voxels.float().clamp(-1000, 400)[None, None]

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool3d(x, window, stride)[0, 0]

    average = mean(hu)
    spread = (mean(hu**2) - average**2).clamp_min(0).sqrt()
    inside = _body(average) > 0
    lung_share = mean(((hu > _LUNG_HU[0]) & (hu < _LUNG_HU[1])).float())
    lung = inside & (lung_share > 0.4) & (spread > 40)
    tissue = inside & (average > -600) & (spread > 40) & ~lung
    offset = torch.tensor([(n - 1) / 2 for n in window], device=device)
    step = torch.tensor(stride, device=device)

    def places(chosen: Tensor) -> Tensor:
        return chosen.nonzero() * step + offset

    return _Resident(voxels, torch.tensor(scan.spacing_mm, device=device), places(lung), places(tissue))


def _body(average_hu: Tensor) -> Tensor:
    """1.0 in the largest piece of tissue, holes of its axial slices (lungs) filled; a table is another piece."""
    pieces = np.asarray(ndimage.label(average_hu.cpu().numpy() > _BODY_HU)[0])  # type: ignore[index]
    if not pieces.any():
        return torch.zeros_like(average_hu)
    body = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    filled = np.array([ndimage.binary_fill_holes(axial) for axial in body])
    return torch.from_numpy(filled).to(average_hu)
