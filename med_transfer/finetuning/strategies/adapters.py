"""Adapters: small trainable networks between frozen stages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from med_transfer.backbones import Encoder
from med_transfer.backbones.adapters import Adapter, adapted_stages, add_adapters
from med_transfer.finetuning.strategies.strategy import SourceFrozen
from med_transfer.model.classifier import Classifier


class Adapters(SourceFrozen):
    """Every stage stays as it is, and a residual bottleneck after it learns; so does the head.

    The bottleneck is not linear and cannot be merged: the bundle's record says how to build it again.
    BatchNorm keeps the source's statistics, or the target's with ``bn_adapt``.
    Source: Houlsby et al. 2019, ICML, arXiv:1902.00751; for convolutions Rebuffi et al. 2018, CVPR, arXiv:1803.10082.

    Attributes:
        reduction: a stage's channels are reduced by this factor inside its adapter.
    """

    name: Literal["adapters"] = "adapters"
    reduction: Annotated[int, Field(ge=1)] = 4
    added: ClassVar[type[nn.Module]] = Adapter
    refuses: ClassVar[dict[str, str]] = {
        **SourceFrozen.refuses,
        "batch_norm train": "every stage is frozen, and a frozen stage keeps its statistics",
    }

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder whose stages no adapter can follow. Raises BackboneError."""
        adapted_stages(encoder)

    def build(self, classifier: Classifier) -> None:
        """Add the adapters, which remain in the network."""
        add_adapters(classifier.encoder, self.reduction)
