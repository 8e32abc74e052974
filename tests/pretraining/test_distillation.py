"""Distillation of a small random teacher into a smaller student: it learns, and the teacher sees what it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TEACHER_INPUT, TinyEncoder, measured, tiny_teacher, tiny_training
from torch import nn

from med_transfer.backbones import load_backbone
from med_transfer.pretraining.methods.losses import DistillationLoss, VICReg
from med_transfer.pretraining.methods.teacher import Targets, Teacher, fold_batchnorm


def test_the_student_agrees_with_the_teacher_on_scans_kept_out(chest, tmp_path):
    settings = {"steps": 80, "batch": 16, "learning_rate": 1e-2, "probe": {"every_steps": 20}}
    training = tiny_training("distillation", chest, tmp_path, **settings)
    training.run()
    on_maps = [entry["maps"] for entry in training.state.curve if "maps" in entry]
    assert on_maps[-1] < 0.9 * on_maps[0]
    agreement = [figures["agreement"] for figures in measured(tmp_path)]
    assert agreement[-1] > max(0, agreement[0])
    assert training.method.teacher.training is False


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


def test_the_loss_of_a_student_that_is_off_by_so_much_everywhere():
    """Smooth L1 of 2 is 1.5, its square 4, each a mean over stages and views; maps may be coarser than those told."""
    loss = DistillationLoss((4, 6), (4, 6))
    for layer in (*loss.to_map, *loss.to_mean):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    student = [torch.rand(6, width, 2, 2, 2) for width in (4, 6)]  # two views of three crops
    targets = [torch.full((3, width, 4, 4, 4), value) for width, value in ((4, 2.0), (6, 0.0))]
    on_maps, on_means = loss(student, Targets(targets, [one.mean((2, 3, 4)) for one in targets]))
    assert (on_maps.item(), on_means.item()) == pytest.approx((1.5 / 2, 4 / 2))


def test_vicreg_is_the_papers_sum_with_its_weights_over_25():
    """By numpy's covariances: 25 each for the hinge of the standard deviation and the distance, 1 for covariance."""
    torch.manual_seed(0)
    vicreg, features = VICReg(3), torch.randn(10, 3)
    loss = vicreg(features).item()
    first, second = np.split(vicreg.expand(features).detach().double().numpy(), 2)
    hinge = np.mean([np.maximum(0, 1 - np.sqrt(one.var(axis=0, ddof=1) + 1e-4)).mean() for one in (first, second)])
    both = [np.cov(one, rowvar=False) for one in (first, second)]
    covariance = sum(((one - np.diag(np.diag(one))) ** 2).sum() for one in both) / first.shape[1]
    assert loss == pytest.approx((25 * hinge + 25 * ((first - second) ** 2).mean() + covariance) / 25, rel=1e-4)


def test_vicreg_punishes_collapse_and_disagreement():
    torch.manual_seed(0)
    vicreg = VICReg(16)
    features = torch.randn(64, 16)
    agreeing = vicreg(torch.cat([features, features]))
    assert vicreg(torch.cat([features, features.flip(0)])) > agreeing
    assert vicreg(torch.ones(128, 16)) > agreeing
