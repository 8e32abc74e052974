"""Check of an exported network against torch, on the run's own validation scans or those of a table."""

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

MAX_SENSITIVITY_DROP = 0.01  # largest accepted fall of a class's sensitivity
MAX_PROBABILITY_DIFFERENCE = {"fp32": 0.001, "bf16": 0.05, "int8": 0.15}  # largest accepted difference of a probability
_FOLD = "fold-"


@dataclass(frozen=True)
class CheckScans:
    """Prepared scans.

    Attributes:
        tensors: network input [channel, depth, height, width] of each scan.
        truth: [scan, class]; None if unknown.
        fold_model: number of the fold model that was not trained on the scan, for each scan; None: use all fold models
            together.
    """

    tensors: list[NDArray[np.float16]]
    truth: NDArray[np.bool_] | None = None
    fold_model: tuple[int, ...] | None = None

    def image(self, number: int) -> Tensor:
        """The network input of a scan, float32 [channel, depth, height, width]."""
        return torch.from_numpy(self.tensors[number].astype(np.float32))


def scans_of_table(table: Path, record: BundleRecord, progress: Progress) -> CheckScans:
    """Prepare the scans of a table, with labels if it has any. The bundle's own test patients are left out, since they
    must not influence any decision.

    Raises:
        CohortError: the table cannot be read.
        UsageError: it contains only test patients.
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
    """The development scans that the bundle's run prepared, with their labels and folds.

    Raises:
        UsageError: the bundle is not inside a run, or its run keeps no prepared scans.
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
    """Network inputs by the content hashes of their scans, cropped to the shape without training's margin.

    Scans that were prepared more than once, for several regions, are left out as ambiguous.
    """
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
    """Probabilities [scan, class] and novelty [scan], each scan alone, by its ``fold_model`` if there is one."""
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
    """Compare the outputs of torch and of the exported network on the same scans, each as from :func:`answers`."""
    calls, exported_calls = (
        record.operating_point.predictions(found[0], record.labels) for found in (of_torch, exported)
    )
    truth, limit = scans.truth if scans.truth is not None else calls, record.abstain_above_novelty
    changed = 0 if limit is None else int(((of_torch[1] > limit) != (exported[1] > limit)).sum())
    names = list(record.classes)
    if record.multilabel:  # overcalling a finding lowers the sensitivity of no other, so check specificity too
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
        unchecked=tuple(name for name, has in zip(names, truth.T, strict=True) if not has.any()),
    )


def _largest_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.nan_to_num(np.abs(first - second), nan=np.inf).max())


def objections(check: Check, precision: str) -> list[str]:
    """Reasons why an exported network may not be used; empty if it may."""
    found = []
    if check.probability_difference > (most := MAX_PROBABILITY_DIFFERENCE[precision]):
        found.append(f"a probability differs by {check.probability_difference:.2g} (at most {most:g})")
    for name, (before, after) in check.sensitivity.items():
        if before - after > MAX_SENSITIVITY_DROP:
            of = "sensitivity" if check.against == "labels" else "agreement with torch"
            found.append(f"{of} of {name} falls from {before:.3f} to {after:.3f} (by at most {MAX_SENSITIVITY_DROP:g})")
    return found
