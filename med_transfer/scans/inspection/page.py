"""inspection.html: series found, their verdicts and pictures, in one file without scripts or network access."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from scipy.ndimage import label

from med_transfer.atomic import write_bytes, write_text
from med_transfer.errors import ScanError, ScanNotFound, UsageError
from med_transfer.errors.sentence import Sentence
from med_transfer.page import Language, environment
from med_transfer.page.language import translator
from med_transfer.scans import geometry
from med_transfer.scans.inspection.histogram import Histogram, histogram
from med_transfer.scans.inspection.picture import Plane, Window, bar_mm, data_uri, planes, side_by_side
from med_transfer.scans.isolation import confined, isolated
from med_transfer.scans.reading import read_scan
from med_transfer.scans.region import Region, given_region
from med_transfer.scans.search.description import (
    describe_acquisition,
    describe_series,
    describe_volume,
    is_hounsfield,
    sample,
)
from med_transfer.scans.series import Ignored, Series
from med_transfer.scans.verdict import Verdict
from med_transfer.scans.volume import Volume
from med_transfer.scans.voxel_checks import hounsfield_doubt, require_finite

_HERE, _TEMPLATE = Path(__file__).parent, "page.html.jinja"
_SOFT_TISSUE, _LUNG = (-160.0, 240.0), (-1350.0, 150.0)
_LUNG_SHARE = 0.1  # of the body; a chest has more, bowel gas and sinuses are less
_AIR_UNTIL_HU, _TISSUE_FROM_HU = -950, -500
_ABOVE = ("series", "verdict")
_LABELS = {
    "row": Sentence("row"),
    "series_uid": Sentence("series UID"),
    "label": Sentence("label"),
    "kind": Sentence("kind"),
    "files": Sentence("files"),
    "voxels": Sentence("voxels"),
    "spacing_mm": Sentence("spacing, mm"),
    "orientation": Sentence("orientation"),
    "values": Sentence("values"),
}
_PLANES = {
    "axial": Sentence("axial"),
    "coronal": Sentence("coronal"),
    "sagittal": Sentence("sagittal"),
    "oblique": Sentence("oblique"),
}


@dataclass(frozen=True)
class View:
    """Three planes of a scan, their window in words, a histogram of all voxels, and the region's size in words."""

    planes: tuple[Plane, ...]
    window: str
    histogram: Histogram
    region: str = ""

    def _repr_png_(self) -> bytes:
        """Picture shown by notebooks."""
        return side_by_side(self.planes, self.window)


@dataclass(frozen=True)
class ScanSummary:
    """Summary of one scan.

    Attributes:
        title: its path as the user gave it.
        rows: descriptions, label to text.
        verdict: of the voxels if they were read, else of the headers.
        acquisition: acquisition parameters, label to text.
        size, spacing, lies: voxels, spacing in mm, and plane and orientation as text; empty if not read.
        view: None if the scan cannot be read or no picture was requested.
    """

    title: str
    rows: Mapping[str, str]
    verdict: Verdict
    acquisition: Mapping[str, str] = field(default_factory=dict)
    size: str = ""
    spacing: str = ""
    lies: str = ""
    view: View | None = None

    @property
    def facts(self) -> dict[str, str]:
        """Rows that the page lists: all except path and verdict, which it shows above, and the acquisition."""
        rows = {_LABELS.get(name, name): text for name, text in self.rows.items() if text and name not in _ABOVE}
        return rows | dict(self.acquisition)


def summarise_series(series: Series, title: str, *, max_gap_mm: float = 0.0, view: bool = False) -> ScanSummary:
    """Summary of a series from a survey; an unusable one says why and has no view."""
    summary = ScanSummary(title, describe_series(series), series.verdict, describe_acquisition(series.acquisition))
    if not series.verdict.usable:
        return summary
    try:
        with confined(series.path):
            volume = isolated(read_scan, series, max_gap_mm=max_gap_mm, where=series.path)
            return summarise_volume(summary, volume, view=view)
    except ScanError as error:
        return refused(summary, error.message)


def summarise_volume(
    summary: ScanSummary, volume: Volume, region: Region | None = None, *, view: bool = False
) -> ScanSummary:
    """Add to a summary what the voxels show."""
    return replace(
        summary,
        rows={**summary.rows, **describe_volume(volume)},
        verdict=volume.verdict,
        acquisition=describe_acquisition(volume.provenance.acquisition),
        size=" × ".join(str(n) for n in reversed(volume.voxels.shape)),
        spacing=" × ".join(f"{mm:.2f}" for mm in volume.spacing_mm),
        lies=Sentence("{plane}, {letters}", plane=_PLANES[geometry.plane(volume.affine)], letters=volume.orientation),
        view=view_of(volume, region) if view else None,
    )


def refused(summary: ScanSummary, reason: str) -> ScanSummary:
    """The summary of a scan that cannot be read."""
    verdict = Verdict(rejections=(reason,))
    return replace(summary, rows={**summary.rows, "verdict": str(verdict)}, verdict=verdict)


