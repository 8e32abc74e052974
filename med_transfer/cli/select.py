"""``med-transfer select``: a cohort in, a ranking of backbones out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import (
    AsJson,
    CohortTable,
    Config,
    Overrides,
    UsePlan,
    cohort_and_settings,
    finetune_command,
)
from med_transfer.cli.terminal import progress_bars, say, say_json
from med_transfer.errors import UsageError

if TYPE_CHECKING:
    from med_transfer.selection import Selection

NAME = "select"
EXAMPLE = "cohort.csv -o selection --weights resnet18-w32=runs/source"


def command(
    cohort: CohortTable,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder for the result and the features.")] = Path(
        "selection"
    ),
    backbones: Annotated[
        str | None,
        typer.Option(
            "--backbones", help="Backbones to rank, separated by commas; default: all whose weights are available."
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="NAME=PATH",
            help="Your own weights file, bundle or run folder for a backbone; repeatable.",
        ),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
    plan: UsePlan = True,
    as_json: AsJson = False,
) -> None:
    """Rank backbones for a cohort before training, using its training folds only.

    Without --config, a config is planned from the scans and printed first, as by 'med-transfer plan'.
    """
    from med_transfer.api.planned import PLAN_FILE
    from med_transfer.cohorts.kept_scans import keeping_scans
    from med_transfer.finetuning import FinetuneConfig
    from med_transfer.selection import select
    from med_transfer.selection.report import as_record

    names = [name.strip() for name in backbones.split(",") if name.strip()] if backbones is not None else None
    given = [_name_and_path(text) for text in weights or ()]
    words = overrides or ()
    with progress_bars() as progress, keeping_scans():
        table, settings = cohort_and_settings(
            FinetuneConfig,
            cohort,
            config,
            words,
            out=out,
            job="a ranking of backbones",
            plan=plan,
            as_json=as_json,
            progress=progress,
        )
        selection = select(table, settings, out, names, given, progress)
    if as_json:
        say_json(as_record(selection, settings))
    else:
        _say_ranking(selection)
        if selection.choice:
            say(f"next: {next_command(selection, cohort, config or (out / PLAN_FILE if plan else None), words)}")
    raise typer.Exit(1 if selection.failed else 0)


def _say_ranking(selection: Selection) -> None:
    from med_transfer.selection.report import table_rows

    rows = table_rows(selection)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    say()
    for name, reason in selection.left_out.items():
        say(f"left out: {name}: {reason}")
    say(f"table: {selection.folder / 'selection.md'}")
    say(f"recommended: {selection.recommended or 'none'}")
    say(selection.reason)


def next_command(selection: Selection, cohort: Path, config: Path | None, overrides: Sequence[str]) -> str:
    """The ``finetune`` that takes the recommendation or tries what may help, with the config that it was made for."""
    from med_transfer.selection.report import as_options

    file = ["-c", config] if config else ["--no-plan"]  # a plan might choose another input than was measured
    return f"{finetune_command(cohort, '-o', 'RUN', *file)} {as_options([*overrides, *selection.overrides])}"


def _name_and_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name.strip() or not path.strip():
        raise UsageError(f"{text!r}", where="--weights", expected="NAME=PATH, for example resnet18-w32=RUN/bundle")
    return name.strip(), Path(path.strip())
