"""Settings of the node's peers: who may send, which services it queries, and who gets results."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Tag, model_validator

from med_transfer.hospital.settings.value_types import (
    Address,
    AETitle,
    HostOrAddress,
    HttpsUrl,
    Network,
    Port,
    Priority,
    Section,
    WebUrl,
)

FHIR_PREFIX = "fhir+"  # marks the name of a FHIR server among destinations


class Caller(Section):
    """Who may send images.

    Attributes:
        ae_title: that it calls itself.
        address: IP address or network that it calls from.
        priority: of its studies; None: the one that it names itself with every image (PS3.7 C-STORE).
    """

    ae_title: AETitle
    address: Network
    priority: Priority | None = None


class Tls(Section):
    """DICOM TLS, in both directions; the other side must show a certificate, too.

    Attributes:
        certificate, key: of this node, PEM.
        trusted: certificates of those who may connect, or of who has signed theirs, PEM.
    """

    certificate: Path
    key: Path
    trusted: Path


class Peer(Section):
    """Whom the node calls by DIMSE.

    Attributes:
        kind: tells it from a DICOMweb service.
        ae_title, address, port: of the PACS.
        tls: with the node's own ``tls``.
    """

    kind: Literal["dicom"] = "dicom"
    ae_title: AETitle
    address: HostOrAddress
    port: Port
    tls: bool = False

    @property
    def name(self) -> str:
        """Name of the peer in status and record."""
        return f"{self.ae_title}@{self.address}:{self.port}"


class FhirServer(Section):
    """Who gets the answers as FHIR resources, by POST of a transaction; the patient's identifier goes with them.

    Attributes:
        url: base of the server; https, or http on this machine.
        token: file that holds a bearer token.
        trusted: certificates of who has signed the server's, PEM; None: those of this machine.
    """

    url: HttpsUrl
    token: Path | None = None
    trusted: Path | None = None

    @property
    def name(self) -> str:
        """Name of the peer in status and record."""
        return f"{FHIR_PREFIX}{self.url}"


class Destination(Peer):
    """Where results go by C-STORE.

    Attributes:
        storage_commitment: ask the PACS to commit to what it was sent; it must know the node's AE title and port.
    """

    storage_commitment: bool = False


class WebPeer(Section):
    """A DICOMweb service, asked by QIDO-RS and WADO-RS, sent results by STOW-RS.

    Attributes:
        kind: tells it from a DICOM node; may be left out, as only a service has a ``url``.
        url: its root, as https://pacs.hospital/dicom-web; without https only on this machine.
        token: holds the bearer token, and nothing else.
        trusted: who has signed the service's certificate, PEM; None: those whom this machine trusts.
        certificate, key: of the node, where the service asks for one, PEM.
    """

    kind: Literal["dicomweb"] = "dicomweb"
    url: WebUrl
    token: Path | None = None
    trusted: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _check_security(self) -> WebPeer:
        if self.url.startswith("http:") and urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(f"{self.url} would carry names in the clear; expected https")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: both or none")
        return self

    @property
    def name(self) -> str:
        """Name of the peer in status and record."""
        return self.url.rstrip("/")

    @property
    def storage_commitment(self) -> bool:
        """False: DICOMweb has no storage commitment; the answer to STOW-RS states what was stored."""
        return False


def _kind(values: Any) -> str:
    """The kind of a peer; where none is given, a peer with a ``url`` is a DICOMweb service."""
    if not isinstance(values, dict):
        return getattr(values, "kind", "dicom")
    return values.get("kind", "dicomweb" if "url" in values else "dicom")


AnyPeer = Annotated[Annotated[Peer, Tag("dicom")] | Annotated[WebPeer, Tag("dicomweb")], Discriminator(_kind)]
AnyDestination = Annotated[
    Annotated[Destination, Tag("dicom")] | Annotated[WebPeer, Tag("dicomweb")], Discriminator(_kind)
]


class WebServer(Section):
    """STOW-RS in, under /dicom-web/studies; senders show a token, a certificate, or both.

    Attributes:
        bind, port: it listens on the loopback interface unless told.
        token: holds the bearer token that senders show, and nothing else.
        certificate, key: of the node, PEM; without them it is plain HTTP, on the loopback interface only.
        trusted: certificates of senders, or of who has signed theirs, PEM.
    """

    bind: Address = "127.0.0.1"
    port: Port = 8080
    token: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    trusted: Path | None = None

    @model_validator(mode="after")
    def _check_security(self) -> WebServer:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: both or none")
        if self.certificate is None and (self.trusted is not None or not ipaddress.ip_address(self.bind).is_loopback):
            raise ValueError("trusted, or bind on another address than the loopback, without certificate and key")
        if self.token is None and self.trusted is None:
            raise ValueError("neither token nor trusted: who may send?")
        return self
