"""inspection.html: what was found, what it is worth and what it looks like, in one file without network or scripts."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from med_transfer import geometry
from med_transfer.atomic import write_bytes, write_text
from med_transfer.errors import ScanError, ScanNotFound
from med_transfer.scans.description import (
    describe_acquisition,
    describe_series,
    describe_volume,
    is_hounsfield,
    sample,
)
from med_transfer.scans.histogram import Histogram, histogram
from med_transfer.scans.picture import Plane, Window, jpeg, planes, side_by_side
from med_transfer.scans.reading import read_scan
from med_transfer.scans.region import Region
from med_transfer.scans.series import Ignored, Series
from med_transfer.scans.verdict import Verdict
from med_transfer.scans.volume import Volume

_TEMPLATE = "inspection.html.jinja"
_SOFT_TISSUE, _LUNG = (-160.0, 240.0), (-1350.0, 150.0)
_LUNG_SHARE = 0.15  # of the voxels in the patient: a chest has more, an abdomen with lung bases less
_BARS_MM = (200, 100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True)
class View:
    """Three planes of a scan, the window they are shown in, and the values of all voxels."""

    planes: tuple[Plane, ...]
    window: str
    histogram: Histogram
    region: str = ""


@dataclass(frozen=True)
class Look:
    """One scan as it was found.

    Attributes:
        title: its path as the user gave it.
        rows: what there is to say, label to text.
        verdict: of the voxels where they were read, else of the headers.
        view: None where it cannot be read, or no picture was asked for.
    """

    title: str
    rows: Mapping[str, str]
    verdict: Verdict
    acquisition: Mapping[str, str] = field(default_factory=dict)
    view: View | None = None


def look_at_series(series: Series, title: str, *, max_gap_mm: float = 0.0, view: bool = False) -> Look:
    """A series of a survey; one that cannot be used says why and has no view."""
    look = Look(title, describe_series(series), series.verdict, describe_acquisition(series.acquisition))
    if not series.verdict.usable:
        return look
    try:
        return look_at_volume(look, read_scan(series, max_gap_mm=max_gap_mm), view=view)
    except ScanError as error:
        return refused(look, error)


def look_at_volume(look: Look, volume: Volume, region: Region | None = None, *, view: bool = False) -> Look:
    """The same look with what the voxels show."""
    return replace(
        look,
        rows={**look.rows, **describe_volume(volume)},
        verdict=volume.verdict,
        acquisition=describe_acquisition(volume.provenance.acquisition),
        view=_view(volume, region) if view else None,
    )


def refused(look: Look, error: ScanError) -> Look:
    """The same look at a scan that cannot be read."""
    verdict = Verdict("reject", (str(error),))
    return replace(look, rows={**look.rows, "verdict": str(verdict)}, verdict=verdict)


def write_picture(look: Look | None, path: Path) -> None:
    """PNG of the three planes of a look. Raises ScanNotFound when there is none, OutputError."""
    if look is None or look.view is None:
        raise ScanNotFound("no usable series to draw", action="See the verdicts")
    write_bytes(path, side_by_side(look.view.planes, look.view.window))


def write_inspection(
    path: Path, title: str, looks: Sequence[Look], ignored: Sequence[Ignored], base: Path, n_files: int | None = None
) -> None:
    """Write the page whole or not at all; equal input gives an equal file.

    Args:
        path: where to; folders are made.
        title: what was inspected, as the user named it.
        looks: in the order of the page.
        ignored: files that are no scans.
        base: the folder that paths of ignored files are shown relative to.
        n_files: files looked at; None where nobody counted them.

    Raises:
        OutputError: when the file cannot be written.
    """
    page = _environment().get_template(_TEMPLATE)
    reasons: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for one in ignored:
        reasons[not one.damaged, one.reason].append(shown_path(one.path, base))
    text = page.render(
        title=title, looks=looks, n_files=n_files, n_ignored=len(ignored), n_damaged=sum(one.damaged for one in ignored),
        ignored=[(not whole, reason, paths) for (whole, reason), paths in sorted(reasons.items())],
    )  # fmt: skip
    write_text(path, text)


def shown_path(path: Path, base: Path) -> str:
    """Relative to what was inspected; its own name where it is that."""
    relative = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
    return path.name if relative == "." else relative


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"jpeg": lambda image: base64.b64encode(jpeg(image)).decode("ascii"), "bar_mm": _bar_mm}
    return environment


# What is shown of the voxels ----------------------------------------------------------------------------------


def _view(volume: Volume, region: Region | None) -> View:
    values = sample(volume.voxels)
    hounsfield = is_hounsfield(volume)
    window, words = _window_hu(values) if hounsfield else _window(values)
    return View(
        planes=planes(volume.voxels, volume.affine, window, region),
        window=words,
        histogram=histogram(values, hounsfield=hounsfield),
        region=_region(volume, region) if region else "",
    )


def _window_hu(values: NDArray) -> tuple[Window, str]:
    """Lung where there is much of it, else soft tissue."""
    lung = int(np.count_nonzero((values > -950) & (values < -500)))
    rest = int(np.count_nonzero(values >= -500))
    name, (low, high) = ("lung", _LUNG) if lung > _LUNG_SHARE * (lung + rest) else ("soft tissue", _SOFT_TISSUE)
    return (low, high), f"{name} window: width {high - low:.0f}, level {(low + high) / 2:.0f} HU"


def _window(values: NDArray) -> tuple[Window, str]:
    low, high = (float(value) for value in np.percentile(values, [0.5, 99.5]))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return (low, high), f"window from {low:.4g} to {high:.4g}: all but the lowest and highest 0.5 % of the values"


def _region(volume: Volume, region: Region) -> str:
    size = " x ".join(f"{mm:.0f}" for mm in region.size_mm)
    index = geometry.to_index(volume.affine, region.centre_mm)
    outside = np.any(index < -0.5) or np.any(index > np.array(volume.voxels.shape[::-1]) - 0.5)
    return f"{size} mm" + (", and its middle lies outside this scan" if outside else "")


def _bar_mm(shown: Sequence[Plane]) -> int:
    """Length of the scale bar: a round number, at most a third of the first plane's width."""
    return next((mm for mm in _BARS_MM if mm <= shown[0].width_mm / 3), 1)
