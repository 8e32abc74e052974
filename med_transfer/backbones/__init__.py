"""Pretrained encoders: a registry of plain entries, and loading that counts what it loaded."""

from med_transfer.backbones.encoder import Encoder, channels_last
from med_transfer.backbones.loading import LoadedBackbone, import_backbone, load_backbone
from med_transfer.backbones.registry import backbones, find_backbone
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource, describe
from med_transfer.backbones.weights import LoadReport

__all__ = [
    "BackboneSpec",
    "Encoder",
    "InputSpec",
    "LoadReport",
    "LoadedBackbone",
    "WeightsSource",
    "backbones",
    "channels_last",
    "describe",
    "find_backbone",
    "import_backbone",
    "load_backbone",
]
