"""Received images on the node's disk: stored unchanged, under names that no sender can influence."""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.multival import MultiValue
from pydicom.uid import UID

from med_transfer.atomic import create_file
from med_transfer.errors import OutputError
from med_transfer.hospital.queue import Described, Instance, Queue
from med_transfer.hospital.storage_classes import IGNORED_CLASSES, STORAGE_CLASSES, TRANSFER_SYNTAXES

log = logging.getLogger(__name__)

_TAGS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID")
_SHOWN = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "accession": "AccessionNumber",
    "study_date": "StudyDate",
    "modality": "Modality",
    "description": "StudyDescription",
}
_LONGEST = 324  # characters: the three component groups of a PN value (PS3.5 6.2)


@dataclass(frozen=True)
class Received:
    """A received instance: identification by the command (or file meta information), and the file to be stored.

    Attributes:
        content: the file: preamble, file meta information, and the data set as received.
        data: the data set alone.
        priority: 1 high, 0 medium, -1 low.
        study_uid: UID of the study that the sender announced; empty: any.
    """

    sop_class: str
    sop_uid: str
    transfer_syntax: str
    content: bytes
    data: bytes
    priority: int = 0
    study_uid: str = ""


class RejectedInstance(Exception):
    """An instance that is refused; ``reason`` is a code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def received_file(content: bytes, study_uid: str = "") -> Received:
    """Parse a complete DICOM file, as received by DICOMweb. Raises RejectedInstance."""
    try:
        header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        meta = header.file_meta
        start = 144 + int(meta.FileMetaInformationGroupLength)  # PS3.10 7.1: preamble, DICM, the group's length
        sop_class, syntax = str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
        sop_uid = str(meta.MediaStorageSOPInstanceUID)
    except Exception:  # corrupt bytes make a parser raise nearly anything
        raise RejectedInstance("damaged") from None
    if sop_class not in (*STORAGE_CLASSES, *IGNORED_CLASSES):
        raise RejectedInstance("class_not_supported")
    if syntax not in TRANSFER_SYNTAXES and sop_class in STORAGE_CLASSES:
        raise RejectedInstance("syntax_not_supported")
    return Received(sop_class, sop_uid, syntax, content, content[start:], study_uid=study_uid)


def study_id(study_uid: str) -> str:
    """Short name of a study on disk, in status and in the record: 16 hexadecimal digits of a hash."""
    return hashlib.sha256(study_uid.encode()).hexdigest()[:16]


def describe(received: Received) -> Instance:
    """Describe an instance by its header. Raises RejectedInstance if that is damaged or contradicts the command."""
    try:
        tags = [*_TAGS, *_SHOWN.values()]
        header = dcmread(io.BytesIO(received.content), stop_before_pixels=True, specific_tags=tags)
        own = {keyword: str(header.get(keyword, "") or "") for keyword in _TAGS}
    except Exception:  # corrupt bytes make a parser raise nearly anything
        raise RejectedInstance("damaged") from None
    uids = [own[keyword] for keyword in _TAGS[:4]]
    if not all(uids):
        raise RejectedInstance("uid_missing")
    if not all(UID(uid).is_valid for uid in (*uids, received.sop_uid)):
        raise RejectedInstance("uid_invalid")
    if (own["SOPClassUID"], own["SOPInstanceUID"]) != (received.sop_class, received.sop_uid):
        raise RejectedInstance("not_as_announced")
    if received.study_uid not in ("", own["StudyInstanceUID"]):
        raise RejectedInstance("not_as_announced")
    study = own["StudyInstanceUID"]
    patient = "\0".join((study, own["PatientID"]))  # archives add or change IssuerOfPatientID, modalities omit it
    return Instance(
        sop_uid=received.sop_uid,
        study=study_id(study),
        study_uid=study,
        series_uid=own["SeriesInstanceUID"],
        patient_mark=hashlib.sha256(patient.encode()).hexdigest(),
        sop_class=received.sop_class,
        transfer_syntax=received.transfer_syntax,
        sha256=hashlib.sha256(received.data).hexdigest(),
        file=f"incoming/{study_id(study)}/{uuid.uuid4().hex}.dcm",
        described=_described(header),
    )


def _described(header: Dataset) -> Described:
    """Values for the review page; unreadable ones are empty, since they are no reason to refuse an image."""
    try:
        values = {name: _text(header.get(keyword, ""))[:_LONGEST] for name, keyword in _SHOWN.items()}
    except Exception:  # corrupt bytes make a parser raise nearly anything
        return Described()
    return Described(**values)


def _text(value: object) -> str:
    """Text as it was typed: pydicom splits a description such as CHEST\\ABDOMEN at the backslash."""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")


def describe_earlier(folder: Path, queue: Queue) -> None:
    """Add patient and study descriptions to studies that were received by a version which did not store them."""
    for study, file in queue.undescribed():
        try:
            header = dcmread(folder / file, stop_before_pixels=True, specific_tags=[*_SHOWN.values()])
        except Exception:  # corrupt bytes make a parser raise nearly anything
            header = Dataset()
        queue.describe(study, _described(header))


def keep(folder: Path, queue: Queue, received: Received, now: float, max_instances: int) -> bool:
    """Write an instance to disk and add it to the queue; a duplicate, in any encoding, counts as stored.

    Returns:
        Whether it is kept; False for objects of classes that are accepted and discarded.

    Raises:
        RejectedInstance: it is refused.
        OutputError: it cannot be written.
    """
    if received.sop_class in IGNORED_CLASSES:
        log.info("an object that holds no image to predict was passed over: %s", UID(received.sop_class).name)
        return False
    instance = describe(received)
    added = queue.would_add(instance, max_instances)
    if added == "new":
        file = folder / instance.file
        create_file(file, received.content, 0o666)  # the name is new, so nobody reads it yet
        try:
            added = queue.add(instance, now, max_instances, received.priority)
        except OutputError:  # the sender will retry
            file.unlink(missing_ok=True)
            raise
        if added == "new":
            _write_again_if_swept(file, received.content)
        else:
            file.unlink(missing_ok=True)
    if added == "conflict" and _is_here(folder, queue, instance, received.content):
        added = "known"
    if added not in ("new", "known"):
        raise RejectedInstance(added.replace(" ", "_"))
    return True


def _is_here(folder: Path, queue: Queue, instance: Instance, content: bytes) -> bool:
    """Whether the study has the same image in another encoding; modality and PACS may use different ones."""
    file = queue.file_of(instance.study, instance.sop_uid)
    try:
        return bool(file) and _standard_values(_read(folder / file)) == _standard_values(_read(io.BytesIO(content)))
    except Exception:  # corrupt bytes make a parser raise nearly anything
        return False


def _read(file: Path | io.BytesIO) -> Dataset:
    """Read a data set, and resolve VRs that implicit VR leaves ambiguous (PS3.5 A.1)."""
    return correct_ambiguous_vr(dcmread(file), is_little_endian=True)


def _standard_values(dataset: Dataset) -> dict[int, object]:
    """Values of all standard elements, including pixels; private ones differ between encodings of the same image."""
    return {
        int(element.tag): [_standard_values(item) for item in element.value] if element.VR == "SQ" else element.value
        for element in dataset
        if not element.tag.is_private and element.tag.element != 0  # group length
    }


def keep_aside(folder: Path, queue: Queue, reason: str, caller: str, content: bytes, now: float) -> None:
    """Keep a refused instance for inspection. Raises OutputError."""
    file = f"aside/{uuid.uuid4().hex}.dcm"
    create_file(folder / file, content, 0o666)
    queue.set_aside(reason, caller, file, now)
    _write_again_if_swept(folder / file, content)


def _write_again_if_swept(file: Path, content: bytes) -> None:
    """Write a file again if :func:`sweep` of a starting node deleted it before it was in the queue."""
    if not file.exists():
        create_file(file, content, 0o666)


def sweep(folder: Path, queue: Queue) -> int:
    """Remove the remains of a killed node: images that were never acknowledged, and viewer files of deleted images.

    Returns:
        Number of images removed.
    """
    there = [*(folder / "incoming").glob("*/*"), *(folder / "aside").glob("*.dcm")]
    with queue.writing():  # a fetch in another process waits for this, then checks its file
        known = queue.files()
        left = [path for path in there if str(path.relative_to(folder)) not in known]
        for path in left:
            path.unlink(missing_ok=True)
    for views in (folder / "viewer").glob("*"):
        if not queue.images_here(views.name):
            shutil.rmtree(views, ignore_errors=True)
    return len(left)


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study, and the disk space that its images take."""

    study: str
    files: int
    bytes: int


