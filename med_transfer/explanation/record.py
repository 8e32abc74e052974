"""explanation.json: what a map explains, how it was computed, and how reliable it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from med_transfer.errors.numbers import rounded
from med_transfer.explanation.explained import Explanation
from med_transfer.explanation.heat import Method
from med_transfer.explanation.mapping import mask_outside_scan
from med_transfer.explanation.occlusion import Occlusion
from med_transfer.explanation.settings import Fill, MapSettings, MethodName
from med_transfer.scans import Region, geometry
from med_transfer.scans.geometry import Grid

MAP_FILE, PICTURE_FILE, RECORD_FILE = "map.nii.gz", "picture.png", "explanation.json"
STATEMENT = (
    "The map shows where the network found what it takes for evidence of the class, where hiding the scan lowers the "
    "probability, or the weight of each slice or tile. It does not show why the network gives this answer, nor that "
    "the place is a finding. Research use only."
)


_IN_PADDING = "The map is strongest outside of the scan, in what pads it."


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class DeletionRecord(_Record):
    """See :class:`~med_transfer.explanation.faithfulness.Deletion`."""

    hidden_share: float
    probability_drop: float
    random_probability_drop: float
    n_random: int
    as_large_at_random: float


class SanityRecord(_Record):
    """See :class:`~med_transfer.explanation.sanity.Sanity`."""

    rank_correlation: float
    correlations: tuple[float, ...]
    passed: bool


class ExplanationRecord(_Record):
    """Content of ``explanation.json``, without names of scans or patients.

    Attributes:
        probability: calibrated probability of the class, by the network alone.
        predicted: the network's call at its operating point.
        element_mm: resolution of the map, along depth, height, width of the network's input.
        stage, window_mm, stride_mm: parameters of the method as used (a cube is rounded to voxels); None without them.
        peak: largest value of the map within the scan.
        peak_lps_mm: position of the peak.
        seen_centre_lps_mm, seen_size_mm: the box that the network saw; the map is 0 outside.
        fused: whether the bundle's final answer comes from a fusion, of which this map explains only the network.
    """

    schema_version: Literal["1"] = Field(default="1", alias="schema")
    method: MethodName
    class_name: str
    probability: float
    predicted: str
    stage: int | None
    window_mm: tuple[float, float, float] | None
    stride_mm: tuple[float, float, float] | None
    fill: Fill
    element_mm: tuple[float, float, float]
    peak: float
    peak_lps_mm: tuple[float, float, float]
    seen_centre_lps_mm: tuple[float, float, float]
    seen_size_mm: tuple[float, float, float]
    deletion: DeletionRecord | None
    sanity: SanityRecord | None
    doubts: tuple[str, ...]
    fused: bool
    files: dict[str, str] = {"map": MAP_FILE, "picture": PICTURE_FILE}
    statement: str = STATEMENT

    @property
    def sentence(self) -> str:
        """Class, probability, position of the peak, and all doubts, for the terminal."""
        x, y, z = self.peak_lps_mm
        place = f"{self.method} is strongest at {round(x)}, {round(y)}, {round(z)} mm (LPS)"
        return " ".join([f"{self.class_name} {rounded(self.probability, 2)}; {place}.", *self.doubts])


def record_of(
    explanation: Explanation,
    method: Method,
    settings: MapSettings,
    grids: tuple[Grid, Grid],
    class_name: str,
    predicted: str,
    fused: bool,
) -> ExplanationRecord:
    """Return the record of one map.

    Args:
        explanation: the map and its checks.
        method, settings: method and settings that it was computed with.
        grids: grids of the input and of the scan, outside which the input is padding.
        class_name: the class that it explains.
        predicted: the network's call.
        fused: whether the bundle has a fusion.
    """
    grid, scan = grids
    spacing = np.array(geometry.spacing_mm(grid.affine))[::-1]
    occlusion = method if isinstance(method, Occlusion) else None
    heat, hidden, checked = explanation.heat, explanation.deletion, explanation.sanity
    seen = seen_region(grid)
    on_scan = replace(heat, values=mask_outside_scan(heat.values, grid, scan))
    peak = float(np.nanmax(on_scan.values))
    outside = [_IN_PADDING] if heat.values.max() > peak and not heat.empty else []
    return ExplanationRecord(
        method=settings.method,
        class_name=class_name,
        probability=explanation.probability,
        predicted=predicted,
        stage=heat.stage,
        window_mm=_triple(np.array(occlusion.window) * spacing) if occlusion else None,
        stride_mm=_triple(np.array(occlusion.stride) * spacing) if occlusion else None,
        fill=settings.fill,
        element_mm=_triple(np.array(heat.element_voxels) * spacing),
        peak=peak,
        peak_lps_mm=_triple(geometry.to_world_mm(grid.affine, on_scan.peak[::-1])),
        seen_centre_lps_mm=seen.centre_mm,
        seen_size_mm=seen.size_mm,
        deletion=hidden
        and DeletionRecord(
            hidden_share=hidden.share,
            probability_drop=hidden.drop,
            random_probability_drop=hidden.random_drop,
            n_random=len(hidden.random_drops),
            as_large_at_random=hidden.as_large_at_random,
        ),
        sanity=checked
        and SanityRecord(
            rank_correlation=checked.correlation, correlations=checked.correlations, passed=checked.passed
        ),
        doubts=(*explanation.doubts, *outside),
        fused=fused,
    )


def seen_region(grid: Grid) -> Region:
    """Return the box that the network sees, aligned with the patient's axes, in LPS mm."""
    size = np.abs(grid.affine[:3, :3]) @ np.array(grid.shape[::-1])
    return Region(_triple(geometry.centre_mm(grid.affine, grid.shape)), _triple(size))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (round(float(value), 3) for value in values)
    return first, second, third
