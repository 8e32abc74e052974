"""The active learning job: from a bundle and unlabelled scans to a table of scans to label next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from med_transfer.atomic.csv_table import write_csv
from med_transfer.atomic.sole_writer import sole_writer_of
from med_transfer.bundle import BundleRecord, HeldOut, Provenance
from med_transfer.bundle.provenance import seen_in_training
from med_transfer.cohorts import Case, Cohort
from med_transfer.cohorts.overwriting import require_replaceable
from med_transfer.errors import NothingDone, UsageError
from med_transfer.inference import Predictor, load_bundle, scans_to_predict
from med_transfer.labelling.active_learning import Chosen, choose_next, entropy
from med_transfer.labelling.unlabelled import Unlabelled, run_bundle_on_scans
from med_transfer.predictions.record import Prediction
from med_transfer.progress import Progress, silent

OUT_OF_DISTRIBUTION_ABOVE = 0.99
_COLUMNS = ("rank", "scan", "patient", "series_uid", "reason", "entropy", "distance", "novelty")
_LEFT_OUT_COLUMNS = ("scan", "series_uid", "reason")
_OUT_OF_DISTRIBUTION_COLUMNS = ("scan", "patient", "series_uid", "reason", "novelty")


@dataclass(frozen=True)
class NextLabels:
    """The tables that were written.

    Attributes:
        table: the scans to label, in order of priority.
        out_of_distribution: table of the scans that are out-of-distribution for the bundle, most novel first.
        n_chosen: rows of ``table``; fewer than asked for if there are fewer patients, or if the rest would add nothing.
        n_out_of_distribution: rows of ``out_of_distribution``.
        n_trained_on: scans left out because the bundle was trained on them or their patients.
        n_held_out: scans left out because they, or their patients, are the test set of the bundle's run.
        left_out: table of ``failed``.
        failed: the scans that could not be used, each with its reason; a folder can hold several series.
    """

    table: Path
    out_of_distribution: Path
    n_chosen: int
    n_out_of_distribution: int
    n_trained_on: int
    n_held_out: int
    left_out: Path
    failed: tuple[Prediction, ...] = ()


def next_labels(
    bundle: Predictor | Path | str,
    scans: Path | str,
    out: Path | str,
    n: int = 20,
    *,
    out_of_distribution_above: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> NextLabels:
    """Choose the scans to label next: diverse scans that the bundle is uncertain of, one per patient.

    Args:
        bundle: of a finished run: its folder, or the result of ``load_bundle``, for example on another device.
        scans: a folder tree, one scan, or a table of scans (labels not needed).
        out: table to write; ``-out-of-distribution.csv``, ``-left-out.csv`` and a ``.cache`` folder are put beside it.
        n: number of scans to choose, at least 1.
        out_of_distribution_above: novelty in [0, 1] above which a scan is listed separately; None takes the bundle's
            own limit for abstaining, or 0.99.
        seed: of the random choice.
        progress: reports progress.

    Raises:
        UsageError: ``n`` or ``out_of_distribution_above`` is out of range; a table to be written exists with other
            columns, perhaps with labels that a user has added, or is the one being read.
        BundleError: there is no bundle.
        ScanNotFound: there is no scan.
        CohortError: the table cannot be read.
        NothingDone: no scan is left to choose from; the message says why.
        FolderInUse: another process is writing the table.
        OutputError: a table cannot be written.
    """
    if n < 1:
        raise UsageError(f"{n} scans to choose", expected="at least 1")
    if out_of_distribution_above is not None and not 0 <= out_of_distribution_above <= 1:
        raise UsageError(f"novelty limit {out_of_distribution_above}", expected="from 0 to 1")
    out = Path(out)
    left_out, out_of_distribution = _companion_tables(out)
    columns = {out: _COLUMNS, left_out: _LEFT_OUT_COLUMNS, out_of_distribution: _OUT_OF_DISTRIBUTION_COLUMNS}
    for table, of_table in columns.items():
        require_replaceable(table, of_table, Path(scans))
    predictor = bundle if isinstance(bundle, Predictor) else load_bundle(bundle)
    limit = _limit(predictor.record, out_of_distribution_above)
    with sole_writer_of(out):
        return _next_labels(predictor, Path(scans), out, n, limit, seed, progress)


def _companion_tables(out: Path) -> tuple[Path, Path]:
    """Paths of the tables of scans that cannot be used, and of those that are out-of-distribution."""
    return out.with_name(f"{out.stem}-left-out.csv"), out.with_name(f"{out.stem}-out-of-distribution.csv")


def _next_labels(
    predictor: Predictor, scans: Path, out: Path, n: int, limit: float, seed: int, progress: Progress
) -> NextLabels:
    left_out, out_of_distribution = _companion_tables(out)
    items, _ = scans_to_predict(scans, predictor.record.preprocessing)
    usable, failed = run_bundle_on_scans(predictor, items, out.with_suffix(".cache"), progress)
    write_csv(left_out, _LEFT_OUT_COLUMNS, [{name: getattr(one, name) for name in _LEFT_OUT_COLUMNS} for one in failed])
    untrained = _of_others(usable, predictor.record.trained_on, predictor.record)
    # Test scans are labelled already, and must stay unknown to training.
    new = _of_others(untrained, predictor.record.held_out, predictor.record)
    in_distribution = [scan for scan in new if scan.seen.novelty <= limit]
    beyond = sorted((scan for scan in new if scan.seen.novelty > limit), key=lambda scan: -scan.seen.novelty)
    if new:
        write_csv(
            out_of_distribution,
            _OUT_OF_DISTRIBUTION_COLUMNS,
            [_out_of_distribution_row(scan, limit) for scan in beyond],
        )
    n_trained_on, n_held_out = len(usable) - len(untrained), len(untrained) - len(new)
    found = NextLabels(out, out_of_distribution, 0, len(beyond), n_trained_on, n_held_out, left_out, tuple(failed))
    if not in_distribution:
        raise _no_scan_error(scans, found)
    chosen = _choose(in_distribution, predictor.record, n, seed)
    rows = [
        _row(rank, in_distribution[choice.position], choice.distance, predictor.record)
        for rank, choice in enumerate(chosen, start=1)
    ]
    write_csv(out, _COLUMNS, rows)
    return replace(found, n_chosen=len(chosen))


def _choose(scans: Sequence[Unlabelled], record: BundleRecord, n: int, seed: int) -> list[Chosen]:
    features = np.stack([scan.seen.features for scan in scans])
    probabilities = np.stack([scan.seen.probabilities for scan in scans])
    patients = [scan.patient for scan in scans]
    return choose_next(features, probabilities, patients, n, seed, multilabel=record.multilabel)


def _of_others(
    scans: Sequence[Unlabelled], known: Provenance | HeldOut | None, record: BundleRecord
) -> list[Unlabelled]:
    """Scans that are not among those known, compared by patient if given, and by image."""
    cases = tuple(Case(scan.scan, Path(scan.scan), scan.patient_in_files, None) for scan in scans)
    hashes = [scan.seen.content_hashes for scan in scans]
    seen = set(seen_in_training(known, Cohort(cases, record.labels), hashes))
    return [scan for number, scan in enumerate(scans) if number not in seen]


def _limit(record: BundleRecord, asked: float | None) -> float:
    if asked is not None:
        return asked
    return OUT_OF_DISTRIBUTION_ABOVE if record.abstain_above_novelty is None else record.abstain_above_novelty


def _row(rank: int, scan: Unlabelled, distance: float, record: BundleRecord) -> dict[str, str]:
    unsure = float(entropy(scan.seen.probabilities[None], multilabel=record.multilabel)[0])
    return {
        "rank": str(rank),
        "scan": scan.scan,
        "patient": scan.patient,
        "series_uid": scan.seen.series_uid,
        "reason": _uncertainty(scan, record) + ("; unlike those ranked before it" if rank > 1 else ""),
        "entropy": f"{unsure:.3f}",
        "distance": f"{distance:.3f}",
        "novelty": f"{scan.seen.novelty:.2f}",
    }


def _uncertainty(scan: Unlabelled, record: BundleRecord) -> str:
    probabilities = scan.seen.probabilities
    if record.multilabel:
        nearest = int(np.abs(probabilities - 0.5).argmin())
        return f"unsure of {record.classes[nearest]} ({probabilities[nearest]:.2f})"
    first, second = np.argsort(-probabilities, kind="stable")[:2]
    names = record.classes
    return f"{names[first]} ({probabilities[first]:.2f}) or {names[second]} ({probabilities[second]:.2f})"


def _out_of_distribution_row(scan: Unlabelled, limit: float) -> dict[str, str]:
    return {
        "scan": scan.scan,
        "patient": scan.patient,
        "series_uid": scan.seen.series_uid,
        "reason": f"novelty above {limit:g}: perhaps out of scope; look at it before labelling",
        "novelty": f"{scan.seen.novelty:.2f}",
    }


def _no_scan_error(scans: Path, found: NextLabels) -> NothingDone:
    counts = {
        f"cannot be used (see {found.left_out.name})": len(found.failed),
        "are of patients on whom this bundle was trained": found.n_trained_on,
        "are of the test patients of its run": found.n_held_out,
        f"are out-of-distribution for it (see {found.out_of_distribution.name})": found.n_out_of_distribution,
    }
    return NothingDone(
        f"no scan to choose from: {', '.join(f'{number} {what}' for what, number in counts.items() if number)}",
        where=scans,
        expected="scans without labels of the kind that the bundle was trained on",
        action=f"The first reason: {found.failed[0].reason}" if found.failed else "",
    )
