"""Description of a network that its name does not determine, stored with the weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PLAN_METADATA = "plan"  # key in the header of a weights file

_Positive = Annotated[float, Field(gt=0)]
_Voxels = Annotated[int, Field(ge=1, le=4096)]
_Size = Annotated[int, Field(ge=1, le=16)]
_Triple = tuple[_Size, _Size, _Size]


class UNetArchitecture(BaseModel):
    """Architecture of the contracting path of an nnU-Net; every sequence has one entry per stage.

    Attributes:
        kind: ``plain`` for PlainConvUNet, ``residual`` for ResidualEncoderUNet.
        widths: number of channels.
        kernels: kernel sizes along (depth, height, width); odd.
        strides: strides of the first convolution.
        repeats: number of convolutions (plain) or of two-convolution blocks (residual).
        conv_bias: whether convolutions have a bias.
        norm: normalisation after each convolution.
        norm_eps: value added to the variance.
        norm_affine: whether the normalisation has scale and shift parameters.
        slope: negative slope of the leaky ReLU; 0 is a plain ReLU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["plain", "residual"]
    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=2, max_length=12)]
    kernels: tuple[_Triple, ...]
    strides: tuple[_Triple, ...]
    repeats: tuple[_Size, ...]
    conv_bias: bool = True
    norm: Literal["instance", "batch"] = "instance"
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    norm_affine: bool = True
    slope: Annotated[float, Field(ge=0, lt=1)] = 0.01

    @model_validator(mode="after")
    def _one_entry_a_stage(self) -> UNetArchitecture:
        for name in ("kernels", "strides", "repeats"):
            if len(getattr(self, name)) != len(self.widths):
                raise ValueError(f"{len(getattr(self, name))} {name} for {len(self.widths)} stages")
        if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError("a convolution with an even kernel")
        return self

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """Input voxels per voxel of the deepest map, along (depth, height, width)."""
        depth = height = width = 1
        for stride in self.strides:
            depth, height, width = depth * stride[0], height * stride[1], width * stride[2]
        return depth, height, width


class NetworkPlan(BaseModel):
    """Architecture and pretraining input of a network; every triple is along (depth, height, width).

    Bundles, pretrained encoders and imported weights files contain it, so that the network can be rebuilt without the
    model's own folder.

    Attributes:
        described_by: human-readable name of the source.
        architecture: architecture of the encoder.
        orientation: directions in which depth, height and width increase.
        spacing_mm: voxel spacing in pretraining.
        shape: patch shape in pretraining, in voxels.
        window_hu: window in HU that is clipped and mapped to ``output_range``.
        output_range: values at the lower and upper end of the window.
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
