"""What is reported about files in a job's folder that no longer match what was written."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from med_transfer.cohorts import ArrayCache
from med_transfer.cohorts.left_behind import left_behind, require_whole, sealed, unsealed
from med_transfer.config import load_config
from med_transfer.errors import UsageError
from med_transfer.finetuning import FinetuneConfig


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_file_that_cannot_be_read_or_is_another_is_named_with_what_to_do(tmp_path):
    with (
        pytest.raises(
            UsageError, match=r"gone: cannot be read \(No such file or directory\); .* Remove it, and the same"
        ),
        left_behind(tmp_path / "gone"),
    ):
        (tmp_path / "gone").read_text()
    with (
        pytest.raises(
            UsageError, match="a.json: is damaged; expected what the run .* Remove b.pt, and the same command"
        ),
        left_behind(tmp_path / "a.json", remove="b.pt"),
    ):
        json.loads("<html>")
    (tmp_path / "tuning.yaml").write_text("seed: 0\ntraining: {epo\n")
    with (
        pytest.raises(UsageError, match=r"tuning.yaml, line 3: cannot be read \(not valid YAML: .* Remove it, and the"),
        left_behind(tmp_path / "tuning.yaml"),
    ):
        load_config(FinetuneConfig, tmp_path / "tuning.yaml")


def test_pytorch_does_not_look_at_check_sums_and_this_does(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"weights": torch.zeros(1000)}, path)
    require_whole(path)
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("state/data/0").header_offset
    flipped(path, start + 2000)
    assert torch.load(path, weights_only=True)["weights"].any()
    with pytest.raises(zipfile.BadZipFile, match="data/0 is not as it was written"):
        require_whole(path)


def test_a_sealed_record_is_read_again_and_a_changed_one_is_not():
    record = {"figures": (0.1, 1e-17, float("inf")), "name": "ä", "none": None}
    read = json.loads(json.dumps(sealed(record)))
    assert unsealed(read) == {**record, "figures": list(record["figures"])}
    assert unsealed({"of": "an earlier version"}) == {"of": "an earlier version"}
    for change in ({"figures": [0.2, 1e-17, float("inf")]}, {"more": 1}, {"name": "a"}):
        with pytest.raises(ValueError, match="not as it was written"):
            unsealed(read | change)


def test_what_is_damaged_in_a_cache_counts_as_missing(tmp_path):
    cache, arrays, record = (
        ArrayCache(tmp_path),
        {"a": np.arange(6.0).reshape(2, 3), "b": np.float16(2.0)},
        {"n": [1, 2]},
    )
    cache.write("key", arrays, record)
    path = tmp_path / "key.safetensors"
    whole = path.read_bytes()
    found = cache.read("key")
    assert found is not None
    assert found.record == record
    assert all(np.array_equal(found.arrays[name], arrays[name]) for name in arrays)
    for damaged in (b"", whole[: len(whole) // 2], b"<html></html>", whole + b"more"):
        path.write_bytes(damaged)
        assert cache.read("key") is None
    for at in range(len(whole)):
        path.write_bytes(whole)
        flipped(path, at)
        found = cache.read("key")
        assert found is None or (found.record == record and np.array_equal(found.arrays["a"], arrays["a"])), at
    path.unlink()
    path.mkdir()
    assert cache.read("key") is None


def test_what_an_earlier_version_has_cached_is_read(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "key.safetensors", metadata={"record": '{"n": 1}'})
    found = ArrayCache(tmp_path).read("key")
    assert found is not None
    assert found.record == {"n": 1}
    save_file({"a": np.ones(2)}, tmp_path / "key.safetensors")
    found = ArrayCache(tmp_path).read("key")
    assert found is not None
    assert found.record == {}
