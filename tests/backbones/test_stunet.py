"""STU-Net: the nnU-Net v1 files load in full, whatever numpy objects they contain, and give the original output."""

import argparse

import numpy as np
import pytest
import torch
from unet_reference import random_state, stunet_forward, stunet_names

from med_transfer.backbones import load_backbone
from med_transfer.backbones.networks.stunet import STUNetEncoder
from med_transfer.backbones.weights.matching import load_tensors
from med_transfer.errors import UnsafeWeights

SIZES = {
    "small": ((16, 32, 64, 128, 256, 256), 1),
    "base": ((32, 64, 128, 256, 512, 512), 1),
    "large": ((64, 128, 256, 512, 1024, 1024), 2),
    "huge": ((96, 192, 384, 768, 1536, 1536), 3),
}


def model_file(state, **more):
    """As nnU-Net v1 saves it: losses are numpy's numbers (NetworkTrainer.save_checkpoint)."""
    losses = [np.float64(0.5), np.mean([0.1, 0.2], dtype=np.float32)]
    return {
        "epoch": 4000,
        "state_dict": state,
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01}]},
        "lr_scheduler_state_dict": None,
        "plot_stuff": (losses, losses, [], [np.array([0.7])]),
        "best_stuff": (None, np.float64(0.8), np.float64(0.8)),
        "amp_grad_scaler": {"scale": 65536.0},
        **more,
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_published_file_gives_the_original_forward(tmp_path, zipped):
    widths, depth = SIZES["small"]
    state = random_state(stunet_names(widths, depth), seed=2)
    file = tmp_path / "small_ep4k.model"
    torch.save(model_file(state), file, _use_new_zipfile_serialization=zipped)

    loaded = load_backbone("stunet-small", file)

    assert loaded.report.matched_share == 1
    assert not loaded.report.unexpected
    assert all(not name.startswith("conv_blocks_context") for name in loaded.report.ignored)
    compare(loaded.encoder, state, (64, 32, 64), len(widths), depth)


def test_several_blocks_a_stage():
    """Large and huge stack two and three blocks; a small sibling shows that they are chained alike."""
    encoder, state = STUNetEncoder((4, 8, 12), 3), random_state(stunet_names((4, 8, 12), 3), seed=3)
    report = load_tensors(encoder, {name: t for name, t in state.items() if "context" in name}, "reference")
    assert report.matched_share == 1
    assert not report.unexpected
    compare(encoder, state, (9, 16, 20), 3, 3)


def compare(encoder, state, shape, stages, depth):
    x = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, original = encoder.eval()(x), stunet_forward(state, x, stages, depth)[1:]
    for mine, theirs in zip(ours, original, strict=True):
        assert theirs.abs().mean() > 0.1
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_the_published_names_and_shapes(shapes_only, size):
    published = {n: s for n, s in stunet_names(*SIZES[size]) if n.startswith("conv_blocks_context")}
    ours = {name: tuple(tensor.shape) for name, tensor in shapes_only(f"stunet-{size}").state_dict().items()}
    assert ours == published


def test_file_that_cannot_be_read_safely_says_how_to_convert_it(tmp_path):
    file = tmp_path / "small_ep4k.model"
    torch.save(model_file({}, trainer=argparse.Namespace()), file)
    with pytest.raises(
        UnsafeWeights, match=r"small_ep4k\.model: holds more than tensors \(argparse\.Namespace\).*state_dict\(\)"
    ):
        load_backbone("stunet-small", file)
