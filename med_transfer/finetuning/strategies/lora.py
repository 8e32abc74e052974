"""LoRA: low-rank changes to frozen weights, merged into them at the end.

peft is not used: it would add transformers and accelerate as dependencies, for two matrices per layer (the tests
compare with it). PyTorch's parametrisations do the rest: each layer, attention included, simply sees a changed weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from med_transfer.backbones import Encoder
from med_transfer.errors import ConfigError
from med_transfer.finetuning.strategies.strategy import SourceFrozen
from med_transfer.model.classifier import Classifier


class LowRankChange(nn.Module):
    """A weight plus ``alpha / rank * up @ down``; ``up`` starts at zero, so that the initial change is zero.

    The weight [out, in, *kernel] of a convolution is treated as a matrix [out, in * kernel], so that the change is a
    convolution to ``rank`` channels followed by one of kernel size 1.

    Source: Hu et al. 2022, ICLR, arXiv:2106.09685.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.scale = alpha / rank
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(torch.empty(rank, columns, device=weight.device))
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, in the shape of the given one."""
        return weight + (self.scale * self.up @ self.down).view(weight.shape)


class LoRA(SourceFrozen):
    """Every convolution and linear layer keeps its weights and learns a low-rank change; the head learns.

    Everything else (biases, norm layers) is frozen. BatchNorm's statistics do as ``transfer.batch_norm`` says.
    Merged before the bundle is written: the bundle holds a plain network.

    Attributes:
        rank: of the change of each convolution and linear layer.
        alpha: the change is scaled by ``alpha / rank``.
    """

    name: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 8.0
    added: ClassVar[type[nn.Module]] = LowRankChange

    def check(self, encoder: Encoder) -> None:
        """Refuse a backbone without a convolution or linear layer. Raises ConfigError."""
        if not any(True for _ in _weights(encoder)):
            raise ConfigError(
                "the backbone has no convolution or linear layer", where="transfer.strategy", expected="not lora"
            )

    def prepare(self, classifier: Classifier) -> None:
        """Add the low-rank changes, for the duration of training."""
        for layer, name in list(_weights(classifier.encoder)):
            change = LowRankChange(getattr(layer, name), self.rank, self.alpha)
            parametrize.register_parametrization(layer, name, change)

    def finish(self, classifier: Classifier) -> None:
        """Merge the changes into the weights."""
        for layer, name in list(_weights(classifier.encoder)):
            if parametrize.is_parametrized(layer, name):
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


def _weights(encoder: Encoder) -> Iterator[tuple[nn.Module, str]]:
    """Each layer that gets a change, with the name of its weight.

    Layers are recognised by the shape of their weight, not by class: a convolution or projection has at least two
    dimensions (ACS convolutions and custom layers included), a scale has one. New parts are trained in full instead.
    """
    for place, module in encoder.named_modules():
        if place.partition(".")[0] in encoder.new_parts:
            continue
        for name in ("weight", "in_proj_weight"):  # the latter is nn.MultiheadAttention's
            weight = getattr(module, name, None)
            if isinstance(weight, Tensor) and weight.ndim > 1 and not isinstance(module, nn.Embedding):
                yield module, name
