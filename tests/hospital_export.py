"""DICOM series as a hospital exports them: headers full of data that must never leak, several series per study."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from planted import leaked
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from med_transfer.phantoms.dicom_series import write_dicom_series

SECRETS = {  # one in every kind of text element that states who or when
    "PatientName": "SECRETNAME^JANE",
    "PatientID": "SECRETID-4711",
    "OtherPatientIDs": "SECRETOTHERID",
    "PatientBirthDate": "19620331",
    "PatientAddress": "SECRETSTREET 7",
    "PatientComments": "SECRETCOMMENT of the patient",
    "AdditionalPatientHistory": "SECRETHISTORY",
    "StudyDate": "20190822",
    "SeriesDate": "20190823",
    "AcquisitionDate": "20190824",
    "ContentDate": "20190825",
    "StudyTime": "111213.141516",
    "AccessionNumber": "SECRETACCESSION",
    "StudyID": "SECRETSTUDY",
    "StudyDescription": "SECRETSTUDYTEXT",
    "SeriesDescription": "SECRETSERIESTEXT thorax 1.0",
    "ProtocolName": "SECRETPROTOCOL",
    "RequestedProcedureDescription": "SECRETREQUEST",
    "ImageComments": "SECRETIMAGECOMMENT",
    "ContrastBolusAgent": "SECRETAGENT 300",
    "InstitutionName": "SECRETHOSPITAL",
    "InstitutionalDepartmentName": "SECRETDEPARTMENT",
    "ReferringPhysicianName": "SECRETDOCTOR",
    "OperatorsName": "SECRETOPERATOR",
    "StationName": "SECRETSTATION",
    "DeviceSerialNumber": "SECRETSERIAL",
}
AFFINE = np.array([[2.0, 0, 0, -20], [0, 2.0, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1]])
_patients = itertools.count(1)


def leaks(text: str) -> list[str]:
    """The attributes whose value, or a word of it, stands in a text."""
    return [keyword for keyword, secret in SECRETS.items() if leaked([secret.split()[0].split("^")[0]], text)]


def export_series(
    folder: Path, n_slices: int = 6, spacing_mm: float = 2.5, secrets: bool = True, **attributes: object
) -> list[Path]:
    """Files of one series, in order; an attribute of None is deleted."""
    affine = AFFINE.copy()
    affine[2, 2] = spacing_mm
    rng = np.random.default_rng(n_slices)
    voxels = rng.integers(-1000, 400, (n_slices, 20, 24)).astype(np.int16)
    paths = write_dicom_series(folder, voxels, affine, patient=f"{next(_patients):04d}", seed=9)
    for path in paths:
        dataset = dcmread(path)
        for keyword, value in {**(SECRETS if secrets else {}), **attributes}.items():
            if value is None:
                dataset.pop(keyword, None)
            else:
                setattr(dataset, keyword, value)
        if secrets:
            request = Dataset()
            request.RequestedProcedureDescription = SECRETS["RequestedProcedureDescription"]
            dataset.RequestAttributesSequence = Sequence([request])
        dataset.save_as(path)
    return paths
