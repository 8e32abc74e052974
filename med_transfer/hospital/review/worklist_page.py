"""The page of all studies: whose they are, what state they are in, what was said of them and who agrees."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from pydantic import BaseModel, Field, StringConstraints

from med_transfer.hospital.queue import State
from med_transfer.hospital.review import worklist
from med_transfer.hospital.review.access.gate import GuardedRoute, at_least, background, tell
from med_transfer.hospital.review.load import STATES
from med_transfer.hospital.review.pages import environment_of, language_of, moment, render
from med_transfer.hospital.review.reasons import reason_in_words
from med_transfer.page import Language

router = APIRouter(route_class=GuardedRoute)
_LINES = 4096  # whose HTML is kept in memory
_COLUMNS: tuple[tuple[worklist.Sort, str], ...] = (
    ("patient_name", "Patient"),
    ("study_date", "Study"),
    ("received", "Received"),
    ("state", "State"),
    ("top_class", "Answer"),
    ("top_probability", "Probability"),
)


class Asked(BaseModel):
    """What of the list is asked for, as the address has it; nothing of it names a patient."""

    state: State | Literal[""] = ""
    top_class: Annotated[str, Field(max_length=200)] = ""
    judged: worklist.Judged = ""
    sort: worklist.Sort = "received"
    descending: bool = True
    after: Annotated[str, Field(max_length=64)] = ""

    def wish(self) -> worklist.Wish:
        """As the list takes it."""
        return worklist.Wish(**self.model_dump())


class Searched(Asked):
    """With what is searched for, which may be a name and so comes in the body of a request."""

    search: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""


@router.get("/", response_class=HTMLResponse)
@at_least("reader")
def show(request: Request, asked: Annotated[Asked, Query()]) -> Response:
    """The studies, a page at a time."""
    tell(request, "saw worklist")
    return _page(request, Searched(**asked.model_dump()))


@router.post("/", response_class=HTMLResponse)
@at_least("reader")
def search(request: Request, asked: Annotated[Searched, Form()]) -> Response:
    """Those that hold some words."""
    tell(request, "saw worklist", detail="searched" if asked.search else "")
    return _page(request, asked)


@router.get("/counts")
@background
@at_least("reader")
def counts(request: Request) -> dict[str, int]:
    """Studies by state, for a page that stays open."""
    return _counts(request)


def _page(request: Request, asked: Searched) -> Response:
    queue, language = request.app.state.queue, language_of(request)
    page = worklist.page(queue, asked.wish())
    return render(
        request,
        "worklist.html.jinja",
        asked=asked,
        page=page,
        rows=Markup("".join(_row(language, line) for line in page.lines)),
        counts=_counts(request),
        classes=worklist.classes(queue),
        columns=_COLUMNS,
    )


@lru_cache(_LINES)
def _row(language: Language, line: worklist.Line) -> Markup:
    """Of the table. Most lines that are asked for have not changed since somebody asked for them last.

    It has no line break, so that the page sees at once that each of its characters may be shown.
    """
    template = environment_of(language).get_template("worklist_line.html.jinja")
    words = {"person": worklist.person, "day": worklist.day, "moment": moment, "because": reason_in_words}
    return Markup(" ".join(template.render(line=line, **words).split("\n")))


def _counts(request: Request) -> dict[str, int]:
    found = worklist.counts(request.app.state.queue)
    return {state: found.get(state, 0) for state in STATES}
