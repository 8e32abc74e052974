"""The files of a search: ``best.yaml`` for finetune, ``trials.csv``, ``tuning.json``, and a readable ``tuning.md``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from med_transfer.atomic import write_text
from med_transfer.atomic.csv_table import write_csv
from med_transfer.config import dump_config
from med_transfer.errors.numbers import counted, rounded
from med_transfer.finetuning.early_stopping import FIGURES
from med_transfer.page.markdown import table
from med_transfer.tuning.record import Advantage, TrialRecord, Tuning
from med_transfer.tuning.space import applied

SCHEMA = 1
_BIASED = (
    "The winner's figure is biased upwards: the same inner folds chose the epochs, measured every trial and picked "
    "the best one. It does not estimate how good the classifier is. "
)
_TESTED = (
    "Only the outer test scans of one final finetune, which no trial has seen, do. Tuning again after having looked "
    "at them makes them part of the tuning."
)
_UNTESTED = (
    "Nor do the figures of a finetune on these patients: none were held out, and all influenced the choice. Only "
    "patients of another cohort give such an estimate (med-transfer evaluate); otherwise, hold some out "
    "(split.test_fraction above 0) and tune again in a new folder."
)
_METHOD = "mean over inner folds of the differences, corrected resampled t interval (Nadeau & Bengio 2003)"


def write_tuning(tuning: Tuning) -> None:
    """Write all files into the search's folder; best.yaml only once a trial is complete. Raises OutputError."""
    if tuning.best is not None:
        dump_config(applied(tuning.config.base, tuning.best.values), tuning.best_file)
    _write_trials(tuning)
    write_text(tuning.folder / "tuning.json", json.dumps(as_record(tuning), indent=2) + "\n")
    write_text(tuning.folder / "tuning.md", as_markdown(tuning))


def as_record(tuning: Tuning) -> dict[str, Any]:
    """The content of ``tuning.json``."""
    best, default, gained = tuning.best, tuning.default, tuning.advantage
    return {
        "schema": SCHEMA,
        "objective": tuning.config.objective,
        "objective_is": _objective(tuning),
        "best": best and _trial_record(best),
        "default": default and _trial_record(default),
        "best_minus_default": gained and asdict(gained) | {"method": _METHOD},
        "best_config": str(tuning.best_file) if best else None,
        "trials": tuning.counts,
        "strategies": list(tuning.strategies),
        "n_scans": tuning.n_scans,
        "n_patients": tuning.n_patients,
        "n_folds": tuning.n_folds,
        "failed_scans": tuning.n_failed,
        "seed": tuning.config.tuning.seed,
        "stopped": tuning.stopped,
        "warning": warning(tuning),
    }


def _trial_record(trial: TrialRecord) -> dict[str, Any]:
    return asdict(trial) | {"reason": trial.reason}


def _objective(tuning: Tuning) -> str:
    figure, past = FIGURES[tuning.config.objective], tuning.config.training.smoothing
    return (
        f"mean over {tuning.n_folds} inner folds of the {figure} on the fold's validation scans at the epoch kept, "
        f"as an exponential mean over epochs (weight of the past {past:g})"
    )


def _write_trials(tuning: Tuning) -> None:
    folds = [f"fold_{fold + 1}" for fold in range(tuning.n_folds)]
    keys = dict.fromkeys(key for trial in tuning.trials for key in trial.values)
    columns = ["trial", "state", "value", *folds, "epochs", "seconds", "reason", *keys]
    rows = []
    for trial in tuning.trials:
        row = {"trial": trial.number, "state": trial.state, "value": trial.value, "epochs": trial.epochs}
        row |= {"seconds": round(trial.seconds, 1), "reason": trial.reason} | dict(
            zip(folds, trial.figures, strict=False)
        )
        rows.append(row | {key: _cell(value) for key, value in trial.values.items()})
    write_csv(tuning.folder / "trials.csv", columns, rows)


