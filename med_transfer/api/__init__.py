"""The main job from Python: the same as the commands, with tables and configs as paths or as objects."""

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
        config: a config, the path of a YAML file, or None for one that suits the scans (see :func:`plan`); a run that
            was begun in ``out`` goes on with its own.
        out: run folder; the same folder again resumes.
        overrides: ``"training.epochs=20"`` and the like, over a YAML file or what was planned.
        progress: told how far it is; None: bars in a terminal or notebook.
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
    """The config that suits a cohort, each choice with its reason; see :func:`med_transfer.api.planned.planned_config`.

    Args:
        cohort: the table, or its path.
        overrides, minutes, quick, progress: see there.
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

    A notebook shows the result as a page; ``.write(folder)`` writes that and a picture of each scan.

    Args:
        cohort: the table, or its path.
        config: of the run that is to follow, the path of a YAML file, or None for one that suits the scans.
        per_class: scans of each class.
        draws: random views of each scan.
        overrides: ``"input.region=roi"`` and the like, over a YAML file or what was planned.
        progress: told how far it is; None: bars in a terminal or notebook.
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
        config: of the run that is to follow, the path of a YAML file, or None for one that suits the scans: it lies in
            ``out`` as plan.yaml, which that run is given too.
        out: folder for the result and for the features; the same folder again runs no network twice.
        names: only these backbones; None: all whose weights are at hand.
        weights: backbone and path of weights of your own: a file, a bundle or a run folder.
        overrides: ``"input.region=roi"`` and the like, over a YAML file or what was planned.
        progress: told how far it is; None: bars in a terminal or notebook.
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
    """Make a backbone from source scans; see :func:`med_transfer.pretraining.pretrain`.

    Args:
        scans: a folder of scans, a cohort.csv, or an .npz of source scans.
        config: a config, or the path of a YAML file; None needs a budget among the overrides.
        out: folder for the encoder; the same folder again resumes.
        overrides: ``"steps=2000"`` and the like, over a YAML file or the defaults.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: told how far it is; None: bars in a terminal or notebook.
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
        bundle, cohort, out, progress: see there.
        settings: fields of :class:`med_transfer.evaluation.external.EvaluationSettings`, as ``subgroups=["sex"]``.
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
    """Map where a bundle's network looks in scans; see :func:`med_transfer.inference.explain.explain_scans`.

    Args:
        bundle, scans, out, class_name, progress: see there.
        device, public_key: as :func:`load_bundle` has them.
        settings: fields of :class:`med_transfer.explanation.settings.MapSettings`, as ``method="occlusion"``.
    """
    chosen = MapSettings(**settings)
    predictor = load_bundle(bundle, device, public_key, "torch")
    with bars_unless(progress) as progress:
        return explain_scans(predictor, scans, out, chosen, class_name=class_name, progress=progress)


def compare(runs: list[Path | str], *, margin: float | None = None) -> list[Comparison]:
    """Hold runs against the first one on the test scans they share; see :func:`compare_runs`."""
    return compare_runs([Path(run) for run in runs], margin=margin)


def list_backbones() -> dict[str, BackboneSpec]:
    """What a transfer can start from, by name."""
    return backbones()
