"""A small cohort to choose for, and networks to choose among."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import SMALL_SCANS, read_rows, write_rows
from safetensors.torch import save_file

from med_transfer.backbones import load_backbone
from med_transfer.phantoms import PhantomConfig, write_cohort


@pytest.fixture(scope="session")
def target_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 patients of three classes; names of patients and files are those of no other cohort."""
    folder = tmp_path_factory.mktemp("select") / "cohort"
    table = write_cohort(
        folder, PhantomConfig(patients_per_class=6, seed=11, **SMALL_SCANS | {"format": "nifti", "difficulty": 0.0})
    )
    rows = read_rows(table)
    for number, row in enumerate(rows, start=1):
        row |= {"patient": f"target-{number}"}
    return write_rows(table, rows)


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file that holds exactly the values that the control starts from."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file({name: t.contiguous() for name, t in load_backbone("resnet18-w8").encoder.state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other values of the same network."""
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    encoder = load_backbone("resnet18-w8", seed=5).encoder
    save_file({name: t.contiguous() for name, t in encoder.state_dict().items()}, path)
    return path
