"""Models Genesis and SuPreM: the published layouts load in full and give the original's output for a scan."""

import pytest
import torch
from unet_reference import genesis_forward, genesis_names, random_state

from med_transfer.backbones import load_backbone
from med_transfer.errors import LicenceNotAccepted

GENESIS_LICENCE = "ASU Models Genesis (academic, non-commercial research)"
SUPREM_LICENCE = "CC BY-NC-ND 4.0 (Johns Hopkins University)"


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def suprem_heads():
    """What the class around the U-Net adds (Universal_model.py): never the encoder's."""
    return {
        "module.precls_conv.0.weight": torch.ones(64),
        "module.GAP.3.weight": torch.ones(256, 512, 1, 1, 1),
        "module.controller.weight": torch.ones(153, 512, 1, 1, 1),
        "module.text_to_vision.weight": torch.ones(256, 512),
        "module.organ_embedding": torch.ones(25, 512),
    }


CONTAINERS = {
    "models-genesis": lambda state: {
        "epoch": 500,
        "state_dict": under("module.", state),
        "optimizer_state_dict": {"state": {}, "param_groups": []},
    },
    "suprem-unet": lambda state: {
        "net": under("module.backbone.", state) | suprem_heads(),
        "optimizer": {"state": {}},
        "epoch": 9,
    },
}
LICENCES = {"models-genesis": GENESIS_LICENCE, "suprem-unet": SUPREM_LICENCE}


@pytest.mark.parametrize("name", CONTAINERS)
def test_published_file_gives_the_original_forward(tmp_path, name):
    state = random_state(genesis_names(output=name == "models-genesis"), seed=1)
    file = tmp_path / "published.pt"
    torch.save(CONTAINERS[name](state), file)

    loaded = load_backbone(name, file, accept_licence=LICENCES[name])

    assert loaded.report.matched_share == 1
    assert len(loaded.report.matched) == 8 * 4  # convolutions of the encoder, each with its normalisation
    assert not loaded.report.unexpected
    assert any("running_mean" in ignored for ignored in loaded.report.ignored)
    x = torch.randn(1, 1, 16, 24, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, original = loaded.encoder.eval()(x), genesis_forward(state, x)[1:]
    for mine, theirs in zip(ours, original, strict=True):
        assert theirs.abs().mean() > 0.1
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_scan_gives_the_same_whoever_is_in_its_batch():
    """Unlike the original, which mixes the scans of a batch: that is why a scan is normalised by itself."""
    encoder = load_backbone("models-genesis", scratch=True).encoder
    pair = (
        torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 9.0])[:, None, None, None, None]
    )
    for mode in (True, False):
        with torch.no_grad():
            together = encoder.train(mode)(pair)
            alone = encoder(pair[:1])
        for both, one in zip(together, alone, strict=True):
            torch.testing.assert_close(both[:1], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LICENCES)
def test_licence_has_to_be_accepted_by_name(tmp_path, name):
    with pytest.raises(LicenceNotAccepted, match=f"backbone {name}: its licence is restricted and was not accepted"):
        load_backbone(name, tmp_path / "any.pt")
