"""``med-transfer pretrain``: source scans in, a pretrained encoder out."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import AsJson, Config, Device, Overrides
from med_transfer.cli.terminal import progress_bars, say, say_json
from med_transfer.errors import ConfigError
from med_transfer.errors.numbers import counted

NAME = "pretrain"
EXAMPLE = "SCANS -c configs/pretraining/contrastive.yaml -o runs/pretrained"


def command(
    scans: Annotated[
        Path, typer.Argument(help="Folder of scans, a cohort.csv (labels, masks), or an .npz of source scans.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder for the encoder; give the same folder again to resume.")
    ],
    config: Config = None,
    overrides: Overrides = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=(
                "Pretraining method: distillation, supervised, masked_autoencoding, contrastive, painted_nodules or "
                "painted_lesions."
            ),
            show_default=False,
        ),
    ] = None,
    teacher_weights: Annotated[
        Path | None, typer.Option(help="Weights of the teacher (distillation).", show_default=False)
    ] = None,
    probe: Annotated[
        Path | None, typer.Option(help="cohort.csv for a linear probe during pretraining.", show_default=False)
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Pretrain a backbone on source scans, labelled or not; torchrun ... -m med_transfer pretrain uses several GPUs."""
    from med_transfer.config import load_config
    from med_transfer.pretraining import PretrainingConfig, pretrain

    chosen = {"method": method, "distillation.teacher_weights": teacher_weights, "probe.cohort": probe}
    options = [f"{key}={json.dumps(str(value))}" for key, value in chosen.items() if value is not None]
    settings = load_config(PretrainingConfig, config, [*(overrides or ()), *options])
    if teacher_weights and settings.method != "distillation":
        raise ConfigError(f"--teacher-weights with method {settings.method}", expected="method distillation")
    with progress_bars() as progress:
        done = pretrain(scans, settings, out, device, progress)
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes, the first one speaks
        return
    record, measured = done.record, done.measured
    if as_json:
        say_json(
            {
                "encoder": str(done.encoder),
                "steps": record["steps"],
                "scans": done.n_scans,
                "left_out": done.n_left_out,
                "measured": measured,
            }
        )
    else:
        say(
            f"{counted(done.n_scans, 'scan')}, {done.n_left_out} left out, "
            f"{record['steps']} steps in {record['seconds']:.0f} s"
        )
        say("  " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in measured.items()))
        say(f"encoder: {done.encoder}")
        weights = shlex.quote(f"backbone.weights={done.folder}")
        say(f"use it: --set backbone.name={done.backbone} --set {weights}")
    together = "TORCHELASTIC_RUN_ID" in os.environ  # torchrun would take 1 for a crash
    raise typer.Exit(1 if done.n_left_out and not together else 0)
