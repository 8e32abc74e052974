"""Write a cohort of synthetic chest CT scans with lung lesions: ``scans/`` and ``cohort.csv``.

Like the command ``med-transfer phantom OUT``::

    from med_transfer.phantoms import PhantomConfig, write_cohort

    table = write_cohort(Path("OUT"), PhantomConfig(task="texture", patients_per_class=20), progress=show)

``show(stage, done, total)`` is called after each scan. OUT must not exist, or be an empty folder; it is created only
when complete. On one core a scan takes about 0.15 s at the default shape. Layout::

    OUT/cohort.csv                 one row per scan: COLUMNS, and on request `split` and `mask`
    OUT/scans/texture-0007-1/      a DICOM series, or texture-0007-1.nii.gz
    OUT/masks/texture-0007-1.nii.gz
    OUT/unlabelled/...             scans that are not in the table, for self-supervised pretraining
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from med_transfer.atomic import output_error
from med_transfer.atomic.csv_table import write_csv
from med_transfer.atomic.partial_files import partial_path
from med_transfer.errors import OutputError
from med_transfer.phantoms import faults
from med_transfer.phantoms.dicom_series import SeriesDetails, write_dicom_series
from med_transfer.phantoms.lesions import CLASSES
from med_transfer.phantoms.nifti_file import write_nifti
from med_transfer.phantoms.patient import DEFAULT_SHAPE, Patient, Scan, draw_patient, take_scan
from med_transfer.progress import Progress, bars_unless

Fault = Literal["", "missing slice", "truncated file"]

COLUMNS = (
    "scan",
    "patient",
    "label",
    "roi_x_mm",
    "roi_y_mm",
    "roi_z_mm",
    "roi_size_mm",
    "sex",
    "age",
    "site",
    "scanner",
)


class PhantomConfig(BaseModel):
    """What a phantom cohort holds.

    Attributes:
        task: ``texture`` (solid | part-solid | ground-glass: the usual target), ``shape``
            (smooth | lobulated | spiculated | cavitated) or ``appearance`` (the first three shapes with each texture,
            nine classes such as ``lobulated solid``: the usual source).
        patients_per_class: number of patients in every class; 8000 in all at most.
        scans_per_patient: fewest and most scans of a patient, all of one class.
        format: how the scans are stored; ``mixed`` alternates at random.
        seed: a scan's content depends only on the seed, the task, the difficulty, the shape and the patient's number.
        shape: voxels along depth, height, width.
        difficulty: 0 easy .. 1 hard: noise, contrast, overlap between the classes.
        faults: add two labelled patients with a bad scan (slice missing, file cut short), and a text file named .dcm.
        unlabelled_patients: further patients, one scan each, written beside the cohort and not listed in it.
        masks: write the lesion's mask of every scan, and a column ``mask``.
        train_val_patients: of every class, how many patients are for training and how many for validation, as a column
            ``split``; all others are for testing. None: no such column.
        field_of_view_mm: the scans are reconstructions of so wide a part around the lesion, as long as it is wide at
            least; None: of the whole chest.
        click_error_mm: the region is a reader's click, up to so far from the lesion's middle, and a box of 20
            mm whatever the lesion's size; None: it is the lesion's middle and diameter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["texture", "shape", "appearance"] = "texture"
    patients_per_class: Annotated[int, Field(ge=1, le=2000)] = 20
    scans_per_patient: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 2)
    format: Literal["dicom", "nifti", "mixed"] = "dicom"
    seed: Annotated[int, Field(ge=0)] = 0
    shape: tuple[
        Annotated[int, Field(ge=8, le=2048)],
        Annotated[int, Field(ge=32, le=1024)],
        Annotated[int, Field(ge=32, le=1024)],
    ] = DEFAULT_SHAPE
    difficulty: Annotated[float, Field(ge=0, le=1)] = 0.5
    faults: bool = False
    unlabelled_patients: Annotated[int, Field(ge=0)] = 0
    masks: bool = False
    train_val_patients: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    field_of_view_mm: Annotated[float, Field(ge=40, le=500)] | None = None
    click_error_mm: Annotated[float, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _require_possible(self) -> PhantomConfig:
        fewest, most = self.scans_per_patient
        if (n := self.patients_per_class * len(self.labels)) > _FAULTY:
            raise ValueError(
                f"patients_per_class {self.patients_per_class} of {len(self.labels)} classes: {n} patients; "
                f"at most {_FAULTY}"
            )
        if fewest > most:
            raise ValueError(f"scans_per_patient ({fewest}, {most}): the fewest exceed the most")
        if self.train_val_patients and sum(self.train_val_patients) >= self.patients_per_class:
            raise ValueError(f"train_val_patients {self.train_val_patients} of {self.patients_per_class}: none to test")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names."""
        return CLASSES[self.task]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort table."""
        return (*COLUMNS, *["split"] * bool(self.train_val_patients), *["mask"] * self.masks)

    def part_of(self, patient: int) -> str:
        """Return a patient's split by ``train_val_patients``; empty if that is None."""
        if self.train_val_patients is None:
            return ""
        n_train, n_val = self.train_val_patients
        number_in_class = patient // len(self.labels)
        return "train" if number_in_class < n_train else "val" if number_in_class < n_train + n_val else "test"


@dataclass(frozen=True)
class _Job:
    """One scan to write."""

    patient: int
    scan: int
    stored_as: str
    fault: Fault = ""
    labelled: bool = True


def write_cohort(out: Path, config: PhantomConfig, progress: Progress | None = None) -> Path:
    """Write the cohort into ``out`` and return the path of its ``cohort.csv``.

    Args:
        out: a folder that does not exist yet, or is empty.
        config: what the cohort contains.
        progress: progress callback; None shows a bar in a terminal or notebook.

    Raises:
        OutputError: ``out`` is not empty, or cannot be written (permission, disk full).
    """
    jobs = list(_jobs(config))
    with bars_unless(progress) as progress, _complete_or_absent(Path(out)) as folder:
        rows = []
        for done, (job, patient) in enumerate(_with_patients(jobs, config), start=1):
            row = _write_scan(folder, job, patient, config)
            if job.labelled:
                rows.append(row)
            progress("writing scans", done, len(jobs))
        if config.faults:
            faults.write_text_file(folder / "scans" / "export" / "readme.dcm")
        write_csv(folder / "cohort.csv", config.columns, rows)
    return Path(out) / "cohort.csv"


def _jobs(config: PhantomConfig) -> Iterator[_Job]:
    """Every scan of the cohort: labelled patients, then those with faulty scans, then unlabelled ones."""
    labelled = config.patients_per_class * len(config.labels)
    for patient in range(labelled):
        rng = _choices(config, patient)
        stored_as = _storage(config, rng)
        for scan in range(int(rng.integers(config.scans_per_patient[0], config.scans_per_patient[1] + 1))):
            yield _Job(patient, scan, stored_as)
    if config.faults:
        yield _Job(_FAULTY, 0, "dicom", fault="missing slice")
        yield _Job(_FAULTY + 1, 0, "nifti" if config.format == "nifti" else "dicom", fault="truncated file")
    for patient in range(_UNLABELLED, _UNLABELLED + config.unlabelled_patients):
        yield _Job(patient, 0, _storage(config, _choices(config, patient)), labelled=False)


CLICK_BOX_MM = 20.0  # about the mean width of a lesion
_FAULTY, _UNLABELLED = 8000, 9000  # first patient numbers, so that a larger cohort starts with the same patients


def _choices(config: PhantomConfig, patient: int) -> np.random.Generator:
    """Random generator for how a patient's scans are stored, independent of that for their content."""
    return np.random.default_rng((config.seed, patient, 1000))


def _storage(config: PhantomConfig, rng: np.random.Generator) -> str:
    drawn = str(rng.choice(["dicom", "nifti"]))
    return drawn if config.format == "mixed" else config.format


def _with_patients(jobs: list[_Job], config: PhantomConfig) -> Iterator[tuple[_Job, Patient]]:
    """Each job with its patient, who is drawn once for consecutive scans."""
    number, patient = None, None
    for job in jobs:
        if patient is None or number != job.patient:
            number = job.patient
            patient = draw_patient(config.seed, config.task, number, difficulty=config.difficulty)
        yield job, patient


def _write_scan(folder: Path, job: _Job, patient: Patient, config: PhantomConfig) -> dict[str, object]:
    """Write one scan and its mask, and return its row of the table."""
    scan = take_scan(patient, job.scan, config.shape, config.field_of_view_mm)
    identifier = f"{config.task}-{job.patient:04d}"
    name = f"{identifier}-{job.scan + 1}"
    path = folder / ("scans" if job.labelled else "unlabelled") / name
    if job.stored_as == "nifti":
        path = path.with_name(name + ".nii.gz")
        files = [write_nifti(path, scan.voxels, scan.affine)]
    else:
        files = write_dicom_series(
            path, scan.voxels, scan.affine, details=_details(identifier, job, patient, scan, config)
        )
    _spoil(files, job.fault)
    row = _row(path.relative_to(folder).as_posix(), identifier, patient, scan)
    row |= _click(job, scan, config) | {"split": config.part_of(job.patient)}
    if config.masks and job.labelled:
        mask = write_nifti(folder / "masks" / f"{name}.nii.gz", scan.mask, scan.affine)
        row["mask"] = mask.relative_to(folder).as_posix()
    return row


def _details(identifier: str, job: _Job, patient: Patient, scan: Scan, config: PhantomConfig) -> SeriesDetails:
    return SeriesDetails(
        patient=identifier,
        seed=config.seed,
        study=job.scan + 1,
        series=2,
        sex=patient.sex,
        age=patient.age,
        scanner=scan.acquisition.scanner,
        slice_thickness_mm=scan.acquisition.slice_thickness_mm,
    )


def _spoil(files: list[Path], fault: Fault) -> None:
    if fault == "missing slice":
        faults.drop_slice(files)
    elif fault == "truncated file":
        faults.truncate(files[len(files) // 2])


def _row(path: str, identifier: str, patient: Patient, scan: Scan) -> dict[str, object]:
    x, y, z = scan.lesion_mm
    scanner = scan.acquisition.scanner
    values = (
        path,
        identifier,
        patient.label,
        f"{x:.3f}",
        f"{y:.3f}",
        f"{z:.3f}",
        f"{scan.lesion_size_mm:.2f}",
        patient.sex,
        patient.age,
        scanner.site,
        scanner.name,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _click(job: _Job, scan: Scan, config: PhantomConfig) -> dict[str, object]:
    """Region columns of a simulated click, uniform in a ball around the lesion's centre; empty if not requested."""
    if config.click_error_mm is None:
        return {}
    rng = np.random.default_rng((config.seed, job.patient, 2000 + job.scan))
    direction = rng.normal(size=3)
    distance_mm = config.click_error_mm * rng.random() ** (1 / 3)
    x, y, z = np.add(scan.lesion_mm, distance_mm * direction / np.linalg.norm(direction))
    mm = (f"{x:.3f}", f"{y:.3f}", f"{z:.3f}", f"{CLICK_BOX_MM:.2f}")
    return dict(zip(("roi_x_mm", "roi_y_mm", "roi_z_mm", "roi_size_mm"), mm, strict=True))


@contextmanager
def _complete_or_absent(out: Path) -> Iterator[Path]:
    """Temporary folder to write into, renamed to ``out`` if the block succeeds and deleted if it fails."""
    if not out.name:  # ".": replacing the current folder would leave processes in a deleted one
        raise OutputError("the folder that the command runs in", where=out, expected="another one, new or empty")
    partial = partial_path(out)
    try:
        _refuse_content(out)
        partial.mkdir(parents=True)
        yield partial
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise output_error(out, error) from error
    except OutputError as error:
        if Path(error.where).is_relative_to(partial):  # the temporary path means nothing to the user
            raise OutputError(error.found, where=out, expected=error.expected, action=error.action) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_content(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        obstacle = "the folder is not empty" if out.is_dir() else "a file of this name exists"
        raise OutputError(obstacle, where=out, expected="a new or empty folder", action="Choose another folder")
