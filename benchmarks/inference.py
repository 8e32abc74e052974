"""Scans per minute from DICOM folders to a table: ``predict`` by runtime, a MONAI script, TorchIO's loop, lower bounds.

    python benchmarks/inference.py --scans 24 --rounds 3 > table.md

CT of 200 slices of 512 x 512 (phantoms, each with its own noise), one network (resnet18-w32, random weights) on 64 x 96
x 96 voxels of the whole scan, all on the same grid. The table states how far the probabilities of the others are from
ours, since the libraries smooth differently before downsampling. Each arm is a process of its own, start included; arms
take turns, figures are medians. Memory is the largest sum of proportional set sizes of its processes. An OpenVINO
export that fails its check is left out, which is reported on standard error. ``--spoil 20`` damages one file in every
twentieth scan: for ``predict`` only, since the others end there. The TorchIO arm needs torchio. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from med_transfer.backbones import load_backbone
from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance, load_network, save_bundle
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.phantoms.dicom_series import write_dicom_series
from med_transfer.preprocessing import PreprocessingConfig

SHAPE, WINDOW_HU = (64, 96, 96), (-1000.0, 400.0)
SLICES, SIDE, SPACING_MM = 200, 512, (0.7, 0.7, 1.5)
CLASSES = ("benign", "malignant")


def write_scans(folder: Path, count: int) -> None:
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    plane = np.where(np.hypot(x / 0.9, y / 0.65) < 1, 45.0, -1000.0)
    plane[np.hypot((np.abs(x) - 0.42) / 0.3, y / 0.42) < 1] = -850
    affine = np.diag([*SPACING_MM, 1.0])
    for number in range(count):
        rng = np.random.default_rng(number)
        noise = rng.integers(-40, 41, (SLICES, SIDE, SIDE), dtype=np.int16)
        noise[:, : 50 + number, 200:260] += 60
        write_dicom_series(folder / f"{number:04d}", noise + plane.astype(np.int16), affine, patient=f"{number:04d}")


def write_bundle(folder: Path) -> Path:
    record = BundleRecord(
        classes=CLASSES,
        preprocessing=PreprocessingConfig(shape=SHAPE, window_hu=WINDOW_HU, region="whole"),
        backbone=BackboneRecord(name="resnet18-w32", pooled_stages=(-1,), licence="Apache-2.0", source="none"),
        n_fold_models=1,
        input_envelope=InputEnvelope(spacing_mm_low=(0.1, 0.1, 0.1), spacing_mm_high=(5, 5, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=("a",), content_hashes=("b",)),
    )
    torch.manual_seed(0)
    encoder = load_backbone("resnet18-w32", scratch=True, seed=0).encoder
    return save_bundle(folder, record, Ensemble([Classifier(encoder, len(CLASSES))]).eval(), "# card\n")


def export(bundle: Path, precision: str) -> bool:
    """A copy of the bundle for OpenVINO in that precision, checked on a few of the scans; whether it passed."""
    folder = bundle.parent
    names = sorted(scan.name for scan in (folder / "scans").iterdir())[1:5]
    rows = [f"scans/{name},{name}" for name in names]  # torch's own calls stand in for the labels
    (folder / "cohort.csv").write_text("\n".join(["scan,patient", *rows]) + "\n")
    shutil.copytree(bundle, exported(bundle, precision))
    command = [sys.executable, "-m", "med_transfer", "export", str(exported(bundle, precision)), "--to", "openvino"]
    options = ["--precision", precision, "--scans", str(folder / "cohort.csv")]
    return subprocess.run([*command, *options], stdout=sys.stderr).returncode == 0


def exported(bundle: Path, precision: str) -> Path:
    return bundle.with_name(f"bundle-{precision}")


# The arms: each writes {scan: probability of the second class} -------------------------------------------------------


def predict(precision: str = "") -> Callable[[Path, Path, Path], dict[str, float]]:
    """By OpenVINO in that precision, or by torch."""

    def run(scans: Path, bundle: Path, out: Path) -> dict[str, float]:
        from med_transfer.cli.app import main as med_transfer

        of, runtime = (exported(bundle, precision), "openvino") if precision else (bundle, "torch")
        sys.argv = ["med-transfer", "predict", str(of), str(scans), "-o", str(out), "--runtime", runtime]
        with contextlib.suppress(SystemExit):  # 1: some scans could not be read
            med_transfer()
        with (out / "predictions.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
        return {Path(row["scan"]).name: float(row[f"p_{CLASSES[1]}"]) for row in rows}

    return run


def monai_script(scans: Path, bundle: Path, out: Path) -> dict[str, float]:
    """As in its tutorials: dictionary transforms, a DataLoader with two workers, eager mode."""
    from monai.data import DataLoader, Dataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        Resized,
        ScaleIntensityRanged,
        Spacingd,
    )

    keys = ["image"]
    chain = Compose(
        [
            LoadImaged(keys, reader="PydicomReader"),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="LPS", labels=None),
            Spacingd(keys, pixdim=(1.5, 1.5, 1.5), mode="bilinear"),
            ScaleIntensityRanged(keys, *WINDOW_HU, -1.0, 1.0, clip=True),
            Resized(keys, spatial_size=SHAPE[::-1]),
        ]
    )
    items = [{"image": str(folder), "name": folder.name} for folder in sorted(scans.iterdir())]
    loader = DataLoader(Dataset(items, chain), batch_size=1, num_workers=2)
    return _forward(bundle, ((batch["name"][0], batch["image"]) for batch in loader))


def torchio_loop(scans: Path, bundle: Path, out: Path) -> dict[str, float]:
    import torchio

    low, high = WINDOW_HU
    chain = torchio.Compose(
        [
            torchio.ToOrientation("LPS"),
            torchio.Resample(1.5),
            torchio.Clamp(low, high),
            torchio.RescaleIntensity((-1, 1), in_min_max=(low, high)),
            torchio.Resize((SHAPE[2], SHAPE[1], SHAPE[0])),
        ]
    )
    subjects = [torchio.Subject(image=torchio.ScalarImage(f), name=f.name) for f in sorted(scans.iterdir())]
    loader = torchio.SubjectsLoader(torchio.SubjectsDataset(subjects, chain), batch_size=1, num_workers=2)
    return _forward(bundle, ((batch["name"][0], batch["image"][torchio.DATA]) for batch in loader))


def network_alone(scans: Path, bundle: Path, out: Path) -> dict[str, float]:
    """The lower bound: the network on tensors already in memory."""
    tensor = torch.zeros(1, 1, *SHAPE[::-1])
    return _forward(bundle, ((folder.name, tensor) for folder in sorted(scans.iterdir())))


def bytes_alone(scans: Path, bundle: Path, out: Path) -> dict[str, float]:
    """The other lower bound: reading every byte of every file, from the page cache if it fits."""
    return {folder.name: float(sum(len(p.read_bytes()) for p in folder.iterdir())) for folder in scans.iterdir()}


def _forward(bundle: Path, batches: Iterator[tuple[str, torch.Tensor]]) -> dict[str, float]:
    model = load_network(bundle).fold_models[0].eval()
    with torch.inference_mode():
        return {
            name: float(model(torch.as_tensor(image).float().permute(0, 1, 4, 3, 2)).softmax(1)[0, 1])
            for name, image in batches
        }


ARMS: dict[str, Callable[[Path, Path, Path], dict[str, float]]] = {
    "predict, torch fp32": predict(),
    "predict, OpenVINO fp32": predict("fp32"),
    "predict, OpenVINO bf16": predict("bf16"),
    "predict, OpenVINO int8": predict("int8"),
    "MONAI script": monai_script,
    "TorchIO loop": torchio_loop,
    "network alone": network_alone,
    "bytes alone": bytes_alone,
}


# Measuring -----------------------------------------------------------------------------------------------------------


def measure(arm: str, scans: Path, bundle: Path, scratch: Path) -> dict[str, float | dict]:
    """Seconds, processor seconds and peak memory of the arm's processes, and its answers."""
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        answer = Path(out) / "answer.json"
        command = [sys.executable, __file__, "--work", arm, str(scans), str(bundle), out]
        before, started = os.times(), time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, tree_gib(process.pid))
            time.sleep(0.2)
        seconds, after = time.monotonic() - started, os.times()
        if process.returncode:
            raise SystemExit(f"{arm} ended with {process.returncode}")
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        return {"seconds": seconds, "cpu": spent, "gib": peak, "answers": json.loads(answer.read_text())}


