"""The whole job on phantoms: source, learn, transfer, fine-tune, evaluate, predict. Offline, on a laptop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from med_transfer.cohorts import Cohort
from med_transfer.finetuning import FinetuneConfig, Run, finetune
from med_transfer.inference import FolderOutcome, load_bundle
from med_transfer.page import Language
from med_transfer.phantoms import PhantomConfig, write_cohort
from med_transfer.progress import Progress, named, silent

SOURCE = PhantomConfig(task="shape", patients_per_class=36, scans_per_patient=(1, 1), format="nifti", seed=1)
TARGET = PhantomConfig(
    task="texture", patients_per_class=16, scans_per_patient=(1, 2), format="mixed", seed=2, faults=True
)
UNSEEN = PhantomConfig(
    task="texture", patients_per_class=2, scans_per_patient=(1, 1), format="mixed", seed=3, faults=True
)

# A small input and few epochs: minutes on two cores. Lesions are 8 to 28 mm wide.
_INPUT = {"region": "roi", "shape": [24, 24, 24], "spacing_mm": [1.5, 1.5, 1.5]}
_NETWORK = {"name": "resnet18-w32"}  # random values: here the demonstration makes its own source
SOURCE_CONFIG = FinetuneConfig.model_validate(
    {
        "backbone": _NETWORK,
        "input": _INPUT,
        "split": {"kind": "holdout", "test_fraction": 0.1, "val_fraction": 0.2},
        "training": {"epochs": 18, "epoch_scans": 112, "batch_size": 16, "patience": 8, "monitor": "macro_auc"},
        "augmentation": {"strength": 0.6},
    }
)
TARGET_CONFIG = FinetuneConfig.model_validate(
    {
        "backbone": _NETWORK,
        "input": _INPUT,
        "split": {"kind": "holdout", "test_fraction": 0.4, "val_fraction": 0.25},
        "training": {"epochs": 12, "epoch_scans": 96, "batch_size": 16, "patience": 6, "monitor": "macro_auc"},
        "augmentation": {"strength": 0.6},
    }
)


@dataclass(frozen=True)
class Demonstration:
    """Where everything is."""

    source: Run
    target: Run
    batch: FolderOutcome


def demonstrate(out: Path, progress: Progress = silent, language: Language = "en") -> Demonstration:
    """Run the whole job under ``out``; called again after a kill it goes on where it was.

    A large labelled source cohort (four lesion shapes) teaches a network; it is transferred to a small target cohort
    with another task (three lesion textures), compared with the same network from scratch at equal budget, judged on
    patients of its own, and used on scans that nobody has labelled, some of them broken.

    The report of the target run is in ``language``.

    Raises:
        OutputError: the folder cannot be written.
    """
    cohort = _cohort(out / "source", SOURCE, progress)
    source = finetune(cohort, SOURCE_CONFIG, out / "source-run", named(progress, "source: {stage}"))
    backbone = TARGET_CONFIG.backbone.model_copy(update={"weights": source.bundle})
    report = TARGET_CONFIG.report.model_copy(update={"language": language})
    config = TARGET_CONFIG.model_copy(update={"backbone": backbone, "report": report})
    target = finetune(
        _cohort(out / "target", TARGET, progress), config, out / "run", named(progress, "target: {stage}")
    )
    _cohort(out / "unseen", UNSEEN, progress)
    batch = load_bundle(target.bundle).predict_folder(out / "unseen" / "cohort.csv", out / "predictions", progress)
    return Demonstration(source, target, batch)


def _cohort(folder: Path, config: PhantomConfig, progress: Progress) -> Cohort:
    table = folder / "cohort.csv"
    if not table.exists():
        write_cohort(folder, config, named(progress, f"phantoms: {folder.name}"))
    return Cohort.read(table)
