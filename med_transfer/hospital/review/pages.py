"""HTML in the reader's language: templates and translations in ``templates/``, style and scripts in ``static/``."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import cast

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment

from med_transfer.hospital.review.access.sessions import Session
from med_transfer.page import LANGUAGES, Language, environment
from med_transfer.page.language import translator

TEMPLATES, STATIC = Path(__file__).parent / "templates", Path(__file__).parent / "static"
LANGUAGE_COOKIE = "language"
_CATALOGUE = ".zh_TW.yaml"
# "dead" beside a patient's name, and "complete" for a study without an answer, would be misread.
_STATES_IN_WORDS = {
    "received": "arriving",
    "complete": "to be predicted",
    "dead": "given up",
    "dead letter": "not delivered",
}


@cache
def environment_of(language: Language) -> Environment:
    """Jinja environment with all translations of ``templates/``."""
    t = translator(language)
    for path in sorted(TEMPLATES.glob(f"*{_CATALOGUE}")):
        t = t.reading(path.with_name(path.name.removesuffix(_CATALOGUE)))
    page = environment(TEMPLATES, t=t)
    page.filters["state_in_words"] = lambda state: _STATES_IN_WORDS.get(state, state)
    return page


@cache
def style() -> str:
    """CSS shared by all HTML pages of the program, and the review page's own."""
    shared = environment_of("en").get_template("style.css.jinja").render()
    return shared + (STATIC / "review.css").read_text(encoding="utf-8")


def render(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """Render a page.

    In addition to ``values``, templates get ``session`` (None if nobody is signed in), ``csrf``, ``here`` (the path),
    ``moment``, ``languages``, and what :func:`med_transfer.page.environment` provides.
    """
    language = language_of(request)
    session = cast(Session | None, getattr(request.state, "session", None))
    shared = {
        "session": session,
        "csrf": getattr(request.state, "csrf", ""),
        "here": request.url.path,
        "moment": moment,
        "languages": {"en": "English", "zh-TW": "繁體中文"},
    }
    text = environment_of(language).get_template(template).render(shared | values)
    return HTMLResponse(text, status, headers={"Content-Language": language, "Vary": "Accept-Language, Cookie"})


def moment(time: float | str) -> str:
    """Date and time to the minute in the node's time zone, of seconds since 1970 or of a time in the record."""
    when = datetime.fromisoformat(time) if isinstance(time, str) else datetime.fromtimestamp(time, UTC)
    return f"{when.astimezone():%Y-%m-%d %H:%M}"


def language_of(request: Request) -> Language:
    """The language chosen on the page, else the first available one that the browser accepts, else node.yaml's."""
    asked = [part.partition(";")[0].strip() for part in request.headers.get("accept-language", "").split(",")]
    for wish in (request.cookies.get(LANGUAGE_COOKIE, ""), *asked):
        if wish in LANGUAGES:
            return cast(Language, wish)
        if wish.lower().startswith("zh"):
            return "zh-TW"
        if wish.lower().startswith("en"):
            return "en"
    return request.app.state.access.page.language
