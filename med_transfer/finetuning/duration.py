"""Estimate of a run's duration on this machine, from two measured steps, and a config that fits a time limit."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from med_transfer.backbones import LoadedBackbone
from med_transfer.cohorts import Cohort, Split, SplitConfig, prepare_scan, require_columns, split_cohort
from med_transfer.config import set_value
from med_transfer.errors import CohortError, ConfigError, ScanError
from med_transfer.finetuning.alignment import find_alignment
from med_transfer.finetuning.attention_probe import AttentionTraining, Bags, fit_attention
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.batch_norm import keep_frozen_statistics
from med_transfer.finetuning.batches import FoldData, Part, training_batches
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.finetuning.fold_pretraining import (
    encoder_numbers,
    most_encoders,
    pretraining_step_seconds,
    threads_of_encoder,
    unlearned_encoder,
)
from med_transfer.finetuning.lightning_module import FinetuningModule, LossTerms
from med_transfer.finetuning.optimisation import optimiser
from med_transfer.finetuning.regularisation import find_penalties
from med_transfer.finetuning.strategies.by_stage import AttentionProbe, Scratch
from med_transfer.model.classifier import Classifier
from med_transfer.model.features import best_device
from med_transfer.model.linear_head import INNER_FOLDS, fit_head
from med_transfer.model.novelty import input_statistics
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.pretraining.side_by_side import in_threads, n_parallel
from med_transfer.processor import keep_freed_memory
from med_transfer.scans.isolation import confined

MIN_EPOCHS = 10  # with fewer, a linear head on frozen features is the better use of the time
MIN_PRETRAINING_STEPS = 400  # whose answers were still better than features learned from photographs (docs/measured)
_START_SECONDS = 15.0  # imports, report, pictures
_FORWARD_PASSES_PER_MAP = 15  # forward passes of a scan: the map, occluded regions, random weights
_TIMED_STEPS = 2  # of training the attention
_TIMED_CASES = 5  # prepared scans: the first one is slower, and some may be refused
_TIMED_BATCH = 4  # scans: enough to be representative of batches, and quick
Divide = Callable[[SplitConfig], Split]


@dataclass(frozen=True)
class Cost:
    """Measured times on this machine, in seconds.

    Attributes:
        read: to read and prepare a case.
        forward: for one scan's forward pass.
        step: of a training step; 0 if the strategy has none.
        head: to fit a fold's linear head, including the choice of its regularisation.
        pretraining_step: of an encoder's pretraining, with ``encoders_at_once`` in parallel.
        encoders_at_once: how many encoders are pretrained in parallel.
    """

    read: float
    forward: float
    step: float
    head: float = 0.0
    pretraining_step: float = 0.0
    encoders_at_once: int = 1


class Reduction(NamedTuple):
    """A setting that saves time: its dotted key, its new value, and what is lost by it."""

    key: str
    value: object
    loss: str


@dataclass(frozen=True)
class Duration:
    """Seconds of a run's parts; training counts all epochs, which early stopping may shorten.

    ``pretraining`` is that of all ``n_pretrained`` encoders, ``encoders_at_once`` in parallel; ``maps`` that of the
    pictures of errors.
    """

    reading: float
    training: float
    baseline: float
    pretraining: float = 0.0
    n_pretrained: int = 0
    encoders_at_once: int = 1
    maps: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return _START_SECONDS + self.reading + self.pretraining + self.training + self.baseline + self.maps

    @property
    def sentence(self) -> str:
        """The estimate in words."""
        without = f"; {_minutes(self.seconds - self.baseline)} without the baseline" if self.baseline else ""
        return f"at most about {_minutes(self.seconds)} on this machine ({self.parts}){without}"

    @property
    def parts(self) -> str:
        """How long each part takes, in words."""
        parts = [f"start and report {_minutes(_START_SECONDS)}", f"reading {_minutes(self.reading)}"]
        if self.n_pretrained:
            each = f"{_minutes(self.pretraining / self.n_pretrained)} each"
            how = each if self.encoders_at_once == 1 else f"{self.encoders_at_once} at once"
            parts += [f"pretraining of {self.n_pretrained} encoders {_minutes(self.pretraining)}, {how}"]
        parts += [f"training {_minutes(self.training)}"]
        parts += [f"from-scratch baseline {_minutes(self.baseline)}"] if self.baseline else []
        parts += [f"pictures of errors {_minutes(self.maps)}"] if self.maps else []
        return ", ".join(parts)


def prepare_seconds(cohort: Cohort, preprocessing: PreprocessingConfig) -> float:
    """Seconds to prepare the network's input of a case, all channels: the median of a few; 0 if none can be used.

    Raises:
        CohortError: no row names a scan for some channel.
    """
    require_columns(cohort, preprocessing.columns)
    positions = np.unique(np.linspace(0, len(cohort) - 1, min(_TIMED_CASES, len(cohort))).round().astype(int))
    margin, spent = margin_voxels(preprocessing.shape), []
    for case in (cohort.cases[position] for position in positions):
        started = time.perf_counter()
        with suppress(ScanError), confined(case.path):
            prepare_scan(case, Preprocessing(preprocessing), margin)
            spent.append(time.perf_counter() - started)
    return float(np.median(spent)) if spent else 0.0


def measure_cost(
    config: FinetuneConfig, source: LoadedBackbone, labels: Labels, read_seconds: float, n_scans: int
) -> Cost:
    """Time two real steps on random scans, augmentation included, and two fits of a head; the second of each counts.

    Args:
        config: resolved.
        source: the network.
        labels: classes of the cohort.
        read_seconds: to read and prepare one case.
        n_scans: of the cohort.
    """
    keep_freed_memory()
    preprocessing = resolve_preprocessing(source.spec, config)
    encoder, pooled = unlearned_encoder(source.encoder, config), config.backbone.stages_read(source.spec.pooled_stages)
    network = Classifier(encoder, len(labels), pooled, config.training.dropout, config.transfer.bottleneck)
    config.transfer.strategy.build(network)
    forward = _timed_forward(network, preprocessing, min(_TIMED_BATCH, config.training.batch_size))
    step = _timed_step(network, config, preprocessing, labels) if config.transfer.strategy.trains else 0.0
    if isinstance(config.transfer.strategy, AttentionProbe):
        head = _timed_attention(network, config.transfer.strategy, preprocessing, n_scans)
    else:  # also if the config trains by gradients: it may be reduced to a linear head
        head = _timed_head(network.n_features, config, labels, n_scans)
    cost = Cost(read_seconds, forward, step, head)
    return _with_pretraining(cost, source, config, preprocessing) if config.backbone.pretrain else cost


def _with_pretraining(
    cost: Cost, source: LoadedBackbone, config: FinetuneConfig, preprocessing: PreprocessingConfig
) -> Cost:
    """The cost with that of pretraining, timed on the encoder alone with the threads that pretraining will use."""
    threads = threads_of_encoder(config)
    network = Classifier(copy.deepcopy(source.encoder), 1, source.spec.pooled_stages)
    with in_threads(threads):
        forward = _timed_forward(network, preprocessing, min(_TIMED_BATCH, config.training.batch_size))
    step = pretraining_step_seconds(config, preprocessing, source.spec.input, forward)
    return replace(cost, pretraining_step=step, encoders_at_once=n_parallel(most_encoders(config), threads))


def _timed_forward(network: Classifier, preprocessing: PreprocessingConfig, batch_size: int) -> float:
    """Seconds per scan of a batch's forward pass, including the input statistics for novelty."""
    device = best_device()
    network, images = network.eval().to(device), torch.rand(batch_size, preprocessing.n_channels, *preprocessing.shape)

    def once() -> None:
        with torch.inference_mode():
            network.features(images.to(device)).cpu()
            input_statistics(images)

    return _time_second_call(once) / batch_size


