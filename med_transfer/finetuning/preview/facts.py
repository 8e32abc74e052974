"""What preprocessing does to a scan, in mm and shares: sizes, lost resolution, parts cut off, values clipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.numbers import whole_percent
from med_transfer.errors.sentence import Sentence, listed
from med_transfer.preprocessing import PreprocessingConfig, Scans
from med_transfer.preprocessing.organs import Organ
from med_transfer.preprocessing.region import isolated_organ, region_in_view, whole
from med_transfer.preprocessing.window import foreground_threshold, window_of
from med_transfer.scans import Region, Volume, geometry
from med_transfer.scans.geometry import Grid
from med_transfer.scans.voxel_checks import hounsfield_doubt

DENSER_THAN_AIR_HU = -950.0
EQUAL_SIZE_RATIO = 1.1  # voxel sizes with a smaller ratio count as equal
MUCH_PADDING = 0.5  # share of the view
MUCH_OUTSIDE = 0.1  # share of the region or patient
MUCH_CLIPPED = 0.5  # share of the patient's voxels in view
MIN_WINDOW_SHARE = 0.2  # share that the values spread over
MUCH_UPSAMPLED = 1.5  # scan's voxel size over the network's
MUCH_STRETCHED = 1.5  # longest over shortest edge of a voxel
_BALL_MM = 20.0  # diameter in the sentence on proportions
_STEP_HU = 30.0  # in the sentence on contrast: fresh blood is denser than brain by about this much
_POINTS = 64  # sampled along each axis, enough to measure a share


@dataclass(frozen=True)
class AxisFacts:
    """One axis of the network's input.

    Attributes:
        world: the patient's axis that it runs along: 0 left-right, 1 front-back, 2 head-foot.
        voxels: number of voxels of the input.
        voxel_mm, scan_voxel_mm: voxel size of the input and of the scan.
        scan_mm: extent of the scan.
    """

    world: int
    voxels: int
    voxel_mm: float
    scan_voxel_mm: float
    scan_mm: float

    @property
    def view_mm(self) -> float:
        """Extent of the network's input."""
        return self.voxels * self.voxel_mm

    @property
    def upsampled(self) -> float:
        """Number of input voxels per voxel of the scan."""
        return self.scan_voxel_mm / self.voxel_mm

    @property
    def name(self) -> Sentence:
        """The axis in words, as a direction in the patient."""
        if self.world == 2:
            return Sentence("head to foot")
        return Sentence("front to back") if self.world == 1 else Sentence("left to right")

    @property
    def fate(self) -> Sentence:
        """What becomes of the scan's resolution, in words."""
        sizes = {"scan": mm(self.scan_voxel_mm), "voxel": mm(self.voxel_mm)}
        if self.voxel_mm > EQUAL_SIZE_RATIO * self.scan_voxel_mm:
            return Sentence("a structure thinner than {voxel} mm is lost: {scan} mm become {voxel} mm", **sizes)
        if self.scan_voxel_mm > EQUAL_SIZE_RATIO * self.voxel_mm:
            return Sentence("no detail is gained: {scan} mm become {voxel} mm by interpolation", **sizes)
        if sizes["scan"] == sizes["voxel"]:
            return Sentence("kept: {scan} mm", scan=sizes["scan"])
        return Sentence("kept: {scan} mm become {voxel} mm", **sizes)


@dataclass(frozen=True)
class ChannelFacts:
    """One channel's window, and its effect on the patient's voxels in view.

    Attributes:
        column: of the cohort table.
        name: the column, with the channel's number if there are several.
        window: the values mapped to black and white.
        unit: of the window, with a leading space; empty if it is not HU.
        below, above: share of the voxels that are clipped to black and to white.
        used: share of the window that the middle 96 % of the voxel values span.
        isolated: whether all but the organ is blanked; then the organ's voxels are counted, not the patient's.
    """

    column: str
    name: str
    window: tuple[float, float]
    unit: str
    below: float
    above: float
    used: float
    isolated: bool

    @property
    def sentences(self) -> Iterator[Sentence]:
        """These facts in words; for CT also the share of the window that a small difference in HU takes up."""
        if self.unit:
            share = _STEP_HU / (self.window[1] - self.window[0])
            yield Sentence(
                "{column}: {step:.0f} HU, as between fresh blood and brain, are {share:.1%} of the window",
                column=self.name,
                step=_STEP_HU,
                share=share,
            )
        yield Sentence(
            "{column}: values from {low:.0f} to {high:.0f}{unit} are told apart; of {whose} voxels in view {below} "
            "lie below (black) and {above} above (white)",
            column=self.name,
            low=self.window[0],
            high=self.window[1],
            unit=self.unit,
            whose=Sentence("the organ's") if self.isolated else Sentence("the patient's"),
            below=whole_percent(self.below),
            above=whole_percent(self.above),
        )


