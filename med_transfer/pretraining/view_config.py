"""Config of crops, painting and degradation. Triples are depth, height, width."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FiniteFloat

from med_transfer.config import StrictModel


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] >= limits[1]:
        raise ValueError(f"the lower limit first, not {list(limits)}")
    return limits


RangeHU = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_rising)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Voxels = Annotated[int, Field(ge=1, le=512)]
Triple = tuple[Voxels, Voxels, Voxels]
Form = Literal["blob", "rim", "crescent", "filling", "haze"]  # of a painted lesion


class CropConfig(StrictModel):
    """Which pieces of the source scans are looked at.

    Attributes:
        shape: voxels of a crop, the teacher's grid; the encoder's grid is this one averaged down.
        size_mm: physical extent of most crops, drawn log-uniformly, and ...
        large_size_mm, large: ... of this share of them.
        stretch: relative change of the extent along each axis.
        rotation_degrees: largest rotation about each axis.
        shift_mm: largest displacement from the chosen centre along each axis.
        flip: probability of mirroring each axis. None by default: left and right, up and down differ in patients.
        lung: share of the crops that are centred in lung, as far as the source has any.
        cut: probability of ending the scan inside the crop, depth and in plane; beyond, the last voxel repeats, as in
            scans that were cropped tightly to a finding.
        slab: of a whole scan only so many neighbouring slices (painted lesions); None: all.
        scans_per_batch: a batch is drawn from so many scans.
        resident_gib: a source up to this size stays in the device's memory; of a larger one, crops are read from disk.
    """

    shape: Triple = (32, 64, 64)
    size_mm: tuple[Positive, Positive] = (28.0, 60.0)
    large_size_mm: tuple[Positive, Positive] = (60.0, 90.0)
    large: Share = 0.15
    stretch: Share = 0.15
    rotation_degrees: tuple[float, float, float] = (30.0, 20.0, 20.0)
    shift_mm: Positive = 8.0
    flip: tuple[Share, Share, Share] = (0.0, 0.0, 0.0)
    lung: Share = 0.35
    cut: tuple[Share, Share] = (0.0, 0.0)
    slab: Annotated[int, Field(ge=1)] | None = None
    scans_per_batch: Annotated[int, Field(ge=1)] = 16
    resident_gib: Annotated[float, Field(ge=0)] = 4.0

    @property
    def plain(self) -> CropConfig:
        """The same crops without stretching, rotation, mirroring and cuts."""
        nothing = {"stretch": 0.0, "rotation_degrees": (0.0,) * 3, "flip": (0.0,) * 3, "cut": (0.0,) * 2}
        return self.model_copy(update=nothing)


class LungSceneConfig(StrictModel):
    """Synthetic lung and nodules painted into crops; see lung_scenes.py.

    Attributes:
        lung: share of the crops without lung whose fat is turned into lung.
        plain: share of these whose tissue is replaced by synthetic lung instead.
        pleura: probability of a chest wall in such a crop.
        vessels: vessels added to such a crop.
        nodule: probability of a nodule in a crop with lung, and in any other crop.
        radius_mm: of a nodule, log-uniform.
        kinds: how often a nodule is solid, ground glass, part-solid, calcified; relative.
    """

    lung: Share = 0.6
    plain: Share = 0.5
    pleura: Share = 0.3
    vessels: Annotated[int, Field(ge=0)] = 6
    nodule: tuple[Share, Share] = (0.8, 0.1)
    radius_mm: tuple[Positive, Positive] = (1.5, 15.0)
    kinds: tuple[Positive, Positive, Positive, Positive] = (0.45, 0.2, 0.28, 0.07)


class LesionConfig(StrictModel):
    """Lesions painted into slabs of whole scans; see painting/lesions.py.

    Attributes:
        painted: share of the slabs that may have some.
        lesions: maximum number in one of these, each with a probability of 0.6: with three, one slab in sixteen has
            none.
        forms: relative frequency of each form of painting/lesions.py; forms that are not named do not occur.
        tissue_hu: a lesion's middle lies in tissue of this density.
        tissue_range_hu: voxels that differ by less from the tissue at the middle belong to it.
        lighter: share of the lesions that are lighter than their tissue.
        denser_hu, lighter_hu: by how much.
        radius_mm: of blobs and rims, log-uniform.
        extent_mm: of crescents along their wall, fillings and hazes, as a radius, log-uniform.
        thickness_mm: of crescents, log-uniform.
    """

    painted: Annotated[float, Field(gt=0, le=1)] = 0.75
    lesions: Annotated[int, Field(ge=1, le=10)] = 3
    forms: Annotated[dict[Form, Positive], Field(min_length=1)] = {  # noqa: RUF012  pydantic copies it
        "blob": 0.35,
        "rim": 0.1,
        "crescent": 0.25,
        "filling": 0.2,
        "haze": 0.1,
    }
    tissue_hu: RangeHU = (-20.0, 80.0)
    tissue_range_hu: Positive = 45.0
    lighter: Share = 0.3
    denser_hu: tuple[Positive, Positive] = (8.0, 50.0)
    lighter_hu: tuple[Positive, Positive] = (4.0, 25.0)
    radius_mm: tuple[Positive, Positive] = (2.5, 28.0)
    extent_mm: tuple[Positive, Positive] = (8.0, 50.0)
    thickness_mm: tuple[Positive, Positive] = (2.5, 14.0)


class ViewConfig(StrictModel):
    """How the encoder's view is made worse; intensities in units of the input's whole range.

    Attributes:
        thick_slices: share of views averaged over two to four slices and interpolated back.
        blur: share of views blurred in plane.
        shift, scale, gamma: largest change of intensity (gamma as a logarithm).
        noise: largest standard deviation of white noise.
    """

    thick_slices: Share = 0.5
    blur: Share = 0.25
    shift: Share = 0.04
    scale: Share = 0.1
    gamma: Share = 0.25
    noise: Share = 0.04
