"""Pictures of the network's input: each voxel is drawn as a square, whatever its size in the patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from med_transfer.backbones.encoder import Box
from med_transfer.finetuning.preview.seen import SeenScan, single_slices
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.scans import Region, geometry
from med_transfer.scans.inspection.picture import Plane, below_each_other, planes, row_image

MAX_PARTS = 64
_ROW_VOXELS, _MAX_COLUMNS = 1000, 12  # of a row of parts, about the width of a page
_GAP, _GAP_GREY = 2, 90
_CRISP_PIXELS = 360  # height of the tallest plane in a PNG, so that viewers' smoothing does not hide its voxels


def input_planes(
    image: NDArray[np.float32], config: PreprocessingConfig, cuts: Sequence[Box] = (), *, sides: bool = True
) -> tuple[Plane, ...]:
    """Three planes of one channel of the network's input, at one millimetre per voxel.

    Args:
        image: [depth, height, width].
        config: gives the orientation, and the values shown as black and white.
        cuts: drawn as a grid.
        sides: whether to name the patient's sides; not for random views, which may be mirrored or rotated.
    """
    affine = geometry.grid_affine(config.orientation, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), config.shape)
    shown = planes(image, affine, config.output_range)
    outlines = [planes(image, affine, config.output_range, _place(cut, affine), (0.0, 0.0, 0.0)) for cut in cuts]
    grids = [tuple(dict.fromkeys(plane.box for plane in same if plane.box)) for same in zip(*outlines, strict=True)]
    shown = tuple(replace(plane, grid=grid) for plane, grid in zip(shown, grids or [()] * 3, strict=True))
    return shown if sides else tuple(replace(plane, top="", right="", bottom="", left="") for plane in shown)


def _place(cut: Box, affine: geometry.Affine) -> Region:
    middle = [(side.start + side.stop - 1) / 2 for side in reversed(cut)]
    size = np.abs(affine[:3, :3]) @ [side.stop - side.start for side in reversed(cut)]
    x, y, z = (float(value) for value in geometry.to_world_mm(affine, middle))
    return Region((x, y, z), (float(size[0]), float(size[1]), float(size[2])))


def shown_cuts(cuts: Sequence[Box]) -> list[Box]:
    """At most ``MAX_PARTS`` of the cuts, evenly spaced."""
    chosen = np.linspace(0, len(cuts) - 1, min(len(cuts), MAX_PARTS)).round().astype(int)
    return [cuts[index] for index in chosen]


def parts_picture(image: NDArray[np.float32], config: PreprocessingConfig, cuts: Sequence[Box]) -> NDArray[np.uint8]:
    """The middle slice of each slice or tile, arranged in rows in their order in the input.

    Args:
        image: [depth, height, width] of one channel.
        config: gives the values shown as black and white.
        cuts: at least one.
    """
    low, high = config.output_range
    parts = [image[cut][(cut[0].stop - cut[0].start) // 2] for cut in cuts]
    grey = [np.rint(np.clip((part - low) / (high - low), 0, 1) * 255).astype(np.uint8) for part in parts]
    height, width = (max(part.shape[axis] for part in grey) + _GAP for axis in (0, 1))
    columns = min(len(grey), _MAX_COLUMNS, max(1, _ROW_VOXELS // width))
    sheet = np.zeros((math.ceil(len(grey) / columns) * height, columns * width), np.uint8)
    for number, part in enumerate(grey):
        top, left = (number // columns) * height, (number % columns) * width
        sheet[top : top + height, left : left + width] = _GAP_GREY
        sheet[top : top + part.shape[0], left : left + part.shape[1]] = part
    return sheet


def scan_png(scan: SeenScan, config: PreprocessingConfig) -> bytes:
    """PNG of a scan: the scan with the view as a box, then each channel as the network sees it, plain and augmented."""
    rows = [
        row_image(shown, f"row {scan.row}, {column}: the box is what the network sees")
        for column, shown in scan.scans.items()
    ]
    grid = () if single_slices(scan.parts) else scan.parts
    for number, column in enumerate(config.column_of_channel, start=1):
        name = f"channel {number}, {column}"
        rows.append(_crisp(input_planes(scan.plain[number - 1], config, grid), f"{name}: as the network sees it"))
        for draw, image in enumerate(scan.augmented, start=1):
            shown = input_planes(image[number - 1], config, sides=False)
            rows.append(_crisp(shown, f"{name}: augmented, draw {draw}"))
    return below_each_other(rows, "png")


def _crisp(shown: Sequence[Plane], note: str) -> NDArray[np.uint8]:
    times = max(1, _CRISP_PIXELS // max(plane.image.shape[0] for plane in shown))
    enlarged = [replace(plane, image=plane.image.repeat(times, axis=0).repeat(times, axis=1)) for plane in shown]
    return row_image(enlarged, note)
