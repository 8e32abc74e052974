"""Linear probe: scikit-learn's logistic regression on frozen features, as a linear layer or as probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import log_softmax
from threadpoolctl import ThreadpoolController

from med_transfer.predictions.patient_folds import held_out_in_turn, patient_folds

if TYPE_CHECKING:  # slow to import, and many processes that could fit one do not
    from sklearn.base import BaseEstimator
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

INNER_FOLDS = 5
ABSENT_LOGIT = -20.0  # of a class without training scans: a probability of practically 0
MAX_ITERATIONS = 2000
_Rows = NDArray | csr_matrix


@dataclass(frozen=True)
class LinearHead:
    """``logits = features @ weight.T + bias`` with weight [class, feature] and bias [class], and the chosen ``C``."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    inverse_strength: float

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return logits [scan, class] for features [scan, feature]."""
        return features @ self.weight.T + self.bias


def fit_probe(
    features: NDArray[np.floating],
    truth: NDArray[np.bool_],
    patients: Sequence[str],
    inverse_strengths: Sequence[float],
    *,
    multilabel: bool,
    balanced: bool,
) -> LinearHead:
    """Fit a linear probe, with its regularisation strength chosen by cross-validation among the training patients.

    Only training patients take part in the choice, so validation patients stay unseen. The criterion is the least
    cross-entropy, with equal class weights if ``balanced``; ties, and cohorts of too few patients to divide, get the
    strongest regularisation. Cross-entropy is used because it varies smoothly with every scan: a rate over a dozen
    scans jumps, and folds would get strengths, and scales of their logits, that differ by chance alone.

    Args:
        features: [scan, feature] of the training scans.
        truth: boolean [scan, class] of the training scans.
        patients: patient of each scan.
        inverse_strengths: values of scikit-learn's ``C`` to try.
        multilabel: whether a scan may have several findings; each then gets its own regression.
        balanced: weight classes by inverse frequency.

    Source: Alain & Bengio 2016, arXiv:1610.01644; Stone 1974, J R Stat Soc B 36:111.
    """
    strengths, n_folds = sorted(inverse_strengths), min(INNER_FOLDS, len(set(patients)))
    if n_folds < 2 or len(strengths) == 1:
        return fit_head(features, truth, strengths[0], multilabel=multilabel, balanced=balanced)
    folds = held_out_in_turn(patient_folds(truth, patients, n_folds))

    def loss(strength: float) -> float:
        logits = np.zeros(truth.shape)
        for learn, held_out in folds:
            head = fit_head(features[learn], truth[learn], strength, multilabel=multilabel, balanced=balanced)
            logits[held_out] = head.logits(features[held_out])
        return cross_entropy(logits, truth, multilabel=multilabel, balanced=balanced)

    best = min(strengths, key=loss)
    return fit_head(features, truth, best, multilabel=multilabel, balanced=balanced)


def mean_head(heads: Sequence[LinearHead]) -> LinearHead:
    """Return a head on the concatenated features of several heads, whose logits are the mean of theirs.

    Heads fitted separately make independent errors; fitted jointly, a thousand features would swamp two (Kittler et al.
    1998, IEEE PAMI 20:226). ``inverse_strength`` is the geometric mean.
    """
    weight = np.concatenate([head.weight for head in heads], axis=1) / len(heads)
    strength = float(np.exp(np.mean([np.log(head.inverse_strength) for head in heads])))
    return LinearHead(weight, np.mean([head.bias for head in heads], axis=0), strength)


def cross_entropy(logits: NDArray[np.floating], truth: NDArray[np.bool_], *, multilabel: bool, balanced: bool) -> float:
    """Return the mean cross-entropy of logits [scan, class] against truth [scan, class].

    With ``balanced`` each class, or each finding's presence and absence, has equal weight.
    """
    if multilabel:
        of_scan = np.logaddexp(0, np.where(truth, -logits, logits))
        alike = np.where(truth, truth.sum(axis=0), (~truth).sum(axis=0))
    else:
        of_scan = -log_softmax(logits, axis=1)[truth]
        alike = truth.sum(axis=0)[truth.argmax(axis=1)]
    return float(np.average(of_scan, weights=1 / alike if balanced else None))


def fit_head(
    features: NDArray[np.floating],
    truth: NDArray[np.bool_],
    inverse_strength: float,
    *,
    multilabel: bool,
    balanced: bool,
) -> LinearHead:
    """Fit logistic regression on standardised features, and fold the standardisation exactly into the layer.

    Args:
        features: [scan, feature].
        truth: boolean [scan, class].
        inverse_strength: scikit-learn's ``C``.
        multilabel: whether a scan may have several findings; each then gets its own regression.
        balanced: weight classes by inverse frequency.
    """
    features = np.asarray(features, dtype=np.float64)
    if multilabel:
        rows = [_fit(features, truth[:, c].astype(int), 2, inverse_strength, balanced) for c in range(truth.shape[1])]
        weight = np.stack([w[1] - w[0] for w, _ in rows])
        bias = np.array([b[1] - b[0] for _, b in rows])
    else:
        weight, bias = _fit(features, truth.argmax(axis=1), truth.shape[1], inverse_strength, balanced)
    return LinearHead(weight, bias, inverse_strength)


def probe_model(inverse_strength: float, *, balanced: bool) -> Pipeline:
    """Return an unfitted pipeline of standardisation and logistic regression with scikit-learn's ``C``."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _regression(inverse_strength, "balanced" if balanced else None))


