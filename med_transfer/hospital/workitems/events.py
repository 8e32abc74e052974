"""Requests to cancel claimed work items. Source: DICOM PS3.18 8.10.4, 8.10.5; PS3.4 table CC.2.4-1."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
from collections.abc import Callable

import aiohttp

from med_transfer.hospital.dicomweb import read_token
from med_transfer.hospital.settings.peers import WebPeer

log = logging.getLogger(__name__)

CANCEL_REQUESTED = 2  # Event Type ID
_LARGEST = 1 << 20
_FIRST_SECONDS, _LONGEST_SECONDS, _HEARTBEAT_SECONDS = 0.5, 60.0, 30.0


class EventChannel:
    """A WebSocket in its own thread, reopened whenever it is closed.

    Args:
        peer: the worklist's service.
        cancel: called in that thread with the UID of an item to cancel.
    """

    def __init__(self, peer: WebPeer, cancel: Callable[[str], None]) -> None:
        self._peer, self._cancel, self._url, self._lock = peer, cancel, "", threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._listening: asyncio.Task | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="work item events", daemon=True)
        self._thread.start()

    def open(self, url: str) -> None:
        """Listen at this URL from now on."""
        with self._lock:
            if url != self._url and not self._loop.is_closed():
                self._url = url
                asyncio.run_coroutine_threadsafe(self._listen_to(url), self._loop).result()

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            if not self._loop.is_closed():
                asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()

    async def _listen_to(self, url: str) -> None:
        await self._end()
        self._listening = asyncio.create_task(self._listen(url))

    async def _end(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self, url: str) -> None:
        seconds = _FIRST_SECONDS
        while True:
            try:
                session = aiohttp.ClientSession(headers=self._headers())
                async with session, self._socket(session, url) as channel:
                    seconds = _FIRST_SECONDS
                    async for message in channel:
                        self._hear(str(message.data))
            except Exception as error:  # if the task ended, no event would ever be received again, unnoticed
                log.warning("the worklist's events are not heard (%s)", type(error).__name__)
            await asyncio.sleep(seconds)
            seconds = min(_LONGEST_SECONDS, 2 * seconds)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {read_token(self._peer.token)}"} if self._peer.token else {}

    def _socket(self, session: aiohttp.ClientSession, url: str):
        tls = _context(self._peer) if url.startswith("wss:") else True
        return session.ws_connect(url, ssl=tls, heartbeat=_HEARTBEAT_SECONDS, max_msg_size=_LARGEST)

    def _hear(self, text: str) -> None:
        try:
            event = json.loads(text)
            if event["00001002"]["Value"][0] == CANCEL_REQUESTED:
                self._cancel(str(event["00001000"]["Value"][0]))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):  # an external event may hold anything
            log.warning("an event of the worklist was not understood")


def _context(peer: WebPeer) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=peer.trusted)
    if peer.certificate and peer.key:
        context.load_cert_chain(peer.certificate, peer.key)
    return context
