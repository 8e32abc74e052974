"""Build a backbone and load its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from med_transfer.backbones.channels import Channels, with_channels
from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.instance_choice import AS_BUILT, InstanceChoice
from med_transfer.backbones.instance_pooling import with_instances
from med_transfer.backbones.nnunet.plan import PLAN_METADATA
from med_transfer.backbones.registry import find_backbone
from med_transfer.backbones.spec import BackboneSpec
from med_transfer.backbones.weights.licence import require_accepted
from med_transfer.backbones.weights.matching import LoadReport, load_tensors
from med_transfer.backbones.weights.skip_initialisation import SkipInitialisation
from med_transfer.backbones.weights.store import store_folder, stored_weights
from med_transfer.backbones.weights.weight_files import hash_weights, open_weights, read_tensors, safetensors_path
from med_transfer.errors import BackboneError, UnsafeWeights, WeightsNotFound, given_path
from med_transfer.errors.given_numbers import whole_number

MAX_SEED = 2**63 - 1  # of torch's generator


@dataclass(frozen=True)
class LoadedBackbone:
    """An encoder ready for use.

    Attributes:
        encoder: the encoder, on the CPU, in float32.
        spec: its entry in the registry.
        report: which tensors were loaded.
        sha256: hash of the weights file; None if the encoder has random weights.
    """

    encoder: Encoder
    spec: BackboneSpec
    report: LoadReport
    sha256: str | None


def load_backbone(
    name: str,
    weights: Path | str | None = None,
    *,
    scratch: bool = False,
    seed: int = 0,
    accept_licence: str = "",
    channels: Channels = 1,
    instances: InstanceChoice = AS_BUILT,
) -> LoadedBackbone:
    """Build the encoder of a backbone and load its weights. Nothing is downloaded.

    Args:
        name: name of the backbone, see :func:`backbones`.
        weights: the published file or folder, or your own ``.safetensors`` file, bundle or pretraining folder. None
            uses imported, shipped or installed weights, or random ones if the backbone has no published weights.
        scratch: use random weights even if there are published ones.
        seed: random seed; the same seed gives the same encoder.
        accept_licence: name of the weights' licence, if it restricts their use.
        channels: number of input channels, or ``windows`` for three windows of one scan. Weights for another number are
            converted (see ``backbones/channels.py``).
        instances: pooling of slices or tiles (default attention, see ``backbones/networks/instances.py``), and overlap
            of tiles (default a quarter of their edge).

    Raises:
        UnknownBackbone: there is no backbone of this name.
        LicenceNotAccepted: the licence is restricted and was not accepted by name.
        WeightsNotFound: the file does not exist, or the backbone needs one and none was given.
        MissingExtra: the package that brings the weights is not installed.
        WeightsMismatch: the file belongs to another network.
        UnsafeWeights: the file could run code, or is not the published one.
        BackboneError: the file is damaged, ``weights`` and ``scratch`` are both given, or the network has no instances
            or tiles to configure.
        UsageError: ``weights`` is no path, or the seed, number of channels, pooling or overlap is out of range.
    """
    spec = find_backbone(name)
    weights = None if weights is None else given_path(weights, "weights", "the path of a weights file")
    whole_number(seed, "seed", 0, MAX_SEED)
    if scratch and weights is not None:
        raise BackboneError(f"{name}: both a weights file and scratch", expected="one of them")
    if not scratch:
        require_accepted(spec, accept_licence)
        spec, weights = _completed(spec, weights)
    spec = with_instances(with_channels(spec, channels), instances)
    stream, where = (None, "") if scratch else _open(spec, weights)
    if stream is None:
        return from_scratch(spec, seed)
    with stream:
        sha256 = hash_weights(stream)
        _check_hash(spec, sha256, where)
        tensors = read_tensors(stream, where)
    encoder, report = _with_tensors(spec, seed, tensors, where)
    return LoadedBackbone(encoder, spec, report, sha256)


def from_scratch(spec: BackboneSpec, seed: int = 0) -> LoadedBackbone:
    """Return the network of an entry, possibly completed from a model's description, with random weights."""
    return LoadedBackbone(_build(spec, seed), spec, LoadReport(), None)


