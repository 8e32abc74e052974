"""Networks whose architecture is stored with their weights: an nnU-Net folder, a bundle, or an imported file.

The catalogue entry is an outline, made by :func:`planned`; :func:`from_weights` completes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from med_transfer.backbones import networks
from med_transfer.backbones.nnunet.plan import PLAN_METADATA, NetworkPlan
from med_transfer.backbones.nnunet.plans import read_plans
from med_transfer.backbones.spec import BackboneSpec, InputSpec
from med_transfer.errors import BackboneError, WeightsNotFound
from med_transfer.errors.sentence import few
from med_transfer.errors.validation import first_problem

PLANS_FILE = "plans.json"
_BUNDLE_RECORD = "med_transfer.json"
_PRETRAINED = "encoder.safetensors"
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


def from_weights(outline: BackboneSpec, given: Path, stored_axes: str = "SPL") -> tuple[BackboneSpec, Path]:
    """Complete an entry from the description stored with its weights.

    Args:
        outline: the catalogue entry.
        given: an nnU-Net v2 model folder or a related path (a fold, a checkpoint, the data set folder above), a bundle,
            a pretraining's folder or encoder, or a ``.safetensors`` file that this program imported.
        stored_axes: see :func:`read_plans`.

    Returns:
        The completed entry, and the file or bundle that holds the tensors.

    Raises:
        WeightsNotFound: the path or a checkpoint does not exist.
        BackboneError: there is no description of the network, or it is damaged or unsupported.
    """
    if not given.exists():
        raise WeightsNotFound("no such file or folder", where=given, expected="the folder of an nnU-Net v2 model")
    if (record := _bundle_record(given)) is not None:
        return _counted(outline, _plan_of_bundle(record)), given
    given = given / _PRETRAINED if (given / _PRETRAINED).is_file() else given
    if given.suffix == ".safetensors":
        return _counted(outline, _plan_in_metadata(given)), given
    folder = _model_folder(given)
    parts = folder.name.split("__")
    plan = read_plans(folder / PLANS_FILE, parts[2] if len(parts) == 3 else "", stored_axes)
    return _counted(outline, plan), given if given.is_file() else _checkpoint(given, folder)


def _counted(outline: BackboneSpec, plan: NetworkPlan) -> BackboneSpec:
    entry = planned(outline, plan)
    return entry.built_by(entry.build)


def planned(outline: BackboneSpec, plan: NetworkPlan) -> BackboneSpec:
    """Return the entry with the architecture and input of a plan; its parameter count is still the outline's."""
    architecture = plan.architecture
    # Instance normalisation of a single voxel would give zero.
    least = 2 if architecture.norm == "instance" else 1
    depth, height, width = (least * stride for stride in architecture.total_stride)
    return replace(
        outline,
        build=lambda: networks.NNUNetEncoder(architecture),
        input=InputSpec(
            channels=1,
            orientation=plan.orientation,
            window_hu=plan.window_hu,
            output_range=plan.output_range,
            minimum_shape=(depth, height, width),
            spacing_mm=plan.spacing_mm,
            shape=plan.shape,
        ),
        stage_channels=architecture.widths[1:],
        plan=plan,
        from_weights=None,
    )


# The folder of an nnU-Net -------------------------------------------------------------------------------------


def _model_folder(given: Path) -> Path:
    """The folder with ``plans.json``: this one, a parent, or the only one below."""
    above = [given.parent, given.parent.parent] if given.is_file() else [given, given.parent]
    for folder in above:
        if (folder / PLANS_FILE).is_file():
            return folder
    below = sorted(file.parent for pattern in ("*/", "*/*/") for file in given.glob(pattern + PLANS_FILE))
    if len(below) == 1:
        return below[0]
    if below:
        raise BackboneError(
            f"{len(below)} models: {few([folder.name for folder in below])}",
            where=given,
            expected="one",
            action="Give the folder of one of them",
        )
    raise BackboneError(
        f"no {PLANS_FILE}, which says how the network is built and what it expects",
        where=given,
        expected=f"an nnU-Net v2 model ({PLANS_FILE}, fold_0/{_CHECKPOINTS[0]}) or a checkpoint in it",
        action="Copy the whole model folder, not the checkpoint alone",
    )


def _checkpoint(given: Path, model: Path) -> Path:
    """The checkpoint of the given fold, else of ``fold_all``, else of the first fold."""
    folds = sorted(model.glob("fold_*"), key=lambda fold: (fold.name != "fold_all", fold.name))
    for fold in [given] if given in folds else folds:
        for name in _CHECKPOINTS:
            if (fold / name).is_file():
                return fold / name
    raise WeightsNotFound(
        "no checkpoint", where=model, expected=f"fold_0/{_CHECKPOINTS[0]}", action="Copy the whole model folder"
    )


# Files written by this program --------------------------------------------------------------------------------


def _bundle_record(given: Path) -> Path | None:
    """The record of a bundle, given its folder or its weights file; None if it is not a bundle."""
    folder = given if given.is_dir() else given.resolve().parent.parent
    record = folder / _BUNDLE_RECORD
    return record if record.is_file() else None


def _plan_of_bundle(record: Path) -> NetworkPlan:
    try:
        content: Mapping[str, Any] = json.loads(record.read_text(encoding="utf-8"))["backbone"]
        name, plan = content["name"], content.get("plan")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(f"damaged ({error})", where=record, action="Copy the whole bundle folder again") from None
    if plan is None:
        raise BackboneError(f"a bundle of {name}", where=record, action=f"Give it to backbone {name}")
    return _plan(json.dumps(plan), record)


def _plan_in_metadata(file: Path) -> NetworkPlan:
    try:
        with safe_open(file, "pt") as content:
            plan = (content.metadata() or {}).get(PLAN_METADATA)
    except SafetensorError as error:
        raise BackboneError(f"truncated or damaged ({error})", where=file, action="Get the file again") from None
    if plan is None:
        raise BackboneError(
            "holds tensors but not how their network is built",
            where=file,
            expected="a file that med_transfer imported, a bundle, or the model's own folder",
            action="Names and shapes do not tell strides: give the model's folder",
        )
    return _plan(plan, file)


def _plan(text: str, where: Path) -> NetworkPlan:
    try:
        return NetworkPlan.model_validate_json(text)
    except ValidationError as error:
        found, key = first_problem(error)
        raise BackboneError(f"plan.{key}: {found}", where=where, expected="a plan of this version") from None
