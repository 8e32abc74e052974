"""Scans with a known truth: a weakly informative network, two handcrafted features, an age, a site, and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.fusion import FusionConfig, FusionScans
from med_transfer.fusion.fitting import DevelopmentScans, fit_fusion
from med_transfer.predictions.labels import Labels

NAMES = ("diameter_mm", "mean_hu")
CLASSES = {"three": Labels(("a", "b", "c")), "two": Labels(("a", "b")), "findings": Labels(("a", "b"), multilabel=True)}


@dataclass(frozen=True)
class MadeUp:
    scans: FusionScans
    truth: NDArray[np.bool_]
    patients: list[str]
    labels: Labels


def made_up(kind: str = "three", n: int = 90, seed: int = 0, missing: float = 0.1, informative: float = 1.5) -> MadeUp:
    """``informative`` separates the classes in the column ``marker``; the column ``noise`` never does."""
    random, labels = np.random.default_rng(seed), CLASSES[kind]
    n_classes = len(labels)
    if labels.multilabel:
        truth = random.random((n, n_classes)) < 0.4
        logits = 1.2 * (truth - 0.4) + random.normal(size=(n, n_classes))
        probabilities = 1 / (1 + np.exp(-logits))
    else:
        truth = np.eye(n_classes, dtype=bool)[random.permutation(np.arange(n) % n_classes)]
        logits = 1.0 * truth + random.normal(size=(n, n_classes))
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    marker = informative * (truth @ np.arange(n_classes)) + random.normal(size=n)
    handcrafted = np.stack([10 + truth[:, 0] + random.normal(size=n), random.normal(size=n) * 300], axis=1)
    texts = {
        "marker": [f"{value:.3f}" for value in marker],
        "noise": [f"{value:.3f}" for value in random.normal(size=n)],
        "site": random.choice(["north", "south", "west"], n, p=[0.6, 0.3, 0.1]).tolist(),
    }
    for values in texts.values():
        for row in np.flatnonzero(random.random(n) < missing):
            values[row] = ""
    rows = [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]
    scans = FusionScans(probabilities, handcrafted, ["roi"] * n, rows)
    return MadeUp(scans, truth, [f"p{number // 2}" for number in range(n)], labels)


def fit(data: MadeUp, *columns: str, use=None, scans: FusionScans | None = None, **options):
    use = use or (("network", "handcrafted", "columns") if columns else ("network", "handcrafted"))
    chosen = {key: options.pop(key) for key in ("penalty", "method") if key in options}
    config = FusionConfig(use=use, columns=columns, **({"method": "stacked"} | chosen))
    development = DevelopmentScans(scans or data.scans, data.truth, data.patients, data.labels, NAMES)
    return fit_fusion(development, config, **options)
