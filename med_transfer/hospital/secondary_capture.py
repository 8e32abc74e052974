"""A result page that every viewer can show: three planes, heat map, probabilities, and a warning about its use.

Source: DICOM PS3.3 A.8.1 (Secondary Capture Image).
"""

from __future__ import annotations

import functools
import io
import textwrap
from collections import Counter
from collections.abc import Sequence

import numpy as np
from highdicom.sc import SCImage
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from med_transfer.errors.numbers import rounded
from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.codes import shortened
from med_transfer.hospital.result_header import RESEARCH_ONLY, ResultHeader
from med_transfer.scans.inspection.page import view_of
from med_transfer.scans.inspection.picture import side_by_side

_INCHES, _DPI = (10.24, 10.24), 100
_CHINESE_FONTS = ("Noto Sans Mono CJK TC", "Noto Sans CJK TC", "Noto Sans TC", "PingFang TC", "Microsoft JhengHei")
_COLUMNS, _CLASSES, _REASONS, _REFUSALS = 100, 8, 6, 8  # characters per line; maxima per page
_LEGEND = 7  # lines: the meaning of the colours with three doubts takes five, with a long class name six


def secondary_capture(about: Dataset, drawn: Figure, header: ResultHeader, number: int) -> SCImage:
    """Create the DICOM object of a page.

    Args:
        about: header of an image that the page describes.
        drawn: the page.
        header: what the study's results have in common.
        number: index of the page among the study's.
    """
    image = SCImage.from_ref_dataset(
        ref_dataset=about,
        pixel_array=pixels(drawn),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        **header.instance("SC", number),
        patient_orientation=("L", "P"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.BurnedInAnnotation = "NO"  # no patient identity
    image.PatientOrientation = []  # three planes have no common orientation
    image.Laterality = ""  # unknown; required (type 2C) for paired body parts
    return image


def pixels(drawn: Figure) -> NDArray[np.uint8]:
    """Render the page as uint8 [row, column, RGB]."""
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def page(analysis: Analysis, header: ResultHeader) -> Figure:
    """Draw the page of a series, on black."""
    return _drawn(lines(analysis, header), analysis)


def page_of_refused(analyses: Sequence[Analysis], header: ResultHeader) -> Figure:
    """Draw one page for all refused series, of which a study may have a hundred."""
    return _drawn(lines_of_refused(analyses, header))


def _drawn(text_lines: Sequence[str], analysis: Analysis | None = None) -> Figure:
    figure, top = Figure(figsize=_INCHES, dpi=_DPI, facecolor="black"), 0.93
    if analysis is not None and analysis.volume is not None:
        top = 0.05 + 0.0178 * (len(text_lines) + 1)  # text at the bottom, planes in the space above
        axes = figure.add_axes((0.02, top + 0.01, 0.96, 0.94 - top))
        axes.imshow(imread(io.BytesIO(_planes(analysis)), format="png"))
        axes.set_axis_off()
    for y, side in ((0.99, "top"), (0.01, "bottom")):
        figure.text(0.5, y, RESEARCH_ONLY, color="#ffd24d", fontsize=15, weight="bold", ha="center", va=side)
    style = {"fontsize": 9, "linespacing": 1.4, "family": _fonts(), "parse_math": False}  # a class may be called "$x"
    figure.text(0.04, top, "\n".join(map(_drawable, text_lines)), color="white", va="top", **style)
    return figure


@functools.cache
def _fonts() -> list[str]:
    """A monospaced font, and this machine's fonts with Chinese characters as fallback."""
    here = set(font_manager.get_font_names())
    return ["DejaVu Sans Mono", *(name for name in _CHINESE_FONTS if name in here)]


@functools.cache
def _drawable_characters() -> frozenset[int]:
    """Code points that can be drawn."""
    files = map(font_manager.findfont, _fonts())
    return frozenset(code for file in files for code in font_manager.get_font(file).get_charmap())


def _drawable(line: str) -> str:
    """Escape characters that no font here has; drawn as boxes, two class names could look the same."""
    known = _drawable_characters()
    return "".join(char if ord(char) in known else char.encode("unicode_escape").decode() for char in line)


def _planes(analysis: Analysis) -> bytes:
    """PNG of the three planes, with the heat map if there is one."""
    assert analysis.volume is not None
    if analysis.heat is not None:
        return analysis.heat.picture(analysis.volume)
    view = view_of(analysis.volume)
    return side_by_side(view.planes, view.window)


def lines(analysis: Analysis, header: ResultHeader) -> list[str]:
    """Text lines of the page of a series."""
    prediction, made_by = analysis.prediction, _made_by(header)
    if prediction.status != "ok":
        return ["NOT ANALYSED", *_wrapped(prediction.reason, 8), *_codes(analysis), "", made_by]
    abstained = ["ABSTAINED: the scan is unlike the training data"] if prediction.abstained else []
    called = _wrapped(f"predicted: {prediction.predicted or 'nothing'} ({header.operating_point})", 3)
    reasons = [line for reason in prediction.reason.split("; ") for line in _wrapped(reason, 2)][:_REASONS]
    return [*abstained, *reasons, *_codes(analysis), *called, *_classes(analysis, header), *_legend(analysis), made_by]


def lines_of_refused(analyses: Sequence[Analysis], header: ResultHeader) -> list[str]:
    """Text lines of the page of refused series: each reason once, with its number of series."""
    if len(analyses) == 1:
        return lines(analyses[0], header)
    reasons = Counter((analysis.prediction.found, analysis.reasons) for analysis in analyses)
    text_lines = [f"NOT ANALYSED: {len(analyses)} series; the structured report has each of them"]
    for (reason, codes), number in reasons.most_common(_REFUSALS):
        listed_codes = f" (codes: {', '.join(codes)})" if codes else ""
        text_lines += ["", *_wrapped(f"{number} series: {reason}{listed_codes}", 3)]
    more = len(reasons) - _REFUSALS
    return [*text_lines, *(["", f"and {more} more reasons"] if more > 0 else []), "", _made_by(header)]


def _classes(analysis: Analysis, header: ResultHeader) -> list[str]:
    """Table of class probabilities, with sensitivity and specificity if the bundle has them."""
    shares = sorted(analysis.prediction.probabilities.items(), key=lambda item: -item[1])
    width = min(30, max(len(name) for name, _ in shares))
    head = f"{'':>6}  {'':{width}}  {'sensitivity':16}  specificity" if header.rates_of else ""
    percent = [f"{rounded(100 * p, 1, of=(0.0, 100.0))}%" for _, p in shares]
    rows = [
        f"{p:>6}  {shortened(name, width):{width}}  {'  '.join(f'{rate:16}' for rate in header.rates(name))}".rstrip()
        for (name, _), p in zip(shares[:_CLASSES], percent, strict=False)
    ]
    more = [f"        and {len(shares) - _CLASSES} more, in the structured report"] if len(shares) > _CLASSES else []
    return [*filter(None, [head]), *rows, *more, *filter(None, [header.rates_of])]


def _legend(analysis: Analysis) -> list[str]:
    """Meaning of the colours, and doubts about the map."""
    if analysis.heat is None:
        return []
    record = analysis.heat.record
    says = f"colours: orange supports {record.class_name}, blue opposes it (Grad-CAM); it need not be the finding."
    return _wrapped(" ".join([says, *record.doubts]), _LEGEND)


def _made_by(header: ResultHeader) -> str:
    return f"med_transfer {header.version}, {header.model_name}, revision {header.revision}"


def _codes(analysis: Analysis) -> list[str]:
    return _wrapped(f"codes: {', '.join(analysis.reasons)}", 2) if analysis.reasons else []


def _wrapped(text: str, max_lines: int) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, max_lines=max_lines, placeholder=" ...")
