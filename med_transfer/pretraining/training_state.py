"""The progress of a pretraining and its curve: losses every few steps, measurements at longer intervals."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import Tensor

from med_transfer.atomic import atomic_path
from med_transfer.pretraining.config import StopConfig

LOG_STEPS = 50  # number of steps that losses are averaged over


@dataclass
class TrainingState:
    """Progress and curve; stored in the checkpoint as JSON.

    Attributes:
        step: number of steps done.
        seconds: of training, those before an interruption included.
        curve: entries with ``step`` and ``seconds``, and losses or ``measured`` figures.
        best: the highest monitored figure so far; None before there is one.
        without_gain: measurements since ``best``.
        ended: whether the training has finished.
        losses, counted: sums of losses since the last entry of the curve, and their number. The sums stay on the
            device, since reading them would wait for it.
        best_of: name of the figure ``best``, and of the scans that it was measured on where they may change.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[dict] = field(default_factory=list)
    best: float | None = None
    without_gain: int = 0
    ended: bool = False
    losses: dict[str, float | Tensor] = field(default_factory=dict)
    counted: int = 0
    best_of: str = ""

    @classmethod
    def from_json(cls, text: str) -> TrainingState:
        """Restore what :meth:`to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """All fields as JSON; this reads the losses from the device."""
        return json.dumps(asdict(replace(self, losses={name: float(value) for name, value in self.losses.items()})))

    def add(self, losses: dict[str, Tensor]) -> None:
        """Count one step and add its losses."""
        self.step, self.counted = self.step + 1, self.counted + 1
        self.losses = {name: self.losses.get(name, 0.0) + value.detach() for name, value in losses.items()}
        if self.step % LOG_STEPS == 0:
            self.close_entry()

    def close_entry(self) -> None:
        """Append the mean losses since the last entry to the curve."""
        if self.counted:
            means = {name: round(float(value) / self.counted, 5) for name, value in self.losses.items()}
            self.curve.append(self._now() | means)
        self.losses, self.counted = {}, 0

    def measured(self, figures: dict[str, float], monitored: str, stop: StopConfig | None, on: str = "") -> bool:
        """Add a measurement; returns whether to keep this encoder: with ``stop`` only if it is the best so far.

        Sets ``ended`` if ``stop`` is given and the figure has not improved for ``stop.patience`` measurements.

        Args:
            figures: by name.
            monitored: name of the figure that decides.
            stop: when to stop; None keeps every encoder.
            on: identifies the probe's scans, which may be others in a resumed run.
        """
        self.close_entry()
        self.curve.append(self._now() | {"measured": {name: round(value, 5) for name, value in figures.items()}})
        value = figures.get(monitored)
        if value is None or stop is None:
            return True
        figure = f"{monitored} {on}".strip()
        if self.best_of not in ("", monitored, figure):  # resumed with another probe or none: not comparable
            self.best, self.without_gain = None, 0
        self.best_of = figure
        gained = self.best is None or value > self.best + stop.least_gain
        self.best, self.without_gain = (value, 0) if gained else (self.best, self.without_gain + 1)
        self.ended = self.without_gain >= stop.patience
        return gained

    def _now(self) -> dict:
        return {"step": self.step, "seconds": round(self.seconds, 2)}


def draw_curve(curve: list[dict], monitored: str, path: Path) -> None:
    """Plot the loss and the monitored figure over the steps, as PNG. Raises OutputError."""
    from matplotlib.figure import Figure  # slow to import, and a training is well under way before it is drawn

    figure = Figure(figsize=(7, 5), dpi=110)
    # Fixed margins, since computing them takes as long as drawing.
    margins = {"left": 0.13, "bottom": 0.1, "right": 0.98, "top": 0.97, "hspace": 0.12}
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw=margins)
    measured = [(entry["step"], entry["measured"]) for entry in curve if "measured" in entry]
    losses = [(entry["step"], entry["loss"]) for entry in curve if "loss" in entry]
    figures = [(step, values[monitored]) for step, values in measured if monitored in values]
    for axes, name, points in ((above, "loss", losses), (below, monitored, figures)):
        axes.plot([x for x, _ in points], [y for _, y in points], marker="." if len(points) < 50 else None)
        axes.set_ylabel(name.replace("_", " "))
        axes.grid(alpha=0.3)
    below.set_xlabel("step")
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
