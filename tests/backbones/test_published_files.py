"""Every published layout loads in full by the catalogue's own rules; wrong, truncated and restricted files do not."""

import re
from pathlib import Path

import pytest
import torch
from published_files import INTEGERS, PUBLISHED, Published, ct_fm_file, randomly, zeros

from med_transfer.backbones import backbones, find_backbone, load_backbone
from med_transfer.backbones.catalogue import (
    ct_fm,
    medicalnet,
    merlin,
    monai_bundles,
    suprem,
    swin_ssl,
    video,
    voco,
)
from med_transfer.backbones.networks import segresnet
from med_transfer.backbones.weights import loading
from med_transfer.errors import BackboneError, LicenceNotAccepted, WeightsMismatch

FAMILIES = (medicalnet, merlin, ct_fm, suprem, swin_ssl, voco, monai_bundles, video)
RESTRICTED = ["suprem-segresnet", "suprem-swinunetr", "vista3d"]
SMALL = 10_000_000  # most parameters that a test allocates; of larger networks only names and shapes are tested

pytestmark = pytest.mark.filterwarnings("ignore:for .*which is a no-op")  # values for a network without values


@pytest.fixture
def load(tmp_path, monkeypatch, shapes_only):
    """Writes a published file and loads it under a name."""

    def load(name: str, file: Published, value=zeros):
        spec = find_backbone(name)
        if spec.parameters > SMALL:
            monkeypatch.setattr(loading, "_build", lambda spec, seed: shapes_only(spec.name))
        path = tmp_path / Path(spec.weights.file).name
        file.write(path.with_suffix(".pt") if path.suffix == ".safetensors" else path, value)
        (path,) = tmp_path.iterdir()
        return load_backbone(name, path, accept_licence=spec.licence)

    return load


def names_without_counters(file: Published) -> set[str]:
    return {name for name in file.encoder if not name.endswith("num_batches_tracked")}


def test_every_entry_of_these_families_has_its_file_here():
    names = {spec.name for family in FAMILIES for spec in family.SPECS}
    assert set(PUBLISHED) == names - {"astra"}  # whose real weights are tested


@pytest.mark.parametrize("name", PUBLISHED)
def test_encoder_has_the_published_names_shapes_and_kinds(shapes_only, name):
    own = {key: (tuple(t.shape), t.is_floating_point()) for key, t in shapes_only(name).state_dict().items()}
    assert own == {key: (shape, not key.endswith(INTEGERS)) for key, shape in PUBLISHED[name].encoder.items()}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in ("voco-h", "vocomni-h")])  # 1.2 GB each
def test_published_layout_loads_in_full(load, name):
    file = PUBLISHED[name]
    report = load(name, file).report
    assert report.matched_share == 1
    assert set(report.matched) == names_without_counters(file)
    assert not report.unexpected
    assert set(report.ignored) == set(file.rest)


@pytest.mark.parametrize("decoder", [False, True])
def test_published_safetensors_loads_in_full(tmp_path, monkeypatch, decoder):
    file, path = ct_fm_file(4, decoder), tmp_path / "model.safetensors"
    file.write(path, randomly())
    monkeypatch.setattr(loading, "_build", lambda spec, seed: segresnet.ct_fm(4))
    report = load_backbone("ct-fm-segresnet" if decoder else "ct-fm", path).report
    assert (report.matched_share, report.unexpected) == (1, ())
    assert set(report.ignored) == set(file.rest)


def test_values_of_the_file_arrive(load):
    file = PUBLISHED["lung-nodule-resnet50"]
    loaded = load("lung-nodule-resnet50", file, randomly(3))
    written = file.tensors(randomly(3))
    for name, tensor in loaded.encoder.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, written[file.rename(name)])


@pytest.mark.parametrize("name", [f"resnet_50{ending}.pth" for ending in ("_23dataset", "")])
def test_either_name_is_found_in_the_folder_of_weights(tmp_path, monkeypatch, shapes_only, name):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path))
    monkeypatch.setattr(loading, "_build", lambda spec, seed: shapes_only(spec.name))
    PUBLISHED["medicalnet-resnet50"].write(tmp_path / name, zeros)
    assert load_backbone("medicalnet-resnet50").report.matched_share == 1


def test_no_two_entries_look_for_the_same_file():
    """Else one network's file, put into the folder of weights, would be taken for another's.

    A 2D network is published once and serves each way of looking at a volume with it.
    """
    sources = {spec.weights for spec in backbones().values() if spec.weights}
    files = [file for source in sources for file in source.files]
    assert len(files) == len(set(files))


# Files that must be refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("swin-btcv", "voco-b", r"126 of 126 .*unexpected: layers1c\.0\.layer\.conv1\.conv\.weight"),
        ("medicalnet-resnet50", "medicalnet-resnet101", r"unexpected: layer3\.6\.conv1\.weight.* more"),
        ("voco-b", "swin-btcv", r"126 of 134 .*missing: layers1c"),
        ("voco-b", "voco-l", r"other shape: .* in the file"),
        ("suprem-segresnet", "wholebody-segresnet-3mm", r"other shape: convInit\.conv\.weight \(32x1x3x3x3 float32"),
        ("vista3d", "ct-fm", r"other shape: conv_init\.weight"),
        ("suprem-swinunetr", "suprem-segresnet", r"0 of 126 .*missing: patch_embed"),
        ("r3d18-kinetics", "lung-nodule-resnet50", r"expected at least 95% of the encoder's and of the file's"),
        ("lung-nodule-resnet50", "medicalnet-resnet50", r"missing: layer1\.0\.downsample\.0\.bias.*unexpected: layer3"),
        ("ct-fm", "merlin", r"0 of \d+ encoder tensors fit \(0%\)"),
    ],
)
def test_file_of_another_network_is_refused(load, name, other, reason):
    with pytest.raises(WeightsMismatch, match=rf"{reason}.*Choose the backbone that this file was made for"):
        load(name, PUBLISHED[other])


@pytest.mark.parametrize("name", ["suprem-segresnet", "swin-ssl-50k", "swin-btcv", "r3d18-kinetics"])
def test_truncated_file_is_refused(tmp_path, name):
    spec, file = find_backbone(name), tmp_path / "weights.pth"
    PUBLISHED[name].write(file, zeros)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackboneError, match=r"weights\.pth: truncated or damaged .*Get the file again"):
        load_backbone(name, file, accept_licence=spec.licence)


@pytest.mark.parametrize("accepted", ["", "MIT"])
@pytest.mark.parametrize("name", RESTRICTED)
def test_restricted_licence_has_to_be_accepted_by_its_name(tmp_path, name, accepted):
    licence = find_backbone(name).licence
    said = re.escape(f"licence '{accepted}' accepted" if accepted else "its licence is restricted and was not accepted")
    how = re.escape(f"expected '{licence}'. Read it at https://") + r".*" + re.escape(f"--accept-licence '{licence}'")
    with pytest.raises(LicenceNotAccepted, match=f"backbone {name}: {said}.*{how}"):
        load_backbone(name, tmp_path / "any.pth", accept_licence=accepted)


def test_restricted_network_from_scratch_needs_no_licence():
    assert load_backbone("suprem-segresnet", scratch=True).sha256 is None


def test_what_is_not_licensed_for_it_is_not_called_so():
    for spec in backbones().values():
        if spec.must_accept or "none stated" in spec.licence or "not checked" in spec.licence:
            assert not spec.commercial_use
    assert {name for name, spec in backbones().items() if spec.must_accept} >= set(RESTRICTED)
