"""Pretrained encoders: a registry of plain entries, and loading that counts what it loaded."""

from med_transfer.backbones.encoder import Encoder, Features, InstanceChoice, InstancePooling, channels_last
from med_transfer.backbones.freed_memory import keep_freed_memory
from med_transfer.backbones.nnunet.plan import NetworkPlan
from med_transfer.backbones.registry import backbones, find_backbone
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource, describe
from med_transfer.backbones.weights.download import download_weights
from med_transfer.backbones.weights.loading import (
    LoadedBackbone,
    from_scratch,
    import_backbone,
    load_backbone,
    weights_at_hand,
    weights_file,
)
from med_transfer.backbones.weights.matching import LoadReport

__all__ = [
    "BackboneSpec",
    "Encoder",
    "Features",
    "InputSpec",
    "InstanceChoice",
    "InstancePooling",
    "LoadReport",
    "LoadedBackbone",
    "NetworkPlan",
    "WeightsSource",
    "backbones",
    "channels_last",
    "describe",
    "download_weights",
    "find_backbone",
    "from_scratch",
    "import_backbone",
    "keep_freed_memory",
    "load_backbone",
    "weights_at_hand",
    "weights_file",
]
