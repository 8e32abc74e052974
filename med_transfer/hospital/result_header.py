"""What all result objects of one study have in common: who made them, of what, and under which UIDs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydicom.uid import Comprehensive3DSRStorage, EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from med_transfer.bundle import BundleRecord, versions
from med_transfer.hospital.queue import FHIR, ResultFile
from med_transfer.hospital.uids import uid_of
from med_transfer.metrics.records.decisions import ChosenPoint

MANUFACTURER = "med_transfer"
RESEARCH_ONLY = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
DESCRIPTION = f"AI result: {RESEARCH_ONLY}"
_FOLLOWED = {  # whose UIDs tell what was sent before, the first kind that was
    "SR": Comprehensive3DSRStorage,
    "SC": SecondaryCaptureImageStorage,
    "DOC": EncapsulatedPDFStorage,
    "FHIR": FHIR,
}
_SERIES_NUMBERS = {"SR": 9801, "SC": 9802, "SEG": 9803, "PM": 9804, "KO": 9805, "DOC": 9806}


@dataclass(frozen=True)
class ResultHeader:
    """Of one revision of one study.

    Attributes:
        study_uid: StudyInstanceUID.
        basis: hash of all that the result follows from: images, bundle, and how results are written.
        revision: counts up when late images come.
        bundle: identity of the bundle.
        station: AE title of the node.
        classes, multilabel: of the bundle.
        operating_point: in words.
        chosen_point: how it came about, and each class's rates on validation scans; None: the bundle does not tell.
    """

    study_uid: str
    basis: str
    revision: int
    bundle: str
    station: str
    classes: tuple[str, ...]
    multilabel: bool
    operating_point: str
    chosen_point: ChosenPoint | None = None

    @classmethod
    def of(cls, record: BundleRecord, bundle: str, **study: object) -> ResultHeader:
        """With what the bundle says."""
        point = str(record.operating_point)
        own = {"classes": record.classes, "multilabel": record.multilabel, "operating_point": point}
        own["chosen_point"] = record.chosen_point
        return cls(bundle=bundle, **own, **study)  # pyright: ignore[reportArgumentType]

    def following(self, earlier: Sequence[ResultFile]) -> ResultHeader:
        """After these results of the study, in order; the last ones again where they say the same.

        What was said before and is said once more after something else is another report: with the first one's UID
        nobody would be sent it, and the last word would be what was taken back. Where no reports are sent, their place
        is taken by the first page, document or bundle of resources of each revision.
        """
        sent = {result.sop_class for result in earlier}
        kind = next((kind for kind, sop_class in _FOLLOWED.items() if sop_class in sent), "SR")
        of_kind = [result for result in reversed(earlier) if result.sop_class == _FOLLOWED[kind]]
        first = {result.revision: result.sop_uid for result in of_kind}  # the one that is written last was the first
        *before, last = [first[revision] for revision in sorted(first)] or [""]
        for after in ("", *before):
            again = replace(self, basis=f"{self.basis} {after}".strip())
            if again.sop_uid(kind) == last:
                return again
        return replace(self, basis=f"{self.basis} {last}") if self.sop_uid(kind) in before else self

    def series_uid(self, kind: str) -> str:
        """One series a kind of object, whatever the revision."""
        return uid_of("series", kind, self.study_uid, self.bundle)

    def sop_uid(self, kind: str, number: int = 0) -> str:
        """The same for the same images and bundle, for good."""
        return uid_of("instance", kind, number, self.study_uid, self.basis)

    def instance(self, kind: str, number: int = 0) -> dict[str, Any]:
        """What highdicom asks of one object, the ``number``-th of its kind in the study."""
        return {
            "series_instance_uid": self.series_uid(kind),
            "series_number": _SERIES_NUMBERS[kind],
            "sop_instance_uid": self.sop_uid(kind, number),
            "instance_number": 100 * (self.revision - 1) + number + 1,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.model_name,
            "software_versions": self.version,
            "series_description": DESCRIPTION,
        }

    @property
    def device_uid(self) -> str:
        """Of the node with this bundle."""
        return uid_of("device", self.station, self.bundle)

    @property
    def version(self) -> str:
        """Of the program."""
        return versions()["med-transfer"]

    @property
    def model_name(self) -> str:
        """Names the bundle."""
        return f"bundle {self.bundle[:16]}"

    @property
    def parameters(self) -> list[str]:
        """Of the algorithm, in words."""
        return [f"bundle SHA-256: {self.bundle}", f"operating point: {self.operating_point}"]

    def rates(self, name: str) -> tuple[str, ...]:
        """Sensitivity and specificity of a class on the bundle's validation scans; empty where it does not tell."""
        point = self.chosen_point
        if point is None or name not in point.sensitivity:
            return ()
        return point.sensitivity[name].in_percent, point.specificity[name].in_percent

    @property
    def rates_of(self) -> str:
        """Whom the rates are of."""
        point = self.chosen_point
        if point is None:
            return ""
        optimistic = "" if point.rule in ("argmax", "thresholds") else ", whom the point was chosen on: rather too high"
        return f"rates with 95 % interval on {point.n_patients} validation patients{optimistic}"
