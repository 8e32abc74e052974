"""``med-transfer inspect``: what is in a scan or folder, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import AsJson

NAME = "inspect"


def command(
    scan: Annotated[Path, typer.Argument(help="A scan, or a folder tree.")],
    picture: Annotated[
        Path | None, typer.Option(help="PNG of three planes of the first usable series.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the series found, the verdict on each, spacing, orientation and values."""
    from med_transfer.cli.terminal import say, say_json
    from med_transfer.errors import ScanNotFound
    from med_transfer.scans import survey
    from med_transfer.scans.description import describe_series, write_picture

    found = survey(scan)
    rows = [describe_series(series) for series in found.series]
    if picture:
        write_picture(next((series for series in found.series if series.verdict.usable), None), picture)
    if as_json:
        say_json({"series": rows, "ignored": [{"path": str(one.path), "reason": one.reason} for one in found.ignored]})
    else:
        for row in rows:
            say("\n".join(f"{key:<12} {value}" for key, value in row.items()) + "\n")
        for one in found.ignored:
            say(f"no scan      {one.path}: {one.reason}")
    if not rows and not found.ignored:
        raise ScanNotFound("no files", where=scan, expected="DICOM, NIfTI, NRRD or MetaImage")
    usable = sum(not row["verdict"].startswith("reject") for row in rows)
    raise typer.Exit(0 if usable == len(rows) > 0 else (1 if usable else 3))
