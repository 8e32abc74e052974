"""Learning rates by depth and time, frozen stages and statistics, draws and weights."""

import numpy as np
import pytest
import torch
from torch import nn

from med_transfer.backbones import load_backbone
from med_transfer.backbones.networks.resnet import slim_resnet
from med_transfer.errors import ConfigError
from med_transfer.finetuning.batches import (
    FoldData,
    Part,
    draw_weights,
    loss_weights,
    training_batches,
    validation_batches,
)
from med_transfer.finetuning.config import AugmentationConfig, FinetuneConfig, TrainingConfig
from med_transfer.finetuning.fold_training import precision
from med_transfer.finetuning.initialisation import check_transfer
from med_transfer.finetuning.optimisation import optimiser, parameter_groups
from med_transfer.finetuning.strategies.by_stage import Full
from med_transfer.finetuning.transfer_config import TransferConfig
from med_transfer.model.classifier import Classifier
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(load_backbone("resnet18-w8").encoder, 3)


def rate_of(groups: list[dict], parameter: nn.Parameter) -> float:
    return next(group["lr"] for group in groups if any(p is parameter for p in group["params"]))


def test_earlier_stages_learn_slower(classifier):
    groups = parameter_groups(classifier, Full(learning_rate=1.0, stage_decay=0.5), weight_decay=0.05)
    stages = classifier.encoder.stages()
    rates = [rate_of(groups, next(stage.parameters())) for stage in stages]
    assert rates == [0.5 ** (len(stages) - 1 - depth) for depth in range(len(stages))]
    assert rate_of(groups, classifier.head.weight) == 1.0


def test_every_learning_parameter_is_in_one_group_and_norms_do_not_decay(classifier):
    groups = parameter_groups(classifier, Full(learning_rate=1.0, stage_decay=0.7), weight_decay=0.05)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in classifier.parameters())
    assert all(group["weight_decay"] == 0 for group in groups if group["params"][0].ndim == 1)


def test_frozen_parameters_are_left_out_and_those_beside_the_network_follow_the_head_without_decay(classifier):
    strategy, config, beside = (
        Full(learning_rate=0.5, freeze_stages=2),
        TrainingConfig(weight_decay=0.05),
        nn.Linear(2, 3),
    )
    strategy.set_learning(classifier, epoch=0)
    adamw, _ = optimiser(classifier, config, strategy, steps_per_epoch=1, extra_parameters=list(beside.parameters()))
    *own, extra = adamw.param_groups
    frozen = {id(p) for stage in classifier.encoder.stages()[:2] for p in stage.parameters()}
    grouped = {id(p) for group in own for p in group["params"]}
    assert grouped == {id(p) for p in classifier.parameters()} - frozen
    assert {group["weight_decay"] for group in own if group["params"][0].ndim > 1} == {0.05}
    assert [id(p) for p in extra["params"]] == [id(p) for p in beside.parameters()]
    assert (extra["initial_lr"], extra["weight_decay"]) == (0.5, 0.0)
    Full().set_learning(classifier, epoch=0)


def test_schedule_warms_up_and_falls_to_a_hundredth(classifier):
    config = TrainingConfig(epochs=10, warmup_epochs=2)
    adamw, schedule = optimiser(classifier, config, Full(learning_rate=1.0), steps_per_epoch=5)
    rates = []
    for _ in range(50):
        rates.append(adamw.param_groups[0]["lr"])
        adamw.step()
        schedule.step()
    falling = np.cos(np.pi * np.arange(40) / 40)  # from 1 to -1
    assert rates == pytest.approx([*np.arange(1, 11) / 11, *(0.505 + 0.495 * falling)])


def test_from_scratch_nothing_is_frozen_slowed_or_kept():
    config = FinetuneConfig.model_validate({"transfer": {"strategy": {"freeze_stages": 3, "stage_decay": 0.5}}})
    scratch, transferred = (config.resolved(from_source=source).transfer for source in (False, True))
    assert (list(scratch.strategy.learning_stages(0, 5)), scratch.strategy.rate(4)) == ([0, 1, 2, 3, 4], 1e-3)
    assert (list(transferred.strategy.learning_stages(0, 5)), transferred.strategy.rate(2)) == ([3, 4], 3e-4 / 4)
    assert (scratch.batch_norm, transferred.batch_norm) == ("train", "source")


