"""``med-transfer index``: a folder of scans to a cohort table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import AsJson, MaxGapMm, finetune_command
from med_transfer.cli.terminal import progress_bars, say, say_json
from med_transfer.errors.numbers import counted

if TYPE_CHECKING:
    from med_transfer.cohorts.label_sheet import RowRemark

NAME = "index"
EXAMPLE = "SCANS -o cohort.csv --labels labels.csv"


def command(
    scans: Annotated[Path, typer.Argument(help="Folder tree of scans.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Cohort table to write.")] = Path("cohort.csv"),
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Table with a column label, and series_uid, scan, study_uid, accession or patient.", show_default=False
        ),
    ] = None,
    series_rules: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of rules that choose the series of a study; see configs/series/.", show_default=False
        ),
    ] = None,
    max_gap_mm: MaxGapMm = 0.0,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Secret key for pseudonyms: tables made with the same key give a patient the same pseudonym. Default: "
                "patients.key beside the table, created if there is none."
            ),
            show_default=False,
        ),
    ] = None,
    keep_patient_ids: Annotated[
        bool, typer.Option("--keep-patient-ids", help="Write PatientID unchanged, without pseudonyms.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find all series, check each, choose one per study, link labels, and write cohort.csv and a quality table."""
    from med_transfer.cohorts.indexing import IndexSettings, write_index
    from med_transfer.config import load_config
    from med_transfer.scans.search.series_rules import SeriesRules

    rules = load_config(SeriesRules, series_rules) if series_rules else None
    settings = IndexSettings(rules, max_gap_mm, key_file, keep_patient_ids)
    with progress_bars() as progress:
        index = write_index(scans, out, labels, settings, progress)
    if as_json:
        say_json(asdict(index))
    else:
        say(
            f"{index.n_listed} series listed, {index.n_not_chosen} not chosen, {index.n_unlabelled} without a label, "
            f"{index.n_rejected} rejected, {counted(index.n_ignored, 'other file')}; "
            f"{counted(index.n_files, 'file')} in all"
        )
        for text, rows in _by_text(index.remarks).items():
            say(f"{labels}: row {', '.join(map(str, rows))}: {text}")
        for folder in index.unopened:
            say(f"{folder}: could not be opened")
        say(str(index.cohort))
        if index.before is not None:
            say(f"{index.before}: the previous table, whose labels differ")
        say(f"{index.quality}: every series, with its verdict and reason")
        if index.key is not None:
            say(
                f"{index.key}: the key of the patients' pseudonyms; keep it secret, and reuse it for the next index of "
                "these patients"
            )
        if labels is None and index.n_listed:
            say("next: write a sheet with a column label, and run the same command with --labels SHEET")
        elif index.n_listed:
            say(f"next: {finetune_command(index.cohort, '-o', 'runs/first')}")
    raise typer.Exit(index.exit_code)


def _by_text(remarks: Iterable[RowRemark]) -> dict[str, list[int]]:
    """What holds for many rows is said once."""
    rows: dict[str, list[int]] = {}
    for remark in remarks:
        rows.setdefault(remark.text, []).append(remark.row)
    return rows
