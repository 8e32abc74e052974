"""Settings of the review page, and of the sign-in to it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from med_transfer.hospital.settings.value_types import Address, HostName, HttpsUrl, Port, Section

Role = Literal["reader", "reviewer", "operator"]  # ascending: each includes the rights of those before it


class Oidc(Section):
    """Who people are and what they may do, as the hospital's identity provider says. Source: OpenID Connect Core 1.0.

    Attributes:
        issuer: its URL, as its tokens name it; https, or http on this machine.
        client_id: of the page, with ``https://NAME:PORT/oidc/answer`` as its redirect URI.
        client_secret: file that holds it, and nothing else; None: a public client.
        name_claim: of the ID token, who it is; goes into the audit record.
        role_claim: of the ID token, a word or a list of words.
        roles: word of ``role_claim`` to role; who has none of them does not get in.
        trusted: certificates of who has signed the provider's, PEM; None: those of this machine.
    """

    issuer: HttpsUrl
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    client_secret: Path | None = None
    name_claim: str = "preferred_username"
    role_claim: str = "roles"
    roles: Annotated[dict[str, Role], Field(min_length=1)]
    trusted: Path | None = None


class ReviewPage(Section):
    """The page where people see, judge and comment results, in a process of its own.

    Attributes:
        bind, port: it listens on the loopback interface unless told.
        names: of this machine, as a browser's address line has them; the bound address and, on the loopback interface,
            ``localhost`` are known.
        certificate, key: of the page, PEM; without them it is plain HTTP, on the loopback interface only.
        language: where a browser asks for none that there is.
        idle_minutes: without a request, after which who is signed in must do so again.
        session_hours: after which they must in any case.
        oidc: who gets in; None: the users of ``med-transfer node user``.
    """

    bind: Address = "127.0.0.1"
    port: Port = 8443
    names: tuple[HostName, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    language: Literal["en", "zh-TW"] = "en"
    idle_minutes: Annotated[float, Field(gt=0, le=1440)] = 30.0
    session_hours: Annotated[float, Field(gt=0, le=168)] = 10.0
    oidc: Oidc | None = None

    @model_validator(mode="after")
    def _check_security(self) -> ReviewPage:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: both or none")
        address = ipaddress.ip_address(self.bind)
        if self.certificate is None and not address.is_loopback:
            raise ValueError("bind on another address than the loopback, without certificate and key")
        if address.is_unspecified and not self.names:
            raise ValueError("bind on every address, without names; expected the page's names in the address line")
        return self
