"""The folder in which a user stores published weights, so that a name alone is enough; filled only on request."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from med_transfer.backbones.spec import BackboneSpec


def store_folder() -> Path:
    """Return ``$MED_TRANSFER_BACKBONES``, or ``med_transfer/backbones`` in the XDG data folder of the user."""
    chosen = os.environ.get("MED_TRANSFER_BACKBONES", "")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or str(Path("~/.local/share").expanduser())
    return Path(base, "med_transfer", "backbones")


def stored_weights(spec: BackboneSpec) -> Path | None:
    """Return a backbone's weights: imported, else as published in the store folder, else shipped; None if absent."""
    names = [f"{spec.name}.safetensors", *(spec.weights.files if spec.weights else ())]
    shipped = spec.weights.shipped if spec.weights else None
    return next((path for name in names if (path := store_folder() / name).exists()), shipped)


def weights_at_hand(spec: BackboneSpec) -> bool:
    """Whether ``load_backbone`` finds weights by name alone: an imported or shipped file, or an installed package."""
    if spec.weights is None:
        return False
    if stored_weights(spec):
        return True
    return spec.weights.package is not None and importlib.util.find_spec(spec.weights.package) is not None
