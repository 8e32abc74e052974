"""The page of one study: the answers, the images in the viewer, and the feedback form."""

from __future__ import annotations

import importlib.util
import time
from functools import cache, partial
from pathlib import Path as FilePath
from typing import Annotated, cast

from anyio import to_thread
from fastapi import APIRouter, Form, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field

from med_transfer.errors import MedTransferError, not_installed
from med_transfer.hospital.codes import REASONS
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Feedback, Judgement, Queue, SeriesAnswer
from med_transfer.hospital.review.access.audit import Seen
from med_transfer.hospital.review.access.gate import GuardedRoute, at_least, session_of, tell
from med_transfer.hospital.review.bundle_records import bundle_cases
from med_transfer.hospital.review.guard import policy
from med_transfer.hospital.review.pages import render
from med_transfer.hospital.review.study import (
    SeriesFacts,
    StudyFacts,
    Volumes,
    answer_of,
    similar_cases_of,
    study_facts,
)
from med_transfer.hospital.review.worklist import WorklistQuery, day, next_study, person
from med_transfer.hospital.server import disk_is_full

router = APIRouter(route_class=GuardedRoute)
StudyId = Annotated[str, Path(pattern=r"^[0-9a-z]{1,64}$")]
Number = Annotated[int, Path(ge=0, le=10_000)]
WINDOWS_HU = {  # preset: centre, width
    "brain": (40, 80),
    "lung": (-600, 1500),
    "soft tissue": (40, 400),
    "bone": (500, 2000),
}
_NO_IMAGES = {  # why the viewer gets no voxels, besides the reasons for which there is no answer
    "no_images": "The images of this study have been deleted from the node.",
    "disk_nearly_full": "The disk of the node is nearly full.",
}
_LONGEST_COMMENT = 4000
_KEPT = {"Cache-Control": "private, max-age=3600"}  # for the script; patient data is never cached


@router.get("/study/{study}", response_class=HTMLResponse)
@at_least("reader")
def show(request: Request, study: StudyId, answer: Annotated[int, Query(ge=0, le=10_000)] = 0) -> Response:
    """Show a study and one of its answers."""
    facts = _facts(request, study)
    tell(request, "saw study", Seen(facts.id, facts.study_uid))
    chosen = facts.series[min(answer, len(facts.series) - 1)] if facts.series else None
    page = render(
        request,
        "study.html.jinja",
        study=facts,
        series=chosen,
        windows=WINDOWS_HU,
        refusals=REASONS | _NO_IMAGES,
        following=next_study(_queue(request), WorklistQuery(), study),
        outcome=request.query_params.get("said", ""),
        longest=_LONGEST_COMMENT,
        person=person(facts.line.patient_name),
        day=day(facts.line.study_date),
    )
    # NiiVue loads its font and lighting textures from data URLs.
    page.headers["Content-Security-Policy"] = policy(img_src="data:")
    return page


@router.get("/study/{study}/{revision}/{number}/volume.nii.gz", response_class=FileResponse)
@at_least("reader")
async def volume(request: Request, study: StudyId, revision: Number, number: Number) -> Response:
    """Serve the voxels of a series (HU for CT), read when first viewed.

    Runs in its own thread limit, so that slow reads do not use up the threads of other pages.
    """
    look = partial(_volume, request, study, revision, number)
    return await to_thread.run_sync(look, limiter=request.app.state.volume_threads)


def _volume(request: Request, study: str, revision: int, number: int) -> Response:
    answer, facts = _answer(request, study, revision, number)
    if not answer.series_uid or not facts.images_here:
        raise HTTPException(404, "no_images")
    if disk_is_full(_node(request)):
        raise HTTPException(507, "disk_nearly_full")
    tell(request, "saw images", Seen(facts.id, facts.study_uid))
    try:
        path = cast(Volumes, request.app.state.volumes).volume(study, answer)
    except MedTransferError as error:
        raise HTTPException(422, type(error).__name__) from None
    return FileResponse(path, media_type="application/gzip")


@router.get("/study/{study}/{revision}/{number}/map.nii.gz", response_class=FileResponse)
@at_least("reader")
def heat_map(request: Request, study: StudyId, revision: Number, number: Number) -> Response:
    """Serve the heat map, as a fraction of its maximum, on the same voxels."""
    answer, facts = _answer(request, study, revision, number)
    path = _node(request).folder / answer.map_file
    if not answer.map_file or not facts.images_here or not path.is_file():
        raise HTTPException(404, "no_map")
    tell(request, "saw images", Seen(facts.id, facts.study_uid), detail="heat map")
    return FileResponse(path, media_type="application/gzip")


