"""Evaluation after training: the test patients are used for the first time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from med_transfer.bundle import BundleRecord
from med_transfer.cohorts import Cohort, PreparedCohort
from med_transfer.evaluation.evaluate import EvaluationInput, as_development, evaluate, predict
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.fallback import gain_on_test, gain_on_validation
from med_transfer.finetuning.decisions.validation_decisions import cross_fitted_decisions
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.finetuning.record import envelope_without
from med_transfer.finetuning.repeats import measure_repeats
from med_transfer.finetuning.summary import learning_curves, summary_of
from med_transfer.metrics.baselines import cross_validate_baselines, fit_handcrafted, prevalence_only
from med_transfer.metrics.compute_metrics import PREVALENCE_BASELINE, KnownFigures
from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.metrics.records.metrics import KeptNetwork, Metrics, TransferGain
from med_transfer.metrics.records.shortcuts import ACQUISITION_BASELINE, Shortcuts
from med_transfer.metrics.shortcuts import fit_acquisition
from med_transfer.predictions.by_repeat import REPEATS_FILE
from med_transfer.progress import Progress, silent
from med_transfer.report.run_summary import origin


@dataclass(frozen=True)
class TrainedNetworks:
    """The networks of a run: the transferred ensemble, the one from scratch if there is one, and which is kept.

    ``seconds`` is the run's duration up to their evaluation.
    """

    transferred: TrainedEnsemble
    scratch: TrainedEnsemble | None
    kept: KeptNetwork
    seconds: float = 0.0

    @property
    def ensembles(self) -> list[TrainedEnsemble]:
        """All ensembles, the transferred one first."""
        return [self.transferred] if self.scratch is None else [self.transferred, self.scratch]

    @property
    def bundled(self) -> TrainedEnsemble:
        """The ensemble that the bundle holds."""
        return self.scratch if self.kept.fell_back and self.scratch is not None else self.transferred


class _Outputs(NamedTuple):
    """A network's outputs on the evaluated scans: probabilities [scan, class] and novelty [scan]."""

    probabilities: NDArray[np.float64]
    novelty: NDArray[np.float64]


def evaluate_held_out(
    run_data: RunData,
    config: FinetuneConfig,
    record: BundleRecord,
    networks: TrainedNetworks,
    out: Path,
    access: AccessCounts | None,
    progress: Progress = silent,
) -> Metrics:
    """Predict the evaluated scans, compute metrics and transfer gain, and write the results.

    All results are those of the network that was kept, except for the transfer gain: transferred minus from scratch.
    Without a test part, the out-of-fold predictions of the development scans are evaluated.
    """
    split, bundled = run_data.split, networks.bundled
    test = run_data.prepared.subset(split.evaluated).without_margin(margin_voxels(run_data.preprocessing.shape))
    outputs = [_outputs(network, test, run_data, progress) for network in networks.ensembles]
    baselines, shortcuts = (
        _baselines(run_data, config.seed)
        if split.test
        else _cross_validated_baselines(run_data, max(1, len(bundled.repeats)))
    )
    summary = summary_of(run_data, config, record, bundled, networks.kept)
    known = KnownFigures(
        transfer_gain=_gain(networks, outputs, test.cohort, run_data, config.seed),
        kept_network=networks.kept,
        generalisation_gap=bundled.gap,
        shortcuts=shortcuts,
        test_set_access=access,
        out_of_fold=not split.test,
        repeats=measure_repeats(run_data, config, bundled, out / REPEATS_FILE),
        altered_copies=run_data.altered_copies,
    )
    of_bundled = next(of for network, of in zip(networks.ensembles, outputs, strict=True) if network is bundled)
    given = EvaluationInput(
        record,
        bundled.ensemble,
        test,
        of_bundled.probabilities,
        of_bundled.novelty,
        replace(summary, origin=origin(run_data.prepared.cohort.path, run=out), seconds=networks.seconds),
        baselines,
        known,
        curves=learning_curves(bundled, config),
        cross_fitted=() if split.test else _cross_fitted(run_data, config, record, bundled),
        fold_of=() if split.test else [split.fold_of[row] for row in split.evaluated],
    )
    return evaluate(
        given,
        out,
        config=config.evaluation,
        subgroups=config.subgroups,
        explain=config.explain,
        seed=config.seed,
        progress=progress,
    )


def _outputs(network: TrainedEnsemble, test: PreparedCohort, run_data: RunData, progress: Progress) -> _Outputs:
    """The ensemble's outputs on test scans; without a test part, the out-of-fold outputs."""
    if run_data.split.test:
        return _Outputs(*predict(network.ensemble, test, progress))
    return _Outputs(network.validation, network.validation_novelty)


def _gain(
    networks: TrainedNetworks, outputs: list[_Outputs], cohort: Cohort, run_data: RunData, seed: int
) -> TransferGain | None:
    """Transferred minus from scratch, in the first repeat if out-of-fold; None if no baseline was trained."""
    if len(outputs) == 1:
        return None
    if not run_data.split.test:
        return gain_on_validation(networks.ensembles, run_data, seed)
    return gain_on_test(networks.ensembles, [of.probabilities for of in outputs], cohort, seed)


def _cross_fitted(
    run_data: RunData, config: FinetuneConfig, record: BundleRecord, bundled: TrainedEnsemble
) -> list[tuple[NDArray[np.intp], BundleRecord]]:
    """Positions of held-out scans, and the bundle's record with decisions made, and limits drawn, on all others."""
    validated = run_data.split.validated
    return [
        (
            rows,
            record.model_copy(
                update={
                    "operating_point": point,
                    "prediction_sets": sets,
                    "input_envelope": envelope_without(run_data, (validated[row] for row in rows)),
                }
            ),
        )
        for rows, point, sets in cross_fitted_decisions(run_data, config, bundled)
    ]


def _cross_validated_baselines(
    run_data: RunData, repeats: int
) -> tuple[dict[str, NDArray[np.float64]], Shortcuts | None]:
    """As :func:`_baselines`, cross-validated as often as the network: each patient by models fitted on others."""
    scans = run_data.prepared.subset(run_data.split.evaluated)
    within, shortcuts = cross_validate_baselines(scans.handcrafted, as_development(scans), repeats)
    truth = run_data.prepared.cohort.truth[list(run_data.split.development)]
    return {PREVALENCE_BASELINE: prevalence_only(truth, len(scans.scans))} | within, shortcuts


def _baselines(run_data: RunData, seed: int) -> tuple[dict[str, NDArray[np.float64]], Shortcuts]:
    """Probabilities [test scan, class] of the baselines, fitted on the development scans, and the shortcut check."""
    development, test = (run_data.prepared.subset(part) for part in (run_data.split.development, run_data.split.test))
    truth, multilabel = development.cohort.truth, development.cohort.labels.multilabel
    acquisition, shortcuts = fit_acquisition(as_development(development), test.acquisitions, seed)
    baselines = {
        PREVALENCE_BASELINE: prevalence_only(truth, len(test.scans)),
        "handcrafted": fit_handcrafted(development.handcrafted, truth, test.handcrafted, seed, multilabel=multilabel),
    }
    return baselines | ({ACQUISITION_BASELINE: acquisition} if acquisition is not None else {}), shortcuts
