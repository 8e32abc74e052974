"""The resampler as MONAI transforms, for use in other pipelines.

Compose([LoadImaged("image"), EnsureChannelFirstd("image"), ResampleToGridd("image", spacing_mm=(1.5, 1.5, 1.5)), ...])
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.data.meta_tensor import MetaTensor
from monai.transforms.croppad.array import ResizeWithPadOrCrop
from monai.transforms.spatial.array import Orientation, Resize, Spacing
from monai.transforms.transform import MapTransform, Transform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_tensor
from numpy.typing import NDArray

from med_transfer.errors import ConfigError, UnusableVoxels
from med_transfer.errors.sentence import Sentence
from med_transfer.preprocessing.resampling.resample import resample
from med_transfer.scans import geometry
from med_transfer.scans.geometry import Grid


class ResampleToGrid(Transform):
    """Change orientation, spacing and shape of an image in one linear resampling step, on the CPU.

    The output grid is that of MONAI's ``Orientation``, followed by ``Spacing``, followed by ``ResizeWithPadOrCrop`` (or
    ``Resize`` if there is a shape but no spacing). For images only: label maps need nearest neighbours, as in MONAI's
    ``Spacing``. There is no inverse.

    Args:
        orientation: directions in which the array axes increase, MONAI's ``axcodes``, for example ``RAS``; None keeps
            them.
        spacing_mm: voxel size along the array axes, after orientation; None keeps it.
        shape: voxels along the array axes. With ``spacing_mm``, the image is cropped or padded about its centre;
            without, its whole extent is fitted.
        outside: value beyond the image; ``edge`` repeats the outermost voxel, as ``Spacing`` does.
        antialias: low-pass filter if the output is coarser, which ``Spacing`` does not apply.

    Raises:
        ConfigError: no change is requested, or a value is invalid.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012  # declared as MONAI does

    def __init__(
        self,
        orientation: str | None = None,
        spacing_mm: Sequence[float] | None = None,
        shape: Sequence[int] | None = None,
        *,
        outside: float | Literal["edge"] = "edge",
        antialias: bool = True,
    ) -> None:
        _require_usable(orientation, spacing_mm, shape, outside)
        self.outside: float | Literal["edge"] = outside
        self.antialias = antialias
        self._steps = []
        if orientation is not None:
            self._steps.append(Orientation(axcodes=orientation, labels=None, lazy=True))
        if spacing_mm is not None:
            self._steps.append(Spacing(pixdim=tuple(spacing_mm), lazy=True))
        if shape is not None:
            final = Resize if spacing_mm is None else ResizeWithPadOrCrop
            self._steps.append(final(tuple(shape), lazy=True))

    def __call__(self, img: NdarrayOrTensor) -> MetaTensor:
        """Resample one image.

        Args:
            img: channel first, [channel, and three array axes], int16 or float, finite; a MetaTensor has an affine
                from array index to RAS mm.

        Returns:
            float32 MetaTensor with the affine of the output and the metadata of the input.

        Raises:
            UnusableVoxels: not three-dimensional.
            GeometryRejected: the affine is singular.
        """
        image = convert_to_tensor(img, track_meta=True)
        if image.ndim != 4:
            raise UnusableVoxels(
                Sentence("array of shape {shape}", shape=str(tuple(image.shape))),
                expected="[channel, and three array axes]",
            )
        affine = geometry.from_array_affine_ras(image.affine.numpy())
        geometry.orientation(affine)
        grid, affine_ras = self._grid(image)
        channels = [
            resample(_voxels(channel), affine, grid, outside=self.outside, antialias=self.antialias)
            for channel in image.as_tensor()
        ]
        stacked = channels[0][None] if len(channels) == 1 else np.stack(channels)
        result = MetaTensor(torch.from_numpy(stacked)).copy_meta_from(image)
        result.affine = affine_ras
        return result

    def _grid(self, image: MetaTensor) -> tuple[Grid, torch.Tensor]:
        """The grid that MONAI would use, from lazy transforms, which compute only the grid; and its RAS affine."""
        placed = image
        for step in self._steps:
            placed = step(placed)
        affine_ras = placed.peek_pending_affine()
        depth, height, width = (int(n) for n in placed.peek_pending_shape())
        return Grid(geometry.from_array_affine_ras(affine_ras.numpy()), (depth, height, width)), affine_ras


class ResampleToGridd(MapTransform):
    """Dictionary version of :class:`ResampleToGrid`, with the same options for every key."""

    backend = ResampleToGrid.backend

    def __init__(
        self,
        keys: KeysCollection,
        orientation: str | None = None,
        spacing_mm: Sequence[float] | None = None,
        shape: Sequence[int] | None = None,
        *,
        outside: float | Literal["edge"] = "edge",
        antialias: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resample_to_grid = ResampleToGrid(orientation, spacing_mm, shape, outside=outside, antialias=antialias)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of the mapping with the images under the keys resampled."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.resample_to_grid(result[key])
        return result


def _voxels(channel: torch.Tensor) -> NDArray:
    """Voxels as int16 without a copy, or else as float32."""
    return (channel if channel.dtype == torch.int16 else channel.float()).detach().cpu().numpy()


def _require_usable(
    orientation: str | None, spacing_mm: Sequence[float] | None, shape: Sequence[int] | None, outside: object
) -> None:
    where = "ResampleToGrid"
    if orientation is None and spacing_mm is None and shape is None:
        raise ConfigError("nothing to do", where=where, expected="orientation, spacing_mm or shape")
    if orientation is not None and sorted(geometry.world_axes(orientation)) != [0, 1, 2]:
        raise ConfigError(f"orientation {orientation}", where=where, expected="three letters, one each of RL, AP, IS")
    if spacing_mm is not None and (len(spacing_mm) != 3 or not all(0 < mm < np.inf for mm in spacing_mm)):
        raise ConfigError(f"spacing_mm {tuple(spacing_mm)}", where=where, expected="three positive sizes in mm")
    if shape is not None and (len(shape) != 3 or not all(n >= 1 for n in shape)):
        raise ConfigError(f"shape {tuple(shape)}", where=where, expected="three numbers of voxels")
    if outside != "edge" and not (isinstance(outside, int | float) and np.isfinite(outside)):
        raise ConfigError(f"outside {outside}", where=where, expected="edge, or a number")
