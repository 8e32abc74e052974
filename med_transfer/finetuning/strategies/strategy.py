"""What every strategy answers: which stages learn in which epoch, how fast, and what it builds into the network."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from med_transfer.backbones import Encoder
from med_transfer.errors import ConfigError
from med_transfer.model.classifier import Classifier


class Strategy:
    """The base: every stage learns from the first epoch on. The head always learns.

    Attributes:
        learning_rate: of the head and the deepest stage, where the config leaves it to the strategy.
        stage_decay: rate of a stage as a share of the next deeper one's, where the config leaves it to the strategy.
        head_from_probe: the head starts from the logistic regression on the frozen features.
        trains: whether there is a training by gradients at all.
        all_stages_frozen: the source's own weights never change, whatever else does.
    """

    learning_rate: ClassVar[float] = 3e-4
    stage_decay: ClassVar[float] = 1.0
    head_from_probe: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    all_stages_frozen: ClassVar[bool] = False

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        """The stages that learn in an epoch (counted from 0); stage 0 is the stem."""
        return range(n_stages)

    def check(self, encoder: Encoder) -> None:
        """Refuse a backbone that this strategy cannot work on. Raises ConfigError or BackboneError."""

    def build(self, classifier: Classifier) -> None:
        """Add what stays in the network for good, and so is in the bundle's record."""

    def begin(self, classifier: Classifier) -> None:
        """Add what is there in training only."""

    def set_learning(self, classifier: Classifier, epoch: int, freeze_stages: int = 0) -> None:
        """Let learn what learns in this epoch and nothing else; the first ``freeze_stages`` never do."""
        stages = classifier.encoder.stages()
        learning = self.learning_stages(epoch, len(stages))
        for number, stage in enumerate(stages):
            stage.requires_grad_(number in learning and number >= freeze_stages)

    def finish(self, classifier: Classifier) -> None:
        """Make a plain network again of what :meth:`begin` added to."""


def check_stages(encoder: Encoder, stages: Collection[int], where: str) -> None:
    """Raises ConfigError when the encoder lacks one of these stages."""
    count = len(encoder.stages())
    if any(stage >= count for stage in stages):
        raise ConfigError(f"stages {list(stages)}", where=where, expected=f"numbers from 0 to {count - 1}")
