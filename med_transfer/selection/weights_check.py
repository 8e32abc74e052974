"""Check whether weights suit scans, without labels, from the statistics that a network has kept of its training data.

A network with batch normalisation keeps the mean and variance of every channel of every layer. Scans like those it was
trained on, preprocessed in the same way, produce the same statistics. Another window shifts them, other axes change
them in deeper layers, another modality changes them more, and wrong weights agree with nothing. MR intensities have no
unit, so MR scans are standardised (z-scores) whatever the entry's window; files without a modality are taken to be CT.
Networks without stored statistics are only checked for whether all scans look alike to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from med_transfer.backbones import Encoder, InputSpec, LoadedBackbone
from med_transfer.errors import NothingDone
from med_transfer.model.features import effective_rank
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.progress import Progress, silent
from med_transfer.scans import Volume, geometry

GOOD_CORRELATION = 0.90  # measured: 0.96 and above for chest and abdominal CT through genuine CT weights
POOR_CORRELATION = 0.30  # measured: 0.00 for shuffled weights, 0.57 for noise instead of a scan
CLEARLY_BETTER = 0.75  # ratio of distances below which another window or axis order explains the scans better
COLLAPSED_COSINE = 0.99
_WINDOWS_HU = ((-1000.0, 1000.0), (-1000.0, 400.0), (-1000.0, 200.0), (-1024.0, 2048.0), (-175.0, 250.0), (0.0, 3000.0))
_AXES = ("SPL", "PSL", "LSP", "SLP", "PLS", "LPS")
_LARGEST_SHAPE = (64, 128, 128)  # of the input, so that a scan takes only seconds
_DEFAULT_SHAPE = (64, 96, 96)


@dataclass(frozen=True)
class Agreement:
    """Comparison of the scans' statistics with the stored ones: medians over the normalisation layers.

    Attributes:
        correlation: of the channels' means, in [-1, 1].
        shift: median distance of the means over channels, in stored standard deviations.
        spread: median absolute logarithm of the ratio of standard deviations over channels.
        layers: number of normalisation layers.
    """

    correlation: float
    shift: float
    spread: float
    layers: int

    @property
    def distance(self) -> float:
        """Sum of ``shift`` and ``spread``."""
        return self.shift + self.spread


@dataclass(frozen=True)
class Features:
    """Variation of pooled features over several scans: effective rank, from 1, and mean pairwise cosine in [-1, 1]."""

    effective_rank: float
    mean_cosine: float


@dataclass(frozen=True)
class Fit:
    """The result of a check.

    Attributes:
        verdict: fits, wrong window, wrong axes, wrong weights, wrong modality, collapsed, or cannot tell.
        reason: in words.
        agreement: with the entry's own input; None if the network keeps no statistics.
        features: variation of the scans' features.
        tried: agreement for each input that was tried, by name.
        n_scans: number of scans.
    """

    verdict: str
    reason: str
    agreement: Agreement | None
    features: Features
    tried: dict[str, Agreement]
    n_scans: int


def verify(backbone: LoadedBackbone, volumes: Sequence[Volume], progress: Progress = silent) -> Fit:
    """Check weights on your own scans.

    Args:
        backbone: the encoder with its weights, and its catalogue entry.
        volumes: a few scans, preferably of several patients; a handful is enough for a network with BatchNorm.
        progress: reports how many inputs have been tried.

    Raises:
        NothingDone: there are no scans.
    """
    if not volumes:
        raise NothingDone("no scan to compare with", expected="at least one usable scan")
    native = backbone.spec.input
    features = _features(backbone, list(_images(volumes, native)))
    if not keeps_statistics(backbone.encoder):
        return _verdict_without_statistics(features, len(volumes))
    has_unit = any(volume.provenance.modality != "MR" for volume in volumes)
    inputs, agreements = _alternatives(native, has_unit), []
    for alternative in inputs:
        agreements.append(agreement(backbone.encoder, _images(volumes, alternative.needs)))
        progress("comparing inputs", len(agreements), len(inputs))
    verdict, reason = _verdict(inputs, agreements)
    tried = {alternative.name: of_input for alternative, of_input in zip(inputs, agreements, strict=True)}
    return Fit(verdict, reason, agreements[0], features, tried, len(volumes))


def agreement(encoder: Encoder, images: Iterable[Tensor]) -> Agreement:
    """Agreement of the statistics of all images [1, channel, depth, height, width] with the stored ones."""
    with recorded_agreement(encoder) as agreement_so_far, torch.inference_mode():
        for image in images:
            encoder.eval()(image)
        return agreement_so_far()


def keeps_statistics(encoder: Encoder) -> bool:
    """Whether an encoder keeps statistics of its training data."""
    return any(True for _ in _normalisations(encoder))


@contextmanager
def recorded_agreement(encoder: Encoder) -> Iterator[Callable[[], Agreement]]:
    """Record the inputs of all normalisation layers; yields a function that returns the agreement so far."""
    layers = dict(_normalisations(encoder))
    sums = {name: torch.zeros(3, layer.num_features, dtype=torch.float64) for name, layer in layers.items()}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].double().flatten(2).transpose(0, 1).flatten(1)  # [channel, all voxels of all scans]
            counts = torch.full_like(values[:, 0], float(values.shape[1]))
            sums[name] += torch.stack([counts, values.sum(1), values.square().sum(1)]).cpu()

        return hook

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        yield lambda: _medians([_compare(layers[name], totals) for name, totals in sums.items()])
    finally:
        for hook in hooks:
            hook.remove()


def _compare(layer: _BatchNorm, totals: Tensor) -> tuple[float, float, float]:
    count, total, squares = totals
    mean = total / count
    sd = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
    stored_mean, stored_variance = layer.running_mean.double().cpu(), layer.running_var.double().cpu()  # type: ignore[union-attr]
    stored_sd = stored_variance.clamp(min=1e-12).sqrt()
    varied = mean.std() > 0 and stored_mean.std() > 0
    correlation = float(torch.corrcoef(torch.stack([mean, stored_mean]))[0, 1]) if varied else 0.0
    shift = float(((mean - stored_mean).abs() / stored_sd).median())
    return correlation, shift, float((sd / stored_sd).log().abs().median())


def _medians(rows: list[tuple[float, float, float]]) -> Agreement:
    correlation, shift, spread = np.median(np.array(rows), axis=0)
    return Agreement(float(correlation), float(shift), float(spread), len(rows))


def _normalisations(encoder: Encoder) -> Iterator[tuple[str, _BatchNorm]]:
    """All BatchNorm layers with statistics: 3D, 2D (networks on slices), and timm's with a built-in activation."""
    for name, module in encoder.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            yield name, module


