"""The whole workflow on phantoms: transfer, evaluate, compare with training from scratch, predict. Runs offline.

Each of the three steps resumes when called again on the same folder. The source is the network that comes with the
package, pretrained on nodules painted into CT scans of other patients. The target is a small cohort of 24 training
patients and 15 validation patients; all others are test patients, and a click marks each lesion. The demonstration
measures whether the transfer helps.
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

# Few training patients, as in practice; many test patients, so that the interval of a difference is informative.
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

# As many voxels as the source's pretraining crops, over 32 x 40 x 40 mm, which contain most lesions (8 to 28 mm)
# despite the click error. With so few labels the features stay frozen; the network from scratch trains for 24 epochs.
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
    """Train a linear head on the frozen features of the source; takes seconds.

    Raises:
        OutputError: the folder cannot be written.
    """
    config = TARGET_CONFIG.model_copy(update={"from_scratch_baseline": False})
    return _finetune(out, "run-first", config, progress, language)


def transfer_against_scratch(out: Path, progress: Progress = silent, language: Language = "en") -> Run:
    """Run :func:`transfer` again and also train the same network from scratch, for comparison.

    Raises:
        OutputError: the folder cannot be written.
    """
    ready, prepared = out / "run-first/prepared", out / "run/prepared"
    if ready.exists() and not prepared.exists():  # prepared by the first run, from the same scans in the same way
        try:
            shutil.copytree(ready, prepared)
        except OSError as error:
            raise output_error(prepared, error) from error
    return _finetune(out, "run", TARGET_CONFIG, progress, language)


def predict_unseen(out: Path, target: Run, progress: Progress = silent) -> FolderOutcome:
    """Predict unlabelled scans with the bundle; some of the scans are deliberately damaged.

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
