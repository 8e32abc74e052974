"""The search: one trial after the other on the development folds, up to a number of trials or a time limit."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from med_transfer.backbones import LoadedBackbone
from med_transfer.errors import NothingDone, TrainingDiverged
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.fold_training import TrainedNetwork, is_trained
from med_transfer.finetuning.folds import Folds, train_fold
from med_transfer.finetuning.on_cluster import train_on
from med_transfer.finetuning.provenance import weights_metadata
from med_transfer.progress import Progress, silent
from med_transfer.runtimes.cluster import Cluster
from med_transfer.tuning.config import TuneConfig
from med_transfer.tuning.deadline import Deadline, OutOfTime
from med_transfer.tuning.inner_folds import TrialProgress, config_name, kept_figure
from med_transfer.tuning.record import TrialRecord, Tuning
from med_transfer.tuning.report import write_tuning
from med_transfer.tuning.space import applied, draw
from med_transfer.tuning.study import Study, TrialPruned

if TYPE_CHECKING:
    from optuna.trial import Trial

log = logging.getLogger(__name__)

TRAINING_FOLDER = "training"
_MAX_REPEATS = 20  # consecutive draws of known configs, after which the space is taken to be exhausted


@dataclass
class Search:
    """Runs trials on run data without test scans; ``tested``: whether the cohort has any."""

    run_data: RunData
    source: LoadedBackbone
    config: TuneConfig
    strategies: list[str]
    out: Path
    deadline: Deadline
    progress: Progress = silent
    n_failed: int = 0
    machines: Cluster | None = None
    tested: bool = True
    study: Study = field(init=False)

    def __post_init__(self) -> None:
        self.study = Study(self.out, self.config.tuning)
        n_fold_models = self.run_data.split.n_fold_models
        self.n_folds = min(self.config.tuning.folds or n_fold_models, n_fold_models)

    def run(self, trials: int | None) -> Tuning:
        """Run until ``trials`` are done besides the default, or the time limit is reached.

        Raises:
            NothingDone: no trial is complete.
            KeyboardInterrupt: after Ctrl-C, once the results are written.
        """
        try:
            with self.deadline.recording_interrupts():
                stopped = self._try_until_done(trials)
        except OutOfTime:
            stopped = f"the time of {self.deadline.minutes:g} minutes was over; the same command continues"
        except KeyboardInterrupt:
            self._write("it was stopped by hand; the same command continues")
            raise
        result = self._write(stopped)
        if result.best is None:
            raise NothingDone(
                f"no trial is complete: {stopped}",
                where=self.out,
                expected="time for at least the default config",
                action="Run the same command again to continue, give more --minutes, or see trials.csv",
            )
        return result

    def _try_until_done(self, trials: int | None) -> str:
        """Run trials; returns why the search ended. Raises OutOfTime."""
        while True:
            repeated = [trial.repeats is not None for trial in self.study.records() if trial.state != "unfinished"]
            if trials is not None and repeated.count(False) > trials:
                return "every trial that was asked for is done"
            if len(repeated) >= _MAX_REPEATS and all(repeated[-_MAX_REPEATS:]):
                return "the space holds nothing that was not tried"
            self.deadline.check()
            # The sampler can return to a good config that has no free values; then the next one is drawn at random.
            self._try(self.study.next(evenly=any(repeated[-1:])))
            self._write("it is still going on")

    def _try(self, trial: Trial) -> None:
        """Run one trial on all folds, and report its outcome to the study."""
        values = draw(trial, self.config.tuning.space, self.strategies) if trial.number else {}
        trial.set_user_attr("values", values)
        config = applied(self.config.base, values)
        same = self._earlier_equal_trial(trial, config)
        if same is not None:  # training the same config again would give the same figures
            trial.set_user_attr("repeats", same.number)
            trial.set_user_attr("figures", same.figures)
            self.study.tell(trial, same.state, same.value)
            return
        folders = [self.out / TRAINING_FOLDER / f"{config_name(config)}-fold-{fold}" for fold in range(self.n_folds)]
        try:
            figures = self._train(trial, config, folders)
        except TrialPruned:
            self.study.tell(trial, "pruned")
        except TrainingDiverged as error:
            log.info("trial %d: %s", trial.number, error)
            self.study.tell(trial, "failed")
        else:
            self.study.tell(trial, "complete", float(np.mean(figures)))
        for folder in folders:  # the networks are not needed any more; features of frozen encoders are kept elsewhere
            shutil.rmtree(folder, ignore_errors=True)

    def _earlier_equal_trial(self, trial: Trial, config: FinetuneConfig) -> TrialRecord | None:
        """The earlier trial with the same config that is complete or pruned, if any."""
        for earlier in self.study.records()[: trial.number]:
            ended = earlier.state in ("complete", "pruned") and earlier.repeats is None
            if ended and applied(self.config.base, earlier.values) == config:
                return earlier
        return None

    def _train(self, trial: Trial, config: FinetuneConfig, folders: list[Path]) -> list[float]:
        """Train all folds, and add the time to the trial's seconds; returns each fold's figure.

        Raises:
            TrialPruned: the trial is below the median of earlier ones.
            OutOfTime: the time limit is reached.
            TrainingDiverged: a training diverged.
        """
        started, before = time.monotonic(), self.study.records()[trial.number].seconds
        try:
            return self._train_folds(trial, config, folders)
        finally:
            trial.set_user_attr("seconds", before + time.monotonic() - started)

    def _train_folds(self, trial: Trial, config: FinetuneConfig, folders: list[Path]) -> list[float]:
        resolved = config.resolved(from_source=self.source.sha256 is not None)
        steps, figures, epochs = resolved.training.epochs + 1, [], 0
        metadata = weights_metadata(self.run_data, resolved, self.source)
        folds = Folds(self.run_data, resolved, self.source, tuple(folders), metadata)
        if self.machines is not None and len(folders) > 1:  # all folds at once, even if the first ones get it pruned
            train_on(self.machines, [folds], self.out, self.progress, self.deadline.check)
        for fold, folder in enumerate(folders):
            self.deadline.check()
            report = partial(self._report, trial, fold * steps, tuple(figures))
            stage = f"trial {trial.number}, fold {fold + 1} of {self.n_folds}"
            listener = TrialProgress(stage, self.progress, self.deadline, report)
            trained_before = is_trained(folder)
            model = train_fold(folds, fold, listener)
            if trained_before and resolved.transfer.strategy.trains:
                _report_again(model, report)
            figures.append(kept_figure(model))
            epochs += len(model.history)
            trial.set_user_attr("figures", figures)
            trial.set_user_attr("epochs", epochs)
            if fold + 1 < self.n_folds:  # needed after early stopping, and for a probe, which has no epochs
                self.study.report(trial, fold * steps + steps - 1, float(np.mean(figures)))
        return figures

    def _report(self, trial: Trial, first_step: int, earlier_folds: tuple[float, ...], epoch: int, best: float) -> None:
        self.study.report(trial, first_step + epoch, float(np.mean([*earlier_folds, best])))

    def _write(self, stopped: str) -> Tuning:
        cohort, split = self.run_data.prepared.cohort, self.run_data.split
        tuning = Tuning(
            folder=self.out,
            config=self.config,
            trials=tuple(self.study.records()),
            strategies=tuple(self.strategies),
            stopped=stopped,
            n_scans=len(cohort),
            n_patients=len(set(cohort.patients)),
            n_folds=self.n_folds,
            n_failed=self.n_failed,
            tested=self.tested,
            validation_share=float(np.mean([len(part) for part in split.validation[: self.n_folds]])) / len(cohort),
        )
        write_tuning(tuning)
        return tuning


def _report_again(model: TrainedNetwork, report: Callable[[int, float], None]) -> None:
    """Report the epochs of a fold that was trained elsewhere, as its training would have. Raises TrialPruned."""
    best = -math.inf
    for row in model.history:
        best = max(best, row["smoothed"])
        report(int(row["epoch"]), best)
