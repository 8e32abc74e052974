"""Find head, brain and lungs in a CT by thresholds and connected components, without a network.

A scan is first resampled along the patient's axes to a grid of 2 mm, so that its spacing, orientation and tilt do not
matter. The result must have a plausible size; otherwise the organ counts as not found, and the reason names the limit
that was exceeded. Results on real scans: docs/measured/organs.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from med_transfer.errors import InputRejected
from med_transfer.errors.sentence import Sentence
from med_transfer.preprocessing.config import OrganName
from med_transfer.preprocessing.resampling.resample import resample
from med_transfer.scans import Region, Volume, geometry
from med_transfer.scans.geometry import Grid, index_map
from med_transfer.scans.masks.mask_placement import mark_voxels
from med_transfer.scans.region import region_of_voxels
from med_transfer.scans.voxel_checks import hounsfield_doubt

Reason = Literal[
    "no_hounsfield_units", "scan_size", "nothing_there", "volume", "width", "depth", "height", "ragged", "cut_off"
]
Mask = NDArray[np.bool_]

STEP_MM = 2.0
BONE_HU = 200.0  # low enough for thin skulls of children, blurred by the grid
BRAIN_HU = (-10.0, 120.0)  # from cerebrospinal fluid to fresh blood
AIR_HU = -400.0  # lung and air are below, soft tissue above
GAS_HU = -950.0  # air that is not in lung tissue
_SIDES = 6  # of eight directions in the axial plane in which there must be bone
_CANAL = 0.05  # of the brain's largest area; spinal canal and foramen magnum are smaller
_SMALL_ML = 2.4  # in one slice, 12 cm2: twice a wide trachea; holes of lungs are smaller, the liver's dome is larger
_MIN_CORE_SHARE = 0.1  # of a lung is deeper than 6 mm; no part of sinuses and table foam is
_MAX_GAS_SHARE = 0.5  # of a lung's voxels, even with emphysema; airways and bowel gas have more
_NOTHING_HU = -1000.0  # for corners of the grid outside an oblique scan
_IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]


@dataclass(frozen=True)
class Limits:
    """Plausible sizes of an organ, from a small child to a large adult: volume in ml, bounding box in mm."""

    volume: tuple[float, float]
    width: tuple[float, float]
    depth: tuple[float, float]
    height: tuple[float, float]


LIMITS: dict[OrganName, Limits] = {
    "brain": Limits(volume=(300, 2200), width=(80, 190), depth=(80, 220), height=(50, 200)),
    "head": Limits(volume=(800, 9000), width=(90, 300), depth=(100, 330), height=(60, 330)),
    "lungs": Limits(volume=(150, 10000), width=(80, 420), depth=(50, 300), height=(50, 450)),
}
MAX_LITRES = 600.0  # of the whole scan; 2 m of body with a field of view of 0.5 m are 500
MIN_SOLIDITY = 0.95  # of a brain: its volume over the volume that its outline encloses
MAX_CUT_SHARE = 0.6  # of lungs: area in the first or last slice over the largest area


@dataclass(frozen=True)
class Organ:
    """Location of an organ: a mask [depth, height, width], and the affine (i, j, k) to LPS mm of its voxels."""

    mask: Mask
    affine: geometry.Affine

    @property
    def region(self) -> Region:
        """Bounding box of the mask."""
        return region_of_voxels(self.mask, self.affine)

    def on(self, grid: Grid) -> Mask:
        """The mask resampled onto another grid; if too small to be hit, the voxels that contain its voxels' centres."""
        inside = resample(self.mask.astype(np.float32), self.affine, grid, outside=0.0, antialias=False) > 0.5
        if not inside.any():
            middles = geometry.to_world_mm(self.affine, np.argwhere(self.mask)[:, ::-1])
            within = middles[geometry.inside(grid.affine, grid.shape, middles)]
            mark_voxels(inside, geometry.to_index(grid.affine, within))
        return inside

    def alone(self, volume: Volume, floor: float) -> Volume:
        """Crop a scan to the organ's bounding box, and set all voxels outside the organ to ``floor``.

        Raises:
            InputRejected: no part of the organ is in the scan.
        """
        low, high = (np.array(self.region.centre_mm) + side * np.array(self.region.size_mm) / 2 for side in (-1, 1))
        index = geometry.to_index(volume.affine, list(itertools.product(*zip(low, high, strict=True))))
        last = np.array(volume.voxels.shape[::-1]) - 1
        first, last = (
            np.clip(ends, 0, last).astype(int) for ends in (np.floor(index.min(axis=0)), np.ceil(index.max(axis=0)))
        )
        box = tuple(slice(a, b + 1) for a, b in zip(first[::-1], last[::-1], strict=True))
        voxels, affine = volume.voxels[box].astype(np.float32), volume.affine.copy()  # int16 may not hold the floor
        affine[:3, 3] = geometry.to_world_mm(volume.affine, first)
        depth, height, width = voxels.shape
        inside = self.on(Grid(affine, (depth, height, width)))
        if not inside.any():
            raise InputRejected(
                "shows no part of the region to which input.isolate restricts the network",
                where=volume.provenance.path,
                expected="a scan of the same place as the column scan",
                action="Register the scans first, or correct the table",
            )
        voxels[~inside] = floor
        return replace(volume, voxels=voxels, affine=affine)


