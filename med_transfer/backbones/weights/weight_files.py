"""Read a weights file without ever executing code in it."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from med_transfer.atomic import atomic_path
from med_transfer.errors import BackboneError, OutputError, UnsafeWeights, WeightsNotFound

_CONTAINERS = ("state_dict", "net", "model", "network_weights")  # nnU-Net v2 writes the last


class _TrainingLog:
    """Placeholder for a NumPy scalar or array in a training log, so that unpickling runs no NumPy code."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# nnU-Net stores losses and Dice scores beside the tensors as NumPy scalars, whose globals torch would refuse.
_IGNORED_GLOBALS = (
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{c}.multiarray.{name}" for c in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
_SIGNATURES = (b"PK", b"\x80")  # zip archive (torch >= 1.6) and bare pickle (older)


def open_weights(path: Path) -> BinaryIO:
    """Open a weights file, the model of a bundle folder, or the encoder of a pretraining folder.

    Raises:
        WeightsNotFound: the file does not exist.
        BackboneError: the file cannot be opened.
    """
    file = weights_in(path)
    try:
        return file.open("rb")
    except FileNotFoundError:
        raise WeightsNotFound(
            "no such file", where=file, expected="a weights file or a bundle folder, or that of a pretraining"
        ) from None
    except OSError as error:
        raise BackboneError(f"cannot be opened ({error.strerror})", where=file) from error


def weights_in(path: Path) -> Path:
    """Return the weights file in a pretraining or bundle folder; any other path is returned unchanged."""
    if not path.is_dir():
        return path
    pretrained = path / "encoder.safetensors"
    return pretrained if pretrained.is_file() else path / "models" / "model.safetensors"


def hash_weights(stream: BinaryIO) -> str:
    """Return the SHA-256 of an open file from its beginning, and rewind it."""
    stream.seek(0)
    digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    stream.seek(0)
    return digest


@contextmanager
def safetensors_path(path: Path) -> Iterator[Path]:
    """:func:`atomic_path` for safetensors, whose writer does not raise OSError if the disk is full.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            yield temporary
        except SafetensorError as error:
            action = "Free disk space, or choose another folder"
            raise OutputError(f"cannot be written: {error}", where=path, action=action) from error


def read_tensors(stream: BinaryIO, where: str) -> dict[str, Tensor]:
    """Return the tensors of an open weights file by name, unwrapped from the containers of training scripts.

    Args:
        stream: an open file, at its beginning.
        where: its name; ``.safetensors`` files are read as such, all others as PyTorch files.

    Raises:
        UnsafeWeights: the file holds more than tensors, and unpickling it could run code.
        BackboneError: the file is damaged, or is not a weights file.
    """
    content = _read_safetensors(stream, where) if where.lower().endswith(".safetensors") else _read_torch(stream, where)
    while isinstance(content, dict) and (key := next((k for k in _CONTAINERS if isinstance(content.get(k), dict)), "")):
        content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in tensors if isinstance(name, str) and isinstance(value, Tensor)}


def _read_safetensors(stream: BinaryIO, where: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(stream.read())
    except SafetensorError as error:
        raise _damaged(where, str(error)) from error


def _read_torch(stream: BinaryIO, where: str) -> object:
    signature = stream.read(2)
    stream.seek(0)
    if not signature.startswith(_SIGNATURES):
        raise BackboneError(
            "not a PyTorch weights file",
            where=where,
            expected="a .pt or .pth file as torch.save writes it, or a .safetensors file",
            action="Get the file again; a web page or a Git LFS pointer may have been saved under its name",
        )
    try:
        with warnings.catch_warnings():  # on old pickle protocols and TorchScript, which both end in an error below
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals([(_TrainingLog, name) for name in _IGNORED_GLOBALS]):
                return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(where, str(error)) from error
    except Exception as error:  # a damaged archive can fail in any way
        if "TorchScript" in str(error):
            raise _unsafe(where, "GLOBAL TorchScript") from error
        raise _damaged(where, str(error)) from error


def _unsafe(where: str, reason: str) -> UnsafeWeights:
    unsafe = re.search(r"GLOBAL ([\w.]+)", reason)
    return UnsafeWeights(
        f"holds more than tensors ({unsafe[1] if unsafe else 'pickled Python objects'}) and could run code when opened",
        where=where,
        expected="tensors only",
        action="It was not opened. Ask its author for a .safetensors file, or convert it where the author's own code "
        "runs: load the network there and torch.save(network.state_dict(), FILE)",
    )


def _damaged(where: str, reason: str) -> BackboneError:
    first_sentence = reason.split(". ")[0].split("\n")[0] or "it ends too early"
    return BackboneError(
        f"truncated or damaged ({first_sentence})", where=where, action="Get the file again and compare its size"
    )
