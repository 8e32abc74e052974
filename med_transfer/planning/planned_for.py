"""What a plan was made from, kept in its file, and whether another cohort is of the same kind."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from med_transfer.errors import ConfigError
from med_transfer.planning.fingerprint import CohortFingerprint, Triple

ALIKE = 1.5  # times larger or smaller


class PlannedFor(BaseModel):
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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
                    action="Plan anew with `med-transfer plan`; to use its settings all the same, take the section "
                    "planned_for out of the file",
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
        told = [
            f"{what}: planned for {_shown(before)}, here {_shown(now)}" for what, before, now in pairs if before != now
        ]
        sizes = [("spacing", self.spacing_mm, here.spacing_mm), ("body", self.body_mm, here.body_mm)]
        return told + [
            f"{what}: planned for {_shown(before)} mm, here {_shown(now)} mm"
            for what, before, now in sizes
            if any(not 1 / ALIKE <= a / b <= ALIKE for a, b in zip(now, before, strict=True))
        ]


_NO_UNITS = "not stated, without Hounsfield units"


def _classes(cohort: PlannedFor) -> str:
    return f"{len(cohort.classes)} ({'several' if cohort.multilabel else 'one'} a scan)"


def _rounded(mm: Triple) -> Triple:
    first, second, third = (float(f"{one:.3g}") for one in mm)
    return first, second, third


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {n}" for name, n in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
