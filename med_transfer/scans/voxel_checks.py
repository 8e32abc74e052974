"""Check whether voxels can be a scan, and whether they are in Hounsfield units.

The unit is judged by the image itself: air and soft tissue have known Hounsfield units, whatever the header says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UnusableVoxels
from med_transfer.errors.sentence import Sentence

_INT16 = np.iinfo(np.int16)
AIR_HU = (-1100.0, -650.0)  # air, or lung filling a narrow field of view
BODY_HU = (-220.0, 220.0)  # fat, water, muscle, contrast-enhanced organs
_MIN_SPREAD_HU = 20  # z-scores and values scaled to [-1, 1] have less; no measured scan does
_STEP_HU = 16
_WINDOW_HU = (-4096, 8192)
_SMOOTH = np.array([1, 2, 3, 2, 1]) / 9
_MIN_SHARE = 0.02  # of the voxels, for a significant peak
_AIR_TO_BODY_HU = 400  # peaks closer to each other are not air and body
_INVERTED_HU = 300
_MIN_WIDTH = 32  # voxels; a smaller crop may contain any tissue
_MAX_VOXELS = 1_000_000


def narrow(values: NDArray) -> NDArray:
    """Convert to int16 if lossless, else to float32; values beyond its range become infinite and are refused later."""
    if values.dtype == np.int16:
        return values
    if values.size and np.isfinite(low := values.min()) and np.isfinite(high := values.max()):
        fits = _INT16.min <= low and high <= _INT16.max
        whole = np.issubdtype(values.dtype, np.integer) or values.dtype == bool
        if fits and (whole or np.array_equal(np.rint(values), values)):
            return values.astype(np.int16)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def require_finite(voxels: NDArray, where: object) -> None:
    """Raise UnusableVoxels for NaN or infinite voxels."""
    if voxels.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(voxels)))):
        raise UnusableVoxels(
            Sentence("{bad} of {size} voxels are NaN or infinite", bad=bad, size=voxels.size),
            where=where,
            expected="finite values",
        )


def require_usable(voxels: NDArray, where: object) -> None:
    """Raise UnusableVoxels for NaN, infinite or constant voxels [depth, height, width]."""
    require_finite(voxels, where)
    first = voxels[0, 0, 0]
    if (voxels[::8, ::8, ::8] == first).all() and (voxels == first).all():  # a sample settles it for most scans
        raise UnusableVoxels(Sentence("every voxel is {first}", first=first), where=where, expected="an image")


def hounsfield_doubt(voxels: NDArray) -> str:
    """Say why values cannot be a CT in Hounsfield units; empty if they can be, or if the image does not tell.

    A field of view with a patient in it has a histogram peak of air or lung and one of soft tissue, some 1000 HU apart.
    If both are found, they must be near their physical values: a missing rescale intercept shifts them, a wrong slope
    changes their distance, an inverted image swaps them. A crop within the body has no air; there only impossible
    ranges are doubted.

    Args:
        voxels: [depth, height, width].
    """
    values = _sample(voxels)
    low, high = float(values.min()), float(values.max())
    large = min(voxels.shape[1:]) >= _MIN_WIDTH
    if large and _border(voxels) > max(_middle(voxels) + _INVERTED_HU, BODY_HU[1]):
        return Sentence("values look inverted: the border of the image is denser than its middle")
    possible = high - low >= _MIN_SPREAD_HU and low >= _INT16.min and high <= -2 * _INT16.min
    if not possible or high < -700 or low > 300 or low >= 0:
        return Sentence("values do not look like Hounsfield units (from {low:g} to {high:g})", low=low, high=high)
    peaks = _peaks(values) if large else None
    if peaks is None:
        return ""
    air, body = peaks
    if AIR_HU[0] <= air <= AIR_HU[1] and BODY_HU[0] <= body <= BODY_HU[1]:
        return ""
    return Sentence(
        "air lies near {air:.0f} and the body near {body:.0f}, not near -1000 and 40 HU: the rescale may be wrong",
        air=air,
        body=body,
    )


def _sample(voxels: NDArray) -> NDArray:
    step = max(1, round((voxels.size / _MAX_VOXELS) ** (1 / 3)))
    return voxels[::step, ::step, ::step].ravel()


def _peaks(values: NDArray) -> tuple[float, float] | None:
    """Positions in HU of the lowest and highest significant peak, without padding; None if they are too close."""
    constant = values[values == values.min()]  # outside the reconstructed circle
    measured = values[values > values.min()] if len(constant) > _MIN_SHARE * len(values) else values
    bins = (_WINDOW_HU[1] - _WINDOW_HU[0]) // _STEP_HU
    counts, edges = np.histogram(measured, bins, _WINDOW_HU)
    counts = np.convolve(counts, _SMOOTH, mode="same")
    is_peak = (counts[1:-1] >= counts[:-2]) & (counts[1:-1] > counts[2:]) & (counts[1:-1] > counts.sum() * _MIN_SHARE)
    places = edges[1:-2][is_peak] + _STEP_HU / 2
    if len(places) < 2 or places[-1] - places[0] < _AIR_TO_BODY_HU:
        return None
    return float(places[0]), float(places[-1])


def _border(voxels: NDArray) -> float:
    plane = voxels[len(voxels) // 2]
    return float(np.median(np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])))


def _middle(voxels: NDArray) -> float:
    plane = voxels[len(voxels) // 2]
    rows, columns = (slice(n // 4, n - n // 4) for n in plane.shape)
    return float(np.median(plane[rows, columns]))
