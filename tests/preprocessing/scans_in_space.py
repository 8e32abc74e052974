"""Small scans in every position that the tests need, and references for resampling them."""

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from med_transfer.scans import geometry
from med_transfer.scans.geometry import Grid, index_map, voxel_ratio

HALF = 2.0**-11  # a network's input is rounded to float16: by at most so much of its value


def _affine(linear: np.ndarray, spacing=(0.7, 0.8, 1.3)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = linear @ np.diag(spacing)
    affine[:3, 3] = [-20.0, 15.0, 300.0]
    return affine


def turned(*degrees: float) -> np.ndarray:
    return _affine(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix())


PARALLEL = {
    "plain": _affine(np.eye(3)),
    "flipped": _affine(np.diag([-1.0, 1.0, -1.0])),
    "permuted": _affine(np.eye(3)[[2, 0, 1]]),
    "permuted and flipped": _affine(np.diag([1.0, -1.0, -1.0])[[1, 0, 2]]),
}
OBLIQUE = {
    "oblique": turned(10, 20, -15),
    "turned about one axis": turned(0, 0, 25),
    "far turned": turned(80, -50, 130),
    "tilted gantry": _affine(np.array([[1, 0, 0], [0, 1, 0.27], [0, 0, 1.0]])),
    "sheared": _affine(np.array([[1, 0.1, 0], [0, 1, 0.25], [0.05, 0, 1.0]])),
}
EVERY_WAY = PARALLEL | OBLIQUE


def smooth(shape=(24, 40, 44), seed=0, dtype=np.int16) -> np.ndarray:
    """Values between about -1000 and 1000 that vary over one to two voxels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.0)
    return (noise / np.abs(noise).max() * 1000).astype(dtype)


def grid_about(affine, shape_kji, spacing=(1.5, 1.5, 1.5), shape=(16, 18, 20), axes="SPL", shift_mm=(0, 0, 0)) -> Grid:
    centre = geometry.centre_mm(affine, shape_kji) + np.array(shift_mm)
    return Grid(geometry.grid_affine(axes, spacing, centre, shape), shape)


def reference_resample(voxels, affine, grid: Grid, *, fill=None, antialias=True) -> np.ndarray:
    """Gaussian, then linear interpolation, both by scipy and in float64: the definition, without any shortcut."""
    values = voxels.astype(np.float64)
    if antialias:
        sigma = (voxel_ratio(affine, grid) - 1) / 2
        values = ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)
    where = index_map(affine, grid)
    index = np.einsum("ab,b...->a...", where.matrix, np.indices(grid.shape)) + where.offset[:, None, None, None]
    mode, value = ("nearest", 0.0) if fill is None else ("grid-constant", fill)
    return ndimage.map_coordinates(values, index, order=1, mode=mode, cval=value)
