"""Imported weights: verified once, then the name is enough."""

import pytest
import safetensors
import torch
from residual_reference import medicalnet_plan, random_state

from med_transfer.backbones import find_backbone, import_backbone, load_backbone, weights_at_hand
from med_transfer.errors import WeightsMismatch, WeightsNotFound


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path / "store"))
    return tmp_path / "store"


def published(path, depth=10):
    state = random_state(medicalnet_plan(depth), seed=3)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    return path


def test_an_imported_backbone_needs_no_file_any_more(tmp_path, store):
    spec, file = find_backbone("medicalnet-resnet10"), published(tmp_path / "a.pth")
    given = load_backbone(spec.name, file)
    assert not weights_at_hand(spec)
    path, report = import_backbone(spec.name, file)
    file.unlink()

    assert weights_at_hand(spec)
    assert (path.parent, report.matched_share) == (store, 1)
    loaded = load_backbone(spec.name)
    assert loaded.report.matched_share == 1
    for name, tensor in given.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name], tensor), name
    with safetensors.safe_open(path, "pt") as kept:
        assert kept.metadata() == {"backbone": spec.name, "source_sha256": given.sha256, "licence": "MIT"}


def test_the_published_file_itself_in_the_folder_is_found(store):
    store.mkdir()
    published(store / "resnet_10_23dataset.pth")
    assert load_backbone("medicalnet-resnet10").report.matched_share == 1


def test_a_file_of_another_network_is_not_kept(tmp_path, store):
    with pytest.raises(WeightsMismatch, match="of another shape"):
        import_backbone("medicalnet-resnet50", published(tmp_path / "a.pth"))
    assert not store.exists()


def test_without_the_file_the_message_says_where_it_is_looked_for(store):
    with pytest.raises(
        WeightsNotFound,
        match=rf"resnet_10_23dataset\.pth or resnet_10\.pth in {store}, .* import medicalnet-resnet10 --down",
    ):
        load_backbone("medicalnet-resnet10")


def test_the_users_data_folder_unless_another_is_named(monkeypatch, tmp_path):
    from med_transfer.backbones.weights.store import store_folder

    monkeypatch.delenv("MED_TRANSFER_BACKBONES", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert store_folder() == tmp_path / "med_transfer/backbones"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", "~/weights")  # as written in a config, which no shell expands
    assert store_folder() == tmp_path / "home/weights"
