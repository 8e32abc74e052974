"""What Predictor.predict is given and would not read is refused, as by the command; a Volume is checked like a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import tiny_bundle, write_scan

import med_transfer as mt
from med_transfer.errors import UnusableVoxels, UsageError
from med_transfer.inference import ScanWithRegion
from med_transfer.scans import Region

REGION = Region((0.0, 0.0, 20.0), (20.0, 20.0, 20.0))


@pytest.fixture
def scan(tmp_path) -> Path:
    return write_scan(tmp_path / "scan.nii.gz")


def test_a_region_that_would_change_nothing_is_refused_as_by_the_command(tmp_path, scan, command):
    bundle = tiny_bundle(tmp_path / "bundle")
    predictor = mt.load_bundle(bundle, "cpu")
    refused = command("predict", bundle, scan, "--roi", "0,0,20,20", "-o", tmp_path / "out")
    assert refused.code == 2
    pointless: tuple[dict[str, Any], ...] = ({"region": REGION}, {"mask": scan})
    for arguments in pointless:
        message = f"^{next(iter(arguments))}: a mask or region, which would change nothing; expected none"
        with pytest.raises(UsageError, match=message) as error:
            predictor.predict(scan, **arguments)
        assert error.value.found in refused.err
    of_regions = mt.load_bundle(tiny_bundle(tmp_path / "roi", region="roi"), "cpu")
    alone = of_regions.predict(scan, REGION)
    assert alone.status == "ok"
    outcome = of_regions.predict_folder(ScanWithRegion(str(scan), roi_mm=(0, 0, 20, 20)), tmp_path / "alone")
    assert outcome.rows[0].probabilities == alone.probabilities
    no_region: Any = (0, 0, 20, 20)
    with pytest.raises(UsageError, match="^region: found an object of type tuple; expected a Region, in LPS mm"):
        of_regions.predict(scan, no_region)


@pytest.mark.parametrize("columns", [["scan", "scan_late"], ["scam"], []])
def test_scans_of_other_columns_are_refused(tmp_path, scan, columns):
    given: dict[str, Any] = dict.fromkeys(columns, scan)
    predictor = mt.load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu")
    with pytest.raises(UsageError, match="^source: scans named .*; expected one for each of scan"):
        predictor.predict(given)
    assert predictor.predict({"scan": scan}).probabilities == predictor.predict(scan).probabilities


@pytest.mark.parametrize(("value", "message"), [(0, "every voxel is 0"), (np.nan, "NaN")])
def test_a_volume_without_an_image_is_refused_like_a_file_of_it(tmp_path, scan, value, message):
    predictor, volume = mt.load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu"), mt.read_scan(scan)
    assert predictor.predict(volume).probabilities == predictor.predict(scan).probabilities
    with pytest.raises(UnusableVoxels, match=message):
        predictor.predict(replace(volume, voxels=np.full_like(volume.voxels, value, dtype=np.float32)))


def test_columns_that_would_change_nothing_are_refused(tmp_path, scan):
    predictor = mt.load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu")
    with pytest.raises(UsageError, match="^columns: age, sex, which would change nothing; expected none: .* no fusion"):
        predictor.predict(scan, columns={"age": 63, "sex": None})
    no_columns: Any = 3
    with pytest.raises(UsageError, match="^columns: found an object of type int; expected a mapping from name to text"):
        predictor.predict(scan, columns=no_columns)
    assert predictor.predict(scan, columns={}).probabilities == predictor.predict(scan).probabilities
