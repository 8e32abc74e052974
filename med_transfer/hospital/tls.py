"""TLS contexts: of the node's servers, for DICOM with mutual authentication, and of the connections that it opens.

Source: DICOM PS3.15 B.9 (BCP 195).
"""

from __future__ import annotations

import ssl
from pathlib import Path

from med_transfer.errors import ConfigError
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.settings.peers import Peer


def client_context(node: NodeConfig, peer: Peer) -> ssl.SSLContext | None:
    """Context for DICOM connections to a peer, or None for one without TLS. Raises ConfigError.

    A peer is identified by its certificate alone, so that the host name is not checked.
    """
    if not peer.tls or node.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _with_files(context, node.tls.certificate, node.tls.key, node.tls.trusted)


def server_context(certificate: Path | None, key: Path | None, trusted: Path | None = None) -> ssl.SSLContext | None:
    """Context of a server, or None without a certificate; ``trusted`` requires those of clients.

    Raises:
        ConfigError: a file cannot be used.
    """
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if trusted is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return _with_files(context, certificate, key, trusted)


def _with_files(context: ssl.SSLContext, certificate: Path, key: Path, trusted: Path | None) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if trusted is not None:
            context.load_verify_locations(trusted)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (certificate, key, trusted) if file)
        reason = error.strerror or getattr(error, "reason", "") or "cannot be read"
        raise ConfigError(
            reason, where=f"tls ({files})", expected="PEM files, the key that of the certificate"
        ) from None
    return context
