"""A CT network gets CT, an MR network gets MR."""

import logging
from pathlib import Path

import numpy as np
import pytest

from med_transfer.errors import InputRejected
from med_transfer.preprocessing import InputConfig, Preprocessing, PreprocessingConfig
from med_transfer.preprocessing.channels import require_modality
from med_transfer.scans import Provenance, Volume

CT = np.random.default_rng(0).normal(0, 300, (8, 40, 40)).astype(np.int16)
MR = np.abs(CT)


def scan(modality: str, voxels: np.ndarray = CT) -> Volume:
    return Volume(voxels, np.eye(4), Provenance(Path("scans/one"), "dicom" if modality else "nifti", modality))


@pytest.mark.parametrize(("stated", "wanted"), [("MR", "CT"), ("CT", "MR"), ("PT", "CT")])
def test_another_modality_is_rejected_with_both_names(stated, wanted):
    preprocessing = Preprocessing(PreprocessingConfig(modality=wanted, shape=(8, 8, 8)))
    with pytest.raises(
        InputRejected, match=rf"^scans/one: modality {stated}; expected {wanted}.*input\.modality: {stated}"
    ):
        preprocessing(scan(stated))


@pytest.mark.parametrize(("stated", "wanted"), [("CT", "CT"), ("MR", "MR"), ("", "MR"), ("MR", None), ("", None)])
def test_the_same_modality_and_a_file_that_states_none_are_taken(stated, wanted, caplog):
    require_modality(scan(stated), wanted)
    assert not caplog.records


def test_file_that_states_none_and_holds_no_hounsfield_units_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "med_transfer"):
        require_modality(scan("", MR), "CT")
    assert (
        "scans/one: states no modality and is taken for CT, but values do not look like Hounsfield units" in caplog.text
    )


def test_a_scan_seen_through_several_windows_is_warned_of_once(caplog):
    windows = [{"column": "scan", "window_hu": window} for window in ((0, 80), (-20, 180), (-800, 2000))]
    preprocessing = Preprocessing(PreprocessingConfig(modality="CT", channels=windows, shape=(8, 8, 8), region="whole"))
    with caplog.at_level(logging.WARNING, "med_transfer"):
        preprocessing(scan("", MR))
    assert caplog.text.count("states no modality") == 1


@pytest.mark.parametrize(
    ("given", "normalisation"),
    [
        ({}, "window"),
        ({"modality": "MR"}, "zscore"),
        ({"modality": "MR", "window_hu": (0, 1200)}, "window"),
        ({"modality": "MR", "normalisation": "window"}, "window"),
        ({"modality": "PT"}, "window"),
        ({"normalisation": "zscore"}, "zscore"),
    ],
)
def test_mr_is_measured_by_itself_unless_a_window_is_given(given, normalisation):
    assert InputConfig(**given, region="whole").completed({}).normalisation == normalisation


def test_no_modality_in_a_config_takes_every_one():
    assert InputConfig(region="whole").completed({}).modality == "CT"
    assert InputConfig(modality=None, region="whole").completed({}).modality is None
