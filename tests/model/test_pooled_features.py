"""Features from an encoder alone: how many scans it gets at a time, and that they do not depend on that."""

import pytest
import torch

from med_transfer.backbones import find_backbone
from med_transfer.model.features import in_parts, instance_features, pooled_features

CPU = torch.device("cpu")


def built(name, **options):
    torch.manual_seed(0)
    return find_backbone(name).build(**options).eval()


@pytest.mark.parametrize(("name", "at_a_time"), [("slices-resnet18", [1, 1, 1]), ("resnet18-w8", [3])])
def test_many_slices_are_computed_scan_by_scan_and_whole_scans_together(name, at_a_time):
    encoder, seen = built(name), []
    encoder.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    images = torch.randn(3, find_backbone(name).input.channels, 4, 32, 32)
    features = pooled_features(encoder, [images], [-1], CPU)
    assert seen == at_a_time
    with torch.no_grad():
        torch.testing.assert_close(features, encoder.pool(encoder(images), [-1]))


def test_instances_keep_the_order_of_their_scans():
    encoder = built("slices-resnet18")
    images = torch.randn(3, find_backbone("slices-resnet18").input.channels, 4, 32, 32)
    together = instance_features(encoder, [images], [-1], CPU)
    assert together.shape[:2] == (3, 4)
    torch.testing.assert_close(
        together, torch.cat([instance_features(encoder, [one[None]], [-1], CPU) for one in images])
    )


@pytest.mark.parametrize(
    ("backbone", "shape", "sizes"),
    [
        ("resnet18-w8", (32, 32, 32), [8, 8, 4]),
        ("resnet18-w8", (48, 96, 96), [1] * 20),
        ("slices-resnet18", (8, 8, 8), [1] * 20),
    ],
)
def test_on_a_processor_large_scans_pass_one_by_one(backbone, shape, sizes):
    images = torch.zeros(20, 2, 1, 1, 1).expand(20, 2, *shape)
    encoder = find_backbone(backbone).build()
    assert [len(part) for part in in_parts(images, encoder)] == sizes
    assert [len(part) for part in in_parts(images.to("meta"), encoder)] == [20]
