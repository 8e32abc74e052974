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
ReportLanguage = Annotated[Literal["en", "zh-TW"], typer.Option("--language", help="Language of the report.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
