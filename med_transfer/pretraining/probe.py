"""Quality of an encoder's features without fine-tuning: a linear probe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.cohorts import Cohort, PreparedCohort, prepare_cohort, without_test_rows
from med_transfer.errors import TooFewPatients
from med_transfer.model.features import pooled_features
from med_transfer.model.linear_head import fit_predict, probe_model
from med_transfer.predictions.patient_folds import Fold, held_out_in_turn, patient_folds
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.pretraining.config import PretrainingConfig
from med_transfer.pretraining.methods.method import PretrainingContext
from med_transfer.pretraining.source.views import CROP_ORIENTATION
from med_transfer.progress import Progress, named
from med_transfer.scans import geometry

_BATCH = 16
_INVERSE_STRENGTH = 0.1  # scikit-learn's C


class LinearProbe:
    """Cross-validated logistic regression by patient on pooled features of a labelled cohort.

    Source: Alain & Bengio 2017, arXiv:1610.01644 (linear probes).
    """

    def __init__(self, prepared: PreparedCohort, context: PretrainingContext) -> None:
        self.prepared, self.context = prepared, context
        cohort = prepared.cohort
        self.truth = cohort.truth
        self.patients = np.array(cohort.patients)
        self.folds = [self._folds(column, name) for column, name in zip(self.truth.T, cohort.labels.names, strict=True)]

    @property
    def identity(self) -> str:
        """Hash of its scans and their labels, in any order."""
        rows = sorted(zip(self.prepared.content_hashes, self.truth.tolist(), strict=True))
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]

    def seen(self) -> tuple[set[str], set[str]]:
        """Patient hashes and content hashes of the scans that the probe is fitted on."""
        return self.prepared.patient_hashes, self.prepared.images

    def __call__(self, encoder: Encoder) -> float:
        """Macro one-versus-rest AUC of cross-validated predictions, each for a patient that the fit did not see."""
        from sklearn.metrics import roc_auc_score  # slow to import, and most pretrainings have no probe

        features = self._features(encoder)
        aucs = [
            roc_auc_score(column, self._predicted(features, column, folds))
            for column, folds in zip(self.truth.T, self.folds, strict=True)
        ]
        return float(np.mean(aucs))

    def _predicted(self, features: NDArray, truth: NDArray[np.bool_], folds: list[Fold]) -> NDArray[np.float64]:
        model, probabilities = probe_model(_INVERSE_STRENGTH, balanced=True), np.zeros(len(truth))
        for train, test in folds:
            finding = fit_predict(model, features[train], truth[train, None], features[test], multilabel=True)
            probabilities[test] = finding[:, 0]
        return probabilities

    def _features(self, encoder: Encoder) -> NDArray[np.float64]:
        pooled = pooled_features(encoder, self._batches(), self.context.pooled_stages, self.context.device)
        return pooled.double().numpy()

    def _batches(self) -> Iterator[Tensor]:
        tensors = self.prepared.tensors
        for start in range(0, len(tensors), _BATCH):
            images = torch.from_numpy(np.stack(tensors[start : start + _BATCH]).astype(np.float32))
            channels = images.expand(-1, self.context.input.channels, -1, -1, -1)
            yield channels.contiguous(memory_format=self.context.layout)

    def _folds(self, truth: NDArray[np.bool_], name: str) -> list[Fold]:
        fewest = min(len(set(self.patients[truth])), len(set(self.patients[~truth])))
        if fewest < 2:
            raise TooFewPatients(
                f"class {name!r} has {fewest} patient to probe with",
                where=self.prepared.cohort.path or "",
                expected="at least 2 patients with it, and 2 without",
            )
        n_folds = min(self.context.config.probe.folds, fewest)
        return held_out_in_turn(patient_folds(truth, self.patients.tolist(), n_folds))


def probe_cohort(path: Path | None) -> Cohort | None:
    """The table's rows to probe with, without test rows; None without a table.

    Raises:
        CohortError: the table cannot be used, or has only test rows.
        PatientLeak: a patient has test rows and others.
    """
    if path is None:
        return None
    return without_test_rows(Cohort.read(path), "to probe with")


def linear_probe(
    config: PretrainingConfig, cohort: Cohort | None, context: PretrainingContext, folder: Path, progress: Progress
) -> LinearProbe | None:
    """The probe on a cohort, whose scans are read once and cached in ``folder``; None without a cohort.

    Raises:
        NothingDone: no scan of it can be used.
        TooFewPatients: a class has fewer than two patients, or fewer than two are without it.
    """
    settings = config.probe
    if cohort is None:
        return None
    has_region = all(case.mask or case.roi_centre_mm for case in cohort.cases)
    axes, spacing = (CROP_ORIENTATION, context.input.orientation), settings.spacing_mm
    chosen = {
        "spacing_mm": geometry.reordered(spacing, *axes) if spacing else None,
        "shape": geometry.reordered(config.input_shape, *axes),
        "region": settings.region or ("roi" if has_region else "foreground"),
        "max_gap_mm": config.max_gap_mm,
        "channels": [{"column": "scan", "window_hu": window} for window in config.windows_hu or ()],
    }
    preprocessing = PreprocessingConfig(**(context.input.preprocessing | chosen))
    progress = named(progress, "reading the probe's scans")
    prepared = prepare_cohort(cohort, Preprocessing(preprocessing), folder, progress=progress)
    return LinearProbe(prepared, context)