@dataclass(frozen=True)
class ViewFacts:
    """What preprocessing does to one scan.

    Attributes:
        axes: along depth, height and width.
        channels: in the input's order.
        outside: share of the patient's voxels in the scan that the network does not see.
        region_outside: share of the region that the network does not see; None if the region is the whole scan.
        padding: share of the network's input that lies outside the scan.
        fitted: whether the region is scaled to fit the input, whatever its size.
        found: False if the config asks for the foreground and none was found.
        doubt: why the values are probably not Hounsfield units although the config says CT; else empty.
        in_slices: whether the network processes slices one by one, so that slice spacing affects no proportion.
    """

    axes: tuple[AxisFacts, AxisFacts, AxisFacts]
    channels: tuple[ChannelFacts, ...]
    outside: float
    region_outside: float | None
    padding: float
    fitted: bool
    found: bool
    doubt: str
    in_slices: bool = False

    @property
    def stretch(self) -> float:
        """Longest over shortest edge of a voxel (of its in-plane edges with ``in_slices``); 1 if all are equal."""
        sizes = [axis.voxel_mm for axis in (self.axes[1:] if self.in_slices else self.axes)]
        return max(sizes) / min(sizes)

    @property
    def sentences(self) -> list[Sentence]:
        """The facts in words, except for the table of the axes."""
        return [
            self._proportions,
            *self._shares,
            *(sentence for channel in self.channels for sentence in channel.sentences),
        ]

    @property
    def _proportions(self) -> Sentence:
        if self.stretch <= EQUAL_SIZE_RATIO and self.in_slices:
            return Sentence("proportions are kept within each slice, and the network takes slices one by one")
        if self.stretch <= EQUAL_SIZE_RATIO:
            return Sentence("proportions are kept: a voxel is as long along each axis")
        depth, height, width = (f"{_BALL_MM / axis.voxel_mm:.1f}" for axis in self.axes)
        return Sentence(
            "proportions are not kept: a ball of {ball:.0f} mm becomes {depth} × {height} × {width} voxels, which are "
            "cubes to the network",
            ball=_BALL_MM,
            depth=depth,
            height=height,
            width=width,
        )

    @property
    def _shares(self) -> Iterator[Sentence]:
        if self.region_outside is not None:
            yield Sentence("{share} of the region lies outside the view", share=whole_percent(self.region_outside))
        yield Sentence("{share} of the patient in this scan lies outside the view", share=whole_percent(self.outside))
        yield Sentence("{share} of the view lies outside the scan and is padding", share=whole_percent(self.padding))

    @property
    def warnings(self) -> list[Sentence]:
        """Facts that are probably not intended, in words."""
        return [*self._position_warnings(), *self._resolution_warnings(), *self._value_warnings()]

    def _position_warnings(self) -> Iterator[Sentence]:
        if not self.found:
            yield Sentence("the region was not found in this scan: the network sees the whole of it")
        if self.padding > MUCH_PADDING:
            yield Sentence(
                "mostly padding: {share} of the view lies outside the scan", share=whole_percent(self.padding)
            )
        if self.region_outside is not None and self.region_outside > MUCH_OUTSIDE:
            yield Sentence("{share} of the region is cut off", share=whole_percent(self.region_outside))
        if self.region_outside is None and self.outside > MUCH_OUTSIDE:
            yield Sentence("{share} of the patient is cut off", share=whole_percent(self.outside))

    def _resolution_warnings(self) -> Iterator[Sentence]:
        worst, *others = sorted(self.axes, key=lambda axis: -axis.upsampled)
        if worst.upsampled > MUCH_UPSAMPLED:
            most = Sentence(
                "upsampled {times:.1f} times from {axis}: {voxels} voxels hold the detail of {fewer:.0f}",
                times=worst.upsampled,
                axis=worst.name,
                voxels=worst.voxels,
                fewer=worst.view_mm / worst.scan_voxel_mm,
            )
            also = listed(*(axis.name for axis in others if axis.upsampled > MUCH_UPSAMPLED))
            yield Sentence("{most}; also from {axes}", most=most, axes=also) if also else most
        if self.fitted and self.stretch > MUCH_STRETCHED:
            yield Sentence("squeezed: voxels are {times:.1f} times as long as wide", times=self.stretch)

    def _value_warnings(self) -> Iterator[Sentence]:
        if self.doubt:
            yield Sentence("these are no Hounsfield units, and input.modality is CT: {doubt}", doubt=self.doubt)
        for channel in self.channels:
            clipped, column = channel.below + channel.above, channel.name
            if clipped > MUCH_CLIPPED:
                yield Sentence(
                    "{column}: {share} of the voxels in view are clipped", column=column, share=whole_percent(clipped)
                )
            elif channel.used < MIN_WINDOW_SHARE:
                yield Sentence(
                    "{column}: flat, values use {share} of the window", column=column, share=whole_percent(channel.used)
                )


