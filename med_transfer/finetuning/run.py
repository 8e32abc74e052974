"""The fine-tuning job: from a cohort to a run folder (bundle, metrics, predictions, report)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.backbones import LoadedBackbone, from_scratch, load_backbone
from med_transfer.bundle import BUNDLE_FOLDER, BundleRecord, save_bundle
from med_transfer.bundle.model_card import model_card
from med_transfer.cohorts import Cohort, Split, require_columns, split_cohort
from med_transfer.errors import UsageError, given_path
from med_transfer.evaluation.subgroup_columns import check_subgroups
from med_transfer.explanation.config import ExplainConfig
from med_transfer.finetuning.batch_norm import check_batch_of_one
from med_transfer.finetuning.config import FinetuneConfig, ReportConfig
from med_transfer.finetuning.data_setup import (
    LOCK_FILE,
    RunData,
    prepare_run_data,
    refuse_adapted_source,
    resolve_preprocessing,
)
from med_transfer.finetuning.decisions.config import OperatingPointConfig
from med_transfer.finetuning.decisions.fallback import choose_network
from med_transfer.finetuning.decisions.fusing import check_fusion, fuse_run
from med_transfer.finetuning.decisions.locking import lock_run, record_run_access
from med_transfer.finetuning.decisions.validation_decisions import check_operating_point
from med_transfer.finetuning.fold_pretraining import check_pretraining
from med_transfer.finetuning.fold_training import precision
from med_transfer.finetuning.folds import TrainedEnsemble, train_folds
from med_transfer.finetuning.held_out_evaluation import TrainedNetworks, evaluate_held_out
from med_transfer.finetuning.initialisation import check_transfer
from med_transfer.finetuning.made_from import claim
from med_transfer.finetuning.memory import require_memory
from med_transfer.finetuning.on_cluster import folds_of_run, train_on
from med_transfer.finetuning.record import bundle_record
from med_transfer.finetuning.region_choice import region_sentence, require_regions
from med_transfer.finetuning.repeats import with_repeats
from med_transfer.finetuning.similar_cases import similar_cases
from med_transfer.finetuning.split_choice import choose_by_table, split_sentence
from med_transfer.finetuning.unlabelled import check_coral, check_unlabelled
from med_transfer.finetuning.unread_settings import (
    ignored_input_settings,
    ignored_settings,
    ignored_split_settings,
)
from med_transfer.metrics.config import EvaluationConfig, checked_prevalence
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.progress import Progress, log_file, only_in_log, silent
from med_transfer.report.sections.first_screen_forest import sensitivity_forest
from med_transfer.runtimes.cluster import Cluster
from med_transfer.runtimes.frozen import require_runtime

log = logging.getLogger(__name__)

_TRAINING, _TRAINING_SCRATCH = "training", "training-scratch"  # folders of the folds' states


@dataclass(frozen=True)
class Run:
    """A finished run on disk. It stands for its folder where a path is expected, as in ``compare([first, second])``.

    Raises:
        UsageError: ``folder`` is no path.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", given_path(self.folder, "folder", "the folder of a run"))

    def __fspath__(self) -> str:
        """Path of the folder."""
        return str(self.folder)

    @property
    def bundle(self) -> Path:
        """Folder of the bundle."""
        return self.folder / BUNDLE_FOLDER

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.folder / "report.html"

    @property
    def metrics(self) -> Metrics:
        """The metrics on the evaluated scans. Raises UsageError if the file is damaged."""
        return Metrics.load(self.folder / "metrics.json")

    def _repr_svg_(self) -> str:
        """For a notebook: sensitivity and specificity of each class with their intervals."""
        return sensitivity_forest(self.metrics).as_file()


