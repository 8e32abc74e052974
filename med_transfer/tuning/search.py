"""Trials one after the other on the development folds, until their number or the time is up."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from med_transfer.backbones import LoadedBackbone
from med_transfer.errors import NothingDone
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.folds import train_fold
from med_transfer.progress import Progress, silent
from med_transfer.tuning.config import TuneConfig
from med_transfer.tuning.inner_folds import config_name, kept_figure
from med_transfer.tuning.record import TrialRecord, Tuning
from med_transfer.tuning.report import write_tuning
from med_transfer.tuning.space import applied, draw
from med_transfer.tuning.study import Study, Trial
from med_transfer.tuning.watcher import Deadline, OutOfTime, TrialPruned, Watcher

_REPEATS = 20  # draws in a row that were tried before: the space holds nothing new


@dataclass
class Search:
    """Trials one after the other on a plan without test scans."""

    run_data: RunData
    source: LoadedBackbone
    config: TuneConfig
    strategies: list[str]
    out: Path
    deadline: Deadline
    progress: Progress = silent
    n_failed: int = 0
    study: Study = field(init=False)

    def __post_init__(self) -> None:
        self.study = Study(self.out, self.config.tuning)

    @property
    def n_folds(self) -> int:
        return min(self.config.tuning.folds or self.run_data.split.n_members, self.run_data.split.n_members)

    def run(self, trials: int | None) -> Tuning:
        """Until ``trials`` beside the default are done, or the time is over.

        Raises:
            NothingDone: no trial is complete.
        """
        try:
            with self.deadline.interrupts.heeded():
                stopped = self._go_on(trials)
        except OutOfTime:
            stopped = f"the time of {self.deadline.minutes:g} minutes was over; the same command goes on"
        except KeyboardInterrupt:
            self._write("it was stopped by hand; the same command goes on")
            raise
        result = self._write(stopped)
        if result.best is None:
            raise NothingDone(
                f"no trial is complete: {stopped}",
                where=self.out,
                expected="time for at least the default config",
                action="Run the same command again to go on, give more --minutes, or see trials.csv",
            )
        return result

    def _go_on(self, trials: int | None) -> str:
        """Why it ended. Raises OutOfTime."""
        while trials is None or self._n_tried() <= trials:
            if self._exhausted():
                return "the space holds nothing that was not tried"
            self.deadline.check()
            self._try(self.study.next(evenly=self._repeated_itself()))
            self._write("it is still going on")
        return "every trial that was asked for is done"

    def _n_tried(self) -> int:
        """Finished trials that were no repeats."""
        return sum(one.state != "unfinished" and not _repeats(one) for one in self.study.records())

    def _repeated_itself(self) -> bool:
        """Whether the sampler came back to a config that is settled, as it does to a good one without options."""
        latest = [one for one in self.study.records() if one.state != "unfinished"][-1:]
        return any(map(_repeats, latest))

    def _exhausted(self) -> bool:
        latest = self.study.records()[-_REPEATS:]
        return len(latest) == _REPEATS and all(map(_repeats, latest))

    def _try(self, trial: Trial) -> None:
        """Train on one fold after the other; tell the study how it ended."""
        space, known = self.config.tuning.space, self.study.records()
        values = draw(trial.draws, space, self.strategies) if trial.number else {}
        trial.note(values=values)
        config = applied(self.config.base, values)
        before = next((one for one in known if _answers(one, trial.number, config, self.config.base)), None)
        if before is not None:
            self._repeat(trial, before)
            return
        name = config_name(config)
        try:
            with _timed(trial, known[trial.number].seconds):
                figures = self._figures(trial, config, name)
        except TrialPruned:
            trial.note(reason="below the median of the trials before it at the same epoch")
            self.study.prune(trial)
        else:
            self._finish(trial, figures)
        for fold in range(self.n_folds):  # its networks are of no use any more
            shutil.rmtree(self._folder(name, fold), ignore_errors=True)

    def _finish(self, trial: Trial, figures: list[float]) -> None:
        if all(map(math.isfinite, figures)):
            self.study.complete(trial, float(np.mean(figures)))
        else:
            trial.note(reason="the training diverged")
            self.study.fail(trial)

    def _repeat(self, trial: Trial, before: TrialRecord) -> None:
        """The same network again would give the same figures."""
        trial.note(reason=f"the same as trial {before.number}", figures=before.figures)
        if before.value is None:
            self.study.prune(trial)
        else:
            self.study.complete(trial, before.value)

    def _figures(self, trial: Trial, config: FinetuneConfig, name: str) -> list[float]:
        """Each fold's figure. Raises Hopeless, OutOfTime."""
        resolved = config.resolved(from_source=self.source.sha256 is not None)
        steps, figures, epochs = resolved.training.epochs + 1, [], 0
        for fold in range(self.n_folds):
            self.deadline.check()

            def judge(epoch: int, best: float, at: int = fold * steps) -> None:
                trial.report(at + epoch, float(np.mean([*figures, best])))

            stage = f"trial {trial.number}, fold {fold + 1} of {self.n_folds}"
            watcher = Watcher(stage, self.progress, self.deadline, judge)
            member = train_fold(self.run_data, self.source, resolved, fold, self._folder(name, fold), watcher)
            figures.append(kept_figure(member))
            epochs += len(member.history)
            trial.note(figures=figures, epochs=epochs)
            if fold + 1 < self.n_folds:  # also where training stopped early, or a probe has no epochs
                trial.report(fold * steps + steps - 1, float(np.mean(figures)))
        return figures

    def _folder(self, name: str, fold: int) -> Path:
        return self.out / "training" / f"{name}-fold-{fold}"  # features of frozen encoders lie beside, for all trials

    def _write(self, stopped: str) -> Tuning:
        cohort, split = self.run_data.prepared.cohort, self.run_data.split
        share = float(np.mean([len(split.validation[fold]) for fold in range(self.n_folds)])) / len(cohort)
        tuning = Tuning(
            self.out,
            self.config,
            tuple(self.study.records()),
            tuple(self.strategies),
            stopped,
            n_scans=len(cohort),
            n_patients=len(set(cohort.patients)),
            n_folds=self.n_folds,
            n_failed=self.n_failed,
            validation_share=share,
        )
        write_tuning(tuning)
        return tuning


@contextmanager
def _timed(trial: Trial, before: float) -> Iterator[None]:
    """Note the seconds of this attempt and those before it, however it ends."""
    started = time.monotonic()
    try:
        yield
    finally:
        trial.note(seconds=before + time.monotonic() - started)


def _repeats(record: TrialRecord) -> bool:
    return record.reason.startswith("the same as trial ")


def _answers(record: TrialRecord, number: int, config: FinetuneConfig, base: FinetuneConfig) -> bool:
    """Whether an earlier trial has settled this config."""
    settled = record.state in ("complete", "pruned") and record.number < number and not _repeats(record)
    return settled and applied(base, record.values) == config
