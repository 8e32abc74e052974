"""Random crops of source scans, interpolated on the training device.

A crop is one trilinear interpolation of its scan at rotated, stretched positions. A source that fits is kept on the
device, and crops of one scan are interpolated together; from a larger source only the box around each crop is read.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.errors import UnusableVoxels
from med_transfer.pretraining.source.crop_centres import find_crop_centres
from med_transfer.pretraining.source.interpolation import box_around, interpolate, rotation_matrices
from med_transfer.pretraining.source.scans import SourceScan, SourceScans
from med_transfer.pretraining.view_config import CropConfig

LUNG, TISSUE, CENTRE, MASK, WHOLE = "lung", "tissue", "centre", "mask", "whole"  # kinds of crop centre
_MAX_CENTRES = 4096  # approximate limit of a mask's voxels that are kept as centres


@dataclass(frozen=True)
class Crops:
    """A batch of crops.

    Attributes:
        hu: float32 HU [batch, 1, depth, height, width]; axes point to S, P, L unless mirrored or rotated.
        size_mm: extent along depth, height, width, [batch, 3].
        lung: bool [batch], whether the crop is centred in lung.
        scan: position of each crop's scan in the source, int64 [batch], on the CPU.
        centre_mm: centre of the crop in its scan, in mm from the centre of voxel (0, 0, 0), [batch, 3].
        mask: share of each voxel that lies in the scan's mask, [batch, 1, depth, height, width]; None if not asked for.
    """

    hu: Tensor
    size_mm: Tensor
    lung: Tensor
    scan: Tensor
    centre_mm: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class _Pose:
    """Positions of n crops of one scan; see :func:`interpolate`. ``size_mm`` is their extent, [n, 3]."""

    centre_mm: Tensor
    axes_mm: Tensor
    size_mm: Tensor
    limits: Tensor


@dataclass(frozen=True)
class _Candidate:
    """One scan that crops are taken from, on the device or on disk, with its centres by kind."""

    number: int
    voxels: Tensor | NDArray[np.int16]
    mask: Tensor | NDArray[np.uint8] | None
    spacing_mm: Tensor
    centres: dict[str, Tensor]


class CropSampler:
    """Draws batches of crops; the same seed gives the same crops on the same kind of device.

    Args:
        mixture: share of the batch for each kind of crop centre; None: ``config.lung`` lung, the rest other tissue.
            Kinds that no scan has are left out.
        weights: relative probability of drawing each scan; None: the square root of its number of centres.

    Raises:
        UnusableVoxels: no scan has a crop centre of these kinds.
    """

    def __init__(
        self,
        source: SourceScans,
        config: CropConfig,
        device: torch.device,
        seed: int,
        mixture: dict[str, float] | None = None,
        weights: list[float] | None = None,
    ) -> None:
        self.config, self.device, self._weights = config, device, weights
        mixture = mixture or {LUNG: config.lung, TISSUE: 1 - config.lung}
        resident = source.nbytes <= config.resident_gib * 2**30
        scans = [_candidate(n, scan, device, resident) for n, scan in enumerate(source.scans)]
        self._scans = {
            kind: usable for kind in mixture if (usable := [scan for scan in scans if len(scan.centres[kind])])
        }
        if not self._scans:
            raise UnusableVoxels(
                "nothing but air or uniform matter in the source scans", expected="CT in Hounsfield units"
            )
        self._mixture = {kind: mixture[kind] for kind in self._scans}
        self.random = torch.Generator(device).manual_seed(seed)
        self.choice = torch.Generator().manual_seed(seed)  # on the CPU: choosing scans must not wait for the device

    @property
    def whole(self) -> bool:
        """Whether whole scans, or slabs of them, are drawn."""
        return WHOLE in self._mixture

    def reseeded(self, seed: int) -> CropSampler:
        """A sampler of the same scans with its own random state; the scans on the device are shared."""
        other = copy.copy(self)
        other.random = torch.Generator(self.device).manual_seed(seed)
        other.choice = torch.Generator().manual_seed(seed)
        return other

    def plain(self, seed: int) -> CropSampler:
        """As :meth:`reseeded`, but crops are not stretched, rotated, mirrored or cut."""
        other = self.reseeded(seed)
        other.config = self.config.plain
        return other

    def batch(self, size: int, with_masks: bool = False) -> Crops:
        """Draw ``size`` crops, from at most ``scans_per_batch`` scans for each kind of centre."""
        return _joined(
            [self._cut(scan, self._pose(scan, kind, n), kind, with_masks) for scan, kind, n in self._plan(size)]
        )

    def pairs(self, size: int, shift: float, stretch: float) -> tuple[Crops, Crops]:
        """Draw pairs of crops, the second of each near the first.

        Args:
            shift: largest displacement of the second crop along each axis, as a share of the extent.
            stretch: largest relative change of the second crop's extent along each axis.
        """
        first, second = [], []
        for scan, kind, count in self._plan(size):
            pose = self._pose(scan, kind, count)
            first.append(self._cut(scan, pose, kind))
            second.append(self._cut(scan, self._nearby(pose, shift, stretch), kind))
        return _joined(first), _joined(second)

    def _plan(self, size: int) -> list[tuple[_Candidate, str, int]]:
        """Draw the scans: each with its kind of centre and its number of crops."""
        total, left, plan = sum(self._mixture.values()), size, []
        for place, (kind, share) in enumerate(self._mixture.items(), start=1):
            wanted = left if place == len(self._mixture) else round(size * share / total) if total else 0
            left -= wanted
            if not wanted:
                continue
            scans, groups = self._scans[kind], min(wanted, self.config.scans_per_batch)
            weights = [self._weights[s.number] if self._weights else math.sqrt(len(s.centres[kind])) for s in scans]
            drawn = torch.multinomial(torch.tensor(weights), groups, replacement=True, generator=self.choice)
            counts = [wanted // groups + (n < wanted % groups) for n in range(groups)]
            plan += [(scans[i], kind, n) for i, n in zip(drawn.tolist(), counts, strict=True)]
        return plan

    def _pose(self, scan: _Candidate, kind: str, count: int) -> _Pose:
        centres = scan.centres[kind]
        index = torch.randint(len(centres), (count,), generator=self.random, device=self.device)
        centre_mm = centres[index] * scan.spacing_mm + self._uniform(count, 3) * self.config.shift_mm
        size_mm = self._size_mm(count, scan if kind == WHOLE else None)
        if kind == WHOLE and self.config.slab:
            self._cut_to_slab(scan, centre_mm, size_mm)
        return _Pose(centre_mm, self._axes(size_mm), size_mm, self._limits(count))

    def _cut_to_slab(self, scan: _Candidate, centre_mm: Tensor, size_mm: Tensor) -> None:
        """Restrict crops of the whole scan to ``config.slab`` slices at a random depth, in place."""
        slices, spacing = len(scan.voxels), scan.spacing_mm[0]
        room = max(0, slices - int(self.config.slab or 0))
        centre_mm[:, 0] += self._uniform(len(centre_mm)) * room / 2 * spacing
        size_mm[:, 0] *= (self.config.slab or 0) / slices

    def _nearby(self, pose: _Pose, shift: float, stretch: float) -> _Pose:
        count = len(pose.centre_mm)
        size_mm = pose.size_mm * (1 + stretch * self._uniform(count, 3))
        centre_mm = pose.centre_mm + shift * self._uniform(count, 3) * pose.size_mm
        return _Pose(centre_mm, self._axes(size_mm), size_mm, self._limits(count))

    def _cut(self, scan: _Candidate, pose: _Pose, kind: str, with_masks: bool = False) -> Crops:
        count = len(pose.centre_mm)
        mask = None
        if with_masks:
            empty = torch.zeros(count, 1, *self.config.shape, device=self.device)
            mask = empty if scan.mask is None else self._interpolated(scan.mask, scan.spacing_mm, pose) / 255
        return Crops(
            hu=self._interpolated(scan.voxels, scan.spacing_mm, pose),
            size_mm=pose.size_mm,
            lung=torch.full((count,), kind == LUNG, device=self.device),
            scan=torch.full((count,), scan.number),
            centre_mm=pose.centre_mm,
            mask=mask,
        )

    def _interpolated(self, voxels: Tensor | NDArray, spacing_mm: Tensor, pose: _Pose) -> Tensor:
        shape = self.config.shape
        if isinstance(voxels, Tensor):
            return interpolate(voxels, spacing_mm, pose.centre_mm, pose.axes_mm, shape, pose.limits)
        crops = []
        for n in range(len(pose.centre_mm)):
            centre_mm, axes_mm, limits = (x[n : n + 1] for x in (pose.centre_mm, pose.axes_mm, pose.limits))
            box = box_around(voxels.shape, spacing_mm, centre_mm[0], axes_mm[0])
            read = torch.from_numpy(np.array(voxels[box])).to(self.device)
            start = torch.tensor([axis.start for axis in box], device=self.device)
            crops.append(interpolate(read, spacing_mm, centre_mm - start * spacing_mm, axes_mm, shape, limits))
        return torch.cat(crops)

    def _size_mm(self, count: int, whole: _Candidate | None) -> Tensor:
        if whole is None:
            usual, large = (self._log_uniform(count, *r) for r in (self.config.size_mm, self.config.large_size_mm))
            size = torch.where(self._chance(count) < self.config.large, large, usual)[:, None]
        else:
            size = (torch.tensor(whole.voxels.shape, device=self.device) * whole.spacing_mm).expand(count, 3)
        return size * (1 + self.config.stretch * self._uniform(count, 3))

    def _axes(self, size_mm: Tensor) -> Tensor:
        """Half the extent along the crop's own axes, randomly rotated and mirrored, as columns."""
        flip = torch.tensor(self.config.flip, device=self.device)
        mirror = torch.where(self._chance(len(size_mm), 3) < flip, -1.0, 1.0)
        largest = torch.tensor([math.radians(d) for d in self.config.rotation_degrees], device=self.device)
        rotation = rotation_matrices(self._uniform(len(size_mm), 3) * largest)
        return rotation * (mirror * size_mm / 2)[:, None, :]

    def _limits(self, count: int) -> Tensor:
        """Simulated ends of the scan inside the crop, as a share of its half extent, [count, 3]; 1 without."""
        depth, plane = self.config.cut
        share = torch.tensor([depth, plane, plane], device=self.device)
        least = torch.tensor([0.1, 0.55, 0.55], device=self.device)
        limit = least + (1 - least) * self._chance(count, 3)
        return torch.where(self._chance(count, 3) < share, limit, 1.0)

    def _chance(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.device)

    def _uniform(self, *shape: int) -> Tensor:
        return 2 * self._chance(*shape) - 1

    def _log_uniform(self, count: int, low: float, high: float) -> Tensor:
        return low * (high / low) ** self._chance(count)


