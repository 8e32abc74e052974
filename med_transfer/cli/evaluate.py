"""``med-transfer evaluate``: a bundle on another cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import (
    AsJson,
    Bundle,
    IntervalOfRates,
    Prevalence,
    ReportLanguage,
    SignedWith,
    Subgroups,
    column_names,
)
from med_transfer.cli.terminal import progress_bars, say, say_json

NAME = "evaluate"
EXAMPLE = "runs/first other-hospital/cohort.csv -o runs/first-elsewhere"


def command(
    bundle: Bundle,
    cohort: Annotated[Path, typer.Argument(help="cohort.csv of labelled scans that the bundle has never seen.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")],
    subgroups: Subgroups = None,
    prevalence: Prevalence = None,
    interval: IntervalOfRates = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Evaluate scans that were seen in training, too; the report says so."),
    ] = False,
    gallery: Annotated[
        int,
        typer.Option(
            min=0, max=12, help="Number of errors to show in the report, with maps of where the network looked."
        ),
    ] = 6,
    language: ReportLanguage = "en",
    key: SignedWith = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a bundle on patients that it was not trained on: per-class sensitivity, report, predictions."""
    from med_transfer.cli.summary import say_metrics
    from med_transfer.evaluation.external import EvaluationSettings, evaluate_bundle
    from med_transfer.metrics.config import EvaluationConfig, read_prevalence

    config = EvaluationConfig(interval=interval or "wilson", prevalence=read_prevalence(prevalence or ()))
    settings = EvaluationSettings(column_names(subgroups), allow_overlap, language, config, gallery, key)
    with progress_bars() as progress:
        metrics = evaluate_bundle(bundle, cohort, out, settings, progress)
    if as_json:
        say_json(metrics.model_dump(mode="json", by_alias=True))
    else:
        say_metrics(metrics)
        say(f"report: {out / 'report.html'}")
    raise typer.Exit(1 if metrics.failed.n else 0)