def test_frozen_stages_get_no_gradient():
    classifier = Classifier(load_backbone("resnet18-w8").encoder, 3)
    Full(freeze_stages=2).set_learning(classifier, epoch=0)
    classifier(torch.randn(2, 1, 16, 16, 16)).sum().backward()
    stages = classifier.encoder.stages()
    assert all(p.grad is None for stage in stages[:2] for p in stage.parameters())
    assert all(p.grad is not None for stage in stages[2:] for p in stage.parameters())


def test_too_many_stages_to_freeze():
    with pytest.raises(ConfigError, match="transfer.strategy.freeze_stages: 9 stages to freeze; expected at most 5"):
        check_transfer(
            FinetuneConfig(transfer=TransferConfig(strategy=Full(freeze_stages=9))).resolved(from_source=True),
            load_backbone("resnet18-w8").encoder,
        )


def test_balanced_draws_give_each_class_the_same_share():
    truth = np.eye(3, dtype=bool)[[0] * 80 + [1] * 15 + [2] * 5]
    weights = draw_weights(truth, balanced=True)
    np.testing.assert_allclose([weights[truth[:, c]].sum() for c in range(3)], 1.0)
    np.testing.assert_array_equal(draw_weights(truth, balanced=False), 1.0)


def test_loss_weights_are_inverse_frequencies_only_when_asked():
    truth = np.eye(2, dtype=bool)[[0] * 30 + [1] * 10]
    weighted = FinetuneConfig(training=TrainingConfig(balance="weights"))
    torch.testing.assert_close(loss_weights(truth, weighted, multilabel=False), torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(loss_weights(truth, FinetuneConfig(), multilabel=False), torch.ones(2))
    torch.testing.assert_close(loss_weights(truth, weighted, multilabel=True), torch.tensor([1 / 3, 3.0]))


def test_batches_are_balanced_repeatable_and_validation_is_plain():
    tensors = [np.full((1, 20, 20, 20), n / 50, np.float16) for n in range(50)]
    truth = np.eye(2, dtype=bool)[[0] * 45 + [1] * 5]
    config = FinetuneConfig(
        training=TrainingConfig(epoch_scans=200, batch_size=20), augmentation=AugmentationConfig(strength=0)
    )
    look = PreprocessingConfig(shape=(16, 16, 16))
    data = FoldData(Labels(("a", "b")), Part(tensors, [(1.0, 1.0, 1.0)] * 50, truth))
    first, second = (list(training_batches(data, config, look, seed=3)) for _ in range(2))
    assert len(first) == 10
    assert 0.35 < torch.cat([t for _, t in first]).float().mean(0)[1] < 0.65
    torch.testing.assert_close(first[0][0], second[0][0])
    images, labels = zip(*validation_batches(tensors, truth, config, look), strict=True)
    assert torch.cat(images).shape == (50, 1, 16, 16, 16)
    np.testing.assert_array_equal(torch.cat(labels).numpy(), truth)


def test_precision_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision("fp32") == precision("auto") == "32-true"
    for half in ("bf16", "fp16"):
        with pytest.raises(ConfigError, match=rf"training\.precision: found {half} on a machine without a GPU"):
            precision(half)


def test_precision_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert precision("auto") == precision("fp16") == "16-mixed"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert precision("auto") == precision("bf16") == "bf16-mixed"


def test_gradients_do_not_depend_on_what_memory_held_before():
    """The fault for which bf16 is refused on a CPU; it shows in the deepest stage, whose map is 2 x 2 x 2."""
    network, x = slim_resnet().train(), torch.randn(4, 1, 32, 32, 32)

    def gradients() -> list[torch.Tensor]:
        del [torch.full((1 << 20,), float("nan")) for _ in range(40)][:]  # freed memory full of NaN
        network.zero_grad()
        network(x)[-1].mean((2, 3, 4)).square().sum().backward()
        return [p.grad.clone() for p in network.layer4.parameters()]

    first = gradients()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
