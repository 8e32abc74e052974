"""The cohort table ``cohort.csv``: one row per scan, with its patient, label and other attributes.

Columns: ``scan`` (path, relative to the table), ``series_uid`` (when a folder holds several), ``patient``; ``label``,
or for multi-label tasks a ``label_<finding>`` of 0 or 1 (false or true, no or yes) per finding; optionally a region, as
``roi_x_mm roi_y_mm roi_z_mm`` (LPS) with ``roi_size_mm`` or as ``mask``; ``split`` (train | val | test). Any other
column defines subgroups.
"""

from __future__ import annotations

import html
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts.case import FINDING_PREFIX, ROI_COLUMNS, Case, read_case, wrong_value
from med_transfer.cohorts.label_text import closest_label, label_text, misspelt, spelling_key
from med_transfer.cohorts.sheet import Row, Sheet, plain, read_sheet
from med_transfer.errors import CohortError, MissingLabel, given_path
from med_transfer.errors.numbers import counted, is_number
from med_transfer.errors.sentence import few
from med_transfer.predictions.labels import Labels

_OPTIONAL = ("patient", "series_uid", "mask", "mask_name", "split")
_MAX_NUMBERED_CLASSES = 10  # more numeric labels, some of them of a single scan, are taken for measurements
_PRESENT = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}  # Excel writes TRUE
NO_LABELS = Labels(("unlabelled",), multilabel=True)  # stands in for a table read without labels


