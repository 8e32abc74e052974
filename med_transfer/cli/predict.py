"""``med-transfer predict``: a bundle over a folder tree of scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from med_transfer.cli.options import Also, AsJson, Mask, Roi, SignedWith, with_region

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
    runtime: Annotated[
        Literal["auto", "torch", "openvino", "onnx"],
        typer.Option(help="What computes the network; auto: the fastest that the bundle was exported for."),
    ] = "auto",
    key: SignedWith = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read scans; default: one a core.", show_default=False),
    ] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: only that part of the scans, into OUT/shard-i-of-n.", show_default=False)
    ] = "1/1",
    sbatch: Annotated[
        int | None,
        typer.Option(
            "--write-sbatch",
            min=1,
            metavar="N",
            help="Predict nothing; write OUT/predict.sbatch, a SLURM job array of N shards.",
            show_default=False,
        ),
    ] = None,
    also: Also = None,
    as_json: AsJson = False,
) -> None:
    """Predict every scan; one that cannot be used is recorded with its reason and the rest goes on."""
    from med_transfer.cli.summary import say_abstained
    from med_transfer.cli.terminal import progress_bars, say, say_json
    from med_transfer.inference import BatchSettings, load_bundle
    from med_transfer.inference.shards import Shard
    from med_transfer.inference.summary import write_beside
    from med_transfer.predictions.formats import known_formats

    formats = known_formats(also or ())  # before the work, not after it
    settings = BatchSettings(workers, Shard.parse(shard))
    predictor = load_bundle(bundle, device, key, runtime)
    if sbatch is not None:
        options = {"--mask": mask, "--roi": roi, "--device": device, "--runtime": runtime, "--key": key}
        options["--workers"] = workers
        say(str(_write_sbatch(bundle, scans, out, sbatch, options)))
        return
    if not as_json:
        say(predictor.record.preprocessing.region_sentence)
        say(predictor.chosen.sentence)
    with progress_bars() as progress:
        result = predictor.predict_folder(with_region(scans, mask, roi), out, progress, settings)
    write_beside(result.table, formats)
    counts = {
        "ok": result.n_ok,
        "rejected": result.n_rejected,
        "failed": result.n_failed,
        "ignored": result.n_ignored,
    }
    if result.n_fused is not None:
        counts["fused"] = result.n_fused
    if as_json:
        say_json(
            counts | {"abstained": result.n_abstained, "runtime": predictor.chosen.name, "table": str(result.table)}
        )
    else:
        say(", ".join(f"{number} {name}" for name, number in counts.items()))
        say_abstained(result.n_abstained, result.n_ok, predictor.record.abstain_above_novelty, result.why_abstained)
        say(str(result.table))
    raise typer.Exit(result.exit_code)


def _write_sbatch(bundle: Path, scans: Path, out: Path, n: int, options: dict[str, object]) -> Path:
    """With whole paths, since a job starts where it is submitted."""
    import sys

    from med_transfer.inference.sbatch import write_sbatch
    from med_transfer.scans.isolation import ReadLimits

    limits = ReadLimits.from_environment()
    before = ["--read-seconds", f"{limits.seconds:g}", "--read-gib", f"{limits.gib:g}"]
    whole = [str(path.absolute()) for path in (bundle, scans, out)]
    given = [
        word
        for name, value in options.items()
        if value is not None
        for word in (name, str(value.absolute() if isinstance(value, Path) else value))
    ]
    program = [sys.executable, "-m", "med_transfer", *before]
    return write_sbatch(out.absolute(), n, program, [*whole[:2], "-o", whole[2], *given])
