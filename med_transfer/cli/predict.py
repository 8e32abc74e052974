"""``med-transfer predict``: a bundle over a folder tree of scans."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from med_transfer.cli.options import (
    Also,
    AsJson,
    Bundle,
    Device,
    Engine,
    Mask,
    RayAddress,
    ReportLanguage,
    Roi,
    ScansToPredict,
    SignedWith,
    machines_of,
    refuse_together,
    refuse_without,
    with_region,
)
from med_transfer.cli.terminal import progress_bars, say, say_json, tell_remarks

if TYPE_CHECKING:
    from med_transfer.inference import BatchSettings, FolderOutcome, Predictor
    from med_transfer.inference.watch import WatchSettings
    from med_transfer.progress import Progress

NAME = "predict"
EXAMPLE = "runs/first NEW_SCANS -o predictions"


def command(
    bundle: Bundle,
    scans: ScansToPredict,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Output folder for predictions.csv; give the same folder again to resume."),
    ],
    mask: Mask = None,
    roi: Roi = None,
    device: Device = "auto",
    runtime: Annotated[
        Literal["auto", "torch", "openvino", "onnx"],
        typer.Option(help="Runtime of the network; auto: the fastest that the bundle was exported to."),
    ] = "auto",
    key: SignedWith = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes that read scans; default: one per core.", show_default=False),
    ] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: predict only part i of n, into OUT/shard-i-of-n.", show_default=False)
    ] = "1/1",
    sbatch: Annotated[
        int | None,
        typer.Option(
            "--write-sbatch",
            min=1,
            metavar="N",
            help="Only write OUT/predict.sbatch, a SLURM job array of N shards.",
            show_default=False,
        ),
    ] = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    also: Also = None,
    watching: Annotated[
        bool,
        typer.Option("--watch", help="Keep running: predict scans that arrive in the folder once they are complete."),
    ] = False,
    quiet_seconds: Annotated[
        float | None,
        typer.Option(
            help="With --watch: a scan is complete when its files have not changed for this long; default: 60.",
            show_default=False,
        ),
    ] = None,
    poll_seconds: Annotated[
        float | None,
        typer.Option(help="With --watch: interval between checks of the folder; default: 10.", show_default=False),
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            min=0, help="Number of scans to show in summary.html: the least like training, and the most confident."
        ),
    ] = 12,
    explained: Annotated[
        int,
        typer.Option("--explain", min=0, metavar="N", help="Write maps of the N most suspicious scans to OUT/maps."),
    ] = 0,
    language: ReportLanguage = "en",
    monitor: Annotated[
        bool, typer.Option("--monitor", help="Monitor drift of the scans: write drift.json and drift.prom.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Predict every scan; a scan that cannot be used is recorded with a reason, and the others are still predicted."""
    from med_transfer.bundle import bundle_folder, read_record
    from med_transfer.inference import BatchSettings, load_bundle
    from med_transfer.inference.contact_sheet import ContactSheet
    from med_transfer.inference.listing import require_outside
    from med_transfer.inference.on_cluster import OnCluster
    from med_transfer.inference.shards import WHOLE, Shard
    from med_transfer.inference.summary import write_beside
    from med_transfer.inference.watch import WatchSettings
    from med_transfer.predictions.formats import known_formats

    formats = known_formats(also or ())  # before the work, not after it
    settings = BatchSettings(workers, Shard.parse(shard))
    of_one_scan = {"--mask": mask is not None, "--roi": roi is not None}
    alone = {"--shard": settings.shard != WHOLE, "--engine ray": engine != "local"}
    if watching:
        refuse_together("--watch", {"--write-sbatch": sbatch is not None, **of_one_scan, **alone})
    else:
        times = {"--quiet-seconds": quiet_seconds, "--poll-seconds": poll_seconds}
        refuse_without("--watch", {name: seconds is not None for name, seconds in times.items()})
    if engine == "local":
        refuse_without("--engine ray", {"--ray-address": ray_address is not None})
    what = with_region(scans, mask, roi)
    default = WatchSettings()
    watch_settings = WatchSettings(
        default.quiet_seconds if quiet_seconds is None else quiet_seconds,
        default.poll_seconds if poll_seconds is None else poll_seconds,
    )
    if sbatch is not None:
        refuse_together("--write-sbatch", alone)
        read_record(bundle_folder(bundle))  # it is one
        require_outside(out, scans)
        options = {"--mask": mask, "--roi": roi, "--device": device, "--runtime": runtime, "--key": key}
        options |= {"--workers": workers, "--explain": explained or None, "--monitor": monitor or None}
        of_merge = {"--language": language, "--also": formats}
        options |= {"--pictures": pictures, **of_merge}
        script = _write_sbatch(bundle, scans, out, sbatch, options, of_merge)
        say_json({"script": str(script)}) if as_json else say(str(script))
        return
    predictor = load_bundle(bundle, device, key, runtime)
    if not as_json:
        say(predictor.record.preprocessing.region_sentence)
        say(predictor.chosen.sentence)

    drift = None
    if monitor:
        from med_transfer.inference.drift import DriftMonitor

        drift = DriftMonitor(predictor.record, predictor.identity, out / settings.shard.folder)
        settings = replace(settings, observe=drift.observe, ended=drift.save)

    sheet = ContactSheet(predictor, pictures, explained)

    def write(progress: Progress, outcome: FolderOutcome) -> None:
        write_beside(outcome.table, formats, language, sheet.of(outcome, progress), outcome.rows)

    if watching:
        for outcome in _watched(predictor, scans, out, settings, watch_settings, write):
            _say_outcome(outcome, predictor, as_json=as_json)
        return
    with machines_of(engine, ray_address) as machines, progress_bars() as progress:
        if machines is not None:
            settings = replace(settings, engine=OnCluster(machines, predictor, scans))
        settings = replace(settings, finished=partial(write, progress))
        result = predictor.predict_folder(what, out, progress, settings)
    _say_outcome(result, predictor, as_json=as_json)
    if drift is not None and not as_json:
        say("\n".join(drift.moved.values()) or "nothing moved")
    raise typer.Exit(result.exit_code)


