"""Linear interpolation where the output's axes are oblique to the scan's, by SimpleITK."""

from __future__ import annotations

import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray

from med_transfer.preprocessing.resampling.grid import IndexMap, Triple
from med_transfer.preprocessing.resampling.outside import finish_outside


def resample_oblique(voxels: NDArray, where: IndexMap, shape: Triple, fill: float | None) -> NDArray[np.float32]:
    """Values at ``where.matrix @ index + where.offset`` for every index of ``shape``.

    As many threads as torch uses in this process: one in the workers of a data loader.

    Args:
        voxels: [depth, height, width], int16 or float32.
        where: output index to input index, in array order; any invertible matrix, sheared ones too.
        shape: output voxels along depth, height, width.
        fill: value outside the scan; None repeats the outermost voxels.
    """
    resampler = SimpleITK.ResampleImageFilter()
    resampler.SetInterpolator(SimpleITK.sitkLinear)
    resampler.SetOutputPixelType(SimpleITK.sitkFloat32)
    resampler.SetNumberOfThreads(max(1, torch.get_num_threads()))
    resampler.SetDefaultPixelValue(fill or 0.0)
    resampler.SetSize([int(n) for n in shape[::-1]])
    resampler.SetTransform(_transform(where))
    result = SimpleITK.GetArrayFromImage(resampler.Execute(SimpleITK.GetImageFromArray(voxels)))
    finish_outside(result, voxels, where, fill)
    return result


def _transform(where: IndexMap) -> SimpleITK.AffineTransform:
    """In voxel indices: with spacing 1 and origin 0 on both sides, ITK needs no orthogonal axes. ITK counts x first."""
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(where.matrix[::-1, ::-1].ravel().tolist())
    transform.SetTranslation(where.offset[::-1].tolist())
    return transform
