"""``med-transfer demo``: the whole job on phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import ReportLanguage

NAME = "demo"
EXAMPLE = "-o runs/demo --language zh-TW"


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything.")] = Path("runs/demo"),
    language: ReportLanguage = "en",
) -> None:
    """Tell the whole story on synthetic CT: source, transfer, fine-tune, compare with scratch, report, predict."""
    import time

    from med_transfer.api.demonstration import demonstrate
    from med_transfer.cli.summary import say_metrics
    from med_transfer.cli.terminal import progress_bars, say

    started = time.monotonic()
    with progress_bars() as progress:
        demo = demonstrate(out, progress, language)
    say("Source cohort, four lesion shapes, learned from scratch:")
    say_metrics(demo.source.metrics)
    say("Target cohort, three lesion textures, few labels, transferred from the source:")
    say_metrics(demo.target.metrics)
    refused = demo.batch.n_rejected + demo.batch.n_failed
    say(f"Unseen scans: {demo.batch.n_ok} predicted, {refused} refused with a reason: {demo.batch.table}")
    say(f"report: {demo.target.report.resolve()}")
    say(f"done in {time.monotonic() - started:.0f} s")