def _regression(inverse_strength: float, class_weight: str | None = None) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=inverse_strength, class_weight=class_weight, max_iter=MAX_ITERATIONS)


def fit_predict(
    model: BaseEstimator, train: _Rows, truth: NDArray[np.bool_], test: _Rows, *, multilabel: bool
) -> NDArray[np.float64]:
    """Fit a scikit-learn classifier, and return probabilities [test scan, class]; 0 for classes without training scans.

    Args:
        model: the classifier; with ``multilabel`` it is fitted to each finding separately.
        train, test: inputs, one row per scan; may be sparse.
        truth: boolean [training scan, class].
        multilabel: whether a scan may have several findings.
    """
    if multilabel:
        return np.stack([_predict(model, train, finding.astype(int), test, 2)[:, 1] for finding in truth.T], axis=1)
    return _predict(model, train, truth.argmax(axis=1), test, truth.shape[1])


def _predict(
    model: BaseEstimator, train: _Rows, target: NDArray[np.integer], test: _Rows, n_classes: int
) -> NDArray[np.float64]:
    n_scans, _ = test.shape  # pyright: ignore
    probabilities, present = np.zeros((n_scans, n_classes)), np.unique(target)
    if len(present) == 1:  # a single class
        probabilities[:, present] = 1.0
    else:
        with _as_one_of_many():
            probabilities[:, present] = model.fit(train, target).predict_proba(test)  # type: ignore[attr-defined]
    return probabilities


@contextmanager
def _as_one_of_many() -> Iterator[None]:
    """Context for one of hundreds of small fits: in one thread, and with parameters that are not checked each time."""
    import sklearn.linear_model  # with its thread pools, which are found once

    with _thread_pools().limit(limits=1), sklearn.config_context(skip_parameter_validation=True):
        yield


@cache
def _thread_pools() -> ThreadpoolController:
    """Thread pools of BLAS and OpenMP, to be limited: in hundreds of small fits their threads mostly wait for each
    other, which takes 2 to 16 times the processor time on two free cores, and more on busy ones."""
    return ThreadpoolController()


def _fit(
    features: NDArray[np.float64], target: NDArray[np.integer], n_classes: int, inverse_strength: float, balanced: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight [class, feature] and bias [class] of logits whose softmax is the regression's probability."""
    weight, bias = np.zeros((n_classes, features.shape[1])), np.full(n_classes, ABSENT_LOGIT)
    present = np.unique(target)
    if len(present) == 1:  # a single class
        bias[present] = 0.0
        return weight, bias
    mean, scale = _standardisation(features)
    with _as_one_of_many():
        model = _regression(inverse_strength)
        model.fit((features - mean) / scale, target, _equal_classes(target) if balanced else None)
    rows, offsets = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn fits a single logit for two classes
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight[present] = rows / scale
    bias[present] = offsets - weight[present] @ mean
    bias[[c for c in range(n_classes) if c not in present]] = bias[present].min() + ABSENT_LOGIT
    return weight, bias


def _standardisation(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation [feature], 1 for constant features, as of StandardScaler in a fifth of its time."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    rounding = len(features) * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(scale > rounding, scale, 1.0)


def _equal_classes(target: NDArray[np.integer]) -> NDArray[np.float64]:
    """Weight of each scan by which all classes weigh the same, as of ``class_weight="balanced"``."""
    _, number, count = np.unique(target, return_inverse=True, return_counts=True)
    return len(target) / (len(count) * count[number])
