"""Processing of work items from claim to completion, by means of the node's queue."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from pydicom.uid import UID, generate_uid

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.incoming import study_id
from med_transfer.hospital.pacs import Pacs, PacsFailed
from med_transfer.hospital.queue import Queue, Study
from med_transfer.hospital.queue.workitems import Workitem, Workitems, WorkState
from med_transfer.hospital.settings import workitems as settings
from med_transfer.hospital.workitems.contents import (
    RequestedItem,
    canceled,
    fits,
    performed,
    progress,
    references,
    search_keys,
)
from med_transfer.hospital.workitems.events import EventChannel
from med_transfer.hospital.workitems.service import REFUSED, WorkitemService

log = logging.getLogger(__name__)

_COMING, _COMPUTING, _SENDING = (10, "waiting for the study"), (30, "computing"), (80, "sending results")
_STAGES = {"received": _COMING, "complete": _COMPUTING, "predicted": _SENDING, "sent": _SENDING, "committed": _SENDING}
_ENDS: dict[str, WorkState] = {"COMPLETED": "completed", "CANCELED": "canceled"}


class Performer:
    """Claims items meant for the node, has their studies predicted, and reports to the worklist.

    Args:
        node: node.yaml.
        worklist: its section ``workitems``.
        queue: the node's queue.
        pacs: PACS to fetch studies from; None: they are sent without being requested.

    Raises:
        ConfigError: a token or certificate cannot be read.
    """

    def __init__(self, node: NodeConfig, worklist: settings.Workitems, queue: Queue, pacs: Pacs | None) -> None:
        self._node, self._worklist, self._queue, self._pacs = node, worklist, queue, pacs
        self._items, self._service = Workitems(queue), WorkitemService(worklist, node.limits.network_seconds)
        self._events = EventChannel(worklist.service, self._hear_cancel)
        self._new: set[str] = set()  # items for which no claim has been sent yet
        self._subscribed: set[str] = set()
        self._search_at = 0.0

    def close(self) -> None:
        """Stop listening for events; claimed items stay claimed, in the queue."""
        self._events.close()

    def work_due(self) -> None:
        """Search the worklist if it is time and there is room, then advance each due item by one step."""
        now = time.time()
        if not now < self._search_at <= now + self._worklist.poll_seconds:  # or the clock was set back
            self._search_at = now + self._worklist.poll_seconds
            self.choose()
        for item in self._items.open(due=time.time()):
            self._step(item)

    # Claiming -------------------------------------------------------------------------------------------------

    def choose(self) -> None:
        """Search the worklist for items to claim."""
        try:
            for asked in self._search(self._worklist.at_once - len(self._items.open())):
                self._begin(asked)
        except PacsFailed as failed:
            log.warning("the worklist cannot be searched: %s", failed.reason)

    def _search(self, room: int) -> Iterator[RequestedItem]:
        """Yield items to claim, urgent ones first, each after retrieving and checking it completely."""
        if room <= 0:
            return
        answers = self._service.search(search_keys(self._worklist))
        found = [RequestedItem.of(item) for item in answers if fits(item, self._worklist, whole=False)]
        new = [asked for asked in found if UID(asked.uid).is_valid and not self._items.is_known(asked.uid)]
        for seen in sorted(new, key=lambda asked: not asked.urgent):
            try:
                whole = self._service.retrieve(seen.uid)
            except PacsFailed as failed:  # one item must not block the others
                log.warning("a work item cannot be looked at: %s", failed.reason)
                continue
            asked = RequestedItem.of(whole)
            if (asked.uid, asked.state) == (seen.uid, "SCHEDULED") and asked.ready and fits(whole, self._worklist):
                yield asked
                room -= 1
            if not room:
                return

    def _begin(self, asked: RequestedItem) -> None:
        """Store a claim, which is sent afterwards."""
        study_uid = asked.study_uids[0] if len(asked.study_uids) == 1 and UID(asked.study_uids[0]).is_valid else ""
        study = study_id(study_uid) if study_uid else ""
        self._new.add(asked.uid)
        self._items.begin(asked.uid, generate_uid(prefix=None), study, study_uid, time.time())

    def _claim(self, item: Workitem) -> None:
        """Send a claim. It is refused if another performer was first, or if an earlier claim of ours was accepted but
        its answer was lost."""
        new = item.uid in self._new
        self._new.discard(item.uid)
        try:
            self._service.change_state(item.uid, item.transaction_uid, "IN PROGRESS")
        except PacsFailed as failed:
            if new or failed.reason not in REFUSED:
                raise
            self._service.update(item.uid, item.transaction_uid, progress(0, "claimed"))  # only the owner may
        self._items.advance(item, "claimed")

    # One step -------------------------------------------------------------------------------------------------

    def _step(self, item: Workitem) -> None:
        try:
            self._advance(item)
        except PacsFailed as failed:
            if failed.reason in REFUSED:
                self._give_up(item, failed.reason)
            else:
                self._wait(item, failed.reason)
        except Exception as error:  # one item must not block the others
            log.debug("unexpected", exc_info=True, extra={"study": item.study})
            self._wait(item, f"unexpected_{type(error).__name__}")

    def _wait(self, item: Workitem, reason: str) -> None:
        self._items.wait(item, reason, time.time() + self._queue.wait_seconds(item.attempts))
        log.warning("a work item waits: %s", reason, extra={"study": item.study})

    def _advance(self, item: Workitem) -> None:
        if item.state == "claiming":
            self._claim(item)
            return
        self._subscribe(item)
        study = self._items.study(item)
        if not item.study:
            self._end(item, "not_one_study")
        elif item.cancel and (study is None or study.state in ("received", "complete")):
            self._items.withdraw(item, time.time())
            self._end(item, "cancel_requested")
        elif study is None or study.state == "received":
            self._get_input(item)
        elif study.state == "dead":
            self._end(item, study.reason, study)
        elif self._items.are_results_delivered(study):
            self._end(item, next(iter(self._items.refusals(study)), ""), study)
        else:
            self._tell(item, *_STAGES[study.state])

    def _get_input(self, item: Workitem) -> None:
        if time.time() - item.claimed > self._worklist.input_seconds:
            self._end(item, "input_not_in_time")
            return
        self._tell(item, *_COMING)
        if item.state == "claimed":
            if self._pacs is not None:
                _fetch(self._pacs, self._queue, item)
            self._items.advance(item, "waiting")

    def _end(self, item: Workitem, reason: str = "", study: Study | None = None) -> None:
        """Report the outcome of an item, canceled for a reason or completed, then its final state.

        This is safe to repeat after a crash.
        """
        asked, state = RequestedItem.of(self._service.retrieve(item.uid)), "CANCELED" if reason else "COMPLETED"
        if asked.state not in _ENDS:
            now, out = time.time(), self._items.outputs(study) if study else []
            made = references(self._node, item.study_uid, out)
            changes = performed(self._node, self._worklist.station, asked, item.claimed, now, made)
            changes.update(canceled(reason, now) if reason else progress(100, "done"))
            self._service.update(item.uid, item.transaction_uid, changes)
            self._service.change_state(item.uid, item.transaction_uid, state)
        self._close(item, asked.state if asked.state in _ENDS else state, reason)

    def _give_up(self, item: Workitem, refusal: str) -> None:
        """Handle a refusal: another performer has the item, it is gone, it has ended, or the server lost the claim."""
        try:
            state = RequestedItem.of(self._service.retrieve(item.uid)).state
        except PacsFailed as failed:
            state = "" if failed.reason in REFUSED else "unknown"
        if state in ("unknown", "SCHEDULED"):
            next_try = time.time() + self._queue.wait_seconds(item.attempts)
            self._items.wait(item, refusal, next_try, claim=state == "SCHEDULED")
        else:
            self._close(item, state, refusal)

    def _close(self, item: Workitem, state: str, reason: str) -> None:
        self._subscribed.discard(item.uid)
        self._items.end(item, _ENDS.get(state, "lost"), reason)
        if state not in _ENDS:
            log.warning("a work item was left to others: %s", reason, extra={"study": item.study})

    # What the worklist is told, and says ----------------------------------------------------------------------

    def _tell(self, item: Workitem, percent: int, description: str) -> None:
        if percent > item.progress:
            self._service.update(item.uid, item.transaction_uid, progress(percent, description))
            self._items.progressed(item, percent)

    def _subscribe(self, item: Workitem) -> None:
        """Subscribe to an item's events, if possible; items are processed without them, too."""
        if item.uid in self._subscribed:
            return
        self._subscribed.add(item.uid)
        try:
            self._events.open(self._service.subscribe(item.uid, self._node.ae_title))
        except PacsFailed as failed:
            log.warning("requests to cancel a work item are not heard: %s", failed.reason, extra={"study": item.study})

    def _hear_cancel(self, uid: str) -> None:
        if self._items.cancel(uid):
            log.info("a work item is to be canceled")


def _fetch(pacs: Pacs, queue: Queue, item: Workitem) -> None:
    """Fetch a study from the PACS, and announce its images, so that it is complete once they are here.

    Raises:
        PacsFailed: the PACS failed, has no such study, or images are still missing.
    """
    try:
        wanted = pacs.images(item.study_uid)
        if wanted and not wanted <= queue.images_here(item.study):
            queue.announce(item.study, wanted, time.time())
            pacs.fetch(item.study_uid)
    except PacsFailed as failed:
        raise PacsFailed(f"pacs_{failed.reason}") from None
    missing = wanted - queue.images_here(item.study)
    if missing or not wanted:
        raise PacsFailed(f"missing_{len(missing)}" if missing else "study_not_there")
