"""``med-transfer inspect``: what is in a scan, a folder or a cohort table, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import AsJson, MaxGapMm, ReportLanguage
from med_transfer.cli.terminal import progress_bars, say, say_json
from med_transfer.errors import ScanError, ScanNotFound, UsageError
from med_transfer.errors.sentence import Sentence

if TYPE_CHECKING:
    from med_transfer.cohorts import Case
    from med_transfer.cohorts.sheet import Row
    from med_transfer.errors import ScanError
    from med_transfer.scans import Ignored, Region, Survey, Volume
    from med_transfer.scans.inspection.page import ScanSummary

NAME = "inspect"
EXAMPLE = "SCANS --html inspection.html"
_SILENT = 8  # as many scans are done before a bar says anything
Summarise = Callable[..., "ScanSummary"]  # view=True for one with pictures


def command(
    scan: Annotated[Path, typer.Argument(help="A scan, a folder tree, or a cohort.csv (labels not needed).")],
    picture: Annotated[
        Path | None,
        typer.Option(help="PNG file to write: three planes of the first usable series.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="HTML page to write: every series, with pictures and histogram.", show_default=False),
    ] = None,
    max_gap_mm: MaxGapMm = 0.0,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of series with pictures on the page.")] = 50,
    language: ReportLanguage = "en",
    as_json: AsJson = False,
) -> None:
    """Show the series found, with verdict, spacing, orientation and values of each."""
    from med_transfer.scans import survey
    from med_transfer.scans.inspection.page import write_inspection, write_picture
    from med_transfer.scans.search.description import count_files

    if picture and picture.suffix.lower() != ".png":
        raise UsageError(f"found {picture.name}", where="--picture", expected="the name of a .png file")
    with progress_bars() as progress:
        of_table = scan.suffix.lower() == ".csv"
        surveyed = None if of_table else survey(scan, max_gap_mm=max_gap_mm, progress=progress)
    ignored = surveyed.ignored if surveyed else ()
    pending = _cases(scan, max_gap_mm) if surveyed is None else _series(surveyed, scan, max_gap_mm)
    summaries = _summarise_all(pending, max(limit if html else 0, int(picture is not None)))
    _say(summaries, ignored, as_json)
    if picture:
        write_picture(next((summary for summary in summaries if summary.view), None), picture)
    if html:
        n_files = count_files(surveyed) if surveyed else None
        write_inspection(html, str(scan), summaries, ignored, scan, n_files, language)
    if not summaries and not ignored:
        raise ScanNotFound("no files", where=scan, expected="DICOM, NIfTI, NRRD or MetaImage")
    usable = sum(summary.verdict.usable for summary in summaries)
    raise typer.Exit(0 if usable == len(summaries) > 0 else (1 if usable else 3))


def _series(surveyed: Survey, scan: Path, max_gap_mm: float) -> list[Summarise]:
    from med_transfer.scans.inspection.page import shown_path, summarise_series

    return [
        partial(summarise_series, series, shown_path(series.path, scan), max_gap_mm=max_gap_mm)
        for series in surveyed.series
    ]


def _cases(table: Path, max_gap_mm: float) -> list[Summarise]:
    from med_transfer.cohorts import Cohort
    from med_transfer.cohorts.sheet import read_sheet

    cases, rows = Cohort.read(table, labelled=False).cases, read_sheet(table).rows
    return [partial(_summarise_case, case, _label(row), max_gap_mm) for case, row in zip(cases, rows, strict=True)]


def _summarise_case(case: Case, label: str, max_gap_mm: float, *, view: bool) -> ScanSummary:
    from med_transfer.page.language import sentence
    from med_transfer.scans import Verdict, read_scan
    from med_transfer.scans.inspection.page import ScanSummary, refused, summarise_volume
    from med_transfer.scans.isolation import confined, isolated

    rows = {"series": case.scan, "row": str(case.row), "series_uid": case.series_uid, "label": label}
    title = Sentence(sentence("row {row}: {scan}"), row=case.row, scan=case.scan)
    summary = ScanSummary(title, {name: text for name, text in rows.items() if text}, Verdict())
    try:
        with confined(case.path):
            volume = isolated(read_scan, case.path, case.series_uid, max_gap_mm=max_gap_mm, where=case.path)
            region, reason = _region(case, volume)
            summary = summarise_volume(summary, volume, region, view=view)
    except ScanError as error:
        return refused(summary, _without_folders(error, case))
    return refused(summary, reason) if reason else summary


def _region(case: Case, volume: Volume) -> tuple[Region | None, str]:
    """The region that the table gives, or why it has none to give: the scan is then shown without it."""
    from med_transfer.cohorts import region_of_case
    from med_transfer.page.language import sentence

    try:
        return region_of_case(case, volume)[0], ""
    except ScanError as error:
        return None, Sentence(sentence("region of interest: {why}"), why=_without_folders(error, case))


def _without_folders(error: ScanError, case: Case) -> str:
    """The message with the paths as the table has them, not as they are on this machine."""

    def shortened(text: str) -> str:
        text = text.replace(str(case.path), case.scan)
        return text.replace(str(case.mask), case.mask.name) if case.mask else text

    return error.message.mapped(shortened)


def _label(row: Row) -> str:
    findings = [name.removeprefix("label_") for name in row.cells if name.startswith("label_") and row.get(name) == "1"]
    return row.get("label") or ", ".join(findings)


def _summarise_all(pending: Sequence[Summarise], n_views: int) -> list[ScanSummary]:
    """Each in turn, the first usable ones with pictures."""
    if len(pending) <= _SILENT:
        return [*_summaries(pending, n_views)]
    summaries: list[ScanSummary] = []
    with progress_bars() as progress:
        for summary in _summaries(pending, n_views):
            summaries.append(summary)
            progress("inspecting", len(summaries), len(pending))
    return summaries


def _summaries(pending: Sequence[Summarise], n_views: int) -> Iterator[ScanSummary]:
    drawn = 0
    for summarise in pending:
        summary = summarise(view=drawn < n_views)
        drawn += summary.view is not None
        yield summary


def _say(summaries: Sequence[ScanSummary], ignored: Sequence[Ignored], as_json: bool) -> None:
    if as_json:
        rows = [{**summary.rows, "acquisition": dict(summary.acquisition)} for summary in summaries]
        say_json({"series": rows, "ignored": [{"path": str(file.path), "reason": file.reason} for file in ignored]})
        return
    for summary in summaries:
        say("\n".join(_line(key, value) for key, value in summary.rows.items()) + "\n")
    for file in ignored:
        say(_line("no scan", f"{file.path}: {file.reason}"))


def _line(key: str, value: str) -> str:
    """A file's name may hold the end of a line."""
    return f"{key:<12} {value}".replace("\n", r"\n")
