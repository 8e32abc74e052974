"""The flow diagram of STARD (Bossuyt et al. 2015, BMJ 351:h5527, figure): found, excluded, divided, called."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.figure import INK, MUTED, SHADE, Figure, drawn, short_names
from med_transfer.report.numbers import patients, scans
from med_transfer.report.run_summary import Count, ParticipantFlow

WIDTH = 4.5  # inches, like all lengths here
_LINE, _PAD, _GAP = 0.165, 0.09, 0.3
_MAIN, _SIDE = 1.95, 2.3  # widths of the two columns
_EM = 9 / 72  # of the text
_REASONS = 4
_NEVER_FIRST = "、，。；：）"  # in a line


@dataclass(frozen=True)
class Box:
    """Lines of text in a frame, the first one bold; y grows downwards."""

    x: float
    y: float
    width: float
    lines: Sequence[str]

    @property
    def height(self) -> float:
        """Of its lines and the padding, in the drawing's units."""
        return 2 * _PAD + _LINE * len(self.lines)

    @property
    def bottom(self) -> float:
        """y of its lower edge."""
        return self.y + self.height

    @property
    def middle(self) -> float:
        """x of its middle."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class Diagram:
    """Boxes, and arrows as (x, y) corners from tail to head."""

    boxes: Sequence[Box]
    arrows: Sequence[Sequence[tuple[float, float]]]

    @property
    def height(self) -> float:
        """Down to the lowest box."""
        return max(box.bottom for box in self.boxes)


def flow_diagram(flow: ParticipantFlow, evidence: Evidence, t: Translator) -> Figure:
    """Scans and patients from the cohort table to how each class was called."""
    diagram = _layout(flow, evidence.metrics, t)

    def draw(canvas: Canvas) -> None:
        canvas.set_layout_engine("none")
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-0.02, WIDTH + 0.02), ylim=(diagram.height + 0.02, -0.02))
        axes.set_axis_off()
        for corners in diagram.arrows:
            _draw_arrow(axes, corners)
        for box in diagram.boxes:
            _draw_box(axes, box)

    return drawn(
        "diagram",
        t("Flow of scans and patients"),
        ". ".join(": ".join((box.lines[0], "; ".join(box.lines[1:]))).rstrip(": ") for box in diagram.boxes),
        (WIDTH + 0.04, diagram.height + 0.04),
        draw,
        caption=t(
            "Counted from the rows of the cohort table. Exclusions before that table was made are not known here."
        ),
        width_rem=30,
    )


def _layout(flow: ParticipantFlow, metrics: Metrics, t: Translator) -> Diagram:
    in_table = Box(0, 0, _MAIN, _lines([t("In the cohort table"), _scans(flow.found, t)], _MAIN))
    excluded = Box(WIDTH - _SIDE, in_table.bottom + 0.08, _SIDE, _lines(_excluded(flow, metrics, t), _SIDE))
    test_only = set(flow.parts) == {"test"}
    title = t("Evaluated") if test_only else t("Used")
    used = Box(0, excluded.bottom + 0.12, _MAIN, _lines([title, _scans(flow.used, t)], _MAIN))
    turn = excluded.y + excluded.height / 2
    arrows = [
        [(in_table.middle, in_table.bottom), (used.middle, used.y)],
        [(in_table.middle, turn), (excluded.x, turn)],
    ]
    parts = [] if test_only else _parts(flow, used.bottom + _GAP, t)
    rail = used.bottom + _GAP / 2
    arrows += [
        [(used.middle, used.bottom), (used.middle, rail), (box.middle, rail), (box.middle, box.y)] for box in parts
    ]
    tested = parts[-1] if parts else used
    results = _results(metrics, max(box.bottom for box in [used, *parts]) + _GAP, t)
    arrows.append([(tested.middle, tested.bottom), (tested.middle, results[0].y)])
    return Diagram([in_table, excluded, used, *parts, *results], arrows)


def _parts(flow: ParticipantFlow, y: float, t: Translator) -> list[Box]:
    names = {"train": t("Training"), "val": t("Validation"), "test": t("Test")}
    if flow.n_networks > 1:
        names["train"] = t("Development, {n} folds", n=flow.n_networks)
    gap = 0.15
    width = (WIDTH - gap * (len(flow.parts) - 1)) / len(flow.parts)
    lines = [
        _lines([names[part], scans(count.scans, t), patients(count.patients, t)], width)
        for part, count in flow.parts.items()
    ]
    tallest = max(map(len, lines))
    return [Box(k * (width + gap), y, width, [*own, *[""] * (tallest - len(own))]) for k, own in enumerate(lines)]


def _excluded(flow: ParticipantFlow, metrics: Metrics, t: Translator) -> list[str]:
    if not flow.excluded.scans:
        return [t("Excluded: none")]
    reasons = metrics.failed.found
    shown = dict(list(reasons.items())[:_REASONS])
    rest = sum(reasons.values()) - sum(shown.values())
    lines = [
        t("Excluded: {scans}", scans=_scans(flow.excluded, t)),
        *(f"{t.translated(reason)} ({n})" for reason, n in shown.items()),
    ]
    return [*lines, *([t("other reasons ({n})", n=rest)] if rest else [])]


def _results(metrics: Metrics, y: float, t: Translator) -> list[Box]:
    boxes: list[Box] = []
    shown = short_names(metrics.labels, 30)
    for row, name in enumerate(metrics.labels):
        class_metrics = metrics.classes[name]
        count = _scans(Count(class_metrics.n, class_metrics.n_patients), t)
        heading = t("Truly {name}: {scans}", name=shown[name], scans=count)
        predicted = _calls(metrics, row, shown, t)
        boxes.append(Box(0, boxes[-1].bottom + 0.08 if boxes else y, WIDTH, _lines([heading, predicted], WIDTH)))
    return boxes


def _calls(metrics: Metrics, row: int, shown: Mapping[str, str], t: Translator) -> str:
    own = metrics.labels[row]
    counts = metrics.classes[own].counts
    if metrics.confusion_matrix is None:
        return t(
            "found {found}, missed {missed}; wrongly found in {wrong} of the {others} others",
            found=counts.true_positive,
            missed=counts.false_negative,
            wrong=counts.false_positive,
            others=counts.false_positive + counts.true_negative,
        )
    n_predicted = dict(zip(metrics.labels, metrics.confusion_matrix[row], strict=True))
    wrong = [f"{shown[name]} {n}" for name, n in n_predicted.items() if n and name != own]
    return t("called {calls}", calls=t(", ").join([f"{shown[own]} {n_predicted[own]}", *wrong]))


def _scans(count: Count, t: Translator) -> str:
    return t("{scans}, {patients}", scans=scans(count.scans, t), patients=patients(count.patients, t))


def _lines(texts: Sequence[str], width: float) -> list[str]:
    return [line for text in texts for line in wrapped(text, (width - 2 * _PAD) / _EM)]


def wrapped(text: str, widest_em: float) -> list[str]:
    """Lines that fit, by a rough width of letters: Latin about half an em, Chinese a whole one."""
    lines, line, used = [], "", 0.0
    for word in _words(text):
        width = sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.54 for letter in word)
        if line and used + width > widest_em:
            lines.append(line.rstrip())
            line, used = "", 0.0
        line, used = line + word, used + width
    return [*lines, line.rstrip()]


def _words(text: str) -> list[str]:
    """Pieces between which a line may end; each keeps the space behind it. A long one is cut."""
    pieces: list[str] = []
    for letter in text:
        wide = unicodedata.east_asian_width(letter) in "WF"
        if pieces and letter in _NEVER_FIRST:
            pieces[-1] += letter
        elif not pieces or wide or pieces[-1].endswith((" ", "/", "_", *_NEVER_FIRST)) or len(pieces[-1]) > 30:
            pieces.append(letter)
        else:
            pieces[-1] += letter
    return pieces


def _draw_box(axes: Axes, box: Box) -> None:
    axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, facecolor=SHADE, edgecolor=MUTED, linewidth=0.8))
    for row, line in enumerate(box.lines):
        weight = "bold" if row == 0 else "normal"
        y = box.y + _PAD + _LINE * (row + 0.5)
        axes.text(box.x + _PAD, y, line, fontsize=9, va="center", color=INK, weight=weight)


def _draw_arrow(axes: Axes, corners: Sequence[tuple[float, float]]) -> None:
    *line, (tail, head) = itertools.pairwise(corners)
    for start, end in line:
        axes.plot(*zip(start, end, strict=True), color=MUTED, linewidth=1)
    arrow = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=head, xytext=tail, arrowprops=arrow)
