"""Ensemble of the fold models of a run: their mean calibrated probability, and novelty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.model.calibration import Calibrator, Uncalibrated
from med_transfer.model.classifier import Classifier
from med_transfer.model.novelty import Novelty, input_statistics


class Ensemble(nn.Module):
    """Ensemble from images [batch, channel, depth, height, width] to probabilities [batch, class].

    A common ``calibrator`` turns each fold model's logits into probabilities, which are averaged. Weights are named
    ``member0.encoder...``, ``member0.head...``, ``novelty0...``; the calibration is stored in the bundle's record.

    Args:
        classifiers: one per fold.
        novelties: novelty detector of each fold model, fitted to its training scans; None creates unfitted ones.
        multilabel: whether a scan may have several findings (sigmoid) instead of one class (softmax).
        calibrator: turns one fold model's logits into probabilities.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        novelties: Sequence[Novelty] | None = None,
        *,
        multilabel: bool = False,
        calibrator: Calibrator = Uncalibrated(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self.multilabel, self.n_fold_models, self.calibrator = multilabel, len(classifiers), calibrator
        novelties = novelties or [Novelty(classifier.n_features) for classifier in classifiers]
        for number, (classifier, novelty) in enumerate(zip(classifiers, novelties, strict=True)):
            self.add_module(f"member{number}", classifier)
            self.add_module(f"novelty{number}", novelty)

    @property
    def fold_models(self) -> list[Classifier]:
        """Each fold's classifier."""
        return [self._fold_model(number) for number in range(self.n_fold_models)]

    def forward(self, images: Tensor) -> Tensor:
        """Return calibrated probabilities [batch, class], on the CPU in double precision; mean over the fold models."""
        return self._probabilities(self.fold_model_features(images))

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities [batch, class], on the CPU, and novelty [batch], both in [0, 1]."""
        return self.predict_features(self.fold_model_features(images), images)

    def fold_model_features(self, images: Tensor) -> list[Tensor]:
        """Return, for each fold model, the features [batch, feature] that its head reads."""
        images = images.contiguous(memory_format=torch.channels_last_3d)  # faster on a CPU
        features = {(encoder, stages): encoder.pool(encoder(images), stages) for encoder, stages in set(self.encoders)}
        return [model.mapping(torch.cat([features[one] for one in model.encoders], 1)) for model in self.fold_models]

    @property
    def encoders(self) -> list[tuple[Encoder, tuple[int, ...]]]:
        """:attr:`Classifier.encoders` of all fold models in turn; a shared encoder appears more than once."""
        return [one for model in self.fold_models for one in model.encoders]

    def share_encoders(self, numbers: Sequence[int]) -> Ensemble:
        """Replace all encoders of the same number by the first of them, so that it runs once per scan; return self.

        Args:
            numbers: one for each of :attr:`encoders`.

        Raises:
            ValueError: there are more or fewer numbers than encoders.
        """
        if len(numbers) != len(self.encoders):
            raise ValueError(f"numbers of {len(numbers)} encoders, and there are {len(self.encoders)}")
        first: dict[int, Encoder] = {}
        for (encoder, _), number in zip(self.encoders, numbers, strict=True):
            first.setdefault(number, encoder)
        left = iter(numbers)
        for model in self.fold_models:
            model.encoder = model.encoder.with_independent_parts([first[next(left)] for _ in model.encoders])
        return self

    def equal_encoders(self) -> tuple[int, ...]:
        """Number each of :attr:`encoders`, giving equal ones (frozen encoders) the same number, from 0."""
        different: list[Encoder] = []
        numbers = []
        for encoder, _ in self.encoders:
            equal = [number for number, one in enumerate(different) if _are_equal(one, encoder)]
            numbers += equal or [len(different)]
            different += [] if equal else [encoder]
        return tuple(numbers)

    def distinct_tensors(self) -> dict[str, Tensor]:
        """Return the ``state_dict`` with the tensors of a shared encoder only once, under its first name."""
        names = {name for name, _ in (*self.named_parameters(), *self.named_buffers())}
        return {name: tensor for name, tensor in self.state_dict().items() if name in names}

    def alone(self, number: int) -> Ensemble:
        """Return an ensemble of one fold model only."""
        novelty: Novelty = self.get_submodule(f"novelty{number}")  # type: ignore[assignment]
        return Ensemble([self._fold_model(number)], [novelty], multilabel=self.multilabel, calibrator=self.calibrator)

    def predict_features(self, features: Sequence[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Like :meth:`predict`, given each fold model's features [batch, feature] of the images."""
        novelties: list[Novelty] = [self.get_submodule(f"novelty{n}") for n in range(len(features))]  # type: ignore[misc]
        statistics = input_statistics(images) if novelties[0].n_statistics else None
        ranks = [novelty(of_one, statistics) for novelty, of_one in zip(novelties, features, strict=True)]
        return self._probabilities(features), torch.stack(ranks).mean(0)

    def _probabilities(self, features: Sequence[Tensor]) -> Tensor:
        logits = [self._fold_model(number).head(of_one).float().detach() for number, of_one in enumerate(features)]
        found = [self.calibrator.probabilities(one.cpu().numpy(), multilabel=self.multilabel) for one in logits]
        # Single precision would give scans of log odds 20 and 25 one probability of the class and two of the other, so
        # that two classes had different AUCs. They stay on the CPU, since not every device has double precision.
        return torch.from_numpy(np.mean(found, axis=0))

    def _fold_model(self, number: int) -> Classifier:
        return self.get_submodule(f"member{number}")  # type: ignore[return-value]


def _are_equal(one: Encoder, other: Encoder) -> bool:
    tensors, others = one.state_dict(), other.state_dict()
    alike = type(one) is type(other) and tensors.keys() == others.keys()
    return alike and all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
