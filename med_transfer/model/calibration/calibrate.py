"""Choose and fit a calibration, and compute cross-fitted probabilities of the validation scans."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence, joined
from med_transfer.model.calibration.calibrators import FEW_PATIENTS, Calibrator
from med_transfer.model.calibration.config import FittedMethod, Method
from med_transfer.model.calibration.fitting import fit
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import Fold, held_out_in_turn, patient_counts, patient_folds

log = logging.getLogger(__name__)

SIMPLEST_FIRST: tuple[FittedMethod, ...] = ("none", "temperature", "vector", "isotonic")
_OF_EACH_CLASS = (0, 0, FEW_PATIENTS, 30)  # patients per class that the methods need
MIN_PATIENTS = dict(zip(SIMPLEST_FIRST, _OF_EACH_CLASS, strict=True))
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A calibration, and the calibrated probabilities of the validation scans.

    Attributes:
        calibrator: fitted on all validation scans; stored in the bundle.
        probabilities: [scan, class], each scan's by a calibration of the same method fitted on other patients.
        without_evidence: [scan, class], the probabilities that this calibration gives where the network favours no
            class, see :meth:`.Calibrator.without_evidence`.
    """

    calibrator: Calibrator
    probabilities: NDArray[np.float64]
    without_evidence: NDArray[np.float64]


def calibrate(
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_],
    patients: Sequence[str],
    labels: Labels,
    method: Method,
    prior: NDArray[np.float64] | None = None,
    no_evidence: tuple[float, ...] = (),
) -> Calibrated:
    """Calibrate one network's logits on scans that it was not trained on.

    Args:
        logits, truth: [scan, class].
        patients: patient of each scan; folds of the cross-fitting keep a patient's scans together.
        labels: the classes.
        method: as in CalibrationConfig. With too few patients it falls back to ``temperature``, with a warning and a
            note in the result.
        prior: [class], known log prior ratio to add to the logits; see :func:`.fitting.fit`.
        no_evidence: as in the calibrations, see :mod:`.calibrators`.
    """
    multilabel, note = labels.multilabel, ""
    if method == "auto":
        method, note = _choose(logits, truth, patients, labels, prior)
    elif reason := _too_few(method, truth, patients, labels):
        note = Sentence("temperature instead of {method}: {reason}", method=method, reason=reason)
        log.warning("calibration: %s", note)
        method = "temperature"
    counts = patient_counts(truth, patients, labels)
    if method != "none" and (few := [f"{name} ({n})" for name, n in counts.items() if n < FEW_PATIENTS]):
        kept = Sentence(
            "shrunk towards no scaling: fewer than {least} validation patients of {classes}",
            least=FEW_PATIENTS,
            classes=", ".join(few),
        )
        log.warning("calibration: %s", kept)
        note = joined(note, kept)
    fitted = fit(method, logits, truth, prior, multilabel=multilabel)
    calibrator = fitted.model_copy(update={"note": note, "n_patients": counts, "no_evidence": no_evidence})
    log.info("calibration: %s on %d validation scans%s", calibrator, calibrator.n, f"; {note}" if note else "")
    probabilities, without = np.full(truth.shape, np.nan), np.full(truth.shape, np.nan)
    for left_out, of_others in _fitted_on_others(method, logits, truth, patients, prior, multilabel=multilabel):
        own = of_others.model_copy(update={"no_evidence": no_evidence})
        probabilities[left_out] = own.probabilities(logits[left_out], multilabel=multilabel)
        without[left_out] = own.without_evidence(truth.shape[1], multilabel=multilabel)
    return Calibrated(calibrator, probabilities, without)