@dataclass(frozen=True)
class NotFound:
    """Why an organ was not found: a reason code, the value measured, and the limits for it."""

    organ: OrganName
    reason: Reason
    measured: float | str = ""
    limits: tuple[float, float] = (0.0, 0.0)

    @property
    def expected(self) -> Sentence:
        """What was expected and what was measured, in words."""
        low, high = self.limits
        return _expected(self.reason, low=low, high=high, measured=self.measured)


def _expected(reason: Reason, **found: float | str) -> Sentence:
    match reason:
        case "no_hounsfield_units":
            return Sentence("a CT in Hounsfield units, but {measured}", **found)
        case "scan_size":
            return Sentence("a scan of at most {high:g} litres, not {measured:g}", **found)
        case "nothing_there":
            return Sentence("a scan that shows it", **found)
        case "volume":
            return Sentence("{low:g} to {high:g} ml, not {measured:g}", **found)
        case "width":
            return Sentence("{low:g} to {high:g} mm from right to left, not {measured:g}", **found)
        case "depth":
            return Sentence("{low:g} to {high:g} mm from front to back, not {measured:g}", **found)
        case "height":
            return Sentence("{low:g} to {high:g} mm from bottom to top, not {measured:g}", **found)
        case "ragged":
            return Sentence("at least {low:g} of what its outline encloses, not {measured:g}", **found)
        case "cut_off":
            return Sentence(
                "at most {high:g} of its largest area in the scan's first and last slice, not {measured:g}", **found
            )


_KNOWN: WeakKeyDictionary[Volume, dict[OrganName, Organ | NotFound]] = WeakKeyDictionary()


def find_organ(volume: Volume, organ: OrganName) -> Organ | NotFound:
    """Find an organ in a CT in Hounsfield units, or say why it was not found; the result is cached per volume."""
    known = _KNOWN.setdefault(volume, {})
    if organ not in known:
        known[organ] = _search(volume, organ)
    return known[organ]


def _search(volume: Volume, organ: OrganName) -> Organ | NotFound:
    if doubt := hounsfield_doubt(volume.voxels):
        return NotFound(organ, "no_hounsfield_units", doubt)
    grid = _patient_grid(volume)
    litres = float(np.prod(grid.shape)) * STEP_MM**3 / 1e6
    if litres > MAX_LITRES:
        return NotFound(organ, "scan_size", round(litres), (0.0, MAX_LITRES))
    hu = resample(volume.voxels, volume.affine, grid)
    hu[~_in_view(volume, grid)] = _NOTHING_HU
    mask = _FINDERS[organ](hu)
    return _implausible(organ, mask, grid) or Organ(mask, grid.affine)


def _patient_grid(volume: Volume) -> Grid:
    low, high = geometry.box_mm(volume.affine, (0, 0, 0), np.array(volume.voxels.shape[::-1]) - 1)
    width, height, depth = (max(1, int(np.ceil(mm / STEP_MM))) for mm in high - low)
    shape = (depth, height, width)
    return Grid(geometry.grid_affine("SPL", (STEP_MM, STEP_MM, STEP_MM), (low + high) / 2, shape), shape)


def _in_view(volume: Volume, grid: Grid) -> Mask:
    """Mask of the grid's voxels inside the scan: all of them, if the scan is not oblique."""
    where, inside = index_map(volume.affine, grid), np.ones((1, 1, 1), bool)
    for row, first, size in zip(where.matrix, where.offset, volume.voxels.shape, strict=True):
        index = np.full((1, 1, 1), first)
        for axis in np.flatnonzero(np.abs(row) > 1e-9):
            index = index + np.expand_dims(row[axis] * np.arange(grid.shape[axis]), [a for a in range(3) if a != axis])
        inside = inside & (index >= -0.5 - 1e-6) & (index <= size - 0.5 + 1e-6)
    return np.broadcast_to(inside, grid.shape)


