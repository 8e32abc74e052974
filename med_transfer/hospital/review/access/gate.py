"""Checks before every route: session, role, and protection against cross-site request forgery (CSRF).

A route declares its audience by ``@at_least("reader")`` or ``@public``; without either it cannot be created. The route
class does the checks before anything else of a request is read. FastAPI's dependencies, resolved anew for each request,
would take as long as the page itself.

The checks are a coroutine and take microseconds; switching to another thread and back takes milliseconds under load.
Only the occasional write runs in a thread, since a commit waits for the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from med_transfer.hospital.review.access.access import Access
from med_transfer.hospital.review.access.audit import Seen, What
from med_transfer.hospital.review.access.sessions import SEEN_SECONDS, Session, csrf_token, is_csrf_token
from med_transfer.hospital.settings.page import Role

SAFE = ("GET", "HEAD", "OPTIONS")
_Route = TypeVar("_Route", bound=Callable)


def public(route: _Route) -> _Route:
    """Mark a route that answers without a session."""
    route.meant_for = "public"  # type: ignore[attr-defined]
    return route


def at_least(role: Role) -> Callable[[_Route], _Route]:
    """Mark a route for users with at least this role; others get 403."""

    def mark(route: _Route) -> _Route:
        route.meant_for = role  # type: ignore[attr-defined]
        return route

    return mark


def background(route: _Route) -> _Route:
    """Mark a route that an open page polls by itself, which does not count as user activity."""
    route.background = True  # type: ignore[attr-defined]
    return route


class SignInFirst(Exception):
    """Raised if nobody is signed in and the route is not public."""


class GuardedRoute(APIRoute):
    """A route that admits only its declared audience. Raises TypeError if it declares none."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind the checks."""
        answer, by_itself = super().get_route_handler(), getattr(self.endpoint, "background", False)
        meant_for: Role | Literal["public"] | None = getattr(self.endpoint, "meant_for", None)
        if meant_for is None:
            raise TypeError(f"the route {self.path} does not say whom it is for: @at_least(role) or @public")

        async def guarded(request: Request) -> Response:
            session = await _visitor(request, by_itself)
            if meant_for != "public" and session is None:
                raise SignInFirst
            await _require_same_origin(request)
            if meant_for != "public" and session is not None and not session.may(meant_for):
                await run_in_threadpool(tell, request, "refused", detail=self.path)
                raise HTTPException(403, "role")
            return await answer(request)

        return guarded


def access_of(request: Request) -> Access:
    """The page's access control."""
    return cast(Access, request.app.state.access)


def session_of(request: Request) -> Session:
    """The user's session, for a route that is not public."""
    return cast(Session, request.state.session)


def tell(request: Request, what: What, study: Seen | None = None, detail: str = "") -> None:
    """Add an action of the signed-in user to the audit record; waits for the disk."""
    access_of(request).tell(request, what, session_of(request).user, study, detail)


async def _visitor(request: Request, by_itself: bool) -> Session | None:
    """Find the session of a request and store it in ``request.state``; None if nobody is signed in."""
    access = access_of(request)
    secret = request.cookies.get(access.cookie.name, "")
    session = access.sessions.find(secret) if secret else None
    if session is not None and session.quiet_seconds > SEEN_SECONDS and not by_itself:
        await run_in_threadpool(access.sessions.seen, secret)
    request.state.session, request.state.csrf = session, csrf_token(secret) if secret else ""
    return session


async def _require_same_origin(request: Request) -> None:
    """Require that a change comes from this page, by same origin and CSRF token. Source: OWASP CSRF."""
    if request.method in SAFE:
        return
    origin, fetched = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    elsewhere = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    given = request.headers.get("x-csrf-token")
    if given is None and _is_form(request):
        given = (await request.form()).get("csrf")
    cookie = request.cookies.get(access_of(request).cookie.name, "")
    if elsewhere or fetched != "same-origin" or not isinstance(given, str) or not is_csrf_token(given, cookie):
        raise HTTPException(403, "not_from_this_page")


def _is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/x-www-form-urlencoded", "multipart/form-data")
