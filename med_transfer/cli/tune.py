"""``med-transfer tune``: a cohort in, a better config out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import (
    AsJson,
    CohortTable,
    Config,
    Engine,
    Overrides,
    RayAddress,
    UsePlan,
    cohort_and_settings,
    finetune_command,
    machines_of,
)
from med_transfer.cli.terminal import progress_bars, say, say_json

if TYPE_CHECKING:
    from med_transfer.tuning import Tuning

NAME = "tune"
EXAMPLE = "cohort.csv -o search --minutes 60"


def command(
    cohort: CohortTable,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the search; give the same folder again to resume.")
    ],
    config: Config = None,
    overrides: Overrides = None,
    plan: UsePlan = True,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Time budget of this call in minutes; default: 60, unless --trials is given.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=0, help="Number of trials besides the default config, over all calls.", show_default=False),
    ] = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    as_json: AsJson = False,
) -> None:
    """Search for strategy, learning rates and augmentation on the training patients; the test scans are not used.

    Without --config, a config is planned from the scans and printed first, as by 'med-transfer plan'.
    """
    from med_transfer.cohorts.kept_scans import keeping_scans
    from med_transfer.tuning import TuneConfig, tune
    from med_transfer.tuning.report import as_record

    limit = 60.0 if minutes is None and trials is None else minutes
    try:
        with machines_of(engine, ray_address) as machines, progress_bars() as progress, keeping_scans():
            table, settings = cohort_and_settings(
                TuneConfig,
                cohort,
                config,
                overrides or (),
                out=out,
                job="a search",
                plan=plan,
                as_json=as_json,
                progress=progress,
            )
            tuning = tune(table, settings, out, minutes=limit, trials=trials, progress=progress, machines=machines)
    except KeyboardInterrupt:
        if (out / "best.yaml").exists():
            kept = f"kept: {out / 'best.yaml'} contains the best config so far, {out / 'tuning.md'} every trial"
            typer.echo(kept, err=as_json)
        raise  # the program says that the same command goes on
    if as_json:
        say_json(as_record(tuning))
    else:
        _say_summary(tuning, cohort)
    raise typer.Exit(1 if tuning.n_failed else 0)


def _say_summary(tuning: Tuning, cohort: Path) -> None:
    from med_transfer.tuning.report import summary, warning

    n = len(tuning.trials)
    say(f"{n} {'trial' if n == 1 else 'trials'}, {tuning.counts['pruned']} of them stopped early; {tuning.stopped}")
    say(summary(tuning))
    for key, value in (tuning.best.values if tuning.best else {}).items():
        say(f"  {key}: {value:.3g}" if isinstance(value, float) else f"  {key}: {value}")
    say(warning(tuning))
    say(f"trials: {tuning.folder / 'tuning.md'}")
    say(f"next: {finetune_command(cohort, '-o', 'RUN', '-c', tuning.best_file)}")
