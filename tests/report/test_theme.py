"""Contrast of every pair of colours drawn on one another (WCAG 2.2, success criteria 1.4.3 and 1.4.11)."""

import pytest

from med_transfer.page.theme import DARK, LIGHT, PRINT

THEMES = {"light": LIGHT, "dark": DARK, "print": PRINT}
TEXT = ("ink", "muted", "accent", "good", "warning")
SHADED_MOST = 0.48  # of series-1 in a cell of the confusion matrix, see report.css


def channels(colour):
    return [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]


def luminance(channels):
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    """WCAG's contrast ratio, 1 to 21, of channels in [0, 1]."""
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_measure_knows_its_ends():
    assert contrast(channels("#000000"), channels("#ffffff")) == pytest.approx(21)
    assert contrast(channels("#777777"), channels("#ffffff")) == pytest.approx(4.48, abs=0.01)  # WebAIM's example


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("ground", ["paper", "shade"])
@pytest.mark.parametrize("text", TEXT)
def test_text_can_be_read(theme, ground, text):
    palette = THEMES[theme]
    assert contrast(channels(palette[text]), channels(palette[ground])) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_lines_can_be_told_from_the_paper(theme):
    palette = THEMES[theme]
    for name, colour in palette.items():
        if name.startswith("series-"):
            assert contrast(channels(colour), channels(palette["paper"])) >= 3, name


@pytest.mark.parametrize("theme", THEMES)
def test_the_darkest_cell_of_the_confusion_matrix_can_be_read(theme):
    palette = THEMES[theme]
    mixed = zip(channels(palette["series-1"]), channels(palette["paper"]), strict=True)
    cell = [SHADED_MOST * ink + (1 - SHADED_MOST) * paper for ink, paper in mixed]
    assert contrast(channels(palette["ink"]), cell) >= 4.5
