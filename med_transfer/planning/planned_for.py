"""What a plan was made from, kept in its file, and whether another cohort is of the same kind."""

from __future__ import annotations

from collections.abc import Iterable

from med_transfer.config import StrictModel
from med_transfer.errors import ConfigError
from med_transfer.planning.fingerprint import CohortFingerprint, Triple

SIZE_FACTOR = 1.5  # times larger or smaller
_OUTER_PERCENTILES = (5, 95)  # percentiles of the scans that a plan looked at

Range = tuple[Triple, Triple]


class PlannedFor(StrictModel):
    """A cohort as its plan saw it: counts and medians, nothing of a patient.

    Attributes:
        modality: empty where the files state none and hold no Hounsfield units.
        classes: class or finding to its patients.
        multilabel: several findings a scan.
        patients, scans: in the table.
        body_region, plane, channels: see :class:`~med_transfer.planning.CohortFingerprint`.
        spacing_mm: along slice, row and column.
        body_mm: along depth, height and width.
        regions: whether every row gives a region or mask.
        spacing_range_mm, body_range_mm: 5th and 95th percentile of each side; plans of earlier versions have none.
    """

    modality: str
    classes: dict[str, int]
    multilabel: bool
    patients: int
    scans: int
    body_region: str
    plane: str
    channels: tuple[str, ...]
    spacing_mm: Triple
    body_mm: Triple
    regions: bool
    spacing_range_mm: Range | None = None
    body_range_mm: Range | None = None

    @classmethod
    def of(cls, cohort: CohortFingerprint) -> PlannedFor:
        """What is kept of a fingerprint."""
        return cls(
            modality=cohort.modality,
            classes=dict(cohort.patients_of_class),
            multilabel=cohort.multilabel,
            patients=cohort.n_patients,
            scans=cohort.n_scans,
            body_region=cohort.body_region,
            plane=cohort.plane,
            channels=cohort.channels,
            spacing_mm=_rounded(cohort.spacing_mm),
            body_mm=_rounded(cohort.box_mm("body")),
            regions=cohort.n_with_region == cohort.n_scans,
            spacing_range_mm=_range(map(cohort.spacing_at, _OUTER_PERCENTILES)),
            body_range_mm=_range(cohort.box_mm("body", percentile) for percentile in _OUTER_PERCENTILES),
        )

    def differences(self, here: PlannedFor, where: object = "") -> list[str]:
        """What is merely different of the cohort that is ``here``, a sentence each.

        Raises:
            ConfigError: the plan cannot fit it: another modality and so other units, or another number of classes.
        """
        kinds = [
            ("modality", self.modality or _NO_UNITS, here.modality or _NO_UNITS),
            ("classes", _classes(self), _classes(here)),
        ]
        for what, planned, found in kinds:
            if planned != found:
                raise ConfigError(
                    f"the config was planned for {what} {planned}, and the table has {found}",
                    where=where,
                    expected="a cohort of the kind that it was planned for",
                    action="Plan again with `med-transfer plan`; to use these settings anyway, remove the section "
                    "planned_for from the file",
                )
        pairs = [
            ("class names", sorted(self.classes), sorted(here.classes)),
            ("patients of each class", self.classes, here.classes),
            ("scan columns", self.channels, here.channels),
            ("regions in every row", self.regions, here.regions),
            ("slices", self.plane, here.plane),
        ]
        if "unknown" not in (self.body_region, here.body_region):
            pairs.append(("part of the body", self.body_region, here.body_region))
        differences = [
            f"{what}: planned for {_shown(before)}, here {_shown(now)}" for what, before, now in pairs if before != now
        ]
        sizes = [
            ("spacing", self.spacing_mm, self.spacing_range_mm, here.spacing_mm),
            ("body", self.body_mm, self.body_range_mm, here.body_mm),
        ]
        return differences + [
            f"{what}: planned for {_shown(before)} mm, here {_shown(now)} mm"
            for what, before, usual, now in sizes
            if not _is_similar(now, before, usual or (before, before))
        ]


_NO_UNITS = "not stated, without Hounsfield units"


def _classes(cohort: PlannedFor) -> str:
    return f"{len(cohort.classes)} ({'several' if cohort.multilabel else 'one'} a scan)"


def _is_similar(now: Triple, median: Triple, usual: Range) -> bool:
    """Whether it is near the median, or no further from it than most scans: a few of these are looked at."""
    return all(
        min(middle / SIZE_FACTOR, low) <= size <= max(middle * SIZE_FACTOR, high)
        for size, middle, low, high in zip(now, median, *usual, strict=True)
    )


def _range(ends: Iterable[Triple]) -> Range:
    low, high = map(_rounded, ends)
    return low, high


def _rounded(mm: Triple) -> Triple:
    first, second, third = (float(f"{one:.3g}") for one in mm)
    return first, second, third


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {n}" for name, n in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