def finetune(
    cohort: Cohort,
    config: FinetuneConfig,
    out: Path | str,
    progress: Progress = silent,
    machines: Cluster | None = None,
) -> Run:
    """Split, train, calibrate, lock the decisions, evaluate on patients not used before, and write the run folder.

    Called again on the same folder after an interruption, it resumes. On a finished folder it trains nothing, makes the
    decisions again if ``operating_point`` has changed, and reads the test set again, which is counted.

    Args:
        cohort: the labelled table.
        config: of the run.
        out: run folder.
        progress: reports progress.
        machines: of a Ray cluster, which train the folds in parallel, with the same results; None: this machine. See
            :func:`med_transfer.runtimes.cluster.cluster`.

    Raises:
        CohortError: the cohort cannot be split, or leaks.
        ConfigError: settings contradict each other, only some rows have a region, or the input is too large for the
            machine's memory.
        BackboneError: the backbone or its weights cannot be used.
        UsageError: the folder holds another run, or one from another source or other images; a subgroup column does not
            exist, a prevalence names no class, or the test access log is damaged.
        TrainingDiverged: a network's output or its monitored figure is not finite.
        NothingDone: no scan can be used.
        OutputError: a result cannot be written.
    """
    out = Path(out)
    started = time.monotonic()
    asked = config
    config, source = checked_start(cohort, config, out)
    if machines is None:
        require_memory(config, source)
    with _claimed(out, config, source), log_file(out / "run.log"):
        _log_start(cohort, asked, config, source)
        run_data = prepare_run_data(cohort, config, source.spec, out, progress)
        # Checked again, without the scans that could not be read.
        _check_steering(run_data.split, config, source)
        check_fusion(run_data.prepared.cohort, run_data.split, config, warn=True)
        check_operating_point(run_data.prepared.cohort, run_data.split, config)
        if machines is not None:
            _train_on(machines, run_data, config, source, out, progress)
        networks = _trained_networks(run_data, config, source, out, progress)
        log.info(networks.kept.sentence)
        record = _bundled(run_data, config, source, networks, out)
        with record_run_access(out, run_data, record) as access:  # networks see test scans from here on
            if access is not None:
                log.log(access.level, access.sentence)
            networks = replace(networks, seconds=time.monotonic() - started)
            evaluate_held_out(run_data, config, record, networks, out, access, progress)
        log.info("done in %.0f s", time.monotonic() - started)
    return Run(out)


def _log_start(cohort: Cohort, asked: FinetuneConfig, config: FinetuneConfig, source: LoadedBackbone) -> None:
    only_in_log(log, region_sentence(config, cohort))  # callers show it before the run starts
    only_in_log(log, split_sentence(config, cohort))
    log.info("backbone %s. %s", source.spec.name, source.report)
    preprocessing = resolve_preprocessing(source.spec, config)
    for sentence in (
        *ignored_settings(asked, config, source.encoder),
        *ignored_input_settings(asked.input, preprocessing),
        *ignored_split_settings(config.split, cohort),
    ):
        log.warning(sentence)


def _train_on(
    machines: Cluster, run_data: RunData, config: FinetuneConfig, source: LoadedBackbone, out: Path, progress: Progress
) -> None:
    """Train all folds in parallel; the steps that follow find them finished."""
    folds = folds_of_run(run_data, config, source, out / _TRAINING)
    if (baseline := _baseline(config, source)) is not None:
        first = replace(run_data, split=replace(run_data.split, further=()))
        folds += folds_of_run(first, *baseline, out / _TRAINING_SCRATCH)
    train_on(machines, folds, out, progress)


def _trained_networks(
    run_data: RunData, config: FinetuneConfig, source: LoadedBackbone, out: Path, progress: Progress
) -> TrainedNetworks:
    """The transferred network, the from-scratch baseline with the same folds and budget, and which of them is kept."""

    def transferred(data: RunData, repeat: int) -> TrainedEnsemble:
        return train_folds(data, config, source, out / _TRAINING, progress, repeat=repeat)

    trained = with_repeats(transferred(run_data, 1), run_data, transferred, out / _TRAINING)
    scratch = None
    if (baseline := _baseline(config, source)) is not None:
        scratch = train_folds(run_data, *baseline, out / _TRAINING_SCRATCH, progress, "from-scratch baseline")
    return TrainedNetworks(trained, scratch, choose_network(run_data, config, trained, scratch))


def _bundled(
    run_data: RunData, config: FinetuneConfig, source: LoadedBackbone, networks: TrainedNetworks, out: Path
) -> BundleRecord:
    """Write and lock the bundle; returns its record."""
    training = _TRAINING
    if networks.kept.fell_back:
        config, source = config.from_scratch_config(), from_scratch(source.spec, config.seed)
        training = _TRAINING_SCRATCH
    fusion = fuse_run(run_data, config, networks.bundled)
    record = bundle_record(run_data, config, source, networks.bundled, networks.kept, fusion)
    card = model_card(record, run_data.prepared.cohort)
    ensemble = networks.bundled.ensemble
    similar = similar_cases(run_data, config, ensemble, out / training / "features")
    record = lock_run(out, save_bundle(out / BUNDLE_FOLDER, record, ensemble, card, similar))
    log.info("decisions locked as %s", record.lock_hash)
    return record


