"""All measures of one network on the training folds: of every layer, and of its distance from the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from med_transfer.backbones import BackboneSpec
from med_transfer.backbones.weights.source_features import SourceFeatures
from med_transfer.cohorts import Cohort
from med_transfer.errors import BackboneError
from med_transfer.finetuning.features import require_finite_features
from med_transfer.model.classifier import stages_from_front
from med_transfer.selection.features import StageFeatures
from med_transfer.selection.measures.discrepancy import mmd, proxy_a_distance
from med_transfer.selection.measures.frechet import frechet_distance, gaussian_of
from med_transfer.selection.measures.hscore import regularised_h_score
from med_transfer.selection.measures.leep import n_leep
from med_transfer.selection.measures.logme import log_me
from med_transfer.selection.measures.transrate import trans_rate
from med_transfer.selection.probes import CrossValidatedPredictions, linear_probe, nearest_neighbours
from med_transfer.selection.ranking import rank
from med_transfer.selection.record import DomainGap, LayerScore, Stages, layer_text
from med_transfer.selection.target import Target
from med_transfer.selection.weights_check import Agreement

NOTHING_STORED = "no features of the source are stored"
Measure = Callable[[NDArray[np.float64], NDArray[np.integer]], float]


@dataclass(frozen=True)
class MeasuredLayer:
    """A layer's figures, and the predictions of its linear probe."""

    score: LayerScore
    probe: CrossValidatedPredictions


def layers_of(spec: BackboneSpec, also: Stages | None = None) -> list[Stages]:
    """The layers to measure: every stage alone, and the joined stages of the catalogue entry and of ``also``.

    Raises:
        ConfigError: ``also`` has a stage that the backbone does not have.
    """
    n_stages = len(spec.stage_channels)
    single = [(stage,) for stage in range(n_stages)]
    joined = [stages_from_front(stages, n_stages, spec.name) for stages in (spec.pooled_stages, also) if stages]
    return list(dict.fromkeys([*single, *joined]))


def require_finite(name: str, features: Sequence[StageFeatures], cohort: Cohort) -> None:
    """Refuse a network that gives NaN or infinity for a scan. Raises BackboneError, which names the scan."""
    finite = [all(np.isfinite(stage).all() for stage in of_scan.stages) for of_scan in features]
    require_finite_features(name, np.array(finite), cohort.cases)


def joined_features(features: Sequence[StageFeatures], stages: Stages) -> NDArray[np.float64]:
    """Spatial means of these stages, joined, [scan, feature]."""
    return np.array(
        [np.concatenate([of_scan.stages[stage] for stage in stages]) for of_scan in features], dtype=np.float64
    )


def measure_layers(features: Sequence[StageFeatures], layers: Sequence[Stages], target: Target) -> list[MeasuredLayer]:
    """Measure every layer; returns them best first by the ranking rule, with the number of features as cost."""
    measured = [_measure(joined_features(features, stages), stages, target) for stages in layers]
    contenders = {
        layer.score.criteria(layer_text(layer.score.stages), layer.score.n_features): layer for layer in measured
    }
    return [contenders[criteria] for criteria in rank(list(contenders), target.n_patients)]


def _measure(table: NDArray[np.float64], stages: Stages, target: Target) -> MeasuredLayer:
    cohort = target.cohort
    truth, patients, labels = cohort.truth, cohort.patients, cohort.labels
    probe = linear_probe(table, truth, patients, target.folds, labels, target.seed)
    neighbours = nearest_neighbours(table, truth, patients, target.folds, labels)
    score = LayerScore(
        stages=stages,
        n_features=table.shape[1],
        macro_auc=probe.macro_auc,
        standard_error=probe.standard_error,
        balanced_sensitivity=probe.balanced_sensitivity,
        knn_macro_auc=neighbours.macro_auc,
        knn_balanced_sensitivity=neighbours.balanced_sensitivity,
        log_me=over_labels(log_me, table, target),
        h_score=over_labels(regularised_h_score, table, target),
        n_leep=over_labels(partial(n_leep, seed=target.seed), table, target),
        trans_rate=over_labels(trans_rate, table, target),
    )
    return MeasuredLayer(score, probe)


def over_labels(measure: Measure, table: NDArray[np.float64], target: Target) -> float:
    """A measure for the classes; for several findings per scan, the mean over findings of present against absent."""
    truth = target.cohort.truth
    if not target.cohort.labels.multilabel:
        return measure(table, truth.argmax(axis=1))
    return float(np.mean([measure(table, finding.astype(int)) for finding in truth.T]))


# Against the source -------------------------------------------------------------------------------------------


def domain_gap(
    features: Sequence[StageFeatures],
    best: Stages,
    source: SourceFeatures | None,
    patients: Sequence[str],
    why_unknown: str = NOTHING_STORED,
    seed: int = 0,
) -> DomainGap:
    """All distances that can be computed from what is known of the source, in the best layer if it is known there.

    Args:
        features: of the cohort's scans.
        best: the best layer.
        source: what is known of the source's features.
        patients: one entry per scan.
        why_unknown: the reason if ``source`` is None.
        seed: of permutations and folds.

    Raises:
        BackboneError: the source's features do not fit the network.
    """
    agreement, unknown = _agreement(features), []
    if agreement is None:
        unknown.append("batch normalisation: the network keeps no statistics")
    if source is None:
        unknown.append(f"Frechet distance, MMD and A-distance: {why_unknown}")
        return DomainGap(batch_norm=agreement, unknown="; ".join(unknown))
    stages = _layer_of_source(source, best)
    table = joined_features(features, stages)
    stored = source.table(stages)
    reference = gaussian_of(stored) if stored is not None else source.gaussians[stages]
    if len(reference.mean) != table.shape[1]:
        raise BackboneError(
            f"{len(reference.mean)} source features of stage {layer_text(stages)}",
            expected=f"{table.shape[1]}, as the network has",
        )
    distance = frechet_distance(reference, gaussian_of(table))
    relative = distance / reference.total_variance if reference.total_variance > 0 else None
    mmd_squared = p_value = a_distance = None
    if stored is None:
        unknown.append("MMD and A-distance: of the source only mean and covariance are stored")
    else:
        discrepancy, a_distance = mmd(stored, table, seed=seed), proxy_a_distance(stored, table, patients, seed=seed)
        mmd_squared, p_value = discrepancy.squared, discrepancy.p_value
        if len(set(patients)) < len(patients):
            p_value = None
            unknown.append("p of MMD: its permutations assume one scan per patient")
    return DomainGap(stages, distance, relative, mmd_squared, p_value, a_distance, agreement, "; ".join(unknown))


def _layer_of_source(source: SourceFeatures, best: Stages) -> Stages:
    """The best layer if the source has it, else the source's deepest; features are preferred to a Gaussian."""
    if source.table(best) is not None:
        return best
    available = [*source.features, *source.gaussians]
    return best if best in available else max(available, key=lambda stages: (stages in source.features, max(stages)))


def _agreement(features: Sequence[StageFeatures]) -> Agreement | None:
    """Median agreement over the scans whose statistics were compared; None if there are none."""
    compared = [of_scan.agreement for of_scan in features if of_scan.agreement is not None]
    if not compared:
        return None
    correlation, shift, spread = np.median([(scan.correlation, scan.shift, scan.spread) for scan in compared], axis=0)
    return Agreement(float(correlation), float(shift), float(spread), compared[0].layers)