def _implausible(organ: OrganName, mask: Mask, grid: Grid) -> NotFound | None:
    if not mask.any():
        return NotFound(organ, "nothing_there")
    width, depth, height = region_of_voxels(mask, grid.affine).size_mm
    limits = LIMITS[organ]
    checks: list[tuple[Reason, float, tuple[float, float]]] = [
        ("volume", _millilitres(mask), limits.volume),
        ("width", width, limits.width),
        ("depth", depth, limits.depth),
        ("height", height, limits.height),
    ]
    for reason, measured, (low, high) in checks:
        if not low <= measured <= high:
            return NotFound(organ, reason, round(measured), (low, high))
    areas = mask.sum(axis=(1, 2))
    if organ == "lungs" and (share := max(areas[0], areas[-1]) / areas.max()) > MAX_CUT_SHARE:
        return NotFound(organ, "cut_off", round(float(share), 2), (0.0, MAX_CUT_SHARE))
    if organ == "brain" and (share := np.count_nonzero(mask) / np.count_nonzero(_enclosed(mask))) < MIN_SOLIDITY:
        return NotFound(organ, "ragged", round(share, 2), (MIN_SOLIDITY, 1.0))
    return None


def _millilitres(mask: Mask) -> float:
    return float(np.count_nonzero(mask)) * STEP_MM**3 / 1000


# The organs, in an array of HU whose axes increase to superior, posterior and left ------------------------------


def _brain(hu: NDArray[np.float32]) -> Mask:
    """Soft tissue within the skull: the largest part that is connected by more than 8 mm."""
    soft = (hu > BRAIN_HU[0]) & (hu < BRAIN_HU[1]) & _enclosed(hu > BONE_HU)
    core = _largest(_eroded(soft, 2))
    grown = _dilated(core, 3) & soft
    brain = _filled(_closed(grown, 3, axes=(1, 2)))
    areas = brain.sum(axis=(1, 2))
    brain[: areas.argmax()][areas[: areas.argmax()] < _CANAL * areas.max()] = False
    return brain


def _head(hu: NDArray[np.float32]) -> Mask:
    """The body within 30 mm of the brain's bounding box, but 50 mm in front and 60 mm below, where the face is."""
    brain = _brain(hu)
    if _millilitres(brain) < LIMITS["brain"].volume[0]:
        return np.zeros_like(brain)
    near = np.zeros_like(brain)
    beyond_mm = ((60, 30), (50, 30), (30, 30))
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    near[tuple(_wider(part, mm) for part, mm in zip(box, beyond_mm, strict=True))] = True
    return _filled(_body(hu)) & near


def _lungs(hu: NDArray[np.float32]) -> Mask:
    """Air within the body without airways and bowel gas, filled to include vessels, and dilated by 4 mm."""
    body = _filled(_body(hu))
    air = body & (hu < AIR_HU)
    gas = hu < GAS_HU
    of_slices = _Parts.of(air, _IN_PLANE)
    is_airway = (of_slices.millilitres < _SMALL_ML) & (of_slices.share(gas, _eroded(air, 1)) > _MAX_GAS_SHARE)
    air &= of_slices.kept(~is_airway)
    parts, core = _Parts.of(air), _eroded(air, 3)
    is_lung = (parts.share(core, air) > _MIN_CORE_SHARE) & (parts.share(gas, core) < _MAX_GAS_SHARE)
    lungs = parts.kept(is_lung & (parts.millilitres > 0.1 * parts.millilitres.max(initial=0)))
    return _dilated(_filled(_closed(lungs, 4), _SMALL_ML), 2) & body


_FINDERS: dict[OrganName, Callable[[NDArray[np.float32]], Mask]] = {"brain": _brain, "head": _head, "lungs": _lungs}


def _body(hu: NDArray[np.float32]) -> Mask:
    """The largest part denser than lung that is connected by more than 8 mm, unlike the shell of the table."""
    return _dilated(_largest(_eroded(hu > AIR_HU, 2)), 2)


def _enclosed(mask: Mask) -> Mask:
    """Voxels that see the mask in at least ``_SIDES`` of the eight directions within their axial slice."""
    sides = _both_ways(mask, 1) + _both_ways(mask, 2) + _diagonally(mask)
    return sides + np.flip(_diagonally(np.flip(mask, 2)), 2) >= _SIDES


