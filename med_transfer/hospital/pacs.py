"""The PACS that the node queries: which studies it has, which images they contain, and retrieving them.

Source: C-FIND and C-MOVE of the Study Root Query/Retrieve Information Model, DICOM PS3.4 C.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.association import Association

from med_transfer.hospital.association import associate, rejection_code
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.settings.peers import Peer
from med_transfer.hospital.storage_classes import STORAGE_CLASSES
from med_transfer.scans.dicom.content_verdict import MODALITIES

FIND, MOVE = UID("1.2.840.10008.5.1.4.1.2.2.1"), UID("1.2.840.10008.5.1.4.1.2.2.2")
_PENDING = (0xFF00, 0xFF01)


class PacsFailed(Exception):
    """The PACS did not answer, or not as expected; ``reason`` is a code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class StudyQuery:
    """Criteria for studies; empty ones match anything.

    Attributes:
        study_uid: StudyInstanceUID.
        accession: AccessionNumber.
        dates: StudyDate, or a range of two with a hyphen (PS3.4 C.2.2.2.5).
        modality: modality of at least one series.
    """

    study_uid: str = ""
    accession: str = ""
    dates: str = ""
    modality: str = ""

    @property
    def keys(self) -> dict[str, str]:
        """The non-empty criteria by DICOM keyword."""
        keywords = ("StudyInstanceUID", "AccessionNumber", "StudyDate", "ModalitiesInStudy")
        values = (self.study_uid, self.accession, self.dates, self.modality)
        return {keyword: value for keyword, value in zip(keywords, values, strict=True) if value}


@dataclass(frozen=True)
class Fetched:
    """Number of images of a study that arrived, and of those that failed."""

    done: int
    failed: int

    def __add__(self, other: Fetched) -> Fetched:
        return Fetched(self.done + other.done, self.failed + other.failed)


class Pacs(Protocol):
    """A PACS, accessed by DIMSE or by DICOMweb."""

    def find(self, query: StudyQuery) -> list[str]:
        """Return the StudyInstanceUIDs of matching studies, in the PACS's order. Raises PacsFailed."""
        ...

    def images(self, study_uid: str) -> set[str]:
        """Return the SOPInstanceUIDs of a study's images in classes that the node accepts. Raises PacsFailed."""
        ...

    def fetch(self, study_uid: str) -> Fetched:
        """Transfer a study to the node. Raises PacsFailed."""
        ...


class DicomPacs:
    """Queried by C-FIND. Retrieval is by C-MOVE to the node, which must be running and whose AE title it must know."""

    def __init__(self, node: NodeConfig, peer: Peer, tls: ssl.SSLContext | None) -> None:
        self._node, self._peer, self._tls = node, peer, tls

    def find(self, query: StudyQuery) -> list[str]:
        """See Pacs."""
        keys = {"StudyInstanceUID": "", "StudyDate": "", "AccessionNumber": "", "ModalitiesInStudy": ""} | query.keys
        with associate(self._node, self._peer, self._tls, [FIND]) as association:
            answers = list(_ask(association, "STUDY", **keys))
        fitting = [answer for answer in answers if _has_modality(answer, query.modality)]
        return list(dict.fromkeys(str(answer.StudyInstanceUID) for answer in fitting if "StudyInstanceUID" in answer))

    def images(self, study_uid: str) -> set[str]:
        """See Pacs; an image whose class the PACS does not return is included if its series may contain images."""
        with associate(self._node, self._peer, self._tls, [FIND]) as association:
            found = list(_images(association, study_uid))
        return {str(image.SOPInstanceUID) for _, images in found for image in images if is_accepted(image)}

    def fetch(self, study_uid: str) -> Fetched:
        """See Pacs; requests only what the node accepts, since some PACSs otherwise send nothing at all."""
        fetched = Fetched(0, 0)
        with associate(self._node, self._peer, self._tls, [FIND, MOVE]) as association:
            for series_uid, images in list(_images(association, study_uid)):
                wanted = [str(image.SOPInstanceUID) for image in images if is_accepted(image)]
                keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
                if len(wanted) == len(images):
                    fetched += self._move(association, _identifier("SERIES", **keys))
                elif wanted:
                    fetched += self._move(association, _identifier("IMAGE", **keys, SOPInstanceUID=wanted))
        return fetched

    def _move(self, association: Association, identifier: Dataset) -> Fetched:
        done = failed = 0
        for status, _ in association.send_c_move(identifier, self._node.ae_title, MOVE):
            _require(status, (*_PENDING, 0x0000, 0xB000))
            done = max(done, _suboperations(status, "Completed") + _suboperations(status, "Warning"))
            failed = max(failed, _suboperations(status, "Failed"))
        return Fetched(done, failed)


def is_accepted(answer: Dataset) -> bool:
    """Whether the node would accept the image of an answer; an empty SOPClassUID is unknown and counts as accepted."""
    known = answer.get("SOPClassUID", "") or STORAGE_CLASSES[0]
    return known in STORAGE_CLASSES and bool(answer.get("SOPInstanceUID", ""))


def _has_modality(answer: Dataset, modality: str) -> bool:
    """Whether a study has the modality. Checked here, too, since not every PACS matches on ModalitiesInStudy."""
    modalities = answer.get("ModalitiesInStudy", None)
    return (
        not modality
        or not modalities
        or modality in ([modalities] if isinstance(modalities, str) else list(modalities))
    )


def _ask(association: Association, level: str, **keys: str) -> Iterator[Dataset]:
    if not association.is_established:
        raise PacsFailed(rejection_code(association))
    for status, answer in association.send_c_find(_identifier(level, **keys), FIND):
        _require(status, (*_PENDING, 0x0000))
        if answer is not None:
            yield answer


def _images(association: Association, study_uid: str) -> Iterator[tuple[str, list[Dataset]]]:
    """Yield the UID of each series that may contain images, and its instances."""
    series_keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": "", "Modality": ""}
    for series in list(_ask(association, "SERIES", **series_keys)):
        if (series.get("Modality", "") or "CT") in MODALITIES:
            keys = series_keys | {"SeriesInstanceUID": str(series.SeriesInstanceUID)}
            del keys["Modality"]
            yield keys["SeriesInstanceUID"], list(_ask(association, "IMAGE", **keys, SOPInstanceUID="", SOPClassUID=""))


def _suboperations(status: Dataset, kind: str) -> int:
    return int(status.get(f"NumberOf{kind}Suboperations", 0) or 0)


def _identifier(level: str, **keys: str | list[str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _require(status: Dataset, wanted: tuple[int, ...]) -> None:
    if "Status" not in status:
        raise PacsFailed("no_answer")
    if status.Status not in wanted:
        raise PacsFailed(f"refused_{status.Status:04X}")
