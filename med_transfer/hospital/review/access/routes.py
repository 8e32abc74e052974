"""Routes for signing in and out, the first operator, the language, and the audit record."""

from __future__ import annotations

import logging
import math
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from med_transfer.errors import UsageError
from med_transfer.hospital.review.access.access import Access, address
from med_transfer.hospital.review.access.audit import UNKNOWN
from med_transfer.hospital.review.access.gate import GuardedRoute, access_of, at_least, public, tell
from med_transfer.hospital.review.access.oidc import SignOnFailed
from med_transfer.hospital.review.access.sessions import csrf_token, new_secret
from med_transfer.hospital.review.access.users import User
from med_transfer.hospital.review.pages import LANGUAGE_COOKIE, render
from med_transfer.page import LANGUAGES

log = logging.getLogger(__name__)

router = APIRouter(route_class=GuardedRoute)
HOME, MAX_EVENTS, _MAX_GOAL = "/", 500, 1024  # a goal is stored until its visitor has signed in
_FORM_DEFAULTS: dict[str, object] = {
    "goal": HOME,
    "wrong": False,
    "wait_seconds": 0,
    "problem": "",
    "name": "",
    "failed": "",
}
_Text = Annotated[str, Form(max_length=1024)]


def sign_in_url(request: Request) -> str:
    """URL of the sign-in page that continues to the requested page, or to the page with the form that was sent."""
    query = f"?{request.url.query}" if request.url.query else ""
    goal = request.url.path + query
    if request.method != "GET":
        form = urlsplit(request.headers.get("referer", ""))
        goal = form.path if form.netloc == request.headers["host"] else HOME
    return f"/login?next={quote(safe_goal(goal), safe='')}"


def safe_goal(goal: str) -> str:
    """Return ``goal`` if it is a path of this site, else the home page; prevents open redirects."""
    parts = urlsplit(goal) if goal.isprintable() and "\\" not in goal and len(goal) <= _MAX_GOAL else None
    is_path = parts and not parts.scheme and not parts.netloc and goal.startswith("/") and not goal.startswith("//")
    return goal if is_path else HOME


@router.get("/login", response_class=HTMLResponse)
@public
def login_page(request: Request, next: str = HOME) -> Response:
    """Show the form for name and password, or the link to the identity provider."""
    goal = safe_goal(next)
    return RedirectResponse(goal, 303) if request.state.session else _form(request, "login.html.jinja", goal=goal)


@router.post("/login", response_class=HTMLResponse)
@public
def login(request: Request, name: _Text, password: _Text, next: Annotated[str, Form()] = HOME) -> Response:
    """Sign in by password, with a new session whatever cookie the browser sent."""
    access, goal, where = access_of(request), safe_goal(next), address(request)
    if access.page.oidc:
        return _form(request, "login.html.jinja", 403, goal=goal)
    with access.limits.in_turn:
        if wait := access.limits.wait_seconds(name, where):
            return _wait(request, "login.html.jinja", wait, goal=goal)
        user = access.users.verified(name, password)
        if user is None:
            access.limits.failed(name, where)
        else:
            access.limits.succeeded(user.name, where)
    if user is None:
        access.tell(request, "not signed in", _recorded_name(access, name), detail="wrong name or password")
        return _form(request, "login.html.jinja", 401, goal=goal, wrong=True)
    return signed_in(request, user, goal, local=True)


def signed_in(request: Request, user: User, goal: str, *, local: bool) -> Response:
    """Start a new session, end the previous one, and redirect to the goal."""
    access, response = access_of(request), RedirectResponse(goal, 303)
    access.sessions.end(request.cookies.get(access.cookie.name, ""))
    access.cookie.put(response, access.sessions.begin(user.name, user.role, local=local))
    access.tell(request, "signed in", user.name, detail=user.role)
    return response


@router.get("/oidc/login")
@public
def sign_on(request: Request, next: str = HOME) -> Response:
    """Redirect to the identity provider."""
    access, secret = access_of(request), request.cookies.get(access_of(request).cookie.name) or new_secret()
    if access.provider is None:
        raise HTTPException(404)
    try:
        response = RedirectResponse(access.provider.begin(secret, _redirect_uri(request), safe_goal(next)), 303)
    except SignOnFailed as failed:  # not recorded: nobody has tried to get in yet, and requests could fill the disk
        log.warning("the identity provider cannot be used: %s", failed.reason)
        return _form(request, "login.html.jinja", 403, failed=failed.reason)
    access.cookie.put(response, secret)
    return response


