"""DICOM attributes of a CT series, module by module.

Source: DICOM PS3.3 A.3 (CT Image IOD), C.7.1 - C.7.5 (patient, study, series, frame of reference, equipment),
C.7.6.2 (image plane), C.7.6.3 (image pixel), C.8.2.1 (CT image).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from med_transfer.phantoms.imaging import SCANNERS, Scanner
from med_transfer.scans import geometry

UNSIGNED_INTERCEPT = -1024
_PIXEL_PADDING_VALUE = 0x00280120


@dataclass(frozen=True)
class SeriesDetails:
    """Metadata of a synthetic series.

    Attributes:
        patient: PatientID; PatientName is ``PHANTOM^`` followed by its digits.
        seed, study, series: together with ``patient`` they determine every UID.
        age: age in years; None leaves it out of the file.
        slice_thickness_mm: None takes the distance between slices.
    """

    patient: str = "0001"
    seed: int = 0
    study: int = 1
    series: int = 1
    sex: str = "O"
    age: int | None = None
    scanner: Scanner = SCANNERS[2]
    slice_thickness_mm: float | None = None
    description: str = "Thorax phantom"

    def uid(self, *parts: object) -> str:
        """Return a UID that depends only on seed, patient and ``parts``."""
        source = (self.seed, self.patient, *parts)
        return generate_uid(entropy_srcs=["med_transfer phantom", *(str(part) for part in source)])

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID, equal for every series of the study."""
        return self.uid("study", self.study)

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID, equal for every slice of the series."""
        return self.uid("study", self.study, "series", self.series)


def common_header(details: SeriesDetails, affine: geometry.Affine, voxels: NDArray, *, signed: bool) -> Dataset:
    """Return the attributes common to all slices; ``signed`` pixels have intercept 0, unsigned ones -1024."""
    header = Dataset()
    header.update(_patient_and_study(details))
    header.update(_series_and_equipment(details))
    header.update(_image(details, affine, voxels, signed))
    return header


def _patient_and_study(details: SeriesDetails) -> Dataset:
    dataset = _dataset(
        SpecificCharacterSet="ISO_IR 100",
        PatientName="PHANTOM^" + ("".join(c for c in details.patient if c.isdigit()) or "0"),
        PatientID=details.patient,
        PatientBirthDate="",
        PatientSex=details.sex,
        StudyInstanceUID=details.study_uid,
        StudyDate="20200101",
        StudyTime="120000",
        StudyID=str(details.study),
        AccessionNumber="",
        StudyDescription=details.description,
        ReferringPhysicianName="",
    )
    if details.age is not None:
        dataset.update(_dataset(PatientAge=f"{details.age:03d}Y"))
    return dataset


def _series_and_equipment(details: SeriesDetails) -> Dataset:
    scanner = details.scanner
    return _dataset(
        Modality="CT",
        SeriesInstanceUID=details.series_uid,
        SeriesNumber=details.series,
        SeriesDescription=details.description,
        PatientPosition="HFS",
        BodyPartExamined="CHEST",
        FrameOfReferenceUID=details.uid("study", details.study, "frame of reference"),
        PositionReferenceIndicator="",
        Manufacturer=scanner.manufacturer,
        ManufacturerModelName=scanner.model,
        InstitutionName=f"Phantom Hospital {scanner.site.capitalize()}",
        SoftwareVersions="med_transfer phantoms",
        ConvolutionKernel=scanner.kernel.name,
        KVP=scanner.kvp,
        AcquisitionNumber=1,
        ContentDate="20200101",
        ContentTime="120000",
    )


def _image(details: SeriesDetails, affine: geometry.Affine, voxels: NDArray, signed: bool) -> Dataset:
    column_mm, row_mm, slice_mm = geometry.spacing_mm(affine)
    cosines = [*(affine[:3, 0] / column_mm), *(affine[:3, 1] / row_mm)]
    rows, columns = voxels.shape[1:]
    dataset = _dataset(
        SOPClassUID=CTImageStorage,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        PixelSpacing=[_ds(row_mm), _ds(column_mm)],  # row spacing first: PS3.3 10.7.1.3
        ImageOrientationPatient=[_ds(c) for c in cosines],
        SliceThickness=_ds(details.slice_thickness_mm or slice_mm),
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=rows,
        Columns=columns,
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=int(signed),
        RescaleIntercept="0" if signed else str(UNSIGNED_INTERCEPT),
        RescaleSlope="1",
        RescaleType="HU",
        WindowCenter=["-600", "40"],
        WindowWidth=["1500", "400"],
    )
    if details.scanner.circle and not signed:
        dataset.add(DataElement(_PIXEL_PADDING_VALUE, "US", 0))
    return dataset


def slice_header(details: SeriesDetails, affine: geometry.Affine, k: int, depth: int) -> Dataset:
    """Return the attributes specific to slice ``k``, without its pixels."""
    position = geometry.to_world_mm(affine, (0, 0, k))
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    towards_head = affine[2, 2] > 0
    return _dataset(
        SOPInstanceUID=details.uid("study", details.study, "series", details.series, "slice", k),
        InstanceNumber=depth - k if towards_head == details.scanner.head_first_file else k + 1,
        ImagePositionPatient=[_ds(c) for c in position],
        SliceLocation=_ds(float(position @ normal)),
    )


def _dataset(**elements: object) -> Dataset:
    """Dataset of elements given by DICOM keyword."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _ds(value: float) -> str:
    """The most exact decimal string (DS) of at most 16 characters (PS3.5 6.2)."""
    return format_number_as_ds(float(value) + 0.0)  # + 0.0 turns -0.0 into 0.0
