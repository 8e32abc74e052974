"""What all result objects of one study have in common: their origin, their basis, and their UIDs."""

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
_FOLLOWED = {  # kinds of objects whose UIDs identify earlier revisions; the first that was sent is used
    "SR": Comprehensive3DSRStorage,
    "SC": SecondaryCaptureImageStorage,
    "DOC": EncapsulatedPDFStorage,
    "FHIR": FHIR,
}
_SERIES_NUMBERS = {"SR": 9801, "SC": 9802, "SEG": 9803, "PM": 9804, "KO": 9805, "DOC": 9806}


@dataclass(frozen=True)
class ResultHeader:
    """Common attributes of the results of one revision of one study.

    Attributes:
        study_uid: StudyInstanceUID.
        basis: hash of everything that determines the result: images, bundle, and how results are written.
        revision: counted from 1; increases when late images arrive or the study is predicted anew.
        bundle: identity of the bundle.
        station: AE title of the node.
        classes, multilabel: the bundle's classes, and whether a scan can have several.
        operating_point: operating point as text.
        chosen_point: how it was chosen, with each class's rates on validation scans; None: not stored in the bundle.
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
        """Create a header from a bundle's record and identity; ``study`` gives the remaining attributes."""
        point = str(record.operating_point)
        own = {"classes": record.classes, "multilabel": record.multilabel, "operating_point": point}
        own["chosen_point"] = record.chosen_point
        return cls(bundle=bundle, **own, **study)  # pyright: ignore[reportArgumentType]

    def following(self, earlier: Sequence[ResultFile]) -> ResultHeader:
        """Return the header to use after earlier results of the study, in order; the last one's if it says the same.

        A result that returns to what was said before an intermediate revision must be a new object. With the UID of the
        first it would not be sent, and the withdrawn result would stay the last one. Revisions are identified by their
        report or, if none was sent, by their first page, document or bundle of FHIR resources.
        """
        sent = {result.sop_class for result in earlier}
        kind = next((kind for kind, sop_class in _FOLLOWED.items() if sop_class in sent), "SR")
        of_kind = [result for result in reversed(earlier) if result.sop_class == _FOLLOWED[kind]]
        first = {result.revision: result.sop_uid for result in of_kind}  # first object of each revision
        *before, last = [first[revision] for revision in sorted(first)] or [""]
        for after in ("", *before):
            again = replace(self, basis=f"{self.basis} {after}".strip())
            if again.sop_uid(kind) == last:
                return again
        return replace(self, basis=f"{self.basis} {last}") if self.sop_uid(kind) in before else self

    def series_uid(self, kind: str) -> str:
        """SeriesInstanceUID; one per kind of object, the same for all revisions."""
        return uid_of("series", kind, self.study_uid, self.bundle)

    def sop_uid(self, kind: str, number: int = 0) -> str:
        """SOPInstanceUID; reproducible from the study and the basis."""
        return uid_of("instance", kind, number, self.study_uid, self.basis)

    def instance(self, kind: str, number: int = 0) -> dict[str, Any]:
        """Arguments of highdicom's classes for the ``number``-th object of its kind in the study."""
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
        """UID of the node with this bundle."""
        return uid_of("device", self.station, self.bundle)

    @property
    def version(self) -> str:
        """Version of med-transfer."""
        return versions()["med-transfer"]

    @property
    def model_name(self) -> str:
        """Name of the bundle, as the manufacturer's model name."""
        return f"bundle {self.bundle[:16]}"

    @property
    def parameters(self) -> list[str]:
        """Parameters of the algorithm, as text."""
        return [f"bundle SHA-256: {self.bundle}", f"operating point: {self.operating_point}"]

    def rates(self, name: str) -> tuple[str, ...]:
        """Sensitivity and specificity of a class on the validation scans, in percent; empty if not in the bundle."""
        point = self.chosen_point
        if point is None or name not in point.sensitivity:
            return ()
        return point.sensitivity[name].in_percent, point.specificity[name].in_percent

    @property
    def rates_of(self) -> str:
        """Describes the patients that the rates were measured on; empty if there are no rates."""
        point = self.chosen_point
        if point is None:
            return ""
        optimistic = ", whom the point was chosen on: rather too high" if point.optimistic else ""
        return f"rates with 95 % interval on {point.n_patients} validation patients{optimistic}"
