"""Residual networks without published weights, trained from scratch or started from the user's own file."""

from __future__ import annotations

from functools import partial

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec

_PARAMETERS = {10: 14_355_520, 18: 33_160_000, 34: 63_469_632, 50: 46_155_072}
_random = partial(
    BackboneSpec,
    weights=None,
    licence="Apache-2.0 (code of MONAI)",
    commercial_use=True,
    source="https://github.com/Project-MONAI/MONAI",
    training_data="none",
)


def _input(smallest: int) -> InputSpec:
    return InputSpec(1, "SPL", (-1000.0, 1000.0), (-1.0, 1.0), minimum_shape=(smallest, smallest, smallest))


def _plain(depth: int) -> BackboneSpec:
    return _random(
        name=f"resnet{depth}",
        build=lambda: networks.plain_resnet(depth),
        input=_input(32),
        stage_channels=(256, 512, 1024, 2048) if depth == 50 else (64, 128, 256, 512),
        parameters=_PARAMETERS[depth],
        paper="Hara et al. 2018, arXiv:1711.09577",
    )


def _slim(width: int, parameters: int, notes: str) -> BackboneSpec:
    return _random(
        name=f"resnet18-w{width}",
        build=lambda: networks.slim_resnet(width),
        input=_input(16),
        stage_channels=(width, 2 * width, 4 * width, 8 * width),
        parameters=parameters,
        paper="He et al. 2016, arXiv:1512.03385",
        notes=notes,
    )


_OF_CROPS = _slim(
    32, 8_287_776, "Made for crops of about 32 voxels a side; med-transfer-small is this network with weights."
)
_OF_TRIALS = _slim(
    8, 519_048, "A sixteenth of resnet18-w32: to try a config or a pipeline in half the time, not to keep."
)

SPECS = (_OF_CROPS, _OF_TRIALS, *map(_plain, _PARAMETERS))
