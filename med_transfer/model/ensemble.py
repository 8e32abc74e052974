"""The networks of a run as one: each fold's classifier, their mean calibrated probability, and novelty."""

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
    """Input [batch, channel, depth, height, width] to probabilities [batch, class].

    Each fold model's logits are turned into probabilities by the common ``calibrator`` and averaged. Weights are named
    ``member0.encoder...``, ``member0.head...``, ``novelty0...``; the calibration is in the bundle's record.

    Args:
        classifiers: one a fold.
        novelties: what each one's features look like on its training scans; unfitted ones when None.
        multilabel: several findings a scan (sigmoid) instead of one class (softmax).
        calibrator: from one fold model's logits to probabilities.
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
        """Calibrated probabilities [batch, class], the mean of the fold models."""
        return self._probabilities(self.fold_model_features(images))

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [batch, class] and novelty [batch], both in [0, 1]."""
        return self.predict_features(self.fold_model_features(images), images)

    def fold_model_features(self, images: Tensor) -> list[Tensor]:
        """Of each fold model the features [batch, feature] that its head reads."""
        images = images.contiguous(memory_format=torch.channels_last_3d)  # faster on a CPU
        classifiers = self.fold_models
        features: dict[int, Tensor] = {}
        for encoder in {id(classifier.encoder): classifier.encoder for classifier in classifiers}.values():
            maps = encoder(images)
            sharing = (number for number, classifier in enumerate(classifiers) if classifier.encoder is encoder)
            features |= {number: classifiers[number].pool(maps) for number in sharing}
        return [features[number] for number in range(len(classifiers))]

    def share_equal_encoders(self) -> Ensemble:
        """Itself, with one encoder for all fold models whose encoders are equal (frozen ones), computed once a scan."""
        different: list[Encoder] = []
        for classifier in self.fold_models:
            equal = [encoder for encoder in different if _are_equal(encoder, classifier.encoder)]
            if equal:
                classifier.encoder = equal[0]
            else:
                different.append(classifier.encoder)
        return self

    def alone(self, number: int) -> Ensemble:
        """One of its fold models, by itself."""
        novelty: Novelty = self.get_submodule(f"novelty{number}")  # type: ignore[assignment]
        return Ensemble([self._fold_model(number)], [novelty], multilabel=self.multilabel, calibrator=self.calibrator)

    def predict_features(self, features: Sequence[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`predict`, from each fold model's features of the images."""
        novelties: list[Novelty] = [self.get_submodule(f"novelty{n}") for n in range(len(features))]  # type: ignore[misc]
        statistics = input_statistics(images) if novelties[0].n_statistics else None
        ranks = [novelty(of_one, statistics) for novelty, of_one in zip(novelties, features, strict=True)]
        return self._probabilities(features), torch.stack(ranks).mean(0)

    def _probabilities(self, features: Sequence[Tensor]) -> Tensor:
        logits = [self._fold_model(number).head(of_one).float().detach() for number, of_one in enumerate(features)]
        found = [self.calibrator.probabilities(one.cpu().numpy(), multilabel=self.multilabel) for one in logits]
        return torch.from_numpy(np.mean(found, axis=0, dtype=np.float32)).to(features[0].device)

    def _fold_model(self, number: int) -> Classifier:
        return self.get_submodule(f"member{number}")  # type: ignore[return-value]


def _are_equal(one: Encoder, other: Encoder) -> bool:
    tensors = other.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())
