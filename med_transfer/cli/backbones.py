"""``med-transfer backbones``: what a transfer can start from."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import AsJson, example
from med_transfer.cli.terminal import progress_bars, say, say_json
from med_transfer.errors import BackboneError, ScanError, UsageError

if TYPE_CHECKING:
    from med_transfer.backbones import BackboneSpec, LoadReport
    from med_transfer.progress import Progress
    from med_transfer.scans import Volume
    from med_transfer.selection.weights_check import Fit

NAME = "backbones"
app = typer.Typer(help="List, inspect, import and verify backbones.", no_args_is_help=True, rich_markup_mode=None)
BackboneName = Annotated[str, typer.Argument(metavar="NAME", help="A name from the list.")]
AcceptLicence = Annotated[
    str, typer.Option("--accept-licence", help="Name of the restricted licence that you accept.", show_default=False)
]


@app.command("list", epilog=example("backbones list --json"))
def list_(as_json: AsJson = False) -> None:
    """List backbones, one per line: name, parameters, whether the weights are available, licence."""
    from med_transfer.backbones import backbones, describe

    specs = backbones()
    if as_json:
        say_json({name: dict(describe(spec)) | {"weights here": _here(spec)} for name, spec in specs.items()})
        return
    wide = max(map(len, specs))
    for name, spec in specs.items():
        say(f"{name:<{wide}} {spec.parameters / 1e6:7.1f} M   {_here(spec):<9} {_licence(spec)}")


@app.command(epilog=example("backbones show med-transfer-small"))
def show(name: BackboneName, as_json: AsJson = False) -> None:
    """Show everything known about a backbone."""
    from med_transfer.backbones import describe, find_backbone

    spec = find_backbone(name)
    rows = dict(describe(spec)) | {"cost": _cost(spec), "weights here": _here(spec)}
    if as_json:
        say_json(rows)
        return
    width = max(map(len, rows))
    for key, value in rows.items():
        say(f"{key:<{width}}  {value}")


@app.command("import", epilog=example("backbones import astra --download"))
def import_(
    name: BackboneName,
    file: Annotated[Path | None, typer.Argument(help="The published weights file.", show_default=False)] = None,
    download: Annotated[bool, typer.Option("--download", help="Download the file from its publisher first.")] = False,
    accept_licence: AcceptLicence = "",
    as_json: AsJson = False,
) -> None:
    """Check a published weights file and store its encoder, so that the name alone suffices from then on."""
    from med_transfer.backbones import download_weights, find_backbone
    from med_transfer.backbones.weights.licence import require_accepted

    if (file is None) == (not download):
        raise UsageError(
            "both a file and --download" if download else "neither a file nor --download",
            where="backbones import",
            expected="one of them",
        )
    spec = find_backbone(name)
    require_accepted(spec, accept_licence)  # before anything is fetched
    if download:
        with progress_bars() as progress:
            file = download_weights(spec, _in_mib(progress))
    path, report = _imported(name, file or Path(), accept_licence)
    if as_json:
        say_json(
            {
                "path": str(path),
                "matched": len(report.matched),
                "missing": report.missing,
                "unexpected": report.unexpected,
                "ignored": len(report.ignored),
            }
        )
        return
    say(str(report))
    say(f"{path}: from now on, the name {name} is enough")


def _imported(name: str, file: Path, accept_licence: str) -> tuple[Path, LoadReport]:
    """Where the encoder is kept from now on, and what of the file was in it."""
    from med_transfer.backbones import import_backbone
    from med_transfer.bundle.provenance import source_provenance

    if source_provenance(file) is not None:  # under the catalogue's name, nobody would ask whom it has seen
        raise BackboneError(
            "a network of your own, which remembers its patients",
            where=file,
            expected="a published file",
            action="Give it as backbone.weights",
        )
    return import_backbone(name, file, accept_licence=accept_licence)


@app.command(epilog=example("backbones verify med-transfer-small --scans SCANS"))
def verify(
    name: BackboneName,
    scans: Annotated[Path, typer.Option(help="Folder of scans of the kind you will use.")],
    weights: Annotated[Path | None, typer.Option(help="Weights file or bundle.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of scans to check.")] = 5,
    accept_licence: AcceptLicence = "",
    as_json: AsJson = False,
) -> None:
    """Check whether weights suit scans, without labels, by the feature statistics stored in the network."""
    from med_transfer.backbones import find_backbone
    from med_transfer.backbones.weights.licence import require_accepted

    require_accepted(find_backbone(name), accept_licence)  # before PyTorch is loaded
    fit = _verified(name, weights, accept_licence, scans, limit)
    if as_json:
        say_json(asdict(fit))
    else:
        _say_fit(fit)
    raise typer.Exit(0 if fit.verdict in ("fits", "cannot tell") else 1)


def _verified(name: str, weights: Path | None, accept_licence: str, scans: Path, limit: int) -> Fit:
    from med_transfer.backbones import load_backbone
    from med_transfer.selection.weights_check import verify

    backbone = load_backbone(name, weights, accept_licence=accept_licence)
    volumes = _volumes(scans, limit)
    with progress_bars() as progress:
        return verify(backbone, volumes, progress)


def _volumes(scans: Path, limit: int) -> list[Volume]:
    """The first usable scans; one that cannot be read is passed over, as in a batch."""
    from med_transfer.scans import find_series, read_scan
    from med_transfer.scans.isolation import isolated

    volumes: list[Volume] = []
    for series in find_series(scans):
        if len(volumes) < limit and series.verdict.usable:
            try:
                volumes.append(isolated(read_scan, series, where=series.path))
            except ScanError as error:
                logging.getLogger("med_transfer").warning("passed over: %s", error)
    return volumes


def _in_mib(progress: Progress) -> Progress:
    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"{stage}, MiB", done >> 20, total >> 20, note)

    return tell


def _say_fit(fit: Fit) -> None:
    say(f"{fit.verdict}: {fit.reason}")
    say(
        f"{fit.n_scans} scans, effective rank {fit.features.effective_rank:.1f}, "
        f"mean cosine {fit.features.mean_cosine:.3f}"
    )
    for name, tried in sorted(fit.tried.items(), key=lambda item: item[1].distance):
        figures = f"correlation {tried.correlation:5.2f}  shift {tried.shift:6.3f} sd  spread {tried.spread:6.3f}"
        say(f"  {name:<28} {figures}")


def _cost(spec: BackboneSpec) -> str:
    from med_transfer.backbones.cost import cost_shape, multiply_adds

    size = " x ".join(map(str, cost_shape(spec)))
    return f"{multiply_adds(spec) / 1e9:.0f} billion multiply-adds for one scan of {size} voxels"


def _here(spec: BackboneSpec) -> str:
    """Whether the weights are at hand: nothing is needed, they are, or they have to be got."""
    from med_transfer.backbones import weights_at_hand

    if spec.weights is None:
        return "scratch"
    return "here" if weights_at_hand(spec) else "not here"


def _licence(spec: BackboneSpec) -> str:
    return spec.licence if spec.commercial_use else f"{spec.licence} (not commercial)"