def _joined(parts: list[Crops]) -> Crops:
    masks = [part.mask for part in parts if part.mask is not None]
    columns = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("hu", "size_mm", "lung", "scan", "centre_mm")
    }
    return Crops(**columns, mask=torch.cat(masks) if masks else None)


def _candidate(number: int, scan: SourceScan, device: torch.device, resident: bool) -> _Candidate:
    usual = scan.crop_centres or find_crop_centres(scan.voxels, scan.spacing_mm)
    centres = {LUNG: usual.lung, TISSUE: usual.tissue, CENTRE: np.empty((0, 3)), MASK: np.empty((0, 3))}
    centres[WHOLE] = (np.array([scan.voxels.shape]) - 1) / 2
    if scan.centre is not None:
        centres[CENTRE] = np.array([scan.centre])
    if scan.mask is not None:
        inside = np.argwhere(scan.mask > 127)
        centres[MASK] = inside[:: max(1, len(inside) // _MAX_CENTRES)]

    def placed(array: NDArray) -> Tensor | NDArray:
        return torch.from_numpy(np.array(array)).to(device) if resident else array

    return _Candidate(
        number,
        placed(scan.voxels),
        None if scan.mask is None else placed(scan.mask),
        torch.tensor(scan.spacing_mm, device=device),
        {kind: torch.tensor(np.array(at), dtype=torch.float32, device=device) for kind, at in centres.items()},
    )
