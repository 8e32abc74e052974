"""The page of all studies: what state they are in, and what was said of them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from med_transfer.hospital.queue import Queue
from med_transfer.hospital.review.access.gate import Reader, Tell
from med_transfer.hospital.review.pages import render

router = APIRouter()


@router.get("/", response_class=HTMLResponse)
def worklist(request: Request, _: Reader, tell: Tell) -> Response:
    """The studies, a page at a time."""
    queue: Queue = request.app.state.queue
    tell("saw worklist")
    return render(request, "worklist.html.jinja", studies=queue.studies()[:100], counts=queue.counts())