def _both_ways(mask: Mask, axis: int) -> NDArray[np.int8]:
    """In how many of the two directions along an axis each voxel sees the mask."""
    before = np.maximum.accumulate(mask, axis).astype(np.int8)
    return before + np.flip(np.maximum.accumulate(np.flip(mask, axis), axis), axis)


def _diagonally(mask: Mask) -> NDArray[np.int8]:
    """Like :func:`_both_ways` along a diagonal, which is a column after each row is shifted by one more voxel."""
    depth, height, width = mask.shape
    skewed = np.zeros((depth, height, width + height), bool)
    skewed[:, :, :width] = mask
    rows = height * (width + height - 1)
    columns = skewed.reshape(depth, -1)[:, :rows].reshape(depth, height, -1)
    sides = np.zeros((depth, height * (width + height)), np.int8)
    sides[:, :rows] = _both_ways(columns, 1).reshape(depth, -1)
    return sides.reshape(skewed.shape)[:, :, :width]


def _filled(mask: Mask, most_ml: float = np.inf) -> Mask:
    """Fill holes in each axial slice, up to a volume of ``most_ml`` in the slice."""
    parts = _Parts.of(~mask, _IN_PLANE)
    edges = [parts.labels[:, [0, -1]], parts.labels[:, :, [0, -1]]]
    is_hole = parts.millilitres <= most_ml
    touching = np.unique(np.concatenate([edge.ravel() for edge in edges]))
    is_hole[touching[touching > 0] - 1] = False  # 0 is the mask, where it reaches the edge
    return mask | parts.kept(is_hole)


def _dilated(mask: Mask, steps: int, axes: Sequence[int] = (0, 1, 2)) -> Mask:
    return ~_eroded(~mask, steps, axes, beyond=True)


def _eroded(mask: Mask, steps: int, axes: Sequence[int] = (0, 1, 2), *, beyond: bool = False) -> Mask:
    """Erode by neighbours along the axes; ``beyond`` is whether the mask continues beyond the grid's edge.

    The result is that of SciPy's ``binary_erosion``, in a seventh of its time.
    """
    for _ in range(steps):
        eroded = mask.copy()
        for axis in axes:
            voxels, before = np.moveaxis(eroded, axis, 0), np.moveaxis(mask, axis, 0)
            voxels[1:] &= before[:-1]
            voxels[:-1] &= before[1:]
            if not beyond:
                voxels[[0, -1]] = False
        mask = eroded
    return mask


def _closed(mask: Mask, steps: int, axes: Sequence[int] = (0, 1, 2)) -> Mask:
    """Close gaps of up to ``2 * steps`` voxels, also at the grid's edge."""
    return _eroded(_dilated(mask, steps, axes), steps, axes, beyond=True)


def _largest(mask: Mask) -> Mask:
    parts = _Parts.of(mask)
    return parts.kept(parts.millilitres == parts.millilitres.max(initial=0))


def _wider(part: slice, mm: tuple[float, float]) -> slice:
    before, after = (round(one / STEP_MM) for one in mm)
    return slice(max(0, part.start - before), part.stop + after)


@dataclass(frozen=True)
class _Parts:
    """Connected components of a mask, numbered from 1; 0 is outside the mask."""

    labels: NDArray[np.int32]
    n: int

    @classmethod
    def of(cls, mask: Mask, structure: Mask | None = None) -> _Parts:
        return cls(*cast("tuple[NDArray[np.int32], int]", ndimage.label(mask, structure)))

    def _count(self, labels: NDArray[np.int32]) -> NDArray[np.integer]:
        return np.bincount(labels.ravel(), minlength=self.n + 1)[1:]

    @property
    def millilitres(self) -> NDArray[np.float64]:
        """Volume of each component in ml, shape [n]."""
        return self._count(self.labels) * STEP_MM**3 / 1000

    def share(self, having: Mask, within: Mask) -> NDArray[np.float64]:
        """Share of each component's voxels in ``within`` that are also in ``having``, shape [n]."""
        labels = self.labels[within]
        return self._count(labels[having[within]]) / np.maximum(self._count(labels), 1)

    def kept(self, chosen: Mask) -> Mask:
        """Mask of the components for which ``chosen``, shape [n], is true."""
        return np.concatenate([[False], chosen])[self.labels]
