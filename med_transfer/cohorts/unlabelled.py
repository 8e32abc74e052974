"""Scans without labels as a cohort, from a table whose labels are ignored or from a folder."""

from __future__ import annotations

from pathlib import Path

from med_transfer.cohorts.case import Case
from med_transfer.cohorts.splits import without_test_rows
from med_transfer.cohorts.table import NO_LABELS, Cohort
from med_transfer.errors import ScanError, ScanNotFound
from med_transfer.scans import Series, find_series, identity
from med_transfer.scans.isolation import isolated


def unlabelled_cohort(path: Path) -> Cohort:
    """Return the scans to pretrain on, without labels.

    Args:
        path: a ``.csv`` table, whose rows marked ``split=test`` are left out, or a folder. In a folder the patient
            comes from the DICOM header, and is unknown for other formats.

    Raises:
        CohortError: the table cannot be read, or all its rows are test rows.
        PatientLeak: a patient has test rows and others.
        ScanNotFound: the folder holds no scan.
    """
    if path.suffix.lower() != ".csv":
        series = find_series(path)
        if not series:
            raise ScanNotFound("no scan", where=path, expected="DICOM, NIfTI, NRRD or MetaImage, or a cohort table")
        return Cohort(tuple(_case(path, scan_series) for scan_series in series), NO_LABELS, path)
    return without_test_rows(Cohort.read(path, labelled=False), "to learn from")


def _case(folder: Path, series: Series) -> Case:
    scan = series.path.relative_to(folder).as_posix() if series.path != folder else folder.name
    return Case(scan, series.path.absolute(), _patient(series), None, series_uid=series.name)


def _patient(series: Series) -> str:
    """Patient of a series; empty if its header cannot be read again, as the scan will then be reported when read."""
    try:
        return isolated(identity, series, where=series.path).patient
    except ScanError:
        return ""