@dataclass(frozen=True)
class Cohort:
    """Cases in table order, and classes in the order of the network's outputs."""

    cases: tuple[Case, ...]
    labels: Labels
    path: Path | None = None

    @classmethod
    def read(cls, path: Path | str, *, labels: Labels | None = None, labelled: bool = True) -> Cohort:
        """Read ``cohort.csv``.

        Args:
            path: the table; scan and mask paths in it are relative to its folder.
            labels: classes of a bundle. None takes the table's classes, in sorted order.
            labelled: False for a table of scans to predict: ``patient`` may be absent, label columns are not read, and
                a missing file is reported when it is predicted.

        Raises:
            MissingLabel: a scan has no label, or a scan or mask file does not exist.
            CohortError: the table is otherwise unusable; the message names row and column.
        """
        sheet = read_sheet(given_path(path, "the cohort's table", "a cohort.csv"))
        _check_columns(sheet, labelled)
        truth = _read_labels(sheet, labels) if labelled else [None] * len(sheet.rows)
        cases = tuple(read_case(sheet, row, label) for row, label in zip(sheet.rows, truth, strict=True))
        _check_repeats(cases, sheet.path)
        if labelled:
            labels = _classes(sheet, cases, labels)
            _check_patients(cases, sheet.path)
            _check_files(cases, sheet.path)
        return cls(cases, labels or NO_LABELS, sheet.path)

    @classmethod
    def of(cls, cases: Sequence[Case], classes: Sequence[str], where: str, *, named_patients: bool = True) -> Cohort:
        """Return a cohort of cases that do not come from a table, one class each, checked as the rows of one.

        Args:
            cases: the cases, numbered in ``row``.
            classes: the class names, in the order of the network's outputs.
            where: what holds the cases, for messages.
            named_patients: False if ``patient`` only tells the files apart.

        Raises:
            MissingLabel: a scan file does not exist.
            CohortError: classes or patients look like two spellings of one, or a scan is there twice.
        """
        cases, labels = tuple(cases), _named_labels(classes, where)
        _check_repeats(cases, where)
        _check_learnable(where, cases, labels.names, multilabel=False)
        if named_patients:
            _check_patients(cases, where)
        _check_files(cases, where)
        return cls(cases, labels)

    def __repr__(self) -> str:
        """Counts only, no names: the text may end up in a log."""
        classes = "".join(f", {name} {scans}" for name, (scans, _) in self.counts().items()) if self._labelled else ""
        scans, patients = counted(len(self), "scan"), counted(len(set(self.patients)), "patient")
        return f"Cohort({scans} of {patients}{classes})"

    @property
    def _labelled(self) -> bool:
        return bool(self.labels.names) and all(case.label is not None for case in self.cases)

    def _repr_html_(self) -> str:
        """HTML table for notebooks: scans and patients of each class."""
        rows = "".join(
            f"<tr><th scope='row'>{html.escape(name)}</th><td>{scans}</td><td>{patients}</td></tr>"
            for name, (scans, patients) in self.counts().items()
        )
        total = f"<tr><th scope='row'>all</th><td>{len(self)}</td><td>{len(set(self.patients))}</td></tr>"
        return f"<table><tr><th>class</th><th>scans</th><th>patients</th></tr>{rows}{total}</table>"

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def patients(self) -> tuple[str, ...]:
        """Patient of each scan, in the order of ``cases``; a patient with two scans appears twice."""
        return tuple(case.patient for case in self.cases)

    @property
    def truth(self) -> NDArray[np.bool_]:
        """Labels as boolean [scan, class]. Raises MissingLabel if a case has none."""
        truth = []
        for case in self.cases:
            if case.label is None:
                raise MissingLabel(f"{case} has no label", where=self.path or "")
            truth.append(case.label)
        return self.labels.one_hot(truth)

    def subset(self, indices: Iterable[int]) -> Cohort:
        """Return the cases at these positions, with the same classes."""
        return Cohort(tuple(self.cases[i] for i in indices), self.labels, self.path)

    def of_classes(self, labels: Labels) -> Cohort:
        """Return the same cases with the classes of a bundle, in the bundle's order.

        Raises:
            MissingLabel: a case has no label.
            CohortError: the cohort has classes that the bundle lacks, or another kind of labels.
        """
        _ = self.truth
        names = self.labels.names if self.labels.multilabel else sorted({str(case.label) for case in self.cases})
        _require_classes_of(labels, names, self.cases, self.path or "", multilabel=self.labels.multilabel)
        return Cohort(self.cases, labels, self.path)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return (scans, patients) by class name. A patient with scans of two classes counts in both."""
        truth, patients = self.truth, np.array(self.patients, dtype=object)
        return {
            name: (int(truth[:, c].sum()), len(set(patients[truth[:, c]]))) for c, name in enumerate(self.labels.names)
        }


def _check_columns(sheet: Sheet, labelled: bool) -> None:
    sheet.require("scan")
    findings = [name for name in sheet.columns if name.startswith(FINDING_PREFIX)]
    if labelled:
        sheet.require("patient")
        if not findings:
            sheet.require("label")
        if findings and "label" in sheet.columns:
            raise CohortError(
                f"columns label and {', '.join(findings)}", where=sheet.path, expected="either label or label_<finding>"
            )
        if FINDING_PREFIX in findings:
            raise CohortError("column 'label_' names no finding", where=sheet.path, expected="label_<finding>")
    _check_names(sheet, findings if labelled else [])
    missing = [name for name in ROI_COLUMNS if name not in sheet.columns]
    if 0 < len(missing) < len(ROI_COLUMNS):
        found = f"region column {', '.join(missing)} is missing"
        raise CohortError(found, where=sheet.path, expected=", ".join(ROI_COLUMNS))


def _check_names(sheet: Sheet, findings: list[str]) -> None:
    """Refuse a column whose name nearly matches a known one; it would otherwise be ignored silently."""
    meant = {plain(name): name for name in (*_OPTIONAL, *ROI_COLUMNS) if name not in sheet.columns}
    for column in sheet.columns:
        near = meant.get(plain(column)) or (
            column.lower() if findings and column.lower().startswith(FINDING_PREFIX) and column not in findings else ""
        )
        if near:
            raise CohortError(
                f"column {column!r} would be passed over",
                where=sheet.path,
                expected=f"{near!r}, if that is meant",
                action=f"Rename {column!r} to {near!r}, or give it a name of its own",
            )


def _finding_columns(sheet: Sheet) -> list[str]:
    return sorted(name for name in sheet.columns if name.startswith(FINDING_PREFIX))


def _read_labels(sheet: Sheet, fixed: Labels | None) -> list[str | frozenset[str]]:
    findings = _finding_columns(sheet)
    as_written = set(fixed.names) if fixed else set()  # a bundle may have a class named "1.0"

    def label_of(row: Row, column: str) -> str:
        return row.get(column) if row.get(column) in as_written else label_text(row.get(column))

    labels = [{name: label_of(row, name) for name in findings or ["label"]} for row in sheet.rows]
    empty = [row for row, cells in zip(sheet.rows, labels, strict=True) if not all(cells.values())]
    if empty:
        more = f" ({len(empty)} rows in all)" if len(empty) > 1 else ""
        raise MissingLabel(
            f"row {empty[0].line} ({empty[0].get('scan')}) has no label{more}",
            where=sheet.path,
            action="Fill the label, or leave the row out",
        )
    if findings:
        return [_findings(sheet, row, cells) for row, cells in zip(sheet.rows, labels, strict=True)]
    return [cells["label"] for cells in labels]


def _findings(sheet: Sheet, row: Row, cells: dict[str, str]) -> frozenset[str]:
    for column, cell in cells.items():
        if cell.casefold() not in _PRESENT:
            raise wrong_value(sheet, row, column, "0 or 1 (false or true, no or yes)")
    return frozenset(column.removeprefix(FINDING_PREFIX) for column, cell in cells.items() if _PRESENT[cell.casefold()])


def _classes(sheet: Sheet, cases: tuple[Case, ...], fixed: Labels | None) -> Labels:
    """The classes of the table, or those of the bundle after checking that the table matches."""
    findings = _finding_columns(sheet)
    names = [name.removeprefix(FINDING_PREFIX) for name in findings] or sorted({str(case.label) for case in cases})
    if fixed is None:
        _check_learnable(sheet.path, cases, names, multilabel=bool(findings))
        return _named_labels(names, sheet.path, multilabel=bool(findings))
    _require_classes_of(fixed, names, cases, sheet.path, multilabel=bool(findings))
    return fixed


def _named_labels(names: Iterable[str], where: Path | str, *, multilabel: bool = False) -> Labels:
    """The classes of these names; an error says where they were found."""
    try:
        return Labels(tuple(names), multilabel=multilabel)
    except CohortError as error:
        raise CohortError(error.found, where=where, expected=error.expected, action=error.action) from None


def _require_classes_of(
    bundle: Labels, names: Iterable[str], cases: tuple[Case, ...], where: Path | str, *, multilabel: bool
) -> None:
    """Raise CohortError if a table's classes or findings do not match those of a bundle."""
    if bundle.multilabel != multilabel:
        raise CohortError(
            f"the table has {'label_<finding> columns' if multilabel else 'one label a scan'}",
            where=where,
            expected=f"{'findings' if bundle.multilabel else 'classes'} {', '.join(bundle.names)} as in the bundle",
        )
    wrong = sorted(set(names) - set(bundle.names)) or (sorted(set(bundle.names) - set(names)) if multilabel else [])
    if wrong:
        row = next((case.row for case in cases if case.label == wrong[0]), 0)
        meant = closest_label(wrong[0], bundle.names)
        raise CohortError(
            f"{f'row {row}, ' if row else ''}{'finding' if multilabel else 'class'} {wrong[0]!r} is not in both the "
            "table and the bundle",
            where=where,
            expected=f"the bundle's {', '.join(bundle.names)}",
            action=f"Did you mean {meant}? Correct it" if meant else "",
        )


