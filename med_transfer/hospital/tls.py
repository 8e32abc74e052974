"""TLS for DICOM, both sides with a certificate. Source: DICOM PS3.15 B.9 (BCP 195)."""

from __future__ import annotations

import ssl

from med_transfer.errors import ConfigError
from med_transfer.hospital.config import Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """For who connects to the node: nobody without a certificate that is trusted. Raises ConfigError."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)


def client_context(tls: Tls) -> ssl.SSLContext:
    """For what the node connects to. A DICOM peer is known by its certificate, whatever its host is called."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _loaded(context, tls)


def _loaded(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.trusted)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (tls.certificate, tls.key, tls.trusted))
        reason = error.strerror or getattr(error, "reason", "") or "cannot be read"
        raise ConfigError(
            reason, where=f"tls ({files})", expected="PEM files, the key that of the certificate"
        ) from None
    return context
