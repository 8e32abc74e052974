"""Acquisition facts from a real file's header, stored with the prepared scan."""

import re
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread

from med_transfer.cohorts import Cohort, prepare_cohort
from med_transfer.cohorts.acquisition import NUMBER_FACTS, TEXT_FACTS, acquisition_facts
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import read_scan


def scans_of(table, suffix):
    return [case for case in Cohort.read(table).cases if case.path.name.endswith(".nii.gz") == (suffix == "nifti")]


def test_facts_are_those_of_the_header(cohort_csv):
    folder = scans_of(cohort_csv, "dicom")[0].path
    header, volume = dcmread(next(folder.iterdir())), read_scan(folder)
    facts = acquisition_facts(volume)
    assert set(facts) <= {*TEXT_FACTS, *NUMBER_FACTS}
    assert facts["manufacturer"] == header.Manufacturer
    assert facts["scanner_model"] == header.ManufacturerModelName
    assert facts["kernel"] == header.ConvolutionKernel
    assert facts["slice_thickness_mm"] == float(header.SliceThickness)
    assert facts["tube_voltage_kv"] == float(header.KVP)
    assert facts["pixel_spacing_mm"] == pytest.approx(header.PixelSpacing[1], abs=1e-4)
    assert (facts["n_rows"], facts["n_columns"], facts["n_slices"]) == (header.Rows, header.Columns, 24)
    assert (facts["file_format"], facts["contrast_agent"]) == ("dicom", "none stated")
    assert not re.search(f"{header.PatientID}|{header.StudyDate}|{header.StudyInstanceUID}", str(facts))


def test_what_a_file_does_not_state_is_absent(cohort_csv):
    volume = read_scan(scans_of(cohort_csv, "nifti")[0].path)
    facts = acquisition_facts(volume)
    assert set(facts) == {"file_format", "slice_spacing_mm", "pixel_spacing_mm", "n_slices", "n_rows", "n_columns"}
    odd = replace(volume.provenance, acquisition={"KVP": "high", "SliceThickness": "nan", "Manufacturer": " "})
    assert set(acquisition_facts(replace(volume, provenance=odd))) == {*facts, "contrast_agent"}


def test_prepared_scans_keep_their_facts_on_disk(cohort_csv, tmp_path):
    cohort = Cohort.read(cohort_csv).subset(range(2))
    look = Preprocessing(PreprocessingConfig(shape=(8, 8, 8)))
    first, again = (prepare_cohort(cohort, look, tmp_path) for _ in range(2))
    for fresh, cached, case in zip(first.scans, again.scans, cohort.cases, strict=True):
        assert cached.acquisition == fresh.acquisition == acquisition_facts(read_scan(case.path))
        assert np.array_equal(cached.tensor, fresh.tensor)