def _check_learnable(where: Path | str, cases: tuple[Case, ...], names: Sequence[str], *, multilabel: bool) -> None:
    if multilabel:
        for name in names:
            present = sum(name in (case.label or ()) for case in cases)
            if present in (0, len(cases)):
                raise CohortError(
                    f"finding {name!r} is present in {present} of {len(cases)} scans",
                    where=where,
                    expected="scans with it and scans without it",
                )
        return
    if len(names) == 1:
        raise CohortError(
            f"every row has label {names[0]!r}",
            where=where,
            expected="at least two classes",
            action="Add scans of another class; one class alone cannot be learned",
        )
    rows = {name: [case.row for case in cases if case.label == name] for name in names}
    _check_no_measurements(where, rows)
    if found := misspelt(rows):
        label, meant = found
        raise CohortError(
            f"row {' and '.join(map(str, rows[label]))} has label {label!r}",
            where=where,
            expected=f"{meant!r} perhaps, as in {len(rows[meant])} rows",
            action=f"Did you mean {meant}? Correct it, or leave the row out: a class needs more scans",
        )
    for alike in _lookalikes(names):
        only_case = len({name.casefold() for name in alike}) == 1
        how = "differ only in case" if only_case else f"look alike: {', '.join(map(ascii, alike))}"
        raise CohortError(
            f"classes {' and '.join(map(repr, alike))} {how}", where=where, expected="one spelling a class"
        )


