"""Registry of backbones by name."""

from __future__ import annotations

import difflib

from med_transfer.backbones.catalogue import SPECS
from med_transfer.backbones.spec import BackboneSpec
from med_transfer.errors import UnknownBackbone

_REGISTRY = {spec.name: spec for spec in SPECS}


def backbones() -> dict[str, BackboneSpec]:
    """Return all backbones by name."""
    return dict(_REGISTRY)


def find_backbone(name: str) -> BackboneSpec:
    """Return the backbone of this name.

    Raises:
        UnknownBackbone: there is none; the message suggests similar names.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    nearest = difflib.get_close_matches(str(name).lower(), _REGISTRY, n=3, cutoff=0.4)
    raise UnknownBackbone(
        f"unknown backbone {name!r}",
        expected=f"{' or '.join(nearest)} perhaps" if nearest else "the name of an entry",
        action="`med-transfer backbones list` shows all of them",
    )
