"""``med-transfer finetune``: a cohort in, a run folder out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from med_transfer.cli.options import (
    AsJson,
    CohortTable,
    Config,
    Engine,
    IntervalOfRates,
    Minutes,
    Overrides,
    Prevalence,
    Quick,
    RayAddress,
    Subgroups,
    UsePlan,
    column_names,
    finetune_command,
    machines_of,
    say_looks_at,
)
from med_transfer.cli.terminal import progress_bars, say

NAME = "finetune"
EXAMPLE = "cohort.csv -o runs/first --set training.epochs=30"

OnHarm = Annotated[
    Literal["report", "fallback"] | None,
    typer.Option(
        help=(
            "If transfer harms on the validation scans: report it, or keep the network trained from scratch (fallback)."
        ),
        show_default=False,
    ),
]


def command(
    cohort: CohortTable,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; give the same folder again to resume.")],
    config: Config = None,
    overrides: Overrides = None,
    on_harm: OnHarm = None,
    subgroups: Subgroups = None,
    prevalence: Prevalence = None,
    interval: IntervalOfRates = None,
    language: Annotated[
        Literal["en", "zh-TW"] | None,
        typer.Option(help="Language of the report; same as --set report.language=.", show_default=False),
    ] = None,
    minutes: Minutes = None,
    quick: Quick = False,
    plan: UsePlan = True,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a pretrained backbone on a labelled cohort and report per-class sensitivity.

    Without --config, a config is planned from the scans and printed first, as by 'med-transfer plan'.
    """
    from med_transfer.api.planned import begun, config_for, keep_plan, timed_config, with_quick
    from med_transfer.cli.summary import say_run
    from med_transfer.cohorts import Cohort
    from med_transfer.cohorts.kept_scans import keeping_scans
    from med_transfer.finetuning import FinetuneConfig, finetune
    from med_transfer.metrics.config import read_prevalence

    chosen = [f"transfer.on_harm={on_harm}"] if on_harm else []
    chosen += [f"subgroups={json.dumps(names)}"] if (names := column_names(subgroups)) is not None else []
    chosen += [f"evaluation.prevalence={json.dumps(read_prevalence(prevalence))}"] if prevalence else []
    chosen += [f"evaluation.interval={interval}"] if interval else []
    chosen += [f"report.language={language}"] if language else []
    words = with_quick([*(overrides or ()), *chosen], quick=quick)
    goes_on = config is None and plan and begun(out)  # as it was planned, whatever the time of day
    with machines_of(engine, ray_address) as machines, progress_bars() as progress, keeping_scans():
        table = Cohort.read(cohort)
        settings, planned = config_for(FinetuneConfig, table, config, words, out=out, plan=plan, progress=progress)
        if not goes_on and (plan or minutes is not None):
            timed = timed_config(table, settings, planned, minutes)
            settings = timed.config
            if planned:
                keep_plan(out, timed.as_yaml(finetune_command(cohort, "-o", out)), "a run")
            for sentence in () if as_json else timed.sentences:
                say(sentence)
        elif not as_json:
            say_looks_at(settings, table)
        run = finetune(table, settings, out, progress, machines)
    say_run(run, as_json=as_json)
    raise typer.Exit(1 if run.metrics.failed.n else 0)
