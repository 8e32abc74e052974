"""Access control of the node's DICOM port: who may connect, how much they may send, and how long they may take."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import shutil
import socket
import ssl
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from socketserver import BaseServer
from typing import Any, cast

from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.settings.peers import Caller, Peer
from med_transfer.hospital.storage_classes import IGNORED_CLASSES

log = logging.getLogger(__name__)

SUCCESS, NOT_AUTHORISED = 0x0000, 0x0124  # status of any DIMSE service, DICOM PS3.7 C
# Result, source and reason of an A-ASSOCIATE-RJ, DICOM PS3.8 9.3.4
UNKNOWN_CALLER, UNKNOWN_CALLED, BUSY = (0x01, 0x01, 0x03), (0x01, 0x01, 0x07), (0x02, 0x03, 0x02)
_LARGEST_REQUEST = 1 << 20  # bytes of an A-ASSOCIATE-RQ; 128 presentation contexts take some 50 kB


for _number, _uid in enumerate(sorted(IGNORED_CLASSES)):  # else pynetdicom aborts on such an object
    if uid_to_service_class(_uid) is not StorageServiceClass:
        register_uid(_uid, f"PassedOver{_number}", StorageServiceClass)


class LimitedSocket(AssociationSocket):
    """Socket that closes a connection which sends too much or takes too long, before any of it is stored."""

    pdu_bytes = message_bytes = 1 << 30
    seconds = 30.0
    _of_message = 0

    def recv(self, nr_bytes: int) -> bytearray:
        """Receive as the parent class does. Raises OSError beyond the limits."""
        self._of_message += nr_bytes
        if nr_bytes > max(self.pdu_bytes, _LARGEST_REQUEST) or self._of_message > self.message_bytes:
            raise OSError("more than this node takes")
        connection, got, deadline = self.socket, 0, time.monotonic() + self.seconds
        content = bytearray(nr_bytes)
        with memoryview(content) as view:
            while got < nr_bytes and connection is not None:
                count = connection.recv_into(view[got:])
                if not count:
                    break
                got += count
                if time.monotonic() > deadline:
                    raise TimeoutError("slower than this node waits")
        return content[:got]

    def next_message(self) -> None:
        """Note that a message is complete; restarts the count of its bytes."""
        self._of_message = 0


class _Handler(RequestHandler):
    server: NodeServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def _create_association(self) -> Association:
        association = super()._create_association()
        limits, limited = self.server.node.limits, LimitedSocket(association, client_socket=self.request)
        limited.pdu_bytes, limited.seconds = limits.pdu_kib << 10, limits.network_seconds
        limited.message_bytes = int(limits.instance_mib * (1 << 20))
        association.dul.event_queue.get_nowait()  # the event of the parent's socket, which is replaced
        association.dul.socket = limited
        association.dul.daemon = True  # a peer that never closes a rejected connection must not keep the node running
        return association


class NodeServer(ThreadedAssociationServer):
    """Server for known addresses, with one thread per connection, so that a slow handshake delays nobody else."""

    daemon_threads = True
    request_queue_size = 128  # backlog of connections; beyond it, a sender retries only after a second

    def __init__(self, *arguments: Any, node: NodeConfig, tls: ssl.SSLContext | None, **options: Any) -> None:
        self.node, self._tls = node, tls
        super().__init__(*arguments, request_handler=_Handler, **options)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Only accept; TLS follows in the connection's own thread."""
        assert self.socket is not None
        return self.socket.accept()

    def _may_connect(self, address: str) -> bool:
        known = [caller.address for caller in self.node.callers]
        return is_within(address, known) or is_within(address, _addresses(self.node.dicom_peers))

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Check the address, then start TLS. Runs in the connection's own thread, since both may take long.

        Resolving the names of peers depends on the hospital's name service, which may not answer.
        """
        if not self._may_connect(client_address[0]):
            log.warning("a connection from %s was closed: not in callers", client_address[0])
            self.shutdown_request(request)
            return
        request.settimeout(self.node.limits.network_seconds)
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def shutdown(self) -> None:
        """Stop and close the port."""
        BaseServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Only log: a failed connection must not affect others."""
        error, why = sys.exception(), type(sys.exception()).__name__
        if isinstance(error, ssl.SSLError):  # in OpenSSL's words: an expired certificate, no TLS at all
            why = getattr(error, "verify_message", "") or error.reason or why
        log.warning("a connection from %s failed before it became an association: %s", client_address[0], why)


