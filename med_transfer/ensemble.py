"""The networks of a run as one: each fold's classifier, their mean calibrated probability, and novelty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from med_transfer.classifier import Classifier
from med_transfer.novelty import Novelty


class Ensemble(nn.Module):
    """Input [batch, channel, depth, height, width] to probabilities [batch, class].

    Each member's logits are divided by the common ``temperature`` (Guo et al. 2017, arXiv:1706.04599), turned into
    probabilities and averaged. Weights are named ``member0.encoder...``, ``member0.head...``, ``novelty0...``.

    Args:
        classifiers: one a fold.
        novelties: what each one's features look like on scans it knows; unfitted ones when None.
        multilabel: several findings a scan (sigmoid) instead of one class (softmax).
        temperature: above 1 makes the members less sure.
    """

    temperature: Tensor

    def __init__(
        self, classifiers: Sequence[Classifier], novelties: Sequence[Novelty] | None = None, *,
        multilabel: bool = False, temperature: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.multilabel, self.n_members = multilabel, len(classifiers)
        novelties = novelties or [Novelty(classifier.n_features) for classifier in classifiers]
        for number, (classifier, novelty) in enumerate(zip(classifiers, novelties, strict=True)):
            self.add_module(f"member{number}", classifier)
            self.add_module(f"novelty{number}", novelty)
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def forward(self, images: Tensor) -> Tensor:
        return self.assess(images)[0]

    def assess(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [batch, class] and novelty [batch], both in [0, 1]."""
        return self.assess_features(self.member_features(images))

    def member_features(self, images: Tensor) -> list[Tensor]:
        """Of each member the features [batch, feature] that its head reads."""
        images = images.contiguous(memory_format=torch.channels_last_3d)  # faster on a CPU
        return [self._member(number).features(images) for number in range(self.n_members)]

    def assess_features(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As :meth:`assess`, from each member's features."""
        probabilities, ranks = [], []
        for number, of_member in enumerate(features):
            probabilities.append(self._calibrated(self._member(number).head(of_member)))
            ranks.append(self.get_submodule(f"novelty{number}")(of_member))
        return torch.stack(probabilities).mean(0), torch.stack(ranks).mean(0)

    def _member(self, number: int) -> Classifier:
        return self.get_submodule(f"member{number}")  # type: ignore[return-value]

    def _calibrated(self, logits: Tensor) -> Tensor:
        scaled = logits.float() / self.temperature
        return scaled.sigmoid() if self.multilabel else scaled.softmax(1)
