"""Create the clients for the peers of node.yaml: DIMSE, DICOMweb or FHIR."""

from __future__ import annotations

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.dicomweb import WebPacs
from med_transfer.hospital.fhir_sender import FhirSender
from med_transfer.hospital.pacs import DicomPacs, Pacs
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.sender import Sender, WebSender
from med_transfer.hospital.settings.peers import AnyDestination, FhirServer, WebPeer
from med_transfer.hospital.tls import client_context


def sender_to(
    destination: AnyDestination | FhirServer, node: NodeConfig, queue: Queue
) -> Sender | WebSender | FhirSender:
    """Create the sender for a destination. Raises ConfigError if a certificate or token cannot be read."""
    if isinstance(destination, FhirServer):
        return FhirSender(node, queue, destination)
    if isinstance(destination, WebPeer):
        return WebSender(node, queue, destination)
    return Sender(node, queue, destination, client_context(node, destination))


def pacs_of(node: NodeConfig, queue: Queue) -> Pacs | None:
    """Create the client of the PACS, or None if node.yaml names none. Raises ConfigError."""
    if node.pacs is None:
        return None
    if isinstance(node.pacs, WebPeer):
        return WebPacs(node, node.pacs, queue)
    return DicomPacs(node, node.pacs, client_context(node, node.pacs))