def cross_fitted(
    method: FittedMethod,
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_],
    patients: Sequence[str],
    prior: NDArray[np.float64] | None = None,
    *,
    multilabel: bool,
) -> NDArray[np.float64]:
    """Return probabilities [scan, class], each scan's by a calibration fitted on other patients.

    With a single patient the calibration is fitted and evaluated on the same scans.
    """
    probabilities = np.full(truth.shape, np.nan)
    for left_out, calibrator in _fitted_on_others(method, logits, truth, patients, prior, multilabel=multilabel):
        probabilities[left_out] = calibrator.probabilities(logits[left_out], multilabel=multilabel)
    return probabilities


def _fitted_on_others(
    method: FittedMethod,
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_],
    patients: Sequence[str],
    prior: NDArray[np.float64] | None,
    *,
    multilabel: bool,
) -> Iterator[tuple[NDArray[np.intp], Calibrator]]:
    """Positions of left-out scans, each scan once, and the calibration fitted on all other patients."""
    for fitted_on, left_out in _folds(truth, patients):
        yield left_out, fit(method, logits[fitted_on], truth[fitted_on], prior, multilabel=multilabel)


def _choose(
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_],
    patients: Sequence[str],
    labels: Labels,
    prior: NDArray[np.float64] | None,
) -> tuple[FittedMethod, str]:
    """The simplest method within one standard error of the best, and a sentence on how it was chosen.

    The standard error is that of the paired difference in log loss between two methods over patients, so that the
    difficulty of a patient cancels.

    Source: Breiman et al. 1984, Classification and Regression Trees, section 3.4.3 (one standard error rule).
    """
    allowed = _allowed(truth, patients, labels)
    losses = {
        method: _loss_by_patient(
            cross_fitted(method, logits, truth, patients, prior, multilabel=labels.multilabel),
            truth,
            patients,
            multilabel=labels.multilabel,
        )
        for method in allowed
    }
    best = min(allowed, key=lambda method: losses[method].mean())
    chosen: FittedMethod = next(method for method in allowed if _within_one_error(losses[method] - losses[best]))
    figures = ", ".join(f"{method} {loss.mean():.3f}" for method, loss in losses.items())
    return chosen, Sentence(
        "chosen as the simplest within one standard error of the least cross-validated log loss ({figures})",
        figures=figures,
    )


def _allowed(truth: NDArray[np.bool_], patients: Sequence[str], labels: Labels) -> list[FittedMethod]:
    return [method for method in SIMPLEST_FIRST if not _too_few(method, truth, patients, labels)]


def _within_one_error(excess: NDArray[np.float64]) -> bool:
    error = excess.std(ddof=1) / np.sqrt(len(excess)) if len(excess) > 1 else 0.0
    return bool(excess.mean() <= error)


def _loss_by_patient(
    probabilities: NDArray[np.float64], truth: NDArray[np.bool_], patients: Sequence[str], *, multilabel: bool
) -> NDArray[np.float64]:
    """Mean log loss over each patient's scans, [patient]; with multi-label data, averaged over findings."""
    likelihood = np.where(truth, probabilities, 1 - probabilities) if multilabel else probabilities[truth][:, None]
    by_scan = -np.log(np.clip(likelihood, 1e-12, 1)).mean(axis=1)
    _, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return np.bincount(patient, by_scan) / np.bincount(patient)


def _too_few(method: FittedMethod, truth: NDArray[np.bool_], patients: Sequence[str], labels: Labels) -> str:
    """Why a method has too few patients; empty if it has enough. A finding needs as many patients without it."""
    least = MIN_PATIENTS[method]
    for name, count in patient_counts(truth, patients, labels).items():
        if count < least:
            return Sentence(
                "{count} validation patients of class {name!r}, {least} are needed", count=count, name=name, least=least
            )
    return ""


def _folds(truth: NDArray[np.bool_], patients: Sequence[str]) -> list[Fold]:
    """Folds by patient; a single patient is both fitted on and left out."""
    n_folds = min(_FOLDS, len(set(patients)))
    everyone = np.arange(len(truth))
    return held_out_in_turn(patient_folds(truth, patients, n_folds)) if n_folds > 1 else [(everyone, everyone)]
