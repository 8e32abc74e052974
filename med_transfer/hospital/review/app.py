"""The review page as an ASGI application: its middleware, error handlers and routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as AnyHTTPException

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.review import node_pages, study_page, worklist_page
from med_transfer.hospital.review.access import routes as access_routes
from med_transfer.hospital.review.access.access import Access
from med_transfer.hospital.review.access.gate import GuardedRoute, SignInFirst, public
from med_transfer.hospital.review.guard import Guard
from med_transfer.hospital.review.pages import STATIC, render, style
from med_transfer.hospital.review.study import Volumes
from med_transfer.hospital.settings.page import ReviewPage

# A route is closed to visitors without a session unless it is marked as public, see access/gate.py.
ROUTERS = (worklist_page.router, study_page.router, node_pages.router, access_routes.router)
# Switches off the telemetry of newer FastAPI versions, whose spans and logs would contain requests.
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def review_app(node: NodeConfig, queue: Queue) -> FastAPI:
    """Create the review page of a node; ``app.state`` has ``node``, ``queue``, ``access`` and ``volumes``.

    Raises:
        OutputError: the page's database cannot be opened.
        ConfigError: the client secret for single sign-on cannot be read.
    """
    page = node.page or ReviewPage()
    access, volumes = Access(node, page), Volumes(node, queue)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        app.state.volume_threads = CapacityLimiter(2)  # one reads a scan, the other serves what has been read
        yield
        volumes.close()
        access.close()

    app = FastAPI(title="med-transfer review page", openapi_url=None, lifespan=life, telemetry=_NO_TELEMETRY)
    app.router.route_class = GuardedRoute
    app.state.node, app.state.queue, app.state.access, app.state.volumes = node, queue, access, volumes
    app.add_middleware(Guard, page=page)
    app.add_exception_handler(SignInFirst, _sign_in_first)
    app.add_exception_handler(AnyHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    for router in ROUTERS:  # include_router would match each request's route three times
        app.router.routes.extend(router.routes)
    app.add_api_route("/health", _health, include_in_schema=False)
    app.add_api_route("/style.css", _style, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


@public
def _health() -> PlainTextResponse:
    return PlainTextResponse("ok\n")


@public
def _style() -> Response:
    return Response(style(), media_type="text/css", headers={"Cache-Control": "max-age=300"})


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


async def _sign_in_first(request: Request, _: Exception) -> Response:
    if not _wants_page(request):
        return JSONResponse({"detail": "sign_in"}, 401)
    if request.method == "GET":
        return RedirectResponse(access_routes.sign_in_url(request), 303)
    there = access_routes.sign_in_url(request)
    return render(request, "refused.html.jinja", 401, code=401, reason="sign_in", sign_in=there)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException | AnyHTTPException)
    if _wants_page(request):
        page = render(request, "refused.html.jinja", error.status_code, code=error.status_code, reason=error.detail)
        page.headers.update(error.headers or {})
        return page
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


async def _invalid_request(request: Request, _: Exception) -> Response:
    """Answer 422 without FastAPI's details, which repeat the request and may identify a patient."""
    return await _refused(request, HTTPException(422, "not_understood"))
