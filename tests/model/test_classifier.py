"""Pooling and head."""

import numpy as np
import pytest
import torch
from torch import nn

from med_transfer.backbones import Encoder, load_backbone
from med_transfer.errors import ConfigError
from med_transfer.model.classifier import Classifier


class TwoStages(Encoder):
    """Two maps of 3 and 5 channels."""

    stage_channels = (3, 5)

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = nn.Identity(), nn.Conv3d(1, 3, 1), nn.Conv3d(3, 5, 3, stride=2, padding=1)

    def stages(self):
        return [self.stem, self.first, self.second]

    def forward(self, x):
        return [first := self.first(x), self.second(first)]


@pytest.mark.parametrize(
    ("pooled_stages", "order"), [((-1,), [1]), ((0,), [0]), ((0, 1), [0, 1]), ((-1, 0), [1, 0]), ((-2, -1), [0, 1])]
)
def test_features_are_means_over_space(pooled_stages, order):
    encoder = TwoStages()
    classifier = Classifier(encoder, n_classes=4, pooled_stages=pooled_stages).eval()
    x = torch.rand(2, 1, 5, 6, 7)
    with torch.no_grad():
        maps = [m.numpy() for m in encoder(x)]
        features = classifier.features(x).numpy()
        logits = classifier(x).numpy()
    expected = np.concatenate(
        [maps[stage].reshape(2, maps[stage].shape[1], -1).mean(axis=2) for stage in order], axis=1
    )
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert classifier.n_features == expected.shape[1]
    weight, bias = (p.detach().numpy() for p in (classifier.head.weight, classifier.head.bias))
    np.testing.assert_allclose(logits, expected @ weight.T + bias, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only():
    classifier = Classifier(TwoStages(), n_classes=2, dropout=0.5)
    x = torch.rand(1, 1, 4, 4, 4)
    settled = classifier.eval()(x)
    assert torch.equal(classifier(x), settled)
    torch.manual_seed(0)
    assert not torch.equal(classifier.train()(x), settled)


def test_gradient_reaches_the_stem():
    classifier = Classifier(load_backbone("resnet18-w32").encoder, n_classes=3, pooled_stages=(2, 3))
    loss = nn.functional.cross_entropy(classifier(torch.rand(2, 1, 32, 32, 32)), torch.tensor([0, 2]))
    loss.backward()
    assert classifier.n_features == 128 + 256
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in classifier.parameters())


def test_names_of_tensors_are_those_a_backbone_can_be_loaded_from():
    names = Classifier(TwoStages(), n_classes=2).state_dict()
    assert {name.split(".")[0] for name in names} == {"encoder", "head"}


@pytest.mark.parametrize("pooled_stages", [(2,), (-3,), (), (1, -1)])
def test_stage_that_is_not_there_or_twice(pooled_stages):
    with pytest.raises(
        ConfigError, match=r"^backbone\.pooled_stages: pooled stages \[.*\]; expected different numbers from -2 to 1"
    ):
        Classifier(TwoStages(), n_classes=2, pooled_stages=pooled_stages)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_out_of_range(dropout):
    with pytest.raises(ConfigError, match=r"dropout .*; expected at least 0 and less than 1"):
        Classifier(TwoStages(), n_classes=2, dropout=dropout)


def test_no_class():
    with pytest.raises(ConfigError, match="0 classes; expected at least 1"):
        Classifier(TwoStages(), n_classes=0)
