"""The interface to Optuna, which no other module uses. The study is a journal file in the output folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from med_transfer.atomic import output_error, write_bytes
from med_transfer.cohorts.left_behind import left_behind, sealed, unsealed
from med_transfer.errors import not_installed
from med_transfer.tuning.config import TuningConfig
from med_transfer.tuning.record import TrialRecord, TrialState

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, Trial

JOURNAL = "study.journal"


class TrialPruned(Exception):
    """The trial is below the median of earlier trials at this step."""


def import_optuna() -> ModuleType:
    """Import Optuna. Raises MissingExtra if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise not_installed("optuna", "tune", "med-transfer tune") from error
    return optuna


class _NoLock:
    """Replaces Optuna's lock file, which a killed process leaves behind and an interrupt can leave half renamed."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


@dataclass
class _Journal:
    """Optuna's journal file, with a hash in each of its records."""

    path: Path
    file: JournalFileBackend

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Records from this number on, with their hashes checked. Raises any of ``DAMAGED``."""
        return map(unsealed, self.file.read_logs(log_number_from))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records with their hashes. Raises OutputError."""
        try:
            self.file.append_logs(list(map(sealed, logs)))
        except OSError as error:
            raise output_error(self.path, error) from error


def _remove_incomplete_line(journal: Path) -> None:
    """Remove an incomplete last line, left by a killed process or a full disk: new records would be appended to it.

    All lines are checked, since Optuna may read some of them only later. Raises any of ``DAMAGED`` if one is damaged.
    """
    content = journal.read_bytes() if journal.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    for line in whole.splitlines():
        unsealed(json.loads(line))
    if whole != content:
        write_bytes(journal, whole)


class Study:
    """The trials so far, and the next one; for one process at a time.

    Each trial has its own sampler, seeded by the trial's number, so that a resumed study draws the same trials as an
    uninterrupted one.

    Raises:
        UsageError: the journal is damaged.
        OutputError: the journal cannot be written.
    """

    def __init__(self, folder: Path, config: TuningConfig) -> None:
        self._optuna, self._config = import_optuna(), config
        from optuna.storages.journal import JournalFileBackend

        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        path, pruners = folder / JOURNAL, self._optuna.pruners
        with left_behind(path):
            _remove_incomplete_line(path)
            journal = _Journal(path, JournalFileBackend(str(path), lock_obj=_NoLock()))  # type: ignore[arg-type]
            self._study = self._optuna.create_study(
                storage=self._optuna.storages.JournalStorage(journal),  # type: ignore[arg-type]
                study_name="tuning",
                direction="maximize",
                load_if_exists=True,
                pruner=pruners.MedianPruner(config.prune_after_trials, config.prune_after_epochs)
                if config.pruning
                else pruners.NopPruner(),
            )

    def next(self, *, evenly: bool = False) -> Trial:
        """The interrupted trial with the values it has drawn, or a new one; ``evenly`` ignores earlier results."""
        trials = self._study.get_trials(deepcopy=False)
        running = next((trial for trial in trials if trial.state.name == "RUNNING"), None)
        self._study.sampler = self._sampler(running.number if running else len(trials), evenly)
        if running is None:
            return self._study.ask()
        return self._optuna.trial.Trial(self._study, running._trial_id)  # Optuna has no public way to resume a trial

    def _sampler(self, number: int, evenly: bool) -> BaseSampler:
        seed = int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])
        if evenly:
            return self._optuna.samplers.RandomSampler(seed=seed)
        return self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._config.startup_trials)

    def report(self, trial: Trial, step: int, figure: float) -> None:
        """Report a figure for comparison with other trials at the same step. Raises TrialPruned."""
        reported = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if not math.isfinite(figure):
            return
        if step not in reported:
            trial.report(figure, step)
        elif step < max(reported):  # a resumed trial reports some steps again; only the last may not have been judged
            return
        if trial.should_prune():
            raise TrialPruned

    def tell(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        """Record how the trial ended, with its ``value`` if it is complete."""
        states = self._optuna.trial.TrialState
        ended = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[state]
        self._study.tell(trial.number, value, ended)

    def records(self) -> list[TrialRecord]:
        """All trials, in order."""
        return [_record(trial) for trial in self._study.get_trials(deepcopy=False)]


_STATES: dict[str, TrialState] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def _record(trial: FrozenTrial) -> TrialRecord:
    noted: dict[str, Any] = trial.user_attrs
    state = _STATES.get(trial.state.name, "unfinished")
    return TrialRecord(
        number=trial.number,
        state=state,
        value=trial.value if state == "complete" else None,
        figures=tuple(noted.get("figures", ())),
        values=noted.get("values", {}),
        epochs=noted.get("epochs", 0),
        seconds=noted.get("seconds", 0.0),
        repeats=noted.get("repeats"),
    )
