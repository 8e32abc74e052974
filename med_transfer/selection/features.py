"""Pooled features of scans, computed once and cached on disk with their cost.

::

    FOLDER/scans/KEY.safetensors        for a scan's files: hash of its voxels, hash of the network's input
    FOLDER/features/KEY.safetensors     spatial means of every feature map; KEY from the two hashes, the preprocessing
                                        and the weights

So unchanged files are not read again, and a moved or renamed scan is read but does not pass through a network again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from med_transfer.backbones import Encoder, channels_last
from med_transfer.cohorts import ArrayCache, CacheEntry, Case, Images, cache_key, preparation_key, prepare_scan
from med_transfer.model.features import best_device, stage_features
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans.volume import bytes_of
from med_transfer.selection.candidates import Network
from med_transfer.selection.weights_check import Agreement, keeps_statistics, recorded_agreement

_FORMAT = 2  # of cache entries; 2: normalisation layers of every kind are compared


@dataclass(frozen=True)
class ScanIdentity:
    """SHA-256 of a scan's voxels, and of the network's input made from them."""

    content_hashes: Images
    input_hash: str


@dataclass(frozen=True)
class StageFeatures:
    """Features of one scan by one network.

    Attributes:
        stages: spatial mean of each feature map, float32 [channel], shallow to deep.
        seconds: of the forward pass; None if statistics were compared during it, which takes longer.
        activations_mib: of all layers' outputs, in single precision.
        agreement: with the stored statistics of the normalisation layers; None if not compared.
        device: cpu or cuda.
    """

    stages: tuple[NDArray[np.float32], ...]
    seconds: float | None
    activations_mib: float
    agreement: Agreement | None
    device: str


class FeatureLibrary:
    """Cached features of scans with one preprocessing. Encoders are loaded when a scan needs one."""

    def __init__(self, folder: Path, preprocessing: PreprocessingConfig) -> None:
        self.preprocessing, self.device = Preprocessing(preprocessing), best_device()
        self._index, self._cache = ArrayCache(folder / "scans"), ArrayCache(folder / "features")
        self._encoders: dict[str, Encoder] = {}

    def look_up(
        self, case: Case, networks: Sequence[Network], compare: bool = False
    ) -> tuple[ScanIdentity, tuple[StageFeatures, ...]]:
        """A scan's identity and its features by each network.

        Args:
            case: the scan.
            networks: may be empty, to check only whether the scan is usable.
            compare: also compare the inputs of normalisation layers with the stored statistics.

        Raises:
            ScanError: the scan cannot be used.
        """
        key = preparation_key(case, self.preprocessing)
        identity = _identity(entry) if (entry := self._index.read(key)) else None
        cached = [self._read(identity, network) for network in networks] if identity else []
        if identity is not None and all(cached):
            return identity, tuple(features for features in cached if features)
        prepared = prepare_scan(case, self.preprocessing)
        identity = ScanIdentity(prepared.content_hashes, hashlib.sha256(bytes_of(prepared.tensor)).hexdigest())
        image = torch.from_numpy(prepared.tensor.astype(np.float32))[None]
        features = tuple(self._features(identity, image, network, compare) for network in networks)
        self._index.write(key, {}, asdict(identity))
        return identity, features

    def _features(self, identity: ScanIdentity, image: Tensor, network: Network, compare: bool) -> StageFeatures:
        if cached := self._read(identity, network):
            return cached
        if network.key not in self._encoders:
            self._encoders[network.key] = channels_last(network.load().to(self.device))
        features = extract(self._encoders[network.key], image.to(self.device), compare=compare and network.seed is None)
        record = {name: value for name, value in asdict(features).items() if name != "stages"}
        arrays = {f"stage{number}": stage for number, stage in enumerate(features.stages)}
        self._cache.write(self._key(identity, network), arrays, record)
        return features

    def _read(self, identity: ScanIdentity, network: Network) -> StageFeatures | None:
        entry = self._cache.read(self._key(identity, network))
        return _stage_features(entry) if entry else None

    def _key(self, identity: ScanIdentity, network: Network) -> str:
        return cache_key(_FORMAT, asdict(identity), self.preprocessing.config.model_dump(mode="json"), network.key)


def _identity(entry: CacheEntry) -> ScanIdentity:
    return ScanIdentity(tuple(entry.record["content_hashes"]), entry.record["input_hash"])


@torch.inference_mode()
def extract(encoder: Encoder, image: Tensor, *, compare: bool = False) -> StageFeatures:
    """Compute the features of one image [1, channel, depth, height, width] on the encoder's device.

    Args:
        compare: whether to compare statistics too, if the encoder keeps any.
    """
    compare = compare and keeps_statistics(encoder)
    numbers = 0

    def count(_: nn.Module, __: tuple, output: object) -> None:
        nonlocal numbers
        numbers += output.numel() if isinstance(output, Tensor) else 0

    hooks = [module.register_forward_hook(count) for module in encoder.modules() if not list(module.children())]
    try:
        with recorded_agreement(encoder) if compare else nullcontext() as agreement_so_far:
            started = time.perf_counter()
            maps = encoder(image.contiguous(memory_format=torch.channels_last_3d))
            stages = tuple(features[0] for features in stage_features(encoder, maps))
            seconds = time.perf_counter() - started
            agreement = agreement_so_far() if agreement_so_far else None
    finally:
        for hook in hooks:
            hook.remove()
    return StageFeatures(stages, None if compare else seconds, numbers * 4 / 2**20, agreement, image.device.type)


def _stage_features(entry: CacheEntry) -> StageFeatures:
    stages, record = tuple(entry.arrays[f"stage{number}"] for number in range(len(entry.arrays))), entry.record
    agreement = Agreement(**record["agreement"]) if record["agreement"] else None
    return StageFeatures(**{**record, "stages": stages, "agreement": agreement})
