"""The default ships with the package, matches its record, and remembers whose scans it has seen."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from med_transfer.backbones import backbones, find_backbone, load_backbone, weights_at_hand, weights_file
from med_transfer.backbones.weights.source_features import source_features_path
from med_transfer.bundle.provenance import source_licences, source_provenance
from med_transfer.finetuning import FinetuneConfig
from med_transfer.phantoms import phantom_volume
from med_transfer.scans import read_scan
from med_transfer.selection.candidates import find_candidates
from med_transfer.selection.measures.frechet import frechet_distance, gaussian_of
from med_transfer.selection.source import source_features

SPEC = find_backbone("med-transfer-small")
DATA = os.environ.get("MED_TRANSFER_DATA", "")


@pytest.fixture
def _empty_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path))


def shipped() -> Path:
    assert SPEC.weights is not None
    assert SPEC.weights.shipped is not None
    return SPEC.weights.shipped


def test_it_is_small_and_the_file_of_the_record():
    content = shipped().read_bytes()
    assert len(content) <= 20e6
    assert hashlib.sha256(content).hexdigest() == SPEC.sha256
    assert SPEC.parameters <= 10_000_000


@pytest.mark.usefixtures("_empty_store")
def test_the_name_alone_loads_every_tensor():
    assert weights_at_hand(SPEC)
    loaded = load_backbone("med-transfer-small")
    random = load_backbone("med-transfer-small", scratch=True)
    assert (loaded.report.missing, loaded.report.unexpected, loaded.report.mismatched) == ((), (), ())
    assert loaded.sha256 == SPEC.sha256
    assert random.sha256 is None
    assert not torch.allclose(loaded.encoder.conv1.weight, random.encoder.conv1.weight, atol=1e-2)
    maps = loaded.encoder.eval()(torch.zeros(1, 1, 16, 32, 32))
    assert [m.shape[1] for m in maps] == list(SPEC.stage_channels)


@pytest.mark.usefixtures("_empty_store")
def test_the_name_alone_says_whose_scans_it_has_seen():
    seen = source_provenance(weights_file("med-transfer-small", None))
    assert seen is not None
    assert len(seen.content_hashes) == 51
    assert source_licences(weights_file("med-transfer-small", None)) == ()
    with safe_open(shipped(), "pt") as file:
        assert file.metadata()["method"] == "painted_nodules"


@pytest.mark.usefixtures("_empty_store")
@pytest.mark.skipif(not Path(DATA, "sts_ct").is_dir() or not DATA, reason="MED_TRANSFER_DATA with sts_ct is not set")
def test_a_scan_that_it_has_seen_is_recognised():
    seen = source_provenance(weights_file("med-transfer-small", None))
    scan = read_scan(Path(DATA, "sts_ct", "STS_001.nii.gz"))
    assert seen is not None
    assert scan.content_hash in seen.content_hashes


@pytest.mark.usefixtures("_empty_store")
def test_what_its_source_looks_like_comes_with_it():
    """Small; made with these weights; phantoms, which are no patients, lie further from one half of it than the other
    half does."""
    path = source_features_path(shipped())
    assert path.stat().st_size <= 1e6
    source = source_features(find_candidates(["med-transfer-small"]).ready[0])
    assert source.weights_sha256 == SPEC.sha256
    assert source.input == "crops of 24 to 70 mm as 16 x 32 x 32 voxels, lung and nodules painted in"
    table = source.table((2, 3))
    assert table.shape == (256, 128 + 256)
    known = gaussian_of(table[::2])
    volumes = [phantom_volume("solid", seed=1, patient=number, shape=(16, 32, 32)) for number in range(12)]
    images = torch.stack([torch.from_numpy(one.voxels / 1000).float().clamp(-1, 1)[None] for one in volumes])
    encoder = load_backbone("med-transfer-small").encoder.eval()
    with torch.inference_mode():
        strange = encoder.pool(encoder(images), (2, 3)).double().numpy()
    near, far = (frechet_distance(known, gaussian_of(rows)) for rows in (table[1::11][:12], strange))
    assert 2 * near < far


def test_random_values_and_packages_have_no_file(tmp_path):
    assert weights_file("resnet18-w32", None) is None
    assert weights_file("resnet18-w32", tmp_path / "own.safetensors") == tmp_path / "own.safetensors"
    assert weights_file("slices-efficientnet-lite0", None) is None


@pytest.mark.usefixtures("_empty_store")
def test_an_imported_file_goes_before_the_shipped_one(tmp_path):
    own = tmp_path / "med-transfer-small.safetensors"
    own.write_bytes(shipped().read_bytes())
    assert weights_file("med-transfer-small", None) == own


def test_it_is_the_default_and_nothing_else_ships():
    """But the same file, for its network on tiles."""
    assert FinetuneConfig().backbone.name == "med-transfer-small"
    shipped = [spec for spec in backbones().values() if spec.weights and spec.weights.shipped]
    assert {spec.name for spec in shipped} == {SPEC.name, f"tiles-{SPEC.name}"}
    assert {spec.sha256 for spec in shipped} == {SPEC.sha256}
