"""One scan as training sees it, through the same reading, preprocessing and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.backbones import Encoder
from med_transfer.backbones.encoder import Box
from med_transfer.cohorts import Case
from med_transfer.cohorts.preparation import PreparedScan, prepare_volumes, read_scans, region_of_case
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.batches import FoldData, Part, plain_images, training_batches
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.preview.facts import ViewFacts, view_facts
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import Region, geometry
from med_transfer.scans.geometry import Grid
from med_transfer.scans.inspection.picture import Plane, pad_to_box, planes


@dataclass(frozen=True)
class SeenScan:
    """One scan and the network's input made from it.

    Attributes:
        row: of the cohort table.
        label: its class, or its findings.
        plain: [channel, depth, height, width], as validation and inference see it.
        augmented: [draw, channel, depth, height, width], as training may see it; no draws if nothing is augmented.
        grid: position of the voxels of ``plain`` in the patient.
        scans: for each of the case's scans, by column, three planes in true proportions with the view as a box.
        facts: what preprocessing did to it.
        parts: the non-empty slices or tiles that the network processes one by one.
        modality: as the file states it.
    """

    row: int
    label: str
    plain: NDArray[np.float32]
    augmented: NDArray[np.float32]
    grid: Grid
    scans: dict[str, tuple[Plane, ...]]
    facts: ViewFacts
    parts: tuple[Box, ...]
    modality: str


@dataclass(frozen=True)
class PreviewSettings:
    """Settings that every scan is previewed with.

    Attributes:
        labels: of the cohort.
        config: of the run that would follow.
        preprocessing: of its scans.
        encoder: of the network.
        draws: number of random views of each scan.
    """

    labels: Labels
    config: FinetuneConfig
    preprocessing: Preprocessing
    encoder: Encoder
    draws: int


def see(case: Case, row: int, settings: PreviewSettings) -> SeenScan:
    """Read one case and process it as training does, up to the network's input.

    Its random views are those that training on this scan alone would draw with the seed ``config.seed + row``.

    Raises:
        ScanError: the scan cannot be used; the message says why.
    """
    preprocessing, config = settings.preprocessing, settings.preprocessing.config
    volumes = read_scans(case, config)
    region, _ = region_of_case(case, volumes["scan"])
    prepared = prepare_volumes(case, volumes, preprocessing, margin_voxels(config.shape))
    grid = preprocessing.grid(volumes["scan"], region)
    facts = view_facts(volumes, grid, config, region, in_slices=single_slices(settings.encoder.cuts(config.shape)))
    windows: dict[str, tuple[float, float]] = {}
    for channel in facts.channels:
        windows.setdefault(channel.column, channel.window)  # the first of several windows of one scan
    plain = plain_view(prepared, settings.config, config)
    return SeenScan(
        row=row,
        label=label_of(case),
        plain=plain,
        augmented=random_views(prepared, settings, settings.config.seed + row),
        grid=grid,
        scans={
            column: tuple(map(pad_to_box, planes(volumes[column].voxels, volumes[column].affine, window, _view(grid))))
            for column, window in windows.items()
        },
        facts=facts,
        parts=tuple(settings.encoder.occupied_cuts(torch.from_numpy(plain))),
        modality=volumes["scan"].provenance.modality,
    )


def label_of(case: Case) -> str:
    """The case's class, or its findings."""
    return case.label if isinstance(case.label, str) else ", ".join(sorted(case.label or ()))


def plain_view(
    prepared: PreparedScan, config: FinetuneConfig, preprocessing: PreprocessingConfig
) -> NDArray[np.float32]:
    """A scan as validation sees it, [channel, depth, height, width]."""
    with torch.random.fork_rng(devices=[]):  # the loader draws a number, which must not change the caller's state
        return next(plain_images([prepared.tensor], config, preprocessing))[0].numpy()


def random_views(prepared: PreparedScan, settings: PreviewSettings, seed: int) -> NDArray[np.float32]:
    """Random views of a scan, [draw, channel, depth, height, width]; no draws if training augments nothing."""
    config, preprocessing, draws = settings.config, settings.preprocessing.config, settings.draws
    if not draws or not augments(config):
        return np.zeros((0, *prepared.tensor.shape[:1], *preprocessing.shape), np.float32)
    training = config.training.model_copy(update={"epoch_scans": draws, "batch_size": draws, "workers": 0})
    alone = FoldData(settings.labels, Part([prepared.tensor], [prepared.voxel_mm], np.zeros((1, 0), bool)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # as before each fold's training: the augmentation depends on it
        batches = training_batches(alone, config.model_copy(update={"training": training}), preprocessing, seed)
        return next(iter(batches))[0].numpy()


def augments(config: FinetuneConfig) -> bool:
    """Whether training augments anything; it does not if the strategy learns from features of plain scans."""
    return config.augmentation.strength > 0 and config.transfer.strategy.trains


def single_slices(cuts: Sequence[Box]) -> bool:
    """Whether the parts that a network processes one by one are single slices."""
    return bool(cuts) and all(depth.stop - depth.start == 1 for depth, _, _ in cuts)


def _view(grid: Grid) -> Region:
    """The box that the network sees, in LPS mm; the grid's axes are parallel to the patient's."""
    x, y, z = (float(value) for value in geometry.centre_mm(grid.affine, grid.shape))
    width, height, depth = (float(value) for value in np.abs(grid.affine[:3, :3]) @ grid.shape[::-1])
    return Region((x, y, z), (width, height, depth))
