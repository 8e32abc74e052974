import re
import xml.etree.ElementTree as ElementTree

import numpy as np
from report_samples import sample

from med_transfer.page.theme import LIGHT
from med_transfer.report.figure import SERIES, short_names
from med_transfer.report.sections.first_screen_forest import sensitivity_forest

TEXT = "{http://www.w3.org/2000/svg}"


def test_a_figure_on_the_page_takes_its_colours_from_the_page():
    svg = sensitivity_forest(sample().metrics).on_page("first_screen")
    assert "var(--series-1)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}


def test_a_figure_as_a_file_stands_alone():
    text = sensitivity_forest(sample().metrics).as_file()
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    assert LIGHT["series-1"] in text
    assert root.find(f"{TEXT}title").text == "Sensitivity of each class"
    assert "malignant" in root.find(f"{TEXT}desc").text


def test_names_that_are_cut_stay_apart():
    """Two classes that begin alike had one label in every figure and in the flow diagram."""
    stem = "adenocarcinoma of the lung, "
    cut = short_names([f"{stem}well differentiated", f"{stem}poorly differentiated", "other"])
    assert [*cut.values()] == ["…ng, well differentiated", "…, poorly differentiated", "other"]
    assert short_names([f"{stem}a", "other"]) == {f"{stem}a": "adenocarcinoma of the l…", "other": "other"}
    numbered = short_names([f"{stem}a {stem}", f"{stem}b {stem}"])
    assert [*numbered.values()] == ["1: adenocarcinoma of t…", "2: adenocarcinoma of t…"]
    assert all(len(name) <= 24 for names in (cut, numbered) for name in names.values())


def test_every_reference_inside_a_figure_leads_somewhere():
    figure = sensitivity_forest(sample().metrics)
    for svg in (figure.on_page("first_screen"), figure.as_file()):
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
        assert {a or b for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)} <= ids


def test_read_by_the_scale_beneath_each_square_is_at_its_sensitivity():
    metrics = sample().metrics
    drawing = sensitivity_forest(metrics).drawing
    labels = re.findall(r'<text [^>]*x="([\d.]+)"[^>]*>(\d+)%</text>', drawing)
    places, shares = np.array([float(x) for x, _ in labels]), np.array([int(share) / 100 for _, share in labels])
    np.testing.assert_allclose(shares, [0, 0.2, 0.4, 0.6, 0.8, 1])
    squares = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: {SERIES[0]}', drawing)
    from_above = [float(x) for x, _ in sorted(squares, key=lambda place: float(place[1]))]
    sensitivities = [metrics.classes[name].sensitivity.value for name in metrics.labels]
    np.testing.assert_allclose(np.interp(from_above, places, shares), sensitivities, atol=1e-4)
