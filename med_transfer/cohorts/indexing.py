"""Build a cohort table from a folder of scans: a verdict on every series, pseudonymised patients, linked labels."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from med_transfer.atomic.csv_table import csv_bytes, write_csv
from med_transfer.atomic.sole_writer import sole_writer_of
from med_transfer.cohorts.label_sheet import LabelSheet, RowRemark
from med_transfer.cohorts.label_text import is_missing, spelling_key
from med_transfer.cohorts.overwriting import replace_keeping, require_replaceable
from med_transfer.errors import NothingDone, ScanError, ScanNotFound
from med_transfer.errors.numbers import counted
from med_transfer.errors.sentence import Sentence, few, files
from med_transfer.progress import Progress, silent
from med_transfer.scans import Identity, Ignored, Series, Verdict, geometry, identity, survey
from med_transfer.scans.isolation import isolated
from med_transfer.scans.search.description import count_files
from med_transfer.scans.search.links import follow_links_advice
from med_transfer.scans.search.pseudonyms import own_key, pseudonym, read_key
from med_transfer.scans.search.series_rules import Choice, SeriesRules, choose

log = logging.getLogger(__name__)

KEY_FILE = "patients.key"
# Columns of a series in the cohort table; the quality table has more, and a row for every file that is not a scan.
_COHORT = ("scan", "series_uid", "patient", "modality", "n_slices", "choice")
_QUALITY = (
    *("scan", "series_uid", "modality", "format", "files", "n_slices", "size", "spacing_mm", "plane", "orientation"),
    *("kernel", "slice_thickness_mm", "verdict", "reasons", "choice"),
)


@dataclass(frozen=True)
class IndexSettings:
    """Which series are listed, and how patients are named.

    Attributes:
        rules: rules that choose the series listed for each study; None lists every usable one.
        max_gap_mm: unevenly spaced slices are interpolated if no gap is wider than this; 0 rejects them.
        key_file: secret of at least 16 bytes; a patient gets the same pseudonym in every index made with it. None uses
            ``patients.key`` beside the table, created if absent and readable by its owner only.
        keep_patient_ids: write the patient identifiers of the files instead of pseudonyms.
    """

    rules: SeriesRules | None = None
    max_gap_mm: float = 0.0
    key_file: Path | None = None
    keep_patient_ids: bool = False


@dataclass(frozen=True)
class Index:
    """The tables that were written, and what they contain.

    Attributes:
        n_listed: series in the cohort table.
        n_not_chosen: usable series excluded by the rules.
        n_unlabelled: series chosen by the rules but without a label.
        n_rejected: series that cannot be used.
        n_ignored: files that are not scans.
        n_files: files examined: those of all series, and the ignored ones.
        remarks: rows of the label sheet with no label, no usable scan, or a misspelt label.
        unopened: folders that could not be opened.
        key: file with the secret behind the pseudonyms; None if patient identifiers were kept.
        before: backup of an earlier cohort table whose labels may have been edited by hand; None if none was needed.
    """

    cohort: Path
    quality: Path
    n_listed: int
    n_not_chosen: int
    n_unlabelled: int
    n_rejected: int
    n_ignored: int
    n_files: int
    remarks: tuple[RowRemark, ...] = ()
    unopened: tuple[Path, ...] = ()
    key: Path | None = None
    before: Path | None = None

    @property
    def exit_code(self) -> int:
        """0 if all series are usable, 1 if one was rejected or a folder could not be opened, 3 if none is listed."""
        return int(bool(self.n_rejected or self.unopened)) if self.n_listed else NothingDone.exit_code


def write_index(
    scans: Path,
    out: Path,
    labels: Path | None = None,
    settings: IndexSettings = IndexSettings(),
    progress: Progress = silent,
) -> Index:
    """Write ``cohort.csv`` and beside it ``cohort.quality.csv``.

    The quality table has one row per series, with its verdict, all reasons, and why it was or was not chosen, followed
    by one row per file that is not a scan.

    Args:
        scans: root of the folder tree to search.
        out: the cohort table to write.
        labels: label sheet with ``label`` (or ``label_<finding>``) and a column to link by: one of series_uid, scan,
            study_uid, accession, patient.
        settings: which series are listed, and how patients are named.
        progress: progress callback.

    Raises:
        ScanNotFound: the folder holds no series.
        CohortError: the label sheet cannot be linked, or the key is too short.
        UsageError: ``out`` is the label sheet, or a table with columns that would be lost, such as a user's labels.
        FolderInUse: another run is writing the table.
        OutputError: a table cannot be written.
    """
    sheet = LabelSheet.read(labels) if labels else None
    require_replaceable(out, (*_COHORT, *(sheet.columns if sheet else ())), labels)
    with sole_writer_of(out):
        return _write_index(scans, out, sheet, settings, progress)


def _write_index(
    scans: Path, out: Path, sheet: LabelSheet | None, settings: IndexSettings, progress: Progress
) -> Index:
    contents = survey(scans, max_gap_mm=settings.max_gap_mm, progress=progress)
    if not contents.series:
        raise ScanNotFound(
            Sentence("no series among {files}", files=files(len(contents.ignored))),
            where=scans,
            expected="DICOM, NIfTI, NRRD or MetaImage",
            action=follow_links_advice(contents.ignored),
        )
    owners = list(_owners(contents.series, progress))
    series = [
        replace(one, verdict=one.verdict.joined(verdict))
        for one, (_, verdict) in zip(contents.series, owners, strict=True)
    ]
    choices = choose(series, settings.rules)
    rows = [_row(choice, out, owner) for choice, (owner, _) in zip(choices, owners, strict=True)]
    remarks = sheet.remarks(rows) if sheet else []
    linked = [_cohort_row(row, sheet, out) for row in rows]
    chosen = [(row, own) for row, own, choice in zip(rows, linked, choices, strict=True) if choice.chosen]
    listed = [own for _, own in chosen if own]
    _warn_of_parted([(row["patient"], own) for row, own in chosen if own])
    key = None if settings.keep_patient_ids else settings.key_file or own_key(out.with_name(KEY_FILE))
    if key is not None:
        _pseudonymise(listed, key)
    quality = out.with_name(out.stem + ".quality.csv")
    write_csv(quality, _QUALITY, [*rows, *(_ignored_row(file, out) for file in contents.ignored)])
    before = replace_keeping(out, csv_bytes(tuple(listed[0]) if listed else _COHORT, listed), own=_COHORT)
    usable = sum(one.verdict.usable for one in series)
    return Index(
        cohort=out,
        quality=quality,
        n_listed=len(listed),
        n_not_chosen=usable - len(chosen),
        n_unlabelled=len(chosen) - len(listed),
        n_rejected=len(rows) - usable,
        n_ignored=len(contents.ignored),
        n_files=count_files(contents),
        remarks=tuple(remarks),
        unopened=tuple(file.path for file in contents.ignored if file.damaged and file.path.is_dir()),
        key=key,
        before=before,
    )


def _owners(series: Sequence[Series], progress: Progress) -> Iterator[tuple[Identity, Verdict]]:
    for number, one in enumerate(series, start=1):
        yield _owner(one)
        progress("reading patients", number, len(series))


def _owner(series: Series) -> tuple[Identity, Verdict]:
    """Patient of a series, and a verdict that rejects it if its header could not be read again."""
    try:
        return isolated(identity, series, where=series.path), Verdict()
    except ScanError as error:
        return Identity(), Verdict(rejections=(error.found,))


def _row(choice: Choice, out: Path, owner: Identity) -> dict[str, str]:
    series = choice.series
    scan = _relative(series.path, out)
    acquisition = series.acquisition
    affine = series.affine if series.verdict.usable else None
    first = series.slices[0] if series.slices else None
    return {
        "scan": scan,
        "series_uid": series.name,
        "study_uid": series.study_uid,
        "accession": owner.accession,
        # Without a patient identifier, each study counts as one patient; without a study, each file does.
        "patient": owner.patient or series.study_uid or scan,
        "modality": series.modality,
        "format": series.format,
        "files": str(len(series.files)),
        "n_slices": str(series.n_slices),
        "size": f"{first.columns} x {first.rows} x {series.n_slices}" if first else "",
        "spacing_mm": " x ".join(f"{mm:.4g}" for mm in series.spacing_mm or ()),
        "plane": "" if affine is None else series.plane,
        "orientation": "" if affine is None else geometry.orientation(affine),
        "kernel": acquisition.get("ConvolutionKernel", ""),
        "slice_thickness_mm": acquisition.get("SliceThickness", ""),
        "verdict": series.verdict.decision,
        "reasons": "; ".join(series.verdict.reasons),
        "choice": choice.reason,
    }


def _cohort_row(row: dict[str, str], sheet: LabelSheet | None, out: Path) -> dict[str, str] | None:
    """Columns of the series joined with its row of the sheet; None if there is a sheet without such a row."""
    own = {name: row[name] for name in _COHORT}
    if sheet is None:
        return own
    cells = sheet.cells_of(row)
    if cells is None:
        return None
    return own | {name: _relative_to_table(name, cell, sheet.path, out) for name, cell in cells.items()}


def _relative_to_table(column: str, cell: str, sheet: Path, out: Path) -> str:
    """Convert a path relative to the sheet into one relative to the table; other cells are returned unchanged."""
    names_a_file = column == "mask" or column.startswith("scan_")
    if is_missing(cell) or not names_a_file or Path(cell).is_absolute():
        return cell
    return _relative(sheet.parent / cell, out)


def _ignored_row(ignored: Ignored, out: Path) -> dict[str, str]:
    verdict = "damaged" if ignored.damaged else "no scan"
    return {"scan": _relative(ignored.path, out), "files": "1", "verdict": verdict, "reasons": ignored.reason}


def _relative(path: Path, out: Path) -> str:
    """The path relative to the table, as case.py reads it, which strips space; symbolic links are not resolved."""
    name = Path(os.path.relpath(path, out.parent)).as_posix()
    return name if name == name.strip() else f"./{name}/"


def _warn_of_parted(listed: Sequence[tuple[str, dict[str, str]]]) -> None:
    """Warn of patients whom the label sheet takes for several, so that a split could part their scans.

    Args:
        listed: the patient of each series by its files, and its row of the cohort table.
    """
    scans: dict[str, dict[str, str]] = defaultdict(dict)  # by patient of the files: the first scan of each of the sheet
    for patient, row in listed:
        scans[patient].setdefault(spelling_key(row["patient"]), row["scan"])
    if several := [" with ".join([*own.values()][:2]) for own in scans.values() if len(own) > 1]:
        log.warning(
            "the label sheet divides %s of the files into several: %s. Scans of one person could come to both sides "
            "of a split; unless the files' PatientID is a placeholder, correct the column patient of the sheet",
            counted(len(several), "patient"),
            few(several, 3),
        )


def _pseudonymise(rows: list[dict[str, str]], key_file: Path) -> None:
    """Replace patients by pseudonyms; spellings of one name get the same, as it would hide that they are alike."""
    key = read_key(key_file)
    scans: dict[str, dict[str, str]] = defaultdict(dict)  # by name of a patient: the first scan of each spelling
    for row in rows:
        patient = row["patient"]
        # Files whose names are alike are not of one patient.
        name = patient if patient == row["scan"] else spelling_key(patient)
        scans[name].setdefault(patient, row["scan"])
        row["patient"] = pseudonym(name, key)
    if several := [" with ".join(spelt.values()) for spelt in scans.values() if len(spelt) > 1]:
        log.warning(
            "the names of %s are spelt in several ways (case, spaces, leading zeros, signs that look alike) and have "
            "one pseudonym each: %s. If they are different people, name them apart in the column patient of a label "
            "sheet",
            counted(len(several), "patient"),
            few(several),
        )
