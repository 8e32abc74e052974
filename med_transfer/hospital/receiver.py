"""SCP of C-ECHO and C-STORE, and receiver of notifications. Source: DICOM PS3.7, PS3.4 B, J and R."""

from __future__ import annotations

import logging
import threading
import time
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE

from med_transfer.errors import OutputError
from med_transfer.hospital.association import PLAIN_SYNTAXES
from med_transfer.hospital.availability import AVAILABILITY, handle_availability
from med_transfer.hospital.commitment import STORAGE_COMMITMENT, handle_commitment
from med_transfer.hospital.config import NodeConfig, port_error
from med_transfer.hospital.incoming import Received, RejectedInstance, keep, keep_aside
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.server import (
    NOT_AUTHORISED,
    SUCCESS,
    LimitedSocket,
    NodeServer,
    accept_ignored_classes,
    admit,
    disk_is_full,
    known_caller,
    release_unrequested,
    sends_images,
)
from med_transfer.hospital.storage_classes import STORAGE_CLASSES, TRANSFER_SYNTAXES
from med_transfer.hospital.tls import server_context
from med_transfer.scans.library_noise import silence_readers

log = logging.getLogger(__name__)

VERIFICATION = UID("1.2.840.10008.1.1")
OUT_OF_RESOURCES, DUPLICATE = 0xA700, 0x0111
PRIORITIES = {"high": 1, "medium": 0, "low": -1}
STATUS = {  # C-STORE status by the reason why an instance is refused; DICOM PS3.4 B.2.3, PS3.7 C.5
    "class_not_supported": 0x0122,
    "syntax_not_supported": 0xC122,
    "damaged": 0xC000,
    "uid_missing": 0xC000,
    "uid_invalid": 0xC000,
    "not_as_announced": 0xA900,
    "another_patient": 0xC001,
    "conflict": DUPLICATE,
    "too_many": OUT_OF_RESOURCES,
}


class Receiver:
    """The node's application entity as SCP, in its own threads from construction until ``close``.

    Raises:
        ConfigError: the port is in use, the address is not this machine's, or a certificate cannot be used.
    """

    def __init__(self, node: NodeConfig, queue: Queue) -> None:
        self._node, self._queue = node, queue
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs received values, as does pydicom
        silence_readers()
        tls = node.tls
        self._server = self._open(server_context(tls.certificate, tls.key, tls.trusted) if tls else None)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def _open(self, tls) -> NodeServer:
        address = (self._node.bind, self._node.port)
        try:
            server = _application_entity(self._node).make_server(
                address,
                evt_handlers=[
                    (evt.EVT_CONN_CLOSE, release_unrequested),
                    (evt.EVT_REQUESTED, accept_ignored_classes),
                    (evt.EVT_REQUESTED, admit, [self._node]),
                    (evt.EVT_C_ECHO, lambda event: SUCCESS),
                    (evt.EVT_C_STORE, self._store),
                    (evt.EVT_N_EVENT_REPORT, handle_commitment, [self._queue]),
                    (evt.EVT_N_CREATE, handle_availability, [self._node, self._queue]),
                    (evt.EVT_DIMSE_RECV, _next_message),
                ],
                server_class=NodeServer,
                node=self._node,
                tls=tls,
            )
            return cast(NodeServer, server)
        except OSError as error:
            raise port_error(error, *address) from None

    @property
    def is_open(self) -> bool:
        """Whether it accepts associations."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Close the port and abort associations."""
        self._server.shutdown()
        for association in self._server.active_associations:
            if association.is_established:  # an abort would disturb those that are being released
                association.abort()

    def _store(self, event: evt.Event) -> int | Dataset:
        caller = event.assoc.requestor.ae_title.strip()
        if not sends_images(event.assoc):
            return _answer(NOT_AUTHORISED, "only images of callers are taken")
        if disk_is_full(self._node):
            return _answer(OUT_OF_RESOURCES, "disk nearly full")
        try:
            return self._take(event, caller)
        except OutputError:
            log.error("an instance cannot be written")
            return _answer(OUT_OF_RESOURCES, "cannot be written")

    def _take(self, event: evt.Event, caller: str) -> int | Dataset:
        request, now = cast(C_STORE, event.request), time.time()
        received = Received(
            sop_class=str(request.AffectedSOPClassUID),
            sop_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax=str(event.context.transfer_syntax),
            content=event.encoded_dataset(),
            data=request.DataSet.getvalue() if request.DataSet else b"",
            priority=self._priority(event, request),
        )
        try:
            keep(self._node.folder, self._queue, received, now, self._node.limits.study_instances)
        except RejectedInstance as rejected:
            log.warning("an instance was set aside: %s", rejected.reason)
            keep_aside(self._node.folder, self._queue, rejected.reason, caller, received.content, now)
            return _answer(STATUS[rejected.reason], rejected.reason)
        return SUCCESS

    def _priority(self, event: evt.Event, request: C_STORE) -> int:
        """The priority that node.yaml gives the caller, else that of the request (PS3.7 9.1.1.1.6)."""
        title, address = event.assoc.requestor.ae_title.strip(), event.assoc.requestor.address
        caller = known_caller(self._node, title, address)
        if caller is not None and caller.priority is not None:
            return PRIORITIES[caller.priority]
        return {1: 1, 2: -1}.get(request.Priority, 0)


def _application_entity(node: NodeConfig) -> AE:
    entity = AE(node.ae_title)
    for uid in STORAGE_CLASSES:
        entity.add_supported_context(uid, list(TRANSFER_SYNTAXES))
    for uid in (VERIFICATION, AVAILABILITY):
        entity.add_supported_context(uid, list(PLAIN_SYNTAXES))
    if any(destination.storage_commitment for destination in node.destinations):
        entity.add_supported_context(STORAGE_COMMITMENT, list(PLAIN_SYNTAXES), scu_role=True, scp_role=True)
    entity.require_called_aet = True
    entity.maximum_associations = node.limits.associations
    entity.maximum_pdu_size = node.limits.pdu_kib << 10
    seconds = node.limits.network_seconds
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = seconds
    return entity


def _next_message(event: evt.Event) -> None:
    connection = event.assoc.dul.socket
    if isinstance(connection, LimitedSocket):
        connection.next_message()


def _answer(status: int, comment: str) -> Dataset:
    answer = Dataset()
    answer.Status, answer.ErrorComment = status, comment
    return answer
