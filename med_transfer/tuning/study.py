"""The search itself is Optuna's: this file is all that knows it. The study is a journal file in the output folder."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from med_transfer.errors import MissingExtra
from med_transfer.tuning.config import TuningConfig
from med_transfer.tuning.record import TrialRecord
from med_transfer.tuning.space import Draws
from med_transfer.tuning.watcher import TrialPruned

JOURNAL = "study.journal"
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def import_optuna() -> ModuleType:
    """Optuna. Raises MissingExtra."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra(
            "package optuna is not installed", where="med-transfer tune", action="Run: pip install med-transfer[tune]"
        ) from error
    return optuna


class Trial:
    """One trial of a study, new or found unfinished."""

    def __init__(self, trial: Any, reported: set[int]) -> None:
        self._trial, self._reported = trial, reported

    @property
    def number(self) -> int:
        return self._trial.number

    @property
    def draws(self) -> Draws:
        return self._trial

    def report(self, step: int, figure: float) -> None:
        """A figure to compare with other trials' at the same step. Raises Hopeless."""
        if step in self._reported or not math.isfinite(figure):
            return
        self._reported.add(step)
        self._trial.report(figure, step)
        if self._trial.should_prune():
            raise TrialPruned

    def note(self, **facts: Any) -> None:
        """Kept with the trial."""
        for name, value in facts.items():
            self._trial.set_user_attr(name, value)


class _OneProcess:
    """In the place of Optuna's lock file, which a kill leaves behind and an interrupt can catch half renamed."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


class Study:
    """The trials so far, and the next one. One process at a time.

    A sampler of its own for each trial, seeded by the trial's number, makes a study that was stopped and goes on draw
    the same trials as one that was not.
    """

    def __init__(self, folder: Path, config: TuningConfig) -> None:
        self._optuna, self._config = import_optuna(), config
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        journal = importlib.import_module("optuna.storages.journal")
        folder.mkdir(parents=True, exist_ok=True)
        backend = journal.JournalFileBackend(str(folder / JOURNAL), lock_obj=_OneProcess())
        storage = self._optuna.storages.JournalStorage(backend)
        self._study = self._optuna.create_study(
            storage=storage, study_name="tuning", direction="maximize", load_if_exists=True, pruner=self._pruner()
        )

    def _pruner(self) -> Any:
        if not self._config.pruning:
            return self._optuna.pruners.NopPruner()
        return self._optuna.pruners.MedianPruner(
            n_startup_trials=self._config.prune_after_trials, n_warmup_steps=self._config.prune_after_epochs
        )

    def _frozen(self) -> list[Any]:
        return self._study.get_trials(deepcopy=False)

    def next(self, *, evenly: bool = False) -> Trial:
        """The one that was interrupted, with what it had drawn, or a new one; ``evenly`` ignores earlier results."""
        running = [one for one in self._frozen() if one.state.name == "RUNNING"]
        number = running[0].number if running else len(self._frozen())
        seed = np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0]
        self._study.sampler = self._sampler(int(seed), evenly)
        if running:  # Optuna has no public way back to a trial that was left
            again = self._optuna.trial.Trial(self._study, running[0]._trial_id)
            return Trial(again, set(running[0].intermediate_values))
        return Trial(self._study.ask(), set())

    def _sampler(self, seed: int, evenly: bool) -> Any:
        if evenly:
            return self._optuna.samplers.RandomSampler(seed=seed)
        return self._optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._config.startup_trials)

    def complete(self, trial: Trial, value: float) -> None:
        self._study.tell(trial.number, value)

    def prune(self, trial: Trial) -> None:
        self._tell(trial, "PRUNED")

    def fail(self, trial: Trial) -> None:
        self._tell(trial, "FAIL")

    def _tell(self, trial: Trial, state: str) -> None:
        self._study.tell(trial.number, state=self._optuna.trial.TrialState[state])

    def records(self) -> list[TrialRecord]:
        """Every trial, in order."""
        return [_record(one) for one in self._frozen()]


def _record(frozen: Any) -> TrialRecord:
    noted, state = frozen.user_attrs, _STATES.get(frozen.state.name, "unfinished")
    return TrialRecord(
        number=frozen.number,
        state=state,
        value=frozen.value if state == "complete" else None,
        figures=tuple(noted.get("figures", ())),
        values=noted.get("values", {}),
        epochs=noted.get("epochs", 0),
        seconds=noted.get("seconds", 0.0),
        reason=noted.get("reason", ""),
    )
