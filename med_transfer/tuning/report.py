"""``best.yaml`` for finetune, ``trials.csv`` and ``tuning.json`` for programs, ``tuning.md`` for people."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from med_transfer.atomic import write_text
from med_transfer.config import dump_config
from med_transfer.tuning.record import Advantage, TrialRecord, Tuning
from med_transfer.tuning.space import applied

SCHEMA = 1
WARNING = (
    "The winner's figure is biased upwards: the same inner folds chose the epochs, measured every trial and picked the "
    "best of them. It is no estimate of how good the classifier is. Only the outer test scans of one final finetune, "
    "which no trial has seen, are. Tuning again after having looked at them makes them part of the tuning."
)


def write_tuning(tuning: Tuning) -> None:
    """All files, into the search's folder; no best.yaml before a trial is complete. Raises OutputError."""
    if tuning.best is not None:
        dump_config(applied(tuning.config.base, tuning.best.values), tuning.best_file)
    write_text(tuning.folder / "trials.csv", _as_csv(tuning))
    write_text(tuning.folder / "tuning.json", json.dumps(as_record(tuning), indent=2) + "\n")
    write_text(tuning.folder / "tuning.md", as_markdown(tuning))


def as_record(tuning: Tuning) -> dict[str, Any]:
    """What ``tuning.json`` holds."""
    best, default, found = tuning.best, tuning.default, tuning.advantage
    return {
        "schema": SCHEMA,
        "objective": tuning.config.objective,
        "objective_is": _objective(tuning),
        "best": best and asdict(best),
        "default": default and asdict(default),
        "best_minus_default": found and asdict(found) | {"method": _METHOD},
        "best_config": str(tuning.best_file) if best else None,
        "trials": {state: tuning.count(state) for state in ("complete", "pruned", "failed", "unfinished")},
        "strategies": list(tuning.strategies),
        "n_scans": tuning.n_scans,
        "n_patients": tuning.n_patients,
        "n_folds": tuning.n_folds,
        "failed_scans": tuning.n_failed,
        "seed": tuning.config.tuning.seed,
        "stopped": tuning.stopped,
        "warning": WARNING,
    }


_METHOD = "mean over inner folds of the differences, corrected resampled t interval (Nadeau & Bengio 2003)"


def _objective(tuning: Tuning) -> str:
    figure, past = tuning.config.objective.replace("_", " "), tuning.config.training.smoothing
    return (
        f"mean over {tuning.n_folds} inner folds of the {figure} on the fold's validation scans at the epoch kept, "
        f"as an exponential mean over epochs (weight of the past {past:g})"
    )


def _as_csv(tuning: Tuning) -> str:
    keys = list(dict.fromkeys(key for trial in tuning.trials for key in trial.values))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    folds = [f"fold_{fold + 1}" for fold in range(tuning.n_folds)]
    writer.writerow(["trial", "state", "value", *folds, "epochs", "seconds", "reason", *keys])
    for trial in tuning.trials:
        figures = [*trial.figures, *[""] * (tuning.n_folds - len(trial.figures))]
        value = "" if trial.value is None else trial.value
        chosen = [_text(trial.values.get(key, "")) for key in keys]
        seconds = round(trial.seconds, 1)
        writer.writerow([trial.number, trial.state, value, *figures, trial.epochs, seconds, trial.reason, *chosen])
    return stream.getvalue()


def _text(value: Any) -> Any:
    """A list of words or numbers as one cell."""
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else value


def as_markdown(tuning: Tuning) -> str:
    """The choice, how it stands to the default, the warning, and every trial."""
    states = ", ".join(f"{tuning.count(state)} {state}" for state in ("complete", "pruned", "failed", "unfinished"))
    parts = [
        "# A search for a better configuration",
        f"{len(tuning.trials)} trials ({states}) on {tuning.n_scans} development scans of {tuning.n_patients} patients."
        f" Each trial's figure is the {_objective(tuning)}. Strategies: {', '.join(tuning.strategies)}. "
        f"{tuning.stopped[:1].upper()}{tuning.stopped[1:]}.",
        "The test scans were not in it: neither their voxels nor their labels reached a trial.",
        f"**{summary(tuning)}**",
        f"> {WARNING}",
    ]
    if tuning.best is not None:
        parts += ["## Chosen", _chosen(tuning.best), "    med-transfer finetune COHORT -o RUN -c best.yaml"]
    parts += ["## Trials, best first", _trial_table(tuning)]
    return "\n\n".join(parts) + "\n"


def summary(tuning: Tuning) -> str:
    """The outcome in a sentence or two."""
    best, default, found = tuning.best, tuning.default, tuning.advantage
    if best is None or best.value is None:
        return "No trial is complete yet."
    if default is None or default.value is None or found is None:
        return f"Trial {best.number} leads with {best.value:.3f}; the default has no figure yet."
    if best.number == 0:
        return f"No trial beat the default config, which reached {best.value:.3f}. best.yaml is the default."
    return (
        f"Trial {best.number} reached {best.value:.3f}, the default {default.value:.3f}: "
        f"{advantage_text(found)}. {_meaning(found)}"
    )


def advantage_text(found: Advantage) -> str:
    """For example ``+0.031, 95 % interval over folds -0.020 to +0.082``."""
    if found.ci95 is None:
        return f"{found.mean:+.3f}, no interval from a single fold"
    return f"{found.mean:+.3f}, 95 % interval over folds {found.ci95[0]:+.3f} to {found.ci95[1]:+.3f}"


def _meaning(found: Advantage) -> str:
    if found.ci95 is None or found.ci95[0] <= 0:
        return "That is not shown to be better than the default, even before the search's optimism is counted."
    return "The interval does not count that the best of several trials was picked."


def _chosen(best: TrialRecord) -> str:
    if not best.values:
        return "The default config."
    return _table([("key", "value"), *((f"`{key}`", _number(value)) for key, value in best.values.items())])


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(_text(value))


def _trial_table(tuning: Tuning) -> str:
    ranked = sorted(tuning.trials, key=lambda trial: (trial.value is None, -(trial.value or 0.0), trial.number))
    rows = [("trial", "figure", "folds", "epochs", "seconds", "what")]
    for trial in ranked:
        value = f"{trial.value:.3f}" if trial.value is not None else trial.state
        folds = " ".join(f"{figure:.2f}" for figure in trial.figures)
        what = ", ".join(f"{key} {_number(value)}" for key, value in trial.values.items())
        what = what or ("the default" if trial.number == 0 else "")
        note = f" ({trial.reason})" if trial.reason else ""
        rows.append((str(trial.number), value, folds, str(trial.epochs), f"{trial.seconds:.0f}", what + note))
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, tuple("---" for _ in head), *body))
