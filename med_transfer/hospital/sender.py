"""Results to one destination: C-STORE as a user, then the question whether it commits. Source: PS3.4 B and J."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Sequence

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association

from med_transfer.hospital.commitment import COMMITMENT_INSTANCE, STORAGE_COMMITMENT, hear
from med_transfer.hospital.config import Destination, NodeConfig
from med_transfer.hospital.queue import Delivery, Queue

log = logging.getLogger(__name__)

RESULT_CLASSES = (
    *(Comprehensive3DSRStorage, SecondaryCaptureImageStorage),
    *(SegmentationStorage, ParametricMapStorage, KeyObjectSelectionDocumentStorage, EncapsulatedPDFStorage),
)
RESULT_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_TAKEN = (0x0000, 0xB000, 0xB006, 0xB007)  # success and its warnings, PS3.4 table B.2-1
_SAME_ASSOCIATION_SECONDS = 1.0  # for which an answer about commitment is awaited where the question was asked


class Sender:
    """Sends what is due to one destination; one that is slow or down keeps no other waiting."""

    def __init__(self, node: NodeConfig, queue: Queue, destination: Destination, tls: ssl.SSLContext | None) -> None:
        self._node, self._queue, self._destination, self._tls = node, queue, destination, tls

    def send_due(self) -> int:
        """Send, and ask about commitment; how many results were taken."""
        due, taken = self._queue.to_send(self._destination.name, time.time()), 0
        if due:
            taken = self._send(due)
        if self._destination.storage_commitment:
            asked = self._queue.to_commit(self._destination.name, time.time())
            if asked:
                self._ask(asked)
        return taken

    def _send(self, due: Sequence[Delivery]) -> int:
        association, taken = self._associate(RESULT_CLASSES), 0
        for delivery in due:
            reason = self._store(association, delivery)
            if reason:
                log.warning("a result was not sent to %s: %s", self._destination.ae_title, reason)
                self._queue.not_sent(delivery, reason, time.time())
            else:
                self._queue.sent(delivery, time.time())
                taken += 1
        _release(association)
        return taken

    def _store(self, association: Association, delivery: Delivery) -> str:
        """Why a result was not taken; empty when it was."""
        if not association.is_established:
            return "rejected" if association.is_rejected else "unreachable"
        try:
            answer = association.send_c_store(dcmread(self._node.folder / delivery.file))
        except ValueError:  # no presentation context for it
            return "class_not_supported"
        if "Status" not in answer:
            return "no_answer"
        return "" if answer.Status in _TAKEN else f"refused_{answer.Status:04X}"

    def _ask(self, sent: Sequence[Delivery]) -> None:
        """Before the question goes out it is remembered, since the answer may come at once."""
        transaction = generate_uid(prefix=None)
        self._queue.asked(sent, transaction, time.time() + self._node.retries.commitment_seconds)
        question = Dataset()
        question.TransactionUID = transaction
        question.ReferencedSOPSequence = [_reference(delivery) for delivery in sent]
        association = self._associate([STORAGE_COMMITMENT])
        if association.is_established:
            association.send_n_action(question, 1, STORAGE_COMMITMENT, COMMITMENT_INSTANCE)
            time.sleep(_SAME_ASSOCIATION_SECONDS)
        _release(association)

    def _associate(self, classes: Sequence[str]) -> Association:
        entity, destination = AE(self._node.ae_title), self._destination
        for uid in classes:
            entity.add_requested_context(uid, list(RESULT_SYNTAXES))
        seconds = self._node.limits.network_seconds
        entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = seconds
        return entity.associate(
            destination.address,
            destination.port,
            ae_title=destination.ae_title,
            tls_args=(self._tls, "") if self._tls else None,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, hear, [self._queue, destination.ae_title])],
        )


def _reference(delivery: Delivery) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = delivery.sop_class, delivery.sop_uid
    return reference


def _release(association: Association) -> None:
    if association.is_established:
        association.release()
