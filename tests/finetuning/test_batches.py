"""The content of a training batch: each scan with its own voxel size, made by as many processes as help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from small_run_data import small_config, small_run_data

from med_transfer.cohorts import PreparedCohort
from med_transfer.finetuning import batches
from med_transfer.finetuning.batches import FoldData, fold_data, training_batches, validation_batches
from med_transfer.finetuning.config import FinetuneConfig

PLAN = small_run_data(signal=0.7, n=24, n_test=4)


def marked(prepared: PreparedCohort, first: int) -> PreparedCohort:
    """Scan after scan full of its number, from ``first`` on; its voxels are as deep."""
    scans = tuple(
        replace(scan, tensor=np.full_like(scan.tensor, n), voxel_mm=(float(n), 0.5, 2.0))
        for n, scan in enumerate(prepared.scans, start=first)
    )
    return replace(prepared, scans=scans)


def marked_fold(config: FinetuneConfig) -> FoldData:
    unlabelled = (
        marked(small_run_data(signal=0.7, n=6, n_test=0).prepared, first=101) if config.transfer.align else None
    )
    return fold_data(marked(PLAN.prepared, first=1), PLAN.split, 0, unlabelled)


@pytest.mark.parametrize("transfer", [{}, {"align": {"method": "mmd", "unlabelled": "."}}], ids=["alone", "aligned"])
def test_each_scan_is_augmented_by_the_size_of_its_own_voxels(transfer, monkeypatch):
    seen = {}

    def view(image: torch.Tensor) -> torch.Tensor:
        assert isinstance(image, MetaTensor)
        seen[int(image.max())] = image.pixdim.tolist()
        return image[:, 1:-1, 1:-1, 1:-1]

    monkeypatch.setattr(batches, "augmentation", lambda *_: view)
    config = small_config("full", transfer=transfer, training={"epoch_scans": 200})
    drawn = list(training_batches(marked_fold(config), config, PLAN.preprocessing, seed=0))
    unlabelled = {*range(101, 107)} if transfer else set()
    assert set(seen) == {*range(9, 25)} | unlabelled  # the first eight validate
    assert seen == {number: [number, 0.5, 2.0] for number in seen}
    for images, *_ in drawn:
        assert type(images) is torch.Tensor
        assert images.shape == (8, 1, 8, 8, 8)


def test_batches_are_full_and_of_as_many_draws_as_asked_for():
    config = small_config("full", training={"epoch_scans": 30, "batch_size": 8})
    data = marked_fold(config)
    assert [len(truth) for _, truth in training_batches(data, config, PLAN.preprocessing, 0)] == [8, 8, 8]
    few = small_config("full", training={"epoch_scans": 1, "batch_size": 50})  # each scan once, in one batch
    assert [len(truth) for _, truth in training_batches(data, few, PLAN.preprocessing, 0)] == [16]
    part = data.validation
    assert [len(truth) for _, truth in validation_batches(part.tensors, part.truth, few, PLAN.preprocessing, 3)] == [
        3,
        3,
        2,
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine has cores
@pytest.mark.parametrize(
    ("configured", "cores", "gpu", "expected"),
    [
        (None, 4, True, 0),
        (None, 5, True, 3),
        (None, 14, True, 12),
        (None, 32, True, 12),
        (None, 32, False, 0),
        (0, 32, True, 0),
        (3, 2, False, 3),
    ],
)
def test_processes_that_augment_leave_two_cores_to_a_training_on_a_gpu(configured, cores, gpu, expected, monkeypatch):
    monkeypatch.setattr(batches, "cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = small_config("full", training={"workers": configured})
    loader = training_batches(marked_fold(config), config, PLAN.preprocessing, seed=0)
    assert (loader.num_workers, loader.persistent_workers) == (expected, expected > 0)
