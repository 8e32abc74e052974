"""A page that every viewer shows: three planes, probabilities, and for what it must not be used. DICOM PS3.3 A.8.1."""

from __future__ import annotations

import io
import textwrap

import numpy as np
from highdicom.sc import SCImage
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.result_header import DESCRIPTION, MANUFACTURER, RESEARCH_ONLY, ResultHeader
from med_transfer.scans.inspection.page import view_of
from med_transfer.scans.inspection.picture import side_by_side

_INCHES, _DPI = (9.6, 7.2), 100


def secondary_capture(analysis: Analysis, header: ResultHeader, number: int) -> SCImage:
    """One page of one series; ``number`` of it among the study's."""
    image = SCImage.from_ref_dataset(
        ref_dataset=analysis.images[0],
        pixel_array=page(analysis, header),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=header.series_uid("SC"),
        series_number=header.series_number + 1,
        sop_instance_uid=header.sop_uid("SC", number),
        instance_number=100 * (header.revision - 1) + number + 1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=header.model_name,
        software_versions=header.version,
        series_description=DESCRIPTION,
        patient_orientation=("L", "P"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        specific_character_set=header.character_set(analysis.images[0]),
    )
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.BurnedInAnnotation = "NO"  # of who the patient is there is none
    return image


def page(analysis: Analysis, header: ResultHeader) -> NDArray[np.uint8]:
    """The picture, [row, column, colour]."""
    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="black")
    if analysis.volume is not None:
        view = view_of(analysis.volume)
        axes = figure.add_axes((0.02, 0.5, 0.96, 0.42))
        axes.imshow(imread(io.BytesIO(side_by_side(view.planes, view.window)), format="png"))
        axes.set_axis_off()
    figure.text(0.5, 0.985, RESEARCH_ONLY, color="#ffd24d", fontsize=15, weight="bold", ha="center", va="top")
    figure.text(
        0.04,
        0.46,
        "\n".join(lines(analysis, header)),
        fontsize=11,
        linespacing=1.4,
        color="white",
        family="monospace",
        va="top",
    )
    figure.text(0.5, 0.02, RESEARCH_ONLY, color="#ffd24d", fontsize=15, weight="bold", ha="center", va="bottom")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def lines(analysis: Analysis, header: ResultHeader) -> list[str]:
    """What the page says in words."""
    prediction = analysis.prediction
    made_by = f"med_transfer {header.version}, {header.model_name}, revision {header.revision}"
    if prediction.status != "ok":
        return ["NOT ANALYSED", *textwrap.wrap(prediction.reason, 90)[:8], "", made_by]
    shares = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    shown = [f"{value:6.1%}  {name[:60]}" for name, value in shares[:8]]
    shown += [f"        and {len(shares) - 8} more, in the structured report"] if len(shares) > 8 else []
    abstained = ["ABSTAINED: the scan is unlike the training data"] if prediction.abstained else []
    called = textwrap.wrap(f"predicted: {prediction.predicted or 'nothing'} ({header.operating_point})", 90)[:3]
    return [*abstained, *called, *shown, *textwrap.wrap(prediction.reason, 90)[:2], made_by]
