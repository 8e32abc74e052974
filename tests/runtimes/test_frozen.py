"""A frozen network's features in training, computed by OpenVINO: the same, and the network stays torch's."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
from small_run_data import small_config

from med_transfer.backbones import load_backbone
from med_transfer.errors import MissingExtra
from med_transfer.finetuning.features import FeatureSource
from med_transfer.model.classifier import Classifier
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.runtimes.frozen import require_runtime

openvino = pytest.importorskip("openvino")


@pytest.mark.parametrize("name", ["tiles-med-transfer-small", "slices-resnet18"])
def test_features_are_those_of_torch(tmp_path, name):
    shape = (20, 48, 40)
    rng = np.random.default_rng(0)
    tensors = [rng.random((1, *shape)).astype(np.float16) for _ in range(3)]
    tensors[1][..., :16] = 0  # some tiles are empty
    source = load_backbone(name, scratch=True)
    classifier = Classifier(source.encoder, 2, (-2, -1))
    before = copy.deepcopy(classifier.state_dict())
    read = {}
    for runtime in ("torch", "openvino"):
        config = small_config("linear_probe", backbone={"name": name, "runtime": runtime})
        reader = FeatureSource(tmp_path, config, PreprocessingConfig(shape=shape))
        read[runtime] = reader.cached(classifier, tensors)
    assert len(list(tmp_path.iterdir())) == 2  # neither uses the other's cache
    assert not torch.equal(read["torch"], read["openvino"])
    torch.testing.assert_close(read["openvino"], read["torch"], rtol=1e-3, atol=1e-4)
    assert all(torch.equal(values, before[key]) for key, values in classifier.state_dict().items())
    assert classifier.encoder is source.encoder


def test_a_runtime_that_is_not_installed_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"med-transfer\[openvino\]"):
        require_runtime("openvino")
