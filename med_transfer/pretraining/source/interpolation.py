"""Trilinear interpolation of crops at any position of a scan, rotated, stretched or mirrored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_matrices(angles: Tensor) -> Tensor:
    """Right-handed rotations about x, then y, then z, as matrices [n, 3, 3] that act on (z, y, x) vectors.

    Args:
        angles: [n, 3] in radians, about z, y and x.
    """
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
    """Trilinear crops of one scan; beyond its edge the last voxel is repeated.

    Args:
        voxels: [depth, height, width].
        spacing_mm: [3] along depth, height, width.
        centre_mm: [n, 3], distance from the centre of voxel (0, 0, 0).
        axes_mm: [n, 3, 3]; column a is the vector in mm from the crop's centre to its face along its axis a.
        shape: voxels of the crop.
        limits: [n, 3] in (0, 1], as a share of the half extent along each axis of the crop; beyond it the value at the
            limit is repeated.

    Returns:
        float32 [n, 1, *shape].
    """
    steps = [(torch.arange(n, device=voxels.device) + 0.5) * 2 / n - 1 for n in shape]
    local = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).reshape(1, -1, 3)
    local = torch.maximum(torch.minimum(local, limits[:, None]), -limits[:, None])
    index = (centre_mm[:, None] + local @ axes_mm.transpose(1, 2)) / spacing_mm
    size = torch.tensor(voxels.shape, device=voxels.device)
    grid = ((2 * index + 1) / size - 1).flip(-1)  # grid_sample expects (x, y, z)
    grid = grid.reshape(1, -1, shape[1], shape[2], 3)  # the crops are stacked along depth
    crops = F.grid_sample(voxels.float()[None, None], grid, padding_mode="border", align_corners=False)
    return crops.reshape(len(centre_mm), 1, *shape)


def box_around(
    shape: tuple[int, ...], spacing_mm: Tensor, centre_mm: Tensor, axes_mm: Tensor
) -> tuple[slice, slice, slice]:
    """The box of voxels that a crop can read: up to its corners plus one voxel on each side, within the scan."""
    reach = axes_mm.abs().sum(1)
    low = ((centre_mm - reach) / spacing_mm).floor().long() - 1
    high = ((centre_mm + reach) / spacing_mm).ceil().long() + 2
    bounds = zip(low.tolist(), high.tolist(), shape, strict=True)
    depth, height, width = (slice(max(0, min(a, n - 1)), min(n, max(b, 1))) for a, b, n in bounds)
    return depth, height, width
