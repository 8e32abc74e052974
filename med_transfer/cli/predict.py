"""``med-transfer predict``: a bundle over a folder tree of scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import AsJson, Mask, Roi, SignedWith, with_region

NAME = "predict"
EXAMPLE = "runs/first NEW_SCANS -o predictions"


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or the run folder that holds one.")],
    scans: Annotated[
        Path, typer.Argument(help="A folder tree, one scan, or a cohort.csv (regions of interest, no labels needed).")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for predictions.csv; the same folder again resumes.")
    ],
    mask: Mask = None,
    roi: Roi = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    key: SignedWith = None,
    as_json: AsJson = False,
) -> None:
    """Predict every scan; one that cannot be used is recorded with its reason and the rest goes on."""
    from med_transfer.cli.summary import say_abstained
    from med_transfer.cli.terminal import progress_bars, say, say_json
    from med_transfer.inference import load_bundle

    predictor = load_bundle(bundle, device, key)
    if not as_json:
        say(predictor.record.preprocessing.region_sentence)
    with progress_bars() as progress:
        result = predictor.predict_folder(with_region(scans, mask, roi), out, progress)
    counts = {
        "ok": result.n_ok,
        "rejected": result.n_rejected,
        "failed": result.n_failed,
        "ignored": result.n_ignored,
    }
    if result.n_fused is not None:
        counts["fused"] = result.n_fused
    if as_json:
        say_json(counts | {"abstained": result.n_abstained, "table": str(result.table)})
    else:
        say(", ".join(f"{number} {name}" for name, number in counts.items()))
        say_abstained(result.n_abstained, result.n_ok, predictor.record.abstain_above_novelty)
        say(str(result.table))
    raise typer.Exit(result.exit_code)