def mm(value: float) -> str:
    """A length in mm with two or three significant digits: 0.86, 1.25, 4.2, 32."""
    if value >= 2:
        return f"{value:.0f}" if value >= 20 else f"{value:.1f}"
    return f"{value:.2f}".removesuffix("0") if value >= 1 else f"{value:.2f}"


def view_facts(
    scans: Scans, grid: Grid, config: PreprocessingConfig, region: Region | None, *, in_slices: bool = False
) -> ViewFacts:
    """What preprocessing does to a case's scans, given the grid of the network's input.

    Args:
        scans: by the table's columns.
        grid: of the input, without a margin.
        config: of the preprocessing.
        region: from the cohort table.
        in_slices: whether the network processes slices one by one.
    """
    first = scans["scan"]
    shown, values = _in_view(first, grid)
    dense = values > _denser_than(first, config.by_channel[0])
    patient = dense if dense.any() else np.ones_like(dense)
    looked_at = region_in_view(first, config, region)
    organ = isolated_organ(first, config, region)
    channels = [
        _channel(scans[column], grid, channel, organ, column)
        for column, channel in zip(config.column_of_channel, config.by_channel, strict=True)
    ]
    everything = looked_at == whole(first)
    return ViewFacts(
        axes=_axes(first, grid, config.orientation),
        channels=_numbered(channels),
        outside=1 - float(shown[patient].mean()),
        region_outside=None if everything else _outside(looked_at, grid),
        padding=1 - float(_covered(grid, first).mean()),
        fitted=config.spacing_mm is None,
        found=config.region != "foreground" or bool(dense.any()),
        doubt=hounsfield_doubt(first.voxels) if config.by_channel[0].modality == "CT" else "",
        in_slices=in_slices,
    )


def _axes(volume: Volume, grid: Grid, orientation: str) -> tuple[AxisFacts, AxisFacts, AxisFacts]:
    """Facts of each axis of the grid, compared with the scan's axis that is most nearly parallel to it."""
    spacing, own = np.array(volume.spacing_mm), volume.affine[:3, :3] / volume.spacing_mm
    cosines = np.abs(own.T @ (grid.affine[:3, :3] / geometry.spacing_mm(grid.affine)))
    nearest = cosines.argmax(axis=0)[::-1]  # of depth, height, width among i, j, k
    extents = spacing * volume.voxels.shape[::-1]
    depth, height, width = (
        AxisFacts(world, n, size, float(spacing[axis]), float(extents[axis]))
        for world, n, size, axis in zip(
            geometry.world_axes(orientation), grid.shape, grid.voxel_mm, nearest, strict=True
        )
    )
    return depth, height, width


def _in_view(volume: Volume, grid: Grid) -> tuple[NDArray[np.bool_], NDArray]:
    """For voxels sampled evenly over a scan: whether each lies in the view, and its value."""
    index = _sampled(volume)
    shown = geometry.inside(grid.affine, grid.shape, geometry.to_world_mm(volume.affine, index))
    return shown, volume.voxels[tuple(index[:, ::-1].T)]


def _sampled(volume: Volume) -> NDArray[np.int_]:
    """Indices (i, j, k) of voxels sampled evenly over a scan."""
    return np.rint(geometry.lattice(volume.voxels.shape, _POINTS)).astype(int)


def _covered(grid: Grid, volume: Volume) -> NDArray[np.bool_]:
    """For points sampled evenly over the view: whether each lies in the scan."""
    points = geometry.to_world_mm(grid.affine, geometry.lattice(grid.shape, _POINTS))
    return geometry.inside(volume.affine, volume.voxels.shape, points)