def _watched(
    predictor: Predictor,
    scans: Path,
    out: Path,
    settings: BatchSettings,
    watching: WatchSettings,
    write: Callable[[Progress, FolderOutcome], None],
) -> Iterator[FolderOutcome]:
    """Until SIGTERM or Ctrl-C; a second one ends it at once."""
    from med_transfer.inference.watch import watch

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(*_: object) -> None:
        watching.stop.set()
        restore()

    for number in before:
        signal.signal(number, end)
    try:
        with progress_bars() as progress:
            settings = replace(settings, finished=partial(write, progress))
            for outcome in watch(predictor, scans, out, progress, settings, watching):
                yield outcome
                tell_remarks()
    finally:
        restore()


def _say_outcome(result: FolderOutcome, predictor: Predictor, *, as_json: bool) -> None:
    from med_transfer.cli.summary import say_abstained

    counts = {"ok": result.n_ok, "rejected": result.n_rejected, "failed": result.n_failed, "ignored": result.n_ignored}
    if result.n_fused is not None:
        counts["fused"] = result.n_fused
    if as_json:
        say_json(
            counts | {"abstained": result.n_abstained, "runtime": predictor.chosen.name, "table": str(result.table)}
        )
        return
    say(", ".join(f"{number} {name}" for name, number in counts.items()))
    say_abstained(result.n_abstained, result.n_ok, predictor.record.abstain_above_novelty, result.why_abstained)
    say(str(result.table))


def _write_sbatch(
    bundle: Path, scans: Path, out: Path, n: int, options: dict[str, object], of_merge: dict[str, object]
) -> Path:
    """With whole paths, since a job starts where it is submitted."""
    from med_transfer.inference.sbatch import write_sbatch
    from med_transfer.scans.isolation.limits import ReadLimits

    limits = ReadLimits.from_environment()
    before = ["--read-seconds", f"{limits.seconds:g}", "--read-gib", f"{limits.gib:g}"]
    whole = [str(path.absolute()) for path in (bundle, scans, out)]
    program = [sys.executable, "-m", "med_transfer", *before]
    return write_sbatch(out.absolute(), n, program, [*whole[:2], "-o", whole[2], *_words(options)], _words(of_merge))


def _words(options: dict[str, object]) -> list[str]:
    """Options as they are typed: one that stands alone is True, one that is repeated a sequence."""
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if one is not None:
                words += [name] if one is True else [name, str(one.absolute() if isinstance(one, Path) else one)]
    return words
