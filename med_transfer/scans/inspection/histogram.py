"""Histogram of a scan's values on a logarithmic scale, with the ranges of tissues."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence

_HU = (-1100.0, 1600.0)
_BINS = 135  # 20 HU each
_DECADES = 5  # from 0.001 % to 100 % of the voxels
# HU at 120 kV. Source: Bushberg et al., The Essential Physics of Medical Imaging, 4th ed., chapter 10.
_TISSUES = (
    (Sentence("air"), -1000.0, -1000.0),
    (Sentence("fat"), -120.0, -80.0),
    (Sentence("soft tissue"), 0.0, 80.0),
    (Sentence("bone"), 300.0, 1600.0),
)


@dataclass(frozen=True)
class Histogram:
    """Shares of voxels in bins of equal width. Positions are fractions of the picture's width or height, y downwards.

    Attributes:
        outline: (x, y) from left to right; y is 0 (top) for all voxels in one bin, 1 (bottom) for 0.001 % or less.
        ticks: position and label along the value axis.
        shares: position and label along the height.
        tissues: name, position of its lowest and of its highest value; empty unless values are Hounsfield units.
        unit: of the values.
        spoken: the histogram in a sentence, for screen readers.
    """

    outline: tuple[tuple[float, float], ...]
    ticks: tuple[tuple[float, str], ...]
    shares: tuple[tuple[float, str], ...]
    tissues: tuple[tuple[str, float, float], ...]
    unit: str
    spoken: str


def histogram(values: NDArray, *, hounsfield: bool) -> Histogram:
    """Histogram of a sample of voxels; values beyond the scale count in the outermost bins."""
    (low, high), tissues = (_HU, _TISSUES) if hounsfield else (_scale(values), ())
    counts, _ = np.histogram(np.clip(values, low, high), bins=_BINS, range=(low, high))
    shares = counts / max(1, values.size)
    heights = np.clip(np.log10(np.maximum(shares, 1e-12)) / _DECADES + 1, 0, 1)
    edges = np.linspace(0, 1, _BINS + 1)
    outline = [(x, 1 - y) for left, right, y in zip(edges, edges[1:], heights, strict=False) for x in (left, right)]
    return Histogram(
        outline=tuple((round(float(x), 4), round(float(y), 4)) for x, y in outline),
        ticks=tuple(((tick - low) / (high - low), f"{tick:g}") for tick in _ticks(low, high)),
        shares=tuple((d / _DECADES, f"{100 * 10.0**-d:g} %") for d in range(1, _DECADES)),
        tissues=tuple((name, (a - low) / (high - low), (b - low) / (high - low)) for name, a, b in tissues),
        unit="HU" if hounsfield else Sentence("stored value"),
        spoken=_spoken(values, hounsfield),
    )


def _scale(values: NDArray) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(values, [0.01, 99.9]))
    return (low, high) if high > low else (low, low + 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between ``low`` and ``high``."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
    return [float(tick) for tick in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]


def _spoken(values: NDArray, hounsfield: bool) -> str:
    shares = [10, 50, 90]
    low, middle, high = np.percentile(values, shares)
    unit = " HU" if hounsfield else ""
    return Sentence(
        "Histogram of values: a tenth below {low:.0f}{unit}, median {middle:.0f}{unit}, a tenth above {high:.0f}{unit}",
        low=low,
        middle=middle,
        high=high,
        unit=unit,
    )