def _check_no_measurements(where: Path | str, rows: Mapping[str, Sequence[int]]) -> None:
    if len(rows) > _MAX_NUMBERED_CLASSES and all(map(is_number, rows)) and any(len(own) == 1 for own in rows.values()):
        raise CohortError(
            f"{len(rows)} different numbers as labels in {sum(map(len, rows.values()))} rows",
            where=where,
            expected="one class of a few a scan",
            action="If they are measurements, convert them to classes, such as low, middle and high",
        )


def _lookalikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that look the same to a reader."""
    spelled = defaultdict(list)
    for name in dict.fromkeys(names):
        spelled[spelling_key(name)].append(name)
    return [alike for alike in spelled.values() if len(alike) > 1]


def _check_patients(cases: tuple[Case, ...], where: Path | str) -> None:
    """Refuse names that look alike: one patient under two spellings could be on both sides of a split."""
    rows = {case.patient: case.row for case in reversed(cases)}
    for alike in _lookalikes(rows):
        raise CohortError(
            f"rows {' and '.join(str(row) for row in sorted(rows[name] for name in alike))} have patients that differ "
            "only in case, spaces, decimals, leading zeros or signs that look alike",
            where=where,
            expected="one spelling a patient, and other names for other patients",
        )


def _check_repeats(cases: tuple[Case, ...], where: Path | str) -> None:
    rows: dict[tuple, int] = {}
    for case in cases:
        key = (case.path, case.series_uid, case.roi_centre_mm, case.roi_size_mm, case.mask, case.mask_name)
        if key in rows:
            raise CohortError(
                f"rows {rows[key]} and {case.row} are the same scan and region ({case.scan})",
                where=where,
                expected="one row a scan, or a region of its own for each row",
            )
        rows[key] = case.row


def _check_files(cases: tuple[Case, ...], where: Path | str) -> None:
    folder = "table's folder" if isinstance(where, Path) else "current folder"
    for what, paths in (
        ("scan", {case.row: case.path for case in cases}),
        ("mask", {case.row: case.mask for case in cases if case.mask}),
    ):
        absent = [(row, path) for row, path in paths.items() if not os.path.exists(path)]  # noqa: PTH110  Path.exists() raises
        if absent:
            named = few([f"row {row} ({path})" for row, path in absent], 5)
            raise MissingLabel(
                f"{len(absent)} of {len(paths)} {what} paths do not exist: {named}",
                where=where,
                expected=f"paths relative to the {folder}, or absolute ones",
            )
