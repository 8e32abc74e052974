"""What does ``finetune --on-harm fallback`` keep where ``med-transfer select`` recommends nothing?

For a cell (task, labels per class, split) of label_efficiency.py: five folds by patient over the training cases, the
source and its baseline from scratch trained on four and evaluated on the fifth, and the verdict of ``transfer_gain`` on
these answers. No test case is used. Epochs are not chosen on the fold, as ``finetune`` would: the number of steps is
the benchmark's.

    python benchmarks/selection_fallback.py --prepared lidc.npz --out OUT --cells malignancy,10,1 malignancy,10,3

Every arm's answers are a file in ``OUT/inner``; selection_agreement.py reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from label_efficiency import Job, learned
from label_efficiency_report import DEFAULT
from lidc_crops import TASKS, Crops, few, load, split

from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import TransferGain
from med_transfer.metrics.transfer_gain import transfer_gain
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import patient_folds

ARMS = (DEFAULT, "scratch")  # the same network, with and without its source


def training_cases(crops: Crops, job: Job) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Training cases, truth [case, class] and patients."""
    cases = few(crops, job.task, job.n, split(crops, job.split)[0], job.split)
    truth = np.eye(len(TASKS[job.task]), dtype=bool)[crops.labels[job.task][cases]]
    return cases, truth, [str(patient) for patient in crops.patients[cases]]


def out_of_fold(crops: Crops, job: Job, arguments: argparse.Namespace) -> np.ndarray:
    """Probabilities [case, class] of the training cases, each from a network that did not see its patient."""
    cases, truth, patients = training_cases(crops, job)
    folds = patient_folds(truth, patients)
    found = np.zeros(truth.shape)
    for fold in range(folds.max() + 1):
        found[folds == fold] = learned(crops, job, cases[folds != fold], cases[folds == fold], arguments)
        print(f"{job.file} fold {fold + 1}", flush=True)
    return found


def verdict(crops: Crops, folder: Path, task: str, n: int, number: int) -> TransferGain | None:
    """Source against scratch on the training cases; None if ``OUT/inner`` lacks an answer."""
    jobs = [Job(arm, task, n, number) for arm in ARMS]
    files = [folder / job.file for job in jobs]
    if not all(file.exists() for file in files):
        return None
    transferred, scratch = (np.load(file)["probabilities"] for file in files)
    _, truth, patients = training_cases(crops, jobs[0])
    return transfer_gain(LabelledPredictions.of(truth, transferred, patients, Labels(TASKS[task])), scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--out", type=Path, default=Path("label_efficiency"))
    parser.add_argument("--cells", nargs="+", required=True, metavar="TASK,N,SPLIT")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.small_weights = None
    torch.set_num_threads(arguments.threads)
    crops, folder = load(arguments.prepared), arguments.out / "inner"
    folder.mkdir(parents=True, exist_ok=True)
    for task, n, number in (cell.split(",") for cell in arguments.cells):
        for arm in ARMS:
            job = Job(arm, task, int(n), int(number))
            if not (folder / job.file).exists():
                np.savez(folder / job.file, probabilities=out_of_fold(crops, job, arguments))
        found = verdict(crops, folder, task, int(n), int(number))
        assert found is not None
        print(f"{task}, {n}, split {number}: {found.verdict}; macro AUC {found.macro_auc}", flush=True)


if __name__ == "__main__":
    main()
