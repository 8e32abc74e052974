"""The folder where a user keeps published weights, so that a name alone is enough; filled only on request."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors.torch

from med_transfer.atomic import atomic_path
from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.spec import BackboneSpec


def store_folder() -> Path:
    """``MED_TRANSFER_BACKBONES``, or ``med_transfer/backbones`` in the user's data folder (XDG base directories)."""
    chosen = os.environ.get("MED_TRANSFER_BACKBONES", "")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_DATA_HOME") or str(Path("~/.local/share").expanduser())
    return Path(base, "med_transfer", "backbones")


def stored_weights(spec: BackboneSpec) -> Path | None:
    """The imported weights of a backbone, its published file or folder in the user's folder, or what comes with it."""
    names = [f"{spec.name}.safetensors", *(spec.weights.files if spec.weights else ())]
    shipped = spec.weights.shipped if spec.weights else None
    return next((path for name in names if (path := store_folder() / name).exists()), shipped)


def store_weights(spec: BackboneSpec, encoder: Encoder, source_sha256: str) -> Path:
    """Keep an encoder under its backbone's name, as safetensors with its origin in the metadata. Raises OutputError."""
    path = store_folder() / f"{spec.name}.safetensors"
    origin = {"backbone": spec.name, "source_sha256": source_sha256, "licence": spec.licence}
    if spec.plan is not None:
        origin["plan"] = spec.plan.model_dump_json()
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=origin)
    return path
