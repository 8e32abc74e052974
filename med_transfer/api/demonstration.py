"""The whole job on phantoms: source, learn, transfer, fine-tune, evaluate, predict. Offline, on a laptop.

Three steps, each of which goes on where it was when it is called again on the same folder. The source's classes turn
on what the target asks for (a lesion's density) and on something else (its outline), so that its features can
serve; whether they do is measured. The patients of the two cohorts are other ones.
"""

from __future__ import annotations

from pathlib import Path

from med_transfer.cohorts import Cohort
from med_transfer.finetuning import FinetuneConfig, Run, finetune
from med_transfer.inference import FolderOutcome, load_bundle
from med_transfer.page import Language
from med_transfer.phantoms import PhantomConfig, write_cohort
from med_transfer.progress import Progress, named, silent

SOURCE = PhantomConfig(
    task="appearance", patients_per_class=32, scans_per_patient=(1, 1), format="nifti", seed=1, difficulty=0.3
)
TARGET = PhantomConfig(
    task="texture",
    patients_per_class=40,
    scans_per_patient=(1, 1),
    format="mixed",
    seed=2,
    difficulty=0.3,
    faults=True,
)
UNSEEN = TARGET.model_copy(update={"patients_per_class": 2, "seed": 3})

# A small input and few epochs: minutes on two cores. Lesions are 8 to 28 mm wide, pixels over 3 mm.
_INPUT = {"region": "roi", "shape": [16, 16, 16], "spacing_mm": [2.0, 2.0, 2.0]}
_NETWORK = {"name": "resnet18-w32"}  # random values: here the demonstration makes its own source
SOURCE_CONFIG = FinetuneConfig.model_validate(
    {
        "backbone": _NETWORK,
        "input": _INPUT,
        "split": {"kind": "holdout", "test_fraction": 0.1, "val_fraction": 0.15},
        "training": {
            "epochs": 8,
            "epoch_scans": 240,
            "warmup_epochs": 0.5,
            "dropout": 0.0,
            "label_smoothing": 0.0,
            "monitor": "macro_auc",
        },
        # Light: the patients are many, and each is seen a few times only.
        "augmentation": {
            "strength": 0.4,
            "mixup": 0.0,
            "elastic": 0.0,
            "dropout": 0.0,
            "blur_voxels": 0.0,
            "low_resolution": 0.0,
        },
        "explain": {"gallery": 0},
    }
)
TARGET_CONFIG = FinetuneConfig.model_validate(
    {
        "backbone": _NETWORK,
        "input": _INPUT,
        "split": {"kind": "holdout", "test_fraction": 0.5, "val_fraction": 0.25},
        "training": {"epochs": 10, "epoch_scans": 96, "patience": 6, "monitor": "macro_auc"},
        "augmentation": {"strength": 0.6},
    }
)


def learn_source(out: Path, progress: Progress = silent) -> Run:
    """A network learns a large cohort, nine kinds of lesion, from random values.

    Raises:
        OutputError: the folder cannot be written.
    """
    cohort = _cohort(out / "source", SOURCE, progress)
    return finetune(cohort, SOURCE_CONFIG, out / "source-run", named(progress, "source: {stage}"))


def transfer(out: Path, source: Run, progress: Progress = silent, language: Language = "en") -> Run:
    """It is transferred to a small cohort with another task, three densities, and judged on patients of its own.

    The same network also learns this cohort from random values, at equal budget. The report is in ``language``.

    Raises:
        OutputError: the folder cannot be written.
    """
    config = TARGET_CONFIG.model_copy(
        update={
            "backbone": TARGET_CONFIG.backbone.model_copy(update={"weights": source.bundle}),
            "report": TARGET_CONFIG.report.model_copy(update={"language": language}),
        }
    )
    cohort = _cohort(out / "target", TARGET, progress)
    return finetune(cohort, config, out / "run", named(progress, "target: {stage}"))


def predict_unseen(out: Path, target: Run, progress: Progress = silent) -> FolderOutcome:
    """The bundle is used on scans that nobody has labelled, some of them broken.

    Raises:
        OutputError: the folder cannot be written.
    """
    _cohort(out / "unseen", UNSEEN, progress)
    return load_bundle(target.bundle).predict_folder(out / "unseen" / "cohort.csv", out / "predictions", progress)


def _cohort(folder: Path, config: PhantomConfig, progress: Progress) -> Cohort:
    table = folder / "cohort.csv"
    if not table.exists():
        write_cohort(folder, config, named(progress, f"phantoms: {folder.name}"))
    return Cohort.read(table)
