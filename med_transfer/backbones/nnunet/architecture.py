"""Read the network class and its arguments from an nnU-Net v2 plan.

Unknown arguments are refused by name: they could change what the network computes without changing the name or shape of
any tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from med_transfer.backbones.nnunet.plan import UNetArchitecture

_Size = int | tuple[int, int, int]
_KINDS: dict[str, Literal["plain", "residual"]] = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}
_REPEATS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}


class _NormArguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    eps: float = 1e-5
    affine: bool | None = None
    momentum: float | None = None  # of running statistics; does not affect inference


class _ActivationArguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    inplace: bool = False
    negative_slope: float = 0.01


class _Arguments(BaseModel):
    """``arch_kwargs`` of a plan. Literal types list the only values that are supported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_stages: int
    features_per_stage: int | tuple[int, ...]
    conv_op: Literal["torch.nn.modules.conv.Conv3d", "torch.nn.Conv3d"]
    kernel_sizes: int | tuple[_Size, ...]
    strides: int | tuple[_Size, ...]
    n_conv_per_stage: int | tuple[int, ...] | None = None
    n_blocks_per_stage: int | tuple[int, ...] | None = None
    n_conv_per_stage_decoder: int | tuple[int, ...] | None = None
    conv_bias: bool = False
    norm_op: Literal[
        "torch.nn.modules.instancenorm.InstanceNorm3d",
        "torch.nn.InstanceNorm3d",
        "torch.nn.modules.batchnorm.BatchNorm3d",
        "torch.nn.BatchNorm3d",
    ]
    norm_op_kwargs: _NormArguments | None = None
    dropout_op: None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: Literal[
        "torch.nn.LeakyReLU",
        "torch.nn.modules.activation.LeakyReLU",
        "torch.nn.ReLU",
        "torch.nn.modules.activation.ReLU",
    ]
    nonlin_kwargs: _ActivationArguments | None = None
    nonlin_first: Literal[False] = False
    deep_supervision: bool = False
    block: None = None
    bottleneck_channels: None = None
    stem_channels: None = None


def read_architecture(settings: Mapping[str, Any]) -> UNetArchitecture:
    """Return the architecture of a configuration of ``plans.json``.

    Both formats of nnU-Net are supported: ``architecture`` with the class and its arguments, and the older
    ``UNet_class_name``, ``UNet_base_num_features``, ``n_conv_per_stage_encoder``, ...

    Raises:
        KeyError: a setting is missing.
        ValueError: the network class or an argument is not supported (pydantic's ValidationError for arguments).
    """
    kind, arguments = _new_form(settings) if "architecture" in settings else _old_form(settings)
    if kind not in _KINDS:
        raise ValueError(f"network class {kind}")
    described = _Arguments.model_validate(arguments)
    repeats = getattr(described, _REPEATS[kind])
    if repeats is None:
        raise KeyError(_REPEATS[kind])
    number, norm = described.n_stages, described.norm_op_kwargs or _NormArguments()
    batch, activation = "BatchNorm" in described.norm_op, described.nonlin_kwargs or _ActivationArguments()
    return UNetArchitecture(
        kind=_KINDS[kind],
        widths=_each(described.features_per_stage, number),
        kernels=tuple(_triple(size) for size in _each(described.kernel_sizes, number)),
        strides=tuple(_triple(size) for size in _each(described.strides, number)),
        repeats=_each(repeats, number),
        conv_bias=described.conv_bias,
        norm="batch" if batch else "instance",
        norm_eps=norm.eps,
        norm_affine=batch if norm.affine is None else norm.affine,  # PyTorch's own defaults
        slope=activation.negative_slope if "LeakyReLU" in described.nonlin else 0.0,
    )


def _new_form(settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    architecture = settings["architecture"]
    return architecture["network_class_name"].rpartition(".")[2], architecture["arch_kwargs"]


def _old_form(settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Network class and arguments for a plan without ``architecture``; nnU-Net's code fixed the other arguments."""
    kind, number = settings["UNet_class_name"], len(settings["n_conv_per_stage_encoder"])
    base, widest = settings["UNet_base_num_features"], settings["unet_max_num_features"]
    return kind, {
        "n_stages": number,
        "features_per_stage": [min(base * 2**stage, widest) for stage in range(number)],
        "conv_op": f"torch.nn.modules.conv.Conv{len(settings['patch_size'])}d",
        "kernel_sizes": settings["conv_kernel_sizes"],
        "strides": settings["pool_op_kernel_sizes"],
        _REPEATS.get(kind, ""): settings["n_conv_per_stage_encoder"],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
    }


def _each(value: Any, number: int) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * number


def _triple(size: _Size) -> tuple[int, int, int]:
    return size if isinstance(size, tuple) else (size, size, size)
