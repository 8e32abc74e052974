"""Time-out for requests, so that a client that sends one byte now and then cannot hold a connection forever."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 20.0  # an incomplete request is aborted after this time, or at most twice this time


class TimeoutProtocol(H11Protocol):
    """Uvicorn's protocol, but closes a connection whose request is not completed in time."""

    seconds = SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the periodic check."""
        super().connection_made(transport)
        self._answered = self._answered_before = 0
        self._next_look = self.loop.call_later(self.seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the periodic check."""
        self._next_look.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Count the response."""
        self._answered += 1
        super().on_response_complete()

    def shutdown(self) -> None:
        """Shut down as the parent does, without waiting for browsers to close idle TLS connections."""
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