# The inputs to try --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Alternative:
    """One way to preprocess scans for the network, and what it changes in the entry's own way."""

    changed: Literal["nothing", "window", "axes"]
    name: str
    needs: InputSpec


def _alternatives(native: InputSpec, has_unit: bool) -> list[_Alternative]:
    """The entry's own input, then the same with other windows (only if values have a unit), and with other axes."""
    windows = [window for window in _WINDOWS_HU if has_unit and window != native.window_hu]
    # Directions do not matter, since a flip hardly changes statistics.
    turns = [axes for axes in _AXES if geometry.world_axes(axes) != geometry.world_axes(native.orientation)]
    return [
        _Alternative("nothing", "as its entry says", native),
        *(
            _Alternative("window", f"window {low:g} to {high:g} HU", replace(native, window_hu=(low, high)))
            for low, high in windows
        ),
        *(_Alternative("axes", f"axes {axes}", _reordered(native, axes)) for axes in turns),
    ]


def _reordered(native: InputSpec, axes: str) -> InputSpec:
    """The same input at the same voxel sizes, with its array axes in another order."""
    turn = (native.orientation, axes)
    spacing = geometry.reordered(native.spacing_mm, *turn) if native.spacing_mm else None
    shape = geometry.reordered(native.shape, *turn) if native.shape else None
    return replace(native, orientation=axes, spacing_mm=spacing, shape=shape)


def _images(volumes: Sequence[Volume], needs: InputSpec) -> Iterator[Tensor]:
    shape = tuple(min(n, most) for n, most in zip(needs.shape or _DEFAULT_SHAPE, _LARGEST_SHAPE, strict=True))
    depth, height, width = (max(n, least) for n, least in zip(shape, needs.minimum_shape, strict=True))
    spacing = needs.spacing_mm or (3.0, 1.5, 1.5)
    chosen = {"spacing_mm": spacing, "shape": (depth, height, width), "region": "foreground"}
    config = PreprocessingConfig(**(needs.preprocessing | chosen))
    in_window, by_itself = Preprocessing(config), Preprocessing(config.model_copy(update={"normalisation": "zscore"}))
    for volume in volumes:
        yield (by_itself if volume.provenance.modality == "MR" else in_window)(volume)[None]


# Verdicts -----------------------------------------------------------------------------------------------------


def _verdict(inputs: Sequence[_Alternative], agreements: Sequence[Agreement]) -> tuple[str, str]:
    """The verdict and its reason; the first input is the entry's own."""
    native = agreements[0]
    best, closest = min(zip(inputs, agreements, strict=True), key=lambda pair: pair[1].distance)
    shown = f"correlation {native.correlation:.2f}, shift {native.shift:.2f} sd, spread {native.spread:.2f}"
    if closest.distance < CLEARLY_BETTER * native.distance and closest.correlation >= GOOD_CORRELATION:
        reason = f"with {best.name} the scans agree better than with the entry's own ({shown})"
        return f"wrong {best.changed}", reason
    if native.correlation >= GOOD_CORRELATION:
        return "fits", f"the scans have the statistics that the network remembers ({shown})"
    if native.correlation < POOR_CORRELATION:
        return "wrong weights", f"the scans agree with nothing that the network remembers ({shown})"
    return "wrong modality", f"the scans are not like those that the network remembers ({shown})"


def _features(backbone: LoadedBackbone, images: Sequence[Tensor]) -> Features:
    """Variation of the spatial means of the deepest map, one vector per scan."""
    with torch.inference_mode():
        pooled = torch.stack([backbone.encoder.eval()(image)[-1].flatten(2).mean(2)[0] for image in images]).double()
    directions = nn.functional.normalize(pooled, dim=1)
    cosines = directions @ directions.T
    off_diagonal = cosines[~torch.eye(len(images), dtype=torch.bool)]
    return Features(effective_rank(pooled), float(off_diagonal.mean()) if len(off_diagonal) else 1.0)


def _verdict_without_statistics(features: Features, count: int) -> Fit:
    """The verdict without stored statistics, by the cosine between scans; the effective rank is reported."""
    shown = f"effective rank {features.effective_rank:.1f} of {count - 1}, mean cosine {features.mean_cosine:.3f}"
    if count < 3:
        verdict, reason = "cannot tell", "the network has no batch normalisation; give at least three scans"
    elif features.mean_cosine > COLLAPSED_COSINE:
        verdict, reason = "collapsed", f"all scans look alike to the network ({shown})"
    else:
        verdict, reason = "fits", f"the network tells the scans apart ({shown}); it remembers no statistics to compare"
    return Fit(verdict, reason, None, features, {}, count)
