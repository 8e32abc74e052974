"""Adapters: small trainable networks between frozen stages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from med_transfer.backbones import Encoder
from med_transfer.backbones.adapters import Adapter, adapted_stages, add_adapters
from med_transfer.finetuning.strategies.strategy import SOURCE_FROZEN, DecayingRates, train_only_new_parts
from med_transfer.model.classifier import Classifier


class Adapters(DecayingRates):
    """Every stage stays as it is, and a residual bottleneck after it learns; so does the head.

    The bottleneck is not linear and cannot be merged: the bundle's record says how to build it again.
    BatchNorm keeps the source's statistics, or the target's with ``bn_adapt``.
    Source: Houlsby et al. 2019, ICML, arXiv:1902.00751; for convolutions Rebuffi et al. 2018, CVPR, arXiv:1803.10082.

    Attributes:
        reduction: a stage's channels are reduced by this factor inside its adapter.
    """

    name: Literal["adapters"] = "adapters"
    reduction: Annotated[int, Field(ge=1)] = 4
    default_rate: ClassVar[float] = 1e-3
    refuses: ClassVar[dict[str, str]] = {
        **DecayingRates.refuses,
        "l2_sp": SOURCE_FROZEN,
        "batch_norm train": "every stage is frozen, and a frozen stage keeps its statistics",
    }

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        """None: only the adapters and the head learn."""
        return ()

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder whose stages no adapter can follow. Raises BackboneError."""
        adapted_stages(encoder)

    def build(self, classifier: Classifier) -> None:
        """Add the adapters, which remain in the network."""
        add_adapters(classifier.encoder, self.reduction)

    def set_learning(self, classifier: Classifier, epoch: int) -> None:
        """Train the adapters and new parts, and freeze the rest of the encoder."""
        train_only_new_parts(classifier.encoder)
        for module in classifier.encoder.modules():
            if isinstance(module, Adapter):
                module.requires_grad_(True)
