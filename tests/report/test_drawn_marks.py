"""What matplotlib draws in a report's figures, against the record: places, sizes, colours, names of the legend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from report_samples import CURVES, sample

from med_transfer.metrics.records.estimate import Estimate
from med_transfer.page import ENGLISH
from med_transfer.report.figure import DASHES, INK, MUTED, RULE, SERIES, WARNING, Figure
from med_transfer.report.run_summary import Count, ParticipantFlow
from med_transfer.report.sections.calibration import reliability_diagram
from med_transfer.report.sections.curves import roc_curves
from med_transfer.report.sections.decision_curve import net_benefit
from med_transfer.report.sections.first_screen_forest import sensitivity_forest
from med_transfer.report.sections.flow_diagram import flow_diagram
from med_transfer.report.sections.training import learning_curves

ABSENT = Estimate(value=None, ci95=None, method="Wilson", reason="no scan")


class Drawn(Exception):
    """Carries a matplotlib figure on which everything has been drawn."""


@pytest.fixture
def canvas_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Canvas]:
    """Draws a figure of the report and returns matplotlib's, with all that is on it, before SVG is made of it."""

    def stop(canvas: FigureCanvasSVG, *_, **__) -> NoReturn:
        raise Drawn(canvas.figure)

    def drawn(draw: Callable[..., Figure], *arguments) -> Canvas:
        with pytest.raises(Drawn) as stopped:
            draw(*arguments)
        return stopped.value.args[0]

    monkeypatch.setattr(FigureCanvasSVG, "print_svg", stop)
    return drawn


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def lines_of(axes: Axes, colour: str, marker: str = "None") -> list[Line2D]:
    return [line for line in axes.lines if line.get_color() == colour and line.get_marker() == marker]


def check_unit_square(axes: Axes) -> None:
    """Both axes show 0 to 1 and little more, at one scale, with a tick at every fifth."""
    for (low, high), ticks in ((axes.get_xlim(), axes.get_xticks()), (axes.get_ylim(), axes.get_yticks())):
        assert -0.05 < low < 0 < 1 < high < 1.1
        np.testing.assert_allclose(ticks, [0, 0.2, 0.4, 0.6, 0.8, 1])
    assert axes.get_aspect() == 1


def test_the_colours_of_a_figure_differ():
    assert len({INK, MUTED, RULE, WARNING, *SERIES}) == 4 + len(SERIES)


