"""A PACS's answers to storage commitment requests, on any association. Source: DICOM PS3.4 J.3.3."""

from __future__ import annotations

import time

from pydicom.uid import UID
from pynetdicom import evt

from med_transfer.hospital.queue import Queue
from med_transfer.hospital.server import SUCCESS

STORAGE_COMMITMENT, COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1"), UID("1.2.840.10008.1.20.1.1")
INVALID = 0x0115  # argument value


def handle_commitment(event: evt.Event, queue: Queue, sender: str = "") -> tuple[int, None]:
    """Handle N-EVENT-REPORT, which lists the instances that the sender commits to and those that it does not.

    Args:
        event: the notification.
        queue: the node's queue.
        sender: AE title of the PACS if the node opened the association; empty: the requestor of the association.
    """
    try:
        report = event.event_information
        refused = report.get("FailedSOPSequence", None) or []
        failed = {str(one.ReferencedSOPInstanceUID): int(one.get("FailureReason", 0)) for one in refused}
        committed = {str(one.ReferencedSOPInstanceUID) for one in report.get("ReferencedSOPSequence", None) or []}
        transaction = str(report.TransactionUID)
    except Exception:  # a data set from outside may hold anything
        return INVALID, None
    queue.answered(transaction, sender or event.assoc.requestor.ae_title.strip(), committed, failed, time.time())
    return SUCCESS, None