def _outside(region: Region, grid: Grid) -> float:
    n = 2 * _POINTS + 1
    steps = (geometry.lattice((n, n, n), _POINTS) + 0.5) / n - 0.5
    points = np.array(region.centre_mm) + steps * np.array(region.size_mm)
    return 1 - float(geometry.inside(grid.affine, grid.shape, points).mean())


def _denser_than(volume: Volume, config: PreprocessingConfig) -> float:
    """The value above which a voxel counts as the patient's."""
    plain_ct = config.modality == "CT" and not hounsfield_doubt(volume.voxels)
    return DENSER_THAN_AIR_HU if plain_ct else foreground_threshold(volume)


def _numbered(channels: Sequence[ChannelFacts]) -> tuple[ChannelFacts, ...]:
    """The channels, with their numbers in their names if there are several: a column may occur twice."""
    if len(channels) == 1:
        return tuple(channels)
    return tuple(
        replace(channel, name=Sentence("channel {number} ({column})", number=number, column=channel.column))
        for number, channel in enumerate(channels, start=1)
    )


def _channel(volume: Volume, grid: Grid, config: PreprocessingConfig, organ: Organ | None, column: str) -> ChannelFacts:
    low, high = window_of(volume, config)
    shown, values = _in_view(volume, grid)
    dense = shown & (values > _denser_than(volume, config) if organ is None else _in_organ(volume, organ))
    values = values[dense] if dense.any() else values
    spread = np.diff(np.percentile(np.clip(values, low, high), [2, 98]))[0]
    return ChannelFacts(
        column,
        column,
        (float(low), float(high)),
        " HU" if config.modality == "CT" else "",
        below=float((values < low).mean()),
        above=float((values > high).mean()),
        used=float(spread / (high - low)),
        isolated=organ is not None,
    )


def _in_organ(volume: Volume, organ: Organ) -> NDArray[np.bool_]:
    """For the voxels of :func:`_in_view`: whether each belongs to the organ."""
    points = geometry.to_world_mm(volume.affine, _sampled(volume))
    nearest = np.rint(geometry.to_index(organ.affine, points)).astype(int)
    index = np.clip(nearest, 0, np.array(organ.mask.shape[::-1]) - 1)[:, ::-1]
    return geometry.inside(organ.affine, organ.mask.shape, points) & (organ.mask[tuple(index.T)] > 0)


def cohort_remarks(facts: Sequence[ViewFacts], modalities: Sequence[str]) -> list[Sentence]:
    """Remarks that need several scans: mixed modalities, body parts or voxel sizes.

    Args:
        facts: of the scans that are shown.
        modalities: of the same scans; empty where the file states none.
    """
    remarks = []
    if len(stated := sorted({modality for modality in modalities if modality})) > 1:
        remarks.append(Sentence("the table mixes modalities: {found}", found=", ".join(stated)))
    if any(one.doubt for one in facts) and not all(one.doubt for one in facts):
        remarks.append(Sentence("some scans hold Hounsfield units and others do not: does the table mix modalities?"))
    axes = [*zip(*(one.axes for one in facts), strict=True)]  # [axis][scan]
    if all(one.region_outside is None for one in facts):
        axis, least, most = _widest(axes, "scan_mm")
        if most > 2 * least:
            remarks.append(
                Sentence(
                    "the scans are {least} to {most} mm long from {axis}: does the table mix parts of the body?",
                    least=mm(least),
                    most=mm(most),
                    axis=axis,
                )
            )
    axis, least, most = _widest(axes, "voxel_mm")
    if facts[0].fitted and most > EQUAL_SIZE_RATIO * least:
        remarks.append(
            Sentence(
                "each scan is fitted into the input by itself: from {axis} a voxel is {least} to {most} mm, so that "
                "one size in the patient is not one size to the network",
                axis=axis,
                least=mm(least),
                most=mm(most),
            )
        )
    return remarks


def _widest(axes: Sequence[Sequence[AxisFacts]], name: str) -> tuple[Sentence, float, float]:
    """The axis along which an attribute differs most between scans, with its smallest and largest value."""
    ranges = [[getattr(axis, name) for axis in of_scans] for of_scans in axes]
    number = max(range(len(ranges)), key=lambda k: max(ranges[k]) / min(ranges[k]))
    return axes[number][0].name, min(ranges[number]), max(ranges[number])
