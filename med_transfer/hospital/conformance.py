"""Generate docs/hospital/conformance.md: ``python -m med_transfer.hospital.conformance``."""

from __future__ import annotations

import sys
import textwrap

from pydicom.uid import UID

from med_transfer.hospital.association import PLAIN_SYNTAXES
from med_transfer.hospital.availability import AVAILABILITY
from med_transfer.hospital.commitment import STORAGE_COMMITMENT
from med_transfer.hospital.config import Limits
from med_transfer.hospital.pacs import FIND, MOVE
from med_transfer.hospital.receiver import STATUS, VERIFICATION
from med_transfer.hospital.sender import RESULT_CLASSES
from med_transfer.hospital.storage_classes import STORAGE_CLASSES, TRANSFER_SYNTAXES, VENDOR_CLASSES

_STATUSES = [
    ("0000", "stored, or stored before with the same content in any encoding; or ignored"),
    ("0124", "the caller may not store"),
    ("A700", "the disk is nearly full or cannot be written"),
]


def statement() -> str:
    """The DICOM conformance statement as Markdown."""
    plain = ", ".join(UID(one).name for one in PLAIN_SYNTAXES)
    receive = [*((UID(uid), "SCP", "all of those below") for uid in STORAGE_CLASSES), (VERIFICATION, "SCP", plain)]
    send = [(UID(uid), "SCU", plain) for uid in RESULT_CLASSES]
    commit = [(UID(STORAGE_COMMITMENT), "SCU", f"{plain}; N-EVENT-REPORT on either association")]
    ask = [(AVAILABILITY, "SCP", plain), (FIND, "SCU", plain), (MOVE, "SCU", plain)]
    services = [(uid.name, str(uid), role, syntaxes) for uid, role, syntaxes in (*receive, *send, *commit, *ask)]
    statuses = [(f"{status:04X}", reason.replace("_", " ")) for reason, status in STATUS.items()]
    return f"""# DICOM conformance statement

Generated from the code by `python -m med_transfer.hospital.conformance`. Research use only, not a medical device.

## Services

{_table(("SOP class", "UID", "role", "transfer syntaxes"), services)}

Images are stored as they were received.

{_ignored_classes()}

## Transfer syntaxes of received images

{_table(("name", "UID"), [(UID(uid).name, uid) for uid in TRANSFER_SYNTAXES])}

Deflated Explicit VR Little Endian is not accepted: its unpacked size has no bound.

## Associations

{_associations()}

## Status of C-STORE

{_table(("status", "when"), [*_STATUSES, *statuses])}

An instance answered with C000, C001, A900 or 0111 is set aside with its reason, and the association continues.

Only STOW-RS answers 0122 and C122; by DIMSE such an instance is not negotiated.

## Completeness of a study

An Instance Availability Notification (N-CREATE, PS3.4 R) from a caller names the instances of a study. The study is
complete when those that are ONLINE or NEARLINE, of the classes above, have arrived. Where node.yaml has a section
`pacs`, the node queries that PACS after the quiet time by C-FIND (Study Root; levels SERIES and IMAGE, keys Modality,
SOPInstanceUID and SOPClassUID) or by QIDO-RS, and the study waits for missing instances. `med-transfer node fetch`
queries it for studies (level STUDY; keys StudyInstanceUID, AccessionNumber, StudyDate, ModalitiesInStudy) and has their
images sent by C-MOVE (levels SERIES and IMAGE) to the node's AE title, or retrieves them by WADO-RS.

## DICOMweb

As an origin server, where node.yaml has a section `web`, the node supports STOW-RS: POST to /dicom-web/studies and
/dicom-web/studies/{{study}}, multipart/related of application/dicom. The answer is application/dicom+json with
ReferencedSOPSequence and FailedSOPSequence. Every limit of C-STORE applies here, too.

| status | when |
| -- | -- |
| 200, 202, 409 | every instance, some, or none was stored |
| 400 | the parts cannot be separated |
| 401 | no or a wrong bearer token |
| 408 | timeout |
| 413 | an instance beyond the limit |
| 415 | another media type |
| 503 | too many simultaneous requests, or the disk is nearly full |

As a user agent (PS3.18 10), the node sends QIDO-RS and WADO-RS requests to the `pacs`, and STOW-RS requests to a
destination of kind dicomweb, one instance per request. An instance counts as accepted when the answer names it in
ReferencedSOPSequence and FailedSOPSequence is empty.

## Worklist

As a user agent (PS3.18 11; the performer of PS3.4 CC), where node.yaml has a section `workitems`, the node uses Search
(ProcedureStepState, WorklistLabel, Code Value and Coding Scheme Designator of ScheduledStationNameCodeSequence and
ScheduledWorkitemCodeSequence), Retrieve, Change Workitem State, Update, Subscribe, and the event channel (WebSocket).
It ignores items whose InputReadinessState is not READY. A data set is sent as one JSON object, or as an array of one
where `as_array` is set; the Transaction UID is in the query and in the data set of an Update.

| answer | what the node does |
| -- | -- |
| 400, 404, 409, 410 to the first claim | leaves the item to others |
| the same to a repeated claim | presents its Transaction UID in an Update; the performer that holds it continues |
| the same later | retrieves the item: has it ended, does another hold it, or does the server know of no claim |
| any other, or none | retries at growing intervals |

Procedure Step Progress is 10 while the node waits for the study, 30 when the study is complete and 80 while results are
being sent.

An item is COMPLETED when every destination has its results (and has committed to them, where requested). Its Unified
Procedure Step Performed Procedure Sequence has station, work code, start, end, and in the Output Information Sequence
each series of results with its instances and where to retrieve them (DICOM or WADO-RS Retrieval Sequence).

An item is CANCELED, with Reason For Cancellation and a discontinuation code, when no series could be predicted (results
that say so are named, too), when its input is not one study or did not arrive in time, when a result became a dead
letter, or when an event requests it before the study is predicted; a later request is ignored.

## Results

The node creates Comprehensive 3D SR (TID 1500; per series a TID 1501 group with algorithm identification, TID 4019) and
Secondary Capture; where node.yaml requests them, also Segmentation (binary) and Parametric Map (float) of the heat map,
Key Object Selection (TID 2010) and Encapsulated PDF. All are in new series of the study they describe. The SR is
complete, unverified and preliminary. SOP Instance UIDs (2.25, PS3.5 B.2) are derived from the images, the bundle and
the settings. A later revision names the earlier report in its Predecessor Documents Sequence. Classes have the site's
codes, or those of the private scheme 99MEDTRANSFER, which every report declares. C-STORE answers 0000, B000, B006, B007
and 0111 (the archive already has it) count as accepted; anything else is retried.

## Security

DICOM TLS 1.2 or newer, both sides with a certificate (PS3.15 B.9, BCP 195), where node.yaml has a section `tls`.
Without it, only AE titles and addresses are checked, which is no security on an open network.

## Character sets

Results are written in ISO_IR 100 (Latin 1) where it has all the characters, otherwise in ISO_IR 192 (UTF-8); images may
use any.
"""


def _ignored_classes() -> str:
    text = f"""Every other storage class of the standard, and the private ones that vendors add to a study
({", ".join(VENDOR_CLASSES)}), is negotiated in every transfer syntax, answered with 0000 and **ignored**: the node
keeps only what it can predict, and forwarding a whole study must not fail because of its dose report. The node is not
an archive, and not a provider of Storage Commitment. Any other class or syntax is refused at association
negotiation."""
    return _filled(text)


def _associations() -> str:
    limits = Limits()
    text = f"""Called and calling AE title and the caller's address must be those of node.yaml; otherwise the answer
is rejected-permanent, calling (3) or called (7) AE title not recognised. More than {limits.associations} simultaneous
associations, or a nearly full disk, are answered with rejected-transient, local limit exceeded. A PDU has at most
{limits.pdu_kib} KiB, an instance {limits.instance_mib:g} MiB; a connection that exceeds this, or is silent for
{limits.network_seconds:g} s, is closed. These are the defaults of node.yaml. Asynchronous operations, user identity and
extended negotiation are not used."""
    return _filled(text)


def _filled(text: str) -> str:
    """Text wrapped at 120 characters, as on the other pages."""
    return textwrap.fill(" ".join(text.split()), 120)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("--" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(statement())
