"""``med-transfer index``: a folder of scans to a cohort table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import AsJson

NAME = "index"


def command(
    scans: Annotated[Path, typer.Argument(help="Folder tree of scans.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="cohort.csv to write.")] = Path("cohort.csv"),
    labels: Annotated[
        Path | None, typer.Option(help="Table with label and series_uid, scan or patient.", show_default=False)
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--pseudonymise", help="Key file: stable pseudonyms.", show_default=False)
    ] = None,
    keep_patient_ids: Annotated[bool, typer.Option("--keep-patient-ids", help="Write PatientID as it is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find and judge every series, link a label sheet, and write cohort.csv and a quality table."""
    from dataclasses import asdict

    from med_transfer.cli.terminal import say, say_json
    from med_transfer.cohorts.indexing import write_index

    index = write_index(scans, out, labels, key_file=key_file, keep_patient_ids=keep_patient_ids)
    if as_json:
        say_json(asdict(index))
    else:
        say(f"{index.n_listed} series listed, {index.n_unlabelled} without a label, {index.n_rejected} rejected, "
            f"{index.n_ignored} other files")  # fmt: skip
        say(str(index.cohort))
        say(str(index.quality))
    raise typer.Exit(1 if index.n_rejected else 0)
