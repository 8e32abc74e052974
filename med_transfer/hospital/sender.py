"""Send results by C-STORE, with optional storage commitment, or by STOW-RS. Source: PS3.4 B, J; PS3.18."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)
from pynetdicom import evt
from pynetdicom.association import Association

from med_transfer.hospital.association import associate, rejection_code
from med_transfer.hospital.commitment import COMMITMENT_INSTANCE, STORAGE_COMMITMENT, handle_commitment
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.dicomweb import WebPacs
from med_transfer.hospital.queue import Delivery, Queue
from med_transfer.hospital.settings.peers import Destination, WebPeer
from med_transfer.hospital.uids import sop_reference

log = logging.getLogger(__name__)

RESULT_CLASSES = (
    *(Comprehensive3DSRStorage, SecondaryCaptureImageStorage),
    *(SegmentationStorage, ParametricMapStorage, KeyObjectSelectionDocumentStorage, EncapsulatedPDFStorage),
)
_ACCEPTED_STATUSES = (0x0000, 0xB000, 0xB006, 0xB007)  # success and its warnings, PS3.4 table B.2-1
_DUPLICATES = ("refused_0111", "refused_B00E")  # duplicate SOP instance, PS3.7 C.5; the same by STOW-RS from Azure
_SAME_ASSOCIATION_SECONDS = 1.0  # how long the requesting association stays open for an answer about commitment
_LOOK_SECONDS = 0.05  # polling interval for that answer, which may come on another association


class Sender:
    """Sends due results to one destination by C-STORE; each has its own, so that a slow one delays no other."""

    def __init__(self, node: NodeConfig, queue: Queue, destination: Destination, tls: ssl.SSLContext | None) -> None:
        self._node, self._queue, self._destination, self._tls = node, queue, destination, tls

    def send_due(self) -> int:
        """Send due results, and request storage commitment; return how many results were accepted."""
        due, taken = self._queue.to_send(self._destination.name, time.time()), 0
        if due:
            with self._associate(RESULT_CLASSES) as association:
                taken = sum(deliver(self._queue, one, partial(self._store, association)) for one in due)
        if self._destination.storage_commitment:
            asked = self._queue.to_commit(self._destination.name, time.time())
            if asked:
                self._ask(asked)
        return taken

    def _store(self, association: Association, delivery: Delivery) -> str:
        """Send one result; return a code of why it was not accepted, empty if it was."""
        if not association.is_established:
            return rejection_code(association)
        try:
            answer = association.send_c_store(dcmread(self._node.folder / delivery.file))
        except ValueError:  # no presentation context for it
            return "class_not_supported"
        if "Status" not in answer:
            return "no_answer"
        return "" if answer.Status in _ACCEPTED_STATUSES else f"refused_{answer.Status:04X}"

    def _ask(self, sent: Sequence[Delivery]) -> None:
        """Request storage commitment; the request is stored before it is sent, since the answer may come at once."""
        transaction = generate_uid(prefix=None)
        longer = self._queue.wait_seconds(min(delivery.attempts for delivery in sent))
        self._queue.asked(sent, transaction, time.time() + max(self._node.retries.commitment_seconds, longer))
        question = Dataset()
        question.TransactionUID = transaction
        question.ReferencedSOPSequence = [sop_reference(result.sop_class, result.sop_uid) for result in sent]
        with self._associate([STORAGE_COMMITMENT]) as association:
            if association.is_established:
                association.send_n_action(question, 1, STORAGE_COMMITMENT, COMMITMENT_INSTANCE)
                deadline = time.monotonic() + _SAME_ASSOCIATION_SECONDS
                while self._queue.is_unanswered(transaction) and time.monotonic() < deadline:
                    time.sleep(_LOOK_SECONDS)

    def _associate(self, classes: Sequence[str]) -> AbstractContextManager[Association]:
        answer = (evt.EVT_N_EVENT_REPORT, handle_commitment, [self._queue, self._destination.ae_title])
        return associate(self._node, self._destination, self._tls, classes, [answer])


class WebSender:
    """Sends due results to one destination by STOW-RS, one instance per request, so that each has its own answer."""

    def __init__(self, node: NodeConfig, queue: Queue, destination: WebPeer) -> None:
        self._node, self._queue, self._destination = node, queue, destination
        self._pacs = WebPacs(node, destination, queue)

    def send_due(self) -> int:
        """Send due results; return how many were stored."""
        due = self._queue.to_send(self._destination.name, time.time())
        return sum(deliver(self._queue, one, self._store) for one in due)

    def _store(self, delivery: Delivery) -> str:
        return self._pacs.store(dcmread(self._node.folder / delivery.file))


def deliver(queue: Queue, delivery: Delivery, send: Callable[[Delivery], str]) -> bool:
    """Send a result if it is still waiting, and store the outcome in the queue; return whether it was accepted.

    Args:
        queue: the node's queue.
        delivery: the result and its destination.
        send: returns a code of why the result was not accepted, empty if it was. An exception counts as a failure, too,
            so that an unreadable result does not block all others.
    """
    if not queue.begin(delivery):
        return False
    try:
        reason = send(delivery)
        reason = "" if reason in _DUPLICATES else reason  # the UID identifies the content
    except Exception as error:
        log.debug("unexpected", exc_info=True, extra={"study": delivery.study})
        reason = f"unexpected_{type(error).__name__}"
    if reason:
        named = {"study": delivery.study}
        log.warning("a result was not sent to %s: %s", delivery.destination, reason, extra=named)
        queue.not_sent(delivery, reason, time.time())
    else:
        queue.sent(delivery, time.time())
    return not reason
