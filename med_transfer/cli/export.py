"""``med-transfer export``: a bundle's network for a faster runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from med_transfer.cli.options import AsJson, Bundle
from med_transfer.cli.terminal import progress_bars, say, say_json

NAME = "export"
EXAMPLE = "runs/first --to openvino --precision int8"


def command(
    bundle: Bundle,
    to: Annotated[Literal["openvino", "onnx"], typer.Option(help="Runtime to export to.")],
    precision: Annotated[
        Literal["fp32", "bf16", "int8"], typer.Option(help="Numerical precision; bf16 with openvino only.")
    ] = "fp32",
    scans: Annotated[
        Path | None,
        typer.Option(
            help="Table of scans for the check, preferably labelled; default: the run's validation scans.",
            show_default=False,
        ),
    ] = None,
    sign_key: Annotated[
        Path | None, typer.Option(help="Private key to re-sign a signed bundle.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export the network, check it on real scans, and keep it only if it answers as torch does. Exit code 1: it does
    not, and torch stays in use."""
    from med_transfer.runtimes.export import export_bundle

    with progress_bars() as progress:
        result = export_bundle(bundle, to, precision, scans, sign_key=sign_key, progress=progress)
    if as_json:
        say_json(
            result.record.model_dump(mode="json")
            | {"folder": result.folder and str(result.folder), "objections": result.objections}
        )
    else:
        for sentence in result.sentences:
            say(sentence)
    raise typer.Exit(0 if result.folder else 1)
