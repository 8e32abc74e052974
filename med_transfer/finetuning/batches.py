"""The prepared scans of one fold, and their batches: augmented and balanced for training, plain for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.data.dataloader import DataLoader
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, WeightedRandomSampler

from med_transfer.cohorts import PreparedCohort, Split
from med_transfer.finetuning.augmentation import augmentation
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.model.calibration import log_prior_ratio
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.processor import cores

Tensors = Sequence[NDArray[np.float16]]
Truth = NDArray[np.bool_]
VoxelSize = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """Prepared scans of one part of a fold, one entry per scan; without augmentation, tensors alone are enough.

    Attributes:
        tensors: [channel, depth, height, width] of each scan, with the margin for augmentation.
        voxel_mm: voxel size of each tensor along depth, height, width, for augmentation.
        truth: boolean [scan, class].
        patients: name of each scan's patient.
    """

    tensors: Sequence[NDArray[np.float16]] = ()
    voxel_mm: Sequence[VoxelSize] = ()
    truth: Truth = field(default_factory=lambda: np.zeros((0, 0), bool))
    patients: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True)
class FoldData:
    """The parts of one fold; unlabelled scans have no truth.

    The ``steering`` scans decide when training stops and which weights are kept: the validation scans, or others if the
    validation scans are evaluated.
    """

    labels: Labels
    training: Part
    validation: Part = Part()
    steering: Part = Part()
    unlabelled: Part = Part()


def fold_data(
    prepared: PreparedCohort,
    split: Split,
    number: int,
    unlabelled: PreparedCohort | None = None,
    *,
    steered: bool = True,
) -> FoldData:
    """The parts of one fold; unlabelled scans are the same for all folds.

    Args:
        number: of the fold, from 0.
        steered: whether the training needs steering scans, see :class:`FoldData`; if not, it also learns from them.

    Raises:
        TooFewPatients: it needs them, and only the evaluated patients are left.
    """
    training, validation = split.learned_from(number, steered=steered), split.validation[number]
    steering = (split.steering_of(number) if steered else ()) or validation
    parts = (
        Part(part.tensors, part.voxel_mm, part.cohort.truth, part.cohort.patients)
        for part in map(prepared.subset, (training, validation, steering))
    )
    others = Part(unlabelled.tensors, unlabelled.voxel_mm) if unlabelled else Part()
    return FoldData(prepared.cohort.labels, *parts, unlabelled=others)


class PreparedScans(Dataset):
    """Dataset of ``(image [channel, depth, height, width], truth [class])`` from prepared tensors and a transform.

    Args:
        voxel_mm: of each tensor, for transforms that work in millimetres.
    """

    def __init__(
        self, tensors: Tensors, truth: Truth, transform: Callable, voxel_mm: Sequence[VoxelSize] | None = None
    ) -> None:
        self.tensors, self.truth, self.transform, self.voxel_mm = tensors, truth, transform, voxel_mm

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(self.tensors[index].astype(np.float32))
        if self.voxel_mm:
            image = MetaTensor(image, affine=torch.diag(torch.tensor([*self.voxel_mm[index], 1.0])))
        image = self.transform(image)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image  # a MetaTensor slows down each layer
        return plain.contiguous(), torch.from_numpy(self.truth[index])


class PairedScans(PreparedScans):
    """PreparedScans in which each item also has an unlabelled image, from the same transform, as its third part.

    Indexed by pairs, as :class:`PairedSampler` draws them.
    """

    def __init__(self, labelled: PreparedScans, unlabelled: Part) -> None:
        super().__init__(labelled.tensors, labelled.truth, labelled.transform, labelled.voxel_mm)
        no_truth = np.zeros((len(unlabelled), 0), dtype=bool)
        self.unlabelled = PreparedScans(unlabelled.tensors, no_truth, labelled.transform, unlabelled.voxel_mm)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        image, truth = super().__getitem__(index[0])
        return image, truth, self.unlabelled[index[1]][0]


class PairedSampler(WeightedRandomSampler):
    """Draws pairs of a labelled and an unlabelled index, the latter uniformly from ``n_unlabelled``."""

    def __init__(
        self, weights: Sequence[float], num_samples: int, generator: torch.Generator, n_unlabelled: int
    ) -> None:
        super().__init__(weights, num_samples, generator=generator)
        self.n_unlabelled = n_unlabelled

    def __iter__(self) -> Iterator:
        drawn = torch.randint(self.n_unlabelled, (self.num_samples,), generator=self.generator)
        return zip(super().__iter__(), drawn.tolist(), strict=True)


def training_batches(
    data: FoldData, config: FinetuneConfig, preprocessing: PreprocessingConfig, seed: int
) -> DataLoader:
    """Training batches: each epoch draws scans with replacement, balanced as configured, and augments each draw anew.

    With alignment, a batch has as its third part an equal number of unlabelled images.

    Args:
        seed: of the draws. Augmentation is seeded by MONAI's loader from torch's global generator.
    """
    views = augmentation(config.augmentation, preprocessing.shape, preprocessing.output_range)
    training, truth = config.training, data.training.truth
    weights = draw_weights(truth, balanced=training.balance == "sampling").tolist()
    draws, generator = max(len(truth), training.epoch_scans), torch.Generator().manual_seed(seed)
    scans = PreparedScans(data.training.tensors, truth, views, data.training.voxel_mm)
    sampler = WeightedRandomSampler(weights, draws, generator=generator)
    if config.transfer.align and data.unlabelled:
        scans = PairedScans(scans, data.unlabelled)
        sampler = PairedSampler(weights, draws, generator, len(data.unlabelled))
    batch_size = min(training.batch_size, len(sampler))
    return DataLoader(
        scans,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=True,  # a last batch of a single scan would have no batch statistics
        num_workers=_workers(training.workers),
        persistent_workers=_workers(training.workers) > 0,
    )


def validation_batches(
    tensors: Tensors,
    truth: Truth,
    config: FinetuneConfig,
    preprocessing: PreprocessingConfig,
    batch_size: int | None = None,
) -> DataLoader:
    """Each scan once, in order, without augmentation; ``batch_size`` is by default the training's."""
    plain = config.augmentation.model_copy(update={"strength": 0.0})
    middle = augmentation(plain, preprocessing.shape, preprocessing.output_range)
    scans = PreparedScans(tensors, truth, middle)
    return DataLoader(scans, batch_size=batch_size or config.training.batch_size, num_workers=0)


