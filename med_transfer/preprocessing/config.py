"""What the network sees: orientation, spacing, region, intensities and shape. Saved in the bundle."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(ge=8, le=1024)]
Modality = Literal["CT", "MR", "PT"]
Normalisation = Literal["window", "zscore"]


class PreprocessingConfig(BaseModel):
    """Every triple is in array order: depth, height, width.

    Attributes:
        orientation: the side to which the array axes grow; ``SPL`` is the order of plain axial CT.
        spacing_mm: voxel size; None fits the whole region into ``shape``.
        shape: voxels of the network's input.
        modality: DICOM series of another modality are rejected; None takes every one. Other files state none.
        normalisation: which values are clipped to and mapped linearly to ``output_range``: a fixed ``window``, or each
            scan's own mean and ``clip_sd`` standard deviations to both sides (``zscore``; see ``zscore.py``).
        window_hu: of ``window``, in Hounsfield units for CT, in the file's unit otherwise.
        clip_sd: of ``zscore``.
        output_range: what the lower and the upper end become.
        region: ``roi`` centres on the region that the cohort table gives; ``foreground`` on the body (above -500 HU,
            for ``zscore`` above the scan's own threshold);
            ``whole`` on the middle of the scan (for files already cropped to what matters).
        outside: beyond the scan's edge, ``edge`` repeats the last voxel, ``floor`` fills the window's lower end.
        max_gap_mm: a series with uneven gaps is interpolated where none is wider, and rejected otherwise (0: always).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    orientation: str = "SPL"
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    shape: tuple[Size, Size, Size] = (64, 96, 96)
    modality: Modality | None = None
    normalisation: Normalisation = "window"
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    clip_sd: Positive = 4.0
    output_range: tuple[float, float] = (-1.0, 1.0)
    region: Literal["roi", "foreground", "whole"] = "whole"
    outside: Literal["edge", "floor"] = "edge"
    max_gap_mm: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("orientation")
    @classmethod
    def _three_axes(cls, letters: str) -> str:
        if sorted({"R": "L", "A": "P", "I": "S"}.get(x, x) for x in letters.upper()) != ["L", "P", "S"]:
            raise ValueError("three letters, one each of R/L, A/P and S/I, for example SPL")
        return letters.upper()

    @model_validator(mode="after")
    def _ranges_rise(self) -> PreprocessingConfig:
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError("window_hu must rise, for example [-1000, 400]")
        if self.output_range[0] >= self.output_range[1]:
            raise ValueError("output_range must rise, for example [0, 1]")
        return self