def admit(event: evt.Event, node: NodeConfig) -> None:
    """Reject an association whose AE titles or address are not admitted, and any while the disk is nearly full."""
    association = event.assoc
    request = cast(A_ASSOCIATE, association.requestor.primitive)
    title, address = (request.calling_ae_title or "").strip(), association.requestor.address
    called = (request.called_ae_title or "").strip()
    cast(Any, association).sends_images = may_send(node, title, address)
    if called != node.ae_title:
        _reject(association, UNKNOWN_CALLED, f"it calls {called}, and this is {node.ae_title}")
    elif not sends_images(association) and not is_destination(node, title, address):
        _reject(association, UNKNOWN_CALLER, "AE title and address are not in callers")
    elif disk_is_full(node):
        _reject(association, BUSY, "the disk is nearly full")


def accept_ignored_classes(event: evt.Event) -> None:
    """Accept the ignored storage classes that the requestor proposes, in the transfer syntaxes that it proposes.

    Supporting all of them in advance would copy thousands of UIDs per association: 170 ms on a slow core.
    """
    association, proposed = event.assoc, defaultdict(list)
    request = cast(A_ASSOCIATE, association.requestor.primitive)
    for context in request.presentation_context_definition_list:
        if context.abstract_syntax in IGNORED_CLASSES:
            proposed[context.abstract_syntax] += context.transfer_syntax
    others = [build_context(uid, syntaxes) for uid, syntaxes in proposed.items()]
    association.acceptor.supported_contexts = [*association.acceptor.supported_contexts, *others]


def release_unrequested(event: evt.Event) -> None:
    """Release a connection that was closed before its request was complete; else it counts until the time-out."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)  # pyright: ignore[reportArgumentType] - as on time-out


def sends_images(association: Association) -> bool:
    """Whether the requestor :func:`may_send`; determined once per association, since it may resolve host names."""
    return getattr(association, "sends_images", False)


def may_send(node: NodeConfig, title: str, address: str) -> bool:
    """Whether a sender's images are accepted: those of callers, and of the PACS, which may have been asked for them."""
    if known_caller(node, title, address) is not None:
        return True
    return isinstance(node.pacs, Peer) and node.pacs.ae_title == title and is_within(address, _addresses([node.pacs]))


def known_caller(node: NodeConfig, title: str, address: str) -> Caller | None:
    """The caller in node.yaml with this AE title and address, or None."""
    fitting = (c for c in node.callers if c.ae_title == title and is_within(address, [c.address]))
    return next(fitting, None)


def is_destination(node: NodeConfig, title: str, address: str) -> bool:
    """Whether a sender is a DIMSE peer of node.yaml, whose answers about storage commitment are accepted."""
    return any(peer.ae_title == title for peer in node.dicom_peers) and is_within(address, _addresses(node.dicom_peers))


def disk_is_full(node: NodeConfig) -> bool:
    """Whether less than ``limits.disk_free_gib`` is free on the node's disk."""
    return shutil.disk_usage(node.folder).free < node.limits.disk_free_gib * (1 << 30)


def is_within(address: str, networks: Iterable[str]) -> bool:
    """Whether an IP address is in one of the networks; an IPv4-mapped IPv6 address counts as IPv4."""
    found = ipaddress.ip_address(address.partition("%")[0])
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in ipaddress.ip_network(network) for network in networks)


def _addresses(called: Iterable[Peer]) -> list[str]:
    """IP addresses of peers that the node calls, and that may call back."""
    addresses: list[str] = []
    for peer in called:
        with contextlib.suppress(OSError, UnicodeError):  # unresolvable or invalid, as pacs..hospital
            found = socket.getaddrinfo(peer.address, None, type=socket.SOCK_STREAM)
            addresses += [str(one[4][0]).partition("%")[0] for one in found]
    return addresses


def _reject(association: Association, answer: tuple[int, int, int], why: str) -> None:
    title = cast(A_ASSOCIATE, association.requestor.primitive).calling_ae_title
    log.warning("an association of %s from %s was rejected: %s", title, association.requestor.address, why)
    association.acse.send_reject(*answer)
    evt.trigger(association, evt.EVT_REJECTED, {})
    association.kill()
