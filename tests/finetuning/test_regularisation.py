"""Penalties against formulas reimplemented in numpy, and the effect of a strong one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from small_network import small_classifier, small_images
from test_strategies import config, train

from med_transfer.backbones import load_backbone
from med_transfer.backbones.instance_choice import InstanceChoice
from med_transfer.finetuning.regularisation import L2SP, BatchSpectralShrinkage, Delta, Step, find_penalties
from med_transfer.finetuning.regularisation.delta import channel_attention
from med_transfer.finetuning.transfer_config import TransferConfig
from med_transfer.model.classifier import Classifier


def step_of(classifier: Classifier) -> Step:
    images = small_images()
    maps = classifier.eval().encoder(images)
    return Step(classifier, images, maps, classifier.pool(maps))


def moved_classifier() -> tuple[Classifier, Classifier]:
    """A source and what a training might have made of it."""
    source, target = small_classifier(seed=0), small_classifier(seed=0)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return source, target


def test_l2_sp_is_its_formula():
    source, target = moved_classifier()
    found = L2SP(source.encoder, 0.3, 0.7)(step_of(target)).item()
    before = {name: p.detach().numpy() for name, p in source.encoder.named_parameters()}
    moved = sum(((p.detach().numpy() - before[name]) ** 2).sum() for name, p in target.encoder.named_parameters())
    head = (target.head.weight.detach().numpy() ** 2).sum() + (target.head.bias.detach().numpy() ** 2).sum()
    assert found == pytest.approx(0.3 / 2 * moved + 0.7 / 2 * head, rel=1e-5)


def test_l2_sp_holds_an_attention_to_zero_as_it_does_the_head():
    """There is no source for it to stay near: from where chance put it nothing is to be had."""
    encoder = load_backbone("tiles-resnet18-w32", seed=0, instances=InstanceChoice("attention", None)).encoder
    classifier = Classifier(encoder, 2)
    found = L2SP(copy.deepcopy(encoder), 0.3, 0.7)(Step(classifier, torch.empty(0), [], torch.empty(0)))
    new = [*classifier.head.parameters(), *encoder.attention.parameters()]
    assert found.item() == pytest.approx(0.7 / 2 * sum(p.square().sum().item() for p in new), rel=1e-5)


def test_delta_is_its_formula_with_and_without_attention():
    source, target = moved_classifier()
    step = step_of(target)
    old = [m.detach().numpy() for m in source.eval().encoder(step.images)]
    new = [m.detach().numpy() for m in step.maps]
    squared = [((a - b) ** 2).mean(axis=(2, 3, 4)) for a, b in zip(new, old, strict=True)]  # [batch, channel]
    plain = 0.5 / 2 * sum(s.mean(axis=1).mean() for s in squared)
    assert Delta(source.encoder, 0.5)(step).item() == pytest.approx(plain, rel=1e-4)
    attention = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    weighted = 0.5 / 2 * (squared[0].mean(axis=1).mean() + (squared[1] * attention).sum(axis=1).mean())
    found = Delta(source.encoder, 0.5, {1: torch.from_numpy(attention)})(step).item()
    assert found == pytest.approx(weighted, rel=1e-4)


def test_attention_is_the_loss_of_a_channel_taken_away():
    random = np.random.default_rng(0)
    features, weight, bias = random.normal(size=(20, 6)), random.normal(size=(3, 6)), random.normal(size=3)
    truth = np.eye(3)[random.integers(0, 3, 20)]

    def loss(f):
        return -(truth * log_softmax(f @ weight.T + bias, axis=1)).sum(axis=1).mean()

    gains = [loss(np.where(np.arange(6) == j, 0, features)) - loss(features) for j in range(6)]
    tensors = (torch.from_numpy(part) for part in (features, weight, bias, truth))
    np.testing.assert_allclose(channel_attention(*tensors, multilabel=False).numpy(), softmax(gains), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_bss_is_its_formula(k):
    classifier = small_classifier()
    step = step_of(classifier)
    singular = np.linalg.svd(step.features.detach().numpy(), compute_uv=False)
    found = BatchSpectralShrinkage(0.25, k)(step).item()
    assert found == pytest.approx(0.25 * (np.sort(singular)[:k] ** 2).sum(), rel=1e-3)


@pytest.mark.parametrize("name", ["l2_sp", "delta"])
def test_at_the_source_nothing_is_paid(name):
    classifier = small_classifier()
    config_ = TransferConfig.model_validate({"regularise": [name], "l2_sp": {"head_strength": 0}})
    (penalty,) = find_penalties(config_, classifier.encoder)
    assert penalty(step_of(classifier)).item() == 0


@pytest.mark.parametrize("name", ["l2_sp", "delta", "bss"])
def test_gradients_reach_the_encoder(name):
    source, target = moved_classifier()
    (penalty,) = find_penalties(TransferConfig(regularise=(name,)), source.encoder)
    target.train()
    maps = target.encoder(small_images())
    penalty(Step(target, small_images(), maps, target.pool(maps))).backward()
    assert target.encoder.layer2[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in source.parameters())


def distance(classifier: Classifier, source: Classifier) -> float:
    pairs = zip(classifier.encoder.parameters(), source.encoder.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_l2_sp_without_limit_stays_at_the_source():
    """One step of Adam is as long as the rate whatever the gradient; from there the penalty leads back."""
    source, rate = small_classifier(), 1e-3
    free, held = copy.deepcopy(source), copy.deepcopy(source)
    settings = config("full", settings={"learning_rate": rate}, training={"epochs": 60})
    train(free, settings, steps=60)
    train(held, settings, penalties=[L2SP(source.encoder, 1e8, 0.0)], steps=60)
    assert distance(free, source) > 15 * rate
    assert distance(held, source) < 2 * rate


def test_delta_holds_feature_maps():
    source = small_classifier()
    free, held = copy.deepcopy(source), copy.deepcopy(source)
    settings = config("full")
    train(free, settings, steps=40)
    train(held, settings, penalties=[Delta(source.encoder, 1e4)], steps=40)
    penalty = Delta(source.encoder, 2.0)
    assert penalty(step_of(held)).item() < 0.1 * penalty(step_of(free)).item()


def test_l2_sp_takes_the_place_of_weight_decay():
    decays = {}
    for regularise in ((), ("l2_sp",)):
        module = train(small_classifier(), config("full", transfer={"regularise": regularise}), steps=1)
        groups = module.configure_optimizers()["optimizer"].param_groups
        decays[regularise] = {group["weight_decay"] for group in groups}
    assert decays == {(): {0.0, 0.05}, ("l2_sp",): {0.0}}
