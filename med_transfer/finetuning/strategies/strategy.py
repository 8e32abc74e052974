"""The interface of a strategy: which stages learn in which epoch, at which rate, and what it adds to the network."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from med_transfer.backbones import Encoder
from med_transfer.config import StrictModel
from med_transfer.model.classifier import Classifier


class Strategy(StrictModel):
    """Base class of strategies: every stage learns from the first epoch, at one rate. The head always learns.

    A strategy is also the config section ``transfer.strategy``, with its settings as fields; the field ``name`` selects
    it.

    Attributes:
        learning_rate: of the head and the deepest stage; None: ``default_rate``. If stated, it is also the from-scratch
            baseline's.
        head_from_probe: the head starts from the logistic regression on the frozen features.
        trains: whether there is a training by gradients at all.
        refuses: other parts of ``transfer`` that do not go with it, and why.
    """

    learning_rate: Annotated[float, Field(gt=0)] | None = None

    default_rate: ClassVar[float] = 3e-4
    head_from_probe: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    refuses: ClassVar[dict[str, str]] = {"mapping": "it maps frozen features, so strategy must be linear_probe"}

    def rate(self, depth: int = 0) -> float:
        """Learning rate of the stage ``depth`` stages before the deepest one; at 0 the head's too."""
        return self.learning_rate or self.default_rate

    def resolved(self, *, from_source: bool) -> Strategy:
        """The actual strategy; only ``auto`` stands for another one, depending on whether there is a source."""
        return self

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        """The stages that learn in an epoch (counted from 0); stage 0 is the stem."""
        return range(n_stages)

    def check(self, encoder: Encoder) -> None:
        """Refuse a backbone that this strategy cannot work on. Raises ConfigError or BackboneError."""

    def warnings(self, encoder: Encoder, epochs: int) -> list[str]:
        """Sentences on what has no effect within ``epochs`` epochs."""
        return []

    def build(self, classifier: Classifier) -> None:
        """Add the modules that remain in the network, and so are noted in the bundle's record."""

    def prepare(self, classifier: Classifier) -> None:
        """Add what exists during training only."""

    def set_learning(self, classifier: Classifier, epoch: int) -> None:
        """Set ``requires_grad`` of the encoder's parameters for this epoch."""
        stages = classifier.encoder.stages()
        learning = self.learning_stages(epoch, len(stages))
        for number, stage in enumerate(stages):
            stage.requires_grad_(number in learning)

    def finish(self, classifier: Classifier) -> None:
        """Remove or merge what :meth:`prepare` added, so that a plain network remains."""


class DecayingRates(Strategy):
    """Base class of strategies in which stages can learn slower the nearer they are to the input.

    Features near the input are the most general ones.

    Attributes:
        stage_decay: learning rate of a stage as a share of that of the next deeper one.
    """

    stage_decay: Annotated[float, Field(gt=0, le=1)] = 1.0

    def rate(self, depth: int = 0) -> float:
        """Learning rate of the stage ``depth`` stages before the deepest one, times ``stage_decay`` per stage."""
        return super().rate() * self.stage_decay**depth


class SourceFrozen(DecayingRates):
    """Base class of strategies that freeze the source's weights; modules that they add, new parts and the head learn.

    Attributes:
        added: type of these modules.
    """

    added: ClassVar[type[nn.Module]]
    default_rate: ClassVar[float] = 1e-3
    refuses: ClassVar[dict[str, str]] = {
        **DecayingRates.refuses,
        "l2_sp": "the source's weights are frozen and cannot leave it; delta can be used",
    }

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        """None: of every stage only what was added to it learns."""
        return ()

    def set_learning(self, classifier: Classifier, epoch: int) -> None:
        """Train the added modules and new parts (an attention), which come from no source, and freeze the rest."""
        encoder = classifier.encoder.requires_grad_(False)
        for name, module in encoder.named_modules():
            if name in encoder.new_parts or isinstance(module, self.added):
                module.requires_grad_(True)
