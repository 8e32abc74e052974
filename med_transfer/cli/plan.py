"""``med-transfer plan``: a cohort in, the config that suits it out, with the reasons and the time it will take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.atomic import require_writable, write_text
from med_transfer.cli.options import AsJson, CohortTable, Minutes, Overrides, Quick, finetune_command
from med_transfer.cli.terminal import progress_bars, say, say_json
from med_transfer.errors import ConfigError, UsageError

NAME = "plan"
EXAMPLE = "cohort.csv -o plan.yaml --minutes 30"


def command(
    cohort: CohortTable,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Config file to write; default: standard output.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    minutes: Minutes = None,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Write a config that suits a cohort, with the reason for each choice and the estimated time."""
    from med_transfer.api.planned import planned_config
    from med_transfer.cohorts import Cohort

    table = Cohort.read(cohort)
    if out is not None:
        require_writable(out)
        _refuse_to_lose(out)
    with progress_bars() as progress:
        planned = planned_config(table, overrides or (), minutes=minutes, quick=quick, progress=progress)
    command_to_run = finetune_command(cohort, "-c", out or "plan.yaml", "-o", "RUN")
    text = planned.as_yaml(command_to_run)
    if out is not None:
        write_text(out, text)
    if as_json:
        say_json(planned.record)
    elif out is None:
        say(text)
    else:
        for sentence in planned.sentences:
            say(sentence)
        say(f"written to {out}: {command_to_run}")
    raise typer.Exit(1 if planned.plan and planned.plan.fingerprint.failed else 0)


def _refuse_to_lose(out: Path) -> None:
    """Only a config is written over, not the table by a slip of the hand. Raises UsageError."""
    from med_transfer.config import load_config
    from med_transfer.finetuning import FinetuneConfig

    if not out.exists():
        return
    try:
        load_config(FinetuneConfig, out)
    except ConfigError as error:
        raise UsageError(
            f"there is already something other than a config of finetune ({error.found})",
            where=out,
            expected="a new name for the config to write",
            action="Choose another -o",
        ) from error
