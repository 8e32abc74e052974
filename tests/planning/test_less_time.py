"""A plan that pretrains the network, for users with less time or other settings."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from made_up_fingerprint import cohort as facts_of

from med_transfer.api import planned
from med_transfer.api.planned import config_for, timed_config, with_quick
from med_transfer.cohorts import Cohort
from med_transfer.errors import ConfigError
from med_transfer.finetuning import FinetuneConfig, memory
from med_transfer.finetuning.duration import measure_cost
from med_transfer.planning import Plan

ONE = "training.batch_size=1"  # how many scans at once pass the network to be timed: here no stage of it is trained


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch) -> Cohort:
    """Twelve boxes of noise, which are looked at as if they were heads."""
    rows, rng = ["scan,patient,label"], np.random.default_rng(0)
    for number in range(12):
        voxels = rng.normal(40, 200, (32, 32, 8)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([-5.0, -5.0, 5.0, 1.0])), tmp_path / f"{number}.nii.gz")
        rows.append(f"{number}.nii.gz,p{number},{'none' if number % 2 else 'blood'}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    facts = facts_of(patients_of_class={"blood": 20, "none": 20}, n_patients=12, n_scans=12)
    monkeypatch.setattr(planned, "plan_cohort", lambda _, given, progress: Plan.of(facts, given))
    return Cohort.read(tmp_path / "cohort.csv")


@pytest.fixture(scope="module")
def costs() -> dict:
    """What was measured of each network."""
    return {}


@pytest.fixture(autouse=True)
def measured_once(costs, monkeypatch, own_seconds) -> None:
    """Each network, so that two plans differ by their minutes alone, and by no measurement."""

    def remembered(config, *others):
        network = (config.backbone.pretrain, config.input.shape)
        if network not in costs:
            costs[network] = measure_cost(config, *others)
        return costs[network]

    monkeypatch.setattr(planned, "measure_cost", remembered)


def test_what_takes_too_long_to_pretrain_is_planned_without(cohort):
    config, plan = config_for(FinetuneConfig, cohort, None, [ONE, "seed=3"])
    assert config.backbone.has_answers
    whole = timed_config(cohort, config, plan)
    assert whole.duration.n_pretrained == 2
    assert whole.duration.pretraining > whole.duration.seconds / 2
    less = timed_config(cohort, config, plan, minutes=(whole.duration.seconds - 0.9 * whole.duration.pretraining) / 60)
    assert less.config.backbone.pretrain is None
    assert (less.config.input.shape or ())[1:] == (224, 224)
    assert less.config.backbone.instance_pooling == "mean_max"
    assert less.config.seed == 3
    assert (
        "backbone.pretrain: null (to keep the time: the encoder is not pretrained on painted lesions)" in less.sentences
    )
    assert less.plan is not None
    assert less.plan.values["backbone"]["pretrain"] is None


def test_a_voxel_size_too_small_for_the_memory_is_refused_before_a_step_is_timed(cohort, monkeypatch):
    timed: list[object] = []
    monkeypatch.setattr(planned, "measure_cost", lambda *arguments: timed.append(arguments))
    monkeypatch.setattr(memory, "memory_bytes", lambda: 16 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["input.spacing_mm=[0.3,0.3,0.3]", "backbone.name=med-transfer-small", "transfer.strategy=full"]
    config, plan = config_for(FinetuneConfig, cohort, None, words)
    assert min(config.input.shape or ()) > 400  # a head
    with pytest.raises(ConfigError, match=r"input.shape: .* voxels: a training step needs at least .* GiB of memory"):
        timed_config(cohort, config, plan)
    assert not timed


def test_what_takes_a_little_too_long_learns_fewer_steps(cohort):
    config, plan = config_for(FinetuneConfig, cohort, None, [ONE])
    whole, steps = timed_config(cohort, config, plan), config.backbone.pretraining.steps
    less = timed_config(cohort, config, plan, minutes=(whole.duration.seconds - 0.2 * whole.duration.pretraining) / 60)
    assert less.config.backbone.has_answers
    assert steps / 2 <= less.config.backbone.pretraining.steps < steps
    assert less.plan is not None
    assert less.plan.values["backbone"]["pretraining"]["steps"] == less.config.backbone.pretraining.steps


@pytest.mark.parametrize(
    "words",
    [
        ["transfer.strategy=lp_ft"],
        ["transfer.mapping.method=autoencoder"],
        ["backbone.pretrain=null"],
        ["backbone.instance_pooling=attention"],
        with_quick([], quick=True),
    ],
)
def test_who_says_what_the_head_reads_gets_no_pretraining_beside_it(cohort, words):
    config, _ = config_for(FinetuneConfig, cohort, None, words)
    assert config.backbone.pretrain is None
    assert config.backbone.pretraining == FinetuneConfig().backbone.pretraining


def test_a_setting_of_the_pretraining_leaves_the_rest_of_it(cohort):
    config, plan = config_for(
        FinetuneConfig, cohort, None, ["backbone.pretraining.steps=50", "from_scratch_baseline=true"]
    )
    assert (config.backbone.pretraining.steps, config.backbone.has_answers) == (50, True)
    assert not config.from_scratch_config().backbone.has_answers
    assert plan is not None


def test_many_networks_are_not_pretrained_by_plan(cohort):
    config, _ = config_for(FinetuneConfig, cohort, None, pretrains=False)
    assert config.backbone.pretrain is None


@pytest.mark.parametrize("region", ["whole", "foreground"])
def test_a_table_with_regions_is_planned_without_them_where_the_user_looks_elsewhere(cohort_csv, caplog, region):
    """Of whole scans, a network was silently shown 32 mm in the middle: all but 1 % of the patient was cut off."""
    table, setting = Cohort.read(cohort_csv), f"input.region={region}"
    config, plan = config_for(FinetuneConfig, table, None, [setting])
    assert plan is not None
    assert plan.fingerprint.n_with_region == 0
    assert (config.input.region, config.input.fit, config.input.spacing_mm) == (region, "proportional", None)
    assert config.backbone.name == "slices-efficientnet-lite0"
    again = FinetuneConfig.model_validate(config.model_dump())
    config_for(FinetuneConfig, table, again)
    assert "planned for another cohort" not in caplog.text
    at_regions, _ = config_for(FinetuneConfig, table, None, ["input.region=roi"])
    assert at_regions == config_for(FinetuneConfig, table, None)[0]
