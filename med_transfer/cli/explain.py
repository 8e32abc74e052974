"""``med-transfer explain``: where a bundle's network looks in a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from med_transfer.cli.options import AsJson, Bundle, Device, Mask, Roi, ScansToPredict, SignedWith, with_region
from med_transfer.cli.terminal import progress_bars, say, say_json

NAME = "explain"
EXAMPLE = "runs/first scan.nii.gz --mask nodule.nii.gz -o maps"


def command(
    bundle: Bundle,
    scans: ScansToPredict,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder for map.nii.gz, picture.png and explanation.json.")
    ],
    mask: Mask = None,
    roi: Roi = None,
    method: Annotated[
        Literal["gradcam", "occlusion", "attention"],
        typer.Option(help="Method of the map; attention: for networks that pool slices or tiles by attention."),
    ] = "gradcam",
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class to explain; default: the called class.", show_default=False)
    ] = None,
    stage: Annotated[
        int | None,
        typer.Option(
            help="Grad-CAM: stage of the network, -1: the deepest; default: the deepest that is fine enough.",
            show_default=False,
        ),
    ] = None,
    window_mm: Annotated[
        float | None,
        typer.Option(
            help="Occlusion: edge length of the hidden cube; default: a quarter of the input.", show_default=False
        ),
    ] = None,
    stride_mm: Annotated[
        float | None,
        typer.Option(
            help="Occlusion: distance between positions of the cube; default: half its edge.", show_default=False
        ),
    ] = None,
    fill: Annotated[
        Literal["mean", "floor"],
        typer.Option(help="Value that replaces hidden voxels: the mean, or the lower end of the window (air)."),
    ] = "mean",
    draws: Annotated[
        int | None,
        typer.Option(
            help="Number of random weights in the sanity check; default: 3 (occlusion: 1); 0: no check.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    key: SignedWith = None,
    as_json: AsJson = False,
) -> None:
    """Map where the network looks, in the scan's coordinates, and check how far the map can be trusted."""
    from med_transfer.api import explain

    with progress_bars() as progress:
        explained = explain(
            bundle,
            with_region(scans, mask, roi),
            out,
            method=method,
            class_name=class_name,
            stage=stage,
            window_mm=window_mm,
            stride_mm=stride_mm,
            fill=fill,
            draws=draws,
            device=device,
            public_key=key,
            progress=progress,
        )
    if as_json:
        say_json([record and record.model_dump(mode="json", by_alias=True) for record in explained.records])
    else:
        for folder, record in zip(explained.folders, explained.records, strict=True):
            say(f"{folder}: {record.sentence if record else 'no map; the table says why'}")
        if explained.table:
            say(str(explained.table))
    raise typer.Exit(explained.exit_code)
