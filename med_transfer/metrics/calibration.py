"""Calibration of probabilities: Brier score and its decomposition, calibration error and slope, with intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from med_transfer.errors.sentence import Sentence, joined
from med_transfer.metrics.binomial import Z95
from med_transfer.metrics.intervals import PatientBootstrap, estimate_of_draws
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.reasons import DRAWS_AGREE
from med_transfer.metrics.recalibration import SMALLEST, binary_log_probability, intercept, slope
from med_transfer.metrics.records.calibration import BrierDecomposition, Calibration, ClassCalibration, ReliabilityBin
from med_transfer.metrics.records.estimate import Estimate, Interval

N_BINS = 10
FEWEST_PATIENTS = 10  # with a class and without it; with fewer, slopes and decision curves are meaningless


def brier_by_scan(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], *, multilabel: bool
) -> NDArray[np.float64]:
    """Return each scan's Brier score, [scan], in [0, 1]; the mean over scans is the Brier score.

    With exclusive classes it is half the sum over classes of (probability - truth)^2, which for two classes is the
    usual binary score. With several findings it is the mean over findings.

    Source: Brier 1950, Mon Weather Rev 78:1.
    """
    squared = (probabilities - truth) ** 2
    return squared.mean(axis=1) if multilabel else squared.sum(axis=1) / 2


def brier(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> Estimate:
    """Return the Brier score of :func:`brier_by_scan` with its bootstrap interval."""
    by_scan = brier_by_scan(predictions.truth, predictions.probabilities, multilabel=predictions.labels.multilabel)
    draws = bootstrap.distribution(lambda weights: weights @ by_scan / weights.sum(axis=1))
    what = Sentence("mean over findings") if predictions.labels.multilabel else Sentence("half the sum over classes")
    return estimate_of_draws(float(by_scan.mean()), draws, what, bootstrap)


def brier_decomposition(claimed: NDArray[np.float64], came_true: NDArray[np.bool_]) -> BrierDecomposition:
    """Decompose the Brier score of one class or finding over the bins of ``reliability``; both arrays are [scan].

    Sources: Murphy 1973, J Appl Meteorol 12:595; within-bin component by Stephenson, Coelho & Jolliffe 2008, Weather
    Forecast 23:752.
    """
    bins = reliability(claimed, came_true)
    share = np.array([b.n for b in bins]) / len(claimed)
    mean, observed = np.array([b.mean_probability for b in bins]), np.array([b.observed for b in bins])
    prevalence = float(came_true.mean())
    of_bins = float(share @ (mean - observed) ** 2)
    resolution, uncertainty = float(share @ (observed - prevalence) ** 2), prevalence * (1 - prevalence)
    score = float(((claimed - came_true) ** 2).mean())
    return BrierDecomposition(
        reliability=of_bins,
        resolution=resolution,
        uncertainty=uncertainty,
        within_bins=score - (of_bins - resolution + uncertainty),
    )


def combined(parts: list[BrierDecomposition], *, multilabel: bool) -> BrierDecomposition:
    """Combine the classes' parts like :func:`brier_by_scan`: half the sum over classes, or the mean over findings."""
    divisor = len(parts) if multilabel else 2
    names = BrierDecomposition.model_fields
    return BrierDecomposition(**{name: sum(getattr(part, name) for part in parts) / divisor for name in names})


def claims(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], *, multilabel: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return claimed probabilities and whether the claim came true, as two flat arrays [claim].

    With exclusive classes the claim is each scan's most probable class; with findings, every (scan, finding) pair.
    """
    if multilabel:
        return probabilities.ravel(), truth.ravel()
    top = probabilities.argmax(axis=1)[:, None]
    return np.take_along_axis(probabilities, top, axis=1)[:, 0], np.take_along_axis(truth, top, axis=1)[:, 0]


def bin_of(claimed: NDArray[np.float64], n_bins: int = N_BINS) -> NDArray[np.intp]:
    """Return the index of each claim's bin, of ``n_bins`` equal-width bins over [0, 1]; borders go to the lower bin."""
    return np.clip(np.ceil(claimed * n_bins).astype(int) - 1, 0, n_bins - 1)


def reliability(
    claimed: NDArray[np.float64], came_true: NDArray[np.bool_], n_bins: int = N_BINS
) -> list[ReliabilityBin]:
    """Group claims in bins of equal width over [0, 1]; empty bins are left out."""
    bin_of_claim = bin_of(claimed, n_bins)
    return [
        ReliabilityBin(
            mean_probability=float(claimed[chosen].mean()),
            observed=float(came_true[chosen].mean()),
            n=int(chosen.sum()),
        )
        for chosen in (bin_of_claim == b for b in range(n_bins))
        if chosen.any()
    ]


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Return the mean distance between claimed and observed, weighted by the claims in each bin; 0 is perfect.

    It is biased upwards for few scans, even with perfect probabilities. Source: Guo et al. 2017, ICML, PMLR 70:1321.
    """
    total = sum(b.n for b in bins)
    return sum(b.n * abs(b.mean_probability - b.observed) for b in bins) / total


def bin_excess(claimed: NDArray[np.float64], came_true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each claim's probability minus truth, in the column of its bin: [claim, bin], 0 elsewhere.

    The L1 norm of the mean over claims is the :func:`expected_calibration_error`.
    """
    return (claimed - came_true)[:, None] * np.eye(N_BINS)[bin_of(claimed)]


def too_few_patients(predictions: LabelledPredictions, c: int) -> str:
    """Return why a class has too few patients for a slope and a decision curve; empty if it has enough."""
    has = predictions.truth[:, c]
    enough = min(map(predictions.patients_among, (has, ~has))) >= FEWEST_PATIENTS
    return "" if enough else Sentence("fewer than {n} patients with or without the class", n=FEWEST_PATIENTS)


