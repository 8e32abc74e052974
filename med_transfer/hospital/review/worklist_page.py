"""The worklist page: all studies with patient, state, answer and judgement."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
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
_LINES = 4096  # whose HTML is cached
_COLUMNS: tuple[tuple[worklist.Sort, str], ...] = (
    ("patient_name", "Patient"),
    ("study_date", "Study"),
    ("received", "Received"),
    ("state", "State"),
    ("top_class", "Answer"),
    ("top_probability", "Probability"),
)


class ListParameters(BaseModel):
    """Parameters of the list in the URL; none identifies a patient."""

    state: State | Literal[""] = ""
    top_class: Annotated[str, Field(max_length=200)] = ""
    judged: worklist.Judged = ""
    sort: worklist.Sort = "received"
    descending: bool = True
    after: Annotated[str, Field(max_length=64)] = ""

    def query(self) -> worklist.WorklistQuery:
        """Convert to a query of the worklist."""
        return worklist.WorklistQuery(**self.model_dump())


class SearchParameters(ListParameters):
    """With a search term, which may be a name and therefore comes in the body of a request."""

    search: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""


@router.get("/", response_class=HTMLResponse)
@at_least("reader")
def show(request: Request, asked: Annotated[ListParameters, Query()]) -> Response:
    """Show one page of the worklist."""
    tell(request, "saw worklist")
    return _page(request, SearchParameters(**asked.model_dump()))


@router.post("/", response_class=HTMLResponse)
@at_least("reader")
def search(request: Request, asked: Annotated[SearchParameters, Form()]) -> Response:
    """Show one page of the studies that match a search; without one, redirect to the address of the list."""
    if not asked.search:  # a browser can go back to an address, but not to what was answered to a form
        return RedirectResponse(f"/?{urlencode(asked.model_dump(exclude={'search'}, exclude_defaults=True))}", 303)
    tell(request, "saw worklist", detail="searched")
    return _page(request, asked)


@router.get("/counts")
@background
@at_least("reader")
def counts(request: Request) -> dict[str, int]:
    """Number of studies in each state, polled by open pages."""
    found = worklist.counts(request.app.state.queue)
    return {state: found.get(state, 0) for state in STATES}


def _page(request: Request, asked: SearchParameters) -> Response:
    queue, language = request.app.state.queue, language_of(request)
    page = worklist.page(queue, asked.query())
    return render(
        request,
        "worklist.html.jinja",
        asked=asked,
        page=page,
        rows=Markup("".join(_row(language, line) for line in page.lines)),
        counts=counts(request),
        classes=worklist.classes(queue),
        columns=_COLUMNS,
    )


@lru_cache(_LINES)
def _row(language: Language, line: worklist.Line) -> Markup:
    """HTML of a table row, cached because most lines have not changed since they were last requested.

    It has no line breaks, so that the page sees at once that each of its characters may be shown.
    """
    template = environment_of(language).get_template("worklist_line.html.jinja")
    words = {"person": worklist.person, "day": worklist.day, "moment": moment, "because": reason_in_words}
    return Markup(" ".join(template.render(line=line, **words).split("\n")))
