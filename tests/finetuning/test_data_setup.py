"""The network's input: the backbone's own, with the config's overrides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_run_data import small_run_data

from med_transfer.backbones import find_backbone
from med_transfer.bundle import RECORD_FILE, BackboneRecord, BundleRecord, InputEnvelope, Provenance
from med_transfer.bundle.decisions_lock import ABSENT_BEFORE_LOCKS
from med_transfer.cohorts import Case, Cohort, CohortLock, PreparedCohort, Split, SplitConfig
from med_transfer.cohorts.preparation import PreparedScan
from med_transfer.errors import ConfigError
from med_transfer.finetuning.config import BackboneConfig, FinetuneConfig
from med_transfer.finetuning.data_setup import RunData, resolve_preprocessing
from med_transfer.finetuning.provenance import training_provenance
from med_transfer.finetuning.record import envelope_without
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import InputConfig, PreprocessingConfig


def test_the_backbones_own_input_is_the_default():
    spec = find_backbone("astra")
    preprocessing = resolve_preprocessing(
        spec, FinetuneConfig(input=InputConfig(region="roi", shape=(32, 64, 64), spacing_mm=(1, 0.5, 0.5)))
    )
    assert preprocessing.orientation == "SRA"
    assert preprocessing.window_hu == spec.input.window_hu
    assert preprocessing.output_range == spec.input.output_range
    assert (preprocessing.shape, preprocessing.spacing_mm) == ((32, 64, 64), (1, 0.5, 0.5))


def test_the_config_overrides():
    preprocessing = resolve_preprocessing(
        find_backbone("resnet18-w8"), FinetuneConfig(input=InputConfig(window_hu=(-100, 300), region="foreground"))
    )
    assert (preprocessing.window_hu, preprocessing.region) == ((-100, 300), "foreground")


def test_too_small_an_input_is_refused():
    config = FinetuneConfig(input=InputConfig(region="whole", shape=(8, 32, 32)))
    with pytest.raises(ConfigError, match=r"input.shape: shape \[8, 32, 32\]; expected at least .* for resnet18-w8"):
        resolve_preprocessing(find_backbone("resnet18-w8"), config)


def test_a_bundle_remembers_whom_its_source_saw(tmp_path):
    """Otherwise a patient of the source could judge the network two transfers later."""
    spec = find_backbone("resnet18-w8")
    before = BundleRecord(
        classes=("a", "b"),
        preprocessing=PreprocessingConfig(),
        backbone=BackboneRecord(name=spec.name, pooled_stages=(-1,), licence="", source=""),
        n_fold_models=1,
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(1, 1, 1), n_scans=1),
        trained_on=Provenance(cohort_hash="", patient_hashes=("earlier",), content_hashes=("image",)),
    )
    (tmp_path / RECORD_FILE).write_text(before.model_dump_json(exclude=ABSENT_BEFORE_LOCKS))
    lock = CohortLock(classes=("a", "b"), multilabel=False, split=SplitConfig(), cases=(), cohort_hash="c")
    run_data = RunData(PreprocessingConfig(), PreparedCohort(Cohort((), Labels(("a", "b"))), ()), Split((), ()), lock)

    found = training_provenance(run_data, FinetuneConfig(backbone=BackboneConfig(weights=tmp_path)))

    assert found == Provenance(
        cohort_hash="c", patient_hashes=("earlier",), content_hashes=("image",), from_source=before.trained_on
    )
    scratch = FinetuneConfig(backbone=BackboneConfig(name=spec.name))
    assert training_provenance(run_data, scratch) == Provenance(cohort_hash="c", patient_hashes=(), content_hashes=())
    of_default = training_provenance(run_data, FinetuneConfig())
    assert len(of_default.content_hashes) == 51  # the scans that the default learned from


def test_a_bundle_remembers_samples_of_its_development_scans_alone():
    run_data = small_run_data(signal=0, n=3, n_test=2)
    scans = tuple(replace(scan, sample_hash=f"s{n}") for n, scan in enumerate(run_data.prepared.scans))
    run_data = replace(run_data, prepared=replace(run_data.prepared, scans=scans))
    scratch = FinetuneConfig(backbone=BackboneConfig(name="resnet18-w8"))
    assert training_provenance(run_data, scratch).sample_hashes == ("s0", "s1", "s2")


def test_a_bundle_remembers_the_spacings_of_its_development_scans_in_each_channel():
    def scan(*spacings_mm):
        return PreparedScan(np.zeros((1, 1, 1, 1), np.float16), (), np.zeros(0), spacings_mm, "", "", "")

    scans = (scan((1, 2, 5), (3, 3, 3)), scan((2, 1, 4), (3, 4, 2)), scan((9, 9, 9), (0.1, 9, 9)))
    cases = tuple(Case(scan=name, path=Path(name), patient=name, label="a") for name in "xyz")
    prepared = PreparedCohort(Cohort(cases, Labels(("a", "b"))), scans)
    lock = CohortLock(classes=("a", "b"), multilabel=False, split=SplitConfig(), cases=(), cohort_hash="")
    found = envelope_without(RunData(PreprocessingConfig(), prepared, Split((2,), ((0,), (1,))), lock))
    assert (found.spacing_mm_low, found.spacing_mm_high, found.n_scans) == ((1, 1, 4), (2, 2, 5), 2)
    (second,) = found.further
    assert (second.spacing_mm_low, second.spacing_mm_high) == ((3, 3, 2), (3, 4, 3))
