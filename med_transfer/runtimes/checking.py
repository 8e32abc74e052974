"""Scans to hold an exported network against torch with: the run's own validation scans, or those of a table."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.bundle import BundleRecord, HeldOut, run_folder
from med_transfer.bundle.provenance import seen_in_training
from med_transfer.cohorts import ArrayCache, Cohort, CohortLock, prepare_cohort
from med_transfer.cohorts.case import FINDING_PREFIX
from med_transfer.cohorts.sheet import read_sheet
from med_transfer.errors import UsageError
from med_transfer.model.ensemble import Ensemble
from med_transfer.preprocessing import Preprocessing
from med_transfer.progress import Progress
from med_transfer.runtimes.record import Check

MOST_FALL = 0.01  # of a class's sensitivity
MOST_DIFFERENCE = {"fp32": 0.001, "bf16": 0.05, "int8": 0.15}  # of a probability
_FOLD = "fold-"


@dataclass(frozen=True)
class CheckScans:
    """Prepared scans.

    Attributes:
        tensors: network inputs [channel, depth, height, width].
        truth: [scan, class]; None where nothing says it.
        fold_model: of each scan, the one that did not learn from it; None: all fold models together.
    """

    tensors: list[NDArray[np.float16]]
    truth: NDArray[np.bool_] | None = None
    fold_model: tuple[int, ...] | None = None

    def image(self, number: int) -> Tensor:
        """[channel, depth, height, width], in 32 bits."""
        return torch.from_numpy(self.tensors[number].astype(np.float32))


def scans_of_table(table: Path, record: BundleRecord, progress: Progress) -> CheckScans:
    """The scans of a table, with labels where it has some; the bundle's own test patients have no say and are left out.

    Raises:
        CohortError: the table cannot be read.
        UsageError: it holds test patients alone.
        NothingDone: no scan can be used.
    """
    labelled = any(name == "label" or name.startswith(FINDING_PREFIX) for name in read_sheet(table).columns)
    cohort = Cohort.read(table, labels=record.labels) if labelled else Cohort.read(table, labelled=False)
    with tempfile.TemporaryDirectory(prefix="med-transfer-") as cache:
        prepared = prepare_cohort(cohort, Preprocessing(record.preprocessing), Path(cache), progress=progress)
    held_out: HeldOut | None = record.held_out
    kept_apart = set(seen_in_training(held_out, prepared.cohort, prepared.content_hashes))
    usable = prepared.subset(number for number in range(len(prepared.scans)) if number not in kept_apart)
    if not usable.scans:
        raise UsageError("every scan is one of the bundle's test scans", where=table, expected="other scans")
    return CheckScans(usable.tensors, usable.cohort.truth if labelled else None)


def scans_of_run(bundle: Path, record: BundleRecord) -> CheckScans:
    """The development scans that the bundle's run has prepared, with their labels and folds.

    Raises:
        UsageError: the bundle lies in no run, or its run keeps none of them.
    """
    run = run_folder(bundle)
    locked = CohortLock.read(run / "cohort.lock.json").cases if run else ()
    prepared = _prepared(run / "prepared", record) if run else {}
    times = Counter(case.content_hashes for case in locked)
    cases = [
        case
        for case in locked
        if case.role != "test" and case.content_hashes in prepared and times[case.content_hashes] == 1
    ]
    if not cases:
        raise UsageError(
            "nothing to check the exported network with: the bundle lies beside no prepared scans",
            where=bundle,
            expected="a table of scans of its kind, best with labels and of patients that it has not learned from",
            action="Give one: --scans cohort.csv",
        )
    validated = [case for case in cases if case.role.startswith(_FOLD)]
    by_fold = {case.role for case in locked if case.role.startswith(_FOLD)} == {
        f"{_FOLD}{number}" for number in range(record.n_fold_models)
    }
    cases = validated if by_fold and validated else cases
    labels = [case.label if isinstance(case.label, str) else frozenset(case.label) for case in cases]
    folds = tuple(int(case.role.removeprefix(_FOLD)) for case in cases) if by_fold and validated else None
    return CheckScans([prepared[case.content_hashes] for case in cases], record.labels.one_hot(labels), folds)


def _prepared(folder: Path, record: BundleRecord) -> dict[tuple[str, ...], NDArray[np.float16]]:
    """Network inputs by what they were made of, without the margin that training has; none that is there twice."""
    found: dict[tuple[str, ...], list[NDArray[np.float16]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        entry = ArrayCache(folder).read(path.stem)
        if entry and "tensor" in entry.arrays and "content_hashes" in entry.record:
            tensor = _middle(entry.arrays["tensor"], record.preprocessing.shape)
            found.setdefault(tuple(entry.record["content_hashes"]), []).append(tensor)
    return {images: tensors[0] for images, tensors in found.items() if len(tensors) == 1}


def _middle(tensor: NDArray[np.float16], shape: Sequence[int]) -> NDArray[np.float16]:
    margins = [(wide - n) // 2 for wide, n in zip(tensor.shape[1:], shape, strict=True)]
    return tensor[:, *(slice(m, m + n) for m, n in zip(margins, shape, strict=True))]


@torch.no_grad()
def answers(ensemble: Ensemble, scans: CheckScans) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities [scan, class] and novelty [scan], each scan by itself and by the fold model that may judge it."""
    found = []
    for number in range(len(scans.tensors)):
        by = ensemble if scans.fold_model is None else ensemble.alone(scans.fold_model[number])
        found.append(by.predict(scans.image(number)[None]))
    probabilities, novelty = (torch.cat(parts).double().numpy() for parts in zip(*found, strict=True))
    return probabilities, novelty


