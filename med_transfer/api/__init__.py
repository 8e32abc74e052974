"""The main workflow from Python: one function per command, taking tables and configs as paths or as objects."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from med_transfer.api import datasets as datasets
from med_transfer.api.planned import PlannedConfig, config_for, keep_plan, planned_config
from med_transfer.backbones import BackboneSpec, backbones
from med_transfer.cohorts import Cohort
from med_transfer.cohorts.kept_scans import keeping_scans
from med_transfer.config import given_config
from med_transfer.errors import UsageError, given_path
from med_transfer.evaluation.comparison import Comparison, compare_runs
from med_transfer.evaluation.external import EvaluationSettings, evaluate_bundle
from med_transfer.explanation.settings import MapSettings
from med_transfer.finetuning import FinetuneConfig, Run
from med_transfer.finetuning import finetune as _finetune
from med_transfer.finetuning.preview import Preview
from med_transfer.finetuning.preview import preview as _preview
from med_transfer.inference import ScanWithRegion, load_bundle
from med_transfer.inference.explain import ExplainedScans, explain_scans
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.pretraining import Pretrained, PretrainingConfig
from med_transfer.pretraining import pretrain as _pretrain
from med_transfer.progress import Progress, bars_unless
from med_transfer.selection import Selection, select

log = logging.getLogger(__name__)


def finetune(
    cohort: Cohort | Path | str,
    config: FinetuneConfig | Path | str | None = None,
    out: Path | str | None = None,
    *,
    overrides: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Run:
    """Fine-tune on a cohort; see :func:`med_transfer.finetuning.finetune`.

    Args:
        cohort: the table, or its path.
        config: a config, the path of a YAML file, or None to plan one from the scans (see :func:`plan`). With None, a
            run already started in ``out`` resumes with its own plan.
        out: run folder; passing the same folder again resumes the run. None: ``run`` in the current folder, which a
            warning names.
        overrides: settings such as ``"training.epochs=20"``, applied on top of the YAML file or the plan.
        progress: progress callback; None shows bars in a terminal or notebook.
    """
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.read(cohort)
    out = _folder(out, "run")
    with keeping_scans(), bars_unless(progress) as progress:
        config, planned = config_for(FinetuneConfig, cohort, config, overrides, out=out, progress=progress)
        if planned:
            keep_plan(out, planned.as_yaml(), "a run")
        return _finetune(cohort, config, out, progress)


def plan(
    cohort: Cohort | Path | str,
    overrides: tuple[str, ...] = (),
    *,
    minutes: float | None = None,
    quick: bool = False,
    progress: Progress | None = None,
) -> PlannedConfig:
    """Plan a config for a cohort, with a reason for each choice; see :func:`med_transfer.api.planned.planned_config`.

    Args:
        cohort: the table, or its path.
        overrides, minutes, quick: as in ``planned_config``.
        progress: progress callback; None shows bars in a terminal or notebook.
    """
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.read(cohort)
    with bars_unless(progress) as progress:
        return planned_config(cohort, overrides, minutes=minutes, quick=quick, progress=progress)


def preview(
    cohort: Cohort | Path | str,
    config: FinetuneConfig | Path | str | None = None,
    *,
    per_class: int = 2,
    draws: int = 2,
    overrides: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Preview:
    """Show what the network would see of a cohort; see :func:`med_transfer.finetuning.preview.preview`.

    A notebook renders the result as a page; ``.write(folder)`` writes the page and a picture of each scan.

    Args:
        cohort: the table, or its path.
        config: config of the planned run, the path of a YAML file, or None to plan one from the scans.
        per_class: number of scans shown per class.
        draws: number of augmented views per scan.
        overrides: settings such as ``"input.region=roi"``, applied on top of the YAML file or the plan.
        progress: progress callback; None shows bars in a terminal or notebook.
    """
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.read(cohort)
    with keeping_scans(), bars_unless(progress) as progress:
        config, _ = config_for(FinetuneConfig, cohort, config, overrides, progress=progress)
        return _preview(cohort, config, per_class=per_class, draws=draws, progress=progress)


def select_backbone(
    cohort: Cohort | Path | str,
    config: FinetuneConfig | Path | str | None = None,
    out: Path | str | None = None,
    *,
    names: Sequence[str] | str | None = None,
    weights: Sequence[tuple[str, Path | str]] = (),
    overrides: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Selection:
    """Rank backbones for a cohort before training; see :func:`med_transfer.selection.select`.

    Args:
        cohort: the table, or its path.
        config: config of the later run, the path of a YAML file, or None to plan one from the scans. A plan is written
            to ``out`` as plan.yaml, to be passed to that run.
        out: folder for the result and the features; features already computed there are reused. None: ``selection`` in
            the current folder, which a warning names.
        names: the backbones to rank, or a single one; None ranks all whose weights are available.
        weights: (backbone, path) pairs for your own weights: a file, a bundle or a run folder.
        overrides: settings such as ``"input.region=roi"``, applied on top of the YAML file or the plan.
        progress: progress callback; None shows bars in a terminal or notebook.
    """
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.read(cohort)
    out = _folder(out, "selection")
    with keeping_scans(), bars_unless(progress) as progress:
        config, planned = config_for(FinetuneConfig, cohort, config, overrides, pretrains=False, progress=progress)
        if planned:
            keep_plan(out, planned.as_yaml(), "a ranking of backbones")
        return select(cohort, config, out, [names] if isinstance(names, str) else names, weights, progress)


def pretrain(
    scans: Path | str,
    config: PretrainingConfig | Path | str | None = None,
    out: Path | str | None = None,
    *,
    overrides: tuple[str, ...] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> Pretrained:
    """Pretrain a backbone on source scans; see :func:`med_transfer.pretraining.pretrain`.

    Args:
        scans: a folder of scans, a cohort.csv, or an .npz of source scans.
        config: a config, or the path of a YAML file. With None, ``overrides`` must set a training budget.
        out: folder for the encoder; passing the same folder again resumes. None: ``pretrained`` in the current folder,
            which a warning names.
        overrides: settings such as ``"steps=2000"``, applied on top of the YAML file or the defaults.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: progress callback; None shows bars in a terminal or notebook.
    """
    scans = given_path(scans, "scans", "a folder of scans, a cohort.csv, or an .npz of source scans")
    config, out = given_config(PretrainingConfig, config, overrides), _folder(out, "pretrained")
    with bars_unless(progress) as progress:
        return _pretrain(scans, config, out, device, progress)


def evaluate(
    bundle: os.PathLike[str] | str,
    cohort: Cohort | Path | str,
    out: Path | str | None = None,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Metrics:
    """Evaluate a bundle on another cohort; see :func:`med_transfer.evaluation.external.evaluate_bundle`.

    Args:
        bundle, cohort, progress: as in ``evaluate_bundle``.
        out: folder to write to. None: ``evaluation`` in the current folder, which a warning names.
        settings: fields of :class:`med_transfer.evaluation.external.EvaluationSettings`, such as
            ``subgroups=["sex"]``.
    """
    chosen, out = EvaluationSettings(**_known(settings, EvaluationSettings)), _folder(out, "evaluation")
    with bars_unless(progress) as progress:
        return evaluate_bundle(bundle, cohort, out, chosen, progress)


def explain(
    bundle: os.PathLike[str] | str,
    scans: Path | str | ScanWithRegion,
    out: Path | str | None = None,
    *,
    class_name: str | None = None,
    device: str = "auto",
    public_key: Path | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> ExplainedScans:
    """Compute heat maps of where a bundle's network looks; see :func:`med_transfer.inference.explain.explain_scans`.

    Args:
        bundle: bundle folder or file, as in :func:`load_bundle`.
        scans, class_name, progress: as in ``explain_scans``.
        out: folder to write to. None: ``explanation`` in the current folder, which a warning names.
        device, public_key: as in :func:`load_bundle`.
        settings: fields of :class:`med_transfer.explanation.settings.MapSettings`, such as ``method="occlusion"``.
    """
    chosen, out = MapSettings(**_known(settings, MapSettings)), _folder(out, "explanation")
    predictor = load_bundle(bundle, device, public_key, "torch")
    with bars_unless(progress) as progress:
        return explain_scans(predictor, scans, out, chosen, class_name=class_name, progress=progress)


def compare(runs: Iterable[os.PathLike[str] | str], *, margin: float | None = None) -> list[Comparison]:
    """Compare each run with the first one on the test scans they share; see :func:`compare_runs`."""
    several = [runs] if isinstance(runs, str) or not isinstance(runs, Iterable) else runs  # a name is a sequence, too
    return compare_runs([given_path(run, "runs", "folders of finished runs") for run in several], margin=margin)


def list_backbones() -> dict[str, BackboneSpec]:
    """Return every backbone that a transfer can start from, keyed by name."""
    return backbones()


def _folder(out: Path | str | None, default: str) -> Path:
    """The output folder. One that the caller did not choose is named, since results would turn up unexpectedly."""
    if out is not None:
        return given_path(out, "out", "an output folder")
    log.warning("results are written to %s; out=... chooses another folder", Path(default).absolute())
    return Path(default)


def _known(settings: dict[str, Any], kind: type) -> dict[str, Any]:
    """The settings, if a dataclass has them all. Raises UsageError."""
    names = [field.name for field in fields(kind)]
    if unknown := [name for name in settings if name not in names]:
        raise UsageError("no such setting", where=unknown[0], expected=f"one of {', '.join(names)}")
    return settings