def tree_gib(pid: int) -> float:
    """Proportional set size of a process and its descendants; those that have just ended count as zero."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        own = int(rollup.split("\nPss:")[1].split()[0]) / (1 << 20)
        tasks = [t.read_text() for t in Path(f"/proc/{pid}/task").glob("*/children")]
    except (OSError, IndexError):
        return 0.0
    return own + sum(tree_gib(int(child)) for text in tasks for child in text.split())


def table(results: dict[str, list[dict]], count: int) -> str:
    ours = results[next(iter(ARMS))][0]["answers"]
    lines = ["| arm | scans | scans/min | s a scan | processor s a scan | peak GiB | largest difference |"]
    lines.append("| -- | -- | -- | -- | -- | -- | -- |")
    for arm, runs in results.items():
        seconds, spent, gib = (statistics.median(run[key] for run in runs) for key in ("seconds", "cpu", "gib"))
        answers = runs[0]["answers"]
        far = max((abs(answers[name] - p) for name, p in ours.items() if name in answers), default=float("nan"))
        difference = "" if arm.endswith("alone") else f"{far:.1e}"
        figures = f"{60 * count / seconds:.1f} | {seconds / count:.2f} | {spent / count:.2f} | {gib:.2f}"
        lines.append(f"| {arm} | {len(answers)} | {figures} | {difference} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--spoil", type=int, default=0, help="damage one file in every N scans")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--work", nargs=4)
    chosen = parser.parse_args()
    if chosen.work:
        arm, scans, bundle, out = chosen.work
        answers = ARMS[arm](Path(scans), Path(bundle), Path(out))
        (Path(out) / "answer.json").write_text(json.dumps(answers))
        return
    arms = [arm for arm in chosen.arms if "TorchIO" not in arm or importlib.util.find_spec("torchio")]
    with tempfile.TemporaryDirectory(dir=chosen.scratch) as place:
        folder = Path(place)
        write_scans(folder / "scans", chosen.scans)
        for number in range(0, chosen.scans if chosen.spoil else 0, max(1, chosen.spoil)):
            next(iter(sorted((folder / "scans" / f"{number:04d}").iterdir()))).write_bytes(b"\0" * 1000)
        bundle = write_bundle(folder / "bundle")
        arms = [arm for arm in arms if "OpenVINO" not in arm or export(bundle, arm.split()[-1])]
        results: dict[str, list[dict]] = {arm: [] for arm in arms}
        for _ in range(chosen.rounds):
            for arm in arms:
                results[arm].append(measure(arm, folder / "scans", bundle, folder))
        print(table(results, chosen.scans))


if __name__ == "__main__":
    main()
