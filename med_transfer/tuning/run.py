"""The tuning job: from a cohort to a better config."""

from __future__ import annotations

import math
from pathlib import Path

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.backbones import BackboneSpec
from med_transfer.cohorts import Cohort, split_cohort
from med_transfer.errors import ConfigError, NothingDone, UsageError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData, prepare_run_data, resolve_preprocessing
from med_transfer.finetuning.fold_training import precision
from med_transfer.finetuning.initialisation import check_transfer
from med_transfer.finetuning.made_from import claim
from med_transfer.finetuning.memory import require_memory
from med_transfer.finetuning.run import load_source
from med_transfer.finetuning.split_choice import choose_by_table
from med_transfer.progress import Progress, silent
from med_transfer.runtimes.cluster import Cluster
from med_transfer.tuning.config import TuneConfig
from med_transfer.tuning.deadline import Deadline, OutOfTime
from med_transfer.tuning.inner_folds import without_test_scans
from med_transfer.tuning.record import Tuning
from med_transfer.tuning.search import TRAINING_FOLDER, Search
from med_transfer.tuning.space import usable_strategies
from med_transfer.tuning.study import JOURNAL, import_optuna

CONFIG_FILE = "tuning.yaml"


def tune(
    cohort: Cohort,
    config: TuneConfig,
    out: Path | str,
    *,
    minutes: float | None = 60.0,
    trials: int | None = None,
    progress: Progress = silent,
    machines: Cluster | None = None,
) -> Tuning:
    """Search the space on the inner folds of the development patients; trial 0 is the default config.

    Results are written after every trial. Called again on the same folder, the search resumes, starting with the
    interrupted trial.

    Args:
        cohort: the labelled table; scans that ``finetune`` with this config would keep for testing are not used.
        config: of the run that is to follow, and of the search.
        out: folder for the study, the prepared scans and the results.
        minutes: limit for this call, 0 or more; an unfinished reading or trial is resumed by the next call. None: no
            limit.
        trials: limit over all calls, not counting the default and repeats of the same config; None: no limit.
        progress: reports progress.
        machines: of a Ray cluster, which train a trial's folds in parallel, with the same results; None: this machine.

    Raises:
        MissingExtra: Optuna is not installed.
        CohortError: the cohort cannot be split, or leaks.
        BackboneError: the backbone or its weights cannot be used.
        ConfigError: part of the space cannot work, or more folds are asked for than there are.
        UsageError: the folder holds another search, ``minutes`` is negative or not finite, or there is no limit at all.
        NothingDone: no scan can be used, or the time was too short for reading and one trial.
        OutputError: a result cannot be written.
    """
    import_optuna()
    if minutes is None and trials is None:
        raise UsageError("neither minutes nor trials", expected="a limit", action="Give --minutes or --trials")
    if minutes is not None and not 0 <= minutes < math.inf:
        raise UsageError(f"minutes {minutes}", expected="0 or more, and finite")
    config = choose_by_table(config, cohort, Path(out))
    deadline, out, base = Deadline(minutes), Path(out), config.base
    source = load_source(base)
    from_source = source.sha256 is not None
    check_transfer(base.resolved(from_source=from_source), source.encoder)
    strategies = usable_strategies(config.tuning.space, base, source.encoder, from_source=from_source)
    precision(base.training.precision)
    resolve_preprocessing(source.spec, base)  # errors are reported before anything is read or written
    if machines is None:
        of_trials = base.model_copy(update={"from_scratch_baseline": False})  # a search trains none
        require_memory(of_trials.resolved(from_source=from_source), source)
    _require_folds(config.tuning.folds, split_cohort(cohort, base.split).n_fold_models)
    with sole_writer(out, "a search"):
        started = (out / JOURNAL).exists() or (out / TRAINING_FOLDER).exists()
        claim(out / CONFIG_FILE, config, source, "search", started=started, same=lambda there: there == config)
        run_data = _read(cohort, base, source.spec, out, deadline, progress)
        n_failed, tested = len(run_data.prepared.failed), bool(run_data.split.test)
        without = without_test_scans(run_data)
        search = Search(without, source, config, strategies, out, deadline, progress, n_failed, machines, tested)
        return search.run(trials)


def _require_folds(wanted: int | None, there: int) -> None:
    if wanted is not None and wanted > there:
        raise ConfigError(
            f"{wanted} of {there} development folds",
            where="tuning.folds",
            expected=f"at most {there}, or null for all",
            action="Lower it, or raise split.folds",
        )


def _read(
    cohort: Cohort, base: FinetuneConfig, spec: BackboneSpec, out: Path, deadline: Deadline, progress: Progress
) -> RunData:
    """Prepare the run data within the time limit. Raises NothingDone, and as :func:`prepare_run_data`."""
    try:
        return prepare_run_data(cohort, base, spec, out, deadline.checked(progress))
    except OutOfTime:
        raise NothingDone(
            f"the time of {deadline.minutes:g} minutes was over before all scans were read",
            where=out,
            expected="time for reading them and for the default config",
            action="Run the same command again, with more --minutes perhaps: what was read is kept",
        ) from None
