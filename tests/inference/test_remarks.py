"""A remark on many scans is one line on the terminal; the log beside the predictions has each."""

import logging

import nibabel
import numpy as np
from tiny_bundle import tiny_bundle

from med_transfer.cli.terminal import TerminalHandler
from med_transfer.progress import remark


def predict_grey(command, tmp_path, n):
    """``predict`` over scans of grey values, which are no Hounsfield units; and what its log says."""
    bundle = tiny_bundle(tmp_path / "bundle", modality="CT")
    (tmp_path / "scans").mkdir(exist_ok=True)
    for number, voxels in enumerate(np.random.default_rng(0).integers(0, 256, (n, 24, 24, 24))):
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), np.eye(4)), tmp_path / f"scans/{number}.nii")
    outcome = command("predict", bundle, tmp_path / "scans", "-o", tmp_path / "out")
    lines = outcome.err.splitlines()
    warnings = [line for line in lines if line.startswith("WARNING") and "is unsigned" not in line]
    return warnings, (tmp_path / "out/run.log").read_text()


def test_a_remark_that_holds_for_many_scans_is_one_line_with_their_number(command, tmp_path, reading_processes):
    (line,), log = predict_grey(command, tmp_path, 12)
    assert line.startswith("WARNING: 12 scans, the first of them: ")
    assert "states no modality and is taken for CT, but values do not look like Hounsfield units" in line
    assert line.endswith(f"each is in {tmp_path / 'out/run.log'}")
    assert log.count("states no modality and is taken for CT") == 12


def test_a_scan_that_is_read_twice_is_one_scan(capsys):
    terminal, log = TerminalHandler(), logging.getLogger("tests.read_twice")
    log.addHandler(terminal)
    try:
        for scan in ("a.nii", "b.nii", "a.nii"):
            remark(log, "%s: is grey", scan, kind="grey")
        remark(log, "%s: is small", "a.nii", kind="small")
        remark(log, "%s: is small", "a.nii", kind="small")
        terminal.tell()
    finally:
        log.removeHandler(terminal)
    assert capsys.readouterr().err.splitlines() == ["2 scans, the first of them: a.nii: is grey", "a.nii: is small"]


def test_remarks_of_another_kind_stay_apart_and_a_single_one_is_whole(command, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/cut.nii.gz").write_bytes(b"\x1f\x8bnothing")
    lines, _ = predict_grey(command, tmp_path, 2)
    assert ["2 scans, the first of them: " in line for line in sorted(lines)] == [True, False]
    assert any(line.startswith("WARNING: no prediction: cut.nii.gz: ") for line in lines)