def compare(
    of_torch: tuple[NDArray[np.float64], NDArray[np.float64]],
    exported: tuple[NDArray[np.float64], NDArray[np.float64]],
    scans: CheckScans,
    record: BundleRecord,
) -> Check:
    """What both say of the same scans, as :func:`answers` gives it."""
    calls, exported_calls = (
        record.operating_point.predictions(found[0], record.labels) for found in (of_torch, exported)
    )
    truth, limit = scans.truth if scans.truth is not None else calls, record.abstain_above_novelty
    changed = 0 if limit is None else int(((of_torch[1] > limit) != (exported[1] > limit)).sum())
    names = list(record.classes)
    if record.multilabel:  # what is called too often lowers no other finding's sensitivity
        names += [f"no {name}" for name in names]
        truth, calls, exported_calls = (np.hstack([one, ~one]) for one in (truth, calls, exported_calls))
    return Check(
        n_scans=len(scans.tensors),
        against="calls" if scans.truth is None else "labels",
        by_fold=scans.fold_model is not None,
        probability_difference=_largest_difference(of_torch[0], exported[0]),
        novelty_difference=_largest_difference(of_torch[1], exported[1]),
        n_abstentions_changed=changed,
        sensitivity={
            name: (float(calls[has, c].mean()), float(exported_calls[has, c].mean()))
            for c, (name, has) in enumerate(zip(names, truth.T, strict=True))
            if has.any()
        },
    )


def _largest_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.nan_to_num(np.abs(first - second), nan=np.inf).max())


def objections(check: Check, precision: str) -> list[str]:
    """Why a network may not be used; none where it may."""
    found = []
    if check.probability_difference > (most := MOST_DIFFERENCE[precision]):
        found.append(f"a probability differs by {check.probability_difference:.2g} (at most {most:g})")
    for name, (before, after) in check.sensitivity.items():
        if before - after > MOST_FALL:
            of = "sensitivity" if check.against == "labels" else "agreement with torch"
            found.append(f"{of} of {name} falls from {before:.3f} to {after:.3f} (by at most {MOST_FALL:g})")
    return found
