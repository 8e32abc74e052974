"""Logistic regression by L-BFGS for hundreds of small fits, most of whose time scikit-learn's checks would take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit, softmax

MAX_ITERATIONS = 2000
Rows = NDArray | csr_matrix


@dataclass(frozen=True)
class FittedRegression:
    """Logits ``features @ weight.T + bias``, one for each class, or of two classes that of the second alone.

    ``weight`` is [logit, feature] and ``bias`` is [logit].
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def predict_proba(self, features: Rows) -> NDArray[np.float64]:
        """Return probabilities [scan, class] for features [scan, feature]."""
        logits = features @ self.weight.T + self.bias
        if logits.shape[1] > 1:
            return softmax(logits, axis=1)
        positive = expit(logits[:, 0])
        return np.stack([1 - positive, positive], axis=1)


@dataclass(frozen=True)
class Regression:
    """Objective, optimiser and stopping rules of scikit-learn's LogisticRegression, whose results it gives.

    Attributes:
        inverse_strength: scikit-learn's ``C``.
        balanced: whether classes have equal weight.
        tolerance: largest gradient of the mean loss at which the optimiser stops.
    """

    inverse_strength: float = 1.0
    balanced: bool = True
    tolerance: float = 1e-4

    def fit(self, features: Rows, target: NDArray[np.integer]) -> FittedRegression:
        """Fit to features [scan, feature] and classes [scan], of which at least two occur."""
        classes, number, counts = np.unique(target, return_inverse=True, return_counts=True)
        truth = np.eye(len(classes))[number]
        weights = len(target) / (len(counts) * counts[number]) if self.balanced else np.ones(len(target))
        objective = _Objective(
            features,
            truth if len(classes) > 2 else truth[:, 1:],
            weights / weights.sum(),
            penalty=1 / (self.inverse_strength * weights.sum()),
        )
        options = {"maxiter": MAX_ITERATIONS, "maxls": 50, "gtol": self.tolerance, "ftol": 64 * np.finfo(float).eps}
        start = np.zeros(objective.truth.shape[1] * (features.shape[1] + 1))  # pyright: ignore
        found = minimize(objective, start, method="L-BFGS-B", jac=True, options=options)
        parameters = found.x.reshape(objective.truth.shape[1], -1)
        return FittedRegression(parameters[:, :-1], parameters[:, -1])


@dataclass(frozen=True)
class _Objective:
    """Mean loss with an L2 penalty on weights, and its gradient.

    Attributes:
        features: [scan, feature].
        truth: 0 or 1 [scan, logit].
        shares: weight of each scan; their sum is 1.
        penalty: factor of half the sum of squared weights.
    """

    features: Rows
    truth: NDArray[np.float64]
    shares: NDArray[np.float64]
    penalty: float

    def __call__(self, parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        matrix = parameters.reshape(self.truth.shape[1], -1)
        weight, gradient = matrix[:, :-1], np.empty_like(matrix)
        losses, residuals = _losses(self.features @ weight.T + matrix[:, -1], self.truth)
        residuals *= self.shares[:, None]
        gradient[:, :-1] = (self.features.T @ residuals).T + self.penalty * weight
        gradient[:, -1] = residuals.sum(axis=0)
        return float(losses @ self.shares + self.penalty / 2 * np.square(weight).sum()), gradient.ravel()


def _losses(logits: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cross-entropy [scan], and its gradient with respect to the logits [scan, logit]."""
    if truth.shape[1] == 1:
        return (np.logaddexp(0, logits) - truth * logits)[:, 0], expit(logits) - truth
    logits = logits - logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    total = odds.sum(axis=1, keepdims=True)
    return np.log(total[:, 0]) - (truth * logits).sum(axis=1), odds / total - truth