def calibration(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> Calibration:
    """Compute all calibration measures, overall and for each class."""
    names, multilabel = predictions.labels.names, predictions.labels.multilabel
    claimed, came_true = claims(predictions.truth, predictions.probabilities, multilabel=multilabel)
    of = Sentence("all findings") if multilabel else Sentence("the most probable class")
    by_class = {name: _of_class(predictions, c, bootstrap) for c, name in enumerate(names)}
    return Calibration(
        brier=brier(predictions, bootstrap),
        ece=_ece(claimed, came_true, bootstrap, of),
        bins=reliability(claimed, came_true),
        mean_probability=dict(zip(names, predictions.probabilities.mean(axis=0).tolist(), strict=True)),
        decomposition=combined([of_class.decomposition for of_class in by_class.values()], multilabel=multilabel),
        slope=_overall_slope(predictions),
        intercept=intercept(*_pairs(predictions)) if multilabel else None,
        classes=by_class,
    )


def _of_class(predictions: LabelledPredictions, c: int, bootstrap: PatientBootstrap) -> ClassCalibration:
    truth, probability = predictions.truth[:, c], np.clip(predictions.probabilities[:, c], 0, 1)
    squared = (probability - truth) ** 2
    draws = bootstrap.distribution(lambda weights: weights @ squared / weights.sum(axis=1))
    binary = (binary_log_probability(probability), truth.astype(int), predictions.patients)
    return ClassCalibration(
        brier=estimate_of_draws(float(squared.mean()), draws, "", bootstrap),
        decomposition=brier_decomposition(probability, truth),
        ece=_ece(probability, truth, bootstrap, Sentence("this class")),
        slope=Estimate.undefined(few) if (few := too_few_patients(predictions, c)) else slope(*binary),
        intercept=intercept(*binary),
    )


def _overall_slope(predictions: LabelledPredictions) -> Estimate:
    few = [too_few_patients(predictions, c) for c in range(len(predictions.labels))]
    if all(few):
        return Estimate.undefined(few[0])
    if predictions.labels.multilabel:
        return slope(*_pairs(predictions))
    return slope(
        np.log(np.clip(predictions.probabilities, SMALLEST, 1)), predictions.truth.argmax(axis=1), predictions.patients
    )


def _pairs(predictions: LabelledPredictions) -> tuple[NDArray[np.float64], NDArray[np.intp], list[str]]:
    """Treat every (scan, finding) pair as a scan of its own, of the scan's patient."""
    patients = [patient for patient in predictions.patients for _ in predictions.labels.names]
    return binary_log_probability(predictions.probabilities.ravel()), predictions.truth.ravel().astype(int), patients


def _ece(claimed: NDArray[np.float64], came_true: NDArray[np.bool_], bootstrap: PatientBootstrap, of: str) -> Estimate:
    value = expected_calibration_error(reliability(claimed, came_true))
    bins = Sentence("probability of {of}, {n} bins of equal width", of=of, n=N_BINS)
    low, high = calibration_error_interval(claimed, came_true, bootstrap)
    if high - low < 1e-12:
        return Estimate(value=value, ci95=None, method=bins, reason=Sentence("no interval: {why}", why=DRAWS_AGREE))
    method = joined(bins, bootstrap.described(Sentence("basic and distance")))
    return Estimate(value=value, ci95=(low, high), method=method)


def calibration_error_interval(
    claimed: NDArray[np.float64], came_true: NDArray[np.bool_], bootstrap: PatientBootstrap
) -> Interval:
    """Return the 95 % interval of the expected calibration error.

    The error is the L1 norm of a vector: each bin's claims minus outcomes. Sampling biases the norm upwards, and
    resampling adds the same bias again, so percentiles of the draws lie above the truth. The upper limit is therefore
    that of the basic bootstrap, which removes the bias (Davison & Hinkley 1997, Bootstrap Methods, equation 5.6). The
    basic bootstrap fails near perfect calibration, where the lower limit should be 0; the lower limit is instead the
    error minus the distance of the drawn vectors from the observed one, with a small-sample correction.
    ``docs/measured/calibration.md`` has the measured coverage.

    Args:
        claimed, came_true: [claim], ordered by scan, with the same number of claims for every scan.
        bootstrap: bootstrap over the scans' patients.
    """
    excess = bin_excess(claimed, came_true)
    centre, claims_a_scan = excess.mean(axis=0), len(claimed) // len(bootstrap.patients)
    by_scan = excess.reshape(len(bootstrap.patients), claims_a_scan, -1).mean(axis=1)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = weights @ by_scan / weights.sum(axis=1, keepdims=True)
        return np.abs(np.stack([drawn, drawn - centre], axis=1)).sum(axis=2)

    value, (errors, distances) = float(np.abs(centre).sum()), bootstrap.distribution(statistic).T
    low = value - _small_sample(len(set(bootstrap.patients))) * float(np.percentile(distances, 97.5))
    high = 2 * value - float(np.percentile(errors, 2.5))
    return max(0.0, low), max(value, high)


def _small_sample(n_patients: int) -> float:
    """Small-sample factor for resampled distances: the bootstrap's variance bias, and Student's t over the normal.

    Source: Hesterberg 2015, Am Stat 69:371, section 5.3.
    """
    if n_patients < 2:
        return 1.0
    return float(np.sqrt(n_patients / (n_patients - 1)) * t.ppf(0.975, n_patients - 1) / Z95)
