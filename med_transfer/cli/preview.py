"""``med-transfer preview``: what the network will see of a cohort, before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import AsJson, CohortTable, Config, Overrides, ReportLanguage, UsePlan, say_looks_at
from med_transfer.cli.terminal import progress_bars, say, say_json

if TYPE_CHECKING:
    from med_transfer.finetuning.preview import Preview

NAME = "preview"
EXAMPLE = "cohort.csv -c configs/lidc_texture.yaml -o preview"


def command(
    cohort: CohortTable,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder for preview.html and a picture of each scan.")
    ],
    config: Config = None,
    overrides: Overrides = None,
    per_class: Annotated[
        int, typer.Option(min=1, help="Number of scans of each class; --set seed=1 shows others.")
    ] = 2,
    draws: Annotated[int, typer.Option(min=0, help="Number of augmented views of each scan.")] = 2,
    language: ReportLanguage = "en",
    plan: UsePlan = True,
    as_json: AsJson = False,
) -> None:
    """Show what the network sees: pictures of each class before and after augmentation, sizes in mm, lost detail."""
    from med_transfer.api.planned import config_for
    from med_transfer.cohorts import Cohort
    from med_transfer.cohorts.kept_scans import keeping_scans
    from med_transfer.finetuning import FinetuneConfig
    from med_transfer.finetuning.preview import preview

    with progress_bars() as progress, keeping_scans():
        table = Cohort.read(cohort)
        settings, _ = config_for(FinetuneConfig, table, config, overrides or (), plan=plan, progress=progress)
        if not as_json:
            say_looks_at(settings, table)
        shown = preview(table, settings, per_class=per_class, draws=draws, progress=progress)
    page = shown.write(out, language)
    if as_json:
        say_json(shown.record())
    else:
        _say(shown)
        say(f"page: {page}")
    raise typer.Exit(1 if shown.unread else 0)


def _say(shown: Preview) -> None:
    for scan in shown.scans:
        say(f"row {scan.row}, {scan.label}")
        for axis in scan.facts.axes:
            say(f"  {axis.name}: {axis.view_mm:.0f} mm in {axis.voxels} voxels; {axis.fate}")
        for sentence in (*scan.facts.sentences, *(f"WARNING {warning}" for warning in scan.facts.warnings)):
            say(f"  {sentence}")
    for remark in shown.remarks:
        say(f"WARNING {remark}")
    for one in shown.unread:
        say(f"not shown: row {one.row}, {one.label}: {one.reason}")
