"""Fit the fusion: logistic regression averaged with the network, or stacked on its out-of-fold outputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import TooFewPatients
from med_transfer.fusion.clinical import Numbers, learn_column
from med_transfer.fusion.config import FusionConfig, Method, Part, Penalty
from med_transfer.fusion.leaks import leaking_columns
from med_transfer.fusion.model import Combination, Fusion, FusionScans, Inputs
from med_transfer.model.calibration import log_prior_ratio
from med_transfer.model.linear_head import LinearHead, cross_entropy, fit_head
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import held_out_in_turn, patient_counts, patient_folds

MINIMUM_PATIENTS = 5  # per class; for findings, with and without each
INVERSE_PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # scikit-learn's C, strongest penalty first
_INNER_FOLDS = 5


@dataclass(frozen=True, eq=False)
class DevelopmentScans:
    """The scans that a fusion is fitted on.

    Attributes:
        scans: their inputs. For ``stacked``, probabilities must come from a network that was not trained on the scan;
            scans where they are NaN are left out of every combination that includes the network. ``mean`` ignores
            probabilities.
        truth: boolean [scan, class].
        patients: patient of each scan.
        labels: the classes.
        handcrafted_names: names of the columns of ``scans.handcrafted``.
        rows, where: how messages name the scans and the table.
    """

    scans: FusionScans
    truth: NDArray[np.bool_]
    patients: Sequence[str]
    labels: Labels
    handcrafted_names: Sequence[str]
    rows: Sequence[object] | None = None
    where: object = ""

    def texts(self, name: str) -> list[str]:
        """Return a column's text of each scan; empty where missing."""
        return [columns.get(name, "") for columns in self.scans.columns]


def fit_fusion(development: DevelopmentScans, config: FusionConfig, *, balanced: bool = True, seed: int = 0) -> Fusion:
    """Fit a model for every combination of the parts.

    Args:
        development: the scans to learn from.
        config: what to fuse.
        balanced: weight classes by inverse frequency.
        seed: random seed of the inner folds.

    Raises:
        TooFewPatients: a class has too few patients.
        CohortError: a column cannot be used.

    Source: Wolpert 1992, Neural Networks 5:241 (stacked generalisation); for equal weights Clemen 1989,
    International Journal of Forecasting 5:559; Claeskens et al. 2016, ibid. 32:754.
    """
    scans, truth, patients = development.scans, development.truth, np.asarray(development.patients)
    everyone = list(range(len(scans)))
    out_of_fold = np.flatnonzero(np.isfinite(scans.probabilities).all(axis=1)).tolist()
    learned_from = everyone if config.method == "mean" else out_of_fold
    require_patients(
        truth[learned_from], patients[learned_from].tolist(), development.labels, config.method, development.where
    )
    inputs, shares = learn_inputs(development, config), truth.mean(axis=0)
    prior = log_prior_ratio(shares, multilabel=inputs.multilabel) if balanced else None
    combinations: dict[tuple[Part, ...], Combination] = {}
    for parts in reversed(combinations_of(config.use)):
        without_network: tuple[Part, ...] = tuple(part for part in parts if part != "network")
        if config.method == "mean" and "network" in parts:
            combinations[parts] = mean_with_network(parts, inputs, combinations[without_network])
            continue
        chosen = out_of_fold if "network" in parts else everyone
        features = np.hstack([inputs.block(part, scans.take(chosen)) for part in parts])
        regression = _regression(
            features, truth[chosen], patients[chosen], config.penalty, inputs.multilabel, prior, seed
        )
        names = tuple(name for part in parts for name in inputs.names(part))
        combinations[parts] = Combination(parts=parts, features=names, **regression)
    return Fusion(
        inputs=inputs,
        combinations=tuple(combinations[parts] for parts in combinations_of(config.use)),
        method=config.method,
        report=config.report,
        balanced=balanced,
        shares=tuple(shares.tolist()),
        warnings=tuple(
            leaking_columns({name: development.texts(name) for name in config.columns}, truth, development.patients)
        ),
    )


def learn_inputs(development: DevelopmentScans, config: FusionConfig) -> Inputs:
    """Learn the encoding of all inputs from the development scans. Raises CohortError like :func:`learn_column`."""
    scans, labels, handcrafted = development.scans, development.labels, []
    if "handcrafted" in config.use:
        names = development.handcrafted_names
        handcrafted = [Numbers.learn(name, scans.handcrafted[:, n]) for n, name in enumerate(names)]
    columns = [
        learn_column(name, development.texts(name), development.patients, development.rows, development.where)
        for name in config.columns
    ]
    return Inputs(
        use=config.use,
        classes=labels.names,
        multilabel=labels.multilabel,
        handcrafted=tuple(handcrafted),
        within=tuple(sorted(set(scans.within))) if handcrafted else (),
        columns=tuple(columns),
    )