def plain_images(
    tensors: Tensors, config: FinetuneConfig, preprocessing: PreprocessingConfig, batch_size: int | None = None
) -> Iterator[Tensor]:
    """The images of :func:`validation_batches`: what the network sees, without the margin for augmentation."""
    no_truth = np.zeros((len(tensors), 0), dtype=bool)
    return (images for images, _ in validation_batches(tensors, no_truth, config, preprocessing, batch_size))


def draw_weights(truth: Truth, *, balanced: bool) -> NDArray[np.float64]:
    """Sampling weights [scan]; ``balanced`` gives every class (or pattern of findings) the same share of the draws."""
    if not balanced:
        return np.ones(len(truth))
    _, pattern, counts = np.unique(truth, axis=0, return_inverse=True, return_counts=True)
    return 1.0 / counts[pattern.ravel()]


def prior_offset(truth: Truth, config: FinetuneConfig, *, multilabel: bool) -> NDArray[np.float64]:
    """Offsets [class] to add to logits of balanced training to reflect the class shares in ``truth``; else zeros."""
    training = config.training
    if training.balance == "none":
        return np.zeros(truth.shape[1])
    by_pattern = training.balance == "sampling" and config.transfer.strategy.trains
    drawn = np.average(truth, axis=0, weights=draw_weights(truth, balanced=True)) if by_pattern else 0.5
    return log_prior_ratio(truth.mean(axis=0), multilabel=multilabel, trained_at=drawn)


def no_evidence(truth: Truth, config: FinetuneConfig, *, multilabel: bool) -> tuple[float, ...]:
    """Logits [class] of a network without evidence: the class frequencies' if training was not balanced, else ()."""
    if config.training.balance != "none":
        return ()
    return tuple(log_prior_ratio(truth.mean(axis=0), multilabel=multilabel).tolist())


def loss_weights(truth: Truth, config: FinetuneConfig, *, multilabel: bool) -> Tensor:
    """Weight of each class in the loss [class]: inverse frequency with mean 1; for findings, absent over present.

    Ones unless ``training.balance`` is ``weights``.
    """
    present = truth.sum(axis=0).astype(np.float64)
    if config.training.balance != "weights":
        return torch.ones(truth.shape[1])
    if multilabel:
        return torch.tensor((len(truth) - present) / np.maximum(present, 1), dtype=torch.float32)
    inverse = 1.0 / np.maximum(present, 1)
    return torch.tensor(inverse / inverse.mean(), dtype=torch.float32)


def _workers(configured: int | None) -> int:
    """Number of augmentation processes: 0 without a GPU or with few cores, since training already uses them."""
    if configured is not None:
        return configured
    return 0 if cores() <= 4 or not torch.cuda.is_available() else min(12, cores() - 2)
