"""Independent 2D networks of photographs, with torch's functions only: torchvision's ResNet and EfficientNet-Lite0.

Nothing here comes from med_transfer, MONAI or timm, so that the encoders made of such networks can be compared with it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from residual_reference import Plan, State, names_and_shapes
from torch import Tensor

RESNETS = {18: Plan((2, 2, 2, 2), channels=3), 50: Plan((3, 4, 6, 3), bottleneck=True, channels=3)}
LITE0 = [(3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1)]  # kernel, stride, blocks


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def rand(*shape: int) -> Tensor:
    """The same numbers in [0, 1) each time."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def normalised(x: Tensor) -> Tensor:
    """[batch, 1, height, width] in [0, 1] as the three channels of ImageNet."""
    return (x.repeat(1, 3, 1, 1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def exported_equals(encoder: torch.nn.Module, x: Tensor) -> None:
    exported = torch.export.export(encoder.eval(), (x,)).module()
    with torch.no_grad():
        for mine, theirs in zip(exported(x), encoder(x), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def random_planar_state(depth: int, seed: int = 0) -> State:
    """torchvision's names and shapes, with its classification layer, and values that neither die nor explode."""
    generator = torch.Generator().manual_seed(seed)
    state = {"fc.weight": torch.zeros(1000, 1), "fc.bias": torch.zeros(1000)}
    for name, (*shape,) in names_and_shapes(RESNETS[depth]):
        if len(shape) == 5:
            shape = [*shape[:2], *shape[3:]]
            state[name] = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        else:
            values = torch.rand(shape, generator=generator)
            state[name] = values + 0.5 if name.endswith(("weight", "running_var")) else 0.2 * values
    return state


def resnet(depth: int, state: State, x: Tensor) -> list[Tensor]:
    """Maps of a batch [batch, 3, height, width]. Stride in the 3x3 convolution, as torchvision has it."""
    plan = RESNETS[depth]
    x = F.conv2d(x, state["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(_norm(state, "bn1", x)), 3, 2, 1)
    maps = []
    for stage, blocks in enumerate(plan.blocks, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _residual(state, f"layer{stage}.{block}", x, stride, plan.bottleneck)
        maps.append(x)
    return maps


def _residual(state: State, name: str, x: Tensor, stride: int, bottleneck: bool) -> Tensor:
    y = x
    steps = (1, stride, 1) if bottleneck else (stride, 1)
    for number, step in enumerate(steps, start=1):
        weight = state[f"{name}.conv{number}.weight"]
        y = _norm(state, f"{name}.bn{number}", F.conv2d(y, weight, stride=step, padding=weight.shape[-1] // 2))
        y = F.relu(y) if number < len(steps) else y
    if f"{name}.downsample.0.weight" in state:
        x = _norm(state, f"{name}.downsample.1", F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride))
    return F.relu(x + y)


def _norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.batch_norm(
        x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")), eps=eps
    )


def lite0_features(state: State, x: Tensor) -> Tensor:
    """[batch, 1280, height / 32, width / 32] of EfficientNet-Lite0 by the file's names, for sizes that divide by 32."""
    x = _lite_step(state, "_conv_stem", "_bn0", x, stride=2)
    number = 0
    for kernel, stride, blocks in LITE0:
        for block in range(blocks):
            x = _lite_block(state, f"_blocks.{number}", x, kernel, stride if block == 0 else 1)
            number += 1
    return _lite_step(state, "_conv_head", "_bn1", x)


def _lite_block(state: State, name: str, x: Tensor, kernel: int, stride: int) -> Tensor:
    y = x
    if f"{name}._expand_conv.weight" in state:
        y = _lite_step(state, f"{name}._expand_conv", f"{name}._bn0", y)
    assert state[f"{name}._depthwise_conv.weight"].shape[-1] == kernel
    y = _lite_step(state, f"{name}._depthwise_conv", f"{name}._bn1", y, stride, groups=y.shape[1])
    y = _norm(state, f"{name}._bn2", F.conv2d(y, state[f"{name}._project_conv.weight"]), eps=1e-3)
    return x + y if stride == 1 and x.shape == y.shape else y


def _lite_step(state: State, conv: str, norm: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolution with TensorFlow's padding (of an odd total, more behind), normalisation, ReLU6."""
    weight = state[f"{conv}.weight"]
    total = weight.shape[-1] - stride
    before, behind = total // 2, total - total // 2
    x = F.conv2d(F.pad(x, (before, behind, before, behind)), weight, stride=stride, groups=groups)
    return F.relu6(_norm(state, norm, x, eps=1e-3))
