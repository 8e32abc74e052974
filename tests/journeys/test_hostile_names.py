"""Names chosen by somebody else, of files, classes and columns: no spreadsheet, terminal or browser executes them."""

from __future__ import annotations

import csv
import io
import os
import pty
import re
import select
import shutil
import sys
from pathlib import Path

import pytest
from chromium import COMMAND, tab

from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance
from med_transfer.bundle.model_card import model_card
from med_transfer.cli.terminal import TerminalProgress, plain_streams, say
from med_transfer.cohorts import Case, Cohort
from med_transfer.errors import ScanNotFound, printable
from med_transfer.page.environment import POLICY
from med_transfer.page.markdown import as_text, table
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig

ROOT = Path(__file__).parents[2]
FORMULA = "=HYPERLINK(1),see"
COMMANDS = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\u202e"
NOT_UTF8 = b"caf\xe9"
SCRIPT = "<img src=x onerror=alert(1)>"
COMMANDING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


@pytest.fixture
def hostile(cohort_csv, tmp_path) -> Path:
    """A folder of one good scan a name, and a file that is none."""
    folder = tmp_path / "scans"
    scan = next(path for path in sorted((cohort_csv.parent / "scans").iterdir()) if path.suffix == ".gz")
    for name in (FORMULA, COMMANDS, SCRIPT.replace("/", ""), os.fsdecode(NOT_UTF8)):
        (folder / name).mkdir(parents=True)
        shutil.copy(scan, folder / name / "a.nii.gz")
        (folder / name / "no.dcm").write_text("no scan")
    return folder


def test_a_terminal_is_not_commanded_by_the_name_of_a_file(command, hostile, tmp_path):
    for words in (("index", hostile, "-o", tmp_path / "c.csv"), ("inspect", hostile, "--html", tmp_path / "p.html")):
        outcome = command(*words)
        assert not COMMANDING.search(outcome.out + outcome.err), words
    assert r"\x1b[31mred\x1b]0;title\x07\x9b2J\r\u202e" in command("inspect", hostile).out
    refused = command("inspect", hostile / (COMMANDS + "no"))
    assert (refused.code, r"\x1b[31mred" in refused.err) == (2, True)
    misused = command("inspect", hostile, COMMANDS)
    assert (misused.code, COMMANDING.search(misused.err)) == (2, None)


def test_an_error_is_one_plain_line_wherever_it_is_shown():
    error = str(ScanNotFound("nothing\x1b[2J", where=COMMANDS))
    assert error.startswith(r"\x1b[31mred\x1b]0;title\x07\x9b2J \u202e: nothi")
    assert printable("größe\n\t肺") == "größe\n\t肺"


def test_a_terminal_of_another_encoding_shows_what_it_has_no_sign_for_as_its_number(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    with plain_streams():
        say("größe 肺")
    assert terminal.buffer.getvalue() == "größe \\u80ba\n".encode("latin-1")


def test_a_bar_is_drawn_but_what_it_says_commands_nothing(monkeypatch):
    read, write = pty.openpty()
    with os.fdopen(write, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with plain_streams(), TerminalProgress() as bars:
            bars("reading [red]", 1, 2, "a\x1b[31mred\x07")
        terminal.flush()
        shown = ""
        while "red\\x07" not in shown and select.select([read], [], [], 10)[0]:  # a terminal gives what is there so far
            shown += os.read(read, 1 << 16).decode()
    os.close(read)
    assert "\x1b[2K" in shown or "\x1b[?25l" in shown  # the bar is really drawn
    assert r"a\x1b[31mred\x07" in shown
    assert "reading [red]" in shown


def test_no_table_runs_as_a_formula_and_each_is_read_again(command, hostile):
    table = hostile / "c.csv"
    command("index", hostile, "-o", table, "--keep-patient-ids")
    for path in (table, hostile / "c.quality.csv"):
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            cells = {cell for row in csv.reader(file) for cell in row}
        assert f"'{FORMULA}/a.nii.gz" in cells, path
        assert not [cell for cell in cells if cell.startswith("=")], path
    shown = {case.scan for case in Cohort.read(table, labelled=False).cases}
    assert shown >= {f"{FORMULA}/a.nii.gz", f"{os.fsdecode(NOT_UTF8)}/a.nii.gz"}


def test_only_one_module_writes_csv():
    writing = [
        path for path in (ROOT / "med_transfer").rglob("*.py") if re.search(r"csv\.(Dict)?[wW]riter", path.read_text())
    ]
    assert [path.name for path in writing] == ["csv_table.py"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SCRIPT, "&lt;img src=x onerror=alert(1)&gt;"),
        ("[a](javascript:1) `b` *c* | d\n# e", r"\[a\](javascript:1) \`b\` \*c\* \| d # e"),
        ("part-solid & solid_2", "part-solid &amp; solid_2"),
    ],
)
def test_markdown_shows_text_and_does_nothing_with_it(text, shown):
    assert as_text(text) == shown
    assert table([("head",), (text,)]) == f"| head |\n| --- |\n| {shown} |"


def test_the_readme_of_a_bundle_shows_the_names_of_classes_and_runs_none():
    record = BundleRecord(
        classes=("[click](javascript:1)", SCRIPT),
        preprocessing=PreprocessingConfig(),
        n_fold_models=1,
        backbone=BackboneRecord(name="resnet18-w8", pooled_stages=(-1,), licence="a|b", source=""),
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(1, 1, 1), n_scans=1),
        trained_on=Provenance(cohort_hash="c", patient_hashes=(), content_hashes=()),
    )
    cases = tuple(Case(scan=name, path=Path(name), patient=name, label=name) for name in record.classes)
    card = model_card(record, Cohort(cases, Labels(record.classes)))
    assert "<img" not in card
    assert card.count("&lt;img src=x onerror=alert(1)&gt;") == 3  # title, table, counts
    assert r"\[click\](javascript:1)" in card
    assert r"| Backbone licence | a\|b |" in card


@pytest.mark.skipif(COMMAND is None, reason="no chromium on this machine")
def test_a_page_shows_its_pictures_and_nothing_else_is_allowed(command, hostile, tmp_path):
    page = tmp_path / "page.html"
    assert command("inspect", hostile, "--html", page).code == 0
    assert f'http-equiv="Content-Security-Policy" content="{POLICY}"'.replace("'", "&#39;") in page.read_text()
    broken = tmp_path / "broken.html"  # as if a name had got through the escaping
    broken.write_text(page.read_text().replace("<main", f"{SCRIPT}<script>window.ran = 1</script><main"))
    with tab(tmp_path / "profile") as opened:
        opened.open(page, 1000)
        assert opened.told("Log.entryAdded") == []
        assert opened.value("[...document.images].length") == 12
        assert opened.value("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert opened.value("getComputedStyle(document.querySelector('.plane .image')).width") != "auto"
        opened.open(broken, 1000)
        assert opened.value("window.ran === undefined")
        assert len(opened.told("Log.entryAdded")) == 3  # the picture, its handler and the script
