"""Attention and a linear head, learned on the features of slices or tiles that a frozen network gave once.

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
from med_transfer.finetuning.losses import classification_loss
from med_transfer.model.linear_head import INNER_FOLDS, cross_entropy
from med_transfer.predictions.patient_folds import held_out_in_turn, patient_folds

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2  # of AdamW; every step sees all scans
_LOOKED_AT, _PATIENCE = 5, 5  # steps from one look at the held-out patients to the next; looks without a better one


class Bags(NamedTuple):
    """Scans as bags of instances.

    Attributes:
        pooled: [scan, instance, channel] that the head reads the weighted mean of.
        deepest: [scan, instance, channel] that the attention looks at.
        shown: [scan, instance], which instances count.
    """

    pooled: Tensor
    deepest: Tensor
    shown: Tensor

    @classmethod
    def of(cls, of_stages: Sequence[Tensor], deepest: Tensor) -> Bags:
        """Of features [scan, instance, channel] of the pooled stages and of the deepest one; an empty one is zero."""
        return cls(torch.cat(list(of_stages), dim=2), deepest, is_shown(deepest))

    def of_scans(self, scans: NDArray[np.intp]) -> Bags:
        """Some of them."""
        return Bags(*(part[torch.from_numpy(scans)] for part in self))


class Dropout(NamedTuple):
    """Sets a share of the values to zero, drawn from a generator of its own, so that trainings can take turns."""

    share: float
    random: torch.Generator | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """The values that are kept are divided by the share of them."""
        if not self.share:
            return values
        kept = torch.rand(values.shape, generator=self.random) >= self.share
        return values * kept / (1 - self.share)


NOTHING_DROPPED = Dropout(0.0)


class AttentionHead(nn.Module):
    """Attention over instances, and a linear layer on their weighted mean."""

    def __init__(self, n_deepest: int, n_pooled: int, n_classes: int) -> None:
        super().__init__()
        self.attention, self.linear = GatedAttention(n_deepest), nn.Linear(n_pooled, n_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, bags: Bags, dropped: Dropout = NOTHING_DROPPED) -> Tensor:
        """Logits [scan, class]; ``dropped`` is for training."""
        features = torch.einsum("bnc,bn->bc", bags.pooled, self.attention(dropped(bags.deepest), bags.shown))
        return self.linear(dropped(features))


class FittedAttention(NamedTuple):
    """A head on features as the network gives them, and after how many steps it did best on held-out patients."""

    head: AttentionHead
    n_steps: int


class Course(NamedTuple):
    """How a head is learned: ``most_steps`` of gradient descent, each on all scans, with dropout of features."""

    most_steps: int = 100
    dropout: float = 0.2
    multilabel: bool = False
    balanced: bool = True
    seed: int = 0


def fit_attention(bags: Bags, truth: NDArray[np.bool_], patients: Sequence[str], course: Course) -> FittedAttention:
    """A head learned for as many steps as do best across folds of its own training patients.

    Nobody else has a say, so that whoever it is measured on is unseen. Best is the least cross-entropy, each class
    weighed alike where ``balanced``; a tie goes to the fewest steps. Features are standardised for the training, which
    is folded into the head, exactly.

    Args:
        bags: of the training scans.
        truth: boolean [scan, class].
        patients: one entry a scan.
        course: of the training.
    """
    pooled, deepest = _Standard.of(bags.pooled, bags.shown), _Standard.of(bags.deepest, bags.shown)
    standard = Bags(pooled(bags.pooled), deepest(bags.deepest), bags.shown)
    n_steps = _best_number_of_steps(standard, truth, patients, course)
    head = next(islice(_heads(standard, truth, course), n_steps - 1, None))
    deepest.fold_into(head.attention.value)
    deepest.fold_into(head.attention.gate)
    pooled.fold_into(head.linear)
    return FittedAttention(head, n_steps)


def _best_number_of_steps(bags: Bags, truth: NDArray[np.bool_], patients: Sequence[str], course: Course) -> int:
    """Of the looks at the held-out patients the best one; it ends where none was better for long."""
    n_folds = min(INNER_FOLDS, len(set(patients)))
    if n_folds < 2:
        return course.most_steps
    folds = held_out_in_turn(patient_folds(truth, patients, n_folds))
    heads_of_folds = [_heads(bags.of_scans(learn), truth[learn], course) for learn, _ in folds]
    logits, losses, looks = np.zeros(truth.shape), [np.inf], [0]
    for step, heads in enumerate(zip(*heads_of_folds, strict=True), start=1):
        if step % _LOOKED_AT and step < course.most_steps:
            continue
        for head, (_, held_out) in zip(heads, folds, strict=True):
            logits[held_out] = _logits(head, bags.of_scans(held_out))
        looks.append(step)
        losses.append(cross_entropy(logits, truth, multilabel=course.multilabel, balanced=course.balanced))
        if step == course.most_steps or len(losses) - 1 - int(np.argmin(losses)) == _PATIENCE:
            break
    return looks[int(np.argmin(losses))]


def _heads(bags: Bags, truth: NDArray[np.bool_], course: Course) -> Iterator[AttentionHead]:
    """The head, ever the same one, after each step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.seed)
        head = AttentionHead(bags.deepest.shape[2], bags.pooled.shape[2], truth.shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    targets, weights = torch.from_numpy(truth).float(), _class_weights(truth, course)
    dropped = Dropout(course.dropout, torch.Generator().manual_seed(course.seed))
    while True:
        loss = classification_loss(head(bags, dropped), targets, multilabel=course.multilabel, weights=weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield head


@torch.no_grad()
def _logits(head: AttentionHead, bags: Bags) -> NDArray[np.float32]:
    return head(bags).numpy()


def _class_weights(truth: NDArray[np.bool_], course: Course) -> Tensor:
    """So that each class counts alike, or of findings presence and absence; ones where classes are not balanced."""
    present, (n_scans, n_classes) = np.maximum(truth.sum(axis=0), 1), truth.shape
    if not course.balanced:
        return torch.ones(n_classes)
    weights = (n_scans - truth.sum(axis=0)) / present if course.multilabel else n_scans / (n_classes * present)
    return torch.from_numpy(weights).float()


class _Standard(NamedTuple):
    """Mean and standard deviation of each channel over the instances that count."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor, shown: Tensor) -> _Standard:
        counted = features[shown]
        scale = counted.std(dim=0, unbiased=False)
        return cls(counted.mean(dim=0), torch.where(scale > 0, scale, 1.0))  # a constant says nothing

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.scale

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear) -> None:
        """Let the layer read features as they were before; of a mean whose weights sum to one it is exact too."""
        layer.weight.div_(self.scale)
        layer.bias.sub_(layer.weight @ self.mean)
