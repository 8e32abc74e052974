"""A scan of another kind never becomes a confident call: the bundle abstains, and the table says why."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import med_transfer as mt
from med_transfer.scans import Volume, read_scan

REAL = pytest.mark.skipif("MED_TRANSFER_DATA" not in os.environ, reason="MED_TRANSFER_DATA names no folder of scans")
QUICK = (
    "backbone.name=med-transfer-small",
    "transfer.strategy=linear_probe",
    "input.shape=[16,32,32]",
    "split.folds=2",
    "from_scratch_baseline=false",
    "explain.gallery=0",
)


def changed(volume: Volume, voxels: np.ndarray) -> Volume:
    return replace(volume, voxels=voxels.astype(np.float32))


def other_kinds(volume: Volume) -> dict[str, Volume]:
    """What an abdomen, a head and faulty files look like on the grid of a scan."""
    noise, shape = np.random.default_rng(0), volume.voxels.shape
    middle = np.array(shape)[:, None, None, None] / 2
    radius = np.sqrt((((np.indices(shape) + 0.5 - middle) / middle) ** 2).sum(0))
    skull = np.where(radius < 0.8, 35.0, np.where(radius < 0.9, 1100.0, -1000.0))
    return {
        "abdomen": changed(volume, 50 + noise.normal(0, 12, shape)),
        "head": changed(volume, skull + noise.normal(0, 5, shape)),
        "noise": changed(volume, noise.uniform(-1000, 1000, shape)),
        "air": changed(volume, noise.normal(-1000, 5, shape)),
        "8 bits": changed(volume, np.clip((volume.voxels + 1000) / 8, 0, 255)),
        "thick slices": replace(volume, affine=volume.affine @ np.diag([1.0, 1.0, 4.0, 1.0])),
    }


def test_phantoms_of_another_kind_abstain_and_say_why(finished, unseen_csv):
    predictor = mt.load_bundle(finished.bundle)
    with unseen_csv.open(newline="") as file:
        own = [read_scan(unseen_csv.parent / row["scan"]) for row in csv.DictReader(file)]
    for name, volume in other_kinds(own[0]).items():
        answer = predictor.predict(volume)
        assert answer.abstained, name
        codes = answer.abstained_because.split(";")
        assert codes, name
        assert "out-of-distribution than" in answer.reason or "lies outside of" in answer.reason, name
    assert sum(not predictor.predict(volume).abstained for volume in own) >= len(own) / 2


@pytest.fixture(scope="module")
def nodules(tmp_path_factory) -> tuple[mt.Predictor, list[Volume]]:
    """A small bundle of real lung nodules, and nodules of other patients."""
    data, folder = Path(os.environ["MED_TRANSFER_DATA"]) / "lidc_nodules", tmp_path_factory.mktemp("nodules")
    with (data / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["malignancy"] in ("low", "high")]
    patients = sorted({row["patient"] for row in rows})
    chosen = set(patients[:80])
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("scan", "patient", "label"))
        writer.writerows(
            (data / row["scan"], row["patient"], row["malignancy"]) for row in rows if row["patient"] in chosen
        )
    run = mt.finetune(mt.Cohort.read(folder / "cohort.csv"), config=settings(*QUICK), out=folder / "run")
    others = [read_scan(data / row["scan"]) for row in rows if row["patient"] not in chosen][:30]
    return mt.load_bundle(run.bundle), others


def settings(*pairs: str):
    from med_transfer.config import load_config
    from med_transfer.finetuning import FinetuneConfig

    return load_config(FinetuneConfig, None, pairs)


def places(volume: Volume, size_mm: np.ndarray, n: int) -> list[Volume]:
    """Boxes of one size in the body."""
    size = np.maximum(4, np.rint(size_mm / volume.spacing_mm)).astype(int)[::-1]
    body = np.argwhere(ndimage.uniform_filter(volume.voxels.astype(np.float32), 5) > -100)
    firsts = body[np.random.default_rng(0).choice(len(body), n)] - size // 2
    firsts = np.clip(firsts, 0, np.maximum(0, np.array(volume.voxels.shape) - size))
    boxes = [tuple(slice(a, a + s) for a, s in zip(first, size, strict=True)) for first in firsts]
    return [replace(volume, voxels=volume.voxels[box]) for box in boxes]


@REAL
@pytest.mark.real_data
def test_an_abdomen_and_heads_under_a_nodule_bundle_abstain(nodules):
    predictor, others = nodules
    data = Path(os.environ["MED_TRANSFER_DATA"])
    size_mm = np.median([np.array(one.spacing_mm) * one.voxels.shape[::-1] for one in others], axis=0)
    abdomen = read_scan(data / "dicom" / "ct_abdomen_crlm_1004" / "image")
    heads = [read_scan(path) for path in sorted((data / "head_ct" / "scans").glob("*.nii.gz"))[:4]]
    wholes = [predictor.predict(volume) for volume in (abdomen, *heads)]
    assert all(answer.abstained and "outside_" in answer.abstained_because for answer in wholes)
    in_abdomen = [predictor.predict(place) for place in places(abdomen, size_mm, 12)]
    in_heads = [predictor.predict(place) for head in heads for place in places(head, size_mm, 2)]
    assert [answer.novelty for answer in (*in_abdomen, *in_heads) if not answer.abstained] == []
    false_alarms = np.mean([predictor.predict(nodule).abstained for nodule in others])
    assert false_alarms < 0.25  # about 0.07 by design
