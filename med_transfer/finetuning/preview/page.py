"""preview.html: what the network sees, in one offline file without scripts, and pictures beside it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med_transfer.atomic import write_bytes, write_text
from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.backbones.encoder import Box
from med_transfer.errors.sentence import Sentence
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.preview.facts import cohort_remarks, mm
from med_transfer.finetuning.preview.pictures import input_planes, parts_picture, scan_png, shown_cuts
from med_transfer.finetuning.preview.seen import SeenScan, augments, single_slices
from med_transfer.page import Language, Translator, environment, sentence
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.report.writing import report_translator
from med_transfer.scans.inspection import picture

PAGE = "preview.html"
_HERE = Path(__file__).parent
_TEMPLATE = "page.html.jinja"
_LOOKS_AT = {
    "roi": sentence("the region of interest"),
    "foreground": sentence("the body"),
    "head": sentence("the head"),
    "brain": sentence("the brain"),
    "lungs": sentence("the lungs"),
    "whole": sentence("the whole scan"),
}


@dataclass(frozen=True)
class Unread:
    """A scan that was chosen to be shown but cannot be used."""

    row: int
    label: str
    reason: str


@dataclass(frozen=True)
class Preview:
    """A few scans of each class as the network sees them; renders as HTML in a notebook.

    Attributes:
        config: of the run that would follow, resolved.
        preprocessing: of the network's input.
        cuts: slices or tiles of the input that the network processes one by one; empty if it takes the whole input.
        classes: the scans shown of each class.
        unread: scans that were chosen to be shown but cannot be used.
        n_scans: number of scans in the table.
        n_development: number of them that are not kept for testing; only these are shown.
    """

    config: FinetuneConfig
    preprocessing: PreprocessingConfig
    cuts: tuple[Box, ...]
    classes: dict[str, tuple[SeenScan, ...]]
    unread: tuple[Unread, ...]
    n_scans: int
    n_development: int

    @property
    def scans(self) -> list[SeenScan]:
        """All scans that are shown."""
        return [scan for scans in self.classes.values() for scan in scans]

    def sizes(self, name: str, axis: int) -> tuple[float, float]:
        """Smallest and largest value of the attribute ``name`` of an axis over the scans that are shown."""
        values = [getattr(scan.facts.axes[axis], name) for scan in self.scans]
        return min(values), max(values)

    @property
    def augments(self) -> bool:
        """Whether training would augment anything."""
        return augments(self.config)

    @property
    def remarks(self) -> list[Sentence]:
        """Remarks that need several scans, see :func:`cohort_remarks`."""
        return cohort_remarks([scan.facts for scan in self.scans], [scan.modality for scan in self.scans])

    def html(self, language: Language = "en") -> str:
        """The page as HTML text; deterministic."""
        t = report_translator(language).reading(_HERE / "page")
        page = environment(_HERE, Path(picture.__file__).parent, t=t)
        page.filters |= {"mm": mm, "data_uri": picture.data_uri, "bar_mm": picture.bar_mm}
        return page.get_template(_TEMPLATE).render(
            preview=self, looks_at=self._looks_at(t), shown=[*map(self._shown, self.scans)]
        )

    def _looks_at(self, t: Translator) -> str:
        place = t(_LOOKS_AT[self.preprocessing.region])
        return t("{place} and nothing else", place=place) if self.preprocessing.isolate else place

    def _shown(self, scan: SeenScan) -> dict[str, Any]:
        """The pictures of a scan, by channel: planes of the input and of each random view, and the slices or tiles."""
        parts, config = shown_cuts(scan.parts), self.preprocessing
        grid = () if single_slices(scan.parts) else scan.parts
        channels = [
            {
                "number": number,
                "column": column,
                "input": input_planes(plain, config, grid),
                "draws": [input_planes(draw[number - 1], config, sides=False) for draw in scan.augmented],
                "parts": parts_picture(plain, config, parts) if parts else None,
                "n_parts": len(parts),
            }
            for number, (column, plain) in enumerate(zip(config.column_of_channel, scan.plain, strict=True), start=1)
        ]
        return {"scan": scan, "channels": channels}

    def _repr_html_(self) -> str:
        """The page in its own frame, so that its style does not affect the notebook's."""
        page = html.escape(self.html(self.config.report.language))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 48rem; border: 0"></iframe>'

    def write(self, out: Path | str, language: Language = "en") -> Path:
        """Write ``preview.html`` and a ``row-<n>.png`` per scan into a folder. Raises OutputError, FolderInUse."""
        out = Path(out)
        with sole_writer(out):
            for scan in self.scans:
                write_bytes(out / f"row-{scan.row}.png", scan_png(scan, self.preprocessing))
            write_text(out / PAGE, self.html(language))
        return out / PAGE

    def record(self) -> dict[str, Any]:
        """The preview as JSON-compatible values."""
        return {
            "input": self.preprocessing.model_dump(mode="json"),
            "parts": len(self.cuts),
            "remarks": list(self.remarks),
            "scans": [_record(scan) for scan in self.scans],
            "unread": [vars(one) for one in self.unread],
        }


def _record(scan: SeenScan) -> dict[str, Any]:
    facts = scan.facts
    axes = [
        {
            "axis": axis.name,
            "voxels": axis.voxels,
            "view_mm": axis.view_mm,
            "scan_mm": axis.scan_mm,
            "voxel_mm": axis.voxel_mm,
            "scan_voxel_mm": axis.scan_voxel_mm,
            "detail": axis.fate,
        }
        for axis in facts.axes
    ]
    shares = {"outside": facts.outside, "region_outside": facts.region_outside, "padding": facts.padding}
    channels = [vars(channel) for channel in facts.channels]
    texts = {"sentences": facts.sentences, "warnings": facts.warnings}
    return {
        "row": scan.row,
        "label": scan.label,
        "parts": len(scan.parts),
        "axes": axes,
        "channels": channels,
        **shares,
        **texts,
    }
