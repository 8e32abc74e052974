"""The whole job on phantoms: source, transfer, evaluate, compare with scratch, predict. Offline, on a laptop.

Three steps, each of which goes on where it was when it is called again on the same folder. The source is the network
that comes with the package, which has learned nodules painted into other people's CT. The target is a small cohort: 24
labelled patients to learn from, 15 to steer by, and all others to test; each lesion is marked by a click. Whether the
transfer helps is measured.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from med_transfer.atomic import output_error
from med_transfer.cohorts import Cohort
from med_transfer.finetuning import FinetuneConfig, Run, finetune
from med_transfer.inference import FolderOutcome, load_bundle
from med_transfer.page import Language
from med_transfer.phantoms import PhantomConfig, write_cohort
from med_transfer.progress import Progress, named, silent

# Few to learn from, as one has them; many to test, so that the interval of a difference says something.
TARGET = PhantomConfig(
    task="texture",
    patients_per_class=58,
    train_val_patients=(8, 5),
    scans_per_patient=(1, 1),
    format="mixed",
    seed=2,
    shape=(32, 48, 48),
    field_of_view_mm=64,
    click_error_mm=6,
    difficulty=0.3,
    faults=True,
)
UNSEEN = TARGET.model_copy(update={"patients_per_class": 2, "train_val_patients": None, "seed": 3})

# As many voxels as the source has learned from, over 32 x 40 x 40 mm, which hold most lesions (8 to 28 mm) whole,
# wherever they were clicked. With so few labels the features stay frozen; the network from scratch learns 24 epochs.
TARGET_CONFIG = FinetuneConfig.model_validate(
    {
        "backbone": {"name": "med-transfer-small"},
        "input": {"region": "roi", "shape": [16, 32, 32], "spacing_mm": [2.0, 1.25, 1.25]},
        "transfer": {"strategy": {"name": "linear_probe"}},
        "split": {"kind": "holdout"},
        "training": {"epochs": 24, "epoch_scans": 64, "patience": 24, "monitor": "macro_auc"},
        "augmentation": {"strength": 0.6},
    }
)


def transfer(out: Path, progress: Progress = silent, language: Language = "en") -> Run:
    """The source's features as they are, and a linear head that learns the target: the first answer, in seconds.

    Raises:
        OutputError: the folder cannot be written.
    """
    config = TARGET_CONFIG.model_copy(update={"from_scratch_baseline": False})
    return _finetune(out, "run-first", config, progress, language)


def transfer_against_scratch(out: Path, progress: Progress = silent, language: Language = "en") -> Run:
    """The same, and beside it the same network learns the target from random values, every weight of it.

    Raises:
        OutputError: the folder cannot be written.
    """
    ready, prepared = out / "run-first/prepared", out / "run/prepared"
    if ready.exists() and not prepared.exists():  # by the first run, from the same scans in the same way
        try:
            shutil.copytree(ready, prepared)
        except OSError as error:
            raise output_error(prepared, error) from error
    return _finetune(out, "run", TARGET_CONFIG, progress, language)


def predict_unseen(out: Path, target: Run, progress: Progress = silent) -> FolderOutcome:
    """The bundle is used on scans that nobody has labelled, some of them broken.

    Raises:
        OutputError: the folder cannot be written.
    """
    _cohort(out / "unseen", UNSEEN, progress)
    return load_bundle(target.bundle).predict_folder(out / "unseen" / "cohort.csv", out / "predictions", progress)


def _finetune(out: Path, name: str, config: FinetuneConfig, progress: Progress, language: Language) -> Run:
    report = config.report.model_copy(update={"language": language})
    cohort = _cohort(out / "target", TARGET, progress)
    return finetune(
        cohort, config.model_copy(update={"report": report}), out / name, named(progress, "target: {stage}")
    )


def _cohort(folder: Path, config: PhantomConfig, progress: Progress) -> Cohort:
    table = folder / "cohort.csv"
    if not table.exists():
        write_cohort(folder, config, named(progress, f"phantoms: {folder.name}"))
    return Cohort.read(table)
