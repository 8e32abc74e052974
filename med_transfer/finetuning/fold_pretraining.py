"""Pretraining of a fold's encoder on lesions painted into the fold's own training scans.

These scans include no patient who is evaluated, and none whose scans decide when training stops. An encoder that serves
several folds learns only from patients who are training patients in all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.backbones import Encoder, InputSpec, load_backbone, networks
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.cohorts import ArrayCache, Case, Cohort, PreparedCohort, Split
from med_transfer.cohorts.hashed_names import hash_names, salt_of
from med_transfer.config import N_SEEDS
from med_transfer.errors import ConfigError
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData, source_weights
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.preprocessing.window import undo_windows
from med_transfer.pretraining import Pretrained, PretrainingConfig, SourceScan, SourceScans
from med_transfer.pretraining.side_by_side import Pretraining, pretrain_each
from med_transfer.pretraining.source.views import CROP_ORIENTATION, reorient
from med_transfer.pretraining.view_config import CropConfig, ViewConfig
from med_transfer.progress import Progress
from med_transfer.scans import geometry

T = TypeVar("T")
PRETRAINING_FOLDER, ANSWERS = "pretraining", "answers"
NO_FINDING = "none"
_BATCH_SLABS = 4
_LEFT_RIGHT = 0  # as a world axis
_COST_IN_FORWARD_PASSES = 4.0  # one forward, a backward that takes two, and one for cropping and painting


def check_pretraining(
    config: FinetuneConfig, preprocessing: PreprocessingConfig, cohort: Cohort, split: Split, needs: InputSpec
) -> None:
    """Refuse scans without Hounsfield units and classes without a scan, before any scan is read.

    Args:
        needs: the input that the backbone expects.

    Raises:
        ConfigError: the config or the table does not suit pretraining.
        TooFewPatients: as :func:`canvas`.
    """
    if config.backbone.pretrain is None:
        return
    _check_class(config.backbone.pretraining.only_class, cohort.labels)
    for number in encoder_numbers(config, split):
        canvas(cohort, split, config, number)
    channels = preprocessing.by_channel
    if len(preprocessing.columns) > 1 or any(one.normalisation != "window" for one in channels):
        raise ConfigError(
            "several scans a case" if len(preprocessing.columns) > 1 else "z-scores",
            where="backbone.pretrain",
            expected="one CT a case, in windows of Hounsfield units: lesions are painted in those",
            action="Leave backbone.pretrain out",
        )
    if other := [list(one.output_range) for one in channels if one.output_range != needs.output_range]:
        raise ConfigError(
            f"{other[0]}, and the network is pretrained on {list(needs.output_range)}",
            where="input.output_range",
            expected="the backbone's own",
            action="Leave input.output_range out, or backbone.pretrain",
        )


def _check_class(only: str | None, labels: Labels) -> None:
    known = (NO_FINDING,) if labels.multilabel else labels.names
    if only is not None and only not in known:
        raise ConfigError(
            f"{only}, and the table has findings" if labels.multilabel else f"no class {only}",
            where="backbone.pretraining.only_class",
            expected="none: the scans without any" if labels.multilabel else f"one of {', '.join(known)}",
            action="Set it so, or leave it out: then lesions are painted into all training scans",
        )


def encoder_of(fold: int, config: FinetuneConfig) -> int:
    """Number of the fold's encoder: the first fold that shares it, whose folder keeps it."""
    return fold if config.backbone.pretraining.encoders is None else fold % config.backbone.pretraining.encoders


def encoder_numbers(config: FinetuneConfig, split: Split) -> list[int]:
    """Numbers of all encoders of one division into folds, see :func:`encoder_of`."""
    return sorted({encoder_of(fold, config) for fold in range(split.n_fold_models)})


