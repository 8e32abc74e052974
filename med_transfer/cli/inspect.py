"""``med-transfer inspect``: what is in a scan, a folder or a cohort table, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import AsJson

if TYPE_CHECKING:
    from med_transfer.cohorts import Case
    from med_transfer.cohorts.sheet import Row
    from med_transfer.errors import ScanError
    from med_transfer.scans import Ignored, Region, Survey, Volume
    from med_transfer.scans.inspection.page import ScanSummary

NAME = "inspect"
_SILENT = 8  # as many scans are done before a bar says anything
LookAt = Callable[..., "ScanSummary"]  # view=True for one with pictures


def command(
    scan: Annotated[Path, typer.Argument(help="A scan, a folder tree, or a cohort.csv (labels not needed).")],
    picture: Annotated[
        Path | None, typer.Option(help="PNG of three planes of the first usable series.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="One page: every series, with pictures and histogram.", show_default=False)
    ] = None,
    max_gap_mm: Annotated[
        float, typer.Option(min=0.0, help="Interpolate uneven slices where no gap is wider; 0 rejects them.")
    ] = 0.0,
    limit: Annotated[int, typer.Option(min=0, help="Most series with pictures on the page.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the series found, the verdict on each, spacing, orientation and values."""
    from med_transfer.errors import ScanNotFound
    from med_transfer.scans import survey
    from med_transfer.scans.inspection.page import write_inspection, write_picture
    from med_transfer.scans.search.description import count_files

    found = None if scan.suffix.lower() == ".csv" else survey(scan, max_gap_mm=max_gap_mm)
    ignored = found.ignored if found else ()
    to_look_at = _cases(scan, max_gap_mm) if found is None else _series(found, scan, max_gap_mm)
    looks = _look_at_all(to_look_at, max(limit if html else 0, int(picture is not None)))
    _say(looks, ignored, as_json)
    if picture:
        write_picture(next((look for look in looks if look.view), None), picture)
    if html:
        write_inspection(html, str(scan), looks, ignored, scan, count_files(found) if found else None)
    if not looks and not ignored:
        raise ScanNotFound("no files", where=scan, expected="DICOM, NIfTI, NRRD or MetaImage")
    usable = sum(look.verdict.usable for look in looks)
    raise typer.Exit(0 if usable == len(looks) > 0 else (1 if usable else 3))


def _series(found: Survey, scan: Path, max_gap_mm: float) -> list[LookAt]:
    from med_transfer.scans.inspection.page import look_at_series, shown_path

    return [partial(look_at_series, one, shown_path(one.path, scan), max_gap_mm=max_gap_mm) for one in found.series]


def _cases(table: Path, max_gap_mm: float) -> list[LookAt]:
    from med_transfer.cohorts import Cohort
    from med_transfer.cohorts.sheet import read_sheet

    cases, rows = Cohort.read(table, labelled=False).cases, read_sheet(table).rows
    return [partial(_look_at_case, case, _label(row), max_gap_mm) for case, row in zip(cases, rows, strict=True)]


def _look_at_case(case: Case, label: str, max_gap_mm: float, *, view: bool) -> ScanSummary:
    from med_transfer.errors import ScanError
    from med_transfer.scans import Verdict, read_scan
    from med_transfer.scans.inspection.page import ScanSummary, look_at_volume, refused

    rows = {"series": case.scan, "row": str(case.row), "series_uid": case.series_uid, "label": label}
    look = ScanSummary(f"row {case.row}: {case.scan}", {name: text for name, text in rows.items() if text}, Verdict())
    try:
        volume = read_scan(case.path, case.series_uid, max_gap_mm=max_gap_mm)
        region, reason = _region(case, volume)
    except ScanError as error:
        return refused(look, _without_folders(error, case))
    look = look_at_volume(look, volume, region, view=view)
    return refused(look, reason) if reason else look


def _region(case: Case, volume: Volume) -> tuple[Region | None, str]:
    """The region that the table gives, or why it has none to give: the scan is then shown without it."""
    from med_transfer.cohorts import region_of_case
    from med_transfer.errors import ScanError

    try:
        return region_of_case(case, volume)[0], ""
    except ScanError as error:
        return None, f"region of interest: {_without_folders(error, case)}"


def _without_folders(error: ScanError, case: Case) -> str:
    """The message with the paths as the table has them, not as they are on this machine."""
    message = str(error).replace(str(case.path), case.scan)
    return message.replace(str(case.mask), case.mask.name) if case.mask else message


def _label(row: Row) -> str:
    findings = [name.removeprefix("label_") for name in row.cells if name.startswith("label_") and row.get(name) == "1"]
    return row.get("label") or ", ".join(findings)


def _look_at_all(to_look_at: Sequence[LookAt], n_views: int) -> list[ScanSummary]:
    """Each in turn, the first usable ones with pictures."""
    from med_transfer.cli.terminal import progress_bars

    if len(to_look_at) <= _SILENT:
        return [*_looks(to_look_at, n_views)]
    looks: list[ScanSummary] = []
    with progress_bars() as progress:
        for look in _looks(to_look_at, n_views):
            looks.append(look)
            progress("inspecting", len(looks), len(to_look_at))
    return looks


def _looks(to_look_at: Sequence[LookAt], n_views: int) -> Iterator[ScanSummary]:
    drawn = 0
    for inspect_file in to_look_at:
        look = inspect_file(view=drawn < n_views)
        drawn += look.view is not None
        yield look


def _say(looks: Sequence[ScanSummary], ignored: Sequence[Ignored], as_json: bool) -> None:
    from med_transfer.cli.terminal import say, say_json

    if as_json:
        rows = [{**look.rows, "acquisition": dict(look.acquisition)} for look in looks]
        say_json({"series": rows, "ignored": [{"path": str(one.path), "reason": one.reason} for one in ignored]})
        return
    for look in looks:
        say("\n".join(f"{key:<12} {value}" for key, value in look.rows.items()) + "\n")
    for one in ignored:
        say(f"no scan      {one.path}: {one.reason}")