def _cell(value: Any) -> Any:
    """A value as one cell; lists are joined by spaces."""
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else value


def as_markdown(tuning: Tuning) -> str:
    """The content of ``tuning.md``: the choice, its comparison with the default, the warning, and every trial."""
    states = ", ".join(f"{count} {state}" for state, count in tuning.counts.items())
    parts = [
        "# A search for a better configuration",
        f"{counted(len(tuning.trials), 'trial')} ({states}) on {counted(tuning.n_scans, 'development scan')} of "
        f"{counted(tuning.n_patients, 'patient')}."
        f" Each trial's figure is the {_objective(tuning)}. Strategies: {', '.join(tuning.strategies)}. "
        f"{tuning.stopped[:1].upper()}{tuning.stopped[1:]}.",
        "The test scans were not used: neither their voxels nor their labels reached a trial."
        if tuning.tested
        else "No scans were held out for a test.",
        f"**{summary(tuning)}**",
        f"> {warning(tuning)}",
    ]
    if tuning.best is not None:
        rows = [(key, _number(value)) for key, value in tuning.best.values.items()]
        chosen = table([("key", "value"), *rows]) if rows else "The default config."
        parts += ["## Chosen", chosen, "    med-transfer finetune COHORT -o RUN -c best.yaml"]
    ranked = sorted(tuning.trials, key=lambda trial: (trial.value is None, -(trial.value or 0.0), trial.number))
    trials = [("trial", "figure", "folds", "epochs", "seconds", "what"), *map(_trial_row, ranked)]
    parts += ["## Trials, best first", table(trials)]
    return "\n\n".join(parts) + "\n"


def warning(tuning: Tuning) -> str:
    """Why the winner's figure is biased, and what to evaluate on instead."""
    return _BIASED + (_TESTED if tuning.tested else _UNTESTED)


def summary(tuning: Tuning) -> str:
    """The outcome of the search, in a sentence or two."""
    best, default, gained = tuning.best, tuning.default, tuning.advantage
    if best is None:
        return "No trial is complete yet."
    if default is None or gained is None:
        failed = any(trial.number == 0 and trial.state == "failed" for trial in tuning.trials)
        why = "the training of the default diverged" if failed else "the default has no figure yet"
        return f"Trial {best.number} leads with {best.value:.3f}; {why}."
    if best is default:
        return f"No trial beat the default config, which reached {best.value:.3f}. best.yaml is the default."
    if gained.ci95 is None or gained.ci95[0] <= 0:
        meaning = (
            "This is not shown to be better than the default, even before accounting for the optimism of the search."
        )
    else:
        meaning = "The interval does not account for picking the best of several trials."
    decimals = 3 if f"{best.value:.3f}" != f"{default.value:.3f}" else 4
    reached = f"Trial {best.number} reached {best.value:.{decimals}f}, the default {default.value:.{decimals}f}"
    return f"{reached}: {advantage_text(gained)}. {meaning}"


def advantage_text(gained: Advantage) -> str:
    """The advantage in words, for example ``+0.031, 95 % interval over folds -0.020 to +0.082``."""
    mean = rounded(gained.mean, 3, "+")
    if gained.ci95 is None:
        return f"{mean}, no interval, as there is one fold or every fold gives the same"
    low, high = (rounded(limit, 3, "+") for limit in gained.ci95)
    return f"{mean}, 95 % interval over folds {low} to {high}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(_cell(value))


def _trial_row(trial: TrialRecord) -> tuple[str, ...]:
    value = f"{trial.value:.3f}" if trial.value is not None else trial.state
    folds = " ".join(f"{figure:.2f}" for figure in trial.figures)
    what = ", ".join(f"{key} {_number(value)}" for key, value in trial.values.items())
    what = what or ("the default" if trial.number == 0 else "")
    reason = f" ({trial.reason})" if trial.reason else ""
    return (str(trial.number), value, folds, str(trial.epochs), f"{trial.seconds:.0f}", what + reason)
