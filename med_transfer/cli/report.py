"""``med-transfer report``: the report of a finished run or evaluation once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import ReportLanguage
from med_transfer.cli.terminal import say

NAME = "report"
EXAMPLE = "runs/first --language zh-TW"


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or of an evaluation.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Output folder; default: replace the report in RUN.", show_default=False),
    ] = None,
    language: ReportLanguage = "en",
) -> None:
    """Write a report again, or in another language, without training, reading scans or opening the test set."""
    from med_transfer.report.writing import write_again

    say(f"report: {write_again(run, language, out)}")