def test_each_roc_curve_has_its_own_classs_points_dot_colour_and_name(canvas_of):
    """Of more classes than colours, one of which nobody has."""
    data, n_classes, absent = sample("findings"), len(SERIES) + 1, 4
    of = [c % 3 for c in range(n_classes)]
    assert data.truth is not None
    assert data.probabilities is not None
    own = [data.metrics.classes[data.metrics.labels[c]] for c in of]
    own[absent] = own[absent].model_copy(update={"auc": ABSENT})
    metrics = data.metrics.model_copy(update={"classes": {f"f{c}": one for c, one in enumerate(own)}})
    canvas = canvas_of(roc_curves, data.truth[:, of], data.probabilities[:, of], metrics, ENGLISH)
    (axes,), (legend,) = canvas.axes, canvas.legends
    (chance,) = lines_of(axes, RULE)
    assert points(chance) == [(0, 0), (1, 1)]
    curves = {line.get_label().partition(" ")[0]: line for line in axes.lines if line.get_marker() == "None"}
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    shown = [c for c in range(n_classes) if c != absent]
    assert [text.get_text() for text in legend.get_texts()] == [
        f"f{c} ({metrics.classes[f'f{c}'].auc.value:.2f})" for c in shown
    ]
    for c, handle, dot in zip(shown, legend.legend_handles, dots, strict=True):
        curve, of_class = curves[f"f{c}"], metrics.classes[f"f{c}"]
        across, up = curve.get_data()
        assert np.trapezoid(up, across) == pytest.approx(of_class.auc.value)
        assert (across[0], up[0], across[-1], up[-1]) == (0, 0, 1, 1)
        rates = (of_class.specificity.value, of_class.sensitivity.value)
        assert points(dot) == [pytest.approx((1 - (rates[0] or 0), rates[1]))]
        looks = (SERIES[c % len(SERIES)], DASHES[c // len(SERIES)])
        assert (curve.get_color(), curve.get_linestyle()) == looks
        assert (handle.get_color(), handle.get_linestyle()) == looks
        assert dot.get_color() == looks[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "1 − specificity (false positive rate)",
        "Sensitivity (true positive rate)",
    )
    check_unit_square(axes)


def test_a_dot_of_the_reliability_diagram_is_at_its_bin_with_its_number_above(canvas_of):
    bins = sample().metrics.calibration.bins
    (axes,) = canvas_of(reliability_diagram, bins, "", ENGLISH).axes
    places = [(b.mean_probability, b.observed) for b in bins]
    assert all(claimed != observed for claimed, observed in places)
    (dots,) = axes.collections
    np.testing.assert_allclose(dots.get_offsets(), places)
    areas = dots.get_sizes()
    np.testing.assert_allclose(np.diff(areas) * max(b.n for b in bins), 180 * np.diff([b.n for b in bins]))
    assert max(areas) == pytest.approx(200)
    assert to_hex(dots.get_facecolor()[0]) == SERIES[0]
    (line,), (agreement,) = lines_of(axes, SERIES[0]), lines_of(axes, RULE)
    assert points(line) == places
    assert points(agreement) == [(0, 0), (1, 1)]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [
        (str(b.n), place) for b, place in zip(bins, places, strict=True)
    ]
    assert all(text.xyann[1] > 0 for text in axes.texts)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted probability", "Observed frequency")
    check_unit_square(axes)


def test_each_panel_of_decision_curves_is_its_classs(canvas_of):
    metrics = sample().metrics
    many = {f"{name} {k}": curve for k in (1, 2) for name, curve in metrics.decision_curves.items()}
    many = dict(list(many.items())[:-1])
    prevalence = {f"{name} {k}": share / k for k in (1, 2) for name, share in metrics.prevalence.items()}
    canvas = canvas_of(
        net_benefit, metrics.model_copy(update={"prevalence": prevalence, "decision_curves": many}), ENGLISH
    )
    assert [axes.get_title() for axes in canvas.axes] == list(many)  # and no panel without a class
    for axes, (name, curve) in zip(canvas.axes, many.items(), strict=True):
        ((acting,), (everyone,)) = lines_of(axes, SERIES[0]), lines_of(axes, INK)
        assert points(acting) == [(point.threshold, point.net_benefit) for point in curve.points]
        assert points(everyone) == [(point.threshold, point.treat_all) for point in curve.points]
        assert (acting.get_label(), everyone.get_label()) == ("Act on the probability", "Treat everyone")
        assert (acting.get_linestyle(), everyone.get_linestyle()) == ("-", "--")
        (zero,) = lines_of(axes, MUTED)
        assert [y for _, y in points(zero)] == [0, 0]
        (band,) = axes.collections
        corners = {tuple(map(rounded, corner)) for corner in band.get_paths()[0].vertices}
        limits = {(rounded(point.threshold), rounded(y)) for point in curve.points for y in point.ci95 or ()}
        assert limits <= corners
        assert axes.get_ylim()[0] == pytest.approx(-0.3 * prevalence[name])
        assert axes.get_xlim() == (0, 1)
        assert axes.get_xlabel() == "Threshold probability"
    legends = [axes.get_legend() for axes in canvas.axes]
    assert [legend is None for legend in legends] == [False, *[True] * (len(many) - 1)]
    told = {
        text.get_text(): handle.get_color()
        for text, handle in zip(legends[0].get_texts(), legends[0].legend_handles, strict=True)
    }
    assert told == {"Treat everyone": INK, "Act on the probability": SERIES[0]}
    assert [axes.get_ylabel() for axes in canvas.axes] == ["Net benefit", "", "", "Net benefit", ""]


def test_learning_curves_show_each_networks_losses_and_the_epoch_kept(canvas_of):
    first = CURVES[0]
    second = replace(
        first, train_loss=[3.0, 2.0, 1.5], val_loss=[3.1, 2.2, 1.6], monitored=[0.1, 0.2, 0.3], best_epoch=2
    )
    loss, monitored = canvas_of(learning_curves, [first, second], ENGLISH).axes
    for drawn, lines in (
        ("train_loss", lines_of(loss, MUTED)),
        ("val_loss", lines_of(loss, SERIES[0])),
        ("monitored", lines_of(monitored, SERIES[0])),
    ):
        expected = [list(zip((1, 2, 3), getattr(curve, drawn), strict=True)) for curve in (first, second)]
        assert [points(line) for line in lines] == expected
        assert {line.get_linestyle() for line in lines} == {"--" if drawn == "train_loss" else "-"}
    kept = [[points(line) for line in lines_of(axes, SERIES[1], "o")] for axes in (loss, monitored)]
    assert kept == [[[(2, 0.8)], [(3, 1.6)]], [[(2, 0.7)], [(3, 0.3)]]]
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("Epoch", "Loss")
    assert (monitored.get_xlabel(), monitored.get_ylabel()) == ("Epoch", "macro AUC")


def test_each_row_of_the_forest_is_its_classs(canvas_of):
    """The first class on top, its interval thick, that over patients thin; a class that nobody has is said to be so."""
    metrics = sample().metrics
    first, second, third = metrics.labels
    given = {
        first: metrics.classes[first].sensitivity.model_copy(update={"ci95_cluster": (0.3, 0.9)}),
        second: ABSENT,
        third: metrics.classes[third].sensitivity.model_copy(update={"ci95_cluster": (0.1, 0.8)}),
    }
    classes = {name: metrics.classes[name].model_copy(update={"sensitivity": one}) for name, one in given.items()}
    (axes,) = canvas_of(sensitivity_forest, metrics.model_copy(update={"classes": classes}), ENGLISH).axes
    rows = {label.get_text(): y for y, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    assert rows == {first: 2, second: 1, third: 0}
    (said,) = axes.texts
    assert (said.get_text(), said.get_position()) == ("undefined: no scan of this class", (0, rows[second]))
    assert {points(line)[0][1] for line in axes.lines} == {rows[first], rows[third]}
    for name in (first, third):
        sensitivity = classes[name].sensitivity
        (square,), (bar,), (thin,) = (
            [line for line in lines_of(axes, *looks) if points(line)[0][1] == rows[name]]
            for looks in ((SERIES[0], "s"), (SERIES[0],), (INK, "|"))
        )
        assert points(square) == [(sensitivity.value, rows[name])]
        assert points(bar) == [(limit, rows[name]) for limit in sensitivity.ci95 or ()]
        assert points(thin) == [(limit, rows[name]) for limit in sensitivity.ci95_cluster or ()]
        assert bar.get_linewidth() > thin.get_linewidth()
    low, high = axes.get_ylim()
    assert low < 0 < 2 < high
    assert axes.get_xlabel() == "Sensitivity"


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("train", "test"), ("test",)])
def test_boxes_of_the_flow_hold_their_text_and_arrows_lead_from_one_to_the_next(canvas_of, parts):
    counts = {part: Count(10 * k, 9 * k) for k, part in enumerate(parts, start=1)}
    flow = ParticipantFlow(Count(70, 60), Count(1, 1), counts)
    (axes,) = canvas_of(flow_diagram, flow, sample(), ENGLISH).axes
    assert axes.yaxis_inverted()
    boxes = {}
    for patch in axes.patches:
        outline = patch.get_bbox()
        assert axes.viewLim.x0 < outline.x0 < outline.x1 < axes.viewLim.x1
        assert axes.viewLim.y1 < outline.y0 < outline.y1 < axes.viewLim.y0
        inside = [text for text in axes.texts if text.get_text() and outline.contains(*text.get_position())]
        heights = [text.get_position()[1] for text in inside]
        assert heights == sorted(heights)
        assert heights[0] - outline.y0 == pytest.approx(outline.y1 - heights[-1])
        assert [text.get_weight() for text in inside] == ["bold", *["normal"] * (len(inside) - 1)]
        boxes[inside[0].get_text()] = outline
    names = [{"train": "Training", "val": "Validation", "test": "Test"}[part] for part in parts if len(parts) > 1]
    used, tested = boxes["Used" if names else "Evaluated"], boxes["Test" if names else "Evaluated"]
    found, excluded, *results = (
        box for name, box in boxes.items() if name.startswith(("In the cohort", "Excluded", "Truly"))
    )
    assert len(results) == 3
    middle, turn = middle_of(found), rounded((excluded.y0 + excluded.y1) / 2)
    assert origins(axes) == {
        (middle_of(used), rounded(used.y0)): (middle, rounded(found.y1)),
        (rounded(excluded.x0), turn): (middle, turn),
        (middle_of(tested), rounded(results[0].y0)): (middle_of(tested), rounded(tested.y1)),
    } | {(middle_of(boxes[name]), rounded(boxes[name].y0)): (middle, rounded(used.y1)) for name in names}
    assert found.y1 < turn < used.y0
    if names:
        left, right = boxes[names[0]], boxes[names[-1]]
        assert (left.x0, rounded(right.x1)) == (results[0].x0, rounded(results[0].x1))


def rounded(length: float) -> float:
    return round(float(length), 9)


def middle_of(box: Bbox) -> float:
    return rounded((box.x0 + box.x1) / 2)


def origins(axes: Axes) -> dict[tuple[float, ...], tuple[float, ...]]:
    """Head of each arrow to its tail, along the lines that lead to the head."""
    drawn = [tuple(tuple(map(rounded, place)) for place in points(line)) for line in axes.lines]
    found = {}
    for arrow in (text for text in axes.texts if isinstance(text, Annotation)):
        tail = tuple(map(rounded, arrow.xyann))
        while came := {start for start, end in drawn if end == tail}:
            (tail,) = came
        found[tuple(map(rounded, arrow.xy))] = tail
    return found
