"""How long the page waits for a request: who sends one byte now and then holds no connection for good."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 20.0  # in which a request must be complete, once or twice over


class PatientProtocol(H11Protocol):
    """Uvicorn's, which closes a connection whose request does not become complete."""

    seconds = SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As the parent's, and look again later."""
        super().connection_made(transport)
        self._answered = self._answered_before = 0
        self._next_look = self.loop.call_later(self.seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """As the parent's."""
        self._next_look.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """As the parent's."""
        self._answered += 1
        super().on_response_complete()

    def shutdown(self) -> None:
        """As the parent's; a browser that keeps TLS open for later is not asked to agree to its end."""
        super().shutdown()
        if self.transport.is_closing():
            self.transport.abort()

    def _look(self) -> None:
        waits = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if waits and self._answered == self._answered_before:
            self.transport.abort()
            return
        self._answered_before = self._answered
        self._next_look = self.loop.call_later(self.seconds, self._look)
