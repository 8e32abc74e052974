"""The published files as they are laid out: names, shapes and kinds of number, container, heads and decoders.

From the classes that wrote the files. Nothing here comes from med_transfer, MONAI or torchvision.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from residual_reference import (
    MEDICALNET_BLOCKS,
    inflated_plan,
    medicalnet_plan,
    names_and_shapes,
    nodule_plan,
    video_plan,
)
from segresnet_reference import ds_decoder, ds_encoder, old_decoder, old_encoder
from swin_reference import position_index, swin_transformer, unetr_convolutions
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
INTEGERS = ("num_batches_tracked", "relative_position_index")


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes:
        encoder: names and shapes as our encoder has them.
        rename: from there to the names in the file.
        rest: names and shapes of everything else in the file, as they are there.
        container: keys under which the tensors lie.
        beside: what lies beside them.
    """

    encoder: Shapes
    rename: Callable[[str], str]
    rest: Shapes = field(default_factory=dict)
    container: tuple[str, ...] = ()
    beside: Mapping[str, object] = field(default_factory=dict)

    def tensors(self, value: Callable[[str, tuple[int, ...]], Tensor]) -> dict[str, Tensor]:
        """Of the encoder as ``value`` gives them, of the rest zeros."""
        named = {self.rename(name): value(name, shape) for name, shape in self.encoder.items()}
        return named | {name: zeros(name, shape) for name, shape in self.rest.items()}

    def write(self, path: Path, value: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        content: dict = self.tensors(value)
        if path.suffix == ".safetensors":
            safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
            return
        for key in reversed(self.container):
            content = {**self.beside, key: content}
        torch.save(content, path)


def zeros(name: str, shape: tuple[int, ...]) -> Tensor:
    """One number in memory and in a PyTorch file, whatever the shape: a whole file costs nothing."""
    return torch.zeros((), dtype=torch.int64 if name.endswith(INTEGERS) else torch.float32).expand(shape)


def randomly(seed: int = 0) -> Callable[[str, tuple[int, ...]], Tensor]:
    """Values with which the signal neither dies nor explodes, in every tensor others."""
    generator = torch.Generator().manual_seed(seed)

    def value(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if name.endswith("relative_position_index"):
            return position_index()
        if len(shape) > 1 and not name.endswith("bias_table"):
            return torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        if name.endswith(("weight", "running_var")):
            return torch.rand(shape, generator=generator) + 0.5
        return torch.randn(shape, generator=generator) * 0.3

    return value


# Families ----------------------------------------------------------------------------------------------------------


def under(*components: str) -> Callable[[str], str]:
    return lambda name: ".".join([*components, name])


def medicalnet_file(depth: int) -> Published:
    return Published(dict(names_and_shapes(medicalnet_plan(depth))), under("module"), container=("state_dict",))


def merlin_file() -> Published:
    image = "encode_image.i3_resnet"
    rest = {
        f"{image}.classifier.weight": (1692, 2048, 1, 1, 1),
        f"{image}.classifier.bias": (1692,),
        f"{image}.contrastive_head.weight": (512, 2048, 1, 1, 1),
        f"{image}.contrastive_head.bias": (512,),
        "encode_text.text_encoder.embeddings.word_embeddings.weight": (50265, 768),
        "encode_text.text_encoder.encoder.layer.0.attention.self.query.weight": (768, 768),
        "encode_text.linear_layer.weight": (512, 768),
        "logit_scale": (),
    }
    return Published(dict(names_and_shapes(inflated_plan((3, 8, 36, 3)))), under(image), rest)


def ct_fm_file(first: int = 32, decoder: bool = False) -> Published:
    rest = dict(ds_decoder(first, 2)) if decoder else {}
    return Published(dict(ds_encoder(first)), under("encoder") if decoder else under(), rest)


def old_segresnet_file(first: int, classes: int, *components: str, **container) -> Published:
    rest = {".".join([*components, name]): shape for name, shape in old_decoder(first, classes)}
    return Published(dict(old_encoder(first)), under(*components), rest, **container)


SUPREM = {"container": ("net",), "beside": {"optimizer": {"state": {}}, "scheduler": {"last_epoch": 3}, "epoch": 3}}


def suprem_swin_file(first: int = 48) -> Published:
    rest = {f"module.backbone.{name}": shape for name, shape in unetr_convolutions(first, 32)}
    head = {
        "precls_conv.0.weight": (48,),
        "precls_conv.2.weight": (8, 48, 1, 1, 1),
        "GAP.0.weight": (768,),
        "GAP.3.weight": (256, 768, 1, 1, 1),
        "controller.weight": (153, 512, 1, 1, 1),
        "organ_embedding": (32, 512),
        "text_to_vision.weight": (256, 512),
    }
    rest |= {f"module.{name}": shape for name, shape in head.items()}
    return Published(dict(swin_transformer(first)), under("module", "backbone", "swinViT"), rest, **SUPREM)


def swin_5k_file(first: int = 48) -> Published:
    heads = {
        "rotation_head.weight": (4, 768),
        "contrastive_head.weight": (512, 768),
        "contrastive_head.bias": (512,),
        "conv.0.weight": (384, 768, 3, 3, 3),
        "conv.20.bias": (1,),
    }
    return Published(
        dict(swin_transformer(first)),
        lambda name: "module." + name.replace("mlp.linear", "mlp.fc"),
        {f"module.{name}": shape for name, shape in heads.items()},
        ("state_dict",),
    )


def swin_50k_file(first: int = 48) -> Published:
    rest = {
        "encoder.mask_token": (1, 1, 48),
        "encoder.norm.weight": (768,),
        "encoder.norm.bias": (768,),
        "decoder.conv_block1.conv1.conv.weight": (384, 768, 3, 3, 3),
        "out.conv.conv.weight": (1, 48, 1, 1, 1),
        "out.conv.conv.bias": (1,),
    }
    return Published(
        dict(swin_transformer(first)),
        lambda name: "encoder." + re.sub(r"^(layers\d\.0)", r"\1.0", name),
        rest,
        ("model",),
        {"epoch": 300},
    )


def voco_file(first: int) -> Published:
    """Of the self-supervised training: no decoder, and the projections of student and teacher."""
    rest = {f"backbone.{name}": shape for name, shape in unetr_convolutions(first, 21, decoder=False)}
    for role in ("student", "teacher"):
        rest |= {f"{role}.layer1.0.weight": (2048, 16 * first), f"{role}.layer3.0.bias": (2048,)}
    return Published(dict(swin_transformer(first, residual=True)), under("backbone", "swinViT"), rest)


def vocomni_file(first: int) -> Published:
    rest = {f"module.{name}": shape for name, shape in unetr_convolutions(first, 21)}
    encoder = dict(swin_transformer(first, residual=True))
    return Published(encoder, under("module", "swin_vit"), rest, ("state_dict",), {"epoch": 1})


def btcv_file(first: int = 48) -> Published:
    return Published(dict(swin_transformer(first)), under("swinViT"), dict(unetr_convolutions(first, 14)))


def nodule_file() -> Published:
    rest: Shapes = {}
    for part in ("inner_blocks.0", "inner_blocks.1", "layer_blocks.0", "layer_blocks.1"):
        given = {"inner_blocks.1": 512}.get(part, 256)
        size = 1 if part.startswith("inner") else 3
        rest |= {f"feature_extractor.fpn.{part}.weight": (256, given, size, size, size)}
        rest |= {f"feature_extractor.fpn.{part}.bias": (256,)}
    for head, last, made in (("classification", "cls_logits", 3), ("regression", "bbox_reg", 18)):
        for number in (0, 3, 6, 9):
            rest |= _with_bias(f"{head}_head.conv.{number}", (256, 256, 3, 3, 3))
            rest |= _with_bias(f"{head}_head.conv.{number + 1}", (256,))
        rest |= _with_bias(f"{head}_head.{last}", (made, 256, 3, 3, 3))
    return Published(dict(names_and_shapes(nodule_plan())), under("feature_extractor", "body"), rest)


def vista3d_file(first: int = 48) -> Published:
    rest: Shapes = {}
    for name in ("up_layers", "up_layers_auto"):
        rest |= {f"image_encoder.{n}": s for n, s in ds_decoder(first, first, name, batch_norm=False)}
    rest |= {
        "class_head.class_embeddings.weight": (512, first),
        "class_head.mlp.0.weight": (first, first),
        "class_head.image_post_mapping.0.layer.conv1.conv.weight": (first, first, 3, 3, 3),
        "point_head.transformer.layers.0.mlp.linear1.weight": (512, first),
        "point_head.supported_embed.weight": (1, first),
        "point_head.pe_layer.positional_encoding_gaussian_matrix": (3, 24),
    }
    return Published(dict(ds_encoder(first, batch_norm=False)), under("image_encoder", "encoder"), rest)


def video_file(*plan) -> Published:
    def rename(name: str) -> str:
        name = re.sub(r"^conv1\.", "stem.0.", re.sub(r"^bn1\.", "stem.1.", name))
        name = re.sub(r"\.conv(\d)\.weight", r".conv\1.0.weight", name)
        return re.sub(r"\.bn(\d)\.", r".conv\1.1.", name)

    return Published(dict(names_and_shapes(video_plan(*plan))), rename, _with_bias("fc", (400, 512)))


def _with_bias(name: str, shape: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


PUBLISHED: dict[str, Published] = {
    **{f"medicalnet-resnet{depth}": medicalnet_file(depth) for depth in MEDICALNET_BLOCKS},
    "merlin": merlin_file(),
    "ct-fm": ct_fm_file(),
    "ct-fm-segresnet": ct_fm_file(decoder=True),
    "suprem-segresnet": old_segresnet_file(16, 25, "module", **SUPREM),
    "suprem-swinunetr": suprem_swin_file(),
    "swin-ssl-5k": swin_5k_file(),
    "swin-ssl-50k": swin_50k_file(),
    **{f"voco-{size}": voco_file(first) for size, first in (("b", 48), ("l", 96), ("h", 192))},
    **{f"vocomni-{size}": vocomni_file(first) for size, first in (("b", 48), ("l", 96), ("h", 192))},
    "wholebody-segresnet-1.5mm": old_segresnet_file(32, 105),
    "wholebody-segresnet-3mm": old_segresnet_file(32, 105),
    "lung-nodule-resnet50": nodule_file(),
    "swin-btcv": btcv_file(),
    "vista3d": vista3d_file(),
    "r3d18-kinetics": video_file(),
}
