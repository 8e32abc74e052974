"""``med-transfer compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import AsJson

NAME = "compare"


def command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the others are held against the first.")],
    as_json: AsJson = False,
) -> None:
    """Compare runs on the test scans they share, with paired intervals over patients."""
    from med_transfer.cli.summary import estimate_text
    from med_transfer.cli.terminal import say, say_json
    from med_transfer.comparison import compare_runs

    rows = compare_runs(runs)
    if as_json:
        say_json([row.as_record() for row in rows])
        return
    for row in rows:
        metrics = row.metrics
        say(f"{row.run}   {row.n_shared} test scans")
        say(f"  macro AUC {estimate_text(metrics.macro_auc)}")
        say(f"  balanced sensitivity {estimate_text(metrics.balanced_accuracy)}")
        if row.macro_auc and row.balanced_sensitivity:
            say(f"  minus the first: macro AUC {estimate_text(row.macro_auc, signed=True)}")
            say(f"  minus the first: balanced sensitivity {estimate_text(row.balanced_sensitivity, signed=True)}")
