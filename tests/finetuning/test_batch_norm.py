"""BatchNorm's statistics: kept, adapted to the target, or following each batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_cohort import made_up_cohort
from small_network import SmallEncoder, small_classifier, small_images
from small_run_data import small_config

from med_transfer.errors import ConfigError
from med_transfer.finetuning.batch_norm import adapt_statistics, keep_frozen_statistics
from med_transfer.finetuning.run import checked_start


def first_response(encoder: SmallEncoder, images: torch.Tensor) -> np.ndarray:
    """[channel, value] that the first BatchNorm layer meets."""
    with torch.no_grad():
        return encoder.conv1(images).double().transpose(0, 1).flatten(1).numpy()


def sorted_images() -> torch.Tensor:
    """Two kinds of scan, one after the other, of which the second is brighter and varies more."""
    images = small_images(18)
    return torch.cat([images[:9], 3 * images[9:] + 5])


def test_adapted_statistics_are_those_of_the_images():
    encoder, images = small_classifier().encoder, sorted_images()
    before = {name: p.clone() for name, p in encoder.named_parameters()}
    adapt_statistics(encoder, [images])
    with torch.no_grad():
        response = encoder.conv1(images)
        deeper = encoder.layer1[0](encoder.bn1(response).relu())
    for layer, values in ((encoder.bn1, response), (encoder.layer1[1], deeper)):
        torch.testing.assert_close(layer.running_mean, values.mean((0, 2, 3, 4)))
        torch.testing.assert_close(layer.running_var, values.var((0, 2, 3, 4), unbiased=True))
    assert all(p.equal(before[name]) for name, p in encoder.named_parameters())
    assert not any(module.training for module in encoder.modules())
    assert not any(layer._forward_pre_hooks for layer in encoder.modules())


@pytest.mark.parametrize("batch_size", [1, 2, 4, 18])
def test_the_first_layers_are_exact_whatever_the_batches_and_their_order(batch_size):
    encoder, images = small_classifier().encoder, sorted_images()
    adapt_statistics(encoder, images.split(batch_size))
    values = first_response(encoder, images)
    np.testing.assert_allclose(encoder.bn1.running_mean, values.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(encoder.bn1.running_var, values.var(axis=1, ddof=1), rtol=1e-5)


def test_a_single_value_a_channel_is_refused_only_where_there_is_no_other():
    encoder = small_classifier().encoder
    one_voxel = torch.randn(3, 1, 1, 1, 1)
    adapt_statistics(encoder, [one_voxel[:2], one_voxel[2:]])
    with pytest.raises(ConfigError, match=r"transfer.batch_norm: bn_adapt with a single value a channel: .* at least"):
        adapt_statistics(encoder, [one_voxel[:1]])


def test_batches_of_one_scan_without_a_variance_are_refused_before_a_scan_is_read():
    """Also where only the from-scratch baseline, which is trained last, would meet them."""
    cohort = made_up_cohort([*"ab"] * 10).cohort
    settings = {"split": {"folds": 2, "test_fraction": 0.34}, "training": {"batch_size": 1}}
    tiny, larger = ({"input": {"shape": [side] * 3}} for side in (16, 64))
    scratch = {"backbone": {"name": "resnet18-w8"}}
    with pytest.raises(ConfigError, match=r"training.batch_size: batches of one scan.* one voxel.* at least 2"):
        checked_start(cohort, small_config(**settings, **tiny, **scratch))
    checked_start(cohort, small_config(**settings, **larger, **scratch))
    with pytest.raises(ConfigError, match=r"training.batch_size: batches of one scan"):
        checked_start(cohort, small_config("linear_probe", **settings, **tiny))
    checked_start(cohort, small_config("linear_probe", **settings, **tiny, from_scratch_baseline=False))


def test_kept_statistics_do_not_move_in_training_and_train_undoes_it():
    encoder = small_classifier().encoder
    before = encoder.bn1.running_mean.clone()
    encoder.train()
    keep_frozen_statistics(encoder, everywhere=True)
    encoder(small_images() + 5)
    assert encoder.bn1.running_mean.equal(before)
    encoder.train()
    keep_frozen_statistics(encoder, everywhere=False)  # nothing is frozen
    encoder(small_images() + 5)
    assert not encoder.bn1.running_mean.equal(before)
