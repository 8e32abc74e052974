import csv
import os
from pathlib import Path

import pytest

from med_transfer.cohorts import Cohort


@pytest.fixture
def nodules() -> Path:
    """The folder of LIDC-IDRI nodule crops."""
    folder = Path(os.environ.get("MED_TRANSFER_DATA", "")) / "lidc_nodules"
    if not (folder / "labels.csv").exists():
        pytest.skip("MED_TRANSFER_DATA does not name a folder with lidc_nodules")
    return folder.absolute()


@pytest.fixture
def nodule_cohort(nodules, tmp_path):
    """Cohort of the nodule crops by the label that is asked for."""

    def read(label: str) -> Cohort:
        with (nodules / "labels.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        lines = [f"{nodules / row['scan']},{nodules / row['mask']},{row['patient']},{row[label]}" for row in rows]
        (tmp_path / "cohort.csv").write_text("\n".join(["scan,mask,patient,label", *lines]))
        return Cohort.read(tmp_path / "cohort.csv")

    return read
