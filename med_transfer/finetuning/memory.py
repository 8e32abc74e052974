"""The least memory that a config's network needs, compared with the machine's before any scan is read."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from med_transfer.backbones import LoadedBackbone
from med_transfer.errors import ConfigError
from med_transfer.errors.numbers import counted, significant
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.finetuning.fold_training import precision
from med_transfer.finetuning.strategies import Scratch, Strategy
from med_transfer.model.classifier import Classifier
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.processor import memory_bytes

_FLOAT32 = 4  # bytes of a number


def require_memory(config: FinetuneConfig, source: LoadedBackbone) -> None:
    """Refuse an input that is too large for the memory of this machine, or of its GPU.

    What is compared is a lower bound, so that nothing is refused that would run: for a training step, the feature maps
    that its backward pass reads, of a whole batch; for prediction, one scan's largest feature map and the one it is
    computed from. They are counted on the meta device, without computing them. Networks on slices or tiles may skip
    empty ones, so that only their input counts.

    Args:
        config: resolved.
        source: the network.

    Raises:
        ConfigError: it is too large.
    """
    gpu = torch.cuda.is_available()
    available = torch.cuda.get_device_properties(0).total_memory if gpu else memory_bytes()
    n_scans, each = least_bytes(config, source)
    if available is None or n_scans * each <= available:
        return
    shape = " x ".join(map(str, resolve_preprocessing(source.spec, config).shape))
    job = "a training step" if _trained_with(config, source) else "prediction"
    fewer = ["a smaller training.batch_size"] if n_scans > 1 else []
    fewer += [] if config.transfer.strategy.trains or n_scans == 1 else ["from_scratch_baseline=false"]
    raise ConfigError(
        f"{shape} voxels: {job} needs at least {_gib(n_scans * each)} of memory, {_gib(each)} for each of "
        f"{counted(n_scans, 'scan')}",
        where="input.shape",
        expected=f"at most {_gib(available)}, the memory of this {'GPU' if gpu else 'machine'}",
        action="; or ".join(
            ["Set a smaller input.shape, with a larger input.spacing_mm if it is to cover as much", *fewer]
        ),
    )


def least_bytes(config: FinetuneConfig, source: LoadedBackbone) -> tuple[int, float]:
    """How many scans are processed at once, and the least memory for each of them; see :func:`require_memory`."""
    preprocessing, trained = resolve_preprocessing(source.spec, config), _trained_with(config, source)
    if not trained:
        return 1, _prediction_bytes(source, preprocessing)
    return config.training.batch_size, max(_step_bytes(config, source, preprocessing, each) for each in trained)


def _trained_with(config: FinetuneConfig, source: LoadedBackbone) -> Sequence[Strategy]:
    """The strategies that train the network by gradients: the config's, and that of the from-scratch baseline."""
    strategies = [config.transfer.strategy] if config.transfer.strategy.trains else []
    return strategies + ([Scratch()] if config.from_scratch_baseline and source.sha256 is not None else [])


def _step_bytes(
    config: FinetuneConfig, source: LoadedBackbone, preprocessing: PreprocessingConfig, strategy: Strategy
) -> float:
    """Of one scan in a training step of the last epoch, in which every stage learns that ever does."""
    if source.spec.instances:
        return _input_bytes(preprocessing)
    network = Classifier(copy.deepcopy(source.encoder), 2, source.spec.pooled_stages)
    strategy.build(network)
    strategy.prepare(network)
    strategy.set_learning(network, config.training.epochs - 1)
    half = precision(config.training.precision) != "32-true"
    two = _images(preprocessing, 2)  # BatchNorm refuses a lone scan
    kept = _bytes_for_backward(network.to("meta").train(), two) / 2
    return max(_input_bytes(preprocessing), kept / 2 if half else kept)


def _bytes_for_backward(network: nn.Module, images: Tensor) -> int:
    """Bytes of the tensors, other than weights, that the backward pass of a network will read."""
    kept: dict[int, Tensor] = {}  # by storage, which several tensors may share

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    for weights in network.state_dict().values():
        kept.pop(weights.untyped_storage()._cdata, None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _prediction_bytes(source: LoadedBackbone, preprocessing: PreprocessingConfig) -> float:
    """Of one scan's features, with frozen weights."""
    if source.spec.instances:
        return _input_bytes(preprocessing)
    encoder = copy.deepcopy(source.encoder).to("meta").eval()
    largest = 0

    def compare(_: nn.Module, given: tuple[object, ...], result: object) -> None:
        nonlocal largest
        maps = {tensor.untyped_storage()._cdata: tensor for tensor in (*given, result) if isinstance(tensor, Tensor)}
        largest = max(largest, sum(tensor.untyped_storage().nbytes() for tensor in maps.values()))

    for layer in encoder.modules():
        if not list(layer.children()):
            layer.register_forward_hook(compare)
    with torch.no_grad():
        encoder(_images(preprocessing, 1))
    return largest


def _images(preprocessing: PreprocessingConfig, n: int) -> Tensor:
    return torch.empty(n, preprocessing.n_channels, *preprocessing.shape, device="meta")


def _input_bytes(preprocessing: PreprocessingConfig) -> int:
    return _FLOAT32 * preprocessing.n_channels * math.prod(preprocessing.shape)


def _gib(n_bytes: float) -> str:
    return f"{significant(n_bytes / 2**30)} GiB"
