"""What stands before every route: a session, a role, and the sign that a change was meant.

A route is closed unless it says that it is :func:`public`; so one that is forgotten is closed.

What is asked of every request is a coroutine: it takes microseconds, where the way into another thread and back takes
milliseconds as soon as many ask at once. What it writes, now and then, is written there: a commit waits for the disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Annotated, TypeVar, cast
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from med_transfer.hospital.config import Role
from med_transfer.hospital.review.access.access import Access
from med_transfer.hospital.review.access.audit import Seen, What
from med_transfer.hospital.review.access.sessions import SEEN_SECONDS, Session, csrf_token, is_csrf_token

SAFE = ("GET", "HEAD", "OPTIONS")
_Route = TypeVar("_Route", bound=Callable)


def public(route: _Route) -> _Route:
    """Mark a route that answers without a session."""
    route.public = True  # type: ignore[attr-defined]
    return route


def background(route: _Route) -> _Route:
    """Mark a route that an open page asks by itself, which is no sign that somebody is still there."""
    route.background = True  # type: ignore[attr-defined]
    return route


def access_of(request: Request) -> Access:
    """Users, sessions and the audit record of the page."""
    return cast(Access, request.app.state.access)


async def visitor(request: Request) -> Session | None:
    """Who asks; None: nobody who is signed in."""
    access = access_of(request)
    secret = request.cookies.get(access.cookie.name, "")
    session = access.sessions.find(secret) if secret else None
    by_itself = getattr(request.scope.get("endpoint"), "background", False)
    if session is not None and session.quiet_seconds > SEEN_SECONDS and not by_itself:
        await run_in_threadpool(access.sessions.seen, secret)
    request.state.session, request.state.csrf = session, csrf_token(secret) if secret else ""
    return session


Visitor = Annotated[Session | None, Depends(visitor)]


class SignInFirst(Exception):
    """Nobody is signed in, and the route is not public."""


async def gate(request: Request, session: Visitor) -> None:
    """Of every route of the page."""
    if session is None and not getattr(request.scope.get("endpoint"), "public", False):
        raise SignInFirst


async def meant(request: Request) -> None:
    """A change comes from a form or script of this page: same origin, and with the token. Source: OWASP CSRF."""
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


@cache
def at_least(role: Role) -> Callable[..., Awaitable[Session]]:
    """A dependency: the session of somebody who has this role or a higher one; 403 for others."""

    async def check(request: Request, session: Visitor) -> Session:
        if session is None:
            raise SignInFirst
        if not session.may(role):
            told = partial(access_of(request).tell, detail=request.scope["route"].path)
            await run_in_threadpool(told, request, "refused", session.user)
            raise HTTPException(403, "role")
        return session

    return check


class Teller:
    """For the audit record, in a route: ``tell: Tell``, then ``tell("saw study", Seen(id, study_uid))``."""

    def __init__(self, request: Request, session: Session | None) -> None:
        self._request, self._session = request, session

    def __call__(self, what: What, study: Seen | None = None, detail: str = "") -> None:
        """Who asks did this."""
        assert self._session is not None
        access_of(self._request).tell(self._request, what, self._session.user, study, detail)


async def teller(request: Request, session: Visitor) -> Teller:
    """Of this request."""
    return Teller(request, session)


Tell = Annotated[Teller, Depends(teller)]
Reader = Annotated[Session, Depends(at_least("reader"))]
Reviewer = Annotated[Session, Depends(at_least("reviewer"))]
Operator = Annotated[Session, Depends(at_least("operator"))]
