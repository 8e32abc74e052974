from .encoder import Encoder, Features, channels_last
from .instance_choice import InstanceChoice, InstancePooling
from .nnunet.plan import NetworkPlan
from .registry import backbones, find_backbone
from .spec import BackboneSpec, InputSpec, WeightsSource, describe
from .weights.download import download_weights
from .weights.loading import LoadedBackbone, from_scratch, import_backbone, load_backbone, weights_file
from .weights.matching import LoadReport
from .weights.store import weights_at_hand

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
    "load_backbone",
    "weights_at_hand",
    "weights_file",
]
