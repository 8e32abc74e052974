"""Writing the report: report.html, one file without network or scripts, and report_files/ next to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from med_transfer.atomic import write_text
from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.page import Language, Translator, environment
from med_transfer.page.environment import in_page
from med_transfer.page.glossary import with_tooltips
from med_transfer.page.language import translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.figure import Figure
from med_transfer.report.saved import load_evidence, save_evidence
from med_transfer.report.section import LeftOut, Section, SectionModule
from med_transfer.report.sections import GROUPS, SECTIONS
from med_transfer.report.table import Table

FILES = "report_files"
_FOLDER = Path(__file__).parent
_SECTIONS = _FOLDER / "sections"


@dataclass(frozen=True)
class _Written:
    """A section as HTML, with the content of its files by name."""

    name: str
    title: str
    html: Markup
    files: dict[str, str]
    left_out: Sequence[LeftOut]


def write_report(path: Path | str, evidence: Evidence) -> None:
    """Write report.html whole or not at all, in the language of ``evidence.run``; equal input gives equal files.

    Beside it ``report_files/tables/*.csv`` and ``report_files/figures/*.svg`` hold its tables and figures; those of an
    earlier report that are no longer part of it are removed. ``report_files/evidence.json`` is what it was made of.

    Args:
        path: where to; folders are made.
        evidence: everything the report can speak of.

    Raises:
        OutputError: a file cannot be written.
    """
    path = Path(path)
    t = report_translator(evidence.run.language)
    page = environment(_FOLDER, t=t)
    parts = [_section(module, evidence, t, page) for module in SECTIONS]
    sections = {part.name: part for part in parts if isinstance(part, _Written)}
    left_out = [part for part in parts if isinstance(part, LeftOut)]
    left_out += [part for section in sections.values() for part in section.left_out]
    values = {
        "run": evidence.run,
        "origin": [(t(name), value) for name, value in evidence.run.origin],
        "summary": sections[_name(SECTIONS[0])],
        "groups": _groups(sections, t),
        "left_out": left_out,
        "files": FILES,
    }
    html = page.get_template("report.html.jinja").render(values)
    write_text(path, with_tooltips(html, evidence.run.language))
    files = {name: text for section in sections.values() for name, text in section.files.items()}
    _write_files(path.parent / FILES, files)
    save_evidence(path.parent, evidence)


def write_again(folder: Path, language: Language, out: Path | None = None) -> Path:
    """Write the report of a finished run or evaluation in another language; nothing is computed anew.

    Args:
        folder: of the run or evaluation.
        language: of the report.
        out: folder to write to; None replaces the report that is there.

    Raises:
        UsageError: the folder holds nothing that a report was made of.
        FolderInUse: another run is at work in the folder to write to.
        OutputError: a file cannot be written.
    """
    evidence = load_evidence(folder)
    path = (out or folder) / "report.html"
    with sole_writer(path.parent):
        write_report(path, replace(evidence, run=replace(evidence.run, language=language)))
    return path


def report_translator(language: Language) -> Translator:
    """With the sentences that all sections share, and those that records hold."""
    return translator(language).reading(_FOLDER / "report")


def _groups(sections: Mapping[str, _Written], t: Translator) -> list[tuple[str, str, list[_Written]]]:
    """Id, title and sections of every group that has any."""
    found = [
        (f"group-{number}", t(title), [sections[_name(module)] for module in modules if _name(module) in sections])
        for number, (title, modules) in enumerate(GROUPS, 1)
    ]
    return [group for group in found if group[2]]


def _name(module: SectionModule) -> str:
    return module.__name__.rpartition(".")[2]


def _section(
    module: SectionModule, evidence: Evidence, shared: Translator, page: Environment
) -> _Written | LeftOut | None:
    name = _name(module)
    t = shared.reading(_SECTIONS / name)
    section = module.section(evidence, t)
    if not isinstance(section, Section):
        return section
    values = {
        "evidence": evidence,
        "metrics": evidence.metrics,
        "run": evidence.run,
        "title": section.title,
        "t": in_page(t),
        "tables": {_key(table): _table(table, name, page) for table in section.tables},
        "figures": {_key(figure): _figure(figure, name) for figure in section.figures},
    }
    template = page.select_template([f"sections/{name}.html.jinja", "section.html.jinja"])
    html = template.render(values | dict(section.values))
    return _Written(name, section.title, Markup(html), _files(name, section), section.left_out)


def _key(part: Table | Figure) -> str:
    """How a template names it."""
    return part.name.replace("-", "_")


def _table(table: Table, section: str, page: Environment) -> Markup:
    return Markup(page.get_template("table.html.jinja").render(table=table, key=f"{section}-{table.name}"))


def _figure(figure: Figure, section: str) -> Markup:
    caption = Markup("<figcaption>{}</figcaption>").format(figure.caption) if figure.caption else ""
    drawing = Markup(figure.on_page(section))
    if figure.scrolls:
        region = '<div class="scroll" role="region" aria-labelledby="{}-title" tabindex="0">{}</div>'
        drawing = Markup(region).format(f"{section}-{figure.name}", drawing)
    return Markup("<figure>{}{}</figure>\n").format(drawing, caption)


def _files(section: str, content: Section) -> dict[str, str]:
    """Path under ``report_files`` to text. The CSV begins with a byte order mark: spreadsheets need it to see UTF-8."""
    tables = {f"tables/{section}-{table.name}.csv": "\ufeff" + table.csv() for table in content.tables}
    return tables | {f"figures/{section}-{figure.name}.svg": figure.as_file() for figure in content.figures}


def _write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        write_text(folder / name, text)
    for old in [*folder.glob("tables/*.csv"), *folder.glob("figures/*.svg")]:
        if old.relative_to(folder).as_posix() not in files:
            old.unlink(missing_ok=True)
