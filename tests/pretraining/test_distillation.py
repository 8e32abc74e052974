"""Distillation of a small random teacher into a smaller student: it learns, resumes, and writes what can be loaded."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import nn

from med_transfer.backbones import Encoder, InputSpec, load_backbone
from med_transfer.errors import BackboneError
from med_transfer.pretraining import CropConfig, DistillationConfig, SourceScans
from med_transfer.pretraining.distillation import (
    Distillation,
    Pair,
    learning_rate_share,
    update_average,
)
from med_transfer.pretraining.losses import DistillationLoss, VICReg
from med_transfer.pretraining.teacher import Targets, Teacher, fold_batchnorm

CPU = torch.device("cpu")


class TinyEncoder(Encoder):
    """Three strided blocks, each convolution, BatchNorm, ReLU."""

    def __init__(self, channels: tuple[int, ...], first_stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.stage_channels = channels[1:]
        blocks = []
        for n, (i, o) in enumerate(zip((1, *channels), channels, strict=False)):
            stride = first_stride if n == 0 else 2
            blocks.append(nn.Sequential(nn.Conv3d(i, o, 3, stride, 1, bias=False), nn.BatchNorm3d(o), nn.ReLU()))
        self.blocks = nn.ModuleList(blocks)

    def stages(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, x):
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps[1:]


STUDENT_INPUT = InputSpec(1, "SPL", (-1000.0, 1000.0), (-1.0, 1.0), minimum_shape=(8, 8, 8))
TEACHER_INPUT = InputSpec(1, "SRA", (-1000.0, 200.0), (0.0, 1.0), minimum_shape=(8, 16, 16))


def tiny_teacher() -> TinyEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = TinyEncoder((8, 12, 16, 24), (1, 2, 2))
        teacher.train()
        for _ in range(3):  # statistics other than the initial ones
            teacher(torch.rand(2, 1, 8, 16, 16) * 3)
    return teacher.eval()


def run(chest: SourceScans, out, **changes) -> Distillation:
    settings = {
        "steps": 4, "batch": 8, "stages": 2, "calibration_batches": 2, "validation_scans": 1, "warm_up": 0.1,
        "student_shape": (8, 8, 8), "crops": CropConfig(shape=(8, 16, 16), scans_per_batch=2),
        "checkpoint_seconds": 1e-9,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pair = Pair(TinyEncoder((8, 8, 16, 16), (1, 1, 1)), STUDENT_INPUT, tiny_teacher(), TEACHER_INPUT, "0" * 64)
    distillation = Distillation(DistillationConfig(**(settings | changes)), chest, pair, out, CPU)
    distillation.run()
    return distillation


def test_the_loss_falls_and_the_student_agrees_with_the_teacher_on_scans_kept_out(chest, tmp_path):
    run(chest, tmp_path, steps=60, checkpoint_seconds=1e6, learning_rate=5e-3, ema=0.9)
    curve = json.loads((tmp_path / "curve.json").read_text())["curve"]
    losses = [entry["loss"] for entry in curve if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    untrained = run(chest, tmp_path / "untrained", steps=1).curve[-1]["agreement"]
    assert sum(curve[-1]["agreement"]) > sum(untrained)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(chest, tmp_path):
    whole = run(chest, tmp_path / "whole", steps=6)

    class Stopped(Exception):
        pass

    def stop_after_three(self, log, original=Distillation._log):
        if self.step > 3:
            raise Stopped
        original(self, log)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "_log", stop_after_three)
        with pytest.raises(Stopped):
            run(chest, tmp_path / "stopped", steps=6)
    resumed = run(chest, tmp_path / "stopped", steps=6)
    assert resumed.step == whole.step == 6
    for name, value in whole.average.state_dict().items():
        torch.testing.assert_close(resumed.average.state_dict()[name], value, msg=name)


def test_a_checkpoint_of_another_run_is_refused(chest, tmp_path):
    run(chest, tmp_path)
    with pytest.raises(BackboneError, match="checkpoint of another run; expected the same source scans"):
        run(chest, tmp_path, vicreg=0.5)


def test_the_budget_can_be_wall_time(chest, tmp_path):
    distillation = run(chest, tmp_path, steps=None, minutes=0.01)
    assert distillation.seconds >= 0.6
    assert distillation.step >= 1


def test_the_file_remembers_what_it_came_from(chest, tmp_path):
    run(chest, tmp_path)
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        record = file.metadata()
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert json.loads(record["source_scans"]) == sorted(chest.content_hashes)
    assert record["teacher_sha256"] == "0" * 64
    assert json.loads(record["steps"]) == 4
    assert dtypes["blocks.0.0.weight"] == torch.float16
    assert dtypes["blocks.0.1.running_var"] == torch.float32


def test_a_distilled_resnet_loads_completely(chest, tmp_path):
    student = load_backbone("resnet18-w32", scratch=True)
    pair = Pair(student.encoder, student.spec.input, tiny_teacher(), TEACHER_INPUT, "")
    config = DistillationConfig(
        steps=1, batch=2, stages=2, calibration_batches=1, validation_scans=0,
        student_shape=(16, 16, 16), crops=CropConfig(shape=(16, 16, 16)),
    )  # fmt: skip
    distillation = Distillation(config, chest, pair, tmp_path, CPU)
    path = distillation.run()
    loaded = load_backbone("resnet18-w32", path)
    assert loaded.report.matched_share == 1
    assert not loaded.report.unexpected
    x = torch.rand(1, 1, 16, 16, 16)
    for ours, theirs in zip(distillation.average(x), loaded.encoder.eval()(x), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["resnet18-w32", "resnet10"])
def test_folding_batchnorm_changes_nothing(name):
    encoder = load_backbone(name, scratch=True).encoder.eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    folded = fold_batchnorm(encoder)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    x = torch.rand(1, 1, 32, 32, 32)
    for ours, theirs in zip(folded(x), encoder(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_calibrated_targets_have_zero_mean_and_unit_spread():
    teacher = Teacher(tiny_teacher(), TEACHER_INPUT, stages=2)
    hu = torch.rand(32, 1, 8, 16, 16) * 1200 - 1000
    teacher.calibrate([hu[:16], hu[16:]])
    targets = teacher(hu)
    for values in (*targets.maps, *targets.means):
        spread = values.transpose(0, 1).flatten(1).std(1)
        assert values.transpose(0, 1).flatten(1).mean(1).abs().max() < 0.02
        assert spread.max() < 1.05
        assert spread.median() == pytest.approx(1, abs=0.05)


def test_the_teacher_sees_its_own_axes_and_answers_in_ours():
    """A bright voxel must light up the map at its own place, whatever the teacher's axes."""
    encoder = TinyEncoder((1, 1), (1, 1, 1))
    for block in encoder.blocks:
        nn.init.zeros_(block[0].weight)
        block[0].weight.data[..., 1, 1, 1] = 1
        block[0].stride = (1, 1, 1)
    hu = torch.full((1, 1, 4, 6, 6), -1000.0)
    hu[0, 0, 1, 2, 5] = 200.0
    (seen,) = Teacher(encoder, TEACHER_INPUT, stages=1).raw_maps(hu)
    assert seen[0, 0].argmax() == hu[0, 0].argmax()


