"""Users, sessions, rate limits, audit record and cookie of the review page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request, Response

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.review.access.audit import AuditTrail, Seen, What
from med_transfer.hospital.review.access.database import Database
from med_transfer.hospital.review.access.limits import Limits
from med_transfer.hospital.review.access.oidc import Provider
from med_transfer.hospital.review.access.sessions import Sessions
from med_transfer.hospital.review.access.users import Users
from med_transfer.hospital.settings.page import ReviewPage


@dataclass(frozen=True)
class Cookie:
    """The session cookie: HttpOnly, for this host only, and Secure if the page uses TLS. Source: RFC 6265bis 4.1.3."""

    secure: bool
    same_site: Literal["lax", "strict"]

    @property
    def name(self) -> str:
        """Name of the cookie. Browsers accept the prefix ``__Host-`` only over TLS, for this host, with path /."""
        return "__Host-session" if self.secure else "session"

    def put(self, response: Response, secret: str) -> None:
        """Set the cookie. It expires with the browser; the session that it belongs to may end earlier."""
        response.set_cookie(self.name, secret, secure=self.secure, httponly=True, samesite=self.same_site, path="/")

    def take(self, response: Response) -> None:
        """Delete the cookie from the browser."""
        response.delete_cookie(self.name, secure=self.secure, httponly=True, samesite=self.same_site, path="/")


class Access:
    """Everything that controls access to the page.

    Raises:
        OutputError: the page's database cannot be opened.
        ConfigError: the client secret for single sign-on cannot be read.
    """

    def __init__(self, node: NodeConfig, page: ReviewPage) -> None:
        self.page = page
        self.database = Database(node.access_file)
        self.users, self.sessions = Users(self.database), Sessions(self.database, page)
        self.limits = Limits(self.database)
        self.audit = AuditTrail(self.database, node.ae_title)
        self.provider = Provider(page.oidc, self.database) if page.oidc else None
        # With single sign-on, browsers arrive from the identity provider's site, and would not send a strict cookie.
        self.cookie = Cookie(page.certificate is not None, "lax" if page.oidc else "strict")

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def tell(self, request: Request, what: What, user: str, study: Seen | None = None, detail: str = "") -> None:
        """Add an event to the audit record."""
        self.audit.tell(what, user, address(request), study, detail)


def address(request: Request) -> str:
    """Address of the connected machine, whatever the request's headers claim."""
    return request.client.host if request.client else ""
