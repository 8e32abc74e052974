"""Weights files as found in practice: complete, truncated, of another kind, hostile."""

import argparse
import io
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from residual_reference import Plan, random_state

from med_transfer.backbones import load_backbone
from med_transfer.backbones.weights.weight_files import read_tensors
from med_transfer.errors import BackboneError, UnsafeWeights, WeightsNotFound

SLIM = Plan((2, 2, 2, 2), widths=(32, 64, 128, 256), stem_kernel=(3, 3, 3), stem_stride=(1, 1, 1), pool=(2, 2, 0))


@pytest.fixture(scope="module")
def state():
    return random_state(SLIM)


class MakesFolder:
    """Unpickling this makes a folder: the mark of code that ran."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def saved(content, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


HOSTILE = {
    "zip": lambda evil: saved({"state_dict": {"conv1.weight": torch.ones(2)}, "epoch": evil}),
    "legacy": lambda evil: saved({"epoch": evil}, _use_new_zipfile_serialization=False),
    "pickle 2": lambda evil: pickle.dumps(evil, protocol=2),
    "pickle 4": lambda evil: pickle.dumps(evil, protocol=4),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_pickle_with_code_is_refused_and_does_not_run(tmp_path, kind):
    mark, file = tmp_path / "code ran", tmp_path / "weights.pth"
    file.write_bytes(HOSTILE[kind](MakesFolder(mark)))
    with pytest.raises(UnsafeWeights, match=r"weights\.pth: holds more than tensors .*could run code.*safetensors"):
        load_backbone("resnet18-w32", file)
    assert not mark.exists()


def test_the_hostile_file_is_hostile(tmp_path):
    """Without this the test above could pass with a harmless file."""
    file, mark = tmp_path / "weights.pth", tmp_path / "code ran"
    file.write_bytes(HOSTILE["zip"](MakesFolder(mark)))
    torch.load(file, weights_only=False)
    assert mark.exists()


def test_harmless_objects_are_refused_by_name(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, file)
    with pytest.raises(UnsafeWeights, match=r"holds more than tensors \(argparse\.Namespace\)"):
        load_backbone("resnet18-w32", file)


def test_torchscript_is_refused(tmp_path):
    file = tmp_path / "weights.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), file)
    with pytest.raises(UnsafeWeights, match="TorchScript"):
        load_backbone("resnet18-w32", file)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.pth", lambda state: saved(state)),
        ("old.pth", lambda state: saved(state, _use_new_zipfile_serialization=False)),
        ("new.safetensors", safetensors.torch.save),
    ],
)
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_truncated_file(tmp_path, state, name, content, share):
    whole = content(state)
    file = tmp_path / name
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BackboneError, match=rf"{name}: truncated or damaged \(.+\)\. Get the file again") as error:
        load_backbone("resnet18-w32", file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\noid"])
def test_something_else_under_the_name_of_weights(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(BackboneError, match=r"not a PyTorch weights file.*web page or a Git LFS pointer"):
        load_backbone("resnet18-w32", file)


def test_no_file(tmp_path):
    with pytest.raises(WeightsNotFound, match=r"gone\.pth: no such file; expected a weights file or a bundle folder"):
        load_backbone("resnet18-w32", tmp_path / "gone.pth")


def test_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(WeightsNotFound, match=r"models/model\.safetensors: no such file"):
        load_backbone("resnet18-w32", tmp_path)


@pytest.mark.parametrize("keys", [(), ("state_dict",), ("net",), ("model",), ("network_weights",), ("model", "net")])
def test_containers(keys):
    content = {"a.weight": torch.ones(2), "note": "no tensor"}
    for key in reversed(keys):
        content = {"epoch": 3, key: content}
    tensors = read_tensors(io.BytesIO(saved(content)), "file.pth")
    assert list(tensors) == ["a.weight"]


def test_numbers_of_numpy_in_a_training_log_are_no_obstacle():
    log = {"dice": [np.float64(0.5), np.float32(0.1), np.int64(3)], "curve": np.arange(3.0)}
    content = {"state_dict": {"a.weight": torch.ones(2)}, "log": log}
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        assert list(read_tensors(io.BytesIO(saved(content, **options)), "file.pth")) == ["a.weight"]


class ReadsFile:
    """Unpickling this would call numpy to read a file."""

    def __reduce__(self):
        return np.fromfile, ("/etc/hostname",)


def test_nothing_else_of_numpy_is_let_through():
    with pytest.raises(UnsafeWeights, match=r"holds more than tensors \(numpy\.fromfile\)"):
        read_tensors(io.BytesIO(saved({"state_dict": {}, "evil": ReadsFile()})), "file.pth")


def test_file_without_tensors():
    assert read_tensors(io.BytesIO(saved([1, 2])), "file.pth") == {}
