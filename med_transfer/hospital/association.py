"""An association that the node opens. Source: DICOM PS3.8."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.settings.peers import Peer

PLAIN_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@contextmanager
def associate(
    node: NodeConfig, peer: Peer, tls: ssl.SSLContext | None, classes: Sequence[str], handlers: Sequence[Any] = ()
) -> Iterator[Association]:
    """Request an association for the given SOP classes, and release it on exit.

    A rejected or failed request, or an unknown host name, raises nothing: check ``is_established``.
    """
    entity = AE(node.ae_title)
    for uid in classes:
        entity.add_requested_context(uid, list(PLAIN_SYNTAXES))
    seconds = node.limits.network_seconds
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = seconds
    try:
        association = entity.associate(
            peer.address,
            peer.port,
            ae_title=peer.ae_title,
            tls_args=(tls, peer.address) if tls else None,  # the name is only sent (SNI)
            evt_handlers=list(handlers),
        )
    except (OSError, UnicodeError):  # a host name that is unknown, or none: as of a host that does not answer
        association = Association(entity, "requestor")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def rejection_code(association: Association) -> str:
    """Why an association was not established, as a code for status and record."""
    return "rejected" if association.is_rejected else "unreachable"
