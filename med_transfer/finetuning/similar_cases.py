"""The development scans that a bundle shows beside a similar new scan, and how reliable their labels are for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.bundle.similar_cases import SimilarCases, most_similar, similarity
from med_transfer.cohorts import PreparedCohort
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.features import FeatureSource
from med_transfer.model.ensemble import Ensemble
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.scans import geometry
from med_transfer.scans.inspection.picture import jpeg, planes


def similar_cases(run_data: RunData, config: FinetuneConfig, ensemble: Ensemble, cache: Path) -> SimilarCases | None:
    """Features, labels and pictures of the development scans; None if the config does not ask for them.

    Args:
        config: of the ensemble that is kept.
        cache: folder of the features of frozen encoders.
    """
    if not config.similar_cases:
        return None
    rows = list(run_data.split.development)
    prepared = run_data.prepared.subset(rows)
    source = FeatureSource(cache, config, run_data.preprocessing)
    read = source.computed if config.transfer.strategy.trains else source.cached
    features = [read(classifier, prepared.tensors).numpy() for classifier in ensemble.fold_models]
    truth, patients = prepared.cohort.truth, np.unique(prepared.cohort.patients, return_inverse=True)[1]
    pictures = _pictures(prepared.without_margin(margin_voxels(run_data.preprocessing.shape)), run_data.preprocessing)
    validation = [np.isin(rows, fold) for fold in run_data.split.validation]
    return SimilarCases(features, truth, patients, pictures, same_label(features, truth, patients, validation))


def same_label(
    features: list[NDArray[np.floating]],
    truth: NDArray[np.bool_],
    patients: NDArray[np.int64],
    validation: list[NDArray[np.bool_]],
) -> tuple[float, float]:
    """Share of training scans with a validation scan's label: among the most similar ones, and among all of them.

    Args:
        features: [scan, feature] for each fold model; a fold's validation scans are compared by its own model.
        truth: [scan, class].
        patients: [scan].
        validation: for each fold, which scans are its validation scans, [scan].
    """
    shown, chance = [], []
    for of_fold, held_out in zip(features, validation, strict=True):
        equal = (truth[held_out][:, None] == truth[~held_out]).all(axis=2)
        alike = similarity([of_fold[held_out]], [of_fold[~held_out]])
        for of_scan, same in zip(alike, equal, strict=True):
            shown.append(same[most_similar(of_scan, patients[~held_out])].mean())
            chance.append(same.mean())
    return float(np.mean(shown)), float(np.mean(chance))


def _pictures(prepared: PreparedCohort, config: PreprocessingConfig) -> list[bytes]:
    """JPEG of each scan: three planes of its first channel as the network sees it, side by side in true proportions."""
    pictures = []
    for tensor, voxel_mm in zip(prepared.tensors, prepared.voxel_mm, strict=True):
        affine = geometry.grid_affine(config.orientation, voxel_mm, (0.0, 0.0, 0.0), config.shape)
        shown = [plane.image for plane in planes(tensor[0], affine, config.output_range)]
        height = max(len(image) for image in shown)
        pictures.append(jpeg(np.hstack([np.pad(image, ((0, height - len(image)), (0, 0))) for image in shown])))
    return pictures
