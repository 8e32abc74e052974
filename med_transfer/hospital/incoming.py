"""Received images on the node's disk: as they came, under names that nobody outside has chosen."""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import uuid
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
from med_transfer.hospital.storage_classes import PASSED_OVER, STORAGE_CLASSES, TRANSFER_SYNTAXES

log = logging.getLogger(__name__)

_TAGS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID")
_SHOWN = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "accession": "AccessionNumber",
    "study_date": "StudyDate",
    "modality": "Modality",
    "description": "StudyDescription",
}
_LONGEST = 324  # letters: three groups of a person's name (PS3.5 6.2)


@dataclass(frozen=True)
class Received:
    """What an association brought: what its command says, and the file as it is to be kept.

    Attributes:
        content: the file: preamble, meta information, and the data set as received.
        data: the data set alone.
        priority: 1 high, 0 medium, -1 low.
        study_uid: of the study that it is said to be of; empty: any.
    """

    sop_class: str
    sop_uid: str
    transfer_syntax: str
    content: bytes
    data: bytes
    priority: int = 0
    study_uid: str = ""


class Unfit(Exception):
    """An instance that is not taken: ``reason`` is a code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def received_file(content: bytes, study_uid: str = "") -> Received:
    """A file that came as one, by DICOMweb. Raises Unfit."""
    try:
        header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        meta = header.file_meta
        start = 144 + int(meta.FileMetaInformationGroupLength)  # PS3.10 7.1: preamble, DICM, the group's length
        sop_class, syntax = str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
        sop_uid = str(meta.MediaStorageSOPInstanceUID)
    except Exception:  # corrupt bytes make a parser raise nearly anything
        raise Unfit("damaged") from None
    if sop_class not in (*STORAGE_CLASSES, *PASSED_OVER):
        raise Unfit("class_not_supported")
    if syntax not in TRANSFER_SYNTAXES and sop_class in STORAGE_CLASSES:
        raise Unfit("syntax_not_supported")
    return Received(sop_class, sop_uid, syntax, content, content[start:], study_uid=study_uid)


def study_id(study_uid: str) -> str:
    """What a study is called on the disk, in status and in the record."""
    return hashlib.sha256(study_uid.encode()).hexdigest()[:16]


def describe(received: Received) -> Instance:
    """What an instance is, by its own header, where it agrees with the command. Raises Unfit."""
    try:
        tags = [*_TAGS, *_SHOWN.values()]
        header = dcmread(io.BytesIO(received.content), stop_before_pixels=True, specific_tags=tags)
        own = {keyword: str(header.get(keyword, "") or "") for keyword in _TAGS}
    except Exception:  # corrupt bytes make a parser raise nearly anything
        raise Unfit("damaged") from None
    uids = [own[keyword] for keyword in _TAGS[:4]]
    if not all(uids):
        raise Unfit("uid_missing")
    if not all(UID(uid).is_valid for uid in (*uids, received.sop_uid)):
        raise Unfit("uid_invalid")
    if (own["SOPClassUID"], own["SOPInstanceUID"]) != (received.sop_class, received.sop_uid):
        raise Unfit("not_as_announced")
    if received.study_uid not in ("", own["StudyInstanceUID"]):
        raise Unfit("not_as_announced")
    study = own["StudyInstanceUID"]
    patient = "\0".join((study, own["PatientID"], own["IssuerOfPatientID"]))
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
    """What the page shows; what cannot be read is empty there, and no reason to refuse an image."""
    try:
        said = {name: _text(header.get(keyword, ""))[:_LONGEST] for name, keyword in _SHOWN.items()}
    except Exception:  # corrupt bytes make a parser raise nearly anything
        return Described()
    return Described(**said)


def _text(value: object) -> str:
    """As it was typed: a backslash in a description, as of CHEST\\ABDOMEN, makes several values of it."""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")


def describe_earlier(folder: Path, queue: Queue) -> None:
    """Whose the studies are that came before the queue kept it; one that cannot be read stays without a name."""
    for study, file in queue.undescribed():
        try:
            header = dcmread(folder / file, stop_before_pixels=True, specific_tags=[*_SHOWN.values()])
        except Exception:  # corrupt bytes make a parser raise nearly anything
            header = Dataset()
        queue.describe(study, _described(header))


def keep(folder: Path, queue: Queue, received: Received, now: float, most: int) -> bool:
    """Write an instance and put it into the queue; one that is there already, in any encoding, is taken as sent.

    Returns:
        Whether it is kept; an object of another kind than the images that are predicted is passed over.

    Raises:
        Unfit: it is not taken.
        OutputError: it cannot be written.
    """
    if received.sop_class in PASSED_OVER:
        log.info("an object that holds no image to predict was passed over: %s", UID(received.sop_class).name)
        return False
    instance = describe(received)
    added = queue.judge(instance, most)
    if added == "new":
        file = folder / instance.file
        create_file(file, received.content, 0o666)  # under a name of its own, which no one knows yet
        try:
            added = queue.add(instance, now, most, received.priority)
        except OutputError:  # it will be sent again, and must not be there twice
            file.unlink(missing_ok=True)
            raise
        if added == "new":
            _write_again_if_swept(file, received.content)
        else:
            file.unlink(missing_ok=True)
    if added == "conflict" and _is_here(folder, queue, instance, received.content):
        added = "known"
    if added not in ("new", "known"):
        raise Unfit(added.replace(" ", "_"))
    return True


def _is_here(folder: Path, queue: Queue, instance: Instance, content: bytes) -> bool:
    """Whether the study has the same image in another encoding: a modality sends it one way, the PACS on another."""
    file = queue.file_of(instance.study, instance.sop_uid)
    try:
        return bool(file) and _said(_read(folder / file)) == _said(_read(io.BytesIO(content)))
    except Exception:  # corrupt bytes make a parser raise nearly anything
        return False


def _read(file: Path | io.BytesIO) -> Dataset:
    """With numbers where implicit VR leaves open which kind they are of (PS3.5 A.1)."""
    return correct_ambiguous_vr(dcmread(file), is_little_endian=True)


def _said(dataset: Dataset) -> dict[int, object]:
    """What an image says in elements of the standard, pixels among them: encodings name those of makers differently."""
    return {
        int(element.tag): [_said(item) for item in element.value] if element.VR == "SQ" else element.value
        for element in dataset
        if not element.tag.is_private and element.tag.element != 0  # the length of a group
    }


def keep_aside(folder: Path, queue: Queue, reason: str, caller: str, content: bytes, now: float) -> None:
    """Keep what was not taken, for a person to look at. Raises OutputError."""
    file = f"aside/{uuid.uuid4().hex}.dcm"
    create_file(folder / file, content, 0o666)
    queue.set_aside(reason, caller, file, now)
    _write_again_if_swept(folder / file, content)


def _write_again_if_swept(file: Path, content: bytes) -> None:
    """A node that begins while another process fetches takes a file for what a kill left, until the queue knows it."""
    if not file.exists():
        create_file(file, content, 0o666)


def sweep(folder: Path, queue: Queue) -> int:
    """Remove what a kill left behind: images that no sender was told were taken, and views of images that are deleted.

    Returns:
        How many images.
    """
    there = [*(folder / "incoming").glob("*/*"), *(folder / "aside").glob("*.dcm")]
    with queue.writing():  # who fetches in another process puts a file there, then waits for this, then looks again
        known = queue.files()
        left = [path for path in there if str(path.relative_to(folder)) not in known]
        for path in left:
            path.unlink(missing_ok=True)
    for views in (folder / "viewer").glob("*"):
        if not queue.images_here(views.name):
            shutil.rmtree(views, ignore_errors=True)
    return len(left)


@dataclass(frozen=True)
class Ended:
    """A study that is done, and how much of the disk its images take."""

    study: str
    files: int
    bytes: int


def ended(folder: Path, queue: Queue, before: float) -> list[Ended]:
    """Studies that ended before, and of which no commitment is awaited."""
    found = []
    for study in queue.to_forget(before):
        sizes = [path.stat().st_size for path in (folder / "incoming" / study).glob("*")]
        found.append(Ended(study, len(sizes), sum(sizes)))
    return found


def forget(folder: Path, queue: Queue, before: float) -> list[Ended]:
    """Delete the images of studies that ended before; which studies. One that was opened again meanwhile keeps them."""
    gone = []
    for one in ended(folder, queue, before):
        files = queue.forgotten(one.study, before)
        if not files:
            continue
        gone.append(one)
        for file in files:
            (folder / file).unlink(missing_ok=True)
        shutil.rmtree(folder / "viewer" / one.study, ignore_errors=True)
        with suppress(OSError):  # an image that comes now has a place there
            (folder / "incoming" / one.study).rmdir()
    return gone


def forget_aside(folder: Path, queue: Queue, before: float) -> int:
    """Delete what was set aside before; how many files. Why it was stays in the queue."""
    files = queue.forgotten_aside(before)
    for file in files:
        (folder / file).unlink(missing_ok=True)
    return len(files)
