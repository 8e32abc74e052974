"""What the network sees: orientation, spacing, region, window, channels and shape. The defaults are here.

A user sets any of it (``InputConfig``, the section ``input`` of a config), the backbone's entry completes the rest, and
the result (``PreprocessingConfig``) is saved in the bundle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator, model_validator

from med_transfer.errors import ConfigError
from med_transfer.errors.validation import first_problem
from med_transfer.scans import geometry

Positive = Annotated[FiniteFloat, Field(gt=0)]
Range = tuple[FiniteFloat, FiniteFloat]  # from, to
Size = Annotated[int, Field(ge=8, le=1024)]
Modality = Literal["CT", "MR", "PT"]
Normalisation = Literal["window", "zscore"]
OrganName = Literal["head", "brain", "lungs"]
ORGANS: tuple[OrganName, ...] = get_args(OrganName)
Fit = Literal["stretch", "proportional", "isotropic"]
_REGION_TEXT = {
    "auto": "where the table says",
    "roi": "around the region of interest of each scan",
    "foreground": "at the body in each scan",
    "head": "at the head in each CT",
    "brain": "at the brain in each CT",
    "lungs": "at the lungs in each CT",
    "whole": "at the whole of each scan",
}
FIRST_CHANNEL = "scan"  # column of the cohort table that every case has


class _Config(BaseModel, frozen=True):
    model_config = ConfigDict(extra="forbid")


class ChannelConfig(_Config, frozen=True):
    """One channel of the input. What is None is as in the config around it. A column's name alone may stand for it.

    Attributes:
        column: of the cohort table that names the channel's scan: ``scan``, or ``scan_<name>`` of your own.
        modality, normalisation, window_hu: see InputConfig.
    """

    column: str
    modality: Modality | None = None
    normalisation: Normalisation | None = None
    window_hu: Range | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @field_validator("column")
    @classmethod
    def _is_a_scan(cls, column: str) -> str:
        if not re.fullmatch(rf"{FIRST_CHANNEL}(_\w+)?", column):
            raise ValueError(f"{FIRST_CHANNEL} or {FIRST_CHANNEL}_<name>, for example scan_arterial")
        return column


class InputConfig(_Config, frozen=True):
    """What the network sees; None is left to the backbone. Every triple is in array order: depth, height, width.

    Attributes:
        orientation: the side towards which each array axis increases; ``SPL`` is the usual order of axial CT.
        spacing_mm: voxel size; where the backbone names none either, the whole region is fitted into ``shape``.
        fit: the region is fitted into ``shape``, whatever spacing the backbone names: ``stretch`` fits each axis by
            itself; ``proportional`` has one voxel size in the plane (height, width) and another along the depth, so
            that shapes in a slice stay as they are; ``isotropic`` has one for all. None is ``stretch`` where neither
            you nor the backbone names a spacing.
        shape: voxels of the network's input.
        modality: DICOM series of another modality are rejected; None: accept all. Other formats state no modality.
        normalisation: which values are clipped to and mapped linearly to ``output_range``: a fixed ``window``, or each
            scan's own mean and ``clip_sd`` standard deviations to both sides (``zscore``; see ``window.py``). None:
            ``zscore`` for MR without a window of yours, ``window`` otherwise.
        window_hu: of ``window``, in Hounsfield units for CT, in the file's unit otherwise.
        clip_sd: of ``zscore``.
        output_range: what the lower and the upper end become.
        channels: scans of one case as channels of one input, in this order; the first is the column ``scan``, and the
            others are brought to its grid. Empty: the scan alone. A column may stand there twice, in two windows.
        region: ``roi`` centres on the region that the cohort table gives; ``foreground`` on the body (above -500 HU,
            for ``zscore`` above the scan's own threshold), for which ``body`` is another word;
            ``head``, ``brain`` and ``lungs`` are found in a CT by thresholds, and a scan without them is rejected;
            ``whole`` on the middle of the scan (for files already cropped to what matters);
            ``auto`` is ``roi`` where the table gives regions or masks and ``whole`` where it gives none.
        isolate: everything outside ``head``, ``brain`` or ``lungs``, or with ``roi`` outside the table's mask, becomes
            the lower end of the window; networks on slices and tiles skip and do not pool what lies outside.
        outside: beyond the scan's edge: ``edge`` repeats the last voxel, ``floor`` fills with the window's lower end.
        max_gap_mm: a series with unevenly spaced slices is interpolated if no gap is wider than this, and otherwise
            rejected (0: always rejected).
    """

    orientation: str | None = None
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    shape: tuple[Size, Size, Size] | None = None
    modality: Modality | None = "CT"
    normalisation: Normalisation | None = None
    window_hu: Range | None = None
    clip_sd: Positive | None = None
    output_range: Range | None = None
    channels: tuple[ChannelConfig, ...] = ()
    fit: Fit | None = None
    region: Literal["auto", "roi", "foreground", "whole"] | OrganName = "auto"
    isolate: bool = False
    outside: Literal["edge", "floor"] = "edge"
    max_gap_mm: Annotated[FiniteFloat, Field(ge=0)] = 0.0

    @property
    def region_sentence(self) -> str:
        """What the network sees, in words, with the config's value."""
        alone = " and at nothing else" if self.isolate else ""
        return f"input.region: {self.region}, the network looks {_REGION_TEXT[self.region]}{alone}"

    @field_validator("region", mode="before")
    @classmethod
    def _body_is_foreground(cls, word: Any) -> Any:
        return "foreground" if word == "body" else word

    @field_validator("orientation")
    @classmethod
    def _three_axes(cls, letters: str | None) -> str | None:
        if letters is None:
            return None
        if sorted(geometry.world_axes(letters.upper())) != [0, 1, 2]:
            raise ValueError("three letters, one each of R/L, A/P and S/I, for example SPL")
        return letters.upper()

    @property
    def n_channels(self) -> int:
        """Number of channels of the network's input."""
        return max(1, len(self.channels))

    @property
    def channels_of_network(self) -> int | Literal["windows"]:
        """Like :attr:`n_channels`, but ``windows`` for three windows of one scan, which fit the RGB of photographs."""
        one_scan = len({channel.column for channel in self.channels}) == 1
        return "windows" if one_scan and len(self.channels) == 3 else self.n_channels

    def completed(self, native: Mapping[str, Any]) -> PreprocessingConfig:
        """Replace every None by the backbone's value, or else by the default.

        Args:
            native: the backbone's values, by the names of this config.

        Raises:
            ConfigError: an invalid value or combination.
        """
        chosen = self.model_dump(exclude_none=True)
        if self.fit and self.spacing_mm:
            raise ConfigError("a spacing and a way to fit", where="input.fit", expected="input.spacing_mm or input.fit")
        if self.fit:
            native = {**native, "spacing_mm": None}
        if self.modality == "MR" and self.window_hu is None:
            chosen.setdefault("normalisation", "zscore")
        try:
            return PreprocessingConfig(**(dict(native) | chosen))
        except ValidationError as error:
            found, key = first_problem(error)
            raise ConfigError(found, where=f"input.{key.partition('.')[0]}".removesuffix(".")) from None


class PreprocessingConfig(InputConfig, frozen=True):
    """An input with nothing left open, and its defaults; it is what a bundle saves and what ``Preprocessing`` does."""

    orientation: str = "SPL"
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    shape: tuple[Size, Size, Size] = (64, 96, 96)
    modality: Modality | None = None
    normalisation: Normalisation = "window"
    window_hu: Range = (-1000.0, 1000.0)
    clip_sd: Positive = 4.0
    output_range: Range = (-1.0, 1.0)
    fit: Fit = "stretch"
    region: Literal["roi", "foreground", "whole"] | OrganName = "whole"

    @property
    def column_of_channel(self) -> tuple[str, ...]:
        """Column of the cohort table that names the scan, for each channel."""
        return tuple(channel.column for channel in self.channels) or (FIRST_CHANNEL,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Distinct columns of the channels; the first is ``scan``."""
        return tuple(dict.fromkeys(self.column_of_channel))

    @property
    def by_channel(self) -> tuple[PreprocessingConfig, ...]:
        """For each channel, the config of an input with only this channel."""
        own = [channel.model_dump(exclude={"column"}, exclude_none=True) for channel in self.channels] or [{}]
        return tuple(self.model_copy(update={**changes, "channels": ()}) for changes in own)

    @field_validator("channels")
    @classmethod
    def _begin_with_the_scan(cls, channels: tuple[ChannelConfig, ...]) -> tuple[ChannelConfig, ...]:
        if channels and channels[0].column != FIRST_CHANNEL:
            raise ValueError(f"the first channel must be {FIRST_CHANNEL}: region, mask and grid are its own")
        return channels

    @model_validator(mode="after")
    def _organs_need_a_ct(self) -> PreprocessingConfig:
        by_hounsfield_units, first = self.region in ORGANS, self.by_channel[0]
        if by_hounsfield_units and (first.modality, first.normalisation) != ("CT", "window"):
            raise ValueError(
                f"region {self.region} is found by Hounsfield units and needs modality CT and normalisation window, "
                f"not {first.modality} and {first.normalisation}; other scans can have foreground, whole or roi"
            )
        if self.isolate and not by_hounsfield_units and self.region != "roi":
            raise ValueError(f"isolate needs region head, brain, lungs, or roi with masks, not {self.region}")
        return self

    @model_validator(mode="after")
    def _ranges_rise(self) -> PreprocessingConfig:
        if any(channel.window_hu[0] >= channel.window_hu[1] for channel in self.by_channel):
            raise ValueError("window_hu must rise, for example [-1000, 400]")
        if self.output_range[0] >= self.output_range[1]:
            raise ValueError("output_range must rise, for example [0, 1]")
        if max(map(abs, self.output_range)) > 65504:
            raise ValueError("output_range must lie within what float16 holds, -65504 to 65504, for example [0, 1]")
        return self