def finished_studies(folder: Path, queue: Queue, before: float) -> list[FinishedStudy]:
    """Studies that were finished before the given time, with no storage commitment pending."""
    found = []
    for study in queue.to_forget(before):
        sizes = [path.stat().st_size for path in (folder / "incoming" / study).glob("*")]
        found.append(FinishedStudy(study, len(sizes), sum(sizes)))
    return found


def forget(
    folder: Path, queue: Queue, before: float, tell: Callable[[str], object] = lambda study: None
) -> list[FinishedStudy]:
    """Delete the images of studies finished before the given time; return those studies. Reopened ones are kept.

    ``tell`` is called with each study before its images are deleted.
    """
    gone = []
    for one in finished_studies(folder, queue, before):
        files = queue.forgotten(one.study, before)
        if not files:
            continue
        tell(one.study)
        gone.append(one)
        for file in files:
            (folder / file).unlink(missing_ok=True)
        shutil.rmtree(folder / "viewer" / one.study, ignore_errors=True)
        with suppress(OSError):  # not empty if an image has just arrived
            (folder / "incoming" / one.study).rmdir()
    return gone


def forget_aside(folder: Path, queue: Queue, before: float) -> int:
    """Delete files set aside before the given time; return how many. The reasons stay in the queue."""
    files = queue.forgotten_aside(before)
    for file in files:
        (folder / file).unlink(missing_ok=True)
    return len(files)
