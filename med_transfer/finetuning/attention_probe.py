"""Attention and a linear head, trained on a frozen network's features of slices or tiles, which are computed once.

Source: Ilse et al. 2018, arXiv:1802.04712; on frozen features as in Lu et al. 2021, Nat Biomed Eng 5:555 (CLAM).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from med_transfer.backbones.networks.instances import GatedAttention, is_shown
from med_transfer.model.linear_head import INNER_FOLDS, cross_entropy
from med_transfer.model.losses import classification_loss
from med_transfer.predictions.patient_folds import held_out_in_turn, patient_folds

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2  # of AdamW; every step sees all scans
_EVALUATION_STEPS = 5  # between two evaluations on held-out patients
_PATIENCE = 5  # evaluations without improvement


class Bags(NamedTuple):
    """Scans as bags of instances.

    Attributes:
        pooled: [scan, instance, channel], whose weighted mean the head reads.
        deepest: [scan, instance, channel], from which the attention computes the weights.
        shown: boolean [scan, instance], which instances are not empty.
    """

    pooled: Tensor
    deepest: Tensor
    shown: Tensor

    @classmethod
    def of(cls, of_stages: Sequence[Tensor], deepest: Tensor) -> Bags:
        """Bags of features [scan, instance, channel] of pooled stages and the deepest; empty instances are zero."""
        return cls(torch.cat(list(of_stages), dim=2), deepest, is_shown(deepest))

    def of_scans(self, scans: NDArray[np.intp]) -> Bags:
        """The bags of these scans, given by position."""
        return Bags(*(part[torch.from_numpy(scans)] for part in self))


class Dropout(NamedTuple):
    """Dropout with its own random generator, so that several trainings can be interleaved."""

    share: float
    random: torch.Generator | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """Set a share of the values to zero, and divide the others by the share that is kept."""
        if not self.share:
            return values
        kept = torch.rand(values.shape, generator=self.random) >= self.share
        return values * kept / (1 - self.share)


NO_DROPOUT = Dropout(0.0)


class AttentionHead(nn.Module):
    """Attention over instances and a linear layer on their weighted mean."""

    def __init__(self, n_deepest: int, n_pooled: int, n_classes: int) -> None:
        super().__init__()
        self.attention, self.linear = GatedAttention(n_deepest), nn.Linear(n_pooled, n_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, bags: Bags, dropout: Dropout = NO_DROPOUT) -> Tensor:
        """Logits [scan, class]; ``dropout`` is for training."""
        features = torch.einsum("bnc,bn->bc", bags.pooled, self.attention(dropout(bags.deepest), bags.shown))
        return self.linear(dropout(features))


class FittedAttention(NamedTuple):
    """A head for the network's raw features, and the number of steps that was best on held-out patients."""

    head: AttentionHead
    n_steps: int


class AttentionTraining(NamedTuple):
    """Settings of the training: at most ``max_steps`` of gradient descent, each on all scans, with dropout."""

    max_steps: int = 100
    dropout: float = 0.2
    multilabel: bool = False
    balanced: bool = True
    seed: int = 0


def fit_attention(
    bags: Bags, truth: NDArray[np.bool_], patients: Sequence[str], settings: AttentionTraining
) -> FittedAttention:
    """Train a head for the number of steps that is best in cross-validation over its training patients.

    No other patients influence the choice, so validation patients stay unseen. Best is the lowest cross-entropy, with
    equal class weights if ``balanced``; a tie goes to the fewest steps. Features are standardised for training, and the
    standardisation is folded into the head, exactly.

    Args:
        bags: of the training scans.
        truth: boolean [scan, class].
        patients: one entry per scan.
        settings: of the training.
    """
    pooled, deepest = _Standardisation.of(bags.pooled, bags.shown), _Standardisation.of(bags.deepest, bags.shown)
    standard = Bags(pooled(bags.pooled), deepest(bags.deepest), bags.shown)
    n_steps = _best_number_of_steps(standard, truth, patients, settings)
    head = next(islice(_heads(standard, truth, settings), n_steps - 1, None))
    deepest.fold_into(head.attention.value)
    deepest.fold_into(head.attention.gate)
    pooled.fold_into(head.linear)
    return FittedAttention(head, n_steps)


def _best_number_of_steps(
    bags: Bags, truth: NDArray[np.bool_], patients: Sequence[str], settings: AttentionTraining
) -> int:
    """The number of steps that is best on held-out patients, with early stopping after ``_PATIENCE`` evaluations."""
    n_folds = min(INNER_FOLDS, len(set(patients)))
    if n_folds < 2:
        return settings.max_steps
    folds = held_out_in_turn(patient_folds(truth, patients, n_folds))
    heads_of_folds = [_heads(bags.of_scans(learn), truth[learn], settings) for learn, _ in folds]
    logits, losses, evaluated_steps = np.zeros(truth.shape), [np.inf], [0]
    for step, heads in enumerate(zip(*heads_of_folds, strict=True), start=1):
        if step % _EVALUATION_STEPS and step < settings.max_steps:
            continue
        for head, (_, held_out) in zip(heads, folds, strict=True):
            logits[held_out] = _logits(head, bags.of_scans(held_out))
        evaluated_steps.append(step)
        losses.append(cross_entropy(logits, truth, multilabel=settings.multilabel, balanced=settings.balanced))
        if step == settings.max_steps or len(losses) - 1 - int(np.argmin(losses)) == _PATIENCE:
            break
    return evaluated_steps[int(np.argmin(losses))]


def _heads(bags: Bags, truth: NDArray[np.bool_], settings: AttentionTraining) -> Iterator[AttentionHead]:
    """Yield the head, always the same object, after each training step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = AttentionHead(bags.deepest.shape[2], bags.pooled.shape[2], truth.shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    targets, weights = torch.from_numpy(truth).float(), _class_weights(truth, settings)
    dropout = Dropout(settings.dropout, torch.Generator().manual_seed(settings.seed))
    while True:
        loss = classification_loss(head(bags, dropout), targets, multilabel=settings.multilabel, weights=weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield head


@torch.no_grad()
def _logits(head: AttentionHead, bags: Bags) -> NDArray[np.float32]:
    return head(bags).numpy()


def _class_weights(truth: NDArray[np.bool_], settings: AttentionTraining) -> Tensor:
    """Weights [class] that balance classes, or presence and absence of each finding; ones if not ``balanced``."""
    present, (n_scans, n_classes) = np.maximum(truth.sum(axis=0), 1), truth.shape
    if not settings.balanced:
        return torch.ones(n_classes)
    weights = (n_scans - truth.sum(axis=0)) / present if settings.multilabel else n_scans / (n_classes * present)
    return torch.from_numpy(weights).float()


class _Standardisation(NamedTuple):
    """Mean and standard deviation of each channel over the instances that are not empty."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor, shown: Tensor) -> _Standardisation:
        counted = features[shown]
        scale = counted.std(dim=0, unbiased=False)
        return cls(counted.mean(dim=0), torch.where(scale > 0, scale, 1.0))  # a constant channel becomes zero

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear) -> None:
        """Make the layer read raw features, in place; exact for a weighted mean too, as its weights sum to one."""
        layer.weight.div_(self.scale)
        layer.bias.sub_(layer.weight @ self.mean)
