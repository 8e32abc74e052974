"""``med-transfer phantom``: a synthetic CT cohort with known geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import Config, Overrides
from med_transfer.cli.terminal import progress_bars, say

NAME = "phantom"
EXAMPLE = "phantoms --set patients_per_class=8 --set format=nifti"


def command(
    out: Annotated[Path, typer.Argument(help="New folder for the scans and cohort.csv.")],
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Write a phantom cohort: chest CTs with lesions of several classes, as DICOM series or NIfTI files."""
    from med_transfer.config import load_config
    from med_transfer.phantoms import PhantomConfig, write_cohort

    settings = load_config(PhantomConfig, config, overrides or ())
    with progress_bars() as progress:
        table = write_cohort(out, settings, progress)
    say(str(table))