def combinations_of(use: Sequence[Part]) -> list[tuple[Part, ...]]:
    """Return every combination of parts, the full one first, without the network alone, which needs no model."""
    sizes = range(len(use), 0, -1)
    return [parts for size in sizes for parts in itertools.combinations(use, size) if parts != ("network",)]


def mean_with_network(parts: tuple[Part, ...], inputs: Inputs, without_network: Combination) -> Combination:
    """Return the mean of the network's logits and those of a model of the other parts, as one linear model.

    Nothing is fitted to the network's outputs, so they need not come from held-out scans. A model with little
    information has small calibrated logits, so each contributes according to its confidence.

    Args:
        parts: all parts, including the network.
        inputs: encoding of the inputs.
        without_network: the fitted model of the other parts.
    """
    names = inputs.names("network")
    before = sum(len(inputs.names(part)) for part in parts[: parts.index("network")])

    def among(own: Sequence, of_rest: Sequence) -> tuple:
        return (*of_rest[:before], *own, *of_rest[before:])

    half = np.eye(len(names)) / 2
    weight = [
        among(own, row) for own, row in zip(half.tolist(), (np.array(without_network.weight) / 2).tolist(), strict=True)
    ]
    return without_network.model_copy(
        update={
            "parts": parts,
            "features": among(names, without_network.features),
            "mean": among([0.0] * len(names), without_network.mean),
            "scale": among([1.0] * len(names), without_network.scale),
            "weight": tuple(weight),
            "bias": tuple(bias / 2 for bias in without_network.bias),
        }
    )


def require_patients(
    truth: NDArray[np.bool_], patients: Sequence[str], labels: Labels, method: Method, where: object = ""
) -> None:
    """Check that there are enough patients to fit: of development scans, or for ``stacked`` of out-of-fold ones.

    Raises:
        TooFewPatients: a class has too few patients.
    """
    lacking, action = "to learn from", "Add patients, or leave fusion out"
    if method == "stacked":
        lacking = "with a scan that a network was not trained on"
        action = (
            "Use split.kind=kfold, where every development scan has one (with a single split only the validation scans "
            "do), add patients, or leave fusion out"
        )
    for name, count in patient_counts(truth, patients, labels).items():
        if count < MINIMUM_PATIENTS:
            raise TooFewPatients(
                f"class {name!r} has {count} patient{'' if count == 1 else 's'} {lacking}, too few for fusion",
                where=where,
                expected=f"at least {MINIMUM_PATIENTS}",
                action=action,
            )


def _regression(
    features: NDArray[np.float64],
    truth: NDArray[np.bool_],
    patients: NDArray,
    penalty: Penalty,
    multilabel: bool,
    prior: NDArray[np.float64] | None,
    seed: int,
) -> dict[str, Any]:
    """Fitted fields of a Combination; ``prior`` is the log prior ratio of balanced fitting, None if not balanced."""
    balanced = prior is not None
    if penalty == "auto":
        penalty = choose_penalty(features, truth, patients, multilabel=multilabel, balanced=balanced, seed=seed)
    mean, scale, head = _fit(features, truth, penalty, multilabel=multilabel, balanced=balanced)
    return {
        "mean": tuple(mean.tolist()),
        "scale": tuple(scale.tolist()),
        "weight": tuple(map(tuple, head.weight.tolist())),
        "bias": tuple((head.bias if prior is None else head.bias + prior).tolist()),
        "inverse_penalty": penalty,
        "n_scans": len(truth),
        "n_patients": len(set(patients.tolist())),
    }


def choose_penalty(
    features: NDArray[np.float64],
    truth: NDArray[np.bool_],
    patients: NDArray,
    *,
    multilabel: bool,
    balanced: bool = True,
    seed: int = 0,
) -> float:
    """Return the ``C`` with the least cross-validated cross-entropy, by patient; ties go to the strongest penalty."""
    n_folds = min(_INNER_FOLDS, len(set(patients.tolist())))
    folds = held_out_in_turn(patient_folds(truth, patients.tolist(), n_folds, seed))
    losses = []
    for strength in INVERSE_PENALTIES:
        logits = np.zeros(truth.shape)
        for training, left_out in folds:
            mean, scale, head = _fit(
                features[training], truth[training], strength, multilabel=multilabel, balanced=balanced
            )
            logits[left_out] = head.logits((features[left_out] - mean) / scale)
        losses.append(cross_entropy(logits, truth, multilabel=multilabel, balanced=balanced))
    return INVERSE_PENALTIES[int(np.argmin(losses))]


def _fit(
    features: NDArray[np.float64], truth: NDArray[np.bool_], strength: float, *, multilabel: bool, balanced: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], LinearHead]:
    """Mean and scale, each [feature], and the regression on standardised features."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9 * np.maximum(np.abs(mean), 1), scale, 1.0)  # constant features are not scaled
    head = fit_head((features - mean) / scale, truth, strength, multilabel=multilabel, balanced=balanced)
    return mean, scale, head
