"""Intensity windows: fixed, or computed for each scan (z-scores). Defaults are in ``config.py``.

MR values have no unit: a tissue may be bright in one scan and dark in the next. Each scan is therefore normalised by
its own statistics, as in nnU-Net (Isensee et al. 2021, Nature Methods 18:203). The amount of air depends on the field
of view, so only the foreground counts: voxels above t2 + 0.1 (t98 - t2), where t2 and t98 are the 2nd and 98th
percentile, the threshold of BET (Smith 2002, Human Brain Mapping 17:143). Padding (voxels at the scan's lowest value)
is excluded from the percentiles. So that a few very bright voxels (vessels, metal) do not set the scale, the foreground
is clipped to its 0.5th and 99.5th percentile before mean and standard deviation are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UnusableVoxels
from med_transfer.preprocessing.config import PreprocessingConfig
from med_transfer.scans import Volume, geometry

ROBUST_RANGE = (2.0, 98.0)  # percentiles
FOREGROUND_SHARE = 0.1  # of the robust range
CLIPPED_TO = (0.5, 99.5)  # percentiles of the foreground
_MAX_VOXELS = 1_000_000  # enough for two decimals of a mean; percentiles of a whole CT would take seconds


def window_of(volume: Volume, config: PreprocessingConfig) -> tuple[float, float]:
    """Lower and upper end of a scan's window, in its unit: fixed, or from its z-scores. Raises UnusableVoxels."""
    return config.window_hu if config.normalisation == "window" else zscore_window(volume, config.clip_sd)


def apply_window(voxels: NDArray[np.float32], window: tuple[float, float], output_range: tuple[float, float]) -> None:
    """Clip to ``window`` and map that range linearly to ``output_range``, in place.

    Like MONAI's ``ScaleIntensityRange`` with ``clip=True``, but slice by slice, so that each slice stays in the CPU
    cache.

    Args:
        voxels: [depth, height, width], modified in place.
        window: lower and upper end, in the unit of the voxels.
        output_range: what these become.
    """
    (low, high), (bottom, top) = window, output_range
    scale = (top - bottom) / (high - low)
    for image in voxels:
        image *= scale
        image += bottom - low * scale
        np.clip(image, bottom, top, out=image)


def undo_windows(channels: NDArray[np.float32], configs: Sequence[PreprocessingConfig]) -> NDArray[np.float32]:
    """Recover the values of a scan from its windows, at each voxel from the narrowest one that is not clipped.

    Values beyond the widest window become its nearest end.

    Args:
        channels: [channel, depth, height, width], windows of one scan.
        configs: of each channel, all with fixed windows.

    Returns:
        Values in the scan's unit, [depth, height, width].
    """
    values: NDArray[np.float32] | None = None
    for image, config in sorted(zip(channels, configs, strict=True), key=lambda pair: -np.ptp(pair[1].window_hu)):
        (low, high), (bottom, top) = config.window_hu, config.output_range
        seen = low + (image - bottom) * ((high - low) / (top - bottom))
        values = seen if values is None else np.where((image > bottom) & (image < top), seen, values)
    assert values is not None  # an input has a channel
    return values.astype(np.float32)


def foreground_threshold(volume: Volume) -> float:
    """The value, in the scan's unit, above which a voxel is foreground."""
    return _threshold(_sample(volume))


def zscore_window(volume: Volume, clip_sd: float) -> tuple[float, float]:
    """The values ``clip_sd`` standard deviations below and above the mean of the scan's foreground, in its unit.

    Independent of the order of the file's axes, and equivariant to positive scaling: if w is the window of a scan x,
    that of a x + b with a > 0 is a w + b.

    Raises:
        UnusableVoxels: the foreground is empty or has a single value.
    """
    values = _sample(volume)
    foreground = values[values > _threshold(values)]
    if foreground.size:
        foreground = np.clip(foreground, *np.percentile(foreground, CLIPPED_TO))
    sd = float(foreground.std()) if foreground.size else 0.0
    if not sd:
        raise UnusableVoxels(
            "the foreground has one value, so there is no scale for z-scores",
            where=volume.provenance.path,
            expected="a scan of a patient",
            action="Is it a mask? For values with a unit use normalisation window",
        )
    mean = float(foreground.mean())
    return mean - clip_sd * sd, mean + clip_sd * sd


def _threshold(values: NDArray[np.float64]) -> float:
    measured = values[values > values.min()]
    if not measured.size:
        return float(values.min())
    low, high = np.percentile(measured, ROBUST_RANGE)
    return float(low + FOREGROUND_SHARE * (high - low))


def _sample(volume: Volume) -> NDArray[np.float64]:
    """At most about a million voxels, evenly spread over the patient, whatever the order of the file's axes."""
    voxels, _ = geometry.canonical(volume.voxels, volume.affine)
    step = max(1, math.ceil((voxels.size / _MAX_VOXELS) ** (1 / 3)))
    return voxels[::step, ::step, ::step].ravel().astype(np.float64)
