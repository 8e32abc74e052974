"""A network that is described by a file rather than by its name: small enough to travel with the weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from med_transfer.backbones.networks.nnunet import UNetArchitecture

_Positive = Annotated[float, Field(gt=0)]
_Voxels = Annotated[int, Field(ge=1, le=4096)]


class NetworkPlan(BaseModel):
    """The architecture, and the input that it was trained on; every triple is along (depth, height, width).

    A bundle and an imported weights file carry it, so that the network is built again without the model's own folder.

    Attributes:
        described_by: where this was read, for a person.
        architecture: of the encoder.
        orientation: the side to which depth, height and width grow.
        spacing_mm: of the pretraining.
        shape: voxels of a patch in the pretraining.
        window_hu: Hounsfield units that are clipped and mapped to the ends of ``output_range``.
        output_range: value of the lower and of the upper end of the window.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    described_by: str
    architecture: UNetArchitecture
    orientation: Annotated[str, Field(pattern="^[LRAPIS]{3}$")]
    spacing_mm: tuple[_Positive, _Positive, _Positive]
    shape: tuple[_Voxels, _Voxels, _Voxels]
    window_hu: tuple[float, float]
    output_range: tuple[float, float]

    @model_validator(mode="after")
    def _ranges_rise(self) -> NetworkPlan:
        for name in ("window_hu", "output_range"):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"{name} from {low:g} to {high:g} does not rise")
        return self