def _timed_step(
    network: Classifier, config: FinetuneConfig, preprocessing: PreprocessingConfig, labels: Labels
) -> float:
    batch, margin = config.training.batch_size, margin_voxels(preprocessing.shape)
    wide = [n + 2 * m for n, m in zip(preprocessing.shape, margin, strict=True)]
    rng = np.random.default_rng(0)
    scans = [rng.random((preprocessing.n_channels, *wide), dtype=np.float32).astype(np.float16) for _ in range(2)]
    truth = np.eye(len(labels), dtype=bool)[[0, -1]]
    drawn, transfer = Part(scans, [(1.0, 1.0, 1.0)] * 2, truth), config.transfer
    data = FoldData(labels, drawn, unlabelled=drawn if transfer.align else Part())
    few = config.model_copy(update={"training": config.training.model_copy(update={"epoch_scans": 2 * batch})})
    penalties, alignment = find_penalties(transfer, network.encoder), find_alignment(transfer.align, network.n_features)
    transfer.strategy.prepare(network)
    terms = LossTerms(torch.ones(len(labels)), penalties, alignment)
    module = FinetuningModule(network, few, terms, labels=labels, steps_per_epoch=2, seed=0)
    module.train().to(best_device())
    transfer.strategy.set_learning(network, few.training.epochs - 1)  # all that ever learns
    keep_frozen_statistics(network.encoder, everywhere=transfer.batch_norm != "train")
    adamw, _ = optimiser(network, few.training, transfer.strategy, 2)
    batches = iter(training_batches(data, few, preprocessing, 0))

    def once() -> None:
        loss = module.training_step(tuple(part.to(module.device) for part in next(batches)), 0)
        adamw.zero_grad()
        loss.backward()
        adamw.step()

    return _time_second_call(once)


