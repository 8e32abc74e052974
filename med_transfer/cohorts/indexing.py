"""From a folder of scans to a cohort table: every series judged, patients under pseudonyms, labels linked."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import os
from dataclasses import dataclass
from pathlib import Path

from med_transfer.atomic import write_text
from med_transfer.cohorts.sheet import Row, Sheet, read_sheet
from med_transfer.errors import CohortError, ScanNotFound
from med_transfer.scans import Series, identity, survey

_LINKS = ("series_uid", "scan", "patient")  # the most precise one that the sheet has decides


@dataclass(frozen=True)
class Index:
    """What was written: series in the cohort table, series with no label, series rejected, files that are no scans."""

    cohort: Path
    quality: Path
    n_listed: int
    n_unlabelled: int
    n_rejected: int
    n_ignored: int


def write_index(
    scans: Path, out: Path, labels: Path | None = None, *, key_file: Path | None = None, keep_patient_ids: bool = False
) -> Index:
    """Write ``cohort.csv`` and beside it ``cohort.quality.csv``, one row a series with its verdict and every reason.

    Args:
        scans: folder tree.
        out: the cohort table to write.
        labels: a table with ``label`` (or ``label_<finding>``) and one of series_uid, scan, patient to link by.
        key_file: secret of at least 16 bytes: the same patient gets the same pseudonym in every index made with it.
        keep_patient_ids: write the identifiers of the files instead of pseudonyms.

    Raises:
        ScanNotFound: no series there.
        CohortError: the label table cannot be linked, or the key is too short.
        OutputError: a table cannot be written.
    """
    found = survey(scans)
    if not found.series:
        raise ScanNotFound(
            f"no series among {len(found.ignored)} files", where=scans, expected="DICOM, NIfTI, NRRD or MetaImage"
        )
    base = out.resolve().parent
    rows = [_row(series, base) for series in found.series]
    linked = _link(rows, labels) if labels else [dict(row) for row in rows]
    _name_patients(linked, key_file, keep_patient_ids)
    listed = [
        row
        for row, series in zip(linked, found.series, strict=True)
        if series.verdict.usable and row.get("linked", True)
    ]
    quality = out.with_name(out.stem + ".quality.csv")
    _write(
        quality,
        [{k: row[k] for k in ("scan", "series_uid", "modality", "n_slices", "verdict", "reasons")} for row in rows],
    )
    _write(out, [{k: v for k, v in row.items() if k not in ("verdict", "reasons", "linked")} for row in listed])
    usable = sum(series.verdict.usable for series in found.series)
    return Index(out, quality, len(listed), usable - len(listed), len(rows) - usable, len(found.ignored))


def _row(series: Series, base: Path) -> dict[str, str]:
    scan = Path(os.path.relpath(series.path.resolve(), base)).as_posix()
    return {
        "scan": scan,
        "series_uid": series.name,
        "patient": identity(series).patient or scan,  # a format without patients: each file counts as another one
        "modality": series.modality,
        "n_slices": str(series.n_slices),
        "verdict": series.verdict.decision,
        "reasons": "; ".join(series.verdict.reasons),
    }


def _link(rows: list[dict[str, str]], labels: Path) -> list[dict[str, str]]:
    sheet = read_sheet(labels)
    link = next((name for name in _LINKS if name in sheet.columns), None)
    columns = [name for name in sheet.columns if name not in _LINKS]
    if link is None or not any(name == "label" or name.startswith("label_") for name in columns):
        raise CohortError(
            f"columns {', '.join(sheet.columns)}", where=labels,
            expected=f"label (or label_<finding>) and one of {', '.join(_LINKS)}",
        )  # fmt: skip
    entries = _entries(sheet, link)
    linked = []
    for row in rows:
        entry = entries.get(row[link])
        values = {name: entry.get(name) for name in columns} if entry else dict.fromkeys(columns, "")
        patient = {"patient": entry.get("patient")} if entry and "patient" in sheet.columns else {}
        linked.append({**row, **patient, **values, "linked": "yes" if entry else ""})
    if not any(row["linked"] for row in linked):
        raise CohortError(
            f"none of {len(entries)} rows matches a series by {link}", where=labels,
            expected=f"{link} as in the files", action="Compare with the quality table",
        )  # fmt: skip
    return linked


def _entries(sheet: Sheet, link: str) -> dict[str, Row]:
    entries: dict[str, Row] = {}
    for row in sheet.rows:
        if row.get(link) in entries:
            first = entries[row.get(link)].line
            raise CohortError(
                f"rows {first} and {row.line} have the same {link}", where=sheet.path, expected="each once"
            )
        entries[row.get(link)] = row
    return entries


def _name_patients(rows: list[dict[str, str]], key_file: Path | None, keep: bool) -> None:
    """Replace identifiers by keyed hashes, or without a key by numbers in order of appearance."""
    if keep:
        return
    key = _key(key_file) if key_file else None
    numbers: dict[str, str] = {}
    for row in rows:
        patient = row["patient"]
        if key:
            row["patient"] = "P" + hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:12]
        else:
            row["patient"] = numbers.setdefault(patient, f"P{len(numbers) + 1:05d}")


def _key(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise CohortError(f"key cannot be read ({error.strerror})", where=path) from error
    if len(key) < 16:
        raise CohortError(
            f"key of {len(key)} bytes", where=path, expected="at least 16", action="Make one: openssl rand -hex 32"
        )
    return key


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["scan"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
