"""STOW-RS server: images received by HTTP, into the same queue and with the same checks. Source: DICOM PS3.18 10.5."""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message

from aiohttp import BodyPartReader, MultipartReader, web
from pydicom.dataset import Dataset

from med_transfer.errors import OutputError
from med_transfer.hospital.config import NodeConfig, port_error
from med_transfer.hospital.dicomweb import read_token
from med_transfer.hospital.incoming import RejectedInstance, keep, keep_aside, received_file
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.receiver import OUT_OF_RESOURCES, STATUS
from med_transfer.hospital.server import disk_is_full
from med_transfer.hospital.settings.peers import WebServer
from med_transfer.hospital.tls import server_context
from med_transfer.hospital.uids import sop_reference

log = logging.getLogger(__name__)
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)  # it logs unreadable requests

_ROOT = "/dicom-web/studies"


@dataclass(frozen=True)
class Outcome:
    """Outcome of one part of a request; ``failure`` is 0, or a reason for FailedSOPSequence (PS3.18 10.5.3.2.1)."""

    sop_class: str
    sop_uid: str
    failure: int


class StowServer:
    """HTTP server that runs in its own thread from construction until ``close``.

    Raises:
        ConfigError: the port is in use, or a token or certificate cannot be used.
    """

    def __init__(self, node: NodeConfig, settings: WebServer, queue: Queue) -> None:
        self._node, self._queue, self._open = node, queue, 0
        self._token = read_token(settings.token) if settings.token else ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            tls = server_context(settings.certificate, settings.key, settings.trusted)
            self._runner = self._wait(self._start(settings, tls))
        except BaseException:
            self._end()
            raise

    def _wait(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self, settings: WebServer, tls: ssl.SSLContext | None) -> web.AppRunner:
        application = web.Application()
        application.add_routes([web.post(_ROOT, self._store), web.post(_ROOT + "/{study}", self._store)])
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=self._node.limits.network_seconds)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.bind, settings.port, ssl_context=tls, shutdown_timeout=1.0).start()
        except OSError as error:
            await runner.cleanup()
            raise port_error(error, settings.bind, settings.port, "web") from None
        return runner

    def close(self) -> None:
        """Stop the server."""
        self._wait(self._runner.cleanup())
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _store(self, request: web.Request) -> web.Response:
        shown = request.headers.get("Authorization", "").encode(errors="replace")
        if self._token and not hmac.compare_digest(shown, f"Bearer {self._token}".encode()):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        if self._open >= self._node.limits.associations or disk_is_full(self._node):
            return web.Response(status=503, text="too many requests at one time, or the disk is nearly full")
        if request.content_type != "multipart/related":
            return web.Response(status=415, text="expected multipart/related of application/dicom")
        self._open += 1
        try:
            outcomes = await self._parts(request)
        except TimeoutError:
            return web.Response(status=408)
        except _TooLarge as too_large:
            return web.Response(status=413, text=str(too_large))
        except (ValueError, AssertionError):  # raised by aiohttp for a missing boundary
            return web.Response(status=400, text="the parts cannot be told apart")
        finally:
            self._open -= 1
        return _answer(outcomes)

    async def _parts(self, request: web.Request) -> list[Outcome]:
        reader, outcomes = _Parts(request.headers, request.content), []
        seconds, max_instances = self._node.limits.network_seconds, self._node.limits.study_instances
        while (part := await asyncio.wait_for(reader.next(), seconds)) is not None:
            if not isinstance(part, BodyPartReader):
                raise ValueError("parts in parts")
            if len(outcomes) == max_instances:  # instances ignored silently would count as stored
                raise _TooLarge(f"a request has at most {max_instances} instances; those before are kept")
            content = await self._content(part)
            study = request.match_info.get("study", "")
            outcomes.append(await asyncio.to_thread(self._take, content, study))
        return outcomes

    async def _content(self, part: BodyPartReader) -> bytes:
        content, max_bytes = bytearray(), int(self._node.limits.instance_mib * (1 << 20))
        while chunk := await asyncio.wait_for(part.read_chunk(1 << 16), self._node.limits.network_seconds):
            content += chunk
            if len(content) > max_bytes:
                raise _TooLarge(f"an instance has at most {self._node.limits.instance_mib:g} MiB")
        return bytes(content)

    def _take(self, content: bytes, study_uid: str) -> Outcome:
        node, now, received = self._node, time.time(), None
        try:
            if disk_is_full(node):
                return Outcome("", "", OUT_OF_RESOURCES)
            received = received_file(content, study_uid)
            keep(node.folder, self._queue, received, now, node.limits.study_instances)
            failure = 0
        except RejectedInstance as rejected:
            log.warning("an instance was not taken: %s", rejected.reason)
            failure = STATUS[rejected.reason]
            if rejected.reason not in ("class_not_supported", "syntax_not_supported"):
                keep_aside(node.folder, self._queue, rejected.reason, "web", content, now)
        except OutputError:
            log.error("an instance cannot be written")
            failure = OUT_OF_RESOURCES
        return Outcome(received.sop_class if received else "", received.sop_uid if received else "", failure)


class _Parts(MultipartReader):
    def _get_boundary(self) -> str:
        """Accept up to 200 characters: RFC 2046 allows 70, but Orthanc's boundary has 73."""
        kind = Message()
        kind["Content-Type"] = self.headers.get("Content-Type", "")
        boundary = kind.get_boundary()
        if not boundary or len(boundary) > 200:
            raise ValueError("no boundary")
        return boundary


class _TooLarge(Exception):
    pass


def _answer(outcomes: Sequence[Outcome]) -> web.Response:
    if not outcomes:
        return web.Response(status=400, text="no part")
    answer, failed = Dataset(), [outcome for outcome in outcomes if outcome.failure]
    answer.RetrieveURL = None
    answer.ReferencedSOPSequence = [_item(outcome) for outcome in outcomes if not outcome.failure]
    if failed:
        answer.FailedSOPSequence = [_item(outcome) for outcome in failed]
    status = 200 if not failed else 409 if len(failed) == len(outcomes) else 202
    return web.json_response(answer.to_json_dict(), status=status, content_type="application/dicom+json")


def _item(outcome: Outcome) -> Dataset:
    item = sop_reference(outcome.sop_class, outcome.sop_uid)
    if outcome.failure:
        item.FailureReason = outcome.failure
    else:
        item.RetrieveURL = None
    return item
