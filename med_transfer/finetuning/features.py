"""Pooled features of plain, unaugmented scans; those of frozen networks are computed once and cached on disk."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.instances import InstanceEncoder
from med_transfer.cohorts import ArrayCache, Case, cache_key
from med_transfer.errors import BackboneError
from med_transfer.finetuning.batches import Tensors, plain_images
from med_transfer.finetuning.config import FinetuneConfig, FrozenRuntime
from med_transfer.model.classifier import Classifier
from med_transfer.model.features import best_device, instance_features, pooled_features
from med_transfer.model.novelty import input_statistics
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.progress import Progress, silent
from med_transfer.runtimes.frozen import computed_encoder
from med_transfer.scans.volume import bytes_of


class FeatureSource:
    """Features of prepared scans as a classifier's head reads them.

    Args:
        folder: of the cache. It has one file per encoder state and one row per scan, both named by a hash of their
            content: folds with the same frozen encoder share them, and a changed encoder or scan is never confused.
        progress: reports the computation for frozen encoders, which takes most of the time if no epoch is trained.
    """

    def __init__(
        self, folder: Path, config: FinetuneConfig, preprocessing: PreprocessingConfig, progress: Progress = silent
    ) -> None:
        self.cache, self.config, self.preprocessing = ArrayCache(folder), config, preprocessing
        self.progress = progress

    def computed(self, classifier: Classifier, tensors: Tensors) -> Tensor:
        """Features [scan, feature], always computed."""
        of_each = [self._by_encoder(encoder, stages, tensors, "torch") for encoder, stages in classifier.encoders]
        return _mapped(classifier, torch.cat(of_each, dim=1))

    def cached(self, classifier: Classifier, tensors: Tensors) -> Tensor:
        """Features [scan, feature], computed only for scans that are not in the cache for this encoder."""
        return _mapped(classifier, self.by_frozen_encoder(classifier, tensors))

    def _by_encoder(
        self,
        encoder: Encoder,
        stages: Sequence[int],
        tensors: Tensors,
        runtime: FrozenRuntime,
        instances: Sequence[int] = (),
        progress: Progress = silent,
    ) -> Tensor:
        """Pooled features, or with ``instances`` those of each slice or tile from these stages."""
        device, modes = best_device(), [(module, module.training) for module in encoder.modules()]
        computing = self.on_runtime(encoder.cpu().eval(), stages, tensors, runtime).to(device)
        images = _with_progress(self._images(tensors), len(tensors), progress)
        if instances and isinstance(computing, InstanceEncoder):
            features = instance_features(computing, images, instances, device)
        else:
            features = pooled_features(computing, images, stages, device)
        encoder.cpu()
        for module, training in modes:  # otherwise training would continue without dropout after a cache miss
            module.training = training
        require_finite_features(self.config.backbone.name, features.isfinite().flatten(1).all(1).numpy())
        return features

    def on_runtime(self, encoder: Encoder, stages: Sequence[int], tensors: Tensors, runtime: FrozenRuntime) -> Encoder:
        """The encoder that computes the features: itself, or on a CPU its equivalent in another runtime."""
        if runtime == "torch" or best_device().type != "cpu":
            return encoder
        return computed_encoder(encoder, stages, next(self._images(tensors))[0], runtime)

    @torch.no_grad()
    def by_frozen_encoder(self, classifier: Classifier, tensors: Tensors) -> Tensor:
        """As :meth:`cached`, but before the bottleneck, if there is one."""
        encoder = classifier.encoder
        if isinstance(encoder, InstanceEncoder) and encoder.has_learned_attention:  # it differs from fold to fold
            return encoder.pool_instances(*self.instances(classifier, tensors))
        return torch.cat([self._frozen_features(one, stages, tensors) for one, stages in classifier.encoders], dim=1)

    def instances(self, classifier: Classifier, tensors: Tensors) -> tuple[list[Tensor], Tensor]:
        """Features [scan, instance, channel] of slices or tiles: a list for the pooled stages, and the deepest stage's.

        Cached like :meth:`cached`; they do not depend on the encoder's attention.
        """
        channels = classifier.encoder.stage_channels
        stages = sorted({*classifier.pooled_stages, len(channels) - 1})
        by_stage = self._frozen_features(classifier.encoder, classifier.pooled_stages, tensors, stages)
        joined = by_stage.split([channels[stage] for stage in stages], dim=2)
        return [joined[stages.index(stage)] for stage in classifier.pooled_stages], joined[-1]

    def _frozen_features(
        self, encoder: Encoder, stages: Sequence[int], tensors: Tensors, instances: Sequence[int] = ()
    ) -> Tensor:
        runtime = self.config.backbone.runtime
        chosen = (encoder.instance_pooling, encoder.tile_overlap)
        stated = [str(one) for one in chosen if one is not None]
        stated += [runtime] if runtime != "torch" else []
        stated += [f"instances {instances}"] if instances else []
        shape = "-".join([f"{self.preprocessing.shape}-{stages}", *stated])
        return self._cached_rows(
            cache_key(encoder_hash(encoder, without=encoder.new_parts if instances else ()), shape),
            tensors,
            partial(self._in_full_batches, encoder, stages, runtime=runtime, instances=instances),
        )

    def _in_full_batches(
        self,
        encoder: Encoder,
        stages: Sequence[int],
        tensors: Tensors,
        runtime: FrozenRuntime,
        instances: Sequence[int],
    ) -> Tensor:
        """Compute features with the last scan repeated if it would be a batch of one.

        A batch of one is computed by other kernels, so features would differ in the last bits depending on which fold
        is computed first.
        """
        size = self.config.training.batch_size
        alone = size > 1 and len(tensors) % size == 1
        padded = [*tensors, tensors[-1]] if alone else tensors
        return self._by_encoder(encoder, stages, padded, runtime, instances, self.progress)[: len(tensors)]

    def statistics(self, tensors: Tensors) -> Tensor:
        """Statistics [scan, statistic] of the input, see :func:`~med_transfer.model.novelty.input_statistics`."""
        key = cache_key("input statistics", self.preprocessing.shape)
        return self._cached_rows(
            key, tensors, lambda new: torch.cat([input_statistics(one) for one in self._images(new)])
        )

    def _images(self, tensors: Tensors) -> Iterator[Tensor]:
        return plain_images(tensors, self.config, self.preprocessing)

    def _cached_rows(self, key: str, tensors: Tensors, compute: Callable[[Tensors], Tensor]) -> Tensor:
        """One row per scan, computed only for scans that the cache does not have."""
        names, entry = [tensor_hash(tensor) for tensor in tensors], self.cache.read(key)
        rows = dict(entry.arrays) if entry else {}
        new = {name: tensor for name, tensor in zip(names, tensors, strict=True) if name not in rows}
        if new:
            with torch.random.fork_rng(devices=[]):  # batches draw numbers: later steps must not depend on the cache
                computed = compute(list(new.values()))
            rows |= dict(zip(new, computed.numpy(), strict=True))
            self.cache.write(key, rows)
        return torch.from_numpy(np.stack([rows[name] for name in names]))


def require_finite_features(network: str, finite: NDArray[np.bool_], cases: Sequence[Case] = ()) -> None:
    """Refuse scans with NaN or infinite features.

    Args:
        network: its name, for the message.
        finite: [scan], whether all features of a scan are finite.
        cases: of these scans, to name the first one.

    Raises:
        BackboneError: a scan has NaN or infinite features.
    """
    broken = np.flatnonzero(~finite)
    if len(broken):
        first = f", the first is {cases[broken[0]]}" if cases else ""
        raise BackboneError(
            f"NaN or infinite features of {len(broken)} of {len(finite)} scans{first}",
            where=network,
            expected="finite numbers",
            action="Look whether its weights are those of this backbone (med-transfer backbones verify)",
        )


def _with_progress(batches: Iterator[Tensor], n: int, progress: Progress) -> Iterator[Tensor]:
    """The same batches, of ``n`` scans in all; each is reported as done when the next one is requested."""
    done = 0
    for images in batches:
        yield images
        done += len(images)
        progress("features", done, n)


@torch.no_grad()
def _mapped(classifier: Classifier, rows: Tensor) -> Tensor:
    return classifier.mapping(rows)


def encoder_hash(encoder: Encoder, without: Sequence[str]) -> str:
    """SHA-256 of all weights and statistics except those of the child modules ``without``."""
    digest = hashlib.sha256()
    left_out = tuple(f"{child}." for child in without)
    for name, tensor in encoder.state_dict().items():
        if name.startswith(left_out):
            continue
        digest.update(name.encode())
        digest.update(bytes_of(tensor.detach().cpu().numpy()))
    return digest.hexdigest()


def tensor_hash(tensor: np.ndarray) -> str:
    """Hash of a prepared scan's content and shape, remembered: every fold needs it, and the array never changes."""
    known = _HASHES.get(id(tensor))
    if known is None or known[0]() is not tensor:
        digest = hashlib.sha256(bytes_of(tensor))
        digest.update(str(tensor.shape).encode())
        forget = partial(_forget_hash, id(tensor))
        known = _HASHES[id(tensor)] = weakref.ref(tensor, forget), digest.hexdigest()[:32]
    return known[1]


_HASHES: dict[int, tuple[weakref.ref[np.ndarray], str]] = {}  # by id of living arrays, since arrays are not hashable


def _forget_hash(key: int, _: weakref.ref[np.ndarray]) -> None:
    _HASHES.pop(key, None)
