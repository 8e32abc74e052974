from .counting import count_parameters
from .genesis_unet import GenesisEncoder
from .nnunet import NNUNetEncoder
from .nodule_detector import NoduleDetectorEncoder
from .photograph import AsPhotograph
from .planar import timm_network, torchvision_resnet
from .published import beside_published
from .resnet import inflated_resnet, medicalnet, plain_resnet, slim_resnet
from .segresnet import ct_fm, plain_segresnet, vista3d
from .slices import SliceEncoder
from .stunet import STUNetEncoder
from .swin import swin_v1, swin_v2
from .tiles import TileEncoder
from .timm_volume import timm_rules
from .video import r3d18
from .volumetric import VolumetricEncoder

__all__ = [
    "AsPhotograph",
    "GenesisEncoder",
    "NNUNetEncoder",
    "NoduleDetectorEncoder",
    "STUNetEncoder",
    "SliceEncoder",
    "TileEncoder",
    "VolumetricEncoder",
    "beside_published",
    "count_parameters",
    "ct_fm",
    "inflated_resnet",
    "medicalnet",
    "plain_resnet",
    "plain_segresnet",
    "r3d18",
    "slim_resnet",
    "swin_v1",
    "swin_v2",
    "timm_network",
    "timm_rules",
    "torchvision_resnet",
    "vista3d",
]
