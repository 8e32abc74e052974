"""Where adapters are inserted: after the part that makes each map, in every backbone."""

import pytest
import torch
from torch import nn

from med_transfer.backbones import backbones, find_backbone, load_backbone
from med_transfer.backbones.adapters import add_adapters
from med_transfer.backbones.networks.resnet import ResNetEncoder, monai_resnet
from med_transfer.backbones.weights.matching import load_tensors
from med_transfer.errors import BackboneError, MissingExtra


@pytest.mark.parametrize("name", sorted(backbones()))
def test_every_map_passes_its_adapter_once(name):
    spec = find_backbone(name)
    with torch.device("meta"):
        try:
            encoder = spec.build()
        except MissingExtra as error:
            pytest.skip(str(error))
        add_adapters(encoder, reduction=4)
    given: list[tuple[int, tuple[int, ...]]] = []
    for number, adapter in enumerate(encoder.adapters):
        adapter.register_forward_hook(lambda _, inputs, output, number=number: given.append((number, output.shape[1])))
    maps = encoder(torch.empty(2, spec.input.channels, *spec.input.minimum_shape, device="meta"))
    assert given == list(enumerate(spec.stage_channels))
    assert tuple(m.shape[1] for m in maps) == spec.stage_channels


@pytest.mark.parametrize("name", ["slices-efficientnet-lite0", "acs-resnet18", "models-genesis", "swin-btcv"])
def test_an_adapter_changes_its_map_and_all_deeper_ones(name):
    """Stages that are put together of several modules; a shift by channel, since Swin normalises its maps."""
    spec = find_backbone(name)
    encoder = load_backbone(name, scratch=True, seed=0).encoder.eval()
    add_adapters(encoder, reduction=4)
    shape = (1, spec.input.channels, *spec.input.minimum_shape)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = encoder(x)
        nn.init.normal_(encoder.adapters[1].up.bias)
        after = encoder(x)
    same = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert same == [number < 1 for number in range(len(same))]


@pytest.mark.parametrize("prefix", ["", "member0.encoder."])
def test_a_deep_network_with_adapters_is_not_loaded_without_them(prefix):
    """They are so small a share of its tensors that the others alone would be enough."""
    deep = [ResNetEncoder(monai_resnet("bottleneck", (3, 8, 36, 3), widths=(2, 4, 8, 16))) for _ in range(2)]
    add_adapters(deep[0], reduction=4)
    trained = {prefix + name: tensor for name, tensor in deep[0].state_dict().items()}
    with pytest.raises(BackboneError, match="the source has adapters, which cannot be transferred"):
        load_tensors(deep[1], trained, "model.safetensors")
