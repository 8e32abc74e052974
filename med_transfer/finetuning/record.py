"""The record in a run's bundle."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from med_transfer.backbones import LoadedBackbone
from med_transfer.bundle import BackboneRecord, BundleRecord, HeldOut, InputEnvelope, TransferRecord
from med_transfer.bundle.envelope import fit_limits
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.validation_decisions import choose_operating_point, choose_prediction_sets
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.finetuning.provenance import licence_of, training_provenance
from med_transfer.finetuning.strategies import Adapters
from med_transfer.finetuning.transfer_config import TransferConfig
from med_transfer.fusion import Fusion
from med_transfer.metrics.domain import profile_of
from med_transfer.metrics.records.domain import CohortProfile
from med_transfer.metrics.records.metrics import KeptNetwork, reported_metrics


def bundle_record(
    run_data: RunData,
    config: FinetuneConfig,
    source: LoadedBackbone,
    trained: TrainedEnsemble,
    kept_network: KeptNetwork,
    fusion: Fusion | None = None,
) -> BundleRecord:
    """The record of the ensemble that was kept. It holds hashes of patients and scans, no identifiers.

    ``config`` and ``source`` are those of that ensemble: the from-scratch baseline's if the run fell back to it.
    """
    labels = run_data.prepared.cohort.labels
    operating_point, chosen_point = choose_operating_point(run_data, config, trained)
    return BundleRecord(
        classes=labels.names,
        multilabel=labels.multilabel,
        preprocessing=run_data.preprocessing,
        backbone=_backbone(config, source),
        n_fold_models=run_data.split.n_fold_models,
        operating_point=operating_point,
        chosen_point=chosen_point,
        calibration=trained.ensemble.calibrator,
        prediction_sets=choose_prediction_sets(run_data, config, trained),
        abstain_above_novelty=config.abstain_above_novelty,
        input_envelope=envelope_without(run_data),
        trained_on=training_provenance(run_data, config),
        development=_profile(run_data),
        held_out=_held_out(run_data),
        transfer=_transfer(run_data, config.transfer, kept_network),
        fusion=fusion,
        reported=reported_metrics(),
        n_similar_cases=len(run_data.split.development) if config.similar_cases else 0,
    )


def _transfer(run_data: RunData, transfer: TransferConfig, kept_network: KeptNetwork) -> TransferRecord:
    return TransferRecord(
        strategy=transfer.strategy.name,
        regularise=transfer.regularise,
        batch_norm=transfer.batch_norm,
        adapter_reduction=transfer.strategy.reduction if isinstance(transfer.strategy, Adapters) else None,
        align=transfer.align.method if transfer.align else None,
        mapping=transfer.mapping.method if transfer.mapping else None,
        bottleneck=transfer.bottleneck,
        n_unlabelled=len(run_data.unlabelled.scans) if transfer.unlabelled and run_data.unlabelled else 0,
        fallback=kept_network.sentence if kept_network.fell_back else "",
    )


def _backbone(config: FinetuneConfig, source: LoadedBackbone) -> BackboneRecord:
    weights = None
    if config.backbone.weights is not None:
        weights = config.backbone.weights.name
    elif source.sha256 is not None and source.spec.weights is not None:
        weights = source.spec.weights.file
    return BackboneRecord(
        name=source.spec.name,
        pooled_stages=config.backbone.stages_read(source.spec.pooled_stages),
        as_colours=source.spec.as_colours,
        instance_pooling=config.backbone.instance_pooling,
        tile_overlap=config.backbone.tile_overlap,
        pretrain=config.backbone.pretrain,
        answers=config.backbone.has_answers,
        published=config.backbone.has_published,
        licence=licence_of(config, source),
        source=source.spec.source,
        weights=weights,
        sha256=source.sha256,
        plan=source.spec.plan,
    )


def envelope_without(run_data: RunData, left_out: Iterable[int] = ()) -> InputEnvelope:
    """The input envelope of the development scans, without the patients of the scans in these rows of the cohort."""
    others = {run_data.prepared.cohort.patients[index] for index in left_out}
    rows = [index for index in run_data.split.development if run_data.prepared.cohort.patients[index] not in others]
    spacings = np.array([run_data.prepared.scans[index].spacings_mm for index in rows])
    low, high = spacings.min(axis=0).tolist(), spacings.max(axis=0).tolist()
    facts = [run_data.prepared.scans[index].input_facts for index in rows]
    patients = [run_data.prepared.cohort.patients[index] for index in rows]
    first, *further = (
        InputEnvelope(spacing_mm_low=tuple(least), spacing_mm_high=tuple(most), n_scans=len(spacings))
        for least, most in zip(low, high, strict=True)
    )
    return first.model_copy(update={"further": tuple(further), **fit_limits(facts, patients)})


def _profile(run_data: RunData) -> CohortProfile:
    scans = run_data.prepared.subset(run_data.split.development)
    cohort = scans.cohort
    return profile_of(cohort.truth, cohort.labels.names, cohort.patients, scans.acquisitions)


def _held_out(run_data: RunData) -> HeldOut:
    test = [case for case in run_data.lock.cases if case.role == "test"]
    return HeldOut(
        patient_hashes=tuple(sorted({case.patient_hash for case in test})),
        content_hashes=tuple(sorted({image for case in test for image in case.content_hashes})),
    )
