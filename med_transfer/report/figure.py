"""A figure of the report: on the page it takes the page's colours, as a file of its own it has real ones.

Drawn by matplotlib as SVG whose text stays text. Equal input gives equal bytes.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib import style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from med_transfer.page.theme import LIGHT, Colour

# Stand-ins that a drawing is given for the colours of the theme.
COLOURS: dict[Colour, str] = {name: f"#0a0b{k:02x}" for k, name in enumerate(LIGHT, start=1)}
INK, MUTED, RULE, SHADE = (COLOURS[name] for name in ("ink", "muted", "rule", "shade"))
WARNING = COLOURS["warning"]
SERIES = tuple(colour for name, colour in COLOURS.items() if name.startswith("series-"))
DASHES = ("-", "--", ":", "-.")

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "svg.hashsalt": "med_transfer",
    "text.parse_math": False,  # a class may be called "$x"
    "font.size": 10,
    "text.color": INK,
    "figure.facecolor": "none",  # the page's paper
    "figure.edgecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
_LEGIBLE = 0.8  # CSS pixels for a unit of a drawing, below which its words are not read
_PHONE_REM = 22.5  # width of a page in a window of 400 px
_ID = re.compile(r'(\bid="|url\(#|href="#)')  # what stands before an id of an SVG, where it is given or referred to
_ALONE = "text { font-family: 'Segoe UI', 'Helvetica Neue', 'Liberation Sans', 'Noto Sans TC', Arial, sans-serif }"


@dataclass(frozen=True)
class Figure:
    """An SVG with stand-in colours.

    Attributes:
        name: of the SVG file, unique in its section: letters, digits and hyphens.
        title: what it is, in a few words.
        description: what it shows, in numbers, for who cannot see it.
        caption: how to read it; printed beneath.
        drawing: inside of the ``<svg>`` element; ids begin with ``name``.
        size: width and height of the drawing's own coordinates.
        width_rem: how wide it is on the page at most.
    """

    name: str
    title: str
    description: str
    caption: str
    drawing: str
    size: tuple[float, float]
    width_rem: float = 34

    @property
    def least_rem(self) -> float:
        """The width below which its words are too small to be read: they are drawn in 10 pt of ``size``."""
        return _LEGIBLE * self.size[0] / 16

    @property
    def scrolls(self) -> bool:
        """Whether it is too wide for a phone."""
        return self.least_rem > _PHONE_REM

    def on_page(self, section: str) -> str:
        """The ``<svg>`` element with colours of the page; ids begin with the section's name."""
        inside = _ID.sub(rf"\g<1>{section}-", self.drawing)
        for name, stand_in in COLOURS.items():
            inside = inside.replace(stand_in, f"var(--{name})")
        key = f"{section}-{self.name}"
        width = f"min-width: {min(self.least_rem, self.width_rem):.3g}rem; " if self.scrolls else ""
        opening = f'class="figure" style="{width}max-width: {self.width_rem:g}rem" role="img" '
        return self._element(f'{opening}aria-labelledby="{key}-title {key}-desc"', key, inside)

    def as_file(self) -> str:
        """A whole SVG file, in the light theme's colours on its paper."""
        inside = self.drawing
        for name, stand_in in COLOURS.items():
            inside = inside.replace(stand_in, LIGHT[name])
        paper = f'<style>{_ALONE}</style><rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>'
        key = f'role="img" aria-labelledby="{self.name}-title {self.name}-desc"'
        return '<?xml version="1.0" encoding="utf-8"?>\n' + self._element(key, self.name, paper + inside)

    def _element(self, attributes: str, key: str, inside: str) -> str:
        title, description = html.escape(self.title), html.escape(self.description)
        width, height = (f"{side:g}" for side in self.size)
        return (
            f'<svg {attributes} viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink">'
            f'<title id="{key}-title">{title}</title><desc id="{key}-desc">{description}</desc>{inside}</svg>\n'
        )


def drawn(
    name: str,
    title: str,
    description: str,
    size_inch: tuple[float, float],
    draw: Callable[[Canvas], None],
    *,
    caption: str = "",
    width_rem: float = 34,
) -> Figure:
    """Let ``draw`` draw on a matplotlib figure, with the colours of this module only (INK, MUTED, SERIES, ...)."""
    stream = io.StringIO()
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # Only used to measure text; the page's own font has the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas = Canvas(figsize=size_inch, layout="constrained")
        draw(canvas)
        # savefig() would draw all of it twice, once to lay it out.
        FigureCanvasSVG(canvas).print_svg(stream, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", stream.getvalue(), flags=re.DOTALL)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    inside = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")].strip()
    inside = _ID.sub(rf"\g<1>{name}-", inside)
    return Figure(name, title, description, caption, inside, (float(width), float(height)), width_rem)


def short_names(names: Sequence[str], longest: int = 24) -> dict[str, str]:
    """Name to a form that fits beside an axis: its beginning or, where two would be equal, its end or its number."""
    fitting = {name: len(name) <= longest for name in names}
    beginnings = {name: name if fits else name[: longest - 1] + "…" for name, fits in fitting.items()}
    ends = {name: name if fits else "…" + name[1 - longest :] for name, fits in fitting.items()}
    numbered = {name: f"{number}: {name[: longest - 5]}…" for number, name in enumerate(names, 1)}
    return next(short for short in (beginnings, ends, numbered) if len(set(short.values())) == len(short))
