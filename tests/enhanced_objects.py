"""Writes enhanced multi-frame objects with a known geometry (DICOM PS3.3 C.7.6.16)."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid


def item(**values) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def enhanced(
    path, hu, affine, *, order=None, phases=None, slopes=None, per_frame_orientation=False, ct=True, change=None
):
    """An enhanced object of [frame, row, column], frames in any order, one phase a frame where given."""
    count = len(hu)
    order = list(range(count)) if order is None else list(order)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.SOPClassUID = EnhancedCTImageStorage if ct else EnhancedMRImageStorage
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = generate_uid(), "1.2.3"
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.PatientID = "CT" if ct else "MR", "PID-4711"
    dataset.NumberOfFrames, (dataset.Rows, dataset.Columns) = count, hu.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    cosines = [*(affine[:3, 0] / spacing[0]), *(affine[:3, 1] / spacing[1])]
    measures = item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=9.0)
    shared = item(PixelMeasuresSequence=Sequence([measures]))
    orientation = Sequence([item(ImageOrientationPatient=cosines)])
    if not per_frame_orientation:
        shared.PlaneOrientationSequence = orientation
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    slopes = np.ones(count) if slopes is None else np.array(slopes, float)
    stored = np.rint((hu + 1024) / slopes[:, None, None]).astype(np.int16)
    groups = []
    for k in order:
        place = k if phases is None else k % (count // len(set(phases)))
        position = list(np.round(affine[:3, 3] + place * affine[:3, 2], 6))
        group = item(
            PlanePositionSequence=Sequence([item(ImagePositionPatient=position)]),
            PixelValueTransformationSequence=Sequence(
                [item(RescaleSlope=float(slopes[k]), RescaleIntercept=-1024.0, RescaleType="HU")]
            ),
            FrameContentSequence=Sequence([item(TemporalPositionIndex=1 if phases is None else phases[k])]),
        )
        if per_frame_orientation:
            group.PlaneOrientationSequence = orientation
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = stored[order].tobytes()
    if change:
        change(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
