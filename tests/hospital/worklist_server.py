"""A worklist for tests that answers by the tables of PS3.18 11 and PS3.4 CC, and accepts nothing else.

The package registries have no UPS-RS server, so this one was written from the standard for these tests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import ClientSession, web
from peers import free_port
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

STATE, TRANSACTION, UID = "00741000", "00081195", "00080018"
PROGRESS, CANCELED_AT, DISCONTINUED = "00741002", "00404052", "0074100E"
PERFORMED, STATION, BEGUN, ENDED, WORK, OUTPUT = (
    *("00741216", "00404028", "00404050"),
    *("00404051", "00404019", "00404033"),
)
EVENT_TYPE, EVENT_OF = "00001002", "00001000"


class WorklistServer:
    """In a thread of its own; what it holds survives ``stop`` and ``start``, as a server's database does.

    Attributes:
        items: by UID, as DICOM JSON.
        answers: what was asked and answered, in order.
        overlooks: searches find every item, whatever the keys, as far as the standard lets a server do so.
        includes: searches answer with the attributes that were asked for.
        broken: items that it cannot show.
        lose: requests of which the answer is lost on its way, by method and end of the path.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.items: dict[str, dict] = {}
        self.deleted: set[str] = set()
        self.broken: set[str] = set()
        self.answers: list[tuple[str, str, int]] = []
        self.overlooks = self.includes = False
        self.lose: set[tuple[str, str]] = set()
        self.warnings: list[str] = []
        self._subscribers: dict[str, set[str]] = {}
        self._channels: dict[str, list[web.WebSocketResponse]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/rs"

    def add(self, item: Dataset) -> str:
        """A new item, SCHEDULED."""
        item.ProcedureStepState = "SCHEDULED"
        self.items[str(item.SOPInstanceUID)] = item.to_json_dict()
        return str(item.SOPInstanceUID)

    def state(self, uid: str) -> str:
        return self.items[uid][STATE]["Value"][0]

    def item(self, uid: str) -> Dataset:
        return Dataset.from_json(self.items[uid])

    def heard_by(self, ae_title: str) -> int:
        """How many channels of a subscriber are open."""
        return len(self._channels.get(ae_title, []))

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(20)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def ask_to_cancel(self, uid: str) -> int:
        """As another machine does, by POST; the status."""

        async def ask() -> int:
            async with ClientSession() as session, session.post(f"{self.url}/workitems/{uid}/cancelrequest") as answer:
                return answer.status

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(20)

    async def _open(self) -> None:
        application = web.Application(middlewares=[self._noted])
        item = "/rs/workitems/{uid}"
        application.add_routes(
            [
                web.get("/rs/workitems", self._search),
                web.get(item, self._retrieve),
                web.post(item, self._update),
                web.put(f"{item}/state", self._change_state),
                web.post(f"{item}/cancelrequest", self._cancel_request),
                web.post(f"{item}/subscribers/{{ae}}", self._subscribe),
                web.get("/rs/subscribers/{ae}", self._channel),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, shutdown_timeout=0.1).start()

    async def _close(self) -> None:
        for channel in [one for channels in self._channels.values() for one in channels]:
            await channel.close()
        await self._runner.cleanup()

    @web.middleware
    async def _noted(self, request: web.Request, handler) -> web.StreamResponse:
        try:
            answer = await handler(request)
        except web.HTTPInternalServerError as error:
            return web.Response(status=error.status)
        self.answers.append((request.method, request.path.removeprefix("/rs/"), answer.status))
        self.warnings += answer.headers.getall("Warning", [])
        for lost in list(self.lose):
            if request.method == lost[0] and request.path.endswith(lost[1]) and answer.status == 200:
                self.lose.discard(lost)
                assert request.transport is not None
                request.transport.abort()
        return answer

    def _found(self, request: web.Request) -> tuple[str, dict]:
        uid = request.match_info["uid"]
        if uid in self.deleted:
            raise web.HTTPGone
        if uid in self.broken:
            raise web.HTTPInternalServerError
        if uid not in self.items:
            raise web.HTTPNotFound
        return uid, self.items[uid]

    async def _dataset(self, request: web.Request) -> dict:
        if request.content_type != "application/dicom+json":
            raise web.HTTPUnsupportedMediaType
        content = await request.json()
        if not isinstance(content, dict) or list(content) != sorted(content):  # F.2.2: one object, in order of tags
            raise web.HTTPBadRequest
        return content

    async def _search(self, request: web.Request) -> web.Response:
        wanted = {key: value for key, value in request.query.items() if key != "includefield"}
        items = [item for item in self.items.values() if self.overlooks or _matches(Dataset.from_json(item), wanted)]
        if not items:
            return web.Response(status=204)
        tags = {UID, STATE}  # no more than a server must return
        if self.includes:
            tags |= {f"{tag_for_keyword(keyword):08X}" for keyword in request.query.getall("includefield")}
        shown = [{tag: item[tag] for tag in tags & item.keys()} for item in items]
        return web.json_response(shown, content_type="application/dicom+json")

    async def _retrieve(self, request: web.Request) -> web.Response:
        _, item = self._found(request)
        shown = {tag: value for tag, value in item.items() if tag != TRANSACTION}  # 11.5: known to the Owner only
        return web.json_response([shown], content_type="application/dicom+json")

    async def _update(self, request: web.Request) -> web.Response:
        """Table 11.6.3-1; PS3.4 CC.2.6.2."""
        _, item = self._found(request)
        changes, shown = await self._dataset(request), request.query_string
        state = item[STATE]["Value"][0]
        if state in ("COMPLETED", "CANCELED"):
            return _refused(400, "The submitted request is inconsistent with the current state of the Workitem.")
        if state == "SCHEDULED":
            return _refused(400, "The target URI did not reference a claimed Workitem.")
        if not shown or _value(changes, TRANSACTION) is None:
            return _refused(400, "The Transaction UID is missing.")
        if {shown, _value(changes, TRANSACTION)} != {_value(item, TRANSACTION)}:
            return _refused(400, "The Transaction UID is incorrect.")
        if STATE in changes:
            return _refused(400, "The submitted request is inconsistent with the current state of the Workitem.")
        item.update(changes)
        return web.Response()

    async def _change_state(self, request: web.Request) -> web.Response:
        """Table 11.7.3-1; PS3.4 table CC.1.1-2."""
        _, item = self._found(request)
        change = await self._dataset(request)
        shown, wanted, state = _value(change, TRANSACTION), _value(change, STATE), item[STATE]["Value"][0]
        inconsistent = _refused(409, "The submitted request is inconsistent with the state of the UPS Instance.")
        if not shown:
            return _refused(400, "The Transaction UID is missing.")
        if wanted == "IN PROGRESS":
            if state != "SCHEDULED":
                return inconsistent
            item[TRANSACTION] = change[TRANSACTION]
        elif wanted in ("COMPLETED", "CANCELED"):
            if state not in ("IN PROGRESS", wanted):
                return inconsistent
            if shown != _value(item, TRANSACTION):
                return _refused(400, "The Transaction UID is incorrect.")
            if state == wanted:
                warning = f"299 tests: The UPS is already in the requested state of {wanted}."
                return web.Response(headers={"Warning": warning})
            if not _may_end(item, wanted):
                return inconsistent
        else:
            return _refused(400, "No such state.")
        item[STATE] = change[STATE]
        return web.Response()

    async def _cancel_request(self, request: web.Request) -> web.Response:
        """Table 11.8.3-1."""
        uid, item = self._found(request)
        state = item[STATE]["Value"][0]
        if state == "COMPLETED":
            return _refused(409, "The UPS is already COMPLETED.")
        if state == "SCHEDULED":
            item[STATE] = {"vr": "CS", "Value": ["CANCELED"]}
        if state == "IN PROGRESS" and not await self._report(uid):
            return _refused(409, "The performer cannot be contacted.")
        return web.Response(status=202)

    async def _report(self, uid: str) -> bool:
        event = {
            "00000002": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.34.6.4"]},
            EVENT_OF: {"vr": "UI", "Value": [uid]},
            EVENT_TYPE: {"vr": "US", "Value": [2]},
        }
        told = [one for ae in self._subscribers.get(uid, ()) for one in self._channels.get(ae, [])]
        for channel in told:
            for strange in ("{}", "[" * 100_000):  # not understood, and nothing ends by it
                await channel.send_str(strange)
            await channel.send_json(event)
        return bool(told)

    async def _subscribe(self, request: web.Request) -> web.Response:
        uid, _ = self._found(request)
        ae_title = request.match_info["ae"]
        self._subscribers.setdefault(uid, set()).add(ae_title)
        where = f"ws://127.0.0.1:{self.port}/rs/subscribers/{ae_title}"
        return web.Response(status=201, headers={"Content-Location": where})

    async def _channel(self, request: web.Request) -> web.WebSocketResponse:
        channel, ae_title = web.WebSocketResponse(), request.match_info["ae"]
        await channel.prepare(request)
        self._channels.setdefault(ae_title, []).append(channel)
        async for _ in channel:
            pass
        self._channels[ae_title].remove(channel)
        return channel


def _code(value: str, scheme: str = "99SITE") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, value
    return item


def work(uid: str, *studies: str, label: str = "AI", station: str = "NODE", ready: str = "READY") -> Dataset:
    """An item that asks for these studies."""
    item = Dataset()
    item.SOPInstanceUID, item.WorklistLabel, item.InputReadinessState = uid, label, ready
    item.ScheduledStationNameCodeSequence = [_code(station)]
    item.ScheduledWorkitemCodeSequence = [_code("lesion-ct")]
    item.InputInformationSequence = []
    for study_uid in studies:
        one = Dataset()
        one.TypeOfInstances, one.StudyInstanceUID = "DICOM", study_uid
        item.InputInformationSequence.append(one)
    return item


@contextmanager
def worklist() -> Iterator[WorklistServer]:
    server = WorklistServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _value(item: dict, tag: str):
    return (item.get(tag, {}).get("Value") or [None])[0]


def _matches(item: Dataset, wanted: dict[str, str]) -> bool:
    for key, value in wanted.items():
        sequence, _, keyword = key.rpartition(".")
        places = item.get(sequence, None) or [] if sequence else [item]
        if value not in [place.get(keyword, None) for place in places]:
            return False
    return True


def _may_end(item: dict, state: str) -> bool:
    """What must have a value before the final state: PS3.4 table CC.2.5-3, codes P and X."""
    if state == "CANCELED":
        step = _value(item, PROGRESS) or {}
        return bool(_value(step, CANCELED_AT) and _value(step, DISCONTINUED))
    done = _value(item, PERFORMED) or {}
    return OUTPUT in done and all(_value(done, tag) for tag in (STATION, BEGUN, ENDED, WORK))


def _refused(status: int, why: str) -> web.Response:
    return web.Response(status=status, headers={"Warning": f"299 tests: {why}"})