def threads_of_encoder(config: FinetuneConfig) -> int:
    """Threads that one encoder is pretrained in, here and on a cluster: on two cores, two encoders in one each."""
    return max(1, torch.get_num_threads() // most_encoders(config))


def most_encoders(config: FinetuneConfig) -> int:
    """Number of encoders of one division into folds: one per fold unless the config states another number."""
    return config.backbone.pretraining.encoders or (config.split.folds if config.split.kind == "kfold" else 1)


def pretrain_encoders(
    run_data: RunData, config: FinetuneConfig, folders: Mapping[int, Path], progress: Progress
) -> None:
    """Pretrain the encoders of these numbers, each kept in its folder, in parallel as far as threads allow.

    Raises:
        As :func:`med_transfer.pretraining.pretrain`.
    """
    jobs = [_job(run_data, config, number, folder) for number, folder in folders.items()]
    pretrain_each(jobs, threads_of_encoder(config), progress)


def pretrained_encoder(
    run_data: RunData, config: FinetuneConfig, number: int, folder: Path, progress: Progress
) -> Encoder:
    """The source's encoder after pretraining on training scans; kept in ``folder`` and loaded if already there.

    Args:
        number: of the encoder, see :func:`encoder_of`.

    Raises:
        As :func:`med_transfer.pretraining.pretrain`.
    """
    (made,) = pretrain_each([_job(run_data, config, number, folder)], threads_of_encoder(config), progress)
    encoder = load_backbone(
        config.backbone.name,
        made.encoder,
        accept_licence=config.backbone.accept_licence,
        channels=config.input.channels_of_network,
        instances=config.backbone.instances,
    ).encoder
    if config.backbone.has_answers:
        _add_answer_stage(cast(SliceEncoder, encoder), made, run_data, _training_cases(run_data.split, config, number))
    return encoder


def unlearned_encoder(source: Encoder, config: FinetuneConfig) -> Encoder:
    """A copy of the source's encoder in the shape of :func:`pretrained_encoder`'s; a plain copy without pretraining."""
    encoder = copy.deepcopy(source)
    if config.backbone.has_answers:
        cast(SliceEncoder, encoder).answer()
    return with_published(encoder, source, config)


def with_published(encoder: Encoder, source: Encoder, config: FinetuneConfig) -> Encoder:
    """The encoder, joined with the published network if the head reads that too."""
    if config.backbone.has_published:
        return networks.beside_published(cast(SliceEncoder, copy.deepcopy(source)), encoder)
    return encoder


def _job(run_data: RunData, config: FinetuneConfig, number: int, folder: Path) -> Pretraining:
    painted = canvas(run_data.prepared.cohort, run_data.split, config, number)
    return Pretraining(
        partial(source_scans, run_data, painted),
        [_image(run_data, n) for n in painted],
        _pretraining(run_data, config, number),
        folder,
    )


def _add_answer_stage(encoder: SliceEncoder, made: Pretrained, run_data: RunData, rows: Sequence[int]) -> None:
    """Add a last stage, in place, with the heads of the encoder's pretraining, standardised on training scans."""
    answers, cache = encoder.eval().answer(), ArrayCache(made.folder)
    if kept := cache.read(ANSWERS):
        answers.load_state_dict({name: torch.from_numpy(array) for name, array in kept.arrays.items()})
        return
    answers.take_heads(made.heads)
    scans = (torch.from_numpy(tensor).float()[None] for tensor in _without_margin(run_data, rows).tensors)
    with torch.no_grad():
        parts, shares = zip(*map(encoder.answer_parts, scans), strict=True)
        answers.standardise(torch.cat(parts), torch.cat(shares))
    cache.write(ANSWERS, {name: tensor.numpy() for name, tensor in answers.state_dict().items()})


def pretraining_step_seconds(
    config: FinetuneConfig, preprocessing: PreprocessingConfig, needs: InputSpec, forward: float
) -> float:
    """Seconds of a pretraining step, estimated from the seconds ``forward`` of a scan's pass through the network."""
    depth, _, _ = in_crop_order(preprocessing.shape, needs.orientation)
    slices = _BATCH_SLABS * min(config.backbone.pretraining.slab, depth)
    return _COST_IN_FORWARD_PASSES * forward * slices / depth


def _pretraining(run_data: RunData, config: FinetuneConfig, number: int) -> PretrainingConfig:
    settings, preprocessing, axes = config.backbone.pretraining, run_data.preprocessing, run_data.network_axes
    depth, height, width = in_crop_order(preprocessing.shape, axes)
    slab = min(settings.slab, depth)
    weights = source_weights(config)
    return PretrainingConfig(
        method="painted_lesions",
        backbone=config.backbone.name,
        weights="published" if weights is None else str(weights),
        accept_licence=config.backbone.accept_licence,
        input_shape=(slab, height, width),
        windows_hu=tuple(channel.window_hu for channel in preprocessing.by_channel),
        crops=CropConfig(
            shape=(slab, height, width),
            slab=slab,
            stretch=0.1,
            rotation_degrees=(15.0, 0.0, 0.0),
            flip=mirrored(config, preprocessing.orientation, axes),
            scans_per_batch=_BATCH_SLABS,
        ),
        views=ViewConfig(thick_slices=0.0, noise=0.05, shift=0.05, scale=0.07),
        painted_lesions=settings.lesions,
        validation_scans=0,
        batch=_BATCH_SLABS,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        weight_decay=0.01,
        warm_up=0.1,
        seed=(config.seed + number) % N_SEEDS,
    )


def mirrored(config: FinetuneConfig, orientation: str, axes: str) -> tuple[float, float, float]:
    """Probability of mirroring a slab along each of its axes: as in training.

    If the head reads answers it is 0.5 from left to right, since a lesion's density does not depend on its side.

    Args:
        config: of the run.
        orientation: of the input.
        axes: see :func:`in_crop_order`.
    """
    left_right = geometry.world_axes(orientation).index(_LEFT_RIGHT) if config.backbone.has_answers else None
    first, second, third = (
        0.5 if axis == left_right or axis in config.augmentation.flips else 0.0 for axis in range(3)
    )
    return in_crop_order((first, second, third), axes)


def source_scans(run_data: RunData, painted: Sequence[int]) -> SourceScans:
    """The scans of these rows (a :func:`canvas`) as the network sees them, in HU."""
    prepared, cohort = run_data.prepared, run_data.prepared.cohort
    patients = hash_names((cohort.patients[n] for n in painted), salt_of(prepared.images))
    seen = _without_margin(run_data, painted)
    return SourceScans(
        tuple(
            SourceScan(
                hounsfield(tensor, run_data.preprocessing, run_data.network_axes),
                in_crop_order(prepared.voxel_mm[n], run_data.network_axes),
                _image(run_data, n),
                patients[cohort.patients[n]],
            )
            for n, tensor in zip(painted, seen.tensors, strict=True)
        )
    )


def _image(run_data: RunData, row: int) -> str:
    return "-".join(run_data.prepared.scans[row].content_hashes)


def _without_margin(run_data: RunData, rows: Sequence[int]) -> PreparedCohort:
    """The scans as the network sees them, without the margin for augmentation."""
    return run_data.prepared.subset(rows).without_margin(margin_voxels(run_data.preprocessing.shape))


def canvas(cohort: Cohort, split: Split, config: FinetuneConfig, number: int) -> list[int]:
    """The training scans that lesions are painted into for an encoder, as rows of the cohort.

    They are of class ``only_class``, if one is given, and of a share ``canvas_share`` of its patients.

    Raises:
        ConfigError: there is none.
        TooFewPatients: as :meth:`Split.steering_of`.
    """
    settings, learned_from = config.backbone.pretraining, _training_cases(split, config, number)
    rows = [n for n in learned_from if settings.only_class in (None, _class_of(cohort.cases[n]))]
    patients = sorted({cohort.patients[n] for n in rows})
    if not patients:
        raise ConfigError(
            f"{_encoder_name(number, config)} has no training scan of {settings.only_class}",
            where="backbone.pretraining.only_class",
            expected="at least one in each fold, to paint lesions into",
            action="Leave it out: then lesions are painted into all training scans; or have fewer split.folds",
        )
    n_painted = max(1, round(settings.canvas_share * len(patients)))
    drawn = np.random.default_rng(config.seed + number).permutation(len(patients))[:n_painted]
    painted = {patients[n] for n in drawn}
    return [n for n in rows if cohort.patients[n] in painted]


def _training_cases(split: Split, config: FinetuneConfig, number: int) -> list[int]:
    """The cases that are training cases in every fold with this encoder."""
    folds = [fold for fold in range(split.n_fold_models) if encoder_of(fold, config) == number]
    steered = config.transfer.strategy.trains
    first, *others = (split.learned_from(fold, steered=steered) for fold in folds)
    return sorted(set(first).intersection(*others))


def _encoder_name(number: int, config: FinetuneConfig) -> str:
    return f"fold {number + 1}" if config.backbone.pretraining.encoders is None else f"encoder {number + 1}"


def _class_of(case: Case) -> str:
    return case.label if isinstance(case.label, str) else ("" if case.label else NO_FINDING)


def hounsfield(tensor: NDArray[np.float16], preprocessing: PreprocessingConfig, axes: str) -> NDArray[np.int16]:
    """A network's input [channel, *space] as one volume in HU, [depth, height, width] of a slab; see below for axes."""
    values = undo_windows(tensor.astype(np.float32), preprocessing.by_channel)
    turned = reorient(torch.from_numpy(np.rint(values)), axes, CROP_ORIENTATION)
    return turned.to(torch.int16).contiguous().numpy()


def in_crop_order(by_axis: tuple[T, T, T], axes: str) -> tuple[T, T, T]:
    """One value for each array axis (a size, mm), reordered to the axes of a slab.

    Args:
        by_axis: a value for each axis of the input.
        axes: orientation of the backbone's entry, to which pretraining turns every slab. Whatever orientation the input
            has, the network then sees its axes as in training: a network of slices whole slices, also coronal ones.
    """
    return geometry.reordered(by_axis, axes, CROP_ORIENTATION)
