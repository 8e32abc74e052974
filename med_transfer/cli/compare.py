"""``med-transfer compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import AsJson, ReportLanguage
from med_transfer.cli.terminal import say, say_json

if TYPE_CHECKING:
    from med_transfer.evaluation.comparison import Comparison

NAME = "compare"
EXAMPLE = "runs/first runs/second --margin 0.05 -o side-by-side"


def command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    reference: Annotated[
        Path | None, typer.Option(help="Run that the others are compared with; default: the first.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder for compare.html, compare.md and compare.json.")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Non-inferiority margin, stated beforehand: the largest loss that would not matter."),
    ] = None,
    language: ReportLanguage = "en",
    as_json: AsJson = False,
) -> None:
    """Compare runs on the test scans that they share, with paired intervals over patients and tests."""
    from med_transfer.evaluation.comparison import compare_runs
    from med_transfer.evaluation.comparison.report import scans_sentence, write_comparison

    rows = compare_runs(runs, reference=reference, margin=margin)
    if out is not None:
        write_comparison(rows, out, language)
    if as_json:
        say_json([row.as_record() for row in rows])
        return
    for row in rows:
        _say_run(row)
    say(scans_sentence(rows))
    if out is not None:
        say(f"page: {out / 'compare.html'}")


def _say_run(row: Comparison) -> None:
    from med_transfer.cli.summary import estimate_text
    from med_transfer.evaluation.comparison.forest import differences
    from med_transfer.evaluation.comparison.report import p_text

    say(f"{row.run}   {row.n_shared} test scans" + ("   (reference)" if row.is_reference else ""))
    say(f"  macro AUC {estimate_text(row.metrics.macro_auc)}")
    say(f"  balanced accuracy {estimate_text(row.metrics.balanced_accuracy)}")
    if row.is_reference:
        return
    for measure, estimate in differences(row).items():
        difference = estimate_text(estimate, signed=True, margin=row.margin)
        say(f"  minus the reference: {measure[:1].lower()}{measure[1:]} {difference}")
        if verdict := row.held_to_margin(estimate):
            say(f"    margin {verdict.margin:g}: {verdict.sentence}")
    for test in row.tests:
        say(f"  {test.method}: p {p_text(test.p_value)}, Holm {p_text(test.p_holm)}; {test.found or test.reason}")
