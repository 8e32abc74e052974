"""Three planes through a scan in radiological convention, with the patient's sides and true proportions."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import zoom

from med_transfer.scans import geometry
from med_transfer.scans.region import Region

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Window = tuple[float, float]
Box = tuple[float, float, float, float]

_MAX_PIXELS = 512  # along the longer side of a picture
_SIDES = (("L", "R"), ("P", "A"), ("S", "I"))  # positive and negative end of each LPS axis
_NAMED = np.sin(np.radians(20))  # a component below this, 20 degrees, does not name a side
_BARS_MM = (200, 100, 50, 20, 10, 5, 2, 1)
_PNG = {"compress_level": 3}  # half the time of the usual 6, and files about a tenth larger
_HEIGHT_INCHES, _WIDTH_INCHES, _MARGIN_INCHES, _NOTE_INCHES = 2.4, 9.0, 0.16, 0.2


@dataclass(frozen=True)
class Plane:
    """One plane: axial seen from the feet, coronal from the front, sagittal from the left, head or front upwards.

    Attributes:
        name: axial | coronal | sagittal, whichever is nearest.
        image: uint8 [row, column], or in colour [row, column, 3], with square pixels.
        width_mm, height_mm: from edge to edge.
        top, right, bottom, left: the patient's side at each edge; two or three letters if the axis is oblique.
        slice, slices: slice number along the third axis, from 1, and number of slices.
        box: left, top, right, bottom of a region of interest, as fractions of width and height; or None.
        grid: further boxes, drawn with thinner lines.
    """

    name: str
    image: NDArray[np.uint8]
    width_mm: float
    height_mm: float
    top: str
    right: str
    bottom: str
    left: str
    slice: int
    slices: int
    box: Box | None = None
    grid: tuple[Box, ...] = ()


def sides(direction: ArrayLike) -> str:
    """The patient's sides that a direction (LPS) points to, the nearest first: ``L``, or ``LA`` if it is oblique.

    Source: Patient Orientation, DICOM PS3.3 C.7.6.1.1.1.
    """
    unit = np.asarray(direction, dtype=np.float64)
    unit = unit / np.linalg.norm(unit)
    nearest = np.argsort(-np.abs(unit), kind="stable")
    return "".join(_SIDES[axis][int(unit[axis] < 0)] for axis in nearest if abs(unit[axis]) > _NAMED)


def planes(
    voxels: NDArray,
    affine: geometry.Affine,
    window: Window,
    region: Region | None = None,
    through_mm: ArrayLike | None = None,
) -> tuple[Plane, ...]:
    """Axial, coronal and sagittal plane through a point, along the axes of the voxel array.

    Args:
        voxels: [depth, height, width], in any orientation.
        affine: (i, j, k) to LPS mm.
        window: the values shown black and white.
        region: drawn as a box on each plane.
        through_mm: the point in LPS mm; None for the centre of the region, or else of the scan.
    """
    voxels, affine = geometry.canonical(voxels, affine)  # i increases to the left, j to the back, k to the head
    size = np.array(voxels.shape[::-1])
    through_mm = region.centre_mm if through_mm is None and region is not None else through_mm
    middle = (size - 1) / 2 if through_mm is None else geometry.to_index(affine, through_mm)
    at = np.clip(np.rint(middle), 0, size - 1).astype(int)
    extent = None if region is None else _extent(affine, region)
    axes = ((2, 0, 1), (1, 0, 2), (0, 1, 2))  # across, columns, rows
    return tuple(_plane(voxels, affine, window, at, extent, order) for order in axes)


def pad_to_box(plane: Plane, max_padding: float = 4.0) -> Plane:
    """Pad a plane with black so that its box, which may extend beyond the image, fits; returned unchanged without one.

    Args:
        plane: the plane.
        max_padding: largest padding of each side, in multiples of the plane's width and height.
    """
    if plane.box is None:
        return plane
    (left, top, right, bottom), (height, width) = plane.box, plane.image.shape[:2]
    shares = np.clip([[-top, bottom - 1], [-left, right - 1]], 0, max_padding)
    (above, below), (before, behind) = np.ceil(shares * [[height], [width]]).astype(int).tolist()
    rows, columns = above + height + below, before + width + behind
    left, right = ((x * width + before) / columns for x in (left, right))
    top, bottom = ((y * height + above) / rows for y in (top, bottom))
    return replace(
        plane,
        image=np.pad(plane.image, ((above, below), (before, behind))),
        width_mm=plane.width_mm * columns / width,
        height_mm=plane.height_mm * rows / height,
        box=(left, top, right, bottom),
    )


def _plane(
    voxels: NDArray,
    affine: geometry.Affine,
    window: Window,
    at: NDArray,
    extent: NDArray | None,
    axes: tuple[int, int, int],
) -> Plane:
    """The plane through voxel ``at``; ``axes`` are the voxel axes of its normal, its columns and its rows."""
    across, columns, rows = axes
    image = voxels.take(at[across], axis=2 - across)
    spacing = geometry.spacing_mm(affine)
    height, width = image.shape
    upward = rows == 2  # k increases to the head, which is shown at the top; j to the back, shown at the bottom
    down = affine[:3, rows] * (-1 if upward else 1)
    right = affine[:3, columns]
    box = None
    if extent is not None:
        low, high = (extent + 0.5) / np.array(voxels.shape[::-1])
        top, bottom = (1 - high[rows], 1 - low[rows]) if upward else (low[rows], high[rows])
        box = (float(low[columns]), float(top), float(high[columns]), float(bottom))
    return Plane(
        name=("sagittal", "coronal", "axial")[across],
        image=_square(_grey(image[::-1] if upward else image, window), spacing[rows], spacing[columns]),
        width_mm=width * spacing[columns],
        height_mm=height * spacing[rows],
        top=sides(-down),
        right=sides(right),
        bottom=sides(down),
        left=sides(-right),
        slice=int(at[across]) + 1,
        slices=voxels.shape[2 - across],
        box=box,
    )


def _extent(affine: geometry.Affine, region: Region) -> NDArray[np.float64]:
    """Lowest and highest voxel index (i, j, k) of a region, shape [2, 3]; its bounding box if axes are oblique."""
    signs = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, 8).T
    corners = geometry.to_index(affine, np.array(region.centre_mm) + signs * np.array(region.size_mm))
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def _grey(image: NDArray, window: Window) -> NDArray[np.uint8]:
    low, high = window
    share = (image.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def _square(image: NDArray[np.uint8], row_mm: float, column_mm: float) -> NDArray[np.uint8]:
    """Interpolate linearly to square pixels of the finer spacing, within the size limit."""
    height, width = image.shape
    pixel_mm = max(min(row_mm, column_mm), max(height * row_mm, width * column_mm) / _MAX_PIXELS)
    wanted = [max(1, round(height * row_mm / pixel_mm)), max(1, round(width * column_mm / pixel_mm))]
    if wanted == [height, width]:
        return np.ascontiguousarray(image)
    factors = (wanted[0] / height, wanted[1] / width)
    return np.asarray(zoom(image, factors, order=1, grid_mode=True, mode="nearest"), dtype=np.uint8)


# As files -----------------------------------------------------------------------------------------------------


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """A grey image [row, column] as JPEG, at a quality without visible loss."""
    return _encoded(image, "jpeg", {"quality": 92}, cmap="gray", vmin=0, vmax=255)


def png(image: NDArray[np.uint8]) -> bytes:
    """A grey image [row, column] as PNG, lossless."""
    colours = np.repeat(image[..., None], 3, axis=-1)  # matplotlib's grey colour map is off by one for some values
    return _encoded(colours, "png", _PNG)


def _encoded(image: NDArray, kind: str, quality: dict[str, Any], **options: Any) -> bytes:
    from matplotlib.image import imsave  # slow to import, and most calls draw nothing

    buffer = io.BytesIO()
    imsave(buffer, image, format=kind, pil_kwargs=quality, **options)
    return buffer.getvalue()


def read_png(png: bytes) -> NDArray[np.uint8]:
    """RGB [row, column, 3] of a PNG."""
    from matplotlib.image import imread  # slow to import, and most calls draw nothing

    return np.rint(imread(io.BytesIO(png), format="png")[..., :3] * 255).astype(np.uint8)


def data_uri(image: NDArray[np.uint8], kind: Literal["png", "jpeg"] = "jpeg") -> str:
    """An image as data URI, for an ``img`` of a self-contained page."""
    encoded = base64.b64encode(jpeg(image) if kind == "jpeg" else png(image)).decode("ascii")
    return f"data:image/{kind};base64,{encoded}"


def bar_mm(shown: Sequence[Plane]) -> int:
    """Length of the scale bar in mm: a round number, at most a third of the widest plane."""
    widest = max(plane.width_mm for plane in shown)
    return next((mm for mm in _BARS_MM if mm <= widest / 3), 1)


def side_by_side(shown: Sequence[Plane], note: str = "", height_inches: float = _HEIGHT_INCHES) -> bytes:
    """PNG of planes in one row, at one scale, with the patient's sides at every edge and a line of text below.

    The size of letters is fixed, so a smaller ``height_inches`` makes them larger in proportion.
    """
    import matplotlib  # slow to import, and most calls draw nothing

    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.facecolor": "black"}):
        _row(shown, note, height_inches).savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs=_PNG)
    return buffer.getvalue()


def row_image(shown: Sequence[Plane], note: str = "", height_inches: float = _HEIGHT_INCHES) -> NDArray[np.uint8]:
    """RGB [row, column, 3] of planes in one row, as :func:`side_by_side` draws them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and most calls draw nothing

    canvas = FigureCanvasAgg(_row(shown, note, height_inches))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _row(shown: Sequence[Plane], note: str, height_inches: float) -> Figure:
    from matplotlib.figure import Figure  # slow to import, and most calls draw nothing

    tallest, together = max(plane.height_mm for plane in shown), sum(plane.width_mm for plane in shown)
    inches = min(height_inches / tallest, _WIDTH_INCHES / together)  # per millimetre
    widths = [plane.width_mm * inches + 2 * _MARGIN_INCHES for plane in shown]
    below = _NOTE_INCHES if note else 0.0
    size = (sum(widths), tallest * inches + 2 * _MARGIN_INCHES + below)
    figure = Figure(figsize=size, dpi=150, facecolor="black")
    left = 0.0
    for plane, width in zip(shown, widths, strict=True):
        _draw(figure, plane, (left, below, width, size[1] - below), inches)
        left += width
    style = {"color": "#c9ccd0", "fontsize": 6, "ha": "center", "va": "bottom", "parse_math": False}
    figure.text(0.5, 0.04 / size[1], note, **style)
    return figure


