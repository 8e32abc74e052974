"""Users, sessions, limits and the audit record of one page, and its cookie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request, Response

from med_transfer.hospital.config import NodeConfig, ReviewPage
from med_transfer.hospital.review.access.audit import AuditTrail, Seen, What
from med_transfer.hospital.review.access.database import Database
from med_transfer.hospital.review.access.limits import Limits
from med_transfer.hospital.review.access.oidc import Provider
from med_transfer.hospital.review.access.sessions import Sessions
from med_transfer.hospital.review.access.users import Users


@dataclass(frozen=True)
class Cookie:
    """Sent over TLS only, to this machine only, and shown to no script. Source: RFC 6265bis 4.1.3."""

    secure: bool
    same_site: Literal["lax", "strict"]

    @property
    def name(self) -> str:
        """Browsers take ``__Host-`` only over TLS, for this host, with path /."""
        return "__Host-session" if self.secure else "session"

    def put(self, response: Response, secret: str) -> None:
        """It ends with the browser, and here when the session does."""
        response.set_cookie(self.name, secret, secure=self.secure, httponly=True, samesite=self.same_site, path="/")

    def take(self, response: Response) -> None:
        """Away from the browser."""
        response.delete_cookie(self.name, secure=self.secure, httponly=True, samesite=self.same_site, path="/")


class Access:
    """What the page needs to know of people. Raises OutputError where its database cannot be opened, ConfigError."""

    def __init__(self, node: NodeConfig, page: ReviewPage) -> None:
        self.page = page
        self.database = Database(node.access_file)
        self.users, self.sessions = Users(self.database), Sessions(self.database, page)
        self.limits = Limits(self.database)
        self.audit = AuditTrail(self.database, node.ae_title)
        self.provider = Provider(page.oidc, self.database) if page.oidc else None
        # The answer of an identity provider comes from another site, with which a strict cookie is not sent.
        self.cookie = Cookie(page.certificate is not None, "lax" if page.oidc else "strict")

    def close(self) -> None:
        """Write everything out."""
        self.database.close()

    def tell(self, request: Request, what: What, user: str, study: Seen | None = None, detail: str = "") -> None:
        """Add an event to the audit record."""
        self.audit.tell(what, user, address(request), study, detail)


def address(request: Request) -> str:
    """Where a request comes from: the machine that is connected, whatever its headers claim."""
    return request.client.host if request.client else ""
