"""The linear probe's scans: those that a fine-tuning may train on, and no test scan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from command_line import SMALL_SCANS, read_rows, write_rows
from tiny import CPU, STUDENT_INPUT, tiny_config, tiny_student

from med_transfer.cohorts import recognise
from med_transfer.errors import CohortError, PatientLeak
from med_transfer.phantoms import PhantomConfig, write_cohort
from med_transfer.pretraining.methods.method import PretrainingContext
from med_transfer.pretraining.probe import linear_probe, probe_cohort
from med_transfer.pretraining.source.views import reorient
from med_transfer.progress import silent


def test_rows_of_the_test_are_left_out_of_the_probe(chest, tmp_path):
    phantoms = PhantomConfig(patients_per_class=3, seed=6, **SMALL_SCANS | {"format": "nifti"})
    table = write_cohort(tmp_path / "cohort", phantoms)
    rows = [row | {"split": "test" if number >= 6 else "train"} for number, row in enumerate(read_rows(table))]
    config = tiny_config("contrastive", probe={"cohort": write_rows(table, rows)})
    context = PretrainingContext(config, STUDENT_INPUT, chest, None, CPU)

    probe = linear_probe(config, probe_cohort(table), context, tmp_path / "probe", silent)
    patients, _ = probe.seen()
    learned = sorted(row["patient"] for row in rows if row["split"] == "train")
    assert sorted(recognise([row["patient"] for row in rows], patients)) == learned
    assert sorted(probe.prepared.cohort.patients) == learned
    assert 0 <= probe(tiny_student()) <= 1
    relabelled = [row | {"label": rows[(number + 1) % 6]["label"]} for number, row in enumerate(rows[:6])]
    identities = []
    for number, table_rows in enumerate((rows[:6], rows[5::-1], relabelled)):
        other = write_rows(table.with_name(f"{number}.csv"), table_rows)
        identities.append(linear_probe(config, probe_cohort(other), context, tmp_path / "probe", silent).identity)
    assert identities[0] == identities[1] == probe.identity != identities[2]

    write_rows(
        table,
        [row | {"patient": "both", "split": "test" if number == 0 else "train"} for number, row in enumerate(rows)],
    )
    with pytest.raises(
        PatientLeak, match=r"cohort\.csv: one patient in rows to probe with and in rows marked split=test"
    ):
        probe_cohort(table)

    write_rows(table, [row | {"split": "test"} for row in rows])
    with pytest.raises(CohortError, match=r"cohort\.csv: every row is marked split=test; expected rows to probe with"):
        probe_cohort(table)
    assert linear_probe(config, probe_cohort(None), context, tmp_path / "again", silent) is None


def test_the_probe_shows_the_encoder_the_windows_that_it_learns_in(chest, tmp_path):
    phantoms = PhantomConfig(patients_per_class=2, seed=6, **SMALL_SCANS | {"format": "nifti"})
    table = write_cohort(tmp_path / "cohort", phantoms)
    windows = ((0.0, 80.0), (-20.0, 180.0), (-800.0, 2000.0))
    config = tiny_config("painted_lesions", probe={"cohort": table}, windows_hu=windows)
    spec = replace(STUDENT_INPUT, channels=3)
    context = PretrainingContext(config, spec, chest, None, CPU)
    (batch, *_) = linear_probe(config, probe_cohort(table), context, tmp_path / "probe", silent)._batches()
    of_each = tiny_config("contrastive", probe={"cohort": table})
    for channel, window in enumerate(windows):
        alone = PretrainingContext(of_each, replace(STUDENT_INPUT, window_hu=window), chest, None, CPU)
        (expected, *_) = linear_probe(of_each, probe_cohort(table), alone, tmp_path / f"{channel}", silent)._batches()
        torch.testing.assert_close(batch[:, channel], expected[:, 0])


def test_the_probe_has_the_shape_and_spacing_of_the_crops_whatever_the_axes_of_the_encoder(chest, tmp_path):
    phantoms = PhantomConfig(patients_per_class=2, seed=6, **SMALL_SCANS | {"format": "nifti"})
    table = write_cohort(tmp_path / "cohort", phantoms)
    settings = {"cohort": table, "spacing_mm": (4.0, 2.0, 3.0)}
    config = tiny_config("contrastive", probe=settings, input_shape=(8, 16, 16), crops={"shape": (8, 16, 16)})
    batches = []
    for axes in ("SPL", "RAS"):
        context = PretrainingContext(config, replace(STUDENT_INPUT, orientation=axes), chest, None, CPU)
        (batch, *_) = linear_probe(config, probe_cohort(table), context, tmp_path / axes, silent)._batches()
        batches.append(reorient(batch, axes, "SPL"))
    assert batches[0].shape[2:] == (8, 16, 16)
    torch.testing.assert_close(batches[1], batches[0], rtol=0, atol=1e-3)