@router.get("/study/{study}/{revision}/{number}/similar/{case}.jpeg", response_class=Response)
@at_least("reader")
def similar_case(request: Request, study: StudyId, revision: Number, number: Number, case: Number) -> Response:
    """Serve the picture of a development scan that this answer lists as similar, and of no other."""
    answer, _ = _answer(request, study, revision, number)
    named = {one.number for one in similar_cases_of(answer)}
    cases = bundle_cases(_node(request), answer.bundle)
    if case not in named or cases is None:
        raise HTTPException(404, "no_case")
    return Response(cases.pictures[case], media_type="image/jpeg")


class FeedbackForm(BaseModel):
    """Fields of the feedback form."""

    revision: Annotated[int, Field(ge=0)]
    number: Annotated[int, Field(ge=0)]
    kind: Judgement
    label: list[str] = Field(default_factory=list)
    comment: Annotated[str, Field(max_length=2 * _LONGEST_COMMENT)] = ""  # browsers send a line break as two characters


@router.post("/study/{study}/feedback")
@at_least("reviewer")
def judge(request: Request, study: StudyId, form: Annotated[FeedbackForm, Form()]) -> Response:
    """Store a reviewer's feedback permanently."""
    facts, number, comment = _facts(request, study), form.number, form.comment.strip()
    series = next((one for one in facts.series if (facts.revision, one.number) == (form.revision, number)), None)
    if series is None:
        return _back(study, number, "changed")
    label = _label(form, series)
    if label is _UNFIT or (form.kind == "comment" and not comment):
        return _back(study, number, "contradiction" if form.kind == "agree" else "nothing")
    kept = Feedback(
        session_of(request).user, study, form.revision, number, form.kind, cast("str | None", label), comment
    )
    if not _queue(request).add_feedback(kept, time.time()):
        return _back(study, number, "changed" if form.kind != "rerun" else "no_rerun")
    tell(request, "asked to predict again" if form.kind == "rerun" else "judged", Seen(facts.id, facts.study_uid))
    return _back(study, number, form.kind)


_UNFIT = object()


def _label(form: FeedbackForm, series: SeriesFacts) -> object:
    """Label given by the feedback: None for none, ``_UNFIT`` if it is invalid or contradicts the button.

    For a multi-label bundle an empty label, without any finding, is valid.
    """
    if form.kind in ("comment", "rerun"):
        return None
    chosen, called = _chosen(form, series), series.predicted if series.is_called else None
    if form.kind == "agree":
        return called if called is not None and (not form.label or chosen == called) else _UNFIT
    return chosen if chosen != called else _UNFIT


def _chosen(form: FeedbackForm, series: SeriesFacts) -> object:
    """The class that was chosen, or the findings, joined as in a prediction; ``_UNFIT`` if they are not a label."""
    chosen = [name for name in series.names if name in form.label]
    if len(chosen) != len(set(form.label)) or (not series.multilabel and len(chosen) != 1):
        return _UNFIT
    return ";".join(chosen)


def _back(study: str, number: int, outcome: str) -> Response:
    return RedirectResponse(f"/study/{study}?answer={number}&said={outcome}#feedback", 303)


@router.get("/niivue.js", response_class=FileResponse)
@at_least("reader")
def niivue() -> Response:
    """Serve the NiiVue script of the package ipyniivue. Raises MissingExtra."""
    return FileResponse(_niivue_file(), media_type="text/javascript", headers=_KEPT)


@cache
def _niivue_file() -> FilePath:
    """Locate the script without importing the package, which would load notebook libraries."""
    found = importlib.util.find_spec("ipyniivue")
    if found is None or not found.submodule_search_locations:
        raise not_installed("ipyniivue", "hospital", "the review page's viewer")
    return FilePath(found.submodule_search_locations[0]) / "static" / "widget.js"


def _facts(request: Request, study: str) -> StudyFacts:
    facts = study_facts(_node(request), _queue(request), study)
    if facts is None:
        raise HTTPException(404, "no_study")
    return facts


def _answer(request: Request, study: str, revision: int, number: int) -> tuple[SeriesAnswer, StudyFacts]:
    facts, answer = _facts(request, study), answer_of(_queue(request), study, revision, number)
    if answer is None:
        raise HTTPException(404, "no_answer")
    return answer, facts


def _node(request: Request) -> NodeConfig:
    return request.app.state.node


def _queue(request: Request) -> Queue:
    return request.app.state.queue
