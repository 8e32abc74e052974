"""What a notebook displays for an object at the end of a cell, through IPython's own formatter."""

import xml.etree.ElementTree as ElementTree
from io import BytesIO

from IPython.core.formatters import DisplayFormatter
from PIL import Image

import med_transfer as mt


def shown(value):
    formatter = DisplayFormatter()
    formatter.active_types = formatter.format_types
    return formatter.format(value)[0]


def test_a_cohort_shows_its_classes(cohort_csv):
    table = ElementTree.fromstring(shown(mt.Cohort.read(cohort_csv))["text/html"])
    cells = [[cell.text for cell in row] for row in table]
    assert cells[0] == ["class", "scans", "patients"]
    assert cells[1:-1] == [[name, "6", "6"] for name in ("ground-glass", "part-solid", "solid")]
    assert cells[-1] == ["all", "18", "18"]


def test_a_class_name_is_no_markup(cohort_csv):
    cohort = mt.Cohort.read(cohort_csv)
    named = mt.Cohort(cohort.cases, type(cohort.labels)(("<b>a</b>", *cohort.labels.names)))
    assert "<b>" not in named._repr_html_()


def test_a_run_shows_its_sensitivities_and_a_scan_its_planes(finished, cohort_csv):
    svg = shown(mt.Run(finished.folder))["image/svg+xml"]
    assert ElementTree.fromstring(svg.partition("?>")[2]).tag.endswith("svg")
    assert "ground-glass" in svg
    volume = mt.read_scan(mt.Cohort.read(cohort_csv).cases[0].path)
    with Image.open(BytesIO(shown(mt.view_of(volume))["image/png"])) as picture:
        assert picture.width > 2 * picture.height
