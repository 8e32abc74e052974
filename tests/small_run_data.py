"""A plan on made-up tensors: noise, and in one class a checkerboard of voxels, invisible to a spatial mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from small_network import SmallEncoder

from med_transfer.backbones import LoadedBackbone, LoadReport, find_backbone
from med_transfer.cohorts import Case, Cohort, CohortLock, PreparedCohort, PreparedScan, Split, SplitConfig
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig

SIDE, MARGIN = 8, 1
CHECKERBOARD = np.indices((SIDE + 2 * MARGIN,) * 3).sum(axis=0) % 2 * 2.0 - 1.0


def small_run_data(
    signal: float, n: int, n_test: int, seed: int = 0, members: int = 1, random_labels: bool = False
) -> RunData:
    """``n`` development scans, of which a third validates (several members: an equal part each), then test scans."""
    random, total = np.random.default_rng(seed), n + n_test
    has = np.arange(total) % 2 == 1
    images = (
        random.normal(size=(total, 1, *CHECKERBOARD.shape)) + signal * has[:, None, None, None, None] * CHECKERBOARD
    )
    labels = random.permutation(has) if random_labels else has
    cases = tuple(
        Case(scan=f"{i}", path=Path(f"{i}"), patient=f"p{i}", label="with" if label else "without")
        for i, label in enumerate(labels)
    )
    scans = tuple(
        PreparedScan(x.astype(np.float16), (f"h{i}",), np.zeros(1), ((1, 1, 1),), "", "", "")
        for i, x in enumerate(images)
    )
    parts = members if members > 1 else 3
    validation = tuple(tuple(range(m * n // parts, (m + 1) * n // parts)) for m in range(members))
    rest = tuple(range(n // parts, n)) if members == 1 else ()
    split = Split(tuple(range(n, total)), validation, rest)
    lock = CohortLock(classes=("with", "without"), multilabel=False, split=SplitConfig(), cases=(), cohort_hash="c")
    prepared = PreparedCohort(Cohort(cases, Labels(("with", "without"))), scans)
    return RunData(PreprocessingConfig(shape=(SIDE,) * 3), prepared, split, lock)


def source_of(kind: str, seed: int = 0) -> LoadedBackbone:
    """A source that ``sees`` the checkerboard, one that is ``blind`` to everything, or ``random``: no source."""
    torch.manual_seed(seed)
    encoder = SmallEncoder()
    with torch.no_grad():
        if kind == "sees":
            pattern = torch.from_numpy(CHECKERBOARD[:3, :3, :3]).float() / 27**0.5
            encoder.conv1.weight.copy_(torch.stack([pattern, -pattern, pattern])[:, None])
        if kind == "blind":
            encoder.conv1.weight.zero_()
    return LoadedBackbone(encoder, find_backbone("resnet18-w8"), LoadReport(), None if kind == "random" else "sha")


def small_config(strategy: str | dict = "auto", **sections) -> FinetuneConfig:
    transfer = {"strategy": strategy} | sections.pop("transfer", {})
    training = {"epochs": 4, "epoch_scans": 1, "batch_size": 8, "warmup_epochs": 0.5} | sections.pop("training", {})
    values = {"transfer": transfer, "training": training, "augmentation": {"strength": 0, "mixup": 0}} | sections
    return FinetuneConfig.model_validate(values)
