"""Properties of every backbone, and the slim network that is the default on a CPU."""

import pytest
import torch
from residual_reference import Plan, forward, random_state

from med_transfer.backbones import backbones, load_backbone
from med_transfer.backbones.networks.resnet import plain_resnet, slim_resnet
from med_transfer.backbones.weights.matching import load_tensors

SLIM = Plan((2, 2, 2, 2), widths=(32, 64, 128, 256), stem_kernel=(3, 3, 3), stem_stride=(1, 1, 1), pool=(2, 2, 0))
RESNET50 = Plan((3, 4, 6, 3), bottleneck=True)


@pytest.fixture(params=sorted(backbones()))
def spec(request):
    return backbones()[request.param]


@pytest.fixture
def encoder(spec, shapes_only):
    return shapes_only(spec.name)


def test_entry_tells_the_truth_about_the_network(spec, encoder):
    assert sum(p.numel() for p in encoder.parameters()) == spec.parameters
    x = torch.empty(2, spec.input.channels, *spec.input.minimum_shape, device="meta")
    with torch.no_grad():  # and as in real use: a third of the time
        maps = encoder.eval()(x)
    assert tuple(m.shape[1] for m in maps) == spec.stage_channels == encoder.stage_channels
    # The smallest shape is the total stride, or twice that: one voxel has no deviation to normalise an instance by
    assert maps[-1].shape[2:] in [(1, 1, 1), (2, 2, 2)]
    assert all(-len(maps) <= stage < len(maps) for stage in spec.pooled_stages)


def test_stages_hold_every_tensor_once(encoder):
    by_stage = [id(t) for stage in encoder.stages() for t in (*stage.parameters(), *stage.buffers())]
    everything = [id(t) for t in (*encoder.parameters(), *encoder.buffers())]
    assert sorted(by_stage) == sorted(everything)
    assert len(encoder.stages()) == 1 + len(encoder.stage_channels)


def test_stages_one_after_another_are_the_forward_pass():
    encoder = slim_resnet().eval()
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        maps = encoder(x)
        for stage, expected in zip(encoder.stages(), [None, *maps], strict=True):
            x = stage(x)
            assert expected is None or torch.equal(x, expected)


@pytest.mark.parametrize(
    ("build", "plan"), [(slim_resnet, SLIM), (lambda: plain_resnet(50), RESNET50)], ids=["slim", "50"]
)
def test_forward_equals_an_independent_one(build, plan):
    encoder, state = build().eval(), random_state(plan)
    assert load_tensors(encoder, state, "reference").matched_share == 1
    x = torch.randn(2, 1, 18, 24, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for mine, theirs in zip(encoder(x), forward(plan, state, x), strict=True):
            assert theirs.abs().mean() > 0.1
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_slim_network_on_a_crop_of_32():
    encoder = slim_resnet()
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(8.3e6, rel=0.01)
    shapes = [tuple(m.shape) for m in encoder(torch.zeros(2, 1, 32, 32, 32))]
    assert shapes == [(2, 32, 16, 16, 16), (2, 64, 8, 8, 8), (2, 128, 4, 4, 4), (2, 256, 2, 2, 2)]


def test_seed_decides_the_random_values_and_nothing_else():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (load_backbone("resnet18-w32", seed=seed).encoder.state_dict() for seed in (1, 1, 2))
    assert torch.rand(1) == expected  # the caller's random state is untouched
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_can_be_exported():
    encoder = slim_resnet().eval()
    x = torch.rand(1, 1, 32, 32, 32)
    exported = torch.export.export(encoder, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x)[-1], encoder(x)[-1])
