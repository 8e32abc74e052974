"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file; see configs/.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value over the config, for example --set training.epochs=20.", show_default=False),
]
Subgroups = Annotated[
    str | None,
    typer.Option(help="Columns to measure by, for example age,sex; default: all suitable ones.", show_default=False),
]
ReportLanguage = Annotated[Literal["en", "zh-TW"], typer.Option("--language", help="Language of the report.")]
Prevalence = Annotated[
    list[str] | None,
    typer.Option(help="CLASS=0.1: give PPV and NPV at this prevalence of a class too; repeatable.", show_default=False),
]
IntervalOfRates = Annotated[
    Literal["wilson", "clopper-pearson", "jeffreys"] | None,
    typer.Option("--interval", help="Interval of the rates; default: wilson.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]


def column_names(text: str | None) -> tuple[str, ...] | None:
    """``age, sex`` as names; None where nothing was said."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
