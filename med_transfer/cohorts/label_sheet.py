"""Link a label sheet to the series that were found, and report the rows that could not be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from med_transfer.cohorts.label_text import label_text, lacks_identifier, misspelt, other_decimals, spelling_key
from med_transfer.cohorts.sheet import Row, Sheet, plain, read_sheet
from med_transfer.errors import CohortError
from med_transfer.errors.numbers import counted

LINKS = ("series_uid", "scan", "study_uid", "accession", "patient")  # most precise first; the first one present is used
_COLUMN_ALIASES = {  # from DICOM's names, in any usual spelling, to ours
    **{name.replace("_", ""): name for name in LINKS},
    "seriesinstanceuid": "series_uid",
    "studyinstanceuid": "study_uid",
    "accessionnumber": "accession",
    "patientid": "patient",
}
_IDENTIFYING_COLUMNS = {*_COLUMN_ALIASES, "patientname", "patientbirthdate", "name", "birthdate", "dateofbirth", "mrn"}
_SPELLING = "another spelling (zeros, case, spaces, dashes)"

SeriesRow = dict[str, str]


@dataclass(frozen=True)
class RowRemark:
    """What is wrong with a row of the sheet; never quotes the linking value, which may identify a patient."""

    row: int
    text: str


@dataclass(frozen=True)
class LabelSheet:
    """Rows of a sheet, indexed by the value that links them to series.

    Attributes:
        link: the linking column, one of ``LINKS``.
        columns: columns taken over into the cohort table.
        rows: usable rows by their value in ``link``: those with a label and, if there is such a column, a patient.
        lost: remarks on the other rows.
    """

    path: Path
    link: str
    columns: tuple[str, ...]
    rows: Mapping[str, Row]
    lost: tuple[RowRemark, ...]

    @classmethod
    def read(cls, path: Path) -> LabelSheet:
        """Read a sheet. Raises CohortError if it has no label or linking column, or a linking value twice."""
        sheet = _with_standard_columns(read_sheet(path))
        link = next((name for name in LINKS if name in sheet.columns), None)
        columns = [name for name in sheet.columns if plain(name) not in _IDENTIFYING_COLUMNS]
        labels = [name for name in columns if name == "label" or name.startswith("label_")]
        if link is None or not labels:
            raise CohortError(
                f"columns {', '.join(sheet.columns)}",
                where=path,
                expected=f"label (or label_<finding>) and one of {', '.join(LINKS)}",
            )
        present = [name for name in ("patient", *columns) if name in sheet.columns]
        needed = [name for name in dict.fromkeys((link, "patient")) if name in sheet.columns]
        lost, rows = [], {}
        for row in sheet.rows:
            if lacks := next((name for name in needed if lacks_identifier(row.get(name))), ""):
                lost.append(RowRemark(row.line, f"has no {lacks}"))
            elif not all(label_text(row.get(name)) for name in labels):
                lost.append(RowRemark(row.line, "has no label"))
            elif row.get(link) in rows:
                first = rows[row.get(link)].line
                raise CohortError(
                    f"rows {first} and {row.line} have the same {link}", where=sheet.path, expected="each once"
                )
            else:
                rows[row.get(link)] = row
        return cls(path, link, tuple(present), rows, tuple(lost))

    def cells_of(self, series: SeriesRow) -> dict[str, str] | None:
        """Return the cells of a series by column; None if the sheet has no row for it."""
        row = self.rows.get(self._key(series))
        if row is None:
            return None
        return {name: label_text(row.get(name)) if name.startswith("label") else row.get(name) for name in self.columns}

    def remarks(self, found: Sequence[SeriesRow]) -> list[RowRemark]:
        """Return remarks on rows without a label, without a usable series, or with a misspelt label, in row order.

        Raises:
            CohortError: no row matches a series.
        """
        lost = list(self.lost)
        matches: dict[str, list[SeriesRow]] = {key: [] for key in self.rows}
        for series in found:
            matches.get(self._key(series), []).append(series)
        spellings = {spelling_key(series[self.link]) for series in found}
        alike = {key for key, series in matches.items() if not series and spelling_key(key) in spellings}
        if not any(matches.values()):
            but = f", but {len(alike)} in {_SPELLING}" if alike else ""
            raise CohortError(
                f"none of {counted(len(self.rows), 'row')} matches a series by {self.link}{but}",
                where=self.path,
                expected=f"{self.link} as in the files",
                action="Compare with the quality table",
            )
        for key, series in matches.items():
            if not series:
                but = f", but one has it in {_SPELLING}" if key in alike else ""
                lost.append(RowRemark(self.rows[key].line, f"no series has this {self.link}{but}"))
            elif all(one["verdict"] == "reject" for one in series):
                reasons = "; ".join(f"{one['scan']} is rejected: {one['reasons']}" for one in series)
                lost.append(RowRemark(self.rows[key].line, reasons))
        return sorted([*lost, *self._misspelt()], key=lambda one: one.row)

    def _key(self, series: SeriesRow) -> str:
        """The linking value as the sheet writes it: pandas writes accession 12 as 12.0 in a column with gaps."""
        value = series[self.link]
        return value if value in self.rows else other_decimals(value)

    def _misspelt(self) -> list[RowRemark]:
        labels: dict[str, list[int]] = {}
        for row in self.rows.values():
            labels.setdefault(label_text(row.get("label")), []).append(row.line)
        label, meant = misspelt(labels) or ("", "")
        return [RowRemark(row, f"has label {label!r}: did you mean {meant}?") for row in labels.get(label, ()) if meant]


def _with_standard_columns(sheet: Sheet) -> Sheet:
    """Rename columns from DICOM's names, in any usual spelling, to ours."""
    names: dict[str, str] = {}
    for column in sheet.columns:
        ours = _COLUMN_ALIASES.get(plain(column), "")
        if ours and ours not in (*sheet.columns, *names.values()):
            names[column] = ours
    rows = tuple(Row(row.line, {names.get(name, name): cell for name, cell in row.cells.items()}) for row in sheet.rows)
    return replace(sheet, columns=tuple(names.get(name, name) for name in sheet.columns), rows=rows)
