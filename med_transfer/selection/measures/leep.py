"""LEEP: how well the source network's class probabilities predict the target's classes. N-LEEP: with clusters."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from med_transfer.errors import UsageError
from med_transfer.selection.measures.inputs import checked

_COMPONENTS_A_CLASS = 5
_KEPT_VARIANCE = 0.8
_MIN_SCANS = 5  # per cluster on average; otherwise clusters become single scans and predict any label


def leep(source_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean log-likelihood of the labels under the expected empirical predictor; at most 0, higher is better.

    With theta the source's probabilities of class z for a scan::

        P(y, z) = mean over scans of class y's theta_z     P(y | z) = P(y, z) / P(z)
        LEEP = mean over scans of log sum_z P(y | z) theta_z

    Source classes whose probability is 0 for every scan are left out.

    Args:
        source_probabilities: [scan, source class], each row summing to 1.
        labels: one class per scan.

    Raises:
        UsageError: rows that are not probabilities; also as :func:`med_transfer.selection.measures.inputs.checked`.

    Source: Nguyen et al. 2020, ICML, arXiv:2002.12462.
    """
    theta, classes = checked(source_probabilities, labels)
    if (theta < 0).any() or not np.allclose(theta.sum(axis=1), 1, atol=1e-4):
        raise UsageError("rows that are no probabilities", expected="0 or more in each source class, 1 in all")
    theta = theta[:, theta.any(axis=0)]
    joint = np.eye(classes.max() + 1)[classes].T @ theta / len(theta)
    conditional = joint / joint.sum(axis=0)
    predicted = np.einsum("nz,nz->n", conditional[classes], theta)
    return float(np.log(predicted).mean())


def n_leep(features: ArrayLike, labels: ArrayLike, seed: int = 0) -> float:
    """LEEP with clusters of a Gaussian mixture on principal components instead of source classes.

    So it needs no source head. The components hold 80 % of the variance. As in the paper there are five clusters per
    class, but fewer if that would leave under five scans per cluster on average; covariances are diagonal, because
    clinical cohorts are small. Constant features give the log-likelihood of the prevalence.

    Args:
        features: [scan, feature].
        labels: one class per scan.
        seed: of the mixture's initialisation.

    Raises:
        UsageError: see :func:`med_transfer.selection.measures.inputs.checked`.

    Source: Li et al. 2021, CVPR, arXiv:2011.11200.
    """
    table, classes = checked(features, labels)
    return leep(_cluster_probabilities(table, int(classes.max()) + 1, seed), classes)


def _cluster_probabilities(table: NDArray[np.float64], n_classes: int, seed: int) -> NDArray[np.float64]:
    components = _principal_components(table)
    wanted = min(_COMPONENTS_A_CLASS * n_classes, len(table) // _MIN_SCANS)
    if components is None or wanted < 2:
        return np.ones((len(table), 1))
    mixture = GaussianMixture(wanted, covariance_type="diag", reg_covar=1e-3, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # exact clusters do not matter: the score averages over all
        probabilities = mixture.fit(components).predict_proba(components)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def _principal_components(table: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Scores on the first components that hold 80 % of the variance, scaled so that the first has variance 1.

    None if the features are constant.
    """
    left, singular, _ = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)
    variances = singular**2
    if variances[0] <= 1e-24 * max(float((table**2).sum()), 1e-300):
        return None
    n_kept = int(np.searchsorted(variances.cumsum() / variances.sum(), _KEPT_VARIANCE)) + 1
    return (left * singular)[:, :n_kept] / singular[0] * np.sqrt(len(table))