def test_the_loss_is_zero_for_a_perfect_student():
    loss = DistillationLoss((4,), (4,))
    nn.init.eye_(loss.to_mean[0].weight)
    nn.init.zeros_(loss.to_mean[0].bias)
    nn.init.zeros_(loss.to_map[0].bias)
    loss.to_map[0].weight.data = torch.eye(4)[:, :, None, None, None]
    maps = torch.rand(6, 4, 2, 2, 2)
    on_maps, on_means = loss([torch.cat([maps, maps])], Targets([maps], [maps.mean((2, 3, 4))]))
    assert on_maps.item() == pytest.approx(0, abs=1e-9)
    assert on_means.item() == pytest.approx(0, abs=1e-9)


def test_vicreg_punishes_collapse_and_disagreement():
    torch.manual_seed(0)
    vicreg = VICReg(16)
    features = torch.randn(64, 16)
    agreeing = vicreg(torch.cat([features, features]))
    assert vicreg(torch.cat([features, features.flip(0)])) > agreeing
    assert vicreg(torch.ones(128, 16)) > agreeing


def test_learning_rate_warms_up_and_falls_to_zero():
    shares = [learning_rate_share(p / 100, 0.1) for p in range(101)]
    assert shares[10] == pytest.approx(1)
    assert shares[:11] == sorted(shares[:11])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] == pytest.approx(0)


def test_the_running_mean_of_the_weights_agrees_with_the_formula():
    a, b = nn.BatchNorm3d(3), nn.BatchNorm3d(3)
    nn.init.constant_(b.weight, 3.0)
    b.num_batches_tracked.fill_(7)
    update_average(a, b, 0.75)
    torch.testing.assert_close(a.weight, torch.full((3,), 0.75 * 1 + 0.25 * 3))
    assert a.num_batches_tracked == 7


def test_a_budget_is_needed_and_only_one():
    with pytest.raises(ValidationError, match="exactly one of minutes and steps"):
        DistillationConfig()
    with pytest.raises(ValidationError, match="exactly one of minutes and steps"):
        DistillationConfig(steps=3, minutes=1)


def test_grids_that_do_not_divide_are_refused():
    with pytest.raises(ValidationError, match="must divide"):
        DistillationConfig(steps=3, student_shape=(32, 48, 48))