def checked_start(
    cohort: Cohort, config: FinetuneConfig, out: Path | None = None
) -> tuple[FinetuneConfig, LoadedBackbone]:
    """Check everything that can be checked before a scan is read; returns the resolved config and the source network.

    A split that something was trained by in ``out`` is kept.

    Raises:
        CohortError, ConfigError, BackboneError, UsageError: see :func:`finetune`.
    """
    config = choose_by_table(config, cohort, out)
    source = load_source(config)
    config = config.resolved(from_source=source.sha256 is not None)
    check_transfer(config, source.encoder)
    if config.backbone.runtime != "torch":
        require_runtime(config.backbone.runtime)
    precision(config.training.precision)
    preprocessing = resolve_preprocessing(source.spec, config)
    if config.training.batch_size == 1 and (_has_baseline(config, source) or config.transfer.batch_norm == "train"):
        check_batch_of_one(source.encoder, preprocessing.n_channels, preprocessing.shape)
    require_columns(cohort, preprocessing.columns)
    require_regions(cohort, preprocessing.region)
    split = split_cohort(cohort, config.split)
    check_coral(config.transfer.mapping, split)
    if config.transfer.unlabelled:
        check_unlabelled(config.transfer.unlabelled, cohort, split, preprocessing)
    _check_steering(split, config, source)
    check_pretraining(config, preprocessing, cohort, split, source.spec.input)
    check_fusion(cohort, split, config)
    check_operating_point(cohort, split, config)
    check_subgroups(cohort, config.subgroups)
    checked_prevalence(config.evaluation.prevalence, cohort.labels)
    return config, source


def _baseline(config: FinetuneConfig, source: LoadedBackbone) -> tuple[FinetuneConfig, LoadedBackbone] | None:
    """Config and network of the from-scratch baseline; None if the run itself has no source, or none is wanted."""
    if not _has_baseline(config, source):
        return None
    return config.from_scratch_config(), from_scratch(source.spec, config.seed)


def _has_baseline(config: FinetuneConfig, source: LoadedBackbone) -> bool:
    return source.sha256 is not None and config.from_scratch_baseline


def _check_steering(split: Split, config: FinetuneConfig, source: LoadedBackbone) -> None:
    """Refuse, before anything is trained, networks without patients for early stopping.

    Raises:
        TooFewPatients: see :meth:`.cohorts.Split.steering_of`.
    """
    steered = split.repeats if config.transfer.strategy.trains else (split,) if _has_baseline(config, source) else ()
    for of_repeat in steered:
        for fold in range(of_repeat.n_fold_models):
            of_repeat.steering_of(fold)


def load_source(config: FinetuneConfig) -> LoadedBackbone:
    """The network that the transfer starts from: with the config's weights, the catalogue entry's own, or none.

    Raises:
        BackboneError: the backbone or its weights cannot be used.
    """
    scratch = config.transfer.strategy.name == "scratch"
    if not scratch:
        refuse_adapted_source(config.backbone.weights)
    return load_backbone(
        config.backbone.name,
        None if scratch else config.backbone.weights,
        scratch=scratch,
        seed=config.seed,
        accept_licence=config.backbone.accept_licence,
        channels=config.input.channels_of_network,
        instances=config.backbone.instances,
    )


@contextmanager
def _claimed(out: Path, config: FinetuneConfig, source: LoadedBackbone) -> Iterator[None]:
    """Claim the run folder: write the config, or check that an interrupted run left the same one.

    The operating point and the way rates are stated may differ: they do not affect training, and the operating point is
    chosen again on the same validation scans. Without a cohort lock nothing was trained yet, so a run that was refused
    does not block the folder for the corrected one.
    """
    with sole_writer(out, "a run"):
        started = (out / LOCK_FILE).exists()
        if not started and (out / BUNDLE_FOLDER).exists():  # the run would replace it at the end
            raise UsageError(
                "the folder holds a bundle and no run of it",
                where=out / BUNDLE_FOLDER,
                expected="a new folder, or that of a run",
                action="Choose another -o",
            )
        claim(
            out / "config.yaml",
            config,
            source,
            "run",
            started=started,
            same=lambda there: _config_of_training(there) == _config_of_training(config),
        )
        yield


def _config_of_training(config: FinetuneConfig) -> FinetuneConfig:
    """The config reduced to what affects training: without operating point, statement of rates, and report."""
    not_trained = {
        "operating_point": OperatingPointConfig(),
        "evaluation": EvaluationConfig(),
        "explain": ExplainConfig(),
        "report": ReportConfig(),
        "abstain_above_novelty": None,
        "similar_cases": False,
        "planned_for": None,
    }
    return config.model_copy(update=not_trained)
