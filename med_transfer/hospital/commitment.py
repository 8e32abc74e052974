"""What a PACS answers about storage commitment, on whichever association it comes. Source: DICOM PS3.4 J.3.3."""

from __future__ import annotations

import time

from pydicom.uid import UID
from pynetdicom import evt

from med_transfer.hospital.queue import Queue
from med_transfer.hospital.server import SUCCESS

STORAGE_COMMITMENT, COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1"), UID("1.2.840.10008.1.20.1.1")
INVALID = 0x0115  # argument value


def hear(event: evt.Event, queue: Queue, sender: str = "") -> tuple[int, None]:
    """N-EVENT-REPORT: what the sender commits to, and what not; ``sender``: of an association that the node opened."""
    try:
        report = event.event_information
        refused = report.get("FailedSOPSequence", None) or []
        failed = {str(one.ReferencedSOPInstanceUID): int(one.get("FailureReason", 0)) for one in refused}
        committed = {str(one.ReferencedSOPInstanceUID) for one in report.get("ReferencedSOPSequence", None) or []}
        transaction = str(report.TransactionUID)
    except Exception:  # a data set of a stranger may hold anything
        return INVALID, None
    queue.answered(transaction, sender or event.assoc.requestor.ae_title.strip(), committed, failed, time.time())
    return SUCCESS, None
