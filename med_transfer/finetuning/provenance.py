"""What a run's networks have learned from, and the licence of their weights."""

from __future__ import annotations

from med_transfer.backbones import LoadedBackbone
from med_transfer.bundle import Provenance
from med_transfer.bundle.provenance import provenance_metadata, source_licences, source_provenance
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData, source_weights


def licence_of(config: FinetuneConfig, source: LoadedBackbone) -> str:
    """The licence of the source's weights, and of those that they were made from."""
    return "; ".join(dict.fromkeys([source.spec.licence, *source_licences(source_weights(config))]))


def weights_metadata(run_data: RunData, config: FinetuneConfig, source: LoadedBackbone) -> dict[str, str]:
    """Metadata by which the weights file of a fold model tells what the run's networks have learned from."""
    return provenance_metadata(training_provenance(run_data, config), licence_of(config, source))


def training_provenance(run_data: RunData, config: FinetuneConfig) -> Provenance:
    """All patients the network has learned from: the development part, unlabelled scans, and those of its sources."""
    development = [case for case in run_data.lock.cases if case.role != "test"]
    before = source_provenance(source_weights(config))
    patients = {case.patient_hash for case in development} | set(before.patient_hashes if before else ())
    images = {image for case in development for image in case.content_hashes}
    images |= set(before.content_hashes if before else ())
    own = {run_data.prepared.scans[number].sample_hash for number in run_data.split.development}
    if config.transfer.unlabelled and run_data.unlabelled:
        patients |= run_data.unlabelled.patient_hashes
        images |= run_data.unlabelled.images
    return Provenance(
        cohort_hash=run_data.lock.cohort_hash,
        patient_hashes=tuple(sorted(patients)),
        content_hashes=tuple(sorted(images)),
        sample_hashes=tuple(sorted(own - {""})),
        from_source=before.model_copy(update={"from_source": None}) if before else None,
    )
