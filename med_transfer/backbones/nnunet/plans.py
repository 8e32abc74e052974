"""Read ``plans.json`` of an nnU-Net v2 model: architecture, patch, spacing, axes, intensities.

Source: github MIC-DKFZ/nnUNet, documentation/explanation_plans_files.md and explanation_normalization.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from med_transfer.backbones.nnunet.architecture import read_architecture
from med_transfer.backbones.nnunet.plan import NetworkPlan
from med_transfer.errors import BackboneError
from med_transfer.errors.validation import first_problem

# A z-score is specific to a scan, a window is common to all. About half of a CT of the trunk is air: its mean is near
# -500 HU and its standard deviation 400 to 500 HU, so (HU + 500) / 500 approximates the z-score.
Z_SCORE_WINDOW_HU, Z_SCORE_RANGE = (-1000.0, 1000.0), (-1.0, 3.0)


def read_plans(path: Path, configuration: str, stored_axes: str) -> NetworkPlan:
    """Read one configuration of a ``plans.json``.

    Args:
        path: the file.
        configuration: for example ``3d_fullres``; empty for the only 3D one that is not the second of a cascade.
        stored_axes: directions in which depth, height and width of the training files increase. A plan implies them
            only if nnU-Net's reorienting reader was used, which then takes precedence.

    Raises:
        BackboneError: the file is damaged, or the configuration is missing or unsupported.
    """
    plans = _read_json(path)
    try:
        return _plan(plans, configuration, stored_axes, path)
    except ValidationError as error:
        found, key = first_problem(error)
        fault = f"{key or 'architecture'}: {found} (found {str(error.errors()[0]['input'])[:80]})"
    except KeyError as error:
        fault = f"{error.args[0]} is missing"
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        fault = f"cannot be understood ({error})"
    raise BackboneError(
        fault,
        where=path,
        expected="a 3D PlainConvUNet or ResidualEncoderUNet of nnU-Net v2 with one CT channel "
        "(CTNormalization; ZScoreNormalization is approximated)",
        action="Choose another model",
    )


def _plan(plans: Mapping[str, Any], configuration: str, stored_axes: str, path: Path) -> NetworkPlan:
    name = configuration or _only_one(plans["configurations"], path)
    settings = _inherited(plans["configurations"], name, path)
    if "previous_stage" in settings:
        raise ValueError(f"{name} is the second network of a cascade, which also reads the first one's result")
    axes = "SAR" if plans.get("image_reader_writer") == "NibabelIOWithReorient" else stored_axes  # z, y, x of RAS
    window_hu, output_range = _intensities(plans, settings)
    return NetworkPlan(
        described_by=f"{plans.get('dataset_name', path.parent.name)}, {name}",
        architecture=read_architecture(settings),
        orientation="".join(axes[axis] for axis in plans["transpose_forward"]),
        spacing_mm=_three(float, settings["spacing"]),
        shape=_three(int, settings["patch_size"]),
        window_hu=window_hu,
        output_range=output_range,
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(plans, dict):
            raise ValueError("not a table of settings")
        return plans
    except OSError as error:
        raise BackboneError(f"cannot be opened ({error.strerror})", where=path) from error
    except ValueError as error:  # not JSON, or not text
        raise BackboneError(
            f"damaged ({error})", where=path, expected="the JSON that nnU-Net wrote", action="Copy the model again"
        ) from None


# Configurations -----------------------------------------------------------------------------------------------


def _only_one(configurations: Mapping[str, Any], path: Path) -> str:
    usable = [
        name
        for name in configurations
        if name.startswith("3d") and "previous_stage" not in _inherited(configurations, name, path)
    ]
    if len(usable) == 1:
        return usable[0]
    raise BackboneError(
        f"{len(usable)} configurations in 3D ({', '.join(usable) or 'none'})",
        where=path,
        expected="one, or its name as the last part of the folder's name",
        action="Name the folder as nnU-Net does, for example nnUNetTrainer__nnUNetPlans__3d_fullres",
    )


def _inherited(configurations: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The settings of a configuration, including inherited ones."""
    settings: dict[str, Any] = {}
    passed: list[str] = []
    while name:
        if name not in configurations or name in passed:
            raise BackboneError(
                f"no configuration {name!r}" if name not in passed else f"{name} inherits from itself",
                where=path,
                expected=f"one of {', '.join(configurations)}",
                action="The folder's name ends in the configuration: TRAINER__PLANS__CONFIGURATION",
            )
        passed.append(name)
        settings = dict(configurations[name]) | settings
        name = str(configurations[name].get("inherits_from", ""))
    return settings


# Input --------------------------------------------------------------------------------------------------------


def _intensities(
    plans: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Window in HU and output range. CTNormalization clips to percentiles, subtracts the mean, divides by the SD."""
    schemes = list(settings["normalization_schemes"])
    if len(schemes) != 1:
        raise ValueError(f"{len(schemes)} input channels: {', '.join(schemes)}")
    if schemes[0] == "ZScoreNormalization":
        return Z_SCORE_WINDOW_HU, Z_SCORE_RANGE
    if schemes[0] != "CTNormalization":
        raise ValueError(f"intensities normalised by {schemes[0]}")
    per_channel = plans.get("foreground_intensity_properties_per_channel")
    statistics = (per_channel or plans["foreground_intensity_properties_by_modality"])["0"]
    low, high = float(statistics["percentile_00_5"]), float(statistics["percentile_99_5"])
    mean, deviation = float(statistics["mean"]), max(float(statistics["std"]), 1e-8)
    return (low, high), ((low - mean) / deviation, (high - mean) / deviation)


def _three(kind: type, values: Any) -> Any:
    first, second, third = (kind(value) for value in values)
    return first, second, third