def import_backbone(name: str, file: Path | str, *, accept_licence: str = "") -> tuple[Path, LoadReport]:
    """Check a published weights file and store its encoder as safetensors under the backbone's name.

    Afterwards the name alone is enough, and the original file is no longer needed. Returns the stored file and a report
    of the loaded tensors.

    Raises:
        OutputError: the store folder cannot be written; otherwise like :func:`load_backbone`.
    """
    loaded = load_backbone(name, file, accept_licence=accept_licence)
    return _store(loaded.spec, loaded.encoder, loaded.sha256 or ""), loaded.report


def weights_file(name: str, weights: Path | None) -> Path | None:
    """Return the file that :func:`load_backbone` reads; None for random weights and those of an installed package.

    Raises:
        UnknownBackbone: there is no backbone of this name.
    """
    spec = find_backbone(name)
    if weights is not None or spec.weights is None:
        return weights
    return stored_weights(spec)


def _store(spec: BackboneSpec, encoder: Encoder, source_sha256: str) -> Path:
    """Store an encoder under its backbone's name, as safetensors with its origin as metadata. Raises OutputError."""
    path = store_folder() / f"{spec.name}.safetensors"
    origin = {"backbone": spec.name, "source_sha256": source_sha256, "licence": spec.licence}
    if spec.plan is not None:
        origin[PLAN_METADATA] = spec.plan.model_dump_json()
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    with safetensors_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=origin)
    return path


def _completed(spec: BackboneSpec, weights: Path | str | None) -> tuple[BackboneSpec, Path | str | None]:
    """Complete an entry from the description stored with its weights, if it needs one."""
    given = stored_weights(spec) if weights is None else Path(weights)
    if spec.from_weights is None or given is None:
        return spec, weights
    return spec.from_weights(spec, given)


def _open(spec: BackboneSpec, weights: Path | str | None) -> tuple[BinaryIO | None, str]:
    """The open weights file and its name; None for a backbone without weights."""
    if weights is not None:
        stream = open_weights(Path(weights))
        return stream, stream.name
    if spec.weights is None:
        return None, ""
    if stored := stored_weights(spec):
        stream = open_weights(stored)
        return stream, stream.name
    if spec.weights.open is not None:
        return spec.weights.open(), spec.weights.file
    raise WeightsNotFound(
        f"backbone {spec.name} needs a weights file",
        expected=f"{' or '.join(spec.weights.files)} in {store_folder()}, or its path",
        action=f"Get it from {spec.weights.url} with med-transfer backbones import {spec.name} "
        f"{'--download' if spec.weights.download_url else 'FILE'}, or start from scratch",
    )


def _check_hash(spec: BackboneSpec, sha256: str, where: str) -> None:
    """Compare with the hash of the published file; a safetensors file holds no code and may be the user's own."""
    if spec.sha256 is None or sha256 == spec.sha256 or where.lower().endswith(".safetensors"):
        return
    raise UnsafeWeights(
        f"SHA-256 {sha256[:12]}... is not that of the published {spec.name} weights",
        where=where,
        expected=f"{spec.sha256[:12]}...",
        action="It was not opened. Get the published file again, or give your own weights as .safetensors",
    )


def _with_tensors(
    spec: BackboneSpec, seed: int, tensors: Mapping[str, Tensor], where: str
) -> tuple[Encoder, LoadReport]:
    """The encoder with a file's tensors; random values are drawn only if the file leaves some of its tensors out."""
    with SkipInitialisation():
        encoder = _build(spec, seed)
    report = load_tensors(encoder, tensors, where, spec.renaming)
    if left_out := (*report.missing, *report.fresh):
        random = _build(spec, seed).state_dict()
        encoder.load_state_dict({name: random[name] for name in left_out}, strict=False)
    return encoder, report


def _build(spec: BackboneSpec, seed: int) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build()
