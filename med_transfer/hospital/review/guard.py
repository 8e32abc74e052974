"""Middleware around the whole page: known host names only, no large or ambiguous requests, security headers, and no
details of unexpected errors.

Source: OWASP Secure Headers; RFC 9112 6.3 (a request with Content-Length and Transfer-Encoding may be smuggled).
"""

from __future__ import annotations

import logging
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from med_transfer.hospital.settings.page import ReviewPage

log = logging.getLogger(__name__)

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d{1,5})?")
LARGEST_BODY = 256 << 10  # bytes of a form; there are no uploads
_LARGEST_HEAD = 16 << 10  # bytes of all headers
_POLICY = {
    "default-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "object-src": "'none'",
}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}


def policy(**more: str) -> str:
    """Content-Security-Policy that allows only this origin; ``img_src="blob:"``, for example, adds a source.

    For responses that set the header ``Content-Security-Policy`` themselves; all others get ``policy()``.
    """
    added = {name.replace("_", "-"): f"'self' {sources}" for name, sources in more.items()}
    return "; ".join(f"{name} {sources}" for name, sources in (_POLICY | added).items())


class Guard:
    """The ASGI middleware."""

    def __init__(self, app: ASGIApp, page: ReviewPage) -> None:
        self._app = app
        self._names = {f"[{page.bind}]" if ":" in page.bind else page.bind, *(name.lower() for name in page.names)}
        if page.bind in ("127.0.0.1", "::1"):
            self._names.add("localhost")
        self._headers = _HEADERS | ({"Strict-Transport-Security": "max-age=63072000"} if page.certificate else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        begun = False

        async def send_bound(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._bind(MutableHeaders(scope=message))
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        try:
            await (refusal or self._app)(scope, _limited(receive), send_bound)
        except Exception as error:  # its message may identify a patient
            log.error("%s: unexpected %s", scope.get("path", "")[:80], type(error).__name__)
            log.debug("unexpected", exc_info=True)
            if begun:
                raise RuntimeError("an answer that had begun broke off") from None
            await JSONResponse({"detail": "unexpected"}, 500)(scope, receive, send_bound)

    def _refusal(self, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        host = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if host is None or host[1] not in self._names:
            return _refused(400, "host")
        if sum(len(name) + len(value) for name, value in headers.raw) > _LARGEST_HEAD:
            return _refused(431, "headers_too_large")
        lengths = headers.getlist("content-length")
        if ("transfer-encoding" in headers and lengths) or len(lengths) > 1:
            return _refused(400, "two_lengths")
        if lengths and (not lengths[0].isdigit() or int(lengths[0]) > LARGEST_BODY):
            return _refused(413, "too_large")
        return None

    def _bind(self, headers: MutableHeaders) -> None:
        for name, value in self._headers.items():
            headers.setdefault(name, value)
        headers.setdefault("Content-Security-Policy", policy())


def _refused(status: int, reason: str) -> Response:
    return JSONResponse({"detail": reason}, status, headers={"Connection": "close"})


def _limited(receive: Receive) -> Receive:
    """Limit the size of a body while it is received, since it need not state its length."""
    so_far = 0

    async def receive_limited() -> Message:
        nonlocal so_far
        message = await receive()
        so_far += len(message.get("body", b""))
        if so_far > LARGEST_BODY:
            raise HTTPException(413, "too_large")
        return message

    return receive_limited
