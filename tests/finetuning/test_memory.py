"""An input that cannot fit into memory is refused before a scan is read, and no input that would fit."""

from __future__ import annotations

import re

import pytest
import torch
from made_up_cohort import made_up_cohort
from small_network import small_classifier
from small_run_data import small_config, source_of

from med_transfer import processor
from med_transfer.backbones import find_backbone, from_scratch
from med_transfer.errors import ConfigError
from med_transfer.finetuning import FinetuneConfig, finetune, memory
from med_transfer.finetuning.memory import least_bytes, require_memory
from med_transfer.finetuning.strategies import Scratch
from med_transfer.preprocessing import PreprocessingConfig

GIB = 2**30
FROZEN = {"strategy": "linear_probe", "from_scratch_baseline": False}


@pytest.fixture(autouse=True)
def limited(monkeypatch, tmp_path):
    """Sets the memory of this machine, 8 GiB at first, as a container's limit."""

    def limit(n_bytes: float) -> None:
        (tmp_path / "memory.max").write_text(f"{n_bytes:.0f}\n")

    monkeypatch.setattr(processor, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    limit(8 * GIB)
    return limit


def needed(config: FinetuneConfig) -> float:
    n_scans, each = least_bytes(config, source_of("sees"))
    return n_scans * each


def sized(n: int, strategy: str | dict = "full", **sections) -> FinetuneConfig:
    return small_config(strategy, input={"shape": (n, n, n), "region": "whole"}, **sections)


def test_a_chest_in_voxels_of_half_a_millimetre_is_refused_with_the_memory_that_it_needs(tmp_path):
    fine = {"shape": (540, 400, 600), "spacing_mm": (0.5, 0.5, 0.5), "region": "whole"}
    config = FinetuneConfig.model_validate({"backbone": {"name": "med-transfer-small"}, "input": fine})
    with pytest.raises(ConfigError) as refused:
        finetune(made_up_cohort(["a", "b"] * 30).cohort, config, tmp_path / "run")
    assert str(refused.value).startswith("input.shape: 540 x 400 x 600 voxels: a training step needs at least ")
    assert re.search(r"of memory, \d+ GiB for each of 16 scans; expected", str(refused.value))
    assert "expected at most 8 GiB, the memory of this machine." in str(refused.value)
    assert str(refused.value).endswith("if it is to cover as much; or a smaller training.batch_size.")
    assert not (tmp_path / "run").exists()


def test_a_step_needs_what_is_still_allocated_when_its_backward_pass_begins():
    network, image = small_classifier().train(), torch.rand(1, 1, 32, 32, 32)
    with torch.profiler.profile(profile_memory=True) as profile:
        loss = network(image).sum()
    alive = sum(event.self_cpu_memory_usage for event in profile.key_averages())  # and the image, allocated before
    config, preprocessing = sized(32), PreprocessingConfig(shape=(32, 32, 32), region="whole")
    found = memory._step_bytes(config, source_of("sees"), preprocessing, Scratch())
    assert loss.requires_grad
    assert found == pytest.approx(alive + image.nbytes, rel=1e-3)


def test_an_input_of_which_the_network_leaves_one_voxel_is_counted():
    """In training, BatchNorm refuses the map of one voxel of a lone scan."""
    config = FinetuneConfig.model_validate(
        {"backbone": {"name": "resnet18-w8"}, "input": {"shape": (16, 16, 16), "region": "whole"}}
    )
    require_memory(config, from_scratch(find_backbone("resnet18-w8"), 0))


def test_a_frozen_network_needs_its_largest_map_and_the_one_before():
    voxels = 64**3
    assert needed(sized(64, **FROZEN)) == pytest.approx(4 * (3 + 3) * voxels, rel=1e-6)  # a BatchNorm's
    assert needed(sized(64, "linear_probe")) > 8 * 4 * 6 * voxels  # the baseline is trained, on 8 scans at once


def test_what_is_frozen_keeps_no_maps_and_half_the_scans_need_half():
    whole = needed(sized(64))
    of_head = {"name": "surgical", "stages": [2]}
    assert needed(sized(64, of_head, from_scratch_baseline=False)) < whole / 4
    assert needed(sized(64, training={"batch_size": 4})) == pytest.approx(whole / 2, rel=1e-6)


def test_of_a_network_on_slices_the_input_counts_alone(limited):
    config = FinetuneConfig.model_validate(
        {"backbone": {"name": "slices-resnet18"}, "input": {"shape": (64, 64, 64), "region": "whole"}}
    )
    source = from_scratch(find_backbone("slices-resnet18"), 0)
    limited(16 * 4 * 64**3)
    require_memory(config, source)
    limited(16 * 4 * 64**3 - 1)
    with pytest.raises(ConfigError, match="input.shape: 64 x 64 x 64 voxels"):
        require_memory(config, source)


def test_the_memory_is_the_containers_or_the_machines(monkeypatch, tmp_path, limited):
    whole = processor.memory_bytes()
    assert whole == 8 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    of_machine = processor.memory_bytes()
    assert of_machine is not None
    assert of_machine > GIB  # of the machine that runs this test


def test_where_the_baseline_alone_is_trained_it_can_be_left_out(limited):
    limited(needed(sized(64, **FROZEN)))
    require_memory(sized(64, **FROZEN), source_of("sees"))
    with pytest.raises(ConfigError, match=r"a smaller training.batch_size; or from_scratch_baseline=false\.$"):
        require_memory(sized(64, "linear_probe"), source_of("sees"))
    limited(needed(sized(64, **FROZEN)) - 1)
    with pytest.raises(ConfigError, match="64 x 64 x 64 voxels: prediction needs at least 0.0059 GiB of memory"):
        require_memory(sized(64, **FROZEN), source_of("sees"))
