"""Where the network looks: chosen by the table, reported first, and given by hand for a single scan."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from command_line import read_rows, write_rows

import med_transfer as mt
from med_transfer.scans import Region

AROUND = "input.region: roi, the network looks around the region of interest of each scan"
ROI = ("roi_x_mm", "roi_y_mm", "roi_z_mm", "roi_size_mm")


@pytest.fixture
def nodule(unseen_csv) -> tuple[Path, dict[str, str]]:
    """A NIfTI scan, and its row with the region of interest."""
    row = next(row for row in read_rows(unseen_csv) if row["scan"].endswith(".nii.gz"))
    return unseen_csv.parent / row["scan"], row


@pytest.fixture
def mask(nodule, mask_of, tmp_path) -> Path:
    """The region of interest of that scan as a mask file."""
    return mask_of(*nodule, tmp_path / "mask.nii.gz")


def test_a_table_with_regions_is_learned_from_them_and_the_first_line_says_so(transferred):
    first = transferred.outcome.out.splitlines()[0]
    assert first == f"{AROUND}; the table gives a region or mask for 18 of 18 scans"
    assert yaml.safe_load((transferred.folder / "config.yaml").read_text())["input"]["region"] == "roi"
    assert first in (transferred.folder / "run.log").read_text()


def test_a_table_of_some_regions_trains_nothing(command, cohort_csv, tmp_path):
    rows = [row | {"scan": str(cohort_csv.parent / row["scan"])} for row in read_rows(cohort_csv)]
    rows[4] |= dict.fromkeys(ROI, "")
    table = write_rows(tmp_path / "some.csv", rows)
    for words in (("finetune", table, "-o", tmp_path / "run"), ("select", table, "-o", tmp_path / "sel")):
        outcome = command(*words)
        assert outcome.code == 2
        assert "input.region: 1 of 18 rows have no region or mask, and the others do: row 6 " in outcome.err
    assert not (tmp_path / "run").exists()


def test_one_scan_is_predicted_with_its_region_as_in_the_table(command, transferred, nodule, unseen_csv, tmp_path):
    scan, row = nodule
    command("predict", transferred.bundle, unseen_csv, "-o", tmp_path / "table")
    table = pd.read_csv(tmp_path / "table/predictions.csv", float_precision="round_trip")
    expected = table.set_index("scan").loc[row["scan"]]
    roi = ",".join(row[name] for name in ROI)
    outcome = command("predict", transferred.folder, scan, "--roi", roi, "-o", tmp_path / "one")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[0] == AROUND
    (found,) = read_rows(tmp_path / "one/predictions.csv")
    for name in ("novelty", *(name for name in found if name.startswith("p_"))):
        assert float(found[name]) == expected[name]


def test_one_scan_is_predicted_and_explained_within_its_mask(command, transferred, nodule, mask, tmp_path):
    scan, row = nodule
    outcome = command("predict", transferred.bundle, scan, "--mask", mask, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    explained = command("explain", transferred.bundle, scan, "--mask", mask, "-o", tmp_path / "map", "--draws", "0")
    assert explained.code == 0, explained.err
    record = json.loads((tmp_path / "map/explanation.json").read_text())
    assert record["seen_centre_lps_mm"] == pytest.approx([float(row[name]) for name in ROI[:3]], abs=2)

    model = mt.load_bundle(transferred.folder)
    by_mask = model.predict(scan, mask=mask)
    centre = tuple(record["seen_centre_lps_mm"])
    by_region = model.predict(scan, Region(centre, (1, 1, 1)))  # its centre is written with fewer digits
    assert by_mask.probabilities == pytest.approx(by_region.probabilities, abs=1e-4)
    (found,) = read_rows(tmp_path / "out/predictions.csv")
    assert {name: float(found[f"p_{name}"]) for name in by_mask.probabilities} == by_mask.probabilities


def test_a_region_of_nothing_or_of_several_scans_is_refused(command, transferred, unseen_csv, tmp_path):
    folder, bundle = unseen_csv.parent / "scans", transferred.bundle
    one = next(folder.glob("*.nii.gz"))
    refused = {
        "the network looks at regions of interest, and files alone give none": (folder,),
        "a mask or region for 6 scans; expected one scan": (folder, "--roi", "1,2,3,4"),
        "a mask or region for a table, which has columns for it": (unseen_csv, "--roi", "1,2,3,4"),
        "--roi: '1,2,3'; expected x,y,z,size in mm": (one, "--roi", "1,2,3"),
        "--roi: '1,2,3,0'; expected x,y,z,size": (one, "--roi", "1,2,3,0"),
        "both --mask and --roi": (one, "--roi", "1,2,3,4", "--mask", one),
    }
    for command_name in ("predict", "explain"):
        for message, words in refused.items():
            outcome = command(command_name, bundle, *words, "-o", tmp_path / "out")
            assert (outcome.code, message in outcome.err) == (2, True), (message, outcome.err)
    assert not (tmp_path / "out").exists()


def test_a_region_that_would_change_nothing_is_refused(command, finished, unseen_csv, tmp_path):
    one = next((unseen_csv.parent / "scans").glob("*.nii.gz"))
    for command_name in ("predict", "explain"):
        for words in (("--roi", "1,2,3,4"), ("--mask", one)):
            outcome = command(command_name, finished.bundle, one, *words, "-o", tmp_path / "out")
            message = "a mask or region, which would change nothing; expected none: input.region: whole"
            assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "out").exists()


def test_what_the_bundle_looks_at_is_told_first_too(command, finished, unseen_csv, tmp_path):
    outcome = command("predict", finished.bundle, unseen_csv.parent / "scans", "-o", tmp_path / "out")
    assert outcome.out.splitlines()[0] == "input.region: whole, the network looks at the whole of each scan"