def _timed_head(n_features: int, config: FinetuneConfig, labels: Labels, n_scans: int) -> float:
    """Seconds of a fit for each regularisation strength and inner fold, and of the final fit."""
    rng, n_strengths = np.random.default_rng(0), len(config.transfer.probe.inverse_strengths)
    middle = sorted(config.transfer.probe.inverse_strengths)[n_strengths // 2]
    features = rng.normal(size=(n_scans, n_features))
    truth = np.eye(len(labels), dtype=bool)[np.arange(n_scans) % len(labels)]
    balanced = config.training.balance != "none"
    each = _time_second_call(lambda: fit_head(features, truth, middle, multilabel=labels.multilabel, balanced=balanced))
    return each * (1 + (INNER_FOLDS * n_strengths if n_strengths > 1 else 0))


def _timed_attention(
    network: Classifier, strategy: AttentionProbe, preprocessing: PreprocessingConfig, n_scans: int
) -> float:
    """Seconds of training the attention in all inner folds and in the final fit."""
    n_instances, channels = len(network.encoder.cuts(preprocessing.shape)), network.encoder.stage_channels
    deepest = torch.rand(n_scans, n_instances, channels[-1])
    bags = Bags.of([torch.rand(n_scans, n_instances, channels[stage]) for stage in network.pooled_stages], deepest)
    truth = np.eye(2, dtype=bool)[np.arange(n_scans) % 2]
    few, patients = AttentionTraining(_TIMED_STEPS), [str(scan) for scan in range(n_scans)]
    return _time_second_call(lambda: fit_attention(bags, truth, patients, few)) * strategy.steps / _TIMED_STEPS


def _time_second_call(work: Callable[[], object]) -> float:
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def estimate(config: FinetuneConfig, split: Split, cost: Cost) -> Duration:
    """The duration of a run if no training stops early."""
    n_scans = len(split.development) + len(split.test)
    n_folds = sum(divided.n_fold_models for divided in split.repeats)
    pretrained_splits = split.repeats if config.backbone.pretrain else ()
    encoders = [len(encoder_numbers(config, divided)) for divided in pretrained_splits]
    n_pretrained, turns = sum(encoders), sum(math.ceil(n / cost.encoders_at_once) for n in encoders)
    if config.transfer.strategy.trains:
        training = _folds_seconds(config, split, cost)
    else:  # features are computed once for each encoder
        training = n_scans * max(n_pretrained, 1) * cost.forward + n_folds * cost.head
    baseline = _baseline(config, split, cost) if config.from_scratch_baseline else 0.0
    maps = config.explain.gallery * _FORWARD_PASSES_PER_MAP * cost.forward
    pretraining = turns * config.backbone.pretraining.steps * cost.pretraining_step
    return Duration(n_scans * cost.read, training, baseline, pretraining, n_pretrained, cost.encoders_at_once, maps)


def _folds_seconds(config: FinetuneConfig, split: Split, cost: Cost) -> float:
    folds = [(divided, fold) for divided in split.repeats for fold in range(divided.n_fold_models)]
    return sum(_fold_seconds(config, divided, fold, cost) for divided, fold in folds)


def _fold_seconds(config: FinetuneConfig, split: Split, fold: int, cost: Cost) -> float:
    training = config.training
    draws = max(len(split.training(fold)), training.epoch_scans)
    steps = max(1, draws // training.batch_size)
    checked = len(split.validation[fold]) * cost.forward
    head = cost.head if config.transfer.strategy.head_from_probe else 0.0
    return head + training.epochs * (steps * cost.step + checked) + len(split.development) * cost.forward


def _baseline(config: FinetuneConfig, split: Split, cost: Cost) -> float:
    """Seconds of the from-scratch baseline, which is trained in the first repeat alone.

    It trains the whole network even if the run's own is frozen; a step is then estimated as three forward passes.
    """
    step = cost.step or 3 * cost.forward * config.training.batch_size
    return _folds_seconds(config, replace(split, further=()), replace(cost, step=step, head=0.0))


def fit_to_time_limit(
    minutes: float, config: FinetuneConfig, cohort: Cohort, cost: Cost
) -> tuple[FinetuneConfig, list[Reduction]]:
    """The config, reduced as little as needed to take at most ``minutes``, and what was given up, in order.

    The order is: the from-scratch baseline, pictures of errors, repeats, epochs (down to ten), all fold models but one
    (only with a test part), training itself in favour of a linear head on frozen features, steps of the encoders'
    pretraining (down to 400), and pretraining altogether. ``cost`` is that of the original config.

    Raises:
        ConfigError: not even the smallest config fits.
    """
    given_up: list[Reduction] = []
    duration = Duration(0.0, 0.0, 0.0)
    # Most reductions keep the split, so splits are cached; a frozen model is hashable.
    divided: Divide = functools.cache(functools.partial(split_cohort, cohort))  # type: ignore[assignment]
    for smaller in _successive_reductions(minutes, config, cohort, divided, cost):
        given_up += smaller
        fitting = _reduced_config(config, given_up)
        duration = estimate(fitting, divided(fitting.split), cost)
        if duration.seconds <= 60 * minutes:
            return fitting, given_up
    raise ConfigError(
        f"{minutes:g} minutes",
        where="--minutes",
        expected=f"at least {math.ceil(duration.seconds / 60)} on this machine ({duration.parts})",
        action="Give it more time, or a smaller input.shape",
    )


def _successive_reductions(
    minutes: float, config: FinetuneConfig, cohort: Cohort, divided: Divide, cost: Cost
) -> Iterator[list[Reduction]]:
    """What to give up next; nothing at first."""
    yield []
    baseline = [Reduction("from_scratch_baseline", False, "the transfer gain is not measured")]
    if config.transfer.on_harm == "fallback":
        baseline += [Reduction("transfer.on_harm", "report", "there is no network to fall back to")]
    if config.from_scratch_baseline:
        yield baseline
    if config.explain.gallery:
        pictures = [Reduction("explain.gallery", 0, "the report shows no errors with maps")]
        config = _reduced_config(config, pictures)
        yield pictures
    if (config.split.repeats or 1) > 1:
        once = [Reduction("split.repeats", 1, "each patient is evaluated in a single set of folds")]
        config = _reduced_config(config, once)
        yield once
    if config.transfer.strategy.trains:
        yield from _training_reductions(minutes, config, cohort, divided, cost, baseline)
    if config.backbone.pretrain:
        yield from _shorter_pretraining(minutes, config, divided, cost)
        yield [Reduction("backbone.pretrain", None, "the encoder is not pretrained on painted lesions")]


def _shorter_pretraining(
    minutes: float, config: FinetuneConfig, divided: Divide, cost: Cost
) -> Iterator[list[Reduction]]:
    """Fewer pretraining steps, if that is enough to fit."""
    whole, steps = estimate(config, divided(config.split), cost), config.backbone.pretraining.steps
    fewer = math.floor(steps * (60 * minutes - (whole.seconds - whole.pretraining)) / whole.pretraining)
    if MIN_PRETRAINING_STEPS <= fewer < steps:
        yield [
            Reduction(
                "backbone.pretraining.steps", fewer, f"the encoders are pretrained for {fewer} steps instead of {steps}"
            )
        ]


def _training_reductions(
    minutes: float, config: FinetuneConfig, cohort: Cohort, divided: Divide, cost: Cost, baseline: list[Reduction]
) -> Iterator[list[Reduction]]:
    """Fewer epochs, then one network, then a linear head."""
    yield [_fewer_epochs(minutes, _reduced_config(config, baseline), divided, cost)]
    one = Reduction("split.kind", "holdout", "one network instead of an ensemble of folds")
    alone = _reduced_config(config, [*baseline, one])
    if config.split.kind == "kfold" and config.split.test_fraction and _can_be_split(cohort, divided, alone.split):
        yield [one, _fewer_epochs(minutes, alone, divided, cost)]
    if isinstance(config.transfer.strategy, Scratch):
        return  # a head on the features of random weights is useless
    probe = Reduction(
        "transfer.strategy", {"name": "linear_probe"}, "only a linear head is trained, on frozen features"
    )
    yield [probe, *_training_only_settings(config)]


def _training_only_settings(config: FinetuneConfig) -> list[Reduction]:
    """The config's settings that a linear head on frozen features does not support."""
    transfer = config.transfer
    settings = (
        ("transfer.regularise", [], bool(transfer.regularise)),
        ("transfer.align", None, transfer.align is not None),
        ("transfer.batch_norm", "auto", transfer.batch_norm == "train"),
        ("training.averaging", "none", config.training.averaging != "none"),
    )
    return [Reduction(key, without, "no stage of the network is trained") for key, without, asked in settings if asked]


def _can_be_split(cohort: Cohort, divided: Divide, split: SplitConfig) -> bool:
    """Whether the split is possible: the table has none of its own, which takes precedence, and enough patients."""
    try:
        return not any(case.split for case in cohort.cases) and bool(divided(split))
    except CohortError:
        return False


def _fewer_epochs(minutes: float, config: FinetuneConfig, divided: Divide, cost: Cost) -> Reduction:
    whole, epochs = estimate(config, divided(config.split), cost), config.training.epochs
    share = (60 * minutes - (whole.seconds - whole.training)) / whole.training
    fewer = min(epochs, max(MIN_EPOCHS, math.floor(epochs * share)))
    return Reduction("training.epochs", fewer, f"at most {fewer} epochs instead of {epochs}")


def _reduced_config(config: FinetuneConfig, given_up: Sequence[Reduction]) -> FinetuneConfig:
    record = config.model_dump()
    for key, value, _ in given_up:
        set_value(record, key, value)
    return FinetuneConfig.model_validate(record)


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
