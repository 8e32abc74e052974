"""Two pages on the node itself: reports on its bundles, and its load."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from med_transfer.hospital.review.access.gate import GuardedRoute, at_least, tell
from med_transfer.hospital.review.bundle_report import reports
from med_transfer.hospital.review.load import drifts_of, load_of
from med_transfer.hospital.review.pages import render
from med_transfer.hospital.review.reasons import quantity_in_words

router = APIRouter(route_class=GuardedRoute)


@router.get("/report", response_class=HTMLResponse)
@at_least("reader")
def report(request: Request) -> Response:
    """Show the reports on the bundles in use."""
    state = request.app.state
    tell(request, "saw report")
    return render(request, "report.html.jinja", bundles=reports(state.node, state.queue))


@router.get("/load", response_class=HTMLResponse)
@at_least("reader")
def load(request: Request) -> Response:
    """Show the node's present load and drift."""
    state = request.app.state
    tell(request, "saw load")
    return render(
        request,
        "load.html.jinja",
        load=load_of(state.node),
        drifts=drifts_of(state.node, state.queue),
        words=quantity_in_words,
    )
