"""The main workflow from Python: one function per command, taking tables and configs as paths or as objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from med_transfer.api import datasets as datasets
from med_transfer.api.planned import PlannedConfig, config_for, keep_plan, planned_config
from med_transfer.backbones import BackboneSpec, backbones
from med_transfer.cohorts import Cohort
from med_transfer.cohorts.kept_scans import keeping_scans
from med_transfer.config import given_config
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


def finetune(
    cohort: Cohort | Path | str,
    config: FinetuneConfig | Path | str | None = None,
    out: Path | str = "run",
    *,
    overrides: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Run:
    """Fine-tune on a cohort; see :func:`med_transfer.finetuning.finetune`.

    Args:
        cohort: the table, or its path.
        config: a config, the path of a YAML file, or None to plan one from the scans (see :func:`plan`). With None, a
            run already started in ``out`` resumes with its own plan.
        out: run folder; passing the same folder again resumes the run.
        overrides: settings such as ``"training.epochs=20"``, applied on top of the YAML file or the plan.
        progress: progress callback; None shows bars in a terminal or notebook.
    """
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.read(cohort)
    with keeping_scans(), bars_unless(progress) as progress:
        config, planned = config_for(FinetuneConfig, cohort, config, overrides, out=Path(out), progress=progress)
        if planned:
            keep_plan(Path(out), planned.as_yaml(), "a run")
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
    out: Path | str = "selection",
    *,
    names: Sequence[str] | None = None,
    weights: Sequence[tuple[str, Path | str]] = (),
    overrides: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Selection:
    """Rank backbones for a cohort before training; see :func:`med_transfer.selection.select`.

    Args:
        cohort: the table, or its path.
        config: config of the later run, the path of a YAML file, or None to plan one from the scans. A plan is written
            to ``out`` as plan.yaml, to be passed to that run.
        out: folder for the result and the features; features already computed there are reused.
        names: the backbones to rank; None ranks all whose weights are available.
        weights: (backbone, path) pairs for your own weights: a file, a bundle or a run folder.
        overrides: settings such as ``"input.region=roi"``, applied on top of the YAML file or the plan.
        progress: progress callback; None shows bars in a terminal or notebook.
    """
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.read(cohort)
    with keeping_scans(), bars_unless(progress) as progress:
        config, planned = config_for(FinetuneConfig, cohort, config, overrides, pretrains=False, progress=progress)
        if planned:
            keep_plan(Path(out), planned.as_yaml(), "a ranking of backbones")
        return select(cohort, config, out, names, weights, progress)


def pretrain(
    scans: Path | str,
    config: PretrainingConfig | Path | str | None = None,
    out: Path | str = "pretrained",
    *,
    overrides: tuple[str, ...] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> Pretrained:
    """Pretrain a backbone on source scans; see :func:`med_transfer.pretraining.pretrain`.

    Args:
        scans: a folder of scans, a cohort.csv, or an .npz of source scans.
        config: a config, or the path of a YAML file. With None, ``overrides`` must set a training budget.
        out: folder for the encoder; passing the same folder again resumes.
        overrides: settings such as ``"steps=2000"``, applied on top of the YAML file or the defaults.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: progress callback; None shows bars in a terminal or notebook.
    """
    config = given_config(PretrainingConfig, config, overrides)
    with bars_unless(progress) as progress:
        return _pretrain(Path(scans), config, out, device, progress)


def evaluate(
    bundle: Path | str,
    cohort: Cohort | Path | str,
    out: Path | str = "evaluation",
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Metrics:
    """Evaluate a bundle on another cohort; see :func:`med_transfer.evaluation.external.evaluate_bundle`.

    Args:
        bundle, cohort, out, progress: as in ``evaluate_bundle``.
        settings: fields of :class:`med_transfer.evaluation.external.EvaluationSettings`, such as
            ``subgroups=["sex"]``.
    """
    with bars_unless(progress) as progress:
        return evaluate_bundle(bundle, cohort, out, EvaluationSettings(**settings), progress)


def explain(
    bundle: Path | str,
    scans: Path | str | ScanWithRegion,
    out: Path | str = "explanation",
    *,
    class_name: str | None = None,
    device: str = "auto",
    public_key: Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> ExplainedScans:
    """Compute heat maps of where a bundle's network looks; see :func:`med_transfer.inference.explain.explain_scans`.

    Args:
        bundle: bundle folder or file, as in :func:`load_bundle`.
        scans, out, class_name, progress: as in ``explain_scans``.
        device, public_key: as in :func:`load_bundle`.
        settings: fields of :class:`med_transfer.explanation.settings.MapSettings`, such as ``method="occlusion"``.
    """
    chosen = MapSettings(**settings)
    predictor = load_bundle(bundle, device, public_key, "torch")
    with bars_unless(progress) as progress:
        return explain_scans(predictor, scans, out, chosen, class_name=class_name, progress=progress)


def compare(runs: Sequence[Path | str], *, margin: float | None = None) -> list[Comparison]:
    """Compare each run with the first one on the test scans they share; see :func:`compare_runs`."""
    several = [runs] if isinstance(runs, str) else runs  # a name is a sequence, too
    return compare_runs([Path(run) for run in several], margin=margin)


def list_backbones() -> dict[str, BackboneSpec]:
    """Return every backbone that a transfer can start from, keyed by name."""
    return backbones()