def write_picture(summary: ScanSummary | None, path: Path) -> None:
    """Write the three planes of a summary as PNG. Raises ScanNotFound if there is no view, OutputError."""
    if summary is None or summary.view is None:
        raise ScanNotFound("no usable series to draw", action="See the verdicts")
    write_bytes(path, side_by_side(summary.view.planes, summary.view.window))


def write_inspection(
    path: Path,
    title: str,
    summaries: Sequence[ScanSummary],
    ignored: Sequence[Ignored],
    base: Path,
    n_files: int | None = None,
    language: Language = "en",
) -> None:
    """Write the page atomically; equal input gives an identical file.

    Args:
        path: of the page; parent folders are created.
        title: what was inspected, as the user named it.
        summaries: in the order of the page.
        ignored: files that are not scans.
        base: folder to which paths of ignored files are shown relative.
        n_files: number of files examined; None if unknown.
        language: of the page.

    Raises:
        OutputError: the file cannot be written.
    """
    page = _environment(language).get_template(_TEMPLATE)
    reasons: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for file in ignored:
        reasons[not file.damaged, file.reason].append(shown_path(file.path, base))
    text = page.render(
        title=title,
        summaries=summaries,
        n_files=n_files,
        n_ignored=len(ignored),
        n_damaged=sum(file.damaged for file in ignored),
        ignored=[(not whole, reason, paths) for (whole, reason), paths in sorted(reasons.items())],
    )
    write_text(path, text)


def shown_path(path: Path, base: Path) -> str:
    """A path relative to the inspected folder, or its name if it is that folder."""
    relative = path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
    return path.name if relative == "." else relative


def _environment(language: Language) -> Environment:
    made = environment(_HERE, t=translator(language).reading(_HERE / "page"))
    made.filters |= {"data_uri": data_uri, "bar_mm": bar_mm}
    return made


# Views of the voxels ------------------------------------------------------------------------------------------


def view_of(volume: Volume, region: Region | None = None) -> View:
    """Return planes, window and histogram of a scan.

    Raises:
        UsageError: ``volume`` is no Volume, or ``region`` no Region.
        UnusableVoxels: a voxel is NaN or infinite.
    """
    if not isinstance(volume, Volume):
        raise UsageError(
            f"found an object of type {type(volume).__name__}",
            where="volume",
            expected="a Volume",
            action="read_scan makes one of a path",
        )
    if region is not None:
        given_region(region)
    require_finite(volume.voxels, volume.provenance.path)
    values = sample(volume.voxels)
    hounsfield = is_hounsfield(volume)
    trusted = hounsfield and not hounsfield_doubt(volume.voxels)
    window, words = _window_hu(volume) if trusted else _window(values)
    return View(
        planes=planes(volume.voxels, volume.affine, window, region),
        window=words,
        histogram=histogram(values, hounsfield=hounsfield),
        region=_region(volume, region) if region else "",
    )


def _window_hu(volume: Volume) -> tuple[Window, str]:
    """A lung window if the middle axial plane shows much lung, else one for soft tissue."""
    voxels, _ = geometry.canonical(volume.voxels, volume.affine)
    lung = _shows_lung(voxels[len(voxels) // 2])
    low, high = _LUNG if lung else _SOFT_TISSUE
    shown = {"width": high - low, "level": (low + high) / 2}
    if lung:
        return (low, high), Sentence("Lung window, width {width:.0f}, level {level:.0f} HU", **shown)
    return (low, high), Sentence("Soft tissue window, width {width:.0f}, level {level:.0f} HU", **shown)


def _shows_lung(plane: NDArray) -> bool:
    """Whether the body contains much air, or the image is a crop within the lung."""
    air = plane < _TISSUE_FROM_HU
    regions, _ = label(air)  # pyright: ignore[reportGeneralTypeIssues]  the stub lacks the second value
    edge = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    within = np.count_nonzero(air & ~np.isin(regions, edge))
    tissue = plane.size - np.count_nonzero(air)
    middle = float(np.median(plane))
    return bool(within > _LUNG_SHARE * (within + tissue)) or _AIR_UNTIL_HU < middle < _TISSUE_FROM_HU


def _window(values: NDArray) -> tuple[Window, str]:
    low, high = (float(value) for value in np.percentile(values, [0.5, 99.5]))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return (low, high), Sentence(
        "Window from {low:.4g} to {high:.4g}: all but the lowest and highest 0.5 % of the values", low=low, high=high
    )


def _region(volume: Volume, region: Region) -> str:
    size = " x ".join(f"{mm:.0f}" for mm in region.size_mm)
    inside = geometry.inside(volume.affine, volume.voxels.shape, region.centre_mm)
    if inside:
        return f"{size} mm"
    return Sentence("{size} mm, and its middle lies outside this scan", size=size)
