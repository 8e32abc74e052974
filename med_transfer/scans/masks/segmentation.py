"""Read one segment of a DICOM SEG (PS3.3 A.51 and C.8.20)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from med_transfer.errors import GeometryRejected, UnreadableScan, UnusableVoxels
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.codecs import PixelFormat, decode, require_decoder
from med_transfer.scans.masks.region_object import damage_reported, load_object, pick, provenance_of
from med_transfer.scans.masks.segmentation_frames import Frame, frames_of, grid_of, slab_mm
from med_transfer.scans.volume import Volume

_MAX_COMPRESSION = 50_000  # compression ratio that not even an empty image exceeds


def read_segmentation(path: Path, name: str, onto: Volume | None) -> list[Volume]:
    """Read one segment as bool voxels: a single volume if the object's frames form a grid, else one per frame.

    The grid may have gaps (files leave out empty slices) and may be sheared (a tilted gantry). Voxels of a fractional
    segment count if their value is at least half of MaximumFractionalValue.

    Args:
        path: the file.
        name: SegmentLabel or SegmentNumber; may be empty if there is only one segment.
        onto: the scan. Frames drawn on it that state no spacing are as far apart as its slices, which may overlap.

    Raises:
        AmbiguousScan, ScanNotFound: see :func:`~med_transfer.scans.masks.region_object.pick`.
        GeometryRejected: frames without a position in the patient, or two different ones at one position.
        UnreadableScan: the object is damaged or truncated.
        MissingCodec: no installed package decodes the compressed pixels.
        UnusableVoxels: no segment, or a segment without frames.
    """
    dataset = load_object(path)
    with damage_reported(path):
        _require_pixels(dataset, path)
        number = pick(_segments(dataset), name, "segment", path)
        frames = frames_of(dataset, path, _step_mm(dataset, onto))
        chosen = [frame for frame in frames if frame.segment in (None, number)]
        if not chosen:
            raise UnusableVoxels(Sentence("segment {number} has no frames", number=number), where=path)
        pixels = [_present(dataset, stored, number) for stored in _stored(dataset, chosen, path)]
        provenance = provenance_of(dataset, path, "SEG", dataset.get("FrameOfReferenceUID"))
        grid = grid_of(frames)
        if grid is None:
            affines = [frame.affine(slab_mm(frame, frames)) for frame in chosen]
            return [Volume(frame[None], affine, provenance) for frame, affine in zip(pixels, affines, strict=True)]
        affine, slices = grid
        stack = _stacked(pixels, [slices[frame.index] for frame in chosen], max(slices) + 1, path)
        return [Volume(stack, affine, provenance)]


def _step_mm(dataset: Dataset, onto: Volume | None) -> float:
    """Spacing between the slices of the scan if the object refers to its series, else 0.

    0 also for slices interpolated between uneven ones, which are closer than those that were drawn on.
    """
    if onto is None or any(repair.kind == "uneven_gaps" for repair in onto.verdict.repairs):
        return 0.0
    series = {str(item.get("SeriesInstanceUID") or "") for item in dataset.get("ReferencedSeriesSequence") or []} - {""}
    return onto.spacing_mm[2] if onto.provenance.series_uid in series else 0.0


def _segments(dataset: Dataset) -> list[tuple[int, str]]:
    """Number and label of each segment, without a label map's background (PS3.3 C.8.20.2.3)."""
    background = int(dataset.get("PixelPaddingValue") or 0) if _kind(dataset) == "LABELMAP" else None
    segments = [
        (int(segment.SegmentNumber), str(segment.get("SegmentLabel") or "")) for segment in dataset.SegmentSequence
    ]
    return [(number, label) for number, label in segments if number != background]


def _kind(dataset: Dataset) -> str:
    kind = str(dataset.SegmentationType)
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise ValueError("SegmentationType")
    return kind


def _require_pixels(dataset: FileDataset, path: Path) -> None:
    """Check that the pixels have the declared size, before that much memory is allocated."""
    bits = int(dataset.BitsAllocated) * int(dataset.Rows) * int(dataset.Columns)
    needed = -(-bits * int(dataset.get("NumberOfFrames") or 1) // 8)
    present = len(dataset.get("PixelData") or b"")
    plausible = present * _MAX_COMPRESSION if dataset.file_meta.TransferSyntaxUID.is_encapsulated else present
    if not 0 < needed <= plausible:
        raise UnreadableScan(
            Sentence("truncated: {present} bytes of pixels, {needed} declared", present=present, needed=needed),
            where=path,
        )


def _stored(dataset: FileDataset, frames: Sequence[Frame], path: Path) -> Iterator[NDArray]:
    """Yield the stored pixels [rows, columns] of each frame."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if dataset.BitsAllocated == 1 and not syntax.is_encapsulated:
        yield from _unpacked(dataset, frames)
        return
    pixels = PixelFormat(
        syntax=syntax,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        bits_allocated=int(dataset.BitsAllocated),
        bits_stored=int(dataset.BitsStored),
        signed=False,
    )
    require_decoder(syntax, path)
    coded = _coded(dataset, pixels)
    for frame in frames:
        yield decode(coded[frame.index], pixels, where=path)


def _coded(dataset: FileDataset, pixels: PixelFormat) -> list[bytes] | list[memoryview]:
    """The bytes of every frame of the object."""
    count = int(dataset.get("NumberOfFrames") or 1)
    if UID(pixels.syntax).is_encapsulated:
        return list(generate_frames(dataset.PixelData, number_of_frames=count))
    size = pixels.rows * pixels.columns * pixels.bits_allocated // 8
    return [memoryview(dataset.PixelData)[n * size : (n + 1) * size] for n in range(count)]


def _unpacked(dataset: FileDataset, frames: Sequence[Frame]) -> Iterator[NDArray]:
    """Frames of one bit per pixel, packed from the lowest bit of a byte; frames may share a byte (PS3.5 8.1.1)."""
    shape = int(dataset.Rows), int(dataset.Columns)
    size = shape[0] * shape[1]
    stored = np.frombuffer(dataset.PixelData, np.uint8)
    if dataset["PixelData"].VR == "OW" and not dataset.file_meta.TransferSyntaxUID.is_little_endian:
        stored = stored.reshape(-1, 2)[:, ::-1].ravel()
    for frame in frames:
        first, bit = divmod(frame.index * size, 8)
        some = stored[first : first + (bit + size + 7) // 8]
        yield np.unpackbits(some, bitorder="little")[bit : bit + size].reshape(shape)


def _present(dataset: Dataset, stored: NDArray, number: int) -> NDArray[np.bool_]:
    kind = _kind(dataset)
    if kind == "LABELMAP":
        return stored == number
    if kind == "BINARY":
        return stored != 0
    if (maximum := int(dataset.MaximumFractionalValue)) < 1:
        raise ValueError("MaximumFractionalValue")
    return stored.astype(int) * 2 >= maximum


def _stacked(pixels: Sequence[NDArray[np.bool_]], slices: Sequence[int], depth: int, path: Path) -> NDArray[np.bool_]:
    """Stack frames into [depth, rows, columns]; slices without a frame are empty."""
    voxels = np.zeros((depth, *pixels[0].shape), bool)
    filled: set[int] = set()
    for image, k in zip(pixels, slices, strict=True):
        if k in filled and not np.array_equal(image, voxels[k]):
            raise GeometryRejected("two different frames of the segment lie in one place", where=path)
        voxels[k] = image
        filled.add(k)
    return voxels