@router.get("/oidc/answer", response_class=HTMLResponse)
@public
def sign_on_answer(request: Request, state: str = "", code: str = "") -> Response:
    """Sign in by the identity provider's answer, which the browser brings by redirect."""
    access, where = access_of(request), address(request)
    if access.provider is None:
        raise HTTPException(404)
    if request.headers.get("sec-fetch-dest", "document") != "document":  # another site would have people locked out
        raise HTTPException(403, "not_from_this_page")
    if wait := access.limits.wait_seconds("", where):
        return _wait(request, "login.html.jinja", wait)
    try:
        browser = request.cookies.get(access.cookie.name, "")
        user, goal = access.provider.finish(browser, _redirect_uri(request), state, code)
    except SignOnFailed as failed:
        access.limits.failed("", where)
        return _no_sign_on(request, failed)
    access.limits.succeeded("", where)
    return signed_in(request, user, goal, local=False)


def _redirect_uri(request: Request) -> str:
    return f"{request.url.scheme}://{request.headers['host']}/oidc/answer"


def _no_sign_on(request: Request, failed: SignOnFailed) -> Response:
    access_of(request).tell(request, "not signed in", UNKNOWN, detail=f"oidc {failed.reason}")
    return _form(request, "login.html.jinja", 403, failed=failed.reason)


@router.post("/logout")
@at_least("reader")
def logout(request: Request) -> Response:
    """Sign out: end the session on the server, not only in the browser."""
    access, response = access_of(request), RedirectResponse("/login", 303)
    access.sessions.end(request.cookies.get(access.cookie.name, ""))
    access.cookie.take(response)
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    tell(request, "signed out")
    return response


@router.get("/first", response_class=HTMLResponse)
@public
def first_page(request: Request) -> Response:
    """Show the form that creates the first operator while there are no users."""
    return _form(request, "first.html.jinja")


@router.post("/first", response_class=HTMLResponse)
@public
def first(request: Request, token: _Text, name: _Text, password: _Text) -> Response:
    """Create the first operator, authorised by the token that was printed when the page started."""
    access, where = access_of(request), address(request)
    if wait := access.limits.wait_seconds("", where):
        return _wait(request, "first.html.jinja", wait)
    try:
        user = None if access.page.oidc else access.users.put_first(token.strip(), name, password)
    except UsageError as error:
        return _form(request, "first.html.jinja", 422, problem=error.found, name=name)
    if user is None:
        access.limits.failed("", where)
        access.tell(request, "refused", UNKNOWN, detail="first token")
        return _form(request, "first.html.jinja", 403, wrong=True)
    access.tell(request, "first operator", user.name)
    return signed_in(request, user, HOME, local=True)


@router.post("/language")
@public
def choose_language(language: _Text, next: Annotated[str, Form()] = HOME) -> Response:
    """Set the language for this browser."""
    response = RedirectResponse(safe_goal(next), 303)
    if language in LANGUAGES:
        response.set_cookie(LANGUAGE_COOKIE, language, max_age=365 * 86400, httponly=True, samesite="strict")
    return response


@router.get("/accesses", response_class=HTMLResponse)
@at_least("operator")
def accesses(request: Request) -> Response:
    """Show the audit record, the latest event first."""
    tell(request, "saw accesses")
    events = access_of(request).audit.latest(MAX_EVENTS)
    return render(request, "accesses.html.jinja", events=events, most=MAX_EVENTS)


def _recorded_name(access: Access, name: str) -> str:
    user = access.users.find(name)
    return user.name if user else UNKNOWN


def _wait(request: Request, template: str, seconds: float, **values: object) -> Response:
    """Answer 429 after too many failures. Not recorded: the failures are, and blocked attempts could fill the disk."""
    page = _form(request, template, 429, wait_seconds=math.ceil(seconds), **values)
    page.headers["Retry-After"] = str(math.ceil(seconds))
    return page


def _form(request: Request, template: str, status: int = 200, **values: object) -> Response:
    """A form for a visitor without a session; its CSRF token belongs to a cookie used for nothing else."""
    access = access_of(request)
    secret = request.cookies.get(access.cookie.name) or new_secret()
    request.state.csrf = csrf_token(secret)
    page = render(request, template, status, **_FORM_DEFAULTS | values, oidc=access.page.oidc is not None)
    access.cookie.put(page, secret)
    return page
