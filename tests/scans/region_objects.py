"""Writes DICOM SEG with highdicom and RTSTRUCT by hand, over scans of known geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from dicom_series import SECRETS, hounsfield, plane_affine, write_series
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    RTStructureSetStorage,
    generate_uid,
)

from med_transfer.scans import Provenance, Volume, geometry

SHAPE = (6, 7, 9)  # 63 pixels per frame: frames do not start on a byte boundary
FRAME = "1.2.826.0.1.3680043.8.498.1"
ORGANS = ("Liver", "Tumour", "Vessel")


def scan(
    affine: np.ndarray | None = None, shape: tuple[int, int, int] = SHAPE, frame: str = FRAME, path: str = "scan"
) -> Volume:
    """A scan in memory, as reading would give it."""
    affine = plane_affine() if affine is None else affine
    provenance = Provenance(Path(path), "dicom", modality="CT", frame_of_reference=frame)
    return Volume(hounsfield(shape), affine, provenance)


def blobs(n: int = 1, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """[depth, height, width, n] of 0 and 1, overlapping, first and last slice empty."""
    voxels = (np.random.default_rng(seed).random((*shape, n)) > 0.6).astype(np.uint8)
    voxels[[0, -1]] = 0
    return voxels


def write_segmentation(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    kind: str = "BINARY",
    syntax: str = ExplicitVRLittleEndian,
    offsets: Sequence[float] | None = None,
    labels: Sequence[str] = ORGANS,
    change: Callable[[Dataset], None] = lambda dataset: None,
    **options,
) -> Path:
    """A SEG of the scan that lies in ``folder / "scan"`` afterwards; ``voxels`` [depth, height, width(, segments)]."""
    affine = plane_affine() if affine is None else affine
    tags = {"FrameOfReferenceUID": FRAME, "StudyID": "", "AccessionNumber": "", "StudyDate": "", "StudyTime": ""}
    tags |= {"SeriesNumber": 1, "PatientSex": "", "ReferringPhysicianName": ""}
    scan_shape = voxels.shape[:3]
    paths = write_series(folder / "scan", hounsfield(scan_shape), affine, offsets=offsets, **tags)
    n = voxels.shape[3] if voxels.ndim == 4 else int(voxels.max()) if kind == "LABELMAP" else 1
    segments = [
        highdicom.seg.SegmentDescription(
            number,
            labels[(number - 1) % len(labels)],
            codes.SCT.Organ,
            codes.SCT.Liver,
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, n + 1)
    ]
    dataset = highdicom.seg.Segmentation(
        [pydicom.dcmread(path) for path in paths],
        voxels.copy(),
        kind,
        segments,
        highdicom.UID(),
        2,
        highdicom.UID(),
        1,
        "maker",
        "model",
        "1",
        "1",
        **options,
    )
    if syntax in (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax != ExplicitVRLittleEndian:
        plugin = {RLELossless: "pydicom", JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}[syntax]
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    change(dataset)
    path = folder / "seg.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def read_with_highdicom(path: Path, number: int) -> set[tuple[float, ...]]:
    """Middles of the segment's voxels, LPS mm, as highdicom's own reader places them."""
    volume = highdicom.seg.segread(path).get_volume(segment_numbers=[number], rescale_fractional=False)
    array = np.squeeze(volume.array, axis=3) if volume.array.ndim == 4 else volume.array
    return rounded(volume.map_indices_to_reference(np.argwhere(array != 0)))


def middles(mask: Volume) -> set[tuple[float, ...]]:
    """Middles of the voxels of a mask, LPS mm."""
    return rounded(geometry.to_world_mm(mask.affine, np.argwhere(mask.voxels)[:, ::-1]))


def rounded(points: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(point) for point in (np.round(points, 2) + 0.0).tolist()}


Contours = Iterable[tuple[str, np.ndarray]]


def closed(*polygons: np.ndarray, kind: str = "CLOSED_PLANAR") -> list[tuple[str, np.ndarray]]:
    return [(kind, polygon) for polygon in polygons]


def write_structure_set(
    path: Path,
    rois: dict[str, Contours | None],
    frame: str = FRAME,
    change: Callable[[Dataset], None] = lambda dataset: None,
) -> Path:
    """An RTSTRUCT; ``rois`` are names and their contours, each a kind and points [n, 3] in LPS mm."""
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(RTStructureSetStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = SECRETS
    dataset.Modality, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid(), generate_uid()
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        dataset.StructureSetROISequence.append(roi)
        if contours is not None:
            dataset.ROIContourSequence.append(_drawn(number, contours))
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _drawn(number: int, contours: Contours) -> Dataset:
    drawn = Dataset()
    drawn.ReferencedROINumber, drawn.ContourSequence = number, []
    for kind, points in contours:
        contour = Dataset()
        contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
        contour.ContourData = [f"{value:.6g}" if abs(value) < 1000 else f"{value:.3f}" for value in np.ravel(points)]
        drawn.ContourSequence.append(contour)
    return drawn