def _draw(figure: Figure, plane: Plane, place: Box, inches: float) -> None:
    """Draw a plane centred in its place (left, bottom, width, height in inches), with letters in the margin.

    It is drawn directly on the figure: invisible axes would take twice as long as everything else.
    """
    from matplotlib.colors import Normalize
    from matplotlib.image import BboxImage
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import Bbox, BboxTransformTo, TransformedBbox

    whole = figure.get_size_inches()
    size = np.array([plane.width_mm, plane.height_mm]) * inches
    corner = np.array(place[:2]) + (np.array(place[2:]) - size) / 2
    (x, y), (width, height) = corner / whole, size / whole
    box = TransformedBbox(Bbox.from_bounds(x, y, width, height), figure.transFigure)
    image = BboxImage(box, cmap="gray", norm=Normalize(0, 255), interpolation="bilinear")
    image.set_data(plane.image)
    figure.add_artist(image)
    within, gap = BboxTransformTo(box), 0.5 * _MARGIN_INCHES / size
    for x, y, letters in (
        (0.5, 1 + gap[1], plane.top),
        (1 + gap[0], 0.5, plane.right),
        (0.5, -gap[1], plane.bottom),
        (-gap[0], 0.5, plane.left),
    ):
        figure.text(x, y, letters, color="#ffd24d", fontsize=7, transform=within, ha="center", va="center")
    drawn = [(box, 0.4) for box in plane.grid] + ([(plane.box, 1.0)] if plane.box else [])
    for (x, top, right, bottom), width in drawn:
        outline = Rectangle((x, 1 - bottom), right - x, bottom - top, transform=within, fill=False)
        outline.set(color="#4dd2ff", linewidth=width, clip_path=None)
        figure.add_artist(outline)


def below_each_other(rows: Sequence[NDArray[np.uint8]], kind: Literal["png", "jpeg"]) -> bytes:
    """Stack images in RGB vertically into one picture, centred on black."""
    widest = max(row.shape[1] for row in rows)
    spare = [widest - row.shape[1] for row in rows]
    padded = [np.pad(row, ((0, 0), (n // 2, n - n // 2), (0, 0))) for row, n in zip(rows, spare, strict=True)]
    return _encoded(np.concatenate(padded), kind, {"quality": 82, "optimize": True} if kind == "jpeg" else _PNG)
