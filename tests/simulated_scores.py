"""Scans with truth and probabilities of known quality."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.predictions.labels import Labels

THREE = Labels(("healthy", "benign", "malignant"))
FINDINGS = Labels(("consolidation", "effusion", "nodule"), multilabel=True)


@dataclass(frozen=True)
class Simulated:
    truth: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    patients: list[str]
    labels: Labels


def three_classes(n: int = 120, *, signal: float = 1.5, scans_per_patient: int = 1, seed: int = 0) -> Simulated:
    rng = np.random.default_rng(seed)
    truth = np.eye(3, dtype=bool)[rng.choice(3, n, p=[0.5, 0.3, 0.2])]
    logits = signal * truth + rng.normal(size=(n, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Simulated(truth, probabilities, [f"p{i // scans_per_patient}" for i in range(n)], THREE)


def findings(n: int = 120, *, signal: float = 1.5, seed: int = 0) -> Simulated:
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 3)) < [0.5, 0.3, 0.2]
    logits = signal * (truth - 0.5) + rng.normal(size=(n, 3))
    return Simulated(truth, 1 / (1 + np.exp(-logits)), [f"p{i}" for i in range(n)], FINDINGS)
