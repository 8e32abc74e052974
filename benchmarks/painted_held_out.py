"""How well the encoders of a run find lesions painted into healthy scans that they were not trained on.

    python benchmarks/painted_held_out.py runs/head --cohort head_ct/cohort.csv

No label of a diseased scan is used, so settings of the painting and ways to read the answers can be compared without
looking at the patients that are reported. Works on a run with ``backbone.pretrain=painted_lesions`` whose head reads
answers, with or without the published network beside them. Each scan of ``only_class`` that an encoder was not trained
on is used as it is, and with a denser lesion painted into as many neighbouring slices as were trained on at once; four
lesions per scan, the same for every run on a cohort. Prints the AUC of scans with and without a lesion for several ways
to read a scan's slices, and for the first of them how often a scan's number is higher with the lesion. The run itself
is only read.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.cohorts import Cohort
from med_transfer.config import load_config
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.data_setup import RunData, prepare_run_data
from med_transfer.finetuning.fold_pretraining import (
    PRETRAINING_FOLDER,
    canvas,
    encoder_of,
    hounsfield,
    in_crop_order,
    pretrained_encoder,
)
from med_transfer.finetuning.folds import fold_folder
from med_transfer.finetuning.run import checked_start
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.pretraining.painting.lesions import LesionPainter
from med_transfer.pretraining.source.views import CROP_ORIENTATION, reorient, window
from med_transfer.progress import silent

MIN_AREA = 3e-4  # of a slice: the pretraining counts nothing smaller as a lesion
MIN_TISSUE = 0.1  # of a slab, above 0 HU: there is something to paint into
READINGS: dict[str, Callable[[NDArray], float]] = {
    "smooth maximum": lambda slices: float(np.log(np.exp(slices).mean())),
    "mean": lambda slices: float(slices.mean()),
    "largest": lambda slices: float(slices.max()),
    "smooth maximum above the median": lambda slices: float(np.log(np.exp(slices).mean()) - np.median(slices)),
}
Pairs = list[tuple[NDArray, list[NDArray]]]  # for each scan the slices' answers without and with each lesion


def answers(encoder: SliceEncoder, hu: Tensor, preprocessing: PreprocessingConfig, axes: str) -> NDArray:
    """For each non-empty slice, how much is denser; ``hu`` is [1, 1, depth, height, width] of a slab."""
    seen = torch.cat([window(hu, one.window_hu, one.output_range) for one in preprocessing.by_channel], dim=1)
    with torch.no_grad():
        denser = encoder(reorient(seen, CROP_ORIENTATION, axes))[-1][0, 0].flatten()
    return denser[denser != 0].numpy()


def with_lesion(hu: Tensor, size_mm: tuple[float, float, float], config: FinetuneConfig, seed: int) -> Tensor:
    """The scan with a denser lesion at a random position."""
    settings, chance = config.backbone.pretraining, np.random.default_rng(seed)
    slab = min(settings.slab, hu.shape[2])
    shown = [k for k in range(hu.shape[2] - slab + 1) if (hu[0, 0, k : k + slab] > 0).float().mean() > MIN_TISSUE]
    painter = LesionPainter(settings.lesions, torch.device("cpu"), seed)
    extent_mm = torch.tensor([[slab * size_mm[0], hu.shape[3] * size_mm[1], hu.shape[4] * size_mm[2]]])
    while True:
        first = int(chance.choice(shown))
        painted, lesions = painter(hu[:, :, first : first + slab].clone(), extent_mm)
        if bool((lesions.mask[0, 0].mean((1, 2)) > MIN_AREA).any()):
            return torch.cat([hu[:, :, :first], painted, hu[:, :, first + slab :]], dim=2)


def judged(run: Path, data: RunData, config: FinetuneConfig, number: int, lesions: int) -> Pairs:
    """Answers for the scans that this encoder was not trained on."""
    cohort, preprocessing, only = data.prepared.cohort, data.preprocessing, config.backbone.pretraining.only_class
    folder = run / "training" / fold_folder(number, repeat=1) / PRETRAINING_FOLDER
    encoder = cast(SliceEncoder, pretrained_encoder(data, config, number, folder, silent).eval())
    learned = set(canvas(cohort, data.split, config, number))
    rows = [n for n, case in enumerate(cohort.cases) if case.label == only and n not in learned]
    seen = data.prepared.subset(rows).without_margin(margin_voxels(preprocessing.shape))
    pairs = []
    for row, tensor in zip(rows, seen.tensors, strict=True):
        hu = torch.from_numpy(hounsfield(tensor, preprocessing, data.network_axes)).float()[None, None]
        size_mm = in_crop_order(data.prepared.voxel_mm[row], data.network_axes)
        painted = [with_lesion(hu, size_mm, config, seed=lesions * row + n) for n in range(lesions)]
        plain, *with_lesions = (answers(encoder, one, preprocessing, data.network_axes) for one in (hu, *painted))
        pairs.append((plain, with_lesions))
    return pairs


def line(number: int, pairs: Pairs) -> str:
    areas, n_lesions = [], len(pairs[0][1])
    truth = [False] * len(pairs) + [True] * len(pairs) * n_lesions
    for read in READINGS.values():
        clean, painted = [read(one) for one, _ in pairs], [[read(one) for one in many] for _, many in pairs]
        areas.append(roc_auc_score(truth, [*clean, *np.ravel(painted)]))
    smooth = READINGS["smooth maximum"]
    higher = np.mean([[smooth(one) > smooth(without) for one in many] for without, many in pairs])
    return f"| {number + 1} | {len(pairs)} | {higher:.2f} | " + " | ".join(f"{area:.3f}" for area in areas) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--lesions", type=int, default=4, help="lesions per scan")
    arguments = parser.parse_args()
    cohort, config = Cohort.read(arguments.cohort), load_config(FinetuneConfig, arguments.run / "config.yaml")
    config, source = checked_start(cohort, config)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "prepared").symlink_to((arguments.run / "prepared").absolute())
        data = prepare_run_data(cohort, config, source.spec, Path(scratch), silent)
        print(f"| encoder | scans | higher with it | {' | '.join(READINGS)} |")
        print(f"| {' | '.join(['--'] * (3 + len(READINGS)))} |")
        for number in sorted({encoder_of(fold, config) for fold in range(data.split.n_fold_models)}):
            print(line(number, judged(arguments.run, data, config, number, arguments.lesions)), flush=True)


if __name__ == "__main__":
    main()
